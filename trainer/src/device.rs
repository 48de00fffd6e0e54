//! Where tensors live, and whether this machine is fit to train.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use store::spec;

use crate::failure::Failure;

/// What this process can compute with, as `luthier-trainer devices` prints it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `cpu`, or `cuda` with the GPU's number.
    pub device: String,
    /// GPUs that jobs can use.
    pub cuda_devices: i64,
    /// CPU threads.
    pub threads: usize,
    /// Version of the libtorch in use.
    pub libtorch: String,
    /// Whether jobs can run here.
    pub fit: bool,
    /// Why not, in one line.
    pub reason: Option<String>,
}

/// Opens the CUDA part of libtorch where there is one, and looks at what is there.
pub fn report() -> Result<Report> {
    let versions = native::runtime::libtorch_version()?;
    let cuda = native::cuda::open(None);
    let reason = versions.mismatch().or_else(|| cuda.as_ref().err().map(ToString::to_string));
    Ok(Report {
        device: if native::cuda::available() { "cuda:0".into() } else { "cpu".into() },
        cuda_devices: if native::cuda::available() { tch::Cuda::device_count() } else { 0 },
        threads: native::runtime::threads()?,
        libtorch: versions.loaded.clone(),
        fit: versions.mismatch().is_none(),
        reason,
    })
}

/// The device that a job asked for; each of its processes has its own GPU.
pub fn choose(asked: spec::Device, rank: usize) -> Result<tch::Device> {
    let opened = native::cuda::open(None);
    let cuda = native::cuda::available();
    match asked {
        spec::Device::Cpu => Ok(tch::Device::Cpu),
        spec::Device::Auto if cuda => Ok(tch::Device::Cuda(rank)),
        spec::Device::Auto => Ok(tch::Device::Cpu),
        spec::Device::Cuda if cuda => Ok(tch::Device::Cuda(rank)),
        spec::Device::Cuda => {
            let why = opened.err().map(|error| format!(" ({error})")).unwrap_or_default();
            Err(Failure::user("no_cuda_device", format!("The job asks for cuda, and this trainer has no CUDA device{why}. Ask for `auto` or `cpu`, or start a trainer on a machine with a GPU."))
                .at("resources.device")
                .into())
        }
    }
}

/// The device in words.
pub fn name(device: tch::Device) -> String {
    match device {
        tch::Device::Cuda(number) => format!("cuda:{number}"),
        _ => "cpu".into(),
    }
}

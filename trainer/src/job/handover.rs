//! Checkpoints for the machines that do not have them: the first process hands its own to the first process of each other
//! machine, over the group that they compute with.
//!
//! All go on from the same bits then, whatever lies on the other machines from earlier attempts.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use native::c10d::Group;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::checkpoint::Checkpoints;
use super::ranks::Ranks;

/// Bytes sent at once.
const CHUNK: usize = 16 << 20;

/// A folder that comes.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Parcel {
    /// Its name; none when there is nothing to go on from.
    folder: Option<String>,
    /// Paths within it, and bytes.
    files: Vec<(PathBuf, u64)>,
}

/// Makes the newest checkpoint of the first process the only one on every other machine. All processes call this.
pub fn newest(out: &Path, ranks: &Ranks) -> Result<()> {
    if !ranks.machines().several() {
        return Ok(());
    }
    let folder = out.join("checkpoints");
    if let Some(group) = ranks.between_machines() {
        let own = match ranks.leads() {
            true => {
                let checkpoints = Checkpoints::open(out, 1)?;
                checkpoints.steps()?.pop().map(|step| checkpoints.path(step))
            }
            false => {
                remove(&folder)?;
                None
            }
        };
        let files = own.as_deref().map_or(Ok(Vec::new()), files_below)?;
        Wire { group, device: ranks.device(), leads: ranks.leads() }.carry(&folder, own.as_deref(), files)?;
    }
    ranks.gather()
}

/// Makes `file`, the weights of a checkpoint of the first process, readable on every other machine. All processes call this.
pub fn weights(checkpoint: &Path, file: &str, ranks: &Ranks) -> Result<()> {
    if !ranks.machines().several() {
        return Ok(());
    }
    if let Some(group) = ranks.between_machines() {
        let (folder, name) = (checkpoint.parent().unwrap_or(checkpoint), Path::new(file));
        let files = match ranks.leads() {
            true => vec![(name.to_owned(), checkpoint.join(name).metadata()?.len())],
            false => Vec::new(),
        };
        let own = ranks.leads().then_some(checkpoint);
        Wire { group, device: ranks.device(), leads: ranks.leads() }.carry(folder, own, files)?;
    }
    ranks.gather()
}

/// The first processes of all machines.
struct Wire<'a> {
    group: &'a Group,
    device: Device,
    leads: bool,
}

impl Wire<'_> {
    /// Carries a folder of the first machine into `folder` of the others, where it appears by rename.
    fn carry(&self, folder: &Path, own: Option<&Path>, files: Vec<(PathBuf, u64)>) -> Result<()> {
        let name = own.and_then(|own| Some(own.file_name()?.to_str()?.to_owned()));
        let sent = serde_json::to_vec(&Parcel { folder: name, files })?;
        let length = self.pass(&Tensor::from_slice(&[sent.len() as i64]))?.int64_value(&[0]);
        let list = match self.leads {
            true => self.pass(&Tensor::from_slice(&sent))?,
            false => self.pass(&Tensor::zeros([length], (Kind::Uint8, Device::Cpu)))?,
        };
        let parcel: Parcel = serde_json::from_slice(&Vec::<u8>::try_from(list)?)?;
        let Some(name) = &parcel.folder else { return Ok(()) };
        let partial = folder.join(format!(".{name}"));
        if !self.leads {
            remove(&partial)?;
        }
        for (path, bytes) in &parcel.files {
            match own {
                Some(own) => self.send(&own.join(path), *bytes),
                None => self.receive(&partial.join(path), *bytes),
            }
            .with_context(|| format!("handing over {}", path.display()))?;
        }
        if !self.leads {
            let target = folder.join(name);
            remove(&target)?;
            std::fs::rename(&partial, &target).with_context(|| format!("committing {}", target.display()))?;
        }
        Ok(())
    }

    fn send(&self, path: &Path, bytes: u64) -> Result<()> {
        let mut file = File::open(path)?;
        for size in chunks(bytes) {
            let mut chunk = vec![0; size];
            file.read_exact(&mut chunk)?;
            let _same = self.pass(&Tensor::from_slice(&chunk))?;
        }
        Ok(())
    }

    fn receive(&self, path: &Path, bytes: u64) -> Result<()> {
        std::fs::create_dir_all(path.parent().context("a file lies in a folder")?)?;
        let mut file = File::create(path)?;
        for size in chunks(bytes) {
            let chunk = self.pass(&Tensor::zeros([size as i64], (Kind::Uint8, Device::Cpu)))?;
            file.write_all(&Vec::<u8>::try_from(chunk)?)?;
        }
        Ok(())
    }

    /// What the first process has in `tensor`.
    fn pass(&self, tensor: &Tensor) -> Result<Tensor> {
        let tensor = tensor.to_device(self.device);
        self.group.broadcast(&tensor, 0)?;
        Ok(tensor.to_device(Device::Cpu))
    }
}

fn chunks(bytes: u64) -> impl Iterator<Item = usize> {
    let chunk = CHUNK as u64;
    (0..bytes.div_ceil(chunk)).map(move |at| (bytes - at * chunk).min(chunk) as usize)
}

fn files_below(folder: &Path) -> Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => found.extend(
                files_below(&entry.path())?.into_iter().map(|(path, bytes)| (name.join(path), bytes)),
            ),
            false => found.push((name, entry.metadata()?.len())),
        }
    }
    ensure!(!found.is_empty(), "{} is empty", folder.display());
    Ok(found)
}

fn remove(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

//! What a training was made from, so that it can be run again and give the same bits.

use std::io::Read;
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use store::spec::{JobSpec, Resources};

use crate::device;
use crate::precision::Settled;

/// SHA-256 of each file of data and base checkpoint, by name.
pub struct Hashes {
    data: Map<String, Value>,
    model: Map<String, Value>,
}

/// Hashes on their way.
pub struct Hashing(JoinHandle<Result<Hashes>>);

impl Hashes {
    /// Begins to hash the files of a job's directory, on a thread of its own.
    pub fn start(dir: &Path) -> Hashing {
        let (data, model) = (dir.join("data"), dir.join("model"));
        Hashing(std::thread::spawn(move || Ok(Hashes { data: hashes(&data)?, model: hashes(&model)? })))
    }

    /// Hash of everything that decides the weights: settings, data and base checkpoint, but neither names nor the share
    /// of a machine: with another number of processes a job goes on.
    pub fn identity(&self, spec: &JobSpec) -> String {
        let nameless = JobSpec {
            name: String::new(),
            base_model: String::new(),
            resources: Resources::default(),
            ..spec.clone()
        };
        let mut decisive = json!({"spec": nameless, "data": self.data, "model": self.model});
        // What a model is asked beside its training decides nothing.
        if let Some(training) = decisive["spec"]["training"].as_object_mut() {
            training.shift_remove("samples");
        }
        hex::encode(Sha256::digest(decisive.to_string()))
    }
}

impl Hashing {
    /// Waits for them.
    pub fn wait(self) -> Result<Hashes> {
        self.0.join().map_err(|_| anyhow!("the thread that hashes the job's files panicked"))?
    }
}

/// Hashes, settings, versions and hardware.
pub fn manifest(
    hashes: &Hashes,
    spec: &JobSpec,
    identity: &str,
    device: tch::Device,
    precision: &Settled,
) -> Result<Value> {
    Ok(json!({
        "identity": identity,
        "spec": spec,
        "seed": spec.seed,
        "data": hashes.data,
        "base_model": {"name": spec.base_model, "files": hashes.model},
        "luthier": env!("CARGO_PKG_VERSION"),
        "libtorch": native::runtime::libtorch_version()?.loaded,
        "hardware": {
            "device": device::name(device),
            "threads": native::runtime::threads()?,
            "precision": precision.name(),
            "cpu": cpu(),
        },
    }))
}

/// SHA-256 of each file below a folder, by relative name.
fn hashes(folder: &Path) -> Result<Map<String, Value>> {
    let mut found = Vec::new();
    files(folder, "", &mut found)?;
    found.sort();
    let hash = |name: String| Ok((name.clone(), Value::String(hash(&folder.join(name))?)));
    found.into_iter().map(hash).collect()
}

fn files(folder: &Path, prefix: &str, found: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        match entry.path().is_dir() {
            true => files(&entry.path(), &format!("{name}/"), found)?,
            false => found.push(name),
        }
    }
    Ok(())
}

fn hash(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// The processor's name.
fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or_else(|| "unknown".into(), |(_, name)| name.trim().to_string())
}

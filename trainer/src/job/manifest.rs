//! What a training was made from, so that it can be run again and give the same bits.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use store::spec::JobSpec;

use crate::device;

/// Hash of everything that decides the weights: settings, data and base checkpoint, but not names.
pub fn identity(dir: &Path, spec: &JobSpec) -> Result<String> {
    let nameless = JobSpec { name: String::new(), base_model: String::new(), ..spec.clone() };
    let decisive =
        json!({"spec": nameless, "data": hashes(&dir.join("data"))?, "model": hashes(&dir.join("model"))?});
    Ok(hex::encode(Sha256::digest(decisive.to_string())))
}

/// Hashes, settings, versions and hardware.
pub fn manifest(dir: &Path, spec: &JobSpec, identity: &str, device: tch::Device) -> Result<Value> {
    Ok(json!({
        "identity": identity,
        "spec": spec,
        "seed": spec.seed,
        "data": hashes(&dir.join("data"))?,
        "base_model": {"name": spec.base_model, "files": hashes(&dir.join("model"))?},
        "luthier": env!("CARGO_PKG_VERSION"),
        "libtorch": native::runtime::libtorch_version()?.loaded,
        "hardware": {
            "device": device::name(device),
            "threads": native::runtime::threads()?,
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

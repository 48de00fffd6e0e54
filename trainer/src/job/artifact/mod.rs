//! Exports: the model in another format, and a certificate of what that is worth.
//!
//! The artefact is written into `out/artifact`, loaded from there anew as its user would load it, and replays rows after
//! the model: first the model says what it says of them, then it makes room, and the artefact is compared with that.

mod built_in;
mod card;
mod certificate;
mod compare;
mod replay;
mod rows;
mod spill;
mod write;

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};
use store::spec::{Export, JobSpec};
use tch::Device;

use self::certificate::{Certificate, Side};
use self::compare::Compared;
use self::replay::{Replay, Stopped};
use self::rows::Rows;
use self::spill::Spill;
use self::write::Artifact;
use super::Outcome;
use super::checkpoint::write_synced;
use super::control::{Asked, Control};
use super::events::Events;
use super::export::commit_folder;
use super::setup;
use crate::device;
use crate::tuned::{self, Tuned};

/// Folder of the artefact below `out`.
pub const FOLDER: &str = "artifact";

/// The model's logits, while the artefact is compared with them.
const LOGITS: &str = "replay.logits";

/// What stands beside an artefact, and within a folder of one.
pub const CERTIFICATE: &str = "certificate.json";

/// Makes an export in a job's directory.
pub fn run(
    dir: &Path,
    spec: &JobSpec,
    wanted: Export,
    events: &mut Events,
    control: &Control,
) -> Result<Outcome> {
    let done = Work { dir, spec, wanted, control }.done(events);
    // What is half done is nothing to go on from: it is made again.
    for folder in [write::MERGED, write::READ_BACK] {
        for folder in [folder.to_owned(), format!(".{folder}")] {
            let _absent = std::fs::remove_dir_all(dir.join(folder));
        }
    }
    let _absent = std::fs::remove_file(dir.join(LOGITS));
    match done {
        Ok(result) => Ok(Outcome::Succeeded(result)),
        Err(error) => match error.downcast_ref::<Stopped>() {
            Some(Stopped(Asked::Pause)) => Ok(Outcome::Paused(0)),
            Some(Stopped(Asked::Cancel)) => Ok(Outcome::Cancelled(0)),
            None => Err(error),
        },
    }
}

/// An export and where it is made.
struct Work<'a> {
    dir: &'a Path,
    spec: &'a JobSpec,
    wanted: Export,
    control: &'a Control,
}

impl Work<'_> {
    fn done(&self, events: &mut Events) -> Result<Value> {
        let Work { dir, spec, wanted, control } = *self;
        setup::set_threads(spec, 1)?;
        let device = device::choose(spec.resources.device, 0)?;
        events.phase(0, "loading", about(device)?)?;
        let rows = Rows::read(dir, spec, device, events)?;
        replay::obey(control)?;

        events.phase(0, "writing", Map::new())?;
        let folder = dir.join("out").join(FOLDER);
        let mut artifact = None;
        commit_folder(&folder, |folder| {
            artifact = Some(write::write(dir, spec, wanted, folder)?);
            Ok(())
        })?;
        let artifact = artifact.unwrap_or_default();
        let size = write::size_of(&folder)?;
        events.log(0, format!("Written: {wanted}, {size} bytes."))?;
        replay::obey(control)?;

        self.certify(&artifact, &folder, size, &rows, device, events)
    }

    /// Replays the rows by the model and by the artefact, as it lies on the disk, and judges what differs.
    fn certify(
        &self,
        artifact: &Artifact,
        folder: &Path,
        size: u64,
        rows: &Rows,
        device: Device,
        events: &mut Events,
    ) -> Result<Value> {
        let Work { dir, spec, wanted, .. } = *self;
        let model = dir.join("model");
        events.phase(0, "replaying", Map::new())?;
        let mut spill = Spill::create(&dir.join(LOGITS))?;
        let (source, loading) = loaded(|| tuned::open_as(&model, None, spec.task, device))?;
        let said = self.replay(&source, rows, device, None, events)?.run(|logits| spill.put(logits))?;
        let before = Side { bytes: write::size_of(&model)?, loading, metrics: rows.metrics(&said)?, said };
        let (labels, is_tuned) = (source.labels.len(), rows.are_labelled());
        drop(source);

        events.phase(0, "checking", Map::new())?;
        let (found, loading) = loaded(|| artifact.open(dir, folder, spec.task, device))?;
        let mut compared = Compared::new(rows.told(labels));
        let mut spilt = spill.read()?;
        let most = Some(before.said.rows);
        let said = self.replay(&found, rows, device, most, events)?.run(|logits| {
            let source = spilt.take(logits.size()[0])?;
            compared.add(&source.to_device(device), logits)
        })?;
        drop(found);
        ensure!(compared.places > 0, "no row has a token that counts, so that nothing was compared");
        let after = Side { bytes: size, loading, metrics: rows.metrics(&said)?, said };
        let texts = artifact.compare_texts(dir, folder, rows)?;
        let certificate = Certificate {
            wanted,
            device: device::name(device),
            threads: native::runtime::threads()?,
            rows,
            before,
            after,
            compared,
            texts,
            notices: artifact.notices.clone(),
            is_tuned,
        };
        self.conclude(folder, artifact, &certificate, events)
    }

    fn replay<'a>(
        &'a self,
        of: &'a Tuned,
        rows: &'a Rows,
        device: Device,
        most: Option<usize>,
        events: &'a mut Events,
    ) -> Result<Replay<'a>> {
        Ok(Replay { model: of.model.as_ref(), rows, device, control: self.control, most, events })
    }

    /// Writes the certificate, and says how it ended.
    fn conclude(
        &self,
        folder: &Path,
        artifact: &Artifact,
        certificate: &Certificate,
        events: &mut Events,
    ) -> Result<Value> {
        let told = certificate.to_json();
        let ready = certificate.is_ready();
        write_synced(&folder.join(CERTIFICATE), &serde_json::to_vec_pretty(&told)?)?;
        if artifact.is_folder {
            let card = card::card(&self.dir.join("model"), self.spec, self.wanted, &told)?;
            write_synced(&folder.join("README.md"), card.as_bytes())?;
        }
        for notice in &artifact.notices {
            events.log(0, notice.clone())?;
        }
        match ready {
            true => events.log(0, "All bounds of the certificate are kept.")?,
            false => certificate.reasons().into_iter().try_for_each(|reason| events.warn(0, reason))?,
        }
        Ok(json!({"status": "succeeded", "artifact": FOLDER, "certificate": told, "ready": ready}))
    }
}

fn about(device: Device) -> Result<Map<String, Value>> {
    let about = json!({
        "device": device::name(device),
        "threads": native::runtime::threads()?,
        "libtorch": native::runtime::libtorch_version()?.loaded,
        "luthier": env!("CARGO_PKG_VERSION"),
    });
    Ok(about.as_object().cloned().unwrap_or_default())
}

/// A model, and the seconds that it took to load.
fn loaded(load: impl FnOnce() -> Result<Tuned>) -> Result<(Tuned, f64)> {
    let began = Instant::now();
    let model = load()?;
    Ok((model, began.elapsed().as_secs_f64()))
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;
    use crate::tensors;

    /// A job that exports a tiny Llama on built-in texts.
    fn job(kind: &str) -> (tempfile::TempDir, JobSpec) {
        let dir = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoders");
        for folder in ["model", "out"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for (name, to) in [
            ("llama/config.json", "config.json"),
            ("llama/model.safetensors", "model.safetensors"),
            ("tokenizer.json", "tokenizer.json"),
            ("tokenizer_config.json", "tokenizer_config.json"),
        ] {
            std::fs::copy(from.join(name), dir.path().join("model").join(to)).unwrap();
        }
        let spec = json!({"task": "text-generation", "data": {"train": ""}, "resources": {"threads": 1, "device": "cpu"},
            "work": {"export": {"format": "safetensors", "kind": kind}}});
        (dir, serde_json::from_value(spec).unwrap())
    }

    /// Writes the artefact, lets `tamper` have its weights, and certifies what is then on the disk.
    fn certified(kind: &str, tamper: impl Fn(&mut tensors::Named)) -> Value {
        let (dir, spec) = job(kind);
        let store::spec::Work::Export(wanted) = spec.work else { panic!("no export") };
        let mut events = Events::open(&dir.path().join("out/events.jsonl"), 1, false).unwrap();
        let control = Control::default();
        let work = Work { dir: dir.path(), spec: &spec, wanted, control: &control };
        let rows = Rows::read(dir.path(), &spec, Device::Cpu, &mut events).unwrap();
        let folder = dir.path().join("out/artifact");
        std::fs::create_dir(&folder).unwrap();
        let artifact = write::write(dir.path(), &spec, wanted, &folder).unwrap();
        let file = folder.join("model.safetensors");
        let mut weights = tensors::load(&file).unwrap();
        tamper(&mut weights);
        tensors::save(&file, &weights).unwrap();
        work.certify(&artifact, &folder, 1, &rows, Device::Cpu, &mut events).unwrap()
    }

    fn kept(result: &Value, name: &str) -> bool {
        let bounds = result["certificate"]["bounds"].as_array().unwrap();
        bounds.iter().find(|bound| bound["name"] == name).unwrap()["kept"].as_bool().unwrap()
    }

    #[test]
    fn an_artefact_that_was_tampered_with_is_not_ready_and_says_why() {
        let whole = certified("f32", |_| {});
        assert_eq!(whole["ready"], true, "{whole}");
        let scaled = certified("f32", |weights| {
            let (_, output) = weights.iter_mut().find(|(name, _)| name == "lm_head.weight").unwrap();
            *output = &*output * 1.5;
        });
        assert_eq!(scaled["ready"], false, "{scaled}");
        for (name, is_kept) in
            [("logits", false), ("divergence", false), ("tokens", true), ("not_finite", true)]
        {
            assert_eq!(kept(&scaled, name), is_kept, "{name}: {scaled}");
        }
        let reasons = scaled["certificate"]["reasons"].as_array().unwrap();
        assert!(
            reasons[0].as_str().unwrap().starts_with("The largest difference of logits is"),
            "{reasons:?}"
        );
    }

    #[test]
    fn a_block_that_was_lost_and_a_number_that_is_none_are_found() {
        let zeroed = certified("bf16", |weights| {
            for (_, tensor) in weights.iter_mut().filter(|(name, _)| name.contains("layers.0.mlp")) {
                *tensor = tensor.zeros_like();
            }
        });
        assert_eq!(zeroed["ready"], false, "{zeroed}");
        let broken = certified("f32", |weights| {
            let (_, norm) = weights.iter_mut().find(|(name, _)| name == "model.norm.weight").unwrap();
            *norm = Tensor::full(norm.size(), f64::NAN, (Kind::Float, Device::Cpu));
        });
        assert!(!kept(&broken, "not_finite") && !kept(&broken, "divergence"), "{broken}");
    }
}

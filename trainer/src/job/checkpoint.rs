//! Checkpoints: a folder that transformers loads, with the state of the training beside it.
//!
//! `out/checkpoints/step-00000050/` appears by rename, so that what is there is whole. It holds the model as
//! [`super::export`] writes it and `training_state/`: the optimizer's tensors and [`State`].

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::export::ModelFiles;
use super::parts::Parts;
use super::ranks::Ranks;
use super::scaler::Scaler;
use crate::failure::Failure;
use crate::metrics::best::Tracker;
use crate::optim::Optimizer;

/// Everything beside tensors that a resumed training needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Optimizer steps made.
    pub step: u64,
    /// The best evaluation so far.
    pub tracker: Tracker,
    /// Whether early stopping has asked for the end.
    pub stop: bool,
    /// Rows and tokens seen.
    pub samples: u64,
    /// Tokens seen, without padding.
    pub tokens: u64,
    /// Seconds of training before this checkpoint, over all attempts.
    pub seconds: f64,
    /// The factor of the loss in fp16.
    #[serde(default)]
    pub scaler: Scaler,
    /// What was logged so far, as in transformers' `trainer_state.json`.
    pub log_history: Vec<Value>,
    /// Hash of what decides the weights: settings, data and base checkpoint. Another one cannot go on from here.
    pub identity: String,
}

/// A folder of checkpoints.
pub struct Checkpoints {
    folder: PathBuf,
    keep: usize,
}

impl Checkpoints {
    /// Opens `out/checkpoints`, clearing what an earlier attempt left unfinished.
    pub fn open(out: &Path, keep: usize) -> Result<Self> {
        let folder = out.join("checkpoints");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(Checkpoints { folder, keep: keep.max(1) })
    }

    /// The folder of a step's checkpoint.
    pub fn path(&self, step: u64) -> PathBuf {
        self.folder.join(name_of(step))
    }

    /// Steps with a checkpoint, oldest first.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let mut steps = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            steps.extend(name.to_str().and_then(|name| name.strip_prefix("step-")?.parse::<u64>().ok()));
        }
        steps.sort_unstable();
        Ok(steps)
    }

    /// The state of the newest checkpoint, if there is one.
    pub fn newest(&self, identity: &str) -> Result<Option<State>> {
        let Some(step) = self.steps()?.pop() else { return Ok(None) };
        let path = self.path(step).join("training_state/state.json");
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let state: State =
            serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
        if state.identity != identity {
            return Err(Failure::user(
                "other_checkpoint",
                format!(
                    "The checkpoint of step {step} in this job's folder was made with other data, another base \
                     checkpoint or other settings. Start in an empty `out` folder."
                ),
            )
            .into());
        }
        Ok(Some(state))
    }

    /// Reads the optimizer's tensors of a checkpoint.
    pub fn load_optimizer(&self, step: u64, parts: &Parts, optimizer: &mut Optimizer) -> Result<()> {
        let folder = self.path(step).join("training_state");
        Ok(optimizer
            .load_state(parts.load(&folder, "optimizer.safetensors", |name| optimizer.is_elsewhere(name))?)?)
    }

    /// Writes a checkpoint and commits it by rename; drops those beyond the newest `keep` and the best.
    pub fn save(
        &self,
        ranks: &Ranks,
        parts: &Parts,
        model: &ModelFiles,
        optimizer: &Optimizer,
        state: &State,
    ) -> Result<PathBuf> {
        let unfinished = self.folder.join(format!(".{}", name_of(state.step)));
        let training = unfinished.join("training_state");
        std::fs::create_dir_all(&training).with_context(|| format!("making {}", training.display()))?;
        model.write(&unfinished, ranks, parts)?;
        parts.save(ranks, &training.join("optimizer.safetensors"), &optimizer.state(), parts.of_state())?;
        write_synced(&training.join("state.json"), &serde_json::to_vec_pretty(state)?)?;
        let path = self.path(state.step);
        if path.exists() {
            std::fs::remove_dir_all(&path)?;
        }
        std::fs::rename(&unfinished, &path).with_context(|| format!("committing {}", path.display()))?;
        sync_folder(&self.folder)?;
        self.prune(state)?;
        Ok(path)
    }

    /// What the other processes do while the first one [`Checkpoints::save`]s.
    pub fn give(
        &self,
        ranks: &Ranks,
        parts: &Parts,
        model: &ModelFiles,
        optimizer: &Optimizer,
    ) -> Result<()> {
        parts.serve(ranks, &model.params, parts.of_model())?;
        parts.serve(ranks, &optimizer.state(), parts.of_state())
    }

    fn prune(&self, state: &State) -> Result<()> {
        let steps = self.steps()?;
        let best = state.tracker.best().map(|best| best.step);
        for &step in steps.iter().rev().skip(self.keep).filter(|&&step| Some(step) != best) {
            std::fs::remove_dir_all(self.path(step))?;
        }
        Ok(())
    }
}

fn name_of(step: u64) -> String {
    format!("step-{step:08}")
}

/// Writes a file and flushes it to the disk.
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))?;
    Ok(std::fs::File::open(path)?.sync_all()?)
}

/// Flushes a rename to the disk.
pub fn sync_folder(path: &Path) -> Result<()> {
    Ok(std::fs::File::open(path)?.sync_all()?)
}

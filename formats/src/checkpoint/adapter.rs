//! Adapters beside the model that they were trained on: peft's two files, and the base in a folder of its own.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::read_json;
use super::weights::Weights;
use crate::problem::{Problem, ProblemKind};

/// peft's name of an adapter's settings.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// peft's name of an adapter's numbers.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";

/// The folder beside an adapter that holds the model which it was trained on.
pub const ADAPTER_BASE: &str = "base";

/// What an adapter says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterInfo {
    /// Rows of its smaller matrices.
    pub rank: u64,
    /// Elements of all its tensors, with those of modules that it holds whole.
    pub parameters: u64,
}

#[derive(Deserialize)]
struct Settings {
    r: u64,
}

/// Whether a folder holds an adapter and its base.
pub fn has_adapter(dir: &Path) -> bool {
    dir.join(ADAPTER_CONFIG).is_file() && dir.join(ADAPTER_BASE).is_dir()
}

/// The folder that holds the weights of whole matrices: that of the base where there is an adapter.
pub fn base_folder(dir: &Path) -> PathBuf {
    if has_adapter(dir) { dir.join(ADAPTER_BASE) } else { dir.to_owned() }
}

/// Looks at an adapter's files.
pub(super) fn read(dir: &Path) -> Result<AdapterInfo, Problem> {
    let settings: Settings = read_json(dir, ADAPTER_CONFIG, ProblemKind::Config)?;
    let weights = Weights::of_file(dir, ADAPTER_WEIGHTS)?;
    let parameters = weights.names().filter_map(|name| weights.info(name)).map(|info| info.elements()).sum();
    Ok(AdapterInfo { rank: settings.r, parameters })
}

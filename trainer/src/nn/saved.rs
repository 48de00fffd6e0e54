//! Adapters as peft saves them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
pub use formats::checkpoint::{ADAPTER_CONFIG as CONFIG, ADAPTER_WEIGHTS as WEIGHTS};
use formats::checkpoint::{Weights, read_json};
use formats::problem::ProblemKind;
use serde::Deserialize;
use serde_json::{Value, json};
use store::spec::{Adapter, AllLinear, Targets};
use tch::Tensor;

use super::adapters::Adapters;
use super::names::listed;
use crate::failure::Failure;
use crate::tensors::{self, Named};

/// What peft puts before the names of a model.
const PREFIX: &str = "base_model.model.";

/// Settings and modules of a saved adapter.
pub struct Saved {
    /// The settings.
    pub settings: Adapter,
    /// Modules that it holds whole.
    pub whole: Vec<String>,
}

/// Settings of peft that change what is computed in ways that ours do not.
const CHANGING: [&str; 12] = [
    "alora_invocation_tokens",
    "alpha_pattern",
    "arrow_config",
    "exclude_modules",
    "layer_replication",
    "layers_to_transform",
    "lora_bias",
    "rank_pattern",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_qalora",
];

/// What is read of peft's `LoraConfig`; the rest of it has to be as it is by default.
#[derive(Deserialize)]
struct LoraConfig {
    peft_type: String,
    r: u32,
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    target_modules: TargetModules,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    bias: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TargetModules {
    Named(Vec<String>),
    Word(String),
}

/// peft's configuration of adapters for a task, by its name of it, beside a base of this name.
pub fn config(adapters: &Adapters, base: &str, task: &str) -> Value {
    let settings = &adapters.settings;
    let targets = match &settings.targets {
        Targets::Named(names) => names.clone(),
        Targets::All(_) => adapters.targets(),
    };
    // peft takes whole numbers as such.
    let alpha = match settings.alpha.fract() == 0.0 {
        true => json!(settings.alpha as u64),
        false => json!(settings.alpha),
    };
    json!({
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "inference_mode": true,
        "r": settings.rank,
        "lora_alpha": alpha,
        "lora_dropout": settings.dropout,
        "target_modules": targets,
        "modules_to_save": adapters.saved(),
        "use_rslora": settings.rslora,
        "use_dora": settings.dora,
        "bias": "none",
        "fan_in_fan_out": false,
        "init_lora_weights": true,
        "rank_pattern": {},
        "alpha_pattern": {},
    })
}

/// The adapter in a folder; `None` where it holds none.
///
/// # Errors
/// A [`Failure`] of the user for one that adapts a model in another way.
pub fn read(folder: &Path) -> Result<Option<Saved>> {
    if !folder.join(CONFIG).is_file() {
        return Ok(None);
    }
    let config: LoraConfig = read_json(folder, CONFIG, ProblemKind::Config)
        .map_err(|problem| Failure::user("bad_adapter", problem.to_string()))?;
    let unsupported =
        |what: String| Err(Failure::user("unsupported_adapter", format!("{CONFIG}: {what}.")).into());
    if config.peft_type != "LORA" {
        return unsupported(format!("peft_type {} is not supported, only LORA is", config.peft_type));
    }
    if config.bias.as_deref().is_some_and(|bias| bias != "none") {
        return unsupported("bias is not `none`: adapters of ours leave biases as they are".to_owned());
    }
    for name in CHANGING {
        let is_set = match config.rest.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(_) => true,
        };
        if is_set {
            return unsupported(format!(
                "`{name}` is set, which is not supported; merge the adapter with peft first"
            ));
        }
    }
    let targets = match config.target_modules {
        TargetModules::Named(names) => Targets::Named(names),
        TargetModules::Word(word) if word == "all-linear" => Targets::All(AllLinear::AllLinear),
        TargetModules::Word(word) => {
            return unsupported(format!(
                "target_modules is the pattern `{word}`; name the layers, or merge the adapter with peft first"
            ));
        }
    };
    let settings = Adapter {
        rank: config.r,
        alpha: config.lora_alpha,
        dropout: config.lora_dropout,
        targets,
        rslora: config.use_rslora,
        dora: config.use_dora,
        ..Adapter::default()
    };
    Ok(Some(Saved { settings, whole: config.modules_to_save.unwrap_or_default() }))
}

/// What an adapter's file holds of a model: all that is trained, in peft's names.
pub fn trained(params: &Named) -> Named {
    let trained = params.iter().filter(|(_, param)| param.requires_grad());
    trained.map(|(name, param)| (format!("{PREFIX}{name}"), param.shallow_clone())).collect()
}

/// Puts saved numbers in place of all that is trained.
///
/// # Errors
/// A [`Failure`] of the user where the file holds something else.
pub fn restore(params: &Named, saved: Named) -> Result<()> {
    let mut saved: BTreeMap<String, Tensor> = saved.into_iter().collect();
    let mut faults = Vec::new();
    for (name, param) in trained(params) {
        match saved.remove(&name) {
            Some(value) if value.size() == param.size() => {
                tch::no_grad(|| param.shallow_clone().f_copy_(&value)).with_context(|| name.clone())?;
            }
            Some(value) => faults.push(format!("{name} is {:?} instead of {:?}", value.size(), param.size())),
            None => faults.push(format!("{name} is missing")),
        }
    }
    faults.extend(saved.into_keys().map(|name| format!("{name} belongs to no part of the model")));
    if faults.is_empty() {
        return Ok(());
    }
    let message = format!("{WEIGHTS} does not fit the model and {CONFIG}: {}.", listed(&faults));
    Err(Failure::user("adapter_mismatch", message).into())
}

/// [`restore`] from the file in a folder.
///
/// # Errors
/// As [`restore`]; when the file cannot be read.
pub fn load(params: &Named, folder: &Path) -> Result<()> {
    let file = Weights::of_file(folder, WEIGHTS)?;
    let tensor = |name: &str| Ok((name.to_owned(), tensors::of_checkpoint(&file.tensor(name)?)?));
    restore(params, file.names().map(tensor).collect::<Result<_>>()?)
}

//! A checkpoint folder, file by file.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use safetensors::Dtype;
use serde::de::DeserializeOwned;

use super::adapter::{self, ADAPTER_BASE, ADAPTER_CONFIG, ADAPTER_WEIGHTS, base_folder, has_adapter};
use super::config::Config;
use super::safetensors::lfs_pointer;
use super::weights::Weights;
use super::{CheckpointInfo, TokenizerInfo, decoder, encoder, encoder_decoder};
use crate::problem::{LineRange, Problem, ProblemKind};
use crate::tokenizer::{self, Tokenizer};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
const CONFIG: &str = "config.json";
/// Larger than any configuration; a tokenizer of 250,000 words has 17 MB.
const MAX_JSON: u64 = 512 * 1024 * 1024;

/// Which weights a folder has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Set {
    Single,
    Sharded,
}

/// Looks at every file of a checkpoint folder and opens those that are used.
///
/// Never fails: what is wrong is listed in the answer.
pub fn inspect_checkpoint(dir: &Path) -> CheckpointInfo {
    let mut info = CheckpointInfo::default();
    let files = match list(dir) {
        Ok(files) => files,
        Err(error) => {
            info.add(Problem::from_io(error, "checkpoint"));
            return info;
        }
    };
    let config = match read_json::<Config>(dir, CONFIG, ProblemKind::Config) {
        Ok(config) => describe_config(&mut info, config),
        Err(problem) => {
            info.add(problem);
            None
        }
    };
    let weights = Weights::open(&base_folder(dir)).map_err(|problem| info.add(problem)).ok();
    if let Some(weights) = &weights {
        describe_weights(&mut info, weights);
    }
    if has_adapter(dir) {
        describe_adapter(&mut info, dir);
    }
    sort_files(&mut info, &files);
    describe_tokenizer(&mut info, dir, config.as_ref());
    if let (Some(config), Some(weights)) = (&config, &weights) {
        let lacking = match config.is_decoder() {
            true => decoder::check(config, weights),
            false if config.is_encoder_decoder() => encoder_decoder::check(config, weights),
            false => encoder::check(config, weights),
        };
        lacking.into_iter().for_each(|problem| info.add(problem));
    }
    info
}

/// The configuration, where its model type is supported.
fn describe_config(info: &mut CheckpointInfo, config: Config) -> Option<Config> {
    info.model_type = config.model_type.clone();
    info.architectures = config.architectures.clone();
    info.sizes = config.sizes();
    info.problem_type = config.problem_type.clone();
    if config.is_classifier() {
        info.labels = config.labels();
    }
    if config.has_own_code {
        info.notices.push("config.json names code of its own (`auto_map`); it is not run".to_owned());
    }
    if config.is_quantized {
        info.add(
            Problem::new(ProblemKind::UnsupportedModel, CONFIG, "the weights are quantized")
                .in_column("quantization_config")
                .hint("upload the checkpoint it was quantized from"),
        );
    }
    if config.is_encoder_decoder() && config.is_classifier() {
        let message = "a model with an encoder and a decoder is there to write, and this one was saved to tell classes apart";
        info.add(
            Problem::new(ProblemKind::UnsupportedModel, CONFIG, message)
                .in_column("architectures")
                .hint("upload the checkpoint it was made from, or a classifier of another family"),
        );
    }
    match config.supported_model_type() {
        Ok(_) => Some(config),
        Err(problem) => {
            info.add(problem);
            None
        }
    }
}

fn describe_weights(info: &mut CheckpointInfo, weights: &Weights) {
    let mut elements: BTreeMap<Dtype, u64> = BTreeMap::new();
    for tensor in weights.names().filter_map(|name| weights.info(name)) {
        *elements.entry(tensor.dtype).or_default() += tensor.elements();
    }
    info.tensors = weights.len() as u64;
    info.parameters = elements.values().sum();
    info.dtype = elements.iter().max_by_key(|(_, count)| **count).map(|(dtype, _)| format!("{dtype:?}"));
    info.weights = weights.files().map(|(name, _)| name.to_owned()).collect();
    info.weight_bytes = weights.files().map(|(_, bytes)| bytes).sum();
    if weights.is_empty() {
        info.add(Problem::new(ProblemKind::MissingWeights, SINGLE, "the file holds no tensors"));
    }
}

fn describe_adapter(info: &mut CheckpointInfo, dir: &Path) {
    for name in &mut info.weights {
        *name = format!("{ADAPTER_BASE}/{name}");
    }
    match adapter::read(dir) {
        Ok(adapter) => {
            info.parameters += adapter.parameters;
            info.adapter = Some(adapter);
        }
        Err(problem) => info.add(problem),
    }
}

/// Tells weights that are not used from whatever else is there.
fn sort_files(info: &mut CheckpointInfo, files: &[String]) {
    const WEIGHT_ENDINGS: [&str; 11] =
        [".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".gguf", ".onnx", ".ckpt", ".ot", ".pkl"];
    /// State of a training that was stopped, under the names of transformers' Trainer.
    const TRAINING: [&str; 5] =
        ["training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt"];
    let sharded = info.weights.first().is_some_and(|name| !name.ends_with(SINGLE));
    const ADAPTER: [&str; 2] = [ADAPTER_CONFIG, ADAPTER_WEIGHTS];
    let is_used = |file: &str| {
        file == CONFIG
            || tokenizer::FILES.contains(&file)
            || (info.adapter.is_some() && ADAPTER.contains(&file))
    };
    let rest = files.iter().filter(|file| !info.weights.contains(file) && !is_used(file));
    for file in rest.collect::<Vec<_>>() {
        if file == INDEX {
            if !sharded && !info.weights.is_empty() {
                info.notices.push(format!("{INDEX} is ignored, {SINGLE} is used"));
                info.unused_weights.push(file.clone());
            }
        } else if TRAINING.contains(&file.as_str()) || file.starts_with("rng_state") {
            info.other_files.push(file.clone());
        } else if WEIGHT_ENDINGS.iter().any(|ending| file.ends_with(ending)) {
            info.unused_weights.push(file.clone());
        } else {
            info.other_files.push(file.clone());
        }
    }
    if !info.weights.is_empty() && !info.unused_weights.is_empty() {
        info.notices.push(format!("weight files that are not used: {}", info.unused_weights.join(", ")));
    }
}

fn describe_tokenizer(info: &mut CheckpointInfo, dir: &Path, config: Option<&Config>) {
    let tokenizer = match Tokenizer::load(dir) {
        Ok(tokenizer) => tokenizer,
        Err(problem) => return info.add(problem),
    };
    let vocab_size = tokenizer.vocab_size();
    if let Some(rows) = config.and_then(|config| config.vocab_size).filter(|rows| vocab_size > *rows) {
        let message =
            format!("the tokenizer has ids up to {}, the word embedding has {rows} rows", vocab_size - 1);
        info.add(
            Problem::new(ProblemKind::Tokenizer, tokenizer::FILE, message)
                .hint("upload the tokenizer that belongs to these weights"),
        );
    }
    if tokenizer.pad_token().is_none() {
        info.notices.push("the tokenizer names no padding token".to_owned());
    }
    info.tokenizer = Some(TokenizerInfo {
        class: tokenizer.class().map(str::to_owned),
        vocab_size,
        model_max_length: tokenizer.model_max_length().map(|length| length as u64),
        pad_token: tokenizer.pad_token().map(str::to_owned),
    });
}

/// Which weights there are, by transformers' order of preference.
pub(super) fn weights_of(dir: &Path) -> Result<Set, Problem> {
    if dir.join(SINGLE).is_file() {
        return Ok(Set::Single);
    }
    if dir.join(INDEX).is_file() {
        return Ok(Set::Sharded);
    }
    let files = list(dir).map_err(|error| Problem::from_io(error, "checkpoint"))?;
    let has = |test: fn(&str) -> bool| files.iter().find(|file| test(file));
    if let Some(file) = has(|file| file.starts_with("pytorch_model") && file.ends_with(".bin")) {
        return Err(Problem::new(
            ProblemKind::MissingWeights,
            file,
            "weights in PyTorch's pickle format are not supported, since opening them can run code",
        )
        .hint(
            "convert them with transformers: load the folder with `from_pretrained` and call `save_pretrained`, \
             which writes model.safetensors",
        ));
    }
    if let Some(file) = has(|file| file.starts_with("adapter_model.")) {
        return Err(Problem::new(
            ProblemKind::MissingWeights,
            file,
            "this is an adapter without its base model",
        )
        .hint(
            "put the base's config.json and weights beside it into a folder called `base`, or merge both with peft's \
             `merge_and_unload`, then upload the result",
        ));
    }
    let problem = Problem::new(ProblemKind::MissingWeights, "checkpoint", "no weights found")
        .hint(format!("add {SINGLE}, or {INDEX} with its shards"));
    Err(
        match has(|file| {
            [".safetensors", ".h5", ".msgpack", ".gguf", ".onnx", ".bin"]
                .iter()
                .any(|end| file.ends_with(end))
        }) {
            Some(file) => Problem {
                message: format!("no weights found under a name that is used; there is `{file}`"),
                ..problem
            },
            None => problem,
        },
    )
}

/// Names of all files, with their folders, sorted; 1,000 at most.
fn list(dir: &Path) -> io::Result<Vec<String>> {
    const MOST: usize = 1000;
    let mut files = Vec::new();
    let mut open = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                open.push((entry.path(), format!("{name}/")));
            } else if files.len() < MOST {
                files.push(name);
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// Reads a JSON file of a checkpoint folder.
///
/// # Errors
/// A problem of `kind` where it is absent or not what is expected, with the line; [`ProblemKind::LfsPointer`] where it was
/// not fetched.
pub fn read_json<T: DeserializeOwned>(dir: &Path, name: &str, kind: ProblemKind) -> Result<T, Problem> {
    let text = read_text(dir, name, kind)?;
    serde_json::from_slice(&text).map_err(|error| {
        let problem = Problem::new(kind, name, format!("not what was expected: {error}"));
        let problem =
            if error.line() > 0 { problem.at(LineRange::one(error.line() as u64)) } else { problem };
        problem.hint("upload the original file again")
    })
}

/// Reads a file that is known to be small.
pub(crate) fn read_text(dir: &Path, name: &str, kind: ProblemKind) -> Result<Vec<u8>, Problem> {
    let file = fs::File::open(dir.join(name)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Problem::new(kind, name, "the file is missing").hint(format!("add {name} to the checkpoint"))
        }
        _ => Problem::from_io(error, name),
    })?;
    let mut text = Vec::new();
    file.take(MAX_JSON + 1).read_to_end(&mut text).map_err(|error| Problem::from_io(error, name))?;
    if text.len() as u64 > MAX_JSON {
        return Err(Problem::new(ProblemKind::TooLarge, name, "the file has more than 512 MiB"));
    }
    match lfs_pointer(&text[..text.len().min(256)], name) {
        Some(problem) => Err(problem),
        None => Ok(text),
    }
}

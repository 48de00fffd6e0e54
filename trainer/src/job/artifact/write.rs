//! The artefact: written from the model's folder, and loaded again as its user would load it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use formats::chat_template::ChatTemplate;
use formats::checkpoint::{ADAPTER_BASE, ADAPTER_CONFIG, ADAPTER_WEIGHTS, Weights, has_adapter};
use formats::gguf;
use formats::tokenizer::Tokenizer;
use serde_json::Value;
use store::spec::{Export, Format, JobSpec, NumberKind, Task};
use tch::{Device, Kind, Tensor};

use super::rows::Rows;
use crate::failure::Failure;
use crate::job::adapter::{forget_quantization, merge};
use crate::job::checkpoint::write_synced;
use crate::job::export::{commit_folder, copy_licence, copy_tokenizer};
use crate::models;
use crate::tensors::{self, Head, kind_of, of_checkpoint};
use crate::tuned::{self, BASE_QUANTIZATION, Tuned};

/// Folder of a job where an adapter and its base are one checkpoint, on the way to a GGUF.
pub const MERGED: &str = "merged";
/// Folder of a job where a GGUF is a checkpoint again.
pub const READ_BACK: &str = "read-back";

/// The texts that two tokenizers are compared by, at most.
const MOST_TEXTS: usize = 200;

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct Artifact {
    /// Whether it is a folder, and no file that stands alone.
    pub is_folder: bool,
    /// The file, where it is one.
    file: Option<String>,
    /// Whether it needs the base beside it.
    needs_base: bool,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
}

/// Two tokenizers and templates beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Texts {
    /// Texts that were looked at.
    pub texts: usize,
    /// Those that became the same tokens.
    pub equal: usize,
    /// Whether the artefact writes conversations as the model does; `None` where the model has no template.
    pub same_template: Option<bool>,
}

/// Writes the model of a job's directory into a folder that exists.
///
/// # Errors
/// A [`Failure`] of the user for a model that cannot be written so.
pub fn write(dir: &Path, spec: &JobSpec, wanted: Export, folder: &Path) -> Result<Artifact> {
    let model = dir.join("model");
    let kind = wanted.kind.unwrap_or(NumberKind::F32);
    match wanted.format {
        Format::Safetensors => safetensors(&model, spec.task, kind, folder),
        Format::Adapter => adapter(&model, folder),
        Format::Gguf => gguf(dir, &model, spec, kind, folder),
    }
}

fn safetensors(model: &Path, task: Task, kind: NumberKind, folder: &Path) -> Result<Artifact> {
    let mut config = models::read_config(model)?;
    let (file, numbers) = (folder.join("model.safetensors"), numbers(kind)?);
    if has_adapter(model) {
        let tuned = tuned::open_as(model, None, task, Device::Cpu)?;
        let adapters = tuned.loaded.adapters.as_ref().context("a folder with an adapter gives one")?;
        let merged = adapters.merged(&tuned.loaded.params);
        let of = |(name, tensor): &(String, Tensor)| head(name, tensor.kind(), tensor.size(), numbers);
        let heads: Vec<Head> = merged.iter().map(of).collect();
        tensors::save_each(&file, &heads, |at| fitting(&heads[at], &merged[at].1))?;
    } else {
        let weights = Weights::open(model)?;
        let of = |name: &str| -> Result<Head> {
            let info = weights.info(name).context("a name that is listed is known")?;
            let shape = info.shape.iter().map(|&size| i64::try_from(size)).collect::<Result<_, _>>()?;
            Ok(head(name, kind_of(info.dtype)?, shape, numbers))
        };
        let heads: Vec<Head> = weights.names().map(of).collect::<Result<_>>()?;
        tensors::save_each(&file, &heads, |at| {
            fitting(&heads[at], &of_checkpoint(&weights.tensor(&heads[at].name)?)?)
        })?;
    }
    forget_quantization(&mut config);
    if let Some(fields) = config.as_object_mut() {
        fields.shift_remove("torch_dtype");
    }
    config["dtype"] = match kind {
        NumberKind::F16 => "float16",
        NumberKind::Bf16 => "bfloat16",
        _ => "float32",
    }
    .into();
    write_synced(&folder.join("config.json"), &serde_json::to_vec_pretty(&config)?)?;
    copy_tokenizer(model, folder)?;
    copy_licence(model, folder)?;
    Ok(Artifact { is_folder: true, ..Artifact::default() })
}

fn numbers(kind: NumberKind) -> Result<Kind> {
    Ok(match kind {
        NumberKind::F32 => Kind::Float,
        NumberKind::F16 => Kind::Half,
        NumberKind::Bf16 => Kind::BFloat16,
        other => {
            let message = format!("Safetensors have no numbers of the kind {}.", other.name());
            return Err(Failure::user("invalid_spec", message).at("work.export.kind").into());
        }
    })
}

/// Numbers change their kind; what else a checkpoint holds (positions, counts) does not.
fn head(name: &str, own: Kind, shape: Vec<i64>, wanted: Kind) -> Head {
    let is_number = matches!(own, Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double);
    Head { name: name.to_owned(), kind: if is_number { wanted } else { own }, shape }
}

/// A tensor as its head says.
fn fitting(head: &Head, tensor: &Tensor) -> Result<Tensor> {
    let made = tensor.to_kind(head.kind);
    let grew = matches!(head.kind, Kind::Half | Kind::BFloat16)
        && bool::try_from(tensor.isfinite().all())?
        && !bool::try_from(made.isfinite().all())?;
    if grew {
        let name = &head.name;
        let message =
            format!("Tensor `{name}` has numbers that 16 bits do not reach; export it as f32 or bf16.");
        return Err(Failure::user("number_out_of_range", message).at("kind").into());
    }
    Ok(made)
}

fn adapter(model: &Path, folder: &Path) -> Result<Artifact> {
    if !has_adapter(model) {
        let message = "This model is no adapter: export it as safetensors.";
        return Err(Failure::user("no_adapter", message).at("format").into());
    }
    for name in [ADAPTER_CONFIG, ADAPTER_WEIGHTS, "config.json"] {
        std::fs::copy(model.join(name), folder.join(name)).with_context(|| format!("copying {name}"))?;
        std::fs::File::open(folder.join(name))?.sync_all()?;
    }
    copy_tokenizer(model, folder)?;
    copy_licence(model, folder)?;
    let base = &formats::checkpoint::read_json::<Value>(
        model,
        ADAPTER_CONFIG,
        formats::problem::ProblemKind::Config,
    )?["base_model_name_or_path"];
    let base = base.as_str().filter(|base| !base.is_empty()).unwrap_or("the model that it was trained on");
    let mut notices = vec![format!("The adapter belongs to {base}, which is not a part of it.")];
    if models::read_config(model)?.get(BASE_QUANTIZATION).is_some() {
        notices.push(
            "It was trained beside its base in NF4: load the base by bitsandbytes in 4 bits (nf4, double quantization), \
             as the certificate has it. Onto the base in full, answers differ by the rounding."
                .to_owned(),
        );
    }
    Ok(Artifact { is_folder: true, needs_base: true, notices, ..Artifact::default() })
}

fn gguf(dir: &Path, model: &Path, spec: &JobSpec, kind: NumberKind, folder: &Path) -> Result<Artifact> {
    if spec.task != Task::TextGeneration {
        let message = "A GGUF holds a language model, and this is a classifier: export it as safetensors.";
        return Err(Failure::user("not_a_language_model", message).at("format").into());
    }
    let mut from = model.to_owned();
    if has_adapter(model) {
        from = dir.join(MERGED);
        commit_folder(&from, |folder| merge(model, folder))?;
    }
    let name = format!("{}-{}.gguf", file_name(&spec.base_model), kind.name());
    let made = gguf::export(&from, &folder.join(&name), kind)?;
    Ok(Artifact { file: Some(name), notices: made.notices, ..Artifact::default() })
}

/// A model's name as a file's.
fn file_name(model: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = model.chars().map(plain).collect();
    match name.trim_matches(['.', '-']) {
        "" => "model".to_owned(),
        name => name.to_owned(),
    }
}

impl Artifact {
    /// Loads it from `folder`: a GGUF through its own reader, an adapter onto its base.
    pub fn open(&self, dir: &Path, folder: &Path, task: Task, device: Device) -> Result<Tuned> {
        let base = dir.join("model").join(ADAPTER_BASE);
        let from = match &self.file {
            None => folder.to_owned(),
            Some(file) => {
                let read_back = dir.join(READ_BACK);
                commit_folder(&read_back, |to| {
                    gguf::import(&folder.join(file), to)?;
                    Ok(())
                })?;
                read_back
            }
        };
        tuned::open_as(&from, self.needs_base.then_some(base.as_path()), task, device)
    }

    /// Compares how model and artefact cut texts into tokens, and how they write conversations; after [`Artifact::open`].
    pub fn compare_texts(&self, dir: &Path, folder: &Path, rows: &Rows) -> Result<Texts> {
        let model = dir.join("model");
        let from: PathBuf = if self.file.is_some() { dir.join(READ_BACK) } else { folder.to_owned() };
        let [own, other] = [Tokenizer::load(&model)?, Tokenizer::load(&from)?];
        let texts = rows.split.len().min(MOST_TEXTS);
        let mut equal = 0;
        for row in 0..texts {
            let text = own.decode(rows.split.row(row).ids, true)?;
            equal += usize::from(own.encode_plain(&text)?.ids == other.encode_plain(&text)?.ids);
        }
        let template = |folder: &Path, tokenizer: &Tokenizer| -> Result<Option<String>> {
            let template = ChatTemplate::load(folder, tokenizer.special_tokens().clone())?;
            Ok(template.map(|template| template.source().to_owned()))
        };
        let (own, other) = (template(&model, &own)?, template(&from, &other)?);
        let same_template = own.map(|own| other.is_some_and(|other| other.trim_end() == own.trim_end()));
        Ok(Texts { texts, equal, same_template })
    }
}

/// Bytes of all files below a folder.
pub fn size_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        bytes += match entry.path().is_dir() {
            true => size_of(&entry.path())?,
            false => std::fs::metadata(entry.path())?.len(),
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_becomes_a_plain_one() {
        assert_eq!(file_name("ft:smollm2:luthier:support:1a2b3c4d"), "ft-smollm2-luthier-support-1a2b3c4d");
        assert_eq!(file_name("../x/.."), "x");
        assert_eq!(file_name(""), "model");
    }

    #[test]
    fn a_number_beyond_16_bits_ends_the_export_by_the_tensors_name() {
        let head = head("lm_head.weight", Kind::Float, vec![1], Kind::Half);
        let failure = fitting(&head, &Tensor::from_slice(&[1e6_f32])).unwrap_err();
        assert!(failure.to_string().contains("`lm_head.weight`"), "{failure}");
        assert_eq!(fitting(&head, &Tensor::from_slice(&[1.5_f32])).unwrap().kind(), Kind::Half);
    }
}

//! A GGUF becomes a checkpoint folder.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::config_in;
use super::dequantize::dequantize;
use super::family::{Change, Family, Pair};
use super::header::{Gguf, TensorInfo};
use super::kind::TensorKind;
use super::rows::{self, Heads, Order, Way};
use super::tokenizer_in;
use crate::checkpoint::{Config, DECODERS, decoder_tensors};
use crate::problem::{Problem, ProblemKind};

/// Bytes of fp32 that are made at once.
const CHUNK: u64 = 8 << 20;
const WEIGHTS: &str = "model.safetensors";

/// What a GGUF has become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// `general.architecture` of the file.
    pub architecture: String,
    /// transformers' `model_type`.
    pub model_type: String,
    /// How many tensors were written.
    pub tensors: u64,
    /// Their elements.
    pub parameters: u64,
    /// How many tensors of the file were of which type, by its name.
    pub kinds: BTreeMap<String, u64>,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
}

/// Writes the model of a GGUF into a folder, as a checkpoint that transformers loads.
///
/// `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and, where the file
/// has one, `chat_template.jinja`. Quantized tensors become fp32; those in fp32, fp16 and bf16 stay what they are. No more than
/// some rows of one tensor are in memory. The folder is made where it is absent; after an error it may hold some of the files.
///
/// # Errors
/// What [`Gguf::open`] finds; [`ProblemKind::UnsupportedModel`] for another architecture; [`ProblemKind::Config`] for metadata
/// that are absent or of no use; [`ProblemKind::Tensor`] for tensors that are absent, unknown, or of another shape than the
/// metadata say; [`ProblemKind::Tokenizer`]; [`ProblemKind::Unreadable`].
pub fn import(file: &Path, into: &Path) -> Result<Imported, Problem> {
    let gguf = Gguf::open(file)?;
    refuse_parts(&gguf)?;
    let family = Family::of_file(&gguf.metadata)?;
    let mut imported = Imported {
        architecture: family.architecture.to_owned(),
        model_type: family.model_type.to_owned(),
        ..Imported::default()
    };
    let plan = plan(&gguf, family)?;
    let config = config_in::config(&gguf, family, most_of(&plan), &mut imported.notices)?;
    check_shapes(&gguf, &config, &plan)?;
    let tokenizer = tokenizer_in::tokenizer(&gguf.metadata, family, &mut imported.notices)?;
    let failed = |error: io::Error| Problem::from_io(error, gguf.name());
    fs::create_dir_all(into).map_err(failed)?;
    let put = |name: &str, text: &[u8]| fs::write(into.join(name), text).map_err(failed);
    put("config.json", &pretty(&config))?;
    put("generation_config.json", &pretty(&config_in::generation(&gguf.metadata)?))?;
    put("tokenizer.json", &serde_json::to_vec(&tokenizer.tokenizer).unwrap_or_default())?;
    put("tokenizer_config.json", &pretty(&tokenizer.config))?;
    if let Some(template) = &tokenizer.chat_template {
        put("chat_template.jinja", template.as_bytes())?;
    }
    write_weights(&gguf, &plan, &into.join(WEIGHTS))?;
    for tensor in &gguf.tensors {
        *imported.kinds.entry(tensor.kind.name().to_owned()).or_default() += 1;
    }
    imported.tensors = plan.len() as u64;
    imported.parameters = plan.iter().map(|planned| planned.shape.iter().product::<u64>()).sum();
    Ok(imported)
}

fn pretty(value: &Map<String, Value>) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    text
}

fn refuse_parts(gguf: &Gguf) -> Result<(), Problem> {
    match gguf.metadata.size("split.count")? {
        Some(parts) if parts > 1 => Err(Problem::new(
            ProblemKind::UnsupportedFormat,
            gguf.name(),
            format!("this is one of {parts} parts of a model"),
        )
        .hint("put them together with llama.cpp's `llama-gguf-split --merge` first")),
        _ => Ok(()),
    }
}

/// A tensor of the file and what it becomes.
struct Planned<'a> {
    source: &'a TensorInfo,
    pair: Pair,
    /// Its type in the checkpoint.
    kind: TensorKind,
    shape: Vec<u64>,
    order: Option<Order>,
}

/// Tensors that say how positions are scaled; they become a part of the configuration.
pub(super) const ROPE_TENSORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// Finds a place for each tensor of the file, and a tensor for each place.
fn plan<'a>(gguf: &'a Gguf, family: &Family) -> Result<Vec<Planned<'a>>, Problem> {
    let key = family.key("block_count");
    let layers = gguf.metadata.size(&key)?.ok_or_else(|| gguf.metadata.missing(&key))?;
    if layers > gguf.tensors.len() as u64 {
        let message = format!("{layers} layers, but {} tensors", gguf.tensors.len());
        return Err(gguf.metadata.refused(&key, message));
    }
    let heads = config_in::heads(gguf, family)?;
    let mut sources: HashMap<&str, &TensorInfo> =
        gguf.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut plan = Vec::new();
    let mut missing = Vec::new();
    for pair in family.pairs(layers) {
        match sources.remove(pair.gguf.as_str()) {
            Some(source) => plan.push(planned(gguf, source, pair, heads)?),
            None if pair.required => missing.push(pair.gguf),
            None => {}
        }
    }
    let wrong = |what: &str, mut names: Vec<String>| {
        names.sort();
        let rest = if names.len() > 5 { format!(" and {} more", names.len() - 5) } else { String::new() };
        names.truncate(5);
        let message = format!("{what}: {}{rest}", names.join(", "));
        Err(Problem::new(ProblemKind::Tensor, gguf.name(), message))
    };
    if !missing.is_empty() {
        return wrong("tensors are missing", missing);
    }
    let unknown = sources.into_keys().filter(|name| !ROPE_TENSORS.contains(name)).map(str::to_owned);
    let unknown: Vec<String> = unknown.collect();
    match unknown.is_empty() {
        true => Ok(plan),
        false => wrong(&format!("tensors that a {} does not have", family.class), unknown),
    }
}

fn planned<'a>(
    gguf: &Gguf,
    source: &'a TensorInfo,
    pair: Pair,
    heads: Heads,
) -> Result<Planned<'a>, Problem> {
    let wrong = |what: String| {
        Problem::new(ProblemKind::Tensor, gguf.name(), format!("tensor `{}`: {what}", source.name))
    };
    let dimensions = if pair.gguf.ends_with(".bias") || pair.gguf.contains("norm.") { 1 } else { 2 };
    if source.shape.len() != dimensions || source.shape.contains(&0) {
        return Err(wrong(format!("the shape {:?} is not one of {dimensions} dimensions", source.shape)));
    }
    // A vector has one element a row for this purpose.
    let order = rows::order(pair.change, Way::ToCheckpoint, source.shape[0], heads).map_err(wrong)?;
    let exact = !source.kind.is_quantized() && pair.change != Change::PlusOne;
    let kind = if exact { source.kind } else { TensorKind::F32 };
    let mut shape = source.shape.clone();
    if pair.change == Change::Transposed {
        shape.reverse();
    }
    Ok(Planned { source, pair, kind, shape, order })
}

/// The type of most elements.
fn most_of(plan: &[Planned<'_>]) -> TensorKind {
    let elements = |kind| -> u64 {
        let those = plan.iter().filter(|planned| planned.kind == kind);
        those.map(|planned| planned.shape.iter().product::<u64>()).sum()
    };
    let kinds = [TensorKind::F32, TensorKind::F16, TensorKind::Bf16];
    kinds.into_iter().max_by_key(|kind| elements(*kind)).unwrap_or(TensorKind::F32)
}

/// Compares with the shapes that the configuration implies, where it is known which.
fn check_shapes(gguf: &Gguf, config: &Map<String, Value>, plan: &[Planned<'_>]) -> Result<(), Problem> {
    let known = config["model_type"].as_str().is_some_and(|name| DECODERS.contains(&name));
    if !known {
        return Ok(());
    }
    let config: Config = serde_json::from_value(Value::Object(config.clone())).map_err(|error| {
        Problem::new(ProblemKind::Config, gguf.name(), format!("the metadata make no configuration: {error}"))
    })?;
    let expected: HashMap<String, Vec<u64>> = decoder_tensors(&config, false)?.into_iter().collect();
    for planned in plan {
        let name = &planned.pair.checkpoint;
        let what = match expected.get(name) {
            Some(shape) if *shape == planned.shape => continue,
            Some(shape) => format!("the metadata imply {shape:?}, the tensor has {:?}", planned.shape),
            None => "the model has no such tensor".to_owned(),
        };
        let message = format!("tensor `{}` (`{name}` of the checkpoint): {what}", planned.source.name);
        return Err(Problem::new(ProblemKind::Tensor, gguf.name(), message));
    }
    let written = |name: &String| plan.iter().any(|planned| planned.pair.checkpoint == **name);
    match expected.keys().filter(|name| !written(name)).min() {
        None => Ok(()),
        Some(name) => {
            let message = format!("there is no tensor for `{name}` of the checkpoint");
            Err(Problem::new(ProblemKind::Tensor, gguf.name(), message))
        }
    }
}

/// Writes `model.safetensors`, some rows at a time.
fn write_weights(gguf: &Gguf, plan: &[Planned<'_>], path: &Path) -> Result<(), Problem> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for planned in plan {
        let dtype = match planned.kind {
            TensorKind::F16 => "F16",
            TensorKind::Bf16 => "BF16",
            _ => "F32",
        };
        let bytes = planned.shape.iter().product::<u64>() * planned.kind.block_bytes();
        let entry = json!({"dtype": dtype, "shape": planned.shape, "data_offsets": [end, end + bytes]});
        header.insert(planned.pair.checkpoint.clone(), entry);
        end += bytes;
    }
    let mut header = serde_json::to_vec(&header).unwrap_or_default();
    // The format's own writers begin the data at a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    let failed = |error: io::Error| Problem::from_io(error, WEIGHTS);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(failed)?;
    out.write_all(&header).map_err(failed)?;
    for planned in plan {
        write_tensor(gguf, planned, |bytes| out.write_all(bytes).map_err(failed))?;
    }
    out.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)
}

fn write_tensor(
    gguf: &Gguf,
    planned: &Planned<'_>,
    mut write: impl FnMut(&[u8]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let Planned { source, kind, .. } = planned;
    if planned.pair.change == Change::Transposed {
        return write(&transposed(gguf, planned)?);
    }
    let rows = Rows::of(source, planned.order);
    let per_chunk = (CHUNK / (rows.elements * 4)).max(1);
    let mut bytes = Vec::new();
    let mut values = Vec::new();
    for first in (0..rows.count).step_by(per_chunk as usize) {
        let count = per_chunk.min(rows.count - first);
        rows.read(gguf, first, count, &mut bytes)?;
        if source.kind == *kind && planned.pair.change != Change::PlusOne {
            write(&bytes)?;
            continue;
        }
        values.resize((count * rows.elements) as usize, 0.0f32);
        dequantize(source.kind, &bytes, &mut values);
        if planned.pair.change == Change::PlusOne {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
        bytes.clear();
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        write(&bytes)?;
    }
    Ok(())
}

/// The rows of a tensor in the order of the target. The elements of a vector are its rows where they change their places.
struct Rows<'a> {
    source: &'a TensorInfo,
    order: Option<Order>,
    count: u64,
    elements: u64,
}

impl<'a> Rows<'a> {
    fn of(source: &'a TensorInfo, order: Option<Order>) -> Self {
        let (count, elements) = match source.shape[..] {
            [length] if order.is_some() && source.kind.block() == 1 => (length, 1),
            _ => (source.rows(), source.row()),
        };
        Self { source, order, count, elements }
    }

    fn read(&self, gguf: &Gguf, first: u64, count: u64, bytes: &mut Vec<u8>) -> Result<(), Problem> {
        let width = self.elements / self.source.kind.block() * self.source.kind.block_bytes();
        bytes.resize((count * width) as usize, 0);
        let Some(order) = self.order else { return gguf.read_rows(self.source, first, bytes) };
        if self.source.shape.len() == 1 {
            let mut whole = vec![0; self.source.bytes as usize];
            gguf.read_rows(self.source, 0, &mut whole)?;
            for (row, place) in (first..first + count).zip(bytes.chunks_exact_mut(width as usize)) {
                let from = (order.source(row) * width) as usize;
                place.copy_from_slice(&whole[from..from + width as usize]);
            }
            return Ok(());
        }
        for (row, place) in (first..first + count).zip(bytes.chunks_exact_mut(width as usize)) {
            gguf.read_rows(self.source, order.source(row), place)?;
        }
        Ok(())
    }
}

/// A whole tensor with rows and columns exchanged.
fn transposed(gguf: &Gguf, planned: &Planned<'_>) -> Result<Vec<u8>, Problem> {
    let source = planned.source;
    let mut bytes = vec![0; source.bytes as usize];
    gguf.read_rows(source, 0, &mut bytes)?;
    if source.kind.is_quantized() {
        let mut values = vec![0.0; (source.rows() * source.row()) as usize];
        dequantize(source.kind, &bytes, &mut values);
        bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    }
    Ok(transpose(&bytes, source.rows() as usize, source.row() as usize, planned.kind.block_bytes() as usize))
}

/// Rows become columns; an element has `width` bytes.
pub(super) fn transpose(bytes: &[u8], rows: usize, columns: usize, width: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for column in 0..columns {
        for row in 0..rows {
            let at = (row * columns + column) * width;
            out.extend(&bytes[at..at + width]);
        }
    }
    out
}

//! A checkpoint folder becomes a GGUF.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::config_out::{self, Described, Given};
use super::family::{Change, Family, Pair};
use super::import::transpose;
use super::kind::TensorKind;
use super::mixture::{self, Model};
use super::quantize::quantize;
use super::rows::{self, Order, Way};
use super::tokenizer_out;
use super::writer::{ALIGNMENT, Entries, Entry, Listed, header};
use crate::checkpoint::{Dtype, TensorInfo, Weights, has_adapter, read_json};
use crate::problem::{Problem, ProblemKind};

/// Bytes of fp32 that are made at once.
const CHUNK: u64 = 16 << 20;

/// How matrices are written; vectors are fp32 in every file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// fp32.
    F32,
    /// fp16.
    F16,
    /// bf16.
    Bf16,
    /// Eight bits, with a scale for each 32 elements.
    Q8_0,
    /// Four to six bits, with scales of scales: llama.cpp's `Q4_K_M`.
    #[serde(rename = "q4_k_m")]
    Q4KM,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q4KM];

    /// Its name, such as `q4_k_m`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4KM => "q4_k_m",
        }
    }

    /// The kind of this name, in small or capital letters.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// `general.file_type`.
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Bf16 => 32,
        }
    }
}

/// What a checkpoint has become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// `general.architecture` of the file.
    pub architecture: String,
    /// How many tensors were written.
    pub tensors: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// How many tensors are of which type, by its name.
    pub kinds: BTreeMap<String, u64>,
    /// What is no error and yet worth a look, such as what a GGUF has no place for.
    pub notices: Vec<String>,
}

/// Writes the checkpoint of a folder as a GGUF of version 3.
///
/// No more than some rows of one tensor are in memory (GPT-2's, whose tensors are transposed, one by one). After an error the
/// file may be there, cut short.
///
/// # Errors
/// [`ProblemKind::UnsupportedModel`] for a model type that is not among those that can be written, an adapter that is not
/// merged, or a model that is not what llama.cpp takes for its type; [`ProblemKind::Config`], [`ProblemKind::Tensor`] and
/// [`ProblemKind::Tokenizer`] for what is absent or of no use; what [`Weights::open`] finds; [`ProblemKind::Unreadable`].
pub fn export(folder: &Path, file: &Path, kind: Kind) -> Result<Exported, Problem> {
    if has_adapter(folder) {
        let message = "this is an adapter beside its base";
        return Err(Problem::new(ProblemKind::UnsupportedModel, "adapter_config.json", message)
            .hint("merge the adapter into the base first"));
    }
    let given = Given { map: read_json(folder, config_out::FILE, ProblemKind::Config)? };
    let family = Family::of_checkpoint(given.text("model_type"))?;
    let mut notices = Vec::new();
    let described = config_out::describe(&given, family, &mut notices)?;
    let weights = Weights::open(folder)?;
    let plan = plan(&weights, family, &described, kind)?;
    let mut entries = Entries::new();
    tokenizer_out::put(folder, described.vocabulary, &mut entries, &mut notices)?;
    let mut entries = [general(&given, family, kind, &plan, &entries), entries].concat();
    entries.extend(described.entries.iter().cloned());
    let name = file.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
    let bytes = write(&weights, &plan, &described, &entries, file).map_err(|failure| match failure {
        Failure::Io(error) => {
            Problem::new(ProblemKind::Unreadable, name, format!("the file cannot be written: {error}"))
        }
        Failure::Problem(problem) => problem,
    })?;
    let mut kinds = BTreeMap::new();
    for kind in
        plan.iter().map(|planned| planned.kind).chain(described.factors.iter().map(|_| TensorKind::F32))
    {
        *kinds.entry(kind.name().to_owned()).or_default() += 1;
    }
    let tensors = (plan.len() + described.factors.len()) as u64;
    Ok(Exported { architecture: family.architecture.to_owned(), tensors, bytes, kinds, notices })
}

/// What every file says of itself.
fn general(given: &Given, family: &Family, kind: Kind, plan: &[Planned<'_>], tokenizer: &Entries) -> Entries {
    let own = given.text("_name_or_path").and_then(|path| path.rsplit('/').find(|part| !part.is_empty()));
    let name = match family.model_type {
        // Mistral's models have llama's architecture; their name is what tells them apart.
        "mistral" => own.filter(|name| name.to_lowercase().contains("mistral")).unwrap_or("mistral"),
        // llama.cpp looks for these tokens in a model whose name has Phi 3 in it, and fails without them.
        "phi3" if !["<unk>", "<s>", "<|endoftext|>"].iter().all(|token| has_token(tokenizer, token)) => "phi",
        other => own.unwrap_or(other),
    };
    let mut entries = vec![
        ("general.architecture".to_owned(), Entry::Text(family.architecture.to_owned())),
        ("general.type".to_owned(), Entry::Text("model".to_owned())),
        ("general.name".to_owned(), Entry::Text(name.to_owned())),
        ("general.file_type".to_owned(), Entry::U32(kind.file_type())),
    ];
    if plan.iter().any(|planned| planned.kind.is_quantized()) {
        entries.push(("general.quantization_version".to_owned(), Entry::U32(2)));
    }
    entries
}

fn has_token(tokenizer: &Entries, token: &str) -> bool {
    let lists = tokenizer.iter().filter(|(key, _)| key == "tokenizer.ggml.tokens");
    lists
        .into_iter()
        .any(|(_, list)| matches!(list, Entry::Texts(list) if list.iter().any(|other| other == token)))
}

/// A tensor of the checkpoint and what it becomes.
struct Planned<'a> {
    /// Its name in the checkpoint as it is.
    name: String,
    source: &'a TensorInfo,
    pair: Pair,
    kind: TensorKind,
    /// Of the tensor in the file.
    shape: Vec<u64>,
    order: Option<Order>,
    bytes: u64,
}

fn plan<'a>(
    weights: &'a Weights,
    family: &Family,
    described: &Described,
    kind: Kind,
) -> Result<Vec<Planned<'a>>, Problem> {
    let mut used = HashSet::new();
    let mut plan = Vec::new();
    // Readers of GPT-NeoX want an output layer even where it is the embedding.
    let repeats = described.tied && family.model_type == "gpt_neox";
    let mut pairs = family.pairs(u64::from(described.layers));
    for pair in pairs.iter_mut().filter(|pair| pair.gguf == "output.weight") {
        pair.required = !described.tied;
    }
    let embedding = format!("{}.weight", family.outer[0].1);
    let has_output = !described.tied || repeats;
    let grouped = described.heads.queries / described.heads.keys;
    let model = Model { layers: u64::from(described.layers), grouped, has_output };
    for pair in pairs {
        let is_output = pair.gguf.starts_with("output.");
        let wanted = match is_output && repeats && pair.gguf == "output.weight" {
            true => format!("{}{embedding}", family.prefix),
            false => pair.checkpoint.clone(),
        };
        // A bare model has no prefix.
        let bare = wanted.strip_prefix(family.prefix).unwrap_or(&wanted);
        let found = [wanted.as_str(), bare].into_iter().find_map(|name| Some((name, weights.info(name)?)));
        used.extend([wanted.clone(), bare.to_owned(), pair.checkpoint.clone()]);
        match found {
            _ if is_output && described.tied && !repeats => {}
            Some((name, source)) => plan.push(planned(name, source, pair, described, kind, model)?),
            None if pair.required => {
                let message = format!("there is no tensor `{wanted}`");
                return Err(Problem::new(ProblemKind::Tensor, "checkpoint", message)
                    .hint("upload the checkpoint of the whole language model"));
            }
            None => {}
        }
    }
    let ignored = |name: &str| {
        [".rotary_emb.inv_freq", ".attn.bias", ".masked_bias", ".attention.bias"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    match weights.names().find(|name| !used.contains(*name) && !ignored(name)) {
        None => Ok(plan),
        Some(name) => {
            let message = format!("a {} in a GGUF has no tensor for `{name}`", family.class);
            Err(Problem::new(ProblemKind::Tensor, "checkpoint", message)
                .hint("only language models without further heads can be written"))
        }
    }
}

fn planned<'a>(
    name: &str,
    source: &'a TensorInfo,
    pair: Pair,
    described: &Described,
    kind: Kind,
    model: Model,
) -> Result<Planned<'a>, Problem> {
    let wrong =
        |what: String| Problem::new(ProblemKind::Tensor, "checkpoint", format!("tensor `{name}`: {what}"));
    if !matches!(source.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
        return Err(wrong(format!("elements of type {:?} cannot be written into a GGUF", source.dtype)));
    }
    let dimensions = if pair.gguf.ends_with(".bias") || pair.gguf.contains("norm.") { 1 } else { 2 };
    if source.shape.len() != dimensions || source.shape.contains(&0) {
        return Err(wrong(format!("the shape {:?} is not one of {dimensions} dimensions", source.shape)));
    }
    let mut shape = source.shape.clone();
    if pair.change == Change::Transposed {
        shape.reverse();
    }
    if pair.gguf == "token_embd.weight"
        && shape != [u64::from(described.vocabulary), u64::from(described.hidden)]
    {
        let message = format!(
            "its shape is {shape:?}, config.json says {} by {}",
            described.vocabulary, described.hidden
        );
        return Err(wrong(message));
    }
    let order = rows::order(pair.change, Way::ToGguf, shape[0], described.heads).map_err(wrong)?;
    let kind = mixture::kind_of(&pair.gguf, &shape, kind, model);
    let (row, rows) = (shape.last().copied().unwrap_or(1), shape.iter().rev().skip(1).product::<u64>());
    let bytes = kind.row_bytes(row).unwrap_or(0) * rows;
    Ok(Planned { name: name.to_owned(), source, pair, kind, shape, order, bytes })
}

enum Failure {
    Io(io::Error),
    Problem(Problem),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

fn write(
    weights: &Weights,
    plan: &[Planned<'_>],
    described: &Described,
    entries: &Entries,
    path: &Path,
) -> Result<u64, Failure> {
    let lengths: Vec<[u64; 1]> =
        described.factors.iter().map(|(_, factors)| [factors.len() as u64]).collect();
    let small = described.factors.iter().zip(&lengths).map(|((name, _), shape)| Listed {
        name,
        shape,
        kind: TensorKind::F32,
        bytes: shape[0] * 4,
    });
    let large = plan.iter().map(|planned| Listed {
        name: &planned.pair.gguf,
        shape: &planned.shape,
        kind: planned.kind,
        bytes: planned.bytes,
    });
    let mut out = Out { file: BufWriter::with_capacity(1 << 20, File::create(path)?), at: 0 };
    out.put(&header(entries, &small.chain(large).collect::<Vec<_>>()))?;
    for (_, factors) in &described.factors {
        factors.iter().try_for_each(|factor| out.put(&factor.to_le_bytes()))?;
        out.align()?;
    }
    for planned in plan {
        write_tensor(weights, planned, &mut out)?;
        out.align()?;
    }
    out.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    Ok(out.at)
}

struct Out {
    file: BufWriter<File>,
    at: u64,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let gap = self.at.next_multiple_of(ALIGNMENT) - self.at;
        self.put(&[0; ALIGNMENT as usize][..gap as usize])
    }
}

fn write_tensor(weights: &Weights, planned: &Planned<'_>, out: &mut Out) -> Result<(), Failure> {
    let width = planned.source.dtype.bitsize() / 8;
    if planned.pair.change == Change::Transposed {
        let whole = weights.tensor(&planned.name)?;
        let [inputs, outputs] = [planned.source.shape[0] as usize, planned.source.shape[1] as usize];
        let bytes = transpose(&whole.bytes, inputs, outputs, width);
        return Ok(out.put(&encoded(planned, inputs, &bytes)?)?);
    }
    // The elements of a vector are its rows where they change their places.
    let (rows, row) = match (planned.shape.as_slice(), &planned.order) {
        ([length], Some(_)) => (*length, 1),
        ([length], None) => (1, *length),
        (shape, _) => (shape[0], shape[1]),
    };
    let per_chunk = (CHUNK / (row * 4)).max(1);
    let row_bytes = row as usize * width;
    let mut bytes = Vec::new();
    for first in (0..rows).step_by(per_chunk as usize) {
        let count = per_chunk.min(rows - first);
        bytes.resize(count as usize * row_bytes, 0);
        match planned.order {
            None => weights.read_part(&planned.name, first * row_bytes as u64, &mut bytes)?,
            Some(order) => {
                for (row, place) in (first..first + count).zip(bytes.chunks_exact_mut(row_bytes)) {
                    weights.read_part(&planned.name, order.source(row) * row_bytes as u64, place)?;
                }
            }
        }
        out.put(&encoded(planned, row as usize, &bytes)?)?;
    }
    Ok(())
}

/// Rows of `row` elements in the file's type, on all cores.
fn encoded(planned: &Planned<'_>, row: usize, bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    let width = planned.source.dtype.bitsize() / 8;
    let rows = bytes.len() / (row * width);
    let row_bytes = planned.kind.row_bytes(row as u64).unwrap_or(0) as usize;
    let mut out = vec![0; rows * row_bytes];
    // One core gets some thousand elements at a time.
    let together = (16_384 / row).max(1);
    let pairs = out.par_chunks_mut(together * row_bytes).zip(bytes.par_chunks(together * row * width));
    pairs.try_for_each(|(out, bytes)| {
        let mut values = numbers(planned.source.dtype, bytes);
        if planned.pair.change == Change::PlusOne {
            values.iter_mut().for_each(|value| *value += 1.0);
        }
        check_range(planned, &values)?;
        quantize(planned.kind, &values, out).ok_or_else(|| {
            Problem::new(ProblemKind::Tensor, "checkpoint", format!("{} is not written", planned.kind))
        })
    })?;
    Ok(out)
}

fn numbers(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F16 => {
            bytes.chunks_exact(2).map(|pair| f16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect()
        }
        Dtype::BF16 => {
            bytes.chunks_exact(2).map(|pair| bf16::from_le_bytes([pair[0], pair[1]]).to_f32()).collect()
        }
        _ => bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
            .collect(),
    }
}

/// No file is better than one that quietly has infinities for large numbers.
fn check_range(planned: &Planned<'_>, values: &[f32]) -> Result<(), Problem> {
    let most = match planned.kind {
        TensorKind::F32 => return Ok(()),
        // Scales in 16 bits reach further than elements in 16 bits.
        TensorKind::F16 => 65_504.0,
        TensorKind::Bf16 => f32::MAX,
        _ => 65_504.0 * 15.0,
    };
    match values.iter().find(|value| value.is_nan() || value.abs() > most) {
        None => Ok(()),
        Some(value) => {
            let message = format!("tensor `{}`: {value} cannot be written as {}", planned.name, planned.kind);
            Err(Problem::new(ProblemKind::Tensor, "checkpoint", message)
                .hint("export as f32 or bf16, or look at how the model was trained"))
        }
    }
}

//! The metadata of a GGUF from `config.json`.

use serde_json::{Map, Value};

use super::family::Family;
use super::rope_out::{self, Rope};
use super::rows::Heads;
use super::writer::{Entries, Entry};
use crate::problem::{Problem, ProblemKind};

pub(super) const FILE: &str = "config.json";
/// Lists are made by layer and by number of a head, whatever a file says.
const MOST_LAYERS: u32 = 10_000;
const MOST_WIDTH: u32 = 1 << 16;

/// `config.json`, with questions to it.
pub(super) struct Given {
    pub(super) map: Map<String, Value>,
}

impl Given {
    fn wrong(name: &str, message: impl Into<String>) -> Problem {
        Problem::new(ProblemKind::Config, FILE, message).in_column(name)
    }

    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A whole number of 32 bits.
    pub(super) fn size(&self, name: &str) -> Result<Option<u32>, Problem> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let size = value.as_u64().and_then(|size| u32::try_from(size).ok());
        size.map(Some).ok_or_else(|| Self::wrong(name, format!("{value} is no possible size")))
    }

    pub(super) fn need(&self, name: &str) -> Result<u32, Problem> {
        let size = self.size(name)?.ok_or_else(|| Self::wrong(name, "the field is missing"))?;
        if size == 0 { Err(Self::wrong(name, "0 is no possible size")) } else { Ok(size) }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, Problem> {
        let Some(value) = self.value(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| Self::wrong(name, format!("{value} is no number")))
    }

    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.value(name)?.as_bool()
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.value(name)?.as_str()
    }
}

/// What the export has to know beside the entries.
pub(super) struct Described {
    pub(super) entries: Entries,
    pub(super) heads: Heads,
    pub(super) layers: u32,
    pub(super) hidden: u32,
    pub(super) vocabulary: u32,
    pub(super) tied: bool,
    /// Small fp32 tensors that say how positions are scaled.
    pub(super) factors: Vec<(&'static str, Vec<f32>)>,
}

/// Describes a model of this family.
pub(super) fn describe(
    given: &Given,
    family: &Family,
    notices: &mut Vec<String>,
) -> Result<Described, Problem> {
    let is_gpt2 = family.model_type == "gpt2";
    let name = |usual: &'static str, gpt2: &'static str| if is_gpt2 { gpt2 } else { usual };
    let hidden = given.need(name("hidden_size", "n_embd"))?;
    let layers = given.need(name("num_hidden_layers", "n_layer"))?;
    let queries = given.need(name("num_attention_heads", "n_head"))?;
    if layers > MOST_LAYERS {
        let message = format!("{layers} layers are more than any model has");
        return Err(Given::wrong(name("num_hidden_layers", "n_layer"), message));
    }
    let keys = given.size("num_key_value_heads")?.unwrap_or(queries);
    if keys == 0 || queries % keys != 0 {
        return Err(Given::wrong("num_key_value_heads", format!("{keys} do not divide {queries} heads")));
    }
    let context = given.need(name("max_position_embeddings", "n_positions"))?;
    let inner = match given.size("n_inner")?.filter(|_| is_gpt2) {
        Some(inner) => inner,
        None if is_gpt2 => hidden.saturating_mul(4),
        None => given.need("intermediate_size")?,
    };
    let gemma = family.model_type.starts_with("gemma");
    let width = match given.size("head_dim")?.filter(|_| !is_gpt2) {
        Some(width) => width,
        None if gemma => 256,
        None if family.model_type == "qwen3" => 128,
        None => hidden / queries,
    };
    if width == 0 || width > MOST_WIDTH {
        return Err(Given::wrong("head_dim", format!("heads of {width} numbers are not possible")));
    }
    let vocabulary = given.need("vocab_size")?;
    let mut entries = Entries::new();
    let mut put = |name: &str, entry: Entry| entries.push((family.key(name), entry));
    put("context_length", Entry::U32(context));
    put("embedding_length", Entry::U32(hidden));
    put("block_count", Entry::U32(layers));
    put("feed_forward_length", Entry::U32(inner));
    put("attention.head_count", Entry::U32(queries));
    put("vocab_size", Entry::U32(vocabulary));
    let mut factors = Vec::new();
    if matches!(family.model_type, "gpt2" | "gpt_neox") {
        let epsilon = given.number(name("layer_norm_eps", "layer_norm_epsilon"))?.unwrap_or(1e-5);
        put("attention.layer_norm_epsilon", Entry::F32(epsilon as f32));
    } else {
        put("attention.head_count_kv", Entry::U32(keys));
        let usual = if family.model_type == "phi3" { 1e-5 } else { 1e-6 };
        let epsilon = given.number("rms_norm_eps")?.unwrap_or(usual);
        put("attention.layer_norm_rms_epsilon", Entry::F32(epsilon as f32));
        put("attention.key_length", Entry::U32(width));
        put("attention.value_length", Entry::U32(width));
    }
    if family.model_type == "gpt_neox" {
        put("use_parallel_residual", Entry::Bool(given.flag("use_parallel_residual").unwrap_or(true)));
    }
    if !is_gpt2 {
        let rope = Rope::of(given, family, width, context)?;
        factors = rope_out::put(&rope, family, &mut entries, notices);
    }
    put_peculiar(given, family, [layers, context], [width, hidden / queries], &mut entries, notices)?;
    check_activation(given, family)?;
    let usual = gemma || matches!(family.model_type, "smollm3" | "gpt2");
    Ok(Described {
        entries,
        heads: Heads { queries: u64::from(queries), keys: u64::from(keys) },
        layers,
        hidden,
        vocabulary,
        tied: given.flag("tie_word_embeddings").unwrap_or(usual),
        factors,
    })
}

/// A GGUF has no place for another activation than the family's.
fn check_activation(given: &Given, family: &Family) -> Result<(), Problem> {
    let (fields, usual): (&[&str], &[&str]) = match family.model_type {
        "gpt2" => (&["activation_function"], &["gelu_new", "gelu_pytorch_tanh", "gelu_fast"]),
        "gpt_neox" => (&["hidden_act"], &["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"]),
        "gemma2" | "gemma3_text" => (&["hidden_activation"], &["gelu_pytorch_tanh", "gelu"]),
        _ => (&["hidden_act"], &["silu", "swish"]),
    };
    for field in fields {
        if let Some(found) = given.text(field).filter(|found| !usual.contains(found)) {
            let message = format!("llama.cpp has no {} with the activation `{found}`", family.class);
            return Err(Problem::new(ProblemKind::UnsupportedModel, FILE, message).in_column(*field));
        }
    }
    Ok(())
}

fn put_peculiar(
    given: &Given,
    family: &Family,
    [layers, context]: [u32; 2],
    [width, even_width]: [u32; 2],
    entries: &mut Entries,
    notices: &mut Vec<String>,
) -> Result<(), Problem> {
    let window = given.size("sliding_window")?;
    let used = given.flag("use_sliding_window").unwrap_or(false);
    let mut put = |name: &str, entry: Entry| entries.push((family.key(name), entry));
    match family.model_type {
        "mistral" | "phi3" => {
            if let Some(window) = window {
                put("attention.sliding_window", Entry::U32(window));
                if window < context {
                    notices.push(format!(
                        "llama.cpp looks beyond the window of {window} tokens that this model was made for"
                    ));
                }
            }
        }
        "qwen2" | "qwen3" | "smollm3" if used => {
            notices.push(
                "a GGUF has no place for this model's sliding window: all tokens are looked at".to_owned(),
            );
        }
        "gemma2" | "gemma3_text" => {
            let is_second = family.model_type == "gemma2";
            put("attention.sliding_window", Entry::U32(window.unwrap_or(4096)));
            let usual = if is_second { 2 } else { 6 };
            let period = period(given, layers, usual)?;
            if period != usual {
                put("attention.sliding_window_pattern", Entry::U32(period));
            }
            for (name, usual) in [("attn_logit_softcapping", 50.0), ("final_logit_softcapping", 30.0)] {
                let given_cap = match given.map.get(name) {
                    None => is_second.then_some(usual),
                    Some(_) => given.number(name)?,
                };
                match given_cap {
                    Some(cap) => put(name, Entry::F32(cap as f32)),
                    None if is_second => put(name, Entry::F32(0.0)),
                    None => {}
                }
            }
            let usual = if layers == if is_second { 46 } else { 62 } { even_width } else { width };
            let scalar = given.number("query_pre_attn_scalar")?.unwrap_or(256.0);
            if scalar != f64::from(usual) {
                put("attention.scale", Entry::F32((1.0 / scalar.sqrt()) as f32));
                notices.push(format!(
                    "llama.cpp takes {usual} for this model's `query_pre_attn_scalar`, which is {scalar}: its answers will differ"
                ));
            }
        }
        _ => {}
    }
    if family.model_type == "smollm3" {
        let interval = no_rope_interval(given, layers)?;
        if interval != 4 && (0..layers).any(|layer| ((layer + 1) % interval == 0) != ((layer + 1) % 4 == 0)) {
            put("no_rope_layer_interval", Entry::U32(interval));
            notices.push(format!(
                "llama.cpp turns no keys in every fourth layer, this model in every {interval}th: its answers will differ"
            ));
        }
    }
    Ok(())
}

/// Every how manieth layer looks at all tokens.
fn period(given: &Given, layers: u32, usual: u32) -> Result<u32, Problem> {
    let Some(sorts) = given.value("layer_types").and_then(Value::as_array) else {
        let named = given.size("sliding_window_pattern")?.or(given.size("_sliding_window_pattern")?);
        return Ok(named.filter(|period| *period > 0).unwrap_or(usual));
    };
    let full: Vec<bool> = sorts.iter().map(|sort| sort == "full_attention").collect();
    every(&full, layers, usual).ok_or_else(|| {
        Problem::new(ProblemKind::UnsupportedModel, FILE, "the layers with full attention follow no period")
            .in_column("layer_types")
    })
}

fn no_rope_interval(given: &Given, layers: u32) -> Result<u32, Problem> {
    let Some(turned) = given.value("no_rope_layers").and_then(Value::as_array) else {
        return Ok(given.size("no_rope_layer_interval")?.filter(|interval| *interval > 0).unwrap_or(4));
    };
    let still: Vec<bool> = turned.iter().map(|turned| turned.as_u64() == Some(0)).collect();
    every(&still, layers, 4).ok_or_else(|| {
        Problem::new(ProblemKind::UnsupportedModel, FILE, "the layers without turned keys follow no period")
            .in_column("no_rope_layers")
    })
}

/// The period after which the marks stand; the usual one where it fits.
fn every(marks: &[bool], layers: u32, usual: u32) -> Option<u32> {
    if marks.len() != layers as usize {
        return None;
    }
    let fits = |period: &u32| marks.iter().zip(1u32..).all(|(mark, layer)| *mark == (layer % period == 0));
    std::iter::once(usual).chain(1..=layers + 1).find(fits)
}

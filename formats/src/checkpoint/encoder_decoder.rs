//! The tensors that an encoder–decoder model of a supported model type must have, and their shapes.
//!
//! Names and shapes are those of transformers' `modeling_t5.py`, `modeling_mt5.py`, `modeling_bart.py`, `modeling_mbart.py` and
//! `modeling_marian.py`. A Transformer of one's own is counted as BART's layers without norms of embeddings; what its file
//! holds is looked at where it is loaded.

use super::config::Config;
use super::encoder::{Sought, lacking, need};
use super::weights::Weights;
use crate::problem::{Problem, ProblemKind};

/// Sizes of a model with an encoder and a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncoderDecoderSizes {
    /// Width of the hidden states.
    pub hidden: u64,
    /// Numbers of all queries of a token; those of keys and values are as many.
    pub queries: u64,
    /// Layers of the encoder and of the decoder.
    pub layers: [u64; 2],
    /// Heads of each attention, in the encoder and in the decoder.
    pub heads: [u64; 2],
    /// Width of the feed-forward block, in the encoder and in the decoder.
    pub inner: [u64; 2],
    /// Matrices of that block: 3 with a gate, 2 without.
    pub products: u64,
    /// Tokens that can be written.
    pub vocabulary: u64,
    /// Whether the word embedding is the output layer.
    pub tied: bool,
}

impl EncoderDecoderSizes {
    /// Those of a configuration.
    ///
    /// # Errors
    /// [`ProblemKind::Config`] where a size is not given, or heads do not divide the width.
    pub fn of(config: &Config) -> Result<Self, Problem> {
        let t5 = is_t5(config);
        let names = match t5 {
            true => ["num_heads", "num_layers", "d_ff"],
            false => ["encoder_attention_heads", "encoder_layers", "encoder_ffn_dim"],
        };
        let hidden = need(config.hidden_size, "d_model")?;
        let heads = [
            need(config.num_attention_heads, names[0])?,
            need(config.decoder_attention_heads, "decoder_attention_heads")?,
        ];
        if let Some(heads) = heads.into_iter().find(|heads| !t5 && hidden % heads != 0) {
            let message = format!("{heads} attention heads do not divide the width of {hidden}");
            return Err(Problem::new(ProblemKind::Config, "config.json", message).in_column(names[0]));
        }
        let vocabulary = need(config.vocab_size, "vocab_size")?;
        Ok(EncoderDecoderSizes {
            hidden,
            queries: if t5 { heads[0] * need(config.head_dim, "d_kv")? } else { hidden },
            layers: [
                need(config.num_hidden_layers, names[1])?,
                need(config.decoder_layers, "decoder_layers")?,
            ],
            heads,
            inner: [
                need(config.intermediate_size, names[2])?,
                need(config.decoder_ffn_dim, "decoder_ffn_dim")?,
            ],
            products: if config.is_gated { 3 } else { 2 },
            vocabulary: config.decoder_vocab_size.unwrap_or(vocabulary),
            tied: config.tie_word_embeddings.unwrap_or(config.model_type.as_deref() != Some("mt5")),
        })
    }
}

fn is_t5(config: &Config) -> bool {
    matches!(config.model_type.as_deref(), Some("t5" | "mt5"))
}

/// Full names and shapes of the tensors that a model of this configuration has, with its output layer where that is not the word
/// embedding.
///
/// # Errors
/// As [`EncoderDecoderSizes::of`].
pub fn encoder_decoder_tensors(config: &Config) -> Result<Vec<(String, Vec<u64>)>, Problem> {
    let sizes = EncoderDecoderSizes::of(config)?;
    let mut all = match is_t5(config) {
        true => t5_tensors(config, sizes),
        false => bart_tensors(config, sizes),
    };
    if !sizes.tied {
        all.push(("lm_head.weight".to_owned(), vec![sizes.vocabulary, sizes.hidden]));
    }
    Ok(all)
}

type Expected = Vec<(String, Vec<u64>)>;

/// Layers of a side, so many at most that a wrong configuration is answered.
const MOST_LAYERS: u64 = 10_000;

fn t5_tensors(config: &Config, sizes: EncoderDecoderSizes) -> Expected {
    let EncoderDecoderSizes { hidden, queries, layers, heads, inner, .. } = sizes;
    let mut all = vec![("shared.weight".to_owned(), vec![config.vocab_size.unwrap_or(0), hidden])];
    for (side, name) in ["encoder", "decoder"].into_iter().enumerate() {
        let attentions =
            if side == 0 { &["SelfAttention"][..] } else { &["SelfAttention", "EncDecAttention"] };
        for block in 0..layers[side].min(MOST_LAYERS) {
            let at = |part: usize, leaf: &str| format!("{name}.block.{block}.layer.{part}.{leaf}.weight");
            for (part, attention) in attentions.iter().enumerate() {
                for leaf in ["q", "k", "v"] {
                    all.push((at(part, &format!("{attention}.{leaf}")), vec![queries, hidden]));
                }
                all.push((at(part, &format!("{attention}.o")), vec![hidden, queries]));
                if block == 0 && part == 0 {
                    let buckets = config.relative_attention_num_buckets.unwrap_or(32);
                    let distances = format!("{attention}.relative_attention_bias");
                    all.push((at(part, &distances), vec![buckets, heads[side]]));
                }
                all.push((at(part, "layer_norm"), vec![hidden]));
            }
            let last = attentions.len();
            let wide = if sizes.products == 3 { &["wi_0", "wi_1"][..] } else { &["wi"] };
            for leaf in wide {
                all.push((at(last, &format!("DenseReluDense.{leaf}")), vec![inner[side], hidden]));
            }
            all.push((at(last, "DenseReluDense.wo"), vec![hidden, inner[side]]));
            all.push((at(last, "layer_norm"), vec![hidden]));
        }
        all.push((format!("{name}.final_layer_norm.weight"), vec![hidden]));
    }
    all
}

fn bart_tensors(config: &Config, sizes: EncoderDecoderSizes) -> Expected {
    let EncoderDecoderSizes { hidden, layers, inner, .. } = sizes;
    let family = config.model_type.as_deref().unwrap_or_default();
    let words = config.vocab_size.unwrap_or(0);
    let mut all = match config.decoder_vocab_size {
        None => vec![("model.shared.weight".to_owned(), vec![words, hidden])],
        Some(own) => vec![
            ("model.encoder.embed_tokens.weight".to_owned(), vec![words, hidden]),
            ("model.decoder.embed_tokens.weight".to_owned(), vec![own, hidden]),
        ],
    };
    let mut put = |name: String, weight: Vec<u64>, bias: u64| {
        all.push((format!("{name}.weight"), weight));
        if bias > 0 {
            all.push((format!("{name}.bias"), vec![bias]));
        }
    };
    for (side, name) in ["encoder", "decoder"].into_iter().enumerate() {
        // Marian's positions are waves, which no file needs to hold; BART's begin after two that are not used.
        if matches!(family, "bart" | "mbart") {
            let positions = config.max_position_embeddings.unwrap_or(1024) + 2;
            put(format!("model.{name}.embed_positions"), vec![positions, hidden], 0);
            put(format!("model.{name}.layernorm_embedding"), vec![hidden], hidden);
        }
        for layer in 0..layers[side].min(MOST_LAYERS) {
            let at = |part: &str| format!("model.{name}.layers.{layer}.{part}");
            let attentions = if side == 0 { &["self_attn"][..] } else { &["self_attn", "encoder_attn"] };
            for attention in attentions {
                for leaf in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                    put(at(&format!("{attention}.{leaf}")), vec![hidden, hidden], hidden);
                }
                put(at(&format!("{attention}_layer_norm")), vec![hidden], hidden);
            }
            put(at("fc1"), vec![inner[side], hidden], inner[side]);
            put(at("fc2"), vec![hidden, inner[side]], hidden);
            put(at("final_layer_norm"), vec![hidden], hidden);
        }
        if family == "mbart" {
            put(format!("model.{name}.layer_norm"), vec![hidden], hidden);
        }
    }
    all
}

/// Tensors that are absent, or have another shape than the configuration says.
pub(super) fn check(config: &Config, weights: &Weights) -> Vec<Problem> {
    if config.model_type.as_deref() == Some("luthier_transformer") {
        return EncoderDecoderSizes::of(config).err().into_iter().collect();
    }
    let expected = match encoder_decoder_tensors(config) {
        Ok(expected) => expected,
        Err(problem) => return vec![problem],
    };
    let sought = |(name, shape): (String, Vec<u64>)| Sought { names: names_of(&name), name, shape };
    lacking(weights, expected.into_iter().map(sought))
}

/// The names that a tensor may have in a file: a bare model has no prefix, and of tables that are one any may stand for it.
fn names_of(name: &str) -> Vec<String> {
    let bare = name.strip_prefix("model.").unwrap_or(name);
    let mut names = vec![name.to_owned(), bare.to_owned()];
    if bare == "shared.weight" {
        for other in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"] {
            names.extend([other.to_owned(), format!("model.{other}")]);
        }
    }
    names
}

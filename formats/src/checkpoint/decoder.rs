//! The tensors that a language model of a supported model type must have, and their shapes.
//!
//! Names and shapes are those of transformers' `modeling_llama.py` and of the families that follow it, of
//! `modeling_gpt2.py` and `modeling_gpt_neox.py`. The output layer is not
//! looked for where the word embedding is it.

use super::config::Config;
use super::encoder::{Sought, lacking, need};
use super::weights::Weights;
use crate::problem::{Problem, ProblemKind};

/// Sizes of a decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecoderSizes {
    /// Width of the hidden states.
    pub hidden: u64,
    /// Width of the feed-forward block.
    pub inner: u64,
    /// Numbers of all queries of a token.
    pub queries: u64,
    /// Numbers of all keys of a token, and of all values.
    pub keys: u64,
    /// Numbers of a head.
    pub width: u64,
    /// Layers.
    pub layers: u64,
    /// Tokens of the vocabulary.
    pub vocabulary: u64,
    /// Whether the word embedding is the output layer.
    pub tied: bool,
    /// Matrices of the feed-forward block: 3 with a gate, 2 without.
    pub products: u64,
}

impl DecoderSizes {
    /// Whether the feed-forward block has a gate.
    pub fn is_gated(&self) -> bool {
        self.products == 3
    }

    /// Those of a configuration.
    ///
    /// # Errors
    /// [`ProblemKind::Config`] where a size is not given, or heads cannot be grouped.
    pub fn of(config: &Config) -> Result<Self, Problem> {
        let hidden = need(config.hidden_size, "hidden_size")?;
        let heads = need(config.num_attention_heads, "num_attention_heads")?;
        let family = config.model_type.as_deref().unwrap_or_default();
        let gemma = family.starts_with("gemma");
        let usual = match family {
            "qwen3" => 128,
            _ if gemma => 256,
            _ => hidden / heads,
        };
        let width = config.head_dim.unwrap_or(usual);
        let key_heads = config.num_key_value_heads.unwrap_or(heads);
        if key_heads == 0 || heads % key_heads != 0 {
            let message = format!("{key_heads} heads of keys do not divide the {heads} of queries");
            return Err(
                Problem::new(ProblemKind::Config, "config.json", message).in_column("num_key_value_heads")
            );
        }
        Ok(Self {
            hidden,
            inner: need(config.intermediate_size, "intermediate_size")?,
            queries: heads * width,
            keys: key_heads * width,
            width,
            layers: need(config.num_hidden_layers, "num_hidden_layers")?,
            vocabulary: need(config.vocab_size, "vocab_size")?,
            tied: config.tie_word_embeddings.unwrap_or(gemma || matches!(family, "smollm3" | "gpt2")),
            products: if family.starts_with("gpt") { 2 } else { 3 },
        })
    }
}

/// Full names and shapes of the tensors that a language model of this configuration has; without its output layer where it is
/// there to tell classes apart.
///
/// # Errors
/// As [`DecoderSizes::of`].
pub fn decoder_tensors(config: &Config, classifies: bool) -> Result<Vec<(String, Vec<u64>)>, Problem> {
    let mut sizes = DecoderSizes::of(config)?;
    sizes.tied |= classifies;
    match config.model_type.as_deref() {
        Some("gpt2") => return Ok(gpt2_tensors(config, sizes)),
        Some("gpt_neox") => return Ok(gpt_neox_tensors(config, sizes)),
        _ => {}
    }
    let DecoderSizes { hidden, inner, queries, keys, width, layers, vocabulary, tied, .. } = sizes;
    let family = config.model_type.as_deref().unwrap_or_default();
    let (gemma, fused) = (family.starts_with("gemma"), family == "phi3");
    let attention = config.attention_bias.unwrap_or(false);
    let qkv_bias = attention || family == "qwen2";
    let normed = matches!(family, "qwen3" | "gemma3_text");
    let mut expected = vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden])];
    for layer in 0..layers.min(10_000) {
        let mut put =
            |name: &str, shape: Vec<u64>| expected.push((format!("model.layers.{layer}.{name}"), shape));
        let mut linear = |name: &str, outputs: u64, inputs: u64, biased: bool| {
            put(&format!("{name}.weight"), vec![outputs, inputs]);
            if biased {
                put(&format!("{name}.bias"), vec![outputs]);
            }
        };
        match fused {
            true => linear("self_attn.qkv_proj", queries + 2 * keys, hidden, false),
            false => {
                linear("self_attn.q_proj", queries, hidden, qkv_bias);
                linear("self_attn.k_proj", keys, hidden, qkv_bias);
                linear("self_attn.v_proj", keys, hidden, qkv_bias);
            }
        }
        linear("self_attn.o_proj", hidden, queries, attention);
        let mlp_bias = config.mlp_bias.unwrap_or(false);
        match fused {
            true => linear("mlp.gate_up_proj", 2 * inner, hidden, false),
            false => {
                linear("mlp.gate_proj", inner, hidden, mlp_bias);
                linear("mlp.up_proj", inner, hidden, mlp_bias);
            }
        }
        linear("mlp.down_proj", hidden, inner, mlp_bias);
        let mut norms = vec!["input_layernorm", "post_attention_layernorm"];
        if gemma {
            norms.extend(["pre_feedforward_layernorm", "post_feedforward_layernorm"]);
        }
        for norm in norms {
            put(&format!("{norm}.weight"), vec![hidden]);
        }
        if normed {
            put("self_attn.q_norm.weight", vec![width]);
            put("self_attn.k_norm.weight", vec![width]);
        }
    }
    expected.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !tied {
        expected.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
    }
    Ok(expected)
}

type Expected = Vec<(String, Vec<u64>)>;

/// Adds a layer's weight and bias.
fn put(to: &mut Expected, name: &str, weight: &[u64], bias: u64) {
    to.push((format!("{name}.weight"), weight.to_vec()));
    to.push((format!("{name}.bias"), vec![bias]));
}

/// GPT-2's, whose linear layers are `[in, out]`.
fn gpt2_tensors(config: &Config, sizes: DecoderSizes) -> Expected {
    let DecoderSizes { hidden, inner, layers, vocabulary, tied, .. } = sizes;
    let positions = config.max_position_embeddings.unwrap_or(1024);
    let mut all = vec![
        ("transformer.wte.weight".to_owned(), vec![vocabulary, hidden]),
        ("transformer.wpe.weight".to_owned(), vec![positions, hidden]),
    ];
    for layer in 0..layers.min(10_000) {
        let at = |name: &str| format!("transformer.h.{layer}.{name}");
        put(&mut all, &at("ln_1"), &[hidden], hidden);
        put(&mut all, &at("attn.c_attn"), &[hidden, 3 * hidden], 3 * hidden);
        put(&mut all, &at("attn.c_proj"), &[hidden, hidden], hidden);
        put(&mut all, &at("ln_2"), &[hidden], hidden);
        put(&mut all, &at("mlp.c_fc"), &[hidden, inner], inner);
        put(&mut all, &at("mlp.c_proj"), &[inner, hidden], hidden);
    }
    put(&mut all, "transformer.ln_f", &[hidden], hidden);
    if !tied {
        all.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
    }
    all
}

/// GPT-NeoX's.
fn gpt_neox_tensors(config: &Config, sizes: DecoderSizes) -> Expected {
    let DecoderSizes { hidden, inner, layers, vocabulary, tied, .. } = sizes;
    let mut all = vec![("gpt_neox.embed_in.weight".to_owned(), vec![vocabulary, hidden])];
    for layer in 0..layers.min(10_000) {
        let at = |name: &str| format!("gpt_neox.layers.{layer}.{name}");
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            put(&mut all, &at(norm), &[hidden], hidden);
        }
        for (name, outputs) in [("attention.query_key_value", 3 * hidden), ("attention.dense", hidden)] {
            all.push((at(&format!("{name}.weight")), vec![outputs, hidden]));
            if config.attention_bias.unwrap_or(true) {
                all.push((at(&format!("{name}.bias")), vec![outputs]));
            }
        }
        put(&mut all, &at("mlp.dense_h_to_4h"), &[inner, hidden], inner);
        put(&mut all, &at("mlp.dense_4h_to_h"), &[hidden, inner], hidden);
    }
    put(&mut all, "gpt_neox.final_layer_norm", &[hidden], hidden);
    if !tied {
        all.push(("embed_out.weight".to_owned(), vec![vocabulary, hidden]));
    }
    all
}

/// Tensors that are absent, or have another shape than the configuration says.
pub(super) fn check(config: &Config, weights: &Weights) -> Vec<Problem> {
    let expected = match decoder_tensors(config, config.is_classifier()) {
        Ok(expected) => expected,
        Err(problem) => return vec![problem],
    };
    let sought = |(name, shape): (String, Vec<u64>)| {
        // A bare model has no prefix.
        let bare = ["model.", "transformer.", "gpt_neox."].iter().find_map(|base| name.strip_prefix(base));
        let bare = bare.unwrap_or(&name).to_owned();
        Sought { names: vec![name.clone(), bare], name, shape }
    };
    lacking(weights, expected.into_iter().map(sought))
}

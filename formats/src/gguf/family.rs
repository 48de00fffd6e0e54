//! The model families: whose tensor is called what on either side, and how its elements lie.

use super::value::Metadata;
use crate::problem::{Problem, ProblemKind};

/// What has to be done to a tensor's elements between both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    Same,
    /// Rows of each head of queries lie in pairs (0, h/2), (1, h/2 + 1) … in a GGUF, since llama.cpp turns neighbours.
    QueryHeads,
    /// The same for the heads of keys.
    KeyHeads,
    /// A GGUF has one more than the checkpoint: Gemma's norms multiply by `1 + weight`.
    PlusOne,
    /// A GGUF has outputs as rows, GPT-2's own layers have inputs.
    Transposed,
    /// A GGUF has all queries, all keys, all values; the checkpoint has the three of each head together.
    Interleaved,
}

use Change::{Interleaved, KeyHeads, PlusOne, QueryHeads, Same, Transposed};

/// Name in a GGUF, name in a checkpoint, both without `.weight` and the layer's prefix.
type Names = (&'static str, &'static str, Change);

/// A model family.
#[derive(Debug)]
pub(super) struct Family {
    /// `general.architecture`.
    pub(super) architecture: &'static str,
    /// transformers' `model_type`.
    pub(super) model_type: &'static str,
    /// transformers' class.
    pub(super) class: &'static str,
    /// What precedes all names of a checkpoint but the output layer's.
    pub(super) prefix: &'static str,
    /// Between the prefix and a layer's number.
    pub(super) layers: &'static str,
    /// The output layer in a checkpoint.
    pub(super) head: &'static str,
    /// Tensors outside of the layers.
    pub(super) outer: &'static [Names],
    /// Tensors of each layer.
    pub(super) layer: &'static [Names],
}

const OUTER: &[Names] = &[("token_embd", "embed_tokens", Same), ("output_norm", "norm", Same)];
const GEMMA_OUTER: &[Names] = &[("token_embd", "embed_tokens", Same), ("output_norm", "norm", PlusOne)];

const LLAMA: &[Names] = &[
    ("attn_norm", "input_layernorm", Same),
    ("attn_q", "self_attn.q_proj", QueryHeads),
    ("attn_k", "self_attn.k_proj", KeyHeads),
    ("attn_v", "self_attn.v_proj", Same),
    ("attn_output", "self_attn.o_proj", Same),
    ("ffn_norm", "post_attention_layernorm", Same),
    ("ffn_gate", "mlp.gate_proj", Same),
    ("ffn_up", "mlp.up_proj", Same),
    ("ffn_down", "mlp.down_proj", Same),
];
const QWEN2: &[Names] = &[
    ("attn_norm", "input_layernorm", Same),
    ("attn_q", "self_attn.q_proj", Same),
    ("attn_k", "self_attn.k_proj", Same),
    ("attn_v", "self_attn.v_proj", Same),
    ("attn_output", "self_attn.o_proj", Same),
    ("ffn_norm", "post_attention_layernorm", Same),
    ("ffn_gate", "mlp.gate_proj", Same),
    ("ffn_up", "mlp.up_proj", Same),
    ("ffn_down", "mlp.down_proj", Same),
];
const QWEN3: &[Names] = &[
    ("attn_norm", "input_layernorm", Same),
    ("attn_q", "self_attn.q_proj", Same),
    ("attn_k", "self_attn.k_proj", Same),
    ("attn_v", "self_attn.v_proj", Same),
    ("attn_q_norm", "self_attn.q_norm", Same),
    ("attn_k_norm", "self_attn.k_norm", Same),
    ("attn_output", "self_attn.o_proj", Same),
    ("ffn_norm", "post_attention_layernorm", Same),
    ("ffn_gate", "mlp.gate_proj", Same),
    ("ffn_up", "mlp.up_proj", Same),
    ("ffn_down", "mlp.down_proj", Same),
];
const PHI3: &[Names] = &[
    ("attn_norm", "input_layernorm", Same),
    ("attn_qkv", "self_attn.qkv_proj", Same),
    ("attn_output", "self_attn.o_proj", Same),
    ("ffn_norm", "post_attention_layernorm", Same),
    ("ffn_up", "mlp.gate_up_proj", Same),
    ("ffn_down", "mlp.down_proj", Same),
];
const GEMMA2: &[Names] = &[
    ("attn_norm", "input_layernorm", PlusOne),
    ("attn_q", "self_attn.q_proj", Same),
    ("attn_k", "self_attn.k_proj", Same),
    ("attn_v", "self_attn.v_proj", Same),
    ("attn_output", "self_attn.o_proj", Same),
    ("post_attention_norm", "post_attention_layernorm", PlusOne),
    ("ffn_norm", "pre_feedforward_layernorm", PlusOne),
    ("ffn_gate", "mlp.gate_proj", Same),
    ("ffn_up", "mlp.up_proj", Same),
    ("ffn_down", "mlp.down_proj", Same),
    ("post_ffw_norm", "post_feedforward_layernorm", PlusOne),
];
const GEMMA3: &[Names] = &[
    ("attn_norm", "input_layernorm", PlusOne),
    ("attn_q", "self_attn.q_proj", Same),
    ("attn_k", "self_attn.k_proj", Same),
    ("attn_v", "self_attn.v_proj", Same),
    ("attn_q_norm", "self_attn.q_norm", PlusOne),
    ("attn_k_norm", "self_attn.k_norm", PlusOne),
    ("attn_output", "self_attn.o_proj", Same),
    ("post_attention_norm", "post_attention_layernorm", PlusOne),
    ("ffn_norm", "pre_feedforward_layernorm", PlusOne),
    ("ffn_gate", "mlp.gate_proj", Same),
    ("ffn_up", "mlp.up_proj", Same),
    ("ffn_down", "mlp.down_proj", Same),
    ("post_ffw_norm", "post_feedforward_layernorm", PlusOne),
];
const GPT2: &[Names] = &[
    ("attn_norm", "ln_1", Same),
    ("attn_qkv", "attn.c_attn", Transposed),
    ("attn_output", "attn.c_proj", Transposed),
    ("ffn_norm", "ln_2", Same),
    ("ffn_up", "mlp.c_fc", Transposed),
    ("ffn_down", "mlp.c_proj", Transposed),
];
const GPT_NEOX: &[Names] = &[
    ("attn_norm", "input_layernorm", Same),
    ("attn_qkv", "attention.query_key_value", Interleaved),
    ("attn_output", "attention.dense", Same),
    ("ffn_norm", "post_attention_layernorm", Same),
    ("ffn_up", "mlp.dense_h_to_4h", Same),
    ("ffn_down", "mlp.dense_4h_to_h", Same),
];

const fn decoder(
    architecture: &'static str,
    model_type: &'static str,
    class: &'static str,
    layer: &'static [Names],
) -> Family {
    Family {
        architecture,
        model_type,
        class,
        prefix: "model.",
        layers: "layers.",
        head: "lm_head",
        outer: OUTER,
        layer,
    }
}

/// All families. Of two with the same architecture the first is taken where nothing else decides.
pub(super) const FAMILIES: [Family; 10] = [
    decoder("llama", "llama", "LlamaForCausalLM", LLAMA),
    decoder("llama", "mistral", "MistralForCausalLM", LLAMA),
    decoder("qwen2", "qwen2", "Qwen2ForCausalLM", QWEN2),
    decoder("qwen3", "qwen3", "Qwen3ForCausalLM", QWEN3),
    decoder("phi3", "phi3", "Phi3ForCausalLM", PHI3),
    decoder("smollm3", "smollm3", "SmolLM3ForCausalLM", LLAMA),
    Family { outer: GEMMA_OUTER, ..decoder("gemma2", "gemma2", "Gemma2ForCausalLM", GEMMA2) },
    Family { outer: GEMMA_OUTER, ..decoder("gemma3", "gemma3_text", "Gemma3ForCausalLM", GEMMA3) },
    Family {
        prefix: "transformer.",
        layers: "h.",
        outer: &[("token_embd", "wte", Same), ("position_embd", "wpe", Same), ("output_norm", "ln_f", Same)],
        ..decoder("gpt2", "gpt2", "GPT2LMHeadModel", GPT2)
    },
    Family {
        prefix: "gpt_neox.",
        head: "embed_out",
        outer: &[("token_embd", "embed_in", Same), ("output_norm", "final_layer_norm", Same)],
        ..decoder("gptneox", "gpt_neox", "GPTNeoXForCausalLM", GPT_NEOX)
    },
];

/// A tensor's names on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) gguf: String,
    pub(super) checkpoint: String,
    pub(super) change: Change,
    /// Whether the model cannot do without it.
    pub(super) required: bool,
}

impl Family {
    /// The family of a file.
    pub(super) fn of_file(metadata: &Metadata) -> Result<&'static Self, Problem> {
        const KEY: &str = "general.architecture";
        let architecture = metadata.text(KEY)?.ok_or_else(|| metadata.missing(KEY))?;
        let mut fitting = FAMILIES.iter().filter(|family| family.architecture == architecture);
        let Some(first) = fitting.next() else {
            let message = format!("the architecture `{architecture}` is not supported");
            return Err(unsupported(&metadata.file, KEY, message, |family| family.architecture));
        };
        // Mistral's models go by llama's name; what tells them apart is their own name, or a window.
        let named = ["general.name", "general.basename"].iter().any(|key| {
            metadata.text(key).ok().flatten().is_some_and(|name| name.to_lowercase().contains("mistral"))
        });
        let windowed = metadata.get("llama.attention.sliding_window").is_some();
        Ok(if named || windowed { fitting.next().unwrap_or(first) } else { first })
    }

    /// The family of a checkpoint.
    pub(super) fn of_checkpoint(model_type: Option<&str>) -> Result<&'static Self, Problem> {
        const FILE: &str = "config.json";
        let Some(model_type) = model_type else {
            return Err(Problem::new(ProblemKind::Config, FILE, "the model type is not given")
                .in_column("model_type"));
        };
        FAMILIES.iter().find(|family| family.model_type == model_type).ok_or_else(|| {
            let message = format!("models of type `{model_type}` cannot be written as GGUF");
            unsupported(FILE, "model_type", message, |family| family.model_type)
        })
    }

    /// A metadata key below the architecture.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    /// Every tensor that a model of so many layers may have, in the order in which they are written.
    pub(super) fn pairs(&self, layers: u64) -> Vec<Pair> {
        let mut pairs = Vec::new();
        let mut put = |gguf: String, checkpoint: String, change: Change, required: bool| {
            for ending in ["weight", "bias"] {
                pairs.push(Pair {
                    gguf: format!("{gguf}.{ending}"),
                    checkpoint: format!("{checkpoint}.{ending}"),
                    // A bias has nothing to transpose, and is not what is added to one.
                    change: if ending == "bias" && matches!(change, Transposed | PlusOne) {
                        Same
                    } else {
                        change
                    },
                    required: required && ending == "weight",
                });
            }
        };
        for (gguf, checkpoint, change) in self.outer {
            put((*gguf).to_owned(), format!("{}{checkpoint}", self.prefix), *change, true);
        }
        put("output".to_owned(), self.head.to_owned(), Same, false);
        for layer in 0..layers {
            for (gguf, checkpoint, change) in self.layer {
                let checkpoint = format!("{}{}{layer}.{checkpoint}", self.prefix, self.layers);
                put(format!("blk.{layer}.{gguf}"), checkpoint, *change, true);
            }
        }
        pairs
    }
}

fn unsupported(file: &str, field: &str, message: String, name: fn(&Family) -> &'static str) -> Problem {
    let mut known: Vec<&str> = FAMILIES.iter().map(name).collect();
    known.dedup();
    Problem::new(ProblemKind::UnsupportedModel, file, message)
        .in_column(field)
        .hint(format!("supported are {}", known.join(", ")))
}

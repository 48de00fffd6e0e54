//! `config.json`, in transformers' names.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::problem::{Problem, ProblemKind};

/// Encoders that there is an implementation for.
pub const ENCODERS: [&str; 4] = ["bert", "roberta", "xlm-roberta", "distilbert"];

/// Language models that there is an implementation for.
pub const DECODERS: [&str; 10] =
    ["llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "gemma2", "gemma3_text", "gpt2", "gpt_neox"];

/// Models that write one text from another that there is an implementation for; the last one is a Transformer of one's own.
pub const ENCODER_DECODERS: [&str; 6] = ["t5", "mt5", "bart", "mbart", "marian", "luthier_transformer"];

/// Whether models of this type have an encoder and a decoder.
pub(super) fn is_encoder_decoder(model_type: Option<&str>) -> bool {
    model_type.is_some_and(|name| ENCODER_DECODERS.contains(&name))
}

/// Whether models of this type are language models.
pub(super) fn is_decoder(model_type: Option<&str>) -> bool {
    model_type.is_some_and(|name| DECODERS.contains(&name))
}

/// Whether a model of this class tells classes apart.
pub(super) fn tells_classes_apart(architecture: &str) -> bool {
    architecture.ends_with("ForSequenceClassification")
}

/// What of a `config.json` matters before a model is built. Unknown fields are ignored.
///
/// DistilBERT's, GPT-2's, T5's and BART's own names of the sizes are read into BERT's; of an encoder–decoder model these are the
/// encoder's, but for what begins with `decoder_`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "Written")]
pub struct Config {
    /// Which implementation, such as `bert`.
    pub model_type: Option<String>,
    /// The classes it was saved from.
    pub architectures: Vec<String>,
    /// Width of the hidden states.
    pub hidden_size: Option<u64>,
    /// How many blocks.
    pub num_hidden_layers: Option<u64>,
    /// Heads of each attention.
    pub num_attention_heads: Option<u64>,
    /// Width of the feed-forward layer.
    pub intermediate_size: Option<u64>,
    /// Rows of the word embedding.
    pub vocab_size: Option<u64>,
    /// Rows of the position embedding.
    pub max_position_embeddings: Option<u64>,
    /// Rows of the segment embedding.
    pub type_vocab_size: Option<u64>,
    /// The padding token.
    pub pad_token_id: Option<u64>,
    /// Heads of keys and values, where they are fewer.
    pub num_key_value_heads: Option<u64>,
    /// Numbers of a head, where that is not the width over the heads.
    pub head_dim: Option<u64>,
    /// Whether the word embedding is the output layer.
    pub tie_word_embeddings: Option<bool>,
    /// Blocks of an encoder–decoder model's decoder.
    pub decoder_layers: Option<u64>,
    /// Heads of each attention of that decoder.
    pub decoder_attention_heads: Option<u64>,
    /// Width of its feed-forward layer.
    pub decoder_ffn_dim: Option<u64>,
    /// Rows of its word embedding, where that is one of its own.
    pub decoder_vocab_size: Option<u64>,
    /// Whether T5's feed-forward block has a gate.
    pub is_gated: bool,
    /// Rows of T5's table of distances.
    pub relative_attention_num_buckets: Option<u64>,
    /// Whether attention has biases.
    pub attention_bias: Option<bool>,
    /// Whether the feed-forward block has.
    pub mlp_bias: Option<bool>,
    /// Class names by number, the number as text.
    pub id2label: BTreeMap<String, String>,
    /// What a label is.
    pub problem_type: Option<String>,
    /// Type of the saved tensors, such as `float32`.
    pub dtype: Option<String>,
    /// Whether the checkpoint wants classes of its own to be run.
    pub has_own_code: bool,
    /// Whether the tensors are quantized.
    pub is_quantized: bool,
}

/// `config.json` as it may be written: sizes under either name, the type of the tensors under its name of transformers 4
/// (`torch_dtype`), of 5 (`dtype`), or both.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Written {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    hidden_size: Option<u64>,
    dim: Option<u64>,
    n_embd: Option<u64>,
    d_model: Option<u64>,
    num_layers: Option<u64>,
    encoder_layers: Option<u64>,
    decoder_layers: Option<u64>,
    num_decoder_layers: Option<u64>,
    num_heads: Option<u64>,
    encoder_attention_heads: Option<u64>,
    decoder_attention_heads: Option<u64>,
    d_kv: Option<u64>,
    d_ff: Option<u64>,
    encoder_ffn_dim: Option<u64>,
    decoder_ffn_dim: Option<u64>,
    decoder_vocab_size: Option<u64>,
    share_encoder_decoder_embeddings: Option<bool>,
    feed_forward_proj: Option<String>,
    relative_attention_num_buckets: Option<u64>,
    num_hidden_layers: Option<u64>,
    n_layers: Option<u64>,
    n_layer: Option<u64>,
    num_attention_heads: Option<u64>,
    n_heads: Option<u64>,
    n_head: Option<u64>,
    intermediate_size: Option<u64>,
    hidden_dim: Option<u64>,
    n_inner: Option<u64>,
    vocab_size: Option<u64>,
    max_position_embeddings: Option<u64>,
    n_positions: Option<u64>,
    type_vocab_size: Option<u64>,
    pad_token_id: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    id2label: Option<BTreeMap<String, Value>>,
    problem_type: Option<String>,
    dtype: Option<Value>,
    torch_dtype: Option<Value>,
    auto_map: Option<Value>,
    quantization_config: Option<Value>,
}

impl From<Written> for Config {
    fn from(written: Written) -> Self {
        let text = |value: Value| match value {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let labels = written.id2label.unwrap_or_default();
        let both = is_encoder_decoder(written.model_type.as_deref());
        let t5 = matches!(written.model_type.as_deref(), Some("t5" | "mt5"));
        // An encoder–decoder model's own names go first: `num_hidden_layers` may be there beside them.
        let own = |own: Option<u64>, other: Option<u64>| own.filter(|_| both).or(other);
        let hidden_size = own(written.d_model, written.hidden_size.or(written.dim).or(written.n_embd));
        let intermediate_size = own(
            written.d_ff.or(written.encoder_ffn_dim),
            written.intermediate_size.or(written.hidden_dim).or(written.n_inner),
        );
        let num_hidden_layers = own(
            written.num_layers.or(written.encoder_layers),
            written.num_hidden_layers.or(written.n_layers).or(written.n_layer),
        );
        let num_attention_heads = own(
            written.num_heads.or(written.encoder_attention_heads),
            written.num_attention_heads.or(written.n_heads).or(written.n_head),
        );
        // Their positions are distances, and have no end.
        let max_position_embeddings = written.max_position_embeddings.or(written.n_positions).filter(|_| !t5);
        let of_decoder = |own: Option<u64>, encoder: Option<u64>| own.or(encoder).filter(|_| both);
        let is_shared = written.share_encoder_decoder_embeddings.unwrap_or(true);
        let gpt2 = written.model_type.as_deref() == Some("gpt2");
        Self {
            model_type: written.model_type,
            architectures: written.architectures.unwrap_or_default(),
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            decoder_layers: of_decoder(
                written.num_decoder_layers.filter(|_| t5).or(written.decoder_layers),
                num_hidden_layers,
            ),
            decoder_attention_heads: of_decoder(written.decoder_attention_heads, num_attention_heads),
            decoder_ffn_dim: of_decoder(written.decoder_ffn_dim, intermediate_size),
            decoder_vocab_size: of_decoder(written.decoder_vocab_size, written.vocab_size)
                .filter(|_| !is_shared),
            is_gated: written.feed_forward_proj.is_some_and(|name| name.starts_with("gated-")),
            relative_attention_num_buckets: written.relative_attention_num_buckets,
            // GPT-2's is four times its width where nothing is said.
            intermediate_size: intermediate_size.or(hidden_size.filter(|_| gpt2).map(|size| 4 * size)),
            vocab_size: written.vocab_size,
            max_position_embeddings,
            type_vocab_size: written.type_vocab_size,
            pad_token_id: written.pad_token_id,
            num_key_value_heads: written.num_key_value_heads,
            head_dim: own(written.d_kv, written.head_dim),
            tie_word_embeddings: written.tie_word_embeddings,
            attention_bias: written.attention_bias,
            mlp_bias: written.mlp_bias,
            id2label: labels.into_iter().map(|(id, name)| (id, text(name))).collect(),
            problem_type: written.problem_type,
            dtype: written.dtype.or(written.torch_dtype).map(text),
            has_own_code: written.auto_map.is_some(),
            is_quantized: written.quantization_config.is_some(),
        }
    }
}

impl Config {
    /// Sizes by name, as far as they are given.
    pub fn sizes(&self) -> BTreeMap<String, u64> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("vocab_size", self.vocab_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
            ("decoder_layers", self.decoder_layers),
            ("decoder_attention_heads", self.decoder_attention_heads),
            ("decoder_ffn_dim", self.decoder_ffn_dim),
        ];
        sizes.into_iter().filter_map(|(name, size)| Some((name.to_owned(), size?))).collect()
    }

    /// Class names in the order of their numbers; empty where numbers are missing or doubled.
    pub fn labels(&self) -> Vec<String> {
        let map = &self.id2label;
        (0..map.len()).map(|id| map.get(&id.to_string()).cloned()).collect::<Option<_>>().unwrap_or_default()
    }

    /// Whether it was saved with a head that tells classes apart.
    pub fn is_classifier(&self) -> bool {
        self.architectures.iter().any(|name| tells_classes_apart(name))
    }

    /// Whether it is a language model.
    pub fn is_decoder(&self) -> bool {
        is_decoder(self.model_type.as_deref())
    }

    /// Whether it writes one text from another.
    pub fn is_encoder_decoder(&self) -> bool {
        is_encoder_decoder(self.model_type.as_deref())
    }

    /// The model type, if there is an implementation for it.
    ///
    /// # Errors
    /// [`ProblemKind::Config`] where none is given, [`ProblemKind::UnsupportedModel`] with the list of those that there are.
    pub fn supported_model_type(&self) -> Result<&str, Problem> {
        let known = [ENCODERS.as_slice(), &DECODERS, &ENCODER_DECODERS].concat();
        let supported = format!("supported are {}", known.join(", "));
        let problem = |kind, message: String| {
            Err(Problem::new(kind, "config.json", message).in_column("model_type").hint(supported.clone()))
        };
        match self.model_type.as_deref() {
            None => problem(ProblemKind::Config, "the model type is not given".to_owned()),
            Some(name) if known.contains(&name) => Ok(name),
            Some(name) => {
                problem(ProblemKind::UnsupportedModel, format!("the model type `{name}` is not supported"))
            }
        }
    }
}

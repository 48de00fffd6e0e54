//! BERT (Devlin et al., 2019) as in transformers' `models/bert/modeling_bert.py`.

use anyhow::{Result, ensure};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::{Depth, Inputs, TextModel, layer_number};
use crate::nn::{Activation, Context, Dropout, Embedding, LayerNorm, Linear, Path, Reach, SelfAttention};

/// Fields of `config.json`, with transformers' defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub num_hidden_layers: usize,
    pub num_attention_heads: i64,
    pub intermediate_size: i64,
    pub hidden_act: String,
    pub hidden_dropout_prob: f64,
    pub attention_probs_dropout_prob: f64,
    pub classifier_dropout: Option<f64>,
    pub max_position_embeddings: i64,
    pub type_vocab_size: i64,
    pub initializer_range: f64,
    pub layer_norm_eps: f64,
    pub pad_token_id: Option<i64>,
    pub position_embedding_type: String,
    pub is_decoder: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            vocab_size: 30522,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".into(),
            hidden_dropout_prob: 0.1,
            attention_probs_dropout_prob: 0.1,
            classifier_dropout: None,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            pad_token_id: Some(0),
            position_embedding_type: "absolute".into(),
            is_decoder: false,
        }
    }
}

impl Config {
    /// Refuses what the blocks below do not compute, and puts `dropout` in place of every configured one.
    pub(super) fn checked(mut self, dropout: Option<f64>) -> Result<Self> {
        ensure!(
            self.position_embedding_type == "absolute",
            "config.json: position_embedding_type `{}` is not supported; only `absolute` is",
            self.position_embedding_type
        );
        ensure!(
            !self.is_decoder,
            "config.json: is_decoder is true; only encoders can be tuned for this task"
        );
        ensure!(
            self.num_attention_heads > 0 && self.hidden_size % self.num_attention_heads == 0,
            "config.json: hidden_size {} is not a multiple of num_attention_heads {}",
            self.hidden_size,
            self.num_attention_heads
        );
        if let Some(p) = dropout {
            self.hidden_dropout_prob = p;
            self.attention_probs_dropout_prob = p;
            self.classifier_dropout = Some(p);
        }
        Ok(self)
    }

    /// Dropout before the head.
    pub(super) fn head_dropout(&self) -> f64 {
        self.classifier_dropout.unwrap_or(self.hidden_dropout_prob)
    }
}

/// Sum of word, position and type embeddings, normed.
struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    token_type_embeddings: Embedding,
    layer_norm: LayerNorm,
    dropout: Dropout,
}

impl Embeddings {
    fn new(path: &Path, config: &Config) -> Self {
        let (size, std) = (config.hidden_size, config.initializer_range);
        let table = |name, rows, padding| Embedding::new(&path.sub(name), rows, size, padding, std);
        Embeddings {
            word_embeddings: table("word_embeddings", config.vocab_size, config.pad_token_id),
            position_embeddings: table("position_embeddings", config.max_position_embeddings, None),
            token_type_embeddings: table("token_type_embeddings", config.type_vocab_size, None),
            layer_norm: LayerNorm::new(&path.sub("LayerNorm"), size, config.layer_norm_eps),
            dropout: Dropout::new(path, config.hidden_dropout_prob),
        }
    }

    fn forward(&self, inputs: &Inputs, context: &Context) -> Tensor {
        let states = self.word_embeddings.forward(&inputs.input_ids, context) // [n, d]
            + self.token_type_embeddings.forward(&inputs.token_type_ids, context)
            + self.position_embeddings.forward(&inputs.packing.positions, context);
        self.dropout.forward(self.layer_norm.forward(&states), context).to_kind(context.kind)
    }
}

/// Multi-head self-attention with its output projection and residual.
struct Attention {
    own: SelfAttention,
    output: Linear,
    output_dropout: Dropout,
    output_norm: LayerNorm,
}

impl Attention {
    fn new(path: &Path, config: &Config, reach: Reach) -> Self {
        let (size, std) = (config.hidden_size, config.initializer_range);
        let (own, output) = (path.sub("self"), path.sub("output"));
        let parts = [&own.sub("query"), &own.sub("key"), &own.sub("value")];
        let (heads, p) = (config.num_attention_heads, config.attention_probs_dropout_prob);
        Attention {
            own: SelfAttention::new(path, parts, size, heads, std, p, reach),
            output: Linear::rows(&output.sub("dense"), size, size, std),
            output_dropout: Dropout::new(path, config.hidden_dropout_prob),
            output_norm: LayerNorm::new(&output.sub("LayerNorm"), size, config.layer_norm_eps),
        }
    }

    fn add(&self, mixed: &Tensor, x: &Tensor, context: &Context) -> Tensor {
        let out = self.output.forward(mixed, context); // [n, d]
        self.output_norm.residual(&out, x, Some(&self.output_dropout), context)
    }
}

/// One layer: attention, then a feed-forward block.
struct Layer {
    attention: Attention,
    intermediate: Linear,
    activation: Activation,
    output: Linear,
    output_dropout: Dropout,
    output_norm: LayerNorm,
}

impl Layer {
    fn new(path: &Path, config: &Config, reach: Reach) -> Result<Self> {
        let (size, inner, std) = (config.hidden_size, config.intermediate_size, config.initializer_range);
        Ok(Layer {
            attention: Attention::new(&path.sub("attention"), config, reach),
            intermediate: Linear::columns(&path.sub("intermediate.dense"), size, inner, std),
            activation: Activation::parse(&config.hidden_act)?,
            output: Linear::rows(&path.sub("output.dense"), inner, size, std),
            output_dropout: Dropout::new(path, config.hidden_dropout_prob),
            output_norm: LayerNorm::new(&path.sub("output.LayerNorm"), size, config.layer_norm_eps),
        })
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        self.attention.own.forward(x, context, |mixed, x, context| {
            let x = self.attention.add(mixed, x, context); // [n, d]
            let inner = self.activation.forward(&self.intermediate.forward(&x, context)); // [n, intermediate]
            let out = self.output.forward(&inner, context);
            self.output_norm.residual(&out, &x, Some(&self.output_dropout), context)
        })
    }
}

/// The stack of layers, shared with RoBERTa. Below a head only first tokens of the last one are computed: it reads no other.
pub(super) struct Encoder {
    layers: Vec<Layer>,
}

impl Encoder {
    pub(super) fn new(path: &Path, config: &Config, has_head: bool) -> Result<Self> {
        let count = config.num_hidden_layers;
        let layer = |i| Layer::new(&path.sub("layer").sub(i), config, Reach::of_layer(i, count, has_head));
        let layers = (0..count).map(layer);
        Ok(Encoder { layers: layers.collect::<Result<_>>()? })
    }

    pub(super) fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor {
        self.layers[number].forward(states, context)
    }

    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }
}

/// Where a parameter lies in a model whose encoder is below `base`.
pub(super) fn depth(name: &str, base: &str) -> Depth {
    let inner = name.strip_prefix(base).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
    match layer_number(inner, "encoder.layer.") {
        Some(layer) => Depth::Layer(layer),
        None if inner.starts_with("embeddings.") => Depth::Embeddings,
        None => Depth::Head,
    }
}

/// The head of `BertForSequenceClassification`.
struct Head {
    pooler: Linear,
    dropout: Dropout,
    classifier: Linear,
}

/// `BertForSequenceClassification`, or `BertModel` without labels.
pub(super) struct Bert {
    embeddings: Embeddings,
    encoder: Encoder,
    head: Option<Head>,
}

impl Bert {
    pub(super) fn new(
        root: &Path,
        config: Config,
        labels: Option<i64>,
        dropout: Option<f64>,
    ) -> Result<Self> {
        let config = config.checked(dropout)?;
        let (bert, size, std) = (root.sub("bert"), config.hidden_size, config.initializer_range);
        let head = |labels| Head {
            pooler: Linear::new(&bert.sub("pooler.dense").may_be_new().in_full(), size, size, std),
            dropout: Dropout::new(root, config.head_dropout()),
            classifier: Linear::of_labels(&root.sub("classifier").in_full(), size, labels, std),
        };
        Ok(Bert {
            embeddings: Embeddings::new(&bert.sub("embeddings"), &config),
            encoder: Encoder::new(&bert.sub("encoder"), &config, labels.is_some())?,
            head: labels.map(head),
        })
    }
}

impl TextModel for Bert {
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor {
        self.embeddings.forward(inputs, context)
    }

    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor {
        self.encoder.layer(number, states, context)
    }

    fn head(&self, states: &Tensor, context: &Context) -> Tensor {
        let Some(head) = &self.head else { return states.shallow_clone() };
        let pooled = head.pooler.forward(&states.to_kind(Kind::Float), context).tanh();
        head.classifier.forward(&head.dropout.rows(pooled, context), context)
    }

    fn layers(&self) -> usize {
        self.encoder.len()
    }

    fn depth(&self, name: &str) -> Depth {
        depth(name, "bert")
    }
}

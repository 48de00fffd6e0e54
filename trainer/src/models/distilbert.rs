//! DistilBERT (Sanh et al., 2019) as in transformers' `models/distilbert/modeling_distilbert.py`.

use anyhow::{Result, ensure};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::{Depth, Inputs, TextModel, layer_number};
use crate::nn::{Activation, Context, Dropout, Embedding, LayerNorm, Linear, Path, Reach, SelfAttention};

/// Not in DistilBERT's configuration: its code has this number.
const LAYER_NORM_EPS: f64 = 1e-12;

/// Fields of `config.json`, with transformers' defaults.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    vocab_size: i64,
    max_position_embeddings: i64,
    n_layers: usize,
    n_heads: i64,
    dim: i64,
    hidden_dim: i64,
    dropout: f64,
    attention_dropout: f64,
    activation: String,
    initializer_range: f64,
    seq_classif_dropout: f64,
    pad_token_id: i64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            vocab_size: 30522,
            max_position_embeddings: 512,
            n_layers: 6,
            n_heads: 12,
            dim: 768,
            hidden_dim: 3072,
            dropout: 0.1,
            attention_dropout: 0.1,
            activation: "gelu".into(),
            initializer_range: 0.02,
            seq_classif_dropout: 0.2,
            pad_token_id: 0,
        }
    }
}

struct Embeddings {
    word_embeddings: Embedding,
    position_embeddings: Embedding,
    layer_norm: LayerNorm,
    dropout: Dropout,
}

impl Embeddings {
    fn new(path: &Path, config: &Config) -> Self {
        let table = |name, rows, padding| {
            Embedding::new(&path.sub(name), rows, config.dim, padding, config.initializer_range)
        };
        Embeddings {
            word_embeddings: table("word_embeddings", config.vocab_size, Some(config.pad_token_id)),
            position_embeddings: table("position_embeddings", config.max_position_embeddings, None),
            layer_norm: LayerNorm::new(&path.sub("LayerNorm"), config.dim, LAYER_NORM_EPS),
            dropout: Dropout::new(path, config.dropout),
        }
    }

    fn forward(&self, inputs: &Inputs, context: &Context) -> Tensor {
        let states = self.word_embeddings.forward(&inputs.input_ids, context) // [n, d]
            + self.position_embeddings.forward(&inputs.packing.positions, context);
        self.dropout.forward(self.layer_norm.forward(&states), context).to_kind(context.kind)
    }
}

/// One transformer block: attention and feed-forward, each with residual and norm.
struct Layer {
    attention: SelfAttention,
    out_lin: Linear,
    sa_layer_norm: LayerNorm,
    lin1: Linear,
    activation: Activation,
    lin2: Linear,
    dropout: Dropout,
    output_layer_norm: LayerNorm,
}

impl Layer {
    fn new(path: &Path, config: &Config, reach: Reach) -> Result<Self> {
        let (dim, inner, std) = (config.dim, config.hidden_dim, config.initializer_range);
        let (attention, ffn) = (path.sub("attention"), path.sub("ffn"));
        let parts = [&attention.sub("q_lin"), &attention.sub("k_lin"), &attention.sub("v_lin")];
        let (heads, p) = (config.n_heads, config.attention_dropout);
        Ok(Layer {
            attention: SelfAttention::new(path, parts, dim, heads, std, p, reach),
            out_lin: Linear::rows(&attention.sub("out_lin"), dim, dim, std),
            sa_layer_norm: LayerNorm::new(&path.sub("sa_layer_norm"), dim, LAYER_NORM_EPS),
            lin1: Linear::columns(&ffn.sub("lin1"), dim, inner, std),
            activation: Activation::parse(&config.activation)?,
            lin2: Linear::rows(&ffn.sub("lin2"), inner, dim, std),
            dropout: Dropout::new(path, config.dropout),
            output_layer_norm: LayerNorm::new(&path.sub("output_layer_norm"), dim, LAYER_NORM_EPS),
        })
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        self.attention.forward(x, context, |mixed, x, context| {
            let x = self.sa_layer_norm.residual(&self.out_lin.forward(mixed, context), x, None, context); // [n, d]
            let inner = self.lin2.forward(&self.activation.forward(&self.lin1.forward(&x, context)), context);
            self.output_layer_norm.residual(&inner, &x, Some(&self.dropout), context)
        })
    }
}

/// The head of `DistilBertForSequenceClassification`.
struct Head {
    pre_classifier: Linear,
    dropout: Dropout,
    classifier: Linear,
}

/// `DistilBertForSequenceClassification`, or `DistilBertModel` without labels.
pub(super) struct DistilBert {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    head: Option<Head>,
}

impl DistilBert {
    pub(super) fn new(
        root: &Path,
        mut config: Config,
        labels: Option<i64>,
        dropout: Option<f64>,
    ) -> Result<Self> {
        ensure!(
            config.n_heads > 0 && config.dim % config.n_heads == 0,
            "config.json: dim {} is not a multiple of n_heads {}",
            config.dim,
            config.n_heads
        );
        if let Some(p) = dropout {
            config.dropout = p;
            config.attention_dropout = p;
            config.seq_classif_dropout = p;
        }
        let (base, dim, std) = (root.sub("distilbert"), config.dim, config.initializer_range);
        let count = config.n_layers;
        let layers = (0..count).map(|i| {
            // A head reads the first token of each sequence alone.
            let reach = Reach::of_layer(i, count, labels.is_some());
            Layer::new(&base.sub("transformer.layer").sub(i), &config, reach)
        });
        let head = |labels| Head {
            pre_classifier: Linear::new(&root.sub("pre_classifier").may_be_new().in_full(), dim, dim, std),
            dropout: Dropout::new(root, config.seq_classif_dropout),
            classifier: Linear::of_labels(&root.sub("classifier").in_full(), dim, labels, std),
        };
        Ok(DistilBert {
            embeddings: Embeddings::new(&base.sub("embeddings"), &config),
            layers: layers.collect::<Result<_>>()?,
            head: labels.map(head),
        })
    }
}

impl TextModel for DistilBert {
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor {
        self.embeddings.forward(inputs, context)
    }

    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor {
        self.layers[number].forward(states, context)
    }

    fn head(&self, states: &Tensor, context: &Context) -> Tensor {
        let Some(head) = &self.head else { return states.shallow_clone() };
        let inner = head.pre_classifier.forward(&states.to_kind(Kind::Float), context).relu();
        head.classifier.forward(&head.dropout.rows(inner, context), context)
    }

    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn depth(&self, name: &str) -> Depth {
        let inner = name.strip_prefix("distilbert.").unwrap_or(name);
        match layer_number(inner, "transformer.layer.") {
            Some(layer) => Depth::Layer(layer),
            None if inner.starts_with("embeddings.") => Depth::Embeddings,
            None => Depth::Head,
        }
    }
}

//! DistilBERT (Sanh et al., 2019) as in transformers' `models/distilbert/modeling_distilbert.py`.

use anyhow::{Result, ensure};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::{Depth, Inputs, TextModel, layer_number};
use crate::nn::{Activation, Context, Dropout, Embedding, LayerNorm, Linear, Path};

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
        let length = inputs.input_ids.size()[1];
        let positions = Tensor::arange(length, (Kind::Int64, inputs.input_ids.device())).unsqueeze(0); // [1, t]
        let states =
            self.word_embeddings.forward(&inputs.input_ids) + self.position_embeddings.forward(&positions);
        self.dropout.forward(self.layer_norm.forward(&states), context) // [b, t, d]
    }
}

/// One transformer block: attention and feed-forward, each with residual and norm.
struct Layer {
    q_lin: Linear,
    k_lin: Linear,
    v_lin: Linear,
    out_lin: Linear,
    attention_dropout: Dropout,
    sa_layer_norm: LayerNorm,
    lin1: Linear,
    activation: Activation,
    lin2: Linear,
    dropout: Dropout,
    output_layer_norm: LayerNorm,
    heads: i64,
}

impl Layer {
    fn new(path: &Path, config: &Config) -> Result<Self> {
        let (dim, inner, std) = (config.dim, config.hidden_dim, config.initializer_range);
        let (attention, ffn) = (path.sub("attention"), path.sub("ffn"));
        let square = |name| Linear::new(&attention.sub(name), dim, dim, std);
        Ok(Layer {
            q_lin: square("q_lin"),
            k_lin: square("k_lin"),
            v_lin: square("v_lin"),
            out_lin: square("out_lin"),
            attention_dropout: Dropout::new(path, config.attention_dropout),
            sa_layer_norm: LayerNorm::new(&path.sub("sa_layer_norm"), dim, LAYER_NORM_EPS),
            lin1: Linear::new(&ffn.sub("lin1"), dim, inner, std),
            activation: Activation::parse(&config.activation)?,
            lin2: Linear::new(&ffn.sub("lin2"), inner, dim, std),
            dropout: Dropout::new(path, config.dropout),
            output_layer_norm: LayerNorm::new(&path.sub("output_layer_norm"), dim, LAYER_NORM_EPS),
            heads: config.n_heads,
        })
    }

    fn forward(&self, x: &Tensor, mask: &Tensor, context: &Context) -> Tensor {
        let (b, t, d) = x.size3().expect("states are [b, t, d]");
        let split = |x: Tensor| x.view([b, t, self.heads, d / self.heads]).transpose(1, 2); // [b, h, t, d / h]
        let (q, k, v) =
            (split(self.q_lin.forward(x)), split(self.k_lin.forward(x)), split(self.v_lin.forward(x)));
        let mixed = self.attention_dropout.attention(&q, &k, &v, mask, context);
        let mixed = self.out_lin.forward(&mixed.transpose(1, 2).reshape([b, t, d]));
        let x = self.sa_layer_norm.forward(&(mixed + x));
        let inner = self.lin2.forward(&self.activation.forward(&self.lin1.forward(&x)));
        self.output_layer_norm.forward(&(self.dropout.forward(inner, context) + x))
    }
}

/// `DistilBertForSequenceClassification`.
pub(super) struct DistilBert {
    embeddings: Embeddings,
    layers: Vec<Layer>,
    pre_classifier: Linear,
    dropout: Dropout,
    classifier: Linear,
}

impl DistilBert {
    pub(super) fn new(root: &Path, mut config: Config, labels: i64, dropout: Option<f64>) -> Result<Self> {
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
        let layers = (0..config.n_layers).map(|i| Layer::new(&base.sub("transformer.layer").sub(i), &config));
        Ok(DistilBert {
            embeddings: Embeddings::new(&base.sub("embeddings"), &config),
            layers: layers.collect::<Result<_>>()?,
            pre_classifier: Linear::new(&root.sub("pre_classifier").may_be_new(), dim, dim, std),
            dropout: Dropout::new(root, config.seq_classif_dropout),
            classifier: Linear::of_labels(&root.sub("classifier"), dim, labels, std),
        })
    }
}

impl TextModel for DistilBert {
    fn encode(&self, inputs: &Inputs, context: &Context) -> Tensor {
        let mask = inputs.additive_mask();
        let mut states = self.embeddings.forward(inputs, context);
        for layer in &self.layers {
            states = layer.forward(&states, &mask, context);
        }
        states
    }

    fn classify(&self, states: &Tensor, context: &Context) -> Tensor {
        let inner = self.pre_classifier.forward(&states.select(1, 0)).relu(); // [b, d]
        self.classifier.forward(&self.dropout.forward(inner, context))
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

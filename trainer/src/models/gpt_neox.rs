//! GPT-NeoX (S. Black et al., "GPT-NeoX-20B", 2022), the family of Pythia, as in transformers' `modeling_gpt_neox.py`.

use std::rc::Rc;

use anyhow::{Result, ensure};
use native::Heads;
use serde_json::Value;
use tch::Tensor;

use super::decoder::Fields;
use super::{Depth, Inputs, TextModel, layer_number};
use crate::nn::{
    Activation, Context, Dropout, Embedding, LayerNorm, Linear, MultiHeadAttention, Output, Path, Projection,
    Rope, Rotary, Vocabulary,
};

/// Fields of `config.json`, with transformers' defaults.
#[derive(Clone, Debug)]
struct Shape {
    vocabulary: i64,
    hidden: i64,
    inner: i64,
    heads: i64,
    layers: usize,
    rope: Rope,
    eps: f64,
    std: f64,
    activation: Activation,
    /// Whether attention has biases.
    biased: bool,
    /// Whether attention and feed-forward block see the same input.
    parallel: bool,
    tied: bool,
    /// Of the weights of attention; of embeddings and of what is added.
    dropouts: [f64; 2],
}

impl Shape {
    fn read(config: &Value) -> Result<Self> {
        let fields = Fields(config);
        let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        ensure!(
            hidden % heads == 0,
            "config.json: hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
        );
        let mut config = config.clone();
        // A quarter of each head is turned where nothing is said.
        let said = ["rotary_pct", "partial_rotary_factor"].iter().any(|name| config.get(name).is_some());
        if !said && config["rope_parameters"].get("partial_rotary_factor").is_none() {
            config["rotary_pct"] = 0.25.into();
        }
        let fields = Fields(&config);
        Ok(Shape {
            vocabulary: fields.size("vocab_size")?,
            hidden,
            inner: fields.size("intermediate_size")?,
            heads,
            layers: fields.size("num_hidden_layers")? as usize,
            rope: Rope::read(&config, None, hidden / heads, 1e4)?,
            eps: fields.number("layer_norm_eps", 1e-5),
            std: fields.number("initializer_range", 0.02),
            activation: Activation::parse(fields.word("hidden_act", "gelu"))?,
            biased: fields.flag("attention_bias", true),
            parallel: fields.flag("use_parallel_residual", true),
            tied: fields.flag("tie_word_embeddings", false),
            dropouts: ["attention_dropout", "hidden_dropout"].map(|name| fields.number(name, 0.0)),
        })
    }
}

/// One layer: attention and feed-forward block, beside each other or one after the other.
struct Layer {
    input_layernorm: LayerNorm,
    attention: MultiHeadAttention,
    dense: Linear,
    post_attention_layernorm: LayerNorm,
    dense_h_to_4h: Linear,
    activation: Activation,
    dense_4h_to_h: Linear,
    parallel: bool,
    dropouts: [Dropout; 2],
}

impl Layer {
    fn new(path: &Path, shape: &Shape, rotary: &Rc<Rotary>) -> Self {
        let Shape { hidden, inner, heads, eps, std, biased, .. } = *shape;
        let (at, mlp) = (path.sub("attention").biased(biased), path.sub("mlp"));
        let described = Heads::causal(heads, heads, hidden / heads);
        let projection = at.sub("query_key_value");
        let attention = MultiHeadAttention::new(
            &at,
            Projection::ByHead(&projection),
            hidden,
            described,
            std,
            shape.dropouts[0],
        );
        let norm = |name| LayerNorm::new(&path.sub(name), hidden, eps);
        let dropout = || Dropout::new(path, shape.dropouts[1]);
        Layer {
            input_layernorm: norm("input_layernorm"),
            attention: attention.turned(Some(rotary.clone())),
            dense: Linear::rows(&at.sub("dense"), hidden, hidden, std),
            post_attention_layernorm: norm("post_attention_layernorm"),
            dense_h_to_4h: Linear::columns(&mlp.sub("dense_h_to_4h"), hidden, inner, std),
            activation: shape.activation,
            dense_4h_to_h: Linear::rows(&mlp.sub("dense_4h_to_h"), inner, hidden, std),
            parallel: shape.parallel,
            dropouts: [dropout(), dropout()],
        }
    }

    fn feed_forward(&self, x: &Tensor, context: &Context) -> Tensor {
        let normed = self.post_attention_layernorm.forward(x);
        let inner = self.activation.forward(&self.dense_h_to_4h.forward(&normed, context));
        self.dropouts[1].forward(self.dense_4h_to_h.forward(&inner, context), context)
    }

    /// `[n, hidden]` → `[n, hidden]`.
    fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        let mixed = self.attention.forward(&self.input_layernorm.forward(x), context);
        let sum = x + self.dropouts[0].forward(self.dense.forward(&mixed, context), context);
        let made = self.feed_forward(if self.parallel { x } else { &sum }, context);
        sum + made
    }
}

/// `GPTNeoXForCausalLM`.
pub(super) struct GptNeoX {
    embed_in: Embedding,
    dropout: Dropout,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
    vocabulary: Option<Vocabulary>,
    tied: bool,
}

impl GptNeoX {
    pub(super) fn new(root: &Path, config: &Value, foretells: bool, dropout: Option<f64>) -> Result<Self> {
        let mut shape = Shape::read(config)?;
        if let Some(p) = dropout {
            shape.dropouts = [p; 2];
        }
        let Shape { vocabulary: tokens, hidden, std, .. } = shape;
        let base = root.sub("gpt_neox");
        let (embed_in, vocabulary) = Vocabulary::beside(
            &base.sub("embed_in"),
            Output::of(foretells, shape.tied, root.sub("embed_out")),
            [tokens, hidden],
            std,
            0.0,
            None,
        );
        let rotary = Rc::new(Rotary::new(shape.rope.clone(), root.device()));
        let layer = |number| Layer::new(&base.sub("layers").sub(number), &shape, &rotary);
        Ok(GptNeoX {
            embed_in,
            dropout: Dropout::new(&base, shape.dropouts[1]),
            layers: (0..shape.layers).map(layer).collect(),
            final_layer_norm: LayerNorm::new(&base.sub("final_layer_norm"), hidden, shape.eps),
            vocabulary,
            tied: foretells && shape.tied,
        })
    }
}

impl TextModel for GptNeoX {
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor {
        let states = self.embed_in.forward(&inputs.input_ids, context);
        self.dropout.forward(states.to_kind(context.kind), context)
    }

    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor {
        self.layers[number].forward(states, context)
    }

    fn head(&self, states: &Tensor, _context: &Context) -> Tensor {
        self.final_layer_norm.forward(states)
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn depth(&self, name: &str) -> Depth {
        match layer_number(name, "gpt_neox.layers.") {
            Some(layer) => Depth::Layer(layer),
            None if name.starts_with("gpt_neox.embed_in.") => Depth::Embeddings,
            None => Depth::Head,
        }
    }

    fn is_tied(&self) -> bool {
        self.tied
    }
}

//! The decoder that most language models of today are: root-mean-square norms before each block, rotary positions, grouped
//! queries, a gated feed-forward block. A family says by a [`Shape`] what is its own.

use std::rc::Rc;

use anyhow::{Result, ensure};
use native::{Gate, Heads};
use serde_json::Value;
use tch::Tensor;

use super::{Depth, Inputs, TextModel, layer_number};
use crate::nn::{
    Context, Dropout, Embedding, Linear, MultiHeadAttention, Output, Path, Projection, RmsNorm, Rope, Rotary,
    Vocabulary,
};

/// The fields of `config.json` that families share, with what stands for those that are not given.
pub(super) struct Fields<'a>(pub &'a Value);

impl Fields<'_> {
    /// A whole number.
    pub(super) fn whole(&self, name: &str, default: i64) -> i64 {
        self.0.get(name).and_then(Value::as_i64).unwrap_or(default)
    }

    /// A whole number that may be absent or null.
    pub(super) fn some(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(Value::as_i64)
    }

    /// A number.
    pub(super) fn number(&self, name: &str, default: f64) -> f64 {
        self.0.get(name).and_then(Value::as_f64).unwrap_or(default)
    }

    /// Yes or no.
    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(default)
    }

    /// A word.
    pub(super) fn word(&self, name: &str, default: &'static str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or(default)
    }

    /// A size that must be given.
    pub(super) fn size(&self, name: &str) -> Result<i64> {
        let size = self.some(name).filter(|size| *size > 0);
        size.ok_or_else(|| anyhow::anyhow!("config.json: the size `{name}` is not given"))
    }

    /// For each layer whether `layer_types` calls it so; `None` where there is no such list.
    pub(super) fn layers_called(&self, word: &str) -> Option<Vec<bool>> {
        let types = self.0.get("layer_types")?.as_array()?;
        Some(types.iter().map(|name| name.as_str() == Some(word)).collect())
    }

    /// The activation of a gate, by its name in transformers.
    pub(super) fn gate(&self, name: &str) -> Result<Gate> {
        Ok(match self.word(name, "silu") {
            "silu" | "swish" => Gate::Silu,
            "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Gate::GeluTanh,
            "gelu" => Gate::Gelu,
            other => anyhow::bail!(
                "config.json: the activation `{other}` is not supported; known are silu, gelu and gelu_pytorch_tanh"
            ),
        })
    }
}

/// What is a layer's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LayerShape {
    /// How many tokens a token sees; 0 for all before it.
    pub window: i64,
    /// Which of the ropes turns its queries and keys; `None` for none.
    pub rope: Option<usize>,
}

/// How a family is made.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub vocabulary: i64,
    pub hidden: i64,
    pub inner: i64,
    pub heads: i64,
    pub key_heads: i64,
    /// Numbers of a head.
    pub width: i64,
    pub layers: Vec<LayerShape>,
    pub ropes: Vec<Rope>,
    pub eps: f64,
    /// Standard deviation of new weights.
    pub std: f64,
    pub gate: Gate,
    /// Biases of queries, keys and values; of the attention's output; of the feed-forward block.
    pub biases: [bool; 3],
    /// Whether queries and keys are normed.
    pub qk_norms: bool,
    /// What scores are multiplied by.
    pub scale: f64,
    /// Bounds of scores and of logits; 0 for none.
    pub caps: [f64; 2],
    /// Whether the word embedding is the output layer.
    pub tied: bool,
    /// What embeddings are multiplied by.
    pub embedding_scale: f64,
    /// Whether norms keep what their weights are beyond 1, and stand behind the blocks as well (Gemma).
    pub gemma: bool,
    /// Whether query, key and value, and gate and up, are one matrix each (Phi-3).
    pub fused: bool,
    /// Dropout of embeddings, of blocks before they are added, of the weights of attention.
    pub dropouts: [f64; 3],
    /// The token whose embedding gets no gradient.
    pub padding: Option<i64>,
}

impl Shape {
    /// What Llama's names say; a family changes what is otherwise. `base` is the rope's where none is given.
    pub(super) fn read(config: &Value, base: f64) -> Result<Self> {
        let fields = Fields(config);
        let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        let width = fields.some("head_dim").unwrap_or(hidden / heads);
        let key_heads = fields.whole("num_key_value_heads", heads);
        ensure!(
            key_heads > 0 && heads % key_heads == 0,
            "config.json: num_attention_heads {heads} is not a multiple of num_key_value_heads {key_heads}"
        );
        let layers = fields.size("num_hidden_layers")?;
        let bias = fields.flag("attention_bias", false);
        Ok(Shape {
            vocabulary: fields.size("vocab_size")?,
            hidden,
            inner: fields.size("intermediate_size")?,
            heads,
            key_heads,
            width,
            layers: vec![LayerShape { window: 0, rope: Some(0) }; layers as usize],
            ropes: vec![Rope::read(config, None, width, base)?],
            eps: fields.number("rms_norm_eps", 1e-6),
            std: fields.number("initializer_range", 0.02),
            gate: fields.gate("hidden_act")?,
            biases: [bias, bias, fields.flag("mlp_bias", false)],
            qk_norms: false,
            scale: 1.0 / (width as f64).sqrt(),
            caps: [0.0, 0.0],
            tied: fields.flag("tie_word_embeddings", false),
            embedding_scale: 1.0,
            gemma: false,
            fused: false,
            dropouts: [0.0, 0.0, fields.number("attention_dropout", 0.0)],
            padding: fields.some("pad_token_id"),
        })
    }

    fn norm(&self, path: &Path, size: i64) -> RmsNorm {
        match self.gemma {
            true => RmsNorm::beyond_one(path, size, self.eps),
            false => RmsNorm::new(path, size, self.eps),
        }
    }
}

/// A gated feed-forward block.
struct FeedForward {
    opened: Linear,
    gate: Gate,
    down: Linear,
}

impl FeedForward {
    fn new(path: &Path, shape: &Shape) -> Self {
        let Shape { hidden, inner, std, .. } = *shape;
        let opened = match shape.fused {
            false => {
                Linear::beside(&[&path.sub("gate_proj"), &path.sub("up_proj")], hidden, &[inner, inner], std)
            }
            true => {
                let path = path.sub("gate_up_proj");
                path.not_shared("gate and up are one matrix");
                Linear::new(&path, hidden, 2 * inner, std)
            }
        };
        FeedForward {
            opened,
            gate: shape.gate,
            down: Linear::rows(&path.sub("down_proj"), inner, hidden, std),
        }
    }

    fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        let opened = self.opened.forward(x, context); // [n, 2 inner]
        self.down.forward(&native::gated(&opened, self.gate), context) // [n, hidden]
    }
}

/// One layer: attention, then the feed-forward block.
struct Layer {
    input_norm: RmsNorm,
    attention: MultiHeadAttention,
    output: Linear,
    /// After the attention, before it is added; Gemma alone.
    attention_norm: Option<RmsNorm>,
    middle_norm: RmsNorm,
    feed_forward: FeedForward,
    /// After the feed-forward block; Gemma alone.
    last_norm: Option<RmsNorm>,
    dropouts: [Dropout; 2],
}

impl Layer {
    fn new(path: &Path, shape: &Shape, own: LayerShape, ropes: &[Rc<Rotary>]) -> Self {
        let Shape { hidden, heads, key_heads, width, std, .. } = *shape;
        let at = path.sub("self_attn").biased(shape.biases[0]);
        let described = Heads {
            window: own.window,
            cap: shape.caps[0],
            scale: shape.scale,
            ..Heads::causal(heads, key_heads, width)
        };
        let parts = ["q_proj", "k_proj", "v_proj"].map(|name| at.sub(name));
        let fused = at.sub("qkv_proj");
        let projection = match shape.fused {
            true => Projection::Fused(&fused),
            false => Projection::Apart([&parts[0], &parts[1], &parts[2]]),
        };
        let attention = MultiHeadAttention::new(&at, projection, hidden, described, std, shape.dropouts[2])
            .turned(own.rope.map(|rope| ropes[rope].clone()));
        let attention = match shape.qk_norms {
            true => {
                let norm = |name| shape.norm(&at.sub(name), width).of_heads(&at);
                attention.normed(norm("q_norm"), norm("k_norm"))
            }
            false => attention,
        };
        let norm = |name| shape.norm(&path.sub(name), hidden);
        let gemma = |name| shape.gemma.then(|| norm(name));
        let middle = if shape.gemma { "pre_feedforward_layernorm" } else { "post_attention_layernorm" };
        Layer {
            input_norm: norm("input_layernorm"),
            attention,
            output: Linear::rows(&at.sub("o_proj").biased(shape.biases[1]), heads * width, hidden, std),
            attention_norm: gemma("post_attention_layernorm"),
            middle_norm: norm(middle),
            feed_forward: FeedForward::new(&path.sub("mlp").biased(shape.biases[2]), shape),
            last_norm: gemma("post_feedforward_layernorm"),
            dropouts: [Dropout::new(path, shape.dropouts[1]), Dropout::new(path, shape.dropouts[1])],
        }
    }

    /// `[n, hidden]` → `[n, hidden]`.
    fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        let finished = |made: Tensor, norm: &Option<RmsNorm>, dropout: &Dropout| {
            let made = norm.as_ref().map_or_else(|| made.shallow_clone(), |norm| norm.forward(&made));
            dropout.forward(made, context)
        };
        let mixed = self.attention.forward(&self.input_norm.forward(x), context);
        let mixed = self.output.forward(&mixed, context);
        let mixed = finished(mixed, &self.attention_norm, &self.dropouts[0]);
        let (normed, sum) = self.middle_norm.residual(&mixed, x);
        let made = self.feed_forward.forward(&normed, context);
        sum + finished(made, &self.last_norm, &self.dropouts[1])
    }
}

/// A language model of such layers.
pub(super) struct Decoder {
    embeddings: Embedding,
    embedding_scale: f64,
    embedding_dropout: Dropout,
    layers: Vec<Layer>,
    norm: RmsNorm,
    vocabulary: Option<Vocabulary>,
    tied: bool,
}

impl Decoder {
    pub(super) fn new(root: &Path, mut shape: Shape, foretells: bool, dropout: Option<f64>) -> Self {
        if let Some(p) = dropout {
            shape.dropouts = [p; 3];
        }
        let (model, device) = (root.sub("model"), root.device());
        let (tokens, hidden, std) = (shape.vocabulary, shape.hidden, shape.std);
        let table = model.sub("embed_tokens");
        let output = Output::of(foretells, shape.tied, root.sub("lm_head"));
        let (embeddings, vocabulary) =
            Vocabulary::beside(&table, output, [tokens, hidden], std, shape.caps[1], shape.padding);
        let ropes: Vec<Rc<Rotary>> =
            shape.ropes.iter().map(|rope| Rc::new(Rotary::new(rope.clone(), device))).collect();
        let layer = |(number, own): (usize, &LayerShape)| {
            Layer::new(&model.sub("layers").sub(number), &shape, *own, &ropes)
        };
        Decoder {
            embeddings,
            embedding_scale: shape.embedding_scale,
            embedding_dropout: Dropout::new(&model, shape.dropouts[0]),
            layers: shape.layers.iter().enumerate().map(layer).collect(),
            norm: shape.norm(&model.sub("norm"), hidden),
            vocabulary,
            tied: foretells && shape.tied,
        }
    }
}

impl TextModel for Decoder {
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor {
        let states = self.embeddings.forward(&inputs.input_ids, context);
        let states = if self.embedding_scale == 1.0 { states } else { states * self.embedding_scale };
        self.embedding_dropout.forward(states.to_kind(context.kind), context)
    }

    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor {
        self.layers[number].forward(states, context)
    }

    fn head(&self, states: &Tensor, _context: &Context) -> Tensor {
        self.norm.forward(states)
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn depth(&self, name: &str) -> Depth {
        match layer_number(name, "model.layers.") {
            Some(layer) => Depth::Layer(layer),
            None if name.starts_with("model.embed_tokens.") => Depth::Embeddings,
            None => Depth::Head,
        }
    }

    fn is_tied(&self) -> bool {
        self.tied
    }
}

//! T5, FLAN-T5 and mT5 (C. Raffel et al., 2020; L. Xue et al., 2021) as in transformers' `models/t5/modeling_t5.py`.

use std::rc::Rc;

use anyhow::Result;
use native::{Gate, Heads};
use serde_json::Value;
use tch::Tensor;

use super::decoder::Fields;
use super::encoder_decoder::{CrossAttention, EncoderDecoder, Halves, Said};
use super::{Depth, layer_number};
use crate::nn::{
    Activation, Context, Distances, Dropout, Embedding, Linear, MultiHeadAttention, Output, Path, Projection,
    RmsNorm, Vocabulary,
};

/// The fields of `config.json` that the blocks need.
#[derive(Clone, Debug)]
struct Shape {
    tokens: i64,
    hidden: i64,
    inner: i64,
    heads: i64,
    width: i64,
    layers: [usize; 2],
    buckets: i64,
    farthest: i64,
    p: f64,
    eps: f64,
    /// The activation of a gate, or of a plain block.
    activation: Result<Gate, Activation>,
    std: f64,
    padding: Option<i64>,
}

impl Shape {
    fn read(config: &Value) -> Result<Self> {
        let fields = Fields(config);
        let layers = fields.size("num_layers")?;
        let usual = if fields.word("model_type", "t5") == "mt5" { "gated-gelu" } else { "relu" };
        let activation = match fields.word("feed_forward_proj", usual) {
            "gated-gelu" => Ok(Gate::GeluTanh),
            "gated-silu" => Ok(Gate::Silu),
            plain => Err(Activation::parse(plain)?),
        };
        Ok(Shape {
            tokens: fields.size("vocab_size")?,
            hidden: fields.size("d_model")?,
            inner: fields.size("d_ff")?,
            heads: fields.size("num_heads")?,
            width: fields.size("d_kv")?,
            layers: [layers as usize, fields.some("num_decoder_layers").unwrap_or(layers) as usize],
            buckets: fields.whole("relative_attention_num_buckets", 32),
            farthest: fields.whole("relative_attention_max_distance", 128),
            p: fields.number("dropout_rate", 0.1),
            eps: fields.number("layer_norm_epsilon", 1e-6),
            activation,
            std: fields.number("initializer_factor", 1.0),
            padding: None,
        })
    }

    fn attention_heads(&self, causal: bool) -> Heads {
        Heads { causal, scale: 1.0, ..Heads::bidirectional(self.heads, self.width) }
    }
}

/// Attention to the own half.
struct Own {
    norm: RmsNorm,
    attention: MultiHeadAttention,
    output: Linear,
    dropout: Dropout,
}

/// Attention to the encoder's output.
struct Across {
    norm: RmsNorm,
    attention: CrossAttention,
    output: Linear,
    dropout: Dropout,
}

/// The feed-forward block, with a gate or without one.
struct FeedForward {
    norm: RmsNorm,
    opened: Linear,
    activation: Result<Gate, Activation>,
    inner_dropout: Dropout,
    down: Linear,
    dropout: Dropout,
}

struct Block {
    own: Own,
    across: Option<Across>,
    feed_forward: FeedForward,
}

impl Block {
    fn new(path: &Path, shape: &Shape, decodes: bool, distances: &Rc<Distances>) -> Self {
        let Shape { hidden, inner, p, std, eps, .. } = *shape;
        let (path, of_hidden) = (path.sub("layer").biased(false), std * (hidden as f64).powf(-0.5));
        let norm = |layer: usize| RmsNorm::new(&path.sub(layer).sub("layer_norm"), hidden, eps);
        let dropout = || Dropout::new(&path, p);
        let wide = shape.heads * shape.width;
        let of_wide = std * (wide as f64).powf(-0.5);
        let at = path.sub(0).sub("SelfAttention");
        let parts = ["q", "k", "v"].map(|name| at.sub(name));
        let projection = Projection::Apart([&parts[0], &parts[1], &parts[2]]);
        let heads = shape.attention_heads(decodes);
        let attention = MultiHeadAttention::new(&at, projection, hidden, heads, of_hidden, p);
        let own = Own {
            norm: norm(0),
            attention: attention.at_distances(Some(distances.clone())),
            output: Linear::rows(&at.sub("o"), wide, hidden, of_wide),
            dropout: dropout(),
        };
        let across = decodes.then(|| {
            let at = path.sub(1).sub("EncDecAttention");
            let heads = shape.attention_heads(false);
            // A table that was never read, in files of the first version.
            at.leave_out("relative_attention_bias.weight");
            Across {
                norm: norm(1),
                attention: CrossAttention::new(&at, ["q", "k", "v"], hidden, heads, [of_hidden; 2], p),
                output: Linear::rows(&at.sub("o"), wide, hidden, of_wide),
                dropout: dropout(),
            }
        });
        let last = if decodes { 2 } else { 1 };
        let at = path.sub(last).sub("DenseReluDense");
        let opened = match shape.activation {
            Ok(_) => Linear::beside(&[&at.sub("wi_0"), &at.sub("wi_1")], hidden, &[inner, inner], of_hidden),
            Err(_) => Linear::columns(&at.sub("wi"), hidden, inner, of_hidden),
        };
        let feed_forward = FeedForward {
            norm: norm(last),
            opened,
            activation: shape.activation,
            inner_dropout: Dropout::within(&path, p),
            down: Linear::rows(&at.sub("wo"), inner, hidden, std * (inner as f64).powf(-0.5)),
            dropout: dropout(),
        };
        Block { own, across, feed_forward }
    }

    /// `[n, d]` → `[n, d]`.
    fn forward(&self, x: &Tensor, context: &Context, said: Option<&Said>) -> Tensor {
        let own = &self.own;
        let mixed = own.attention.forward(&own.norm.forward(x), context);
        let mut x = x + own.dropout.forward(own.output.forward(&mixed, context), context);
        if let (Some(across), Some(said)) = (&self.across, said) {
            let mixed = across.attention.forward(&across.norm.forward(&x), context, said);
            x = &x + across.dropout.forward(across.output.forward(&mixed, context), context);
        }
        let last = &self.feed_forward;
        let opened = last.opened.forward(&last.norm.forward(&x), context);
        let inner = match last.activation {
            Ok(gate) => native::gated(&opened, gate),
            Err(activation) => activation.forward(&opened),
        };
        let made = last.down.forward(&last.inner_dropout.forward(inner, context), context);
        &x + last.dropout.forward(made, context)
    }
}

/// `T5ForConditionalGeneration`.
pub(super) struct T5 {
    words: Embedding,
    blocks: [Vec<Block>; 2],
    norms: [RmsNorm; 2],
    /// On what enters a half, and on what leaves it.
    dropouts: [[Dropout; 2]; 2],
    vocabulary: Vocabulary,
    /// What the decoder's states are multiplied by before the vocabulary.
    scale: f64,
}

/// The model of a `config.json`.
pub(super) fn build(root: &Path, config: &Value, dropout: Option<f64>) -> Result<EncoderDecoder<T5>> {
    let mut shape = Shape::read(config)?;
    shape.p = dropout.unwrap_or(shape.p);
    let fields = Fields(config);
    // The first version told by one field whether both are so; transformers 5 has one for the scale, and ties where the file
    // has one matrix.
    let one = fields.flag("tie_word_embeddings", true);
    let scaled = fields.word("model_type", "t5") == "t5" && fields.flag("scale_decoder_outputs", one);
    let names = ["shared", "encoder.embed_tokens", "decoder.embed_tokens"];
    let table = root.first_known("weight", &names);
    let known = root.is_known("lm_head.weight");
    let tied = !known || one && !root.differ("lm_head.weight", &table, "weight");
    let output = Output::of(true, tied, root.sub("lm_head"));
    let size = [shape.tokens, shape.hidden];
    let (words, vocabulary) = Vocabulary::beside(&table, output, size, shape.std, 0.0, shape.padding);
    if tied {
        root.leave_out("lm_head.weight");
    }
    let halves = ["encoder", "decoder"].map(|name| root.sub(name));
    let blocks = [0, 1].map(|at| {
        let first = halves[at].sub("block.0.layer.0.SelfAttention.relative_attention_bias");
        let heads = shape.attention_heads(at == 1);
        let std = shape.std * (shape.hidden as f64).powf(-0.5);
        let distances = Rc::new(Distances::new(&first, shape.buckets, heads, shape.farthest, std));
        let block = |number| Block::new(&halves[at].sub("block").sub(number), &shape, at == 1, &distances);
        (0..shape.layers[at]).map(block).collect::<Vec<_>>()
    });
    let norm = |half: &Path| RmsNorm::new(&half.sub("final_layer_norm"), shape.hidden, shape.eps);
    Ok(EncoderDecoder(T5 {
        words,
        blocks,
        norms: [norm(&halves[0]), norm(&halves[1])],
        dropouts: [0, 1].map(|_| [0, 1].map(|_| Dropout::new(root, shape.p))),
        vocabulary: vocabulary.expect("an output layer was asked for"),
        scale: if scaled { (shape.hidden as f64).powf(-0.5) } else { 1.0 },
    }))
}

impl T5 {
    fn entered(&self, half: usize, ids: &Tensor, context: &Context) -> Tensor {
        let states = self.words.forward(ids, context).to_kind(context.kind);
        self.dropouts[half][0].forward(states, context)
    }
}

impl Halves for T5 {
    fn embed_source(&self, ids: &Tensor, context: &Context) -> Tensor {
        self.entered(0, ids, context)
    }

    fn embed_answer(&self, ids: &Tensor, context: &Context) -> Tensor {
        self.entered(1, ids, context)
    }

    fn layers(&self) -> [usize; 2] {
        [self.blocks[0].len(), self.blocks[1].len()]
    }

    fn encode(&self, layer: usize, states: &Tensor, context: &Context) -> Tensor {
        self.blocks[0][layer].forward(states, context, None)
    }

    fn encoded(&self, states: Tensor, context: &Context) -> Tensor {
        self.dropouts[0][1].forward(self.norms[0].forward(&states), context)
    }

    fn cross(&self, layer: usize) -> &CrossAttention {
        let across = self.blocks[1][layer].across.as_ref();
        &across.expect("a block of the decoder attends to the encoder").attention
    }

    fn decode(&self, layer: usize, states: &Tensor, context: &Context, said: &Said) -> Tensor {
        self.blocks[1][layer].forward(states, context, Some(said))
    }

    fn decoded(&self, states: &Tensor, context: &Context) -> Tensor {
        let states = self.dropouts[1][1].forward(self.norms[1].forward(states), context);
        if self.scale == 1.0 { states } else { states * self.scale }
    }

    fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn depth(&self, name: &str) -> Depth {
        let encoder = self.blocks[0].len();
        if let Some(layer) = layer_number(name, "encoder.block.") {
            return Depth::Layer(layer);
        }
        if let Some(layer) = layer_number(name, "decoder.block.") {
            return Depth::Layer(encoder + layer);
        }
        match name {
            _ if name.starts_with("encoder.final_layer_norm.") => Depth::Layer(encoder.saturating_sub(1)),
            _ if name.contains("embed_tokens.") || name.starts_with("shared.") => Depth::Embeddings,
            _ => Depth::Head,
        }
    }

    /// All layers of a half share the table of distances, and both halves the words.
    fn is_tied(&self) -> bool {
        true
    }
}

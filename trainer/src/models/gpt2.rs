//! GPT-2 (A. Radford et al., "Language models are unsupervised multitask learners", 2019) as in transformers'
//! `modeling_gpt2.py`.

use anyhow::{Result, ensure};
use native::Heads;
use serde_json::Value;
use tch::Tensor;

use super::decoder::Fields;
use super::{Depth, Inputs, TextModel, layer_number};
use crate::nn::{
    Activation, Context, Dropout, Embedding, LayerNorm, Linear, MultiHeadAttention, Output, Path, Projection,
    Vocabulary,
};

/// Fields of `config.json`, with transformers' defaults.
#[derive(Clone, Debug)]
struct Shape {
    vocabulary: i64,
    positions: i64,
    hidden: i64,
    inner: i64,
    heads: i64,
    layers: usize,
    eps: f64,
    std: f64,
    activation: Activation,
    tied: bool,
    /// Whether scores are divided by √width, and by the number of the layer.
    scaled: [bool; 2],
    /// Of embeddings, of the weights of attention, of what is added.
    dropouts: [f64; 3],
}

impl Shape {
    fn read(config: &Value) -> Result<Self> {
        let fields = Fields(config);
        let (hidden, heads) = (fields.size("n_embd")?, fields.size("n_head")?);
        ensure!(hidden % heads == 0, "config.json: n_embd {hidden} is not a multiple of n_head {heads}");
        ensure!(
            !fields.flag("add_cross_attention", false),
            "config.json: add_cross_attention is true, which is no language model"
        );
        Ok(Shape {
            vocabulary: fields.size("vocab_size")?,
            positions: fields.whole("n_positions", 1024),
            hidden,
            inner: fields.some("n_inner").unwrap_or(4 * hidden),
            heads,
            layers: fields.size("n_layer")? as usize,
            eps: fields.number("layer_norm_epsilon", 1e-5),
            std: fields.number("initializer_range", 0.02),
            activation: Activation::parse(fields.word("activation_function", "gelu_new"))?,
            tied: fields.flag("tie_word_embeddings", true),
            scaled: [
                fields.flag("scale_attn_weights", true),
                fields.flag("scale_attn_by_inverse_layer_idx", false),
            ],
            dropouts: ["embd_pdrop", "attn_pdrop", "resid_pdrop"].map(|name| fields.number(name, 0.1)),
        })
    }
}

/// One layer: attention, then the feed-forward block.
struct Block {
    ln_1: LayerNorm,
    attention: MultiHeadAttention,
    output: Linear,
    ln_2: LayerNorm,
    c_fc: Linear,
    activation: Activation,
    c_proj: Linear,
    dropouts: [Dropout; 2],
}

impl Block {
    fn new(path: &Path, shape: &Shape, number: usize) -> Self {
        let Shape { hidden, inner, heads, eps, std, .. } = *shape;
        let (at, mlp) = (path.sub("attn"), path.sub("mlp"));
        let plain = Heads::causal(heads, heads, hidden / heads);
        let scale = if shape.scaled[0] { plain.scale } else { 1.0 };
        let scale = if shape.scaled[1] { scale / (number + 1) as f64 } else { scale };
        let projection = at.sub("c_attn");
        let attention = MultiHeadAttention::new(
            &at,
            Projection::ByColumn(&projection),
            hidden,
            Heads { scale, ..plain },
            std,
            shape.dropouts[1],
        );
        let dropout = || Dropout::new(path, shape.dropouts[2]);
        Block {
            ln_1: LayerNorm::new(&path.sub("ln_1"), hidden, eps),
            attention,
            output: Linear::by_column(&at.sub("c_proj"), hidden, hidden, std),
            ln_2: LayerNorm::new(&path.sub("ln_2"), hidden, eps),
            c_fc: Linear::by_column(&mlp.sub("c_fc"), hidden, inner, std),
            activation: shape.activation,
            c_proj: Linear::by_column(&mlp.sub("c_proj"), inner, hidden, std),
            dropouts: [dropout(), dropout()],
        }
    }

    /// `[n, hidden]` → `[n, hidden]`.
    fn forward(&self, x: &Tensor, context: &Context) -> Tensor {
        let mixed = self.attention.forward(&self.ln_1.forward(x), context);
        let x = x + self.dropouts[0].forward(self.output.forward(&mixed, context), context);
        let inner = self.activation.forward(&self.c_fc.forward(&self.ln_2.forward(&x), context));
        &x + self.dropouts[1].forward(self.c_proj.forward(&inner, context), context)
    }
}

/// `GPT2LMHeadModel`.
pub(super) struct Gpt2 {
    wte: Embedding,
    wpe: Embedding,
    dropout: Dropout,
    blocks: Vec<Block>,
    ln_f: LayerNorm,
    vocabulary: Option<Vocabulary>,
    tied: bool,
}

impl Gpt2 {
    pub(super) fn new(root: &Path, config: &Value, foretells: bool, dropout: Option<f64>) -> Result<Self> {
        let mut shape = Shape::read(config)?;
        if let Some(p) = dropout {
            shape.dropouts = [p; 3];
        }
        let Shape { vocabulary: tokens, hidden, std, .. } = shape;
        let base = root.sub("transformer");
        let table = base.sub("wte");
        let (wte, vocabulary) = Vocabulary::beside(
            &table,
            Output::of(foretells, shape.tied, root.sub("lm_head")),
            [tokens, hidden],
            std,
            0.0,
            None,
        );
        let block = |number| Block::new(&base.sub("h").sub(number), &shape, number);
        Ok(Gpt2 {
            wte,
            wpe: Embedding::new(&base.sub("wpe"), shape.positions, hidden, None, std),
            dropout: Dropout::new(&base, shape.dropouts[0]),
            blocks: (0..shape.layers).map(block).collect(),
            ln_f: LayerNorm::new(&base.sub("ln_f"), hidden, shape.eps),
            vocabulary,
            tied: foretells && shape.tied,
        })
    }
}

impl TextModel for Gpt2 {
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor {
        let states = self.wte.forward(&inputs.input_ids, context) // [n, d]
            + self.wpe.forward(&inputs.packing.positions, context);
        self.dropout.forward(states.to_kind(context.kind), context)
    }

    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor {
        self.blocks[number].forward(states, context)
    }

    fn head(&self, states: &Tensor, _context: &Context) -> Tensor {
        self.ln_f.forward(states)
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        self.vocabulary.as_ref()
    }

    fn layers(&self) -> usize {
        self.blocks.len()
    }

    fn depth(&self, name: &str) -> Depth {
        match layer_number(name, "transformer.h.") {
            Some(layer) => Depth::Layer(layer),
            None if name.starts_with("transformer.w") => Depth::Embeddings,
            None => Depth::Head,
        }
    }

    fn is_tied(&self) -> bool {
        self.tied
    }
}

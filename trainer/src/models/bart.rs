//! BART (M. Lewis et al., 2020), mBART, Marian, and a Transformer of one's own (A. Vaswani et al., 2017): layers of one kind,
//! as in transformers' `modeling_bart.py`, `modeling_mbart.py`, `modeling_marian.py` and in `docs/transformer.md`.

use std::rc::Rc;

use anyhow::{Result, ensure};
use native::Heads;
use serde_json::Value;
use tch::Tensor;

use super::decoder::Fields;
use super::encoder_decoder::{CrossAttention, EncoderDecoder, Halves, Said, sinusoids};
use super::{Depth, layer_number};
use crate::nn::{
    Activation, Context, Dropout, Embedding, LayerNorm, Linear, MultiHeadAttention, Output, Path, Projection,
    Vocabulary,
};

/// How positions are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Positions {
    /// By learnt vectors, of which the first two are no position's.
    LearntFromTwo,
    /// By learnt vectors.
    Learnt,
    /// By sines and cosines: in turn, or all sines first.
    Sinusoids { in_turn: bool },
}

/// Of encoder or decoder.
#[derive(Clone, Copy, Debug)]
struct Half {
    layers: usize,
    heads: i64,
    inner: i64,
}

/// How a family is made.
#[derive(Clone, Debug)]
struct Shape {
    tokens: i64,
    /// Tokens of what is written, where the decoder has a vocabulary of its own.
    own_tokens: Option<i64>,
    hidden: i64,
    halves: [Half; 2],
    positions: Positions,
    longest: i64,
    activation: Activation,
    /// Of blocks, of the weights of attention, within the feed-forward block.
    dropouts: [f64; 3],
    /// What word embeddings are multiplied by.
    scale: f64,
    std: f64,
    eps: f64,
    /// Whether norms stand before the blocks instead of behind them.
    pre_norm: bool,
    /// Whether embeddings are normed.
    embedding_norm: bool,
    /// Whether encoder and decoder end with a norm.
    last_norm: bool,
    /// Whether the output layer is the decoder's word embedding.
    tied: bool,
    padding: Option<i64>,
}

impl Shape {
    fn read(config: &Value) -> Result<Self> {
        let fields = Fields(config);
        let own = fields.word("model_type", "bart") == "luthier_transformer";
        let hidden = fields.size("d_model")?;
        let half = |name: &str| -> Result<Half> {
            let half = Half {
                layers: fields.size(&format!("{name}_layers"))? as usize,
                heads: fields.size(&format!("{name}_attention_heads"))?,
                inner: fields.size(&format!("{name}_ffn_dim"))?,
            };
            ensure!(
                hidden % half.heads == 0,
                "config.json: d_model {hidden} is not a multiple of {name}_attention_heads {}",
                half.heads
            );
            Ok(half)
        };
        let dropout = fields.number("dropout", 0.1);
        let mut shape = Shape {
            tokens: fields.size("vocab_size")?,
            own_tokens: None,
            hidden,
            halves: [half("encoder")?, half("decoder")?],
            positions: Positions::LearntFromTwo,
            longest: fields.whole("max_position_embeddings", 1024),
            activation: Activation::parse(
                fields.word("activation_function", if own { "relu" } else { "gelu" }),
            )?,
            dropouts: [
                dropout,
                fields.number("attention_dropout", 0.0),
                fields.number("activation_dropout", 0.0),
            ],
            scale: if fields.flag("scale_embedding", own) { (hidden as f64).sqrt() } else { 1.0 },
            std: fields.number("init_std", 0.02),
            eps: 1e-5,
            pre_norm: false,
            embedding_norm: true,
            last_norm: false,
            tied: fields.flag("tie_word_embeddings", true),
            padding: fields.some("pad_token_id"),
        };
        match fields.word("model_type", "bart") {
            "mbart" => {
                shape.pre_norm = true;
                shape.last_norm = true;
            }
            "marian" => {
                shape.positions = Positions::Sinusoids { in_turn: false };
                shape.embedding_norm = false;
                if !fields.flag("share_encoder_decoder_embeddings", true) {
                    shape.own_tokens = Some(fields.some("decoder_vocab_size").unwrap_or(shape.tokens));
                }
            }
            "luthier_transformer" => {
                shape.positions = match fields.word("position_embedding", "sinusoidal") {
                    "learned" => Positions::Learnt,
                    "sinusoidal" => Positions::Sinusoids { in_turn: true },
                    other => anyhow::bail!(
                        "config.json: position_embedding `{other}` is not known; known are sinusoidal and learned"
                    ),
                };
                shape.embedding_norm = false;
                shape.pre_norm = fields.flag("norm_first", false);
                shape.last_norm = true;
                if !fields.flag("share_embeddings", true) {
                    shape.own_tokens = Some(shape.tokens);
                }
            }
            _ => {}
        }
        Ok(shape)
    }
}

/// Attention to the own half, with its output projection.
struct Own {
    attention: MultiHeadAttention,
    output: Linear,
    norm: LayerNorm,
    dropout: Dropout,
}

/// Attention to the encoder's output, the same way.
struct Across {
    attention: CrossAttention,
    output: Linear,
    norm: LayerNorm,
    dropout: Dropout,
}

/// A layer of either half.
struct Layer {
    pre_norm: bool,
    own: Own,
    across: Option<Across>,
    fc1: Linear,
    activation: Activation,
    inner_dropout: Dropout,
    fc2: Linear,
    norm: LayerNorm,
    dropout: Dropout,
}

impl Layer {
    fn new(path: &Path, shape: &Shape, half: Half, decodes: bool) -> Self {
        let Shape { hidden, std, eps, dropouts: [p, of_weights, within], .. } = *shape;
        let width = hidden / half.heads;
        let norm = |name: &str| LayerNorm::new(&path.sub(name), hidden, eps);
        let at = path.sub("self_attn");
        let parts = ["q_proj", "k_proj", "v_proj"].map(|name| at.sub(name));
        let heads = Heads { causal: decodes, ..Heads::bidirectional(half.heads, width) };
        let projection = Projection::Apart([&parts[0], &parts[1], &parts[2]]);
        let own = Own {
            attention: MultiHeadAttention::new(&at, projection, hidden, heads, std, of_weights),
            output: Linear::rows(&at.sub("out_proj"), hidden, hidden, std),
            norm: norm("self_attn_layer_norm"),
            dropout: Dropout::new(path, p),
        };
        let across = decodes.then(|| {
            let (at, heads) = (path.sub("encoder_attn"), Heads::bidirectional(half.heads, width));
            let names = ["q_proj", "k_proj", "v_proj"];
            Across {
                attention: CrossAttention::new(&at, names, hidden, heads, [std, std], of_weights),
                output: Linear::rows(&at.sub("out_proj"), hidden, hidden, std),
                norm: norm("encoder_attn_layer_norm"),
                dropout: Dropout::new(path, p),
            }
        });
        Layer {
            pre_norm: shape.pre_norm,
            own,
            across,
            fc1: Linear::columns(&path.sub("fc1"), hidden, half.inner, std),
            activation: shape.activation,
            inner_dropout: Dropout::within(path, within),
            fc2: Linear::rows(&path.sub("fc2"), half.inner, hidden, std),
            norm: norm("final_layer_norm"),
            dropout: Dropout::new(path, p),
        }
    }

    /// A block with its residual and its norm, which stands before or behind.
    fn block(
        &self,
        x: &Tensor,
        context: &Context,
        (norm, dropout): (&LayerNorm, &Dropout),
        made: impl FnOnce(&Tensor) -> Tensor,
    ) -> Tensor {
        match self.pre_norm {
            true => x + dropout.forward(made(&norm.forward(x)), context),
            false => norm.residual(&made(x), x, Some(dropout), context),
        }
    }

    /// `[n, d]` → `[n, d]`.
    fn forward(&self, x: &Tensor, context: &Context, said: Option<&Said>) -> Tensor {
        let own = &self.own;
        let mut x = self.block(x, context, (&own.norm, &own.dropout), |x| {
            own.output.forward(&own.attention.forward(x, context), context)
        });
        if let (Some(across), Some(said)) = (&self.across, said) {
            x = self.block(&x, context, (&across.norm, &across.dropout), |x| {
                across.output.forward(&across.attention.forward(x, context, said), context)
            });
        }
        self.block(&x, context, (&self.norm, &self.dropout), |x| {
            let inner = self.activation.forward(&self.fc1.forward(x, context));
            self.fc2.forward(&self.inner_dropout.forward(inner, context), context)
        })
    }
}

/// Where a half begins.
struct Entrance {
    words: Embedding,
    scale: f64,
    positions: Table,
    norm: Option<LayerNorm>,
    dropout: Dropout,
}

enum Table {
    Learnt { table: Embedding, from: i64 },
    Fixed(Rc<Tensor>),
}

impl Entrance {
    fn new(path: &Path, words: Embedding, shape: &Shape, fixed: &Option<Rc<Tensor>>) -> Self {
        let from = if shape.positions == Positions::LearntFromTwo { 2 } else { 0 };
        let at = path.sub("embed_positions");
        let positions = match fixed {
            Some(table) => {
                // Older files have them, though they are always the same.
                at.leave_out("weight");
                Table::Fixed(table.clone())
            }
            None => Table::Learnt {
                table: Embedding::new(&at, shape.longest + from, shape.hidden, None, shape.std),
                from,
            },
        };
        let norm = |()| LayerNorm::new(&path.sub("layernorm_embedding"), shape.hidden, shape.eps);
        Entrance {
            words,
            scale: shape.scale,
            positions,
            norm: shape.embedding_norm.then_some(()).map(norm),
            dropout: Dropout::new(path, shape.dropouts[0]),
        }
    }

    fn forward(&self, ids: &Tensor, context: &Context) -> Tensor {
        let words = self.words.forward(ids, context);
        let words = if self.scale == 1.0 { words } else { words * self.scale };
        let places = &context.packing.positions;
        let states = words
            + match &self.positions {
                Table::Learnt { table, from } => table.forward(&(places + *from), context),
                Table::Fixed(table) => table.index_select(0, places),
            };
        let states = self.norm.as_ref().map_or_else(|| states.shallow_clone(), |norm| norm.forward(&states));
        self.dropout.forward(states.to_kind(context.kind), context)
    }
}

/// Encoder and decoder of such layers.
pub(super) struct Bart {
    entrances: [Entrance; 2],
    layers: [Vec<Layer>; 2],
    last_norms: [Option<LayerNorm>; 2],
    vocabulary: Vocabulary,
    tied: bool,
}

/// The model of a `config.json`.
pub(super) fn build(root: &Path, config: &Value, dropout: Option<f64>) -> Result<EncoderDecoder<Bart>> {
    let mut shape = Shape::read(config)?;
    if let Some(p) = dropout {
        shape.dropouts = [p; 3];
    }
    let (hidden, std) = (shape.hidden, shape.std);
    let model = root.sub("model");
    let halves = ["encoder", "decoder"].map(|name| model.sub(name));
    let own_table = halves[1].sub("embed_tokens");
    let (first, second, vocabulary) = match shape.own_tokens {
        None => {
            let names = ["shared", "encoder.embed_tokens", "decoder.embed_tokens"];
            let table = model.first_known("weight", &names);
            let output = Output::of(true, shape.tied, root.sub("lm_head"));
            let size = [shape.tokens, hidden];
            let (words, vocabulary) = Vocabulary::beside(&table, output, size, std, 0.0, shape.padding);
            let again = words.again();
            (words, again, vocabulary)
        }
        Some(own) => {
            let table = halves[0].sub("embed_tokens");
            let words = Embedding::new(&table, shape.tokens, hidden, shape.padding, std);
            let output = Output::of(true, shape.tied, root.sub("lm_head"));
            let (own, vocabulary) =
                Vocabulary::beside(&own_table, output, [own, hidden], std, 0.0, shape.padding);
            (words, own, vocabulary)
        }
    };
    let vocabulary = vocabulary.expect("an output layer was asked for");
    let tokens = vocabulary.tokens() as i64;
    let vocabulary = match root.constant("final_logits_bias", &[1, tokens]) {
        Some(bias) => vocabulary.biased(bias.view([tokens])),
        None => vocabulary,
    };
    if shape.tied {
        root.leave_out("lm_head.weight");
    }
    let fixed = match shape.positions {
        Positions::Sinusoids { in_turn } => Some(sinusoids(shape.longest, hidden, in_turn, root)),
        _ => None,
    };
    let entrances =
        [Entrance::new(&halves[0], first, &shape, &fixed), Entrance::new(&halves[1], second, &shape, &fixed)];
    let layers = [0, 1].map(|at| {
        let half = shape.halves[at];
        let layer = |number| Layer::new(&halves[at].sub("layers").sub(number), &shape, half, at == 1);
        (0..half.layers).map(layer).collect::<Vec<_>>()
    });
    let last =
        |path: &Path| shape.last_norm.then(|| LayerNorm::new(&path.sub("layer_norm"), hidden, shape.eps));
    let last_norms = [last(&halves[0]), last(&halves[1])];
    let tied = shape.tied || shape.own_tokens.is_none();
    Ok(EncoderDecoder(Bart { entrances, layers, last_norms, vocabulary, tied }))
}

impl Halves for Bart {
    fn embed_source(&self, ids: &Tensor, context: &Context) -> Tensor {
        self.entrances[0].forward(ids, context)
    }

    fn embed_answer(&self, ids: &Tensor, context: &Context) -> Tensor {
        self.entrances[1].forward(ids, context)
    }

    fn layers(&self) -> [usize; 2] {
        [self.layers[0].len(), self.layers[1].len()]
    }

    fn encode(&self, layer: usize, states: &Tensor, context: &Context) -> Tensor {
        self.layers[0][layer].forward(states, context, None)
    }

    fn encoded(&self, states: Tensor, _context: &Context) -> Tensor {
        match &self.last_norms[0] {
            Some(norm) => norm.forward(&states),
            None => states,
        }
    }

    fn cross(&self, layer: usize) -> &CrossAttention {
        let across = self.layers[1][layer].across.as_ref();
        &across.expect("a layer of the decoder attends to the encoder").attention
    }

    fn decode(&self, layer: usize, states: &Tensor, context: &Context, said: &Said) -> Tensor {
        self.layers[1][layer].forward(states, context, Some(said))
    }

    fn decoded(&self, states: &Tensor, _context: &Context) -> Tensor {
        match &self.last_norms[1] {
            Some(norm) => norm.forward(states),
            None => states.shallow_clone(),
        }
    }

    fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    fn depth(&self, name: &str) -> Depth {
        let encoder = self.layers[0].len();
        let layer = |half: &str| layer_number(name, &format!("model.{half}.layers."));
        if let Some(layer) = layer("encoder") {
            return Depth::Layer(layer);
        }
        if let Some(layer) = layer("decoder") {
            return Depth::Layer(encoder + layer);
        }
        match name {
            _ if name.starts_with("model.encoder.layer_norm.") => Depth::Layer(encoder.saturating_sub(1)),
            _ if name.starts_with("model.decoder.layer_norm.") => Depth::Head,
            _ if name.starts_with("model.") => Depth::Embeddings,
            _ => Depth::Head,
        }
    }

    fn is_tied(&self) -> bool {
        self.tied
    }
}

//! An encoder whose output a decoder reads while it writes: what the families of that kind have in common.
//!
//! The states of a batch are those of all sources and, below them, of all answers: `[n + m, d]`. A layer of the encoder changes
//! the upper part, one of the decoder the lower, so that a layer is one step from states to states here too.

use std::rc::Rc;

use native::{Heads, Projections};
use tch::Tensor;

use super::{Depth, Inputs, TextModel};
use crate::nn::{Context, Dropout, Linear, Packing, Path, Vocabulary};

/// What a decoder reads of its sources while it writes: made once, and read by each new token.
pub struct Sources {
    /// For each layer of the decoder keys and values side by side, `[n, 2 · heads · width]`.
    pub key_values: Vec<Tensor>,
    /// Int64 `[sources + 1]` on the CPU: where each source lies among the `n`.
    pub offsets: Tensor,
    /// Int64 `[sources + 1]` on the CPU: where the sequences that are written for each source lie among all.
    pub written: Tensor,
}

/// A model that answers sources.
pub trait Answering {
    /// Keys and values of the encoder's output, for each layer of the decoder; `inputs` need no answers.
    fn read(&self, inputs: &Inputs, context: &Context) -> Vec<Tensor>;

    /// The states of the next tokens, Int64 `[m]`, of sequences of which something is kept: `[m, d]` for the vocabulary.
    fn go_on(&self, ids: &Tensor, context: &Context, sources: &Sources) -> Tensor;
}

/// Where a layer of the decoder finds what the encoder said.
pub(super) enum Said<'a> {
    /// As states of the sources, `[n, d]`, which lie so.
    States(&'a Tensor, &'a Packing),
    /// As keys and values that are kept, of this layer.
    Kept(&'a Sources, usize),
}

/// Attention from the decoder to the encoder's output, up to the output projection.
pub(super) struct CrossAttention {
    query: Linear,
    key_value: Linear,
    dropout: Dropout,
    heads: Heads,
}

impl CrossAttention {
    /// Takes `q_proj`, `k_proj` and `v_proj` by these names below `path`, each `[heads · width, size]`.
    pub(super) fn new(path: &Path, names: [&str; 3], size: i64, heads: Heads, std: [f64; 2], p: f64) -> Self {
        let [query, key, value] = names.map(|name| path.sub(name));
        let wide = heads.query * heads.width;
        CrossAttention {
            query: Linear::columns(&query, size, wide, std[0]),
            key_value: Linear::joined(&[&key, &value], size, wide, std[1]),
            dropout: Dropout::new(path, p),
            heads: path.heads(heads),
        }
    }

    /// Keys and values of states `[n, d]`.
    pub(super) fn read(&self, states: &Tensor, context: &Context) -> Tensor {
        self.key_value.forward(states, context)
    }

    /// `[m, d]` → the mixture of values, `[m, heads · width]`.
    pub(super) fn forward(&self, x: &Tensor, context: &Context, said: &Said) -> Tensor {
        let query = self.query.forward(x, context);
        match said {
            Said::States(states, packing) => {
                let over = context.over(packing);
                let key_value = self.read(states, &over);
                let query_offsets = &context.packing.offsets;
                let across = Projections::Across { query: &query, query_offsets, key_value: &key_value };
                self.dropout.attention(across, self.heads, &over)
            }
            Said::Kept(sources, layer) => {
                let key_value = &sources.key_values[*layer];
                let across =
                    Projections::Across { query: &query, query_offsets: &sources.written, key_value };
                native::attention(across, self.heads, &sources.offsets, None)
            }
        }
    }
}

/// What a family gives.
pub(super) trait Halves {
    /// What enters the encoder: `[n, d]`.
    fn embed_source(&self, ids: &Tensor, context: &Context) -> Tensor;
    /// What enters the decoder: `[m, d]`.
    fn embed_answer(&self, ids: &Tensor, context: &Context) -> Tensor;
    /// Layers of encoder and decoder.
    fn layers(&self) -> [usize; 2];
    /// A layer of the encoder.
    fn encode(&self, layer: usize, states: &Tensor, context: &Context) -> Tensor;
    /// What comes after its last layer.
    fn encoded(&self, states: Tensor, context: &Context) -> Tensor;
    /// What attends to the encoder's output in a layer of the decoder.
    fn cross(&self, layer: usize) -> &CrossAttention;
    /// A layer of the decoder.
    fn decode(&self, layer: usize, states: &Tensor, context: &Context, said: &Said) -> Tensor;
    /// What comes after its last layer: states for the vocabulary.
    fn decoded(&self, states: &Tensor, context: &Context) -> Tensor;
    /// By what tokens are told apart.
    fn vocabulary(&self) -> &Vocabulary;
    /// Where the parameter of this name lies; layers of the decoder are counted on from the encoder's.
    fn depth(&self, name: &str) -> Depth;
    /// Whether steps that are apart share a parameter.
    fn is_tied(&self) -> bool;
}

/// The whole model.
pub(super) struct EncoderDecoder<H>(pub H);

impl<H: Halves> TextModel for EncoderDecoder<H> {
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor {
        let states = self.0.embed_source(&inputs.input_ids, context).to_kind(context.kind);
        let (Some(packing), Some(ids)) = (&context.packing.answers, &inputs.answer_ids) else {
            return states;
        };
        let answers = self.0.embed_answer(ids, &context.over(packing)).to_kind(context.kind);
        Tensor::cat(&[states, answers], 0)
    }

    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor {
        let [encoder, decoder] = self.0.layers();
        let packing = context.packing;
        let answers = packing.answers.as_ref().expect("a batch of sources with answers");
        let mut parts = states.split_with_sizes([packing.tokens(), answers.tokens()], 0);
        let (below, above) = (parts.remove(1), parts.remove(0));
        if number < encoder {
            let made = self.0.encode(number, &above, context);
            let made = if number + 1 == encoder { self.0.encoded(made, context) } else { made };
            return Tensor::cat(&[made, below], 0);
        }
        let said = Said::States(&above, packing);
        let made = self.0.decode(number - encoder, &below, &context.over(answers), &said);
        match number + 1 == encoder + decoder {
            true => made,
            false => Tensor::cat(&[above, made], 0),
        }
    }

    fn head(&self, states: &Tensor, context: &Context) -> Tensor {
        let answers = context.packing.answers.as_ref().expect("a batch of sources with answers");
        self.0.decoded(states, &context.over(answers))
    }

    fn vocabulary(&self) -> Option<&Vocabulary> {
        Some(self.0.vocabulary())
    }

    fn layers(&self) -> usize {
        self.0.layers().into_iter().sum()
    }

    fn depth(&self, name: &str) -> Depth {
        self.0.depth(name)
    }

    fn answering(&self) -> Option<&dyn Answering> {
        Some(self)
    }

    fn is_tied(&self) -> bool {
        self.0.is_tied()
    }
}

impl<H: Halves> Answering for EncoderDecoder<H> {
    fn read(&self, inputs: &Inputs, context: &Context) -> Vec<Tensor> {
        let [encoder, decoder] = self.0.layers();
        let states = self.0.embed_source(&inputs.input_ids, context).to_kind(context.kind);
        let states = (0..encoder).fold(states, |states, layer| self.0.encode(layer, &states, context));
        let states = self.0.encoded(states, context);
        (0..decoder).map(|layer| self.0.cross(layer).read(&states, context)).collect()
    }

    fn go_on(&self, ids: &Tensor, context: &Context, sources: &Sources) -> Tensor {
        let [_, decoder] = self.0.layers();
        let states = self.0.embed_answer(ids, context).to_kind(context.kind);
        let states = (0..decoder).fold(states, |states, layer| {
            self.0.decode(layer, &states, context, &Said::Kept(sources, layer))
        });
        self.0.decoded(&states, context)
    }
}

/// A sinusoid for each position, fp32 `[positions, d]`: sines and cosines in turn (A. Vaswani et al., "Attention is all you
/// need", 2017, section 3.5), or all sines first, as Marian has them.
pub(super) fn sinusoids(positions: i64, d: i64, in_turn: bool, path: &Path) -> Rc<Tensor> {
    let half = (d + 1) / 2;
    let mut numbers = vec![0.0_f32; (positions * d) as usize];
    for position in 0..positions {
        for at in 0..d {
            let angle = position as f64 / 10_000_f64.powf((2 * (at / 2)) as f64 / d as f64);
            let number = if at % 2 == 0 { angle.sin() } else { angle.cos() };
            let place = match (in_turn, at % 2) {
                (true, _) => at,
                (false, 0) => at / 2,
                (false, _) => half + at / 2,
            };
            numbers[(position * d + place) as usize] = number as f32;
        }
    }
    Rc::new(Tensor::from_slice(&numbers).view([positions, d]).to_device(path.device()))
}

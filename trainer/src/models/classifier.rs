//! A decoder with a head that tells classes apart, as transformers' `…ForSequenceClassification` of decoders: the state of each
//! sequence's last token, a linear layer without a bias.

use tch::{Kind, Tensor};

use super::{Depth, Inputs, TextModel};
use crate::nn::{Context, Linear, Path};

/// The decoder and its head.
pub(super) struct Classifier {
    decoder: Box<dyn TextModel>,
    score: Linear,
}

impl Classifier {
    /// `width`: numbers of a token's state.
    pub(super) fn new(root: &Path, decoder: Box<dyn TextModel>, width: i64, labels: i64, std: f64) -> Self {
        let score = Linear::of_labels(&root.sub("score").in_full().biased(false), width, labels, std);
        Classifier { decoder, score }
    }
}

impl TextModel for Classifier {
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor {
        self.decoder.embed(inputs, context)
    }

    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor {
        self.decoder.layer(number, states, context)
    }

    /// Norms the last tokens alone: no other is read.
    fn head(&self, states: &Tensor, context: &Context) -> Tensor {
        let last = context.packing.last(states).to_kind(Kind::Float);
        self.score.forward(&self.decoder.head(&last, context), context)
    }

    fn layers(&self) -> usize {
        self.decoder.layers()
    }

    fn depth(&self, name: &str) -> Depth {
        self.decoder.depth(name)
    }
}

//! An encoder with a head that finds a part of its text, as transformers' `…ForQuestionAnswering`: two numbers for each token, of
//! how likely the part begins and ends there.

use tch::{Kind, Tensor};

use super::{Depth, Inputs, TextModel};
use crate::nn::{Context, Dropout, Linear, Path};

/// The encoder and its head.
pub(super) struct Span {
    encoder: Box<dyn TextModel>,
    /// Before the head, in DistilBERT alone.
    dropout: Option<Dropout>,
    qa_outputs: Linear,
}

impl Span {
    /// `encoder` gives the states of all tokens, `width` numbers each.
    pub(super) fn new(
        root: &Path,
        encoder: Box<dyn TextModel>,
        width: i64,
        dropout: Option<f64>,
        std: f64,
    ) -> Self {
        Span {
            encoder,
            dropout: dropout.map(|p| Dropout::new(root, p)),
            qa_outputs: Linear::new(&root.sub("qa_outputs").may_be_new().in_full(), width, 2, std),
        }
    }
}

impl TextModel for Span {
    fn embed(&self, inputs: &Inputs, context: &Context) -> Tensor {
        self.encoder.embed(inputs, context)
    }

    fn layer(&self, number: usize, states: &Tensor, context: &Context) -> Tensor {
        self.encoder.layer(number, states, context)
    }

    /// `[n, d]` → `[n, 2]`.
    fn head(&self, states: &Tensor, context: &Context) -> Tensor {
        let states = self.encoder.head(states, context).to_kind(Kind::Float);
        let states = match &self.dropout {
            Some(dropout) => dropout.forward(states, context),
            None => states,
        };
        self.qa_outputs.forward(&states, context)
    }

    fn layers(&self) -> usize {
        self.encoder.layers()
    }

    fn depth(&self, name: &str) -> Depth {
        self.encoder.depth(name)
    }
}

//! Building blocks of the models, and how their weights are found in a checkpoint.

mod layers;
mod load;

pub use layers::{Activation, Dropout, Embedding, LayerNorm, Linear};
pub use load::{Init, LoadReport, Loader, Path};

use tch::Tensor;

/// What a forward pass must know beside its inputs.
pub struct Context<'a> {
    /// `None` in evaluation: nothing is drawn.
    pub draw: Option<Draw<'a>>,
}

impl Context<'_> {
    /// A pass without dropout.
    pub fn evaluation() -> Self {
        Context { draw: None }
    }
}

/// What a draw is a function of, beside the place in the model where it is made.
pub struct Draw<'a> {
    /// The job's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
    /// Row numbers of the training rows, Int64 `[b]`.
    pub examples: &'a Tensor,
}

//! Building blocks of the models, and how their weights are found in a checkpoint.

mod adapters;
mod attention;
mod copies;
mod distances;
mod kept;
mod known;
mod layers;
mod linear;
mod load;
mod low_rank;
mod names;
mod packing;
mod part;
pub mod pooling;
mod rotary;
pub mod saved;
mod shared;
mod vocabulary;

pub use adapters::Adapters;
pub use attention::{MultiHeadAttention, Projection, Reach, SelfAttention};
pub use copies::Copies;
pub use distances::Distances;
pub use kept::KeyValues;
pub use layers::{Activation, Dropout, Embedding, LayerNorm, RmsNorm};
pub use linear::Linear;
pub use load::{Init, LoadReport, Loaded, Loader, Numbers, Path};
pub use packing::Packing;
pub use part::{Cuts, Part};
pub use rotary::{Rope, Rotary};
pub use shared::Shared;
pub use vocabulary::{Output, Vocabulary};

use tch::{Kind, Tensor};

/// What a forward pass must know beside its inputs.
pub struct Context<'a> {
    /// How the batch's sequences lie.
    pub packing: &'a Packing,
    /// The kind that layers compute in.
    pub kind: Kind,
    /// `None` in evaluation: nothing is drawn.
    pub draw: Option<Draw<'a>>,
    /// What is kept of each sequence, where the batch continues them.
    pub kept: Option<&'a [&'a KeyValues]>,
}

impl<'a> Context<'a> {
    /// A pass without dropout, in the full precision of the weights.
    pub fn evaluation(packing: &'a Packing) -> Self {
        Context { packing, kind: Kind::Float, draw: None, kept: None }
    }

    /// A pass that continues sequences, of each of which something is kept.
    pub fn continuing(packing: &'a Packing, kept: &'a [&'a KeyValues]) -> Self {
        Context { kept: Some(kept), ..Context::evaluation(packing) }
    }

    /// The same for other tokens of the same sequences.
    pub fn over<'b>(&'b self, packing: &'b Packing) -> Context<'b> {
        Context { packing, ..*self }
    }
}

/// What a draw is a function of, beside the place in the model where it is made.
#[derive(Clone, Copy)]
pub struct Draw<'a> {
    /// The job's seed.
    pub seed: u64,
    /// The optimizer step.
    pub step: u64,
    /// Row numbers of the training rows, Int64 `[b]`.
    pub examples: &'a Tensor,
}

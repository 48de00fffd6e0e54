//! Rows on their way to the model: tokens, order, batches.

mod batch;
mod generate;
mod order;
mod prefetch;
mod prompts;
mod questions;
mod read;
mod related;
mod sequences;
mod share;
mod split;
mod tagged;
mod tokens;

pub use batch::{Batch, Counted, Row, collate};
pub use generate::chosen_template;
pub use order::{Order, permutation};
pub use prefetch::{MicroBatch, Prefetch};
pub use prompts::Prompt;
pub use read::{Classes, Data};
pub use share::Share;
pub use split::Split;
use split::parts;
pub use tagged::{Tagged, Tags};
pub use tokens::{Cache, Tokens};

//! Rows on their way to the model: tokens, order, batches.

mod batch;
mod order;
mod read;
mod split;

pub use batch::{Batch, Row, collate};
pub use order::{Order, permutation};
pub use read::Data;
pub use split::Split;

//! What mixed precision multiplies by.

use anyhow::Result;
use tch::Tensor;

/// The numbers that mixed precision multiplies by: `(parameters, copy in fewer bits)`.
pub struct Copies(Vec<(Tensor, Tensor)>);

impl Copies {
    /// Of these pairs.
    pub(super) fn new(pairs: Vec<(Tensor, Tensor)>) -> Self {
        Copies(pairs)
    }

    /// Writes the copies anew, after the parameters changed.
    pub fn refresh(&self) -> Result<()> {
        tch::no_grad(|| {
            for (from, copy) in &self.0 {
                copy.shallow_clone().f_copy_(from)?;
            }
            Ok(())
        })
    }
}

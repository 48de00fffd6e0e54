//! The tasks: one file each, with labels, loss and metrics.

pub mod text_classification;

//! The trainer as a library: models, losses, jobs in a folder, what other libraries say of their results. One program, since each
//! would be linked to libtorch anew.

mod adapters;
mod cases;
mod common;
mod decoders;
mod encoder_decoders;
mod estimate;
mod exports;
mod generation;
mod job;
mod memory;
mod model_parallel;
mod optim;
mod optim_rules;
mod preferences;
mod questions;
mod ranks;
mod reference;
mod refusals;
mod smollm;
mod tagging;
mod text_to_text;
mod transformers;
mod vectors;
mod writing;

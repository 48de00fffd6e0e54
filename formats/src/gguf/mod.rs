//! GGUF, the format of llama.cpp: read into a checkpoint folder, and written from one.
//!
//! | question | answer |
//! | --- | --- |
//! | a GGUF as a checkpoint folder | [`import`] |
//! | a checkpoint folder as a GGUF | [`export`] |
//! | what is in the file itself | [`Gguf::open`] |
//!
//! What is read and written, and where it comes from, is told in `docs/gguf.md`.

mod config_in;
mod config_out;
mod dequantize;
mod export;
mod family;
mod header;
mod import;
mod kind;
mod mixture;
mod pre;
mod quantize;
mod rope_in;
mod rope_out;
mod rows;
mod tokenizer_in;
mod tokenizer_out;
mod value;
mod writer;

pub use export::{Exported, Kind, export};
pub use header::{Gguf, TensorInfo};
pub use import::{Imported, import};
pub use kind::TensorKind;
pub use value::{Metadata, Value};

/// transformers' names of the model types that can be written.
pub fn model_types() -> Vec<&'static str> {
    family::FAMILIES.iter().map(|family| family.model_type).collect()
}

/// Whole blocks as fp32, or `None` where the lengths do not belong together.
pub fn dequantize(kind: TensorKind, bytes: &[u8]) -> Option<Vec<f32>> {
    let blocks = bytes.len() / kind.block_bytes() as usize;
    let mut values = vec![0.0; blocks * kind.block() as usize];
    bytes
        .len()
        .is_multiple_of(kind.block_bytes() as usize)
        .then(|| dequantize::dequantize(kind, bytes, &mut values))?;
    Some(values)
}

/// fp32 as whole blocks; `None` where the values do not fill them, or for a type that is read alone (`q4_0`, `q4_1`, `q2_k`,
/// `q3_k`).
pub fn quantize(kind: TensorKind, values: &[f32]) -> Option<Vec<u8>> {
    let bytes = kind.row_bytes(values.len() as u64)?;
    let mut out = vec![0; bytes as usize];
    quantize::quantize(kind, values, &mut out)?;
    Some(out)
}

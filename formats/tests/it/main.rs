//! Tests of the readers, all in one program.

mod archive;
mod cases;
mod checkpoint;
mod common;
mod dataset;
mod inspect;
mod safetensors;
mod table;
mod tokenizer;

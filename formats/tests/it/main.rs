//! Tests of the readers, all in one program.

mod archive;
mod cases;
mod chat;
mod chat_cases;
mod chat_encode;
mod chat_template;
mod checkpoint;
mod common;
mod dataset;
mod gguf;
mod gguf_tokenizer;
mod inspect;
mod pieces;
mod questions;
mod safetensors;
mod sequences;
mod table;
mod tagged;
mod tokenizer;
mod tokenizer_train;

//! What people bring, read without torch.
//!
//! The server uses these readers to explain an upload, the trainer to read it: one reader for both, so that a file that
//! was accepted is a file that can be trained on. Everything here is synchronous and touches only the files it is given.
//!
//! | question | answer |
//! | --- | --- |
//! | what is in this table? | [`inspect::inspect`] |
//! | which column is the text, which the label? | [`inspect::guess_columns`] |
//! | can it be trained on, and what are its classes? | [`dataset::check_classification`] |
//! | its rows | [`dataset::read_classification`] |
//! | its questions on texts that hold their answers | [`dataset::questions`] |
//! | its sentences of tagged words, and what is wrong with them | [`dataset::tagged::read_tagged`], [`dataset::tagged::survey_tagged`] |
//! | what conversations are in this file, and what is wrong with them? | [`chat::survey`] |
//! | its conversations, prompts and texts | [`chat::read_chats`] |
//! | their tokens, and which of them count in the loss | [`chat::Encoder`] |
//! | how a checkpoint writes a conversation | [`chat_template::ChatTemplate`] |
//! | what is in this checkpoint folder? | [`checkpoint::inspect_checkpoint`] |
//! | its tensors | [`checkpoint::Weights`] |
//! | its tokenizer | [`tokenizer::Tokenizer`] |
//! | a tokenizer for texts of one's own | [`tokenizer::train`] |
//! | an uploaded archive, as a folder | [`archive::unpack`] |
//! | a GGUF file, as a checkpoint folder; a checkpoint folder, as a GGUF file | [`gguf::import`], [`gguf::export`] |
//!
//! Whatever is wrong is a [`Problem`]: what, where, and what to do about it.

pub mod archive;
pub mod chat;
pub mod chat_template;
pub mod checkpoint;
pub mod dataset;
pub mod gguf;
pub mod inspect;
pub mod problem;
pub mod table;
pub mod tokenizer;

pub use problem::{LineRange, Problem, ProblemKind, Problems};

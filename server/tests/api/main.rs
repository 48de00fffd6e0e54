//! The API as a client sees it: handlers behind every layer, on a database of each test's own.

mod cases;
mod chat;
mod chats;
mod clients;
mod common;
mod completion;
mod decoder;
mod description;
mod events;
mod exports;
mod files;
mod jobs;
mod models;
mod predictions;
mod questions;
mod samples;
mod script;
mod security;
mod tagging;
mod text_to_text;
mod vectors;
mod worker;
mod workers;

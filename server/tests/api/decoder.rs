//! A language model small enough for every test.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Positions of the model: room for a short chat, letter by letter.
pub const POSITIONS: u64 = 256;

/// A folder with a tiny Llama and its tokenizer, without a chat template.
pub fn tiny_llama() -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/fixtures/decoders");
    let folder = tempfile::tempdir().unwrap();
    let copy = |path: &str, name: &str| std::fs::copy(from.join(path), folder.path().join(name)).unwrap();
    copy("llama/model.safetensors", "model.safetensors");
    copy("tokenizer.json", "tokenizer.json");
    for (path, name, field) in [
        ("llama/config.json", "config.json", "max_position_embeddings"),
        ("tokenizer_config.json", "tokenizer_config.json", "model_max_length"),
    ] {
        let text = std::fs::read(from.join(path)).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        config[field] = json!(POSITIONS);
        std::fs::write(folder.path().join(name), config.to_string()).unwrap();
    }
    folder
}

/// So many chats of one question and its answer, a line each.
pub fn chats(count: usize) -> String {
    let turn = |role: &str, content: String| json!({"role": role, "content": content});
    let chat = |n: usize| {
        let answer = if n.is_multiple_of(2) { "even" } else { "odd" };
        let messages = [turn("user", format!("is {n} even?")), turn("assistant", format!("{n} is {answer}"))];
        format!("{}\n", json!({"messages": messages}))
    };
    (0..count).map(chat).collect()
}

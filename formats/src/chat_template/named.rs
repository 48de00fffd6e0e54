//! Templates to choose by name, for checkpoints that come without one.

use super::{ChatTemplate, SpecialTokens};
use crate::problem::{Problem, ProblemKind};

/// A template that can be chosen by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedTemplate {
    /// Its name.
    pub name: &'static str,
    /// What it is like, and what for.
    pub description: &'static str,
    /// Its Jinja.
    pub source: &'static str,
    /// The marks that a tokenizer should have as single tokens; others work, and take more room.
    pub marks: &'static [&'static str],
}

const TEMPLATES: [NamedTemplate; 8] = [
    NamedTemplate {
        name: "chatml",
        description: "ChatML: Qwen, SmolLM and many more",
        source: include_str!("named/chatml.jinja"),
        marks: &["<|im_start|>", "<|im_end|>"],
    },
    NamedTemplate {
        name: "alpaca",
        description: "Headings in plain text, for any base model",
        source: include_str!("named/alpaca.jinja"),
        marks: &[],
    },
    NamedTemplate {
        name: "zephyr",
        description: "Zephyr, TinyLlama: roles between bars, the end mark of the model after each turn",
        source: include_str!("named/zephyr.jinja"),
        marks: &[],
    },
    NamedTemplate {
        name: "llama-3",
        description: "Llama 3 and later",
        source: include_str!("named/llama-3.jinja"),
        marks: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    },
    NamedTemplate {
        name: "llama-2",
        description: "Llama 2",
        source: include_str!("named/llama-2.jinja"),
        marks: &[],
    },
    NamedTemplate {
        name: "mistral",
        description: "Mistral and Mixtral, the system message in the first turn",
        source: include_str!("named/mistral.jinja"),
        marks: &[],
    },
    NamedTemplate {
        name: "gemma",
        description: "Gemma, the system message in the first turn",
        source: include_str!("named/gemma.jinja"),
        marks: &["<start_of_turn>", "<end_of_turn>"],
    },
    NamedTemplate {
        name: "phi-3",
        description: "Phi 3",
        source: include_str!("named/phi-3.jinja"),
        marks: &["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
    },
];

/// All templates that can be chosen by name.
pub fn named_templates() -> &'static [NamedTemplate] {
    &TEMPLATES
}

impl ChatTemplate {
    /// A template by its name.
    ///
    /// # Errors
    /// [`ProblemKind::ChatTemplate`], with the names that there are.
    pub fn named(name: &str, tokens: SpecialTokens) -> Result<Self, Problem> {
        match TEMPLATES.iter().find(|template| template.name == name) {
            Some(template) => Self::new(template.source, template.name, tokens),
            None => {
                let names: Vec<&str> = TEMPLATES.iter().map(|template| template.name).collect();
                let message = format!("there is no chat template `{name}`; there are {}", names.join(", "));
                Err(Problem::new(ProblemKind::ChatTemplate, name, message).hint("choose one of them"))
            }
        }
    }
}

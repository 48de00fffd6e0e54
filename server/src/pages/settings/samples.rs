//! What a language model is asked at every evaluation.

use serde_json::{Map, Value, json};
use store::spec::{JobSpec, SamplePrompt, Samples};

use super::{Kind, Setting, Values, field, named, or_empty};
use crate::pages::view::text::setting;

pub(super) const SETTINGS: &[Setting] = &[
    field(
        "samples.rows",
        "Prompts of validation rows",
        "Their answers are written before the first step and at every evaluation, and shown side by side. 0, and no prompts of your own, for none.",
        Kind::Number,
    )
    .empty("3, or none beside prompts of your own"),
    field(
        "samples.max_tokens",
        "Longest answer",
        "An answer ends here at the latest. Longer ones take more of the time of an evaluation.",
        Kind::Number,
    )
    .unit("tokens"),
    field("samples.temperature", "Temperature", "0 takes the likeliest token each time; more draws.", Kind::Number),
    field("samples.seed", "Seed of the draws", "The same at every evaluation, so that what changes is the model.", Kind::Number),
    field(
        "samples.prompts",
        "Prompts of your own",
        "One a line, up to 16: what a user says where the rows are conversations, else the beginning of a text. Or a list in JSON, whose items are texts or lists of messages with role and content.",
        Kind::Long,
    ),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let Samples { prompts, rows, max_tokens, temperature, seed } = &spec.training.samples;
    named([
        ("samples.rows", or_empty(*rows)),
        ("samples.prompts", written(prompts)),
        ("samples.max_tokens", max_tokens.to_string()),
        ("samples.temperature", setting(*temperature)),
        ("samples.seed", seed.to_string()),
    ])
}

/// Prompts a line each, or as JSON where a line cannot hold them.
fn written(prompts: &[SamplePrompt]) -> String {
    let line = |prompt: &SamplePrompt| match prompt {
        SamplePrompt::Text(text) if text.trim() == text && !text.contains(['\n', '\r']) => Some(text.clone()),
        _ => None,
    };
    let lines: Option<Vec<String>> = prompts.iter().map(line).collect();
    match lines.filter(|lines| !lines.first().is_some_and(|first| first.starts_with('['))) {
        Some(lines) => lines.join("\n"),
        None => serde_json::to_string_pretty(prompts).unwrap_or_default(),
    }
}

/// Makes the API's list of the text that holds prompts.
pub(super) fn join(fields: &mut Map<String, Value>) -> Result<(), (&'static str, String)> {
    const NAME: &str = "samples.prompts";
    let Some(prompts) = fields.get_mut("samples").and_then(|samples| samples.get_mut("prompts")) else {
        return Ok(());
    };
    let text = prompts.as_str().unwrap_or_default().trim();
    let list = match text.starts_with('[') {
        true => serde_json::from_str(text)
            .map_err(|error| (NAME, format!("It begins with “[” and is no JSON: {error}.")))?,
        false => json!(text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>()),
    };
    *prompts = list;
    Ok(())
}

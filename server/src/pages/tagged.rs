//! Tagged words on the pages of data and of jobs.

use formats::dataset::tagged::{Survey, Tagging};
use formats::dataset::{Columns, ProblemType};
use formats::inspect::{ColumnsGuess, Inspection, guess_tagged};
use store::spec::JobSpec;

use super::view::Fact;
use super::view::text;

/// The columns of words and tags, or of texts and entities; the tags are what is told apart.
pub fn guess(inspection: &Inspection) -> Option<ColumnsGuess> {
    let columns = guess_tagged(inspection).ok()?;
    let label = columns.tags.clone().unwrap_or_default();
    Some(ColumnsGuess { columns: Columns { label, ..columns }, problem_type: ProblemType::SingleLabel })
}

/// What was found in a file.
pub fn facts(tags: &Survey) -> Vec<Fact> {
    let summary = &tags.summary;
    let types: Vec<String> =
        summary.types.iter().map(|kind| format!("{} {}", kind.label, text::count(kind.rows))).collect();
    vec![
        Fact::new("Words", text::count(summary.words)),
        Fact::new("Scheme of the tags", summary.scheme.name()),
        Fact::new("Found in them", types.join(", ")),
    ]
}

/// Columns and settings of a job.
pub fn settings(spec: &JobSpec) -> Vec<Fact> {
    let shown = |(role, column): (&str, &str)| {
        let name = match role {
            "tokens" => "Words column",
            "tags" => "Tags column",
            "text" => "Text column",
            _ => "Entities column",
        };
        Fact::new(name, column)
    };
    let mut facts =
        Tagging::of(&spec.columns).map(|tagging| tagging.roles().map(shown).to_vec()).unwrap_or_default();
    let tokens =
        if spec.training.label_all_tokens { "all tokens of a word" } else { "the first token of a word" };
    facts.push(Fact::new("Carries the tag", tokens));
    facts
}

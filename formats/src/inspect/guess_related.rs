//! Which columns hold texts that are near each other, told from names.

use super::guess::{pair_of, plain};
use super::{Column, ColumnKind, Inspection};
use crate::dataset::Columns;
use crate::problem::{Problem, ProblemKind};

/// Names of a text and of what is near it.
const RANKED: [(&str, &str); 11] = [
    ("anchor", "positive"),
    ("query", "positive"),
    ("query", "answer"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "response"),
    ("question", "answer"),
    ("question", "passage"),
    ("question", "context"),
    ("title", "body"),
    ("title", "text"),
];
/// Names of two texts that may have a score.
const ALIKE: [(&str, &str); 8] = [
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("text_a", "text_b"),
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("question1", "question2"),
    ("text", "text_pair"),
];
/// Names of a score.
const SCORES: [&str; 7] =
    ["score", "similarity", "similarity_score", "relatedness_score", "cosine", "label", "gold"];
/// What names of negatives begin with.
const NEGATIVES: [&str; 3] = ["negative", "hard_negative", "neg_"];

/// Tells the columns of related texts from their names: two texts and a score where there is a column of numbers for it, else an
/// anchor, a positive, and all columns called negative.
///
/// # Errors
/// [`ProblemKind::AmbiguousColumns`] listing the columns.
pub fn guess_related(inspection: &Inspection) -> Result<Columns, Problem> {
    let names: Vec<&str> = inspection.column_names().collect();
    let ask = || {
        let message = format!(
            "cannot tell which columns hold the texts that are near each other; the file has {}",
            names.join(", ")
        );
        Problem::new(ProblemKind::AmbiguousColumns, &inspection.name, message).in_column("columns").hint(
            r#"choose the columns, as in {"anchor": "…", "positive": "…"} or {"text1": "…", "text2": "…", "score": "…"}"#,
        )
    };
    let columns: Vec<&Column> = inspection.columns.iter().collect();
    let alike = pair_of(&columns, &ALIKE).map_err(|()| ask())?;
    let is_score = |column: &&&Column| {
        SCORES.contains(&&*plain(&column.name)) && column.is_numeric && column.kind != ColumnKind::Empty
    };
    let score = columns.iter().find(is_score);
    if let (Some((first, second)), Some(score)) = (alike, score) {
        let name = |column: &Column| Some(column.name.clone());
        return Ok(Columns {
            text1: name(first),
            text2: name(second),
            score: name(score),
            ..Columns::default()
        });
    }
    let (anchor, positive) = pair_of(&columns, &RANKED).map_err(|()| ask())?.or(alike).ok_or_else(ask)?;
    let negative = |column: &&&Column| {
        let name = plain(&column.name);
        name == "neg" || NEGATIVES.iter().any(|start| name.starts_with(start))
    };
    Ok(Columns {
        anchor: Some(anchor.name.clone()),
        positive: Some(positive.name.clone()),
        negative: columns.iter().filter(negative).map(|column| column.name.clone()).collect(),
        ..Columns::default()
    })
}

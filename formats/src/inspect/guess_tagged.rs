//! Which columns hold words and their tags, or a text and its entities, told from names.

use super::guess::plain;
use super::{Column, ColumnKind, Inspection};
use crate::dataset::Columns;
use crate::problem::{Problem, ProblemKind};

/// Names of words, of their tags, of a text and of what is named in it; best first.
const TOKENS: [&str; 3] = ["tokens", "words", "token"];
const TAGS: [&str; 8] = ["tags", "ner_tags", "labels", "ner", "upos", "pos_tags", "pos", "tag"];
const TEXTS: [&str; 4] = ["text", "sentence", "content", "document"];
const ENTITIES: [&str; 3] = ["entities", "spans", "annotations"];

/// Tells the columns of tagged words from their names: two columns of lists, else a text and a column of entities.
///
/// # Errors
/// [`ProblemKind::AmbiguousColumns`] listing the columns.
pub fn guess_tagged(inspection: &Inspection) -> Result<Columns, Problem> {
    let find = |names: &[&str], is_list: bool| {
        let fits = |column: &&Column| (column.kind == ColumnKind::List) == is_list;
        names.iter().find_map(|name| {
            inspection.columns.iter().filter(fits).find(|column| plain(&column.name) == *name)
        })
    };
    let name = |column: &Column| Some(column.name.clone());
    if let (Some(tokens), Some(tags)) = (find(&TOKENS, true), find(&TAGS, true)) {
        return Ok(Columns { tokens: name(tokens), tags: name(tags), ..Columns::default() });
    }
    if let (Some(text), Some(entities)) = (find(&TEXTS, false), find(&ENTITIES, true)) {
        return Ok(Columns { text: text.name.clone(), entities: name(entities), ..Columns::default() });
    }
    let names: Vec<&str> = inspection.column_names().collect();
    let message = format!(
        "cannot tell which columns hold words and their tags, or a text and its entities; the file has {}",
        names.join(", ")
    );
    Err(Problem::new(ProblemKind::AmbiguousColumns, &inspection.name, message)
        .in_column("columns")
        .hint(r#"choose the columns, as in {"tokens": "…", "tags": "…"} or {"text": "…", "entities": "…"}"#))
}

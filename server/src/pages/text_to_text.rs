//! Sources and targets on the pages of data and of jobs.

use formats::dataset::Columns;
use formats::inspect::{ColumnsGuess, Inspection, Target, guess_sequences};
use store::spec::JobSpec;

use super::view::Fact;
use super::view::text::setting;

/// Columns and settings of a task that writes one text from another.
pub fn facts(spec: &JobSpec) -> Vec<Fact> {
    let settings = spec.text_to_text();
    let mut facts = Vec::new();
    let mut put = |name: &str, value: Option<String>| facts.extend(value.map(|value| Fact::new(name, value)));
    put("Source column", spec.columns.source.clone());
    put("Target column", spec.columns.target.clone());
    let prefix = &settings.source_prefix;
    put("Before each source", (!prefix.is_empty()).then(|| format!("“{prefix}”")));
    put(
        "Languages",
        settings
            .source_lang
            .as_ref()
            .zip(settings.target_lang.as_ref())
            .map(|(from, to)| format!("{from} → {to}")),
    );
    put("First token of a target", settings.forced_bos_token.clone());
    put("Longest target", Some(format!("{} tokens", settings.target_length())));
    let written = match settings.rows_written() {
        0 => "none: evaluations look at the loss alone".to_owned(),
        rows => format!("of {rows} rows at most at each evaluation, of all in the test"),
    };
    put("Targets written", Some(written));
    if settings.predict_with_generate {
        put("Beams", Some(settings.num_beams.to_string()));
        put("Length penalty", (settings.num_beams > 1).then(|| setting(settings.length_penalty)));
        let repeated = settings.no_repeat_ngram_size;
        put("Written once at most", (repeated > 0).then(|| format!("{repeated} tokens in a row")));
        put("BLEU's tokenizer", Some(settings.bleu_tokenizer.clone()));
        let stems = if settings.rouge_stemmer == Some(true) { "stems of words" } else { "words as they are" };
        put("ROUGE compares", Some(stems.to_owned()));
    }
    facts
}

/// The columns of sources and targets, where a table seems to be there for them more than for labels.
pub fn columns_of(inspection: &Inspection, labelled: Option<&ColumnsGuess>) -> Option<Columns> {
    let (columns, target) = guess_sequences(inspection).ok()?;
    (labelled.is_none() || target != Target::Text).then_some(columns)
}

/// The role of a column, also of one whose objects hold sources and targets.
pub fn role_of(columns: &Columns, column: &str) -> &'static str {
    let is_in = |name: &Option<String>| {
        name.as_deref()
            .is_some_and(|name| name == column || name.split_once('.').is_some_and(|(of, _)| of == column))
    };
    match (is_in(&columns.source), is_in(&columns.target)) {
        (true, true) => "source and target",
        (true, false) => "source",
        (false, true) => "target",
        (false, false) => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_of_objects_may_hold_both() {
        let columns = |source: &str, target: &str| Columns {
            source: Some(source.to_owned()),
            target: Some(target.to_owned()),
            ..Columns::default()
        };
        assert_eq!(role_of(&columns("translation.en", "translation.fr"), "translation"), "source and target");
        assert_eq!(role_of(&columns("en", "fr"), "fr"), "target");
        assert_eq!(role_of(&columns("en", "fr"), "id"), "");
    }
}

//! Which columns hold a source and its target, told from names.

use super::guess::plain;
use super::{ColumnKind, Inspection};
use crate::dataset::Columns;
use crate::problem::{Problem, ProblemKind};

/// What a target is to its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The same in another language.
    Translation,
    /// The same in fewer words.
    Summary,
    /// Another text.
    Text,
}

/// Names of a text and of its summary.
const SUMMARIES: [(&str, &str); 12] = [
    ("article", "highlights"),
    ("article", "summary"),
    ("article", "abstract"),
    ("document", "summary"),
    ("document", "abstract"),
    ("dialogue", "summary"),
    ("text", "summary"),
    ("text", "headline"),
    ("content", "summary"),
    ("content", "headline"),
    ("body", "title"),
    ("text", "title"),
];
/// Names of any source and its target.
const TEXTS: [(&str, &str); 10] = [
    ("source", "target"),
    ("src", "tgt"),
    ("source_text", "target_text"),
    ("input", "output"),
    ("input", "target"),
    ("inputs", "targets"),
    ("inputs", "outputs"),
    ("input_text", "target_text"),
    ("input_text", "output_text"),
    ("question", "answer"),
];
/// Names of languages: those of ISO 639-1 that texts are most often in, and in English.
const LANGUAGES: [&str; 98] = [
    "af",
    "am",
    "ar",
    "az",
    "be",
    "bg",
    "bn",
    "bs",
    "ca",
    "cs",
    "cy",
    "da",
    "de",
    "el",
    "en",
    "eo",
    "es",
    "et",
    "eu",
    "fa",
    "fi",
    "fr",
    "ga",
    "gl",
    "gu",
    "he",
    "hi",
    "hr",
    "hu",
    "hy",
    "id",
    "is",
    "it",
    "ja",
    "ka",
    "kk",
    "km",
    "kn",
    "ko",
    "ku",
    "lb",
    "lo",
    "lt",
    "lv",
    "mk",
    "ml",
    "mn",
    "mr",
    "ms",
    "mt",
    "my",
    "ne",
    "nl",
    "no",
    "pa",
    "pl",
    "ps",
    "pt",
    "ro",
    "ru",
    "si",
    "sk",
    "sl",
    "so",
    "sq",
    "sr",
    "sv",
    "sw",
    "ta",
    "te",
    "th",
    "tl",
    "tr",
    "uk",
    "ur",
    "uz",
    "vi",
    "xh",
    "yo",
    "zh",
    "zu",
    "english",
    "french",
    "german",
    "spanish",
    "italian",
    "portuguese",
    "dutch",
    "polish",
    "czech",
    "russian",
    "ukrainian",
    "turkish",
    "arabic",
    "hindi",
    "chinese",
    "japanese",
    "korean",
];

/// Languages that are also what a column that numbers rows is called.
const NUMBERS: [&str; 2] = ["id", "no"];

/// Tells source and target from the names of columns, and of fields of columns with objects (`translation.en`): two languages in
/// the order of the file, else a known pair of names.
///
/// # Errors
/// [`ProblemKind::AmbiguousColumns`] listing the columns.
pub fn guess_sequences(inspection: &Inspection) -> Result<(Columns, Target), Problem> {
    let names = inspection.text_names();
    let ask = |why: &str| {
        let message = format!("{why}; the file has {}", names.join(", "));
        Problem::new(ProblemKind::AmbiguousColumns, &inspection.name, message)
            .in_column("columns")
            .hint(r#"choose the columns, as in {"source": "…", "target": "…"}"#)
    };
    let columns = |source: &str, target: &str| Columns {
        source: Some(source.to_owned()),
        target: Some(target.to_owned()),
        ..Columns::default()
    };
    let is_empty =
        |name: &str| inspection.column(name).is_some_and(|column| column.kind == ColumnKind::Empty);
    let spoken: Vec<&String> = names.iter().filter(|name| is_language(name) && !is_empty(name)).collect();
    match spoken[..] {
        [source, target] => return Ok((columns(source, target), Target::Translation)),
        [_, _, _, ..] => {
            return Err(ask("cannot tell which of the languages is the source and which the target"));
        }
        _ => {}
    }
    let named = |wanted: &str| names.iter().find(|name| plain(name) == wanted && !is_empty(name));
    let pairs = |pairs: &[(&str, &str)]| -> Vec<(&String, &String)> {
        pairs.iter().filter_map(|(source, target)| Some((named(source)?, named(target)?))).collect()
    };
    match (&pairs(&SUMMARIES)[..], &pairs(&TEXTS)[..]) {
        ([(source, target)], []) => Ok((columns(source, target), Target::Summary)),
        ([], [(source, target)]) => Ok((columns(source, target), Target::Text)),
        _ => Err(ask("cannot tell which columns hold the source and the target")),
    }
}

/// Whether a column or a field is called after a language: `fr`, `fr_FR`, `translation.fr`, `French`.
fn is_language(name: &str) -> bool {
    if NUMBERS.contains(&&*name.to_lowercase()) {
        return false;
    }
    let own = name.rsplit_once('.').map_or(name, |(_, field)| field).to_lowercase();
    let language = own.split(['_', '-']).next().unwrap_or_default();
    // A region has two letters, as in `pt_BR`, a script four, as in `zh-Hant`.
    let rest = own.get(language.len() + 1..).unwrap_or_default();
    LANGUAGES.contains(&language) && matches!(rest.len(), 0 | 2 | 4)
}

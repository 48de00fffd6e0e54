//! Words with a tag each: named entities, parts of speech.
//!
//! A row is a sentence, in one of two layouts:
//! - a list of words and a list of as many tags (JSON lists, or CoNLL's columns). Tags are names; numbers are taken where the
//!   file begins with a row that names them, `{"features": {"tags": {"names": ["O", "B-PER", …]}}}`;
//! - a text and its entities, `{"start": 0, "end": 6, "label": "LOC"}` or `[0, 6, "LOC"]`, counted in characters. The text is
//!   cut into words, and the words get IOB2 tags ([`spans`]).

mod cells;
pub mod entities;
mod scheme;
pub mod spans;
mod survey;

use std::path::Path;

pub use scheme::{Scheme, parts_of};
pub use survey::{Summary, Survey, survey_tagged};

use super::{Columns, Places, Role, each_row, twice};
use crate::problem::{LineRange, Problem, ProblemKind, Problems};
use crate::table::{Cell, Row};
use cells::Names;

/// What the rows of tagged words are, by the roles that their columns have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tagging<'a> {
    /// A word list and a tag list.
    Words {
        /// Column of the words.
        tokens: &'a str,
        /// Column of their tags.
        tags: &'a str,
    },
    /// A text and what is in it.
    Spans {
        /// Column of the text.
        text: &'a str,
        /// Column of the entities.
        entities: &'a str,
    },
}

impl Tagging<'_> {
    /// The layout whose roles all have a column; `None` where none has, or both have some.
    pub fn of(columns: &Columns) -> Option<Tagging<'_>> {
        let Columns { tokens, tags, text, entities, .. } = columns;
        let words = tokens.is_some() || tags.is_some();
        let spans = !text.is_empty() || entities.is_some();
        match (words, spans) {
            (true, false) => Some(Tagging::Words { tokens: tokens.as_deref()?, tags: tags.as_deref()? }),
            (false, true) if !text.is_empty() => {
                Some(Tagging::Spans { text, entities: entities.as_deref()? })
            }
            _ => None,
        }
    }

    /// Role and column of both.
    pub fn roles(&self) -> [(&'static str, &str); 2] {
        match self {
            Tagging::Words { tokens, tags } => [("tokens", tokens), ("tags", tags)],
            Tagging::Spans { text, entities } => [("text", text), ("entities", entities)],
        }
    }
}

/// One row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sentence {
    /// Its number among the rows, from 0.
    pub row: u64,
    /// The first physical line of the file it stands on.
    pub line: u64,
    /// Its words.
    pub words: Vec<String>,
    /// A tag for each word.
    pub tags: Vec<String>,
    /// How many borders of entities lie within a word, which is cut there.
    pub cut_words: u64,
}

/// Reads all rows of a file.
///
/// # Errors
/// Everything that is wrong, by line and column: rows that cannot be read or are empty, lists of unequal length, tags without
/// words, spans outside of their text or over each other, a column that is not there, a file without rows. No row is left out.
pub fn read_tagged(path: &Path, name: &str, tagging: Tagging) -> Result<Vec<Sentence>, Problems> {
    let mut sentences = Vec::new();
    each_sentence(path, name, tagging, |sentence| {
        sentences.push(sentence);
        Ok(())
    })?;
    Ok(sentences)
}

/// Calls `use_it` for each row, and gathers what is wrong with the file or what `use_it` says is.
fn each_sentence(
    path: &Path,
    name: &str,
    tagging: Tagging,
    mut use_it: impl FnMut(Sentence) -> Result<(), Problem>,
) -> Result<(), Problems> {
    let mut read = 0_u64;
    each_row(path, name, Found::new(name, tagging)?, Found::sentence, |sentence| match sentence {
        Some(sentence) => {
            read += 1;
            use_it(sentence)
        }
        None => Ok(()),
    })?;
    match read {
        0 => Err(Problem::new(ProblemKind::NoRows, name, "there is a row of names, but no sentences")
            .hint("add rows of data")
            .into()),
        _ => Ok(()),
    }
}

/// The columns, as far as they were seen.
struct Found<'a> {
    file: &'a str,
    of_spans: bool,
    /// Of words or of the text.
    first: Role,
    /// Of tags or of entities.
    second: Role,
    /// Where names of numbered tags may stand.
    features: Optional,
    names: std::cell::RefCell<Option<Names>>,
}

/// A column that need not be there.
struct Optional(Option<usize>);

impl Places for Found<'_> {
    fn roles(&mut self) -> Vec<&mut Role> {
        vec![&mut self.first, &mut self.second]
    }

    fn look(&mut self, columns: &[String]) {
        if self.features.0.is_none() {
            self.features.0 = columns.iter().position(|column| column == "features");
        }
    }
}

impl<'a> Found<'a> {
    fn new(file: &'a str, tagging: Tagging) -> Result<Self, Problem> {
        let [(_, first), (_, second)] = tagging.roles();
        if first.trim() == second.trim() {
            return Err(twice(file, first.trim(), "choose a column of its own for each role"));
        }
        Ok(Found {
            file,
            of_spans: matches!(tagging, Tagging::Spans { .. }),
            first: Role::new(first),
            second: Role::new(second),
            features: Optional(None),
            names: None.into(),
        })
    }

    /// The sentence of a row; `None` for the row that names the tags.
    fn sentence(&self, number: u64, row: &Row) -> Result<Option<Sentence>, Problems> {
        if number == 0 && self.takes_names(row)? {
            return Ok(None);
        }
        let line = row.lines.first;
        let sentence = Sentence { row: number, line, ..Sentence::default() };
        match self.of_spans {
            true => self.spanned(row, sentence),
            false => self.listed(row, sentence),
        }
        .map(Some)
    }

    fn takes_names(&self, row: &Row) -> Result<bool, Problem> {
        let cell = self.features.0.map_or(&Cell::Missing, |place| row.cell(place));
        let Cell::Object(features) = cell else { return Ok(false) };
        if self.of_spans || *self.first.cell(row) != Cell::Missing {
            return Ok(false);
        }
        let names = Names::read(features, &self.second.column);
        let names = names.map_err(|message| self.wrong(row, "features", ProblemKind::Header, message))?;
        *self.names.borrow_mut() = Some(names);
        Ok(true)
    }

    fn listed(&self, row: &Row, sentence: Sentence) -> Result<Sentence, Problems> {
        let (tokens, tags) = (&self.first, &self.second);
        let words = cells::words(tokens.cell(row));
        let found = cells::tags(tags.cell(row), self.names.borrow().as_ref());
        let mut problems = Problems::default();
        let mut keep = |role: &Role, outcome: Result<Vec<String>, cells::Wrong>| {
            let (kind, message, hint) = match outcome {
                Ok(list) => return Some(list),
                Err(wrong) => wrong,
            };
            problems.push(self.wrong(row, &role.column, kind, message).hint(hint));
            None
        };
        let (words, found) = (keep(tokens, words), keep(tags, found));
        let (Some(words), Some(found)) = (words, found) else { return Err(problems) };
        if words.is_empty() && found.is_empty() {
            let message = "the row is empty: it has no tokens".to_owned();
            let problem = self.wrong(row, &tokens.column, ProblemKind::MissingText, message);
            return Err(problem.hint("fill it in or remove the row").into());
        }
        if words.len() != found.len() {
            let (words, tags) = (counted(words.len(), "token"), counted(found.len(), "tag"));
            let problem =
                self.wrong(row, &self.second.column, ProblemKind::InvalidValue, format!("{words}, {tags}"));
            return Err(problem.hint("give each token one tag, `O` where there is nothing").into());
        }
        Ok(Sentence { words, tags: found, ..sentence })
    }

    fn spanned(&self, row: &Row, sentence: Sentence) -> Result<Sentence, Problems> {
        let text = self.first.text(row, self.file).map_err(Problems::from);
        let spans = cells::spans(self.second.cell(row)).map_err(|(kind, message, hint)| {
            Problems::from(self.wrong(row, &self.second.column, kind, message).hint(hint))
        });
        let (text, spans) = match (text, spans) {
            (Ok(text), Ok(spans)) => (text, spans),
            (Err(mut wrong), Err(others)) => {
                wrong.extend(others.listed);
                return Err(wrong);
            }
            (Err(wrong), _) | (_, Err(wrong)) => return Err(wrong),
        };
        let made = spans::tagged(&text, &spans).map_err(|wrong| {
            let mut problems = Problems::default();
            problems.extend(wrong.into_iter().map(|message| {
                self.wrong(row, &self.second.column, ProblemKind::InvalidValue, message).hint(
                    "`start` and `end` count characters from 0, and `end` is the first one after the span",
                )
            }));
            problems
        })?;
        if made.words.is_empty() {
            let message = "the text holds no word".to_owned();
            return Err(self.wrong(row, &self.first.column, ProblemKind::MissingText, message).into());
        }
        Ok(Sentence { words: made.words, tags: made.tags, cut_words: made.cut_words, ..sentence })
    }

    fn wrong(&self, row: &Row, column: &str, kind: ProblemKind, message: String) -> Problem {
        let LineRange { first, .. } = row.lines;
        Problem::new(kind, self.file, message).at(LineRange { first, ..row.lines }).in_column(column)
    }
}

/// "1 tag", "3 tags".
pub(super) fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

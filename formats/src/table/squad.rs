//! SQuAD's own layout: one JSON object, whose articles have paragraphs, which have questions.
//!
//! ```text
//! {"version": "v2.0", "data": [{"title": "…", "paragraphs": [{"context": "…", "qas": [
//!     {"id": "…", "question": "…", "answers": [{"text": "…", "answer_start": 17}], "is_impossible": false}]}]}]}
//! ```
//!
//! A question becomes an object with its own fields, and `title` and `context` beside them. The file is read as a whole: a
//! question's context may stand behind it.

use std::io::Read;
use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::encoding::TextReader;
use crate::problem::{LineRange, Problem, ProblemKind};

/// More text than any file of this layout has; SQuAD's own are below 64 MiB.
const MAX_FILE: u64 = 1024 * 1024 * 1024;

/// Whether the beginning of a file is that of SQuAD's layout.
pub(super) fn is_squad(head: &str) -> bool {
    ["data", "paragraphs"].iter().all(|key| {
        let key = format!("\"{key}\"");
        // Within a text the quotation marks would be escaped.
        head.match_indices(&key).any(|(at, _)| {
            let rest = head[at + key.len()..].trim_start();
            rest.strip_prefix(':').is_some_and(|rest| rest.trim_start().starts_with('['))
        })
    })
}

/// The questions of a file, one after the other.
pub(super) struct Questions {
    name: String,
    source: Option<TextReader>,
    text: String,
    places: std::vec::IntoIter<Result<Place, Problem>>,
    /// Bytes passed over, and the line that they end on.
    passed: (usize, u64),
}

/// Where the parts of a question stand, in bytes of the file.
struct Place {
    title: Option<Range<usize>>,
    context: Range<usize>,
    question: Range<usize>,
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Article<'a> {
    #[serde(borrow, default)]
    title: Option<&'a RawValue>,
    #[serde(borrow)]
    paragraphs: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Paragraph<'a> {
    #[serde(borrow)]
    context: &'a RawValue,
    #[serde(borrow)]
    qas: Vec<&'a RawValue>,
}

impl Questions {
    pub(super) fn new(source: TextReader, name: &str) -> Self {
        Questions {
            name: name.to_owned(),
            source: Some(source),
            text: String::new(),
            places: Vec::new().into_iter(),
            passed: (0, 1),
        }
    }

    /// The next question as an object of its own, with the lines that it stands on.
    pub(super) fn next(&mut self) -> Result<Option<(LineRange, Vec<u8>)>, Problem> {
        if let Some(source) = self.source.take() {
            self.read(source)?;
        }
        let place = match self.places.next() {
            None => return Ok(None),
            Some(place) => place?,
        };
        let lines =
            LineRange { first: self.line_of(place.question.start), last: self.line_of(place.question.end) };
        let question = self.text[place.question].trim();
        let Some(fields) = question.strip_prefix('{') else {
            let message = "expected a question as an object";
            return Err(Problem::new(ProblemKind::InvalidJson, &self.name, message)
                .at(lines)
                .hint(r#"write {"id": "…", "question": "…", "answers": […]}"#));
        };
        let mut object = String::from("{");
        if let Some(title) = place.title {
            object += "\"title\":";
            object += &self.text[title];
            object += ",";
        }
        object += "\"context\":";
        object += &self.text[place.context];
        if !fields.trim_start().starts_with('}') {
            object += ",";
        }
        object += fields;
        Ok(Some((lines, object.into_bytes())))
    }

    fn read(&mut self, source: TextReader) -> Result<(), Problem> {
        let read = source.take(MAX_FILE + 1).read_to_string(&mut self.text);
        read.map_err(|error| Problem::from_io(error, &self.name))?;
        if self.text.len() as u64 > MAX_FILE {
            let message = "a file of SQuAD's layout is read as a whole, and this one has more than 1 GiB";
            return Err(Problem::new(ProblemKind::TooLarge, &self.name, message)
                .hint("write one question a line, with its context, as JSON Lines"));
        }
        let file: File = serde_json::from_str(&self.text).map_err(|error| {
            let line = LineRange::one(error.line() as u64);
            Problem::new(ProblemKind::UnsupportedFormat, &self.name, format!("not SQuAD's layout: {error}"))
                .at(line)
                .hint("the file may have been cut short, upload it again")
        })?;
        let mut places = Vec::new();
        for (number, article) in file.data.into_iter().enumerate() {
            self.article(article, &format!("data[{number}]"), &mut places);
        }
        self.places = places.into_iter();
        Ok(())
    }

    fn article(&self, raw: &RawValue, at: &str, places: &mut Vec<Result<Place, Problem>>) {
        let article: Article = match serde_json::from_str(raw.get()) {
            Ok(article) => article,
            Err(error) => return places.push(Err(self.malformed(raw, at, &error))),
        };
        for (number, raw) in article.paragraphs.into_iter().enumerate() {
            let paragraph: Paragraph = match serde_json::from_str(raw.get()) {
                Ok(paragraph) => paragraph,
                Err(error) => {
                    let at = format!("{at}.paragraphs[{number}]");
                    places.push(Err(self.malformed(raw, &at, &error)));
                    continue;
                }
            };
            for question in paragraph.qas {
                places.push(Ok(Place {
                    title: article.title.map(|title| self.range(title)),
                    context: self.range(paragraph.context),
                    question: self.range(question),
                }));
            }
        }
    }

    /// An article or a paragraph without what it has to have.
    fn malformed(&self, raw: &RawValue, at: &str, error: &serde_json::Error) -> Problem {
        let text = error.to_string();
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
        let before = &self.text[..self.range(raw).start];
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count() as u64;
        Problem::new(ProblemKind::InvalidJson, &self.name, what)
            .at(LineRange::one(line))
            .in_column(at)
            .hint("an article has paragraphs, a paragraph has a context and qas")
    }

    /// Where a part of the file's text stands in it.
    fn range(&self, part: &RawValue) -> Range<usize> {
        let start = part.get().as_ptr().addr() - self.text.as_ptr().addr();
        start..start + part.get().len()
    }

    /// The line of a byte, which never lies before one asked for earlier in this order by more than a question.
    fn line_of(&mut self, at: usize) -> u64 {
        let (passed, line) = self.passed;
        if at < passed {
            return 1 + self.text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
        let lines = self.text.as_bytes()[passed..at].iter().filter(|byte| **byte == b'\n').count();
        self.passed = (at, line + lines as u64);
        self.passed.1
    }
}

//! CoNLL's layout: a word a line with its columns, a blank line after each sentence.
//!
//! A row is a sentence, and each of its cells a list with one entry a word. The first column is called `tokens`, the last
//! `tags`, those between them `column 2` and so on; the ten columns of CoNLL-U have their own names, with `tokens` for the
//! form. Columns are parted by tabs where the first word's line has one, else by any blanks. `-DOCSTART-` lines and comments
//! (`# …` before the first word of a sentence) are passed over.

use super::encoding::TextReader;
use super::lines::{Lines, MAX_ROW, is_blank, too_large};
use super::{Cell, Row};
use crate::problem::{LineRange, Problem, ProblemKind};

/// Endings that say what a file is.
const ENDINGS: [&str; 8] = ["conll", "conllu", "conll2003", "conll03", "bio", "iob", "iob2", "bioes"];

/// The columns of CoNLL-U (universaldependencies.org/format.html).
const UNIVERSAL: [&str; 10] =
    ["id", "tokens", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc"];

/// Whether a file's ending, without its dot and in small letters, says that it has CoNLL's columns.
pub fn is_conll(ending: &str) -> bool {
    ENDINGS.contains(&ending)
}

const DOCUMENT: &str = "-DOCSTART-";

pub(super) struct ConllRows {
    name: String,
    lines: Lines,
    columns: Vec<String>,
    by_tab: bool,
    /// Whether lines whose number is a range or a decimal stand beside the words.
    is_universal: bool,
    /// A line that was read ahead.
    ahead: Option<String>,
}

impl ConllRows {
    pub(super) fn open(text: TextReader, name: &str) -> Result<Self, Problem> {
        let mut rows = ConllRows {
            name: name.to_owned(),
            lines: Lines::new(text, name),
            columns: Vec::new(),
            by_tab: false,
            is_universal: false,
            ahead: None,
        };
        while let Some(line) = rows.line()? {
            if line.trim().is_empty() || line.starts_with('#') || line.starts_with(DOCUMENT) {
                continue;
            }
            rows.by_tab = line.contains('\t');
            let width = rows.fields(&line).count();
            rows.is_universal = width == UNIVERSAL.len() && name.to_ascii_lowercase().ends_with(".conllu");
            rows.columns = columns(width, rows.is_universal);
            rows.ahead = Some(line);
            break;
        }
        Ok(rows)
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(super) fn into_columns(self) -> Vec<String> {
        self.columns
    }

    pub(super) fn next(&mut self) -> Option<Result<Row, Problem>> {
        self.sentence().transpose()
    }

    fn sentence(&mut self) -> Result<Option<Row>, Problem> {
        let mut lists: Vec<Vec<String>> = vec![Vec::new(); self.columns.len()];
        let mut range = LineRange::one(0);
        let (mut wrong, mut size) = (None, 0);
        while let Some(line) = self.line()? {
            let (is_first, number) = (range.first == 0, self.lines.number);
            if line.trim().is_empty() || line.starts_with(DOCUMENT) {
                match is_first {
                    true => continue,
                    false => break,
                }
            }
            let fields: Vec<&str> = self.fields(&line).collect();
            let fits = fields.len() == self.columns.len();
            // A word `#` is told from a comment by its tag.
            let is_word = fits && fields[0] == "#" && fields.last().is_some_and(|tag| is_tag(tag));
            if is_first && line.starts_with('#') && !is_word {
                continue;
            }
            if is_first {
                range.first = number;
            }
            range.last = number;
            if self.is_universal && fields[0].contains(['-', '.']) {
                continue;
            }
            if !fits {
                wrong.get_or_insert_with(|| self.ragged(number, fields.len()));
                continue;
            }
            size += line.len();
            if size > MAX_ROW {
                return Err(too_large(&self.name, range));
            }
            for (list, field) in lists.iter_mut().zip(fields) {
                list.push(field.to_owned());
            }
        }
        match wrong {
            _ if range.first == 0 => Ok(None),
            Some(problem) => Err(problem),
            None => {
                let cell = |list: &Vec<String>| Cell::List(serde_json::json!(list).to_string());
                Ok(Some(Row { lines: range, cells: lists.iter().map(cell).collect() }))
            }
        }
    }

    /// The next line, without its end.
    fn line(&mut self) -> Result<Option<String>, Problem> {
        if let Some(line) = self.ahead.take() {
            return Ok(Some(line));
        }
        let mut bytes = Vec::new();
        if !self.lines.read(&mut bytes)? {
            return Ok(None);
        }
        if is_blank(&bytes) {
            return Ok(Some(String::new()));
        }
        Ok(Some(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned()))
    }

    fn fields<'l>(&self, line: &'l str) -> Box<dyn Iterator<Item = &'l str> + 'l> {
        match self.by_tab {
            true => Box::new(line.split('\t').map(str::trim)),
            false => Box::new(line.split_whitespace()),
        }
    }

    fn ragged(&self, line: u64, found: usize) -> Problem {
        let plural = if found == 1 { "" } else { "s" };
        let wanted = self.columns.len();
        let message = format!("the line has {found} column{plural}, those before it have {wanted}");
        let hint = match found < wanted {
            true => "give each word its tag, and put a blank line between sentences",
            false => "part columns by tabs where a word holds blanks",
        };
        Problem::new(ProblemKind::RaggedRow, &self.name, message).at(LineRange::one(line)).hint(hint)
    }
}

fn columns(width: usize, is_universal: bool) -> Vec<String> {
    if is_universal {
        return UNIVERSAL.map(str::to_owned).to_vec();
    }
    let name = |place: usize| match place {
        0 => "tokens".to_owned(),
        last if last + 1 == width => "tags".to_owned(),
        place => format!("column {}", place + 1),
    };
    (0..width).map(name).collect()
}

/// Whether the beginning of a file reads as words with tags: a `-DOCSTART-` line, or `O`, `B-…` and the like at the end of
/// nearly every line.
pub(super) fn looks_like_it(head: &str) -> bool {
    let lines: Vec<&str> = head.lines().filter(|line| !line.trim().is_empty()).collect();
    // The last line may be cut.
    let whole = &lines[..lines.len().saturating_sub(usize::from(!head.ends_with('\n') && lines.len() > 1))];
    if whole.first().is_some_and(|line| line.starts_with(DOCUMENT)) {
        return true;
    }
    let words: Vec<&&str> = whole.iter().filter(|line| !line.starts_with('#')).collect();
    let tagged = |line: &&&&str| {
        let mut fields = line.split_whitespace();
        fields.next().is_some() && fields.next_back().is_some_and(is_tag)
    };
    let fitting = words.iter().filter(tagged).count();
    fitting >= 2 && fitting * 10 >= words.len() * 9
}

fn is_tag(field: &str) -> bool {
    let prefixed = |field: &str| {
        let mut parts = field.splitn(2, '-');
        matches!(parts.next(), Some("B" | "I" | "E" | "S" | "L" | "U"))
            && parts.next().is_some_and(|rest| !rest.is_empty())
    };
    field == "O" || prefixed(field)
}

//! A look at all rows of tagged words: how many, which tags, which scheme, what is wrong and what is odd.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::entities::lenient;
use super::scheme::{Evidence, Scheme, parts_of};
use super::{Sentence, Tagging, counted, each_sentence};
use crate::dataset::{ClassCount, LabelMap};
use crate::problem::{LineRange, Problem, ProblemKind, Problems};

/// Lines that a notice names.
const NAMED: usize = 5;

/// What a file of tagged words holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many sentences.
    pub rows: u64,
    /// How many words.
    pub words: u64,
    /// How the tags say where an entity begins and ends.
    pub scheme: Scheme,
    /// Words of each tag, in the order of [`LabelMap`].
    pub tags: Vec<ClassCount>,
    /// Entities of each type, by conlleval's rule.
    pub types: Vec<ClassCount>,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
}

/// What a file of tagged words holds, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Survey {
    /// What the rows that can be used hold.
    pub summary: Summary,
    /// Rows that cannot be used.
    pub problems: Problems,
}

impl Survey {
    /// The summary of a file without any problem.
    ///
    /// # Errors
    /// What is wrong.
    pub fn checked(self) -> Result<Summary, Problems> {
        self.problems.or(self.summary)
    }
}

/// Looks at all rows of a file without keeping them.
///
/// With `known`, the tags of the training data, a tag that is not among them is a problem.
pub fn survey_tagged(path: &Path, name: &str, tagging: Tagging, known: Option<&LabelMap>) -> Survey {
    let mut seen = Seen::default();
    let [_, (_, column)] = tagging.roles();
    let outcome = each_sentence(path, name, tagging, |sentence| {
        seen.add(&sentence);
        let lacks = |tag: &&String| known.is_some_and(|known| known.id(tag).is_none());
        match sentence.tags.iter().find(lacks) {
            None => Ok(()),
            Some(tag) => {
                let message = format!("the tag `{tag}` does not occur in the training data");
                let names = known.map_or_else(String::new, |known| known.names().join(", "));
                Err(Problem::new(ProblemKind::UnknownLabel, name, message)
                    .at(LineRange::one(sentence.line))
                    .in_column(column)
                    .hint(format!("the training data has {names}")))
            }
        }
    });
    Survey { summary: seen.summary(), problems: outcome.err().unwrap_or_default() }
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    rows: u64,
    words: u64,
    tags: BTreeMap<String, u64>,
    evidence: Evidence,
    /// Entities by type, as if the tags had prefixes.
    types: BTreeMap<String, u64>,
    /// Lines of tags without a prefix, and of those with one.
    plain: Odd,
    prefixed: Odd,
    cut_words: u64,
}

/// Where tags of a kind stand.
#[derive(Default)]
struct Odd {
    count: u64,
    first: Vec<(u64, String)>,
}

impl Odd {
    fn add(&mut self, line: u64, tag: &str) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push((line, tag.to_owned()));
        }
    }

    /// "line 4: the tag `LOC` fits no scheme of the other tags, which are IOB2".
    fn notice(&self, scheme: Scheme) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let places: Vec<String> =
            self.first.iter().map(|(line, tag)| format!("line {line}: the tag `{tag}`")).collect();
        let more = self.count - self.first.len() as u64;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let verb = if self.count == 1 { "fits" } else { "fit" };
        let others = scheme.name();
        Some(format!("{}{more} {verb} no scheme of the other tags ({others})", places.join(", ")))
    }
}

impl Seen {
    fn add(&mut self, sentence: &Sentence) {
        self.rows += 1;
        self.words += sentence.words.len() as u64;
        self.cut_words += sentence.cut_words;
        self.evidence.add(&sentence.tags);
        for tag in &sentence.tags {
            match self.tags.get_mut(tag) {
                Some(count) => *count += 1,
                None => {
                    self.tags.insert(tag.clone(), 1);
                }
            }
            match parts_of(tag).0 {
                None => self.plain.add(sentence.line, tag),
                Some('O') => {}
                Some(_) => self.prefixed.add(sentence.line, tag),
            }
        }
        let tags: Vec<&str> = sentence.tags.iter().map(String::as_str).collect();
        for entity in lenient(&tags, Scheme::default()) {
            *self.types.entry(entity.name.to_owned()).or_default() += 1;
        }
    }

    fn summary(self) -> Summary {
        let scheme = self.evidence.scheme();
        let is_plain = scheme == Scheme::Plain;
        let mut notices: Vec<String> =
            if is_plain { self.prefixed.notice(scheme) } else { self.plain.notice(scheme) }
                .into_iter()
                .collect();
        let orphans = self.evidence.orphans;
        if scheme == Scheme::Iob2 && orphans > 0 {
            let tags = counted(usize::try_from(orphans).unwrap_or(usize::MAX), "`I-` tag");
            notices.push(format!(
                "{tags} without a `B-` or `I-` of the same type before: f1 takes each for a beginning, strict_f1 for none"
            ));
        }
        if self.cut_words > 0 {
            let cut = usize::try_from(self.cut_words).unwrap_or(usize::MAX);
            let borders = counted(cut, "time");
            notices.push(format!(
                "a border of an entity lies within a word, which is cut in two there ({borders})"
            ));
        }
        let of = |counts: &BTreeMap<String, u64>| {
            let map = LabelMap::from_names(counts.keys().cloned());
            map.names().iter().map(|name| ClassCount { label: name.clone(), rows: counts[name] }).collect()
        };
        let tags: Vec<ClassCount> = of(&self.tags);
        let types = match is_plain {
            true => tags.iter().filter(|tag| tag.label != "O").cloned().collect(),
            false => of(&self.types),
        };
        Summary { rows: self.rows, words: self.words, scheme, tags, types, notices }
    }
}

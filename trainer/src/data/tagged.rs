//! The files of a tagging job: sentences of words with their tags, read, split and tokenized.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use formats::dataset::tagged::{Scheme, Sentence, Tagging, read_tagged, survey_tagged};
use formats::dataset::{LabelMap, random_split};
use formats::tokenizer::{Piece, Tokenizer, Worded};
use formats::{Problem, ProblemKind};
use store::spec::JobSpec;

use super::{Data, Split, Tokens, parts};
use crate::failure::Failure;
use crate::job::Events;
use crate::tasks::Targets;

/// Rows that a warning names.
const NAMED: usize = 5;

/// A sentence as the loss and the metrics take it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tagged {
    /// Its words.
    pub words: Vec<String>,
    /// The id of each word's tag.
    pub tags: Vec<usize>,
    /// Where each word begins among the row's tokens.
    pub pieces: Vec<Piece>,
    /// Tokens that count in the loss, each with the id of its tag.
    pub counted: Vec<(usize, usize)>,
}

impl Tagged {
    /// Words that the model sees.
    pub fn seen(&self) -> usize {
        self.pieces.iter().filter(|piece| matches!(piece, Piece::At(_))).count()
    }

    /// Words beyond the longest length.
    pub fn cut(&self) -> usize {
        self.pieces.iter().filter(|piece| **piece == Piece::Cut).count()
    }
}

/// What there is to tell apart.
pub struct Tags {
    /// Tag names by id, made from the training file alone.
    pub names: Vec<String>,
    /// How they say where an entity begins and ends.
    pub scheme: Scheme,
}

impl Data {
    /// Reads the files under `DIR/data`; what is held out comes from files of their own, or from the training file.
    pub fn tagged(
        dir: &Path,
        spec: &JobSpec,
        tokenizer: &Tokenizer,
        max_length: usize,
        events: &mut Events,
    ) -> Result<(Self, Tags)> {
        let tagging = Tagging::of(&spec.columns)
            .ok_or_else(|| Failure::user("invalid_spec", "columns: the roles are missing.").at("columns"))?;
        let path = |file: &String| dir.join("data").join(file);
        let summary = survey_tagged(&path(&spec.data.train), &spec.data.train, tagging, None).checked()?;
        let names = LabelMap::from_names(summary.tags.into_iter().map(|tag| tag.label));
        names.at_least(2, &spec.data.train).map_err(|problem| Problem {
            message: "every word has the same tag, so there is nothing to learn".to_owned(),
            hint: Some("add rows with another tag".into()),
            kind: ProblemKind::OneClass,
            ..problem
        })?;
        let read = |file: &String| read_tagged(&path(file), file, tagging).map_err(anyhow::Error::from);
        let held_out = |file: &String| {
            // Tags that the training rows do not have are a problem of the file.
            survey_tagged(&path(file), file, tagging, Some(&names)).checked()?;
            read(file)
        };
        let optional = |file: &Option<String>| file.as_ref().map(held_out).transpose();
        let all = read(&spec.data.train)?;
        let (validation, test) = (optional(&spec.data.validation)?, optional(&spec.data.test)?);
        let split = random_split(all.len(), spec.held_out(), u64::from(spec.split.seed));
        let (train, validation, test) = parts(&all, &split, validation, test);
        for (name, rows) in [("validation", &validation), ("test", &test)] {
            tell_overlap(name, &train, rows, events)?;
        }
        let maker =
            Maker { tokenizer, names: &names, all_tokens: spec.training.label_all_tokens, max_length };
        let mut part = |name: &str, sentences: Vec<Sentence>| match sentences.is_empty() {
            true => Ok(None),
            false => maker.split(name, sentences, events).map(Some),
        };
        let train = part("train", train)?;
        let train = train.ok_or_else(|| Failure::user("too_few_rows", "No row is left to train on."))?;
        let data = Data {
            train: Arc::new(train),
            validation: part("validation", validation)?,
            test: part("test", test)?,
            prompts: Vec::new(),
        };
        let scheme = summary.scheme;
        let tags = names.names().to_vec();
        events.log(0, format!("{} tags in the scheme {}: {}", tags.len(), scheme.name(), tags.join(", ")))?;
        for notice in &summary.notices {
            events.warn(0, format!("{notice}."))?;
        }
        Ok((data, Tags { names: tags, scheme }))
    }
}

/// Warns of held-out sentences that are learnt as well.
fn tell_overlap(name: &str, train: &[Sentence], rows: &[Sentence], events: &mut Events) -> Result<()> {
    let known: HashSet<&[String]> = train.iter().map(|row| row.words.as_slice()).collect();
    match rows.iter().filter(|row| known.contains(row.words.as_slice())).count() {
        0 => Ok(()),
        n => events.warn(0, format!("{n} of {} {name} rows are in the training rows as well.", rows.len())),
    }
}

/// How sentences become tokens.
struct Maker<'a> {
    tokenizer: &'a Tokenizer,
    names: &'a LabelMap,
    all_tokens: bool,
    max_length: usize,
}

impl Maker<'_> {
    fn split(&self, name: &str, sentences: Vec<Sentence>, events: &mut Events) -> Result<Split> {
        let words: Vec<&[String]> = sentences.iter().map(|sentence| sentence.words.as_slice()).collect();
        let worded = self.tokenizer.encode_words(&words, self.max_length)?;
        let encodings: Vec<_> = worded.iter().map(|worded| worded.encoding.clone()).collect();
        let numbers = sentences.iter().map(|sentence| sentence.row).collect();
        let lines: Vec<u64> = sentences.iter().map(|sentence| sentence.line).collect();
        let tagged: Vec<Tagged> = sentences
            .into_iter()
            .zip(worded)
            .map(|(sentence, worded)| self.tagged(sentence, worded))
            .collect();
        self.tell(name, &lines, &tagged, events)?;
        Ok(Split {
            tokens: Tokens::of(&encodings),
            per_row: 1,
            reference: Vec::new(),
            mismatched: None,
            answers: None,
            keys: Vec::new(),
            numbers,
            targets: Targets::Tags(tagged),
            texts: Vec::new(),
        })
    }

    fn tagged(&self, sentence: Sentence, worded: Worded) -> Tagged {
        let id = |tag: &str| self.names.id(tag).unwrap_or_default();
        let tags: Vec<usize> = sentence.tags.iter().map(|tag| id(tag)).collect();
        let Worded { word_of, pieces, .. } = worded;
        let mut counted = Vec::new();
        for (token, word) in word_of.iter().enumerate() {
            let Some(word) = word.map(|word| word as usize) else { continue };
            if pieces[word] == Piece::At(token as u32) {
                counted.push((token, tags[word]));
            } else if self.all_tokens && matches!(pieces[word], Piece::At(_)) {
                // What goes on a word does not begin an entity, where there is a tag that says so.
                let inside = sentence.tags[word].strip_prefix("B-").map(|name| format!("I-{name}"));
                let inside = inside.and_then(|tag| self.names.id(&tag));
                counted.push((token, inside.unwrap_or(tags[word])));
            }
        }
        Tagged { words: sentence.words, tags, pieces, counted }
    }

    /// Says how many rows and words there are, and what is cut off.
    fn tell(&self, name: &str, lines: &[u64], rows: &[Tagged], events: &mut Events) -> Result<()> {
        let words: usize = rows.iter().map(|row| row.words.len()).sum();
        events.log(0, format!("{name}: {} rows, {words} words", rows.len()))?;
        let silent: usize =
            rows.iter().flat_map(|row| &row.pieces).filter(|piece| **piece == Piece::None).count();
        if silent > 0 {
            events
                .log(0, format!("{name}: {silent} of {words} words give no token and count for nothing"))?;
        }
        let cut: Vec<(u64, &Tagged)> =
            lines.iter().copied().zip(rows).filter(|(_, row)| row.cut() > 0).collect();
        if cut.is_empty() {
            return Ok(());
        }
        let all: usize = cut.iter().map(|(_, row)| row.cut()).sum();
        let of_row = |(line, row): &(u64, &Tagged)| {
            format!("line {line}: {} of {} words cut", row.cut(), row.words.len())
        };
        let mut shown: Vec<String> = cut.iter().take(NAMED).map(of_row).collect();
        if cut.len() > NAMED {
            shown.push(format!("and {} more rows", cut.len() - NAMED));
        }
        events.warn(
            0,
            format!(
                "{name}: {all} of {words} words lie beyond {} tokens ({}); they are not learnt, and recall counts their \
                 entities as missed. A greater max_length, or shorter rows, keeps them.",
                self.max_length,
                shown.join(", ")
            ),
        )
    }
}

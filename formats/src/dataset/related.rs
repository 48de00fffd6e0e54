//! Texts that are near each other or far from each other, to learn vectors from.
//!
//! A row is an anchor, a text near it and texts far from it; or two texts and a number that says how near they are.

use std::collections::HashSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Columns, Label, Places, ProblemType, Role, each_row, twice};
use crate::problem::{LineRange, Problem, ProblemKind, Problems};
use crate::table::Row;

/// What the rows of related texts are, by the roles that their columns have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation<'a> {
    /// An anchor, what is near it, and what is far from it.
    Ranked {
        /// Column of the anchor.
        anchor: &'a str,
        /// Column of the text near it.
        positive: &'a str,
        /// Columns of texts far from it.
        negative: &'a [String],
    },
    /// Two texts, and how near they are.
    Scored {
        /// Column of the first text.
        text1: &'a str,
        /// Column of the second.
        text2: &'a str,
        /// Column of the number.
        score: &'a str,
    },
}

impl Relation<'_> {
    /// The relation whose roles all have a column; `None` where none has, or both have some.
    pub fn of(columns: &Columns) -> Option<Relation<'_>> {
        let Columns { anchor, positive, negative, text1, text2, score, .. } = columns;
        let ranked = anchor.is_some() || positive.is_some() || !negative.is_empty();
        let scored = text1.is_some() || text2.is_some() || score.is_some();
        match (ranked, scored) {
            (true, false) => Some(Relation::Ranked {
                anchor: anchor.as_deref()?,
                positive: positive.as_deref()?,
                negative,
            }),
            (false, true) => Some(Relation::Scored {
                text1: text1.as_deref()?,
                text2: text2.as_deref()?,
                score: score.as_deref()?,
            }),
            _ => None,
        }
    }

    /// Role and column of each text, in the order of [`Related::texts`].
    pub fn texts(&self) -> Vec<(&'static str, &str)> {
        match self {
            Relation::Ranked { anchor, positive, negative } => [("anchor", *anchor), ("positive", *positive)]
                .into_iter()
                .chain(negative.iter().map(|column| ("negative", column.as_str())))
                .collect(),
            Relation::Scored { text1, text2, .. } => vec![("text1", text1), ("text2", text2)],
        }
    }

    /// Whether pairs have a number.
    pub fn is_scored(&self) -> bool {
        matches!(self, Relation::Scored { .. })
    }

    /// Role and column, of the number as well.
    pub fn roles(&self) -> Vec<(&'static str, &str)> {
        let mut roles = self.texts();
        if let Relation::Scored { score, .. } = self {
            roles.push(("score", score));
        }
        roles
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Related {
    /// Its number among the rows, from 0.
    pub row: u64,
    /// The physical lines of the file it stands on.
    pub lines: LineRange,
    /// The texts: anchor, positive and negatives, or the two of a pair with a number.
    pub texts: Vec<String>,
    /// How near the two texts of a pair are.
    pub score: Option<f64>,
}

/// What a file of related texts holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// How many rows.
    pub rows: u64,
    /// The least and the greatest number.
    pub range: Option<(f64, f64)>,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
}

/// Reads all rows of a file. Numbers have to lie in `within`, both ends included, where that is given.
///
/// # Errors
/// Everything that is wrong, by line and column: rows that cannot be read, texts and numbers that are missing or unusable, a
/// column that is not there, a file without rows. No row is left out.
pub fn read_related(
    path: &Path,
    name: &str,
    relation: &Relation,
    within: Option<(f64, f64)>,
) -> Result<Vec<Related>, Problems> {
    let mut rows = Vec::new();
    each_row(path, name, Found::new(name, relation, within)?, Found::related, |row| {
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

/// Checks all rows of a file without keeping their texts.
///
/// # Errors
/// As [`read_related`].
pub fn check_related(
    path: &Path,
    name: &str,
    relation: &Relation,
    within: Option<(f64, f64)>,
) -> Result<Summary, Problems> {
    let mut summary = Summary::default();
    let (mut seen, mut repeated, mut same) = (HashSet::new(), 0_u64, 0_u64);
    each_row(path, name, Found::new(name, relation, within)?, Found::related, |row| {
        summary.rows += 1;
        repeated += u64::from(!seen.insert(key(&row.texts[1])));
        same += u64::from(row.texts[0] == row.texts[1]);
        if let Some(score) = row.score {
            let (low, high) = summary.range.unwrap_or((score, score));
            summary.range = Some((low.min(score), high.max(score)));
        }
        Ok(())
    })?;
    if !relation.is_scored() && repeated > 0 {
        summary.notices.push(format!(
            "{repeated} of {} positives repeat an earlier one; where two meet in a batch each is taken for a wrong answer to \
             the other's anchor (batch_sampler no_duplicates keeps them apart)",
            summary.rows
        ));
    }
    if !relation.is_scored() && same > 0 {
        summary.notices.push(format!("{same} of {} rows have the anchor itself as positive", summary.rows));
    }
    if summary.range.is_some_and(|(low, high)| low == high) {
        summary.notices.push("the score is the same in all rows, so nothing tells them apart".to_owned());
    }
    Ok(summary)
}

/// What a text is told from others by: 64 bits of FNV-1a, without blanks around it.
pub fn key(text: &str) -> u64 {
    text.trim()
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How many of `held_out` have all texts in common with a row of `train`.
pub fn overlap(train: &[Related], held_out: &[Related]) -> u64 {
    let known: HashSet<&[String]> = train.iter().map(|row| row.texts.as_slice()).collect();
    held_out.iter().filter(|row| known.contains(row.texts.as_slice())).count() as u64
}

/// The columns, as far as they were seen.
struct Found<'a> {
    file: &'a str,
    texts: Vec<Role>,
    score: Option<Role>,
    within: Option<(f64, f64)>,
}

impl Places for Found<'_> {
    fn roles(&mut self) -> Vec<&mut Role> {
        self.texts.iter_mut().chain(self.score.as_mut()).collect()
    }
}

impl<'a> Found<'a> {
    fn new(file: &'a str, relation: &'a Relation, within: Option<(f64, f64)>) -> Result<Self, Problem> {
        let roles = relation.roles();
        for (place, (_, column)) in roles.iter().enumerate() {
            if roles[..place].iter().any(|(_, other)| other.trim() == column.trim()) {
                return Err(twice(file, column.trim(), "choose a column of its own for each role"));
            }
        }
        let score = match relation {
            Relation::Scored { score, .. } => Some(Role::new(score)),
            Relation::Ranked { .. } => None,
        };
        let texts = relation.texts().into_iter().map(|(_, column)| Role::new(column)).collect();
        Ok(Found { file, texts, score, within })
    }

    fn related(&self, number: u64, row: &Row) -> Result<Related, Problems> {
        let mut problems = Problems::default();
        let mut texts = Vec::with_capacity(self.texts.len());
        for role in &self.texts {
            match role.text(row, self.file) {
                Ok(text) => texts.push(text),
                Err(problem) => problems.push(problem),
            }
        }
        let score = self.score.as_ref().and_then(|role| match self.number(role, row) {
            Ok(score) => Some(score),
            Err(problem) => {
                problems.push(problem);
                None
            }
        });
        problems.or(Related { row: number, lines: row.lines, texts, score })
    }

    fn number(&self, role: &Role, row: &Row) -> Result<f64, Problem> {
        let label = role.label(row, self.file, ProblemType::Regression)?;
        let Label::Value(score) = label else { return Ok(f64::NAN) };
        match self.within {
            Some((low, high)) if !(low..=high).contains(&score) => {
                let message = format!("expected a number from {low} to {high}, found {score}");
                Err(Problem::new(ProblemKind::InvalidValue, self.file, message)
                    .at(row.lines)
                    .in_column(role.column.as_str())
                    .hint("divide scores by their greatest, or choose the loss cosent, which goes by their order"))
            }
            _ => Ok(score),
        }
    }
}

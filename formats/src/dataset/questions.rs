//! Questions on texts that hold their answers, as SQuAD has them.
//!
//! A row is a question, its context and its answers. Offsets count Unicode characters, as Python does. The column of answers
//! holds one of these:
//! - `{"text": ["…"], "answer_start": [17]}`, as the `datasets` library has it; also as the text of a CSV cell;
//! - `[{"text": "…", "answer_start": 17}]`, as SQuAD's own file has it;
//! - a plain answer, whose offset stands in a column of its own, or nowhere: then it is the first place where it occurs.
//!
//! An empty list, an empty cell of a CSV, and a true `is_impossible` say that the context has no answer. JSON's `null` and an
//! absent key are a missing answer.

mod answers;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Columns, Places, Role, each_row, twice};
use crate::problem::{LineRange, Problem, ProblemKind, Problems};
use crate::table::{Cell, Row};
use answers::{Given, Wrong};

/// Which columns hold what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking<'a> {
    /// Column of the context.
    pub context: &'a str,
    /// Column of the question.
    pub question: &'a str,
    /// Column of the answers.
    pub answers: &'a str,
    /// Column of an answer's offset.
    pub answer_start: Option<&'a str>,
    /// Column that says whether there is no answer.
    pub is_impossible: Option<&'a str>,
}

impl<'a> Asking<'a> {
    /// The columns of questions; `None` where a role lacks its column.
    pub fn of(columns: &'a Columns) -> Option<Asking<'a>> {
        Some(Asking {
            context: columns.context.as_deref()?,
            question: columns.question.as_deref()?,
            answers: columns.answers.as_deref()?,
            answer_start: columns.answer_start.as_deref(),
            is_impossible: columns.is_impossible.as_deref(),
        })
    }

    /// Role and column.
    pub fn roles(&self) -> Vec<(&'static str, &'a str)> {
        let optional = [("answer_start", self.answer_start), ("is_impossible", self.is_impossible)];
        [("context", self.context), ("question", self.question), ("answers", self.answers)]
            .into_iter()
            .chain(optional.into_iter().filter_map(|(role, column)| Some((role, column?))))
            .collect()
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its number among the rows, from 0.
    pub row: u64,
    /// The physical lines of the file it stands on.
    pub lines: LineRange,
    /// The text that holds the answer, shared by the questions on it.
    pub context: Arc<str>,
    /// The question, without blanks before it.
    pub question: String,
    /// Its answers; none where the context does not answer it.
    pub answers: Vec<Answer>,
}

/// An answer, a part of the context.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its words.
    pub text: String,
    /// Where it begins in the context, in characters.
    pub start: usize,
}

impl Answer {
    /// Where it ends, in characters.
    pub fn end(&self) -> usize {
        self.start + self.text.chars().count()
    }
}

/// What a file of questions holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many questions.
    pub rows: u64,
    /// Those that their context does not answer.
    pub unanswerable: u64,
    /// Different contexts.
    pub contexts: u64,
    /// What is no error and yet worth a look.
    pub notices: Vec<String>,
}

/// Reads all questions of a file.
///
/// # Errors
/// Everything that is wrong, by line and column: rows that cannot be read, an empty question or context, an answer that is
/// missing, or does not stand where it is said to, a column that is not there, a file without rows. No row is left out.
pub fn read_questions(path: &Path, name: &str, asking: &Asking) -> Result<Vec<Question>, Problems> {
    let mut questions: Vec<Question> = Vec::new();
    each_row(path, name, Found::new(name, asking)?, Found::question, |(mut question, _)| {
        // Questions on a text follow one another.
        if let Some(last) = questions.last().filter(|last| last.context == question.context) {
            question.context = last.context.clone();
        }
        questions.push(question);
        Ok(())
    })?;
    Ok(questions)
}

/// Checks all questions of a file without keeping them.
///
/// # Errors
/// As [`read_questions`].
pub fn check_questions(path: &Path, name: &str, asking: &Asking) -> Result<Summary, Problems> {
    let mut summary = Summary::default();
    let (mut contexts, mut searched, mut ambiguous) = (HashSet::new(), 0_u64, 0_u64);
    each_row(path, name, Found::new(name, asking)?, Found::question, |(question, found)| {
        summary.rows += 1;
        summary.unanswerable += u64::from(question.answers.is_empty());
        contexts.insert(super::related::key(&question.context));
        searched += u64::from(found > 0);
        ambiguous += u64::from(found > 1);
        Ok(())
    })?;
    summary.contexts = contexts.len() as u64;
    if searched > 0 {
        let several = match ambiguous {
            0 => String::new(),
            _ => format!("; {ambiguous} of them occur more than once there"),
        };
        summary.notices.push(format!(
            "{searched} answers come without answer_start and are taken where they first occur in their context{several}"
        ));
    }
    if summary.unanswerable == summary.rows {
        summary.notices.push("no question has an answer, so there is nothing to learn".to_owned());
    }
    Ok(summary)
}

/// How many of `held_out` ask the same of the same context as one of `train`.
pub fn overlap(train: &[Question], held_out: &[Question]) -> u64 {
    let known: HashSet<_> = train.iter().map(|row| (&row.context, &row.question)).collect();
    held_out.iter().filter(|row| known.contains(&(&row.context, &row.question))).count() as u64
}

/// The columns, as far as they were seen.
struct Found<'a> {
    file: &'a str,
    context: Role,
    question: Role,
    answers: Role,
    answer_start: Option<Role>,
    is_impossible: Option<Role>,
}

impl Places for Found<'_> {
    fn roles(&mut self) -> Vec<&mut Role> {
        let Found { context, question, answers, answer_start, is_impossible, .. } = self;
        [Some(context), Some(question), Some(answers), answer_start.as_mut(), is_impossible.as_mut()]
            .into_iter()
            .flatten()
            .collect()
    }
}

impl<'a> Found<'a> {
    fn new(file: &'a str, asking: &Asking) -> Result<Self, Problem> {
        let roles = asking.roles();
        for (place, (_, column)) in roles.iter().enumerate() {
            if roles[..place].iter().any(|(_, other)| other.trim() == column.trim()) {
                return Err(twice(file, column.trim(), "choose a column of its own for each role"));
            }
        }
        Ok(Found {
            file,
            context: Role::new(asking.context),
            question: Role::new(asking.question),
            answers: Role::new(asking.answers),
            answer_start: asking.answer_start.map(Role::new),
            is_impossible: asking.is_impossible.map(Role::new),
        })
    }

    /// A question, and how often an answer without an offset occurs in the context: 0 where offsets are given.
    fn question(&self, number: u64, row: &Row) -> Result<(Question, usize), Problems> {
        let mut problems = Problems::default();
        let mut keep =
            |outcome: Result<String, Problem>| outcome.map_err(|problem| problems.push(problem)).ok();
        let context = keep(self.context.text(row, self.file));
        let question = keep(self.question.text(row, self.file));
        let given = self.given(row).map_err(|problem| problems.push(problem)).ok();
        let (Some(context), Some(question), Some(given)) = (context, question, given) else {
            return Err(problems);
        };
        let mut occurrences = 0;
        let mut answers = Vec::with_capacity(given.len());
        for Given { text, start } in given {
            let placed = match start {
                Some(start) => answers::placed(&context, text, start),
                None => answers::searched(&context, text).map(|(answer, times)| {
                    occurrences = occurrences.max(times);
                    answer
                }),
            };
            match placed {
                Ok(answer) => answers.push(answer),
                Err(wrong) => problems.push(self.problem(&self.answers, row, wrong)),
            }
        }
        let question = question.trim_start().to_owned();
        let read = Question { row: number, lines: row.lines, context: context.into(), question, answers };
        problems.or((read, occurrences))
    }

    /// The answers as the row has them.
    fn given(&self, row: &Row) -> Result<Vec<Given>, Problem> {
        let impossible = match &self.is_impossible {
            None => false,
            Some(role) => answers::flag(role.cell(row)).map_err(|wrong| self.problem(role, row, wrong))?,
        };
        let start = self.answer_start.as_ref().map(|role| (role, role.cell(row)));
        let cell = self.answers.cell(row);
        if impossible && matches!(cell, Cell::Missing) {
            return Ok(Vec::new());
        }
        let given = answers::read(cell, start.map(|(_, cell)| cell)).map_err(|(of_start, wrong)| {
            let role = start.filter(|_| of_start).map_or(&self.answers, |(role, _)| role);
            self.problem(role, row, wrong)
        })?;
        match impossible && !given.is_empty() {
            true => {
                let message = "the question is said to have no answer, and there is one".to_owned();
                let wrong =
                    (ProblemKind::InvalidValue, message, "take the answer away, or say that it has one");
                Err(self.problem(&self.answers, row, wrong))
            }
            false => Ok(given),
        }
    }

    fn problem(&self, role: &Role, row: &Row, (kind, message, hint): Wrong) -> Problem {
        Problem::new(kind, self.file, message).at(row.lines).in_column(role.column.as_str()).hint(hint)
    }
}

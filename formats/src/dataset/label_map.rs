//! The numbers of the classes.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{Example, Label};
use crate::problem::{Problem, ProblemKind, Problems};

/// Class names and their numbers, made once from the training data and used for every other file.
///
/// Names that are all numbers are sorted by value, others by their characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct LabelMap {
    names: Vec<String>,
    ids: HashMap<String, usize>,
}

impl LabelMap {
    /// The classes of the training data.
    ///
    /// # Errors
    /// [`ProblemKind::OneClass`] where there are fewer than two (for multi-label rows: none at all).
    pub fn from_train<'a>(file: &str, labels: impl IntoIterator<Item = &'a Label>) -> Result<Self, Problem> {
        let mut names = Vec::new();
        let mut least = 2;
        for label in labels {
            if matches!(label, Label::Classes(_)) {
                least = 1;
            }
            names.extend(label.classes().iter().cloned());
        }
        let map = Self::from_names(names);
        map.at_least(least, file)?;
        Ok(map)
    }

    /// Checks that there is something to tell apart.
    ///
    /// # Errors
    /// [`ProblemKind::OneClass`] where there are fewer than `least` classes.
    pub fn at_least(&self, least: usize, file: &str) -> Result<(), Problem> {
        if self.len() >= least {
            return Ok(());
        }
        let message = match &self.names[..] {
            [] => "no row has a class".to_owned(),
            [only, ..] => {
                format!("every row has the same class, `{only}`, so there is nothing to learn")
            }
        };
        Err(Problem::new(ProblemKind::OneClass, file, message).hint("add rows of another class"))
    }

    /// These names, sorted, each once.
    pub fn from_names(names: impl IntoIterator<Item = String>) -> Self {
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        let values: Option<Vec<f64>> =
            names.iter().map(|name| name.parse().ok().filter(|value: &f64| value.is_finite())).collect();
        if let Some(values) = values {
            let mut pairs: Vec<_> = values.into_iter().zip(names).collect();
            pairs.sort_by(|a, b| a.0.total_cmp(&b.0));
            names = pairs.into_iter().map(|(_, name)| name).collect();
        }
        Self::from(names)
    }

    /// How many classes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no class.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Names by number.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of a class.
    pub fn id(&self, name: &str) -> Option<usize> {
        self.ids.get(name).copied()
    }

    /// `id2label` of a `config.json`.
    pub fn id2label(&self) -> BTreeMap<usize, &str> {
        self.names.iter().map(String::as_str).enumerate().collect()
    }

    /// `label2id` of a `config.json`, the inverse of [`LabelMap::id2label`].
    pub fn label2id(&self) -> BTreeMap<&str, usize> {
        self.names.iter().enumerate().map(|(id, name)| (name.as_str(), id)).collect()
    }

    /// Checks that no example has a class that the training data lacks.
    ///
    /// # Errors
    /// Each such label, with file and line.
    pub fn check(&self, file: &str, label_column: &str, examples: &[Example]) -> Result<(), Problems> {
        let mut problems = Problems::default();
        for example in examples {
            problems.extend(self.check_example(file, label_column, example).err());
        }
        problems.or(())
    }

    pub(super) fn check_example(&self, file: &str, column: &str, example: &Example) -> Result<(), Problem> {
        match example.label.classes().iter().find(|name| self.id(name).is_none()) {
            None => Ok(()),
            Some(name) => {
                let message = format!("the label `{name}` does not occur in the training data");
                Err(Problem::new(ProblemKind::UnknownLabel, file, message)
                    .at(example.lines)
                    .in_column(column)
                    .hint(format!("the training data has {}", some_of(&self.names))))
            }
        }
    }
}

fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

impl From<Vec<String>> for LabelMap {
    /// These names in this order: the map of a checkpoint that was trained before.
    fn from(names: Vec<String>) -> Self {
        let ids = names.iter().cloned().enumerate().map(|(id, name)| (name, id)).collect();
        Self { names, ids }
    }
}

impl From<LabelMap> for Vec<String> {
    fn from(map: LabelMap) -> Self {
        map.names
    }
}

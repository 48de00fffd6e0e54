//! One column: what its cells look like, in bounded memory.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

use super::shortened;
use crate::dataset::{ClassCount, LabelMap, class_name, names_of_list};
use crate::table::{Cell, text_fields};

/// Different values that are told apart; past it only "at least" is known.
const MOST_DISTINCT: usize = 100_000;
/// Different values that are counted one by one.
const MOST_CLASSES: usize = 1000;
/// The longest value that is taken for a name, in characters.
const LONGEST_NAME: usize = 64;
/// Fields of objects that are told apart.
const MOST_FIELDS: usize = 100;
const EXAMPLES: usize = 5;
const EXAMPLE_CHARACTERS: usize = 200;

/// What a column seems to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    /// Nothing at all.
    #[default]
    Empty,
    /// Text that differs from row to row.
    Text,
    /// Numbers that differ from row to row.
    Number,
    /// Few short values, each in several rows.
    Label,
    /// JSON lists.
    List,
    /// JSON objects.
    Object,
}

/// A column of a table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it seems to hold: a guess.
    pub kind: ColumnKind,
    /// Whether every value is a number.
    pub is_numeric: bool,
    /// Whether some of the numbers have a fraction.
    pub has_fractions: bool,
    /// Whether values look like `1,5`.
    pub has_decimal_commas: bool,
    /// Rows without a value: an empty cell, blanks, JSON's `null`, an absent key.
    pub missing: u64,
    /// Different values, those of one class counted once.
    pub distinct: u64,
    /// Whether `distinct` is exact; else there are at least as many.
    pub distinct_is_exact: bool,
    /// The first few different values, long ones cut with `…`.
    pub examples: Vec<String>,
    /// How long the values are.
    pub lengths: Lengths,
    /// Rows of each class, for [`ColumnKind::Label`] and for lists of names; empty otherwise.
    pub classes: Vec<ClassCount>,
    /// Fields of its objects that hold texts, such as the languages of `{"en": "…", "fr": "…"}`, for
    /// [`ColumnKind::Object`]; the first hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<String>,
}

/// Lengths of the values of a column, in characters; zeros where there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lengths {
    /// The shortest.
    pub min: u64,
    /// The mean.
    pub mean: f64,
    /// Half of the values are at most as long; exact up to 4,096 characters, rounded down above.
    pub median: u64,
    /// 95 of 100 values are at most as long; rounded like the median.
    pub p95: u64,
    /// The longest.
    pub max: u64,
}

/// What is known of a column so far.
#[derive(Default)]
pub(super) struct Stats {
    present: u64,
    numbers: u64,
    fractions: u64,
    decimal_commas: u64,
    lists: u64,
    objects: u64,
    distinct: HashSet<u64>,
    counts: HashMap<String, u64>,
    too_many_classes: bool,
    examples: Vec<String>,
    lengths: Histogram,
    fields: Vec<String>,
}

impl Stats {
    pub(super) fn add(&mut self, cell: &Cell) {
        let Some(text) = cell.written().filter(|_| !cell.is_blank()) else { return };
        self.present += 1;
        self.lengths.add(text.chars().count() as u64);
        let trimmed = text.trim();
        let number: Option<f64> = trimmed.parse().ok().filter(|value: &f64| value.is_finite());
        self.numbers += u64::from(number.is_some());
        self.fractions += u64::from(number.is_some_and(|value| value.fract() != 0.0));
        self.decimal_commas += u64::from(is_decimal_comma(trimmed));
        match cell {
            Cell::List(list) => {
                self.lists += 1;
                self.note(trimmed);
                names_of_list(list).into_iter().flatten().for_each(|name| self.count(name));
            }
            Cell::Object(object) => {
                self.objects += 1;
                self.note(trimmed);
                for field in text_fields(object) {
                    if self.fields.len() < MOST_FIELDS && !self.fields.contains(&field) {
                        self.fields.push(field);
                    }
                }
            }
            _ => {
                let name = class_name(trimmed);
                self.note(&name);
                self.count(name);
            }
        }
    }

    /// Remembers a value as one of the different ones.
    fn note(&mut self, value: &str) {
        if self.distinct.len() >= MOST_DISTINCT {
            return;
        }
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        if self.distinct.insert(hasher.finish()) && self.examples.len() < EXAMPLES {
            self.examples.push(shortened(value, EXAMPLE_CHARACTERS));
        }
    }

    /// Counts a value as a class, until there are too many or one is too long to be a name.
    fn count(&mut self, name: String) {
        if self.too_many_classes {
            return;
        }
        if let Some(count) = self.counts.get_mut(&name) {
            *count += 1;
        } else if self.counts.len() == MOST_CLASSES || name.chars().nth(LONGEST_NAME).is_some() {
            self.too_many_classes = true;
            self.counts = HashMap::new();
        } else {
            self.counts.insert(name, 1);
        }
    }

    pub(super) fn into_column(self, name: &str, rows: u64) -> Column {
        let kind = self.kind();
        let classes = match kind {
            ColumnKind::Label | ColumnKind::List => self.classes(),
            _ => Vec::new(),
        };
        Column {
            name: name.to_owned(),
            kind,
            is_numeric: self.present > 0 && self.numbers == self.present,
            has_fractions: self.fractions > 0,
            has_decimal_commas: self.decimal_commas > 0 && self.decimal_commas + self.numbers == self.present,
            missing: rows - self.present,
            distinct: self.distinct.len() as u64,
            distinct_is_exact: self.distinct.len() < MOST_DISTINCT,
            examples: self.examples,
            lengths: self.lengths.summary(),
            classes,
            fields: if kind == ColumnKind::Object { self.fields } else { Vec::new() },
        }
    }

    fn kind(&self) -> ColumnKind {
        let singles = self.present - self.lists - self.objects;
        if self.present == 0 {
            ColumnKind::Empty
        } else if self.lists > singles {
            ColumnKind::List
        } else if self.objects > singles {
            ColumnKind::Object
        } else if self.lists + self.objects == 0 && self.repeats() {
            ColumnKind::Label
        } else if self.numbers == self.present {
            ColumnKind::Number
        } else {
            ColumnKind::Text
        }
    }

    /// Whether values come again as those of classes do: twice or more on average, or two classes in three rows.
    fn repeats(&self) -> bool {
        let classes = self.counts.len() as u64;
        !self.too_many_classes && classes < self.present && (classes <= 2 || classes * 2 <= self.present)
    }

    fn classes(&self) -> Vec<ClassCount> {
        let map = LabelMap::from_names(self.counts.keys().cloned());
        map.names().iter().map(|name| ClassCount { label: name.clone(), rows: self.counts[name] }).collect()
    }
}

fn is_decimal_comma(text: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    unsigned.split_once(',').is_some_and(|(whole, fraction)| digits(whole) && digits(fraction))
}

/// How many values have which length: exact up to 4,096 characters, in steps of a sixteenth above.
#[derive(Default)]
struct Histogram {
    counts: BTreeMap<u64, u64>,
    values: u64,
    sum: u64,
    min: u64,
    max: u64,
}

impl Histogram {
    fn add(&mut self, length: u64) {
        self.min = if self.values == 0 { length } else { self.min.min(length) };
        self.max = self.max.max(length);
        self.values += 1;
        self.sum += length;
        let step = if length <= 4096 { 1 } else { length.next_power_of_two() / 32 };
        *self.counts.entry(length / step * step).or_default() += 1;
    }

    fn summary(&self) -> Lengths {
        let mean = if self.values == 0 { 0.0 } else { self.sum as f64 / self.values as f64 };
        Lengths { min: self.min, mean, median: self.quantile(0.5), p95: self.quantile(0.95), max: self.max }
    }

    fn quantile(&self, share: f64) -> u64 {
        let rank = (self.values as f64 * share).ceil() as u64;
        let mut below = 0;
        for (length, count) in &self.counts {
            below += count;
            if below >= rank {
                return *length;
            }
        }
        0
    }
}

//! Classification with any number of labels a row.

use super::counts::{Counts, macro_mean, ratio, weighted_mean};
use super::rank::{NoArea, per_class, roc_auc};
use super::{InputError, Metrics, expect_length};

/// The predictions of a multi-label classifier; every table is `[rows, labels]`, row by row.
#[derive(Clone, Copy, Debug)]
pub struct MultiLabel<'a> {
    /// Names of the labels by id.
    pub labels: &'a [String],
    /// Which labels each row has.
    pub gold: &'a [bool],
    /// Which labels were predicted for it (see [`super::above_half`]).
    pub predicted: &'a [bool],
    /// The probability of each label (see [`super::sigmoid`]); empty where unknown: then there is no `roc_auc`.
    pub probabilities: &'a [f64],
    /// The mean loss over the rows, computed elsewhere.
    pub loss: Option<f64>,
}

impl MultiLabel<'_> {
    /// The metrics of these predictions. `precision`, `recall` and `f1` are macro averages, over all labels.
    ///
    /// # Errors
    /// [`InputError`] when the slices do not fit together.
    pub fn metrics(&self) -> Result<Metrics, InputError> {
        let labels = self.labels.len().max(1);
        expect_length("gold", self.gold.len() % labels, 0)?;
        expect_length("predicted", self.predicted.len(), self.gold.len())?;
        if !self.probabilities.is_empty() {
            expect_length("probabilities", self.probabilities.len(), self.gold.len())?;
        }
        let mut out = Metrics::default();
        out.put_loss(self.loss);
        if self.gold.is_empty() {
            for name in NAMES {
                out.values.set(name, None);
            }
            out.undefined.push("Every metric is undefined: there are no rows.".to_owned());
            return Ok(out);
        }
        let by_label: Vec<Counts> = (0..labels)
            .map(|label| count(column(self.gold, label, labels), column(self.predicted, label, labels)))
            .collect();
        let areas = self.areas(labels);
        out.per_class = per_class(self.labels, &by_label, &areas, &mut out.undefined);
        self.put_label_scores(&mut out, &by_label, labels);
        self.put_sample_scores(&mut out, labels);
        put_area(&mut out, &areas);
        Ok(out)
    }

    fn areas(&self, labels: usize) -> Vec<Result<f64, NoArea>> {
        if self.probabilities.is_empty() {
            return Vec::new();
        }
        let area = |label: usize| {
            let gold: Vec<bool> = column(self.gold, label, labels).copied().collect();
            let scores: Vec<f64> = column(self.probabilities, label, labels).copied().collect();
            roc_auc(&gold, &scores)
        };
        (0..labels).map(area).collect()
    }

    fn put_label_scores(&self, out: &mut Metrics, by_label: &[Counts], labels: usize) {
        let rows = self.gold.chunks_exact(labels).zip(self.predicted.chunks_exact(labels));
        let exact = rows.filter(|(gold, predicted)| gold == predicted).count();
        let all: Counts = by_label.iter().copied().sum();
        let averages = |score: fn(&Counts) -> f64| {
            (macro_mean(by_label, score), score(&all), weighted_mean(by_label, score))
        };
        let (precision, precision_micro, precision_weighted) = averages(Counts::precision);
        let (recall, recall_micro, recall_weighted) = averages(Counts::recall);
        let (f1, f1_micro, f1_weighted) = averages(Counts::f1);
        let values = [
            ratio(exact as u64, (self.gold.len() / labels) as u64),
            precision,
            recall,
            f1,
            precision,
            recall,
            f1,
            precision_micro,
            recall_micro,
            f1_micro,
            precision_weighted,
            recall_weighted,
            f1_weighted,
        ];
        for (name, value) in NAMES.into_iter().zip(values) {
            out.put(name, value);
        }
        if all.predicted() == 0 {
            out.undefined
                .push("precision_micro is 0 by convention: no label was predicted for any row.".to_owned());
        }
        if all.support() == 0 {
            out.undefined.push("recall_micro is 0 by convention: no row has a label.".to_owned());
        }
    }

    /// The scores of each row's set of labels, averaged over the rows.
    fn put_sample_scores(&self, out: &mut Metrics, labels: usize) {
        let rows = self.gold.chunks_exact(labels).zip(self.predicted.chunks_exact(labels));
        let by_row: Vec<Counts> = rows.map(|(gold, predicted)| count(gold, predicted)).collect();
        out.put("precision_samples", macro_mean(&by_row, Counts::precision));
        out.put("recall_samples", macro_mean(&by_row, Counts::recall));
        out.put("f1_samples", macro_mean(&by_row, Counts::f1));
        let without = |given: fn(&Counts) -> bool| by_row.iter().filter(|row| !given(row)).count();
        let notes = [
            (
                "precision_samples",
                without(|row| row.predicted() > 0),
                "rows for which no label was predicted",
            ),
            ("recall_samples", without(|row| row.support() > 0), "rows that have no label"),
            ("f1_samples", without(Counts::occurs), "rows with no label, neither right nor predicted"),
        ];
        for (name, rows, what) in notes.into_iter().filter(|(_, rows, _)| *rows > 0) {
            out.undefined.push(format!("{name} counts 0 by convention for {rows} {what}."));
        }
    }
}

/// In their order, sample averages, `loss` and `roc_auc` aside.
const NAMES: [&str; 13] = [
    "subset_accuracy",
    "precision",
    "recall",
    "f1",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "precision_micro",
    "recall_micro",
    "f1_micro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
];

fn column<T>(table: &[T], label: usize, labels: usize) -> impl Iterator<Item = &T> {
    table.iter().skip(label).step_by(labels)
}

fn count<'a>(
    gold: impl IntoIterator<Item = &'a bool>,
    predicted: impl IntoIterator<Item = &'a bool>,
) -> Counts {
    let mut counts = Counts::default();
    for (&gold, &predicted) in gold.into_iter().zip(predicted) {
        counts.add(gold, predicted);
    }
    counts
}

fn put_area(out: &mut Metrics, areas: &[Result<f64, NoArea>]) {
    if areas.is_empty() {
        return;
    }
    let sum: Option<f64> = areas.iter().map(|area| area.ok()).sum();
    match sum {
        Some(sum) => out.put("roc_auc", sum / areas.len() as f64),
        None => out.put_undefined("roc_auc", "roc_auc is undefined: that of a label is.".to_owned()),
    }
}

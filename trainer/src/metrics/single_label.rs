//! Classification with exactly one label a row.

use super::counts::{Counts, macro_mean, ratio, weighted_mean};
use super::rank::{NoArea, per_class, roc_auc};
use super::{InputError, Metrics, expect_length};

/// The predictions of a single-label classifier.
#[derive(Clone, Copy, Debug)]
pub struct SingleLabel<'a> {
    /// Names of the labels by id. With two of them the second is the positive class.
    pub labels: &'a [String],
    /// The right label of each row, as id.
    pub gold: &'a [usize],
    /// The predicted label of each row, as id (see [`super::argmax_rows`]).
    pub predicted: &'a [usize],
    /// `[rows, labels]`, row by row (see [`super::softmax_rows`]); empty where unknown: then there is no `roc_auc`.
    pub probabilities: &'a [f64],
    /// The mean loss over the rows, computed elsewhere.
    pub loss: Option<f64>,
}

impl SingleLabel<'_> {
    /// The metrics of these predictions.
    ///
    /// `precision`, `recall` and `f1` are those of the positive class when there are two labels, else macro averages.
    /// Macro averages run over the labels that occur in the data or in the predictions, as scikit-learn's do by default.
    ///
    /// # Errors
    /// [`InputError`] when the slices do not fit together.
    pub fn metrics(&self) -> Result<Metrics, InputError> {
        self.check()?;
        let mut out = Metrics::default();
        out.put_loss(self.loss);
        let matrix = self.confusion_matrix();
        if self.gold.is_empty() {
            for name in NAMES {
                out.values.set(name, None);
            }
            out.undefined.push("Every metric is undefined: there are no rows.".to_owned());
            out.confusion_matrix = Some(matrix);
            return Ok(out);
        }
        let counts = counts_of(&matrix);
        let areas = self.areas();
        out.per_class = per_class(self.labels, &counts, &areas, &mut out.undefined);
        put_scores(&mut out, &counts, self.labels.len() == 2);
        self.put_correlation(&mut out, &matrix);
        self.put_area(&mut out, &areas);
        out.confusion_matrix = Some(matrix);
        Ok(out)
    }

    fn check(&self) -> Result<(), InputError> {
        let labels = self.labels.len();
        expect_length("predicted", self.predicted.len(), self.gold.len())?;
        if !self.probabilities.is_empty() {
            expect_length("probabilities", self.probabilities.len(), self.gold.len() * labels)?;
        }
        for (what, ids) in [("gold", self.gold), ("predicted", self.predicted)] {
            if let Some((row, &id)) = ids.iter().enumerate().find(|&(_, &id)| id >= labels) {
                return Err(InputError::Label { what, row, id, labels });
            }
        }
        Ok(())
    }

    fn confusion_matrix(&self) -> Vec<Vec<u64>> {
        let mut matrix = vec![vec![0; self.labels.len()]; self.labels.len()];
        for (&gold, &predicted) in self.gold.iter().zip(self.predicted) {
            matrix[gold][predicted] += 1;
        }
        matrix
    }

    /// The area of each label against all others; empty without probabilities.
    fn areas(&self) -> Vec<Result<f64, NoArea>> {
        if self.probabilities.is_empty() {
            return Vec::new();
        }
        let labels = self.labels.len();
        let area = |label: usize| {
            let gold: Vec<bool> = self.gold.iter().map(|&g| g == label).collect();
            let scores: Vec<f64> = self.probabilities.iter().skip(label).step_by(labels).copied().collect();
            roc_auc(&gold, &scores)
        };
        (0..labels).map(area).collect()
    }

    /// Of the positive class with two labels, else the mean of one against the rest.
    fn put_area(&self, out: &mut Metrics, areas: &[Result<f64, NoArea>]) {
        if areas.is_empty() {
            return;
        }
        let value = if areas.len() == 2 {
            areas[1].ok()
        } else {
            let sum: Option<f64> = areas.iter().map(|area| area.ok()).sum();
            sum.map(|sum| sum / areas.len() as f64)
        };
        match value {
            Some(value) => out.put("roc_auc", value),
            None if areas.len() == 2 => {
                out.put_undefined("roc_auc", "roc_auc is undefined: the rows have one class only.".to_owned())
            }
            None => out.put_undefined("roc_auc", "roc_auc is undefined: that of a label is.".to_owned()),
        }
    }

    fn put_correlation(&self, out: &mut Metrics, matrix: &[Vec<u64>]) {
        match matthews(matrix) {
            Some(value) => out.put("matthews_correlation", value),
            None => {
                out.put("matthews_correlation", 0.0);
                out.undefined.push(
                    "matthews_correlation is 0 by convention: the labels or the predictions are all of one class.".to_owned(),
                );
            }
        }
    }
}

/// The metrics of a single-label task, in their order, `loss` and `roc_auc` aside.
const NAMES: [&str; 12] = [
    "accuracy",
    "precision",
    "recall",
    "f1",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "f1_micro",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "matthews_correlation",
];

fn put_scores(out: &mut Metrics, counts: &[Counts], binary: bool) {
    let occurring = || counts.iter().filter(|count| count.occurs());
    let all: Counts = counts.iter().copied().sum();
    let precision_macro = macro_mean(occurring(), Counts::precision);
    let recall_macro = macro_mean(occurring(), Counts::recall);
    let f1_macro = macro_mean(occurring(), Counts::f1);
    let (precision, recall, f1) = if binary {
        (counts[1].precision(), counts[1].recall(), counts[1].f1())
    } else {
        (precision_macro, recall_macro, f1_macro)
    };
    out.put("accuracy", ratio(all.true_positive, all.support()));
    out.put("precision", precision);
    out.put("recall", recall);
    out.put("f1", f1);
    out.put("precision_macro", precision_macro);
    out.put("recall_macro", recall_macro);
    out.put("f1_macro", f1_macro);
    out.put("f1_micro", all.f1());
    out.put("precision_weighted", weighted_mean(counts, Counts::precision));
    out.put("recall_weighted", weighted_mean(counts, Counts::recall));
    out.put("f1_weighted", weighted_mean(counts, Counts::f1));
}

fn counts_of(matrix: &[Vec<u64>]) -> Vec<Counts> {
    let count = |label: usize| {
        let true_positive = matrix[label][label];
        let support: u64 = matrix[label].iter().sum();
        let predicted: u64 = matrix.iter().map(|row| row[label]).sum();
        Counts {
            true_positive,
            false_positive: predicted - true_positive,
            false_negative: support - true_positive,
        }
    };
    (0..matrix.len()).map(count).collect()
}

/// Matthews' correlation for any number of classes (Gorodkin 2004, R_K), `None` for 0/0.
///
/// `(c·s − Σ p_k t_k) / sqrt((s² − Σ p_k²)(s² − Σ t_k²))` with c right of s rows, p_k predicted as and t_k of class k.
fn matthews(matrix: &[Vec<u64>]) -> Option<f64> {
    let counts = counts_of(matrix);
    let all: Counts = counts.iter().copied().sum();
    let rows = all.support() as f64;
    let sum_of = |f: fn(&Counts) -> f64| counts.iter().map(f).sum::<f64>();
    let predicted_gold = sum_of(|c| c.predicted() as f64 * c.support() as f64);
    let predicted_spread = rows * rows - sum_of(|c| (c.predicted() as f64).powi(2));
    let gold_spread = rows * rows - sum_of(|c| (c.support() as f64).powi(2));
    if predicted_spread == 0.0 || gold_spread == 0.0 {
        return None;
    }
    let covariance = all.true_positive as f64 * rows - predicted_gold;
    Some(covariance / (predicted_spread.sqrt() * gold_spread.sqrt()))
}

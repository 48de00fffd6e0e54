//! Prediction of a number.

use super::rank::average_ranks;
use super::{InputError, Metrics, expect_length};

/// The predictions of a regression, one number a row.
#[derive(Clone, Copy, Debug)]
pub struct Regression<'a> {
    /// The right numbers.
    pub gold: &'a [f64],
    /// The predicted ones.
    pub predicted: &'a [f64],
    /// The mean loss over the rows, computed elsewhere.
    pub loss: Option<f64>,
}

impl Regression<'_> {
    /// `mse`, `rmse`, `mae` (in the target's unit, squared for `mse`), `r2`, `pearson` and `spearman`.
    ///
    /// # Errors
    /// [`InputError`] when the slices differ in length.
    pub fn metrics(&self) -> Result<Metrics, InputError> {
        expect_length("predicted", self.predicted.len(), self.gold.len())?;
        let mut out = Metrics::default();
        out.put_loss(self.loss);
        let finite = self.gold.iter().chain(self.predicted).all(|x| x.is_finite());
        if self.gold.is_empty() || !finite {
            for name in ["mse", "rmse", "mae", "r2", "pearson", "spearman"] {
                out.values.set(name, None);
            }
            let why = if finite { "there are no rows" } else { "a value is not finite" };
            out.undefined.push(format!("Every metric is undefined: {why}."));
            return Ok(out);
        }
        let rows = self.gold.len() as f64;
        let errors = || self.gold.iter().zip(self.predicted).map(|(gold, predicted)| predicted - gold);
        let squared: f64 = errors().map(|e| e * e).sum();
        out.put("mse", squared / rows);
        out.put("rmse", (squared / rows).sqrt());
        out.put("mae", errors().map(f64::abs).sum::<f64>() / rows);
        self.put_r2(&mut out, squared);
        put_correlation(&mut out, "pearson", self.gold, self.predicted);
        put_correlation(&mut out, "spearman", &average_ranks(self.gold), &average_ranks(self.predicted));
        Ok(out)
    }

    /// Of constant targets, scikit-learn makes 1 (no error at all) or 0.
    fn put_r2(&self, out: &mut Metrics, squared_error: f64) {
        let rows = self.gold.len();
        if rows < 2 {
            out.put_undefined("r2", "r2 is undefined for fewer than two rows.".to_owned());
            return;
        }
        let mean = self.gold.iter().sum::<f64>() / rows as f64;
        let spread: f64 = self.gold.iter().map(|gold| (gold - mean).powi(2)).sum();
        if spread > 0.0 {
            out.put("r2", 1.0 - squared_error / spread);
            return;
        }
        let value = if squared_error == 0.0 { 1.0 } else { 0.0 };
        out.put("r2", value);
        out.undefined.push(format!("r2 is {value} by convention: the targets are all equal."));
    }
}

pub(super) fn put_correlation(out: &mut Metrics, name: &str, a: &[f64], b: &[f64]) {
    let constant = |values: &[f64]| values.iter().all(|v| *v == values[0]);
    if a.len() < 2 {
        out.put_undefined(name, format!("{name} is undefined for fewer than two rows."));
    } else if constant(a) {
        out.put_undefined(name, format!("{name} is undefined: the targets are all equal."));
    } else if constant(b) {
        out.put_undefined(name, format!("{name} is undefined: the predictions are all equal."));
    } else {
        out.put(name, correlation(a, b));
    }
}

/// Pearson's r of two series that are not constant.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let centred = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let deviations: Vec<f64> = values.iter().map(|v| v - mean).collect();
        // Scaled by the largest deviation first, so that squares neither overflow nor vanish.
        let largest = deviations.iter().fold(0.0, |top: f64, d| top.max(d.abs()));
        let scaled: Vec<f64> = deviations.iter().map(|d| d / largest).collect();
        let norm = scaled.iter().map(|d| d * d).sum::<f64>().sqrt();
        (scaled, norm)
    };
    let ((a, a_norm), (b, b_norm)) = (centred(a), centred(b));
    let product: f64 = a.iter().zip(&b).map(|(a, b)| (a / a_norm) * (b / b_norm)).sum();
    // Rounding may step over ±1.
    product.clamp(-1.0, 1.0)
}

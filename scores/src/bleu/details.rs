//! The parts of a BLEU score.

use std::fmt;

use super::{BleuOptions, Smoothing};

/// The logarithm of a precision of 0: low enough to make the score 0.
const LOG_OF_ZERO: f64 = -9_999_999_999.0;

/// A BLEU score and what it is made of. `Display` writes it as sacrebleu does:
/// `85.7/72.2/60.0/50.0 (BP = 1.000 ratio = 1.050 hyp_len = 21 ref_len = 20)`.
#[derive(Clone, Debug, PartialEq)]
pub struct BleuDetails {
    /// 0 to 100.
    pub score: f64,
    /// Matches of each order as a share of all its n-grams, 0 to 100, smoothed; all 0 where nothing matches.
    pub precisions: Vec<f64>,
    /// What the score is multiplied with for texts shorter than their references, 0 to 1.
    pub brevity_penalty: f64,
    /// Words of all hypotheses.
    pub hypothesis_length: f64,
    /// Words of all nearest references.
    pub reference_length: f64,
}

impl BleuDetails {
    /// Of a sum of statistics.
    pub(super) fn of(sum: &[f64], options: &BleuOptions) -> Self {
        let order = options.max_order;
        let (hypothesis_length, reference_length) = (sum[0], sum[1]);
        let (matches, totals) = sum[2..].split_at(order);
        let brevity_penalty = if hypothesis_length >= reference_length {
            1.0
        } else if hypothesis_length > 0.0 {
            (1.0 - reference_length / hypothesis_length).exp()
        } else {
            0.0
        };
        let (precisions, counted) = precisions(matches, totals, options);
        let score = if matches.iter().all(|count| *count == 0.0) {
            0.0
        } else {
            let logarithms = precisions[..counted]
                .iter()
                .map(|precision| if *precision == 0.0 { LOG_OF_ZERO } else { precision.ln() });
            let mean = logarithms.sum::<f64>() / counted as f64;
            // The exponential of a logarithm of 100 is a little more than 100.
            (brevity_penalty * mean.exp()).min(100.0)
        };
        Self { score, precisions, brevity_penalty, hypothesis_length, reference_length }
    }
}

/// The smoothed precision of each order, and how many orders count.
fn precisions(matches: &[f64], totals: &[f64], options: &BleuOptions) -> (Vec<f64>, usize) {
    let mut precisions = vec![0.0; matches.len()];
    let mut counted = matches.len();
    if matches.iter().all(|count| *count == 0.0) {
        return (precisions, counted);
    }
    let mut halves = 1.0;
    for (index, (&found, &total)) in matches.iter().zip(totals).enumerate() {
        let added = match options.smoothing {
            Smoothing::AddK(value) if index > 0 => value,
            _ => 0.0,
        };
        let (found, total) = (found + added, total + added);
        if total == 0.0 {
            break;
        }
        if options.effective_order {
            counted = index + 1;
        }
        precisions[index] = match options.smoothing {
            _ if found > 0.0 => 100.0 * found / total,
            Smoothing::Exp => {
                halves *= 2.0;
                100.0 / (halves * total)
            }
            Smoothing::Floor(value) => 100.0 * value / total,
            Smoothing::None | Smoothing::AddK(_) => 0.0,
        };
    }
    (precisions, counted)
}

impl fmt::Display for BleuDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precisions: Vec<String> = self.precisions.iter().map(|value| format!("{value:.1}")).collect();
        let ratio =
            if self.reference_length > 0.0 { self.hypothesis_length / self.reference_length } else { 0.0 };
        write!(f, "{} (BP = {:.3} ratio = {ratio:.3} ", precisions.join("/"), self.brevity_penalty)?;
        write!(f, "hyp_len = {:.0} ref_len = {:.0})", self.hypothesis_length, self.reference_length)
    }
}

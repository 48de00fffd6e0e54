//! Ranks, and the area under the ROC curve that follows from them.

use super::PerClass;
use super::counts::Counts;

/// Ranks from 1, equal values sharing the mean of theirs. NaN has no rank: the caller has excluded it.
pub(super) fn average_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let tie = order[start..].iter().take_while(|&&i| values[i] == values[order[start]]).count();
        // Ranks start+1 ..= start+tie share their mean.
        let mean = start as f64 + (tie as f64 + 1.0) / 2.0;
        for &i in &order[start..start + tie] {
            ranks[i] = mean;
        }
        start += tie;
    }
    ranks
}

/// Why an area under the ROC curve has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoArea {
    NoPositive,
    NoNegative,
    NotFinite,
}

impl NoArea {
    pub fn of(self, label: &str) -> String {
        match self {
            Self::NoPositive => {
                format!("roc_auc of \"{label}\" is undefined: no row has this label.")
            }
            Self::NoNegative => {
                format!("roc_auc of \"{label}\" is undefined: every row has this label.")
            }
            Self::NotFinite => {
                format!("roc_auc of \"{label}\" is undefined: a score is not finite.")
            }
        }
    }
}

/// The area under the ROC curve: how often a positive scores above a negative, ties counting one half.
pub(super) fn roc_auc(gold: &[bool], scores: &[f64]) -> Result<f64, NoArea> {
    let positive = gold.iter().filter(|&&g| g).count();
    let negative = gold.len() - positive;
    if scores.iter().any(|s| !s.is_finite()) {
        return Err(NoArea::NotFinite);
    }
    if positive == 0 {
        return Err(NoArea::NoPositive);
    }
    if negative == 0 {
        return Err(NoArea::NoNegative);
    }
    let ranks = average_ranks(scores);
    let sum: f64 = ranks.iter().zip(gold).filter(|&(_, &g)| g).map(|(rank, _)| rank).sum();
    let (positive, negative) = (positive as f64, negative as f64);
    Ok((sum - positive * (positive + 1.0) / 2.0) / (positive * negative))
}

/// The per-label entries, with notes on every 0 that stands for 0/0 and every area that is undefined.
///
/// `areas` is empty where the scores are unknown.
pub(super) fn per_class(
    labels: &[String],
    counts: &[Counts],
    areas: &[Result<f64, NoArea>],
    notes: &mut Vec<String>,
) -> Vec<PerClass> {
    let mut out = Vec::with_capacity(labels.len());
    for (i, (label, count)) in labels.iter().zip(counts).enumerate() {
        if count.predicted() == 0 {
            notes.push(format!("precision of \"{label}\" is 0 by convention: no row was predicted as it."));
        }
        if count.support() == 0 {
            notes.push(format!("recall of \"{label}\" is 0 by convention: no row has this label."));
        }
        if !count.occurs() {
            notes.push(format!(
                "f1 of \"{label}\" is 0 by convention: it is neither in the data nor predicted."
            ));
        }
        if let Some(Err(why)) = areas.get(i) {
            notes.push(why.of(label));
        }
        out.push(PerClass {
            label: label.clone(),
            precision: count.precision(),
            recall: count.recall(),
            f1: count.f1(),
            roc_auc: areas.get(i).and_then(|area| area.ok()),
            support: count.support(),
            predicted: count.predicted(),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_their_mean_rank() {
        assert_eq!(average_ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0]);
        assert_eq!(average_ranks(&[0.0, -0.0]), [1.5, 1.5]);
        assert!(average_ranks(&[]).is_empty());
    }

    #[test]
    fn a_score_that_says_nothing_has_an_area_of_one_half() {
        assert_eq!(roc_auc(&[true, false, true], &[0.3, 0.3, 0.3]), Ok(0.5));
    }
}

//! How well texts are found by their vectors, and how well cosines follow scores.

use super::rank::average_ranks;
use super::regression::put_correlation;
use super::{InputError, Metrics, expect_length};

/// What was found for each question, the nearest first, and what was to be found: numbers of documents.
///
/// The definitions are those of sentence-transformers' `InformationRetrievalEvaluator` and `TripletEvaluator`.
#[derive(Clone, Copy, Debug)]
pub struct Retrieval<'a> {
    /// The mean loss over the rows, computed elsewhere.
    pub loss: Option<f64>,
    /// Of each question the documents found: 100 of them, or all where there are fewer.
    pub found: &'a [Vec<u32>],
    /// Of each question those that answer it; one at least.
    pub relevant: &'a [Vec<u32>],
    /// Triplets whose anchor is nearer to the positive than to the negative, and how many there are.
    pub triplets: Option<(u64, u64)>,
}

impl Retrieval<'_> {
    /// `accuracy_at_k`: the share of questions with an answer among the first k. `mrr_at_10`: the mean of one over the place of
    /// the first answer, 0 beyond 10. `ndcg_at_10`: gains of answers, discounted by the logarithm of their place, over the best
    /// that could be. `map_at_100`: the mean over questions of the precision at each answer. `triplet_accuracy`: a tie is wrong.
    ///
    /// # Errors
    /// [`InputError`] when the slices differ in length.
    pub fn metrics(&self) -> Result<Metrics, InputError> {
        expect_length("relevant", self.relevant.len(), self.found.len())?;
        let mut out = Metrics::default();
        out.put_loss(self.loss);
        let questions = self.found.len() as f64;
        let mean = |of: &dyn Fn(&[u32], &[u32]) -> f64| {
            self.found.iter().zip(self.relevant).map(|(found, relevant)| of(found, relevant)).sum::<f64>()
                / questions
        };
        for k in [1, 3, 5, 10] {
            let hit = |found: &[u32], relevant: &[u32]| {
                f64::from(u8::from(found.iter().take(k).any(|document| relevant.contains(document))))
            };
            put(&mut out, &format!("accuracy_at_{k}"), mean(&hit));
        }
        put(&mut out, "mrr_at_10", mean(&|found, relevant| reciprocal_rank(found, relevant, 10)));
        put(&mut out, "ndcg_at_10", mean(&|found, relevant| discounted_gain(found, relevant, 10)));
        put(&mut out, "map_at_100", mean(&|found, relevant| average_precision(found, relevant, 100)));
        if let Some((right, all)) = self.triplets {
            put(&mut out, "triplet_accuracy", right as f64 / all as f64);
        }
        Ok(out)
    }
}

fn put(out: &mut Metrics, name: &str, value: f64) {
    match value.is_nan() {
        true => out.put_undefined(name, format!("{name} is undefined: there are no rows.")),
        false => out.put(name, value),
    }
}

fn reciprocal_rank(found: &[u32], relevant: &[u32], k: usize) -> f64 {
    let place = found.iter().take(k).position(|document| relevant.contains(document));
    place.map_or(0.0, |place| 1.0 / (place + 1) as f64)
}

fn discounted_gain(found: &[u32], relevant: &[u32], k: usize) -> f64 {
    let discount = |place: usize| 1.0 / ((place + 2) as f64).log2();
    let best: f64 = (0..relevant.len().min(k)).map(discount).sum();
    let hits = found.iter().take(k).enumerate().filter(|(_, document)| relevant.contains(document));
    hits.map(|(place, _)| discount(place)).sum::<f64>() / best
}

fn average_precision(found: &[u32], relevant: &[u32], k: usize) -> f64 {
    let hits = found.iter().take(k).enumerate().filter(|(_, document)| relevant.contains(document));
    let precisions = hits.enumerate().map(|(before, (place, _))| (before + 1) as f64 / (place + 1) as f64);
    precisions.sum::<f64>() / relevant.len().min(k) as f64
}

/// Cosines of pairs beside their scores.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a> {
    /// The mean loss over the rows, computed elsewhere.
    pub loss: Option<f64>,
    /// The scores.
    pub gold: &'a [f64],
    /// The cosines.
    pub cosines: &'a [f64],
}

impl Scores<'_> {
    /// `pearson` and `spearman`, as sentence-transformers' `EmbeddingSimilarityEvaluator` has them.
    ///
    /// # Errors
    /// [`InputError`] when the slices differ in length.
    pub fn metrics(&self) -> Result<Metrics, InputError> {
        expect_length("cosines", self.cosines.len(), self.gold.len())?;
        let mut out = Metrics::default();
        out.put_loss(self.loss);
        if self.cosines.iter().any(|cosine| !cosine.is_finite()) {
            for name in ["pearson", "spearman"] {
                out.put_undefined(name, format!("{name} is undefined: a cosine is not finite."));
            }
            return Ok(out);
        }
        put_correlation(&mut out, "pearson", self.gold, self.cosines);
        put_correlation(&mut out, "spearman", &average_ranks(self.gold), &average_ranks(self.cosines));
        Ok(out)
    }
}

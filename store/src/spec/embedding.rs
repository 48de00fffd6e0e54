//! Learning vectors of texts.

use serde::{Deserialize, Serialize};

/// How vectors are learnt; the names are sentence-transformers'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Embedding {
    /// The rule; `None` for what the columns are there for: ranking where there are anchors, CoSENT where there are scores.
    pub loss: Option<EmbeddingLoss>,
    /// What cosines are multiplied by in ranking and in CoSENT: one over the temperature.
    pub scale: f64,
    /// Whether ranking looks for the anchor of each positive as well.
    pub symmetric: bool,
    /// Which rows meet in a batch.
    pub batch_sampler: BatchSampler,
}

impl Default for Embedding {
    fn default() -> Self {
        Embedding { loss: None, scale: 20.0, symmetric: false, batch_sampler: BatchSampler::BatchSampler }
    }
}

/// Rules for vectors, by their names in sentence-transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingLoss {
    /// Of all positives and negatives of a batch an anchor's own is to be the nearest (M. Henderson et al., "Efficient
    /// natural language response suggestion for Smart Reply", 2017; A. van den Oord et al., 2018).
    MultipleNegativesRanking,
    /// Pairs are to be as near as the order of their scores says (J. Su, "CoSENT", 2022).
    Cosent,
    /// The cosine of a pair is to be its score: mean squared error.
    CosineSimilarity,
}

impl EmbeddingLoss {
    /// All of them.
    pub const ALL: [EmbeddingLoss; 3] =
        [EmbeddingLoss::MultipleNegativesRanking, EmbeddingLoss::Cosent, EmbeddingLoss::CosineSimilarity];

    /// The name in a specification.
    pub fn name(self) -> &'static str {
        match self {
            EmbeddingLoss::MultipleNegativesRanking => "multiple_negatives_ranking",
            EmbeddingLoss::Cosent => "cosent",
            EmbeddingLoss::CosineSimilarity => "cosine_similarity",
        }
    }

    /// Whether its rows are pairs with a score.
    pub fn is_scored(self) -> bool {
        self != EmbeddingLoss::MultipleNegativesRanking
    }

    /// What scores have to lie in, where they are compared with cosines.
    pub fn scores_within(self) -> Option<(f64, f64)> {
        (self == EmbeddingLoss::CosineSimilarity).then_some((-1.0, 1.0))
    }
}

/// Which rows meet in a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchSampler {
    /// As they are shuffled.
    #[default]
    BatchSampler,
    /// As they are shuffled, but a row that has a text with another of the batch in common waits for a later batch.
    NoDuplicates,
}

impl BatchSampler {
    /// All of them.
    pub const ALL: [BatchSampler; 2] = [BatchSampler::BatchSampler, BatchSampler::NoDuplicates];

    /// The name in a specification.
    pub fn name(self) -> &'static str {
        match self {
            BatchSampler::BatchSampler => "batch_sampler",
            BatchSampler::NoDuplicates => "no_duplicates",
        }
    }
}

//! How vectors of texts are learnt.

use store::spec::JobSpec;

use super::{Kind, Setting, Values, field, flag, named};
use crate::pages::view::text::setting;

/// Where settings of ranking mean something: it is what anchors and positives are learnt by.
const RANKING: &str = "embedding.loss=,multiple_negatives_ranking";

pub(super) const SETTINGS: &[Setting] = &[
    field(
        "embedding.loss",
        "Loss",
        "Ranking tells each anchor's positive from the other texts of a batch. CoSENT goes by the order of scores, the squared \
         error by their values, which then lie in −1 to 1.",
        Kind::Choice(&[
            ("", "As the columns are"),
            ("multiple_negatives_ranking", "Ranking within a batch"),
            ("cosent", "CoSENT"),
            ("cosine_similarity", "Squared error of the cosine"),
        ]),
    ),
    field(
        "embedding.scale",
        "Scale",
        "What cosines are multiplied by in ranking and CoSENT: one over the temperature. 20 is usual.",
        Kind::Number,
    ),
    field(
        "embedding.symmetric",
        "Both directions",
        "Ranking looks for the anchor of each positive as well.",
        Kind::Flag,
    )
    .when(RANKING),
    field(
        "embedding.batch_sampler",
        "Rows of a batch",
        "The same text twice in a batch would be taken for a wrong answer to itself.",
        Kind::Choice(&[("batch_sampler", "As they are shuffled"), ("no_duplicates", "No text twice")]),
    )
    .when(RANKING),
];

/// Those of a job, as values of the form.
pub(super) fn values(spec: &JobSpec) -> Values {
    let (loss, embedding) = spec.embedding();
    let said = if loss == spec.usual_embedding_loss() { "" } else { loss.name() };
    named([
        ("embedding.loss", said.to_owned()),
        ("embedding.scale", setting(embedding.scale)),
        ("embedding.symmetric", flag(embedding.symmetric)),
        ("embedding.batch_sampler", embedding.batch_sampler.name().to_owned()),
    ])
}

//! Scores of a corpus as a user sees them.

use std::sync::Arc;

use scores::{
    Bleu, BleuOptions, Chrf, ChrfOptions, ExactMatch, ExactMatchOptions, Metric, Rouge, RougeKind, Rows, Ter,
    TerOptions,
};

use crate::common::{FIXTURE, assert_all_close, assert_close, numbers, one_each, owned, rows};

fn bleu() -> Bleu {
    Bleu::new(BleuOptions::default()).unwrap()
}

/// The corpus on which wrong ways of computing BLEU were found (case 53).
fn corpus() -> (Vec<String>, Vec<Vec<String>>) {
    rows(&FIXTURE["corpus_case"]["rows"])
}

#[test]
fn bleu_is_the_corpus_score_and_not_the_mean_of_sentences() {
    let (written, references) = corpus();
    let found = bleu().rows(&written, &references).unwrap();
    assert!((found.score() - 65.6465).abs() < 5e-5, "{}", found.score());
    let details = bleu().details(&found.sum());
    for (found, expected) in details.precisions.iter().zip([85.7143, 72.2222, 60.0, 50.0]) {
        assert!((found - expected).abs() < 5e-5, "{details:?}");
    }
    assert_eq!((details.hypothesis_length, details.reference_length), (21.0, 20.0));
    assert_eq!(details.brevity_penalty, 1.0);
    assert_eq!(details.to_string(), FIXTURE["corpus_case"]["scores"]["verbose"].as_str().unwrap());

    let sentences = found.row_scores();
    assert_all_close(&sentences, &numbers(&FIXTURE["corpus_case"]["scores"]["rows"]), "sentences");
    let mean = sentences.iter().sum::<f64>() / sentences.len() as f64;
    assert!((mean - 62.1424).abs() < 5e-5, "{mean}");
}

#[test]
fn the_order_of_rows_does_not_matter() {
    let (mut written, mut references) = corpus();
    let score = bleu().rows(&written, &references).unwrap().score();
    written.reverse();
    references.reverse();
    assert_eq!(bleu().rows(&written, &references).unwrap().score(), score);
}

#[test]
fn a_text_against_itself_has_exactly_the_best_score() {
    let (_, references) = corpus();
    let written: Vec<String> = references.iter().map(|texts| texts[0].clone()).collect();
    let mut metrics: Vec<(Arc<dyn Metric>, f64)> = vec![
        (Arc::new(bleu()), 100.0),
        (Arc::new(Chrf::new(ChrfOptions::default()).unwrap()), 100.0),
        (Arc::new(Chrf::new(ChrfOptions::plus_plus()).unwrap()), 100.0),
        (Arc::new(Ter::new(TerOptions::default())), 0.0),
        (Arc::new(ExactMatch::new(ExactMatchOptions::default())), 100.0),
    ];
    metrics.extend(RougeKind::ALL.map(|kind| (Arc::new(Rouge::new(kind, true)) as Arc<dyn Metric>, 100.0)));
    for (metric, best) in metrics {
        let rows = Rows::of(metric, &written, &references).unwrap();
        assert_eq!(rows.score().to_string(), best.to_string(), "{}", rows.metric().name());
    }
}

#[test]
fn the_worst_rows_come_first() {
    let written = owned(&["a b c d", "x", "a b x d"]);
    let references = one_each(&["a b c d", "a b c d", "a b c d"]);
    let best_is_most = bleu().rows(&written, &references).unwrap();
    assert_eq!(best_is_most.worst(2), [1, 2]);
    let best_is_least = Ter::new(TerOptions::default()).rows(&written, &references).unwrap();
    assert_eq!(best_is_least.worst(9), [1, 2, 0]);
}

#[test]
fn batches_and_kept_statistics_give_the_same_score() {
    let (written, references) = corpus();
    let whole = bleu().rows(&written, &references).unwrap();
    let mut grown = bleu().rows(&written[..1], &references[..1]).unwrap();
    grown.append(&bleu().rows(&written[1..], &references[1..]).unwrap()).unwrap();
    let kept: Vec<Vec<f64>> = whole.all().map(<[f64]>::to_vec).collect();
    let kept = Rows::from_statistics(Arc::new(bleu()), &kept, Some(1)).unwrap();
    for rows in [grown, kept] {
        assert_eq!((rows.score(), rows.count()), (whole.score(), 3));
        assert_eq!(rows.signature(), whole.signature());
    }
}

#[test]
fn exact_match_reads_texts_as_they_are_unless_told() {
    let written = owned(&["Paris.", " paris", "Paris"]);
    let references = vec![owned(&["Paris"]), owned(&["Paris"]), owned(&["London", "Paris"])];
    let score = |options| ExactMatch::new(options).rows(&written, &references).unwrap().score();
    let plain = ExactMatchOptions::default();
    assert_close(score(plain.clone()), 100.0 / 3.0, "as they are");
    let no_marks = ExactMatchOptions { no_punctuation: true, ..plain.clone() };
    assert_close(score(no_marks.clone()), 200.0 / 3.0, "no punctuation");
    let loose = ExactMatchOptions { lowercase: true, any_whitespace: true, ..no_marks };
    assert_close(score(loose), 100.0, "all options");
}

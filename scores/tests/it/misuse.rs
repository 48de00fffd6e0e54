//! Wrong use is an error with a message.

use std::sync::Arc;

use scores::{
    Bleu, BleuOptions, Chrf, ChrfOptions, ExactMatch, ExactMatchOptions, Metric, Rows, ScoreError, Smoothing,
    Ter, TerOptions, paired, paired_bootstrap, paired_randomization,
};

use crate::common::{one_each, owned};

fn bleu() -> Bleu {
    Bleu::new(BleuOptions::default()).unwrap()
}

fn rows(metric: &(impl Metric + Clone + 'static), texts: &[&str]) -> Rows {
    metric.rows(&owned(texts), &one_each(texts)).unwrap()
}

#[test]
fn unequal_numbers_of_texts_are_told() {
    let error = bleu().rows(&owned(&["a", "b"]), &one_each(&["a"])).err().unwrap();
    assert_eq!(error, ScoreError::UnequalNumbers { hypotheses: 2, references: 1 });
    assert!(error.to_string().contains("2 hypotheses, but references for 1 rows"), "{error}");
    assert_eq!(bleu().rows(&[], &[]).err(), Some(ScoreError::NoRows));
    let error = bleu().rows(&owned(&["a", "b"]), &[vec!["a".to_owned()], vec![]]).err();
    assert_eq!(error, Some(ScoreError::NoReference { row: 2 }));
}

#[test]
fn options_without_meaning_are_refused() {
    let order = Bleu::new(BleuOptions { max_order: 0, ..BleuOptions::default() }).unwrap_err();
    assert_eq!(order.to_string(), "max_order is 0: it has to be at least 1");
    for smoothing in [Smoothing::Floor(-0.1), Smoothing::AddK(f64::NAN)] {
        let error = Bleu::new(BleuOptions { smoothing, ..BleuOptions::default() }).unwrap_err();
        assert!(error.to_string().starts_with("smoothing is "), "{error}");
    }
    assert!(Chrf::new(ChrfOptions { char_order: 0, ..ChrfOptions::default() }).is_err());
    assert!(Chrf::new(ChrfOptions { beta: 0, ..ChrfOptions::default() }).is_err());
}

#[test]
fn only_like_is_compared_with_like() {
    let ter = Ter::new(TerOptions::default());
    let first = rows(&ter, &["a", "b"]);
    let other = rows(&ExactMatch::new(ExactMatchOptions::default()), &["a", "b"]);
    let error = paired(&first, &other, 1).unwrap_err();
    assert!(error.to_string().contains("TER (") && error.to_string().contains("exact match ("), "{error}");
    let cased = rows(&Ter::new(TerOptions { case_sensitive: true, ..TerOptions::default() }), &["a", "b"]);
    assert!(matches!(paired(&first, &cased, 1), Err(ScoreError::DifferentMetrics { .. })));
    assert!(matches!(first.clone().append(&cased), Err(ScoreError::DifferentMetrics { .. })));
    let error = paired(&first, &rows(&ter, &["a"]), 1).unwrap_err();
    assert_eq!(error, ScoreError::DifferentRows { baseline: 2, system: 1 });
}

#[test]
fn draws_have_to_fit_the_rows() {
    let rows = rows(&bleu(), &["a", "b"]);
    let outside = || [vec![0, 1], vec![2, 0]];
    assert_eq!(rows.interval_of(outside()), Err(ScoreError::Draw { draw: 2, rows: 2 }));
    assert_eq!(paired_bootstrap(&rows, &rows, outside()), Err(ScoreError::Draw { draw: 2, rows: 2 }));
    let short = paired_randomization(&rows, &rows, [vec![true]]);
    assert_eq!(short, Err(ScoreError::Draw { draw: 1, rows: 2 }));
    assert_eq!(rows.interval_of([]), Err(ScoreError::NoResamples));
    assert_eq!(paired_bootstrap(&rows, &rows, []), Err(ScoreError::NoResamples));
    assert_eq!(paired_randomization(&rows, &rows, []), Err(ScoreError::NoResamples));
}

#[test]
fn kept_statistics_of_another_metric_are_refused() {
    let rows = Rows::from_statistics(Arc::new(bleu()), &[vec![0.0; 10], vec![1.0; 9]], Some(1));
    let error = rows.err().unwrap().to_string();
    assert!(error.starts_with("row 2 has 9 statistics, BLEU has 10"), "{error}");
    assert_eq!(Rows::from_statistics(Arc::new(bleu()), &[], None).err(), Some(ScoreError::NoRows));
}

//! Intervals and paired tests beside sacrebleu's on the same draws, and exact cases.

use std::sync::Arc;

use scores::{
    Bleu, BleuOptions, Chrf, ChrfOptions, ExactMatch, ExactMatchOptions, Metric, RESAMPLES, Rows, SWAPS, Ter,
    TerOptions, Trials, paired, paired_bootstrap, paired_randomization,
};
use serde_json::Value;

use crate::common::{FIXTURE, assert_close, numbers, one_each, owned, texts};

fn metric(name: &str) -> Arc<dyn Metric> {
    match name {
        "bleu" => Arc::new(Bleu::new(BleuOptions::default()).unwrap()),
        "chrf" => Arc::new(Chrf::new(ChrfOptions::default()).unwrap()),
        "ter" => Arc::new(Ter::new(TerOptions::default())),
        _ => panic!("the fixture has a metric of another name: {name}"),
    }
}

/// Baseline and system under a metric.
fn systems(name: &str) -> [Rows; 2] {
    let fixture = &FIXTURE["significance"];
    let references: Vec<_> = texts(&fixture["references"]).into_iter().map(|text| vec![text]).collect();
    ["baseline", "system"]
        .map(|system| Rows::of(metric(name), &texts(&fixture[system]), &references).unwrap())
}

fn resamples() -> impl Iterator<Item = Vec<usize>> {
    let list =
        |draw: &Value| draw.as_array().unwrap().iter().map(|row| row.as_u64().unwrap() as usize).collect();
    FIXTURE["significance"]["resamples"].as_array().unwrap().iter().map(list)
}

fn exact_match(matches: &[bool]) -> Rows {
    let written: Vec<&str> = matches.iter().map(|right| if *right { "right" } else { "wrong" }).collect();
    let references = vec!["right"; matches.len()];
    ExactMatch::new(ExactMatchOptions::default()).rows(&owned(&written), &one_each(&references)).unwrap()
}

#[test]
fn tests_and_intervals_are_sacrebleus_on_the_same_draws() {
    for (name, expected) in FIXTURE["significance"]["tests"].as_object().unwrap() {
        let [baseline, system] = systems(name);
        let number = |field: &str| expected[field].as_f64().unwrap();
        let interval = system.interval_of(resamples()).unwrap();
        assert_close(interval.mean, number("mean"), name);
        assert_close(interval.half_width(), number("half_width"), name);

        let bootstrap = paired_bootstrap(&baseline, &system, resamples()).unwrap();
        assert_close(bootstrap.p_value, number("bootstrap"), name);
        let scores = numbers(&expected["scores"]);
        assert_close(bootstrap.baseline, scores[0], name);
        assert_close(bootstrap.system, scores[1], name);

        let swaps = texts(&FIXTURE["significance"]["swaps"]);
        let swaps = swaps.iter().map(|swap| swap.bytes().map(|byte| byte == b'1').collect());
        let randomization = paired_randomization(&baseline, &system, swaps).unwrap();
        assert_close(randomization.p_value, number("randomization"), name);
    }
}

#[test]
fn randomization_over_all_swaps_is_the_exact_test() {
    // Of 8 rows the system is right in all, the baseline in 3. Of the 256 swaps none gives a larger difference than 5
    // rows, and chance alone gives 5 rows in one direction or the other in 2 of 32: they are equal, not larger.
    let baseline = exact_match(&[true, true, true, false, false, false, false, false]);
    let system = exact_match(&[true; 8]);
    let swaps = |bits: u32| (0..8).map(|row| bits >> row & 1 == 1).collect::<Vec<bool>>();
    let found = paired_randomization(&baseline, &system, (0..256).map(swaps)).unwrap();
    assert_close(found.difference(), 62.5, "difference");
    assert_close(found.p_value, 1.0 / 257.0, "p-value");

    // Right where the other is wrong in 2 rows and the other way round in 1: a difference of 1 row; 3 rows in one
    // direction are larger, 2 of the 8 ways that those rows can fall.
    let baseline = exact_match(&[true, false, false, true, true, true, true, true]);
    let system = exact_match(&[false, true, true, true, true, true, true, true]);
    let found = paired_randomization(&baseline, &system, (0..256).map(swaps)).unwrap();
    assert_close(found.p_value, (64.0 + 1.0) / 257.0, "p-value");
}

#[test]
fn an_interval_of_a_share_is_the_binomial_one() {
    // 300 of 400 right: the standard error is 100 * sqrt(0.75 * 0.25 / 400) = 2.165 points.
    let matches: Vec<bool> = (0..400).map(|row| row % 4 != 0).collect();
    let rows = exact_match(&matches);
    let interval = rows.interval(1);
    assert_eq!(interval.samples, RESAMPLES);
    assert!((interval.mean - 75.0).abs() < 0.35, "{interval:?}");
    assert!((interval.half_width() - 1.96 * 2.165).abs() < 0.5, "{interval:?}");
    assert!(interval.low < rows.score() && rows.score() < interval.high, "{interval:?}");
    assert_eq!(rows.interval(1), interval);
    assert_ne!(rows.interval(2), interval);
}

#[test]
fn a_clear_difference_is_told_from_chance() {
    let better: Vec<bool> = (0..200).map(|row| row % 10 != 0).collect();
    let worse: Vec<bool> = (0..200).map(|row| row % 10 > 2).collect();
    let found = paired(&exact_match(&worse), &exact_match(&better), 3).unwrap();
    assert_eq!((found.bootstrap.trials, found.randomization.trials), (RESAMPLES, SWAPS));
    assert!(found.bootstrap.differs(0.01) && found.randomization.differs(0.01), "{found:?}");
    assert_eq!(found, paired(&exact_match(&worse), &exact_match(&better), 3).unwrap());

    // As many right, in other rows.
    let other: Vec<bool> = (0..200).map(|row| row % 10 != 5).collect();
    let found = paired(&exact_match(&better), &exact_match(&other), 3).unwrap();
    assert!(!found.bootstrap.differs(0.05) && !found.randomization.differs(0.05), "{found:?}");

    let system = exact_match(&better);
    let same = paired(&system, &system, 3).unwrap();
    assert!(!same.bootstrap.differs(0.05) && !same.randomization.differs(0.05), "{same:?}");
}

#[test]
fn a_signature_names_draws_and_seed() {
    let [rows, _] = systems("bleu");
    let found = rows.signature_with(Trials::Bootstrap { samples: RESAMPLES, seed: 12345 });
    assert!(found.starts_with("nrefs:1|bs:1000|seed:12345|case:mixed|"), "{found}");
    let found = rows.signature_with(Trials::Randomization { samples: SWAPS, seed: 7 });
    assert!(found.starts_with("nrefs:1|ar:10000|seed:7|case:mixed|"), "{found}");
}

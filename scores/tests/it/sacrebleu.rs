//! BLEU, chrF and TER beside sacrebleu, on texts that are hard to score.

use std::sync::Arc;
use std::time::Instant;

use scores::{Bleu, BleuOptions, BleuTokenizer, Chrf, ChrfOptions, Metric, Rows, Smoothing, Ter, TerOptions};

use crate::common::{FIXTURE, assert_all_close, assert_close, numbers, rows, text};

/// The metric that the fixture's script calls by this name.
fn metric(name: &str) -> Arc<dyn Metric> {
    let (kind, option) = name.split_once(' ').unwrap_or((name, ""));
    match kind {
        "bleu" => Arc::new(Bleu::new(bleu_options(option)).unwrap()),
        "ter" => {
            let on = |flag| option.split(' ').any(|given| given == flag);
            Arc::new(Ter::new(TerOptions {
                normalized: on("normalized"),
                no_punctuation: on("no_punct"),
                asian_support: on("asian_support"),
                case_sensitive: on("case_sensitive"),
            }))
        }
        _ => Arc::new(Chrf::new(chrf_options(name)).unwrap()),
    }
}

fn bleu_options(name: &str) -> BleuOptions {
    let plain = BleuOptions::default();
    let smoothed = |smoothing| BleuOptions { smoothing, ..BleuOptions::default() };
    match name {
        "lowercase" => BleuOptions { lowercase: true, ..plain },
        "effective" => BleuOptions { effective_order: true, ..plain },
        "floor" => smoothed(Smoothing::Floor(0.1)),
        "floor 0.5" => smoothed(Smoothing::Floor(0.5)),
        "add-k" => smoothed(Smoothing::AddK(1.0)),
        "add-k 0.3" => smoothed(Smoothing::AddK(0.3)),
        "unsmoothed" => smoothed(Smoothing::None),
        "order 2" => BleuOptions { max_order: 2, ..plain },
        _ => {
            let tokenizer = BleuTokenizer::ALL.into_iter().find(|tokenizer| tokenizer.label() == name);
            BleuOptions { tokenizer: tokenizer.unwrap(), ..plain }
        }
    }
}

fn chrf_options(name: &str) -> ChrfOptions {
    let plain = ChrfOptions::default();
    match name {
        "chrf" => plain,
        "chrf++" => ChrfOptions::plus_plus(),
        "chrf lowercase" => ChrfOptions { word_order: 2, lowercase: true, ..plain },
        "chrf whitespace" => ChrfOptions { whitespace: true, ..plain },
        "chrf epsilon" => ChrfOptions { word_order: 1, epsilon_smoothing: true, ..plain },
        "chrf beta" => ChrfOptions { beta: 3, char_order: 4, ..plain },
        _ => panic!("the fixture has a metric of another name: {name}"),
    }
}

/// Compares all metrics of the fixture whose names begin in this way; gives how many there were.
fn compare(kind: &str) -> usize {
    let mut compared = 0;
    for set in FIXTURE["sets"].as_array().unwrap() {
        let (written, references) = rows(&set["rows"]);
        for (name, expected) in set["scores"].as_object().unwrap() {
            if !name.starts_with(kind) {
                continue;
            }
            let rows = Rows::of(metric(name), &written, &references).unwrap();
            assert_all_close(&rows.row_scores(), &numbers(&expected["rows"]), name);
            assert_close(rows.score(), expected["score"].as_f64().unwrap(), name);
            assert_eq!(rows.metric().name(), text(&expected["name"]));
            let version = concat!("+luthier.", env!("CARGO_PKG_VERSION"));
            assert_eq!(rows.signature(), text(&expected["signature"]) + version);
            compared += 1;
        }
    }
    compared
}

#[test]
fn bleu_is_sacrebleus_for_every_tokenizer_and_smoothing() {
    assert_eq!(compare("bleu"), 2 * 13 + 1);
}

#[test]
fn chrf_is_sacrebleus_with_and_without_words() {
    assert_eq!(compare("chrf"), 2 * 6 + 1);
}

#[test]
fn ter_is_sacrebleus_for_all_options_and_at_its_limits() {
    assert_eq!(compare("ter"), 2 * 16 + 1);
}

#[test]
fn the_parts_of_bleu_are_sacrebleus() {
    for set in FIXTURE["sets"].as_array().unwrap() {
        let (written, references) = rows(&set["rows"]);
        for (name, expected) in set["scores"].as_object().unwrap() {
            let Some(option) = name.strip_prefix("bleu ") else { continue };
            let bleu = Bleu::new(bleu_options(option)).unwrap();
            let details = bleu.details(&bleu.rows(&written, &references).unwrap().sum());
            let number = |field: &str| expected[field].as_f64().unwrap();
            assert_all_close(&details.precisions, &numbers(&expected["precisions"]), name);
            assert_close(details.brevity_penalty, number("brevity_penalty"), name);
            assert_close(details.hypothesis_length, number("hypothesis_length"), name);
            assert_close(details.reference_length, number("reference_length"), name);
            assert_eq!(details.to_string(), text(&expected["verbose"]));
        }
    }
}

#[test]
fn ter_of_very_long_texts_ends_soon() {
    // Few words, so that each occurs everywhere and any shift might help.
    let words = |step: usize| (0..2000).map(|place| format!("w{}", place * step % 19)).collect::<Vec<_>>();
    let (written, reference) = (words(7).join(" "), words(11).join(" "));
    let started = Instant::now();
    let rows = Ter::new(TerOptions::default()).rows(&[written], &[vec![reference]]).unwrap();
    assert!((1.0..100.0).contains(&rows.score()), "{}", rows.score());
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

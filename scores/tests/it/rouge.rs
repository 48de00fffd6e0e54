//! ROUGE beside rouge-score, and its stemmer beside nltk's.

use scores::{Metric, Rouge, RougeKind};

use crate::common::{FIXTURE, assert_all_close, assert_close, numbers, one_each, owned, rows, text};

#[test]
fn rouge_is_rouge_scores_with_and_without_the_stemmer() {
    for set in FIXTURE["sets"].as_array().unwrap() {
        let (written, references) = rows(&set["rows"]);
        for kind in RougeKind::ALL {
            for stemmer in [false, true] {
                let name = format!("{} {}", kind.label(), if stemmer { "stem" } else { "plain" });
                let expected = set["rouge"][&name].as_array().unwrap();
                let rouge = Rouge::new(kind, stemmer);
                let found = rouge.rows(&written, &references).unwrap();
                let mut sum = [0.0; 3];
                for (row, expected) in found.all().zip(expected) {
                    let expected = numbers(expected);
                    assert_all_close(&row[..3], &expected, &name);
                    sum.iter_mut().zip(expected).for_each(|(sum, value)| *sum += value);
                }
                let mean = |place: usize| 100.0 * sum[place] / expected.len() as f64;
                let means = rouge.means(&found.sum());
                assert_all_close(
                    &[means.precision, means.recall, means.f1],
                    &[mean(0), mean(1), mean(2)],
                    &name,
                );
                assert_close(found.score(), mean(2), &name);
            }
        }
    }
}

#[test]
fn words_are_stemmed_as_by_nltk() {
    let words = text(&FIXTURE["stemmer"]["words"]);
    let stems = text(&FIXTURE["stemmer"]["stems"]);
    let found = Rouge::new(RougeKind::One, true).tokens(&words);
    let words: Vec<&str> = words.split(' ').collect();
    assert!(words.len() > 1000);
    for ((word, found), expected) in words.iter().zip(&found).zip(stems.split(' ')) {
        assert_eq!(found, expected, "{word}");
    }
}

#[test]
fn a_signature_tells_of_the_stemmer() {
    let rows = Rouge::new(RougeKind::L, true).rows(&owned(&["a b"]), &one_each(&["a c"])).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(rows.signature(), format!("nrefs:1|stem:yes|version:0.1.2+luthier.{version}"));
}

//! What is said of tags: entities by two rules that are never mixed, and words.

use std::collections::{BTreeMap, BTreeSet};

use formats::dataset::tagged::Scheme;
use formats::dataset::tagged::entities::{Entity, lenient, strict};

use super::counts::{Counts, ratio};
use super::{InputError, Metrics, PerClass, expect_length};

/// Tags of sentences, and what the model said in their place.
#[derive(Clone, Copy, Debug)]
pub struct Tagging<'a> {
    /// How the tags say where an entity begins and ends.
    pub scheme: Scheme,
    /// The right tags of each sentence.
    pub gold: &'a [Vec<&'a str>],
    /// The predicted ones; `O` for a word that the model did not see.
    pub predicted: &'a [Vec<&'a str>],
    /// Words that the model saw, and how many of them were right.
    pub words: (u64, u64),
    /// The mean loss of a counted token.
    pub loss: Option<f64>,
}

impl Tagging<'_> {
    /// `precision`, `recall` and `f1` of entities by conlleval's rule, which makes the best of tags that break their scheme, as
    /// seqeval has them by default; `strict_precision`, `strict_recall` and `strict_f1` of those that are whole in the
    /// scheme, as seqeval's `mode="strict"`; `accuracy` of the words that the model saw. An entity is right where its words and
    /// its type are. The scores of each type are by conlleval's rule.
    ///
    /// # Errors
    /// [`InputError`] where a sentence has more or fewer predictions than tags.
    pub fn metrics(&self) -> Result<Metrics, InputError> {
        expect_length("predicted", self.predicted.len(), self.gold.len())?;
        for (gold, predicted) in self.gold.iter().zip(self.predicted) {
            expect_length("predicted tags", predicted.len(), gold.len())?;
        }
        let mut out = Metrics::default();
        out.put_loss(self.loss);
        let types = self.counted(lenient);
        out.per_class = types.iter().map(|(name, counts)| per_type(name, *counts)).collect();
        put_scores(&mut out, "", types.values().copied().sum());
        put_scores(&mut out, "strict_", self.counted(strict).into_values().sum());
        let (seen, right) = self.words;
        out.put("accuracy", ratio(right, seen));
        if seen == 0 {
            out.undefined
                .push("accuracy is 0 by convention: there is no word that gives a token.".to_owned());
        }
        Ok(out)
    }

    /// Entities of each type by a rule.
    fn counted<'t>(
        &'t self,
        rule: impl Fn(&[&'t str], Scheme) -> Vec<Entity<'t>>,
    ) -> BTreeMap<&'t str, Counts> {
        let mut types: BTreeMap<&str, Counts> = BTreeMap::new();
        for (gold, predicted) in self.gold.iter().zip(self.predicted) {
            let gold: BTreeSet<Entity> = rule(gold, self.scheme).into_iter().collect();
            let predicted: BTreeSet<Entity> = rule(predicted, self.scheme).into_iter().collect();
            for entity in gold.union(&predicted) {
                let counts = types.entry(entity.name).or_default();
                match (gold.contains(entity), predicted.contains(entity)) {
                    (true, true) => counts.true_positive += 1,
                    (true, false) => counts.false_negative += 1,
                    _ => counts.false_positive += 1,
                }
            }
        }
        types
    }
}

fn per_type(name: &str, counts: Counts) -> PerClass {
    PerClass {
        label: name.to_owned(),
        precision: counts.precision(),
        recall: counts.recall(),
        f1: counts.f1(),
        roc_auc: None,
        support: counts.support(),
        predicted: counts.predicted(),
    }
}

fn put_scores(out: &mut Metrics, prefix: &str, all: Counts) {
    out.put(&format!("{prefix}precision"), all.precision());
    out.put(&format!("{prefix}recall"), all.recall());
    out.put(&format!("{prefix}f1"), all.f1());
    if all.predicted() == 0 {
        out.undefined.push(format!("{prefix}precision is 0 by convention: no entity was predicted."));
    }
    if all.support() == 0 {
        out.undefined.push(format!("{prefix}recall is 0 by convention: the rows have no entity."));
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Case {
        name: String,
        scheme: Scheme,
        gold: Vec<Vec<String>>,
        predicted: Vec<Vec<String>>,
        lenient: [f64; 3],
        strict: [f64; 3],
        types: BTreeMap<String, (f64, f64, f64, u64)>,
        accuracy: f64,
    }

    fn borrowed(tags: &[Vec<String>]) -> Vec<Vec<&str>> {
        tags.iter().map(|tags| tags.iter().map(String::as_str).collect()).collect()
    }

    /// The metrics of a case; all words are seen.
    fn metrics(scheme: Scheme, gold: &[Vec<String>], predicted: &[Vec<String>]) -> Metrics {
        let (gold, predicted) = (borrowed(gold), borrowed(predicted));
        let pairs = gold.concat().into_iter().zip(predicted.concat());
        let words = (gold.concat().len() as u64, pairs.filter(|(a, b)| a == b).count() as u64);
        Tagging { scheme, gold: &gold, predicted: &predicted, words, loss: None }.metrics().unwrap()
    }

    fn near(found: Option<f64>, right: f64, what: &str) {
        let found = found.unwrap_or(f64::NAN);
        assert!((found - right).abs() < 1e-6, "{what}: {found} for {right}");
    }

    #[test]
    fn scores_equal_seqevals_in_both_modes() {
        let cases: Vec<Case> =
            serde_json::from_str(include_str!("../../tests/fixtures/tagging/seqeval.json")).unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            let found = metrics(case.scheme, &case.gold, &case.predicted);
            for (place, name) in ["precision", "recall", "f1"].into_iter().enumerate() {
                near(found.get(name), case.lenient[place], &format!("{} {name}", case.name));
                near(
                    found.get(&format!("strict_{name}")),
                    case.strict[place],
                    &format!("{} strict {name}", case.name),
                );
            }
            near(found.get("accuracy"), case.accuracy, &case.name);
            let names: Vec<&str> = found.per_class.iter().map(|class| class.label.as_str()).collect();
            assert_eq!(names, case.types.keys().map(String::as_str).collect::<Vec<_>>(), "{}", case.name);
            for class in &found.per_class {
                let (precision, recall, f1, support) = case.types[&class.label];
                near(Some(class.precision), precision, &case.name);
                near(Some(class.recall), recall, &case.name);
                near(Some(class.f1), f1, &case.name);
                assert_eq!(class.support, support, "{}", case.name);
            }
        }
    }

    #[test]
    fn without_entities_the_scores_are_0_and_say_why() {
        let tags = [vec!["O".to_owned(); 3]];
        let found = metrics(Scheme::Iob2, &tags, &tags);
        assert_eq!(
            (found.get("f1"), found.get("strict_f1"), found.get("accuracy")),
            (Some(0.0), Some(0.0), Some(1.0))
        );
        assert_eq!(found.undefined.len(), 4, "{:?}", found.undefined);
    }

    #[test]
    fn parts_of_speech_are_scored_word_by_word() {
        let tags = |words: &[&str]| vec![words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()];
        // Neighbours of one name are two words, not one entity.
        let found =
            metrics(Scheme::Plain, &tags(&["NOUN", "NOUN", "VERB"]), &tags(&["NOUN", "NOUN", "NOUN"]));
        near(found.get("f1"), 2.0 / 3.0, "f1");
        assert_eq!(found.per_class[0].support, 2);
    }
}

//! What tasks with a source and a target may have.

use formats::dataset::Columns;

use super::Check;
use crate::spec::reader::unknown;
use crate::spec::{JobSpec, TextToText};

/// Metrics that a pass without writing gives.
pub(super) const OF_TOKENS: [&str; 3] = ["loss", "perplexity", "mean_token_accuracy"];

/// Metrics of targets that were written.
const OF_TEXTS: [&str; 9] =
    ["bleu", "chrf", "chrf_plus_plus", "ter", "rouge1", "rouge2", "rougeL", "rougeLsum", "exact_match"];

/// The longest name of a language or a token, in characters.
const LONGEST_NAME: usize = 64;

/// Metrics that an evaluation gives.
pub(super) fn metrics(spec: &JobSpec) -> Vec<&'static str> {
    let of_texts = OF_TEXTS.iter().filter(|_| spec.writes_targets());
    OF_TOKENS.iter().chain(of_texts).copied().collect()
}

impl JobSpec {
    /// A source and a target, from a column each.
    pub(super) fn check_sequences(&self, check: &mut Check) {
        let columns = &self.columns;
        let others = Columns { source: None, target: None, ..columns.clone() };
        check.that(others == Columns::default(), "columns", || {
            format!("{} has the roles source and target; leave the others out", self.task.as_str())
        });
        let roles = [("columns.source", &columns.source), ("columns.target", &columns.target)];
        for (param, name) in roles {
            let named = name.as_deref().is_some_and(|name| !name.trim().is_empty());
            check.that(named, param, || "the name of a column is missing".to_owned());
        }
        let same = columns.source.is_some() && columns.source == columns.target;
        check.that(!same, "columns.target", || {
            format!("is the same column as source: \"{}\"", columns.source.as_deref().unwrap_or_default())
        });
    }

    /// Settings of other tasks, and those of this one.
    pub(super) fn check_text_to_text(&self, check: &mut Check) {
        let training = &self.training;
        let classes = "is for text classification; leave it out";
        check.that(self.problem_type.is_none(), "problem_type", || classes.to_owned());
        check.that(training.class_weights.is_none(), "training.class_weights", || classes.to_owned());
        check.that(training.label_smoothing == 0.0, "training.label_smoothing", || {
            "is for text classification and for preferences; set it to 0".to_owned()
        });
        check.that(!training.freeze.except_head, "training.freeze.except_head", || {
            "a model that writes has no head beside its word embedding, so nothing would be trained; set it to false"
                .to_owned()
        });
        if let Some(settings) = &training.text_to_text {
            settings.check(check);
        }
    }
}

impl TextToText {
    fn check(&self, check: &mut Check) {
        let at = |name: &str| format!("training.text_to_text.{name}");
        let prefix = &self.source_prefix;
        check.that(prefix.chars().count() <= 1000 && !prefix.contains('\0'), &at("source_prefix"), || {
            "must be a text of at most 1000 characters without U+0000".to_owned()
        });
        for (name, value) in [
            ("source_lang", &self.source_lang),
            ("target_lang", &self.target_lang),
            ("forced_bos_token", &self.forced_bos_token),
        ] {
            let Some(value) = value else { continue };
            let right = !value.trim().is_empty() && value.chars().count() <= LONGEST_NAME;
            check.that(right, &at(name), || {
                format!("must have 1 to {LONGEST_NAME} characters; leave it out for none")
            });
        }
        let lacking = match (&self.source_lang, &self.target_lang) {
            (Some(_), None) => Some(("target_lang", "source_lang")),
            (None, Some(_)) => Some(("source_lang", "target_lang")),
            _ => None,
        };
        if let Some((lacking, given)) = lacking {
            check.add(&at(lacking), format!("is missing beside {given}; give both languages or neither"));
        }
        check.some(&at("max_target_length"), self.max_target_length, 2..=131_072, "2 to 131072");
        check.some(&at("generated_rows"), self.generated_rows, 0..=10_000_000, "0 (none) to 10000000");
        check.range(&at("num_beams"), self.num_beams, 1..=16, "1 to 16");
        check.range(&at("length_penalty"), self.length_penalty, -10.0..=10.0, "-10 to 10");
        check.range(&at("no_repeat_ngram_size"), self.no_repeat_ngram_size, 0..=100, "0 (no limit) to 100");
        let searches = self.num_beams != 1;
        check.that(searches || self.length_penalty == 1.0, &at("length_penalty"), || {
            "weighs beams against each other, and num_beams is 1; leave it out or take more beams".to_owned()
        });
        check.that(searches || !self.early_stopping, &at("early_stopping"), || {
            "ends a search with beams, and num_beams is 1; leave it out or take more beams".to_owned()
        });
        let known = Self::BLEU_TOKENIZERS.contains(&self.bleu_tokenizer.as_str());
        check.that(known, &at("bleu_tokenizer"), || unknown(&self.bleu_tokenizer, &Self::BLEU_TOKENIZERS));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::spec::JobSpec;

    fn problems(change: Value) -> Vec<String> {
        let mut spec = json!({"task": "translation", "columns": {"source": "en", "target": "fr"},
            "data": {"train": "a"}});
        spec.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let spec: JobSpec = serde_json::from_value(spec).unwrap();
        spec.problems().into_iter().map(|problem| problem.to_string()).collect()
    }

    #[test]
    fn a_source_and_a_target_are_enough() {
        assert_eq!(problems(json!({})), Vec::<String>::new());
        let settings = json!({"training": {"lora": {"rank": 8}, "best_metric": "eval_chrf",
            "text_to_text": {"source_lang": "en_XX", "target_lang": "fr_XX", "num_beams": 1}}});
        assert_eq!(problems(settings), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let of = |settings: Value| json!({"training": {"text_to_text": settings}});
        for (change, param, words) in [
            (json!({"columns": {"source": "en"}}), "columns.target", "missing"),
            (json!({"columns": {"source": "en", "target": "en"}}), "columns.target", "same column as source"),
            (
                json!({"columns": {"source": "en", "target": "fr", "label": "x"}}),
                "columns",
                "roles source and target",
            ),
            (json!({"problem_type": "regression"}), "problem_type", "classification"),
            (json!({"training": {"loss_on": "all"}}), "training.loss_on", "text generation"),
            (json!({"training": {"chat_template": "chatml"}}), "training.chat_template", "text generation"),
            (json!({"training": {"preference": {}}}), "training.preference", "text generation"),
            (
                json!({"training": {"freeze": {"except_head": true}}}),
                "training.freeze.except_head",
                "no head",
            ),
            (json!({"training": {"best_metric": "f1"}}), "training.best_metric", "bleu"),
            (of(json!({"num_beams": 17})), "training.text_to_text.num_beams", "1 to 16"),
            (of(json!({"source_lang": "en_XX"})), "training.text_to_text.target_lang", "both languages"),
            (of(json!({"bleu_tokenizer": "13b"})), "training.text_to_text.bleu_tokenizer", "13a"),
            (
                of(json!({"num_beams": 1, "early_stopping": true})),
                "training.text_to_text.early_stopping",
                "more beams",
            ),
            (
                of(json!({"num_beams": 1, "length_penalty": 2.0})),
                "training.text_to_text.length_penalty",
                "beams",
            ),
            (
                json!({"training": {"best_metric": "bleu", "text_to_text": {"generated_rows": 0}}}),
                "training.best_metric",
                "loss",
            ),
        ] {
            let found = problems(change.clone());
            assert_eq!(found.len(), 1, "{change}: {found:?}");
            assert!(found[0].starts_with(&format!("{param}: ")), "{change}: {found:?}");
            assert!(found[0].contains(words), "{change}: {found:?}");
        }
    }

    #[test]
    fn other_tasks_have_no_such_settings() {
        let spec: JobSpec = serde_json::from_value(json!({"task": "text-generation", "data": {"train": "a"},
            "training": {"text_to_text": {}}}))
        .unwrap();
        let found = spec.problems();
        assert_eq!(found[0].param, "training.text_to_text", "{found:?}");
        assert!(found[0].message.contains("translation"), "{found:?}");
    }
}

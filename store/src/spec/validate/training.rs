//! What the settings of the training loop may be.

use super::Check;
use crate::spec::{ClassWeights, Every, PreferenceLoss, Schedule, ScheduleName, Training};

impl Training {
    pub(super) fn check(&self, check: &mut Check) {
        let path = |name: &str| format!("training.{name}");
        let open = f64::INFINITY;
        check.above("training.epochs", self.epochs, 0.0, 1000.0);
        check.some(&path("max_steps"), self.max_steps, 1..=100_000_000, "1 to 100000000");
        check.range(&path("batch_size"), self.batch_size, 1..=4096, "1 to 4096");
        check.some(&path("eval_batch_size"), self.eval_batch_size, 1..=4096, "1 to 4096");
        let accumulated = self.gradient_accumulation_steps;
        check.range(&path("gradient_accumulation_steps"), accumulated, 1..=4096, "1 to 4096");
        check.above("training.learning_rate", self.learning_rate, 0.0, 100.0);
        check.range(&path("weight_decay"), self.weight_decay, 0.0..=1.0, "0 to 1");
        check.range(&path("max_grad_norm"), self.max_grad_norm, 0.0..open, "0 (no clipping) or more");
        check.some(&path("max_length"), self.max_length, 4..=131_072, "4 to 131072");
        check.range(&path("label_smoothing"), self.label_smoothing, 0.0..1.0, "0 to below 1");
        check.some(&path("dropout"), self.dropout, 0.0..1.0, "0 to below 1");
        check.above("training.layer_decay", self.layer_decay, 0.0, 1.0);
        check.some(&path("log_every"), self.log_every, 1.., "1 or more");
        check.some(&path("checkpoint_every"), self.checkpoint_every, 1.., "1 or more");
        check.range(&path("keep_checkpoints"), self.keep_checkpoints, 1..=1000, "1 to 1000");
        match self.eval_every {
            Every::Steps(steps) => check.range(&path("eval_every.steps"), steps, 1.., "1 or more"),
            Every::Epochs(epochs) => check.above("training.eval_every.epochs", epochs, 0.0, 1000.0),
        }
        self.check_preference(check);
        self.samples.check(check);
        if let Some(embedding) = &self.embedding {
            check.above("training.embedding.scale", embedding.scale, 0.0, 10_000.0);
        }
        self.check_class_weights(check);
        self.check_freeze(check);
        self.optimizer.check(check);
        self.lr_scheduler.check(check, self);
    }

    fn check_preference(&self, check: &mut Check) {
        let Some(preference) = &self.preference else { return };
        let (open, at) = (f64::INFINITY, |name: &str| format!("training.preference.{name}"));
        let rule = preference.loss.name();
        check.above(&at("beta"), preference.beta, 0.0, 10.0);
        check.range(&at("gamma"), preference.gamma, 0.0..open, "0 or more");
        check.some(&at("sft_weight"), preference.sft_weight, 0.0..open, "0 or more");
        // Beyond that it would be learnt the other way round.
        check.range("training.label_smoothing", self.label_smoothing, 0.0..0.5, "0 to below 0.5");
        let weights = [
            ("desirable_weight", preference.desirable_weight),
            ("undesirable_weight", preference.undesirable_weight),
        ];
        for (name, weight) in weights {
            check.range(&at(name), weight, 0.0..open, "0 or more");
        }
        if !preference.loss.is_unpaired() {
            for (name, weight) in weights {
                check.that(weight == 1.0, &at(name), || {
                    format!("is for kto and apo_zero_unpaired, and the rule is {rule}; leave it out")
                });
            }
            return;
        }
        check.that(weights.iter().any(|(_, weight)| *weight > 0.0), &at("desirable_weight"), || {
            "and undesirable_weight are 0, so nothing would be learned".to_owned()
        });
        check.that(preference.sft_weight.is_none_or(|weight| weight == 0.0), &at("sft_weight"), || {
            format!("is for pairs of answers, and the rule is {rule}; leave it out")
        });
        check.that(self.label_smoothing == 0.0, "training.label_smoothing", || {
            format!("is for pairs of answers, and the rule is {rule}; set it to 0")
        });
        let rows = u64::from(self.batch_size) * u64::from(self.gradient_accumulation_steps);
        check.that(preference.loss != PreferenceLoss::Kto || rows != 1, "training.batch_size", || {
            "kto compares the answers of a step with each other: a step needs 2 rows or more, found 1"
                .to_owned()
        });
    }

    fn check_class_weights(&self, check: &mut Check) {
        let Some(ClassWeights::ByName(weights)) = &self.class_weights else {
            return;
        };
        for (class, weight) in weights {
            let param = format!("training.class_weights.{class}");
            check.range(&param, *weight, 0.0..f64::INFINITY, "0 or more");
        }
        let nothing = !weights.is_empty() && weights.values().all(|weight| *weight == 0.0);
        check
            .that(!nothing, "training.class_weights", || "are all 0, so nothing would be learned".to_owned());
    }

    fn check_freeze(&self, check: &mut Check) {
        let layers = self.freeze.first_layers;
        check.range("training.freeze.first_layers", layers, 0..=1000, "0 to 1000");
        if let Some(pattern) = &self.freeze.pattern {
            let param = "training.freeze.pattern";
            check.that(!pattern.is_empty(), param, || "is empty, which would freeze everything".to_owned());
            if let Err(error) = regex::Regex::new(pattern) {
                check.add(param, format!("is no regular expression: {error}"));
            }
        }
    }
}

impl Schedule {
    fn check(&self, check: &mut Check, training: &Training) {
        let path = |name: &str| format!("training.lr_scheduler.{name}");
        let both = self.warmup_steps.is_some() && self.warmup_ratio.is_some();
        check.that(!both, &path("warmup_ratio"), || "excludes warmup_steps; give one of them".to_owned());
        check.some(&path("warmup_ratio"), self.warmup_ratio, 0.0..=1.0, "0 to 1");
        if let (Some(warmup), Some(all)) = (self.warmup_steps, training.max_steps) {
            check.that(warmup <= all, &path("warmup_steps"), || {
                format!("{warmup} steps of warm-up are more than the {all} of max_steps")
            });
        }
        check.above(&path("power"), self.power, 0.0, 100.0);
        check.above(&path("cycles"), self.cycles, 0.0, 1000.0);
        let end = self.end_learning_rate;
        check.range(&path("end_learning_rate"), end, 0.0..f64::INFINITY, "0 or more");
        if self.name == ScheduleName::Polynomial {
            let top = training.learning_rate;
            check.that(end < top, &path("end_learning_rate"), || {
                format!("must be below the learning rate {top}, found {end}")
            });
        }
    }
}

//! What a specification may say.

mod optimizer;

use std::fmt::Display;
use std::ops::RangeBounds;

use super::reader::unknown;
use super::{
    ClassWeights, Device, Every, JobSpec, Optimizer, Precision, ProblemType, Resources, Schedule,
    ScheduleName, Task, Training,
};

/// A field that cannot be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {message}")]
pub struct SpecError {
    /// Dotted path of the field.
    pub param: String,
    /// What is wrong with it and what would be right.
    pub message: String,
}

impl SpecError {
    /// An error about a field.
    pub fn new(param: impl Into<String>, message: impl Into<String>) -> Self {
        SpecError { param: param.into(), message: message.into() }
    }
}

impl JobSpec {
    /// Checks every field against what training can do; gives the first that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        match self.problems().into_iter().next() {
            None => Ok(()),
            Some(problem) => Err(problem),
        }
    }

    /// Everything that is wrong, for a form that shows all of it at once.
    pub fn problems(&self) -> Vec<SpecError> {
        let mut check = Check(Vec::new());
        self.check_columns(&mut check);
        self.check_data(&mut check);
        self.check_task(&mut check);
        self.check_metrics(&mut check);
        self.training.check(&mut check);
        self.check_processes(&mut check);
        check.range("resources.threads", self.resources.threads, 0..=1024, "0 (all cores) to 1024");
        self.check_precision(&mut check);
        check.range("seed", self.seed, ..=2_147_483_647, "0 to 2147483647");
        check.range("split.seed", self.split.seed, ..=2_147_483_647, "0 to 2147483647");
        check.that(self.name.chars().count() <= 256, "name", || "has more than 256 characters".to_owned());
        check.0
    }

    /// Processes are copies of the model × stages × shares of each layer.
    fn check_processes(&self, check: &mut Check) {
        let Resources { devices, tensor_parallel, pipeline_stages, .. } = self.resources;
        for (param, number) in [
            ("resources.devices", devices),
            ("resources.tensor_parallel", tensor_parallel),
            ("resources.pipeline_stages", pipeline_stages),
        ] {
            check.that((1..=64).contains(&number), param, || format!("must lie in 1 to 64, found {number}"));
        }
        let model = u64::from(tensor_parallel) * u64::from(pipeline_stages);
        let sane = [devices, tensor_parallel, pipeline_stages].iter().all(|number| (1..=64).contains(number));
        check.that(!sane || u64::from(devices) % model == 0, "resources.devices", || {
            format!(
                "must be a multiple of tensor_parallel × pipeline_stages = {tensor_parallel} × {pipeline_stages}, found \
                 {devices}"
            )
        });
        let whole = matches!(
            self.training.optimizer,
            Optimizer::Muon { .. } | Optimizer::Adafactor { .. } | Optimizer::Adamw8bit { .. }
        );
        check.that(tensor_parallel <= 1 || !whole, "resources.tensor_parallel", || {
            "adafactor, muon and adamw_8bit look at whole matrices, which tensor_parallel cuts; take another optimizer \
             or pipeline_stages"
                .to_owned()
        });
    }

    /// What no CPU computes is refused before the job waits for one; other devices are known to the trainer alone.
    fn check_precision(&self, check: &mut Check) {
        let precision = self.training.precision;
        let rounds = matches!(self.training.optimizer, Optimizer::Adam { .. } | Optimizer::Adamw { .. });
        check.that(precision != Precision::Bf16Pure || rounds, "training.precision", || {
            "bf16_pure rounds updates at random, which adam and adamw do; take one of them, or bf16"
                .to_owned()
        });
        let for_gpus = matches!(precision, Precision::Tf32 | Precision::Fp16);
        check.that(!for_gpus || self.resources.device != Device::Cpu, "training.precision", || {
            format!("{} is for GPUs, and the device is cpu; ask for bf16, fp32 or auto", precision.name())
        });
    }

    fn check_columns(&self, check: &mut Check) {
        let columns = &self.columns;
        let pair = columns.text_pair.as_deref();
        for (param, name) in [
            ("columns.text", Some(columns.text.as_str())),
            ("columns.text_pair", pair),
            ("columns.label", Some(columns.label.as_str())),
        ] {
            check.that(name != Some(""), param, || "the name of a column is missing".to_owned());
        }
        let same = |what: &str, name: &str| format!("is the same column as {what}: \"{name}\"");
        check.that(pair != Some(columns.text.as_str()), "columns.text_pair", || same("text", &columns.text));
        check.that(
            columns.label != columns.text && pair != Some(columns.label.as_str()),
            "columns.label",
            || same("a text", &columns.label),
        );
    }

    fn check_data(&self, check: &mut Check) {
        let data = &self.data;
        let files = [
            ("data.train", Some(&data.train)),
            ("data.validation", data.validation.as_ref()),
            ("data.test", data.test.as_ref()),
        ];
        for (place, (param, name)) in files.iter().enumerate() {
            let Some(name) = name else { continue };
            let plain =
                !name.is_empty() && !name.contains(['/', '\\', '\0']) && *name != "." && *name != "..";
            check.that(plain, param, || format!("\"{name}\" is no plain file name"));
            let twice = files[..place].iter().any(|(_, other)| *other == Some(*name));
            check.that(!twice, param, || format!("\"{name}\" stands for another part of the data, too"));
        }
        let split = &self.split;
        check.range("split.fraction", split.fraction, 0.0..1.0, "0 to below 1");
        check.range("split.test_fraction", split.test_fraction, 0.0..1.0, "0 to below 1");
        let held_out = if data.validation.is_none() { split.fraction } else { 0.0 }
            + if data.test.is_none() { split.test_fraction } else { 0.0 };
        let alone = split.fraction >= 1.0 || split.test_fraction >= 1.0;
        check.that(held_out < 1.0 || alone, "split.test_fraction", || {
            format!("together with fraction it leaves no rows to train on: {held_out} are held out")
        });
    }

    fn check_task(&self, check: &mut Check) {
        let Task::TextClassification = self.task;
        let training = &self.training;
        if self.problem_type == Some(ProblemType::Regression) {
            check.that(training.class_weights.is_none(), "training.class_weights", || {
                "a regression has no classes; leave it out".to_owned()
            });
        }
        if matches!(self.problem_type, Some(ProblemType::Regression | ProblemType::MultiLabel)) {
            check.that(training.label_smoothing == 0.0, "training.label_smoothing", || {
                "is for problems with one label a row; set it to 0".to_owned()
            });
        }
    }

    /// Whether rows are there to evaluate on.
    pub fn has_validation(&self) -> bool {
        self.data.validation.is_some() || self.split.fraction > 0.0
    }

    fn check_metrics(&self, check: &mut Check) {
        let training = &self.training;
        let needs = "needs validation rows; give a validation file or a split.fraction above 0";
        if let Some(metric) = &training.best_metric {
            check.that(self.has_validation(), "training.best_metric", || needs.to_owned());
            check.metric("training.best_metric", metric, self.problem_type);
        }
        if let Some(stopping) = &training.early_stopping {
            let param = "training.early_stopping";
            check.that(self.has_validation(), param, || needs.to_owned());
            if let Some(metric) = &stopping.metric {
                check.metric("training.early_stopping.metric", metric, self.problem_type);
            }
            check.range("training.early_stopping.patience", stopping.patience, 1..=1000, "1 to 1000");
            let delta = stopping.min_delta;
            check.range("training.early_stopping.min_delta", delta, 0.0..f64::INFINITY, "0 or more");
        }
    }
}

/// Metrics of an evaluation, by what a label is; `loss` is in all of them.
fn metric_names(problem_type: Option<ProblemType>) -> Vec<&'static str> {
    const SINGLE: &[&str] = &[
        "accuracy",
        "precision",
        "recall",
        "f1",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "f1_micro",
        "precision_weighted",
        "recall_weighted",
        "f1_weighted",
        "matthews_correlation",
        "roc_auc",
    ];
    const MULTI: &[&str] = &[
        "subset_accuracy",
        "precision",
        "recall",
        "f1",
        "precision_macro",
        "recall_macro",
        "f1_macro",
        "precision_micro",
        "recall_micro",
        "f1_micro",
        "precision_weighted",
        "recall_weighted",
        "f1_weighted",
        "precision_samples",
        "recall_samples",
        "f1_samples",
        "roc_auc",
    ];
    const NUMBER: &[&str] = &["mse", "rmse", "mae", "r2", "pearson", "spearman"];
    let mut names = vec!["loss"];
    let parts: &[&[&str]] = match problem_type {
        Some(ProblemType::SingleLabel) => &[SINGLE],
        Some(ProblemType::MultiLabel) => &[MULTI],
        Some(ProblemType::Regression) => &[NUMBER],
        None => &[SINGLE, MULTI, NUMBER],
    };
    for name in parts.concat() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

impl Training {
    fn check(&self, check: &mut Check) {
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
        self.check_class_weights(check);
        self.check_freeze(check);
        self.optimizer.check(check);
        self.lr_scheduler.check(check, self);
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
                check.0.push(SpecError::new(param, format!("is no regular expression: {error}")));
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

/// Problems as they are found.
struct Check(Vec<SpecError>);

impl Check {
    fn that(&mut self, right: bool, param: &str, message: impl FnOnce() -> String) {
        if !right {
            self.0.push(SpecError::new(param, message()));
        }
    }

    /// `allowed` says the range in words.
    fn range<T: PartialOrd + Display>(
        &mut self,
        param: &str,
        value: T,
        range: impl RangeBounds<T>,
        allowed: &str,
    ) {
        self.that(range.contains(&value), param, || format!("must be {allowed}, found {value}"));
    }

    fn some<T: PartialOrd + Display>(
        &mut self,
        param: &str,
        value: Option<T>,
        range: impl RangeBounds<T>,
        allowed: &str,
    ) {
        if let Some(value) = value {
            self.range(param, value, range, allowed);
        }
    }

    fn above(&mut self, param: &str, value: f64, low: f64, high: f64) {
        self.that(value > low && value <= high, param, || {
            format!("must be above {low} and at most {high}, found {value}")
        });
    }

    fn metric(&mut self, param: &str, name: &str, problem_type: Option<ProblemType>) {
        let known = metric_names(problem_type);
        let plain = name.strip_prefix("eval_").unwrap_or(name);
        self.that(known.contains(&plain), param, || unknown(name, &known));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec() -> Value {
        json!({
            "task": "text-classification",
            "columns": {"text": "text", "label": "label"},
            "data": {"train": "train.csv"},
        })
    }

    /// The problems of a specification with some fields set, by dotted path.
    fn problems(changes: &[(&str, Value)]) -> Vec<SpecError> {
        let mut value = spec();
        for (path, change) in changes {
            let pointer = format!("/{}", path.replace('.', "/"));
            let mut at = &mut value;
            for part in pointer[1..].split('/') {
                at = &mut at[part];
            }
            *at = change.clone();
        }
        serde_json::from_value::<JobSpec>(value).unwrap().problems()
    }

    #[test]
    fn the_defaults_are_accepted() {
        assert_eq!(problems(&[]), []);
    }

    #[test]
    fn each_field_outside_its_range_is_named_with_the_value_found() {
        for (path, bad) in [
            ("training.epochs", json!(0.0)),
            ("training.epochs", json!(1001.0)),
            ("training.max_steps", json!(0)),
            ("training.batch_size", json!(0)),
            ("training.batch_size", json!(5000)),
            ("training.eval_batch_size", json!(0)),
            ("training.gradient_accumulation_steps", json!(0)),
            ("training.learning_rate", json!(0.0)),
            ("training.learning_rate", json!(-1e-5)),
            ("training.weight_decay", json!(-0.1)),
            ("training.max_grad_norm", json!(-1.0)),
            ("training.max_length", json!(2)),
            ("training.label_smoothing", json!(1.0)),
            ("training.dropout", json!(1.0)),
            ("training.layer_decay", json!(0.0)),
            ("training.layer_decay", json!(1.5)),
            ("training.log_every", json!(0)),
            ("training.checkpoint_every", json!(0)),
            ("training.keep_checkpoints", json!(0)),
            ("training.lr_scheduler.warmup_ratio", json!(1.5)),
            ("training.lr_scheduler.power", json!(0.0)),
            ("training.lr_scheduler.cycles", json!(0.0)),
            ("split.fraction", json!(1.0)),
            ("split.test_fraction", json!(-0.1)),
            ("resources.devices", json!(65)),
            ("resources.tensor_parallel", json!(0)),
            ("resources.pipeline_stages", json!(65)),
            ("resources.threads", json!(2000)),
            ("seed", json!(2147483648u32)),
            ("training.early_stopping.patience", json!(0)),
        ] {
            let found = problems(&[(path, bad.clone())]);
            assert_eq!(found.len(), 1, "{path} = {bad}: {found:?}");
            assert_eq!(found[0].param, path);
            let value = bad.as_f64().unwrap().to_string();
            assert!(found[0].message.contains(&value), "{}", found[0]);
        }
    }

    #[test]
    fn rules_between_fields_hold() {
        let sgd = |rest: Value| {
            let mut sgd = json!({"name": "sgd"});
            sgd.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            sgd
        };
        let cases: Vec<(&str, Vec<(&str, Value)>)> = vec![
            ("training.optimizer.nesterov", vec![("training.optimizer", sgd(json!({"nesterov": true})))]),
            (
                "training.optimizer.nesterov",
                vec![(
                    "training.optimizer",
                    sgd(json!({"nesterov": true, "momentum": 0.9, "dampening": 0.1})),
                )],
            ),
            (
                "training.optimizer.betas",
                vec![("training.optimizer", json!({"name": "adam", "betas": [0.9, 1.0]}))],
            ),
            ("resources.devices", vec![("resources", json!({"devices": 4, "tensor_parallel": 3}))]),
            (
                "resources.devices",
                vec![("resources", json!({"devices": 6, "tensor_parallel": 2, "pipeline_stages": 2}))],
            ),
            (
                "resources.tensor_parallel",
                vec![
                    ("training.optimizer", json!({"name": "muon"})),
                    ("resources", json!({"devices": 2, "tensor_parallel": 2})),
                ],
            ),
            ("training.eval_every.steps", vec![("training.eval_every", json!({"steps": 0}))]),
            ("training.eval_every.epochs", vec![("training.eval_every", json!({"epochs": 0.0}))]),
            (
                "training.lr_scheduler.warmup_ratio",
                vec![("training.lr_scheduler", json!({"warmup_steps": 5, "warmup_ratio": 0.1}))],
            ),
            (
                "training.lr_scheduler.warmup_steps",
                vec![("training.max_steps", json!(10)), ("training.lr_scheduler.warmup_steps", json!(11))],
            ),
            (
                "training.lr_scheduler.end_learning_rate",
                vec![("training.lr_scheduler", json!({"name": "polynomial", "end_learning_rate": 1.0}))],
            ),
            (
                "training.early_stopping",
                vec![("split.fraction", json!(0.0)), ("training.early_stopping", json!({"patience": 2}))],
            ),
            (
                "training.best_metric",
                vec![("split.fraction", json!(0.0)), ("training.best_metric", json!("f1"))],
            ),
            (
                "split.test_fraction",
                vec![("split.fraction", json!(0.5)), ("split.test_fraction", json!(0.5))],
            ),
            (
                "training.class_weights",
                vec![("problem_type", json!("regression")), ("training.class_weights", json!("balanced"))],
            ),
            ("training.class_weights", vec![("training.class_weights", json!({"a": 0.0}))]),
            (
                "training.label_smoothing",
                vec![("problem_type", json!("multi_label")), ("training.label_smoothing", json!(0.1))],
            ),
            ("training.freeze.pattern", vec![("training.freeze.pattern", json!("layer.(0"))]),
            ("training.freeze.pattern", vec![("training.freeze.pattern", json!(""))]),
            ("columns.label", vec![("columns.label", json!("text"))]),
            ("columns.text_pair", vec![("columns.text_pair", json!("text"))]),
            ("columns.text", vec![("columns.text", json!(""))]),
            ("data.train", vec![("data.train", json!("../train.csv"))]),
            ("data.test", vec![("data.test", json!("train.csv"))]),
            (
                "training.precision",
                vec![("training.precision", json!("tf32")), ("resources.device", json!("cpu"))],
            ),
            (
                "training.precision",
                vec![("training.precision", json!("fp16")), ("resources.device", json!("cpu"))],
            ),
            (
                "training.precision",
                vec![
                    ("training.precision", json!("bf16_pure")),
                    ("training.optimizer", json!({"name": "lion"})),
                ],
            ),
        ];
        for (param, changes) in cases {
            let found = problems(&changes);
            assert_eq!(found.len(), 1, "{param}: {found:?}");
            assert_eq!(found[0].param, param, "{}", found[0]);
        }
    }

    #[test]
    fn each_setting_of_an_optimizer_outside_its_range_is_named() {
        for (field, optimizer) in [
            ("betas", json!({"name": "adamw", "betas": [1.0, 0.9]})),
            ("eps", json!({"name": "adam", "eps": -1.0})),
            ("betas", json!({"name": "lion", "betas": [0.9, 1.0]})),
            ("eps", json!({"name": "adafactor", "eps": [-1e-30, 1e-3]})),
            ("clip_threshold", json!({"name": "adafactor", "clip_threshold": 0.0})),
            ("decay_rate", json!({"name": "adafactor", "decay_rate": 0.8})),
            ("beta1", json!({"name": "adafactor", "beta1": 1.0})),
            ("warmup_init", json!({"name": "adafactor", "relative_step": false, "warmup_init": true})),
            ("momentum", json!({"name": "muon", "momentum": 1.0})),
            ("ns_steps", json!({"name": "muon", "ns_steps": 0})),
            ("ns_steps", json!({"name": "muon", "ns_steps": 100})),
            ("adamw_lr_scale", json!({"name": "muon", "adamw_lr_scale": 0.0})),
            ("eps", json!({"name": "muon", "eps": -1e-8})),
            ("betas", json!({"name": "adamw_8bit", "betas": [0.9, -0.1]})),
            ("eps", json!({"name": "sparse_adam", "eps": 0.0})),
        ] {
            let found = problems(&[("training.optimizer", optimizer.clone())]);
            assert_eq!(found.len(), 1, "{optimizer}: {found:?}");
            assert_eq!(found[0].param, format!("training.optimizer.{field}"));
        }
        for name in ["lion", "adafactor", "muon", "adamw_8bit", "sparse_adam"] {
            assert_eq!(problems(&[("training.optimizer", json!({"name": name}))]), [], "{name}");
        }
    }

    #[test]
    fn every_precision_is_accepted_where_the_device_is_left_open() {
        for precision in Precision::ALL {
            assert_eq!(problems(&[("training.precision", json!(precision.name()))]), []);
        }
        assert_eq!(
            problems(&[("training.precision", json!("bf16")), ("resources.device", json!("cpu"))]),
            []
        );
    }

    #[test]
    fn a_metric_of_another_problem_is_refused_with_the_nearest_one() {
        let best = |kind: &str, metric: &str| {
            problems(&[("problem_type", json!(kind)), ("training.best_metric", json!(metric))])
        };
        assert_eq!(best("single_label", "eval_f1_macro"), []);
        assert_eq!(best("regression", "spearman"), []);
        let found = best("single_label", "acuracy");
        assert!(found[0].message.contains("did you mean \"accuracy\"?"), "{}", found[0]);
        assert_eq!(best("regression", "f1").len(), 1);
    }

    #[test]
    fn a_nan_is_in_no_range() {
        let mut spec: JobSpec = serde_json::from_value(spec()).unwrap();
        spec.training.learning_rate = f64::NAN;
        spec.training.dropout = Some(f64::NAN);
        let params: Vec<_> = spec.problems().into_iter().map(|problem| problem.param).collect();
        assert_eq!(params, ["training.learning_rate", "training.dropout"]);
    }
}

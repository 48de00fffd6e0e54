use serde_json::{Value, json};

use crate::spec::{JobSpec, Precision, SpecError};

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
            vec![("training.optimizer", sgd(json!({"nesterov": true, "momentum": 0.9, "dampening": 0.1})))],
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
        ("training.best_metric", vec![("split.fraction", json!(0.0)), ("training.best_metric", json!("f1"))]),
        ("split.test_fraction", vec![("split.fraction", json!(0.5)), ("split.test_fraction", json!(0.5))]),
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
            vec![("training.precision", json!("bf16_pure")), ("training.optimizer", json!({"name": "lion"}))],
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
    assert_eq!(problems(&[("training.precision", json!("bf16")), ("resources.device", json!("cpu"))]), []);
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

#[test]
fn an_adapter_outside_its_ranges_or_beside_what_it_excludes_is_refused() {
    let lora = |value: Value| ("training.lora", value);
    for (param, changes) in [
        ("training.lora.rank", vec![lora(json!({"rank": 0}))]),
        ("training.lora.alpha", vec![lora(json!({"alpha": 0.0}))]),
        ("training.lora.dropout", vec![lora(json!({"dropout": 1.0}))]),
        ("training.lora.targets", vec![lora(json!({"targets": []}))]),
        ("training.lora.targets", vec![lora(json!({"targets": [" "]}))]),
        ("training.freeze", vec![lora(json!({})), ("training.freeze", json!({"embeddings": true}))]),
        (
            "resources.tensor_parallel",
            vec![lora(json!({})), ("resources", json!({"devices": 2, "tensor_parallel": 2}))],
        ),
        (
            "resources.pipeline_stages",
            vec![lora(json!({})), ("resources", json!({"devices": 2, "pipeline_stages": 2}))],
        ),
    ] {
        let found = problems(&changes);
        assert_eq!(found.len(), 1, "{param}: {found:?}");
        assert_eq!(found[0].param, param);
    }
    assert_eq!(problems(&[lora(json!({"targets": "all-linear", "quantization": "nf4"}))]), []);
}

#[test]
fn samples_name_the_prompt_and_the_turn_that_is_wrong() {
    let found = |samples: Value| {
        let task =
            [("task", json!("text-generation")), ("columns", json!({})), ("training.samples", samples)];
        problems(&task).into_iter().map(|problem| (problem.param, problem.message)).collect::<Vec<_>>()
    };
    let turn = |role: &str| json!({"role": role, "content": "a"});
    assert_eq!(found(json!({"prompts": ["a", [turn("system"), turn("user")]], "rows": 14})), []);
    let cases = [
        (json!({"prompts": vec!["a"; 17]}), "prompts", "are 17; at most 16"),
        (json!({"rows": 17}), "rows", "0 to 16, found 17"),
        (json!({"prompts": vec!["a"; 10], "rows": 7}), "rows", "ask for 6 at most"),
        (json!({"prompts": ["a", "  "]}), "prompts[1]", "is empty"),
        (json!({"prompts": [[]]}), "prompts[0]", "has no messages"),
        (json!({"prompts": [[turn("bard")]]}), "prompts[0][0].role", "bard"),
        (json!({"prompts": [[{"role": "user"}]]}), "prompts[0][0].content", ""),
        (
            json!({"prompts": ["a", [turn("user"), turn("assistant")]]}),
            "prompts[1][1].role",
            "nothing to answer",
        ),
        (json!({"max_tokens": 0}), "max_tokens", "1 to 1024"),
        (json!({"temperature": 3.0}), "temperature", "0 to 2"),
    ];
    for (samples, param, words) in cases {
        let found = found(samples);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, format!("training.samples.{param}"));
        assert!(found[0].1.contains(words), "{found:?}");
    }
    let classifier = |samples: Value| problems(&[("training.samples", samples)]);
    assert_eq!(classifier(json!({"prompts": ["a"]}))[0].param, "training.samples");
    assert_eq!(classifier(json!({"rows": 0})), []);
}

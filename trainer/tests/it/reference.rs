//! Models, losses and training steps equal transformers' (values by `fixtures/make_models.py`).

use std::collections::HashMap;

use crate::common::{self, distance, fixture, json_of, logits, numbers, values};
use formats::checkpoint::Weights;
use formats::tokenizer::Tokenizer;
use luthier_trainer::data::{Tokens, collate};
use luthier_trainer::models::{self, Head, TextModel};
use luthier_trainer::nn::{self, Context, LoadReport, Loader};
use luthier_trainer::optim::{Optimizer, clip_coefficient};
use luthier_trainer::tasks::Targets;
use luthier_trainer::tasks::text_classification::TextClassification;
use luthier_trainer::tensors;
use serde_json::{Value, json};
use store::spec::{ClassWeights, ProblemType, Training};
use tch::{Device, Kind, Tensor};

const FAMILIES: [&str; 4] = ["bert", "roberta", "xlm_roberta", "distilbert"];

struct Loaded {
    model: Box<dyn TextModel>,
    params: Vec<(String, Tensor)>,
    report: LoadReport,
}

fn load(folder: &str, labels: i64, keep_head: bool) -> Loaded {
    let path = fixture(folder);
    let config = models::read_config(&path).unwrap();
    let weights = Weights::open(&path).unwrap();
    let base = models::base_of(config["model_type"].as_str().unwrap()).unwrap();
    let mut loader = Loader::new(&weights, base, 0, Device::Cpu);
    if keep_head {
        loader = loader.keep_head((0..labels).collect());
    }
    // Dropout 0: the values were made without.
    let model = models::build(&config, &loader, Head::Labels(labels), Some(0.0)).unwrap();
    let nn::Loaded { params, report, .. } = loader.finish().unwrap();
    Loaded { model, params, report }
}

fn expected(family: &str) -> Value {
    json_of(fixture(&format!("expected/{family}.json")))
}

fn objective(problem: ProblemType, labels: usize, training: &Training) -> TextClassification {
    let names = ["negative", "neutral", "positive"][..labels].iter().map(ToString::to_string).collect();
    let none = Targets::Classes(vec![]);
    TextClassification::new(problem, names, training, &none, Device::Cpu).unwrap()
}

fn classes(value: &Value) -> Targets {
    Targets::Classes(numbers(value).into_iter().map(|id| id as usize).collect())
}

/// Mean loss of a whole batch.
fn loss(objective: &TextClassification, logits: &Tensor, targets: &Targets) -> Tensor {
    let rows: Vec<usize> = (0..logits.size()[0] as usize).collect();
    objective.row_losses(logits, targets, &rows).sum(Kind::Float) / objective.weight_of_rows(targets, &rows)
}

#[test]
fn tokens_equal_the_reference_with_pairs_and_truncation() {
    for family in FAMILIES {
        let tokenizer = Tokenizer::load(&fixture(family)).unwrap();
        for case in expected(family)["tokenization"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let pair = case["text_pair"].as_str();
            let length = case["max_length"].as_u64().unwrap() as usize;
            let encoding = &tokenizer.encode_pairs(&[(text, pair)], length).unwrap()[0];
            let ids: Vec<f64> = encoding.ids.iter().map(|&id| f64::from(id)).collect();
            assert_eq!(ids, numbers(&case["input_ids"]), "{family}: {}", case["name"]);
            assert_eq!(json!(encoding.truncated), case["truncated"], "{family}: {}", case["name"]);
            if !case["token_type_ids"].is_null() {
                let types: Vec<f64> = encoding.type_ids.iter().map(|&id| f64::from(id)).collect();
                assert_eq!(types, numbers(&case["token_type_ids"]), "{family}: {}", case["name"]);
            }
        }
    }
}

#[test]
fn logits_equal_the_reference_within_1e_4() {
    for family in FAMILIES {
        let loaded = load(family, 3, true);
        assert_eq!(loaded.report, LoadReport::default());
        for (name, batch) in expected(family)["batches"].as_object().unwrap() {
            let found = values(&logits(loaded.model.as_ref(), batch));
            let off = distance(&found, &numbers(&batch["logits"]));
            assert!(off < 1e-4, "{family} {name}: {off}");
        }
    }
}

#[test]
fn gradients_equal_the_reference_within_1e_3() {
    for family in FAMILIES {
        let (loaded, expected) = (load(family, 3, true), expected(family));
        let batch = &expected["batches"][expected["step"]["batch"].as_str().unwrap()];
        let objective = objective(ProblemType::SingleLabel, 3, &Training::default());
        let loss = loss(&objective, &logits(loaded.model.as_ref(), batch), &classes(&batch["labels"]));
        loss.backward();
        let stated = expected["step"]["loss"].as_f64().unwrap();
        assert!((f64::try_from(&loss).unwrap() - stated).abs() < 1e-5, "{family}");
        let zero: Vec<&str> = expected["step"]["zero_gradients"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        let reference: HashMap<String, Tensor> =
            tensors::load(&fixture(&format!("expected/{family}.safetensors"))).unwrap().into_iter().collect();
        for (name, param) in &loaded.params {
            let (found, right) = (param.grad(), &reference[&format!("grad.{name}")]);
            let (off, size) =
                (f64::try_from((&found - right).norm()).unwrap(), f64::try_from(right.norm()).unwrap());
            let bound = if zero.contains(&name.as_str()) { 1e-4 } else { 1e-3 * size };
            assert!(off <= bound, "{family} {name}: off by {off} of {size}");
        }
    }
}

#[test]
fn weighted_smoothed_multi_label_and_regression_losses_equal_the_reference() {
    for family in FAMILIES {
        let expected = expected(family);
        let loaded = load(family, 3, true);
        for (field, weighted, smoothed) in [
            ("weighted_loss", true, false),
            ("smoothed_loss", false, true),
            ("weighted_smoothed_loss", true, true),
        ] {
            let case = &expected[field];
            let batch = &expected["batches"][case["batch"].as_str().unwrap()];
            let names = ["negative", "neutral", "positive"];
            let by_name =
                || names.iter().map(ToString::to_string).zip(numbers(&case["class_weights"])).collect();
            let training = Training {
                class_weights: weighted.then(|| ClassWeights::ByName(by_name())),
                label_smoothing: if smoothed { 0.1 } else { 0.0 },
                ..Training::default()
            };
            let objective = objective(ProblemType::SingleLabel, 3, &training);
            let found = loss(&objective, &logits(loaded.model.as_ref(), batch), &classes(&batch["labels"]));
            let off = (f64::try_from(found).unwrap() - case["loss"].as_f64().unwrap()).abs();
            assert!(off < 1e-5, "{family} {field}: {off}");
        }
        let case = &expected["multi_label"];
        let batch = &expected["batches"][case["batch"].as_str().unwrap()];
        let flags = Targets::Flags(numbers(&case["labels"]).into_iter().map(|flag| flag > 0.5).collect());
        let objective = objective(ProblemType::MultiLabel, 3, &Training::default());
        let found = loss(&objective, &logits(loaded.model.as_ref(), batch), &flags);
        assert!(
            (f64::try_from(found).unwrap() - case["loss"].as_f64().unwrap()).abs() < 1e-5,
            "{family} multi-label"
        );
    }
}

#[test]
fn a_regression_equals_the_reference() {
    for family in FAMILIES {
        let (expected, loaded) = (expected(family), load(family, 1, false));
        let case = &expected["regression"];
        let head: HashMap<String, Tensor> =
            tensors::load(&fixture(&format!("expected/{family}.safetensors"))).unwrap().into_iter().collect();
        tch::no_grad(|| {
            for (name, param) in &loaded.params {
                if let Some(value) = head.get(&format!("regression.{name}")) {
                    param.shallow_clone().copy_(value);
                }
            }
        });
        let batch = &expected["batches"][case["batch"].as_str().unwrap()];
        let logits = logits(loaded.model.as_ref(), batch);
        assert!(distance(&values(&logits), &numbers(&case["logits"])) < 1e-4, "{family}");
        let targets = Targets::Numbers(numbers(&case["targets"]));
        let found = loss(&objective(ProblemType::Regression, 1, &Training::default()), &logits, &targets);
        assert!((f64::try_from(found).unwrap() - case["loss"].as_f64().unwrap()).abs() < 1e-4, "{family}");
    }
}

#[test]
fn losses_of_20_adamw_steps_equal_the_reference_within_1e_3() {
    for family in FAMILIES {
        let (expected, loaded) = (expected(family), load(family, 3, true));
        let plan = &expected["training"];
        let tokenizer = Tokenizer::load(&fixture(family)).unwrap();
        let rows = plan["rows"].as_array().unwrap();
        let texts: Vec<_> =
            rows.iter().map(|row| (row["text"].as_str().unwrap(), row["text_pair"].as_str())).collect();
        let tokens = Tokens::of(&tokenizer.encode_pairs(&texts, 24).unwrap());
        let labels: Value = rows.iter().map(|row| row["label"].clone()).collect();
        let targets = classes(&labels);
        let training = Training { learning_rate: 1e-3, weight_decay: 0.01, ..Training::default() };
        let objective = objective(ProblemType::SingleLabel, 3, &training);
        let mut optimizer = Optimizer::new(&training, &loaded.params, loaded.model.as_ref()).unwrap();
        for (step, stated) in plan["steps"].as_array().unwrap().iter().enumerate() {
            let picked: Vec<usize> = numbers(&stated["rows"]).into_iter().map(|row| row as usize).collect();
            let own: Vec<_> = picked.iter().map(|&row| common::row_of(&tokens, row)).collect();
            let padding = (tokenizer.pad_id().unwrap(), tokenizer.pad_type_id());
            let batch = collate(&own, padding, Device::Cpu);
            let context = Context::evaluation(&batch.inputs.packing);
            let logits = loaded.model.forward(&batch.inputs, &context);
            optimizer.zero_grad().unwrap();
            let loss = objective.row_losses(&logits, &targets, &picked).mean(Kind::Float);
            loss.backward();
            let norm = f64::try_from(optimizer.grad_norm().unwrap()).unwrap();
            let rate = optimizer.learning_rate(step as u64, 20);
            optimizer.step(rate, clip_coefficient(norm as f32, 1.0)).unwrap();
            let off = |found: f64, field: &str| {
                let right = stated[field].as_f64().unwrap();
                assert!(
                    (found - right).abs() <= 1e-3 * right.abs().max(1.0),
                    "{family} step {step}: {field} {found}, not {right}"
                );
            };
            off(f64::try_from(&loss).unwrap(), "loss");
            off(norm, "gradient_norm");
            assert!((rate - stated["learning_rate"].as_f64().unwrap()).abs() < 1e-12);
        }
        for (name, param) in &loaded.params {
            let sum = f64::try_from(param.to_kind(Kind::Double).norm()).unwrap();
            // The reference leaves out what only rounding moves.
            let Some(right) = plan["final"][name][1].as_f64() else { continue };
            assert!((sum - right).abs() <= 1e-3 * right.max(1.0), "{family} {name}: norm {sum}, not {right}");
        }
    }
}

#[test]
fn other_saves_of_the_encoder_load_and_say_what_was_dropped_and_made() {
    let stated = json_of(fixture("expected/bert_variants.json"));
    for (folder, report) in stated.as_object().unwrap() {
        let loaded = load(folder, 3, folder == "bert_old_names");
        let names = |field: &str| -> Vec<String> { serde_json::from_value(report[field].clone()).unwrap() };
        let mut made = loaded.report.made.clone();
        made.sort();
        assert_eq!(made, names("missing"), "{folder}");
        assert_eq!(loaded.report.dropped, names("unused"), "{folder}");
        if folder == "bert_old_names" {
            let batch = &expected("bert")["batches"]["singles"];
            assert!(
                distance(&values(&logits(loaded.model.as_ref(), batch)), &numbers(&batch["logits"])) < 1e-4
            );
        }
    }
}

//! Language models, their losses and training steps equal transformers' (values by `fixtures/make_decoders.py`).

use std::collections::HashMap;

use crate::common::{distance, fixture, json_of, numbers, values};
use formats::checkpoint::Weights;
use formats::tokenizer::Encoding;
use luthier_trainer::data::{Split, Tokens, collate};
use luthier_trainer::models::{self, Head, TextModel};
use luthier_trainer::nn::{self, Context, Loader};
use luthier_trainer::optim::{Optimizer, clip_coefficient};
use luthier_trainer::tasks::text_classification::TextClassification;
use luthier_trainer::tasks::text_generation::TextGeneration;
use luthier_trainer::tasks::{Given, Objective, Targets};
use luthier_trainer::tensors;
use serde_json::Value;
use store::spec::{self, ProblemType, Training};
use tch::{Device, Kind, Tensor};

/// Every model of the fixtures that is trained here.
const MODELS: [&str; 21] = [
    "gpt2",
    "gpt_neox",
    "gpt_neox_old_config",
    "gpt_neox_sequential",
    "llama",
    "llama_bias",
    "llama_dynamic",
    "llama_linear",
    "llama_tied",
    "llama_yarn",
    "mistral",
    "phi3",
    "phi3_longrope",
    "phi3_partial",
    "qwen2",
    "qwen2_window",
    "qwen3",
    "smollm3",
    "gemma2",
    "gemma3_text",
    "llama_linear_old_config",
];

struct Model {
    model: Box<dyn TextModel>,
    params: Vec<(String, Tensor)>,
}

fn expected(name: &str) -> Value {
    json_of(fixture(&format!("expected/decoders/{name}.json")))
}

fn inputs() -> Value {
    json_of(fixture("expected/decoders/inputs.json"))
}

/// The model of a folder, with the weights of the folder that the expected values name.
fn load(name: &str) -> Model {
    let said = expected(&original(name));
    let weights = fixture(&format!("decoders/{}", said["weights"].as_str().unwrap()));
    let config = models::read_config(&fixture(&format!("decoders/{name}"))).unwrap();
    let weights = Weights::open(&weights).unwrap();
    let loader = Loader::new(
        &weights,
        models::base_of(config["model_type"].as_str().unwrap()).unwrap(),
        0,
        Device::Cpu,
    );
    let model = models::build(&config, &loader, Head::Tokens, Some(0.0)).unwrap();
    let nn::Loaded { params, report, .. } = loader.finish().unwrap();
    assert!(report.made.is_empty() && report.dropped.is_empty(), "{name}: {report:?}");
    Model { model, params }
}

/// The name whose expected values a model with a config of old has.
fn original(name: &str) -> String {
    let old = json_of(fixture("expected/decoders/old_configs.json"));
    old[name].as_str().unwrap_or(name).to_owned()
}

fn lists(value: &Value) -> Vec<Vec<u32>> {
    let of = |list: &Value| numbers(list).into_iter().map(|id| id as u32).collect();
    value.as_array().unwrap().iter().map(of).collect()
}

/// Rows of tokens, and which of them count.
fn split(ids: Vec<Vec<u32>>, counted: Vec<Vec<u32>>) -> Split {
    let numbers = (0..ids.len() as u64).collect();
    let row = |(ids, type_ids)| Encoding { ids, type_ids, truncated: false };
    let encodings: Vec<Encoding> = ids.into_iter().zip(counted).map(row).collect();
    let (targets, reference, texts) = (Targets::Tokens, Vec::new(), Vec::new());
    let (tokens, mismatched, keys) = (Tokens::of(&encodings), None, Vec::new());
    Split { tokens, per_row: 1, reference, mismatched, answers: None, keys, numbers, targets, texts }
}

/// The mean loss of the counted tokens of some rows.
fn loss(model: &dyn TextModel, split: &Split, rows: &[usize]) -> Tensor {
    let own: Vec<_> = rows.iter().map(|&row| split.row(row)).collect();
    let batch = collate(&own, (0, 0), Device::Cpu);
    let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
    let by = TextGeneration::default().weight(split, rows).recip();
    TextGeneration::default().loss(&Given { model, top: &top, split, rows, batch: &batch }, by)
}

fn sequences() -> Split {
    let inputs = inputs();
    split(lists(&inputs["sequences"]), lists(&inputs["counted"]))
}

#[test]
fn logits_equal_the_reference_within_1e_4() {
    let mut wrong = Vec::new();
    for name in MODELS.into_iter().chain(old_configs().iter().map(String::as_str)) {
        let (loaded, sequences) = (load(name), sequences());
        let path = fixture(&format!("expected/decoders/{}.safetensors", original(name)));
        let reference: HashMap<String, Tensor> = tensors::load(&path).unwrap().into_iter().collect();
        // All in one batch: none must see another.
        let own: Vec<_> = (0..sequences.len()).map(|row| sequences.row(row)).collect();
        let batch = collate(&own, (0, 0), Device::Cpu);
        let model = loaded.model.as_ref();
        let _guard = tch::no_grad_guard();
        let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
        let logits = model.vocabulary().unwrap().logits(&top); // [n, v]
        let mut at = 0;
        for (number, row) in own.iter().enumerate() {
            let logits = logits.narrow(0, at, row.ids.len() as i64);
            at += row.ids.len() as i64;
            let found = logits.slice(1, 0, None, 4);
            let off = distance(&values(&found), &values(&reference[&format!("logits.{number}")]));
            let sums = logits.logsumexp([1], false);
            let of_all = distance(&values(&sums), &values(&reference[&format!("logsumexp.{number}")]));
            if off.max(of_all) > 1e-4 || off.is_nan() {
                wrong.push(format!("{name} sequence {number} of {}: {off} {of_all}", row.ids.len()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn old_configs() -> Vec<String> {
    let old = json_of(fixture("expected/decoders/old_configs.json"));
    old.as_object().unwrap().keys().cloned().collect()
}

#[test]
fn losses_and_gradients_equal_the_reference_within_1e_4() {
    let mut wrong = Vec::new();
    for name in MODELS {
        let (loaded, expected, sequences) = (load(name), expected(&original(name)), sequences());
        let rows: Vec<usize> = (0..sequences.len()).collect();
        let loss = loss(loaded.model.as_ref(), &sequences, &rows);
        let step = &expected["step"];
        let off = (loss.double_value(&[]) - step["loss"].as_f64().unwrap()).abs();
        if off > 1e-5 {
            wrong.push(format!("{name}: the loss is off by {off}"));
        }
        loss.backward();
        let path = fixture(&format!("expected/decoders/{}.safetensors", original(name)));
        let reference: HashMap<String, Tensor> = tensors::load(&path).unwrap().into_iter().collect();
        for (param_name, param) in &loaded.params {
            let found = param.grad();
            let size = step["gradient_norms"][param_name].as_f64().unwrap();
            let norm = found.norm().double_value(&[]);
            let off = match reference.get(&format!("grad.{param_name}")) {
                Some(right) => (&found - right).norm().double_value(&[]),
                None => (norm - size).abs(),
            };
            if off > 1e-4 * size.max(1e-3) {
                wrong.push(format!("{name} {param_name}: off by {off} of {size}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn twenty_steps_give_the_losses_of_the_reference_within_1e_4() {
    let inputs = inputs();
    let rows = &inputs["rows"].as_array().unwrap();
    let field = |name: &str| Value::Array(rows.iter().map(|row| row[name].clone()).collect());
    let data = split(lists(&field("input_ids")), lists(&field("counted")));
    let batches = lists(&inputs["batches"]);
    let mut wrong = Vec::new();
    // Padded batches go by another length where angles depend on it.
    for name in MODELS.into_iter().filter(|name| !["llama_dynamic", "phi3_longrope"].contains(name)) {
        let (loaded, expected) = (load(name), expected(&original(name)));
        let training = Training {
            learning_rate: 1e-3,
            weight_decay: 0.01,
            optimizer: spec::Optimizer::default(),
            ..Training::default()
        };
        let model = loaded.model.as_ref();
        let mut optimizer = Optimizer::new(&training, &loaded.params, model).unwrap();
        let steps = expected["training"]["steps"].as_array().unwrap();
        for (number, (step, batch)) in steps.iter().zip(&batches).enumerate() {
            let rows: Vec<usize> = batch.iter().map(|&row| row as usize).collect();
            optimizer.zero_grad().unwrap();
            let loss = loss(model, &data, &rows);
            loss.backward();
            let norm = optimizer.grad_norm().unwrap();
            let norm: f32 = f32::try_from(norm).unwrap();
            let rate = optimizer.learning_rate(number as u64, steps.len() as u64);
            optimizer.step(rate, clip_coefficient(norm, 1.0)).unwrap();
            let off = (loss.double_value(&[]) - step["loss"].as_f64().unwrap()).abs();
            if off > 1e-4 {
                wrong.push(format!("{name} step {number}: off by {off}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_evaluation_counts_tokens_and_those_that_are_right() {
    let (loaded, sequences) = (load("llama"), sequences());
    let model = loaded.model.as_ref();
    let rows: Vec<usize> = (0..sequences.len()).collect();
    let own: Vec<_> = rows.iter().map(|&row| sequences.row(row)).collect();
    let batch = collate(&own, (0, 0), Device::Cpu);
    let _guard = tch::no_grad_guard();
    let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
    let given = Given { model, top: &top, split: &sequences, rows: &rows, batch: &batch };
    let (outputs, losses) = TextGeneration::default().look(&given).unwrap();
    let counted: f32 = outputs.iter().step_by(2).sum();
    let expected = expected("llama");
    assert_eq!(f64::from(counted), expected["step"]["counted"].as_f64().unwrap());
    let mean = f64::from(losses.iter().sum::<f32>() / counted);
    assert!((mean - expected["step"]["loss"].as_f64().unwrap()).abs() < 1e-5);
    // By hand: the greatest logit of each place.
    let logits = model.vocabulary().unwrap().logits(&top);
    let greatest = Vec::<i64>::try_from(logits.argmax(1, false)).unwrap();
    let (mut right, mut at) = (0, 0);
    for row in &own {
        right += (1..row.ids.len())
            .filter(|&token| row.counts[token] > 0 && greatest[at + token - 1] == i64::from(row.ids[token]))
            .count();
        at += row.ids.len();
    }
    assert_eq!(outputs.iter().skip(1).step_by(2).sum::<f32>(), right as f32);
    assert_eq!(logits.kind(), Kind::Float);
}

/// The classifier of the fixtures, with so many labels: the first rows of its head.
fn classifier(labels: i64) -> Model {
    let folder = fixture("decoders/llama_classification");
    let config = models::read_config(&folder).unwrap();
    let weights = Weights::open(&folder).unwrap();
    let loader = Loader::new(&weights, "model", 0, Device::Cpu).keep_head((0..labels).collect());
    let model = models::build(&config, &loader, Head::Labels(labels), Some(0.0)).unwrap();
    let nn::Loaded { params, report, .. } = loader.finish().unwrap();
    assert!(report.made.is_empty() && report.dropped.is_empty(), "{report:?}");
    Model { model, params }
}

#[test]
fn a_decoder_classifies_by_its_last_token_as_the_reference_does() {
    let expected = json_of(fixture("expected/decoders/llama_classification.json"));
    let sequences = sequences();
    let rows: Vec<usize> = (0..sequences.len()).collect();
    let own: Vec<_> = rows.iter().map(|&row| sequences.row(row)).collect();
    let batch = collate(&own, (0, 0), Device::Cpu);
    for (name, problem) in [
        ("single_label_classification", ProblemType::SingleLabel),
        ("multi_label_classification", ProblemType::MultiLabel),
        ("regression", ProblemType::Regression),
    ] {
        let said = &expected["problems"][name];
        let labels = if problem == ProblemType::Regression { 1 } else { 3 };
        let loaded = classifier(labels);
        let logits = loaded.model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
        let off = distance(&values(&logits), &numbers(&said["logits"]));
        assert!(off < 1e-4, "{name}: {off}");
        let stated = numbers(&said["labels"]);
        let targets = match problem {
            ProblemType::SingleLabel => Targets::Classes(stated.iter().map(|&id| id as usize).collect()),
            ProblemType::MultiLabel => Targets::Flags(stated.iter().map(|&flag| flag > 0.5).collect()),
            ProblemType::Regression => Targets::Numbers(stated),
        };
        let names = (0..labels).map(|id| id.to_string()).collect();
        let training = Training::default();
        let task = TextClassification::new(problem, names, &training, &targets, Device::Cpu).unwrap();
        let loss = task.row_losses(&logits, &targets, &rows).mean(Kind::Float);
        assert!((loss.double_value(&[]) - said["loss"].as_f64().unwrap()).abs() < 1e-5, "{name}");
        loss.backward();
        for (param_name, param) in &loaded.params {
            let size = said["gradient_norms"][param_name].as_f64().unwrap();
            let off = (param.grad().norm().double_value(&[]) - size).abs();
            assert!(off < 1e-4 * size.max(1e-2), "{name} {param_name}: off by {off} of {size}");
        }
    }
}

//! Encoders with decoders, their losses, training steps and answers equal transformers' (values by
//! `fixtures/make_encoder_decoders.py`).

use std::collections::HashMap;

use formats::checkpoint::Weights;
use formats::tokenizer::Encoding;
use luthier_trainer::data::{Split, Tokens, collate};
use luthier_trainer::generate::Writing;
use luthier_trainer::models::{self, Head, TextModel};
use luthier_trainer::nn::{self, Context, Loader};
use luthier_trainer::optim::{Optimizer, clip_coefficient};
use luthier_trainer::tasks::text_generation::TextGeneration;
use luthier_trainer::tasks::{Given, Objective, Targets};
use luthier_trainer::tensors;
use serde_json::Value;
use store::spec::{self, Training};
use tch::{Device, Tensor};

use crate::common::{distance, fixture, json_of, numbers, values};

const MODELS: [&str; 6] = ["t5", "t5_gated", "mt5", "bart", "mbart", "marian"];

struct Model {
    model: Box<dyn TextModel>,
    params: Vec<(String, Tensor)>,
    config: Value,
}

fn expected(name: &str) -> Value {
    json_of(fixture(&format!("expected/encoder_decoders/{name}.json")))
}

fn load(name: &str) -> Model {
    let folder = fixture(&format!("encoder_decoders/{name}"));
    let config = models::read_config(&folder).unwrap();
    let weights = Weights::open(&folder).unwrap();
    let base = models::base_of(config["model_type"].as_str().unwrap()).unwrap();
    let loader = Loader::new(&weights, base, 0, Device::Cpu);
    let model = models::build(&config, &loader, Head::Answers, Some(0.0)).unwrap();
    let nn::Loaded { params, report, .. } = loader.finish().unwrap();
    assert!(report.made.is_empty() && report.dropped.is_empty(), "{name}: {report:?}");
    Model { model, params, config }
}

fn ids(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|id| id as u32).collect()
}

/// Sources and targets, as the files of a job would give them to this model.
fn split(pairs: &Value, config: &Value) -> Split {
    let pairs = pairs.as_array().unwrap();
    let of = |ids: Vec<u32>| Encoding { type_ids: vec![0; ids.len()], ids, truncated: false };
    let answer = |pair: &Value| {
        let target = ids(&pair["target"]);
        let first = match config["model_type"].as_str() {
            Some("mbart") => *target.last().unwrap(),
            _ => config["decoder_start_token_id"].as_u64().unwrap() as u32,
        };
        of([&[first][..], &target].concat())
    };
    Split {
        tokens: Tokens::of(&pairs.iter().map(|pair| of(ids(&pair["source"]))).collect::<Vec<_>>()),
        per_row: 1,
        reference: Vec::new(),
        mismatched: None,
        answers: Some(Tokens::of(&pairs.iter().map(answer).collect::<Vec<_>>())),
        keys: Vec::new(),
        numbers: (0..pairs.len() as u64).collect(),
        targets: Targets::Tokens,
        texts: Vec::new(),
    }
}

/// The mean loss of the targets of some rows.
fn loss(model: &dyn TextModel, split: &Split, rows: &[usize]) -> Tensor {
    let own: Vec<_> = rows.iter().map(|&row| split.row(row)).collect();
    let batch = collate(&own, (0, 0), Device::Cpu);
    let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
    let by = TextGeneration::default().weight(split, rows).recip();
    TextGeneration::default().loss(&Given { model, top: &top, split, rows, batch: &batch }, by)
}

#[test]
fn logits_equal_the_reference_within_1e_4() {
    let inputs = expected("inputs");
    let mut wrong = Vec::new();
    for name in MODELS {
        let loaded = load(name);
        let pairs = split(&inputs["pairs"], &loaded.config);
        let path = fixture(&format!("expected/encoder_decoders/{name}.safetensors"));
        let reference: HashMap<String, Tensor> = tensors::load(&path).unwrap().into_iter().collect();
        // All in one batch: none must see another.
        let own: Vec<_> = (0..pairs.len()).map(|row| pairs.row(row)).collect();
        let batch = collate(&own, (0, 0), Device::Cpu);
        let model = loaded.model.as_ref();
        let _guard = tch::no_grad_guard();
        let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
        let logits = model.vocabulary().unwrap().logits(&top); // [m, v]
        let mut at = 0;
        for (number, row) in own.iter().enumerate() {
            let length = row.answer.len() as i64 - 1;
            let logits = logits.narrow(0, at, length);
            at += length;
            let found = logits.slice(1, 0, None, 4);
            let off = distance(&values(&found), &values(&reference[&format!("logits.{number}")]));
            let sums = logits.logsumexp([1], false);
            let of_all = distance(&values(&sums), &values(&reference[&format!("logsumexp.{number}")]));
            if off.max(of_all) > 1e-4 || off.is_nan() {
                wrong.push(format!("{name} pair {number}: {off} {of_all}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn losses_and_gradients_equal_the_reference_within_1e_4() {
    let inputs = expected("inputs");
    let mut wrong = Vec::new();
    for name in MODELS {
        let (loaded, expected) = (load(name), expected(name));
        let pairs = split(&inputs["pairs"], &loaded.config);
        let loss = loss(loaded.model.as_ref(), &pairs, &(0..pairs.len()).collect::<Vec<_>>());
        let step = &expected["step"];
        let off = (loss.double_value(&[]) - step["loss"].as_f64().unwrap()).abs();
        if off > 1e-5 {
            wrong.push(format!("{name}: the loss is off by {off}"));
        }
        loss.backward();
        for (param_name, param) in loaded.params.iter().filter(|(_, param)| param.requires_grad()) {
            let norm = param.grad().norm().double_value(&[]);
            // transformers may know a tensor that several have by another of its names.
            let Some(size) = step["gradient_norms"][param_name].as_f64() else {
                wrong.push(format!("{name}: {param_name} has no gradient in the reference"));
                continue;
            };
            if (norm - size).abs() > 1e-4 * size.max(1e-3) {
                wrong.push(format!("{name} {param_name}: {norm} for {size}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn twenty_steps_give_the_losses_of_the_reference_within_1e_4() {
    let inputs = expected("inputs");
    let mut wrong = Vec::new();
    for name in MODELS {
        let (loaded, expected) = (load(name), expected(name));
        let rows = split(&inputs["rows"], &loaded.config);
        let training = Training {
            learning_rate: 1e-3,
            weight_decay: 0.01,
            optimizer: spec::Optimizer::default(),
            ..Training::default()
        };
        let model = loaded.model.as_ref();
        let mut optimizer = Optimizer::new(&training, &loaded.params, model).unwrap();
        let steps = expected["training"]["steps"].as_array().unwrap();
        for (number, (step, batch)) in steps.iter().zip(inputs["batches"].as_array().unwrap()).enumerate() {
            let batch: Vec<usize> = numbers(batch).into_iter().map(|row| row as usize).collect();
            optimizer.zero_grad().unwrap();
            let loss = loss(model, &rows, &batch);
            loss.backward();
            let norm: f32 = f32::try_from(optimizer.grad_norm().unwrap()).unwrap();
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

/// How a checkpoint of the fixtures writes.
fn writing(name: &str, config: &Value, search: &Value, most: usize) -> Writing {
    let generation = models::generation_config(&fixture(&format!("encoder_decoders/{name}"))).unwrap();
    let id = |name: &str| generation[name].as_u64().or(config[name].as_u64()).map(|id| id as u32);
    Writing {
        num_beams: search["num_beams"].as_u64().unwrap() as usize,
        length_penalty: search["length_penalty"].as_f64().unwrap_or(1.0),
        early_stopping: search["early_stopping"].as_bool().unwrap_or(false),
        no_repeat_ngram_size: search["no_repeat_ngram_size"].as_u64().unwrap_or(0) as usize,
        max_new_tokens: most,
        begin: id("decoder_start_token_id").unwrap(),
        forced_bos: id("forced_bos_token_id"),
        forced_eos: id("forced_eos_token_id"),
        never: Vec::new(),
        ends: vec![id("eos_token_id").unwrap()],
    }
}

#[test]
fn answers_are_those_of_the_reference_token_for_token() {
    let inputs = expected("inputs");
    let questions: Vec<Vec<u32>> = inputs["questions"].as_array().unwrap().iter().map(ids).collect();
    let questions: Vec<&[u32]> = questions.iter().map(Vec::as_slice).collect();
    let most = inputs["written"].as_u64().unwrap() as usize;
    let mut wrong = Vec::new();
    for name in MODELS {
        let (loaded, expected) = (load(name), expected(name));
        for (search, options) in inputs["searches"].as_object().unwrap() {
            let writing = writing(name, &loaded.config, options, most);
            // All at once, though the reference wrote each alone.
            let found = writing.answers(loaded.model.as_ref(), &questions, (0, 0), Device::Cpu).unwrap();
            let right = expected["answers"][search].as_array().unwrap();
            for (number, (found, right)) in found.iter().zip(right).enumerate() {
                if *found != ids(right) {
                    wrong.push(format!("{name} {search} {number}: {found:?} for {right}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

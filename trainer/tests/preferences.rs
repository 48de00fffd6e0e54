//! Rules for preferences equal TRL's (values by `fixtures/make_preferences.py`), and jobs learn by them; so do rules for vectors.

mod common;
mod vectors;

use common::{Job, fixture, json_of, make_decoder, numbers, run, values};
use formats::checkpoint::Weights;
use formats::tokenizer::Encoding;
use luthier_trainer::data::{Split, Tokens, collate};
use luthier_trainer::models::{self, Head, TextModel};
use luthier_trainer::nn::{Context, Loader};
use luthier_trainer::optim::{Optimizer, clip_coefficient};
use luthier_trainer::tasks::preference::PreferenceTuning;
use luthier_trainer::tasks::{Given, Objective, Predictions, Targets};
use luthier_trainer::tensors::Named;
use serde_json::{Value, json};
use store::spec::{self, Preference, PreferenceLoss, Schedule, ScheduleName, Training};
use tch::{Device, Tensor};

struct Model {
    model: Box<dyn TextModel>,
    params: Named,
}

fn load(name: &str) -> Model {
    let config = models::read_config(&fixture(&format!("decoders/{name}"))).unwrap();
    // The reference has the policy's weights under another config.
    let weights = Weights::open(&fixture("decoders/llama")).unwrap();
    let loader = Loader::new(&weights, "model", 0, Device::Cpu);
    let model = models::build(&config, &loader, Head::Tokens, Some(0.0)).unwrap();
    Model { model, params: loader.finish().unwrap().params }
}

fn said(file: &str) -> Value {
    json_of(fixture(&format!("preferences/{file}.json")))
}

/// The pairs, and what the reference says of them.
fn pairs(reference: Vec<f64>) -> Split {
    let inputs = said("inputs");
    let longest = inputs["max_length"].as_u64().unwrap() as usize;
    let ids =
        |pair: &Value, field: &str| -> Vec<u32> { serde_json::from_value(pair[field].clone()).unwrap() };
    let mut encodings = Vec::new();
    for pair in inputs["pairs"].as_array().unwrap() {
        let prompt = ids(pair, "prompt_ids");
        for answer in ["chosen_ids", "rejected_ids"] {
            let mut all = [prompt.clone(), ids(pair, answer)].concat();
            all.truncate(longest);
            let type_ids = (0..all.len()).map(|at| u32::from(at >= prompt.len())).collect();
            encodings.push(Encoding { ids: all, type_ids, truncated: false });
        }
    }
    let tokens = Tokens::of(&encodings);
    let numbers = (0..encodings.len() as u64 / 2).collect();
    let (keys, targets) = (Vec::new(), Targets::Tokens);
    Split { tokens, per_row: 2, reference, keys, numbers, targets, texts: Vec::new() }
}

/// Both lists, alternating.
fn woven(chosen: &Value, rejected: &Value) -> Vec<f64> {
    numbers(chosen).into_iter().zip(numbers(rejected)).flat_map(|(a, b)| [a, b]).collect()
}

fn with_reference() -> Split {
    let dpo = said("dpo");
    pairs(woven(&dpo["reference_chosen_logps"], &dpo["reference_rejected_logps"]))
}

fn tuning(loss: PreferenceLoss, case: &Value) -> PreferenceTuning {
    let number = |name: &str| case[name].as_f64();
    let rule = Preference {
        loss,
        beta: number("beta").unwrap(),
        gamma: number("simpo_gamma").unwrap_or(0.0),
        sft_weight: Some(number("cpo_alpha").unwrap_or(0.0)),
    };
    let label_smoothing = number("label_smoothing").unwrap_or(0.0);
    PreferenceTuning::new(rule, &Training { label_smoothing, ..Training::default() })
}

/// Loss of some rows as one step has it.
fn loss(of: &Model, objective: &PreferenceTuning, split: &Split, rows: &[usize]) -> Tensor {
    let batch = collate(&split.sequences(rows), (0, 0), Device::Cpu);
    let model = of.model.as_ref();
    let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
    let by = objective.weight(split, rows).recip();
    objective.loss(&Given { model, top: &top, split, rows, batch: &batch }, by)
}

/// What an evaluation of all rows keeps.
fn look(of: &Model, objective: &PreferenceTuning, split: &Split) -> Predictions {
    let rows: Vec<usize> = (0..split.len()).collect();
    let batch = collate(&split.sequences(&rows), (0, 0), Device::Cpu);
    let model = of.model.as_ref();
    let _guard = tch::no_grad_guard();
    let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
    let (outputs, losses) =
        objective.look(&Given { model, top: &top, split, rows: &rows, batch: &batch }).unwrap();
    Predictions { outputs, losses: losses.into_iter().map(f64::from).collect() }
}

fn near(found: f64, right: f64, tolerance: f64, what: &str) {
    let off = (found - right).abs() / right.abs().max(1.0);
    assert!(off <= tolerance, "{what}: {found} for {right}");
}

/// Loss and gradients of a case of a fixture.
fn check(name: &str, case: &Value, loss_name: PreferenceLoss, split: &Split) {
    let (model, objective) = (load("llama"), tuning(loss_name, case));
    let rows: Vec<usize> = (0..split.len()).collect();
    let found = loss(&model, &objective, split, &rows);
    near(found.double_value(&[]), case["loss"].as_f64().unwrap(), 1e-4, name);
    found.backward();
    let stride = said("inputs")["gradient_stride"].as_i64().unwrap();
    for (param_name, param) in &model.params {
        let grad = param.grad();
        let norm = case["gradient_norms"][param_name].as_f64().unwrap();
        near(grad.norm().double_value(&[]), norm, 1e-4, &format!("{name} {param_name}"));
        let Some(right) = case["gradients"].get(param_name).map(numbers) else { continue };
        let flat = grad.view([-1]);
        let step = if flat.size()[0] <= 100 { 1 } else { stride };
        for (found, right) in values(&flat.slice(0, 0, None, step)).iter().zip(&right) {
            near(*found, *right, 1e-4, &format!("{name} {param_name}"));
        }
    }
    let predictions = look(&model, &objective, split);
    if let Some(losses) = case.get("losses") {
        for (found, right) in predictions.losses.iter().zip(numbers(losses)) {
            near(*found, right, 1e-4, &format!("{name} by pair"));
        }
    }
    if case.get("margins").is_some() {
        let metrics = objective.metrics(split, &predictions).unwrap();
        let mean = |field: &str| numbers(&case[field]).iter().sum::<f64>() / split.len() as f64;
        for (metric, field) in [
            ("reward_margin", "margins"),
            ("reward_accuracy", "accuracies"),
            ("chosen_reward", "chosen_rewards"),
            ("rejected_reward", "rejected_rewards"),
        ] {
            near(metrics.get(metric).unwrap(), mean(field), 1e-4, &format!("{name} {metric}"));
        }
    }
}

#[test]
fn dpo_gives_trls_losses_gradients_and_rewards_within_1e_4() {
    let (dpo, split) = (said("dpo"), with_reference());
    for (name, loss) in [
        ("sigmoid", PreferenceLoss::Sigmoid),
        ("sigmoid_smoothed", PreferenceLoss::Sigmoid),
        ("robust", PreferenceLoss::Robust),
        ("ipo", PreferenceLoss::Ipo),
        ("hinge", PreferenceLoss::Hinge),
    ] {
        for beta in ["0.1", "0.5"] {
            let name = format!("{name}_{beta}");
            check(&name, &dpo[&name], loss, &split);
        }
    }
}

#[test]
fn the_better_answers_own_loss_is_added_as_trl_adds_it() {
    let (dpo, split) = (said("dpo"), with_reference());
    let mut case = dpo["sigmoid_sft_0.1"].clone();
    case["cpo_alpha"] = case["loss_weights"][1].as_f64().unwrap_or(0.5).into();
    check("sigmoid_sft_0.1", &case, PreferenceLoss::Sigmoid, &split);
}

#[test]
fn rules_without_a_reference_give_trls_losses_and_gradients_within_1e_4() {
    let (all, split) = (said("without_reference"), pairs(Vec::new()));
    for (name, loss) in [
        ("cpo", PreferenceLoss::Cpo),
        ("cpo_smoothed", PreferenceLoss::Cpo),
        ("simpo", PreferenceLoss::Simpo),
        ("cpo_simpo", PreferenceLoss::Simpo),
    ] {
        for beta in ["0.1", "0.5"] {
            let name = format!("{name}_{beta}");
            check(&name, &all[&name], loss, &split);
        }
    }
}

/// TRL counts the prompts' tokens in ORPO's loss of better answers, its paper (equation 6) the answers' alone, as we do: what is
/// the same are the odds.
#[test]
fn orpos_odds_are_trls() {
    let (all, split, model) = (said("without_reference"), pairs(Vec::new()), load("llama"));
    for name in ["orpo_0.1", "orpo_0.5"] {
        let case = &all[name];
        let objective = tuning(PreferenceLoss::Orpo, case);
        let predictions = look(&model, &objective, &split);
        let beta = case["beta"].as_f64().unwrap();
        for (found, ratio) in predictions.losses.iter().zip(numbers(&case["log_odds_ratios"])) {
            near(*found, -beta * ratio, 1e-5, name);
        }
        let metrics = objective.metrics(&split, &predictions).unwrap();
        let right = numbers(&case["margins"]).iter().sum::<f64>() / split.len() as f64;
        near(metrics.get("reward_margin").unwrap(), right, 1e-5, name);
    }
}

#[test]
fn what_the_reference_says_is_what_trl_says() {
    let dpo = said("dpo");
    let objective = tuning(PreferenceLoss::Sigmoid, &json!({"beta": 0.1}));
    let split = pairs(vec![0.0; 12]);
    for (model, fields) in [
        ("llama", ["chosen_logps", "rejected_logps"]),
        ("mistral", ["reference_chosen_logps", "reference_rejected_logps"]),
    ] {
        let said = look(&load(model), &objective, &split).outputs;
        let right = woven(&dpo[fields[0]], &dpo[fields[1]]);
        for (row, right) in said.chunks(4).zip(right.chunks(2)) {
            near(f64::from(row[0]), right[0], 1e-6, model);
            near(f64::from(row[1]), right[1], 1e-6, model);
        }
    }
}

#[test]
fn ten_steps_give_trls_losses_within_1e_4() {
    let (dpo, split, model) = (said("dpo"), with_reference(), load("llama"));
    let training = Training {
        learning_rate: 1e-3,
        weight_decay: 0.0,
        max_grad_norm: 0.0,
        optimizer: spec::Optimizer::default(),
        lr_scheduler: Schedule { name: ScheduleName::Constant, ..Schedule::default() },
        ..Training::default()
    };
    let objective = tuning(PreferenceLoss::Sigmoid, &dpo["training"]);
    let mut optimizer = Optimizer::new(&training, &model.params, model.model.as_ref()).unwrap();
    for (number, step) in dpo["training"]["steps"].as_array().unwrap().iter().enumerate() {
        let rows: Vec<usize> = numbers(&step["pairs"]).into_iter().map(|row| row as usize).collect();
        optimizer.zero_grad().unwrap();
        let loss = loss(&model, &objective, &split, &rows);
        loss.backward();
        let norm = f32::try_from(optimizer.grad_norm().unwrap()).unwrap();
        near(loss.double_value(&[]), step["loss"].as_f64().unwrap(), 1e-4, &format!("step {number}"));
        near(norm.into(), step["gradient_norm"].as_f64().unwrap(), 1e-3, &format!("step {number}"));
        optimizer.step(1e-3, clip_coefficient(norm, 0.0)).unwrap();
    }
}

fn job(training: Value, resources: Value) -> Job {
    let mut all = json!({"max_steps": 16, "batch_size": 4, "learning_rate": 1e-3, "precision": "fp32",
        "chat_template": "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{% if add_generation_prompt \
        %}a:{% endif %}"});
    all.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    let job = Job::of(json!({
        "task": "text-generation",
        "data": {"train": "train.jsonl", "validation": "validation.jsonl"},
        "training": all,
        "resources": resources,
    }));
    make_decoder(&job.path("model"), "llama");
    let pair = |n: usize| {
        let row =
            json!({"prompt": format!("film {n}"), "chosen": format!("good{}", n % 3), "rejected": "bad"});
        format!("{row}\n")
    };
    job.write("data/train.jsonl", &(0..24).map(pair).collect::<String>());
    job.write("data/validation.jsonl", &(24..32).map(pair).collect::<String>());
    job
}

#[test]
fn a_job_learns_which_answer_is_better_and_goes_on_after_a_pause() {
    use luthier_trainer::job::Outcome;
    use luthier_trainer::job::control::{Asked, Control};
    for training in [
        json!({"preference": {}}),
        json!({"preference": {"loss": "ipo"}, "lora": {"rank": 4}, "learning_rate": 1e-2}),
        json!({"preference": {"loss": "orpo", "beta": 0.5}}),
    ] {
        let whole = job(training.clone(), json!({"threads": 1, "device": "cpu"}));
        assert!(matches!(whole.run(), Outcome::Succeeded(_)), "{training}");
        let accuracy = whole.curve("eval", "reward_accuracy");
        assert_eq!(accuracy.last().unwrap().1, 1.0, "{training}: {accuracy:?}");
        assert!(whole.curve("eval", "reward_margin").last().unwrap().1 > 0.0, "{training}");
        let losses = whole.curve("train", "loss");
        // Before the first update nothing is preferred.
        if training["preference"].get("loss").is_none() {
            assert!((losses[0].1 - std::f64::consts::LN_2).abs() < 1e-5, "{losses:?}");
        }
        let paused = job(training.clone(), json!({"threads": 1, "device": "cpu"}));
        let control = Control::default();
        control.ask(Asked::Pause);
        assert!(matches!(paused.run_under(&control, 1), Outcome::Paused(_)));
        assert!(matches!(paused.run_under(&Control::default(), 2), Outcome::Succeeded(_)));
        assert_eq!(paused.curve("train", "loss"), losses, "{training}");
    }
}

#[test]
fn pairs_are_shared_by_processes() {
    if !common::gloo() {
        return;
    }
    let curve = |resources: Value| {
        let job = job(json!({"preference": {"sft_weight": 0.2}, "max_steps": 6}), resources);
        let result = run(&job);
        assert_eq!(result["status"], "succeeded", "{result}");
        (job.curve("train", "loss"), job.curve("eval", "reward_margin"))
    };
    let one = curve(json!({"threads": 1, "device": "cpu"}));
    for extra in [json!({}), json!({"pipeline_stages": 2}), json!({"tensor_parallel": 2})] {
        let mut resources = json!({"threads": 1, "device": "cpu", "devices": 2});
        resources.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let two = curve(resources);
        for ((_, a), (_, b)) in one.0.iter().chain(&one.1).zip(two.0.iter().chain(&two.1)) {
            assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{extra}: {a} {b}");
        }
    }
}

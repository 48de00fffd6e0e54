//! Rules for preferences equal TRL's (values by `fixtures/make_preferences.py`), and jobs learn by them; so do rules for vectors.

use crate::common::{self, Job, fixture, json_of, make_decoder, numbers, run, values};
use formats::checkpoint::Weights;
use formats::tokenizer::Encoding;
use luthier_trainer::data::{Split, Tokens, collate};
use luthier_trainer::models::{self, Head, TextModel};
use luthier_trainer::nn::{Context, Loader};
use luthier_trainer::optim::{Optimizer, clip_coefficient};
use luthier_trainer::tasks::preference::PreferenceTuning;
use luthier_trainer::tasks::unpaired::UnpairedTuning;
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
    let (keys, targets, texts) = (Vec::new(), Targets::Tokens, Vec::new());
    Split { tokens, per_row: 2, reference, mismatched: None, answers: None, keys, numbers, targets, texts }
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
        ..Preference::default()
    };
    let label_smoothing = number("label_smoothing").unwrap_or(0.0);
    PreferenceTuning::new(rule, &Training { label_smoothing, ..Training::default() })
}

/// Loss of some rows as one step has it.
fn loss(of: &Model, objective: &dyn Objective, split: &Split, rows: &[usize]) -> Tensor {
    let batch = collate(&split.sequences(rows), (0, 0), Device::Cpu);
    let model = of.model.as_ref();
    let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
    let by = objective.weight(split, rows).recip();
    objective.loss(&Given { model, top: &top, split, rows, batch: &batch }, by)
}

/// What an evaluation of all rows keeps.
fn look(of: &Model, objective: &dyn Objective, split: &Split) -> Predictions {
    let rows: Vec<usize> = (0..split.len()).collect();
    let batch = collate(&split.sequences(&rows), (0, 0), Device::Cpu);
    let model = of.model.as_ref();
    let _guard = tch::no_grad_guard();
    let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
    let (outputs, losses) =
        objective.look(&Given { model, top: &top, split, rows: &rows, batch: &batch }).unwrap();
    let losses = losses.into_iter().map(f64::from).collect();
    Predictions { outputs, losses, ..Predictions::default() }
}

fn near(found: f64, right: f64, tolerance: f64, what: &str) {
    let off = (found - right).abs() / right.abs().max(1.0);
    assert!(off <= tolerance, "{what}: {found} for {right}");
}

/// The value of a loss and all gradients.
fn check_gradients(name: &str, case: &Value, model: &Model, found: &Tensor) {
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
}

/// Loss, gradients and metrics of a case of a fixture.
fn check(name: &str, case: &Value, loss_name: PreferenceLoss, split: &Split) {
    let (model, objective) = (load("llama"), tuning(loss_name, case));
    let rows: Vec<usize> = (0..split.len()).collect();
    let found = loss(&model, &objective, split, &rows);
    check_gradients(name, case, &model, &found);
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

/// The optimizer of the fixtures' steps.
fn plain_adamw() -> Training {
    Training {
        learning_rate: 1e-3,
        weight_decay: 0.0,
        max_grad_norm: 0.0,
        optimizer: spec::Optimizer::default(),
        lr_scheduler: Schedule { name: ScheduleName::Constant, ..Schedule::default() },
        ..Training::default()
    }
}

#[test]
fn ten_steps_give_trls_losses_within_1e_4() {
    let (dpo, split, model) = (said("dpo"), with_reference(), load("llama"));
    let objective = tuning(PreferenceLoss::Sigmoid, &dpo["training"]);
    let mut optimizer = Optimizer::new(&plain_adamw(), &model.params, model.model.as_ref()).unwrap();
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

/// Answers that are desirable or not, one batch after the other, each prompt also with the answer before it in its batch; with
/// what the reference says.
fn answers(names: &[&str]) -> Split {
    let kto = said("kto");
    let longest = said("inputs")["max_length"].as_u64().unwrap() as usize;
    let mut desirable = Vec::new();
    let (mut own, mut others) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for name in names {
        let batch = &kto[*name];
        for example in batch["examples"].as_array().unwrap() {
            let ids = |field: &str| -> Vec<u32> { serde_json::from_value(example[field].clone()).unwrap() };
            let prompt = ids("prompt_ids");
            for (field, into) in [("completion_ids", &mut own.0), ("KL_completion_ids", &mut others.0)] {
                let mut all = [prompt.clone(), ids(field)].concat();
                all.truncate(longest);
                let type_ids = (0..all.len()).map(|at| u32::from(at >= prompt.len())).collect();
                into.push(Encoding { ids: all, type_ids, truncated: false });
            }
            desirable.push(example["label"].as_bool().unwrap());
        }
        own.1.extend(numbers(&batch["reference_logps"]));
        others.1.extend(numbers(&batch["reference_KL_logps"]));
    }
    let split = |(encodings, reference): (Vec<Encoding>, Vec<f64>), mismatched| Split {
        tokens: Tokens::of(&encodings),
        per_row: 1,
        reference,
        mismatched,
        answers: None,
        keys: Vec::new(),
        numbers: (0..encodings.len() as u64).collect(),
        targets: Targets::Answers(desirable.clone()),
        texts: Vec::new(),
    };
    let mismatched = split(others, None);
    split(own, Some(Box::new(mismatched)))
}

fn unpaired(loss: PreferenceLoss, case: &Value) -> UnpairedTuning {
    let number = |name: &str| case[name].as_f64().unwrap();
    UnpairedTuning::new(Preference {
        loss,
        beta: number("beta"),
        desirable_weight: number("desirable_weight"),
        undesirable_weight: number("undesirable_weight"),
        ..Preference::default()
    })
}

/// As a step does it: what the model says of the prompts with each other's answers first.
fn loss_of_answers(of: &Model, objective: &UnpairedTuning, split: &Split, rows: &[usize]) -> Tensor {
    if let Some(mismatched) = &split.mismatched {
        let all = look(of, objective, mismatched).outputs;
        let of_rows: Vec<f32> = rows
            .iter()
            .flat_map(|&row| all[row * objective.outputs()..][..objective.outputs()].to_vec())
            .collect();
        objective.ahead(split, rows, &of_rows);
    }
    loss(of, objective, split, rows)
}

/// What an evaluation has of a split, beside what was asked of it.
fn evaluated(of: &Model, objective: &UnpairedTuning, split: &Split) -> Predictions {
    let mut predictions = look(of, objective, split);
    if let Some(mismatched) = &split.mismatched {
        predictions.mismatched = look(of, objective, mismatched).outputs;
    }
    predictions
}

#[test]
fn kto_gives_trls_losses_gradients_rewards_and_divergence_within_1e_4() {
    let kto = said("kto");
    let mut cases: Vec<(String, PreferenceLoss)> = Vec::new();
    for batch in ["batch_0", "batch_1"] {
        for settings in ["0.1_1.0", "0.1_1.5", "0.5_1.0", "0.5_1.5"] {
            cases.push((format!("{batch}_{settings}"), PreferenceLoss::Kto));
        }
        cases.push((format!("{batch}_apo_zero_unpaired"), PreferenceLoss::ApoZeroUnpaired));
    }
    for (name, rule) in &cases {
        let case = &kto[name];
        let mut split = answers(&[case["batch"].as_str().unwrap()]);
        if *rule == PreferenceLoss::ApoZeroUnpaired {
            split.mismatched = None;
        }
        let (model, objective) = (load("llama"), unpaired(*rule, case));
        let rows: Vec<usize> = (0..split.len()).collect();
        let found = loss_of_answers(&model, &objective, &split, &rows);
        check_gradients(name, case, &model, &found);
        let predictions = evaluated(&model, &objective, &split);
        let metrics = objective.metrics(&split, &predictions).unwrap();
        near(metrics.get("loss").unwrap(), case["loss"].as_f64().unwrap(), 1e-4, name);
        let kl = case["kl"].as_f64().unwrap();
        match rule {
            PreferenceLoss::Kto => near(metrics.get("kl").unwrap(), kl, 1e-4, name),
            _ => assert_eq!(metrics.get("kl"), None, "{name}"),
        }
        let csv = objective.predictions_csv(&split, &predictions).unwrap();
        let cells = |column: usize| -> Vec<f64> {
            csv.lines().skip(1).map(|line| line.split(',').nth(column).unwrap().parse().unwrap()).collect()
        };
        for (column, field) in [(2, "losses"), (3, "rewards")] {
            for (found, right) in cells(column).iter().zip(numbers(&case[field])) {
                near(*found, right, 1e-4, &format!("{name} {field}"));
            }
        }
    }
}

#[test]
fn ten_steps_of_kto_give_trls_losses_within_1e_4() {
    let (kto, split, model) = (said("kto"), answers(&["batch_0", "batch_1"]), load("llama"));
    let training = &kto["training"];
    let objective = unpaired(PreferenceLoss::Kto, training);
    let mut optimizer = Optimizer::new(&plain_adamw(), &model.params, model.model.as_ref()).unwrap();
    for (number, step) in training["steps"].as_array().unwrap().iter().enumerate() {
        let rows: Vec<usize> = if step["batch"] == "batch_0" { (0..5).collect() } else { (5..10).collect() };
        optimizer.zero_grad().unwrap();
        let loss = loss_of_answers(&model, &objective, &split, &rows);
        loss.backward();
        let norm = f32::try_from(optimizer.grad_norm().unwrap()).unwrap();
        near(loss.double_value(&[]), step["loss"].as_f64().unwrap(), 1e-4, &format!("step {number}"));
        let told = objective.told();
        assert_eq!(told[0].0, "kl");
        near(told[0].1, step["kl"].as_f64().unwrap(), 1e-3, &format!("step {number} kl"));
        near(norm.into(), step["gradient_norm"].as_f64().unwrap(), 1e-3, &format!("step {number}"));
        optimizer.step(1e-3, clip_coefficient(norm, 0.0)).unwrap();
    }
    for (name, param) in &model.params {
        let right = numbers(&training["final"][name])[1];
        near(param.to_kind(tch::Kind::Double).norm().double_value(&[]), right, 1e-4, name);
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

/// A job on single answers, more of them desirable than not.
fn job_on_answers(training: Value, resources: Value) -> Job {
    let job = job(training, resources);
    let answer = |n: usize| {
        let desirable = !n.is_multiple_of(3);
        let answer = json!([{"role": "assistant", "content": if desirable { "good" } else { "bad" }}]);
        let prompt = json!([{"role": "user", "content": format!("film {n}")}]);
        format!("{}\n", json!({"prompt": prompt, "completion": answer, "label": desirable}))
    };
    job.write("data/train.jsonl", &(0..26).map(answer).collect::<String>());
    job.write("data/validation.jsonl", &(26..36).map(answer).collect::<String>());
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

/// Curves of a job in one process, and that they are the same in two, however these share the work.
fn same_in_two_processes(make: impl Fn(Value) -> Job, curves: &[(&str, &str)]) {
    let run = |resources: Value| -> Vec<(u64, f64)> {
        let job = make(resources);
        let result = run(&job);
        assert_eq!(result["status"], "succeeded", "{result}");
        curves.iter().flat_map(|(kind, name)| job.curve(kind, name)).collect()
    };
    let one = run(json!({"threads": 1, "device": "cpu"}));
    for extra in [json!({}), json!({"pipeline_stages": 2}), json!({"tensor_parallel": 2})] {
        let mut resources = json!({"threads": 1, "device": "cpu", "devices": 2});
        resources.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let two = run(resources);
        assert_eq!(one.len(), two.len());
        for ((_, a), (_, b)) in one.iter().zip(&two) {
            assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{extra}: {a} {b}");
        }
    }
}

#[test]
fn pairs_are_shared_by_processes() {
    if common::gloo() {
        let training = json!({"preference": {"sft_weight": 0.2}, "max_steps": 6});
        let make = |resources| job(training.clone(), resources);
        same_in_two_processes(make, &[("train", "loss"), ("eval", "reward_margin")]);
    }
}

#[test]
fn single_answers_are_shared_by_processes() {
    if common::gloo() {
        let training = json!({"preference": {"loss": "kto"}, "max_steps": 9});
        let make = |resources| job_on_answers(training.clone(), resources);
        same_in_two_processes(make, &[("train", "loss"), ("train", "kl"), ("eval", "kl"), ("eval", "loss")]);
    }
}

#[test]
fn a_job_learns_which_answers_are_desirable_and_goes_on_after_a_pause() {
    use luthier_trainer::job::Outcome;
    use luthier_trainer::job::control::{Asked, Control};
    let alone = || json!({"threads": 1, "device": "cpu"});
    for (training, paired) in [
        (json!({"preference": {"loss": "kto", "undesirable_weight": 2.0}}), false),
        (json!({"preference": {"loss": "kto"}, "lora": {"rank": 4}, "learning_rate": 1e-2}), true),
        (json!({"preference": {"loss": "apo_zero_unpaired"}}), false),
    ] {
        let make = || match paired {
            true => job(training.clone(), alone()),
            false => job_on_answers(training.clone(), alone()),
        };
        let whole = make();
        assert!(matches!(whole.run(), Outcome::Succeeded(_)), "{training}");
        let last = |name: &str| whole.curve("eval", name).last().unwrap().1;
        assert!(last("reward_margin") > 0.01, "{training}");
        assert!(last("chosen_reward") > last("rejected_reward"), "{training}");
        let losses = whole.curve("train", "loss");
        let divergence = match &training["preference"]["loss"] {
            Value::String(rule) if rule == "kto" => whole.curve("train", "kl"),
            _ => Vec::new(),
        };
        if divergence.is_empty() {
            assert!(whole.events().iter().all(|event| event["values"].get("kl").is_none()));
        } else {
            // Before the first update the model is where it began.
            assert!(divergence[0].1 < 1e-4, "{training}: {divergence:?}");
            assert!(last("kl") >= 0.0);
        }
        if training["preference"].get("undesirable_weight").is_none() {
            // Before the first update nothing is gained.
            assert!((losses[0].1 - 0.5).abs() < 1e-5, "{training}: {losses:?}");
        }
        let paused = make();
        let control = Control::default();
        control.ask(Asked::Pause);
        assert!(matches!(paused.run_under(&control, 1), Outcome::Paused(_)));
        assert!(matches!(paused.run_under(&Control::default(), 2), Outcome::Succeeded(_)));
        assert_eq!(paused.curve("train", "loss"), losses, "{training}");
        if !divergence.is_empty() {
            assert_eq!(paused.curve("train", "kl"), divergence, "{training}");
        }
    }
}

/// The divergence is that of all rows of a step, so that accumulation gives what one large batch gives.
#[test]
fn accumulated_batches_have_the_divergence_of_the_whole_step() {
    let curves = |batch: u64, steps: u64| {
        let training = json!({"preference": {"loss": "kto", "undesirable_weight": 0.0}, "batch_size": batch,
            "gradient_accumulation_steps": steps});
        let job = job_on_answers(training, json!({"threads": 1, "device": "cpu"}));
        let result = run(&job);
        assert_eq!(result["status"], "succeeded", "{result}");
        [job.curve("train", "kl"), job.curve("train", "loss"), job.curve("eval", "reward_margin")].concat()
    };
    let large = curves(4, 1);
    // Answers that become likelier do so after other prompts as well.
    assert!(large[..16].iter().any(|(_, kl)| *kl > 0.0), "{large:?}");
    for small in [curves(2, 2), curves(1, 4)] {
        assert_eq!(small.len(), large.len());
        for ((_, a), (_, b)) in large.iter().zip(&small) {
            assert!((a - b).abs() < 1e-4 * a.abs().max(1.0), "{a} {b}");
        }
    }
}

#[test]
fn answers_that_cannot_be_compared_are_refused() {
    let refused = |training: Value, rows: &str| {
        let job = job_on_answers(training, json!({"threads": 1, "device": "cpu"}));
        job.write("data/train.jsonl", rows);
        job.failure().1
    };
    let kto = json!({"preference": {"loss": "kto"}});
    let one = json!({"prompt": "a", "completion": "b", "label": true}).to_string();
    assert!(refused(kto.clone(), &one).contains("compares answers with each other, and there is one"));
    let plain = json!({"prompt": "a", "completion": "b"}).to_string();
    assert!(refused(kto, &plain).contains("write `prompt`, `completion` and `label`"));
    let labelled = [one.as_str(), &one].join("\n");
    assert!(refused(json!({}), &labelled).contains("train on such rows with the method kto"));
    assert!(
        refused(json!({"preference": {}}), &labelled).contains("expected a prompt with a better and a worse")
    );
}

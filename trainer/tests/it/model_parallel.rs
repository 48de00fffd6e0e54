//! A model that lies in several processes, by shares of its layers and by stages: the same steps and files as in one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::common::{Job, gloo, rows, run, start};
use formats::checkpoint::Weights;
use serde_json::{Value, json};
use tch::{Kind, Tensor};

/// `(processes, tensor_parallel, pipeline_stages)`.
type Numbers = (u32, u32, u32);

const ONE: Numbers = (1, 1, 1);
const EACH: &[Numbers] = &[(2, 2, 1), (2, 1, 2), (4, 2, 1), (4, 1, 2), (4, 2, 2)];

/// A family joins by a line: one whose layers are another's needs no more than all directions at once.
const MODELS: [(&str, &[Numbers]); 4] =
    [("bert", EACH), ("distilbert", EACH), ("roberta", &[(4, 2, 2)]), ("xlm_roberta", &[(4, 2, 2)])];

fn resources((devices, tensor, stages): Numbers) -> Value {
    json!({"threads": 1, "device": "cpu", "devices": devices, "tensor_parallel": tensor, "pipeline_stages": stages})
}

/// 47 rows, batches of 6, so that shares and pieces are uneven; 20 steps, dropout 0.1.
///
/// The gradient of a key's bias is 0 but for rounding, and Adam divides it by its own size: `eps` is above it, else the
/// weights would compare noise.
fn job(model: &str, training: &Value, numbers: Numbers) -> Job {
    let mut all = json!({"max_steps": 20, "batch_size": 6, "learning_rate": 1e-3, "precision": "fp32", "dropout": 0.1,
        "optimizer": {"name": "adamw", "eps": 1e-4}});
    all.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    let job = Job::new(model, all);
    job.write("data/train.csv", &rows(47));
    job.change(|spec| spec["resources"] = resources(numbers));
    job
}

fn finished(model: &str, training: &Value, numbers: Numbers) -> Job {
    let job = job(model, training, numbers);
    let result = run(&job);
    assert_eq!(result["status"], "succeeded", "{model} {numbers:?}: {result}");
    job
}

fn near(one: &Job, other: &Job, what: &str) {
    for (kind, value, tolerance) in [
        ("train", "loss", 1e-5),
        ("train", "grad_norm", 1e-4),
        ("eval", "loss", 1e-5),
        ("eval", "accuracy", 1e-9),
    ] {
        let (a, b) = (one.curve(kind, value), other.curve(kind, value));
        assert_eq!(a.len(), b.len(), "{what}: {kind} {value}");
        for ((step, a), (_, b)) in a.iter().zip(&b) {
            let far = (a - b).abs() / a.abs().max(1e-3);
            assert!(far <= tolerance, "{what}: {kind} {value} of step {step}: {a} and {b}");
        }
    }
    let distance = weights_distance(&one.path("out/model"), &other.path("out/model"));
    assert!(distance <= 1e-5, "{what}: weights differ by {distance}");
}

fn tensors(folder: &Path, file: &str) -> BTreeMap<String, Tensor> {
    let weights = Weights::of_file(folder, file).unwrap();
    let tensor =
        |name: &str| luthier_trainer::tensors::of_checkpoint(&weights.tensor(name).unwrap()).unwrap();
    weights.names().map(|name| (name.to_string(), tensor(name))).collect()
}

/// The largest difference of a number; names and shapes must be the same.
fn weights_distance(one: &Path, other: &Path) -> f64 {
    let (one, other) = (tensors(one, "model.safetensors"), tensors(other, "model.safetensors"));
    assert!(one.len() > 10);
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    let far = |(a, b): (&Tensor, &Tensor)| {
        assert_eq!((a.size(), a.kind()), (b.size(), b.kind()));
        (a - b).abs().max().to_kind(Kind::Double).double_value(&[])
    };
    one.values().zip(other.values()).map(far).fold(0.0, f64::max)
}

#[test]
fn parts_of_a_model_make_the_steps_of_one_process() {
    if !gloo() {
        return;
    }
    for (model, all) in MODELS {
        let one = finished(model, &json!({}), ONE);
        for &numbers in all {
            near(&one, &finished(model, &json!({}), numbers), &format!("{model} {numbers:?}"));
        }
    }
}

#[test]
fn settings_that_change_the_passes_hold_in_parts() {
    if !gloo() {
        return;
    }
    let settings = [
        json!({"gradient_accumulation_steps": 3, "max_grad_norm": 0.1}),
        json!({"gradient_checkpointing": true}),
        json!({"freeze": {"embeddings": true, "first_layers": 2}}),
        json!({"freeze": {"except_head": true}, "gradient_checkpointing": true}),
        json!({"batch_size": 1}),
        json!({"optimizer": {"name": "sgd", "momentum": 0.9}, "class_weights": "balanced"}),
    ];
    for training in settings {
        let one = finished("bert", &training, ONE);
        for numbers in [(2, 2, 1), (3, 1, 3)] {
            near(&one, &finished("bert", &training, numbers), &format!("{training} {numbers:?}"));
        }
    }
}

#[test]
fn bf16_goes_between_stages_and_shares() {
    if !gloo() {
        return;
    }
    let training = json!({"precision": "bf16", "dropout": 0.0, "max_steps": 5});
    let one = finished("bert", &training, ONE);
    // The same kernels on the same numbers: only the order of sums over pieces differs.
    for (numbers, tolerance) in [((2, 1, 2), 2e-2), ((2, 2, 1), 5e-2)] {
        let parts = finished("bert", &training, numbers);
        for ((step, a), (_, b)) in one.curve("train", "loss").iter().zip(parts.curve("train", "loss")) {
            assert!((a - b).abs() <= tolerance * a, "{numbers:?}, step {step}: {a} and {b}");
        }
    }
}

/// Whether a checkpoint of this step or a later one was committed.
fn has_step(job: &Job, step: u64) -> bool {
    let text = std::fs::read_to_string(job.path("out/events.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).any(|event| {
        event["kind"] == "checkpoint" && event["step"].as_u64().is_some_and(|found| found >= step)
    })
}

#[test]
fn a_killed_job_goes_on_under_other_numbers() {
    if !gloo() {
        return;
    }
    let training = json!({"max_steps": 400, "checkpoint_every": 10, "eval_every": {"steps": 1000},
        "keep_checkpoints": 2});
    let whole = finished("bert", &training, ONE);
    for (before, after) in [((2, 2, 1), ONE), (ONE, (4, 2, 2)), ((2, 1, 2), (2, 2, 1))] {
        let job = job("bert", &training, before);
        let mut first = start(&job);
        while !has_step(&job, 10) {
            assert!(first.try_wait().unwrap().is_none(), "ended before it was killed");
            std::thread::sleep(Duration::from_millis(5));
        }
        first.kill().unwrap();
        first.wait().unwrap();
        job.change(|spec| spec["resources"] = resources(after));
        let result = run(&job);
        assert_eq!(result["status"], "succeeded", "{before:?} {after:?}: {result}");
        assert!(job.events().iter().any(|event| event["kind"] == "resume"), "{before:?} {after:?}");
        let last = |job: &Job| job.curve("eval", "loss").last().copied().unwrap().1;
        assert!(
            (last(&job) - last(&whole)).abs() < 1e-3,
            "{before:?} {after:?}: {} and {}",
            last(&job),
            last(&whole)
        );
    }
}

#[test]
fn copies_may_share_the_state_of_the_optimizer() {
    if !gloo() {
        return;
    }
    let training = json!({"max_steps": 20, "checkpoint_every": 10, "keep_checkpoints": 3});
    let one = finished("bert", &training, ONE);
    for numbers in [(2, 1, 1), (3, 1, 1), (4, 2, 1), (4, 1, 2)] {
        let sharded = job("bert", &training, numbers);
        sharded.change(|spec| spec["resources"]["shard_optimizer"] = json!(true));
        assert_eq!(run(&sharded)["status"], "succeeded", "{numbers:?}");
        near(&one, &sharded, &format!("{numbers:?}"));
        // The second half again, from a checkpoint that was gathered.
        for gone in ["out/checkpoints/step-00000020", "out/model"] {
            std::fs::remove_dir_all(sharded.path(gone)).unwrap();
        }
        let result = run(&sharded);
        assert_eq!(result["status"], "succeeded", "{numbers:?}: {result}");
        let distance = weights_distance(&one.path("out/model"), &sharded.path("out/model"));
        assert!(distance <= 1e-5, "{numbers:?}: {distance}");
    }
}

/// What a checkpoint holds does not depend on who wrote it.
#[test]
fn checkpoints_in_parts_are_those_of_one_process() {
    if !gloo() {
        return;
    }
    let training = json!({"max_steps": 5});
    let one = finished("bert", &training, ONE);
    let state = |job: &Job| {
        tensors(&job.path("out/checkpoints/step-00000005/training_state"), "optimizer.safetensors")
    };
    for numbers in [(2, 2, 1), (2, 1, 2), (4, 2, 2)] {
        let parts = finished("bert", &training, numbers);
        let (a, b) = (state(&one), state(&parts));
        assert!(a.len() > 30);
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
        for ((name, a), b) in a.iter().zip(b.values()) {
            assert_eq!(a.size(), b.size(), "{numbers:?} {name}");
            assert!(a.allclose(b, 1e-3, 1e-7, false), "{numbers:?} {name}");
        }
    }
}

#[test]
fn numbers_that_do_not_divide_are_refused() {
    if !gloo() {
        return;
    }
    for (numbers, param, words) in [
        ((3, 2, 1), "resources.devices", "2 × 1"),
        ((3, 3, 1), "resources.tensor_parallel", "4 attention heads"),
        ((8, 8, 1), "resources.tensor_parallel", "4 attention heads"),
        ((4, 1, 4), "resources.pipeline_stages", "3 layers"),
    ] {
        let job = job("bert", &json!({}), numbers);
        let result = run(&job);
        assert_eq!(result["fault"], "user", "{numbers:?}: {result}");
        assert_eq!(result["param"], param, "{numbers:?}: {result}");
        assert!(result["message"].as_str().unwrap().contains(words), "{numbers:?}: {result}");
    }
}

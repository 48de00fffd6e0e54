//! A job in two processes: the same steps as in one, and what happens when one of them dies.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Job, gloo, json_of, rows, run, start};
use serde_json::{Value, json};

/// 48 rows, batches of 6, so that shares are uneven: 50 steps.
fn job(training: Value, processes: u32) -> Job {
    let mut all = json!({"max_steps": 50, "batch_size": 6, "learning_rate": 1e-3, "precision": "fp32"});
    all.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    let job = Job::new("bert", all);
    job.write("data/train.csv", &rows(47));
    job.change(|spec| spec["resources"] = json!({"threads": 2, "devices": processes, "device": "cpu"}));
    job
}

fn near(one: &Job, two: &Job, kind: &str, value: &str, tolerance: f64) {
    let (one, two) = (one.curve(kind, value), two.curve(kind, value));
    assert_eq!(one.len(), two.len());
    for ((step, a), (_, b)) in one.iter().zip(&two) {
        assert!((a - b).abs() <= tolerance * a.abs().max(1e-3), "{kind} {value}, step {step}: {a} and {b}");
    }
}

#[test]
fn two_processes_make_the_steps_of_one() {
    if !gloo() {
        return;
    }
    let settings = [
        json!({"dropout": 0.0}),
        json!({"dropout": 0.1}),
        json!({"dropout": 0.1, "gradient_accumulation_steps": 2, "gradient_checkpointing": true}),
        json!({"dropout": 0.0, "class_weights": "balanced", "freeze": {"embeddings": true}}),
    ];
    for training in settings {
        let (one, two) = (job(training.clone(), 1), job(training, 2));
        assert_eq!(run(&one)["status"], "succeeded");
        assert_eq!(run(&two)["status"], "succeeded");
        near(&one, &two, "train", "loss", 1e-5);
        near(&one, &two, "train", "grad_norm", 1e-4);
        near(&one, &two, "eval", "loss", 1e-4);
        near(&one, &two, "eval", "accuracy", 1e-9);
        let rows =
            |job: &Job| std::fs::read_to_string(job.path("out/model/predictions-validation.csv")).unwrap();
        assert_eq!(rows(&one).lines().count(), rows(&two).lines().count());
    }
}

#[test]
fn a_batch_smaller_than_the_number_of_processes_counts_once() {
    if !gloo() {
        return;
    }
    let training = json!({"batch_size": 1, "max_steps": 10, "dropout": 0.1});
    let (one, two) = (job(training.clone(), 1), job(training, 2));
    assert_eq!(run(&one)["status"], "succeeded");
    assert_eq!(run(&two)["status"], "succeeded");
    near(&one, &two, "train", "loss", 1e-5);
}

/// Starts the job in a folder as the processes of one machine of two, each with one; the second one needs a place.
fn start_machine(dir: &Path, own: usize, place: Option<&str>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_luthier-trainer"));
    command.arg("job").arg(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("LUTHIER_MACHINES", "1,1").env("LUTHIER_ADDRESS", format!("127.0.0.{}", own + 1));
    if let Some(place) = place {
        command
            .env("LUTHIER_RANK", own.to_string())
            .env("LUTHIER_WORLD_SIZE", "2")
            .env("LUTHIER_RENDEZVOUS", place);
    }
    command.spawn().unwrap()
}

/// Both machines, each with a folder of its own.
fn start_machines(one: &Path, two: &Path) -> (Child, Child) {
    let place = one.join("out/rendezvous");
    let _none = std::fs::remove_file(&place);
    let mut first = start_machine(one, 0, None);
    let place = loop {
        if let Ok(place) = std::fs::read_to_string(&place) {
            break place;
        }
        assert!(first.try_wait().unwrap().is_none(), "ended before it listened");
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(place.starts_with("127.0.0.1:"), "{place}");
    std::fs::create_dir_all(two.join("out")).unwrap();
    (first, start_machine(two, 1, Some(&place)))
}

#[test]
fn a_machine_without_the_checkpoint_is_given_it_and_the_steps_are_those_of_one() {
    if !gloo() {
        return;
    }
    let training =
        json!({"dropout": 0.1, "max_steps": 120, "checkpoint_every": 10, "eval_every": {"steps": 20}});
    let (one, two) = (job(training.clone(), 2), job(training.clone(), 2));
    let (mut first, mut second) = start_machines(one.dir.path(), two.dir.path());
    while !has_step(one.dir.path(), 20) {
        assert!(first.try_wait().unwrap().is_none(), "ended before the other was killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = Instant::now();
    second.kill().unwrap();
    second.wait().unwrap();
    first.wait().unwrap();
    // A bound of the rule, not of the speed: a dead machine's process must not be waited for.
    assert!(killed.elapsed() < Duration::from_secs(10));
    assert_eq!(json_of(one.path("out/result.json"))["fault"], "internal");

    // Another machine takes its place: it has nothing, or even something of another job.
    let other = job(training.clone(), 2);
    std::fs::create_dir_all(other.path("out/checkpoints/step-00000990")).unwrap();
    let (mut first, mut second) = start_machines(one.dir.path(), other.dir.path());
    assert!(second.wait().unwrap().success());
    assert!(first.wait().unwrap().success());
    assert_eq!(json_of(other.path("out/result.json"))["status"], "succeeded");
    assert!(one.events().iter().any(|event| event["kind"] == "resume"));
    assert!(!other.path("out/checkpoints/step-00000990").exists());
    assert!(!other.path("out/model").exists() && !other.path("out/events.jsonl").exists());
    let given = std::fs::read_dir(other.path("out/checkpoints")).unwrap().count();
    assert!(given > 0, "the checkpoint has come");
    let whole = job(training, 1);
    assert_eq!(run(&whole)["status"], "succeeded");
    let last = |job: &Job| job.curve("eval", "loss").last().copied().unwrap().1;
    assert!((last(&one) - last(&whole)).abs() < 1e-3, "{} and {}", last(&one), last(&whole));
}

fn children(of: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn has_step(job: &Path, step: u64) -> bool {
    let text = std::fs::read_to_string(job.join("out/events.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).any(|event| {
        event["kind"] == "checkpoint" && event["step"].as_u64().is_some_and(|found| found >= step)
    })
}

#[test]
fn a_dead_process_ends_the_other_and_the_job_goes_on_in_one() {
    if !gloo() {
        return;
    }
    let training =
        json!({"dropout": 0.1, "max_steps": 400, "checkpoint_every": 10, "eval_every": {"steps": 1000}});
    let job = job(training.clone(), 2);
    let mut first = start(&job);
    while !has_step(job.dir.path(), 10) {
        assert!(first.try_wait().unwrap().is_none(), "ended before it was killed");
        std::thread::sleep(Duration::from_millis(5));
    }
    let peers = children(first.id());
    assert_eq!(peers.len(), 1);
    let killed = Instant::now();
    assert!(Command::new("kill").args(["-9", &peers[0].to_string()]).status().unwrap().success());
    first.wait().unwrap();
    // A bound of the rule, not of the speed: a dead peer must not be waited for.
    assert!(killed.elapsed() < Duration::from_secs(10));
    let failed = json_of(job.path("out/result.json"));
    assert_eq!((failed["status"].as_str(), failed["fault"].as_str()), (Some("failed"), Some("internal")));
    job.change(|spec| spec["resources"]["devices"] = json!(1));
    assert_eq!(run(&job)["status"], "succeeded");
    assert!(job.events().iter().any(|event| event["kind"] == "resume"));
    let whole = self::job(training, 1);
    assert_eq!(run(&whole)["status"], "succeeded");
    let last = |job: &Job| job.curve("eval", "loss").last().copied().unwrap().1;
    assert!((last(&job) - last(&whole)).abs() < 1e-3, "{} and {}", last(&job), last(&whole));
}

//! What gradient checkpointing saves, and that it changes nothing else.

use crate::common::{Job, json_of, make_bert};
use luthier_trainer::job::Outcome;
use serde_json::{Value, json};

/// A job on a model of 12 layers, made here, and long rows.
fn deep(training: Value) -> Job {
    let mut all =
        json!({"max_steps": 3, "batch_size": 16, "precision": "fp32", "eval_every": {"steps": 100}});
    all.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    let job = Job::new("bert", all);
    let mut config = json_of(job.path("model/config.json"));
    config["num_hidden_layers"] = json!(12);
    make_bert(&job.path("model"), &config);
    let mut csv = "text,label\n".to_string();
    for row in 0..48 {
        let label = if row % 2 == 0 { "positive" } else { "negative" };
        csv.push_str(&format!("{}{label},{label}\n", "the film and the plot ".repeat(10)));
    }
    job.write("data/train.csv", &csv);
    job
}

fn activations(job: &Job) -> f64 {
    let events = job.events();
    let of_steps = events.iter().filter(|event| event["kind"] == "train");
    of_steps.map(|event| event["data"]["activation_bytes"].as_f64().unwrap()).fold(0.0, f64::max)
}

/// In a process of its own: memory is counted for a whole process.
fn run(job: &Job) {
    let program = env!("CARGO_BIN_EXE_luthier-trainer");
    let status = std::process::Command::new(program).arg("job").arg(job.dir.path()).output().unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
}

#[test]
fn checkpointing_of_12_layers_keeps_at_most_035_of_the_activations_and_the_same_bits() {
    let plain = deep(json!({}));
    let checkpointed = deep(json!({"gradient_checkpointing": true}));
    run(&plain);
    run(&checkpointed);
    assert_eq!(plain.curve("train", "loss"), checkpointed.curve("train", "loss"));
    assert_eq!(plain.curve("train", "grad_norm"), checkpointed.curve("train", "grad_norm"));
    let weights = |job: &Job| std::fs::read(job.path("out/model/model.safetensors")).unwrap();
    assert!(weights(&plain) == weights(&checkpointed), "weights differ");
    let share = activations(&checkpointed) / activations(&plain);
    assert!(activations(&plain) > 1e6, "{} bytes were counted", activations(&plain));
    assert!(share <= 0.35, "{share}");
}

#[test]
fn frozen_layers_and_embeddings_need_no_gradient_in_segments() {
    for freeze in [json!({"embeddings": true, "first_layers": 1}), json!({"except_head": true})] {
        let training = |checkpointing: bool| {
            json!({"epochs": 2, "batch_size": 4, "precision": "fp32", "freeze": freeze,
                "gradient_checkpointing": checkpointing})
        };
        let (plain, checkpointed) = (Job::new("bert", training(false)), Job::new("bert", training(true)));
        assert!(matches!(plain.run(), Outcome::Succeeded(_)));
        let ended = checkpointed.run();
        assert!(matches!(ended, Outcome::Succeeded(_)), "{ended:?}");
        assert_eq!(plain.curve("train", "loss"), checkpointed.curve("train", "loss"));
    }
}

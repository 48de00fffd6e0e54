//! A job that asks for more memory than there is ends; its agent and the next job go on.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use formats::checkpoint::Weights;
use luthier_trainer::nn::Loader;
use luthier_trainer::{models, tensors};
use serde_json::{Value, json};
use sqlx::PgPool;
use store::job::Status;
use tch::Device;

use crate::support::Stage;

/// Kibibytes of data that a job's process may have.
const LIMIT: u64 = 800_000;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert")
}

/// A BERT of 4,096 positions, made in `to`.
fn long_bert(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(fixture()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let text = std::fs::read_to_string(to.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (name, size) in [("max_position_embeddings", 4096), ("hidden_size", 64), ("intermediate_size", 256)] {
        config[name] = json!(size);
    }
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
    tensors::save(&to.join("model.safetensors"), &[]).unwrap();
    let weights = Weights::open(to).unwrap();
    let loader = Loader::new(&weights, "bert", 1, Device::Cpu).from_scratch();
    models::build(&config, &loader, models::Head::Labels(2), None).unwrap();
    tensors::save(&to.join("model.safetensors"), &loader.finish().unwrap().params).unwrap();
}

fn rows(count: usize, words: usize) -> String {
    let row = |n: usize| {
        let label = if n.is_multiple_of(2) { "good" } else { "bad" };
        format!("{}{label},{label}\n", "the film ".repeat(words / 2))
    };
    format!("text,label\n{}", (0..count).map(row).collect::<String>())
}

fn spec(training: Value) -> Value {
    json!({
        "task": "text-classification",
        "columns": {"text": "text", "label": "label"},
        "data": {"train": "train.csv"},
        "training": training,
        "seed": 1,
    })
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn memory_that_runs_out_ends_the_job_and_not_the_agent(db: PgPool) {
    let stage = Stage::new(db).await;
    let program = stage.temp.path().join("bounded");
    let trainer = env!("CARGO_BIN_EXE_luthier-trainer");
    let script = format!("#!/bin/bash\nulimit -d {LIMIT} && exec {trainer} \"$@\"\n");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let model = stage.temp.path().join("long");
    long_bert(&model);
    let large = spec(json!({"max_steps": 1, "batch_size": 64, "max_length": 4096, "precision": "fp32"}));
    let large = stage.enqueue_spec(large, rows(60, 4200).as_bytes(), &model).await;
    let small = spec(json!({"max_steps": 2, "batch_size": 1, "precision": "fp32"}));
    let small = stage.enqueue_spec(small, rows(12, 6).as_bytes(), &fixture()).await;

    let mut agent = stage.real_agent("a");
    agent.run_by(&program);
    let _agent = agent.start();
    let ended = stage.until_final(large).await;
    let error = ended.error.unwrap_or_default();
    assert_eq!((ended.status, ended.attempt), (Status::Failed, 1), "{error}\n{}", stage.logs());
    assert_eq!(error["code"], "out_of_memory", "{error}");
    let message = error["message"].as_str().unwrap();
    for words in [
        "This job needs about ",
        "at batch_size 64 and rows of up to 4096 tokens, and there is ",
        "gradient_accumulation_steps",
    ] {
        assert!(message.contains(words), "{words:?} is not in: {message}");
    }
    let next = stage.until_final(small).await;
    assert_eq!((next.status, next.attempt), (Status::Succeeded, 1), "{:?}\n{}", next.error, stage.logs());
    assert_eq!(next.agent_name, ended.agent_name);
}

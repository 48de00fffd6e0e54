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

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The configuration of the checkpoint in `from`, with other sizes; the checkpoint is copied to `to`.
fn resized(from: &Path, to: &Path, sizes: &[(&str, u64)]) -> Value {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let text = std::fs::read_to_string(to.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (name, size) in sizes {
        config[*name] = json!(size);
    }
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
    config
}

/// A BERT of 4,096 positions, made in `to`.
fn long_bert(to: &Path) {
    let sizes = [("max_position_embeddings", 4096), ("hidden_size", 64), ("intermediate_size", 256)];
    let config = resized(&fixture("bert"), to, &sizes);
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

fn chats(count: usize, words: usize) -> String {
    let row = |_| {
        let answer = "film ".repeat(words);
        let messages =
            [json!({"role": "user", "content": "the"}), json!({"role": "assistant", "content": answer})];
        format!("{}\n", json!({"messages": messages}))
    };
    (0..count).map(row).collect()
}

fn spec_of_chats(mut training: Value) -> Value {
    training["chat_template"] = json!("chatml");
    json!({"task": "text-generation", "data": {"train": "train.jsonl"}, "training": training, "seed": 1})
}

/// What a job is made of: settings, rows and a model.
type Made<'a> = (Value, String, &'a Path);

/// The large job ends for want of memory, the small one after it well, on the same agent.
async fn ends_alone(stage: &Stage, large: Made<'_>, small: Made<'_>, batch: &str) {
    let program = stage.temp.path().join("bounded");
    let trainer = env!("CARGO_BIN_EXE_luthier-trainer");
    let script = format!("#!/bin/bash\nulimit -d {LIMIT} && exec {trainer} \"$@\"\n");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let large = stage.enqueue_spec(large.0, large.1.as_bytes(), large.2).await;
    let small = stage.enqueue_spec(small.0, small.1.as_bytes(), small.2).await;
    let mut agent = stage.real_agent("a");
    agent.run_by(&program);
    let _agent = agent.start();
    let ended = stage.until_final(large).await;
    let error = ended.error.unwrap_or_default();
    assert_eq!((ended.status, ended.attempt), (Status::Failed, 1), "{error}\n{}", stage.logs());
    assert_eq!(error["code"], "out_of_memory", "{error}");
    let message = error["message"].as_str().unwrap();
    let at = format!("at batch_size {batch} and rows of up to 4096 tokens, and there is ");
    for words in ["This job needs about ", &at, "gradient_accumulation_steps"] {
        assert!(message.contains(words), "{words:?} is not in: {message}");
    }
    let next = stage.until_final(small).await;
    assert_eq!((next.status, next.attempt), (Status::Succeeded, 1), "{:?}\n{}", next.error, stage.logs());
    assert_eq!(next.agent_name, ended.agent_name);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn memory_that_runs_out_ends_the_job_and_not_the_agent(db: PgPool) {
    let stage = Stage::new(db).await;
    let model = stage.temp.path().join("long");
    long_bert(&model);
    let large = spec(json!({"max_steps": 1, "batch_size": 64, "max_length": 4096, "precision": "fp32"}));
    let small = spec(json!({"max_steps": 2, "batch_size": 1, "precision": "fp32"}));
    let bert = fixture("bert");
    ends_alone(&stage, (large, rows(60, 4200), &model), (small, rows(12, 6), &bert), "64").await;
}

/// Case 62: a language model with a long window.
#[sqlx::test(migrator = "store::MIGRATOR")]
async fn memory_that_runs_out_ends_a_language_models_job_alone(db: PgPool) {
    let stage = Stage::new(db).await;
    let model = stage.temp.path().join("long");
    // Turned positions have no weights.
    resized(&fixture("decoders/llama"), &model, &[("max_position_embeddings", 4096)]);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixture("decoders").join(name), model.join(name)).unwrap();
    }
    let large = spec_of_chats(json!({"batch_size": 512, "max_length": 4096, "precision": "fp32"}));
    let small = spec_of_chats(json!({"max_steps": 2, "batch_size": 1, "precision": "fp32"}));
    ends_alone(&stage, (large, chats(600, 4200), &model), (small, chats(12, 1), &model), "512").await;
}

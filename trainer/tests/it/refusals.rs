//! What cannot be trained on is refused before the first step, with what, where and what to do.

use crate::common::Job;
use serde_json::json;

fn job() -> Job {
    Job::new("bert", json!({"epochs": 1}))
}

/// Runs a job that must fail, and checks that nothing was trained.
fn refused(job: &Job, code: &str, parts: &[&str]) {
    let (found, message) = job.failure();
    assert_eq!(found, code, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(job.events().iter().all(|event| event["kind"] != "train"));
    assert!(!job.path("out/model").exists());
}

#[test]
fn a_ragged_row() {
    let job = job();
    job.write("data/train.csv", "text,label\nfine,positive\none,negative,too many\npoor,negative\n");
    refused(&job, "ragged_row", &["train.csv", "line 3"]);
}

#[test]
fn an_unknown_column() {
    let job = job();
    job.change(|spec| spec["columns"]["text"] = json!("review"));
    refused(&job, "unknown_column", &["review", "text", "label"]);
}

#[test]
fn a_single_class() {
    let job = job();
    job.write("data/train.csv", "text,label\nfine,positive\ngood,positive\n");
    refused(&job, "one_class", &["positive"]);
}

#[test]
fn a_label_that_only_validation_has() {
    let job = job();
    job.write("data/validation.csv", "text,label\nfine,positive\nso so,neutral\n");
    refused(&job, "unknown_label", &["validation.csv", "line 3", "neutral"]);
}

#[test]
fn an_empty_file() {
    let job = job();
    job.write("data/train.csv", "");
    refused(&job, "empty_file", &["train.csv"]);
}

#[test]
fn a_checkpoint_without_a_tokenizer() {
    let job = job();
    std::fs::remove_file(job.path("model/tokenizer.json")).unwrap();
    refused(&job, "tokenizer", &["tokenizer.json"]);
}

#[test]
fn weights_of_another_shape() {
    let job = job();
    let config = std::fs::read_to_string(job.path("model/config.json")).unwrap();
    job.write("model/config.json", &config.replace("\"intermediate_size\": 48", "\"intermediate_size\": 64"));
    refused(
        &job,
        "checkpoint_mismatch",
        &["bert.encoder.layer.0.intermediate.dense.weight", "[48, 32]", "[64, 32]"],
    );
}

#[test]
fn layers_that_the_configuration_does_not_have() {
    let job = job();
    let config = std::fs::read_to_string(job.path("model/config.json")).unwrap();
    job.write("model/config.json", &config.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2"));
    refused(&job, "checkpoint_mismatch", &["bert.encoder.layer.2"]);
    job.write("model/config.json", &config.replace("\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4"));
    refused(&job, "checkpoint_mismatch", &["not in the checkpoint", "bert.encoder.layer.3"]);
}

#[test]
fn a_truncated_weights_file() {
    let job = job();
    let bytes = std::fs::read(job.path("model/model.safetensors")).unwrap();
    std::fs::write(job.path("model/model.safetensors"), &bytes[..bytes.len() - 100]).unwrap();
    refused(&job, "corrupt_weights", &["model.safetensors", &bytes.len().to_string()]);
}

#[test]
fn a_family_that_is_not_known() {
    let job = job();
    let config = std::fs::read_to_string(job.path("model/config.json")).unwrap();
    job.write(
        "model/config.json",
        &config.replace("\"model_type\": \"bert\"", "\"model_type\": \"megabert\""),
    );
    refused(&job, "unsupported_model", &["megabert", "distilbert"]);
}

#[test]
fn a_cuda_device_where_there_is_none() {
    if native::cuda::available() {
        println!("SKIPPED a_cuda_device_where_there_is_none: this machine has a GPU");
        return;
    }
    let job = job();
    job.change(|spec| spec["resources"]["device"] = json!("cuda"));
    refused(&job, "no_cuda_device", &["cuda", "cpu"]);
}

#[test]
fn a_length_beyond_the_models_positions() {
    let job = Job::new("bert", json!({"max_length": 65}));
    refused(&job, "invalid_max_length", &["65", "64"]);
}

#[test]
fn weights_for_a_class_that_is_not_there() {
    let job = Job::new("bert", json!({"class_weights": {"neutral": 2.0}}));
    refused(&job, "invalid_class_weights", &["neutral", "negative, positive"]);
}

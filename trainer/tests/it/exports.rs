//! Exports of tuned models: what comes out, what its certificate says, and what transformers says of it.

use std::path::Path;

use luthier_trainer::job::Outcome;
use luthier_trainer::job::control::{Asked, Control};
use serde_json::{Value, json};

use crate::common::{self, Job, json_of, make_decoder, reference_python, rows};
use crate::generation::{self, finished, transformers_agrees};

/// A job that exports the model of another, on that one's data.
fn export(of: &Job, format: &str, kind: Option<&str>) -> Job {
    let mut spec = json_of(of.path("spec.json"));
    spec["work"] = json!({"export": {"format": format}});
    if let Some(kind) = kind {
        spec["work"]["export"]["kind"] = json!(kind);
    }
    spec["base_model"] = json!("ft:tiny:luthier::0a1b2c3d");
    spec["resources"] = json!({"threads": 1, "device": "cpu"});
    let job = Job::of(spec);
    copy_tree(&of.path("out/model"), &job.path("model"));
    copy_tree(&of.path("data"), &job.path("data"));
    job
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.path().is_dir() {
            true => copy_tree(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

fn made(job: &Job) -> Value {
    match job.run() {
        Outcome::Succeeded(result) => result,
        other => panic!("did not succeed: {other:?}"),
    }
}

/// Files of the artefact, by name.
fn files(job: &Job) -> Vec<String> {
    let folder = std::fs::read_dir(job.path("out/artifact")).unwrap();
    let mut names: Vec<String> =
        folder.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn metric(certificate: &Value, name: &str, side: &str) -> f64 {
    let metrics = certificate["metrics"].as_array().unwrap();
    let found = metrics.iter().find(|metric| metric["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {certificate}"))[side].as_f64().unwrap()
}

#[test]
fn an_adapter_of_a_language_model_is_exported_in_each_format() {
    let tuned = finished("llama", &json!({"lora": {"rank": 4}, "learning_rate": 1e-2}), &json!({}));
    let own = json_of(tuned.path("out/result.json"))["metrics"].clone();
    for (format, kind, exact) in [
        ("safetensors", Some("f32"), true),
        ("safetensors", Some("bf16"), false),
        ("adapter", None, true),
        ("gguf", Some("f32"), true),
        ("gguf", Some("f16"), false),
        ("gguf", Some("q8_0"), false),
    ] {
        let job = export(&tuned, format, kind);
        let result = made(&job);
        let told = &result["certificate"];
        let name = format!("{format} {kind:?}: {told}");
        // What the training said of these rows, the model says again.
        for metric_name in ["loss", "perplexity", "mean_token_accuracy"] {
            let (before, now) = (own[metric_name].as_f64().unwrap(), metric(told, metric_name, "model"));
            assert!((before - now).abs() < 1e-5 * before.abs().max(1.0), "{name}: {before} {now}");
        }
        assert_eq!((&told["replayed"]["rows"], &told["replayed"]["of"]), (&json!(7), &json!(7)), "{name}");
        assert!(told["replayed"]["about"].as_str().unwrap().contains("held out for validation"), "{name}");
        let relative = told["logits"]["relative"].as_f64().unwrap();
        assert_eq!(relative < 1e-5, exact, "{name}");
        assert!(told["logits"]["places"].as_u64().unwrap() > 7, "{name}");
        assert_eq!((&result["ready"], &told["reasons"]), (&json!(true), &json!([])), "{name}");
        let texts = &told["texts"];
        assert_eq!((&texts["compared"], &texts["same_tokens"]), (&json!(7), &json!(7)), "{name}");
        assert_eq!(texts["same_chat_template"], true, "{name}");
        assert!(told["speed"]["artifact"]["tokens_per_second"].as_f64().unwrap() > 0.0, "{name}");
        assert_eq!(json_of(job.path("out/artifact/certificate.json")), *told, "{name}");
        let found = files(&job);
        match format {
            "gguf" => {
                let file = format!("ft-tiny-luthier--0a1b2c3d-{}.gguf", kind.unwrap());
                assert_eq!(found, ["certificate.json", file.as_str()]);
            }
            "adapter" => {
                assert!(found.contains(&"adapter_model.safetensors".to_owned()), "{found:?}");
                assert!(
                    !found.contains(&"base".to_owned()) && !found.contains(&"model.safetensors".to_owned())
                );
                let bytes = |side: &str| told["bytes"][side].as_u64().unwrap();
                assert!(bytes("artifact") < bytes("model"), "{name}");
            }
            _ => {
                for file in ["model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"] {
                    assert!(found.contains(&file.to_owned()), "{file} in {found:?}");
                }
                let config = json_of(job.path("out/artifact/config.json"));
                let dtype = if kind == Some("bf16") { "bfloat16" } else { "float32" };
                assert_eq!(config["dtype"], dtype);
            }
        }
        for left in ["merged", "read-back", "replay.logits"] {
            assert!(!job.path(left).exists(), "{left} is left of {name}");
        }
    }
}

#[test]
fn what_was_trained_beside_nf4_is_merged_with_the_rounded_base() {
    let training = json!({"lora": {"rank": 4, "quantization": "nf4"}, "learning_rate": 1e-2});
    let tuned = finished("llama", &training, &json!({}));
    let whole = export(&tuned, "safetensors", Some("f32"));
    let told = made(&whole);
    assert_eq!(told["ready"], true, "{told}");
    assert!(json_of(whole.path("out/artifact/config.json")).get("base_quantization").is_none());
    let adapter = made(&export(&tuned, "adapter", None));
    assert_eq!(adapter["ready"], true, "{adapter}");
    let notices = adapter["certificate"]["notices"].to_string();
    assert!(notices.contains("NF4"), "{notices}");
}

#[test]
fn a_preference_is_replayed_by_its_better_answer() {
    let pair = |n: usize| {
        json!({"prompt": format!("film {n}"), "chosen": format!("good{}", n % 3), "rejected": "bad"})
            .to_string()
            + "\n"
    };
    let job = generation::job("llama", json!({"preference": {"loss": "sigmoid"}, "max_steps": 2}));
    job.write("data/train.jsonl", &(0..6).map(pair).collect::<String>());
    job.write("data/validation.jsonl", &(6..10).map(pair).collect::<String>());
    let Outcome::Succeeded(_) = job.run() else { panic!("{:?}", job.events().last()) };
    let told = made(&export(&job, "safetensors", Some("f32")));
    assert_eq!(told["ready"], true, "{told}");
    assert_eq!(told["certificate"]["replayed"]["rows"], 4);
    assert!(metric(&told["certificate"], "perplexity", "artifact") > 1.0);
}

#[test]
fn a_classifier_is_exported_with_its_metrics_and_never_as_a_gguf() {
    let tuned = Job::new("bert", json!({"epochs": 4, "batch_size": 8, "learning_rate": 3e-3}));
    let Outcome::Succeeded(own) = tuned.run() else { panic!("{:?}", tuned.events().last()) };
    for kind in ["f32", "f16", "bf16"] {
        let result = made(&export(&tuned, "safetensors", Some(kind)));
        let told = &result["certificate"];
        assert_eq!(result["ready"], true, "{told}");
        assert_eq!(metric(told, "accuracy", "model"), own["metrics"]["accuracy"].as_f64().unwrap());
        assert_eq!((&told["logits"]["places"], &told["logits"]["equal_share"]), (&json!(8), &json!(1.0)));
        assert_eq!(told["logits"]["largest_difference"] == json!(0.0), kind == "f32", "{told}");
    }
    let (code, message) = export(&tuned, "gguf", Some("f16")).failure();
    assert_eq!(code, "not_a_language_model", "{message}");
    let (code, message) = export(&tuned, "adapter", None).failure();
    assert_eq!(code, "no_adapter", "{message}");
    let (code, message) = export(&tuned, "safetensors", Some("q8_0")).failure();
    assert!(code == "invalid_spec" && message.contains("f32, f16, bf16"), "{message}");
}

#[test]
fn a_classifier_by_adapters_is_put_together_again() {
    let training =
        json!({"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "lora": {"rank": 4, "dora": true}});
    let tuned = Job::new("roberta", training);
    let Outcome::Succeeded(_) = tuned.run() else { panic!("{:?}", tuned.events().last()) };
    for (format, kind) in [("safetensors", Some("f32")), ("adapter", None)] {
        let result = made(&export(&tuned, format, kind));
        assert_eq!(result["ready"], true, "{format}: {}", result["certificate"]);
    }
}

#[test]
fn labels_of_each_kind_are_compared_in_their_own_way() {
    for (problem, data) in [
        ("multi_label_classification", "text,label\ngood film,a|b\nbad film,b\nplot,\ngood plot,a\n"),
        ("regression", "text,label\ngood film,1.5\nbad film,-2\nplot,0\ngood plot,1\n"),
    ] {
        let tuned = Job::new("bert", json!({"epochs": 2, "batch_size": 4}));
        tuned.change(|spec| spec["problem_type"] = json!(problem));
        tuned.write("data/train.csv", data);
        tuned.write("data/validation.csv", data);
        let Outcome::Succeeded(_) = tuned.run() else { panic!("{:?}", tuned.events().last()) };
        let result = made(&export(&tuned, "safetensors", Some("f16")));
        let told = &result["certificate"];
        assert_eq!(result["ready"], true, "{told}");
        assert!(told["logits"]["mean_divergence"].is_null());
        assert_eq!(told["logits"]["equal_share"].is_null(), problem == "regression", "{told}");
    }
}

#[test]
fn rows_are_those_that_the_training_held_out_of_its_own_file() {
    let tuned = Job::new("bert", json!({"epochs": 1, "batch_size": 8}));
    tuned.change(|spec| {
        spec["data"] = json!({"train": "train.csv"});
        spec["split"] = json!({"fraction": 0.25, "seed": 5});
    });
    let Outcome::Succeeded(own) = tuned.run() else { panic!("{:?}", tuned.events().last()) };
    let told = made(&export(&tuned, "safetensors", Some("f32")))["certificate"].clone();
    assert_eq!(told["replayed"]["of"], 6);
    let (before, now) = (own["metrics"]["loss"].as_f64().unwrap(), metric(&told, "loss", "model"));
    assert!((before - now).abs() < 1e-6, "{before} {now}");

    tuned.change(|spec| spec["split"] = json!({"fraction": 0.0}));
    std::fs::remove_dir_all(tuned.path("out")).unwrap();
    let Outcome::Succeeded(_) = tuned.run() else { panic!("{:?}", tuned.events().last()) };
    let told = made(&export(&tuned, "safetensors", Some("f32")))["certificate"].clone();
    assert_eq!(told["replayed"]["of"], 24);
    assert!(told["replayed"]["about"].as_str().unwrap().contains("was trained on"), "{told}");
}

/// A model that was brought has no rows of a training.
#[test]
fn a_model_without_rows_says_that_its_own_task_was_not_looked_at() {
    let spec = |task: &str| {
        json!({"task": task, "work": {"export": {"format": "safetensors", "kind": "f16"}}, "data": {"train": ""},
            "base_model": "brought", "resources": {"threads": 1, "device": "cpu"}})
    };
    let job = Job::of(spec("text-generation"));
    make_decoder(&job.path("model"), "qwen3");
    let result = made(&job);
    let told = &result["certificate"];
    assert_eq!(result["ready"], true, "{told}");
    assert!(told["replayed"]["about"].as_str().unwrap().contains("built-in English texts"), "{told}");
    assert!(metric(told, "loss", "model") > 0.0);

    let tuned = Job::new("bert", json!({"epochs": 1, "batch_size": 8}));
    let Outcome::Succeeded(_) = tuned.run() else { panic!("{:?}", tuned.events().last()) };
    let job = Job::of(spec("text-classification"));
    copy_tree(&tuned.path("out/model"), &job.path("model"));
    let result = made(&job);
    let told = &result["certificate"];
    assert_eq!((&result["ready"], &told["metrics"]), (&json!(true), &json!([])), "{told}");
    assert!(told["replayed"]["about"].as_str().unwrap().contains("no metric"), "{told}");
    assert!(told["logits"]["largest_difference"].as_f64().unwrap() > 0.0);
}

#[test]
fn an_export_that_was_asked_to_stop_begins_anew() {
    let tuned = Job::new("bert", json!({"epochs": 1, "batch_size": 8}));
    tuned.write("data/train.csv", &rows(24));
    let Outcome::Succeeded(_) = tuned.run() else { panic!("{:?}", tuned.events().last()) };
    let job = export(&tuned, "safetensors", Some("f32"));
    let control = Control::default();
    control.ask(Asked::Pause);
    assert_eq!(job.run_under(&control, 1), Outcome::Paused(0));
    control.ask(Asked::Cancel);
    assert_eq!(job.run_under(&control, 1), Outcome::Cancelled(0));
    assert!(matches!(job.run_under(&Control::default(), 2), Outcome::Succeeded(_)));
}

#[test]
fn a_merged_language_model_says_the_same_in_transformers() {
    let Some(python) = reference_python("a_merged_language_model_says_the_same_in_transformers") else {
        return;
    };
    let mut checked = Vec::new();
    for (model, training) in [
        ("llama", json!({"lora": {"rank": 4}, "learning_rate": 1e-2})),
        ("gpt2", json!({"lora": {"rank": 4}, "learning_rate": 1e-2})),
        ("gemma3_text", json!({})),
    ] {
        let tuned = finished(model, &training, &json!({}));
        let job = export(&tuned, "safetensors", Some("f32"));
        made(&job);
        // As `check_language_model.py` takes a job: the artefact in place of the model, with what the training said.
        std::fs::rename(job.path("out/artifact"), job.path("out/model")).unwrap();
        let said = "out/model/predictions-validation.csv";
        std::fs::copy(tuned.path(said), job.path(said)).unwrap();
        checked.push(job);
    }
    transformers_agrees(&python, &checked);
}

#[test]
fn a_model_whose_labels_are_not_those_of_the_rows_is_refused() {
    let tuned = Job::new("bert", json!({"epochs": 1, "batch_size": 8}));
    let Outcome::Succeeded(_) = tuned.run() else { panic!("{:?}", tuned.events().last()) };
    let job = export(&tuned, "safetensors", Some("f32"));
    let mut config = json_of(job.path("model/config.json"));
    config["id2label"] = json!({"0": "positive", "1": "negative"});
    common::copy_folder(&tuned.path("out/model"), &job.path("model"));
    job.write("model/config.json", &config.to_string());
    assert_eq!(job.failure().0, "other_labels");
}

#[test]
fn a_fine_tune_begins_with_a_language_model_that_is_an_adapter() {
    let first = finished("llama", &json!({"lora": {"rank": 4}, "learning_rate": 1e-2}), &json!({}));
    let own = json_of(first.path("out/result.json"))["metrics"]["loss"].as_f64().unwrap();
    let second = generation::job("llama", json!({"max_steps": 1, "learning_rate": 1e-9}));
    std::fs::remove_dir_all(second.path("model")).unwrap();
    copy_tree(&first.path("out/model"), &second.path("model"));
    let loss = made(&second)["metrics"]["loss"].as_f64().unwrap();
    assert!((own - loss).abs() < 1e-4, "{own} {loss}");
}

//! A finished checkpoint, loaded by transformers, says row for row what the job's evaluation said.

use std::path::Path;
use std::process::Command;

use crate::common::{self, Job, reference_python};
use luthier_trainer::job::Outcome;
use serde_json::{Map, Value, json};

/// What the job said of its validation rows, as `check_checkpoint.py` takes it.
fn predictions(job: &Job) -> Value {
    let records = |path| {
        let mut csv = csv::Reader::from_path(job.path(path)).unwrap();
        csv.deserialize::<Map<String, Value>>().map(Result::unwrap).collect::<Vec<_>>()
    };
    let names = common::json_of(job.path("out/model/config.json"))["id2label"].clone();
    let labels: Vec<String> = (0..names.as_object().unwrap().len())
        .map(|id| names[id.to_string()].as_str().unwrap().to_owned())
        .collect();
    let kind = common::json_of(job.path("out/model/config.json"))["problem_type"].clone();
    let (texts, said) = (records("data/validation.csv"), records("out/model/predictions-validation.csv"));
    assert_eq!(texts.len(), said.len());
    let row = |(text, said): (&Map<String, Value>, &Map<String, Value>)| {
        let predicted = said["predicted"].as_str().unwrap_or_default();
        let mut row = json!({
            "text": text["text"],
            "scores": labels.iter().map(|label| said[&format!("score {label}")].clone()).collect::<Vec<_>>(),
        });
        if let Some(pair) = text.get("pair") {
            row["text_pair"] = pair.clone();
        }
        if kind == "single_label_classification" {
            row["predicted"] = json!(predicted);
        } else if kind == "multi_label_classification" {
            row["predicted"] = predicted.split('|').filter(|name| !name.is_empty()).collect();
        }
        row
    };
    texts.iter().zip(&said).map(row).collect()
}

fn check(job: &Job, python: &str) {
    check_within(job, python, "1e-4");
}

fn check_within(job: &Job, python: &str, tolerance: &str) {
    let Outcome::Succeeded(_) = job.run() else { panic!("did not succeed: {:?}", job.events().last()) };
    job.write("predictions.json", &predictions(job).to_string());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/check_checkpoint.py");
    let output = Command::new(python)
        .arg(script)
        .arg(job.path("out/model"))
        .arg(job.path("predictions.json"))
        .args(["--tolerance", tolerance, "--batch-size", "3", "--tokenizer-from"])
        .arg(job.path("model"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

fn short() -> Value {
    json!({"epochs": 4, "batch_size": 8, "learning_rate": 1e-3})
}

#[test]
fn every_family_predicts_the_same_in_transformers() {
    let Some(python) = reference_python("every_family_predicts_the_same_in_transformers") else { return };
    for family in ["bert", "roberta", "xlm_roberta", "distilbert"] {
        check(&Job::new(family, short()), &python);
    }
}

#[test]
fn decoders_classify_the_same_in_transformers() {
    let Some(python) = reference_python("decoders_classify_the_same_in_transformers") else { return };
    let lora = json!({"rank": 4});
    for (family, lora) in [
        ("gpt2", None),
        ("gpt_neox", None),
        ("llama", Some(lora)),
        ("qwen3", None),
        ("smollm3", None),
        ("phi3", None),
        ("gemma3_text", None),
    ] {
        let mut training = short();
        if let Some(lora) = lora {
            training["lora"] = lora;
            training["learning_rate"] = json!(1e-2);
        }
        let job = Job::new("bert", training);
        std::fs::remove_dir_all(job.path("model")).unwrap();
        common::make_decoder(&job.path("model"), family);
        check(&job, &python);
    }
}

#[test]
fn pairs_several_labels_and_numbers_predict_the_same_in_transformers() {
    let Some(python) = reference_python("pairs_several_labels_and_numbers_predict_the_same_in_transformers")
    else {
        return;
    };
    let pairs = Job::new("bert", short());
    pairs.change(|spec| spec["columns"] = json!({"text": "text", "text_pair": "pair", "label": "label"}));
    let rows = "text,pair,label\nthe film,was good,yes\nthe plot,was bad,no\nthe music,was good,yes\nit,was very bad,no\n";
    pairs.write("data/train.csv", rows);
    pairs.write("data/validation.csv", rows);
    check(&pairs, &python);

    let several = Job::new("roberta", short());
    several.change(|spec| spec["problem_type"] = json!("multi_label_classification"));
    let rows = "text,label\ngood film,film|good\nbad film,film\nplot,\ngood plot,good\n";
    several.write("data/train.csv", rows);
    several.write("data/validation.csv", rows);
    check(&several, &python);

    let number = Job::new("distilbert", short());
    number.change(|spec| spec["problem_type"] = json!("regression"));
    let rows = "text,label\ngood film,1.5\nbad film,-2\nplot,0\ngood plot,1\n";
    number.write("data/train.csv", rows);
    number.write("data/validation.csv", rows);
    check(&number, &python);
}

#[test]
fn adapters_say_the_same_in_peft_and_merged_ones_in_transformers() {
    let Some(python) = reference_python("adapters_say_the_same_in_peft_and_merged_ones_in_transformers")
    else {
        return;
    };
    for (model, lora) in [
        ("bert", json!({"rank": 4, "dropout": 0.1})),
        // Without a pooler, which is made anew.
        ("bert_masked_lm", json!({"rank": 4, "targets": ["query", "output.dense"], "rslora": true})),
        ("roberta", json!({"rank": 4, "alpha": 2.5, "dora": true, "rslora": true})),
        ("xlm_roberta", json!({"rank": 4, "merge": true, "dora": true})),
        ("distilbert", json!({"rank": 4, "dora": true, "targets": ["q_lin", "lin2"]})),
        ("distilbert", json!({"rank": 4})),
        ("distilbert", json!({"rank": 4, "merge": true})),
        ("bert", json!({"rank": 4, "quantization": "nf4"})),
        ("bert", json!({"rank": 4, "quantization": "nf4", "merge": true})),
    ] {
        let mut training = short();
        training["lora"] = lora;
        training["learning_rate"] = json!(1e-2);
        check_within(&Job::new(model, training), &python, "1e-5");
    }
}

//! Tagging equals transformers' (values by `fixtures/make_tagging.py`), and a job goes its whole way.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use crate::common::{Job, copy_folder, distance, fixture, json_of, numbers, reference_python, values};
use formats::checkpoint::Weights;
use formats::dataset::tagged::Scheme;
use formats::tokenizer::{Encoding, Piece, Tokenizer};
use luthier_trainer::data::{Data, Split, Tagged, Tags, Tokens, collate};
use luthier_trainer::job::Outcome;
use luthier_trainer::models::{self, Head, TextModel};
use luthier_trainer::nn::{Context, Loader};
use luthier_trainer::optim::{Optimizer, clip_coefficient};
use luthier_trainer::predict::Predictor;
use luthier_trainer::tasks::token_classification::TokenClassification;
use luthier_trainer::tasks::{Given, Objective, Targets};
use luthier_trainer::tensors;
use serde_json::{Value, json};
use store::spec::Training;
use tch::{Device, Tensor};

const FAMILIES: [&str; 4] = ["bert", "roberta", "xlm_roberta", "distilbert"];

struct Loaded {
    model: Box<dyn TextModel>,
    params: Vec<(String, Tensor)>,
}

fn expected() -> Value {
    json_of(fixture("tagging/models.json"))
}

/// The encoder of a family with the head that the values were made with.
fn load(family: &str, stated: &Value) -> Loaded {
    let path = fixture(family);
    let config = models::read_config(&path).unwrap();
    let weights = Weights::open(&path).unwrap();
    let base = models::base_of(config["model_type"].as_str().unwrap()).unwrap();
    let loader = Loader::new(&weights, base, 0, Device::Cpu);
    let loader = if stated["head"].is_null() { loader.keep_head(vec![0, 1, 2]) } else { loader };
    let model = models::build(&config, &loader, Head::TokenLabels(3), Some(0.0)).unwrap();
    let params = loader.finish().unwrap().params;
    for (name, value) in stated["head"].as_object().into_iter().flatten() {
        let (_, param) = params.iter().find(|(own, _)| own == name).unwrap();
        let value = Tensor::from_slice(&numbers(value)).view(param.size().as_slice());
        tch::no_grad(|| param.shallow_clone().copy_(&value));
    }
    Loaded { model, params }
}

/// The rows of the values, as a job would have read them.
fn data(stated: &Value) -> Data {
    let list = |value: &Value| numbers(value).into_iter().map(|number| number as i64).collect::<Vec<_>>();
    let (mut encodings, mut tagged) = (Vec::new(), Vec::new());
    for row in stated["rows"].as_array().unwrap() {
        let ids: Vec<u32> = list(&row["input_ids"]).into_iter().map(|id| id as u32).collect();
        let counted: Vec<(usize, usize)> = list(&row["labels"])
            .into_iter()
            .enumerate()
            .filter(|(_, label)| *label >= 0)
            .map(|(token, label)| (token, label as usize))
            .collect();
        let words = counted.iter().map(|(token, _)| format!("w{token}")).collect();
        let tags = counted.iter().map(|(_, tag)| *tag).collect();
        let pieces = counted.iter().map(|(token, _)| Piece::At(*token as u32)).collect();
        encodings.push(Encoding { type_ids: vec![0; ids.len()], ids, truncated: false });
        tagged.push(Tagged { words, tags, pieces, counted });
    }
    let split = Split {
        tokens: Tokens::of(&encodings),
        per_row: 1,
        reference: Vec::new(),
        mismatched: None,
        answers: None,
        keys: Vec::new(),
        numbers: (0..encodings.len() as u64).collect(),
        targets: Targets::Tags(tagged),
        texts: Vec::new(),
    };
    Data { train: Arc::new(split), validation: None, test: None, prompts: Vec::new() }
}

fn objective(data: &Data) -> TokenClassification {
    let names = ["B-ART", "I-ART", "O"].map(str::to_owned).to_vec();
    TokenClassification::new(Tags { names, scheme: Scheme::Iob2 }, data, 0.0)
}

/// What the model gives for some rows, and their loss.
fn forward(
    loaded: &Loaded,
    data: &Data,
    objective: &TokenClassification,
    rows: &[usize],
) -> (Tensor, Tensor) {
    let split = &*data.train;
    let batch = collate(&split.sequences(rows), (0, 0), Device::Cpu);
    let top = loaded.model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
    let given = Given { model: loaded.model.as_ref(), top: &top, split, rows, batch: &batch };
    let loss = objective.loss(&given, 1.0 / objective.weight(split, rows));
    (top, loss)
}

#[test]
fn logits_and_losses_of_every_token_equal_the_reference() {
    let all = expected();
    for family in FAMILIES {
        let stated = &all[family];
        let (loaded, data) = (load(family, stated), data(stated));
        let objective = objective(&data);
        let rows: Vec<usize> = (0..data.train.len()).collect();
        let (top, loss) = forward(&loaded, &data, &objective, &rows);
        let right: Vec<f64> =
            stated["rows"].as_array().unwrap().iter().flat_map(|row| numbers(&row["logits"])).collect();
        let off = distance(&values(&top)[..right.len()], &right);
        assert!(off < 1e-4, "{family}: {off}");
        let off = (f64::try_from(loss).unwrap() - stated["loss"].as_f64().unwrap()).abs();
        assert!(off < 1e-5, "{family}: {off}");
    }
}

#[test]
fn losses_of_20_steps_equal_the_reference_within_1e_3() {
    let all = expected();
    for family in FAMILIES {
        let stated = &all[family];
        let (loaded, data) = (load(family, stated), data(stated));
        let objective = objective(&data);
        let training = Training { learning_rate: 1e-3, weight_decay: 0.01, ..Training::default() };
        let mut optimizer = Optimizer::new(&training, &loaded.params, loaded.model.as_ref()).unwrap();
        let steps = stated["steps"].as_array().unwrap();
        assert_eq!(steps.len(), 20);
        for (step, right) in steps.iter().enumerate() {
            let rows: Vec<usize> = numbers(&right["rows"]).into_iter().map(|row| row as usize).collect();
            optimizer.zero_grad().unwrap();
            let (_, loss) = forward(&loaded, &data, &objective, &rows);
            loss.backward();
            let norm = f64::try_from(optimizer.grad_norm().unwrap()).unwrap();
            let rate = optimizer.learning_rate(step as u64, 20);
            optimizer.step(rate, clip_coefficient(norm as f32, 1.0)).unwrap();
            for (name, found) in [("loss", f64::try_from(&loss).unwrap()), ("gradient_norm", norm)] {
                let right = right[name].as_f64().unwrap();
                assert!(
                    (found - right).abs() <= 1e-3 * right.max(1.0),
                    "{family} {step} {name}: {found}, not {right}"
                );
            }
        }
    }
}

#[test]
fn entities_of_a_text_are_those_of_transformers_pipeline() {
    let all = expected();
    let names = all["tags"].as_array().unwrap();
    for family in FAMILIES {
        let stated = &all[family];
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&fixture(family), folder.path());
        let Loaded { params, .. } = load(family, stated);
        tensors::save(&folder.path().join("model.safetensors"), &params).unwrap();
        let mut config = json_of(folder.path().join("config.json"));
        config["architectures"] = json!(["XForTokenClassification"]);
        config["id2label"] = json!({"0": names[0], "1": names[1], "2": names[2]});
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        if family == "roberta" {
            let path = folder.path().join("tokenizer_config.json");
            let mut settings = json_of(&path);
            settings["add_prefix_space"] = json!(true);
            std::fs::write(path, settings.to_string()).unwrap();
        }
        let predictor = Predictor::open(folder.path()).unwrap();
        for case in stated["found"].as_array().unwrap() {
            let asked =
                json!({"id": 1, "inputs": [case["text"]], "settings": {"aggregation": case["aggregation"]}});
            let answer = predictor.answer(&asked.to_string());
            let found = answer["outputs"][0]["entities"].as_array().unwrap_or_else(|| panic!("{answer}"));
            let right = case["entities"].as_array().unwrap();
            assert_eq!(found.len(), right.len(), "{family} {asked}: {found:?}, not {right:?}");
            for (found, right) in found.iter().zip(right) {
                for field in ["start", "end", "label"] {
                    assert_eq!(found[field], right[field], "{family} {asked}: {found}, not {right}");
                }
                let off = found["score"].as_f64().unwrap() - right["score"].as_f64().unwrap();
                assert!(off.abs() < 1e-4, "{family} {asked}: {found}, not {right}");
            }
        }
    }
}

/// Sentences in CoNLL's columns, in which a word decides what it is.
fn sentences(n: usize) -> String {
    let mut text = String::new();
    for i in 0..n {
        let (art, verb) = (["film", "movie", "plot", "music"][i % 4], ["was", "is"][i % 2]);
        text.push_str(&format!(
            "the DT O\n{art} NN B-ART\nstory NN I-ART\n{verb} VB O\nvery RB O\ngood JJ O\n\n"
        ));
    }
    text
}

fn job(model: &str, training: Value) -> Job {
    let mut all = json!({"max_steps": 60, "batch_size": 8, "learning_rate": 3e-3, "precision": "fp32"});
    all.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    let job = Job::of(json!({
        "task": "token-classification",
        "columns": {"tokens": "tokens", "tags": "tags"},
        "data": {"train": "train.conll", "validation": "validation.conll"},
        "training": all,
        "resources": {"threads": 1, "device": "cpu"},
    }));
    copy_folder(&fixture(model), &job.path("model"));
    job.write("data/train.conll", &sentences(24));
    job.write("data/validation.conll", &sentences(8));
    job
}

fn succeed(job: &Job) {
    let outcome = job.run();
    assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome:?}");
}

#[test]
fn a_job_learns_tags_and_its_model_finds_them() {
    let job = job("bert_encoder", json!({}));
    succeed(&job);
    let last = |name| job.curve("eval", name).last().unwrap().1;
    assert_eq!([last("f1"), last("strict_f1"), last("accuracy")], [1.0; 3]);
    let config = json_of(job.path("out/model/config.json"));
    assert_eq!(config["architectures"], json!(["BertForTokenClassification"]));
    assert_eq!(config["id2label"], json!({"0": "B-ART", "1": "I-ART", "2": "O"}));
    let csv = std::fs::read_to_string(job.path("out/model/predictions-validation.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 8 * 6);
    assert!(csv.lines().nth(2).unwrap().starts_with("0,1,film,B-ART,B-ART,"), "{csv}");
    let events = job.events();
    let shown = events.iter().rfind(|event| event["kind"] == "examples").unwrap();
    let worst = &shown["data"]["worst"][0];
    assert_eq!((worst["words"].as_array().unwrap().len(), &worst["predicted"]), (6, &worst["tags"]));
    let evaluated = events.iter().rfind(|event| event["kind"] == "eval").unwrap();
    assert_eq!(evaluated["data"]["per_class"][0]["label"], "ART", "{evaluated}");

    let predictor = Predictor::open(&job.path("out/model")).unwrap();
    let answer = predictor.answer(r#"{"id": 1, "inputs": ["the music story was very good"]}"#);
    let found = &answer["outputs"][0]["entities"];
    assert_eq!((&found[0]["text"], &found[0]["label"]), (&json!("music story"), &json!("ART")), "{answer}");
    let refused = predictor.answer(r#"{"id": 1, "inputs": [{"text": "a", "text_pair": "b"}]}"#);
    assert!(refused["error"]["message"].as_str().unwrap().contains("no pairs"), "{refused}");
}

#[test]
fn a_head_of_the_same_tags_is_kept_and_texts_with_entities_teach_the_same() {
    let job = job("bert_encoder", json!({}));
    succeed(&job);
    let again = self::job("bert_encoder", json!({"max_steps": 1, "learning_rate": 1e-9}));
    std::fs::remove_dir_all(again.path("model")).unwrap();
    copy_folder(&job.path("out/model"), &again.path("model"));
    let row = |art: &str| {
        let text = format!("the {art} story was very good");
        format!(
            "{}\n",
            json!({"text": text, "entities": [{"start": 4, "end": 10 + art.len(), "label": "ART"}]})
        )
    };
    let rows: String = ["film", "movie", "plot", "music"].map(row).concat();
    again.write("data/train.jsonl", &rows);
    again.write("data/validation.jsonl", &rows);
    again.change(|spec| {
        spec["columns"] = json!({"text": "text", "entities": "entities"});
        spec["data"] = json!({"train": "train.jsonl", "validation": "validation.jsonl"});
    });
    succeed(&again);
    assert_eq!(again.curve("eval", "f1")[0].1, 1.0);
}

#[test]
fn every_token_of_a_word_may_carry_its_tag() {
    let stated = expected();
    for (all_tokens, field) in [(false, "labels"), (true, "all_labels")] {
        let job = job("bert", json!({"max_steps": 1, "max_length": 16, "label_all_tokens": all_tokens}));
        let rows: String = stated["bert"]["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| format!("{}\n", json!({"tokens": row["words"], "tags": row["tags"]})))
            .collect();
        job.write("data/train.jsonl", &rows);
        job.write("data/validation.jsonl", &rows);
        job.change(|spec| spec["data"] = json!({"train": "train.jsonl", "validation": "validation.jsonl"}));
        succeed(&job);
        let counted = stated["bert"]["rows"].as_array().unwrap().iter();
        let counted: usize =
            counted.map(|row| numbers(&row[field]).iter().filter(|label| **label >= 0.0).count()).sum();
        let tokenizer = Tokenizer::load(&fixture("bert")).unwrap();
        let spec = serde_json::from_value(json_of(job.path("spec.json"))).unwrap();
        let mut events = luthier_trainer::job::Events::open(&job.path("told.jsonl"), 1, false).unwrap();
        let (data, _) = Data::tagged(job.dir.path(), &spec, &tokenizer, 16, &mut events).unwrap();
        let Targets::Tags(rows) = &data.train.targets else { panic!("tags") };
        assert_eq!(rows.iter().map(|row| row.counted.len()).sum::<usize>(), counted, "{field}");
    }
}

#[test]
fn finished_taggers_say_the_same_in_transformers() {
    let Some(python) = reference_python("finished_taggers_say_the_same_in_transformers") else { return };
    for model in FAMILIES {
        let job = job(model, json!({"max_steps": 5}));
        succeed(&job);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/check_tagger.py");
        let output = Command::new(&python)
            .arg(script)
            .arg(job.path("out/model"))
            .arg(job.path("out/model/predictions-validation.csv"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{model}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
}

//! Jobs that learn to write one text from another: every family under every way to train, what is written, and what transformers
//! says of the finished model.

use std::path::Path;
use std::process::Command;

use formats::checkpoint::Weights;
use formats::problem::Problem;
use formats::tokenizer::Tokenizer;
use formats::tokenizer::train::{Kind, Recipe, train};
use luthier_trainer::job::Outcome;
use luthier_trainer::job::control::{Asked, Control};
use luthier_trainer::models;
use luthier_trainer::nn::Loader;
use luthier_trainer::predict::Predictor;
use luthier_trainer::tensors;
use serde_json::{Value, json};
use tch::Device;

use crate::common::{Job, fixture, gloo, json_of, reference_python, run};

/// A family joins by a line.
const MODELS: [&str; 7] = ["t5", "t5_gated", "mt5", "bart", "mbart", "marian", "transformer"];

const WORDS: [(&str, &str); 8] = [
    ("one", "un"),
    ("two", "deux"),
    ("three", "trois"),
    ("red", "rouge"),
    ("green", "vert"),
    ("house", "maison"),
    ("tree", "arbre"),
    ("cat", "chat"),
];

/// Row `n`: some words, and the same in French.
fn pair(n: usize) -> (String, String) {
    let words: Vec<_> = (0..2 + n % 3).map(|at| WORDS[(n * 5 + at * (3 + n % 2)) % WORDS.len()]).collect();
    let side = |of: fn(&(&'static str, &'static str)) -> &'static str| {
        words.iter().map(of).collect::<Vec<_>>().join(" ")
    };
    (side(|word| word.0), side(|word| word.1))
}

fn pairs(from: usize, count: usize) -> String {
    let row = |n| {
        let (en, fr) = pair(n);
        format!("{}\n", json!({"translation": {"en": en, "fr": fr}}))
    };
    (from..from + count).map(row).collect()
}

/// A checkpoint with weights made anew, and a tokenizer that was learnt from the rows.
fn make_model(folder: &Path, name: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let texts = (0..60).flat_map(|n| <[String; 2]>::from(pair(n))).map(Ok::<_, Problem>);
    let trained = train(texts, &Recipe::new(Kind::WordPiece, 120), |_| ()).unwrap();
    trained.write(folder).unwrap();
    let tokenizer = Tokenizer::load(folder).unwrap();
    let mut config = match name {
        "transformer" => json!({
            "model_type": "luthier_transformer", "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
            "max_position_embeddings": 64, "norm_first": true, "share_embeddings": false, "tie_word_embeddings": false,
        }),
        name => json_of(fixture(&format!("encoder_decoders/{name}/config.json"))),
    };
    let fields = config.as_object_mut().unwrap();
    for gone in ["forced_bos_token_id", "forced_eos_token_id"] {
        fields.remove(gone);
    }
    fields.remove("decoder_vocab_size");
    let own = json!({"vocab_size": tokenizer.vocab_size(), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "decoder_start_token_id": 0, "initializer_factor": 0.2});
    fields.extend(own.as_object().unwrap().clone());
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let file = folder.join("model.safetensors");
    tensors::save(&file, &[]).unwrap();
    let weights = Weights::open(folder).unwrap();
    let base = models::base_of(config["model_type"].as_str().unwrap()).unwrap();
    let loader = Loader::new(&weights, base, 1, Device::Cpu).from_scratch();
    models::build(&config, &loader, models::Head::Answers, None).unwrap();
    tensors::save(&file, &loader.finish().unwrap().params).unwrap();
}

fn job(model: &str, training: Value) -> Job {
    let mut all = json!({"max_steps": 12, "batch_size": 5, "learning_rate": 3e-3, "precision": "fp32",
        "text_to_text": {"num_beams": 2, "max_target_length": 12}});
    all.as_object_mut().unwrap().extend(training.as_object().unwrap().clone());
    let job = Job::of(json!({
        "task": "translation",
        "columns": {"source": "translation.en", "target": "translation.fr"},
        "data": {"train": "train.jsonl", "validation": "validation.jsonl"},
        "training": all,
        "resources": {"threads": 1, "device": "cpu"},
    }));
    make_model(&job.path("model"), model);
    job.write("data/train.jsonl", &pairs(0, 43));
    job.write("data/validation.jsonl", &pairs(43, 9));
    job
}

fn finished(model: &str, training: &Value, resources: &Value) -> Job {
    let job = job(model, training.clone());
    job.change(|spec| {
        let own = spec["resources"].as_object_mut().unwrap();
        own.extend(resources.as_object().unwrap().clone());
    });
    let result = run(&job);
    assert_eq!(result["status"], "succeeded", "{model} {training} {resources}: {result}");
    job
}

/// How far curves are from those of the plain run, relative.
fn distance(one: &Job, other: &Job) -> f64 {
    [("train", "loss"), ("eval", "loss"), ("eval", "perplexity")]
        .into_iter()
        .flat_map(|(kind, value)| {
            let (a, b) = (one.curve(kind, value), other.curve(kind, value));
            assert!(!a.is_empty() && a.len() == b.len(), "{kind} {value}");
            a.into_iter().zip(b).map(|((_, a), (_, b))| (a - b).abs() / a.abs().max(1e-3))
        })
        .fold(0.0, f64::max)
}

#[test]
fn every_family_trains_alike_in_every_way() {
    let mut ways = vec![
        ("bf16", json!({"precision": "bf16"}), json!({}), 3e-2),
        ("gradient checkpointing", json!({"gradient_checkpointing": true}), json!({}), 1e-6),
        ("one row at once", json!({"batch_size": 1, "gradient_accumulation_steps": 5}), json!({}), 1e-4),
    ];
    if gloo() {
        ways.push(("2 data ranks", json!({}), json!({"devices": 2}), 1e-4));
        ways.push(("2 tensor ranks", json!({}), json!({"devices": 2, "tensor_parallel": 2}), 1e-4));
        ways.push(("2 stages", json!({}), json!({"devices": 2, "pipeline_stages": 2}), 1e-4));
    }
    let mut wrong = Vec::new();
    for model in MODELS {
        let plain = finished(model, &json!({}), &json!({}));
        let (first, last) = (plain.curve("train", "loss")[0].1, plain.curve("train", "loss")[11].1);
        assert!(last < first, "{model} learns nothing: {first} to {last}");
        let adapted = finished(model, &json!({"lora": {"rank": 4}, "learning_rate": 1e-2}), &json!({}));
        let losses = adapted.curve("train", "loss");
        // Dropout is drawn elsewhere: adapters draw too.
        if losses[11].1 >= losses[0].1 {
            wrong.push(format!("{model}, LoRA: {losses:?} beside {first}"));
        }
        for (name, training, resources, tolerance) in &ways {
            // Several processes take seconds to meet: of each kind of layers one family, and stages where no table is shared.
            let several = resources != &json!({});
            let looked_at =
                if *name == "2 stages" { &["transformer"][..] } else { &["t5_gated", "transformer"] };
            if several && !looked_at.contains(&model) {
                continue;
            }
            let made = finished(model, training, resources);
            let far = distance(&plain, &made);
            if far > *tolerance {
                wrong.push(format!("{model}, {name}: {far:e} apart"));
            }
            // Stages write nothing: each has some of the layers.
            let writes = !made.curve("eval", "loss").is_empty() && *name != "2 stages";
            if writes && *tolerance < 1e-3 && plain.curve("eval", "chrf") != made.curve("eval", "chrf") {
                wrong.push(format!("{model}, {name}: writes otherwise"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn stages_of_a_model_with_one_table_of_words_are_refused() {
    let job = job("bart", json!({}));
    job.change(|spec| {
        spec["resources"] = json!({"threads": 1, "device": "cpu", "devices": 2, "pipeline_stages": 2});
    });
    let result = run(&job);
    if gloo() {
        assert_eq!(result["param"], "resources.pipeline_stages", "{result}");
    }
}

#[test]
fn a_model_learns_to_translate_and_says_so() {
    let settings = json!({"max_steps": 160, "batch_size": 16, "learning_rate": 5e-3, "eval_every": {"steps": 80}, "dropout": 0.0});
    let job = job("transformer", settings);
    let outcome = job.run();
    assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome:?}");
    let bleu = job.curve("eval", "bleu");
    assert!(bleu.last().unwrap().1 > 60.0, "{bleu:?}");
    let values = job.curve("eval", "chrf_plus_plus").len() + job.curve("eval", "ter").len();
    assert_eq!(values, 2 * bleu.len());
    // Sources, targets and what was written, the worst first.
    let events = job.events();
    let examples = events.iter().rev().find(|event| event["kind"] == "examples").unwrap();
    let rows = examples["data"]["rows"].as_array().unwrap();
    assert_eq!((rows.len(), examples["data"]["kind"].as_str()), (9, Some("text-to-text")), "{examples}");
    let scores: Vec<f64> = rows.iter().map(|row| row["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted(), "{scores:?}");
    let table = std::fs::read_to_string(job.path("out/model/predictions-validation.csv")).unwrap();
    assert_eq!(table.lines().next(), Some("row,source,target,prediction,tokens,loss"));
    assert_eq!(table.lines().count(), 10);
    // Whoever asks the finished model gets what the evaluation wrote.
    let predictor = Predictor::open(&job.path("out/model")).unwrap();
    let asked = json!({"id": 1, "inputs": [rows[0]["source"], {"text": rows[8]["source"]}],
        "settings": {"num_beams": 2, "max_new_tokens": 12}});
    let answer = predictor.answer(&asked.to_string());
    assert_eq!(answer["outputs"][0]["text"], rows[0]["prediction"], "{answer}");
    assert_eq!(answer["outputs"][1]["text"], rows[8]["prediction"], "{answer}");
    let wrong = json!({"id": 2, "inputs": [{"question": "who?", "context": "me"}]});
    assert_eq!(predictor.answer(&wrong.to_string())["error"]["code"], "other_task");
}

#[test]
fn a_job_that_was_paused_goes_on_with_the_same_bits() {
    let whole = job("t5", json!({}));
    assert!(matches!(whole.run(), Outcome::Succeeded(_)));
    let paused = job("t5", json!({}));
    let control = Control::default();
    control.ask(Asked::Pause);
    assert!(matches!(paused.run_under(&control, 1), Outcome::Paused(_)));
    assert!(matches!(paused.run_under(&Control::default(), 2), Outcome::Succeeded(_)));
    assert_eq!(distance(&whole, &paused), 0.0);
}

#[test]
fn wrong_rows_and_languages_are_named() {
    let empty = job("bart", json!({}));
    empty.write(
        "data/train.jsonl",
        &format!("{}{}\n", pairs(0, 2), json!({"translation": {"en": "red", "fr": " "}})),
    );
    let (_, message) = empty.failure();
    assert!(message.contains("line 3") && message.contains("translation.fr"), "{message}");
    let language = job("bart", json!({"text_to_text": {"source_lang": "en_XX", "target_lang": "fr_XX"}}));
    let (code, message) = language.failure();
    assert_eq!(code, "unknown_language", "{message}");
    assert!(message.contains("en_XX") && message.contains("leave the languages out"), "{message}");
    let other = job("bart", json!({}));
    other.change(|spec| spec["task"] = json!("text-generation"));
    other.change(|spec| spec["columns"] = json!({}));
    other.change(|spec| drop(spec["training"].as_object_mut().unwrap().remove("text_to_text")));
    other.write("data/train.jsonl", "{\"text\": \"red\"}\n{\"text\": \"green\"}\n");
    other.write("data/validation.jsonl", "{\"text\": \"red house\"}\n");
    let (code, message) = other.failure();
    assert_eq!(code, "unsupported_model", "{message}");
}

#[test]
fn a_finished_model_says_and_writes_the_same_in_transformers() {
    let Some(python) = reference_python("a_finished_model_says_and_writes_the_same_in_transformers") else {
        return;
    };
    let cases = [
        ("t5", json!({"max_steps": 40})),
        (
            "t5_gated",
            json!({"max_steps": 40, "text_to_text": {"num_beams": 3, "max_target_length": 12, "source_prefix": "one: ", "no_repeat_ngram_size": 2}}),
        ),
        ("mt5", json!({"text_to_text": {"num_beams": 1, "max_target_length": 8}})),
        ("bart", json!({"max_steps": 40, "lora": {"rank": 4}})),
        ("mbart", json!({"lora": {"rank": 4, "merge": true}})),
        ("marian", json!({"max_steps": 40})),
    ];
    let jobs: Vec<Job> =
        cases.into_iter().map(|(model, training)| finished(model, &training, &json!({}))).collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/check_text_to_text.py");
    let output =
        Command::new(python).arg(script).args(jobs.iter().map(|job| job.dir.path())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

//! Vectors of texts are learnt as sentence-transformers learns them (values by `fixtures/make_sentence_similarity.py`).

use std::path::Path;
use std::process::Command;

use formats::checkpoint::{SentenceModel, Weights};
use formats::dataset::related::key;
use formats::tokenizer::Tokenizer;
use luthier_trainer::data::{Split, Tokens, collate};
use luthier_trainer::generate::Reader;
use luthier_trainer::job::Outcome;
use luthier_trainer::job::control::{Asked, Control};
use luthier_trainer::models::{self, Head};
use luthier_trainer::nn::{Context, Loader};
use luthier_trainer::tasks::sentence_similarity::SentenceSimilarity;
use luthier_trainer::tasks::{Given, Objective, Targets};
use luthier_trainer::tensors;
use serde_json::{Value, json};
use store::spec::JobSpec;
use tch::{Device, Tensor};

use crate::common::{Job, copy_folder, distance, fixture, json_of, numbers, reference_python, values};

fn said() -> Value {
    json_of(fixture("sentence_similarity/expected.json"))
}

/// Rows as CSV.
fn csv(header: &str, rows: &Value, columns: usize) -> String {
    let cell = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    let line =
        |row: &Value| row.as_array().unwrap()[..columns].iter().map(cell).collect::<Vec<_>>().join(",");
    let lines: Vec<String> = rows.as_array().unwrap().iter().map(line).collect();
    format!("{header}\n{}\n", lines.join("\n"))
}

/// A job on the rows of the fixture, which are its validation rows as well.
fn job(kind: &str, training: Value) -> Job {
    let said = said();
    let (columns, rows) = match kind {
        "pairs" => (json!({"anchor": "a", "positive": "p"}), csv("a,p", &said["ranked"], 2)),
        "negatives" => {
            (json!({"anchor": "a", "positive": "p", "negative": ["n"]}), csv("a,p,n", &said["ranked"], 3))
        }
        _ => (json!({"text1": "a", "text2": "b", "score": "s"}), csv("a,b,s", &said["scored"], 3)),
    };
    let job = Job::of(json!({
        "task": "sentence-similarity",
        "columns": columns,
        "data": {"train": "train.csv", "validation": "validation.csv"},
        "training": training,
        "resources": {"threads": 1},
    }));
    copy_folder(&fixture("bert_encoder"), &job.path("model"));
    describe(&job.path("model"), &["mean"]);
    job.write("data/train.csv", &rows);
    job.write("data/validation.csv", &rows);
    job
}

/// Makes a checkpoint one of sentence-transformers, as its older versions wrote them.
fn describe(folder: &Path, pooling: &[&str]) {
    let kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")];
    let module = |(at, (path, kind)): (usize, &(&str, &str))| json!({"idx": at, "name": at.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")});
    let modules: Value = kinds.iter().enumerate().map(module).collect();
    std::fs::write(folder.join("modules.json"), modules.to_string()).unwrap();
    std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
    std::fs::write(folder.join("1_Pooling/config.json"), json!({"pooling_mode": pooling}).to_string())
        .unwrap();
    let length = said()["max_length"].clone();
    let settings = json!({"max_seq_length": length, "do_lower_case": false}).to_string();
    std::fs::write(folder.join("sentence_bert_config.json"), settings).unwrap();
}

fn succeed(job: &Job) -> Value {
    match job.run() {
        Outcome::Succeeded(result) => result,
        other => panic!("{other:?}"),
    }
}

/// Loss and gradients of one batch of all rows.
#[test]
fn losses_and_gradients_are_those_of_sentence_transformers() {
    let said = said();
    let config = models::read_config(&fixture("bert_encoder")).unwrap();
    let tokenizer = Tokenizer::load(&fixture("bert_encoder")).unwrap();
    let length = said["max_length"].as_u64().unwrap() as usize;
    for (name, rows, columns, settings) in [
        ("pairs", "ranked", json!({"anchor": "a", "positive": "p"}), json!({})),
        ("negatives", "ranked", json!({"anchor": "a", "positive": "p", "negative": ["n"]}), json!({})),
        (
            "symmetric",
            "ranked",
            json!({"anchor": "a", "positive": "p", "negative": ["n"]}),
            json!({"symmetric": true}),
        ),
        ("cosent", "scored", json!({"text1": "a", "text2": "b", "score": "s"}), json!({})),
        (
            "cosine_similarity",
            "scored",
            json!({"text1": "a", "text2": "b", "score": "s"}),
            json!({"loss": "cosine_similarity"}),
        ),
    ] {
        let spec: JobSpec = serde_json::from_value(json!({"task": "sentence-similarity", "columns": columns,
            "data": {"train": "a.csv"}, "training": {"embedding": settings}}))
        .unwrap();
        spec.validate().unwrap();
        let per_row = spec.per_row();
        let rows = said[rows].as_array().unwrap();
        let texts: Vec<&str> = rows
            .iter()
            .flat_map(|row| &row.as_array().unwrap()[..per_row])
            .map(|text| text.as_str().unwrap())
            .collect();
        let pairs: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (*text, None)).collect();
        let scores = rows.iter().filter_map(|row| row[2].as_f64()).collect();
        let split = Split {
            tokens: Tokens::of(&tokenizer.encode_pairs(&pairs, length).unwrap()),
            per_row,
            reference: Vec::new(),
            mismatched: None,
            answers: None,
            keys: texts.iter().map(|text| key(text)).collect(),
            numbers: (0..rows.len() as u64).collect(),
            targets: Targets::Nearness(scores),
            texts: Vec::new(),
        };
        let objective = SentenceSimilarity::new(&spec, &config, SentenceModel::default(), length).unwrap();
        let weights = Weights::open(&fixture("bert_encoder")).unwrap();
        let loader = Loader::new(&weights, "bert", 0, Device::Cpu);
        let model = models::build(&config, &loader, Head::States, Some(0.0)).unwrap();
        let params = loader.finish().unwrap().params;
        let all: Vec<usize> = (0..rows.len()).collect();
        let batch = collate(&split.sequences(&all), (0, 0), Device::Cpu);
        let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
        let given = Given { model: model.as_ref(), top: &top, split: &split, rows: &all, batch: &batch };
        let loss = objective.loss(&given, 1.0 / objective.weight(&split, &all));
        let right = &said[name];
        let off = (loss.double_value(&[]) - right["loss"].as_f64().unwrap()).abs();
        assert!(off < 1e-5, "{name}: loss off by {off}");
        loss.backward();
        let gradient = |wanted: &str| -> Tensor {
            let (_, param) = params.iter().find(|(name, _)| name == &format!("bert.{wanted}")).unwrap();
            param.grad().to_dense(None, false)
        };
        let norm = right["gradient_norm"].as_f64().unwrap();
        for (wanted, numbers_of) in right["gradients"].as_object().unwrap() {
            let gradient = values(&gradient(wanted));
            let stride = if gradient.len() > 100 { 67 } else { 1 };
            let found: Vec<f64> = gradient.into_iter().step_by(stride).collect();
            let off = distance(&found, &numbers(numbers_of));
            assert!(off < 1e-5 * norm.max(1.0), "{name}, {wanted}: off by {off} of {norm}");
        }
        for (wanted, right) in right["gradient_norms"].as_object().unwrap() {
            let (found, right) = (gradient(wanted).norm().double_value(&[]), right.as_f64().unwrap());
            assert!((found - right).abs() < 1e-5 * norm.max(1.0), "{name}, {wanted}: {found} for {right}");
        }
    }
}

/// Twenty steps of a job, each on all rows, from tokens to weights; and what the finished folder says of texts.
#[test]
fn a_job_trains_as_sentence_transformers_does() {
    let said = said();
    for name in ["negatives", "cosent", "cosine_similarity"] {
        let mut training = json!({"max_steps": 20, "batch_size": 64, "dropout": 0.0, "precision": "fp32",
            "learning_rate": said["learning_rate"], "weight_decay": said["weight_decay"], "max_grad_norm": 1.0,
            "lr_scheduler": {"name": "linear", "warmup_steps": 0}, "eval_every": {"steps": 20}});
        if name == "cosine_similarity" {
            training["embedding"] = json!({"loss": name});
        }
        let job = job(name, training);
        succeed(&job);
        let right = &said["training"][name];
        for (value, theirs) in [("loss", "loss"), ("grad_norm", "gradient_norm")] {
            for ((step, found), right) in
                job.curve("train", value).iter().zip(right["steps"].as_array().unwrap())
            {
                let right = right[theirs].as_f64().unwrap();
                let off = (found - right).abs() / right.max(1.0);
                assert!(off < 1e-4, "{name}, step {step}: {value} {found} for {right}");
            }
        }
        let rows = if name == "negatives" { "ranked" } else { "scored" };
        let texts: Vec<String> =
            said[rows].as_array().unwrap().iter().map(|row| row[0].as_str().unwrap().to_owned()).collect();
        let reader = Reader::open(&job.path("out/model"), Device::Cpu).unwrap();
        let found = reader.embed(&texts, true, Device::Cpu).unwrap().concat();
        let found: Vec<f64> = found.into_iter().map(f64::from).collect();
        let off = distance(&found, &numbers(&right["vectors"]));
        assert!(off < 1e-4, "{name}: vectors off by {off}");
    }
}

/// With a learning rate of nearly nothing the evaluation is that of the model as it was.
#[test]
fn metrics_are_those_of_sentence_transformers() {
    let said = said();
    for (kind, metrics, best) in
        [("negatives", "retrieval", "ndcg_at_10"), ("scored", "similarity", "spearman")]
    {
        let job =
            job(kind, json!({"max_steps": 1, "batch_size": 4, "learning_rate": 1e-30, "precision": "fp32"}));
        let result = succeed(&job);
        for (name, right) in said[metrics].as_object().unwrap() {
            let (_, found) = job.curve("eval", name)[0];
            let right = right.as_f64().unwrap();
            assert!((found - right).abs() < 1e-6, "{name}: {found} for {right}");
            assert_eq!(result["metrics"][name], json!(found));
        }
        let state = json_of(job.path("out/model/trainer_state.json"));
        assert_eq!(state["best_metric_name"], best);
        let csv = std::fs::read_to_string(job.path("out/model/predictions-validation.csv")).unwrap();
        let header =
            if kind == "scored" { "row,loss,cosine,score" } else { "row,loss,cosine,rank,nearest_negative" };
        assert_eq!(csv.lines().next(), Some(header));
        assert!(job.events().iter().any(|event| event["kind"] == "examples"));
    }
}

#[test]
fn texts_are_pooled_as_the_checkpoint_says() {
    let said = said();
    let texts: Vec<String> = serde_json::from_value(said["texts"].clone()).unwrap();
    for (pooling, right) in said["vectors"].as_object().unwrap() {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(&fixture("bert_encoder"), folder.path());
        describe(folder.path(), &pooling.split(' ').collect::<Vec<_>>());
        let reader = Reader::open(folder.path(), Device::Cpu).unwrap();
        assert_eq!(reader.context(), 16);
        // The last text is longer; there it was cut.
        let found = reader.embed(&texts[..4], true, Device::Cpu).unwrap();
        for (found, right) in found.iter().zip(right.as_array().unwrap()) {
            let found: Vec<f64> = found.iter().map(|&number| f64::from(number)).collect();
            let off = distance(&found, &numbers(right));
            assert!(off < 1e-5, "{pooling}: {off}");
        }
        let error = reader.embed(&texts, true, Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("16"), "{error}");
    }
}

/// In each way to train: what is saved is whole, and a job that was paused ends with the bits of one that was not.
#[test]
fn each_way_of_training_goes_on_with_the_same_bits() {
    let ways = [
        ("pairs", json!({"gradient_accumulation_steps": 2, "embedding": {"batch_sampler": "no_duplicates"}})),
        ("negatives", json!({"gradient_checkpointing": true, "embedding": {"symmetric": true}})),
        ("negatives", json!({"precision": "bf16"})),
        ("scored", json!({"lora": {"rank": 2, "merge": true}})),
        ("pairs", json!({"freeze": {"embeddings": true, "first_layers": 1}})),
    ];
    for (kind, way) in ways {
        let mut training =
            json!({"max_steps": 4, "batch_size": 8, "learning_rate": 1e-3, "checkpoint_every": 1});
        training.as_object_mut().unwrap().extend(way.as_object().unwrap().clone());
        let (whole, paused) = (job(kind, training.clone()), job(kind, training));
        succeed(&whole);
        let control = Control::default();
        control.ask(Asked::Pause);
        assert_eq!(paused.run_under(&control, 1), Outcome::Paused(1), "{way}");
        match paused.run_under(&Control::default(), 2) {
            Outcome::Succeeded(_) => {}
            other => panic!("{way}: {other:?}"),
        }
        let file = |job: &Job, name: &str| std::fs::read(job.path(name)).unwrap();
        let weights = "out/model/model.safetensors";
        assert!(file(&whole, weights) == file(&paused, weights), "{way}");
        assert_eq!(whole.curve("train", "loss"), paused.curve("train", "loss"), "{way}");
        for name in
            ["modules.json", "1_Pooling/config.json", "config_sentence_transformers.json", "tokenizer.json"]
        {
            assert!(whole.path("out/model").join(name).is_file(), "{name}");
        }
        assert_eq!(json_of(whole.path("out/model/sentence_bert_config.json"))["max_seq_length"], 16);
        assert_eq!(json_of(whole.path("out/model/config.json"))["architectures"], json!(["BertModel"]));
        let names = |path| {
            let all = tensors::load(path).unwrap().into_iter();
            all.map(|(name, _)| name.trim_start_matches("bert.").to_owned())
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(&whole.path(weights)), names(&whole.path("model/model.safetensors")), "{way}");
        let card = std::fs::read_to_string(whole.path("out/model/README.md")).unwrap();
        assert!(card.contains("library_name: sentence-transformers"), "{card}");
    }
}

/// The same text twice has draws of its own, so that it may be its own positive (SimCSE): with the same draws both vectors would
/// be the same, their cosine 1 and the loss 0.
#[test]
fn a_text_that_is_its_own_positive_is_dropped_out_differently() {
    for (dropout, is_drawn) in [(0.3, true), (0.0, false)] {
        let training = json!({"max_steps": 1, "batch_size": 8, "dropout": dropout, "precision": "fp32",
            "embedding": {"loss": "cosine_similarity"}});
        let job = job("scored", training);
        job.write("data/train.csv", "a,b,s\nfilm good,film good,1\nbad plot,bad plot,1\n");
        succeed(&job);
        let (_, loss) = job.curve("train", "loss")[0];
        assert_eq!(loss > 1e-6, is_drawn, "dropout {dropout}: {loss}");
    }
}

#[test]
fn what_cannot_be_learnt_is_refused_with_its_place() {
    let refused =
        |kind: &str, training: Value, rows: &str, change: &dyn Fn(&Job), code: &str, parts: &[&str]| {
            let job = job(kind, training);
            if !rows.is_empty() {
                job.write("data/train.csv", rows);
            }
            change(&job);
            let (found, message) = job.failure();
            assert_eq!(found, code, "{message}");
            for part in parts {
                assert!(message.contains(part), "{part:?} is not in: {message}");
            }
            assert!(!job.path("out/model").exists());
        };
    let as_is = |_: &Job| {};
    let plain = || json!({"max_steps": 1});
    refused("negatives", plain(), "a,p,n\nx,y,z\nx,,z\n", &as_is, "missing_text", &["line 3", "p"]);
    refused("negatives", plain(), "a,p\nx,y\n", &as_is, "unknown_column", &["n", "a, p"]);
    refused("scored", plain(), "a,b,s\nx,y,1\nx,y,much\n", &as_is, "invalid_value", &["line 3", "much"]);
    let cosine = json!({"embedding": {"loss": "cosine_similarity"}});
    refused(
        "scored",
        cosine.clone(),
        "a,b,s\nx,y,4.5\n",
        &as_is,
        "invalid_value",
        &["4.5", "-1 to 1", "cosent"],
    );
    refused("pairs", cosine, "", &as_is, "invalid_spec", &["cosine_similarity", "text1"]);
    refused("pairs", json!({"batch_size": 1}), "", &as_is, "invalid_spec", &["batch_size"]);
    refused("pairs", json!({"lora": {"rank": 2}}), "", &as_is, "invalid_spec", &["lora.merge"]);
    refused("pairs", json!({"freeze": {"except_head": true}}), "", &as_is, "invalid_spec", &["except_head"]);
    refused("pairs", json!({"label_smoothing": 0.1}), "", &as_is, "invalid_spec", &["label_smoothing"]);
    refused(
        "scored",
        json!({"best_metric": "ndcg_at_10"}),
        "",
        &as_is,
        "invalid_spec",
        &["ndcg_at_10", "spearman"],
    );
    let with_dense = |job: &Job| {
        let mut modules = json_of(job.path("model/modules.json"));
        modules[2]["type"] = json!("sentence_transformers.models.Dense");
        job.write("model/modules.json", &modules.to_string());
    };
    refused("pairs", plain(), "", &with_dense, "unsupported_model", &["Dense"]);
    let one_column = |job: &Job| job.change(|spec| spec["columns"] = json!({"anchor": "a", "positive": "a"}));
    refused("pairs", plain(), "", &one_column, "invalid_spec", &["same column"]);
    let decoder = |job: &Job| {
        std::fs::remove_dir_all(job.path("model")).unwrap();
        crate::common::make_decoder(&job.path("model"), "llama");
    };
    refused("pairs", plain(), "", &decoder, "unsupported_model", &["llama", "bert"]);
}

/// The finished folder says the same in sentence-transformers, and its encoder in transformers.
#[test]
fn a_finished_folder_loads_in_sentence_transformers() {
    let test = "vectors::a_finished_folder_loads_in_sentence_transformers";
    let Some(python) = reference_python(test) else { return };
    let job = job("pairs", json!({"max_steps": 3, "batch_size": 8, "learning_rate": 1e-3}));
    succeed(&job);
    let texts: Vec<String> = serde_json::from_value(said()["texts"].clone()).unwrap();
    let reader = Reader::open(&job.path("out/model"), Device::Cpu).unwrap();
    let vectors = reader.embed(&texts[..4], true, Device::Cpu).unwrap();
    job.write("vectors.json", &json!({"texts": &texts[..4], "vectors": vectors}).to_string());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/check_vectors.py");
    let output = Command::new(python)
        .arg(script)
        .arg(job.path("out/model"))
        .arg(job.path("vectors.json"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

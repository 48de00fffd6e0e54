//! What several tests need: the fixtures' folder, and jobs made in a folder of their own.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;

use formats::checkpoint::Weights;
use formats::tokenizer::Encoding;
use luthier_trainer::data::{Batch, Row, Tokens, collate};
use luthier_trainer::generate::{Request, Sampling, Voice};
use luthier_trainer::job::control::Control;
use luthier_trainer::job::{self, JobArgs, Outcome};
use luthier_trainer::models::{self, TextModel};
use luthier_trainer::nn::{Context, Loader};
use luthier_trainer::tensors;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

/// A folder or file under `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The Python of the reference environment; without it the test is skipped by name, in CI it fails.
pub fn reference_python(test: &str) -> Option<String> {
    let python = std::env::var("LUTHIER_REFERENCE_PYTHON").ok();
    if python.is_none() {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "LUTHIER_REFERENCE_PYTHON is not set, and this is CI");
        println!("SKIPPED {test}: reference venv not installed");
    }
    python
}

/// `luthier-trainer generate` on a model's folder, that waits for lines.
pub fn generate(folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_luthier-trainer"))
        .arg("generate")
        .arg(folder)
        .args(["--device", "cpu", "--threads", "1"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Reads JSON.
pub fn json_of(path: impl AsRef<Path>) -> Value {
    let path = path.as_ref();
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// All numbers of nested arrays.
pub fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(values) => values.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

/// A row of an encoder.
pub fn row_of(tokens: &Tokens, at: usize) -> Row<'_> {
    let (ids, type_ids) = tokens.row(at);
    Row { number: 0, ids, type_ids, counts: &[], answer: &[] }
}

/// The largest difference.
pub fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// A job in a temporary folder.
pub struct Job {
    /// Its folder.
    pub dir: tempfile::TempDir,
}

impl Job {
    /// A job on a checkpoint of the fixtures, two classes that a word decides.
    pub fn new(model: &str, training: Value) -> Self {
        let job = Job::of(json!({
            "task": "text-classification",
            "columns": {"text": "text", "label": "label"},
            "data": {"train": "train.csv", "validation": "validation.csv"},
            "training": training,
            "resources": {"threads": 1},
        }));
        copy_folder(&fixture(model), &job.path("model"));
        job.write("data/train.csv", &rows(24));
        job.write("data/validation.csv", &rows(8));
        job
    }

    /// A job of this specification, without a model or data.
    pub fn of(spec: Value) -> Self {
        let job = Job { dir: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(job.path("data")).unwrap();
        job.spec(spec);
        job
    }

    /// A path in the job's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of the job.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Writes the specification.
    pub fn spec(&self, spec: Value) {
        self.write("spec.json", &spec.to_string());
    }

    /// Changes fields of the specification.
    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut spec = json_of(self.path("spec.json"));
        change(&mut spec);
        self.spec(spec);
    }

    /// Runs it in this process.
    pub fn run(&self) -> Outcome {
        self.run_under(&Control::default(), 1)
    }

    /// Runs it as a numbered attempt, under a control.
    pub fn run_under(&self, control: &Control, attempt: u32) -> Outcome {
        let args = JobArgs { dir: self.dir.path().to_path_buf(), attempt, attached: false };
        job::run_with(&args, control).unwrap()
    }

    /// The events so far.
    pub fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("out/events.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// `(step, value)` of a curve.
    pub fn curve(&self, kind: &str, value: &str) -> Vec<(u64, f64)> {
        let events = self.events();
        let of_kind = events.iter().filter(|event| event["kind"] == kind);
        of_kind
            .map(|event| (event["step"].as_u64().unwrap(), event["values"][value].as_f64().unwrap()))
            .collect()
    }

    /// The message of a failed run; anything else is a panic.
    pub fn failure(&self) -> (String, String) {
        match self.run() {
            Outcome::Failed(failure, _) => (failure.code, failure.message),
            other => panic!("did not fail: {other:?}"),
        }
    }
}

/// Starts the job as an agent would, but for its ears.
pub fn start(job: &Job) -> Child {
    Command::new(env!("CARGO_BIN_EXE_luthier-trainer"))
        .arg("job")
        .arg(job.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Runs it as a process of its own, to its result.
pub fn run(job: &Job) -> Value {
    start(job).wait().unwrap();
    json_of(job.path("out/result.json"))
}

/// Without Gloo there are no processes to meet; the tests of `native` say so by name.
pub fn gloo() -> bool {
    native::c10d::gloo_built()
}

/// Writes a BERT of this configuration, with weights made anew, into a checkpoint's folder.
pub fn make_bert(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let file = folder.join("model.safetensors");
    tensors::save(&file, &[]).unwrap();
    let weights = Weights::open(folder).unwrap();
    let loader = Loader::new(&weights, "bert", 1, Device::Cpu).from_scratch();
    models::build(config, &loader, models::Head::Labels(2), None).unwrap();
    tensors::save(&file, &loader.finish().unwrap().params).unwrap();
}

/// Rows as CSV, half of them of each class.
pub fn rows(n: usize) -> String {
    let films = ["the film", "the plot", "the acting", "the music"];
    let mut csv = "text,label\n".to_string();
    for i in 0..n {
        let (word, label) = if i % 2 == 0 { ("good", "positive") } else { ("bad", "negative") };
        csv.push_str(&format!("{} was {} {word},{label}\n", films[i / 2 % 4], "very ".repeat(i / 8).trim()));
    }
    csv
}

/// Copies a flat folder.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// The rows of a padded batch, without its padding.
pub fn batch_of(batch: &Value) -> Batch {
    let lists = |value: &Value| -> Vec<Vec<u32>> { serde_json::from_value(value.clone()).unwrap() };
    let ids = lists(&batch["input_ids"]);
    let types = match batch["token_type_ids"].is_null() {
        true => ids.iter().map(|row| vec![0; row.len()]).collect(),
        false => lists(&batch["token_type_ids"]),
    };
    let encodings: Vec<Encoding> = lists(&batch["attention_mask"])
        .iter()
        .zip(ids.iter().zip(&types))
        .map(|(mask, (ids, types))| {
            let length = mask.iter().sum::<u32>() as usize;
            assert!(mask[..length].iter().all(|&one| one == 1), "padded on the right");
            Encoding { ids: ids[..length].to_vec(), type_ids: types[..length].to_vec(), truncated: false }
        })
        .collect();
    let tokens = Tokens::of(&encodings);
    let rows: Vec<_> = (0..tokens.len()).map(|row| row_of(&tokens, row)).collect();
    collate(&rows, (0, 0), Device::Cpu)
}

/// What a model says of such a batch.
pub fn logits(model: &dyn TextModel, batch: &Value) -> Tensor {
    let batch = batch_of(batch);
    model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing))
}

/// All numbers of a tensor.
pub fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
}

/// A decoder of the fixtures as a checkpoint folder.
pub fn make_decoder(folder: &Path, name: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let weights = json_of(fixture(&format!("expected/decoders/{name}.json")))["weights"].clone();
    let weights = weights.as_str().unwrap();
    for (from, to) in [
        (format!("{name}/config.json"), "config.json"),
        (format!("{weights}/model.safetensors"), "model.safetensors"),
        ("tokenizer.json".to_owned(), "tokenizer.json"),
        ("tokenizer_config.json".to_owned(), "tokenizer_config.json"),
    ] {
        std::fs::copy(fixture("decoders").join(from), folder.join(to)).unwrap();
    }
}

/// A request for the likeliest tokens, so many at most, which are told of.
pub fn greedy(voice: &Rc<Voice>, id: u64, prompt: &[u32], limit: usize) -> Request {
    Request {
        id,
        voice: voice.clone(),
        prompt: prompt.to_vec(),
        choices: 1,
        limit,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        seed: 0,
        stops: Vec::new(),
        ends: Vec::new(),
        logprobs: Some(0),
        echo: false,
        format: None,
    }
}

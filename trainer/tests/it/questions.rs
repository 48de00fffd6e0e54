//! Questions on texts: what transformers says of them (values by `fixtures/make_questions.py` and `make_squad_metrics.py`), and
//! jobs from SQuAD's file to answers.

use std::process::Command;

use crate::common::{self, Job, distance, fixture, json_of, numbers, reference_python, values};
use formats::checkpoint::Weights;
use formats::dataset::questions::{Answer, Question};
use formats::problem::LineRange;
use formats::tokenizer::Tokenizer;
use luthier_trainer::data::{Split, collate};
use luthier_trainer::job::Outcome;
use luthier_trainer::metrics::{Squad, exact_match, f1};
use luthier_trainer::models::{self, Head, TextModel};
use luthier_trainer::nn::{Context, Loader};
use luthier_trainer::optim::{Optimizer, clip_coefficient};
use luthier_trainer::predict::Predictor;
use luthier_trainer::tasks::Targets;
use luthier_trainer::tasks::question_answering::window_losses;
use luthier_trainer::tasks::spans::{Choice, Spans, keep, part, rank};
use luthier_trainer::tensors;
use serde_json::{Value, json};
use store::spec::{QuestionAnswering, Training};
use tch::{Device, Kind, Tensor};

const FAMILIES: [&str; 4] = ["bert", "roberta", "xlm_roberta", "distilbert"];

fn expected() -> Value {
    json_of(fixture("questions/expected.json"))
}

fn whole(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

/// The windows of the fixture's questions, of which `answered` says whether their answers are known.
fn windows(family: &str, expected: &Value) -> Split {
    let question = |(row, asked): (usize, &Value)| Question {
        row: row as u64,
        lines: LineRange::one(1),
        context: asked["context"].as_str().unwrap().into(),
        question: asked["question"].as_str().unwrap().trim_start().to_owned(),
        answers: asked["answers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|answer| Answer {
                text: answer["text"].as_str().unwrap().to_owned(),
                start: whole(&answer["answer_start"]),
            })
            .collect(),
    };
    let questions = expected["questions"].as_array().unwrap().iter().enumerate().map(question).collect();
    let tokenizer = Tokenizer::load(&fixture(family)).unwrap();
    let stride = expected["settings"]["doc_stride"].as_u64().unwrap() as u32;
    let settings = QuestionAnswering { doc_stride: stride, ..QuestionAnswering::default() };
    Split::windows("a.json", questions, &tokenizer, whole(&expected["settings"]["max_length"]), &settings)
        .unwrap()
}

fn spans(split: &Split) -> &Spans {
    match &split.targets {
        Targets::Spans(spans) => spans,
        _ => panic!("rows of questions are windows"),
    }
}

/// The fixture's encoder under the head of the reference, without dropout.
fn load(family: &str) -> (Box<dyn TextModel>, Vec<(String, Tensor)>) {
    let path = fixture(family);
    let config = models::read_config(&path).unwrap();
    let weights = Weights::open(&path).unwrap();
    let base = models::base_of(config["model_type"].as_str().unwrap()).unwrap();
    let loader = Loader::new(&weights, base, 0, Device::Cpu);
    let model = models::build(&config, &loader, Head::Span, Some(0.0)).unwrap();
    let params = loader.finish().unwrap().params;
    let heads = tensors::load(&fixture("questions/heads.safetensors")).unwrap();
    tch::no_grad(|| {
        for (name, value) in heads {
            let Some(own) = name.strip_prefix(&format!("{family}.")) else { continue };
            let (_, param) = params.iter().find(|(name, _)| name == own).unwrap();
            param.shallow_clone().copy_(&value);
        }
    });
    (model, params)
}

#[test]
fn logits_and_losses_of_windows_equal_the_reference_within_1e_4() {
    let expected = expected();
    for family in FAMILIES {
        let (split, (model, _)) = (windows(family, &expected), load(family));
        let right = expected[family]["windows"].as_array().unwrap();
        assert_eq!(split.len(), right.len());
        // All in one batch: each window is on its own all the same.
        let rows: Vec<usize> = (0..split.len()).collect();
        let batch = collate(&split.sequences(&rows), (0, 0), Device::Cpu);
        let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
        let places: Vec<(usize, usize)> =
            spans(&split).windows.iter().map(|window| (window.start, window.end)).collect();
        let losses = values(&window_losses(&top, &batch.inputs.packing, &places));
        let logits = values(&top);
        let mut start = 0;
        for (at, right) in right.iter().enumerate() {
            let own = numbers(&right["logits"]);
            let off = distance(&logits[start..start + own.len()], &own);
            assert!(off < 1e-4, "{family} window {at}: logits are off by {off}");
            assert!((losses[at] - right["loss"].as_f64().unwrap()).abs() < 1e-4, "{family} window {at}");
            start += own.len();
        }
    }
}

#[test]
fn losses_of_20_steps_equal_the_reference_within_1e_3() {
    let expected = expected();
    for family in FAMILIES {
        let (split, (model, params)) = (windows(family, &expected), load(family));
        let training = Training { learning_rate: 1e-3, weight_decay: 0.01, ..Training::default() };
        let mut optimizer = Optimizer::new(&training, &params, model.as_ref()).unwrap();
        for (step, stated) in expected[family]["training"]["steps"].as_array().unwrap().iter().enumerate() {
            let rows: Vec<usize> = numbers(&stated["rows"]).into_iter().map(|row| row as usize).collect();
            let batch = collate(&split.sequences(&rows), (0, 0), Device::Cpu);
            let top = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
            let of = |&row: &usize| (spans(&split).windows[row].start, spans(&split).windows[row].end);
            let places: Vec<_> = rows.iter().map(of).collect();
            optimizer.zero_grad().unwrap();
            let loss = window_losses(&top, &batch.inputs.packing, &places).mean(Kind::Float);
            loss.backward();
            let norm = f64::try_from(optimizer.grad_norm().unwrap()).unwrap();
            let rate = optimizer.learning_rate(step as u64, 20);
            optimizer.step(rate, clip_coefficient(norm as f32, 1.0)).unwrap();
            let (found, right) = (f64::try_from(&loss).unwrap(), stated["loss"].as_f64().unwrap());
            assert!(
                (found - right).abs() <= 1e-3 * right.max(1.0),
                "{family} step {step}: {found}, not {right}"
            );
        }
    }
}

#[test]
fn answers_are_ranked_and_chosen_as_the_reference_does() {
    let expected = expected();
    let n_best = whole(&expected["settings"]["n_best"]);
    for family in FAMILIES {
        let split = windows(family, &expected);
        let spans = spans(&split);
        let given = expected[family]["windows"].as_array().unwrap();
        let kept: Vec<Vec<f32>> = given
            .iter()
            .map(|window| {
                let logits: Vec<f32> =
                    numbers(&window["logits"]).into_iter().map(|logit| logit as f32).collect();
                keep(&logits, whole(&window["cls"]), n_best)
            })
            .collect();
        for (name, threshold) in [("always", None), ("perhaps", Some(0.0))] {
            let max_answer_length = whole(&expected["settings"]["max_answer_length"]);
            let choice = Choice { n_best, max_answer_length, threshold };
            for (question, own) in spans.by_question() {
                let at = format!("{family} {name}: {:?}", spans.questions[question].question);
                let right = &expected[family][name][question];
                let ranking = rank(own.iter().map(|&at| (&spans.windows[at], kept[at].as_slice())), choice);
                let said = ranking
                    .answer()
                    .map(|answer| part(&spans.questions[question].context, answer.start, answer.end));
                assert_eq!(said.unwrap_or_default(), right["answer"], "{at}");
                let near = |found: Option<f64>, right: &Value| match (found, right.as_f64()) {
                    (Some(found), Some(right)) => {
                        assert!((found - right).abs() < 1e-5, "{at}: {found}, not {right}")
                    }
                    (found, right) => assert_eq!(found, right, "{at}"),
                };
                near(ranking.difference(), &right["difference"]);
                let ranked = right["ranked"].as_array().unwrap();
                let some: Vec<&Value> = ranked.iter().filter(|entry| !entry[0].is_null()).collect();
                assert_eq!(ranking.candidates.len(), some.len(), "{at}");
                for (candidate, right) in ranking.candidates.iter().zip(some) {
                    assert_eq!(
                        (candidate.start, candidate.end),
                        (whole(&right[0]), whole(&right[1])),
                        "{at}"
                    );
                    near(Some(candidate.score), &right[2]);
                    near(Some(candidate.probability), &right[3]);
                }
            }
        }
    }
}

#[test]
fn metrics_equal_squads_script() {
    let expected = json_of(fixture("questions/metrics.json"));
    let cases = expected["cases"].as_array().unwrap();
    let gold = |case: &Value| -> Vec<String> { serde_json::from_value(case["gold"].clone()).unwrap() };
    for (name, of_some) in [("all", false), ("answerable", true)] {
        let cases: Vec<&Value> = cases.iter().filter(|case| !of_some || !gold(case).is_empty()).collect();
        let right = &expected[name];
        let texts: Vec<Vec<String>> = cases.iter().map(|case| gold(case)).collect();
        let texts: Vec<Vec<&str>> =
            texts.iter().map(|texts| texts.iter().map(String::as_str).collect()).collect();
        let said: Vec<&str> = cases.iter().map(|case| case["said"].as_str().unwrap()).collect();
        let best: Vec<&str> = cases.iter().map(|case| case["best"].as_str().unwrap()).collect();
        let differences: Vec<f64> = cases.iter().map(|case| case["difference"].as_f64().unwrap()).collect();
        for (at, (gold, said)) in texts.iter().zip(&said).enumerate() {
            assert_eq!(exact_match(gold, said), right["exact"][at].as_f64().unwrap(), "{gold:?} {said:?}");
            let off = (f1(gold, said) - right["f1"][at].as_f64().unwrap()).abs();
            assert!(off < 1e-9, "{gold:?} {said:?}");
        }
        let otherwise = (!of_some).then_some((best.as_slice(), differences.as_slice()));
        let metrics = Squad { loss: Some(1.0), gold: &texts, said: &said, otherwise }.metrics().unwrap();
        let whole = [("exact_match", "exact"), ("f1", "f1")];
        let parts = [
            ("has_answer_exact_match", "HasAns_exact"),
            ("has_answer_f1", "HasAns_f1"),
            ("no_answer_exact_match", "NoAns_exact"),
            ("no_answer_f1", "NoAns_f1"),
        ];
        let thresholds = [
            ("best_exact_match", "best_exact"),
            ("best_exact_match_threshold", "best_exact_thresh"),
            ("best_f1", "best_f1"),
            ("best_f1_threshold", "best_f1_thresh"),
        ];
        let near = |name: &str, right: &Value| {
            let (found, right) = (metrics.get(name).unwrap(), right.as_f64().unwrap());
            assert!((found - right).abs() < 1e-6, "{name}: {found}, not {right}");
        };
        whole.iter().for_each(|(own, theirs)| near(own, &right["whole"][theirs]));
        match of_some {
            false => {
                parts.iter().for_each(|(own, theirs)| near(own, &right["whole"][theirs]));
                thresholds.iter().for_each(|(own, theirs)| near(own, &right["thresholds"][theirs]));
            }
            true => assert_eq!(metrics.get("has_answer_f1"), None),
        }
    }
}

/// SQuAD's file with so many questions on each of three films, every fourth of them without an answer.
fn squad(questions: usize) -> String {
    let contexts = [
        "The plot was good and the music was bad.".to_owned(),
        "The actor was great but the end was boring.".to_owned(),
        "A movie is best. ".repeat(9),
    ];
    let paragraph = |(number, context): (usize, &String)| {
        let words = ["good", "boring", "best"];
        let question = |at: usize| match at % 4 {
            3 => {
                json!({"id": format!("{number}-{at}"), "question": "who never", "answers": [], "is_impossible": true})
            }
            _ => json!({
                "id": format!("{number}-{at}"),
                "question": format!("{} what was it", "very ".repeat(at)),
                "answers": [{"text": words[number], "answer_start": context.find(words[number]).unwrap()}],
                "is_impossible": false,
            }),
        };
        json!({"context": context, "qas": (0..questions).map(question).collect::<Vec<_>>()})
    };
    let paragraphs: Vec<Value> = contexts.iter().enumerate().map(paragraph).collect();
    json!({"version": "v2.0", "data": [{"title": "films", "paragraphs": paragraphs}]}).to_string()
}

fn job(model: &str, more: Value) -> Job {
    let mut training = json!({"epochs": 12, "batch_size": 4, "learning_rate": 2e-3, "max_length": 56, "dropout": 0,
        "question_answering": {"doc_stride": 8, "max_answer_length": 6, "n_best": 5}});
    training.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let job = Job::of(json!({
        "task": "question-answering",
        "columns": {"context": "context", "question": "question", "answers": "answers", "is_impossible": "is_impossible"},
        "data": {"train": "train.json", "validation": "validation.json"},
        "training": training,
        "resources": {"threads": 1},
    }));
    common::copy_folder(&fixture(model), &job.path("model"));
    job.write("data/train.json", &squad(8));
    job.write("data/validation.json", &squad(4));
    job
}

fn succeed(job: &Job) {
    let outcome = job.run();
    assert!(matches!(outcome, Outcome::Succeeded(_)), "{outcome:?}: {:?}", job.events().last());
}

/// What the finished model says of the validation questions.
fn answers(job: &Job) -> Vec<Value> {
    let file: Value = serde_json::from_str(&squad(4)).unwrap();
    let mut inputs = Vec::new();
    for paragraph in file["data"][0]["paragraphs"].as_array().unwrap() {
        for asked in paragraph["qas"].as_array().unwrap() {
            inputs.push(json!({"question": asked["question"], "context": paragraph["context"]}));
        }
    }
    let predictor = Predictor::open(&job.path("out/model")).unwrap();
    let said = predictor.answer(&json!({"id": 1, "inputs": inputs}).to_string());
    let outputs = said["outputs"].as_array().unwrap_or_else(|| panic!("{said}")).clone();
    let both = |(input, output): (&Value, Value)| {
        let mut row = input.clone();
        row.as_object_mut().unwrap().extend(output.as_object().unwrap().clone());
        row
    };
    inputs.iter().zip(outputs).map(both).collect()
}

#[test]
fn a_job_learns_to_answer_and_says_so_by_squads_metrics() {
    let job = job("bert", json!({"epochs": 30}));
    succeed(&job);
    let f1 = job.curve("eval", "f1");
    assert!(f1.last().unwrap().1 > 90.0 && f1.last().unwrap().1 > f1[0].1, "{f1:?}");
    assert!(job.curve("eval", "no_answer_exact_match").last().unwrap().1 > 90.0);
    let events = job.events();
    let message = |part: &str| {
        events.iter().any(|event| event["message"].as_str().is_some_and(|message| message.contains(part)))
    };
    assert!(message("train: 24 questions, 6 without an answer, in "), "{:?}", events[..8].to_vec());
    assert!(message("qa_outputs"), "the head is made anew");
    let shown = events.iter().rfind(|event| event["kind"] == "examples").unwrap();
    let worst = shown["data"]["worst"].as_array().unwrap();
    let scores: Vec<f64> = worst.iter().map(|row| row["f1"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted() && worst[0]["context"].is_string(), "worst first: {worst:?}");
    // The file of predictions and the model that answers by itself agree.
    let mut csv = csv::Reader::from_path(job.path("out/model/predictions-validation.csv")).unwrap();
    let said: Vec<serde_json::Map<String, Value>> = csv.deserialize().map(Result::unwrap).collect();
    let answers = answers(&job);
    assert_eq!((said.len(), answers.len()), (12, 12));
    for (said, answer) in said.iter().zip(&answers) {
        assert_eq!(said["question"], answer["question"].as_str().unwrap().trim_start());
        assert_eq!(
            said["predicted"].as_str().unwrap_or_default(),
            answer["answer"].as_str().unwrap_or_default()
        );
        if let Some(start) = answer["start"].as_u64() {
            let (context, end) = (answer["context"].as_str().unwrap(), whole(&answer["end"]));
            assert_eq!(part(context, start as usize, end), answer["answer"]);
        }
    }
    let config = json_of(job.path("out/model/config.json"));
    assert_eq!(config["architectures"], json!(["BertForQuestionAnswering"]));
    assert_eq!(
        (&config["id2label"], &config["question_answering"]["may_be_unanswerable"]),
        (&Value::Null, &json!(true))
    );
}

#[test]
fn every_family_answers_the_same_in_transformers() {
    let Some(python) = reference_python("every_family_answers_the_same_in_transformers") else { return };
    for (family, more) in [
        ("bert", json!({})),
        ("roberta", json!({"lora": {"rank": 4}})),
        ("xlm_roberta", json!({"lora": {"rank": 4, "merge": true}})),
        ("distilbert", json!({})),
    ] {
        let job = job(family, more);
        succeed(&job);
        job.write("answers.json", &Value::Array(answers(&job)).to_string());
        let script =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/check_answers.py");
        let output = Command::new(&python)
            .arg(script)
            .arg(job.path("out/model"))
            .arg(job.path("answers.json"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{family}: {said}{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn wrong_questions_are_refused_before_the_first_step() {
    let long = job("bert", json!({}));
    long.change(|spec| spec["training"]["question_answering"]["doc_stride"] = json!(52));
    let (code, message) = long.failure();
    assert_eq!(code, "question_too_long");
    assert!(message.contains("train.json, line 1") && message.contains("doc_stride 52"), "{message}");
    let moved = job("bert", json!({}));
    moved.write("data/train.json", &squad(8).replace("\"answer_start\":13", "\"answer_start\":14"));
    let (_, message) = moved.failure();
    assert!(message.contains("where `ood …` stands; it occurs at character 13"), "{message}");
    let decoder = job("bert", json!({}));
    std::fs::remove_dir_all(decoder.path("model")).unwrap();
    common::make_decoder(&decoder.path("model"), "llama");
    let (code, message) = decoder.failure();
    assert!(code == "unsupported_model" && message.contains("distilbert"), "{code} {message}");
}

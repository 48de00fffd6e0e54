//! From an upload to a model that answers.

use std::path::Path;

use serde_json::json;

use crate::decoder::{chats, tiny_llama};
use crate::running::{Running, check_curve, data_folder, is_built, start_another};

#[tokio::test]
async fn a_job_ends_with_a_model_that_predicts_downloads_and_is_made_again_bit_for_bit() {
    if !is_built("a_job_ends_with_a_model_that_predicts_downloads_and_is_made_again_bit_for_bit") {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    let request = server.prepare(60).await;
    let id = server.create(&request).await;
    let job = server.wait_for_success(&id).await;
    check_curve(&server.events(&id).await, 60);
    assert_eq!(job["attempt"], 1);
    assert!(job["metrics"]["accuracy"].is_f64(), "{job}");
    assert!(
        job["device"].as_str().unwrap().starts_with("cpu")
            || job["device"].as_str().unwrap().starts_with("cuda")
    );
    assert!(job["manifest"]["hardware"]["device"].is_string(), "{job}");
    let curves = job["result_files"][0].as_str().expect("a file of results");
    let curves = String::from_utf8(server.bytes(&format!("/v1/files/{curves}/content")).await).unwrap();
    assert!(curves.lines().count() > 60, "{curves}");
    let heads = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy,";
    assert!(curves.starts_with(heads) && curves.contains("eval_accuracy"), "{curves}");

    let model = job["fine_tuned_model"].as_str().unwrap();
    let asked = json!({"model": model, "inputs": ["a good film", {"text": "a poor film"}]});
    let predicted = server.post("/v1/predictions", &asked).await;
    assert_eq!(
        (&predicted["outputs"][0]["label"], &predicted["outputs"][1]["label"]),
        (&json!("pos"), &json!("neg"))
    );
    let archive = server.bytes(&format!("/v1/models/{model}/content")).await;
    let mut archive = tar::Archive::new(archive.as_slice());
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
        .collect();
    for needed in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(names.iter().any(|name| name.ends_with(needed)), "{needed} in {names:?}");
    }

    let again = server.create(&json!({"manifest": job["manifest"]})).await;
    let again = server.wait_for_success(&again).await;
    assert_eq!(server.weights(&again).await, server.weights(&job).await);
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_language_model_learns_chats_and_says_its_perplexity() {
    if !is_built("a_language_model_learns_chats_and_says_its_perplexity") {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    server.upload_model("llama", tiny_llama().path()).await;
    let file = server.upload_data("chats.jsonl", chats(40)).await;
    let settings = json!({"max_steps": 30, "batch_size": 4, "learning_rate": 1e-2, "chat_template": "chatml",
        "eval_every": {"steps": 10}});
    let request = json!({"model": "llama", "training_file": file, "seed": 5, "hyperparameters": settings});
    let id = server.create(&request).await;
    let job = server.wait_for_success(&id).await;
    let events = server.events(&id).await;
    check_curve(&events, 30);
    let perplexities: Vec<f64> = events
        .iter()
        .filter(|event| event["kind"] == "eval")
        .map(|event| event["data"]["perplexity"].as_f64().unwrap_or_else(|| panic!("{event}")))
        .collect();
    assert!(perplexities.len() >= 3 && perplexities.last() < perplexities.first(), "{perplexities:?}");
    assert!(job["metrics"]["mean_token_accuracy"].is_f64(), "{job}");
    assert!(job["trained_tokens"].as_u64().unwrap() > 0, "{job}");
    let model = job["fine_tuned_model"].as_str().unwrap();
    let models = server.get("/v1/models").await;
    let listed = models["data"].as_array().unwrap().iter().find(|listed| listed["id"] == model);
    assert_eq!(listed.expect("the model is listed")["task"], "text-generation");

    let again = server.create(&json!({"manifest": job["manifest"]})).await;
    let again = server.wait_for_success(&again).await;
    assert_eq!(server.weights(&again).await, server.weights(&job).await);

    // The tuned model answers by the template that it has learnt.
    let asked = |model: &str| {
        let messages = json!([{"role": "user", "content": "is 4 even?"}]);
        json!({"model": model, "messages": messages, "max_tokens": 12, "temperature": 0})
    };
    let answer = server.post("/v1/chat/completions", &asked(model)).await;
    assert_eq!(answer["object"], "chat.completion", "{answer}");
    assert!(answer["usage"]["completion_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{answer}");
    let same = server.post("/v1/chat/completions", &asked(model)).await;
    assert_eq!(same["choices"], answer["choices"]);
    let text = json!({"model": model, "prompt": "ab", "max_tokens": 3, "logprobs": 2, "temperature": 0});
    let text = server.post("/v1/completions", &text).await;
    assert_eq!(text["choices"][0]["logprobs"]["tokens"].as_array().map(Vec::len), Some(3), "{text}");
    let vectors = json!({"model": model, "input": ["a", "b"]});
    let vectors = server.post("/v1/embeddings", &vectors).await;
    assert_eq!(vectors["data"].as_array().map(Vec::len), Some(2), "{vectors}");
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn squads_file_makes_a_model_that_finds_answers() {
    if !is_built("squads_file_makes_a_model_that_finds_answers") {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/fixtures/bert_encoder");
    server.upload_model("tiny", &folder).await;
    let paragraph = |number: usize| {
        let context = format!("{}the plot was good", "a film ".repeat(number % 6));
        let start = context.len() - "good".len();
        let answers =
            if number % 5 == 4 { json!([]) } else { json!([{"text": "good", "answer_start": start}]) };
        let question = if number % 5 == 4 { "who never" } else { "what was it" };
        json!({"context": context, "qas": [{"id": number.to_string(), "question": question, "answers": answers}]})
    };
    let paragraphs: Vec<serde_json::Value> = (0..40).map(paragraph).collect();
    let squad = json!({"version": "v2.0", "data": [{"title": "films", "paragraphs": paragraphs}]});
    let file = server.upload_data("train-v2.0.json", squad.to_string()).await;
    let settings = json!({"max_steps": 60, "batch_size": 8, "learning_rate": 2e-3, "max_length": 24,
        "question_answering": {"doc_stride": 8}});
    let id = server
        .create(&json!({"model": "tiny", "training_file": file, "seed": 5, "hyperparameters": settings}))
        .await;
    let job = server.wait_for_success(&id).await;
    assert_eq!(job["task"], "question-answering");
    assert!(job["metrics"]["f1"].as_f64().is_some_and(|f1| f1 > 80.0), "{}", job["metrics"]);
    let model = job["fine_tuned_model"].as_str().unwrap();
    let inputs = json!([
        {"question": "what was it", "context": "a film a film the plot was good"},
        {"question": "who never", "context": "the plot was good"},
    ]);
    let said = server.post("/v1/predictions", &json!({"model": model, "inputs": inputs})).await;
    let outputs = &said["outputs"];
    assert_eq!(
        (&outputs[0]["answer"], &outputs[0]["start"], &outputs[0]["end"]),
        (&json!("good"), &json!(27), &json!(31)),
        "{said}"
    );
    assert_eq!(outputs[1]["answer"], serde_json::Value::Null, "{said}");
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn an_adapter_answers_beside_its_base_which_is_stored_once_and_the_next_job_begins_with_both() {
    if !is_built("an_adapter_answers_beside_its_base_which_is_stored_once_and_the_next_job_begins_with_both")
    {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    let mut request = server.prepare(60).await;
    request["hyperparameters"]["lora"] = json!({"rank": 4});
    request["hyperparameters"]["learning_rate"] = json!(1e-2);
    let id = server.create(&request).await;
    let job = server.wait_for_success(&id).await;
    let model = job["fine_tuned_model"].as_str().unwrap().to_owned();
    let tuned = server.get(&format!("/v1/models/{model}")).await;
    assert_eq!(tuned["report"]["adapter"]["rank"], 4, "{tuned}");
    let hash = |model: &serde_json::Value, path: &str| {
        let files = model["files"].as_array().unwrap();
        let file = files.iter().find(|file| file["path"] == path);
        file.unwrap_or_else(|| panic!("{path} in {files:?}"))["sha256"].clone()
    };
    let base = server.get("/v1/models/tiny").await;
    assert_eq!(hash(&tuned, "base/model.safetensors"), hash(&base, "model.safetensors"));
    let asked = |model: &str| json!({"model": model, "inputs": ["a good film", "a poor film"]});
    let labels = |answer: serde_json::Value| {
        let label = |at: usize| answer["outputs"][at]["label"].as_str().unwrap().to_owned();
        (label(0), label(1))
    };
    let right = ("pos".to_owned(), "neg".to_owned());
    assert_eq!(labels(server.post("/v1/predictions", &asked(&model)).await), right);

    request["model"] = json!(model);
    request["hyperparameters"]["max_steps"] = json!(5);
    request["hyperparameters"]["learning_rate"] = json!(1e-5);
    let id = server.create(&request).await;
    let next = server.wait_for_success(&id).await;
    let next = next["fine_tuned_model"].as_str().unwrap();
    assert_eq!(labels(server.post("/v1/predictions", &asked(next)).await), right);
    assert!(server.stop().await.success());
}

#[tokio::test]
async fn a_second_server_on_the_same_data_is_told_who_holds_it() {
    if !is_built("a_second_server_on_the_same_data_is_told_who_holds_it") {
        return;
    }
    let data = data_folder();
    let mut server = Running::start(data.path()).await;
    let (code, said) = start_another(data.path()).await;
    assert_eq!(code, Some(1));
    let holder = server.child.id().unwrap().to_string();
    assert!(said.contains("another server") && said.contains(&holder), "{said}");
    assert!(server.stop().await.success());
}

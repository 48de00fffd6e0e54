//! Completions and embeddings, through a process that stands in for the trainer.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::common::{Answer, Server};
use crate::worker::{chunks, server};

async fn complete(server: &Server, more: Value) -> Answer {
    let mut body = json!({"model": "tiny"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.post("/v1/completions", &body).await
}

fn texts(answer: &Answer) -> Vec<String> {
    let choices = answer.json()["choices"].as_array().cloned().unwrap_or_else(|| panic!("{}", answer.text()));
    choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn prompts_come_in_four_forms_and_answers_in_their_order(db: PgPool) {
    let server = server(db).await;
    let one = complete(&server, json!({"prompt": "a b"})).await;
    assert!(one.json()["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!((&one.json()["object"], texts(&one)), (&json!("text_completion"), vec!["a b".to_owned()]));
    assert_eq!(texts(&complete(&server, json!({"prompt": ["a", "b"], "n": 2})).await), ["a", "a", "b", "b"]);
    assert_eq!(texts(&complete(&server, json!({"prompt": [1, 2]})).await), ["ids [1, 2]"]);
    let both = complete(&server, json!({"prompt": [[1], [2, 3]]})).await;
    assert_eq!(texts(&both), ["ids [1]", "ids [2, 3]"]);
    assert_eq!(both.json()["usage"]["completion_tokens"], 5);
    let long = complete(&server, json!({"prompt": "w ".repeat(30)})).await;
    assert_eq!(long.json()["usage"]["completion_tokens"], 16, "OpenAI's default");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_prompt_is_echoed_and_its_tokens_told(db: PgPool) {
    let server = server(db).await;
    let asked = json!({"prompt": "a b", "echo": true, "max_tokens": 0, "logprobs": 1});
    let answer = complete(&server, asked).await;
    assert_eq!(texts(&answer), ["a b"]);
    let logprobs = &answer.json()["choices"][0]["logprobs"];
    assert_eq!((&logprobs["tokens"], &logprobs["text_offset"]), (&json!(["a", " b"]), &json!([0, 1])));
    assert_eq!(logprobs["top_logprobs"][0], json!({"a": -0.5}));
    let streamed = complete(&server, json!({"prompt": ["a b", "c"], "stream": true, "logprobs": 0})).await;
    let chunks = chunks(&streamed);
    let of = |index: u64| chunks.iter().filter(move |chunk| chunk["choices"][0]["index"] == index);
    let offsets: Vec<&Value> = of(0).map(|chunk| &chunk["choices"][0]["logprobs"]["text_offset"]).collect();
    assert_eq!(offsets, [&json!([0]), &json!([1]), &Value::Null]);
    assert_eq!(of(1).map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect::<String>(), "c");
    assert_eq!(of(1).next_back().unwrap()["choices"][0]["finish_reason"], "stop");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_likeliest_of_several_answers_are_given(db: PgPool) {
    let server = server(db).await;
    let answer = complete(&server, json!({"prompt": "a", "best_of": 3, "n": 2})).await;
    assert_eq!(texts(&answer).len(), 2);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 3);
    assert_eq!(answer.json()["choices"][0]["logprobs"], Value::Null, "nobody asked for them");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn what_is_wrong_with_a_prompt_is_named(db: PgPool) {
    let server = server(db).await;
    for (more, param) in [
        (json!({}), "prompt"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": 7}), "prompt"),
        (json!({"prompt": ["a", 7]}), "prompt[1]"),
        (json!({"prompt": vec!["a"; 1025]}), "prompt"),
        (json!({"prompt": vec!["a"; 10], "n": 128}), "prompt"),
        (json!({"prompt": "a", "suffix": "b"}), "suffix"),
        (json!({"prompt": "a", "best_of": 1, "n": 2}), "best_of"),
        (json!({"prompt": "a", "best_of": 2, "stream": true}), "best_of"),
        (json!({"prompt": "a", "max_tokens": 0}), "max_tokens"),
        (json!({"prompt": "a", "logprobs": 21}), "logprobs"),
        (json!({"prompt": "a", "messages": []}), "messages"),
    ] {
        let refused = complete(&server, more.clone()).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{more}: {}", refused.text());
        assert_eq!(refused.error()["param"], param, "{more}");
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn encoders_and_language_models_make_vectors(db: PgPool) {
    let server = server(db).await;
    let ask = async |body: Value| server.post("/v1/embeddings", &body).await;
    for model in ["encoder", "tiny"] {
        let answer = ask(json!({"model": model, "input": ["a", "bc"]})).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        let answer = answer.json();
        assert_eq!(answer["data"][1]["index"], 1);
        assert_eq!(answer["data"][1]["embedding"], json!([0.6, 0.0, 0.8]));
        assert_eq!(answer["usage"], json!({"prompt_tokens": 3, "total_tokens": 3}));
    }
    let packed = ask(json!({"model": "tiny", "input": [1, 2], "encoding_format": "base64"})).await.json();
    assert_eq!(packed["data"][0]["embedding"], "AACAPwAAAAAAAAAA");
    let short = ask(json!({"model": "tiny", "input": "a", "dimensions": 1})).await.json();
    assert_eq!(short["data"][0]["embedding"], json!([1.0]));
    for (more, param) in [
        (json!({"input": ""}), None),
        (json!({"input": []}), Some("input")),
        (json!({"input": "<fail>"}), Some("input")),
        (json!({"input": "a", "dimensions": 4}), Some("dimensions")),
        (json!({"input": "a", "encoding_format": "hex"}), Some("encoding_format")),
    ] {
        let mut body = json!({"model": "tiny"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = ask(body).await;
        match param {
            None => assert_eq!(answer.status, StatusCode::OK, "{more}"),
            Some(param) => assert_eq!(answer.error()["param"], param, "{more}"),
        }
    }
}

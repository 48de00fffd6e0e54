//! Chats, through a process that stands in for the trainer.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::worker::{chat, chat_with, chunks, messages, server};

const PATH: &str = "/v1/chat/completions";

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_chat_is_answered_in_openais_shape(db: PgPool) {
    let server = server(db).await;
    let answer = server.post(PATH, &chat("how are you")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let answer = answer.json();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(answer["system_fingerprint"].as_str().unwrap().starts_with("fp_"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("tiny")));
    assert_eq!(
        answer["choices"],
        json!([{"index": 0, "message": {"role": "assistant", "content": "how are you", "refusal": null},
            "logprobs": null, "finish_reason": "stop"}])
    );
    assert_eq!(answer["usage"], json!({"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_stream_has_role_text_end_and_counts_in_their_order(db: PgPool) {
    let server = server(db).await;
    let body = chat_with("a b", json!({"stream": true, "stream_options": {"include_usage": true}, "n": 2}));
    let answer = server.post(PATH, &body).await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    assert!(!answer.text().contains("id:") || !answer.text().lines().any(|line| line.starts_with("id:")));
    let chunks = chunks(&answer);
    let (last, chunks) = chunks.split_last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["total_tokens"]), (&json!([]), &json!(6)));
    for chunk in chunks {
        assert_eq!(chunk["id"], last["id"]);
        assert_eq!((&chunk["object"], &chunk["usage"]), (&json!("chat.completion.chunk"), &Value::Null));
    }
    for index in [0, 1] {
        let own: Vec<&Value> = chunks
            .iter()
            .map(|chunk| &chunk["choices"][0])
            .filter(|choice| choice["index"] == index)
            .collect();
        assert_eq!(own[0]["delta"]["role"], "assistant");
        let text: String = own.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, "a b");
        let end = own.last().unwrap();
        assert_eq!((&end["delta"], &end["finish_reason"]), (&json!({}), &json!("stop")));
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn every_setting_reaches_the_worker(db: PgPool) {
    let server = server(db).await;
    let settings = json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.1, "presence_penalty": 0.2,
        "frequency_penalty": -0.3, "logit_bias": {"5": -100}, "stop": ["x"], "seed": 42, "max_completion_tokens": 99,
        "logprobs": true, "top_logprobs": 2, "chat_template": "chatml", "n": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
        "user": "me", "metadata": {"a": "b"}, "store": true, "service_tier": "auto", "parallel_tool_calls": true,
        "tools": [], "tool_choice": "none", "modalities": ["text"], "seed": 42,
    });
    let answer = server.post(PATH, &chat_with("<settings>", settings)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let said = answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let asked: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        asked,
        json!({
            "adapter": null, "messages": [{"role": "user", "content": "<settings>"}], "template": "chatml", "n": 1,
            "max_tokens": 99, "temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.1,
            "presence_penalty": 0.2, "frequency_penalty": -0.3, "logit_bias": {"5": -100}, "stop": ["x"], "seed": 42,
            "logprobs": 2, "echo": false, "format": {"type": "object"},
        })
    );
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn likely_tokens_are_told_where_they_are_asked_for(db: PgPool) {
    let server = server(db).await;
    let answer =
        server.post(PATH, &chat_with("é b", json!({"logprobs": true, "top_logprobs": 1}))).await.json();
    let first = &answer["choices"][0]["logprobs"]["content"][0];
    assert_eq!((&first["token"], &first["logprob"]), (&json!("é"), &json!(-0.5)));
    assert_eq!(first["bytes"], json!([195, 169]));
    assert_eq!(first["top_logprobs"].as_array().unwrap().len(), 1);
    let streamed = server.post(PATH, &chat_with("a", json!({"logprobs": true, "stream": true}))).await;
    let text =
        chunks(&streamed).into_iter().find(|chunk| chunk["choices"][0]["delta"]["content"] == "a").unwrap();
    assert_eq!(text["choices"][0]["logprobs"]["content"][0]["token"], "a");
    assert_eq!(text["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn what_is_wrong_is_named_by_its_field(db: PgPool) {
    let server = server(db).await;
    let image = json!([{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": {"url": "data:"}}]);
    for (more, param, says) in [
        (json!({"messages": [{"role": "user", "content": image}]}), "messages[0].content[1]", "text alone"),
        (json!({"messages": []}), "messages", "at least one"),
        (json!({"temperature": 3}), "temperature", "from 0 to 2"),
        (json!({"n": 0}), "n", "from 1 to 128"),
        (json!({"max_tokens": 0}), "max_tokens", "from 1"),
        (json!({"max_tokens": 1, "max_completion_tokens": 2}), "max_tokens", "older name"),
        (json!({"tools": [{"type": "function"}]}), "tools", "not served yet"),
        (json!({"tool_choice": "required"}), "tool_choice", "not served yet"),
        (json!({"audio": {"voice": "x"}}), "audio", "not served yet"),
        (json!({"modalities": ["audio"]}), "modalities", "text alone"),
        (json!({"top_logprobs": 2}), "top_logprobs", "logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "from 0 to 20"),
        (json!({"response_format": {"type": "grammar"}}), "response_format.type", "json_schema"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", "stream"),
        (json!({"stream": "yes"}), "stream", "true or false"),
        (json!({"temperatur": 1}), "temperatur", "did you mean \"temperature\""),
        (json!({"model": "encoder"}), "model", "/v1/embeddings"),
        (json!({"model": null}), "model", "missing"),
    ] {
        let refused = server.post(PATH, &chat_with("hi", more.clone())).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{more}: {}", refused.text());
        let error = refused.error();
        assert_eq!(
            (&error["param"], &error["type"]),
            (&json!(param), &json!("invalid_request_error")),
            "{more}"
        );
        assert!(error["message"].as_str().unwrap().contains(says), "{more}: {error}");
    }
    let missing = server.post(PATH, &chat_with("hi", json!({"model": "nothing"}))).await;
    assert_eq!((missing.status, &missing.error()["param"]), (StatusCode::NOT_FOUND, &json!("model")));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_refusal_of_the_worker_has_its_status_in_a_stream_too(db: PgPool) {
    let server = server(db).await;
    for stream in [false, true] {
        let refused = server.post(PATH, &chat_with("<fail>", json!({"stream": stream}))).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text());
        assert_eq!(refused.error()["param"], "messages");
        assert_eq!(refused.error()["message"], "the conversation cannot be rendered");
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_failure_in_the_middle_of_a_stream_is_its_last_message(db: PgPool) {
    let server = server(db).await;
    let answer = server.post(PATH, &chat_with("one <broken>", json!({"stream": true}))).await;
    assert_eq!(answer.status, StatusCode::OK);
    let messages = messages(&answer);
    let last: Value = serde_json::from_str(messages.last().unwrap()).unwrap();
    assert!(last["error"]["message"].as_str().unwrap().contains("out of memory"), "{last}");
    assert_eq!(
        (&last["error"]["type"], &last["error"]["code"]),
        (&json!("server_error"), &json!("unavailable"))
    );
    assert!(messages[1].contains("one"));
    let whole = server.post(PATH, &chat("one <broken>")).await;
    assert_eq!(whole.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_answer_that_was_cut_off_says_so(db: PgPool) {
    let server = server(db).await;
    let answer = server.post(PATH, &chat_with("one two three", json!({"max_tokens": 2}))).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "one two");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}

//! Models that answer questions: what their jobs are made of, what is shown of them, how they are asked.

use std::os::unix::fs::PermissionsExt;

use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use sqlx::PgPool;
use store::event::Kind;

use crate::common::{Agent, Answer, Server, files_of, form, line, tiny_bert};

const SQUAD: &str = r#"{"version": "v2.0", "data": [{"title": "Films", "paragraphs": [
 {"context": "The plot was good, the music was not.", "qas": [
  {"id": "a", "question": "What was good?", "answers": [{"text": "plot", "answer_start": 4}], "is_impossible": false},
  {"id": "b", "question": "Who?", "answers": [], "is_impossible": true}]},
 {"context": "It ends.", "qas": [{"id": "c", "question": "What?", "answers": [{"text": "It", "answer_start": 0}]}]}]}]}"#;

/// The tiny encoder with a head that answers.
async fn upload(server: &Server, id: &str) -> Answer {
    let mut files = files_of(&tiny_bert().with_file_name("bert"));
    let mut config: Value = serde_json::from_slice(&files["config.json"]).unwrap();
    config["architectures"] = json!(["BertForQuestionAnswering"]);
    files.insert("config.json".to_owned(), config.to_string().into());
    let mut parts: Vec<(&str, Option<&str>, &[u8])> = vec![("id", None, id.as_bytes())];
    parts.extend(files.iter().map(|(name, content)| ("files", Some(name.as_str()), content.as_slice())));
    server.send(form("/v1/models", &parts)).await
}

/// Settings for the few positions of the tiny encoder.
fn short() -> Value {
    json!({"question_answering": {"doc_stride": 8}, "max_length": 40})
}

fn posted(path: &str, body: String) -> Request<axum::body::Body> {
    let request = Request::post(path).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    request.body(body.into()).unwrap()
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn squads_file_and_an_encoder_make_a_job_that_answers_questions(db: PgPool) {
    let server = Server::new(db.clone()).await;
    let (model, file) = (server.tiny_model().await, server.table("train.json", SQUAD).await);
    let page = server.get(&format!("/data/{file}")).await.text();
    assert!(page.contains("SQuAD") && page.contains("no answer") && page.contains("context"), "{page}");
    let mut body = json!({"model": model, "training_file": file, "validation_split": {"fraction": 0},
        "hyperparameters": short(), "dry_run": true});
    let run = server.post("/v1/fine_tuning/jobs", &body).await;
    assert_eq!(run.status, StatusCode::OK, "{}", run.text());
    assert_eq!(run.json()["rows"]["training"], 3, "{}", run.text());
    body.as_object_mut().unwrap().remove("dry_run");
    let job = server.post("/v1/fine_tuning/jobs", &body).await.json();
    assert_eq!(job["task"], "question-answering", "{job}");
    let columns = json!({"context": "context", "question": "question", "answers": "answers", "is_impossible": "is_impossible"});
    assert_eq!(job["columns"], columns);
    let id = job["id"].as_str().unwrap();
    let shown = server.get(&format!("/jobs/{id}")).await.text();
    for part in ["Context column", "Overlap of windows", "1 of 3 questions have no answer"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // What an evaluation says: the answers marked in their context.
    let agent = Agent::new(&db).await;
    let lease = agent.claim().await;
    let answered = json!({"row": 0, "question": "What was good?", "context": "The plot was good.", "f1": 0.0, "loss": 1.5,
        "answers": [{"text": "plot", "start": 4, "end": 8}], "probability": 0.5,
        "predicted": {"text": "good", "start": 13, "end": 17}});
    let values = json!({"loss": 1.5, "f1": 50.0, "exact_match": 50.0, "has_answer_f1": 25.0, "best_f1_threshold": -1.0});
    agent
        .say(
            &lease,
            &[
                line(1, Kind::Eval, Some(1), values, json!({"rows": 3})),
                line(
                    2,
                    Kind::Examples,
                    Some(1),
                    json!({}),
                    json!({"worst": [answered], "best": [], "random": []}),
                ),
            ],
        )
        .await;
    let results = server.get(&format!("/jobs/{id}/results")).await.text();
    for part in [
        "The <mark class=\"mark-right\">plot</mark> was <mark class=\"mark-said\">good</mark>.",
        "What was good?",
        "Exact match",
        "F1, answerable",
        "Threshold of the best F1",
        "Questions with the lowest F1",
    ] {
        assert!(results.contains(part), "{part}: {results}");
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn each_refusal_names_its_field(db: PgPool) {
    let server = Server::new(db).await;
    let model = server.tiny_model().await;
    let file = server.table("train.json", SQUAD).await;
    let moved =
        server.table("moved.json", &SQUAD.replace("\"answer_start\": 4", "\"answer_start\": 5")).await;
    let plain =
        server.table("plain.csv", "context,question,answer\na plot,what,plot\na film,what,music\n").await;
    let roles = |more: Value| {
        let mut columns = json!({"context": "context", "question": "question", "answers": "answers"});
        columns.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"columns": columns})
    };
    let asks = |more: Value| json!({"task": "question-answering", "hyperparameters": more});
    for (file, more, param, parts) in [
        (&moved, json!({}), "training_file", ["line 3", "it occurs at character 4"]),
        (&plain, json!({}), "training_file", ["line 3", "`music` does not occur"]),
        (&file, json!({"columns": {"context": "context"}}), "columns", ["question", "answers"]),
        (&file, roles(json!({"answers": "answer"})), "columns.answers", ["no column `answer`", "answers"]),
        (&file, roles(json!({"question": "context"})), "training_file", ["context", "two roles"]),
        (&file, roles(json!({"text": "context"})), "columns", ["text classification", "context"]),
        (
            &file,
            asks(json!({"question_answering": {"doc_stride": 384}})),
            "hyperparameters.question_answering.doc_stride",
            ["below max_length", "384"],
        ),
        (
            &file,
            asks(json!({"question_answering": {"n_bets": 3}})),
            "hyperparameters.question_answering.n_bets",
            ["n_best", "did you mean"],
        ),
        (
            &file,
            asks(
                json!({"best_metric": "accuracy", "max_length": 40, "question_answering": {"doc_stride": 8}}),
            ),
            "hyperparameters.best_metric",
            ["exact_match", "f1"],
        ),
        (
            &file,
            json!({"task": "text-classification", "columns": {"text": "context", "label": "id"},
                "hyperparameters": {"question_answering": {}}}),
            "hyperparameters.question_answering",
            ["question answering", "leave it out"],
        ),
    ] {
        let mut body = json!({"model": model, "training_file": file, "dry_run": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let error = server.post("/v1/fine_tuning/jobs", &body).await.error();
        assert_eq!(error["param"], param, "{more}: {error}");
        for part in parts {
            assert!(error["message"].as_str().unwrap().contains(part), "{part:?} is not in {error}");
        }
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_form_follows_the_data_and_keeps_what_was_chosen(db: PgPool) {
    let server = Server::new(db).await;
    let model = server.tiny_model().await;
    let file = server.table("train.json", SQUAD).await;
    let columns = format!("/jobs/new/columns?training_file={file}&model={model}");
    let part = server.get(&columns).await.text();
    for shown in
        ["columns.context", "columns.is_impossible", "3 questions", "value=\"question-answering\" selected"]
    {
        assert!(part.contains(shown), "{shown}: {part}");
    }
    // Other data that was just chosen is for something else.
    let labels = server.table("rows.csv", "text,label\na,x\nb,y\n").await;
    let other = format!(
        "/jobs/new/columns?training_file={labels}&model={model}&columns.of={file}&columns.goal=question-answering&columns.goal_of={model}"
    );
    let part = server.get(&other).await.text();
    assert!(part.contains("columns.label") && !part.contains("columns.context"), "{part}");
    let sent = format!(
        "training_file={file}&model={model}&task=question-answering&columns.of={file}&columns.goal=question-answering\
         &columns.goal_of={model}&columns.goal_was=question-answering&columns.context=context&columns.question=question\
         &columns.answers=answers&n_epochs=auto&batch_size=2&learning_rate=auto&max_length=40\
         &validation_split.fraction=0&question_answering.doc_stride=8&question_answering.max_answer_length=12"
    );
    let made = server.send(posted("/jobs", sent)).await;
    assert_eq!(made.status, StatusCode::SEE_OTHER, "{}", made.text());
    let job = server.get("/v1/fine_tuning/jobs").await.json()["data"][0].clone();
    let settings = &job["method"]["supervised"]["hyperparameters"]["question_answering"];
    assert_eq!((&settings["doc_stride"], &settings["max_answer_length"]), (&json!(8), &json!(12)), "{job}");
    let again = server.get(&format!("/jobs/new?from={}", job["id"].as_str().unwrap())).await.text();
    for kept in ["value=\"question-answering\" selected", "name=\"question_answering.doc_stride\""] {
        assert!(again.contains(kept), "{kept}: {again}");
    }
}

/// Answers every question with the first word of its context, and those about nothing with nothing.
const STAND_IN: &str = r#"#!/usr/bin/env python3
import json, sys
print(json.dumps({"ready": True, "task": "question-answering", "device": "cpu"}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    outputs = []
    for row in asked["inputs"]:
        word = row["context"].split()[0]
        some = {"answer": word, "score": 0.75, "start": 0, "end": len(word)}
        none = {"answer": None, "score": 0.75, "start": None, "end": None}
        outputs.append({**(none if "nothing" in row["question"] else some), "null_score": 0.25, "null_score_difference": -1.0, "candidates": [some]})
    print(json.dumps({"id": asked["id"], "outputs": outputs}), flush=True)
"#;

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_model_is_asked_by_the_api_and_on_its_page(db: PgPool) {
    let server = Server::with(db, |config| {
        let program = config.data.join("stand-in.py");
        std::fs::write(&program, STAND_IN).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        config.trainer_binary = Some(program);
    })
    .await;
    let made = upload(&server, "asked").await;
    assert_eq!(made.json()["task"], "question-answering", "{}", made.text());
    let input = json!({"question": "who", "context": "Adä wrote it"});
    let said = server.post("/v1/predictions", &json!({"model": "asked", "inputs": input})).await.json();
    assert_eq!(
        (&said["task"], &said["outputs"][0]["answer"]),
        (&json!("question-answering"), &json!("Adä")),
        "{said}"
    );
    for wrong in [
        json!(["a text"]),
        json!([{"question": "who", "context": " "}]),
        json!([{"question": "who", "context": "a", "text": "b"}]),
    ] {
        let error = server.post("/v1/predictions", &json!({"model": "asked", "inputs": wrong})).await.error();
        assert!(
            error["message"].as_str().unwrap().contains("input 0: this model answers questions"),
            "{error}"
        );
    }
    let page = server.get("/models/asked").await.text();
    assert!(page.contains("Text that may hold its answer") && page.contains("question-answering"), "{page}");
    let tried = server
        .send(posted("/models/asked/try", "text=who&text_pair=Ad%C3%A4+wrote+it".to_owned()))
        .await
        .text();
    assert!(tried.contains("<mark class=\"mark-said\">Adä</mark> wrote it"), "{tried}");
    let nothing = server
        .send(posted("/models/asked/try", "text=nothing&text_pair=Ada+wrote+it".to_owned()))
        .await
        .text();
    assert!(nothing.contains("<strong>no answer</strong>") && !nothing.contains("<mark"), "{nothing}");
    let export = server.post("/v1/models/asked/exports", &json!({"format": "safetensors"})).await.error();
    assert!(export["message"].as_str().unwrap().contains("answers questions"), "{export}");
}

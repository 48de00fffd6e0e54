//! Models with an encoder and a decoder: what they are uploaded as, what their jobs are made of, how they are asked.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use axum::http::{Request, StatusCode, header};
use serde_json::{Map, Value, json};
use sqlx::PgPool;
use store::event::Kind;

use crate::common::{Agent, Answer, Server, files_of, form, line, tiny_bert};

const ROWS: &str = "{\"translation\": {\"en\": \"the film was good\", \"fr\": \"le film\"}}\n{\"translation\": {\"en\": \"a bad plot\", \
                    \"fr\": \"bad\"}}\n{\"translation\": {\"en\": \"great acting\", \"fr\": \"great\"}}\n";

/// Answers each question with the settings and inputs that it got.
const STAND_IN: &str = r#"#!/usr/bin/env python3
import json, sys
print(json.dumps({"ready": True, "task": "translation", "device": "cpu"}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    outputs = [{"text": text.upper(), "settings": asked.get("settings")} for text in asked["inputs"]]
    print(json.dumps({"id": asked["id"], "outputs": outputs}), flush=True)
"#;

/// Uploads a tiny T5 or Marian model whose weights are zeros.
async fn upload(server: &Server, id: &str, model_type: &str) -> Answer {
    let config = match model_type {
        "t5" => {
            json!({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 8, "d_kv": 4,
            "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 120, "tie_word_embeddings": true})
        }
        _ => {
            json!({"model_type": model_type, "architectures": ["MarianMTModel"], "d_model": 8, "encoder_layers": 1,
            "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16, "vocab_size": 120, "max_position_embeddings": 32})
        }
    };
    let read: formats::checkpoint::Config = serde_json::from_value(config.clone()).unwrap();
    let (mut head, mut at) = (Map::new(), 0);
    for (name, shape) in formats::checkpoint::encoder_decoder_tensors(&read).unwrap() {
        let end = at + 4 * shape.iter().product::<u64>();
        head.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let head = Value::Object(head).to_string();
    let mut weights = (head.len() as u64).to_le_bytes().to_vec();
    weights.extend(head.bytes());
    weights.resize(weights.len() + at as usize, 0);
    let mut files = files_of(&tiny_bert());
    files.insert("config.json".to_owned(), config.to_string().into());
    files.insert("model.safetensors".to_owned(), weights);
    let mut parts: Vec<(&str, Option<&str>, &[u8])> = vec![("id", None, id.as_bytes())];
    parts.extend(files.iter().map(|(name, content)| ("files", Some(name.as_str()), content.as_slice())));
    let made = server.send(form("/v1/models", &parts)).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    made
}

fn settings(job: &Value) -> &Value {
    &job["method"]["supervised"]["hyperparameters"]["text_to_text"]
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_task_and_the_columns_follow_from_model_and_data(db: PgPool) {
    let server = Server::new(db).await;
    let t5 = upload(&server, "t5", "t5").await.json();
    assert_eq!(
        (&t5["task"], &t5["report"]["sizes"]["decoder_layers"]),
        (&json!("text2text-generation"), &json!(1))
    );
    assert_eq!(upload(&server, "opus", "marian").await.json()["task"], "translation");
    let file = server.table("pairs.jsonl", ROWS).await;
    let none = json!({"fraction": 0});
    let body = json!({"model": "t5", "training_file": file, "validation_split": none, "hyperparameters": {
        "text_to_text": {"source_prefix": "translate English to French: ", "num_beams": 2}}});
    let made = server.post("/v1/fine_tuning/jobs", &body).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    let job = made.json();
    assert_eq!(job["task"], "translation");
    assert_eq!(job["columns"], json!({"source": "translation.en", "target": "translation.fr"}));
    let own = settings(&job);
    assert_eq!(
        (&own["source_prefix"], &own["num_beams"], &own["rouge_stemmer"], &own["bleu_tokenizer"]),
        (&json!("translate English to French: "), &json!(2), &json!(false), &json!("13a"))
    );
    let summaries = server.table("news.csv", "article,summary\nthe plot was good,plot\na film,film\n").await;
    let dry = |model: &str, file: &str, more: Value| {
        let mut body = json!({"model": model, "training_file": file, "validation_split": {"fraction": 0}, "dry_run": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let run = server.post("/v1/fine_tuning/jobs", &dry("t5", &summaries, json!({}))).await;
    assert_eq!(run.status, StatusCode::OK, "{}", run.text());
    assert!(run.json()["memory"]["total"].as_u64().is_some_and(|bytes| bytes > 0), "{}", run.text());
    let flat = server.table("flat.csv", "english,french\na film,le film\nb,c\n").await;
    for (model, file, more, param, parts) in [
        (
            "t5",
            &file,
            json!({"task": "text-generation"}),
            "task",
            ["one text from another", "text-generation"],
        ),
        (
            "t5",
            &file,
            json!({"columns": {"source": "translation.de", "target": "translation.fr"}}),
            "columns.source",
            ["translation.de", "translation.en"],
        ),
        (
            "t5",
            &file,
            json!({"columns": {"text": "a", "label": "b"}}),
            "columns",
            ["source and target", "leave the others out"],
        ),
        (
            "t5",
            &file,
            json!({"columns": {"source": "translation.en"}}),
            "columns.target",
            ["missing", "target"],
        ),
        (
            "opus",
            &flat,
            json!({"hyperparameters": {"text_to_text": {"source_lang": "en_XX", "target_lang": "fr_XX"}}}),
            "hyperparameters.text_to_text.source_lang",
            ["en_XX", "language"],
        ),
        (
            "opus",
            &flat,
            json!({"hyperparameters": {"text_to_text": {"num_beans": 3}}}),
            "hyperparameters.text_to_text.num_beans",
            ["num_beams", "unknown"],
        ),
        (
            "opus",
            &flat,
            json!({"hyperparameters": {"preference": {}}}),
            "hyperparameters.preference",
            ["text generation", "leave it out"],
        ),
    ] {
        let error = server.post("/v1/fine_tuning/jobs", &dry(model, file, more.clone())).await.error();
        assert_eq!(error["param"], param, "{more}: {error}");
        for part in parts {
            assert!(error["message"].as_str().unwrap().contains(part), "{part:?} is not in {error}");
        }
    }
    let empty = server.table("holes.csv", "en,fr\na film,le film\nb,\n").await;
    let error = server.post("/v1/fine_tuning/jobs", &dry("opus", &empty, json!({}))).await.error();
    assert_eq!(error["param"], "training_file");
    assert!(error["message"].as_str().unwrap().contains("line 3, `fr`: the target is missing"), "{error}");
    server.tiny_model().await;
    let encoder = dry("tiny", &flat, json!({"columns": {"source": "english", "target": "french"}}));
    let error = server.post("/v1/fine_tuning/jobs", &encoder).await.error();
    assert_eq!(error["param"], "task", "{error}");
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn two_texts_of_an_archive_become_a_table(db: PgPool) {
    let server = Server::new(db).await;
    let pair = archive(&[("train.en", "a film\na plot\n"), ("train.fr", "un film\nune intrigue\n")]);
    let made = server.upload("pairs.zip", &pair).await.json();
    assert_eq!((&made["filename"], &made["status"]), (&json!("train.jsonl"), &json!("processed")), "{made}");
    assert_eq!(made["report"]["rows"], 2);
    let content = server.get(&format!("/v1/files/{}/content", made["id"].as_str().unwrap())).await.text();
    assert_eq!(
        content,
        "{\"en\":\"a film\",\"fr\":\"un film\"}\n{\"en\":\"a plot\",\"fr\":\"une intrigue\"}\n"
    );
    let unequal = archive(&[("train.en", "a film\na plot\n"), ("train.fr", "un film\n")]);
    let refused = server.upload("pairs.zip", &unequal).await.json();
    assert_eq!(
        (&refused["status"], &refused["filename"]),
        (&json!("error"), &json!("pairs.zip")),
        "{refused}"
    );
    let why = refused["status_details"].as_str().unwrap();
    for part in ["train.en has 2 lines", "train.fr has 1", "line 2 of train.en has no partner"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let other = server.upload("book.xlsx", &archive(&[("xl/workbook.xml", "<a/>")])).await.json();
    assert!(other["status_details"].as_str().unwrap().contains("Excel"), "{other}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn targets_are_written_with_what_was_learnt_or_asked_for(db: PgPool) {
    let server = Server::with(db, |config| {
        let program = config.data.join("stand-in.py");
        std::fs::write(&program, STAND_IN).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        config.trainer_binary = Some(program);
    })
    .await;
    upload(&server, "t5", "t5").await;
    let ask = async |body: Value| server.post("/v1/predictions", &body).await;
    let plain = ask(json!({"model": "t5", "inputs": ["a film", {"text": "b"}]})).await.json();
    assert_eq!(
        (&plain["outputs"][0]["text"], &plain["outputs"][1]["text"]),
        (&json!("A FILM"), &json!("B")),
        "{plain}"
    );
    let asked = json!({"model": "t5", "inputs": ["a film"], "source_prefix": "say: ", "num_beams": 3, "max_new_tokens": 9});
    let answer = ask(asked).await.json();
    assert_eq!(answer["outputs"][0]["text"], "SAY: A FILM");
    assert_eq!(answer["outputs"][0]["settings"], json!({"num_beams": 3, "max_new_tokens": 9}));
    for (wrong, param) in [
        (json!({"model": "t5", "inputs": ["a"], "num_beams": 99}), "num_beams"),
        (json!({"model": "t5", "inputs": ["a"], "length_penalty": 99}), "length_penalty"),
        (json!({"model": "t5", "inputs": [{"text": "a", "text_pair": "b"}]}), "inputs"),
        (json!({"model": "t5", "inputs": ["a"], "temperature": 1}), "temperature"),
    ] {
        let refused = ask(wrong.clone()).await;
        assert_eq!(
            (refused.status, &refused.error()["param"]),
            (StatusCode::BAD_REQUEST, &json!(param)),
            "{wrong}"
        );
    }
    server.upload_model("tuned", &tiny_bert().with_file_name("bert")).await;
    let refused = ask(json!({"model": "tuned", "inputs": ["a"], "num_beams": 2})).await;
    assert_eq!(refused.error()["param"], "num_beams");
    let page = server.get("/models/t5").await.text();
    assert!(page.contains("name=\"source_prefix\""), "{page}");
    let request =
        Request::post("/models/t5/try").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let tried = server.send(request.body("text=good&source_prefix=say%3A+".into()).unwrap()).await.text();
    assert!(tried.contains("SAY: GOOD"), "{tried}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_form_and_the_page_of_a_job_show_sources_and_targets(db: PgPool) {
    let server = Server::new(db.clone()).await;
    upload(&server, "t5", "t5").await;
    let file = server.table("pairs.jsonl", ROWS).await;
    let part = server.get(&format!("/jobs/new/columns?training_file={file}&model=t5")).await.text();
    for shown in [
        "value=\"translation\" selected",
        "value=\"translation.en\" selected",
        "value=\"translation.fr\" selected",
    ] {
        assert!(part.contains(shown), "{shown}: {part}");
    }
    let form = server.get(&format!("/jobs/new?training_file={file}&model=t5")).await.text();
    assert!(form.contains("<option value=\"summarize: \">"), "{form}");
    let sent = format!(
        "training_file={file}&model=t5&task=translation&columns.of={file}&columns.goal=summarization&columns.goal_of=t5\
         &columns.goal_was=translation&columns.source=translation.fr&columns.target=translation.en&n_epochs=auto&batch_size=2\
         &learning_rate=auto&validation_split.fraction=0&text_to_text.source_prefix=summarize%3A+&text_to_text.num_beams=2\
         &text_to_text.predict_with_generate=true&text_to_text.rouge_stemmer=false"
    );
    let request = Request::post("/jobs").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let made = server.send(request.body(sent.into()).unwrap()).await;
    assert_eq!(made.status, StatusCode::SEE_OTHER, "{}", made.text());
    let job = server.get("/v1/fine_tuning/jobs").await.json()["data"][0].clone();
    assert_eq!(
        (&job["task"], &job["columns"]["source"]),
        (&json!("summarization"), &json!("translation.fr"))
    );
    let own = settings(&job);
    assert_eq!(
        (&own["source_prefix"], &own["num_beams"], &own["rouge_stemmer"]),
        (&json!("summarize: "), &json!(2), &json!(false))
    );
    let id = job["id"].as_str().unwrap();
    let again = server.get(&format!("/jobs/new?from={id}")).await.text();
    for kept in [
        "value=\"summarization\" selected",
        "value=\"translation.fr\" selected",
        "name=\"text_to_text.source_prefix\" value=\"summarize: \"",
    ] {
        assert!(again.contains(kept), "{kept}: {again}");
    }
    let agent = Agent::new(&db).await;
    let lease = agent.claim().await;
    let row = json!({"row": 4, "source": "une source", "target": "the target", "prediction": "a prediction", "score": 12.5});
    let examples = json!({"kind": "text-to-text", "metric": "chrf", "rows": [row]});
    agent
        .say(
            &lease,
            &[
                line(
                    0,
                    Kind::Eval,
                    Some(2),
                    json!({"loss": 1.0, "bleu": 12.25, "rougeL": 40.5}),
                    json!({"rows": 3}),
                ),
                line(1, Kind::Examples, Some(2), json!({}), examples),
            ],
        )
        .await;
    let page = server.get(&format!("/jobs/{id}")).await.text();
    for shown in [
        "une source",
        "the target",
        "a prediction",
        "row 5",
        "chrF",
        "BLEU",
        "ROUGE-L",
        "Before each source",
        "data-chart=\"texts\"",
    ] {
        assert!(page.contains(shown), "{shown}: {page}");
    }
}

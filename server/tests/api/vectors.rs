//! Models of vectors: what they are uploaded as, what their jobs are made of, how they are asked.

use axum::http::{Request, StatusCode, header};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::common::{Answer, Server, files_of, form, tiny_bert};
use crate::worker;

const RANKED: &str = "question,answer,negative_1,negative_2\nthe film,a movie,the end,bad\na plot,the story,music,worst\n\
                      the actor,an actor,a film,boring\n";
const SCORED: &str =
    "sentence1,sentence2,score\nthe film,a movie,0.9\na plot,the music,0.25\nthe end,the end,1\n";

/// The tiny encoder as sentence-transformers saves it, with this second module.
async fn upload(server: &Server, id: &str, second: &str) -> Answer {
    let kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2", second)];
    let module = |(path, kind): &(&str, &str)| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
    let modules: Value = kinds.iter().map(module).collect();
    let mut files = files_of(&tiny_bert());
    files.insert("modules.json".to_owned(), modules.to_string().into());
    files.insert(
        "1_Pooling/config.json".to_owned(),
        json!({"pooling_mode_cls_token": true}).to_string().into(),
    );
    files.insert("sentence_bert_config.json".to_owned(), json!({"max_seq_length": 8}).to_string().into());
    let mut parts: Vec<(&str, Option<&str>, &[u8])> = vec![("id", None, id.as_bytes())];
    parts.extend(files.iter().map(|(name, content)| ("files", Some(name.as_str()), content.as_slice())));
    server.send(form("/v1/models", &parts)).await
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_model_with_modules_is_there_for_vectors(db: PgPool) {
    let server = Server::new(db).await;
    let made = upload(&server, "minilm", "Normalize").await;
    assert_eq!(made.json()["task"], "sentence-similarity", "{}", made.text());
    let files = server.get("/v1/models/minilm").await.json()["files"].clone();
    let paths: Vec<&str> =
        files.as_array().unwrap().iter().map(|file| file["path"].as_str().unwrap()).collect();
    assert!(paths.contains(&"1_Pooling/config.json") && paths.contains(&"modules.json"), "{paths:?}");
    let file = server.table("rows.csv", RANKED).await;
    let none = json!({"fraction": 0});
    let body = json!({"model": "minilm", "training_file": file, "validation_split": none});
    let answer = server.post("/v1/fine_tuning/jobs", &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let job = answer.json();
    assert_eq!(job["task"], "sentence-similarity");
    let columns =
        json!({"anchor": "question", "positive": "answer", "negative": ["negative_1", "negative_2"]});
    assert_eq!(job["columns"], columns);
    let embedding = &job["method"]["supervised"]["hyperparameters"]["embedding"];
    assert_eq!(embedding["loss"], "multiple_negatives_ranking");
    // A language model learns something else, and a model with a module that is passed over learns nothing of the kind.
    assert_eq!(upload(&server, "dense", "Dense").await.status, StatusCode::OK);
    let error = server
        .post(
            "/v1/fine_tuning/jobs",
            &json!({"model": "dense", "training_file": file, "validation_split": none}),
        )
        .await
        .error();
    assert_eq!((&error["param"], &error["code"]), (&json!("model"), &json!("unsupported_model")));
    assert!(error["message"].as_str().unwrap().contains("Dense"), "{error}");
    let page = server.get("/models/minilm").await.text();
    assert!(page.contains("Texts to compare with") && page.contains("SentenceTransformer"), "{page}");
    let asked = server.post("/v1/predictions", &json!({"model": "minilm", "inputs": ["a"]})).await.error();
    assert!(asked["message"].as_str().unwrap().contains("/v1/embeddings"), "{asked}");
    let shown = server.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await.text();
    assert!(shown.contains("Anchor column") && shown.contains("multiple negatives ranking"), "{shown}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_roles_say_what_is_learnt_and_each_refusal_its_field(db: PgPool) {
    let server = Server::new(db).await;
    let model = server.tiny_model().await;
    let (ranked, scored) = (server.table("r.csv", RANKED).await, server.table("s.csv", SCORED).await);
    let dry = |file: &str, more: Value| {
        let mut body = json!({"model": model, "training_file": file, "dry_run": true,
            "validation_split": {"fraction": 0}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let pairs = json!({"columns": {"anchor": "question", "positive": "answer"}});
    let answer = server.post("/v1/fine_tuning/jobs", &dry(&ranked, pairs)).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let run = answer.json();
    assert_eq!((&run["rows"]["training"], &run["steps_per_epoch"]), (&json!(3), &json!(1)), "{run}");
    assert!(run["memory"]["peak"].as_u64() > run["memory"]["runtime"].as_u64(), "{run}");
    let by_task = dry(&scored, json!({"task": "sentence-similarity"}));
    assert_eq!(server.post("/v1/fine_tuning/jobs", &by_task).await.status, StatusCode::OK);
    let cosine = |more: Value| json!({"task": "sentence-similarity", "hyperparameters": {"embedding": more}});
    let wrong = server.table("w.csv", "sentence1,sentence2,score\na,b,1\nc,d,4.5\n").await;
    let holes = server.table("h.csv", "anchor,positive\nfilm,\nplot,story\n").await;
    let text = json!({"columns": {"text": "question", "anchor": "question", "positive": "answer"}});
    for (file, more, param, parts) in [
        (&ranked, json!({"columns": {"anchor": "question"}}), "columns", ["positive", "text1"]),
        (
            &ranked,
            json!({"columns": {"anchor": "question", "positive": "ansver"}}),
            "columns.positive",
            ["ansver", "answer"],
        ),
        (
            &ranked,
            json!({"columns": {"anchor": "question", "positive": "question"}}),
            "training_file",
            ["question", "two roles"],
        ),
        (&ranked, text, "columns", ["text_pair", "anchor"]),
        (&ranked, cosine(json!({"loss": "cosent"})), "hyperparameters.embedding.loss", ["cosent", "score"]),
        (
            &ranked,
            cosine(json!({"loss": "triplet"})),
            "hyperparameters.embedding.loss",
            ["triplet", "cosent"],
        ),
        (
            &scored,
            cosine(json!({"symmetric": true})),
            "hyperparameters.embedding.symmetric",
            ["ranking", "leave it out"],
        ),
        (&wrong, cosine(json!({"loss": "cosine_similarity"})), "training_file", ["line 3", "4.5"]),
        (&holes, json!({"task": "sentence-similarity"}), "training_file", ["line 2", "positive"]),
        (
            &ranked,
            json!({"task": "text-classification", "columns": {"anchor": "question", "positive": "answer"}}),
            "columns",
            ["label", "leave the others out"],
        ),
    ] {
        let error = server.post("/v1/fine_tuning/jobs", &dry(file, more.clone())).await.error();
        assert_eq!(error["param"], param, "{more}: {error}");
        for part in parts {
            assert!(error["message"].as_str().unwrap().contains(part), "{part:?} is not in {error}");
        }
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_form_offers_vectors_and_keeps_what_was_chosen(db: PgPool) {
    let server = Server::new(db).await;
    let model = server.tiny_model().await;
    let file = server.table("rows.csv", RANKED).await;
    let part = server
        .get(&format!(
            "/jobs/new/columns?training_file={file}&model={model}&columns.goal=sentence-similarity"
        ))
        .await
        .text();
    for shown in
        ["columns.anchor", "columns.positive", "columns.negative", "negative_1, negative_2", "What it learns"]
    {
        assert!(part.contains(shown), "{shown}: {part}");
    }
    let plain = server.get(&format!("/jobs/new/columns?training_file={file}&model={model}")).await.text();
    assert!(plain.contains("columns.label") && !plain.contains("columns.anchor"), "{plain}");
    let sent = format!(
        "training_file={file}&model={model}&task=sentence-similarity&columns.of={file}&columns.goal=sentence-similarity\
         &columns.goal_of={model}&columns.goal_was=sentence-similarity&columns.anchor=question&columns.positive=answer\
         &columns.negative=negative_1%09negative_2&n_epochs=auto&batch_size=2&learning_rate=auto\
         &validation_split.fraction=0&embedding.scale=30&embedding.batch_sampler=no_duplicates"
    );
    let request = Request::post("/jobs").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let made = server.send(request.body(sent.into()).unwrap()).await;
    assert_eq!(made.status, StatusCode::SEE_OTHER, "{}", made.text());
    let job = server.get("/v1/fine_tuning/jobs").await.json()["data"][0].clone();
    assert_eq!(job["columns"]["negative"], json!(["negative_1", "negative_2"]));
    let embedding = &job["method"]["supervised"]["hyperparameters"]["embedding"];
    assert_eq!((&embedding["scale"], &embedding["batch_sampler"]), (&json!(30.0), &json!("no_duplicates")));
    // The settings of a job come back into the form.
    let again = server.get(&format!("/jobs/new?from={}", job["id"].as_str().unwrap())).await.text();
    for kept in ["value=\"sentence-similarity\" selected", "value=\"negative_1\tnegative_2\" selected"] {
        assert!(again.contains(kept), "{kept}: {again}");
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_page_of_a_model_ranks_texts(db: PgPool) {
    let server = worker::server(db).await;
    let made = upload(&server, "minilm", "Normalize").await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    let request =
        Request::post("/models/minilm/try").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let page = server.send(request.body("text=film&text_pair=movie%0Aplot+twist".into()).unwrap()).await;
    assert_eq!(page.status, StatusCode::OK, "{}", page.text());
    assert!(
        page.text().contains("<strong>movie</strong>") && page.text().contains("<strong>plot twist</strong>")
    );
    let request =
        Request::post("/models/minilm/try").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    let nothing = server.send(request.body("text=film&text_pair=%0A".into()).unwrap()).await.text();
    assert!(nothing.contains("Write texts to compare with"), "{nothing}");
}

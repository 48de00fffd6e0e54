//! The processes that answer: shared, replaced, told when nobody listens, and out of a job's way.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::json;
use sqlx::PgPool;

use crate::common::{Agent, Server};
use crate::decoder::chats;
use crate::worker::{
    adapter, adapter_with, chat, chat_with, process_of, read_until, server, set_device, told,
};

const PATH: &str = "/v1/chat/completions";

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn two_adapters_and_their_base_share_a_process(db: PgPool) {
    let server = server(db).await;
    for id in ["one", "two"] {
        adapter(&server, id).await;
    }
    let base = process_of(&server, "tiny").await;
    let one = process_of(&server, "one").await;
    let two = process_of(&server, "two").await;
    assert_eq!((&one["process"], &two["process"]), (&base["process"], &base["process"]));
    let loaded = server.get("/v1/models/one").await.json()["loaded"].clone();
    assert_eq!(loaded["models"], json!(["one", "tiny", "two"]));
    // Another model under another name and with the same files is the same.
    server.upload_model("again", crate::decoder::tiny_llama().path()).await;
    assert_eq!(process_of(&server, "again").await["process"], base["process"]);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_adapter_whose_base_is_gone_is_answered_from_what_lies_beside_it(db: PgPool) {
    let server = server(db).await;
    adapter(&server, "one").await;
    assert_eq!(server.delete("/v1/models/tiny").await.status, StatusCode::OK);
    let process = process_of(&server, "one").await;
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        assert!(process["files"].as_array().unwrap().contains(&json!(name)), "{process}");
    }
    assert!(!process["files"].as_array().unwrap().contains(&json!("adapter_config.json")));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn questions_at_once_are_answered_by_one_process(db: PgPool) {
    let server = server(db).await;
    let bodies: Vec<_> = (0..20).map(|number| chat(&format!("number {number}"))).collect();
    let answers = futures::future::join_all(bodies.iter().map(|body| server.post(PATH, body))).await;
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer.json()["choices"][0]["message"]["content"], format!("number {number}"));
    }
    assert_eq!(server.state.workers.loaded().len(), 1);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_worker_that_dies_fails_what_it_was_at_and_is_started_anew(db: PgPool) {
    let server = server(db).await;
    let first = process_of(&server, "tiny").await;
    let (other, died) = (chat("<silent>"), chat("<die>"));
    let (other, died) = tokio::join!(server.post(PATH, &other), async {
        told(&server, "<silent>").await;
        server.post(PATH, &died).await
    });
    for broken in [other, died] {
        assert_eq!(broken.status, StatusCode::SERVICE_UNAVAILABLE, "{}", broken.text());
        let error = broken.error();
        assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("unavailable")));
        assert!(error["message"].as_str().unwrap().contains("tiny broke off its answer"), "{error}");
    }
    assert_ne!(process_of(&server, "tiny").await["process"], first["process"]);
    let nonsense = server.post(PATH, &chat("<nonsense>")).await;
    assert_eq!(nonsense.status, StatusCode::SERVICE_UNAVAILABLE, "{}", nonsense.text());
    assert_eq!(server.post(PATH, &chat("hi")).await.status, StatusCode::OK);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_model_that_cannot_be_loaded_says_so(db: PgPool) {
    let server = server(db).await;
    set_device(server.data.path(), "dead");
    let refused = server.post(PATH, &chat("hi")).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.error()["message"].as_str().unwrap().contains("before it had loaded tiny"));
    set_device(server.data.path(), "cpu");
    assert_eq!(server.post(PATH, &chat("hi")).await.status, StatusCode::OK);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn who_leaves_a_stream_ends_its_generation(db: PgPool) {
    let server = server(db).await;
    let body = chat_with("<slow> and so on", json!({"stream": true}));
    let request =
        Request::post(PATH).header("content-type", "application/json").body(Body::from(body.to_string()));
    let response = server.open(request.unwrap()).await;
    let mut stream = response.into_body().into_data_stream();
    read_until(&mut stream, "<slow>").await;
    drop(stream);
    told(&server, "{\"cancel\":1}").await;
    assert_eq!(server.state.workers.loaded()[0].requests, 0);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn who_closes_the_connection_ends_a_generation_that_is_not_streamed(db: PgPool) {
    let server = server(db).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = luthier::app(server.state.clone());
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = client.post(format!("http://{address}{PATH}")).json(&chat("<silent>")).send();
    tokio::select! {
        _ = asked => panic!("nothing is said"),
        () = told(&server, "<silent>") => {}
    }
    drop(client);
    told(&server, "{\"cancel\":1}").await;
    serving.abort();
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn what_is_loaded_is_shown_and_let_go_of(db: PgPool) {
    let server = server(db).await;
    assert_eq!(server.get("/v1/models/tiny").await.json()["loaded"], json!(null));
    server.post(PATH, &chat("hi")).await;
    adapter(&server, "one").await;
    process_of(&server, "one").await;
    let loaded = server.get("/v1/models/tiny").await.json()["loaded"].clone();
    assert_eq!(
        (&loaded["device"], &loaded["requests"], &loaded["context"]),
        (&json!("cpu"), &json!(0), &json!(256))
    );
    assert!(loaded["memory_bytes"].as_u64().unwrap() > 1 << 20, "{loaded}");
    let page = server.get("/models").await.text();
    assert!(page.contains("Loaded at the moment") && page.contains("/models/one/unload"), "{page}");
    // The adapter is forgotten alone, the base with the process.
    let left = server.post("/v1/models/one/unload", &json!({})).await.json();
    assert_eq!((&left["id"], &left["loaded"]), (&json!("one"), &json!(null)));
    told(&server, "unload").await;
    assert_eq!(server.get("/v1/models/tiny").await.json()["loaded"]["models"], json!(["tiny"]));
    server.post("/v1/models/tiny/unload", &json!({})).await;
    assert!(server.state.workers.loaded().is_empty());
    assert_eq!(server.post("/v1/models/nothing/unload", &json!({})).await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.post("/v1/models/tiny", &json!({})).await.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn an_adapter_that_gave_way_is_not_loaded_until_it_is_asked_for_again(db: PgPool) {
    let server = server(db).await;
    for id in ["one", "two"] {
        adapter(&server, id).await;
        process_of(&server, id).await;
    }
    let loaded = async || server.get("/v1/models/tiny").await.json()["loaded"]["models"].clone();
    let asked = server.post(PATH, &chat_with("<drop>", json!({"model": "two"}))).await;
    assert_eq!(asked.status, StatusCode::OK, "{}", asked.text());
    assert_eq!(server.get("/v1/models/one").await.json()["loaded"], json!(null));
    assert_eq!(server.get("/v1/models/two").await.json()["loaded"]["models"], json!(["two"]));
    // Nothing is left to let go of, and the process stays.
    server.post("/v1/models/one/unload", &json!({})).await;
    process_of(&server, "one").await;
    process_of(&server, "tiny").await;
    assert_eq!(loaded().await, json!(["one", "tiny", "two"]));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn workers_have_a_lower_priority_than_training(db: PgPool) {
    let server = server(db).await;
    assert_eq!(process_of(&server, "tiny").await["nice"], 10);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_job_takes_the_gpu_and_gives_it_back(db: PgPool) {
    let server = server(db).await;
    let workers = &server.state.workers;
    set_device(server.data.path(), "cuda:0");
    let body = chat_with("<slow> one two three four", json!({"stream": true}));
    let request =
        Request::post(PATH).header("content-type", "application/json").body(Body::from(body.to_string()));
    let response = server.open(request.unwrap()).await;
    assert_eq!(workers.loaded()[0].device, "cuda:0");
    let mut stream = response.into_body().into_data_stream();
    read_until(&mut stream, "<slow>").await;
    workers.give_precedence(true);
    assert!(workers.loaded().is_empty(), "no more questions for it");
    let during = process_of(&server, "tiny").await;
    assert_eq!(during["arguments"][1], "cpu");
    read_until(&mut stream, "[DONE]").await;
    workers.give_precedence(true);
    assert_eq!(process_of(&server, "tiny").await["process"], during["process"]);
    workers.give_precedence(false);
    let after = process_of(&server, "tiny").await;
    assert_eq!(after["arguments"][1], "auto");
    assert_eq!(workers.loaded()[0].device, "cuda:0");
    workers.give_precedence(true);
    assert!(workers.loaded().is_empty(), "an idle one leaves at once");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn only_jobs_of_the_servers_own_trainer_count(db: PgPool) {
    let server = Server::new(db.clone()).await;
    let id = uuid::Uuid::now_v7();
    std::fs::write(server.data.path().join("work/agent_id"), format!("{id}\n")).unwrap();
    server.job().await;
    let agent = Agent::new(&db).await;
    agent.claim().await;
    let look = async || luthier::inference::precedence::look(&server.state).await.unwrap();
    assert!(!look().await, "the job is another trainer's");
    let id = id.simple().to_string();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let name = format!("{host}-{}", &id[id.len() - 6..]);
    sqlx::query("update agent set name = $1").bind(name).execute(&db).await.unwrap();
    assert!(look().await);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_tuned_model_is_asked_with_the_template_that_it_was_trained_with(db: PgPool) {
    let server = server(db).await;
    let file = server.table("chats.jsonl", &chats(40)).await;
    let job = json!({"model": "tiny", "training_file": file, "hyperparameters": {"chat_template": "chatml"}});
    let job = server.post("/v1/fine_tuning/jobs", &job).await.json();
    let id = job["id"].as_str().unwrap_or_else(|| panic!("{job}")).parse().unwrap();
    adapter_with(&server, "by-a-job", &[], Some(id)).await;
    let own = "{{ messages[0].content }}";
    adapter_with(&server, "with-its-own", &[("chat_template.jinja", own)], None).await;
    for (model, template) in
        [("tiny", json!(null)), ("by-a-job", json!("chatml")), ("with-its-own", json!(own))]
    {
        let answer = server.post(PATH, &chat_with("<settings>", json!({"model": model}))).await.json();
        let said = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let asked: serde_json::Value = serde_json::from_str(&said[said.find('{').unwrap()..]).unwrap();
        assert_eq!(asked["template"], template, "{model}");
    }
    let page = server.get("/playground").await.text();
    let chosen = |model: &str, chats: &str| format!("value=\"{model}\" data-chat=\"{chats}\" selected");
    assert!(page.contains(&chosen("with-its-own", "yes")), "the newest tuned one");
    assert!(page.contains(&chosen("tiny", "no")), "and its base");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_server_that_stops_breaks_off_its_answers_with_a_word(db: PgPool) {
    let server = server(db).await;
    let body = chat_with("<silent>", json!({"stream": true}));
    let (answer, ()) = tokio::join!(server.post(PATH, &body), async {
        told(&server, "<silent>").await;
        server.state.workers.stop();
    });
    assert!(answer.text().contains("the server is stopping"), "{}", answer.text());
}

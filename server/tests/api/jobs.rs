//! Jobs: checked at creation, told what to do, made once.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
use store::event::Kind;
use store::queue::{self, Failure, Fault, Finished, Released, Renewal};

use crate::common::{Agent, Server, line, rows};

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_job_has_every_field_that_clients_read(db: PgPool) {
    let server = Server::new(db).await;
    let job = server.job().await;
    assert!(job["id"].as_str().unwrap().starts_with("ftjob-"));
    assert_eq!(job["object"], "fine_tuning.job");
    assert_eq!(job["status"], "queued");
    assert_eq!(job["model"], "tiny");
    assert_eq!(job["columns"], json!({"text": "text", "label": "label"}));
    assert_eq!(job["result_files"], json!([]));
    for empty in
        ["fine_tuned_model", "finished_at", "estimated_finish", "trained_tokens", "validation_file", "error"]
    {
        assert!(job[empty].is_null(), "{empty}");
    }
    assert!(job["seed"].is_u64());
    assert!(job["hyperparameters"]["n_epochs"].is_number());
    assert!(job["manifest"]["data"]["train.csv"].as_str().unwrap().len() == 64);
    assert!(job["manifest"]["base_model"]["files"]["model.safetensors"].is_string());
    let id = job["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/fine_tuning/jobs/{id}")).await.json(), job);
    let events = server.get(&format!("/v1/fine_tuning/jobs/{id}/events")).await.json();
    let messages: Vec<&str> =
        events["data"].as_array().unwrap().iter().filter_map(|event| event["message"].as_str()).collect();
    assert!(
        messages.iter().any(|message| message.starts_with("Chosen automatically: n_epochs")),
        "{messages:?}"
    );
    assert!(messages.iter().any(|message| message.contains("text `text`, label `label`")), "{messages:?}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn settings_of_both_places_are_obeyed_and_shown_again(db: PgPool) {
    let server = Server::new(db).await;
    let (model, file) = (server.tiny_model().await, server.table("rows.csv", &rows(40)).await);
    let settings = json!({"n_epochs": 2, "batch_size": 8, "learning_rate": 1e-4, "optimizer": {"name": "sgd", "momentum": 0.9}});
    let body = json!({"model": model, "training_file": file, "seed": 7, "suffix": "mine", "name": "Reviews",
        "metadata": {"team": "a"}, "method": {"type": "supervised", "supervised": {"hyperparameters": settings}}});
    let job = server.post("/v1/fine_tuning/jobs", &body).await.json();
    let shown = &job["method"]["supervised"]["hyperparameters"];
    assert_eq!(shown["n_epochs"], 2);
    assert_eq!(shown["batch_size"], 8);
    assert_eq!(shown["optimizer"]["momentum"], 0.9);
    assert_eq!(
        job["hyperparameters"],
        json!({"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 2.0})
    );
    assert_eq!(
        (&job["seed"], &job["name"], &job["metadata"]["team"]),
        (&json!(7), &json!("Reviews"), &json!("a"))
    );
    // What is shown can be sent again.
    let again = json!({"model": model, "training_file": file, "method": job["method"]});
    let repeated = server.post("/v1/fine_tuning/jobs", &again).await;
    assert_eq!(repeated.status, StatusCode::OK, "{}", repeated.text());
    assert_eq!(repeated.json()["method"], job["method"]);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn what_cannot_be_trained_is_refused_by_field_and_nothing_is_queued(db: PgPool) {
    let server = Server::new(db).await;
    let (model, file) = (server.tiny_model().await, server.table("rows.csv", &rows(40)).await);
    let one_class = server.table("one.csv", "text,label\na,x\nb,x\nc,x\n").await;
    let hole = server.table("hole.csv", "text,label\na,x\n,y\nc,x\nd,y\n").await;
    let few = server.table("few.csv", "text,label\na,x\nb,y\n").await;
    let broken = server.upload("broken.csv", b"text,label\na,x,z\n").await.json()["id"].clone();
    let gone = store::FileId::new().to_string();
    let hyper = |value: Value| json!({"hyperparameters": value});
    let cases: Vec<(Value, u16, &str, &str)> = vec![
        (json!({"training_file": gone}), 404, "training_file", "there is no file"),
        (json!({"model": "nothing"}), 404, "model", "there is no model"),
        (json!({"training_file": broken}), 400, "training_file", "line 2"),
        (json!({"training_file": one_class}), 400, "training_file", "another class"),
        (json!({"training_file": hole}), 400, "training_file", "line 3"),
        (json!({"training_file": few}), 400, "validation_split", "too few"),
        (
            json!({"columns": {"text": "txt"}}),
            400,
            "columns.text",
            "no column `txt`; the file has text, label",
        ),
        (hyper(json!({"batch_size": 0})), 400, "hyperparameters.batch_size", "1 to 4096"),
        (hyper(json!({"learning_rat": 1})), 400, "hyperparameters.learning_rat", "learning_rate"),
        (
            hyper(json!({"class_weights": {"ugly": 2}})),
            400,
            "hyperparameters.class_weights",
            "no class \"ugly\"",
        ),
        (hyper(json!({"best_metric": "spearman"})), 400, "hyperparameters.best_metric", "spearman"),
        (json!({"validation_split": {"fraction": 1.5}}), 400, "validation_split.fraction", "1.5"),
        (json!({"seed": -1}), 400, "seed", "-1"),
        (json!({"resources": {"devices": 65}}), 400, "resources.devices", "65"),
        (json!({"modle": "x"}), 400, "modle", "model"),
    ];
    for (change, status, param, words) in cases {
        let mut body = json!({"model": model, "training_file": file});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = server.post("/v1/fine_tuning/jobs", &body).await;
        assert_eq!(refused.status.as_u16(), status, "{change}: {}", refused.text());
        let error = refused.error();
        assert_eq!(error["param"], param, "{change}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{change}: {error}");
    }
    for body in ["", "[]", "{\"model\": ", "nonsense"] {
        let request = axum::http::Request::post("/v1/fine_tuning/jobs").body(body.to_owned().into()).unwrap();
        assert_eq!(server.send(request).await.error()["code"], "invalid_json");
    }
    assert_eq!(server.get("/v1/fine_tuning/jobs").await.json()["data"], json!([]));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_gpu_is_refused_where_no_trainer_has_one(db: PgPool) {
    let server = Server::new(db.clone()).await;
    let (model, file) = (server.tiny_model().await, server.table("rows.csv", &rows(40)).await);
    let body = |device: &str| json!({"model": model, "training_file": file, "resources": {"device": device}});
    // Nobody is there yet: it may come.
    assert_eq!(server.post("/v1/fine_tuning/jobs", &body("cuda")).await.status, StatusCode::OK);
    Agent::new(&db).await;
    let refused = server.post("/v1/fine_tuning/jobs", &body("cuda")).await;
    assert_eq!(refused.error()["code"], "no_cuda_device");
    assert!(refused.error()["message"].as_str().unwrap().contains("a test's agent (cpu)"));
    assert_eq!(server.post("/v1/fine_tuning/jobs", &body("auto")).await.status, StatusCode::OK);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn orders_are_obeyed_once_and_a_job_that_ended_says_so_with_400(db: PgPool) {
    let server = Server::new(db).await;
    let id = server.job().await["id"].as_str().unwrap().to_owned();
    let order =
        async |what: &str| server.post(&format!("/v1/fine_tuning/jobs/{id}/{what}"), &Value::Null).await;
    for (what, status) in [
        ("pause", "paused"),
        ("pause", "paused"),
        ("resume", "queued"),
        ("resume", "queued"),
        ("cancel", "cancelled"),
        ("cancel", "cancelled"),
    ] {
        let answer = order(what).await;
        assert_eq!(answer.status, StatusCode::OK, "{what}: {}", answer.text());
        assert_eq!(answer.json()["status"], status, "{what}");
    }
    // Never 409: clients would send it again.
    let refused = order("pause").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert_eq!(refused.error()["code"], "job_has_ended");
    let missing =
        server.post(&format!("/v1/fine_tuning/jobs/{}/cancel", store::JobId::new()), &Value::Null).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_running_job_shows_what_its_agent_says_and_obeys_at_its_next_word(db: PgPool) {
    let server = Server::new(db.clone()).await;
    let id = server.job().await["id"].as_str().unwrap().to_owned();
    let agent = Agent::new(&db).await;
    let lease = agent.claim().await;
    let progress = json!({"total_steps": 100, "eta_seconds": 60.0});
    agent
        .say(
            &lease,
            &[
                line(0, Kind::Phase, None, json!({}), json!({"phase": "training", "device": "cpu"})),
                line(1, Kind::Train, Some(10), json!({"loss": 0.5}), progress),
            ],
        )
        .await;
    let job = server.get(&format!("/v1/fine_tuning/jobs/{id}")).await.json();
    assert_eq!((&job["status"], &job["phase"]), (&json!("running"), &json!("training")));
    assert_eq!((&job["progress"]["step"], &job["device"]), (&json!(10), &json!("cpu")));
    assert!(job["estimated_finish"].as_i64().unwrap() > job["created_at"].as_i64().unwrap() + 50);
    let asked = server.post(&format!("/v1/fine_tuning/jobs/{id}/cancel"), &Value::Null).await.json();
    assert_eq!((&asked["status"], &asked["phase"]), (&json!("running"), &json!("cancelling")));
    let renewed = queue::renew(&db, &lease, std::time::Duration::from_secs(60), None).await.unwrap();
    assert_eq!(renewed, Renewal::Held { asked: Some(store::job::Asked::Cancel), absent: None });
    assert!(queue::release(&db, &lease, Released::Cancelled).await.unwrap());
    let ended = server.get(&format!("/v1/fine_tuning/jobs/{id}")).await.json();
    assert_eq!(ended["status"], "cancelled");
    assert!(ended["finished_at"].is_i64());
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_failed_job_tells_cause_step_and_log_in_one_message(db: PgPool) {
    let server = Server::new(db.clone()).await;
    let id = server.job().await["id"].as_str().unwrap().to_owned();
    let agent = Agent::new(&db).await;
    let lease = agent.claim().await;
    let failure = Failure {
        fault: Fault::User,
        code: "loss_not_finite".to_owned(),
        message: "The loss is not finite.".to_owned(),
        param: Some("learning_rate".to_owned()),
        step: Some(57),
        log: vec!["the last line".to_owned()],
    };
    queue::fail(&db, &lease, &failure).await.unwrap();
    let job = server.get(&format!("/v1/fine_tuning/jobs/{id}")).await.json();
    assert_eq!(job["status"], "failed");
    assert_eq!(job["error"]["code"], "loss_not_finite");
    assert_eq!(job["error"]["param"], "learning_rate");
    let message = job["error"]["message"].as_str().unwrap();
    for words in ["The loss is not finite.", "Step reached: 57.", "the last line"] {
        assert!(message.contains(words), "{message}");
    }
    assert!(job["fine_tuned_model"].is_null());
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_finished_job_has_a_model_results_and_a_manifest_it_can_be_run_from(db: PgPool) {
    let server = Server::new(db.clone()).await;
    let first = server.job().await;
    let id = first["id"].as_str().unwrap().to_owned();
    let agent = Agent::new(&db).await;
    let lease = agent.claim().await;
    let mut manifest = first["manifest"].clone();
    manifest["hardware"] = json!({"device": "cpu"});
    let curves = server.state.store.put_bytes("step,train_loss\n1,0.5\n".into()).await.unwrap();
    let done = Finished {
        files: store::model::files(&db, "tiny").await.unwrap(),
        result_file: Some(queue::ResultFile { name: "step_metrics.csv".to_owned(), content: curves }),
        metrics: json!({"accuracy": 0.9}),
        steps: Some(3),
        manifest: Some(manifest.clone()),
        ..Finished::default()
    };
    assert!(queue::finish(&db, &lease, &done).await.unwrap());
    let job = server.get(&format!("/v1/fine_tuning/jobs/{id}")).await.json();
    assert_eq!(job["status"], "succeeded");
    let result = job["result_files"][0].as_str().unwrap();
    assert_eq!(server.get(&format!("/v1/files/{result}")).await.json()["purpose"], "fine-tune-results");
    assert_eq!(server.get(&format!("/v1/files/{result}/content")).await.text(), "step,train_loss\n1,0.5\n");
    let tuned = job["fine_tuned_model"].as_str().unwrap();
    assert!(tuned.starts_with("ft:tiny:luthier:"));
    let model = server.get(&format!("/v1/models/{tuned}")).await.json();
    assert_eq!(model["lineage"], json!({"base_model": "tiny", "job": id, "step": 3}));

    let again = server.post("/v1/fine_tuning/jobs", &json!({"manifest": manifest, "suffix": "again"})).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text());
    let again = again.json();
    assert_ne!(again["id"], job["id"]);
    for same in ["model", "training_file", "columns", "seed", "method", "validation_split"] {
        assert_eq!(again[same], job[same], "{same}");
    }
    assert!(again["manifest"].get("hardware").is_none(), "the hardware is that of the run to come");
    let from_tuned = json!({"model": tuned, "training_file": job["training_file"]});
    assert_eq!(server.post("/v1/fine_tuning/jobs", &from_tuned).await.status, StatusCode::OK);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_manifest_of_content_that_is_gone_says_which(db: PgPool) {
    let server = Server::new(db).await;
    let mut manifest = server.job().await["manifest"].clone();
    manifest["data"]["train.csv"] = json!("0".repeat(64));
    let refused = server.post("/v1/fine_tuning/jobs", &json!({"manifest": manifest})).await;
    assert_eq!(refused.status, StatusCode::NOT_FOUND);
    assert_eq!(refused.error()["param"], "manifest.data.train.csv");
    let mixed = server.post("/v1/fine_tuning/jobs", &json!({"manifest": manifest, "model": "tiny"})).await;
    assert_eq!(mixed.error()["param"], "model");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn one_key_makes_one_job_even_from_ten_at_once(db: PgPool) {
    let server = Server::new(db).await;
    let (model, file) = (server.tiny_model().await, server.table("rows.csv", &rows(20)).await);
    let body = json!({"model": model, "training_file": file});
    let send = |body: Value| {
        let server = &server;
        async move { server.post_with("/v1/fine_tuning/jobs", &body, &[("idempotency-key", "k1")]).await }
    };
    let answers = futures::future::join_all((0..10).map(|_| send(body.clone()))).await;
    let ids: std::collections::BTreeSet<String> =
        answers.iter().map(|answer| answer.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 1);
    let other = send(json!({"model": model, "training_file": file, "seed": 1})).await;
    assert_eq!(other.status, StatusCode::BAD_REQUEST);
    assert_eq!(other.error()["code"], "idempotency_key_reused");
    assert_eq!(server.get("/v1/fine_tuning/jobs").await.json()["data"].as_array().unwrap().len(), 1);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_clients_own_retry_is_the_same_job_and_a_second_request_is_not(db: PgPool) {
    let server = Server::new(db).await;
    let (model, file) = (server.tiny_model().await, server.table("rows.csv", &rows(20)).await);
    let body = json!({"model": model, "training_file": file});
    let send = async |retry: &str| {
        let answer =
            server.post_with("/v1/fine_tuning/jobs", &body, &[("x-stainless-retry-count", retry)]).await;
        answer.json()["id"].as_str().unwrap().to_owned()
    };
    let first = send("0").await;
    assert_eq!(send("1").await, first);
    assert_ne!(send("0").await, first);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn metadata_selects_jobs(db: PgPool) {
    let server = Server::new(db).await;
    let (model, file) = (server.tiny_model().await, server.table("rows.csv", &rows(20)).await);
    for metadata in [json!({"team": "a", "kind": "x"}), json!({"team": "b"}), Value::Null] {
        server
            .post(
                "/v1/fine_tuning/jobs",
                &json!({"model": model, "training_file": file, "metadata": metadata}),
            )
            .await;
    }
    let count = async |query: &str| {
        let list = server.get(&format!("/v1/fine_tuning/jobs?{query}")).await.json();
        list["data"].as_array().unwrap().len()
    };
    assert_eq!(count("metadata%5Bteam%5D=a").await, 1);
    assert_eq!(count("metadata%5Bteam%5D=a&metadata%5Bkind%5D=y").await, 0);
    assert_eq!(count("metadata=null").await, 1);
    assert_eq!(count("limit=2").await, 2);
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_dry_run_counts_and_makes_nothing(db: PgPool) {
    let server = Server::new(db.clone()).await;
    let (model, file) = (server.tiny_model().await, server.table("rows.csv", &rows(40)).await);
    let mut body = json!({"model": model, "training_file": file, "dry_run": true,
        "hyperparameters": {"n_epochs": 2, "batch_size": 8}});
    let answer = server.post("/v1/fine_tuning/jobs", &body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let run = answer.json();
    // 36 rows are left after a tenth is held out.
    assert_eq!((&run["rows"]["training"], &run["rows"]["sampled"]), (&json!(36), &json!(36)));
    assert_eq!((&run["steps_per_epoch"], &run["steps"]), (&json!(5), &json!(10)));
    assert!(run["seconds_per_step"].is_null() && run["fits"].is_null(), "{run}");
    let memory = &run["memory"];
    assert!(memory["peak"].as_u64() > memory["runtime"].as_u64(), "{memory}");
    assert_eq!(memory["total"], memory["peak"]);
    assert_eq!(server.get("/v1/fine_tuning/jobs").await.json()["data"], json!([]));
    body["resources"] = json!({"devices": 2, "device": "cpu"});
    let two = server.post("/v1/fine_tuning/jobs", &body).await.json();
    assert_eq!(two["memory"]["processes"], 2);
    assert_eq!(two["memory"]["total"].as_u64(), two["memory"]["peak"].as_u64().map(|peak| 2 * peak));
    // What a real job is refused for, a dry run is.
    body["hyperparameters"]["batch_size"] = json!(0);
    assert_eq!(
        server.post("/v1/fine_tuning/jobs", &body).await.error()["param"],
        "hyperparameters.batch_size"
    );
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_dry_run_says_whether_a_trainer_has_the_memory_and_the_form_warns(db: PgPool) {
    let server = Server::new(db.clone()).await;
    let (model, file) = (server.tiny_model().await, server.table("rows.csv", &rows(40)).await);
    let small = |bytes| store::agent::NewAgent {
        name: "small".to_owned(),
        device: "cpu".to_owned(),
        memory_bytes: Some(bytes),
        ..store::agent::NewAgent::default()
    };
    store::agent::register(&db, &small(50_000_000)).await.unwrap();
    let body = json!({"model": model, "training_file": file, "dry_run": true});
    let run = server.post("/v1/fine_tuning/jobs", &body).await.json();
    assert_eq!((&run["fits"], &run["agents"][0]["fits"]), (&json!(false), &json!(false)), "{run}");
    let form = format!("/jobs/new/estimate?training_file={file}&model={model}");
    let line = server.get(&form).await.text();
    assert!(line.contains("No trainer has so much memory: the largest has 50 MB."), "{line}");
    store::agent::register(&db, &small(64_000_000_000)).await.unwrap();
    assert_eq!(server.post("/v1/fine_tuning/jobs", &body).await.json()["fits"], true);
    let line = server.get(&form).await.text();
    assert!(line.contains("of memory") && !line.contains("No trainer"), "{line}");
    assert!(!server.get("/jobs/new/estimate").await.text().contains("memory"), "nothing is chosen");
}

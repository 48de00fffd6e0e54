//! Answers to prompts at evaluations: settings, events, the page of the job.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
use store::event::Kind;

use crate::common::{Agent, Server, line};
use crate::decoder::{chats, tiny_llama};

const SCRIPT: &str = "<script>document.title=1</script>";

async fn model_and_file(server: &Server) -> (String, String) {
    let made = server.upload_model("llama", tiny_llama().path()).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    ("llama".to_owned(), server.table("chats.jsonl", &chats(40)).await)
}

fn body(model: &str, file: &str, samples: &Value) -> Value {
    json!({"model": model, "training_file": file,
        "hyperparameters": {"chat_template": "chatml", "samples": samples}})
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn what_is_asked_at_evaluations_is_kept_and_can_be_asked_for_again(db: PgPool) {
    let server = Server::new(db).await;
    let (model, file) = model_and_file(&server).await;
    let turns = json!([{"role": "system", "content": "brief"}, {"role": "user", "content": "is 3 even?"}]);
    let asked = json!({"prompts": ["is 2 even?", turns], "max_tokens": 20});
    let made = server.post("/v1/fine_tuning/jobs", &body(&model, &file, &asked)).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    let job = made.json();
    let kept = &job["method"]["supervised"]["hyperparameters"]["samples"];
    let whole =
        json!({"prompts": asked["prompts"], "rows": null, "max_tokens": 20, "temperature": 0.0, "seed": 0});
    assert_eq!(kept, &whole);
    let again = json!({"model": model, "training_file": file, "method": job["method"]});
    let again = server.post("/v1/fine_tuning/jobs", &again).await.json();
    assert_eq!(again["method"], job["method"]);
    let rerun = server.post("/v1/fine_tuning/jobs", &json!({"manifest": job["manifest"]})).await.json();
    assert_eq!(&rerun["method"]["supervised"]["hyperparameters"]["samples"], kept);
    let off = server.post("/v1/fine_tuning/jobs", &body(&model, &file, &json!(false))).await.json();
    assert_eq!(off["method"]["supervised"]["hyperparameters"]["samples"]["rows"], 0);
    let mut dry = body(&model, &file, &asked);
    dry["dry_run"] = json!(true);
    assert!(server.post("/v1/fine_tuning/jobs", &dry).await.json()["steps"].as_u64().is_some());

    let turn = |role: &str| json!([{"role": role, "content": "a"}]);
    for (samples, param, words) in [
        (json!("yes"), "samples", "true, false or an object"),
        (json!({"prompts": [7]}), "samples.prompts[0]", "a text or a list of messages"),
        (json!({"prompts": [""]}), "samples.prompts[0]", "is empty"),
        (json!({"prompts": vec!["a"; 17]}), "samples.prompts", "at most 16"),
        (json!({"prompts": ["a", turn("bard")]}), "samples.prompts[1][0].role", "bard"),
        (json!({"prompts": [turn("assistant")]}), "samples.prompts[0][0].role", "nothing to answer"),
        (json!({"max_tokens": 5000}), "samples.max_tokens", "1 to 1024"),
    ] {
        let refused = server.post("/v1/fine_tuning/jobs", &body(&model, &file, &samples)).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{samples}: {}", refused.text());
        let error = refused.error();
        assert_eq!(error["param"], format!("hyperparameters.{param}"), "{error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
    }
    // What the rows do not ask of the template, a prompt may.
    let template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}\
                    {{ m.role }}: {{ m.content }}\n{% endfor %}";
    let mut refused = body(&model, &file, &asked);
    refused["hyperparameters"]["chat_template"] = json!(template);
    let refused = server.post("/v1/fine_tuning/jobs", &refused).await.error();
    assert_eq!(refused["param"], "hyperparameters.samples.prompts[1]", "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("no system here"), "{refused}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn answers_stand_side_by_side_on_the_page_and_among_the_events(db: PgPool) {
    let server = Server::new(db.clone()).await;
    let (model, file) = model_and_file(&server).await;
    let made = server.post("/v1/fine_tuning/jobs", &body(&model, &file, &json!({"max_tokens": 20}))).await;
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let page = async || server.get(&format!("/jobs/{id}")).await.text();
    assert!(!page().await.contains("id=\"samples\""));
    let agent = Agent::new(&db).await;
    let lease = agent.claim().await;
    let long = "word ".repeat(100);
    let said = |step: i64, answer: &str, finish: &str| {
        let sample = json!({"prompt": [{"role": "user", "content": "is 2 even?"}], "row": 1, "expected": "2 is even",
            "answer": answer, "finish": finish, "tokens": 9});
        let own = json!({"prompt": SCRIPT, "row": null, "expected": null, "answer": SCRIPT, "finish": "stop",
            "tokens": 3});
        line(step + 1, Kind::Samples, Some(step), json!({"samples": [sample, own]}), json!({"seconds": 0.5}))
    };
    let mut lines =
        vec![said(0, &long, "length"), said(10, "2 is odd", "stop"), said(20, "2 is even", "stop")];
    lines.extend((3..10).map(|n| said(n * 10, " 2 is even", "stop")));
    agent.say(&lease, &lines).await;
    // A step that is made again is the same point.
    agent.say(&lease, &[line(90, Kind::Samples, Some(10), json!({"samples": []}), json!({}))]).await;

    let events = server.get(&format!("/v1/fine_tuning/jobs/{id}/events?limit=100")).await.json();
    let events: Vec<&Value> =
        events["data"].as_array().unwrap().iter().filter(|event| event["kind"] == "samples").collect();
    assert_eq!(events.len(), 10);
    let first = events.last().unwrap();
    assert_eq!((&first["step"], &first["type"]), (&json!(0), &json!("message")));
    assert_eq!(first["data"]["samples"][0]["answer"], long);
    assert_eq!(
        (&first["data"]["seconds"], &first["message"]),
        (&json!(0.5), &json!("Step 0: answers to prompts"))
    );

    let page = page().await;
    let table = page.split("id=\"samples\"").nth(1).unwrap().split("</section>").next().unwrap();
    let places: Vec<usize> = ["Step 90", "Step 80", "Step 40", "Step 20", "Before training"]
        .map(|title| table.find(title).unwrap_or_else(|| panic!("{title}: {table}")))
        .to_vec();
    assert!(places.is_sorted(), "the newest first: {table}");
    assert!(table.contains("6 of 10 evaluations") && table.contains("is 2 even?") && table.contains("row 2"));
    assert!(
        table.contains("as expected") && table.contains("unchanged") && table.contains("cut off"),
        "{table}"
    );
    assert!(table.contains("<details class=\"fold\" id=\"sample-0-0\">"), "{table}");
    assert!(!page.contains(SCRIPT) && table.contains("&#60;script&#62;"), "{table}");
    let log = page.split("id=\"log\"").nth(1).unwrap();
    assert!(!log.contains("answers to"), "{log}");
}

//! Text generation: chats are looked at, checked and counted.

use axum::http::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::common::{Server, rows};
use crate::decoder::{POSITIONS, chats, tiny_llama};

/// Six rows: one that is right, and what people get wrong.
const WRONG: &str = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
{"messages": [{"role": "user", "content": "a"}]}
{"messages": [{"role": "usr", "content": "a"}, {"role": "assistant", "content": "b"}]}
{"messages": []}
{"messages": [{"role": "user", "content": 5}, {"role": "assistant", "content": "b"}]}
{"prompt": "a", "completion": "b"}
"#;

const PAIRS: &str = r#"{"prompt": "1+1=", "completion": "2"}
{"prompt": "1+2=", "completion": "3"}
{"prompt": "2+2=", "completion": "4"}
"#;

const PREFERENCES: &str = r#"{"prompt": "a", "chosen": "b", "rejected": "c"}
{"prompt": "d", "chosen": "e", "rejected": "f"}
"#;

/// So many answers that are desirable, and so many that are not.
fn answers(desirable: usize, undesirable: usize) -> String {
    let row = |n: usize| {
        let label = n < desirable;
        format!(
            "{}\n",
            json!({"prompt": format!("{n} + 1 ="), "completion": format!(" {n}"), "label": label})
        )
    };
    (0..desirable + undesirable).map(row).collect()
}

impl Server {
    /// The tiny language model, uploaded.
    async fn tiny_llama(&self) -> String {
        let made = self.upload_model("llama", tiny_llama().path()).await;
        assert_eq!(made.status, StatusCode::OK, "{}", made.text());
        assert_eq!(made.json()["task"], "text-generation");
        "llama".to_owned()
    }
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_file_of_chats_is_looked_at_turn_by_turn_and_a_table_is_none(db: PgPool) {
    let server = Server::new(db).await;
    let report = server.upload("chats.jsonl", chats(3).as_bytes()).await.json()["report"].clone();
    let chat = &report["chat"];
    assert_eq!(chat["layout"], "messages");
    assert_eq!((&chat["rows"], &chat["turns"], &chat["counted_turns"]), (&json!(3), &json!(6), &json!(3)));
    assert_eq!(
        chat["preview"][1]["turns"][1],
        json!({"role": "assistant", "text": "1 is odd", "counts": true})
    );
    assert_eq!(chat["preview"][1]["lines"], json!({"first": 2, "last": 2}));
    assert_eq!(report["rows"], 3, "it is a table as well");

    let wrong = server.upload("wrong.jsonl", WRONG.as_bytes()).await.json();
    let problems = wrong["report"]["chat"]["problems"]["listed"].as_array().unwrap().clone();
    let places: Vec<(u64, &str)> = problems
        .iter()
        .map(|problem| (problem["line"]["first"].as_u64().unwrap(), problem["column"].as_str().unwrap()))
        .collect();
    for place in [(3, "messages[0].role"), (5, "messages[0].content")] {
        assert!(places.contains(&place), "{places:?}");
    }
    for line in [2, 4, 6] {
        assert!(places.iter().any(|place| place.0 == line), "{places:?}");
    }
    let table = server.upload("rows.csv", rows(4).as_bytes()).await.json();
    assert_eq!(table["report"].get("chat"), None);
    let texts = server.upload("texts.csv", b"text\nonce\nupon\n").await.json();
    assert_eq!(texts["report"]["chat"]["layout"], "text");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn the_task_follows_the_model_and_chats_need_no_columns(db: PgPool) {
    let server = Server::new(db).await;
    let (model, file) = (server.tiny_llama().await, server.table("chats.jsonl", &chats(40)).await);
    let settings = json!({"chat_template": "chatml", "loss_on": "all", "n_epochs": 1});
    let body = json!({"model": model, "training_file": file, "validation_split": {"fraction": 0.2},
        "method": {"type": "supervised", "supervised": {"hyperparameters": settings}}});
    let made = server.post("/v1/fine_tuning/jobs", &body).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    let job = made.json();
    assert_eq!(job["task"], "text-generation");
    assert!(job["columns"].is_null() && job["problem_type"].is_null(), "{job}");
    assert_eq!(job["validation_split"]["stratify"], false);
    let shown = &job["method"]["supervised"]["hyperparameters"];
    assert_eq!((&shown["chat_template"], &shown["loss_on"]), (&json!("chatml"), &json!("all")));
    let events = server.get(&format!("/v1/fine_tuning/jobs/{}/events", job["id"].as_str().unwrap())).await;
    assert!(events.text().contains("messages, 40 rows, 80 turns, of which 40 count"), "{}", events.text());
    // What is shown can be sent again.
    let again = json!({"manifest": job["manifest"]});
    let again = server.post("/v1/fine_tuning/jobs", &again).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text());
    assert_eq!(again.json()["task"], "text-generation");

    let encoder = server.tiny_model().await;
    let table = server.table("rows.csv", &rows(40)).await;
    let job = server.post("/v1/fine_tuning/jobs", &json!({"model": encoder, "training_file": table})).await;
    assert_eq!(job.json()["task"], "text-classification");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn what_a_language_model_cannot_learn_is_refused_by_field(db: PgPool) {
    let server = Server::new(db).await;
    let (model, file) = (server.tiny_llama().await, server.table("chats.jsonl", &chats(40)).await);
    let encoder = server.tiny_model().await;
    let wrong = server.table("wrong.jsonl", WRONG).await;
    let table = server.table("rows.csv", "question,reply\na,b\nc,d\n").await;
    let preferences = server.table("preferences.jsonl", PREFERENCES).await;
    let few = server.table("few.jsonl", &chats(1)).await;
    let labelled = server.table("labelled.jsonl", &answers(8, 4)).await;
    let badly_labelled = server.table("labels.jsonl", &answers(1, 1).replace("false", "\"maybe\"")).await;
    let hyper = |value: Value| {
        let mut settings = json!({"chat_template": "chatml"});
        settings.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        json!({"hyperparameters": settings})
    };
    let template = "hyperparameters.chat_template";
    let cases: Vec<(Value, &str, &str)> = vec![
        (json!({"training_file": wrong}), "training_file", "line 3, `messages[0].role`"),
        (json!({"training_file": wrong}), "training_file", "line 5, `messages[0].content`"),
        (json!({"validation_file": wrong}), "validation_file", "wrong.jsonl, line 2"),
        (json!({"training_file": table}), "training_file", "no layout to train a language model on"),
        (json!({"training_file": preferences}), "training_file", "choose the method \"dpo\""),
        (json!({"method": {"type": "dpo"}}), "training_file", "pairs of a better and a worse answer"),
        (
            json!({"training_file": preferences, "method": {"type": "dpo", "dpo": {"hyperparameters": {"beta": -1}}}}),
            "method.dpo.hyperparameters.preference.beta",
            "above 0",
        ),
        (json!({"training_file": few}), "validation_split", "too few"),
        (json!({"hyperparameters": {}}), template, "no chat template"),
        (json!({"hyperparameters": {}}), template, "chatml, alpaca, zephyr"),
        (hyper(json!({"chat_template": "chatlm"})), template, "no chat template `chatlm`"),
        (hyper(json!({"chat_template": "{% for %}"})), template, "cannot be used"),
        (hyper(json!({"loss_on": "assistent"})), "hyperparameters.loss_on", "assistant"),
        (hyper(json!({"max_length": 5000})), "hyperparameters.max_length", "256 positions"),
        (hyper(json!({"max_length": 8})), "hyperparameters.max_length", "anything to learn"),
        (hyper(json!({"class_weights": "balanced"})), "hyperparameters.class_weights", "text classification"),
        (hyper(json!({"best_metric": "f1"})), "hyperparameters.best_metric", "f1"),
        (json!({"columns": {"text": "messages"}}), "columns", "leave it out"),
        (json!({"problem_type": "regression"}), "problem_type", "text classification"),
        // It can learn classes, and these rows have none.
        (json!({"task": "text-classification"}), "columns", "cannot tell which column is the text"),
        (json!({"model": encoder, "task": "text-generation"}), "task", "tiny is an encoder"),
        (json!({"task": "text-generatoin"}), "task", "text-generation"),
        (json!({"method": {"type": "reinforcement"}}), "method.type", "\"reinforcement\" is not supported"),
        (json!({"method": {"type": "kot"}}), "method.type", "supervised, dpo and kto"),
        (
            json!({"method": {"type": "kto"}}),
            "training_file",
            "desirable or not, and the rows do not say which",
        ),
        (json!({"training_file": labelled}), "training_file", "choose the method \"kto\""),
        (
            json!({"training_file": labelled, "method": {"type": "dpo"}}),
            "training_file",
            "single answers with a `label`",
        ),
        (
            json!({"training_file": labelled, "method": {"type": "kto", "kto": {"hyperparameters": {"preference": {"loss": "ipo"}}}}}),
            "method.kto.hyperparameters.preference.loss",
            "of the method \"dpo\"",
        ),
        (
            json!({"training_file": preferences, "method": {"type": "dpo", "dpo": {"hyperparameters": {"preference": {"loss": "kto"}}}}}),
            "method.dpo.hyperparameters.preference.loss",
            "of the method \"kto\"",
        ),
        (
            json!({"training_file": labelled, "method": {"type": "kto", "kto": {"hyperparameters": {"desirable_weight": -1}}}}),
            "method.kto.hyperparameters.preference.desirable_weight",
            "0 or more",
        ),
        (
            json!({"training_file": labelled, "method": {"type": "kto", "kto": {"hyperparameters": {"batch_size": 1}}}}),
            "method.kto.hyperparameters.batch_size",
            "2 rows or more",
        ),
        (
            json!({"training_file": labelled, "method": {"type": "kto", "kto": {"hyperparameters": {"preference": {"sft_weight": 1}}}}}),
            "method.kto.hyperparameters.preference.sft_weight",
            "pairs of answers",
        ),
        (
            json!({"training_file": preferences, "method": {"type": "dpo", "dpo": {"hyperparameters":
                {"preference": {"desirable_weight": 2}}}}}),
            "method.dpo.hyperparameters.preference.desirable_weight",
            "for kto",
        ),
        (
            json!({"training_file": badly_labelled}),
            "training_file",
            "line 2, `label`: expected true or false, found maybe",
        ),
    ];
    for (change, param, words) in cases {
        let mut body = hyper(json!({}));
        body["model"] = json!(model);
        body["training_file"] = json!(file);
        if change.get("method").is_some() {
            body.as_object_mut().unwrap().remove("hyperparameters");
        }
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = server.post("/v1/fine_tuning/jobs", &body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{change}: {}", refused.text());
        let error = refused.error();
        assert_eq!(error["param"], param, "{change}: {error}");
        assert!(error["message"].as_str().unwrap().contains(words), "{change}: {error}");
    }
    let method = json!({"type": "supervised", "supervised": {"hyperparameters": {}}});
    let body = json!({"model": model, "training_file": file, "method": method});
    let refused = server.post("/v1/fine_tuning/jobs", &body).await.error();
    assert_eq!(refused["param"], "method.supervised.hyperparameters.chat_template");
    assert_eq!(server.get("/v1/fine_tuning/jobs").await.json()["data"], json!([]));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_dry_run_counts_tokens_that_are_cut_and_tokens_that_count(db: PgPool) {
    let server = Server::new(db).await;
    let model = server.tiny_llama().await;
    let run = async |file: &str, settings: Value| {
        let body = json!({"model": model, "training_file": file, "dry_run": true,
            "validation_split": {"fraction": 0}, "hyperparameters": settings});
        let answer = server.post("/v1/fine_tuning/jobs", &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json()
    };
    let share = |answer: &Value, name: &str| answer["rows"][name].as_f64().unwrap();
    let file = server.table("chats.jsonl", &chats(40)).await;
    let of_chats = run(&file, json!({"chat_template": "chatml", "n_epochs": 2, "batch_size": 4})).await;
    assert_eq!((&of_chats["rows"]["training"], &of_chats["steps"]), (&json!(40), &json!(20)));
    assert!(of_chats["memory"]["total"].as_u64().unwrap() > 100_000_000, "{of_chats}");
    assert_eq!((share(&of_chats, "truncated_share"), share(&of_chats, "left_out_share")), (0.0, 0.0));
    let counted = share(&of_chats, "counted_share");
    assert!(counted > 0.0 && counted < 0.6, "{of_chats}");
    let longest = of_chats["rows"]["longest_tokens"].as_u64().unwrap();
    assert!(longest > 20 && longest < POSITIONS, "{of_chats}");
    let cut = run(&file, json!({"chat_template": "chatml", "max_length": longest - 1})).await;
    assert!(share(&cut, "truncated_share") > 0.0, "{cut}");
    let all = run(&file, json!({"chat_template": "chatml", "loss_on": "all"})).await;
    assert!(share(&all, "counted_share") > 0.9, "{all}");

    // Prompts need no template, and texts are joined to full rows.
    let pairs = server.table("pairs.jsonl", PAIRS).await;
    assert_eq!(run(&pairs, json!({})).await["rows"]["training"], 3);
    let text = format!("text\n{}", "a line of a long story\n".repeat(50));
    let texts = run(&server.table("story.csv", &text).await, json!({"max_length": 64})).await;
    assert!(texts["rows"]["training"].as_u64().unwrap() < 50, "{texts}");
    assert_eq!((share(&texts, "counted_share"), &texts["rows"]["longest_tokens"]), (1.0, &json!(64)));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_template_of_the_checkpoint_writes_the_chats_and_refuses_what_it_does_not_know(db: PgPool) {
    let server = Server::new(db).await;
    let folder = tiny_llama();
    let template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}\
        {{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    assert_eq!(server.upload_model("mine", folder.path()).await.status, StatusCode::OK);
    let file = server.table("chats.jsonl", &chats(20)).await;
    let made = server.post("/v1/fine_tuning/jobs", &json!({"model": "mine", "training_file": file})).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.text());
    let system = chats(20).replace(r#""role":"user""#, r#""role":"system""#);
    let file = server.table("system.jsonl", &system).await;
    let refused = server.post("/v1/fine_tuning/jobs", &json!({"model": "mine", "training_file": file})).await;
    let error = refused.error();
    assert_eq!((&error["param"], &error["code"]), (&json!("training_file"), &json!("chat_template")));
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("system.jsonl, line") && message.contains("no system here"), "{message}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_language_model_is_not_asked_for_predictions(db: PgPool) {
    let server = Server::new(db).await;
    let model = server.tiny_llama().await;
    let refused = server.post("/v1/predictions", &json!({"model": model, "inputs": ["a"]})).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    let error = refused.error();
    assert_eq!(error["param"], "model");
    assert!(error["message"].as_str().unwrap().contains("chat/completions"), "{error}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn pages_show_turns_and_what_belongs_to_a_language_model(db: PgPool) {
    let server = Server::new(db).await;
    let (model, file) = (server.tiny_llama().await, server.table("chats.jsonl", &chats(40)).await);
    let wrong = server.table("wrong.jsonl", WRONG).await;
    let encoder = server.tiny_model().await;
    let text = async |path: String| {
        let page = server.get(&path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text());
        page.text()
    };
    let data = text(format!("/data/{file}")).await;
    assert!(data.contains("Turns that are learnt") && data.contains("10 of 40 rows"), "{data}");
    assert!(data.contains("is 1 even?") && data.contains("Fine-tune on this"), "{data}");
    let data = text(format!("/data/{wrong}")).await;
    assert!(
        data.contains("cannot be trained on") && data.contains("Line 3, column messages[0].role"),
        "{data}"
    );

    let form = text(format!("/jobs/new?training_file={file}&model={model}")).await;
    assert!(form.contains(r#"name="task" value="text-generation""#), "{form}");
    assert!(form.contains("40 rows, 80 turns, of which 40 are learnt"), "{form}");
    assert!(!form.contains(r#"name="columns.text""#) && form.contains(r#"name="loss_on""#), "{form}");
    let columns = text(format!("/jobs/new/columns?training_file={file}&model={encoder}")).await;
    assert!(columns.contains(r#"name="columns.text""#), "{columns}");

    let values = format!(
        "training_file={file}&model={model}&loss_on=assistant&chat_template=&validation_split.fraction=0.1&\
         columns.text=messages&label_smoothing=0.1"
    );
    let send = async |values: &str| {
        let request = axum::http::Request::post("/jobs")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(values.to_owned().into());
        server.send(request.unwrap()).await
    };
    let refused = send(&values).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", refused.text());
    assert!(refused.text().contains("no chat template to write them with"), "{}", refused.text());
    let made = send(&values.replace("chat_template=", "chat_template=chatml")).await;
    assert_eq!(made.status, StatusCode::SEE_OTHER, "{}", made.text());
    let job = text(made.headers["location"].to_str().unwrap().to_owned()).await;
    assert!(job.contains("Perplexity of the validation rows") && job.contains("what the assistant says"));
    assert!(!job.contains("Label column"), "{job}");

    let page = text(format!("/models/{model}")).await;
    assert!(page.contains("text-generation") && !page.contains("/try"), "{page}");
    assert!(text("/models".to_owned()).await.contains("language model"));
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn openais_dpo_makes_a_job_that_can_be_asked_for_again(db: PgPool) {
    let server = Server::new(db).await;
    let model = server.tiny_llama().await;
    let rows: String = (0..20)
        .map(|n| {
            format!("{}\n", json!({"prompt": format!("question {n}"), "chosen": "yes", "rejected": "no"}))
        })
        .collect();
    let file = server.table("pairs.jsonl", &rows).await;
    let settings =
        json!({"beta": 0.3, "n_epochs": 1, "chat_template": "chatml", "preference": {"loss": "ipo"}});
    let method = json!({"type": "dpo", "dpo": {"hyperparameters": settings}});
    let body = json!({"model": model, "training_file": file, "method": method});
    let job = server.post("/v1/fine_tuning/jobs", &body).await.json();
    assert_eq!(job["method"]["type"], "dpo", "{job}");
    let said = &job["method"]["dpo"]["hyperparameters"];
    assert_eq!((&said["beta"], &said["preference"]["loss"]), (&json!(0.3), &json!("ipo")));
    let again = json!({"model": model, "training_file": file, "method": job["method"]});
    let again = server.post("/v1/fine_tuning/jobs", &again).await.json();
    assert_eq!(again["method"], job["method"]);
    let dry = json!({"model": model, "training_file": file, "method": job["method"], "dry_run": true});
    let dry = server.post("/v1/fine_tuning/jobs", &dry).await.json();
    assert!(dry["steps"].as_u64().is_some() || dry["estimate"].is_object(), "{dry}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn kto_learns_from_labelled_answers_and_tells_when_one_side_outweighs_the_other(db: PgPool) {
    let server = Server::new(db).await;
    let model = server.tiny_llama().await;
    let report = server.upload("labelled.jsonl", answers(30, 10).as_bytes()).await.json();
    let chat = &report["report"]["chat"];
    assert_eq!((&chat["layout"], &chat["rows"]), (&json!("unpaired"), &json!(40)));
    assert_eq!((&chat["desirable"], &chat["undesirable"]), (&json!(30), &json!(10)));
    let file = report["id"].as_str().unwrap();
    let ask = async |settings: Value, dry_run: bool| {
        let method = json!({"type": "kto", "kto": {"hyperparameters": settings}});
        let body = json!({"model": model, "training_file": file, "method": method, "dry_run": dry_run,
            "validation_split": {"fraction": 0.25}});
        let answer = server.post("/v1/fine_tuning/jobs", &body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json()
    };
    let settings = json!({"beta": 0.3, "n_epochs": 1, "batch_size": 4});
    let job = ask(settings.clone(), false).await;
    let said = &job["method"]["kto"]["hyperparameters"];
    assert_eq!(job["method"]["type"], "kto", "{job}");
    assert_eq!((&said["beta"], &said["preference"]["loss"]), (&json!(0.3), &json!("kto")));
    assert_eq!((&said["desirable_weight"], &said["undesirable_weight"]), (&json!(1.0), &json!(1.0)));
    let notes = async |job: &Value| {
        server.get(&format!("/v1/fine_tuning/jobs/{}/events", job["id"].as_str().unwrap())).await.text()
    };
    let told = notes(&job).await;
    assert!(told.contains("30 answers are desirable and 10 are not"), "{told}");
    assert!(told.contains("an undesirable_weight of 2.26 to 3, not both"), "{told}");
    let page = server.get(&format!("/jobs/{}", job["id"].as_str().unwrap())).await.text();
    assert!(page.contains("data-chart=\"kl\"") && page.contains("data-chart=\"rewards\""), "{page}");
    assert!(
        page.contains("Weight of undesirable answers") && !page.contains("data-chart=\"perplexity\""),
        "{page}"
    );

    // What is shown can be sent again, and weights that even it out need no look.
    let mut again = job["method"]["kto"]["hyperparameters"].clone();
    again["undesirable_weight"] = json!(2.5);
    let again = ask(again, false).await;
    assert_eq!(again["method"]["kto"]["hyperparameters"]["undesirable_weight"], 2.5);
    assert!(!notes(&again).await.contains("Worth a look"), "{}", notes(&again).await);
    let dry = ask(settings.clone(), true).await;
    assert_eq!((&dry["rows"]["training"], &dry["steps"]), (&json!(30), &json!(8)), "{dry}");
    assert_eq!(
        ask(json!({"preference": {"loss": "apo_zero_unpaired"}}), false).await["method"]["type"],
        "kto"
    );

    // Pairs are taken apart.
    let pairs: String = (0..20)
        .map(|n| {
            format!("{}\n", json!({"prompt": format!("question {n}"), "chosen": "yes", "rejected": "no"}))
        })
        .collect();
    let pairs = server.table("pairs.jsonl", &pairs).await;
    let settings = json!({"chat_template": "chatml", "n_epochs": 1, "batch_size": 4});
    let body = json!({"model": model, "training_file": pairs, "dry_run": true, "validation_split": {"fraction": 0},
        "method": {"type": "kto", "kto": {"hyperparameters": settings}}});
    let dry = server.post("/v1/fine_tuning/jobs", &body).await.json();
    assert_eq!((&dry["rows"]["training"], &dry["steps"]), (&json!(40), &json!(10)), "{dry}");
    assert_eq!(dry["rows"]["left_out_share"], 0.0, "{dry}");
}

#[sqlx::test(migrator = "store::MIGRATOR")]
async fn a_page_shows_a_row_as_tokens_with_those_that_are_learnt_and_those_that_are_cut(db: PgPool) {
    let server = Server::new(db).await;
    let (model, file) = (server.tiny_llama().await, server.table("chats.jsonl", &chats(3)).await);
    let encoder = server.tiny_model().await;
    let text = async |path: String| {
        let page = server.get(&path).await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text());
        page.text()
    };
    assert!(text(format!("/data/{file}")).await.contains(&format!("/data/{file}/tokens?row=2")));
    // From the form of a new job, with what is chosen there.
    let found = server
        .get(&format!(
            "/data/tokens?training_file={file}&model={model}&chat_template=chatml&loss_on=all&seed=3"
        ))
        .await;
    assert_eq!(
        found.headers["location"].to_str().unwrap(),
        format!("/data/{file}/tokens?model=llama&chat_template=chatml&loss_on=all")
    );
    assert_eq!(server.get("/data/tokens?model=llama").await.status, StatusCode::BAD_REQUEST);

    let page = text(format!("/data/{file}/tokens?model=llama&chat_template=chatml&row=2")).await;
    assert!(page.contains("Row 2 as tokens") && page.contains("<h3>assistant</h3>"), "{page}");
    assert!(page.contains("row=1") && page.contains("row=3") && page.contains("rel=\"next\""), "{page}");
    assert!(!page.contains(&format!("value=\"{encoder}\"")), "an encoder writes nothing: {page}");
    let of = |page: &str, from: &str, to: &str| -> String {
        let parts = page.split(from).skip(1).map(|part| part.split(to).next().unwrap().to_owned());
        let bare = |part: String| {
            let mut words = String::new();
            for piece in part.replace("Learnt: ", "").replace("Cut off: ", "").split('<') {
                words += piece.split_once('>').map_or(piece, |(_, rest)| rest);
            }
            words
        };
        parts.map(bare).collect()
    };
    let learnt =
        |page: &str| of(page.split("</ul>").last().unwrap(), "<mark class=\"token-learnt\">", "</mark>");
    assert!(learnt(&page).contains("1·is·odd"), "{}", learnt(&page));
    assert!(!learnt(&page).contains("even"), "the question is read alone: {}", learnt(&page));
    let all = text(format!("/data/{file}/tokens?model=llama&chat_template=chatml&row=2&loss_on=all")).await;
    assert!(learnt(&all).contains("is·1·even?"), "{}", learnt(&all));
    let cut = text(format!("/data/{file}/tokens?model=llama&chat_template=chatml&row=2&max_length=12")).await;
    let struck = of(cut.split("</ul>").last().unwrap(), "<del class=\"token-cut\">", "</del>");
    assert!(struck.contains("odd") && cut.contains("cut off, at most 12 are kept"), "{cut}");

    for (query, words) in [
        ("model=llama", "no chat template to write them with"),
        ("model=llama&chat_template=chatml&max_length=many", "is not a number"),
        ("model=none&chat_template=chatml", "there is no model"),
    ] {
        let page = text(format!("/data/{file}/tokens?{query}")).await;
        assert!(page.to_lowercase().contains(&words.to_lowercase()), "{query}: {page}");
    }
    let wrong = server.table("wrong.jsonl", WRONG).await;
    let page = text(format!("/data/{wrong}/tokens?model=llama&chat_template=chatml&row=3")).await;
    assert!(page.contains("there is no role") && page.contains("line 3"), "{page}");
    let table = server.table("rows.csv", &rows(4)).await;
    assert_eq!(server.get(&format!("/data/{table}/tokens")).await.status, StatusCode::NOT_FOUND);

    // Both answers of a preference, the verdict on a labelled one, and texts, which are joined.
    let pairs = server.table("preferences.jsonl", PREFERENCES).await;
    let page = text(format!("/data/{pairs}/tokens?model=llama&chat_template=chatml&loss_on=all")).await;
    assert!(page.contains("With the better answer") && page.contains("With the worse answer"), "{page}");
    let labelled = server.table("labelled.jsonl", &answers(1, 1)).await;
    let page = text(format!("/data/{labelled}/tokens?model=llama&row=2")).await;
    assert!(
        page.contains("An undesirable answer")
            && page.split("</ul>").last().unwrap().contains("token-special"),
        "{page}"
    );
    let texts = server.table("texts.csv", "text\nonce upon a time\n").await;
    let page = text(format!("/data/{texts}/tokens?model=llama&max_length=4")).await;
    assert!(page.contains("joined end to end") && !page.contains("cut off,"), "{page}");
}

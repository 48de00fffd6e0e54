//! A server process with all that belongs to it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use luthier::process::{self, Signal};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// Longer than anything takes; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(240);

/// Whether the programs are there; in CI they must be.
pub fn is_built(test: &str) -> bool {
    let missing = match (
        luthier::agent::beside_this_program("luthier-trainer"),
        luthier::serve::installed_postgres(),
    ) {
        (None, _) => "luthier-trainer is not built",
        (_, None) => "no Postgres is installed",
        _ => return true,
    };
    assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "{missing}, and this is CI");
    println!("SKIPPED {test}: {missing}");
    false
}

/// A data folder that Postgres' own account may pass through.
pub fn data_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    folder
}

/// A running server; whatever it has started ends with it.
pub struct Running {
    pub child: Child,
    pub base: String,
    data: PathBuf,
    http: reqwest::Client,
}

impl Running {
    /// Starts a server on a data folder and waits until it is ready.
    pub async fn start(data: &Path) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut running = Running {
            child: command(data, port).spawn().unwrap(),
            base: format!("http://127.0.0.1:{port}"),
            data: data.to_owned(),
            http: reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap(),
        };
        let since = Instant::now();
        while running.try_get("/readyz").await.is_none_or(|(status, _)| status != StatusCode::OK) {
            if let Some(status) = running.child.try_wait().unwrap() {
                panic!("the server ended: {status}\n{}", running.log());
            }
            assert!(since.elapsed() < PATIENCE, "not ready:\n{}", running.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        running
    }

    /// What server and trainer said.
    pub fn log(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.data.join(name)).unwrap_or_default();
        format!("{}\n--- trainer ---\n{}", read("server.log"), read("logs/trainer.log"))
    }

    /// Process id of the agent.
    pub fn agent(&self) -> Option<u32> {
        let id = std::fs::read_to_string(self.data.join("work/agent.lock")).ok()?.trim().parse().ok()?;
        process::is_alive(id).then_some(id)
    }

    /// Process id of the job that runs.
    pub fn job_process(&self) -> Option<u32> {
        let work = self.data.join("work").to_string_lossy().into_owned();
        let processes = std::fs::read_dir("/proc").unwrap();
        let ids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
        let is_job = |id: &u32| {
            let words = process::arguments_of(*id).unwrap_or_default();
            words.get(1).is_some_and(|word| word == "job") && words.iter().any(|word| word.starts_with(&work))
        };
        ids.filter(is_job).find(|id| process::is_alive(*id))
    }

    /// Process id of Postgres.
    pub fn postgres(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.data.join("pg/postmaster.pid")).ok()?;
        text.lines().next()?.parse().ok()
    }

    /// Kills the server alone, as nobody should.
    pub async fn kill_server(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Stops the server as one should; gives how it ended.
    pub async fn stop(&mut self) -> std::process::ExitStatus {
        process::send(self.child.id().unwrap(), Signal::TERM);
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("a stop in time").unwrap()
    }

    /// A request; none where the server does not answer at all.
    pub async fn try_get(&self, path: &str) -> Option<(StatusCode, Value)> {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await.ok()?;
        Some((answer.status(), answer.json().await.unwrap_or_default()))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.try_get(path).await.unwrap_or_else(|| panic!("no answer\n{}", self.log()));
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let request = self.http.request(Method::POST, format!("{}{path}", self.base)).json(body);
        let answer = request.send().await.unwrap();
        let (status, body): (_, Value) = (answer.status(), answer.json().await.unwrap());
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    pub async fn bytes(&self, path: &str) -> Vec<u8> {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.bytes().await.unwrap().to_vec()
    }

    /// Uploads the tiny checkpoint and a small table; gives the request of a job on them.
    pub async fn prepare(&self, steps: u64) -> Value {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/tests/fixtures/bert_encoder");
        self.upload_model("tiny", &folder).await;
        let word = |n: usize| ["good", "fine", "bad", "poor"][n % 4];
        let label = |n: usize| if n % 4 < 2 { "pos" } else { "neg" };
        let rows: String = (0..64).map(|n| format!("a {} film number {n},{}\n", word(n), label(n))).collect();
        let file = self.upload_data("rows.csv", format!("text,label\n{rows}")).await;
        let settings = json!({"max_steps": steps, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 25,
            "eval_every": {"steps": 50}});
        json!({"model": "tiny", "training_file": file, "seed": 5, "hyperparameters": settings})
    }

    /// Uploads the files of a folder as a model.
    pub async fn upload_model(&self, id: &str, folder: &Path) {
        let mut form = Form::new().text("id", id.to_owned());
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            form = form.part("files", Part::bytes(std::fs::read(path).unwrap()).file_name(name));
        }
        self.upload("/v1/models", form).await;
    }

    /// Uploads rows to learn from; gives the file's id.
    pub async fn upload_data(&self, name: &str, content: String) -> String {
        let part = Part::bytes(content.into_bytes()).file_name(name.to_owned());
        let form = Form::new().text("purpose", "fine-tune").part("file", part);
        self.upload("/v1/files", form).await["id"].as_str().unwrap().to_owned()
    }

    async fn upload(&self, path: &str, form: Form) -> Value {
        let answer = self.http.post(format!("{}{path}", self.base)).multipart(form).send().await.unwrap();
        let (status, body): (_, Value) = (answer.status(), answer.json().await.unwrap());
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    /// Starts a job; gives its id.
    pub async fn create(&self, request: &Value) -> String {
        self.post("/v1/fine_tuning/jobs", request).await["id"].as_str().unwrap().to_owned()
    }

    /// Waits until a job fulfils a condition; outages of the server are sat out.
    pub async fn wait(&self, id: &str, what: impl Fn(&Value) -> bool) -> Value {
        let since = Instant::now();
        loop {
            let found = self.try_get(&format!("/v1/fine_tuning/jobs/{id}")).await;
            if let Some((StatusCode::OK, job)) = found {
                if what(&job) {
                    return job;
                }
                assert!(since.elapsed() < PATIENCE, "{job}\n{}", self.log());
            }
            assert!(since.elapsed() < PATIENCE, "no answer\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until a step is reached.
    pub async fn wait_for_step(&self, id: &str, step: i64) -> Value {
        self.wait(id, |job| {
            job["progress"]["step"].as_i64().is_some_and(|reached| reached >= step) || is_final(job)
        })
        .await
    }

    /// Waits for the end, which must be a good one.
    pub async fn wait_for_success(&self, id: &str) -> Value {
        let job = self.wait(id, is_final).await;
        assert_eq!(job["status"], "succeeded", "{job}\n{}", self.log());
        job
    }

    /// All events of a job, oldest first.
    pub async fn events(&self, id: &str) -> Vec<Value> {
        let mut events = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.get(&format!("/v1/fine_tuning/jobs/{id}/events?limit=1000{after}")).await;
            events.extend(page["data"].as_array().unwrap().iter().cloned());
            if page["has_more"] == false {
                break;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap());
        }
        events.reverse();
        events
    }

    /// Hash of the weights that a job made.
    pub async fn weights(&self, job: &Value) -> String {
        let model = self.get(&format!("/v1/models/{}", job["fine_tuned_model"].as_str().unwrap())).await;
        let files = model["files"].as_array().unwrap();
        let weights = files.iter().find(|file| file["path"] == "model.safetensors").unwrap();
        weights["sha256"].as_str().unwrap().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.start_kill());
        let agent = self.agent();
        let postgres = process::working_in(&self.data.join("pg"));
        for id in agent.into_iter().chain(postgres) {
            process::send(id, Signal::KILL);
        }
    }
}

/// `luthier serve`, without anything of the environment that the tests run in.
fn command(data: &Path, port: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_luthier"));
    let listen = format!("127.0.0.1:{port}");
    command.arg("serve").args(["--listen", &listen, "--lease-seconds", "5", "--data"]).arg(data);
    for (name, _) in
        std::env::vars().filter(|(name, _)| name == "DATABASE_URL" || name.starts_with("LUTHIER_"))
    {
        command.env_remove(name);
    }
    let log = std::fs::OpenOptions::new().create(true).append(true).open(data.join("server.log")).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

/// Another server on the same data folder: its exit code and what it said.
pub async fn start_another(data: &Path) -> (Option<i32>, String) {
    let output = command(data, 0).stderr(Stdio::piped()).output().await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub fn is_final(job: &Value) -> bool {
    ["succeeded", "failed", "cancelled"].contains(&job["status"].as_str().unwrap_or_default())
}

/// The training curve must have each step once, in order, and numbers without gaps.
pub fn check_curve(events: &[Value], steps: i64) {
    let numbers: Vec<i64> = events.iter().map(|event| event["number"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>());
    let trained: Vec<i64> = events
        .iter()
        .filter(|event| event["kind"] == "train")
        .map(|event| event["step"].as_i64().unwrap())
        .collect();
    assert_eq!(trained, (1..=steps).collect::<Vec<_>>());
    let differs = events.iter().find(|event| event["data"].get("replay").is_some());
    assert_eq!(differs, None, "a replayed step must give the same numbers");
}

//! A stage for tests: a database of its own, an object store, a work folder, and agents as real processes.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use sqlx::{ConnectOptions, PgPool};
use store::event::{Event, Kind};
use store::file::NewFile;
use store::job::Job;
use store::model::{ModelKind, NewModel};
use store::notify::Listener;
use store::queue::NewJob;
use store::{JobId, Objects, Store, StoredFile};
use tempfile::TempDir;
use tokio::time::Instant;

/// What takes longer has gone wrong.
const LIMIT: Duration = Duration::from_secs(120);

pub struct Stage {
    pub store: Store,
    pub temp: TempDir,
    pub url: String,
    /// Address of the object store.
    place: String,
    wakes: Listener,
}

impl Stage {
    pub async fn new(db: PgPool) -> Self {
        let url = db.connect_options().to_url_lossy().to_string();
        Self::at(db, url).await
    }

    pub async fn at(db: PgPool, url: String) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let place = temp.path().join("objects").display().to_string();
        Self::made(db, url, temp, place).await
    }

    /// With an object store elsewhere.
    pub async fn with_objects(db: PgPool, url: String, place: &str) -> Self {
        Self::made(db, url, tempfile::tempdir().unwrap(), place.to_owned()).await
    }

    async fn made(db: PgPool, url: String, temp: TempDir, place: String) -> Self {
        let objects = Objects::open(&place).await.unwrap();
        let wakes = Listener::spawn(db.clone());
        let store = Store::new(db, objects);
        store.mark().await.unwrap();
        Stage { store, temp, url, place, wakes }
    }

    pub fn db(&self) -> &PgPool {
        &self.store.db
    }

    /// An agent with a stand-in for the job program.
    pub fn agent(&self, name: &str) -> AgentCommand {
        let program = self.temp.path().join("program").join("fake_job.py");
        if !program.exists() {
            std::fs::create_dir_all(program.parent().unwrap()).unwrap();
            std::fs::write(&program, include_str!("fake_job.py")).unwrap();
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let mut agent = self.real_agent(name);
        agent.arguments.extend(["--job-program".to_owned(), program.display().to_string()]);
        agent
    }

    /// An agent with the real job program.
    pub fn real_agent(&self, name: &str) -> AgentCommand {
        let text = |path: PathBuf| path.display().to_string();
        let arguments = [
            ("--objects", self.place.clone()),
            ("--work", text(self.work(name))),
            ("--name", name.to_owned()),
        ];
        AgentCommand {
            arguments: arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect(),
            host: Vec::new(),
            url: self.url.clone(),
            log: self.temp.path().join(format!("{name}.log")),
            lease: 3,
            grace: 20,
        }
    }

    pub fn work(&self, name: &str) -> PathBuf {
        self.temp.path().join(format!("work-{name}"))
    }

    /// A job for the stand-in, which does what `script` says.
    pub async fn enqueue(&self, script: Value) -> JobId {
        let folder = self.temp.path().join("base");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.safetensors"), b"weights of the base").unwrap();
        std::fs::write(folder.join("config.json"), br#"{"model_type": "bert"}"#).unwrap();
        let spec = json!({
            "task": "text-classification",
            "columns": {"text": "text", "label": "label"},
            "data": {"train": "train.csv"},
            "seed": 42,
        });
        self.enqueue_spec(spec, script.to_string().as_bytes(), &folder).await
    }

    /// A job with these settings; its training file is `train.csv`.
    pub async fn enqueue_spec(&self, spec: Value, train: &[u8], model: &Path) -> JobId {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(model).unwrap() {
            let path = entry.unwrap().path();
            let stored = self.store.put_path(&path).await.unwrap();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            files.push(StoredFile { path: name, hash: stored.hash, bytes: stored.bytes });
        }
        let model_id = format!("base-{}", uuid::Uuid::now_v7().simple());
        let new = NewModel {
            model_id: model_id.clone(),
            kind: ModelKind::Base,
            task: None,
            architecture: None,
            parameters: None,
            base_model: None,
            job_id: None,
            step: None,
            metrics: json!({}),
            report: json!({}),
            files,
        };
        store::model::create(self.db(), &new).await.unwrap();
        let content = self.store.put_bytes(train.to_vec().into()).await.unwrap();
        let file = NewFile {
            name: "train.csv".to_owned(),
            purpose: "fine-tune".to_owned(),
            content,
            expires_at: None,
            inspected: None,
        };
        let file = store::file::create(self.db(), &file).await.unwrap();
        let job = NewJob {
            spec: serde_json::from_value(spec).unwrap(),
            suffix: None,
            model_id,
            training_file: Some(file.file_id),
            validation_file: None,
            test_file: None,
            metadata: Default::default(),
            priority: 0,
            max_attempts: 3,
            request: json!({}),
            manifest: json!({}),
            notes: Vec::new(),
        };
        store::queue::enqueue(self.db(), &job).await.unwrap().job_id
    }

    pub async fn job(&self, id: JobId) -> Job {
        store::job::get(self.db(), id).await.unwrap().expect("the job is there")
    }

    /// Waits, woken by the database, until the job is as described.
    pub async fn until(&self, id: JobId, what: &str, holds: impl Fn(&Job) -> bool) -> Job {
        let deadline = Instant::now() + LIMIT;
        let mut wakes = self.wakes.subscribe();
        loop {
            // An error is an outage, which some tests make.
            let found = store::job::get(self.db(), id).await;
            if let Ok(Some(job)) = &found
                && holds(job)
            {
                return found.unwrap().unwrap();
            }
            assert!(Instant::now() < deadline, "waited in vain until {what}: {found:#?}\n{}", self.logs());
            let _woken = tokio::time::timeout(Duration::from_millis(250), wakes.recv()).await;
        }
    }

    pub async fn until_step(&self, id: JobId, step: i64) -> Job {
        let reached = |job: &Job| job.progress["step"].as_i64().is_some_and(|now| now >= step);
        self.until(id, &format!("step {step} is reached"), reached).await
    }

    /// Waits until a checkpoint of this step or a later one is stored.
    pub async fn until_checkpoint(&self, id: JobId, step: i64) {
        let deadline = Instant::now() + LIMIT;
        let mut wakes = self.wakes.subscribe();
        while store::checkpoint::latest(self.db(), id).await.unwrap().is_none_or(|kept| kept.step < step) {
            assert!(
                Instant::now() < deadline,
                "waited in vain for a checkpoint of step {step}\n{}",
                self.logs()
            );
            let _woken = tokio::time::timeout(Duration::from_millis(250), wakes.recv()).await;
        }
    }

    pub async fn until_final(&self, id: JobId) -> Job {
        self.until(id, "the job has ended", |job| job.status.is_final()).await
    }

    pub async fn events(&self, id: JobId) -> Vec<Event> {
        let events = store::event::since(self.db(), id, 0, 100_000).await.unwrap();
        let numbers: Vec<_> = events.iter().map(|event| event.number).collect();
        assert_eq!(numbers, (1..=events.len() as i64).collect::<Vec<_>>(), "numbers have gaps or repeats");
        events
    }

    /// Steps of one kind of event, in the order of their numbers.
    pub async fn steps(&self, id: JobId, kind: Kind) -> Vec<i64> {
        self.events(id)
            .await
            .iter()
            .filter(|event| event.kind == kind)
            .filter_map(|event| event.step)
            .collect()
    }

    pub async fn messages(&self, id: JobId) -> String {
        let events = self.events(id).await;
        let logs = events.iter().filter(|event| event.kind == Kind::Log);
        logs.map(|event| format!("{} {}\n", event.level.as_str(), event.message)).collect()
    }

    /// Content of a file of the job's finished model.
    pub async fn model_file(&self, job: &Job, path: &str) -> Vec<u8> {
        let id = job.fine_tuned_model.as_deref().expect("the job made a model");
        let files = store::model::files(self.db(), id).await.unwrap();
        let file = files.iter().find(|file| file.path == path).expect("the model has the file");
        self.store.objects.read_all(&file.hash, 1 << 30).await.unwrap().to_vec()
    }

    /// What the agents said, for a failed assertion.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for entry in std::fs::read_dir(self.temp.path()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|kind| kind == "log") {
                text += &format!("--- {}\n", entry.path().display());
                text += &std::fs::read_to_string(entry.path()).unwrap_or_default();
            }
        }
        text
    }
}

pub struct AgentCommand {
    /// What runs it on another host.
    host: Vec<String>,
    arguments: Vec<String>,
    url: String,
    log: PathBuf,
    lease: u64,
    grace: u64,
}

impl AgentCommand {
    pub fn lease(mut self, seconds: u64) -> Self {
        self.lease = seconds;
        self
    }

    /// Gives a job so many processes.
    pub fn devices(mut self, devices: u32) -> Self {
        self.arguments.extend(["--devices".to_owned(), devices.to_string()]);
        self
    }

    /// With another object store.
    pub fn objects(mut self, place: &str) -> Self {
        let at = self.arguments.iter().position(|word| word == "--objects").unwrap();
        self.arguments[at + 1] = place.to_owned();
        self
    }

    /// In a network namespace, and with empty folders of its own in place of `hidden`.
    pub fn on_host(mut self, name: &str, hidden: &[PathBuf]) -> Self {
        let mounts: String =
            hidden.iter().map(|folder| format!("mount -t tmpfs none {} && ", folder.display())).collect();
        let script = format!("{mounts}exec \"$@\"");
        let words = [
            "ip",
            "netns",
            "exec",
            name,
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
        ];
        self.host = words.map(str::to_owned).to_vec();
        self
    }

    /// Has jobs run by another program.
    pub fn run_by(&mut self, program: &Path) {
        self.arguments.extend(["--job-program".to_owned(), program.display().to_string()]);
    }

    pub fn grace(mut self, seconds: u64) -> Self {
        self.grace = seconds;
        self
    }

    pub fn start(&self) -> AgentProcess {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let program = env!("CARGO_BIN_EXE_luthier-trainer").to_owned();
        let words: Vec<&String> = self.host.iter().chain([&program]).collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            .arg("agent")
            .args(&self.arguments)
            .args(["--lease-seconds", &self.lease.to_string(), "--grace-seconds", &self.grace.to_string()])
            .env("DATABASE_URL", &self.url)
            .env("RUST_LOG", "info,sqlx=warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        AgentProcess { child }
    }
}

pub struct AgentProcess {
    child: Child,
}

impl AgentProcess {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the agent does not end");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        // The job's process ends with its agent.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

pub fn send(id: u32, signal: Signal) {
    let pid = Pid::from_raw(id.cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// Process ids of the jobs that run in a work folder.
pub fn job_processes(work: &Path) -> Vec<u32> {
    // Another host's folder is not there to be looked at.
    let work = work.canonicalize().unwrap_or(work.to_owned());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<_> =
            words.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word)).collect();
        if words.windows(2).any(|two| two[0] == "job" && Path::new(&*two[1]).parent() == Some(&work)) {
            found.push(id);
        }
    }
    found
}

/// Waits until something outside of the database holds.
pub async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

//! The REST calls of the demo, as any program would make them.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use reqwest::multipart::{Form, Part};
use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::config::Secret;

/// Time for Postgres and server to come up.
const LONGEST_START: Duration = Duration::from_secs(120);

/// A client of one server.
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<Secret>,
}

impl Client {
    /// Talks to the server at `base`, with a key where it wants one.
    pub fn new(base: &str, key: Option<&Secret>) -> anyhow::Result<Self> {
        // A proxy of the environment is not for a server on this machine.
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Client { http, base: base.to_owned(), key: key.cloned() })
    }

    /// Waits until server and database answer.
    pub async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let ready = async {
            while !self
                .http
                .get(format!("{}/readyz", self.base))
                .send()
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LONGEST_START, ready).await.context("the server did not come up")
    }

    /// `GET`, as JSON.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(self.http.get(format!("{}{path}", self.base))).await?.json().await.context("no JSON")
    }

    /// `POST` of JSON, as JSON.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.send(self.http.post(format!("{}{path}", self.base)).json(body))
            .await?
            .json()
            .await
            .context("no JSON")
    }

    /// `GET` into a file, by rename.
    pub async fn download(&self, path: &str, to: &Path) -> anyhow::Result<()> {
        let mut content = self.send(self.http.get(format!("{}{path}", self.base))).await?.bytes_stream();
        let unfinished = to.with_extension("part");
        let mut file = tokio::fs::File::create(&unfinished).await?;
        while let Some(chunk) = content.next().await {
            file.write_all(&chunk?).await?;
        }
        file.flush().await?;
        Ok(tokio::fs::rename(unfinished, to).await?)
    }

    /// Id of a table, uploaded unless its content is there already.
    pub async fn file(&self, path: &Path) -> anyhow::Result<String> {
        let hash = hash_of(path).await?;
        let known = self.get("/v1/files?purpose=fine-tune").await?;
        let same = |file: &&Value| file["sha256"] == hash.as_str() && file["status"] == "processed";
        if let Some(file) = known["data"].as_array().into_iter().flatten().find(same) {
            return id_of(file);
        }
        let form =
            Form::new().text("purpose", "fine-tune").part("file", part_of(path, &name_of(path)).await?);
        let made = self.upload("/v1/files", form).await?;
        if made["status"] != "processed" {
            bail!("{}: {}", path.display(), made["status_details"].as_str().unwrap_or("cannot be used"));
        }
        id_of(&made)
    }

    /// Id of a checkpoint, uploaded unless its content is there already.
    pub async fn model(&self, id: &str, folder: &Path) -> anyhow::Result<String> {
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            paths.extend(Some(entry?.path()).filter(|path| path.is_file()));
        }
        let known = self.get("/v1/models").await?;
        if known["data"].as_array().into_iter().flatten().any(|model| model["id"] == id) {
            let files = self.get(&format!("/v1/models/{id}")).await?["files"].clone();
            if self.has_all(&files, &paths).await? {
                return Ok(id.to_owned());
            }
            bail!(
                "a model named {id} with other content is there already; delete it, or use another data folder"
            );
        }
        let mut form = Form::new().text("id", id.to_owned());
        for path in &paths {
            form = form.part("files", part_of(path, &name_of(path)).await?);
        }
        id_of(&self.upload("/v1/models", form).await?)
    }

    async fn has_all(&self, files: &Value, paths: &[std::path::PathBuf]) -> anyhow::Result<bool> {
        for path in paths {
            let (name, hash) = (name_of(path), hash_of(path).await?);
            let same = |file: &Value| file["path"] == name.as_str() && file["sha256"] == hash.as_str();
            if !files.as_array().into_iter().flatten().any(same) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn upload(&self, path: &str, form: Form) -> anyhow::Result<Value> {
        self.send(self.http.post(format!("{}{path}", self.base)).multipart(form))
            .await?
            .json()
            .await
            .context("no JSON")
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        };
        let answer = request.send().await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let (status, path) = (answer.status(), answer.url().path().to_owned());
        let body: Value = answer.json().await.unwrap_or_default();
        bail!("{path} answered {status}: {}", body["error"]["message"].as_str().unwrap_or("without a reason"))
    }
}

fn id_of(object: &Value) -> anyhow::Result<String> {
    Ok(object["id"].as_str().context("an answer without id")?.to_owned())
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

async fn part_of(path: &Path, name: &str) -> anyhow::Result<Part> {
    Ok(Part::file(path)
        .await
        .with_context(|| format!("cannot read {}", path.display()))?
        .file_name(name.to_owned()))
}

async fn hash_of(path: &Path) -> anyhow::Result<String> {
    let path = path.to_owned();
    let hash = move || {
        let (mut file, mut hasher) = (std::fs::File::open(path)?, Sha256::new());
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok::<_, std::io::Error>(hex::encode(hasher.finalize())),
                read => hasher.update(&buffer[..read]),
            }
        }
    };
    Ok(tokio::task::spawn_blocking(hash).await??)
}

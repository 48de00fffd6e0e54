//! Settings of `luthier serve`, each a flag and an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::agent;

/// Where the server listens, where it keeps things, and what it allows.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address and port to listen on; beyond loopback an API key is required
    #[arg(long, env = "LUTHIER_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Folder of the private Postgres, stored files, the trainer's work, logs
    #[arg(long, env = "LUTHIER_DATA", default_value = "data")]
    pub data: PathBuf,

    /// Postgres to use, as `postgres://user:password@host/name`; without one a private Postgres is run in the data folder
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<Secret>,

    /// Where file contents are kept: a folder or `s3://bucket/prefix`; `objects` in the data folder by default
    #[arg(long, env = "LUTHIER_OBJECTS")]
    pub objects: Option<String>,

    /// Whether a trainer runs beside the server
    #[arg(long, env = "LUTHIER_TRAINER", value_enum, default_value_t = Trainer::Local)]
    pub trainer: Trainer,

    /// The trainer's program; `luthier-trainer` beside this program by default
    #[arg(long, env = "LUTHIER_TRAINER_BINARY")]
    pub trainer_binary: Option<PathBuf>,

    /// Name of the local trainer; made up from host name and data folder by default
    #[arg(long, env = "LUTHIER_AGENT_NAME")]
    pub trainer_name: Option<String>,

    /// Folder with `bin/postgres` and `bin/initdb` for the private Postgres; `../postgres` from this program by default
    #[arg(long, env = "LUTHIER_POSTGRES")]
    pub postgres: Option<PathBuf>,

    /// Folder with the sample checkpoint and data; `../samples` from this program by default
    #[arg(long, env = "LUTHIER_SAMPLES")]
    pub samples: Option<PathBuf>,

    /// Key that every request must show: `Authorization: Bearer KEY`, or as the password of a browser's prompt
    #[arg(long, env = "LUTHIER_API_KEY", hide_env_values = true)]
    pub api_key: Option<Secret>,

    /// Names beside localhost and plain addresses under which browsers reach this server (`gpu-box.lan`), separated by commas
    #[arg(long, env = "LUTHIER_ALLOWED_HOSTS", value_delimiter = ',')]
    pub allowed_hosts: Vec<String>,

    /// Seconds after which a silent trainer loses its job to another
    #[arg(long, env = "LUTHIER_LEASE_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub lease_seconds: u64,

    /// Most bytes of one uploaded data file
    #[arg(long, env = "LUTHIER_MAX_FILE_BYTES", default_value_t = 512 << 20)]
    pub max_file_bytes: u64,

    /// Most bytes of one uploaded checkpoint, as sent
    #[arg(long, env = "LUTHIER_MAX_MODEL_BYTES", default_value_t = 16 << 30)]
    pub max_model_bytes: u64,

    /// Most bytes that one archive may unpack to
    #[arg(long, env = "LUTHIER_MAX_UNPACKED_BYTES", default_value_t = 32 << 30)]
    pub max_unpacked_bytes: u64,

    /// Form of the log lines on stderr
    #[arg(long, env = "LUTHIER_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Who trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trainer {
    /// A trainer started and supervised by this server.
    Local,
    /// Trainers elsewhere, started by someone else.
    None,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// The lease that trainers hold a job by.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    /// The trainer's program.
    pub fn trainer_program(&self) -> PathBuf {
        let beside = || agent::beside_this_program("luthier-trainer");
        self.trainer_binary.clone().or_else(beside).unwrap_or_else(|| PathBuf::from("luthier-trainer"))
    }

    /// Takes settings that are empty, as a variable that is passed on unset is, for settings that are not given.
    pub fn without_empty(mut self) -> Self {
        let given = |secret: &Secret| !secret.expose().trim().is_empty();
        self.api_key = self.api_key.filter(given);
        self.database_url = self.database_url.filter(given);
        self.objects = self.objects.filter(|place| !place.is_empty());
        self.trainer_name = self.trainer_name.filter(|name| !name.is_empty());
        self.allowed_hosts.retain(|host| !host.trim().is_empty());
        self
    }

    /// What makes these settings unsafe or impossible, in a sentence for the person who started the server.
    pub fn check(&self) -> Result<(), String> {
        if !self.listen.ip().is_loopback() && self.api_key.is_none() {
            return Err(format!(
                "refusing to listen on {}: anyone who reaches this address could read and change everything. \
                 Set LUTHIER_API_KEY to a secret of your choice, or listen on 127.0.0.1",
                self.listen
            ));
        }
        if self.api_key.as_ref().is_some_and(|key| key.expose().trim().len() < 8) {
            return Err("LUTHIER_API_KEY is shorter than 8 characters".to_owned());
        }
        Ok(())
    }
}

/// A text that never appears in logs.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Secret(text.to_owned()))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

//! `luthier demo`: one fine-tune from the sample checkpoint and data to a downloaded model, through the REST API.

mod client;
mod progress;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::client::Client;
use self::progress::Bar;
use crate::{Config, agent, serve};

/// How often the job is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Time that a job may wait for a trainer before the demo gives up.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// Settings of `luthier demo`: those of `serve`, and whether to end.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    #[command(flatten)]
    config: Config,

    /// End after the job, instead of serving until Ctrl-C
    #[arg(long, env = "DEMO_EXIT", value_parser = clap::builder::FalseyValueParser::new())]
    exit: bool,
}

/// Runs the demo; its code is 0 only when every step went well.
pub async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.without_empty();
    config.check().map_err(anyhow::Error::msg)?;
    let listener = listen(&config).await?;
    let base = format!("http://{}", listener.local_addr()?);
    let client = Client::new(&base, config.api_key.as_ref())?;
    let stop = CancellationToken::new();
    let mut interrupted = Box::pin(serve::stop_signal()?);
    let server = tokio::spawn(serve::launch(listener, config.clone(), stop.clone().cancelled_owned()));
    tokio::pin!(server);
    let outcome = tokio::select! {
        ended = &mut server => bail!(ended?.err().unwrap_or_else(|| anyhow::anyhow!("the server ended by itself"))),
        () = &mut interrupted => None,
        told = tell(&client, &config, &base) => Some(told),
    };
    let code = match outcome {
        None => ExitCode::from(130),
        Some(Ok(())) if args.exit => ExitCode::SUCCESS,
        Some(Ok(())) => {
            println!("\nThe server stays up at {base} until Ctrl-C.");
            tokio::select! {
                ended = &mut server => { ended??; bail!("the server ended by itself") }
                () = &mut interrupted => ExitCode::SUCCESS,
            }
        }
        Some(Err(error)) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    };
    stop.cancel();
    server.await??;
    Ok(code)
}

/// The address of the settings, or any free port of it where that one is taken.
async fn listen(config: &Config) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(config.listen).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            println!("Port {} is taken; another one is used.", config.listen.port());
            Ok(TcpListener::bind((config.listen.ip(), 0)).await?)
        }
        bound => bound.with_context(|| format!("cannot listen on {}", config.listen)),
    }
}

/// Every step, told as it is done.
async fn tell(client: &Client, config: &Config, base: &str) -> anyhow::Result<()> {
    let started = Instant::now();
    client.wait_until_ready().await?;
    println!("Serving on {base} ({:.1} s)", started.elapsed().as_secs_f64());
    let samples = config.samples.clone().or_else(|| agent::installed_folder("samples"));
    let samples = samples.context("no samples were found: run `make setup`, or set LUTHIER_SAMPLES")?;
    let model = client.model("minilm", &samples.join("minilm")).await?;
    println!("Checkpoint: {model}");
    let train = client.file(&samples.join("sample-train.csv")).await?;
    let validation = client.file(&samples.join("sample-validation.csv")).await?;
    println!("Data:       {train} (training), {validation} (validation)");
    let job = client.post("/v1/fine_tuning/jobs", &request(&model, &train, &validation)).await?;
    let id = job["id"].as_str().context("a job without id")?.to_owned();
    println!("Job:        {id}\n            {base}/jobs/{id}\n");
    let job = watch(client, &id).await?;
    print_metrics(&job);
    let tuned = job["fine_tuned_model"].as_str().context("the job made no model")?;
    let (archive, folder) = download(client, tuned, &config.data).await?;
    println!("\nDashboard:  {base}/jobs/{id}");
    println!("Checkpoint: {}", folder.display());
    println!("Archive:    {}", archive.display());
    Ok(())
}

fn request(model: &str, train: &str, validation: &str) -> Value {
    let settings = json!({"n_epochs": 1, "batch_size": 32, "learning_rate": 5e-5});
    json!({
        "model": model,
        "training_file": train,
        "validation_file": validation,
        "task": "text-classification",
        "columns": {"text": "text", "label": "label"},
        "seed": 1,
        "suffix": "demo",
        "name": "Film reviews, good or bad",
        "method": {"type": "supervised", "supervised": {"hyperparameters": settings}},
    })
}

/// Follows a job to its end.
async fn watch(client: &Client, id: &str) -> anyhow::Result<Value> {
    let since = Instant::now();
    let mut bar = Bar::new();
    loop {
        let job = client.get(&format!("/v1/fine_tuning/jobs/{id}")).await?;
        bar.show(&job);
        match job["status"].as_str().unwrap_or_default() {
            "succeeded" => {
                bar.end();
                return Ok(job);
            }
            "failed" | "cancelled" | "paused" => {
                bar.end();
                bail!(
                    "the job {}: {}",
                    job["status"].as_str().unwrap_or_default(),
                    job["error"]["message"].as_str().unwrap_or("no reason given")
                );
            }
            "queued" if since.elapsed() > LONGEST_WAIT => {
                bail!("no trainer takes the job: {}", trainers(client).await?)
            }
            _ => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Who could train, and why they do not.
async fn trainers(client: &Client) -> anyhow::Result<String> {
    let agents = client.get("/v1/agents").await?;
    let told: Vec<String> = agents["data"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|agent| {
            let name = agent["name"].as_str().unwrap_or_default();
            format!("{name}: {}", agent["unfit"].as_str().unwrap_or("busy or silent"))
        })
        .collect();
    Ok(if told.is_empty() {
        "none has come up; see logs/trainer.log in the data folder".to_owned()
    } else {
        told.join("; ")
    })
}

fn print_metrics(job: &Value) {
    println!("On the validation rows, which were not trained on:");
    for (label, name) in
        [("accuracy", "accuracy"), ("precision", "precision"), ("recall", "recall"), ("F1", "f1")]
    {
        // More than two classes have no plain precision, recall and F1, but averages of them.
        let value =
            job["metrics"][name].as_f64().or_else(|| job["metrics"][format!("{name}_macro")].as_f64());
        match value {
            Some(value) => println!("  {label:<10} {value:.4}"),
            None => println!("  {label:<10} undefined"),
        }
    }
}

/// Downloads a model and unpacks it beside the archive.
async fn download(client: &Client, model: &str, data: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let downloads = data.join("downloads");
    tokio::fs::create_dir_all(&downloads).await?;
    let downloads = downloads.canonicalize()?;
    let name = model.replace(':', "-");
    let archive = downloads.join(format!("{name}.tar"));
    client.download(&format!("/v1/models/{model}/content?format=tar"), &archive).await?;
    let (from, to) = (archive.clone(), downloads.clone());
    tokio::task::spawn_blocking(move || tar::Archive::new(std::fs::File::open(from)?).unpack(to)).await??;
    let folder = downloads.join(name);
    ensure!(folder.join("config.json").is_file(), "the archive has no config.json");
    Ok((archive, folder))
}

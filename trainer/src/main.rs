//! `luthier-trainer`: runs fine-tunes, by hand or for a server.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use luthier_trainer::{agent, device, generate, gguf, job, predict, products};
use tracing_subscriber::EnvFilter;

/// Fine-tunes models with libtorch.
#[derive(Parser)]
#[command(name = "luthier-trainer", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the job in a directory to its end, or go on where it was.
    Job(job::JobArgs),
    /// Take jobs from a server's queue.
    Agent(agent::AgentArgs),
    /// Answer requests on stdin with a finished model.
    Predict(predict::PredictArgs),
    /// Write texts on request, on stdin, with a language model.
    Generate(generate::GenerateArgs),
    /// Read GGUF files and write them.
    Gguf(gguf::GgufArgs),
    /// Print what this machine can compute with, as JSON.
    Devices,
    /// Measure how fast this machine multiplies matrices, as JSON.
    Products(products::ProductsArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Job(args) => job::run(&args),
        Command::Agent(args) => agent::run_blocking(args),
        Command::Predict(args) => predict::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Generate(args) => generate::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Gguf(args) => gguf::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Devices => {
            println!("{}", serde_json::to_string(&device::report()?)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Products(args) => {
            println!("{}", products::measure(&args)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{Config, serve, telemetry};

/// Self-hosted fine-tuning: upload data and a checkpoint, train, watch, download.
#[derive(Parser)]
#[command(name = "luthier", version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API and the pages
    Serve(Box<Config>),
}

/// Runs the command to its end.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Serve(config) => {
                telemetry::start_logging(config.log_format);
                serve::serve(*config).await?;
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

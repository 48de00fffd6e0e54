//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::demo::{self, DemoArgs};
use crate::{Config, openapi, serve, telemetry};

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
    /// Serve, and run one fine-tune of the sample checkpoint on the sample data
    Demo(Box<DemoArgs>),
    /// Print the description of the API
    Openapi,
}

/// Runs the command to its end.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match cli.command {
            Command::Serve(config) => {
                telemetry::start_logging(config.log_format, "info,sqlx=warn");
                serve::serve(config.without_empty()).await?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Demo(args) => {
                // Its own lines are what there is to see.
                telemetry::start_logging(crate::config::LogFormat::Text, "warn");
                demo::run(*args).await
            }
            Command::Openapi => {
                println!("{}", serde_json::to_string_pretty(&openapi::document())?);
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

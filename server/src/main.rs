//! `luthier`: the fine-tuning server and its command line.

use std::process::ExitCode;

use clap::Parser;
use luthier::cli::Cli;

fn main() -> ExitCode {
    match luthier::cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("luthier: {error:#}");
            ExitCode::FAILURE
        }
    }
}

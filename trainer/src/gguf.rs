//! GGUF files by hand: into a checkpoint folder, and from one.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use formats::gguf::{self, Kind};

/// What is to be done.
#[derive(Debug, Args)]
pub struct GgufArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the model of a GGUF into a folder, as a checkpoint that can be tuned.
    Import {
        /// The file.
        file: PathBuf,
        /// The folder; made where it is absent.
        folder: PathBuf,
    },
    /// Write a checkpoint folder as a GGUF.
    Export {
        /// The folder.
        folder: PathBuf,
        /// The file.
        file: PathBuf,
        /// How numbers are kept.
        #[arg(long, default_value = "f16", value_parser = kind_of)]
        kind: Kind,
    },
}

/// A kind by llama.cpp's name.
fn kind_of(name: &str) -> Result<Kind, String> {
    Kind::named(name).ok_or_else(|| format!("known are {}", Kind::ALL.map(Kind::name).join(", ")))
}

/// Does it, and says what came of it.
pub fn run(args: &GgufArgs) -> Result<()> {
    match &args.command {
        Command::Import { file, folder } => {
            let made = gguf::import(file, folder)?;
            println!("{}: {}, {} parameters", folder.display(), made.model_type, made.parameters);
            made.notices.iter().for_each(|notice| println!("{notice}"));
        }
        Command::Export { folder, file, kind } => {
            let made = gguf::export(folder, file, *kind)?;
            println!(
                "{}: {}, {} tensors, {} bytes",
                file.display(),
                made.architecture,
                made.tensors,
                made.bytes
            );
            made.notices.iter().for_each(|notice| println!("{notice}"));
        }
    }
    Ok(())
}

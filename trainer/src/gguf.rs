//! GGUF files by hand: into a checkpoint folder, and from one.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
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
        #[arg(long, default_value = "f16")]
        kind: Name,
    },
}

/// The kinds by llama.cpp's names.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Name {
    F32,
    F16,
    Bf16,
    #[value(name = "q8_0")]
    Q8,
    #[value(name = "q4_k_m")]
    Q4,
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
            let kind = match kind {
                Name::F32 => Kind::F32,
                Name::F16 => Kind::F16,
                Name::Bf16 => Kind::Bf16,
                Name::Q8 => Kind::Q8_0,
                Name::Q4 => Kind::Q4KM,
            };
            let made = gguf::export(folder, file, kind)?;
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

//! An upload that is one GGUF file: it becomes a checkpoint folder, which can be tuned.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::openai::prepare::of_problem;
use crate::{AppState, Error, Result};

/// The first bytes of such a file.
const MAGIC: [u8; 4] = *b"GGUF";

/// Whether a file is one, whatever its name.
pub fn is_gguf(path: &Path) -> bool {
    let mut start = [0; 4];
    fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == MAGIC
}

/// The one GGUF in a folder that holds nothing else.
pub fn alone_in(folder: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    let only = entries.next()?;
    (entries.next().is_none() && only.is_file() && is_gguf(&only)).then_some(only)
}

/// Writes its model into a folder.
///
/// # Errors
/// What is wrong with the file, or that its weights in 32 bits are more than this server unpacks.
pub async fn unpack(state: &AppState, file: PathBuf, into: PathBuf) -> Result<()> {
    let most = state.config.max_unpacked_bytes;
    let made = tokio::task::spawn_blocking(move || {
        let made = formats::gguf::import(&file, &into)?;
        let bytes = fs::metadata(into.join("model.safetensors")).map_or(0, |file| file.len());
        Ok::<_, formats::Problem>((made, bytes))
    });
    let made = made.await.map_err(|error| Error::Internal(error.into()))?;
    let (made, bytes) = made.map_err(|problem| of_problem("file", &problem))?;
    if bytes > most {
        return Err(Error::TooLarge(format!(
            "the weights of this GGUF take {bytes} bytes in 32 bits, and this server unpacks {most} at most"
        )));
    }
    tracing::info!(architecture = made.architecture, parameters = made.parameters, "read a GGUF");
    Ok(())
}

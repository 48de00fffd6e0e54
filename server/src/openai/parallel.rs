//! An upload of two texts whose lines belong together becomes one table.

use formats::archive::{self, Limits};
use formats::inspect::Inspection;
use formats::table::parallel::{Joined, join};
use formats::{Problem, ProblemKind, Problems};
use store::objects::Scratch;
use tempfile::TempDir;

use super::report::Report;
use crate::{AppState, Error, Result};

/// What an archive became.
pub enum Upload {
    /// What it was: no archive, or one that is no such pair, which is looked into as any file.
    AsSent(String, Scratch),
    /// The table of its two texts.
    Table(String, Scratch),
    /// Texts that do not go together.
    Unfit(String, Scratch, Box<Report>),
}

/// Makes a table of an archive with two texts, such as `train.en` and `train.fr`.
pub async fn table_of(state: &AppState, name: String, scratch: Scratch) -> Result<Upload> {
    let path = scratch.path().to_owned();
    if !archive::is_archive(&path).map_err(|error| Error::Internal(error.into()))? {
        return Ok(Upload::AsSent(name, scratch));
    }
    let folder = TempDir::with_prefix_in("pairs-", state.config.data.join("cache"))?;
    let (files, table) = (folder.path().join("files"), folder.path().join("table"));
    let limits = Limits { max_unpacked_bytes: state.config.max_file_bytes, ..Limits::default() };
    let (shown, to) = (name.clone(), table.clone());
    let made = tokio::task::spawn_blocking(move || -> Result<Joined, Problem> {
        let unpacked = archive::unpack(&path, &shown, &files, &limits)?;
        let names: Vec<String> = unpacked.files.into_iter().map(|(file, _)| file).collect();
        join(&files, &names, &shown, &to)
    });
    match made.await.map_err(|error| Error::Internal(error.into()))? {
        Ok(joined) => Ok(Upload::Table(
            joined.name,
            state.store.objects.receive_path(&table).await.map_err(anyhow::Error::from)?,
        )),
        // No pair of texts, or no archive after all: a workbook, a table that was compressed.
        Err(problem)
            if matches!(problem.kind, ProblemKind::UnsupportedFormat | ProblemKind::CorruptArchive) =>
        {
            Ok(Upload::AsSent(name, scratch))
        }
        Err(problem) => {
            let table = Inspection {
                name: name.clone(),
                bytes: scratch.stored().bytes.unsigned_abs(),
                problems: Problems::from(problem),
                ..Inspection::default()
            };
            Ok(Upload::Unfit(name, scratch, Box::new(Report { table, ..Report::default() })))
        }
    }
}

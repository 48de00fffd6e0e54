//! The files of a job.

use std::path::PathBuf;

use axum::http::StatusCode;
use formats::table::is_conll;
use store::file::{File, FileStatus};
use store::spec::DataFiles;
use tempfile::TempDir;

use crate::openai::files::find_file;
use crate::openai::report::Report;
use crate::openai::request::CreateJob;
use crate::{AppState, Error, Result};

/// Endings that say how rows are written.
const ENDINGS: [&str; 6] = ["csv", "tsv", "txt", "json", "jsonl", "ndjson"];

/// A file and the part it plays.
pub struct Part {
    pub param: &'static str,
    /// Its name in the job's folder; the ending helps to tell the format.
    pub name: String,
    pub file: File,
}

impl Part {
    async fn find(state: &AppState, param: &'static str, part: &str, id: store::FileId) -> Result<Part> {
        let file = find_file(state, id).await.map_err(|error| match error.status() {
            StatusCode::NOT_FOUND => {
                Error::NotFound { message: error.to_string(), param: Some(param.to_owned()) }
            }
            _ => error,
        })?;
        if file.status != FileStatus::Processed {
            let why = file.status_details.as_deref().unwrap_or("it has not been looked at");
            return Err(Error::invalid(param, format!("the file {id} cannot be used: {why}")));
        }
        let ending = file.name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
        let ending = if ENDINGS.contains(&&*ending) || is_conll(&ending) { ending } else { "csv".into() };
        Ok(Part { param, name: format!("{part}.{ending}"), file })
    }

    /// What inspection found in it.
    pub fn report(&self) -> Result<Report> {
        let purpose = || {
            let message = format!(
                "the file was uploaded for \"{}\", a job needs one for \"fine-tune\"",
                self.file.purpose
            );
            Error::invalid(self.param, message)
        };
        let report = self.file.report.clone().ok_or_else(purpose)?;
        Ok(serde_json::from_value(report).map_err(anyhow::Error::from)?)
    }
}

/// The files of a job.
pub struct Data {
    pub train: Part,
    pub validation: Option<Part>,
    pub test: Option<Part>,
}

/// Files on the disk, until it goes.
pub struct Fetched {
    _folder: TempDir,
    /// The field of the request, the path, and the name that the owner knows.
    pub files: Vec<(&'static str, PathBuf, String)>,
}

impl Data {
    pub async fn find(state: &AppState, asked: &CreateJob) -> Result<Data> {
        let mut data = Data {
            train: Part::find(state, "training_file", "train", asked.training_file).await?,
            validation: None,
            test: None,
        };
        if let Some(id) = asked.validation_file {
            data.validation = Some(Part::find(state, "validation_file", "validation", id).await?);
        }
        if let Some(id) = asked.test_file {
            data.test = Some(Part::find(state, "test_file", "test", id).await?);
        }
        Ok(data)
    }

    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        [Some(&self.train), self.validation.as_ref(), self.test.as_ref()].into_iter().flatten()
    }

    pub fn names(&self) -> DataFiles {
        let name = |part: &Option<Part>| part.as_ref().map(|part| part.name.clone());
        DataFiles {
            train: self.train.name.clone(),
            validation: name(&self.validation),
            test: name(&self.test),
        }
    }

    /// Puts the files into a folder.
    pub async fn fetch(&self, state: &AppState) -> Result<Fetched> {
        // Beside the objects, so that a local one is linked and not copied.
        let folder = TempDir::with_prefix_in("check-", state.config.data.join("cache"))?;
        let mut files = Vec::new();
        for part in self.parts() {
            let path = folder.path().join(&part.name);
            state.store.objects.fetch(&part.file.hash, &path).await?;
            files.push((part.param, path, part.file.name.clone()));
        }
        Ok(Fetched { _folder: folder, files })
    }
}

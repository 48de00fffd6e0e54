//! From a request to a job that can start: data and model are looked at, and everything "auto" gets its value.
//!
//! Whatever would end the job later is an answer here: columns, labels, splits, settings.

use std::path::PathBuf;

use axum::http::StatusCode;
use chrono::Utc;
use formats::dataset::{
    Columns, LabelMap, ProblemType, SplitSizes, Summary, check_classification, random_split, stratified_split,
};
use formats::inspect::{ColumnKind, Inspection, guess_columns};
use formats::{Problem, ProblemKind, Problems};
use serde_json::{Map, Value, json};
use store::file::{File, FileStatus};
use store::queue::NewJob;
use store::spec::{ClassWeights, DataFiles, Device, JobSpec, Split, request};
use store::{StoredFile, agent, model};
use tempfile::TempDir;

use super::files::find_file;
use super::request::{CreateJob, Roles};
use crate::operations::SILENCE;
use crate::{AppState, Error, Result};

/// Failures by our fault after which a job is given up.
pub const MAX_ATTEMPTS: i32 = 3;

/// Checks a request and makes a job of it; nothing is created.
pub async fn prepare(state: &AppState, body: &Map<String, Value>) -> Result<NewJob> {
    let asked = CreateJob::read(body)?;
    let model_files = find_model(state, &asked.model).await?;
    let data = Data::find(state, &asked).await?;
    let inspection = data.train.inspection()?;
    let (columns, problem_type, mut notes) = choose_columns(&asked, &inspection)?;
    let checked = data.check(state, &columns, problem_type).await?;
    let settings =
        request::hyperparameters(&asked.hyperparameters, Some(checked.train.rows)).map_err(|wrong| {
            Error::invalid(format!("{}.{}", asked.hyperparameters_at, wrong.param), wrong.message)
        })?;
    notes.extend(settings.note());
    notes.extend(checked.notices());
    let spec = JobSpec {
        task: asked.task,
        problem_type: Some(problem_type),
        columns,
        data: data.names(),
        split: asked.split,
        training: settings.training,
        resources: asked.resources,
        seed: asked.seed.unwrap_or_else(any_seed),
        base_model: asked.model.clone(),
        name: asked.name,
    };
    check_spec(&spec, asked.hyperparameters_at)?;
    check_split(&spec, &checked.train, problem_type)?;
    check_class_weights(&spec, &checked.train, asked.hyperparameters_at)?;
    check_device(state, &spec).await?;
    Ok(NewJob {
        manifest: manifest(&spec, &data, &model_files),
        spec,
        suffix: asked.suffix,
        model_id: asked.model,
        training_file: asked.training_file,
        validation_file: asked.validation_file,
        test_file: asked.test_file,
        metadata: asked.metadata,
        priority: asked.priority,
        max_attempts: MAX_ATTEMPTS,
        request: Value::Object(body.clone()),
        notes,
    })
}

/// The files of the model to start from.
async fn find_model(state: &AppState, id: &str) -> Result<Vec<StoredFile>> {
    let missing = || Error::NotFound {
        message: format!("there is no model \"{id}\""),
        param: Some("model".to_owned()),
    };
    model::get(&state.store.db, id).await?.ok_or_else(missing)?;
    Ok(model::files(&state.store.db, id).await?)
}

/// A file and the part it plays.
struct Part {
    param: &'static str,
    /// Its name in the job's folder; the ending helps to tell the format.
    name: String,
    file: File,
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
        let ending = if ["csv", "tsv", "txt", "json", "jsonl", "ndjson"].contains(&&*ending) {
            ending
        } else {
            "csv".into()
        };
        Ok(Part { param, name: format!("{part}.{ending}"), file })
    }

    fn inspection(&self) -> Result<Inspection> {
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
struct Data {
    train: Part,
    validation: Option<Part>,
    test: Option<Part>,
}

/// What the files hold.
struct Checked {
    train: Summary,
    held_out: Vec<Summary>,
}

impl Checked {
    fn notices(&self) -> Vec<String> {
        let all = std::iter::once(&self.train).chain(&self.held_out);
        all.flat_map(|summary| summary.notices.iter().map(|notice| format!("Worth a look: {notice}.")))
            .collect()
    }
}

impl Data {
    async fn find(state: &AppState, asked: &CreateJob) -> Result<Data> {
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

    fn parts(&self) -> impl Iterator<Item = &Part> {
        [Some(&self.train), self.validation.as_ref(), self.test.as_ref()].into_iter().flatten()
    }

    fn names(&self) -> DataFiles {
        let name = |part: &Option<Part>| part.as_ref().map(|part| part.name.clone());
        DataFiles {
            train: self.train.name.clone(),
            validation: name(&self.validation),
            test: name(&self.test),
        }
    }

    /// Reads every row of every file, with the classes of the training data for all.
    async fn check(&self, state: &AppState, columns: &Columns, problem_type: ProblemType) -> Result<Checked> {
        // Beside the objects, so that a local one is linked and not copied.
        let folder = TempDir::with_prefix_in("check-", state.config.data.join("cache"))?;
        let mut laid_out = Vec::new();
        for part in self.parts() {
            let path = folder.path().join(&part.name);
            state.store.objects.fetch(&part.file.hash, &path).await?;
            laid_out.push((part.param, path, part.file.name.clone()));
        }
        let wanted = columns.clone();
        let read = move || check_files(&laid_out, &wanted, problem_type);
        let checked =
            tokio::task::spawn_blocking(read).await.map_err(|error| Error::Internal(error.into()))?;
        checked.map_err(|(param, problems)| refusal(param, columns, &problems))
    }
}

fn check_files(
    files: &[(&'static str, PathBuf, String)],
    columns: &Columns,
    problem_type: ProblemType,
) -> Result<Checked, (&'static str, Problems)> {
    let mut known = None;
    let mut summaries = Vec::new();
    for (param, path, name) in files {
        let summary = check_classification(path, name, columns, problem_type, known.as_ref())
            .map_err(|wrong| (*param, wrong))?;
        if known.is_none() && problem_type != ProblemType::Regression {
            let map = LabelMap::from_names(summary.classes.iter().map(|class| class.label.clone()));
            let least = if problem_type == ProblemType::MultiLabel { 1 } else { 2 };
            map.at_least(least, name).map_err(|wrong| (*param, wrong.into()))?;
            known = Some(map);
        }
        summaries.push(summary);
    }
    let train = summaries.remove(0);
    Ok(Checked { train, held_out: summaries })
}

/// What is wrong with the rows, as an answer: the first few problems, and the field that they are about.
fn refusal(param: &'static str, columns: &Columns, problems: &Problems) -> Error {
    const SHOWN: usize = 5;
    let shown: Vec<String> = problems.listed.iter().take(SHOWN).map(Problem::to_string).collect();
    let mut message = shown.join("\n");
    if problems.total > shown.len() as u64 {
        message.push_str(&format!("\n… and {} more", problems.total - shown.len() as u64));
    }
    let Some(first) = problems.listed.first() else {
        return Error::invalid(param, "the file cannot be used");
    };
    let role = || match first.column.as_deref() {
        Some(column) if column == columns.text => "columns.text",
        Some(column) if column == columns.label => "columns.label",
        Some(column) if Some(column) == columns.text_pair.as_deref() => "columns.text_pair",
        _ => "columns",
    };
    let param = match first.kind {
        ProblemKind::UnknownColumn | ProblemKind::AmbiguousColumns => role(),
        _ => param,
    };
    Error::Invalid { message, param: Some(param.to_owned()), code: code_of(first.kind).into() }
}

/// The stable word of a kind of problem.
pub fn code_of(kind: ProblemKind) -> String {
    json!(kind).as_str().unwrap_or("invalid_value").to_owned()
}

/// Columns by what was named, the rest by what their names tell; says in a note what was guessed.
fn choose_columns(asked: &CreateJob, inspection: &Inspection) -> Result<(Columns, ProblemType, Vec<String>)> {
    check_named(&asked.columns, inspection)?;
    let Roles { text, text_pair, label } = &asked.columns;
    let (columns, notes) = match (text, label) {
        (Some(text), Some(label)) => {
            (Columns { text: text.clone(), text_pair: text_pair.clone(), label: label.clone() }, Vec::new())
        }
        _ => {
            let guess = guess_columns(inspection, asked.task.as_str()).map_err(|unclear| Error::Invalid {
                message: unclear.to_string(),
                param: Some("columns".to_owned()),
                code: code_of(unclear.kind).into(),
            })?;
            let columns = Columns {
                text: text.clone().unwrap_or(guess.columns.text),
                text_pair: text_pair.clone().or(guess.columns.text_pair.filter(|_| text.is_none())),
                label: label.clone().unwrap_or(guess.columns.label),
            };
            let pair =
                columns.text_pair.as_ref().map(|pair| format!(", text_pair `{pair}`")).unwrap_or_default();
            let note =
                format!("Columns by their names: text `{}`{pair}, label `{}`.", columns.text, columns.label);
            (columns, vec![note])
        }
    };
    let guessed = match inspection.column(&columns.label) {
        Some(column) if column.kind == ColumnKind::List => ProblemType::MultiLabel,
        Some(column) if column.kind == ColumnKind::Number && column.has_fractions => ProblemType::Regression,
        _ => ProblemType::SingleLabel,
    };
    Ok((columns, asked.problem_type.unwrap_or(guessed), notes))
}

/// A name that is not in the file is told before anyone is asked for the others.
fn check_named(roles: &Roles, inspection: &Inspection) -> Result<()> {
    let named = [
        ("columns.text", &roles.text),
        ("columns.text_pair", &roles.text_pair),
        ("columns.label", &roles.label),
    ];
    for (param, name) in named {
        let Some(name) = name.as_deref().filter(|name| inspection.column(name.trim()).is_none()) else {
            continue;
        };
        let known: Vec<&str> = inspection.column_names().collect();
        let message =
            format!("{}: there is no column `{name}`; the file has {}", inspection.name, known.join(", "));
        return Err(Error::Invalid { message, param: Some(param.to_owned()), code: "unknown_column".into() });
    }
    Ok(())
}

/// Fields of a specification by the names that the request has for them.
fn check_spec(spec: &JobSpec, hyperparameters_at: &str) -> Result<()> {
    spec.validate().map_err(|wrong| {
        let param = match wrong.param.split_once('.') {
            Some(("training", "epochs")) => format!("{hyperparameters_at}.n_epochs"),
            Some(("training", rest)) => format!("{hyperparameters_at}.{rest}"),
            Some(("split", rest)) => format!("validation_split.{rest}"),
            _ => wrong.param,
        };
        Error::invalid(param, wrong.message)
    })
}

/// Whether the rows are enough for the parts that are held out of them.
fn check_split(spec: &JobSpec, train: &Summary, problem_type: ProblemType) -> Result<()> {
    let Split { fraction, test_fraction, seed, stratify } = spec.split;
    let sizes = SplitSizes {
        validation: if spec.data.validation.is_some() { 0.0 } else { fraction },
        test: if spec.data.test.is_some() { 0.0 } else { test_fraction },
    };
    let split = if stratify && problem_type == ProblemType::SingleLabel {
        let rows_of = |(class, count): (usize, u64)| std::iter::repeat_n(class, count as usize);
        let classes: Vec<usize> =
            train.classes.iter().map(|class| class.rows).enumerate().flat_map(rows_of).collect();
        stratified_split(&classes, sizes, seed.into())
    } else {
        random_split(train.rows as usize, sizes, seed.into())
    };
    let lacking = [
        (split.train.is_empty(), "training"),
        (sizes.validation > 0.0 && split.validation.is_empty(), "validation"),
        (sizes.test > 0.0 && split.test.is_empty(), "test"),
    ];
    match lacking.iter().find(|(lacks, _)| *lacks) {
        None => Ok(()),
        Some((_, part)) => Err(Error::invalid(
            "validation_split",
            format!(
                "{} rows are too few to hold some out for {part}; give a larger fraction, a file of its own, or fraction 0",
                train.rows
            ),
        )),
    }
}

fn check_class_weights(spec: &JobSpec, train: &Summary, at: &str) -> Result<()> {
    let Some(ClassWeights::ByName(weights)) = &spec.training.class_weights else {
        return Ok(());
    };
    let known: Vec<&str> = train.classes.iter().map(|class| class.label.as_str()).collect();
    match weights.keys().find(|name| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(
            format!("{at}.class_weights"),
            format!("the training file has no class \"{name}\"; it has {}", known.join(", ")),
        )),
    }
}

/// A job for a GPU would wait for ever where every trainer at hand has none.
pub async fn check_device(state: &AppState, spec: &JobSpec) -> Result<()> {
    if spec.resources.device != Device::Cuda {
        return Ok(());
    }
    let agents = agent::list(&state.store.db).await?;
    let live: Vec<_> = agents.iter().filter(|agent| Utc::now() - agent.last_seen < SILENCE).collect();
    if live.is_empty() || live.iter().any(|agent| agent.cuda_devices > 0) {
        return Ok(());
    }
    let devices: Vec<String> =
        live.iter().map(|agent| format!("{} ({})", agent.name, agent.device)).collect();
    let message =
        format!("no trainer has a CUDA device: {}; ask for \"auto\" or \"cpu\"", devices.join(", "));
    Err(Error::Invalid { message, param: Some("resources.device".to_owned()), code: "no_cuda_device".into() })
}

fn any_seed() -> u32 {
    uuid::Uuid::new_v4().as_u128() as u32 & 0x7fff_ffff
}

/// What is known before the start of what the job is made from; the trainer adds versions and hardware.
fn manifest(spec: &JobSpec, data: &Data, model: &[StoredFile]) -> Value {
    let data: Map<String, Value> =
        data.parts().map(|part| (part.name.clone(), json!(part.file.hash))).collect();
    let files: Map<String, Value> = model.iter().map(|file| (file.path.clone(), json!(file.hash))).collect();
    json!({
        "spec": spec,
        "seed": spec.seed,
        "data": data,
        "base_model": {"name": spec.base_model, "files": files},
        "luthier": env!("CARGO_PKG_VERSION"),
    })
}

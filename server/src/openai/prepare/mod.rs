//! From a request to a job that can start: data and model are looked at, and everything "auto" gets its value.
//!
//! Whatever would end the job later is an answer here: columns, labels, conversations, splits, settings.

mod classification;
mod data;
mod generation;
mod questions;
mod related;
mod tagged;
mod text_to_text;

use chrono::Utc;
use formats::dataset::{ClassCount, Columns, ProblemType, random_split, stratified_split};
use formats::inspect::Inspection;
use formats::{Problem, ProblemKind, Problems};
use serde_json::{Map, Value, json};
use store::model::{self, Model};
use store::queue::NewJob;
use store::spec::{Device, Embedding, JobSpec, Split, Task, Work, request};
use store::{StoredFile, agent};

use self::data::Data;
use super::models::task_of;
use super::request::{CreateJob, Roles};
use super::sample;
use crate::operations::SILENCE;
use crate::{AppState, Error, Result};

/// Failures by our fault after which a job is given up.
pub const MAX_ATTEMPTS: i32 = 3;

/// What the data of a job is.
struct Looked {
    columns: Columns,
    problem_type: Option<ProblemType>,
    /// Rows of the training file.
    rows: u64,
    classes: Vec<ClassCount>,
    /// Answers that are said to be desirable, and those that are said not to be.
    answers: [u64; 2],
    /// Sentences on what was found out.
    found: Vec<String>,
    /// What is no error and yet worth a look.
    notices: Vec<String>,
}

/// Checks a request and makes a job of it; nothing is created.
pub async fn prepare(state: &AppState, body: &Map<String, Value>) -> Result<NewJob> {
    let asked = CreateJob::read(body)?;
    let (model, model_files) = find_model(state, &asked.model).await?;
    let data = Data::find(state, &asked).await?;
    let said = asked.task.or_else(|| task_of_roles(&asked.columns));
    let said = said.or_else(|| questions::task_of_data(&asked, &model, &data));
    let said = said.or_else(|| tagged::task_of_data(&asked, &model, &data));
    let said = said.or_else(|| text_to_text::task_of(&asked.columns, &model, &data));
    let task = choose_task(said, &model)?;
    let looked = match task {
        Task::TextClassification => classification::look(state, &asked, &data).await?,
        Task::TextGeneration => generation::look(state, &asked, &data).await?,
        Task::SentenceSimilarity => related::look(state, &asked, &data).await?,
        Task::QuestionAnswering => questions::look(state, &asked, &data).await?,
        Task::Translation | Task::Summarization | Task::TextToText => {
            text_to_text::look(state, &asked, &data).await?
        }
        Task::TokenClassification => tagged::look(state, &asked, &data).await?,
    };
    let settings = request::hyperparameters(&asked.hyperparameters, Some(looked.rows)).map_err(|wrong| {
        Error::invalid(format!("{}.{}", asked.hyperparameters_at, wrong.param), wrong.message)
    })?;
    let mut notes = looked.found;
    notes.extend(settings.note());
    notes.extend(looked.notices);
    let mut spec = JobSpec {
        work: Work::Train,
        task,
        problem_type: looked.problem_type,
        columns: looked.columns,
        data: data.names(),
        // Without classes there are no shares to keep.
        split: Split {
            stratify: asked.split.stratify && task == Task::TextClassification,
            ..asked.split.clone()
        },
        training: settings.training,
        resources: asked.resources.clone(),
        seed: asked.seed.unwrap_or_else(any_seed),
        base_model: asked.model.clone(),
        name: asked.name.clone(),
    };
    if task == Task::SentenceSimilarity {
        let (loss, embedding) = spec.embedding();
        spec.training.embedding = Some(Embedding { loss: Some(loss), ..embedding });
    }
    if task.is_text_to_text() {
        spec.training.text_to_text = Some(spec.text_to_text());
    }
    check_spec(&spec, asked.hyperparameters_at)?;
    notes.extend(generation::advice(&spec, looked.answers));
    check_split(&spec, looked.rows, &looked.classes)?;
    match task {
        Task::TextClassification => {
            classification::check_class_weights(&spec, &looked.classes, asked.hyperparameters_at)?;
        }
        Task::TextGeneration => generation::check_tokens(state, &spec, &asked, &data).await?,
        Task::SentenceSimilarity
        | Task::QuestionAnswering
        | Task::TokenClassification
        | Task::Translation
        | Task::Summarization
        | Task::TextToText => {
            sample::sample(state, &spec, &asked.model, Some(asked.training_file)).await?;
        }
    }
    check_device(state, &spec).await?;
    Ok(NewJob {
        manifest: manifest(&spec, &data, &model_files),
        spec,
        suffix: asked.suffix,
        model_id: asked.model,
        training_file: Some(asked.training_file),
        validation_file: asked.validation_file,
        test_file: asked.test_file,
        metadata: asked.metadata,
        priority: asked.priority,
        max_attempts: MAX_ATTEMPTS,
        request: Value::Object(body.clone()),
        notes,
    })
}

/// The task that the roles of the columns, where some were named, are there for.
fn task_of_roles(roles: &Roles) -> Option<Task> {
    related::task_of_roles(roles)
        .or_else(|| questions::task_of_roles(roles))
        .or_else(|| tagged::are_meant(roles).then_some(Task::TokenClassification))
}

/// The model to start from, and its files.
async fn find_model(state: &AppState, id: &str) -> Result<(Model, Vec<StoredFile>)> {
    let missing = || Error::NotFound {
        message: format!("there is no model \"{id}\""),
        param: Some("model".to_owned()),
    };
    let model = model::get(&state.store.db, id).await?.ok_or_else(missing)?;
    Ok((model, model::files(&state.store.db, id).await?))
}

/// The task that was asked for, or the one that the model is there for.
fn choose_task(asked: Option<Task>, model: &Model) -> Result<Task> {
    let able = task_of(model);
    let kind = match able {
        Task::TextClassification
        | Task::SentenceSimilarity
        | Task::QuestionAnswering
        | Task::TokenClassification => "an encoder",
        Task::TextGeneration => "a language model",
        Task::Translation | Task::Summarization | Task::TextToText => {
            "a model that writes one text from another"
        }
    };
    match asked {
        // A decoder reads as well as it writes.
        Some(asked @ (Task::TextClassification | Task::TokenClassification)) if !able.is_text_to_text() => {
            Ok(asked)
        }
        Some(asked) if asked.is_text_to_text() && able.is_text_to_text() => Ok(asked),
        Some(asked @ (Task::SentenceSimilarity | Task::QuestionAnswering))
            if able != Task::TextGeneration && !able.is_text_to_text() =>
        {
            Ok(asked)
        }
        Some(asked) if asked != able => Err(Error::invalid(
            "task",
            format!(
                "{} is {kind}, which learns {}, not {}; choose another model, or leave the task out",
                model.model_id,
                able.as_str(),
                asked.as_str()
            ),
        )),
        _ => Ok(able),
    }
}

/// A role was given to a column that the file does not have; `known` are those that it has.
fn unknown_column(inspection: &Inspection, (role, column): (&str, &str), known: Vec<&str>) -> Error {
    let message =
        format!("{}: there is no column `{column}`; the file has {}", inspection.name, known.join(", "));
    Error::Invalid { message, param: Some(format!("columns.{role}")), code: "unknown_column".into() }
}

/// What is wrong with the rows, as an answer: the first few problems, and the field that they are about.
pub fn refusal(param: &str, problems: &Problems) -> Error {
    const SHOWN: usize = 5;
    let shown: Vec<String> = problems.listed.iter().take(SHOWN).map(Problem::to_string).collect();
    let mut message = shown.join("\n");
    if problems.total > shown.len() as u64 {
        message.push_str(&format!("\n… and {} more", problems.total - shown.len() as u64));
    }
    match problems.listed.first() {
        None => Error::invalid(param, "the file cannot be used"),
        Some(first) => {
            Error::Invalid { message, param: Some(param.to_owned()), code: code_of(first.kind).into() }
        }
    }
}

/// One problem as an answer, at a field of the request.
pub fn of_problem(param: &str, problem: &Problem) -> Error {
    let code = code_of(problem.kind).into();
    Error::Invalid { message: problem.to_string(), param: Some(param.to_owned()), code }
}

/// The stable word of a kind of problem.
pub fn code_of(kind: ProblemKind) -> String {
    json!(kind).as_str().unwrap_or("invalid_value").to_owned()
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
fn check_split(spec: &JobSpec, rows: u64, classes: &[ClassCount]) -> Result<()> {
    let Split { seed, stratify, .. } = spec.split;
    let sizes = spec.held_out();
    let split = if stratify && spec.problem_type == Some(ProblemType::SingleLabel) {
        let rows_of = |(class, count): (usize, u64)| std::iter::repeat_n(class, count as usize);
        let classes: Vec<usize> =
            classes.iter().map(|class| class.rows).enumerate().flat_map(rows_of).collect();
        stratified_split(&classes, sizes, seed.into())
    } else {
        random_split(rows as usize, sizes, seed.into())
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
                "{rows} rows are too few to hold some out for {part}; give a larger fraction, a file of its own, or fraction 0"
            ),
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

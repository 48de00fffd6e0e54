//! The form of a new fine-tune. What it sends goes through the same function as `POST /v1/fine_tuning/jobs`.

mod columns;
mod estimate;
mod questions;
mod related;
mod sequences;
mod tagged;

use axum::Form;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use store::FileId;
use store::file::{File, Filter};
use store::queue::Dedup;
use store::spec::Task;

use self::columns::columns_part;
pub use self::estimate::show_estimate;
use self::related::{GOAL, Goal};
use super::job::find_job;
use super::settings::{self, Values};
use super::view::form::{Field, FieldKind, HeldOut, NewJob, Picker};
use super::view::text;
use super::view::{Choice, Page};
use super::{convert, data, html, models, sentence};
use crate::openai::jobs;
use crate::openai::models::task_of;
use crate::openai::report::Report;
use crate::{AppState, Error, Result};

/// Files and models to choose from.
const OFFERED: i64 = 100;

/// `GET /jobs/new`, with what is known in the query: data, model, the job to repeat, or a form that is half filled in.
pub async fn show_form(State(state): State<AppState>, Query(given): Query<Values>) -> Result<Response> {
    let mut values = settings::defaults();
    let mut from = String::new();
    if let Some(id) = given.get("from") {
        let job = find_job(&state, id).await?;
        from = convert::job_name(&job);
        values.extend(values_of(&job));
    }
    let is_half_filled = given.contains_key("token");
    values.extend(given.into_iter().filter(|(name, _)| name != "from"));
    if is_half_filled {
        settings::fill_switches(&mut values);
    }
    let form = form(&state, values, Values::new(), from).await?;
    html(&form)
}

fn values_of(job: &store::job::Job) -> Values {
    let spec = &job.spec.0;
    let mut values = settings::values_of(spec);
    let mut put = |name: &str, value: String| values.insert(name.to_owned(), value);
    put("name", job.name.clone());
    put("suffix", job.suffix.clone().unwrap_or_default());
    put("priority", job.priority.to_string());
    let training_file = job.training_file.map(|id| id.to_string()).unwrap_or_default();
    put("training_file", training_file.clone());
    put("validation_file", job.validation_file.map(|id| id.to_string()).unwrap_or_default());
    put("test_file", job.test_file.map(|id| id.to_string()).unwrap_or_default());
    put("model", job.model_id.clone());
    put("columns.of", training_file);
    put("columns.text", spec.columns.text.clone());
    put("columns.text_pair", spec.columns.text_pair.clone().unwrap_or_default());
    put("columns.label", spec.columns.label.clone());
    put(
        GOAL,
        match spec.task.is_text_to_text() {
            true => spec.task.as_str().to_owned(),
            false => Goal::of(spec.task, &spec.columns).name(),
        },
    );
    put("columns.goal_of", job.model_id.clone());
    for (name, value) in related::values_of(&spec.columns)
        .into_iter()
        .chain(questions::values_of(&spec.columns))
        .chain(sequences::values_of(&spec.columns))
        .chain(tagged::values_of(&spec.columns))
    {
        put(name, value);
    }
    values
}

/// `GET /jobs/new/columns`
pub async fn show_columns(
    State(state): State<AppState>,
    Query(mut values): Query<Values>,
) -> Result<Response> {
    settle_task(&state, &mut values).await?;
    let files = offered_files(&state, &values).await?;
    html(&columns_part(&files, &values, &Values::new()))
}

/// `GET /jobs/new/picker`, after an upload
pub async fn show_picker(State(state): State<AppState>, Query(query): Query<Values>) -> Result<Response> {
    let name = query.get("name").map(String::as_str).unwrap_or_default();
    let chosen = query.get("chosen").cloned().unwrap_or_default();
    let values = Values::from([(name.to_owned(), chosen)]);
    let picker = match name {
        "training_file" => data_picker(&offered_files(&state, &values).await?, &values, String::new()),
        "model" => model_picker(&state, &values, String::new()).await?,
        other => return Err(Error::not_found(format!("there is no list of {other:?}"))),
    };
    html(&picker)
}

/// `POST /jobs`
pub async fn create_job(State(state): State<AppState>, Form(mut values): Form<Values>) -> Result<Response> {
    settings::fill_switches(&mut values);
    settle_task(&state, &mut values).await?;
    let body = match request(&values) {
        Ok(body) => body,
        Err(errors) => return refused(&state, values, errors).await,
    };
    let dedup = Dedup {
        key: values.get("token").filter(|token| !token.is_empty()).map(|token| format!("form {token}")),
        request_hash: hex::encode(Sha256::digest(Value::Object(body.clone()).to_string())),
        retry_within: None,
    };
    match jobs::create(&state, &body, &dedup).await {
        Ok(job) => Ok(Redirect::to(&convert::job_href(job.job_id)).into_response()),
        Err(error) if error.status().is_client_error() => {
            let errors = Values::from([place_of(&error)]);
            refused(&state, values, errors).await
        }
        Err(error) => Err(error),
    }
}

/// The request that the form stands for, or all that is wrong with it as far as it can be told at once.
fn request(values: &Values) -> Result<Map<String, Value>, Values> {
    let mut errors = Values::new();
    let given = |name: &str| values.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());
    for (name, what) in
        [("training_file", "Choose the data to learn from."), ("model", "Choose a checkpoint to start from.")]
    {
        if given(name).is_none() {
            errors.insert(name.to_owned(), what.to_owned());
        }
    }
    let mut body = match settings::request(values) {
        Ok(Value::Object(body)) => body,
        Ok(_) => Map::new(),
        Err(wrong) => {
            errors.extend(wrong);
            Map::new()
        }
    };
    if !errors.is_empty() {
        return Err(errors);
    }
    for name in ["training_file", "validation_file", "test_file", "model", "task"] {
        if let Some(value) = given(name) {
            body.insert(name.to_owned(), value.into());
        }
    }
    if is_generation(values) {
        return Ok(body);
    }
    if sequences::are_meant(values) {
        body.insert("columns".to_owned(), sequences::request(values).into());
        return Ok(body);
    }
    if is_task(values, Task::TokenClassification) {
        body.insert("columns".to_owned(), tagged::request(values).into());
        return Ok(body);
    }
    if is_task(values, Task::SentenceSimilarity) {
        let goal = Goal::said(values).filter(|goal| goal.is_of_vectors()).unwrap_or(Goal::Ranked);
        body.insert("columns".to_owned(), related::request(goal, values).into());
        return Ok(body);
    }
    if is_task(values, Task::QuestionAnswering) {
        body.insert("columns".to_owned(), questions::request(values).into());
        return Ok(body);
    }
    body.extend(given("problem_type").map(|problem| ("problem_type".to_owned(), problem.into())));
    let columns: Map<String, Value> = ["text", "text_pair", "label"]
        .into_iter()
        .filter_map(|role| Some((role.to_owned(), given(&format!("columns.{role}"))?.into())))
        .collect();
    body.insert("columns".to_owned(), columns.into());
    Ok(body)
}

/// Says what is learnt: what the chosen model is there for or, before one is chosen, what the data looks like.
async fn settle_task(state: &AppState, values: &mut Values) -> Result<()> {
    let db = &state.store.db;
    tagged::settle(state, values).await?;
    let given = |name: &str| values.get(name).filter(|value| !value.is_empty());
    let model = match given("model") {
        Some(id) => store::model::get(db, id).await?,
        None => Some(models::whole_models(state, None, 2).await?.items)
            .filter(|models| models.len() == 1)
            .and_then(|mut models| models.pop()),
    };
    let file = match given("training_file").and_then(|id| id.parse::<FileId>().ok()) {
        Some(id) => store::file::get(db, id).await?,
        None => None,
    };
    let report = file.as_ref().and_then(Report::of_file);
    let table = report.as_ref().map(|report| &report.table);
    let task = match (model, &report) {
        (Some(model), _) if task_of(&model) == Task::TextGeneration => Task::TextGeneration,
        (Some(model), report) if task_of(&model).is_text_to_text() => {
            sequences::settle(values, &model, report.as_ref())
        }
        (Some(model), _) => {
            let goal = Goal::settled(values, Some(&model), table);
            values.insert(GOAL.to_owned(), goal.name());
            values.insert("columns.goal_of".to_owned(), model.model_id.clone());
            goal.task()
        }
        (None, Some(report)) if report.chat.is_some() => Task::TextGeneration,
        (None, _) => {
            let goal = Goal::settled(values, None, table);
            values.insert(GOAL.to_owned(), goal.name());
            goal.task()
        }
    };
    values.insert("task".to_owned(), task.as_str().to_owned());
    Ok(())
}

/// Whether the form is about text generation.
fn is_generation(values: &Values) -> bool {
    is_task(values, Task::TextGeneration)
}

fn is_task(values: &Values, task: Task) -> bool {
    values.get("task").is_some_and(|said| said == task.as_str())
}

/// The input that a refusal belongs to, and its words; an empty name for the form as a whole.
fn place_of(error: &Error) -> (String, String) {
    let param = match error {
        Error::Invalid { param, .. } | Error::NotFound { param, .. } => param.as_deref(),
        _ => None,
    };
    let own = [
        "training_file",
        "validation_file",
        "test_file",
        "model",
        "problem_type",
        "columns.text",
        "columns.text_pair",
        "columns.label",
        "columns.anchor",
        "columns.positive",
        "columns.negative",
        "columns.text1",
        "columns.text2",
        "columns.score",
        "columns.context",
        "columns.question",
        "columns.answers",
        "columns.answer_start",
        "columns.is_impossible",
        "columns.source",
        "columns.target",
        "columns.tokens",
        "columns.tags",
        "columns.entities",
    ];
    // The task follows from the model.
    let param = param.map(|param| if param == "task" { "model" } else { param });
    let input = param.and_then(|param| {
        own.iter()
            .find(|name| **name == param)
            .map(|name| (*name).to_owned())
            .or_else(|| settings::input_of(param))
    });
    (input.unwrap_or_default(), sentence(&error.to_string()))
}

/// The form again, with what is wrong at each field.
async fn refused(state: &AppState, values: Values, errors: Values) -> Result<Response> {
    let page = form(state, values, errors, String::new()).await?;
    Ok((axum::http::StatusCode::UNPROCESSABLE_ENTITY, html(&page)?).into_response())
}

async fn form(state: &AppState, mut values: Values, errors: Values, from: String) -> Result<NewJob> {
    let files = offered_files(state, &values).await?;
    choose_the_only_one(
        &mut values,
        "training_file",
        files.iter().filter(|file| is_usable(file)).map(|file| file.file_id.to_string()),
    );
    settle_task(state, &mut values).await?;
    let (first, groups) = settings::fields(&values, &errors);
    let changed = settings::changed(&values);
    let error_of = |name: &str| errors.get(name).cloned().unwrap_or_default();
    let hidden_error = groups.iter().flat_map(|group| &group.fields).any(|field| !field.error.is_empty());
    let models = model_picker(state, &values, error_of("model")).await?;
    let general = error_of("");
    let error = if !general.is_empty() || errors.is_empty() {
        general
    } else {
        "The run was not started. What is wrong is marked below.".to_owned()
    };
    Ok(NewJob {
        page: Page::new("New fine-tune", "new").with(&["js/upload.js", "js/new-job.js"]),
        task: values.get("task").cloned().unwrap_or_default(),
        token: uuid::Uuid::new_v4().simple().to_string(),
        error,
        data: data_picker(&files, &values, error_of("training_file")),
        columns: columns_part(&files, &values, &errors),
        held_out: held_out(&files, &values, &errors),
        models,
        first,
        groups,
        open: hidden_error || !changed.is_empty(),
        changed: if changed.is_empty() {
            String::new()
        } else {
            format!("changed: {}", changed.join(", ").to_lowercase())
        },
        limits: (text::bytes(state.config.max_file_bytes), text::bytes(state.config.max_model_bytes)),
        from,
    })
}

/// Where there is one thing to choose from, it is chosen.
fn choose_the_only_one(values: &mut Values, name: &str, mut ids: impl Iterator<Item = String>) {
    if values.get(name).is_none_or(String::is_empty)
        && let (Some(only), None) = (ids.next(), ids.next())
    {
        values.insert(name.to_owned(), only);
    }
}

/// The newest files for fine-tuning, and those that the form names.
async fn offered_files(state: &AppState, values: &Values) -> Result<Vec<File>> {
    let db = &state.store.db;
    let filter = Filter { purpose: Some("fine-tune".to_owned()), ..Filter::default() };
    let mut files = store::file::list(db, &filter, OFFERED).await?.items;
    for name in ["training_file", "validation_file", "test_file"] {
        let id = values.get(name).and_then(|id| id.parse::<FileId>().ok());
        if let Some(id) = id.filter(|id| files.iter().all(|file| file.file_id != *id)) {
            files.extend(store::file::get(db, id).await?);
        }
    }
    Ok(files)
}

fn is_usable(file: &File) -> bool {
    file.status == store::file::FileStatus::Processed
}

fn data_picker(files: &[File], values: &Values, error: String) -> Picker {
    let chosen = values.get("training_file").map(String::as_str).unwrap_or_default();
    let choice = |file: &File| {
        let id = file.file_id.to_string();
        Choice {
            checked: id == chosen,
            // One that was just uploaded and cannot be used is shown with what is wrong.
            disabled: !is_usable(file) && id != chosen,
            name: file.name.clone(),
            note: data::choice_note(file),
            value: id,
            task: "",
        }
    };
    Picker {
        name: "training_file",
        choices: files.iter().map(choice).collect(),
        empty: "No data yet. Drop a file below.",
        error,
    }
}

async fn model_picker(state: &AppState, values: &Values, error: String) -> Result<Picker> {
    let chosen = values.get("model").cloned().unwrap_or_default();
    let mut models = models::whole_models(state, None, OFFERED).await?.items;
    if !chosen.is_empty() && models.iter().all(|model| model.model_id != chosen) {
        models.extend(store::model::get(&state.store.db, &chosen).await?);
    }
    let only = models.len() == 1 && chosen.is_empty();
    let choice = |model: &store::model::Model| Choice {
        checked: only || model.model_id == chosen,
        disabled: false,
        name: convert::short_model(&model.model_id),
        note: models::choice_note(model),
        task: task_of(model).as_str(),
        value: model.model_id.clone(),
    };
    Ok(Picker {
        name: "model",
        choices: models.iter().map(choice).collect(),
        empty: "No checkpoint yet. Drop one below.",
        error,
    })
}

fn held_out(files: &[File], values: &Values, errors: &Values) -> HeldOut {
    let fraction =
        values.get("validation_split.fraction").and_then(|share| share.parse::<f64>().ok()).unwrap_or(0.1);
    let share = format!("Hold out {:.0} % of the rows", fraction * 100.0);
    let usable: Vec<&File> = files.iter().filter(|file| is_usable(file)).collect();
    let select = |name: &str, label: &str, help: &str, none: &str| {
        let options = usable.iter().map(|file| option(&file.file_id.to_string(), &file.name));
        Field {
            name: name.to_owned(),
            label: label.to_owned(),
            help: help.to_owned(),
            value: values.get(name).cloned().unwrap_or_default(),
            error: errors.get(name).cloned().unwrap_or_default(),
            kind: FieldKind::Select(std::iter::once(option("", none)).chain(options).collect()),
            ..Field::default()
        }
    };
    HeldOut {
        validation: select(
            "validation_file",
            "Validation data",
            "Rows to evaluate on while it trains, and to choose the best checkpoint by.",
            &share,
        ),
        test: select(
            "test_file",
            "Test data",
            "Evaluated once at the end, with the chosen checkpoint.",
            "None",
        ),
    }
}

fn option(value: &str, name: &str) -> Choice {
    Choice { value: value.to_owned(), name: name.to_owned(), ..Choice::default() }
}

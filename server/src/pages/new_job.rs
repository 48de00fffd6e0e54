//! The form of a new fine-tune. What it sends goes through the same function as `POST /v1/fine_tuning/jobs`.

use axum::Form;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use formats::dataset::{ClassCount, ProblemType};
use formats::inspect::{Column, ColumnKind, Inspection, guess_columns};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use store::FileId;
use store::file::{File, Filter};
use store::queue::Dedup;

use super::job::find_job;
use super::settings::{self, Values};
use super::view::data::Preview;
use super::view::form::{ColumnsPart, EstimateLine, Field, FieldKind, HeldOut, NewJob, Picker};
use super::view::text;
use super::view::{Choice, Page, ProblemRow};
use super::{convert, data, html, models, sentence};
use crate::openai::dry_run::{self, DryRun};
use crate::openai::jobs;
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
    put("training_file", job.training_file.to_string());
    put("validation_file", job.validation_file.map(|id| id.to_string()).unwrap_or_default());
    put("test_file", job.test_file.map(|id| id.to_string()).unwrap_or_default());
    put("model", job.model_id.clone());
    put("columns.of", job.training_file.to_string());
    put("columns.text", spec.columns.text.clone());
    put("columns.text_pair", spec.columns.text_pair.clone().unwrap_or_default());
    put("columns.label", spec.columns.label.clone());
    values
}

/// `GET /jobs/new/columns`
pub async fn show_columns(State(state): State<AppState>, Query(values): Query<Values>) -> Result<Response> {
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

/// `GET /jobs/new/estimate`: what the form as it stands would take; empty while it cannot be started.
pub async fn show_estimate(
    State(state): State<AppState>,
    Query(mut values): Query<Values>,
) -> Result<Response> {
    settings::fill_switches(&mut values);
    let Ok(body) = request(&values) else { return html(&EstimateLine::default()) };
    let new = match jobs::checked(&state, &body).await {
        Ok(new) => new,
        // Start says it at its field.
        Err(error) if error.status().is_client_error() => return html(&EstimateLine::default()),
        Err(error) => return Err(error),
    };
    html(&estimate_line(&dry_run::dry_run(&state, &new).await?))
}

fn estimate_line(run: &DryRun) -> EstimateLine {
    let estimate = &run.estimate;
    let mut text = format!(
        "About {} of memory, {}, {} tokens a step",
        text::bytes(estimate.total()),
        text::plural(estimate.steps, "step", "steps"),
        text::count(estimate.tokens_per_step)
    );
    match &run.speed {
        Some((seconds, job)) => text.push_str(&format!(
            "; {} of training at the speed of {}.",
            text::duration(seconds * estimate.steps as f64),
            convert::job_name(job)
        )),
        None => text.push('.'),
    }
    let largest = run.agents.iter().filter_map(|(agent, _)| agent.memory_bytes).max().unwrap_or_default();
    let warning = match (run.fits(), &run.suggestion) {
        (Some(true) | None, _) => String::new(),
        (Some(false), None) => format!(
            "No trainer has so much memory: the largest has {}. Take a smaller model, or a machine with more.",
            text::bytes(largest.unsigned_abs())
        ),
        (Some(false), Some(way)) => format!(
            "No trainer has so much memory: the largest has {}. With {} it needs about {}.",
            text::bytes(largest.unsigned_abs()),
            way.setting,
            text::bytes(way.total)
        ),
    };
    EstimateLine { text, warning }
}

/// `POST /jobs`
pub async fn create_job(State(state): State<AppState>, Form(mut values): Form<Values>) -> Result<Response> {
    settings::fill_switches(&mut values);
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
    for name in ["training_file", "validation_file", "test_file", "model", "problem_type"] {
        if let Some(value) = given(name) {
            body.insert(name.to_owned(), value.into());
        }
    }
    let columns: Map<String, Value> = ["text", "text_pair", "label"]
        .into_iter()
        .filter_map(|role| Some((role.to_owned(), given(&format!("columns.{role}"))?.into())))
        .collect();
    body.insert("columns".to_owned(), columns.into());
    body.insert("task".to_owned(), json!("text-classification"));
    Ok(body)
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
    ];
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
    Choice {
        value: value.to_owned(),
        name: name.to_owned(),
        note: String::new(),
        checked: false,
        disabled: false,
    }
}

/// Columns, preview and problems of the chosen file.
fn columns_part(files: &[File], values: &Values, errors: &Values) -> ColumnsPart {
    let chosen = values.get("training_file").map(String::as_str).unwrap_or_default();
    let Some(file) = files.iter().find(|file| file.file_id.to_string() == chosen) else {
        return ColumnsPart::default();
    };
    let inspection = data::inspection_of(file).unwrap_or_default();
    if !inspection.is_usable() {
        let problems = data::problems(&inspection);
        return ColumnsPart {
            chosen: true,
            unusable: true,
            problems,
            of: chosen.to_owned(),
            ..ColumnsPart::default()
        };
    }
    let roles = Roles::of(chosen, values, &inspection);
    let missing = roles.missing(&inspection);
    let mut problems = data::problems(&inspection);
    problems.rows.splice(0..0, missing);
    ColumnsPart {
        chosen: true,
        of: chosen.to_owned(),
        label: roles.label.clone(),
        guess: roles.guess_words().to_owned(),
        summary: roles.summary(&inspection),
        preview: preview(&inspection, &roles),
        unusable: problems.rows.iter().any(|problem| problem.fatal),
        roles: roles.fields(&inspection, errors),
        problems,
    }
}

fn preview(inspection: &Inspection, roles: &Roles) -> Preview {
    let mut preview = data::preview(inspection, |name| roles.of_column(name));
    preview.rows.truncate(6);
    preview
}

/// Which column plays which role; empty for none.
struct Roles {
    text: String,
    text_pair: String,
    label: String,
    problem: ProblemType,
    /// Whether these are the guess.
    guessed: bool,
}

impl Roles {
    /// What the form says of this very file, or the guess.
    fn of(file: &str, values: &Values, inspection: &Inspection) -> Roles {
        let value = |name: &str| values.get(name).cloned().unwrap_or_default();
        let is_own = value("columns.of") == file;
        let known = |name: &str| {
            Some(value(name)).filter(|column| inspection.column(column).is_some()).unwrap_or_default()
        };
        let guess = guess_columns(inspection, "text-classification").ok();
        let (text, text_pair, label) = match &guess {
            _ if is_own => (known("columns.text"), known("columns.text_pair"), known("columns.label")),
            Some(guess) => {
                let columns = guess.columns.clone();
                (columns.text, columns.text_pair.unwrap_or_default(), columns.label)
            }
            None => Default::default(),
        };
        let said = match value("problem_type").as_str() {
            "single_label" => Some(ProblemType::SingleLabel),
            "multi_label" => Some(ProblemType::MultiLabel),
            "regression" => Some(ProblemType::Regression),
            _ => None,
        };
        // Another label column is another kind of label, until the person says otherwise.
        let same_label = is_own && value("columns.label_was") == label;
        let problem = said.filter(|_| same_label || (is_own && value("columns.label_was").is_empty()));
        let problem =
            problem.unwrap_or_else(|| inspection.column(&label).map_or(ProblemType::SingleLabel, kind_of));
        Roles { text, text_pair, label, problem, guessed: guess.is_some() && !is_own }
    }

    fn of_column(&self, name: &str) -> &'static str {
        match name {
            _ if name == self.text => "text",
            _ if name == self.text_pair => "second text",
            _ if name == self.label => "label",
            _ => "",
        }
    }

    fn guess_words(&self) -> &'static str {
        if self.guessed {
            "Chosen by the names and values of the columns; change it where it is wrong."
        } else if self.text.is_empty() || self.label.is_empty() {
            "Say which column is the text and which the label."
        } else {
            ""
        }
    }

    fn fields(&self, inspection: &Inspection, errors: &Values) -> Vec<Field> {
        let select = |name: &str, label: &str, help: &str, value: &str, none: &str| {
            let names = inspection.column_names().map(|column| option(column, column));
            Field {
                name: name.to_owned(),
                label: label.to_owned(),
                help: help.to_owned(),
                value: value.to_owned(),
                error: errors.get(name).cloned().unwrap_or_default(),
                kind: FieldKind::Select(std::iter::once(option("", none)).chain(names).collect()),
                ..Field::default()
            }
        };
        vec![
            select("columns.text", "Text", "What the model reads.", &self.text, "choose"),
            select(
                "columns.text_pair",
                "Second text",
                "For pairs, such as a question and an answer.",
                &self.text_pair,
                "none",
            ),
            select("columns.label", "Label", "What the model learns to say.", &self.label, "choose"),
            self.problem_field(errors),
        ]
    }

    fn problem_field(&self, errors: &Values) -> Field {
        let options = [
            ("single_label", "One class a row"),
            ("multi_label", "Several classes a row"),
            ("regression", "A number"),
        ];
        Field {
            name: "problem_type".to_owned(),
            label: "Kind of label".to_owned(),
            help: "Decides the loss and the metrics.".to_owned(),
            value: settings::problem_word(self.problem).to_owned(),
            error: errors.get("problem_type").cloned().unwrap_or_default(),
            kind: FieldKind::Select(options.iter().map(|(value, name)| option(value, name)).collect()),
            ..Field::default()
        }
    }

    /// Rows without a text or a label, which cannot be trained on.
    fn missing(&self, inspection: &Inspection) -> Vec<ProblemRow> {
        let of = |column: &str, what: &str| {
            let missing = inspection.column(column).map_or(0, |column| column.missing);
            (missing > 0).then(|| ProblemRow {
                place: format!("Column {column}"),
                message: format!(
                    "{} without a {what}; fill them in, or take these rows out.",
                    text::plural(missing, "row is", "rows are")
                ),
                fatal: true,
            })
        };
        let label = if self.problem == ProblemType::MultiLabel { None } else { of(&self.label, "label") };
        [of(&self.text, "text"), label].into_iter().flatten().collect()
    }

    /// "9,514 rows, 2 classes: positive 5,832, negative 3,682".
    fn summary(&self, inspection: &Inspection) -> String {
        let rows = text::plural(inspection.rows, "row", "rows");
        let Some(column) = inspection.column(&self.label) else { return rows };
        if self.problem == ProblemType::Regression {
            return format!("{rows}, each with a number");
        }
        let mut classes = column.classes.clone();
        if classes.is_empty() {
            return format!(
                "{rows}, {}",
                text::plural(column.distinct, "different label", "different labels")
            );
        }
        classes.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.label.cmp(&b.label)));
        let named = |class: &ClassCount| format!("{} {}", class.label, text::count(class.rows));
        let named: Vec<String> = classes.iter().take(6).map(named).collect();
        let more = if classes.len() > 6 { ", …" } else { "" };
        format!(
            "{rows}, {}: {}{more}",
            text::plural(classes.len() as u64, "class", "classes"),
            named.join(", ")
        )
    }
}

fn kind_of(label: &Column) -> ProblemType {
    match label.kind {
        ColumnKind::List => ProblemType::MultiLabel,
        ColumnKind::Number if label.has_fractions => ProblemType::Regression,
        _ => ProblemType::SingleLabel,
    }
}

//! Uploaded data: list, upload without script, one file's page, deletion.

use axum::Json;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use chrono::Utc;
use formats::dataset::{Columns, ProblemType};
use formats::inspect::{
    Column, ColumnKind, ColumnsGuess, Inspection, asks_questions, guess_columns, guess_questions,
};
use formats::table::Format;
use formats::{LineRange, Problem};
use serde::Deserialize;
use store::FileId;
use store::file::{Deleted, File, Filter};
use store::spec::Task;

use super::job::ask;
use super::view::data::{ColumnRow, DataDetail, DataList, DataRow, LabelRow, Preview, PreviewRow, Problems};
use super::view::text::{self, Moment};
use super::view::{ConfirmQuestion, Fact, Page, Paging, ProblemRow};
use super::{chat, convert, html, sentence, tagged, text_to_text, tokens};
use crate::openai::files::create_file;
use crate::openai::report::Report;
use crate::{AppState, Error, Result};

/// Files on a page of the list.
const LISTED: i64 = 50;

/// Problems shown of a file; the rest are counted.
const SHOWN_PROBLEMS: usize = 20;

/// Classes shown of a file.
const SHOWN_CLASSES: usize = 24;

/// Routes of the data pages.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/data", get(list_data).post(upload).layer(DefaultBodyLimit::disable()))
        .route("/data/tokens", get(tokens::find_tokens))
        .route("/data/{id}", get(show_data))
        .route("/data/{id}/tokens", get(tokens::show_tokens))
        .route("/data/{id}/delete", get(confirm_delete).post(delete))
}

#[derive(Deserialize)]
pub struct ListQuery {
    after: Option<String>,
}

async fn list_data(State(state): State<AppState>, Query(query): Query<ListQuery>) -> Result<Response> {
    html(&data_list(&state, query.after.as_deref(), String::new()).await?)
}

async fn data_list(state: &AppState, after: Option<&str>, error: String) -> Result<DataList> {
    let parsed = after.map(str::parse::<FileId>).transpose();
    let parsed = parsed.map_err(|error| Error::invalid("after", error.to_string()))?;
    let filter = Filter { after: parsed, purpose: Some("fine-tune".to_owned()), ascending: false };
    let list = store::file::list(&state.store.db, &filter, LISTED).await?;
    let older =
        if list.more { list.items.last().map(|file| format!("/data?after={}", file.file_id)) } else { None };
    Ok(DataList {
        page: Page::new("Data", "data").with(&["js/upload.js"]),
        rows: list.items.iter().map(data_row).collect(),
        paging: Paging {
            newest: after.map(|_| "/data".to_owned()).unwrap_or_default(),
            older: older.unwrap_or_default(),
        },
        limit: text::bytes(state.config.max_file_bytes),
        error,
    })
}

/// The same upload as the API's, from a form without script.
async fn upload(State(state): State<AppState>, headers: HeaderMap, request: Request) -> Result<Response> {
    match create_file(State(state.clone()), headers, request).await {
        Ok(Json(file)) => {
            Ok(Redirect::to(&format!("/data/{}", file["id"].as_str().unwrap_or_default())).into_response())
        }
        Err(error) if error.status().is_client_error() => {
            let page = data_list(&state, None, sentence(&error.to_string())).await?;
            Ok((error.status(), html(&page)?).into_response())
        }
        Err(error) => Err(error),
    }
}

fn data_row(file: &File) -> DataRow {
    let report = Report::of_file(file).unwrap_or_default();
    let inspection = &report.table;
    let columns: Vec<&str> = inspection.column_names().collect();
    let problems = inspection.problems.total
        + report.chat.as_ref().map_or(0, |chat| chat.problems.total)
        + report.tags.as_ref().map_or(0, |tags| tags.problems.total);
    let state = if report.is_usable() {
        ("good", "ready".to_owned())
    } else if problems > 0 {
        ("bad", text::plural(problems, "problem", "problems"))
    } else {
        ("bad", "no rows".to_owned())
    };
    DataRow {
        href: convert::data_href(file.file_id),
        name: file.name.clone(),
        rows: text::count(inspection.rows),
        columns: columns.join(", "),
        size: text::bytes(file.bytes.max(0) as u64),
        created: Moment::at(file.created_at, Utc::now()),
        state,
    }
}

/// A file by the id in an address.
pub async fn find_file(state: &AppState, id: &str) -> Result<File> {
    let missing = || Error::not_found(format!("there is no data {id} on this server"));
    let parsed: FileId = id.parse().map_err(|_| missing())?;
    store::file::get(&state.store.db, parsed).await?.ok_or_else(missing)
}

async fn show_data(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let file = find_file(&state, &id).await?;
    let report = Report::of_file(&file).unwrap_or_default();
    let inspection = &report.table;
    let questions = guess_questions(inspection).ok().filter(|_| asks_questions(inspection));
    let tags = tagged::guess(inspection).filter(|_| questions.is_none());
    let is_known = questions.is_some() || tags.is_some();
    let guess = match questions {
        None => tags.or_else(|| guess_columns(inspection, Task::TextClassification.as_str()).ok()),
        Some(columns) => Some(ColumnsGuess { columns, problem_type: ProblemType::SingleLabel }),
    };
    let pair = text_to_text::columns_of(inspection, guess.as_ref()).filter(|_| !is_known);
    let guess = guess.filter(|_| pair.is_none());
    let role = |name: &str| match &pair {
        Some(columns) => text_to_text::role_of(columns, name),
        None => role_of(name, guess.as_ref()),
    };
    let label = guess.as_ref().and_then(|guess| inspection.column(&guess.columns.label));
    let (labels, more_labels) = label.map(label_rows).unwrap_or_default();
    let href = convert::data_href(file.file_id);
    html(&DataDetail {
        page: Page::new(&file.name, "data"),
        id: file.file_id.to_string(),
        name: file.name.clone(),
        usable: report.is_usable(),
        facts: facts(&file, &report),
        columns: inspection.columns.iter().map(|column| column_row(column, role(&column.name))).collect(),
        label_column: label.map(|column| column.name.clone()).unwrap_or_default(),
        labels,
        more_labels,
        preview: match report.chat {
            None => preview(inspection, role),
            Some(_) => Preview::default(),
        },
        chats: report.chat.as_ref().map(|chat| chat::conversations(chat, &href)).unwrap_or_default(),
        problems: problems(&report),
        jobs: jobs_with(&state, file.file_id).await?,
        download: format!("/v1/files/{}/content", file.file_id),
        href,
    })
}

fn facts(file: &File, report: &Report) -> Vec<Fact> {
    let inspection = &report.table;
    let mut facts = vec![Fact::new("Rows", text::count(inspection.rows))];
    facts.extend(report.chat.as_ref().map(chat::facts).unwrap_or_default());
    facts.extend(report.tags.as_ref().map(tagged::facts).unwrap_or_default());
    facts.push(Fact::new("Size", text::bytes(file.bytes.max(0) as u64)));
    facts.extend(inspection.format.map(|format| Fact::new("Format", format_words(format, inspection))));
    facts.push(Fact::new("Uploaded", file.created_at.format("%Y-%m-%d %H:%M UTC").to_string()));
    facts.push(Fact::new("SHA-256", file.hash.to_string()));
    facts
}

fn format_words(format: Format, inspection: &Inspection) -> String {
    let encoding = serde_json::to_value(inspection.encoding).unwrap_or_default();
    let encoding = encoding.as_str().map(|name| name.replace('_', "-").to_uppercase());
    let name = match format {
        Format::Csv => "CSV",
        Format::JsonLines => "JSON Lines",
        Format::Conll => "CoNLL columns",
        Format::JsonArray => "JSON list",
        Format::Squad => "SQuAD's JSON",
    };
    let delimiter = inspection.delimiter.map(|delimiter| match delimiter {
        ',' => "fields separated by commas".to_owned(),
        ';' => "fields separated by semicolons".to_owned(),
        '\t' => "fields separated by tabs".to_owned(),
        other => format!("fields separated by {other}"),
    });
    [Some(name.to_owned()), delimiter, encoding].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn column_row(column: &Column, role: &str) -> ColumnRow {
    let about = if column.distinct_is_exact { "" } else { "over " };
    ColumnRow {
        name: column.name.clone(),
        kind: kind_words(column).to_owned(),
        role: role.to_owned(),
        distinct: format!("{about}{}", text::count(column.distinct)),
        missing: text::count(column.missing),
        example: column.examples.first().cloned().unwrap_or_default(),
    }
}

fn kind_words(column: &Column) -> &'static str {
    match column.kind {
        ColumnKind::Empty => "nothing",
        ColumnKind::Text => "text",
        ColumnKind::Label => "classes",
        ColumnKind::Number => "numbers",
        ColumnKind::List => "lists",
        ColumnKind::Object => "objects",
    }
}

fn role_of(column: &str, guess: Option<&ColumnsGuess>) -> &'static str {
    let Some(guess) = guess else { return "" };
    let role = role_in_questions(&guess.columns, column);
    let is = |role: &Option<String>| role.as_deref() == Some(column);
    if !role.is_empty() {
        role
    } else if is(&guess.columns.tokens) {
        "words"
    } else if is(&guess.columns.tags) {
        "tags"
    } else if is(&guess.columns.entities) {
        "entities"
    } else if guess.columns.text == column {
        "text"
    } else if guess.columns.text_pair.as_deref() == Some(column) {
        "second text"
    } else if guess.columns.label == column {
        "label"
    } else {
        ""
    }
}

/// The role that a column of questions has; empty for none.
pub fn role_in_questions(columns: &Columns, column: &str) -> &'static str {
    let roles = [
        (&columns.context, "context"),
        (&columns.question, "question"),
        (&columns.answers, "answers"),
        (&columns.answer_start, "start of the answer"),
        (&columns.is_impossible, "no answer"),
    ];
    roles.into_iter().find(|(name, _)| name.as_deref() == Some(column)).map_or("", |(_, role)| role)
}

fn label_rows(column: &Column) -> (Vec<LabelRow>, String) {
    let mut classes = column.classes.clone();
    classes.sort_by(|a, b| b.rows.cmp(&a.rows).then_with(|| a.label.cmp(&b.label)));
    let most = classes.first().map_or(1, |class| class.rows.max(1));
    let all: u64 = classes.iter().map(|class| class.rows).sum::<u64>().max(1);
    let more = classes.len().saturating_sub(SHOWN_CLASSES) as u64;
    let row = |class: &formats::dataset::ClassCount| LabelRow {
        name: class.label.clone(),
        count: class.rows,
        most,
        text: format!("{} ({:.0} %)", text::count(class.rows), class.rows as f64 * 100.0 / all as f64),
    };
    let rows = classes.iter().take(SHOWN_CLASSES).map(row).collect();
    (
        rows,
        if more == 0 {
            String::new()
        } else {
            format!("and {}", text::plural(more, "more class", "more classes"))
        },
    )
}

/// The first rows of a table, each column with the role that `role` gives it.
pub fn preview(inspection: &Inspection, role: impl Fn(&str) -> &'static str) -> Preview {
    let rows = &inspection.preview;
    let shown = rows.len() as u64;
    let total = if shown < inspection.rows {
        format!("{} of {}", text::count(shown), text::plural(inspection.rows, "row", "rows"))
    } else {
        text::plural(inspection.rows, "row", "rows")
    };
    let row = |row: &formats::inspect::PreviewRow| PreviewRow {
        line: lines_of(row.lines),
        cells: row.cells.clone(),
    };
    Preview {
        columns: inspection.column_names().map(|name| (name.to_owned(), role(name).to_owned())).collect(),
        rows: rows.iter().map(row).collect(),
        total,
    }
}

/// "3", or "6–7" for a row on more lines.
pub fn lines_of(lines: LineRange) -> String {
    if lines.first == lines.last {
        lines.first.to_string()
    } else {
        format!("{}–{}", lines.first, lines.last)
    }
}

/// What is wrong with a file, as a table or as conversations, and what is worth a look.
pub fn problems(report: &Report) -> Problems {
    match &report.chat {
        Some(chat) if report.table.is_usable() => problem_rows(&chat.problems, &chat.notices),
        None if report.tags.is_some() => {
            let of_tags =
                report.tags.as_ref().map(|tags| problem_rows(&tags.problems, &tags.summary.notices));
            of_tags.unwrap_or_default()
        }
        _ => problem_rows(&report.table.problems, &report.table.notices),
    }
}

/// The first problems, and the notices.
pub fn problem_rows(problems: &formats::Problems, notices: &[String]) -> Problems {
    let mut rows: Vec<ProblemRow> = problems.listed.iter().take(SHOWN_PROBLEMS).map(problem_row).collect();
    let more = problems.total.saturating_sub(rows.len() as u64);
    let notice =
        |notice: &String| ProblemRow { place: String::new(), message: sentence(notice), fatal: false };
    rows.extend(notices.iter().map(notice));
    let more = if more == 0 { String::new() } else { format!("and {} more", text::count(more)) };
    Problems { rows, more }
}

/// A problem with its place in front.
pub fn problem_row(problem: &Problem) -> ProblemRow {
    let line = problem.line.map(|line| capital(&line.to_string()));
    let column = problem.column.as_ref().map(|column| format!("column {column}"));
    let place: Vec<String> = [line, column].into_iter().flatten().collect();
    let hint = problem.hint.as_ref().map(|hint| format!(" {}", sentence(hint))).unwrap_or_default();
    ProblemRow {
        place: place.join(", "),
        message: format!("{}{hint}", sentence(&problem.message)),
        fatal: true,
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// The newest jobs that used a file.
async fn jobs_with(state: &AppState, file: FileId) -> Result<Vec<Fact>> {
    let jobs = store::job::list(&state.store.db, &store::job::Filter::default(), 200).await?.items;
    let uses =
        |job: &store::job::Job| [job.training_file, job.validation_file, job.test_file].contains(&Some(file));
    let fact = |job: store::job::Job| {
        Fact::linked(
            convert::job_name(&job),
            convert::status(&job).label.to_lowercase(),
            convert::job_href(job.job_id),
        )
    };
    Ok(jobs.into_iter().filter(uses).take(12).map(fact).collect())
}

async fn confirm_delete(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    let file = find_file(&state, &id).await?;
    let href = convert::data_href(file.file_id);
    let question = ConfirmQuestion {
        heading: format!("Delete {}?", file.name),
        message: "The file is gone for good. Models that were trained on it stay.".to_owned(),
        action: format!("{href}/delete"),
        yes: "Delete it",
        back: href,
    };
    ask(question, &headers)
}

async fn delete(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let file = find_file(&state, &id).await?;
    match store::file::delete(&state.store.db, file.file_id).await? {
        Deleted::Done | Deleted::Missing => Ok(Redirect::to("/data").into_response()),
        Deleted::Needed(job) => Err(Error::bad_request(
            "in_use",
            format!(
                "{} is needed by the run {job}, which has not ended; cancel it first, or wait for its end",
                file.name
            ),
        )),
    }
}

/// A line about a file for a list of choices.
pub fn choice_note(file: &File) -> String {
    let report = Report::of_file(file).unwrap_or_default();
    let moment = Moment::at(file.created_at, Utc::now());
    if !report.is_usable() {
        return format!("cannot be trained on · {}", moment.ago);
    }
    if let Some(chat) = &report.chat {
        return format!("{} · {}", chat::words(chat), moment.ago);
    }
    let inspection = report.table;
    let columns: Vec<&str> = inspection.column_names().collect();
    let columns = if columns.len() > 5 { format!("{} columns", columns.len()) } else { columns.join(", ") };
    format!("{} · {columns} · {}", text::plural(inspection.rows, "row", "rows"), moment.ago)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_before_what_is_wrong() {
        let problem = Problem::new(formats::ProblemKind::MissingLabel, "a.csv", "the label is missing")
            .at(LineRange { first: 6, last: 7 })
            .in_column("label")
            .hint("fill it in");
        let row = problem_row(&problem);
        assert_eq!(row.place, "Lines 6–7, column label");
        assert_eq!(row.message, "The label is missing. Fill it in.");
    }
}

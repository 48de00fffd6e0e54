//! Curves: as JSON for the charts, as a drawing and as tables for a browser without script.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sqlx::PgPool;
use store::JobId;
use store::event::{Event, Kind, Point, series};

use super::job::find_job;
use super::view::Page;
use super::view::chart::{Curve, Drawn, Palette};
use super::view::job::{ValueTable, ValuesPage};
use super::view::text;
use super::{convert, html};
use crate::{AppState, Error, Result};

/// Fields of a training event that have a curve.
const TRAIN: [&str; 9] = [
    "loss",
    "learning_rate",
    "grad_norm",
    "samples_per_second",
    "tokens_per_second",
    "memory_bytes",
    "mean_token_accuracy",
    "kl",
    "epoch",
];

/// Points of a curve that a browser gets at once.
const POINTS: i64 = 3000;

/// Points of a drawing, rows of a table.
const FEW: i64 = 400;

/// Evaluations shown on the job's page.
const SHOWN: i64 = 60;

/// `GET /jobs/{id}/series`
pub async fn show_series(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let db = &state.store.db;
    // The number first: a point that comes meanwhile is then in the answer and also in the stream behind it, where
    // the page passes over a step that it knows. The other way round it would be in neither.
    let job = find_job(&state, &id).await?;
    let train = series(db, job.job_id, Kind::Train, &TRAIN, POINTS).await?;
    let names = metric_names(db, job.job_id).await?;
    let mut fields: Vec<&str> = names.iter().map(String::as_str).collect();
    fields.push("epoch");
    let eval = series(db, job.job_id, Kind::Eval, &fields, POINTS).await?;
    let resumes = store::event::latest(db, job.job_id, &[Kind::Resume], 200).await?;
    let seams: Vec<Value> = resumes
        .iter()
        .rev()
        .map(|event| json!({"step": step_of(event), "at": event.at.timestamp_millis()}))
        .collect();
    Ok(Json(json!({
        "last": job.last_event,
        "kinds": {"train": columns(&train, &TRAIN), "eval": columns(&eval, &fields)},
        "seams": seams,
    }))
    .into_response())
}

/// Where an event stands on the axis of steps; a resume stands where its attempt went on from.
pub fn step_of(event: &Event) -> i64 {
    event.data.get("from_step").and_then(Value::as_i64).or(event.step).unwrap_or(0)
}

/// The numbers of an event that have a curve; null where a value is not finite.
pub fn fields_of(event: &Event) -> Map<String, Value> {
    let of =
        |name: &str| event.values.get(name).or_else(|| event.data.get(name)).cloned().unwrap_or(Value::Null);
    match event.kind {
        Kind::Train => TRAIN.iter().map(|name| ((*name).to_owned(), of(name))).collect(),
        Kind::Eval => {
            let mut fields = event.values.as_object().cloned().unwrap_or_default();
            fields.insert("epoch".to_owned(), of("epoch"));
            fields
        }
        _ => Map::new(),
    }
}

/// Names of the metrics of a job's evaluations, in the order of the newest.
async fn metric_names(db: &PgPool, id: JobId) -> Result<Vec<String>> {
    let newest = store::event::latest(db, id, &[Kind::Eval], 1).await?;
    let values = newest.first().and_then(|event| event.values.as_object());
    Ok(values.map(|values| values.keys().cloned().collect()).unwrap_or_default())
}

fn columns(points: &[Point], fields: &[&str]) -> Value {
    let column = |name: &str| points.iter().map(|point| point.values[name].clone()).collect::<Vec<Value>>();
    let fields: Map<String, Value> = fields
        .iter()
        .filter(|name| **name != "epoch")
        .map(|name| ((*name).to_owned(), column(name).into()))
        .collect();
    json!({
        "step": points.iter().map(|point| point.step).collect::<Vec<_>>(),
        "at": points.iter().map(|point| point.at.timestamp_millis()).collect::<Vec<_>>(),
        "epoch": column("epoch"),
        "fields": fields,
    })
}

#[derive(Deserialize)]
pub struct ChartQuery {
    #[serde(default)]
    plot: String,
    #[serde(default)]
    theme: String,
}

/// `GET /jobs/{id}/chart.svg`
pub async fn draw_chart(
    State(state): State<AppState>,
    Path(id): Path<String>,
    Query(query): Query<ChartQuery>,
) -> Result<Response> {
    let db = &state.store.db;
    let job = find_job(&state, &id).await?.job_id;
    let (title, curves) = match query.plot.as_str() {
        "metrics" => ("Validation metrics", metric_curves(db, job).await?),
        "loss" => ("Loss", loss_curves(db, job).await?),
        "texts" => ("What it writes", text_curves(db, job).await?),
        other => {
            return Err(Error::not_found(format!(
                "there is no plot {other:?}; there are loss, metrics and texts"
            )));
        }
    };
    let resumes = store::event::latest(db, job, &[Kind::Resume], 200).await?;
    let seams: Vec<f64> = resumes.iter().map(|event| step_of(event) as f64).collect();
    let palette = if query.theme == "dark" { Palette::DARK } else { Palette::LIGHT };
    let drawn = Drawn::new(title, &curves, &seams, palette);
    let svg = askama::Template::render(&drawn).map_err(|error| Error::Internal(error.into()))?;
    Ok(([(header::CONTENT_TYPE, "image/svg+xml")], svg).into_response())
}

async fn loss_curves(db: &PgPool, job: JobId) -> Result<Vec<Curve>> {
    let train = series(db, job, Kind::Train, &["loss"], FEW).await?;
    let eval = series(db, job, Kind::Eval, &["loss"], FEW).await?;
    let curves = [curve("training", &train, "loss"), curve("validation", &eval, "loss")];
    Ok(curves.into_iter().filter(|curve| !curve.points.is_empty()).collect())
}

async fn metric_curves(db: &PgPool, job: JobId) -> Result<Vec<Curve>> {
    const SHOWN: [&str; 16] = [
        "mean_token_accuracy",
        "reward_accuracy",
        "reward_margin",
        "accuracy",
        "exact_match",
        "f1",
        "f1_macro",
        "matthews_correlation",
        "r2",
        "pearson",
        "spearman",
        "ndcg_at_10",
        "mrr_at_10",
        "accuracy_at_1",
        "triplet_accuracy",
        "exact_match",
    ];
    named_curves(db, job, &SHOWN).await
}

/// Metrics of texts that were written, from 0 to 100.
async fn text_curves(db: &PgPool, job: JobId) -> Result<Vec<Curve>> {
    named_curves(db, job, &["bleu", "chrf", "chrf_plus_plus", "rouge1", "rouge2", "rougeL"]).await
}

/// The curves of those metrics that evaluations give.
async fn named_curves(db: &PgPool, job: JobId, wanted: &[&'static str]) -> Result<Vec<Curve>> {
    let names = metric_names(db, job).await?;
    let shown: Vec<&str> =
        wanted.iter().copied().filter(|name| names.iter().any(|known| known == name)).collect();
    let points = series(db, job, Kind::Eval, &shown, FEW).await?;
    Ok(shown.iter().map(|name| curve(&convert::metric_name(name), &points, name)).collect())
}

fn curve(name: &str, points: &[Point], field: &str) -> Curve {
    let points = points
        .iter()
        .map(|point| (point.step as f64, point.values[field].as_f64().unwrap_or(f64::NAN)))
        .collect();
    Curve { name: name.to_owned(), points }
}

/// The evaluations as they stand on the job's page.
pub async fn evaluations(db: &PgPool, job: JobId) -> Result<ValueTable> {
    evaluation_table(db, job, SHOWN).await
}

async fn evaluation_table(db: &PgPool, job: JobId, most: i64) -> Result<ValueTable> {
    let names = metric_names(db, job).await?;
    let fields: Vec<&str> = names.iter().map(String::as_str).collect();
    let points = series(db, job, Kind::Eval, &fields, most).await?;
    Ok(table(&points, &fields))
}

fn table(points: &[Point], fields: &[&str]) -> ValueTable {
    let cell = |point: &Point, name: &str| match point.values[name].as_f64() {
        Some(number) => text::value(number),
        None => "–".to_owned(),
    };
    let row = |point: &Point| {
        std::iter::once(text::count(point.step.max(0) as u64))
            .chain(fields.iter().map(|name| cell(point, name)))
            .collect()
    };
    ValueTable {
        columns: fields.iter().map(|name| convert::metric_name(name)).collect(),
        rows: points.iter().map(row).collect(),
    }
}

/// `GET /jobs/{id}/values`
pub async fn show_values(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    const FIELDS: [&str; 4] = ["loss", "learning_rate", "grad_norm", "samples_per_second"];
    let db = &state.store.db;
    let job = find_job(&state, &id).await?;
    let training = series(db, job.job_id, Kind::Train, &FIELDS, FEW).await?;
    html(&ValuesPage {
        page: Page::new("Values", "jobs"),
        href: convert::job_href(job.job_id),
        name: convert::job_name(&job),
        evaluations: evaluation_table(db, job.job_id, FEW).await?,
        training: table(&training, &FIELDS),
    })
}

//! Models: list, upload without script, one model's page, trying it, its files, deletion.

mod exports;
mod lineage;
mod loaded;
mod try_out;

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::Utc;
use formats::checkpoint::CheckpointInfo;
use serde::Deserialize;
use serde_json::Value;
use store::StoredFile;
use store::file::Deleted;
use store::job::Job;
use store::model::{Filter, Model, ModelKind};
use store::spec::Task;

use self::lineage::{descendants, lineage};
use self::loaded::loaded_row;
use self::try_out::try_model;
use super::job::ask;
use super::job_results::metric_facts;
use super::view::model::{FileRow, ModelDetail, ModelList, ModelRow, Tried};
use super::view::text::{self, Moment};
use super::view::{ConfirmQuestion, Fact, Page, Paging};
use super::{convert, data, html, sentence};
use crate::openai::models::{create_model, needing, task_of};
use crate::openai::writing;
use crate::{AppState, Error, Result};

/// Models on a page of the list.
const LISTED: i64 = 50;

/// Bytes of a model card that are shown.
const LONGEST_CARD: u64 = 64 << 10;

/// Routes of the model pages.
pub fn router() -> Router<AppState> {
    Router::new()
        .route("/models", get(list_models).post(upload).layer(DefaultBodyLimit::disable()))
        .route("/models/{id}", get(show_model))
        .route("/models/{id}/try", post(try_model))
        .route("/models/{id}/unload", post(unload))
        .route("/models/{id}/files/{*path}", get(download_file))
        .route("/models/{id}/exports", get(exports::show_exports).post(exports::create_export))
        .route("/models/{id}/exports/{export}/cancel", post(exports::cancel_export))
        .route(
            "/models/{id}/exports/{export}/delete",
            get(exports::confirm_delete).post(exports::delete_export),
        )
        .route(
            "/models/{id}/exports/{export}/download",
            get(exports::confirm_download).post(exports::download),
        )
        .route("/models/{id}/delete", get(confirm_delete).post(delete))
}

#[derive(Deserialize)]
struct ListQuery {
    after: Option<String>,
}

async fn list_models(State(state): State<AppState>, Query(query): Query<ListQuery>) -> Result<Response> {
    html(&model_list(&state, query.after, String::new()).await?)
}

/// Uploaded and tuned models; checkpoints of jobs stand on the jobs' pages.
pub async fn whole_models(state: &AppState, after: Option<String>, limit: i64) -> Result<store::Page<Model>> {
    let mut models: Vec<Model> = Vec::new();
    let mut after = after;
    loop {
        let filter = Filter { after: after.clone(), ..Filter::default() };
        let page = store::model::list(&state.store.db, &filter, limit).await?;
        after = page.items.last().map(|model| model.model_id.clone());
        models.extend(page.items.into_iter().filter(|model| model.kind != ModelKind::Checkpoint));
        if !page.more || models.len() as i64 > limit {
            let more = page.more || models.len() as i64 > limit;
            models.truncate(limit as usize);
            return Ok(store::Page { items: models, more });
        }
    }
}

async fn model_list(state: &AppState, after: Option<String>, error: String) -> Result<ModelList> {
    let is_first = after.is_none();
    let list = whole_models(state, after, LISTED).await?;
    let older = list.items.last().filter(|_| list.more).map(|model| {
        let id: String = url::form_urlencoded::byte_serialize(model.model_id.as_bytes()).collect();
        format!("/models?after={id}")
    });
    Ok(ModelList {
        page: Page::new("Models", "models").with(&["js/upload.js"]),
        rows: list.items.iter().map(model_row).collect(),
        paging: Paging {
            newest: if is_first { String::new() } else { "/models".to_owned() },
            older: older.unwrap_or_default(),
        },
        loaded: state.workers.loaded().iter().map(loaded_row).collect(),
        limit: text::bytes(state.config.max_model_bytes),
        error,
    })
}

/// The same upload as the API's, from a form without script.
async fn upload(State(state): State<AppState>, request: Request) -> Result<Response> {
    match create_model(State(state.clone()), request).await {
        Ok(Json(model)) => {
            Ok(Redirect::to(&convert::model_href(model["id"].as_str().unwrap_or_default())).into_response())
        }
        Err(error) if error.status().is_client_error() => {
            let page = model_list(&state, None, sentence(&error.to_string())).await?;
            Ok((error.status(), html(&page)?).into_response())
        }
        Err(error) => Err(error),
    }
}

fn info_of(model: &Model) -> CheckpointInfo {
    serde_json::from_value(model.report.clone()).unwrap_or_default()
}

/// Where a model comes from, in a word.
pub fn origin(kind: ModelKind) -> &'static str {
    match kind {
        ModelKind::Base => "uploaded",
        ModelKind::Tuned => "fine-tuned",
        ModelKind::Checkpoint => "checkpoint",
    }
}

/// "BERT, 22.7 M parameters".
pub fn architecture_words(model: &Model) -> String {
    let info = info_of(model);
    let family = info.model_type.as_deref().map(|family| match family {
        "bert" => "BERT".to_owned(),
        "roberta" => "RoBERTa".to_owned(),
        "xlm-roberta" => "XLM-RoBERTa".to_owned(),
        "distilbert" => "DistilBERT".to_owned(),
        "llama" => "Llama".to_owned(),
        "mistral" => "Mistral".to_owned(),
        "qwen2" => "Qwen 2".to_owned(),
        "qwen3" => "Qwen 3".to_owned(),
        "smollm3" => "SmolLM3".to_owned(),
        "phi3" => "Phi-3".to_owned(),
        "gemma2" => "Gemma 2".to_owned(),
        "gemma3_text" => "Gemma 3".to_owned(),
        "t5" => "T5".to_owned(),
        "mt5" => "mT5".to_owned(),
        "bart" => "BART".to_owned(),
        "mbart" => "mBART".to_owned(),
        "marian" => "Marian".to_owned(),
        "luthier_transformer" => "Transformer".to_owned(),
        other => other.to_owned(),
    });
    let family = family.or_else(|| model.architecture.clone());
    let parameters = model.parameters.filter(|count| *count > 0);
    let parameters = parameters.map(|count| format!("{} parameters", text::large(count as u64)));
    let adapter = info.adapter.map(|adapter| format!("adapter of rank {}", adapter.rank));
    [family, parameters, adapter].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn task_words(model: &Model) -> String {
    let classes = info_of(model).labels.len() as u64;
    match (&model.task, classes) {
        (None, _) => "encoder, without a head".to_owned(),
        _ if task_of(model) == Task::TextGeneration => "language model".to_owned(),
        _ if task_of(model) == Task::TextToText => "text from text".to_owned(),
        (Some(task), 0 | 1) => task.replace('-', " "),
        (Some(task), classes) => {
            format!("{}, {}", task.replace('-', " "), text::plural(classes, "class", "classes"))
        }
    }
}

/// Metrics of a model without the prefix that the trainer's own state has.
fn metrics_of(model: &Model) -> Value {
    let fields = model.metrics.as_object().into_iter().flatten();
    let plain =
        |(name, value): (&String, &Value)| (name.trim_start_matches("eval_").to_owned(), value.clone());
    Value::Object(fields.filter(|(_, value)| value.is_number() || value.is_null()).map(plain).collect())
}

fn model_row(model: &Model) -> ModelRow {
    ModelRow {
        href: convert::model_href(&model.model_id),
        id: model.model_id.clone(),
        origin: origin(model.kind),
        architecture: architecture_words(model),
        task: task_words(model),
        result: convert::headline(&metrics_of(model)),
        size: text::bytes(model.bytes.max(0) as u64),
        created: Moment::at(model.created_at, Utc::now()),
    }
}

/// A line about a model for a list of choices.
pub fn choice_note(model: &Model) -> String {
    let result = convert::headline(&metrics_of(model));
    let parts = [architecture_words(model), origin(model.kind).to_owned(), result];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ")
}

async fn find_model(state: &AppState, id: &str) -> Result<Model> {
    let missing = || Error::not_found(format!("there is no model {id} on this server"));
    store::model::get(&state.store.db, id).await?.ok_or_else(missing)
}

async fn show_model(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    html(&detail(&state, &id, None).await?)
}

async fn detail(state: &AppState, id: &str, tried: Option<Tried>) -> Result<ModelDetail> {
    detail_with(state, id, tried, String::new()).await
}

/// The page, with what was wrong with an export that was asked for.
async fn detail_with(
    state: &AppState,
    id: &str,
    tried: Option<Tried>,
    refused_export: String,
) -> Result<ModelDetail> {
    let db = &state.store.db;
    let model = find_model(state, id).await?;
    let files = store::model::files(db, id).await?;
    let job = match model.job_id {
        Some(job) => store::job::get(db, job).await?,
        None => None,
    };
    let info = info_of(&model);
    let href = convert::model_href(id);
    let content = format!("/v1/models/{id}/content");
    Ok(ModelDetail {
        page: Page::new(id, "models").with(&["js/model.js"]),
        id: id.to_owned(),
        origin: origin(model.kind),
        facts: facts(&model, &info, job.as_ref()),
        metrics: metric_facts(&metrics_of(&model)),
        problems: info.problems.listed.iter().map(data::problem_row).collect(),
        lineage: lineage(state, &model).await?,
        descendants: descendants(state, id).await?,
        files: files.iter().map(|file| file_row(&href, file)).collect(),
        readme: readme(state, &files).await?,
        can_try: model.task.is_some() && task_of(&model) == Task::TextClassification,
        can_ask: task_of(&model) == Task::QuestionAnswering,
        can_tag: task_of(&model) == Task::TokenClassification,
        can_compare: task_of(&model) == Task::SentenceSimilarity,
        pairs: job.as_ref().is_some_and(|job| job.spec.0.columns.text_pair.is_some()),
        tried,
        exports: exports::card(state, &model, refused_export).await?,
        writes: match task_of(&model).is_text_to_text() {
            true => Some(writing::learnt(state, &model).await?.unwrap_or_default().source_prefix),
            false => None,
        },
        playground: playground_href(&model),
        can_tune: info.problems.is_empty(),
        download_zip: format!("{content}?format=zip"),
        download_tar: format!("{content}?format=tar"),
        snippet: snippet(&model),
        href,
    })
}

/// Where a language model can be talked to; empty for others.
fn playground_href(model: &Model) -> String {
    match task_of(model) {
        Task::TextGeneration => convert::playground_href(&model.model_id),
        _ => String::new(),
    }
}

fn facts(model: &Model, info: &CheckpointInfo, job: Option<&Job>) -> Vec<Fact> {
    let size = |name: &str| info.sizes.get(name).map(|size| text::count(*size));
    let mut facts = Vec::new();
    let mut put = |name: &str, value: Option<String>| facts.extend(value.map(|value| Fact::new(name, value)));
    put("Architecture", model.architecture.clone().or_else(|| info.architectures.first().cloned()));
    put("Parameters", model.parameters.map(|count| text::count(count.max(0) as u64)));
    put("Layers", size("num_hidden_layers"));
    put("Layers of the decoder", size("decoder_layers"));
    put("Hidden size", size("hidden_size"));
    put("Attention heads", size("num_attention_heads"));
    put("Vocabulary", size("vocab_size"));
    put("Tokens at once", size("max_position_embeddings"));
    put("Classes", labels_words(&info.labels));
    put("Weights", info.dtype.clone());
    put("Size", Some(text::bytes(model.bytes.max(0) as u64)));
    put("Step", model.step.map(|step| text::count(step.max(0) as u64)));
    put("Added", Some(model.created_at.format("%Y-%m-%d %H:%M UTC").to_string()));
    facts.extend(
        job.map(|job| Fact::linked("Made by", convert::job_name(job), convert::job_href(job.job_id))),
    );
    facts
}

fn labels_words(labels: &[String]) -> Option<String> {
    const SHOWN: usize = 12;
    let more = labels.len().saturating_sub(SHOWN);
    let shown = labels.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match more {
        _ if labels.is_empty() => None,
        0 => Some(shown),
        more => Some(format!("{shown} and {more} more")),
    }
}

fn file_row(model: &str, file: &StoredFile) -> FileRow {
    FileRow {
        path: file.path.clone(),
        size: text::bytes(file.bytes.max(0) as u64),
        hash: file.hash.to_string().chars().take(12).collect(),
        href: format!("{model}/files/{}", escape_path(&file.path)),
    }
}

fn escape_path(path: &str) -> String {
    let escape = |part: &str| {
        url::form_urlencoded::byte_serialize(part.as_bytes()).collect::<String>().replace('+', "%20")
    };
    path.split('/').map(escape).collect::<Vec<_>>().join("/")
}

async fn readme(state: &AppState, files: &[StoredFile]) -> Result<String> {
    let Some(file) = files.iter().find(|file| file.path == "README.md" && file.bytes as u64 <= LONGEST_CARD)
    else {
        return Ok(String::new());
    };
    let text = state.store.objects.read_all(&file.hash, LONGEST_CARD).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn snippet(model: &Model) -> String {
    if task_of(model) == Task::TextGeneration {
        return "# in the folder that the archive unpacks to\nfrom transformers import pipeline\n\n\
                write = pipeline(\"text-generation\", model=\".\")\nprint(write(\"The first words\", max_new_tokens=50))"
            .to_owned();
    }
    if task_of(model) == Task::SentenceSimilarity {
        return "# in the folder that the archive unpacks to\nfrom sentence_transformers import SentenceTransformer\n\n\
                model = SentenceTransformer(\".\")\nvectors = model.encode([\"A text of yours.\", \"Another one.\"])\n\
                print(model.similarity(vectors, vectors))"
            .to_owned();
    }
    if task_of(model) == Task::QuestionAnswering {
        return "# in the folder that the archive unpacks to\nfrom transformers import pipeline\n\n\
                answer = pipeline(\"question-answering\", model=\".\")\n\
                print(answer(question=\"A question of yours?\", context=\"A text that holds its answer.\"))"
            .to_owned();
    }
    if task_of(model).is_text_to_text() {
        return "# in the folder that the archive unpacks to\nfrom transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\n\
                tokenizer = AutoTokenizer.from_pretrained(\".\")\nmodel = AutoModelForSeq2SeqLM.from_pretrained(\".\")\n\
                source = tokenizer(\"A text of yours.\", return_tensors=\"pt\")\n\
                print(tokenizer.decode(model.generate(**source, num_beams=4)[0], skip_special_tokens=True))"
            .to_owned();
    }
    if model.task.is_none() {
        return String::new();
    }
    if task_of(model) == Task::TokenClassification {
        return "# in the folder that the archive unpacks to\nfrom transformers import pipeline\n\n\
                tag = pipeline(\"token-classification\", model=\".\", aggregation_strategy=\"first\")\nprint(tag(\"A text of \
                yours.\"))"
            .to_owned();
    }
    "# in the folder that the archive unpacks to\nfrom transformers import pipeline\n\n\
     classify = pipeline(\"text-classification\", model=\".\")\nprint(classify(\"A text of yours.\"))"
        .to_owned()
}

/// One file of a model, as a download of no type that a browser would run.
async fn download_file(
    State(state): State<AppState>,
    Path((id, path)): Path<(String, String)>,
) -> Result<Response> {
    let files = store::model::files(&state.store.db, &id).await?;
    let file = files.iter().find(|file| file.path == path);
    let file = file.ok_or_else(|| Error::not_found(format!("the model {id} has no file {path}")))?;
    let content = state.store.objects.read(&file.hash, None).await?;
    let name: String =
        path.rsplit('/').next().unwrap_or_default().chars().filter(char::is_ascii_graphic).collect();
    let disposition = format!("attachment; filename=\"{}\"", name.replace(['"', '\\'], "_"));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(file.bytes)),
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment")),
        ),
    ];
    Ok((headers, Body::from_stream(content)).into_response())
}

async fn confirm_delete(
    State(state): State<AppState>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    let model = find_model(&state, &id).await?;
    let href = convert::model_href(&model.model_id);
    let question = ConfirmQuestion {
        heading: format!("Delete {}?", model.model_id),
        message: "Its files are gone for good. Models that were made from it stay.".to_owned(),
        action: format!("{href}/delete"),
        yes: "Delete it",
        back: href,
    };
    ask(question, &headers)
}

/// Lets go of the process that has a model loaded, with all that share it.
async fn unload(State(state): State<AppState>, Path(id): Path<String>) -> Result<Redirect> {
    state.workers.release(&find_model(&state, &id).await?.model_id);
    Ok(Redirect::to("/models"))
}

async fn delete(State(state): State<AppState>, Path(id): Path<String>) -> Result<Response> {
    let model = find_model(&state, &id).await?;
    match store::model::delete(&state.store.db, &model.model_id).await? {
        Deleted::Done | Deleted::Missing => Ok(Redirect::to("/models").into_response()),
        Deleted::Needed(job) => Err(Error::bad_request(
            "in_use",
            format!(
                "{id} is needed by {}, which has not ended; cancel it first, or wait for its end",
                needing(&state, job).await?
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_in_an_address_is_escaped_part_by_part() {
        assert_eq!(escape_path("1_Pooling/a b#.json"), "1_Pooling/a%20b%23.json");
    }
}

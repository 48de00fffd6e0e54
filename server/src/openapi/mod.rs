//! The description of the API, from two tables: routes here, shapes in [`schemas`].
//!
//! A test asks every route of the table, and compares every shape with what the server really answers.

mod page;
mod schemas;

use axum::Json;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, ObjectBuilder, OpenApi, OpenApiBuilder, PathsBuilder,
    Ref, Required, Type,
};

pub use page::show_docs;

/// One row of the table.
struct Route {
    method: HttpMethod,
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    body: Option<(&'static str, &'static str)>,
    answer: (&'static str, &'static str),
}

const JSON: &str = "application/json";
const FORM: &str = "multipart/form-data";
const BYTES: &str = "application/octet-stream";

/// A row: method, path, operation, tag, answer's shape, summary.
const fn route(
    method: HttpMethod,
    path: &'static str,
    id: &'static str,
    tag: &'static str,
    answer: &'static str,
    summary: &'static str,
) -> Route {
    Route { method, path, id, tag, summary, query: &[], body: None, answer: (JSON, answer) }
}

impl Route {
    const fn query(mut self, names: &'static [&'static str]) -> Self {
        self.query = names;
        self
    }

    const fn body(mut self, kind: &'static str, shape: &'static str) -> Self {
        self.body = Some((kind, shape));
        self
    }

    const fn sends(mut self, kind: &'static str) -> Self {
        self.answer = (kind, "");
        self
    }
}

const FILES: &str = "Files";
const JOBS: &str = "Fine-tuning";
const MODELS: &str = "Models";
const ANSWERS: &str = "Answers";
const SERVER: &str = "Server";

use HttpMethod::{Delete, Get, Post};

#[rustfmt::skip]
const ROUTES: [Route; 35] = [
    route(Post, "/v1/files", "createFile", FILES, "File", "Uploads a file; a table for `fine-tune` is read from end to end and problems are told by line").body(FORM, "CreateFile"),
    route(Get, "/v1/files", "listFiles", FILES, "FileList", "Lists files").query(&["purpose", "order", "limit", "after"]),
    route(Get, "/v1/files/{id}", "retrieveFile", FILES, "File", "Shows a file"),
    route(Delete, "/v1/files/{id}", "deleteFile", FILES, "Deleted", "Deletes a file that no job needs"),
    route(Get, "/v1/files/{id}/content", "retrieveFileContent", FILES, "", "Downloads a file").sends(BYTES),
    route(Post, "/v1/fine_tuning/jobs", "createJob", JOBS, "Job", "Starts a fine-tune, after everything about data, model and settings was checked; with `dry_run` answers a DryRun and starts nothing").body(JSON, "CreateJob"),
    route(Get, "/v1/fine_tuning/jobs", "listJobs", JOBS, "JobList", "Lists jobs, newest first; `metadata[key]=value` selects").query(&["limit", "after", "metadata"]),
    route(Get, "/v1/fine_tuning/jobs/{id}", "retrieveJob", JOBS, "Job", "Shows a job"),
    route(Post, "/v1/fine_tuning/jobs/{id}/cancel", "cancelJob", JOBS, "Job", "Cancels a job"),
    route(Post, "/v1/fine_tuning/jobs/{id}/pause", "pauseJob", JOBS, "Job", "Pauses a job at a checkpoint"),
    route(Post, "/v1/fine_tuning/jobs/{id}/resume", "resumeJob", JOBS, "Job", "Goes on with a paused job"),
    route(Get, "/v1/fine_tuning/jobs/{id}/events", "listJobEvents", JOBS, "EventList", "Lists events, newest first; with `stream=true` sends them as they come, oldest first, until `data: [DONE]`").query(&["limit", "after", "stream"]),
    route(Get, "/v1/fine_tuning/jobs/{id}/checkpoints", "listJobCheckpoints", JOBS, "CheckpointList", "Lists checkpoints, newest first").query(&["limit", "after"]),
    route(Post, "/v1/models", "createModel", MODELS, "Model", "Uploads a checkpoint: an archive, or its files").body(FORM, "CreateModel"),
    route(Get, "/v1/models", "listModels", MODELS, "ModelList", "Lists models: uploaded ones, tuned ones, checkpoints").query(&["limit", "after"]),
    route(Get, "/v1/models/{id}", "retrieveModel", MODELS, "Model", "Shows a model"),
    route(Delete, "/v1/models/{id}", "deleteModel", MODELS, "Deleted", "Deletes a model that no job needs"),
    route(Get, "/v1/models/{id}/content", "retrieveModelContent", MODELS, "", "Downloads a model as a tar, which can be taken up again by `Range`, or as a zip").query(&["format"]).sends(BYTES),
    route(Post, "/v1/models/{id}/unload", "unloadModel", MODELS, "Model", "Lets go of a model that is kept loaded; answers under way are finished"),
    route(Post, "/v1/models/{id}/exports", "createExport", MODELS, "Export", "Writes a model in another format, by a job; one that is made or under way already is answered").body(JSON, "CreateExport"),
    route(Get, "/v1/models/{id}/exports", "listExports", MODELS, "ExportList", "Lists the exports of a model, newest first").query(&["limit", "after"]),
    route(Get, "/v1/exports/{id}", "retrieveExport", MODELS, "Export", "Shows an export with its certificate"),
    route(Post, "/v1/exports/{id}/cancel", "cancelExport", MODELS, "Export", "Cancels an export"),
    route(Delete, "/v1/exports/{id}", "deleteExport", MODELS, "Deleted", "Deletes an export that has ended"),
    route(Get, "/v1/exports/{id}/content", "retrieveExportContent", MODELS, "", "Downloads an export: a GGUF as itself, a folder as a tar, both taken up again by `Range`; or all its files as a zip").query(&["format"]).sends(BYTES),
    route(Post, "/v1/chat/completions", "createChatCompletion", ANSWERS, "ChatCompletion", "Goes on with a conversation; with `stream` sends chunks as they come, until `data: [DONE]`").body(JSON, "CreateChatCompletion"),
    route(Post, "/v1/completions", "createCompletion", ANSWERS, "Completion", "Goes on with texts; with `stream` sends chunks as they come, until `data: [DONE]`").body(JSON, "CreateCompletion"),
    route(Post, "/v1/embeddings", "createEmbedding", ANSWERS, "EmbeddingList", "Makes vectors of texts").body(JSON, "CreateEmbedding"),
    route(Post, "/v1/predictions", "createPrediction", ANSWERS, "Prediction", "Asks a tuned classifier, or a model that answers questions or writes one text from another").body(JSON, "CreatePrediction"),
    route(Get, "/v1/agents", "listAgents", SERVER, "AgentList", "Lists the trainers and what they run on"),
    route(Get, "/openapi.json", "openapi", SERVER, "", "This description"),
    route(Get, "/docs", "docs", SERVER, "", "This description, to read").sends("text/html"),
    route(Get, "/healthz", "health", SERVER, "", "Whether the process answers"),
    route(Get, "/readyz", "ready", SERVER, "", "Whether the database answers as well"),
    route(Get, "/metrics", "metrics", SERVER, "", "Counts and times in Prometheus' text format").sends("text/plain"),
];

/// The whole description.
pub fn document() -> OpenApi {
    let mut paths = PathsBuilder::new();
    for route in &ROUTES {
        paths = paths.path(route.path, PathItem::new(route.method.clone(), operation(route)));
    }
    let components = schemas::all()
        .into_iter()
        .fold(ComponentsBuilder::new(), |components, (name, schema)| components.schema(name, schema))
        .security_scheme("key", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Luthier")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some("OpenAI's files, fine-tuning jobs, models and their answers, extended by tasks, columns, checkpoints to bring and to take."))
                .build(),
        )
        .tags(Some([FILES, JOBS, MODELS, ANSWERS, SERVER].map(|name| TagBuilder::new().name(name).build())))
        .paths(paths.build())
        .components(Some(components.build()))
        .security(Some([SecurityRequirement::new("key", [] as [&str; 0])]))
        .build()
}

/// `GET /openapi.json`
pub async fn show_document() -> Json<OpenApi> {
    Json(document())
}

fn operation(route: &Route) -> utoipa::openapi::path::Operation {
    let text = || ObjectBuilder::new().schema_type(Type::String).build();
    let mut operation =
        OperationBuilder::new().operation_id(Some(route.id)).tag(route.tag).summary(Some(route.summary));
    if route.path.contains("{id}") {
        let id = ParameterBuilder::new().name("id").parameter_in(ParameterIn::Path).required(Required::True);
        operation = operation.parameter(id.schema(Some(text())).build());
    }
    for name in route.query {
        let query =
            ParameterBuilder::new().name(*name).parameter_in(ParameterIn::Query).required(Required::False);
        operation = operation.parameter(query.schema(Some(text())).build());
    }
    if let Some((kind, shape)) = route.body {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(shape))).build();
        operation = operation.request_body(Some(
            RequestBodyBuilder::new().content(kind, content).required(Some(Required::True)).build(),
        ));
    }
    let (kind, shape) = route.answer;
    let mut content = ContentBuilder::new();
    if !shape.is_empty() {
        content = content.schema(Some(Ref::from_schema_name(shape)));
    }
    let done = ResponseBuilder::new().description("Done").content(kind, content.build()).build();
    let error = ContentBuilder::new().schema(Some(Ref::from_schema_name("Error"))).build();
    let refused = ResponseBuilder::new().description("Refused or failed").content(JSON, error).build();
    operation.response("200", done).response("default", refused).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_reads_back_and_every_shape_it_names_is_there() {
        let text = serde_json::to_string(&document()).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(json["openapi"].as_str().unwrap().starts_with("3."));
        for (start, _) in text.match_indices("#/components/schemas/") {
            let name = text[start + 21..].split('"').next().unwrap();
            assert!(json["components"]["schemas"].get(name).is_some(), "{name}");
        }
        serde_json::from_str::<OpenApi>(&text).unwrap();
    }

    #[test]
    fn two_methods_of_one_path_are_both_described() {
        let json = serde_json::to_value(document()).unwrap();
        assert_eq!(json["paths"]["/v1/files"]["post"]["operationId"], "createFile");
        assert_eq!(json["paths"]["/v1/files"]["get"]["operationId"], "listFiles");
    }
}

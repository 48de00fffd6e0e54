//! The description as a page to read.

use askama::Template;
use axum::response::Html;
use serde_json::Value;

use super::{ROUTES, document};
use crate::Result;

/// `GET /docs`
pub async fn show_docs() -> Result<Html<String>> {
    let page = Docs { groups: groups(), shapes: shapes() };
    Ok(Html(page.render().map_err(anyhow::Error::from)?))
}

#[derive(Template)]
#[template(
    ext = "html",
    source = r##"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>API · Luthier</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code{font-family:ui-monospace,monospace;font-size:.92em}h2{margin-top:2.5rem}summary{cursor:pointer;padding:.35rem 0}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1rem}td,th{text-align:left;vertical-align:top;padding:.3rem .6rem;border-bottom:1px solid color-mix(in srgb,currentColor 20%,transparent)}
.method{display:inline-block;min-width:4.5rem;font-weight:600}details p{margin:.3rem 0 .8rem 4.7rem}
</style></head><body>
<h1>Luthier's API</h1>
<p>OpenAI's files, fine-tuning jobs, models and their answers, extended. The machine's version is <a href="/openapi.json">openapi.json</a>.</p>
<pre><code>from openai import OpenAI
client = OpenAI(base_url="http://127.0.0.1:8080/v1", api_key="any")
file = client.files.create(file=open("reviews.csv", "rb"), purpose="fine-tune")
job = client.fine_tuning.jobs.create(model="minilm", training_file=file.id)
chat = client.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": "Hello!"}])</code></pre>
{% for group in groups %}<h2>{{ group.name }}</h2>
{% for route in group.routes %}<details><summary><span class="method">{{ route.method }}</span><code>{{ route.path }}</code></summary>
<p>{{ route.summary }}.{% if !route.query.is_empty() %} Query: <code>{{ route.query }}</code>.{% endif %}{% if !route.body.is_empty() %} Body: <a href="#{{ route.body }}">{{ route.body }}</a>.{% endif %}{% if !route.answer.is_empty() %} Answer: <a href="#{{ route.answer }}">{{ route.answer }}</a>.{% endif %}</p></details>
{% endfor %}{% endfor %}
<h2>Shapes</h2>
{% for shape in shapes %}<h3 id="{{ shape.name }}">{{ shape.name }}</h3><p>{{ shape.about }}</p>
<table><tr><th>Field</th><th>Type</th><th>Meaning</th></tr>
{% for field in shape.fields %}<tr><td><code>{{ field.name }}</code></td><td>{{ field.kind }}{% if field.needed %}, needed{% endif %}</td><td>{{ field.about }}</td></tr>
{% endfor %}</table>{% endfor %}
</body></html>"##
)]
struct Docs {
    groups: Vec<Group>,
    shapes: Vec<Shape>,
}

struct Group {
    name: &'static str,
    routes: Vec<RouteView>,
}

struct RouteView {
    method: String,
    path: &'static str,
    summary: &'static str,
    query: String,
    body: &'static str,
    answer: &'static str,
}

struct Shape {
    name: String,
    about: String,
    fields: Vec<FieldView>,
}

struct FieldView {
    name: String,
    kind: String,
    about: String,
    needed: bool,
}

fn groups() -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for route in &ROUTES {
        let view = RouteView {
            method: serde_json::json!(route.method).as_str().unwrap_or_default().to_uppercase(),
            path: route.path,
            summary: route.summary,
            query: route.query.join(", "),
            body: route.body.map_or("", |(_, shape)| shape),
            answer: route.answer.1,
        };
        match groups.iter_mut().find(|group| group.name == route.tag) {
            Some(group) => group.routes.push(view),
            None => groups.push(Group { name: route.tag, routes: vec![view] }),
        }
    }
    groups
}

fn shapes() -> Vec<Shape> {
    let document = serde_json::to_value(document()).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let schemas = document["components"]["schemas"].as_object().cloned().unwrap_or_default();
    let shape = |(name, schema): (String, Value)| Shape {
        about: text(&schema["description"]),
        fields: schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(field, about)| FieldView {
                kind: text(&about["type"]),
                about: text(&about["description"]),
                needed: schema["required"]
                    .as_array()
                    .is_some_and(|needed| needed.iter().any(|name| name == field)),
                name: field.clone(),
            })
            .collect(),
        name,
    };
    schemas.into_iter().map(shape).collect()
}

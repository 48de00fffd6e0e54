//! Talking with models. The page asks the API from its script; here are the models that it offers.

use axum::extract::State;
use axum::response::Response;
use formats::chat_template::named_templates;
use store::model::{self, Filter, Model, ModelKind};
use store::spec::Task;

use super::html;
use super::models::origin;
use super::view::Page;
use super::view::playground::{Choice, Column, Playground};
use crate::extract::Query;
use crate::inference::Served;
use crate::openai::models::task_of;
use crate::{AppState, Result};

/// Models that are offered.
const OFFERED: usize = 100;

/// Models that are looked at for that.
const LOOKED_AT: i64 = 500;

/// Places side by side, and what they are called.
const COLUMNS: [&str; 3] = ["Model", "Beside it", "And"];

/// `GET /playground?model=…&model=…`
pub async fn show_playground(State(state): State<AppState>, query: Query) -> Result<Response> {
    let asked: Vec<&str> = query.pairs().filter(|(name, _)| *name == "model").map(|(_, id)| id).collect();
    let models = offered(&state, &asked).await?;
    let chosen = chosen(&models, &asked);
    let column = |(place, label): (usize, &&'static str)| Column {
        number: place + 1,
        label,
        chosen: chosen.get(place).cloned().unwrap_or_default(),
    };
    html(&Playground {
        page: Page::new("Playground", "playground").with(&["js/playground.js"]),
        columns: COLUMNS.iter().enumerate().map(column).collect(),
        choices: choices(&state, &models).await?,
        templates: named_templates().iter().map(|template| template.name).collect(),
    })
}

/// The newest language models, and those that were asked for; of checkpoints only the latter.
async fn offered(state: &AppState, asked: &[&str]) -> Result<Vec<Model>> {
    let mut models = model::list(&state.store.db, &Filter::default(), LOOKED_AT).await?.items;
    models.retain(|model| model.kind != ModelKind::Checkpoint);
    for id in asked {
        if !models.iter().any(|model| model.model_id == *id) {
            models.extend(model::get(&state.store.db, id).await?);
        }
    }
    models.retain(|model| task_of(model) == Task::TextGeneration);
    let is_asked = |model: &Model| asked.contains(&model.model_id.as_str());
    models.sort_by_key(|model| (!is_asked(model), std::cmp::Reverse(model.created_at)));
    models.truncate(OFFERED);
    Ok(models)
}

/// What stands side by side at first: what was asked for, and beside a single tuned model its base.
fn chosen(models: &[Model], asked: &[&str]) -> Vec<String> {
    let there = |id: &&str| models.iter().any(|model| model.model_id == *id);
    let mut chosen: Vec<String> =
        asked.iter().copied().filter(there).take(COLUMNS.len()).map(str::to_owned).collect();
    let newest = models.iter().find(|model| model.kind == ModelKind::Tuned).or(models.first());
    if let (true, Some(newest)) = (chosen.is_empty(), newest) {
        chosen.push(newest.model_id.clone());
    }
    if let [only] = chosen.as_slice() {
        let tuned = models.iter().find(|model| model.model_id == *only);
        let base = tuned.and_then(|model| model.base_model.as_deref()).filter(there);
        chosen.extend(base.map(str::to_owned));
    }
    chosen
}

async fn choices(state: &AppState, models: &[Model]) -> Result<Vec<Choice>> {
    let mut choices = Vec::new();
    for model in models {
        let chats = Served::of(&state.store, model).await?.chats(&state.store).await?;
        choices.push(Choice { id: model.model_id.clone(), note: origin(model.kind), chats });
    }
    Ok(choices)
}

//! What a model was made of, and what was made of it.

use store::job::Job;
use store::model::Model;

use crate::pages::convert;
use crate::pages::view::Fact;
use crate::pages::view::model::Ancestor;
use crate::{AppState, Result};

/// From the first base to this model, with the jobs between.
pub async fn lineage(state: &AppState, model: &Model) -> Result<Vec<Ancestor>> {
    const MOST: usize = 8;
    let db = &state.store.db;
    let mut steps = vec![Ancestor {
        role: "this model",
        name: convert::short_model(&model.model_id),
        href: convert::model_href(&model.model_id),
        current: true,
    }];
    let mut job = model.job_id;
    let mut base = model.base_model.clone();
    while steps.len() < MOST {
        if let Some(id) = job {
            let row = store::job::get(db, id).await?;
            steps.push(Ancestor {
                role: "fine-tune",
                name: row.as_ref().map_or_else(|| "a deleted run".to_owned(), convert::job_name),
                href: row.map(|row| convert::job_href(row.job_id)).unwrap_or_default(),
                current: false,
            });
        }
        let Some(id) = base.take() else { break };
        let parent = store::model::get(db, &id).await?;
        let role =
            if parent.as_ref().is_some_and(|parent| parent.base_model.is_some()) { "model" } else { "base" };
        let href = parent.as_ref().map(|parent| convert::model_href(&parent.model_id)).unwrap_or_default();
        steps.push(Ancestor { role, name: convert::short_model(&id), href, current: false });
        job = parent.as_ref().and_then(|parent| parent.job_id);
        base = parent.and_then(|parent| parent.base_model);
    }
    steps.reverse();
    Ok(steps)
}

/// The newest jobs that began with a model.
pub async fn descendants(state: &AppState, id: &str) -> Result<Vec<Fact>> {
    let filter = store::job::Filter { model_id: Some(id.to_owned()), ..store::job::Filter::default() };
    let jobs = store::job::list(&state.store.db, &filter, 12).await?.items;
    let fact = |job: &Job| {
        Fact::linked(
            convert::job_name(job),
            convert::status(job).label.to_lowercase(),
            convert::job_href(job.job_id),
        )
    };
    Ok(jobs.iter().map(fact).collect())
}

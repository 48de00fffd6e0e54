//! What the form as it stands would take.

use axum::extract::{Query, State};
use axum::response::Response;

use super::{request, settle_task};
use crate::openai::dry_run::{self, DryRun};
use crate::openai::jobs;
use crate::pages::settings::{self, Values};
use crate::pages::view::form::EstimateLine;
use crate::pages::view::text;
use crate::pages::{convert, html};
use crate::{AppState, Result};

/// `GET /jobs/new/estimate`: what the form as it stands would take; empty while it cannot be started.
pub async fn show_estimate(
    State(state): State<AppState>,
    Query(mut values): Query<Values>,
) -> Result<Response> {
    settings::fill_switches(&mut values);
    settle_task(&state, &mut values).await?;
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
    let mut said = format!(
        "About {} of memory, {}, {} tokens a step",
        text::bytes(estimate.total()),
        text::plural(estimate.steps, "step", "steps"),
        text::count(estimate.tokens_per_step)
    );
    match &run.speed {
        Some((seconds, job)) => said.push_str(&format!(
            "; {} of training at the speed of {}.",
            text::duration(seconds * estimate.steps as f64),
            convert::job_name(job)
        )),
        None => said.push('.'),
    }
    if let Some(shares) = run.shares.filter(|shares| shares.truncated + shares.left_out > 0.0) {
        said.push_str(&format!(
            " {} of the rows are longer than the longest text and cut, {} have nothing to learn within it.",
            text::percent(shares.truncated),
            text::percent(shares.left_out)
        ));
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
    EstimateLine { text: said, warning }
}

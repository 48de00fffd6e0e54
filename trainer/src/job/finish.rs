//! The end of a training: the best weights, the final test, and the folder that people download.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::checkpoint::write_synced;
use super::curves::curves_csv;
use super::evaluate::{self, Evaluation};
use super::events::Events;
use super::export::commit_folder;
use super::setup::Session;
use super::train::tell_evaluation;

/// Writes `out/model` from the best checkpoint and returns the content of `result.json`.
pub fn finish(mut session: Session, events: &mut Events, step: u64) -> Result<Value> {
    let best = session.state.tracker.best().map_or(step, |best| best.step);
    // The checkpoint that is read here is written by the first process.
    session.ranks.gather()?;
    if best != step {
        super::handover::weights(
            &session.checkpoints.path(best),
            session.files.trained_file(),
            &session.ranks,
        )?;
        session.files.restore(&session.parts, &session.checkpoints.path(best))?;
    }
    // The same rows as in training, so that the numbers are those of the curve.
    let validation = evaluated(&session, session.data.validation.as_ref(), false)?;
    let test = test(&session, events, best)?;
    session.ranks.gather()?;
    if !session.ranks.leads() {
        session.parts.serve(&session.ranks, &session.files.params, session.parts.of_model())?;
        session.ranks.part()?;
        return Ok(json!({"status": "succeeded"}));
    }
    events.phase(step, "exporting", Map::new())?;
    let folder = session.out.join("model");
    commit_folder(&folder, |folder| write_model(&session, folder, best, validation.as_ref(), test.as_ref()))?;
    session.ranks.part()?;
    let mut metrics = Map::new();
    for (prefix, evaluation) in [("", &validation), ("test_", &test)] {
        for (name, value) in evaluation.iter().flat_map(|evaluation| evaluation.metrics.values.iter()) {
            metrics.insert(format!("{prefix}{name}"), json!(value));
        }
    }
    Ok(json!({
        "status": "succeeded",
        "metrics": metrics,
        "best_step": best,
        "steps": step,
        "trained_tokens": session.state.tokens,
        "seconds": session.state.seconds + session.began.elapsed().as_secs_f64(),
        "manifest": session.manifest,
        "model": "model",
    }))
}

fn evaluated(session: &Session, split: Option<&crate::data::Split>, all: bool) -> Result<Option<Evaluation>> {
    split.map(|split| evaluate::evaluate(session, split, all)).transpose()
}

/// The test rows are looked at once, with the weights that were chosen without them.
fn test(session: &Session, events: &mut Events, best: u64) -> Result<Option<Evaluation>> {
    let began = Instant::now();
    let Some(evaluation) = evaluated(session, session.data.test.as_ref(), true)? else { return Ok(None) };
    let epoch = best as f64 / session.order.steps_per_epoch() as f64;
    tell_evaluation(session, "test", &evaluation, epoch, true, began.elapsed(), events)?;
    Ok(Some(evaluation))
}

fn write_model(
    session: &Session,
    folder: &Path,
    best: u64,
    validation: Option<&Evaluation>,
    test: Option<&Evaluation>,
) -> Result<()> {
    session.files.write_finished(folder, &session.ranks, &session.parts)?;
    session.files.write_licence(folder)?;
    let json = |value: &Value| serde_json::to_vec_pretty(value);
    write_synced(&folder.join("trainer_state.json"), &json(&trainer_state(session, best))?)?;
    write_synced(&folder.join("manifest.json"), &json(&session.manifest)?)?;
    write_synced(&folder.join("metrics.csv"), curves_csv(&session.state.log_history).as_bytes())?;
    write_synced(&folder.join("README.md"), card(session, best, validation, test).as_bytes())?;
    let parts = [("validation", validation, &session.data.validation), ("test", test, &session.data.test)];
    for (name, evaluation, split) in parts {
        if let (Some(evaluation), Some(split)) = (evaluation, split) {
            let csv = session.objective.predictions_csv(split, &evaluation.predictions)?;
            write_synced(&folder.join(format!("predictions-{name}.csv")), csv.as_bytes())?;
        }
    }
    Ok(())
}

/// The fields of transformers' `trainer_state.json` that have a meaning here.
fn trainer_state(session: &Session, best: u64) -> Value {
    let state = &session.state;
    json!({
        "global_step": state.step,
        "max_steps": session.total_steps,
        "epoch": state.step as f64 / session.order.steps_per_epoch() as f64,
        "num_train_epochs": session.spec.training.epochs,
        "train_batch_size": session.spec.training.batch_size,
        "best_global_step": best,
        "best_metric": state.tracker.best().map(|best| best.value),
        "best_metric_name": state.tracker.rule().metric,
        "num_input_tokens_seen": state.tokens,
        "log_history": state.log_history,
    })
}

/// The model card: what it is, how good it is, how it was made.
fn card(session: &Session, best: u64, validation: Option<&Evaluation>, test: Option<&Evaluation>) -> String {
    let spec = &session.spec;
    let title = if spec.name.is_empty() { "Fine-tuned model" } else { &spec.name };
    let base = if spec.base_model.is_empty() { "an uploaded checkpoint" } else { &spec.base_model };
    let (library, tags) = session.objective.library();
    let tags: String = tags.iter().map(|tag| format!("- {tag}\n")).collect();
    let mut card = format!(
        "---\nlibrary_name: {library}\npipeline_tag: {}\ntags:\n{tags}- luthier\n---\n\n# {title}\n\nTuned from {base} \
         with Luthier {}. ",
        spec.task.as_str(),
        env!("CARGO_PKG_VERSION"),
    );
    let _ = writeln!(
        card,
        "The weights are those of step {best} of {}, chosen by {} on the validation rows.\n",
        session.state.step,
        session.state.tracker.rule().metric
    );
    let labels = session.objective.labels();
    if !labels.is_empty() {
        let _ = writeln!(card, "Labels: {}.\n", labels.join(", "));
    }
    let data = &session.data;
    let count = |split: &Option<crate::data::Split>| split.as_ref().map_or(0, |split| split.len());
    let _ = writeln!(
        card,
        "Rows: {} to train on, {} for validation, {} for the test.\n",
        data.train.len(),
        count(&data.validation),
        count(&data.test)
    );
    for (name, evaluation) in [("Validation", validation), ("Test", test)] {
        let Some(evaluation) = evaluation else { continue };
        let _ = writeln!(card, "## {name}\n\n| metric | value |\n| --- | --- |");
        for (metric, value) in evaluation.metrics.values.iter() {
            let value = value.map_or("undefined".into(), |value| format!("{value:.4}"));
            let _ = writeln!(card, "| {metric} | {value} |");
        }
        card.push('\n');
    }
    let settings = serde_json::to_string_pretty(&spec.training).unwrap_or_default();
    let _ = writeln!(card, "## Settings\n\nSeed {}.\n\n```json\n{settings}\n```\n", spec.seed);
    card.push_str(
        "`manifest.json` holds the hashes of data, base weights and settings, from which the training can be run \
         again.\n\n## Use\n\n",
    );
    let beside = spec.training.lora.as_ref().is_some_and(|adapter| !adapter.merge);
    card.push_str(session.objective.usage(beside));
    card
}

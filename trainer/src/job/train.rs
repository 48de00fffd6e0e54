//! The training loop: it moves the weights, and says what happens only through events.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use store::spec::Every;
use tch::Device;

use super::checkpoint::State;
use super::control::{Asked, Control};
use super::evaluate::{self, Evaluation};
use super::events::{Event, Events};
use super::samples;
use super::setup::Session;
use super::step::{Step, one_step};
use crate::data::{MicroBatch, Prefetch};

/// A checkpoint is written at the latest this long after the one before.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(600);

/// Points of the training curve, at most, when nothing else is asked for.
const CURVE_POINTS: u64 = 2000;

/// Why the loop ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// All steps were made, or early stopping asked for the end.
    Done,
    /// Someone asked.
    Asked(Asked),
}

/// Trains from where the session stands to the end. `step` follows along for whoever reports a failure.
pub fn train(session: &mut Session, events: &mut Events, control: &Control, step: &mut u64) -> Result<End> {
    *step = session.state.step;
    session.began = Instant::now();
    if *step == 0 && session.samples.is_some() {
        // The base model's own answers, to compare with.
        events.phase(0, "evaluating", serde_json::Map::new())?;
        samples::tell(session, control, events)?;
    }
    events.phase(*step, "training", serde_json::Map::new())?;
    let every = session.spec.training.log_every.unwrap_or(session.total_steps.div_ceil(CURVE_POINTS)).max(1);
    let mut window = Window::new();
    let mut last_checkpoint = Instant::now();
    let batches = Prefetch::start(
        session.data.train.clone(),
        session.order.clone(),
        *step,
        session.padding,
        session.device,
        session.ranks.share(),
        pieces(session),
    )?;
    while session.state.step < session.total_steps && !session.state.stop {
        let made = one_step(session, &batches, &mut window)?;
        session.state.step += 1;
        *step = session.state.step;
        if step.is_multiple_of(every) || *step == session.total_steps {
            tell_step(session, &made, &mut window, events)?;
        }
        let observed = evaluation_due(session, *step);
        if observed {
            observe(session, control, events)?;
        }
        let evaluated = observed && (session.data.validation.is_some() || *step == session.total_steps);
        // All must end at the same step, and write or give their part at the same: clocks differ.
        let [asked, due] = session.ranks.greatest([
            Asked::code(control.asked()),
            i64::from(session.ranks.leads() && checkpoint_due(session, last_checkpoint)),
        ])?;
        let asked = Asked::of_code(asked);
        if evaluated || asked == Some(Asked::Pause) || due > 0 {
            save_checkpoint(session, events)?;
            last_checkpoint = Instant::now();
        }
        if observed {
            window = Window::new();
        }
        if let Some(asked) = asked.filter(|_| *step < session.total_steps) {
            return Ok(End::Asked(asked));
        }
    }
    Ok(End::Done)
}

/// Rows, tokens and time since the last point of the curve.
pub struct Window {
    began: Instant,
    steps: u64,
    samples: u64,
    tokens: u64,
    own: u64,
    computed: u64,
    batches: u64,
    /// The most that a micro-batch kept for its backward pass.
    activations: u64,
}

impl Window {
    fn new() -> Self {
        Window {
            began: Instant::now(),
            steps: 0,
            samples: 0,
            tokens: 0,
            own: 0,
            computed: 0,
            batches: 0,
            activations: 0,
        }
    }

    /// Counts a micro-batch, of which so many bytes were kept for the backward pass.
    pub fn count(&mut self, micro: &MicroBatch, activations: u64) {
        self.activations = self.activations.max(activations);
        self.samples += micro.all.len() as u64;
        self.tokens += micro.tokens;
        self.own += micro.batch.tokens;
        self.computed += micro.batch.computed();
        // Pieces of a batch after the first name no rows.
        self.batches += u64::from(!micro.all.is_empty());
    }
}

fn epoch_of(session: &Session, step: u64) -> f64 {
    step as f64 / session.order.steps_per_epoch() as f64
}

fn tell_step(session: &mut Session, made: &Step, window: &mut Window, events: &mut Events) -> Result<()> {
    let step = session.state.step;
    let seconds = window.began.elapsed().as_secs_f64().max(1e-9);
    let accumulation = u64::from(session.spec.training.gradient_accumulation_steps);
    window.steps = window.batches.div_ceil(accumulation).max(1);
    let step_seconds = seconds / window.steps as f64;
    let epoch = epoch_of(session, step);
    let mut values = json!({
        "loss": made.loss,
        "learning_rate": made.learning_rate,
        "grad_norm": made.grad_norm,
        "epoch": epoch,
    });
    if let Some(accuracy) = made.accuracy {
        values["mean_token_accuracy"] = accuracy.into();
    }
    for (name, value) in session.objective.told() {
        values[name] = value.into();
    }
    let data = json!({
        "total_steps": session.total_steps,
        "samples": session.state.samples,
        "tokens": session.state.tokens,
        "samples_per_second": window.samples as f64 / seconds,
        "tokens_per_second": window.tokens as f64 / seconds,
        "padding": 1.0 - window.own as f64 / window.computed.max(1) as f64,
        "step_seconds": step_seconds,
        "memory_bytes": native::memory::rss_bytes()?,
        "activation_bytes": window.activations,
        "eta_seconds": step_seconds * (session.total_steps - step) as f64,
    });
    let message = format!("Step {step} of {}: loss {:.4}", session.total_steps, made.loss);
    tracing::debug!(step, "{message}");
    let mut logged = values.clone();
    logged["step"] = step.into();
    session.state.log_history.push(logged);
    events.emit(Event { kind: "train", step, message, values, data })?;
    *window = Window::new();
    Ok(())
}

/// Into how many a batch is cut so that all stages have work: none where a step has enough batches.
fn pieces(session: &Session) -> usize {
    if session.objective.couples_rows() {
        return 1;
    }
    let stages = session.ranks.grid().stages;
    let batches = session.spec.training.gradient_accumulation_steps as usize;
    if batches >= stages { 1 } else { stages }
}

/// Whether the validation rows are looked at and samples are taken after this step; after the last they always are.
fn evaluation_due(session: &Session, step: u64) -> bool {
    let due = match session.spec.training.eval_every {
        Every::Steps(steps) => step.is_multiple_of(steps.max(1)),
        Every::Epochs(epochs) => {
            let interval = epochs * session.order.steps_per_epoch() as f64;
            let nearest = (step as f64 / interval).round();
            nearest >= 1.0 && (nearest * interval).round() as u64 == step
        }
    };
    due || step == session.total_steps
}

fn checkpoint_due(session: &Session, last: Instant) -> bool {
    let by_steps =
        session.spec.training.checkpoint_every.is_some_and(|n| session.state.step.is_multiple_of(n.max(1)));
    by_steps || last.elapsed() >= CHECKPOINT_INTERVAL
}

/// Looks at the validation rows and takes samples, where there are any.
fn observe(session: &mut Session, control: &Control, events: &mut Events) -> Result<()> {
    if session.data.validation.is_none() && session.samples.is_none() {
        return Ok(());
    }
    let step = session.state.step;
    events.phase(step, "evaluating", serde_json::Map::new())?;
    validate(session, events)?;
    samples::tell(session, control, events)?;
    events.phase(step, "training", serde_json::Map::new())
}

/// Evaluates the validation rows, and lets the rule for the best checkpoint see the result.
fn validate(session: &mut Session, events: &mut Events) -> Result<()> {
    let Some(split) = &session.data.validation else { return Ok(()) };
    let (step, began) = (session.state.step, Instant::now());
    let evaluation = evaluate::evaluate(session, split, false)?;
    let verdict = session.state.tracker.observe(step, &evaluation.metrics.values);
    session.state.stop = verdict.stop;
    let epoch = epoch_of(session, step);
    tell_evaluation(session, "eval", &evaluation, epoch, verdict.best, began.elapsed(), events)?;
    let shown = session.objective.examples(split, &evaluation.predictions, u64::from(session.spec.seed));
    if let Some(data) = shown {
        events.emit(Event { kind: "examples", step, data, ..Event::default() })?;
    }
    let mut logged = json!({"step": step, "epoch": epoch});
    for (name, value) in evaluation.metrics.values.iter() {
        logged[format!("eval_{name}")] = json!(value);
    }
    session.state.log_history.push(logged);
    if verdict.stop && step < session.total_steps {
        let rule = session.state.tracker.rule();
        let best = session.state.tracker.best().map_or(step, |best| best.step);
        events.log(
            step,
            format!(
                "Stopping early: {} has not improved in {} evaluations; the best is that of step {best}.",
                rule.metric,
                session.state.tracker.without_improvement()
            ),
        )?;
    }
    Ok(())
}

/// Writes an `eval` or `test` event.
pub fn tell_evaluation(
    session: &Session,
    kind: &str,
    evaluation: &Evaluation,
    epoch: f64,
    best: bool,
    took: Duration,
    events: &mut Events,
) -> Result<()> {
    let metrics = &evaluation.metrics;
    let mut values = serde_json::Map::new();
    for (name, value) in metrics.values.iter() {
        values.insert(name.to_string(), json!(value));
    }
    let rows = evaluation.predictions.losses.len();
    let data = json!({
        "epoch": epoch,
        "seconds": took.as_secs_f64(),
        "rows": rows,
        "labels": session.objective.labels(),
        "per_class": metrics.per_class,
        "confusion_matrix": metrics.confusion_matrix,
        "undefined": metrics.undefined,
        "best": best,
    });
    let shown = |name| metrics.get(name).map_or_else(String::new, |value| format!(", {name} {value:.4}"));
    let message = format!(
        "{} of {rows} rows{}{}{}{}{}{}{}",
        if kind == "test" { "Test" } else { "Validation" },
        shown("loss"),
        shown("perplexity"),
        shown("mean_token_accuracy"),
        shown("accuracy"),
        shown("f1"),
        shown("ndcg_at_10"),
        shown("spearman")
    );
    events.emit(Event { kind, step: session.state.step, message, values: Value::Object(values), data })
}

fn save_checkpoint(session: &mut Session, events: &mut Events) -> Result<()> {
    // What the checkpoint stands for must be on the disk before the checkpoint is.
    events.sync()?;
    session.state.seconds += session.began.elapsed().as_secs_f64();
    session.began = Instant::now();
    if session.device != Device::Cpu {
        tch::Cuda::synchronize(0);
    }
    let Session { ranks, parts, files, optimizer, checkpoints, state, .. } = session;
    if !ranks.leads() {
        return checkpoints.give(ranks, parts, files, optimizer);
    }
    let path = checkpoints.save(ranks, parts, files, optimizer, state)?;
    tell_checkpoint(&session.state, &path, events)
}

/// Writes a `checkpoint` event.
pub fn tell_checkpoint(state: &State, path: &Path, events: &mut Events) -> Result<()> {
    let step = state.step;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let metrics = state
        .log_history
        .iter()
        .rev()
        .find(|logged| logged["step"] == json!(step) && logged.get("eval_loss").is_some());
    let data = json!({
        "path": format!("checkpoints/{name}"),
        "best": state.tracker.best().is_some_and(|best| best.step == step),
        "metrics": metrics,
        "bytes": folder_bytes(path)?,
    });
    let message = format!("Checkpoint of step {step}");
    events.emit(Event { kind: "checkpoint", step, message, data, ..Event::default() })
}

fn folder_bytes(path: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => folder_bytes(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}

//! A job is a directory: `spec.json`, `data/` and `model/` go in, `out/` comes out.
//!
//! No network, no database, no async: the same directory run again goes on where it was, and gives the same bits.

mod adapter;
mod artifact;
mod checkpoint;
pub mod control;
mod curves;
mod divide;
mod evaluate;
mod events;
mod export;
mod finish;
mod grid;
mod handover;
mod machines;
mod manifest;
mod parts;
mod pass;
mod pipeline;
pub mod plan;
pub mod ranks;
mod reference;
mod samples;
mod scaler;
mod setup;
mod step;
mod texts;
mod train;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use store::spec::Work;

pub use self::events::Events;

use self::control::Control;
use self::events::Event;
use crate::failure::{Failure, Fault};

/// How a job is run.
#[derive(Clone, Debug, clap::Args)]
pub struct JobArgs {
    /// The job's directory.
    pub dir: PathBuf,
    /// Which attempt this is, counted from 1.
    #[arg(long, default_value_t = 1)]
    pub attempt: u32,
    /// Obey lines on stdin (`pause`, `cancel`), end when it closes, and write `event` to stdout for each new event.
    #[arg(long)]
    pub attached: bool,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// What was to be made lies in a folder under `out`, which the result names.
    Succeeded(Value),
    /// It cannot end well, or may when tried again.
    Failed(Failure, u64),
    /// A checkpoint was written at this step; the job can go on.
    Paused(u64),
    /// It was given up at this step.
    Cancelled(u64),
}

impl Outcome {
    /// The content of `result.json`.
    pub fn to_json(&self) -> Value {
        match self {
            Outcome::Succeeded(result) => result.clone(),
            Outcome::Failed(failure, step) => json!({
                "status": "failed",
                "fault": failure.fault,
                "code": failure.code,
                "message": failure.message,
                "param": failure.param,
                "step": step,
            }),
            Outcome::Paused(step) => json!({"status": "paused", "step": step}),
            Outcome::Cancelled(step) => json!({"status": "cancelled", "step": step}),
        }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Outcome::Succeeded(_) => 0,
            Outcome::Failed(Failure { fault: Fault::User, .. }, _) => 10,
            Outcome::Failed(Failure { fault: Fault::Internal, .. }, _) => 11,
            Outcome::Paused(_) => 12,
            Outcome::Cancelled(_) => 13,
        }
    }
}

/// Runs the job to its end and writes `out/result.json`, whatever happens inside.
pub fn run(args: &JobArgs) -> Result<ExitCode> {
    let control = Control::listen(args.attached)?;
    let outcome = run_with(args, &control)?;
    Ok(ExitCode::from(outcome.exit_code()))
}

/// Runs the job under a given control.
pub fn run_with(args: &JobArgs, control: &Control) -> Result<Outcome> {
    if ranks::own_rank() > 0 {
        return follow(args, control);
    }
    let out = args.dir.join("out");
    std::fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let result = out.join("result.json");
    if result.exists() {
        std::fs::remove_file(&result)?;
    }
    let mut events = Events::open(&out.join("events.jsonl"), args.attempt, args.attached)?;
    let mut step = 0;
    let outcome = Failure::contain(|| work(args, &mut events, control, &mut step))
        .unwrap_or_else(|failure| Outcome::Failed(plan::explained(failure, &out), step));
    tell(&outcome, step, &mut events)?;
    write_result(&outcome, &out)?;
    Ok(outcome)
}

/// The part of a process that is not the first: that one tells and writes. The first on another machine leaves its
/// machine's result.
fn follow(args: &JobArgs, control: &Control) -> Result<Outcome> {
    let mut step = 0;
    let outcome = Failure::contain(|| work(args, &mut Events::silent()?, control, &mut step));
    let out = args.dir.join("out");
    let outcome = outcome.unwrap_or_else(|failure| {
        tracing::error!(code = failure.code, rank = ranks::own_rank(), "{}", failure.message);
        Outcome::Failed(
            if ranks::speaks_for_machine() { plan::explained(failure, &out) } else { failure },
            step,
        )
    });
    if ranks::speaks_for_machine() {
        write_result(&outcome, &out)?;
    }
    Ok(outcome)
}

fn write_result(outcome: &Outcome, out: &Path) -> Result<()> {
    let unfinished = out.join(".result.json");
    checkpoint::write_synced(&unfinished, &serde_json::to_vec_pretty(&outcome.to_json())?)?;
    Ok(std::fs::rename(unfinished, out.join("result.json"))?)
}

fn work(args: &JobArgs, events: &mut Events, control: &Control, step: &mut u64) -> Result<Outcome> {
    let spec = setup::read_spec(&args.dir)?;
    if let Work::Export(wanted) = spec.work {
        return artifact::run(&args.dir, &spec, wanted, events, control);
    }
    let mut session = setup::prepare(&args.dir, spec, args.attempt, events)?;
    match train::train(&mut session, events, control, step)? {
        train::End::Asked(asked) => {
            // Others may still be giving their parts of the checkpoint to the first.
            session.ranks.part()?;
            Ok(match asked {
                control::Asked::Pause => Outcome::Paused(*step),
                control::Asked::Cancel => Outcome::Cancelled(*step),
            })
        }
        train::End::Done => Ok(Outcome::Succeeded(finish::finish(session, events, *step)?)),
    }
}

fn tell(outcome: &Outcome, step: u64, events: &mut Events) -> Result<()> {
    let data = outcome.to_json();
    let message = match outcome {
        Outcome::Succeeded(_) => "The job is done.".to_string(),
        Outcome::Failed(failure, _) => failure.message.clone(),
        Outcome::Paused(_) => format!("Paused after step {step}."),
        Outcome::Cancelled(_) => format!("Cancelled after step {step}."),
    };
    if let Outcome::Failed(failure, _) = outcome {
        tracing::error!(code = failure.code, "{message}");
    }
    events.emit(Event { kind: "result", step, message, data, ..Event::default() })?;
    events.sync()
}

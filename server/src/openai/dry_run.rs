//! What a job would take, without making it: memory, steps, time.

use chrono::Utc;
use serde_json::{Map, Value, json};
use store::agent::{self, Agent};
use store::estimate::{self, Estimate, Machine, Way};
use store::job::{self, Job, Status};
use store::queue::NewJob;
use store::spec::{Device, JobSpec, Precision};

use super::sample::{Shares, sample};
use super::views::columns_json;
use crate::operations::SILENCE;
use crate::{AppState, Error, Result};

/// Finished jobs that are looked through for one whose speed says something.
const LOOKED_THROUGH: i64 = 20;

/// What a job would take.
#[derive(Debug)]
pub struct DryRun {
    /// Memory and work.
    pub estimate: Estimate,
    /// Tokens of a row, on average and at most.
    pub tokens: (f64, u64),
    /// Rows to train on, and how many of them were looked at.
    pub rows: (u64, u64),
    /// Rows that are cut and tokens that count, in text generation.
    pub shares: Option<Shares>,
    /// Seconds of a step, and the finished job by whose speed, where there is one.
    pub speed: Option<(f64, Job)>,
    /// Agents that live, and whether the job fits each; `None` where its memory is not known.
    pub agents: Vec<(Agent, Option<bool>)>,
    /// Settings that fit the largest agent, where these do not.
    pub suggestion: Option<Way>,
}

impl DryRun {
    /// Whether some agent has the memory; `None` where none is there, or none says what it has.
    pub fn fits(&self) -> Option<bool> {
        let known = self.agents.iter().filter_map(|(_, fits)| *fits);
        known.reduce(|any, fits| any || fits)
    }

    /// The answer of the API.
    pub fn to_json(&self, new: &NewJob) -> Value {
        let estimate = &self.estimate;
        let agent = |(agent, fits): &(Agent, Option<bool>)| json!({"name": agent.name, "device": agent.device, "memory_bytes": agent.memory_bytes, "fits": fits});
        json!({
            "object": "fine_tuning.job.dry_run",
            "model": new.model_id,
            "task": new.spec.task,
            "problem_type": new.spec.problem_type,
            "columns": columns_json(&new.spec),
            "rows": {
                "training": self.rows.0,
                "sampled": self.rows.1,
                "mean_tokens": self.tokens.0,
                "longest_tokens": self.tokens.1,
                "truncated_share": self.shares.map(|shares| shares.truncated),
                "counted_share": self.shares.map(|shares| shares.counted),
                "left_out_share": self.shares.map(|shares| shares.left_out),
            },
            "memory": {
                "weights": estimate.weights,
                "copies": estimate.copies,
                "gradients": estimate.gradients,
                "optimizer": estimate.optimizer,
                "activations": estimate.activations,
                "buffers": estimate.buffers,
                "runtime": estimate.runtime,
                "peak": estimate.peak,
                "processes": estimate.processes,
                "total": estimate.total(),
            },
            "steps": estimate.steps,
            "steps_per_epoch": estimate.steps_per_epoch,
            "tokens_per_step": estimate.tokens_per_step,
            "flops_per_step": estimate.flops_per_step,
            "seconds_per_step": self.speed.as_ref().map(|(seconds, _)| seconds),
            "speed_of": self.speed.as_ref().map(|(_, job)| job.job_id.to_string()),
            "fits": self.fits(),
            "agents": self.agents.iter().map(agent).collect::<Vec<_>>(),
            "suggestion": self.suggestion,
            "notes": new.notes,
        })
    }
}

/// Whether a request asks for this; the field does not belong to the job.
pub fn taken_from(body: &mut Map<String, Value>) -> Result<bool> {
    match body.remove("dry_run") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(asked)) => Ok(asked),
        Some(other) => Err(Error::invalid("dry_run", format!("expected true or false, found {other}"))),
    }
}

/// Estimates a job that was checked.
pub async fn dry_run(state: &AppState, new: &NewJob) -> Result<DryRun> {
    let sample = sample(state, &new.spec, &new.model_id, new.training_file).await?;
    let live: Vec<Agent> = agent::list(&state.store.db).await?.into_iter().filter(is_live).collect();
    let finished = finished_on(state, &new.spec, &live).await?;
    let machine = Machine { auto: finished.as_ref().map_or(Precision::Fp32, settled_auto) };
    let spec = &new.spec;
    let rows = sample.rows_of(spec);
    let estimate = estimate::estimate(&sample.model, spec, &rows, machine);
    let speed = match finished {
        Some(job) => seconds_per_step(state, &estimate, machine, job).await?,
        None => None,
    };
    // What a GPU has of its own is not known here.
    let on_cpu = |agent: &Agent| spec.resources.device == Device::Cpu || agent.cuda_devices == 0;
    let fits = |agent: &Agent| Some(estimate.total() <= memory_of(agent).filter(|_| on_cpu(agent))?);
    let agents: Vec<_> =
        live.into_iter().map(|agent| (fits(&agent), agent)).map(|(fits, agent)| (agent, fits)).collect();
    let largest =
        agents.iter().filter(|(_, fits)| fits.is_some()).filter_map(|(agent, _)| memory_of(agent)).max();
    let suggestion = largest.filter(|most| estimate.total() > *most).and_then(|most| {
        let ways = estimate::ways(&sample.model, spec, &rows, machine);
        estimate::fitting(&ways, most).cloned()
    });
    Ok(DryRun {
        estimate,
        tokens: (rows.mean(), rows.longest()),
        rows: (rows.count, sample.looked_at),
        shares: sample.shares,
        speed,
        agents,
        suggestion,
    })
}

fn is_live(agent: &Agent) -> bool {
    Utc::now() - agent.last_seen < SILENCE && agent.unfit.is_none()
}

fn memory_of(agent: &Agent) -> Option<u64> {
    agent.memory_bytes?.try_into().ok()
}

/// The newest job that ended well on the kind of device that this one would get.
async fn finished_on(state: &AppState, spec: &JobSpec, live: &[Agent]) -> Result<Option<Job>> {
    let kind = |device: &str| device.split(':').next().unwrap_or_default().to_owned();
    let wanted = match spec.resources.device {
        Device::Cpu => Some("cpu".to_owned()),
        Device::Cuda => Some("cuda".to_owned()),
        Device::Auto => live.first().map(|agent| kind(&agent.device)),
    };
    let filter = job::Filter { status: Some(Status::Succeeded), ..job::Filter::default() };
    let jobs = job::list(&state.store.db, &filter, LOOKED_THROUGH).await?;
    Ok(jobs.items.into_iter().find(|job| {
        let same = job.device.as_deref().map(kind) == wanted;
        same && wanted.is_some() && job.progress["step_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0)
    }))
}

/// What `auto` became in a finished job; fp32 where it does not say.
fn settled_auto(job: &Job) -> Precision {
    if job.spec.0.training.precision != Precision::Auto {
        return Precision::Fp32;
    }
    let named = job.manifest["hardware"]["precision"].clone();
    serde_json::from_value(named).unwrap_or(Precision::Fp32)
}

/// Time of a step by the operations of a step here and there; `None` where the other's data or model are gone.
async fn seconds_per_step(
    state: &AppState,
    estimate: &Estimate,
    machine: Machine,
    job: Job,
) -> Result<Option<(f64, Job)>> {
    let Ok(sample) = sample(state, &job.spec.0, &job.model_id, job.training_file).await else {
        return Ok(None);
    };
    let other = estimate::estimate(&sample.model, &job.spec.0, &sample.rows_of(&job.spec.0), machine);
    let seconds = job.progress["step_seconds"].as_f64().unwrap_or_default();
    let known = other.flops_per_step > 0.0 && seconds > 0.0;
    Ok(known.then(|| (seconds * estimate.flops_per_step / other.flops_per_step, job)))
}

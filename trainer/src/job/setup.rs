//! From a job's directory to everything that the training needs in memory.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use formats::checkpoint::Weights;
use formats::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use store::spec::{JobSpec, Precision, ProblemType};
use tch::{Device, Tensor};

use super::adapter;
use super::checkpoint::{Checkpoints, State};
use super::divide;
use super::events::{Event, Events};
use super::export::ModelFiles;
use super::grid::Grid;
use super::manifest::{self, Hashes};
use super::parts::Parts;
use super::pass::Stage;
use super::plan::{self, Plan};
use super::ranks::{self, Ranks};
use super::scaler::Scaler;
use crate::data::{Cache, Data, Order, Share, collate};
use crate::failure::Failure;
use crate::metrics::best::{Rule, Tracker};
use crate::models::{self, TextModel};
use crate::nn::{Context, Copies, Embedding, LoadReport, Loaded, Loader};
use crate::optim::Optimizer;
use crate::precision::{self, Settled};
use crate::tasks::text_classification::Objective;
use crate::{device, tensors};

/// The tokens that a row is cut to when neither the settings nor the model say less.
const DEFAULT_MAX_LENGTH: usize = 512;

/// A job in memory.
pub struct Session {
    /// The job's `out` folder.
    pub out: PathBuf,
    /// What is to be done.
    pub spec: JobSpec,
    /// Where the model lives.
    pub device: Device,
    /// Tokenized rows.
    pub data: Data,
    /// Labels and loss.
    pub objective: Objective,
    /// The model in training.
    pub model: Box<dyn TextModel>,
    /// Its parameters, and how they are written.
    pub files: ModelFiles,
    /// Copies of the parameters in fewer bits, where layers multiply by such.
    pub copies: Copies,
    /// In which numbers it computes.
    pub precision: Settled,
    /// The update rule with its state.
    pub optimizer: Optimizer,
    /// Which rows each step takes.
    pub order: Order,
    /// Steps of the whole training.
    pub total_steps: u64,
    /// The checkpoints of this job.
    pub checkpoints: Checkpoints,
    /// Where the training is.
    pub state: State,
    /// What the model card and a repeat need to know.
    pub manifest: Value,
    /// Padding of token ids and of type ids.
    pub padding: (u32, u32),
    /// This process among those of the job.
    pub ranks: Ranks,
    /// The layers that it has.
    pub stage: Stage,
    /// What it has of each parameter.
    pub parts: Parts,
    /// When this attempt began to train.
    pub began: Instant,
}

/// Reads and checks everything, builds the model, and takes up the newest checkpoint.
pub fn prepare(dir: &Path, attempt: u32, events: &mut Events) -> Result<Session> {
    let spec = read_spec(dir)?;
    let resources = &spec.resources;
    let mut ranks = Ranks::meet(dir, attempt, Grid::of(resources), resources.device)?;
    super::handover::newest(&dir.join("out"), &ranks)?;
    set_threads(&spec, ranks.machines().here())?;
    // Hashing the checkpoint takes longer than reading it: it goes on beside.
    let hashes = Hashes::start(dir);
    let device = device::choose(spec.resources.device, ranks.local())?;
    let precision = precision::settle(spec.training.precision, device)?;
    announce(events, device, &precision)?;
    let grid = ranks.grid();
    if grid.model() > 1 {
        let Grid { copies, stages, shares } = grid;
        let size = grid.size();
        events.log(
            0,
            format!("{size} processes: copies of the model {copies} × stages {stages} × shares of each layer {shares}."),
        )?;
    }
    native::runtime::set_tf32(precision.precision == Precision::Tf32)?;
    native::runtime::set_deterministic(spec.training.deterministic)?;

    let base = adapter::plain_base(dir, &ranks, events)?;
    let config = models::read_config(&base)?;
    let family = models::base_of(config["model_type"].as_str().unwrap_or_default())?;
    let tokenizer = Tokenizer::load(&base)?;
    let max_length = max_length(&spec, &config, &tokenizer)?;
    let cache = Cache::open(&dir.join("cache"), &base)?;
    let data = Data::read(dir, &spec, &tokenizer, &cache, max_length, events)?;
    plan_memory(dir, &spec, &config, &data, max_length, &precision, events)?;
    let objective =
        Objective::new(data.problem, data.labels.clone(), &spec.training, &data.train.targets, device)?;

    let weights = Weights::open(&base)?;
    let part = divide::part(&config, &weights, &spec, &data, &ranks)?;
    let loader = Loader::new(&weights, family, u64::from(spec.seed), device);
    let loader = loader.numbers(precision.numbers()).part(part).adapted(spec.training.lora.as_ref());
    let (model, loaded) = build(&config, loader, &spec, &data, events)?;
    let Loaded { params, absent, cuts, copies, adapters, .. } = loaded;
    let (from, head) = ((base.as_path(), spec.base_model.as_str()), (data.problem, data.labels.as_slice()));
    let mut files = ModelFiles::new(params, adapters, &config, from, head)?;
    let parts = Parts::new(&ranks, cuts, &absent, resources.shard_optimizer);
    let hashes = hashes.wait()?;
    let identity = hashes.identity(&spec);
    let manifest = manifest::manifest(&hashes, &spec, &identity, device, &precision)?;
    let training = &spec.training;
    let order = Order::new(
        data.train.len(),
        training.batch_size as usize,
        training.gradient_accumulation_steps as usize,
        u64::from(spec.seed),
    );
    let total_steps = total_steps(&spec, order.steps_per_epoch());
    let out = dir.join("out");
    let checkpoints = Checkpoints::open(&out, training.keep_checkpoints as usize)?;
    let resumed = checkpoints.newest(&identity)?;
    if let Some(state) = &resumed {
        files.restore(&parts, &checkpoints.path(state.step))?;
        copies.refresh()?;
    }
    let shard = if resources.shard_optimizer { ranks.share() } else { Share { rank: 0, size: 1 } };
    let params = &files.params;
    let mut optimizer = Optimizer::of_part(&spec.training, params, &absent, shard, model.as_ref())?
        .seeded(u64::from(spec.seed));
    if let Some(state) = &resumed {
        checkpoints.load_optimizer(state.step, &parts, &mut optimizer)?;
        tell_resume(state, &checkpoints, events)?;
    }
    let padding = (tokenizer.pad_id().unwrap_or(0), tokenizer.pad_type_id());
    let stage = divide::stage(&ranks, model.as_ref(), params.iter().chain(&absent), &spec, || {
        let batch = collate(&[data.train.row(0)], padding, device);
        tch::no_grad(|| model.embed(&batch.inputs, &Context::evaluation(&batch.inputs.packing))).size()[1]
    })?;
    exchange(&mut ranks, params)?;
    let state = match resumed {
        Some(state) => state,
        None => fresh_state(&spec, &precision, data.validation.is_some(), identity)?,
    };
    Ok(Session {
        out,
        device,
        objective,
        model,
        files,
        copies,
        precision,
        optimizer,
        order,
        total_steps,
        checkpoints,
        state,
        manifest,
        ranks,
        padding,
        stage,
        parts,
        began: Instant::now(),
        data,
        spec,
    })
}

/// Notes what the job will need, and warns where there is less.
fn plan_memory(
    dir: &Path,
    spec: &JobSpec,
    config: &Value,
    data: &Data,
    max_length: usize,
    precision: &Settled,
    events: &mut Events,
) -> Result<()> {
    let rows = plan::rows_of(dir, spec, data, max_length);
    let plan = Plan::new(spec, config, data.labels.len(), &rows, precision.precision)?;
    let plan = plan.of_machine(ranks::processes_here(spec.resources.devices as usize)?);
    if ranks::speaks_for_machine() {
        plan.write(&dir.join("out"))?;
    }
    match plan.exceeds() {
        true => events.warn(0, plan.words()),
        false => Ok(()),
    }
}

/// The share of a machine's threads that a process of the job has.
fn set_threads(spec: &JobSpec, processes: usize) -> Result<()> {
    let all = match spec.resources.threads {
        0 => native::runtime::threads()?,
        threads => threads as usize,
    };
    Ok(native::runtime::set_threads((all / processes).max(1))?)
}

/// Prepares the exchange of what is trained; tables whose gradient comes by row are exchanged by row.
fn exchange(ranks: &mut Ranks, params: &tensors::Named) -> Result<()> {
    let trained = params.iter().map(|(_, param)| param).filter(|param| param.requires_grad());
    let (by_row, dense) = trained.map(Tensor::shallow_clone).partition(Embedding::gives_rows);
    let dense: Vec<Tensor> = dense;
    ranks.exchange(&dense, by_row)
}

fn read_spec(dir: &Path) -> Result<JobSpec> {
    let path = dir.join("spec.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Failure::user("no_spec", format!("{} cannot be read: {error}.", path.display())))?;
    let spec: JobSpec = serde_json::from_str(&text)
        .map_err(|error| Failure::user("invalid_spec", format!("spec.json: {error}.")))?;
    spec.validate().map_err(|error| Failure::user("invalid_spec", error.to_string()).at(&error.param))?;
    Ok(spec)
}

fn announce(events: &mut Events, device: Device, precision: &Settled) -> Result<()> {
    let mut data = Map::new();
    data.insert("device".into(), device::name(device).into());
    data.insert("threads".into(), native::runtime::threads()?.into());
    data.insert("libtorch".into(), native::runtime::libtorch_version()?.loaded.into());
    data.insert("luthier".into(), env!("CARGO_PKG_VERSION").into());
    data.insert("precision".into(), precision.name().into());
    events.phase(0, "loading", data)?;
    events.log(0, format!("Precision: {}, {}.", precision.name(), precision.reason))
}

/// The shortest of what was asked for, what the model has positions for, and what the tokenizer says.
fn max_length(spec: &JobSpec, config: &Value, tokenizer: &Tokenizer) -> Result<usize> {
    let positions = models::max_positions(config).unwrap_or(DEFAULT_MAX_LENGTH);
    if let Some(asked) = spec.training.max_length {
        let asked = asked as usize;
        if asked > positions {
            return Err(Failure::user(
                "invalid_max_length",
                format!("max_length is {asked}, and this model has {positions} positions."),
            )
            .at("max_length")
            .into());
        }
        return Ok(asked);
    }
    let stated = tokenizer.model_max_length().unwrap_or(DEFAULT_MAX_LENGTH);
    Ok(positions.min(stated).min(DEFAULT_MAX_LENGTH))
}

/// Optimizer steps of the whole training.
fn total_steps(spec: &JobSpec, steps_per_epoch: u64) -> u64 {
    let by_epochs = (spec.training.epochs * steps_per_epoch as f64).ceil() as u64;
    spec.training.max_steps.unwrap_or(by_epochs).max(1)
}

fn build(
    config: &Value,
    mut loader: Loader,
    spec: &JobSpec,
    data: &Data,
    events: &mut Events,
) -> Result<(Box<dyn TextModel>, Loaded)> {
    let labels = &data.labels;
    if let Some(rows) = kept_head(config, data.problem, labels) {
        events.log(
            0,
            "The checkpoint's classification head has the same classes; it is kept, matched by name.",
        )?;
        loader = loader.keep_head(rows);
    }
    let model = models::build(config, &loader, labels.len() as i64, spec.training.dropout)?;
    let loaded = loader.finish()?;
    tell_load(&loaded.report, events)?;
    Ok((model, loaded))
}

/// For each label its row in the checkpoint's head, where that head is a classifier of exactly these labels.
fn kept_head(config: &Value, problem: ProblemType, labels: &[String]) -> Option<Vec<i64>> {
    let class = config["architectures"][0].as_str()?;
    if !class.ends_with("ForSequenceClassification") {
        return None;
    }
    let stated = config.get("problem_type").and_then(Value::as_str);
    let stated = stated.map(|name| serde_json::from_value::<ProblemType>(name.into()).ok());
    if stated.is_some_and(|stated| stated != Some(problem)) {
        return None;
    }
    let names = config["id2label"].as_object()?;
    if names.len() != labels.len() {
        return None;
    }
    labels
        .iter()
        .map(|label| names.iter().find(|(_, name)| name.as_str() == Some(label))?.0.parse().ok())
        .collect()
}

fn tell_load(report: &LoadReport, events: &mut Events) -> Result<()> {
    if !report.made.is_empty() {
        events.log(0, format!("Not in the checkpoint and made anew: {}.", report.made.join(", ")))?;
    }
    if !report.dropped.is_empty() {
        events.log(0, format!("In the checkpoint and not used: {}.", report.dropped.join(", ")))?;
    }
    Ok(())
}

fn tell_resume(state: &State, checkpoints: &Checkpoints, events: &mut Events) -> Result<()> {
    let step = state.step;
    let message = format!("Going on from the checkpoint of step {step}.");
    let data = json!({"from_step": step});
    events.emit(Event { kind: "resume", step, message, data, ..Event::default() })?;
    if !events.has_told(step) {
        // Killed between the commit and its event: without it the agent would never know of this checkpoint.
        super::train::tell_checkpoint(state, &checkpoints.path(step), events)?;
    }
    Ok(())
}

fn fresh_state(spec: &JobSpec, precision: &Settled, validated: bool, identity: String) -> Result<State> {
    let training = &spec.training;
    let metric = training.best_metric.clone().unwrap_or_else(|| "loss".into());
    let (metric, early) = match &training.early_stopping {
        Some(early) => (early.metric.clone().unwrap_or(metric), Some(early)),
        None => (metric, None),
    };
    if early.is_some() && !validated {
        return Err(Failure::user("invalid_spec", "early_stopping needs validation rows.")
            .at("early_stopping")
            .into());
    }
    let mut rule = Rule::by(&metric)
        .map_err(|error| Failure::user("invalid_spec", error.to_string()).at("best_metric"))?;
    if let Some(early) = early {
        rule = rule.stopping_after(early.patience, early.min_delta);
    }
    Ok(State {
        step: 0,
        tracker: Tracker::new(rule),
        stop: false,
        samples: 0,
        tokens: 0,
        seconds: 0.0,
        scaler: Scaler::new(precision.precision == Precision::Fp16),
        log_history: Vec::new(),
        identity,
    })
}

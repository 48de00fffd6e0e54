//! From a job's directory to everything that the training needs in memory.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use anyhow::Result;
use formats::checkpoint::{SentenceModel, Weights};
use formats::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use store::spec::{BatchSampler, JobSpec, Precision, Task};
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
use super::reference;
use super::samples::{self, Samples};
use super::scaler::Scaler;
use super::texts::{languages, max_length, stated_length};
use crate::data::{Cache, Data, Order, Share, chosen_template, collate};
use crate::failure::Failure;
use crate::metrics::best::{Rule, Tracker};
use crate::models::{self, TextModel};
use crate::nn::{Context, Copies, LoadReport, Loaded, Loader};
use crate::optim::Optimizer;
use crate::precision::{self, Settled};
use crate::tasks::Objective;
use crate::tasks::preference::PreferenceTuning;
use crate::tasks::question_answering::QuestionAnswering;
use crate::tasks::sentence_similarity::SentenceSimilarity;
use crate::tasks::text_classification::TextClassification;
use crate::tasks::text_generation::TextGeneration;
use crate::tasks::text_to_text::SequenceToSequence;
use crate::tasks::token_classification::TokenClassification;
use crate::tasks::unpaired::UnpairedTuning;
use crate::{device, tensors};

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
    /// What it is trained for.
    pub objective: Box<dyn Objective>,
    /// The model in training.
    pub model: Rc<dyn TextModel>,
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
    /// What is asked at evaluations, of a process that answers.
    pub samples: Option<Samples>,
    /// When this attempt began to train.
    pub began: Instant,
}

/// Reads and checks everything, builds the model, and takes up the newest checkpoint.
pub fn prepare(dir: &Path, spec: JobSpec, attempt: u32, events: &mut Events) -> Result<Session> {
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
    let tokenizer = languages(tokenizer_of(&spec, &base)?, &spec)?;
    let stated = stated_length(&spec, &base, &tokenizer)?;
    let max_length = max_length(&spec, &config, stated)?;
    let cache = Cache::open(&dir.join("cache"), &base)?;
    let (data, objective) =
        read((dir, &base, &config), &spec, &tokenizer, &cache, max_length, device, events)?;
    let outputs = objective.labels().len();
    plan_memory(dir, &spec, (&config, outputs), &data, max_length, &precision, events)?;

    let weights = Weights::open(&base)?;
    let part = divide::part(&config, &weights, &spec, objective.head(), &ranks)?;
    let loader = Loader::new(&weights, family, u64::from(spec.seed), device);
    let loader = loader.numbers(precision.numbers()).part(part).adapted(spec.training.lora.as_ref());
    let (model, loaded) = build(&config, loader, &spec, objective.as_ref(), events)?;
    let mut carried = carried(&weights, family, &loaded.report, objective.carries())?;
    let Loaded { params, constants, absent, cuts, copies, adapters, by_row, .. } = loaded;
    carried.extend(constants);
    let from = (base.as_path(), spec.base_model.as_str());
    let template = match spec.task {
        Task::TextGeneration => chosen_template(&base, &spec, &tokenizer)?,
        _ => None,
    };
    let taught = template.as_ref().filter(|_| spec.training.chat_template.is_some());
    let taught = taught.map(|template| template.source().to_owned());
    let files = ModelFiles::new(params, adapters, &config, from, objective.as_ref())?;
    let files = files.templated(taught).carrying(carried);
    let parts = Parts::new(&ranks, cuts, &absent, resources.shard_optimizer);
    let hashes = hashes.wait()?;
    let identity = hashes.identity(&spec);
    let manifest = manifest::manifest(&hashes, &spec, &identity, device, &precision)?;
    let training = &spec.training;
    let mut order = Order::new(
        data.train.len(),
        training.batch_size as usize,
        training.gradient_accumulation_steps as usize,
        u64::from(spec.seed),
    );
    // Whose answer a prompt was given is known ahead, so that the beginning is asked of it once.
    if data.train.mismatched.is_some() {
        order = order.together();
    }
    if spec.embedding().1.batch_sampler == BatchSampler::NoDuplicates {
        order = order.apart(&data.train.keys, data.train.per_row);
    }
    let total_steps = total_steps(&spec, order.steps_per_epoch());
    let out = dir.join("out");
    let checkpoints = Checkpoints::open(&out, training.keep_checkpoints as usize)?;
    let resumed = checkpoints.newest(&identity)?;
    let shard = if resources.shard_optimizer { ranks.share() } else { Share { rank: 0, size: 1 } };
    let params = &files.params;
    let optimizer = Optimizer::of_part(&spec.training, params, &absent, shard, model.as_ref())?
        .seeded(u64::from(spec.seed));
    let padding = (tokenizer.pad_id().unwrap_or(0), tokenizer.pad_type_id());
    let stage = divide::stage(&ranks, model.as_ref(), params.iter().chain(&absent), &spec, || {
        let batch = collate(&[data.train.row(0)], padding, device);
        tch::no_grad(|| model.embed(&batch.inputs, &Context::evaluation(&batch.inputs.packing))).size()[1]
    })?;
    exchange(&mut ranks, params, &by_row)?;
    let state = fresh_state(&spec, &precision, data.validation.is_some(), identity)?;
    let mut session = Session {
        out,
        device,
        objective,
        model: model.into(),
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
        samples: None,
        began: Instant::now(),
        data,
        spec,
    };
    session.samples = samples::prepare(&session, (base.as_path(), &config), tokenizer, template, events)?;
    reference::ask(&mut session, events)?;
    if let Some(state) = resumed {
        take_up(&mut session, state, events)?;
    }
    Ok(session)
}

/// Goes on where a checkpoint was written.
fn take_up(session: &mut Session, state: State, events: &mut Events) -> Result<()> {
    let Session { files, copies, parts, optimizer, checkpoints, .. } = session;
    files.restore(parts, &checkpoints.path(state.step))?;
    copies.refresh()?;
    checkpoints.load_optimizer(state.step, parts, optimizer)?;
    tell_resume(&state, checkpoints, events)?;
    session.state = state;
    Ok(())
}

/// Reads the rows, and what they are for.
pub(super) fn read(
    (dir, base, config): (&Path, &Path, &Value),
    spec: &JobSpec,
    tokenizer: &Tokenizer,
    cache: &Cache,
    max_length: usize,
    device: Device,
    events: &mut Events,
) -> Result<(Data, Box<dyn Objective>)> {
    match spec.task {
        Task::TextClassification => {
            let (data, classes) = Data::classified(dir, spec, tokenizer, cache, max_length, events)?;
            let targets = &data.train.targets;
            let objective =
                TextClassification::new(classes.problem, classes.labels, &spec.training, targets, device)?;
            let padding = tokenizer.pad_id().or_else(|| tokenizer.eos_id());
            Ok((data, Box::new(objective.padded_by(padding))))
        }
        Task::TextGeneration => {
            let data = Data::generated((dir, base), spec, tokenizer, max_length, events)?;
            let objective: Box<dyn Objective> = match &spec.training.preference {
                Some(rule) if rule.loss.is_unpaired() => Box::new(UnpairedTuning::new(rule.clone())),
                Some(rule) => Box::new(PreferenceTuning::new(rule.clone(), &spec.training)),
                None => Box::new(TextGeneration::default()),
            };
            Ok((data, objective))
        }
        Task::TokenClassification => {
            let (data, tags) = Data::tagged(dir, spec, tokenizer, max_length, events)?;
            let objective = TokenClassification::new(tags, &data, spec.training.label_smoothing);
            Ok((data, Box::new(objective)))
        }
        Task::SentenceSimilarity => {
            let sentence = SentenceModel::read(base)?;
            let data = Data::related(dir, spec, &sentence, tokenizer, cache, max_length, events)?;
            let objective = SentenceSimilarity::new(spec, config, sentence, max_length)?;
            events.log(0, objective.words())?;
            Ok((data, Box::new(objective)))
        }
        Task::Translation | Task::Summarization | Task::TextToText => {
            let data = Data::sequences(dir, spec, config, (tokenizer, cache), max_length, events)?;
            let generation = models::generation_config(base)?;
            let own = languages(Tokenizer::load(base)?, spec)?;
            Ok((data, Box::new(SequenceToSequence::new(spec, (config, &generation), own)?)))
        }
        Task::QuestionAnswering => {
            models::check_spans(config)?;
            let data = Data::questioned(dir, spec, tokenizer, max_length, events)?;
            let objective = QuestionAnswering::new(spec.question_answering(), max_length, &data);
            Ok((data, Box::new(objective)))
        }
    }
}

/// The checkpoint's tokenizer, as the task takes it.
fn tokenizer_of(spec: &JobSpec, base: &Path) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::load(base)?;
    Ok(if spec.task == Task::TokenClassification { tokenizer.for_words() } else { tokenizer })
}

/// Notes what the job will need, and warns where there is less.
fn plan_memory(
    dir: &Path,
    spec: &JobSpec,
    (config, labels): (&Value, usize),
    data: &Data,
    max_length: usize,
    precision: &Settled,
    events: &mut Events,
) -> Result<()> {
    let rows = plan::rows_of(dir, spec, data, max_length);
    let plan = Plan::new(spec, config, labels, &rows, precision.precision)?;
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
pub(super) fn set_threads(spec: &JobSpec, processes: usize) -> Result<()> {
    let all = match spec.resources.threads {
        0 => native::runtime::threads()?,
        threads => threads as usize,
    };
    Ok(native::runtime::set_threads((all / processes).max(1))?)
}

/// Prepares the exchange of what is trained; tables whose gradient comes by row are exchanged by row.
fn exchange(ranks: &mut Ranks, params: &tensors::Named, tables: &BTreeSet<String>) -> Result<()> {
    let trained = params.iter().filter(|(_, param)| param.requires_grad());
    let (by_row, dense): (Vec<_>, Vec<_>) = trained.partition(|(name, _)| tables.contains(name));
    let tensors =
        |of: Vec<&(String, Tensor)>| of.into_iter().map(|(_, param)| param.shallow_clone()).collect();
    let dense: Vec<Tensor> = tensors(dense);
    ranks.exchange(&dense, tensors(by_row))
}

pub(super) fn read_spec(dir: &Path) -> Result<JobSpec> {
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

/// Optimizer steps of the whole training.
fn total_steps(spec: &JobSpec, steps_per_epoch: u64) -> u64 {
    let by_epochs = (spec.training.epochs * steps_per_epoch as f64).ceil() as u64;
    spec.training.max_steps.unwrap_or(by_epochs).max(1)
}

fn build(
    config: &Value,
    mut loader: Loader,
    spec: &JobSpec,
    objective: &dyn Objective,
    events: &mut Events,
) -> Result<(Box<dyn TextModel>, Loaded)> {
    if let Some(rows) = objective.kept_head(config) {
        events.log(
            0,
            "The checkpoint's classification head has the same classes; it is kept, matched by name.",
        )?;
        loader = loader.keep_head(rows);
    }
    let model = models::build(config, &loader, objective.head(), spec.training.dropout)?;
    let loaded = loader.finish()?;
    tell_load(&loaded.report, objective.carries(), events)?;
    Ok((model, loaded))
}

/// Tensors of the base that go with the tuned model as they are, by transformers' names.
fn carried(weights: &Weights, family: &str, report: &LoadReport, starts: &[&str]) -> Result<tensors::Named> {
    let mut carried = Vec::new();
    for name in &report.dropped {
        let inner = name.strip_prefix(family).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
        if starts.iter().any(|start| inner.starts_with(start)) {
            let tensor = tensors::of_checkpoint(&weights.tensor(name)?)?;
            carried.push((format!("{family}.{inner}"), tensor));
        }
    }
    Ok(carried)
}

fn tell_load(report: &LoadReport, carried: &[&str], events: &mut Events) -> Result<()> {
    if !report.made.is_empty() {
        events.log(0, format!("Not in the checkpoint and made anew: {}.", report.made.join(", ")))?;
    }
    let goes_along = |name: &&String| carried.iter().any(|start| name.contains(start));
    let dropped: Vec<&str> =
        report.dropped.iter().filter(|name| !goes_along(name)).map(String::as_str).collect();
    if !dropped.is_empty() {
        events.log(0, format!("In the checkpoint and not used: {}.", dropped.join(", ")))?;
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
    let metric = training.best_metric.clone().unwrap_or_else(|| spec.default_metric().into());
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

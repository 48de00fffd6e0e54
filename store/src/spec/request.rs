//! The `hyperparameters` of an API request as [`Training`].
//!
//! OpenAI's three (`n_epochs`, `batch_size`, `learning_rate_multiplier`, each "auto" or a number) and our own, which are
//! the names of [`Training`]. Unknown names are refused with the nearest known one.

mod adapter;
mod objects;
mod optimizer;
mod schedule;
#[cfg(test)]
mod tests;
mod text_to_text;

use serde_json::{Map, Value};

use super::reader::{Reader, as_whole};
use super::{LossOn, Precision, SpecError, Training};

/// The learning rate that `learning_rate_multiplier` multiplies.
pub const BASE_LEARNING_RATE: f64 = 5e-5;

pub use adapter::LEARNING_RATE as ADAPTER_LEARNING_RATE;

/// Steps that "auto" aims at for a small file.
const ENOUGH_STEPS: u64 = 100;

/// Settings with a value each, and what "auto" became.
#[derive(Clone, Debug, PartialEq)]
pub struct Hyperparameters {
    /// The settings; still to be checked by [`super::JobSpec::validate`].
    pub training: Training,
    /// Field and value of each that was "auto" or left out, of OpenAI's three.
    pub chosen: Vec<(&'static str, Value)>,
}

impl Hyperparameters {
    /// The sentence for the job's first event; `None` when nothing was chosen.
    pub fn note(&self) -> Option<String> {
        let pairs: Vec<String> =
            self.chosen.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        (!pairs.is_empty()).then(|| format!("Chosen automatically: {}.", pairs.join(", ")))
    }
}

/// Reads an object of hyperparameters; errors name the field as the request does.
///
/// `rows`: rows of the training file where known; "auto" takes small batches and a few more epochs for few rows.
pub fn hyperparameters(fields: &Map<String, Value>, rows: Option<u64>) -> Result<Hyperparameters, SpecError> {
    let mut reader = Reader::new("", fields);
    let mut training = Training::default();
    let mut chosen = Vec::new();
    batches(&mut reader, &mut training, &mut chosen, rows)?;
    training.lora = adapter::read(&mut reader)?;
    learning_rate(&mut reader, &mut training, &mut chosen)?;
    numbers(&mut reader, &mut training)?;
    if let Some(optimizer) = optimizer::read(&mut reader)? {
        training.optimizer = optimizer;
    }
    training.lr_scheduler = schedule::read(&mut reader)?;
    training.class_weights = objects::class_weights(&mut reader)?;
    training.freeze = objects::freeze(&mut reader)?;
    training.preference = objects::preference(&mut reader)?;
    training.samples = objects::samples(&mut reader)?;
    training.embedding = objects::embedding(&mut reader)?;
    training.question_answering = objects::question_answering(&mut reader)?;
    training.text_to_text = text_to_text::read(&mut reader)?;
    training.early_stopping = objects::early_stopping(&mut reader)?;
    if let Some(every) = objects::eval_every(&mut reader)? {
        training.eval_every = every;
    }
    reader.finish()?;
    Ok(Hyperparameters { training, chosen })
}

type Chosen = Vec<(&'static str, Value)>;

fn batches(
    reader: &mut Reader,
    training: &mut Training,
    chosen: &mut Chosen,
    rows: Option<u64>,
) -> Result<(), SpecError> {
    let whole = |value: &Value| as_whole(value)?.try_into().ok();
    let expected = "a whole number from 1 to 4096";
    training.batch_size = match reader.unless_auto("batch_size", expected, whole)? {
        Some(size) => size,
        None => {
            let size = auto_batch_size(rows);
            chosen.push(("batch_size", size.into()));
            size
        }
    };
    training.max_steps = reader.whole("max_steps")?;
    let ours = reader.number("epochs")?;
    let theirs = reader.unless_auto("n_epochs", "a number above 0", Value::as_f64)?;
    training.epochs = match (theirs, ours) {
        (Some(_), Some(_)) => return Err(reader.error("epochs", "is the same as n_epochs; give one of them")),
        (Some(epochs), None) | (None, Some(epochs)) => epochs,
        (None, None) => {
            let epochs = auto_epochs(rows, training.batch_size);
            if training.max_steps.is_none() {
                chosen.insert(0, ("n_epochs", epochs.into()));
            }
            epochs as f64
        }
    };
    Ok(())
}

/// A twentieth of the rows, as a power of two from 4 to 32.
fn auto_batch_size(rows: Option<u64>) -> u32 {
    match rows.map(|rows| rows / 20) {
        Some(..8) => 4,
        Some(8..16) => 8,
        Some(16..32) => 16,
        _ => 32,
    }
}

/// Three, or up to ten where these would be few steps.
fn auto_epochs(rows: Option<u64>, batch_size: u32) -> u64 {
    let Some(rows) = rows.filter(|rows| *rows > 0) else {
        return 3;
    };
    let steps = rows.div_ceil(u64::from(batch_size.max(1)));
    ENOUGH_STEPS.div_ceil(steps).clamp(3, 10)
}

fn learning_rate(reader: &mut Reader, training: &mut Training, chosen: &mut Chosen) -> Result<(), SpecError> {
    let base = if training.lora.is_some() { ADAPTER_LEARNING_RATE } else { BASE_LEARNING_RATE };
    let ours = reader.unless_auto("learning_rate", "a number above 0", Value::as_f64)?;
    let multiplier = reader.unless_auto("learning_rate_multiplier", "a number above 0", Value::as_f64)?;
    training.learning_rate = match (ours, multiplier) {
        (Some(_), Some(_)) => {
            let message =
                format!("excludes learning_rate_multiplier, which multiplies {base:e}; give one of them");
            return Err(reader.error("learning_rate", message));
        }
        (Some(rate), None) => rate,
        (None, Some(factor)) if factor > 0.0 => factor * base,
        (None, Some(factor)) => {
            let message = format!("must be above 0, found {factor}");
            return Err(reader.error("learning_rate_multiplier", message));
        }
        (None, None) => {
            chosen.push(("learning_rate_multiplier", 1.0.into()));
            chosen.push(("learning_rate", base.into()));
            base
        }
    };
    Ok(())
}

fn numbers(reader: &mut Reader, training: &mut Training) -> Result<(), SpecError> {
    fn set<T>(field: &mut T, value: Option<T>) {
        if let Some(value) = value {
            *field = value;
        }
    }
    training.eval_batch_size = reader.whole32("eval_batch_size")?;
    let steps = reader.whole32("gradient_accumulation_steps")?;
    set(&mut training.gradient_accumulation_steps, steps);
    set(&mut training.weight_decay, reader.number("weight_decay")?);
    set(&mut training.max_grad_norm, reader.number("max_grad_norm")?);
    training.max_length = reader.whole32("max_length")?;
    let loss_on = reader.word("loss_on", &LossOn::ALL.map(|loss_on| (loss_on.name(), loss_on)))?;
    set(&mut training.loss_on, loss_on);
    training.chat_template = reader.text("chat_template")?.map(str::to_owned);
    let precision =
        reader.word("precision", &Precision::ALL.map(|precision| (precision.name(), precision)))?;
    set(&mut training.precision, precision);
    set(&mut training.label_smoothing, reader.number("label_smoothing")?);
    set(&mut training.label_all_tokens, reader.flag("label_all_tokens")?);
    training.dropout = reader.number("dropout")?;
    set(&mut training.layer_decay, reader.number("layer_decay")?);
    training.log_every = reader.whole("log_every")?;
    training.checkpoint_every = reader.whole("checkpoint_every")?;
    training.best_metric = reader.text("best_metric")?.map(str::to_owned);
    set(&mut training.keep_checkpoints, reader.whole32("keep_checkpoints")?);
    set(&mut training.deterministic, reader.flag("deterministic")?);
    set(&mut training.gradient_checkpointing, reader.flag("gradient_checkpointing")?);
    Ok(())
}

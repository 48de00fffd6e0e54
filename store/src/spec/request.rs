//! The `hyperparameters` of an API request as [`Training`].
//!
//! OpenAI's three (`n_epochs`, `batch_size`, `learning_rate_multiplier`, each "auto" or a number) and our own, which are
//! the names of [`Training`]. Unknown names are refused with the nearest known one.

mod optimizer;

use serde_json::{Map, Value};

use super::reader::{Reader, as_whole};
use super::{
    Balanced, ClassWeights, EarlyStopping, Every, Freeze, Precision, Schedule, ScheduleName, SpecError,
    Training,
};

/// The learning rate that `learning_rate_multiplier` multiplies.
pub const BASE_LEARNING_RATE: f64 = 5e-5;

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
    learning_rate(&mut reader, &mut training, &mut chosen)?;
    numbers(&mut reader, &mut training)?;
    if let Some(optimizer) = optimizer::read(&mut reader)? {
        training.optimizer = optimizer;
    }
    training.lr_scheduler = schedule(&mut reader)?;
    training.class_weights = class_weights(&mut reader)?;
    training.freeze = freeze(&mut reader)?;
    training.early_stopping = early_stopping(&mut reader)?;
    if let Some(every) = eval_every(&mut reader)? {
        training.eval_every = every;
    }
    if reader.value("lora").is_some() {
        return Err(reader
            .error("lora", "low-rank adapters are not supported yet; leave it out to train all weights"));
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
    let ours = reader.unless_auto("learning_rate", "a number above 0", Value::as_f64)?;
    let multiplier = reader.unless_auto("learning_rate_multiplier", "a number above 0", Value::as_f64)?;
    training.learning_rate = match (ours, multiplier) {
        (Some(_), Some(_)) => {
            let message = format!(
                "excludes learning_rate_multiplier, which multiplies {BASE_LEARNING_RATE:e}; give one of them"
            );
            return Err(reader.error("learning_rate", message));
        }
        (Some(rate), None) => rate,
        (None, Some(factor)) if factor > 0.0 => factor * BASE_LEARNING_RATE,
        (None, Some(factor)) => {
            let message = format!("must be above 0, found {factor}");
            return Err(reader.error("learning_rate_multiplier", message));
        }
        (None, None) => {
            chosen.push(("learning_rate_multiplier", 1.0.into()));
            chosen.push(("learning_rate", BASE_LEARNING_RATE.into()));
            BASE_LEARNING_RATE
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
    let precision =
        reader.word("precision", &Precision::ALL.map(|precision| (precision.name(), precision)))?;
    set(&mut training.precision, precision);
    set(&mut training.label_smoothing, reader.number("label_smoothing")?);
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

/// `lr_scheduler` is a name or an object; warm-up may stand beside it, as in transformers, or in it.
fn schedule(reader: &mut Reader) -> Result<Schedule, SpecError> {
    const NAMES: [(&str, ScheduleName); 4] = [
        ("constant", ScheduleName::Constant),
        ("linear", ScheduleName::Linear),
        ("cosine", ScheduleName::Cosine),
        ("polynomial", ScheduleName::Polynomial),
    ];
    let mut schedule = Schedule::default();
    let path = reader.at("lr_scheduler");
    match reader.value("lr_scheduler") {
        None => {}
        Some(Value::String(_)) => {
            schedule.name = reader.word("lr_scheduler", &NAMES)?.unwrap_or_default();
        }
        Some(Value::Object(fields)) => {
            let mut inner = Reader::new(&path, fields);
            schedule.name = inner.word("name", &NAMES)?.unwrap_or_default();
            schedule.warmup_steps = inner.whole("warmup_steps")?;
            schedule.warmup_ratio = inner.number("warmup_ratio")?;
            schedule.power = inner.number("power")?.unwrap_or(schedule.power);
            let end = inner.number("end_learning_rate")?;
            schedule.end_learning_rate = end.unwrap_or(schedule.end_learning_rate);
            schedule.cycles = inner.number("cycles")?.unwrap_or(schedule.cycles);
            inner.finish()?;
        }
        Some(other) => return Err(reader.wrong("lr_scheduler", "a name or an object with a name", other)),
    }
    if let Some(steps) = reader.whole("warmup_steps")? {
        if schedule.warmup_steps.is_some() {
            return Err(reader.error("warmup_steps", "is given twice, here and in lr_scheduler"));
        }
        schedule.warmup_steps = Some(steps);
    }
    if let Some(ratio) = reader.number("warmup_ratio")? {
        if schedule.warmup_ratio.is_some() {
            return Err(reader.error("warmup_ratio", "is given twice, here and in lr_scheduler"));
        }
        schedule.warmup_ratio = Some(ratio);
    }
    Ok(schedule)
}

/// `"balanced"` or `{"class": weight}`.
fn class_weights(reader: &mut Reader) -> Result<Option<ClassWeights>, SpecError> {
    match reader.value("class_weights") {
        None => Ok(None),
        Some(Value::String(word)) if word == "balanced" => Ok(Some(ClassWeights::Named(Balanced::Balanced))),
        Some(Value::Object(fields)) => fields
            .iter()
            .map(|(class, weight)| match weight.as_f64() {
                Some(number) => Ok((class.clone(), number)),
                None => Err(reader.wrong(&format!("class_weights.{class}"), "a number", weight)),
            })
            .collect::<Result<_, _>>()
            .map(|weights| Some(ClassWeights::ByName(weights))),
        Some(other) => {
            Err(reader.wrong("class_weights", "\"balanced\" or an object of class names and weights", other))
        }
    }
}

fn freeze(reader: &mut Reader) -> Result<Freeze, SpecError> {
    let Some(mut inner) = reader.object("freeze")? else {
        return Ok(Freeze::default());
    };
    let freeze = Freeze {
        embeddings: inner.flag("embeddings")?.unwrap_or(false),
        first_layers: inner.whole32("first_layers")?.unwrap_or(0),
        except_head: inner.flag("except_head")?.unwrap_or(false),
        pattern: inner.text("pattern")?.map(str::to_owned),
    };
    inner.finish()?;
    Ok(freeze)
}

fn early_stopping(reader: &mut Reader) -> Result<Option<EarlyStopping>, SpecError> {
    let Some(mut inner) = reader.object("early_stopping")? else {
        return Ok(None);
    };
    let stopping = EarlyStopping {
        metric: inner.text("metric")?.map(str::to_owned),
        patience: inner.whole32("patience")?.unwrap_or(3),
        min_delta: inner.number("min_delta")?.unwrap_or(0.0),
    };
    inner.finish()?;
    Ok(Some(stopping))
}

/// A number of steps, `{"steps": 100}` or `{"epochs": 0.5}`.
fn eval_every(reader: &mut Reader) -> Result<Option<Every>, SpecError> {
    let expected = "a number of steps, {\"steps\": 100} or {\"epochs\": 0.5}";
    let Some(value) = reader.value("eval_every") else {
        return Ok(None);
    };
    if let Some(steps) = as_whole(value) {
        return Ok(Some(Every::Steps(steps)));
    }
    let Some(fields) = value.as_object() else {
        return Err(reader.wrong("eval_every", expected, value));
    };
    let mut inner = Reader::new(&reader.at("eval_every"), fields);
    let every = match (inner.whole("steps")?, inner.number("epochs")?) {
        (Some(steps), None) => Every::Steps(steps),
        (None, Some(epochs)) => Every::Epochs(epochs),
        _ => return Err(reader.wrong("eval_every", expected, value)),
    };
    inner.finish()?;
    Ok(Some(every))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::spec::Optimizer;

    fn read(value: Value) -> Result<Hyperparameters, SpecError> {
        hyperparameters(value.as_object().unwrap(), None)
    }

    #[test]
    fn nothing_said_is_everything_auto_and_is_told() {
        let read = read(json!({"n_epochs": "auto"})).unwrap();
        assert_eq!(read.training, Training::default());
        let note = read.note().unwrap();
        assert_eq!(
            note,
            "Chosen automatically: n_epochs = 3, batch_size = 32, learning_rate_multiplier = 1.0, \
             learning_rate = 0.00005."
        );
    }

    #[test]
    fn auto_takes_small_batches_and_more_epochs_for_few_rows() {
        let fields = Map::new();
        let few = hyperparameters(&fields, Some(100)).unwrap().training;
        assert_eq!((few.batch_size, few.epochs), (4, 4.0));
        let many = hyperparameters(&fields, Some(10_000)).unwrap().training;
        assert_eq!((many.batch_size, many.epochs), (32, 3.0));
    }

    #[test]
    fn openais_three_become_ours() {
        let read = read(json!({"n_epochs": 2, "batch_size": 16, "learning_rate_multiplier": 0.4})).unwrap();
        assert_eq!((read.training.epochs, read.training.batch_size), (2.0, 16));
        assert!((read.training.learning_rate - 2e-5).abs() < 1e-15);
        assert_eq!(read.note(), None);
    }

    #[test]
    fn every_field_of_ours_is_read() {
        let read = read(json!({
            "epochs": 1.5, "max_steps": 40, "batch_size": 8, "eval_batch_size": 64, "gradient_accumulation_steps": 4,
            "learning_rate": 3e-4, "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": true},
            "lr_scheduler": {"name": "cosine", "cycles": 1.5}, "warmup_ratio": 0.1, "weight_decay": 0.05,
            "max_grad_norm": 0, "max_length": 128, "precision": "bf16_pure", "label_smoothing": 0.1,
            "class_weights": {"pos": 2, "neg": 1}, "dropout": 0.2,
            "freeze": {"embeddings": true, "first_layers": 2, "pattern": "bias$"}, "layer_decay": 0.9, "log_every": 5,
            "eval_every": {"epochs": 0.5}, "checkpoint_every": 50, "best_metric": "f1",
            "early_stopping": {"metric": "f1", "patience": 2, "min_delta": 0.01}, "keep_checkpoints": 3,
            "deterministic": true, "gradient_checkpointing": true,
        }))
        .unwrap();
        let expected = Training {
            epochs: 1.5,
            max_steps: Some(40),
            batch_size: 8,
            eval_batch_size: Some(64),
            gradient_accumulation_steps: 4,
            learning_rate: 3e-4,
            optimizer: Optimizer::Sgd { momentum: 0.9, dampening: 0.0, nesterov: true },
            lr_scheduler: Schedule {
                name: ScheduleName::Cosine,
                warmup_ratio: Some(0.1),
                cycles: 1.5,
                ..Schedule::default()
            },
            weight_decay: 0.05,
            max_grad_norm: 0.0,
            max_length: Some(128),
            precision: Precision::Bf16Pure,
            label_smoothing: 0.1,
            class_weights: Some(ClassWeights::ByName(
                [("neg".to_owned(), 1.0), ("pos".to_owned(), 2.0)].into(),
            )),
            dropout: Some(0.2),
            freeze: Freeze {
                embeddings: true,
                first_layers: 2,
                except_head: false,
                pattern: Some("bias$".to_owned()),
            },
            layer_decay: 0.9,
            log_every: Some(5),
            eval_every: Every::Epochs(0.5),
            checkpoint_every: Some(50),
            best_metric: Some("f1".to_owned()),
            early_stopping: Some(EarlyStopping {
                metric: Some("f1".to_owned()),
                patience: 2,
                min_delta: 0.01,
            }),
            keep_checkpoints: 3,
            deterministic: true,
            gradient_checkpointing: true,
        };
        assert_eq!(read.training, expected);
    }

    #[test]
    fn every_optimizer_is_read_as_the_specification_reads_it() {
        for name in
            ["sgd", "adam", "adamw", "rmsprop", "lion", "adafactor", "muon", "adamw_8bit", "sparse_adam"]
        {
            let right: Optimizer = serde_json::from_value(json!({"name": name})).unwrap();
            assert_eq!(read(json!({"optimizer": name})).unwrap().training.optimizer, right);
        }
        for optimizer in [
            json!({"name": "adam", "betas": [0.8, 0.9], "eps": 1e-6, "amsgrad": true}),
            json!({"name": "lion", "betas": [0.95, 0.98]}),
            json!({"name": "adafactor", "eps": [1e-20, 1e-4], "clip_threshold": 2.0, "decay_rate": -0.5,
                "beta1": 0.9, "scale_parameter": false, "relative_step": false, "warmup_init": false}),
            json!({"name": "muon", "momentum": 0.9, "nesterov": false, "ns_steps": 6,
                "adjust_lr": "match_rms_adamw", "adamw_lr_scale": 0.5, "betas": [0.8, 0.9], "eps": 1e-6}),
            json!({"name": "adamw_8bit", "betas": [0.8, 0.9], "eps": 1e-6}),
            json!({"name": "sparse_adam", "betas": [0.8, 0.9], "eps": 1e-6}),
        ] {
            let read = read(json!({"optimizer": optimizer})).unwrap().training.optimizer;
            assert_eq!(serde_json::to_value(&read).unwrap(), optimizer);
        }
    }

    #[test]
    fn each_precision_is_read_by_its_name() {
        for precision in Precision::ALL {
            assert_eq!(read(json!({"precision": precision.name()})).unwrap().training.precision, precision);
        }
    }

    #[test]
    fn a_mistyped_name_is_refused_with_the_nearest_one() {
        let error = read(json!({"learning_rat": 1e-4})).unwrap_err();
        assert_eq!(error.param, "learning_rat");
        assert!(error.message.contains("did you mean \"learning_rate\"?"), "{error}");
        let error = read(json!({"optimizer": {"name": "adamw", "beta": [0.9, 0.99]}})).unwrap_err();
        assert_eq!(error.param, "optimizer.beta");
        assert!(error.message.contains("\"betas\""), "{error}");
        let error = read(json!({"optimizer": "adamW2"})).unwrap_err();
        assert!(error.message.contains("did you mean \"adamw\"?"), "{error}");
        let error = read(json!({"precision": "bf61"})).unwrap_err();
        assert_eq!(error.param, "precision");
        assert!(error.message.contains("Known are auto, fp32, tf32, bf16, bf16_pure, fp16"), "{error}");
        let error = read(json!({"xyz": 1})).unwrap_err();
        assert!(error.message.contains("known are batch_size"), "{error}");
    }

    #[test]
    fn a_wrong_type_says_field_found_and_expected() {
        for (value, param, words) in [
            (json!({"batch_size": "big"}), "batch_size", "found the text \"big\""),
            (json!({"batch_size": 2.5}), "batch_size", "found 2.5"),
            (json!({"batch_size": -1}), "batch_size", "found -1"),
            (json!({"n_epochs": [1]}), "n_epochs", "found a list of 1 items"),
            (json!({"weight_decay": "0.1"}), "weight_decay", "expected a number"),
            (json!({"optimizer": {"betas": [0.9, 0.9]}}), "optimizer.name", "is missing"),
            (json!({"optimizer": {"name": "adam", "betas": [0.9]}}), "optimizer.betas", "two numbers"),
            (
                json!({"optimizer": {"name": "muon", "adjust_lr": "rms"}}),
                "optimizer.adjust_lr",
                "match_rms_adamw",
            ),
            (json!({"optimizer": {"name": "lion", "eps": 1e-8}}), "optimizer.eps", "known are"),
            (json!({"class_weights": {"a": "x"}}), "class_weights.a", "expected a number"),
            (json!({"eval_every": {"steps": 1, "epochs": 1}}), "eval_every", "a number of steps"),
            (json!({"freeze": true}), "freeze", "expected an object, found true"),
            (
                json!({"gradient_checkpointing": 1}),
                "gradient_checkpointing",
                "expected true or false, found 1",
            ),
            (json!({"learning_rate": 1e-4, "learning_rate_multiplier": 2}), "learning_rate", "excludes"),
            (json!({"learning_rate_multiplier": 0}), "learning_rate_multiplier", "above 0"),
            (json!({"epochs": 1, "n_epochs": 1}), "epochs", "same as n_epochs"),
            (json!({"lora": {"r": 8}}), "lora", "not supported yet"),
            (
                json!({"warmup_steps": 5, "lr_scheduler": {"name": "linear", "warmup_steps": 5}}),
                "warmup_steps",
                "twice",
            ),
        ] {
            let error = read(value).unwrap_err();
            assert_eq!(error.param, param, "{error}");
            assert!(error.message.contains(words), "{error}");
        }
    }
}

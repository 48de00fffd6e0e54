//! The settings of a fine-tune as fields of a form: one table for labels, help, defaults, the request they become, and
//! the place where an error belongs.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use store::spec::{ClassWeights, Device, Every, JobSpec, Optimizer, ProblemType};

use super::view::Choice;
use super::view::form::{Field, FieldKind, Group};
use super::view::text::setting;

/// Values of a form by name of the input.
pub type Values = BTreeMap<String, String>;

/// One setting.
struct Setting {
    /// Name of the input: the dotted path in the request, or below its hyperparameters.
    name: &'static str,
    label: &'static str,
    help: &'static str,
    kind: Kind,
    unit: &'static str,
    placeholder: &'static str,
    /// `name=value,value`: it means something only then, and only then it is sent.
    when: &'static str,
}

/// What a setting holds.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    /// A number or the word "auto".
    Auto,
    Flag,
    Choice(&'static [(&'static str, &'static str)]),
}

const fn field(name: &'static str, label: &'static str, help: &'static str, kind: Kind) -> Setting {
    Setting { name, label, help, kind, unit: "", placeholder: "", when: "" }
}

impl Setting {
    const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }

    const fn empty(mut self, placeholder: &'static str) -> Self {
        self.placeholder = placeholder;
        self
    }

    const fn when(mut self, when: &'static str) -> Self {
        self.when = when;
        self
    }

    /// Whether it means something beside the other values.
    fn counts(&self, values: &Values) -> bool {
        self.when.split_once('=').is_none_or(|(name, wanted)| {
            let value = values.get(name).map(String::as_str).unwrap_or_default();
            wanted.split(',').any(|wanted| wanted == value)
        })
    }
}

const FIRST: &[Setting] = &[
    field("name", "Name", "What this run is called in lists.", Kind::Text).empty("optional"),
    field("n_epochs", "Epochs", "Passes over the training rows. With auto 3, or more where rows are few.", Kind::Auto),
    field(
        "batch_size",
        "Batch size",
        "Rows that are looked at together. With auto 32, or fewer where rows are few. Halve it when memory runs out.",
        Kind::Auto,
    )
    .unit("rows"),
    field(
        "learning_rate",
        "Learning rate",
        "How far each step goes, at the peak of the schedule. 1e-5 to 5e-5 suits most encoders.",
        Kind::Number,
    ),
    field(
        "max_length",
        "Longest text",
        "Longer ones are cut. Empty for the model's own limit, at most 512. Shorter is faster.",
        Kind::Number,
    )
    .unit("tokens")
    .empty("as the model"),
];

const LENGTH: &[Setting] = &[
    field("max_steps", "Steps", "Ends after so many optimizer steps; epochs are then ignored.", Kind::Number)
        .empty("by epochs"),
    field(
        "gradient_accumulation_steps",
        "Batches a step",
        "Gradients of so many batches are summed before the weights move: a larger batch in the memory of a small one.",
        Kind::Number,
    ),
    field(
        "eval_batch_size",
        "Batch size in evaluation",
        "Rows at once where nothing is learnt.",
        Kind::Number,
    )
    .unit("rows")
    .empty("as in training"),
    field(
        "max_grad_norm",
        "Largest gradient norm",
        "Longer gradients are scaled down to this 2-norm. 0 for no clipping.",
        Kind::Number,
    ),
];

const OPTIMIZER: &[Setting] = &[
    field(
        "optimizer.name",
        "Optimizer",
        "The update rule, as torch.optim defines it; Lion as its paper, Adafactor as transformers.",
        Kind::Choice(&[
            ("adamw", "AdamW"),
            ("adam", "Adam"),
            ("sgd", "SGD"),
            ("rmsprop", "RMSprop"),
            ("lion", "Lion"),
            ("adafactor", "Adafactor"),
            ("muon", "Muon, AdamW beside it"),
            ("adamw_8bit", "AdamW, 8-bit state"),
            ("sparse_adam", "SparseAdam, AdamW beside it"),
        ]),
    ),
    field(
        "weight_decay",
        "Weight decay",
        "Pulls weights towards 0; biases and norms are spared.",
        Kind::Number,
    ),
    field("optimizer.beta1", "Beta 1", "Decay of the average of the gradient.", Kind::Number)
        .when("optimizer.name=adamw,adam,muon,adamw_8bit,sparse_adam"),
    field("optimizer.beta2", "Beta 2", "Decay of the average of its square.", Kind::Number)
        .when("optimizer.name=adamw,adam,muon,adamw_8bit,sparse_adam"),
    field("optimizer.lion_beta1", "Beta 1", "Share of the average in the direction of a step.", Kind::Number)
        .when("optimizer.name=lion"),
    field("optimizer.lion_beta2", "Beta 2", "Decay of the average of the gradient.", Kind::Number)
        .when("optimizer.name=lion"),
    field("optimizer.alpha", "Alpha", "Decay of the average of the squared gradient.", Kind::Number)
        .when("optimizer.name=rmsprop"),
    field("optimizer.eps", "Epsilon", "Added to the denominator.", Kind::Number)
        .when("optimizer.name=adamw,adam,rmsprop,muon,adamw_8bit,sparse_adam"),
    field("optimizer.amsgrad", "AMSGrad", "Divides by the largest average of squares so far.", Kind::Flag)
        .when("optimizer.name=adamw,adam"),
    field("optimizer.momentum", "Momentum", "Share of the last update that is kept.", Kind::Number)
        .when("optimizer.name=sgd,rmsprop"),
    field("optimizer.dampening", "Dampening", "Weakens the gradient in the momentum buffer.", Kind::Number)
        .when("optimizer.name=sgd"),
    field(
        "optimizer.nesterov",
        "Nesterov momentum",
        "Looks ahead along the momentum; needs momentum above 0 and no dampening.",
        Kind::Flag,
    )
    .when("optimizer.name=sgd"),
    field("optimizer.centered", "Centered", "The square is taken around the average gradient.", Kind::Flag)
        .when("optimizer.name=rmsprop"),
    field(
        "optimizer.relative_step",
        "Rate of its own",
        "The rate falls with the root of the step; learning rate and schedule are not looked at.",
        Kind::Flag,
    )
    .when("optimizer.name=adafactor"),
    field(
        "optimizer.warmup_init",
        "Slow start",
        "That rate begins near 0; needs a rate of its own.",
        Kind::Flag,
    )
    .when("optimizer.name=adafactor"),
    field(
        "optimizer.scale_parameter",
        "Scale by size",
        "A step is a share of the size of what it moves.",
        Kind::Flag,
    )
    .when("optimizer.name=adafactor"),
    field(
        "optimizer.clip_threshold",
        "Largest update",
        "Root mean square that an update may have, before the rate.",
        Kind::Number,
    )
    .when("optimizer.name=adafactor"),
    field(
        "optimizer.decay_rate",
        "Decay rate",
        "Exponent of the decay of the averages of squares.",
        Kind::Number,
    )
    .when("optimizer.name=adafactor"),
    field("optimizer.update_beta1", "Beta 1 of updates", "Decay of an average of the updates.", Kind::Number)
        .when("optimizer.name=adafactor")
        .empty("no average"),
    field("optimizer.eps1", "Epsilon of squares", "Added to the squared gradient.", Kind::Number)
        .when("optimizer.name=adafactor"),
    field("optimizer.eps2", "Smallest size", "What a parameter's size counts for at least.", Kind::Number)
        .when("optimizer.name=adafactor"),
    field(
        "optimizer.muon_momentum",
        "Momentum",
        "Decay of the average of a matrix's gradient.",
        Kind::Number,
    )
    .when("optimizer.name=muon"),
    field("optimizer.muon_nesterov", "Nesterov momentum", "Looks ahead along the momentum.", Kind::Flag)
        .when("optimizer.name=muon"),
    field("optimizer.ns_steps", "Newton–Schulz steps", "Rounds of making a matrix orthogonal.", Kind::Number)
        .when("optimizer.name=muon"),
    field(
        "optimizer.adjust_lr",
        "Rate by shape",
        "How the learning rate depends on a matrix's shape. With AdamW's size, AdamW's learning rates suit.",
        Kind::Choice(&[("original", "As first published"), ("match_rms_adamw", "AdamW's size")]),
    )
    .when("optimizer.name=muon"),
    field(
        "optimizer.adamw_lr_scale",
        "AdamW's share",
        "Share of the learning rate for embeddings, head, biases and norms.",
        Kind::Number,
    )
    .when("optimizer.name=muon"),
];

const SCHEDULE: &[Setting] = &[
    field(
        "lr_scheduler.name",
        "Schedule",
        "The course of the learning rate after the warm-up, as transformers has it.",
        Kind::Choice(&[
            ("linear", "Linear to 0"),
            ("cosine", "Cosine"),
            ("polynomial", "Polynomial"),
            ("constant", "Constant"),
        ]),
    ),
    field(
        "lr_scheduler.warmup_ratio",
        "Warm-up, as a share",
        "Share of all steps in which the learning rate climbs from 0. 0.06 to 0.1 is usual.",
        Kind::Number,
    )
    .empty("none"),
    field(
        "lr_scheduler.warmup_steps",
        "Warm-up, in steps",
        "The same as a number of steps; give one of the two.",
        Kind::Number,
    )
    .empty("none"),
    field("lr_scheduler.power", "Power", "Exponent of the polynomial.", Kind::Number)
        .when("lr_scheduler.name=polynomial"),
    field(
        "lr_scheduler.end_learning_rate",
        "Ends at",
        "Learning rate at the end of the polynomial.",
        Kind::Number,
    )
    .when("lr_scheduler.name=polynomial"),
    field("lr_scheduler.cycles", "Cycles", "Periods of the cosine; 0.5 falls to 0 once.", Kind::Number)
        .when("lr_scheduler.name=cosine"),
];

const TRAINED: &[Setting] = &[
    field(
        "freeze.except_head",
        "Train the head alone",
        "All other weights stay as they are: fast, and less exact.",
        Kind::Flag,
    ),
    field("freeze.embeddings", "Freeze the embeddings", "Words keep their vectors.", Kind::Flag),
    field(
        "freeze.first_layers",
        "Frozen layers",
        "So many layers, counted from the embeddings, stay as they are.",
        Kind::Number,
    ),
    field(
        "freeze.pattern",
        "Frozen names",
        "A regular expression; weights whose name it matches stay as they are.",
        Kind::Text,
    )
    .empty("none"),
    field(
        "layer_decay",
        "Layer-wise decay",
        "Factor of the learning rate for each layer further from the head. 1 for the same everywhere; 0.9 is a common choice.",
        Kind::Number,
    ),
    field("dropout", "Dropout", "Share of activations left out in training.", Kind::Number)
        .empty("as the checkpoint"),
];

const LOSS: &[Setting] = &[
    field(
        "class_weights",
        "Class weights",
        "Makes rare classes count more.",
        Kind::Choice(&[("", "All the same"), ("balanced", "Balanced by frequency"), ("by_name", "By name")]),
    ),
    field(
        "class_weights.by_name",
        "Weight of each class",
        "One a line or separated by commas; a class left out has weight 1.",
        Kind::Text,
    )
    .empty("spam=3, ham=1")
    .when("class_weights=by_name"),
    field("label_smoothing", "Label smoothing", "Share of the target spread over all classes.", Kind::Number),
];

const EVALUATION: &[Setting] = &[
    field("eval_every.count", "Evaluate every", "The validation rows are looked at this often, and at the end.", Kind::Number),
    field(
        "eval_every.unit",
        "Counted in",
        "What the interval counts.",
        Kind::Choice(&[("epochs", "Epochs"), ("steps", "Steps")]),
    ),
    field(
        "best_metric",
        "Best checkpoint by",
        "The metric that chooses the weights you get: loss, accuracy, f1, f1_macro, matthews_correlation, r2, …",
        Kind::Text,
    )
    .empty("loss"),
    field(
        "early_stopping.patience",
        "Stop early after",
        "Ends the run when so many evaluations in a row bring nothing better.",
        Kind::Number,
    )
    .unit("evaluations")
    .empty("never"),
    field("early_stopping.metric", "Early stopping by", "The metric that it watches.", Kind::Text).empty("as above"),
    field("early_stopping.min_delta", "Smallest improvement", "A change below this does not count as better.", Kind::Number),
    field("keep_checkpoints", "Checkpoints kept", "The newest ones that are kept beside the best.", Kind::Number),
    field(
        "checkpoint_every",
        "Checkpoint every",
        "Beside those at evaluations and after ten minutes. A run that is cut off goes on from the newest.",
        Kind::Number,
    )
    .unit("steps")
    .empty("as needed"),
    field("log_every", "Point of the curve every", "Steps between two points of the training curve.", Kind::Number)
        .unit("steps")
        .empty("1, or more in long runs"),
];

const SPLIT: &[Setting] = &[
    field(
        "validation_split.fraction",
        "Held out for validation",
        "Share of the rows, where no validation data is chosen.",
        Kind::Number,
    ),
    field(
        "validation_split.test_fraction",
        "Held out for the test",
        "Share of the rows that is evaluated once, at the end. 0 for none.",
        Kind::Number,
    ),
    field(
        "validation_split.stratify",
        "Keep the shares of the classes",
        "Each class has the same share in every part.",
        Kind::Flag,
    ),
    field("validation_split.seed", "Seed of the split", "Another seed holds out other rows.", Kind::Number),
    field(
        "seed",
        "Seed of the run",
        "New weights of the head, order of the rows, dropout. The same seed gives the same weights.",
        Kind::Number,
    )
    .empty("drawn"),
];

const MACHINE: &[Setting] = &[
    field("suffix", "Part of the model's name", "The model is called ft:BASE:luthier:THIS:….", Kind::Text)
        .empty("none"),
    field(
        "resources.device",
        "Device",
        "Auto takes a GPU where the trainer has one.",
        Kind::Choice(&[("auto", "Auto"), ("cpu", "CPU"), ("cuda", "GPU (CUDA)")]),
    ),
    field("resources.threads", "CPU threads", "0 for all cores.", Kind::Number),
    field(
        "precision",
        "Precision",
        "The numbers that training computes with. Auto takes bf16 with fp32 weights where the processor or GPU multiplies \
         bf16, fp16 with a scaled loss on older GPUs, fp32 elsewhere. Evaluation is always in fp32, with the weights as \
         they are downloaded.",
        Kind::Choice(&[
            ("auto", "Auto"),
            ("fp32", "fp32"),
            ("tf32", "tf32 (GPU)"),
            ("bf16", "bf16, fp32 weights"),
            ("bf16_pure", "bf16 throughout"),
            ("fp16", "fp16, fp32 weights (GPU)"),
        ]),
    ),
    field(
        "gradient_checkpointing",
        "Gradient checkpointing",
        "Layers are computed again in the backward pass: less memory, about a third more time.",
        Kind::Flag,
    ),
    field(
        "deterministic",
        "Deterministic on a GPU",
        "Bit-equal repeats, at some cost in speed; a CPU is always so.",
        Kind::Flag,
    ),
    field("priority", "Priority", "Higher ones start first.", Kind::Number),
];

const GROUPS: &[(&str, &str, &[Setting])] = &[
    ("Length and batches", "", LENGTH),
    ("Optimizer", "", OPTIMIZER),
    ("Learning rate", "", SCHEDULE),
    ("What is trained", "", TRAINED),
    ("Loss", "", LOSS),
    ("Evaluation and checkpoints", "", EVALUATION),
    ("Split and seed", "", SPLIT),
    ("Model and machine", "", MACHINE),
];

fn all() -> impl Iterator<Item = &'static Setting> {
    FIRST.iter().chain(GROUPS.iter().flat_map(|(_, _, settings)| settings.iter()))
}

/// The settings of a job as values of the form; those of the default job are the defaults.
pub fn values_of(spec: &JobSpec) -> Values {
    let training = &spec.training;
    let schedule = &training.lr_scheduler;
    let freeze = &training.freeze;
    let mut values = Values::new();
    let mut put = |name: &str, value: String| values.insert(name.to_owned(), value);
    put("n_epochs", setting(training.epochs));
    put("batch_size", training.batch_size.to_string());
    put("learning_rate", setting(training.learning_rate));
    put("max_length", or_empty(training.max_length));
    put("max_steps", or_empty(training.max_steps));
    put("gradient_accumulation_steps", training.gradient_accumulation_steps.to_string());
    put("eval_batch_size", or_empty(training.eval_batch_size));
    put("max_grad_norm", setting(training.max_grad_norm));
    put("weight_decay", setting(training.weight_decay));
    put("lr_scheduler.name", word(schedule.name));
    put("lr_scheduler.warmup_ratio", schedule.warmup_ratio.map(setting).unwrap_or_default());
    put("lr_scheduler.warmup_steps", or_empty(schedule.warmup_steps));
    put("lr_scheduler.power", setting(schedule.power));
    put("lr_scheduler.end_learning_rate", setting(schedule.end_learning_rate));
    put("lr_scheduler.cycles", setting(schedule.cycles));
    put("freeze.except_head", flag(freeze.except_head));
    put("freeze.embeddings", flag(freeze.embeddings));
    put("freeze.first_layers", freeze.first_layers.to_string());
    put("freeze.pattern", freeze.pattern.clone().unwrap_or_default());
    put("layer_decay", setting(training.layer_decay));
    put("dropout", training.dropout.map(setting).unwrap_or_default());
    put("label_smoothing", setting(training.label_smoothing));
    put("best_metric", training.best_metric.clone().unwrap_or_default());
    put("keep_checkpoints", training.keep_checkpoints.to_string());
    put("checkpoint_every", or_empty(training.checkpoint_every));
    put("log_every", or_empty(training.log_every));
    put("deterministic", flag(training.deterministic));
    put("precision", training.precision.name().to_owned());
    put("gradient_checkpointing", flag(training.gradient_checkpointing));
    put("validation_split.fraction", setting(spec.split.fraction));
    put("validation_split.test_fraction", setting(spec.split.test_fraction));
    put("validation_split.stratify", flag(spec.split.stratify));
    put("validation_split.seed", spec.split.seed.to_string());
    put("seed", spec.seed.to_string());
    put("resources.device", word::<Device>(spec.resources.device));
    put("resources.threads", spec.resources.threads.to_string());
    put("priority", "0".to_owned());
    put("problem_type", spec.problem_type.map(problem_word).unwrap_or_default().to_owned());
    values.extend(optimizer_values(&training.optimizer));
    values.extend(evaluation_values(spec));
    values
}

fn optimizer_values(optimizer: &Optimizer) -> Values {
    // Those of the other rules are there too: the form shows them once the rule is changed.
    let mut values: Values = [
        ("beta1", "0.9"),
        ("beta2", "0.999"),
        ("lion_beta1", "0.9"),
        ("lion_beta2", "0.99"),
        ("alpha", "0.99"),
        ("eps", "1e-8"),
        ("amsgrad", ""),
        ("momentum", "0"),
        ("dampening", "0"),
        ("nesterov", ""),
        ("centered", ""),
        ("relative_step", "true"),
        ("warmup_init", ""),
        ("scale_parameter", "true"),
        ("clip_threshold", "1"),
        ("decay_rate", "-0.8"),
        ("update_beta1", ""),
        ("eps1", "1e-30"),
        ("eps2", "0.001"),
        ("muon_momentum", "0.95"),
        ("muon_nesterov", "true"),
        ("ns_steps", "5"),
        ("adjust_lr", "original"),
        ("adamw_lr_scale", "1"),
    ]
    .map(|(name, value)| (format!("optimizer.{name}"), value.to_owned()))
    .into();
    let mut put = |name: &str, value: String| values.insert(format!("optimizer.{name}"), value);
    let tagged = serde_json::to_value(optimizer).unwrap_or_default();
    put("name", tagged["name"].as_str().unwrap_or_default().to_owned());
    match optimizer {
        Optimizer::Sgd { momentum, dampening, nesterov } => {
            put("momentum", setting(*momentum));
            put("dampening", setting(*dampening));
            put("nesterov", flag(*nesterov));
        }
        Optimizer::Rmsprop { alpha, eps, momentum, centered } => {
            put("alpha", setting(*alpha));
            put("eps", setting(*eps));
            put("momentum", setting(*momentum));
            put("centered", flag(*centered));
        }
        Optimizer::Adafactor {
            eps,
            clip_threshold,
            decay_rate,
            beta1,
            scale_parameter,
            relative_step,
            warmup_init,
        } => {
            put("eps1", setting(eps.0));
            put("eps2", setting(eps.1));
            put("clip_threshold", setting(*clip_threshold));
            put("decay_rate", setting(*decay_rate));
            put("update_beta1", beta1.map(setting).unwrap_or_default());
            put("scale_parameter", flag(*scale_parameter));
            put("relative_step", flag(*relative_step));
            put("warmup_init", flag(*warmup_init));
        }
        Optimizer::Lion { betas } => {
            put("lion_beta1", setting(betas.0));
            put("lion_beta2", setting(betas.1));
        }
        Optimizer::Adam { betas, eps, amsgrad } | Optimizer::Adamw { betas, eps, amsgrad } => {
            put("beta1", setting(betas.0));
            put("beta2", setting(betas.1));
            put("eps", setting(*eps));
            put("amsgrad", flag(*amsgrad));
        }
        Optimizer::Adamw8bit { betas, eps } | Optimizer::SparseAdam { betas, eps } => {
            put("beta1", setting(betas.0));
            put("beta2", setting(betas.1));
            put("eps", setting(*eps));
        }
        Optimizer::Muon { momentum, nesterov, ns_steps, adjust_lr, adamw_lr_scale, betas, eps } => {
            put("muon_momentum", setting(*momentum));
            put("muon_nesterov", flag(*nesterov));
            put("ns_steps", ns_steps.to_string());
            put("adjust_lr", word(*adjust_lr));
            put("adamw_lr_scale", setting(*adamw_lr_scale));
            put("beta1", setting(betas.0));
            put("beta2", setting(betas.1));
            put("eps", setting(*eps));
        }
    }
    values
}

fn evaluation_values(spec: &JobSpec) -> Values {
    let training = &spec.training;
    let (count, unit) = match training.eval_every {
        Every::Steps(steps) => (steps.to_string(), "steps"),
        Every::Epochs(epochs) => (setting(epochs), "epochs"),
    };
    let early = training.early_stopping.as_ref();
    let (weights, by_name) = match &training.class_weights {
        None => ("", String::new()),
        Some(ClassWeights::Named(_)) => ("balanced", String::new()),
        Some(ClassWeights::ByName(weights)) => {
            let pairs: Vec<String> =
                weights.iter().map(|(name, weight)| format!("{name}={}", setting(*weight))).collect();
            ("by_name", pairs.join(", "))
        }
    };
    [
        ("eval_every.count", count),
        ("eval_every.unit", unit.to_owned()),
        ("early_stopping.patience", early.map(|early| early.patience.to_string()).unwrap_or_default()),
        ("early_stopping.metric", early.and_then(|early| early.metric.clone()).unwrap_or_default()),
        ("early_stopping.min_delta", early.map_or("0".to_owned(), |early| setting(early.min_delta))),
        ("class_weights", weights.to_owned()),
        ("class_weights.by_name", by_name),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn or_empty<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

fn flag(on: bool) -> String {
    if on { "true" } else { "" }.to_owned()
}

fn word<T: serde::Serialize>(value: T) -> String {
    serde_json::to_value(value).ok().and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The short word of the API.
pub fn problem_word(problem: ProblemType) -> &'static str {
    match problem {
        ProblemType::SingleLabel => "single_label",
        ProblemType::MultiLabel => "multi_label",
        ProblemType::Regression => "regression",
    }
}

/// What an empty form holds: the default job, with "auto" where the number of rows should decide.
pub fn defaults() -> Values {
    let spec =
        json!({"task": "text-classification", "columns": {"text": "", "label": ""}, "data": {"train": ""}});
    let mut values = serde_json::from_value::<JobSpec>(spec).map(|spec| values_of(&spec)).unwrap_or_default();
    for name in ["n_epochs", "batch_size"] {
        values.insert(name.to_owned(), "auto".to_owned());
    }
    values.insert("seed".to_owned(), String::new());
    values
}

/// The fields with these values and errors: those shown first, and the groups of the others.
pub fn fields(values: &Values, errors: &Values) -> (Vec<Field>, Vec<Group>) {
    let make = |settings: &'static [Setting]| settings.iter().map(|s| as_field(s, values, errors)).collect();
    let groups =
        GROUPS.iter().map(|(title, note, settings)| Group { title, note, fields: make(settings) }).collect();
    (make(FIRST), groups)
}

fn as_field(setting: &Setting, values: &Values, errors: &Values) -> Field {
    let text = |from: &Values| from.get(setting.name).cloned().unwrap_or_default();
    Field {
        name: setting.name.to_owned(),
        label: setting.label.to_owned(),
        help: setting.help.to_owned(),
        value: text(values),
        placeholder: setting.placeholder.to_owned(),
        kind: match setting.kind {
            Kind::Text | Kind::Auto => FieldKind::Text,
            Kind::Number => FieldKind::Number,
            Kind::Flag => FieldKind::Check,
            Kind::Choice(options) => FieldKind::Select(options.iter().map(as_choice).collect()),
        },
        unit: setting.unit,
        error: text(errors),
        when: setting.when,
    }
}

fn as_choice((value, name): &(&str, &str)) -> Choice {
    Choice {
        value: (*value).to_owned(),
        name: (*name).to_owned(),
        note: String::new(),
        checked: false,
        disabled: false,
    }
}

/// Says "off" for every switch that a submitted form does not name: a box that is not ticked sends nothing.
pub fn fill_switches(values: &mut Values) {
    for setting in all().filter(|setting| matches!(setting.kind, Kind::Flag)) {
        values.entry(setting.name.to_owned()).or_default();
    }
}

/// Labels of the settings under "More settings" that are not as they are by default.
pub fn changed(values: &Values) -> Vec<&'static str> {
    let defaults = defaults();
    let differs = |setting: &&Setting| {
        setting.counts(values)
            && values.get(setting.name).is_some_and(|value| Some(value) != defaults.get(setting.name))
    };
    GROUPS
        .iter()
        .flat_map(|(_, _, group)| group.iter())
        .filter(differs)
        .map(|setting| setting.label)
        .collect()
}

/// The part of a request that these values make, or what cannot be read, by name of the input.
///
/// An empty value is left out, so that the API's own default holds.
pub fn request(values: &Values) -> Result<Value, Values> {
    let (mut top, mut below, mut errors) = (Map::new(), Map::new(), Values::new());
    for setting in all().filter(|setting| setting.counts(values)) {
        let text = values.get(setting.name).map(|value| value.trim()).unwrap_or_default();
        match parse(setting, text) {
            Ok(None) => {}
            Ok(Some(value)) if is_top(setting.name) => insert(&mut top, setting.name, value),
            Ok(Some(value)) => insert(&mut below, setting.name, value),
            Err(message) => drop(errors.insert(setting.name.to_owned(), message)),
        }
    }
    if let Err((name, message)) = join(&mut below) {
        errors.insert(name.to_owned(), message);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    insert(&mut top, "method.supervised.hyperparameters", below.into());
    insert(&mut top, "method.type", "supervised".into());
    Ok(top.into())
}

fn is_top(name: &str) -> bool {
    matches!(name, "name" | "suffix" | "seed" | "priority")
        || name.starts_with("validation_split.")
        || name.starts_with("resources.")
}

fn parse(setting: &Setting, text: &str) -> Result<Option<Value>, String> {
    match setting.kind {
        Kind::Flag => Ok(Some(matches!(text, "true" | "on").into())),
        _ if text.is_empty() => Ok(None),
        Kind::Text | Kind::Choice(_) => Ok(Some(text.into())),
        Kind::Auto if text.eq_ignore_ascii_case("auto") => Ok(Some("auto".into())),
        Kind::Auto => number(text).map(Some).ok_or_else(|| format!("“{text}” is neither a number nor auto.")),
        Kind::Number => number(text).map(Some).ok_or_else(|| format!("“{text}” is not a number.")),
    }
}

/// A whole number as such, so that the API sees 3 and not 3.0; a comma is taken for a decimal point.
fn number(text: &str) -> Option<Value> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    let number: f64 = text.replace(',', ".").parse().ok()?;
    serde_json::Number::from_f64(number).map(Value::Number)
}

/// Puts a value at a dotted path.
fn insert(into: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(into.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let inner = into.entry(first.to_owned()).or_insert_with(|| json!({}));
            if !inner.is_object() {
                *inner = json!({});
            }
            if let Some(inner) = inner.as_object_mut() {
                insert(inner, rest, value);
            }
        }
    }
}

/// Makes the API's fields of those that the form has in pieces.
fn join(fields: &mut Map<String, Value>) -> Result<(), (&'static str, String)> {
    if let Some(optimizer) = fields.get_mut("optimizer").and_then(Value::as_object_mut) {
        join_optimizer(optimizer);
    }
    if let Some(mut every) = fields.remove("eval_every") {
        let unit = every["unit"].as_str().unwrap_or("epochs").to_owned();
        if let Some(count) = every.get_mut("count").map(Value::take) {
            fields.insert("eval_every".to_owned(), Value::Object(Map::from_iter([(unit, count)])));
        }
    }
    if fields.get("early_stopping").is_some_and(|early| early.get("patience").is_none()) {
        fields.remove("early_stopping");
    }
    match fields.remove("class_weights") {
        Some(Value::Object(mut weights)) => {
            let text = weights.remove("by_name");
            let text = text.as_ref().and_then(Value::as_str).unwrap_or_default();
            fields.insert("class_weights".to_owned(), weights_by_name(text)?);
        }
        Some(Value::String(word)) if word == "by_name" => {
            return Err((
                "class_weights.by_name",
                "Name each class with its weight: spam=3, ham=1.".to_owned(),
            ));
        }
        Some(other) => drop(fields.insert("class_weights".to_owned(), other)),
        None => {}
    }
    Ok(())
}

/// Pairs of one rule, and names that two rules have with another default each.
fn join_optimizer(optimizer: &mut Map<String, Value>) {
    for (first, second, name) in PAIRS {
        if let (Some(first), Some(second)) = (optimizer.remove(first), optimizer.remove(second)) {
            optimizer.insert(name.to_owned(), json!([first, second]));
        }
    }
    for (input, name) in OWN_INPUTS {
        if let Some(value) = optimizer.remove(input) {
            optimizer.insert(name.to_owned(), value);
        }
    }
}

/// Two inputs that are a pair in the request.
const PAIRS: [(&str, &str, &str); 3] =
    [("beta1", "beta2", "betas"), ("lion_beta1", "lion_beta2", "betas"), ("eps1", "eps2", "eps")];

/// Inputs of one rule for a setting that bears another rule's name in the request.
const OWN_INPUTS: [(&str, &str); 3] =
    [("update_beta1", "beta1"), ("muon_momentum", "momentum"), ("muon_nesterov", "nesterov")];

/// `spam=3, ham=1`; a name may hold `=`, the weight stands behind the last one.
fn weights_by_name(text: &str) -> Result<Value, (&'static str, String)> {
    let mut weights = Map::new();
    for part in text.split(['\n', ',', ';']).map(str::trim).filter(|part| !part.is_empty()) {
        let pair = part
            .rsplit_once(['=', ':'])
            .and_then(|(name, weight)| Some((name.trim(), number(weight.trim())?)));
        let Some((name, weight)) = pair.filter(|(name, _)| !name.is_empty()) else {
            return Err((
                "class_weights.by_name",
                format!("“{part}” is not a class and its weight, such as spam=3."),
            ));
        };
        weights.insert(name.to_owned(), weight);
    }
    Ok(weights.into())
}

/// The input that an error of the API belongs to; `None` for none of them.
pub fn input_of(param: &str) -> Option<String> {
    const PREFIXES: [&str; 4] =
        ["method.supervised.hyperparameters.", "hyperparameters.", "training.", "split."];
    let path = PREFIXES.iter().find_map(|prefix| param.strip_prefix(prefix)).unwrap_or(param);
    let path = match param.strip_prefix("split.") {
        Some(rest) => format!("validation_split.{rest}"),
        None => path.to_owned(),
    };
    let alias = match path.as_str() {
        "epochs" => "n_epochs",
        "learning_rate_multiplier" => "learning_rate",
        "warmup_ratio" => "lr_scheduler.warmup_ratio",
        "warmup_steps" => "lr_scheduler.warmup_steps",
        "lr_scheduler" => "lr_scheduler.name",
        "optimizer" => "optimizer.name",
        "freeze" => "freeze.pattern",
        "early_stopping" => "early_stopping.patience",
        "validation_split" => "validation_split.fraction",
        other => match other {
            _ if other.starts_with("optimizer.betas") => "optimizer.beta1",
            "optimizer.beta1" => "optimizer.update_beta1",
            _ if other.starts_with("eval_every") => "eval_every.count",
            _ if other.starts_with("class_weights.") => "class_weights.by_name",
            _ => other,
        },
    };
    all().find(|setting| setting.name == alias).map(|setting| setting.name.to_owned())
}

#[cfg(test)]
mod tests {
    use store::spec::Precision;

    use super::*;

    fn with(pairs: &[(&str, &str)]) -> Values {
        let mut values = defaults();
        values.extend(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        values
    }

    #[test]
    fn an_untouched_form_asks_for_the_defaults() {
        let request = request(&defaults()).expect("defaults can be read");
        let fields = request["method"]["supervised"]["hyperparameters"].as_object().expect("an object");
        let read = store::spec::request::hyperparameters(fields, None).expect("the API takes them");
        assert_eq!(read.training, store::spec::Training::default());
        assert!(changed(&defaults()).is_empty());
    }

    #[test]
    fn the_settings_of_a_job_come_back_through_the_form() {
        let spec = json!({
            "task": "text-classification", "columns": {"text": "a", "label": "b"}, "data": {"train": "x"},
            "seed": 7, "split": {"fraction": 0.2, "test_fraction": 0.1, "seed": 3, "stratify": false},
            "training": {
                "epochs": 1.5, "batch_size": 8, "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": true},
                "lr_scheduler": {"name": "polynomial", "warmup_ratio": 0.1, "power": 2.0, "end_learning_rate": 1e-7,
                    "warmup_steps": null, "cycles": 0.5},
                "freeze": {"embeddings": true, "first_layers": 2}, "layer_decay": 0.9, "dropout": 0.2,
                "precision": "bf16_pure", "gradient_checkpointing": true,
                "class_weights": {"a=b": 2.0, "c": 1.0}, "eval_every": {"steps": 20},
                "early_stopping": {"metric": "f1", "patience": 2, "min_delta": 0.01}
            }
        });
        let spec: JobSpec = serde_json::from_value(spec).expect("a specification");
        let request = request(&values_of(&spec)).expect("can be read");
        let fields = request["method"]["supervised"]["hyperparameters"].as_object().expect("an object");
        assert_eq!(
            store::spec::request::hyperparameters(fields, None).expect("accepted").training,
            spec.training
        );
        assert_eq!(request["seed"], 7);
        assert_eq!(request["validation_split"]["test_fraction"], 0.1);
        assert_eq!(request["validation_split"]["stratify"], false);
    }

    #[test]
    fn the_settings_of_every_optimizer_come_back_through_the_form() {
        for optimizer in [
            json!({"name": "adam", "betas": [0.8, 0.9], "eps": 1e-6, "amsgrad": true}),
            json!({"name": "lion"}),
            json!({"name": "lion", "betas": [0.95, 0.98]}),
            json!({"name": "adafactor"}),
            json!({"name": "adafactor", "eps": [1e-20, 1e-4], "clip_threshold": 2.0, "decay_rate": -0.5, "beta1": 0.9,
                "scale_parameter": false, "relative_step": false}),
            json!({"name": "muon"}),
            json!({"name": "muon", "momentum": 0.9, "nesterov": false, "ns_steps": 6, "adjust_lr": "match_rms_adamw",
                "adamw_lr_scale": 0.5, "betas": [0.8, 0.9], "eps": 1e-6}),
            json!({"name": "adamw_8bit", "betas": [0.8, 0.9]}),
            json!({"name": "sparse_adam", "eps": 1e-6}),
        ] {
            let right: Optimizer = serde_json::from_value(optimizer).expect("an optimizer");
            let mut values = defaults();
            values.extend(optimizer_values(&right));
            let request = request(&values).expect("can be read");
            let fields = request["method"]["supervised"]["hyperparameters"].as_object().expect("an object");
            let read = store::spec::request::hyperparameters(fields, None).expect("accepted");
            assert_eq!(read.training.optimizer, right);
        }
    }

    #[test]
    fn the_form_offers_every_precision_and_says_what_auto_takes() {
        let (_, groups) = fields(&defaults(), &Values::new());
        let field = groups.iter().flat_map(|group| &group.fields).find(|field| field.name == "precision");
        let field = field.expect("a field for precision");
        let FieldKind::Select(choices) = &field.kind else { panic!("precision is a choice") };
        let offered: Vec<_> = choices.iter().map(|choice| choice.value.as_str()).collect();
        assert_eq!(offered, Precision::ALL.map(Precision::name));
        assert_eq!(field.value, "auto");
        assert!(field.help.contains("Auto takes bf16"), "{}", field.help);
        assert_eq!(changed(&with(&[("precision", "bf16")])), ["Precision"]);
    }

    #[test]
    fn what_cannot_be_read_is_told_at_every_field_at_once() {
        let values = with(&[
            ("learning_rate", "fast"),
            ("n_epochs", "many"),
            ("class_weights", "by_name"),
            ("class_weights.by_name", "spam"),
        ]);
        let errors = request(&values).expect_err("three fields are wrong");
        assert_eq!(errors.keys().collect::<Vec<_>>(), ["class_weights.by_name", "learning_rate", "n_epochs"]);
    }

    #[test]
    fn a_setting_that_means_nothing_is_not_sent() {
        let values =
            with(&[("optimizer.name", "sgd"), ("optimizer.momentum", "0.9"), ("optimizer.beta1", "x")]);
        let request = request(&values).expect("beta1 is no setting of SGD");
        let optimizer = &request["method"]["supervised"]["hyperparameters"]["optimizer"];
        assert_eq!(optimizer, &json!({"name": "sgd", "momentum": 0.9, "dampening": 0, "nesterov": false}));
    }

    #[test]
    fn errors_of_the_api_find_their_field() {
        for (param, input) in [
            ("method.supervised.hyperparameters.learning_rate", "learning_rate"),
            ("training.optimizer.betas", "optimizer.beta1"),
            ("training.epochs", "n_epochs"),
            ("split.fraction", "validation_split.fraction"),
            ("training.precision", "precision"),
            ("class_weights.spam", "class_weights.by_name"),
            ("training.early_stopping.patience", "early_stopping.patience"),
        ] {
            assert_eq!(input_of(param).as_deref(), Some(input), "{param}");
        }
        assert_eq!(input_of("model"), None);
    }
}

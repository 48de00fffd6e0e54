//! The settings of a job as its page shows them.

use formats::dataset::questions::Asking;
use formats::dataset::related::Relation;
use serde_json::Value;
use sqlx::PgPool;
use store::event::Kind;
use store::job::Job;
use store::spec::{
    Adapter, BatchSampler, ClassWeights, Columns, Every, Freeze, JobSpec, LossOn, Optimizer, Preference,
    Samples, Schedule, Targets, Task, Training,
};

use super::view::Fact;
use super::view::job::FactGroup;
use super::view::text::{self, setting};
use super::{convert, tagged, text_to_text};
use crate::Result;

/// Changes of phase among which the newest attempt's first is looked for; two come with every evaluation.
const PHASES: i64 = 300;

/// All settings, by group.
pub async fn settings(db: &PgPool, job: &Job) -> Result<Vec<FactGroup>> {
    let spec = &job.spec.0;
    let training = &spec.training;
    let settled = settled_precision(db, job).await?;
    Ok(vec![
        FactGroup { title: "Data and model", facts: data_facts(db, job).await? },
        FactGroup { title: "Training", facts: training_facts(training) },
        FactGroup { title: "Learning rate", facts: rate_facts(training) },
        FactGroup { title: "What is trained", facts: freeze_facts(training) },
        FactGroup { title: "Evaluation and checkpoints", facts: evaluation_facts(spec) },
        FactGroup { title: "Machine", facts: machine_facts(spec, job, settled.as_deref()) },
    ])
}

/// What the trainer settled `precision` to: from the manifest of a finished job, from its phases before.
async fn settled_precision(db: &PgPool, job: &Job) -> Result<Option<String>> {
    let named = |value: &Value| value.as_str().map(str::to_owned);
    if let Some(precision) = job.manifest.pointer("/hardware/precision").and_then(named) {
        return Ok(Some(precision));
    }
    // Newest first: the attempt before may have run on another machine.
    let phases = store::event::latest(db, job.job_id, &[Kind::Phase], PHASES).await?;
    Ok(phases.iter().find_map(|event| event.data.get("precision").and_then(named)))
}

/// "bf16 (auto)" where the trainer chose, or what was asked for.
fn precision(asked: &str, settled: Option<&str>) -> String {
    match settled {
        Some(settled) if settled != asked => format!("{settled} ({asked})"),
        _ => asked.to_owned(),
    }
}

async fn data_facts(db: &PgPool, job: &Job) -> Result<Vec<Fact>> {
    let spec = &job.spec.0;
    let files = [job.training_file, job.validation_file, job.test_file];
    let known: Vec<_> = files.into_iter().flatten().collect();
    let names = convert::file_names(db, &known).await?;
    let mut facts = vec![Fact::linked("Base model", &job.model_id, convert::model_href(&job.model_id))];
    for (role, id) in ["Training data", "Validation data", "Test data"].into_iter().zip(files) {
        let Some(id) = id else { continue };
        facts.push(match names.get(&id) {
            Some(name) => Fact::linked(role, name, convert::data_href(id)),
            None => Fact::new(role, format!("{id} (deleted)")),
        });
    }
    if job.validation_file.is_none() {
        let how = if spec.split.stratify { "each class in its share" } else { "at random" };
        facts.push(Fact::new("Held out", format!("{}, {how}", text::percent(spec.split.fraction))));
    }
    if job.test_file.is_none() && spec.split.test_fraction > 0.0 {
        facts.push(Fact::new("Held out for the test", text::percent(spec.split.test_fraction)));
    }
    facts.extend(match spec.task {
        Task::TextClassification => column_facts(&spec.columns),
        Task::TextGeneration => conversation_facts(&spec.training),
        Task::SentenceSimilarity => vector_facts(spec),
        Task::QuestionAnswering => question_facts(spec),
        Task::Translation | Task::Summarization | Task::TextToText => text_to_text::facts(spec),
        Task::TokenClassification => tagged::settings(spec),
    });
    facts.push(Fact::new("Seed", spec.seed.to_string()));
    facts.push(Fact::new("Seed of the split", spec.split.seed.to_string()));
    Ok(facts)
}

fn column_facts(columns: &Columns) -> Vec<Fact> {
    let mut facts = vec![Fact::new("Text column", &columns.text)];
    facts.extend(columns.text_pair.as_ref().map(|column| Fact::new("Second text column", column)));
    facts.push(Fact::new("Label column", &columns.label));
    facts
}

fn vector_facts(spec: &JobSpec) -> Vec<Fact> {
    let (loss, embedding) = spec.embedding();
    let roles = Relation::of(&spec.columns).map(|relation| {
        let shown = |(role, column): (&str, &str)| {
            let name = match role {
                "anchor" => "Anchor column",
                "positive" => "Positive column",
                "negative" => "Negative column",
                "text1" => "First text column",
                "text2" => "Second text column",
                _ => "Score column",
            };
            Fact::new(name, column)
        };
        relation.roles().into_iter().map(shown).collect::<Vec<_>>()
    });
    let mut facts = roles.unwrap_or_default();
    facts.push(Fact::new("Loss", loss.name().replace('_', " ")));
    facts.push(Fact::new("Scale", setting(embedding.scale)));
    if embedding.symmetric {
        facts.push(Fact::new("Directions", "both"));
    }
    if embedding.batch_sampler == BatchSampler::NoDuplicates {
        facts.push(Fact::new("Rows of a batch", "no text twice"));
    }
    facts
}

fn question_facts(spec: &JobSpec) -> Vec<Fact> {
    let shown = |(role, column): (&str, &str)| {
        let name = match role {
            "context" => "Context column",
            "question" => "Question column",
            "answers" => "Answers column",
            "answer_start" => "Column of offsets",
            _ => "Column of unanswerable questions",
        };
        Fact::new(name, column)
    };
    let roles = Asking::of(&spec.columns).map(|asking| asking.roles()).unwrap_or_default();
    let mut facts: Vec<Fact> = roles.into_iter().map(shown).collect();
    let settings = spec.question_answering();
    facts.push(Fact::new("Overlap of windows", format!("{} tokens", settings.doc_stride)));
    facts.push(Fact::new("Longest answer", format!("{} tokens", settings.max_answer_length)));
    facts.push(Fact::new("Answers ranked", settings.n_best.to_string()));
    facts.push(Fact::new("Threshold of no answer", setting(settings.null_score_difference_threshold)));
    facts
}

fn conversation_facts(training: &Training) -> Vec<Fact> {
    let learnt = match training.loss_on {
        LossOn::Assistant => "what the assistant says",
        LossOn::All => "all of it",
    };
    let template = training.chat_template.as_deref().unwrap_or("the checkpoint's own");
    let template = Fact::new("Chat template", template);
    match &training.preference {
        None => vec![Fact::new("Learns", learnt), template],
        Some(preference) => [preference_facts(preference), vec![template]].concat(),
    }
}

fn preference_facts(preference: &Preference) -> Vec<Fact> {
    let rule = preference.loss;
    let of = if rule.is_unpaired() { "answers that are desirable or not" } else { "pairs of answers" };
    let mut facts = vec![
        Fact::new("Learns from", format!("{of}, {}", rule.name().replace('_', " "))),
        Fact::new("Beta", setting(preference.beta)),
    ];
    if rule.is_unpaired() {
        facts.push(Fact::new("Weight of desirable answers", setting(preference.desirable_weight)));
        facts.push(Fact::new("Weight of undesirable answers", setting(preference.undesirable_weight)));
    } else {
        facts.push(Fact::new(
            "Weight of the better answers' own loss",
            or_none(preference.weight_of_better()),
        ));
    }
    facts
}

fn training_facts(training: &Training) -> Vec<Fact> {
    let length = match training.max_steps {
        Some(steps) => Fact::new("Steps", text::count(steps)),
        None => Fact::new("Epochs", setting(training.epochs)),
    };
    let mut facts = vec![
        length,
        Fact::new("Batch size", training.batch_size.to_string()),
        Fact::new("Batches a step", training.gradient_accumulation_steps.to_string()),
        Fact::new(
            "Longest text",
            training.max_length.map_or("as the model".to_owned(), |n| format!("{n} tokens")),
        ),
        Fact::new("Optimizer", optimizer(&training.optimizer)),
        Fact::new("Weight decay", setting(training.weight_decay)),
        Fact::new("Largest gradient norm", or_none(training.max_grad_norm)),
        Fact::new("Label smoothing", or_none(training.label_smoothing)),
    ];
    facts.extend(
        training.class_weights.as_ref().map(|weights| Fact::new("Class weights", class_weights(weights))),
    );
    facts
}

fn or_none(value: f64) -> String {
    if value == 0.0 { "none".to_owned() } else { setting(value) }
}

fn optimizer(optimizer: &Optimizer) -> String {
    match optimizer {
        Optimizer::Sgd { momentum, dampening, nesterov } => format!(
            "SGD, momentum {}, dampening {}{}",
            setting(*momentum),
            setting(*dampening),
            if *nesterov { ", Nesterov" } else { "" }
        ),
        Optimizer::Adam { betas, eps, amsgrad } => adam("Adam", *betas, *eps, *amsgrad),
        Optimizer::Adamw { betas, eps, amsgrad } => adam("AdamW", *betas, *eps, *amsgrad),
        Optimizer::Adamw8bit { betas, eps } => adam("AdamW with an 8-bit state", *betas, *eps, false),
        Optimizer::SparseAdam { betas, eps } => adam("SparseAdam, AdamW beside it", *betas, *eps, false),
        Optimizer::Lion { betas } => {
            format!("Lion, betas {} and {}", setting(betas.0), setting(betas.1))
        }
        Optimizer::Adafactor { relative_step, warmup_init, scale_parameter, beta1, .. } => format!(
            "Adafactor{}{}{}{}",
            if *relative_step { ", with a rate of its own" } else { "" },
            if *warmup_init { ", slow start" } else { "" },
            if *scale_parameter { ", scaled by size" } else { "" },
            beta1.map(|beta1| format!(", beta 1 {}", setting(beta1))).unwrap_or_default()
        ),
        Optimizer::Muon { momentum, nesterov, ns_steps, .. } => format!(
            "Muon, momentum {}{}, {ns_steps} Newton–Schulz steps, AdamW beside it",
            setting(*momentum),
            if *nesterov { ", Nesterov" } else { "" }
        ),
        Optimizer::Rmsprop { alpha, eps, momentum, centered } => format!(
            "RMSprop, alpha {}, eps {}, momentum {}{}",
            setting(*alpha),
            setting(*eps),
            setting(*momentum),
            if *centered { ", centered" } else { "" }
        ),
    }
}

fn adam(name: &str, betas: (f64, f64), eps: f64, amsgrad: bool) -> String {
    format!(
        "{name}, betas {} and {}, eps {}{}",
        setting(betas.0),
        setting(betas.1),
        setting(eps),
        if amsgrad { ", AMSGrad" } else { "" }
    )
}

fn class_weights(weights: &ClassWeights) -> String {
    match weights {
        ClassWeights::Named(_) => "balanced".to_owned(),
        ClassWeights::ByName(by_name) => by_name
            .iter()
            .map(|(name, weight)| format!("{name}: {}", setting(*weight)))
            .collect::<Vec<_>>()
            .join(", "),
    }
}

fn rate_facts(training: &Training) -> Vec<Fact> {
    let Schedule { name, warmup_steps, warmup_ratio, power, end_learning_rate, cycles } =
        &training.lr_scheduler;
    let name =
        serde_json::to_value(name).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    let warmup = match (warmup_steps, warmup_ratio) {
        (Some(steps), _) => text::plural(*steps, "step", "steps"),
        (None, Some(ratio)) => format!("{} of the steps", text::percent(*ratio)),
        (None, None) => "none".to_owned(),
    };
    let mut facts = vec![
        Fact::new("Learning rate", setting(training.learning_rate)),
        Fact::new("Schedule", name.clone()),
        Fact::new("Warm-up", warmup),
    ];
    match name.as_str() {
        "polynomial" => {
            facts.push(Fact::new("Power", setting(*power)));
            facts.push(Fact::new("Ends at", setting(*end_learning_rate)));
        }
        "cosine" => facts.push(Fact::new("Cycles", setting(*cycles))),
        _ => {}
    }
    facts
}

fn freeze_facts(training: &Training) -> Vec<Fact> {
    let Freeze { embeddings, first_layers, except_head, pattern } = &training.freeze;
    let mut frozen = Vec::new();
    if *except_head {
        frozen.push("all but the head".to_owned());
    }
    if *embeddings {
        frozen.push("embeddings".to_owned());
    }
    if *first_layers > 0 {
        frozen.push(format!("first {}", text::plural(u64::from(*first_layers), "layer", "layers")));
    }
    frozen.extend(pattern.as_ref().map(|pattern| format!("names matching {pattern}")));
    if training.lora.is_some() {
        frozen.push("all but the adapter and the head".to_owned());
    }
    let frozen = if frozen.is_empty() { "nothing".to_owned() } else { frozen.join(", ") };
    let decay = if training.layer_decay == 1.0 { "none".to_owned() } else { setting(training.layer_decay) };
    vec![
        Fact::new("Adapter", training.lora.as_ref().map_or("none".to_owned(), adapter_words)),
        Fact::new("Frozen", frozen),
        Fact::new("Layer-wise decay", decay),
        Fact::new("Dropout", training.dropout.map_or("as the checkpoint".to_owned(), setting)),
    ]
}

/// "DoRA of rank 8, alpha 16, on all-linear, base in NF4, merged".
fn adapter_words(adapter: &Adapter) -> String {
    let kind = match (adapter.dora, adapter.rslora) {
        (false, false) => "LoRA",
        (false, true) => "rsLoRA",
        (true, false) => "DoRA",
        (true, true) => "DoRA with rsLoRA's scale",
    };
    let on = match &adapter.targets {
        Targets::All(_) => "all-linear".to_owned(),
        Targets::Named(names) => names.join(", "),
    };
    let mut words = format!("{kind} of rank {}, alpha {}, on {on}", adapter.rank, setting(adapter.alpha));
    if adapter.dropout > 0.0 {
        words.push_str(&format!(", dropout {}", setting(adapter.dropout)));
    }
    if adapter.quantization.is_some() {
        words.push_str(", base in NF4");
    }
    if adapter.merge {
        words.push_str(", merged");
    }
    words
}

fn evaluation_facts(spec: &JobSpec) -> Vec<Fact> {
    let training = &spec.training;
    let every = |every: Every| match every {
        Every::Steps(steps) => format!("every {}", text::plural(steps, "step", "steps")),
        Every::Epochs(1.0) => "every epoch".to_owned(),
        Every::Epochs(epochs) => format!("every {} epochs", setting(epochs)),
    };
    let metric = training.best_metric.clone().unwrap_or_else(|| spec.default_metric().to_owned());
    let early = training.early_stopping.as_ref().map_or("no".to_owned(), |early| {
        format!("after {} without a better {}", early.patience, early.metric.as_deref().unwrap_or(&metric))
    });
    let mut facts = vec![
        Fact::new("Evaluated", every(training.eval_every)),
        Fact::new("Best checkpoint by", metric.clone()),
        Fact::new("Stopped early", early),
        Fact::new("Checkpoints kept", format!("the best and the newest {}", training.keep_checkpoints)),
    ];
    let steps = training.checkpoint_every;
    facts.extend(
        steps.map(|steps| Fact::new("Checkpoint", format!("every {}", text::plural(steps, "step", "steps")))),
    );
    facts.extend(
        (spec.task == Task::TextGeneration).then(|| Fact::new("Samples", sample_words(&training.samples))),
    );
    facts
}

/// "3 prompts of validation rows, at most 128 tokens".
fn sample_words(samples: &Samples) -> String {
    let (given, rows) = (samples.prompts.len() as u64, samples.of_rows() as u64);
    let own = text::plural(given, "prompt of the settings", "prompts of the settings");
    let of_rows = text::plural(rows, "prompt of validation rows", "prompts of validation rows");
    let asked = match (given, rows) {
        (0, 0) => return "none".to_owned(),
        (0, _) => of_rows,
        (_, 0) => own,
        _ => format!("{own}, {of_rows}"),
    };
    let drawn = match samples.temperature {
        0.0 => "the likeliest tokens".to_owned(),
        temperature => format!("temperature {}", setting(temperature)),
    };
    format!("{asked}, at most {} tokens, {drawn}", samples.max_tokens)
}

fn machine_facts(spec: &JobSpec, job: &Job, settled: Option<&str>) -> Vec<Fact> {
    let word = |value: Value| value.as_str().map(str::to_owned).unwrap_or_default();
    let json = |value: serde_json::Result<Value>| value.map(word).unwrap_or_default();
    let mut facts = vec![
        Fact::new("Device asked for", json(serde_json::to_value(spec.resources.device))),
        Fact::new("Precision", precision(spec.training.precision.name(), settled)),
        Fact::new("Gradient checkpointing", if spec.training.gradient_checkpointing { "yes" } else { "no" }),
        Fact::new("Deterministic", if spec.training.deterministic { "yes" } else { "on the CPU" }),
    ];
    if spec.resources.threads > 0 {
        facts.push(Fact::new("Threads", spec.resources.threads.to_string()));
    }
    facts.extend(job.agent_name.as_ref().map(|name| Fact::new("Trainer", name)));
    facts.extend(job.device.as_ref().map(|device| Fact::new("Ran on", device)));
    if job.priority != 0 {
        facts.push(Fact::new("Priority", job.priority.to_string()));
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::precision;

    #[test]
    fn what_auto_became_is_shown_once_it_is_known() {
        assert_eq!(precision("auto", None), "auto");
        assert_eq!(precision("auto", Some("bf16")), "bf16 (auto)");
        assert_eq!(precision("fp32", Some("fp32")), "fp32");
    }
}

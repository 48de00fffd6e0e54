//! Hyperparameters of the training loop.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Adapter, Embedding, Optimizer, Preference, QuestionAnswering, Samples, Schedule, TextToText};

/// How the model is trained, evaluated and kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// Passes over the training rows; may be a fraction.
    pub epochs: f64,
    /// Optimizer steps; when set, `epochs` is ignored.
    pub max_steps: Option<u64>,
    /// Rows a device takes at once.
    pub batch_size: u32,
    /// Rows at once in evaluation; `None` for `batch_size`.
    pub eval_batch_size: Option<u32>,
    /// Batches whose gradients are summed before a step.
    pub gradient_accumulation_steps: u32,
    /// Peak learning rate of the top layer.
    pub learning_rate: f64,
    /// Update rule.
    pub optimizer: Optimizer,
    /// Learning-rate curve.
    pub lr_scheduler: Schedule,
    /// Decay of weights other than biases and norms.
    pub weight_decay: f64,
    /// Gradients are scaled down to this 2-norm; 0 for no clipping.
    pub max_grad_norm: f64,
    /// Tokens a row is cut to; `None` for the model's own limit, at most 512 (1,024 in text generation, 384 in
    /// question answering).
    pub max_length: Option<u32>,
    /// Which tokens of a chat count in the loss of text generation.
    pub loss_on: LossOn,
    /// The chat template, as Jinja or by the name of a known one; `None` for the checkpoint's own.
    pub chat_template: Option<String>,
    /// Learns from pairs of a better and a worse answer; `None` to learn answers as they are.
    pub preference: Option<Preference>,
    /// What a language model is asked at every evaluation.
    pub samples: Samples,
    /// How vectors of texts are learnt; `None` for the usual.
    pub embedding: Option<Embedding>,
    /// How questions are answered; `None` for the usual.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub question_answering: Option<QuestionAnswering>,
    /// How targets are learnt and written by encoder–decoder models; `None` for the usual.
    pub text_to_text: Option<TextToText>,
    /// Whether each token of a word carries its tag in token classification, instead of its first one alone.
    pub label_all_tokens: bool,
    /// Number format of the arithmetic.
    pub precision: Precision,
    /// Share of the target spread over all classes.
    pub label_smoothing: f64,
    /// Weight of each class in the loss.
    pub class_weights: Option<ClassWeights>,
    /// Dropout of hidden layers, attention and head; `None` keeps the checkpoint's configuration.
    pub dropout: Option<f64>,
    /// Parts that are not trained.
    pub freeze: Freeze,
    /// A low-rank adapter in place of the weights; `None` trains the weights.
    pub lora: Option<Adapter>,
    /// Factor of the learning rate for each layer further from the head; 1 for the same everywhere.
    pub layer_decay: f64,
    /// Steps between points of the training curve; `None` for 1, or more where that gives over 2,000 points.
    pub log_every: Option<u64>,
    /// When the validation rows are evaluated.
    pub eval_every: Every,
    /// When a checkpoint is written beside those at evaluations and after ten minutes.
    pub checkpoint_every: Option<u64>,
    /// Metric that chooses the best checkpoint; `None` for the task's own: the validation loss, of vectors `ndcg_at_10` or
    /// `spearman`, of answers and tags `f1`, of translations `bleu`, of summaries `rougeL`.
    pub best_metric: Option<String>,
    /// Ends the job when the metric stays without improvement.
    pub early_stopping: Option<EarlyStopping>,
    /// Newest checkpoints kept beside the best one.
    pub keep_checkpoints: u32,
    /// Bit-equal repeats on a GPU, at a cost; a CPU is always so.
    pub deterministic: bool,
    /// Layers keep their input alone and are computed again in the backward pass: less memory, more time.
    ///
    /// Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016).
    pub gradient_checkpointing: bool,
}

impl Default for Training {
    fn default() -> Self {
        Training {
            epochs: 3.0,
            max_steps: None,
            batch_size: 32,
            eval_batch_size: None,
            gradient_accumulation_steps: 1,
            learning_rate: 5e-5,
            optimizer: Optimizer::default(),
            lr_scheduler: Schedule::default(),
            weight_decay: 0.01,
            max_grad_norm: 1.0,
            max_length: None,
            loss_on: LossOn::Assistant,
            chat_template: None,
            preference: None,
            samples: Samples::default(),
            embedding: None,
            question_answering: None,
            text_to_text: None,
            label_all_tokens: false,
            precision: Precision::Auto,
            label_smoothing: 0.0,
            class_weights: None,
            dropout: None,
            freeze: Freeze::default(),
            lora: None,
            layer_decay: 1.0,
            log_every: None,
            eval_every: Every::Epochs(1.0),
            checkpoint_every: None,
            best_metric: None,
            early_stopping: None,
            keep_checkpoints: 2,
            deterministic: false,
            gradient_checkpointing: false,
        }
    }
}

/// Which tokens count in the loss of text generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossOn {
    /// What the assistant says; what completes a prompt. All of a plain text.
    #[default]
    Assistant,
    /// All of them.
    All,
}

impl LossOn {
    /// All of them.
    pub const ALL: [LossOn; 2] = [LossOn::Assistant, LossOn::All];

    /// The name in a specification.
    pub fn name(self) -> &'static str {
        match self {
            LossOn::Assistant => "assistant",
            LossOn::All => "all",
        }
    }
}

impl From<LossOn> for formats::chat::Loss {
    fn from(loss_on: LossOn) -> Self {
        match loss_on {
            LossOn::Assistant => Self::Assistant,
            LossOn::All => Self::All,
        }
    }
}

/// Number format of the arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// The fastest that the device has without loss of quality.
    #[default]
    Auto,
    /// 32-bit floats.
    Fp32,
    /// Products of 19-bit floats, sums and weights of 32; GPUs only.
    Tf32,
    /// Products of bf16, weights and optimizer of 32 bits.
    Bf16,
    /// Weights of bf16 as well, rounded at random so that small updates are not lost: half the memory.
    Bf16Pure,
    /// Products of fp16 with a scaled loss, weights and optimizer of 32 bits; GPUs only.
    Fp16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Precision; 6] = [
        Precision::Auto,
        Precision::Fp32,
        Precision::Tf32,
        Precision::Bf16,
        Precision::Bf16Pure,
        Precision::Fp16,
    ];

    /// The name in a specification.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Auto => "auto",
            Precision::Fp32 => "fp32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
            Precision::Bf16Pure => "bf16_pure",
            Precision::Fp16 => "fp16",
        }
    }
}

/// An interval, counted in steps or in epochs: `{"steps": 100}` or `{"epochs": 0.5}`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Every {
    /// Optimizer steps.
    Steps(u64),
    /// Epochs, or a part of one.
    Epochs(f64),
}

/// When to stop before the last step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Metric watched; `None` for `best_metric`.
    #[serde(default)]
    pub metric: Option<String>,
    /// Evaluations without improvement before the end.
    pub patience: u32,
    /// Smallest change that counts as improvement.
    #[serde(default)]
    pub min_delta: f64,
}

/// Weights of classes in the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClassWeights {
    /// `"balanced"`: rows / (classes × rows of the class), as scikit-learn has it.
    Named(Balanced),
    /// Class name → weight; a class left out has weight 1.
    ByName(BTreeMap<String, f64>),
}

/// The one named rule for class weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balanced {
    /// rows / (classes × rows of the class).
    Balanced,
}

/// Parts of the model that keep their weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Freeze {
    /// Word, position and type embeddings.
    pub embeddings: bool,
    /// The first layers of the encoder.
    pub first_layers: u32,
    /// Everything but the head.
    pub except_head: bool,
    /// A regular expression over parameter names.
    pub pattern: Option<String>,
}

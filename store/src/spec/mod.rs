//! What a job is: the words that server, queue and trainer share.
//!
//! A [`JobSpec`] is complete: everything that was "auto" or guessed at the API has a value here, so that the same
//! file run again does the same work. Names follow transformers' `TrainingArguments` and `torch.optim`.

mod adapter;
mod embedding;
mod optimizer;
mod preference;
mod question;
mod reader;
pub mod request;
mod samples;
mod text_to_text;
mod training;
mod validate;
mod work;

pub use adapter::{Adapter, AllLinear, Quantization, Targets, is_named};
pub use embedding::{BatchSampler, Embedding, EmbeddingLoss};
pub use optimizer::{AdjustLr, Optimizer, Schedule, ScheduleName};
pub use preference::{Preference, PreferenceLoss};
pub use question::QuestionAnswering;
pub use reader::Reader;
pub use samples::{SamplePrompt, Samples};
pub use text_to_text::TextToText;
pub use training::{Balanced, ClassWeights, EarlyStopping, Every, Freeze, LossOn, Precision, Training};
pub use validate::SpecError;
pub use work::{Export, Format, NumberKind, Work};

use formats::dataset::SplitSizes;
use formats::dataset::related::Relation;
use formats::dataset::tagged::Tagging;
pub use formats::dataset::{Columns, ProblemType};
use serde::{Deserialize, Serialize};

/// A fine-tune, or other work on a model and rows, ready to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// What the job is there for; training where nothing is said.
    #[serde(default, skip_serializing_if = "Work::is_train")]
    pub work: Work,
    /// What the model learns to do.
    pub task: Task,
    /// How labels are read and which loss is used; `None` where a task has one kind only.
    #[serde(default)]
    pub problem_type: Option<ProblemType>,
    /// Which columns play which role; none in text generation, whose rows say by their keys what they are.
    #[serde(default)]
    pub columns: Columns,
    /// File names under the job's `data` folder.
    pub data: DataFiles,
    /// How rows are held out when there is no file of their own for it.
    #[serde(default)]
    pub split: Split,
    /// Optimizer, schedule, batches, evaluation.
    #[serde(default)]
    pub training: Training,
    /// Device and share of the machine.
    #[serde(default)]
    pub resources: Resources,
    /// Seed of every draw: initial head, data order, dropout.
    #[serde(default)]
    pub seed: u32,
    /// Where the base checkpoint came from, written into the model card.
    #[serde(default)]
    pub base_model: String,
    /// A name for people.
    #[serde(default)]
    pub name: String,
}

/// The Hub's task tags that Luthier trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One label, several labels or a number for each text or pair of texts.
    TextClassification,
    /// The next token: chats, prompts with their completions, plain text.
    TextGeneration,
    /// Vectors that lie near each other where the texts do.
    SentenceSimilarity,
    /// The part of a text that answers a question.
    QuestionAnswering,
    /// A text in another language.
    Translation,
    /// A shorter text that says the same.
    Summarization,
    /// A text from another one, whatever they have to do with each other.
    #[serde(rename = "text2text-generation")]
    TextToText,
    /// A tag for each word: named entities, parts of speech.
    TokenClassification,
}

impl JobSpec {
    /// How vectors are learnt, with the usual where nothing is said; the loss is that of the columns.
    pub fn embedding(&self) -> (EmbeddingLoss, Embedding) {
        let embedding = self.training.embedding.clone().unwrap_or_default();
        (embedding.loss.unwrap_or_else(|| self.usual_embedding_loss()), embedding)
    }

    /// How questions are answered, with the usual where nothing is said.
    pub fn question_answering(&self) -> QuestionAnswering {
        self.training.question_answering.clone().unwrap_or_default()
    }

    /// The loss that the columns are there for.
    pub fn usual_embedding_loss(&self) -> EmbeddingLoss {
        match Relation::of(&self.columns) {
            Some(Relation::Scored { .. }) => EmbeddingLoss::Cosent,
            _ => EmbeddingLoss::MultipleNegativesRanking,
        }
    }

    /// The metric that chooses the best checkpoint where nothing is said.
    pub fn default_metric(&self) -> &'static str {
        match self.task {
            Task::SentenceSimilarity if self.embedding().0.is_scored() => "spearman",
            Task::SentenceSimilarity => "ndcg_at_10",
            Task::QuestionAnswering | Task::TokenClassification => "f1",
            task if task.is_text_to_text() => self.text_to_text_metric(),
            _ => "loss",
        }
    }

    /// What the rows of tagged words are; `None` in other tasks, and where roles are missing.
    pub fn tagging(&self) -> Option<Tagging<'_>> {
        Tagging::of(&self.columns).filter(|_| self.task == Task::TokenClassification)
    }

    /// Sequences of a row: two answers of a preference, the texts of a row of related ones.
    pub fn per_row(&self) -> usize {
        match self.task {
            Task::SentenceSimilarity => {
                Relation::of(&self.columns).map_or(2, |relation| relation.texts().len())
            }
            _ => match &self.training.preference {
                Some(preference) if !preference.loss.is_unpaired() => 2,
                _ => 1,
            },
        }
    }

    /// How much of the training file is held out: nothing for a part that has a file of its own.
    pub fn held_out(&self) -> SplitSizes {
        let Split { fraction, test_fraction, .. } = self.split;
        SplitSizes {
            validation: if self.data.validation.is_some() { 0.0 } else { fraction },
            test: if self.data.test.is_some() { 0.0 } else { test_fraction },
        }
    }
}

impl Task {
    /// All of them.
    pub const ALL: [Task; 8] = [
        Task::TextClassification,
        Task::TextGeneration,
        Task::SentenceSimilarity,
        Task::QuestionAnswering,
        Task::TokenClassification,
        Task::Translation,
        Task::Summarization,
        Task::TextToText,
    ];

    /// The tag as written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Task::TextClassification => "text-classification",
            Task::TextGeneration => "text-generation",
            Task::SentenceSimilarity => "sentence-similarity",
            Task::QuestionAnswering => "question-answering",
            Task::Translation => "translation",
            Task::Summarization => "summarization",
            Task::TextToText => "text2text-generation",
            Task::TokenClassification => "token-classification",
        }
    }

    /// The task of this tag.
    pub fn of(tag: &str) -> Option<Task> {
        Task::ALL.into_iter().find(|task| task.as_str() == tag)
    }
}

/// Files under `DIR/data`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFiles {
    /// Rows to learn from.
    pub train: String,
    /// Rows to evaluate on during training, and to choose the best checkpoint by.
    #[serde(default)]
    pub validation: Option<String>,
    /// Rows evaluated once, with the chosen checkpoint, and never used for choosing.
    #[serde(default)]
    pub test: Option<String>,
}

/// How rows of the training file are held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Split {
    /// Share held out for validation when there is no validation file.
    pub fraction: f64,
    /// Share held out for the final test when there is no test file; 0 for none.
    pub test_fraction: f64,
    /// Seed of the draw.
    pub seed: u32,
    /// Whether each class keeps its share in every part.
    pub stratify: bool,
}

impl Default for Split {
    fn default() -> Self {
        Split { fraction: 0.1, test_fraction: 0.0, seed: 0, stratify: true }
    }
}

/// The device a job asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A GPU where the trainer has one, the CPU otherwise.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA GPU, or the job fails before its first step.
    Cuda,
}

/// Share of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Kind of device.
    pub device: Device,
    /// Number of processes, each with a device of its own; on a CPU they share its cores. Steps do not depend on it, but
    /// where rows of a batch are compared: each process compares its own.
    pub devices: u32,
    /// Processes that share the weights of each layer; they and the stages divide `devices`, and what is left are copies
    /// of the model that share the rows.
    pub tensor_parallel: u32,
    /// Groups of processes that have layers of their own, one after the other.
    pub pipeline_stages: u32,
    /// Whether each copy of the model keeps the optimizer's state of some parameters, instead of all.
    pub shard_optimizer: bool,
    /// CPU threads; 0 for all cores.
    pub threads: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Resources {
            device: Device::Auto,
            devices: 1,
            tensor_parallel: 1,
            pipeline_stages: 1,
            shard_optimizer: false,
            threads: 0,
        }
    }
}

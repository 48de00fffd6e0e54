//! Learning to write one text from another: translation, summaries, whatever has a source and a target.

use formats::inspect::Target;
use serde::{Deserialize, Serialize};

use super::{JobSpec, Task};

/// How sources and targets are read and how targets are written; names follow transformers' `Seq2SeqTrainingArguments` and
/// `GenerationConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TextToText {
    /// What is put before each source, a blank at its end included: T5's `translate English to French: `.
    pub source_prefix: String,
    /// The code of the sources' language, for models that know languages by a code: mBART's `en_XX`.
    pub source_lang: Option<String>,
    /// The code of the targets' language.
    pub target_lang: Option<String>,
    /// Tokens a target is cut to, and tokens that are written at most; `None` for [`TextToText::USUAL_TARGET_LENGTH`].
    pub max_target_length: Option<u32>,
    /// Whether evaluations write a target for each source and compare it; else they look at the loss alone.
    pub predict_with_generate: bool,
    /// Rows that an evaluation during training writes targets for; 0 for none, `None` for [`TextToText::USUAL_ROWS`]. The test
    /// at the end writes those of all its rows.
    pub generated_rows: Option<u32>,
    /// Targets that are kept beside each other while one is written; 1 takes the likeliest token each time.
    pub num_beams: u32,
    /// The power of its length that a target's score is divided by: above 0 for longer ones.
    pub length_penalty: f64,
    /// So many tokens in a row are written once at most; 0 for no such limit.
    pub no_repeat_ngram_size: u32,
    /// Whether the search ends as soon as there are as many whole targets as beams.
    pub early_stopping: bool,
    /// The token that a target begins with; `None` for what the checkpoint says, or the code of the targets' language.
    pub forced_bos_token: Option<String>,
    /// How BLEU takes texts apart, by sacrebleu's name; one of [`TextToText::BLEU_TOKENIZERS`].
    pub bleu_tokenizer: String,
    /// Whether ROUGE compares the stems of English words; `None` for the task's own: in summaries.
    pub rouge_stemmer: Option<bool>,
}

impl Default for TextToText {
    fn default() -> Self {
        TextToText {
            source_prefix: String::new(),
            source_lang: None,
            target_lang: None,
            max_target_length: None,
            predict_with_generate: true,
            generated_rows: None,
            num_beams: 4,
            length_penalty: 1.0,
            no_repeat_ngram_size: 0,
            early_stopping: false,
            forced_bos_token: None,
            bleu_tokenizer: TextToText::BLEU_TOKENIZERS[0].to_owned(),
            rouge_stemmer: None,
        }
    }
}

impl TextToText {
    /// Tokens of a target where nothing is said.
    pub const USUAL_TARGET_LENGTH: u32 = 128;

    /// Rows that an evaluation during training writes targets for where nothing is said.
    pub const USUAL_ROWS: u32 = 200;

    /// Ways of taking texts apart for BLEU, by their names in sacrebleu, the usual one first.
    pub const BLEU_TOKENIZERS: [&str; 5] = ["13a", "intl", "char", "zh", "none"];

    /// Tokens a target is cut to, before what the model has positions for.
    pub fn target_length(&self) -> usize {
        self.max_target_length.unwrap_or(Self::USUAL_TARGET_LENGTH) as usize
    }

    /// Rows that an evaluation during training writes targets for; 0 where it looks at the loss alone.
    pub fn rows_written(&self) -> usize {
        match self.predict_with_generate {
            true => self.generated_rows.unwrap_or(Self::USUAL_ROWS) as usize,
            false => 0,
        }
    }
}

/// The task that writes such targets.
impl From<Target> for Task {
    fn from(target: Target) -> Self {
        match target {
            Target::Translation => Task::Translation,
            Target::Summary => Task::Summarization,
            Target::Text => Task::TextToText,
        }
    }
}

impl Task {
    /// Whether a text is written from another one by an encoder–decoder model.
    pub fn is_text_to_text(self) -> bool {
        matches!(self, Task::Translation | Task::Summarization | Task::TextToText)
    }
}

impl JobSpec {
    /// How targets are learnt and written, with the usual where nothing is said: what ROUGE compares goes by the task.
    pub fn text_to_text(&self) -> TextToText {
        let settings = self.training.text_to_text.clone().unwrap_or_default();
        let stems = settings.rouge_stemmer.unwrap_or(self.usual_rouge_stemmer());
        TextToText { rouge_stemmer: Some(stems), ..settings }
    }

    /// Whether evaluations during training write targets: where each process has some of the layers alone, none can.
    pub fn writes_targets(&self) -> bool {
        self.text_to_text().rows_written() > 0 && self.resources.pipeline_stages <= 1
    }

    /// Whether ROUGE compares stems where nothing is said.
    pub fn usual_rouge_stemmer(&self) -> bool {
        self.task == Task::Summarization
    }

    /// The metric that chooses the best checkpoint of a text-to-text task: the loss where evaluations write nothing.
    pub(super) fn text_to_text_metric(&self) -> &'static str {
        match self.task {
            _ if !self.writes_targets() => "loss",
            Task::Translation => "bleu",
            Task::Summarization => "rougeL",
            _ => "loss",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(task: &str, settings: serde_json::Value) -> JobSpec {
        serde_json::from_value(json!({"task": task, "columns": {"source": "en", "target": "fr"},
            "data": {"train": "a"}, "training": {"text_to_text": settings}}))
        .unwrap()
    }

    #[test]
    fn the_usual_goes_by_the_task() {
        let metric = |task: &str, settings| spec(task, settings).default_metric();
        assert_eq!(metric("translation", json!({})), "bleu");
        assert_eq!(metric("summarization", json!({})), "rougeL");
        assert_eq!(metric("text2text-generation", json!({})), "loss");
        assert_eq!(metric("translation", json!({"predict_with_generate": false})), "loss");
        assert_eq!(metric("summarization", json!({"generated_rows": 0})), "loss");
        let mut in_stages = spec("translation", json!({}));
        in_stages.resources.pipeline_stages = 2;
        assert_eq!(in_stages.default_metric(), "loss");
        let stems = |task: &str, settings| spec(task, settings).text_to_text().rouge_stemmer;
        assert_eq!(stems("summarization", json!({})), Some(true));
        assert_eq!(stems("translation", json!({})), Some(false));
        assert_eq!(stems("summarization", json!({"rouge_stemmer": false})), Some(false));
    }

    #[test]
    fn rows_written_are_those_asked_for() {
        let of = |settings| spec("translation", settings).text_to_text();
        assert_eq!((of(json!({})).rows_written(), of(json!({})).target_length()), (200, 128));
        assert_eq!(of(json!({"generated_rows": 0})).rows_written(), 0);
        assert_eq!(of(json!({"generated_rows": 7, "predict_with_generate": false})).rows_written(), 0);
    }
}

//! One text from another: translation, summaries. Each token of the answer is foretold by the source and by those before it.
//!
//! The loss is that of transformers' `…ForConditionalGeneration`: the cross-entropy of the answer's tokens. Beside it an
//! evaluation writes answers, as whoever downloads the model will, and compares them with the right ones (`scores`).

use anyhow::Result;
use formats::tokenizer::Tokenizer;
use scores::{
    Bleu, BleuOptions, BleuTokenizer, Chrf, ChrfOptions, ExactMatch, ExactMatchOptions, Metric, Rouge,
    RougeKind, Rows, Ter, TerOptions,
};
use serde_json::{Value, json};
use store::spec::{JobSpec, Task, TextToText};
use tch::Tensor;

use super::text_generation::TextGeneration;
use super::{Given, Objective, Predictions, Written};
use crate::data::Split;
use crate::generate::Writing;
use crate::metrics::Metrics;
use crate::models::{self, Head};

/// Rows of the event `examples`.
const SHOWN: usize = 20;

/// Writing one text from another.
pub struct SequenceToSequence {
    task: Task,
    settings: TextToText,
    inner: TextGeneration,
    writing: Writing,
    tokenizer: Tokenizer,
}

impl SequenceToSequence {
    /// For a job; `configs`: the checkpoint's `config.json` and `generation_config.json`.
    ///
    /// # Errors
    /// As [`Writing::new`].
    pub fn new(spec: &JobSpec, configs: (&Value, &Value), tokenizer: Tokenizer) -> Result<Self> {
        let settings = spec.text_to_text();
        let writing = Writing::new(configs, &settings, &tokenizer)?.within(models::max_positions(configs.0));
        Ok(SequenceToSequence {
            task: spec.task,
            settings,
            inner: TextGeneration::default(),
            writing,
            tokenizer,
        })
    }

    /// The metrics of answers, the task's own first.
    fn rows(&self, texts: &[String], references: &[Vec<String>]) -> Result<Vec<(&'static str, Rows)>> {
        let named = &self.settings.bleu_tokenizer;
        let tokenizer =
            BleuTokenizer::ALL.into_iter().find(|known| known.label() == named).unwrap_or_default();
        let bleu = || Bleu::new(BleuOptions { tokenizer, ..BleuOptions::default() })?.rows(texts, references);
        let chrf = |options| Chrf::new(options)?.rows(texts, references);
        let stems = self.settings.rouge_stemmer.unwrap_or_default();
        let rouge = |name, kind| -> Result<(&'static str, Rows)> {
            Ok((name, Rouge::new(kind, stems).rows(texts, references)?))
        };
        Ok(match self.task {
            Task::Summarization => vec![
                rouge("rouge1", RougeKind::One)?,
                rouge("rouge2", RougeKind::Two)?,
                rouge("rougeL", RougeKind::L)?,
                rouge("rougeLsum", RougeKind::Lsum)?,
            ],
            Task::Translation => vec![
                ("bleu", bleu()?),
                ("chrf", chrf(ChrfOptions::default())?),
                ("chrf_plus_plus", chrf(ChrfOptions::plus_plus())?),
                ("ter", Ter::new(TerOptions::default()).rows(texts, references)?),
            ],
            _ => vec![
                ("exact_match", ExactMatch::new(ExactMatchOptions::default()).rows(texts, references)?),
                ("bleu", bleu()?),
                rouge("rougeL", RougeKind::L)?,
            ],
        })
    }

    fn references(split: &Split, written: &Written) -> Vec<Vec<String>> {
        let right = |&row: &usize| vec![split.texts[row].1.clone().unwrap_or_default()];
        written.rows.iter().map(right).collect()
    }
}

impl Objective for SequenceToSequence {
    fn head(&self) -> Head {
        Head::Answers
    }

    fn weight(&self, split: &Split, rows: &[usize]) -> f64 {
        self.inner.weight(split, rows)
    }

    fn right(&self) -> Option<Tensor> {
        self.inner.right()
    }

    fn loss(&self, of: &Given, by: f64) -> Tensor {
        self.inner.loss(of, by)
    }

    fn outputs(&self) -> usize {
        self.inner.outputs()
    }

    fn look(&self, of: &Given) -> Result<(Vec<f32>, Vec<f32>)> {
        self.inner.look(of)
    }

    fn writes(&self) -> Option<(&Writing, &Tokenizer, usize)> {
        let rows = self.settings.rows_written();
        (rows > 0).then_some((&self.writing, &self.tokenizer, rows))
    }

    fn metrics(&self, split: &Split, predictions: &Predictions) -> Result<Metrics> {
        let mut metrics = self.inner.metrics(split, predictions)?;
        let Some(written) = predictions.written.as_ref().filter(|written| !written.rows.is_empty()) else {
            return Ok(metrics);
        };
        for (name, rows) in self.rows(&written.texts, &Self::references(split, written))? {
            metrics.add(name, rows.score());
        }
        let tokens: usize = written.tokens.iter().sum();
        metrics.add("mean_written_tokens", tokens as f64 / written.rows.len() as f64);
        Ok(metrics)
    }

    /// The worst answers first, by the task's first metric.
    fn examples(&self, split: &Split, predictions: &Predictions, _seed: u64) -> Option<Value> {
        let written = predictions.written.as_ref()?;
        let rows = self.rows(&written.texts, &Self::references(split, written)).ok()?;
        let (name, rows) = rows.into_iter().next()?;
        let each = rows.row_scores();
        let shown = rows.worst(SHOWN).into_iter().map(|at| {
            let (source, target) = &split.texts[written.rows[at]];
            json!({
                "row": split.numbers[written.rows[at]],
                "source": source,
                "target": target,
                "prediction": written.texts[at],
                "score": each[at],
            })
        });
        Some(
            json!({"kind": "text-to-text", "metric": name, "signature": rows.signature(), "rows": shown.collect::<Vec<_>>()}),
        )
    }

    /// Row, source, target, what was written if that was asked for, tokens of the target, and their mean loss.
    fn predictions_csv(&self, split: &Split, predictions: &Predictions) -> Result<String> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(["row", "source", "target", "prediction", "tokens", "loss"])?;
        let mut written = vec![None; split.len()];
        for (&row, text) in predictions.written.iter().flat_map(|it| it.rows.iter().zip(&it.texts)) {
            written[row] = Some(text.as_str());
        }
        for (at, number) in split.numbers.iter().enumerate() {
            let tokens = f64::from(predictions.outputs[at * self.outputs()]);
            let (source, target) = &split.texts[at];
            let mean =
                if tokens > 0.0 { (predictions.losses[at] / tokens).to_string() } else { String::new() };
            csv.write_record([
                &number.to_string(),
                source,
                target.as_deref().unwrap_or_default(),
                written[at].unwrap_or_default(),
                &tokens.to_string(),
                &mean,
            ])?;
        }
        Ok(String::from_utf8(csv.into_inner()?)?)
    }

    fn tuned_config(&self, base: &Value) -> Result<Value> {
        let mut config = base.clone();
        let class = match base["model_type"].as_str().unwrap_or_default() {
            "t5" => "T5ForConditionalGeneration",
            "mt5" => "MT5ForConditionalGeneration",
            "bart" => "BartForConditionalGeneration",
            "mbart" => "MBartForConditionalGeneration",
            "marian" => "MarianMTModel",
            "luthier_transformer" => "LuthierTransformerForConditionalGeneration",
            other => anyhow::bail!("no class name for {other}"),
        };
        config["architectures"] = json!([class]);
        // What pipelines of transformers put before a text, and how they write; ours as well.
        config["task_specific_params"][self.task.as_str()] = json!({
            "prefix": self.settings.source_prefix,
            "num_beams": self.settings.num_beams,
            "length_penalty": self.settings.length_penalty,
            "early_stopping": self.settings.early_stopping,
            "no_repeat_ngram_size": self.settings.no_repeat_ngram_size,
            "max_length": self.settings.target_length(),
            "source_lang": self.settings.source_lang,
            "target_lang": self.settings.target_lang,
        });
        Ok(config)
    }

    fn peft_task(&self) -> &'static str {
        "SEQ_2_SEQ_LM"
    }

    fn usage(&self, adapter: bool) -> &'static str {
        if adapter { USE_OF_ADAPTER } else { USE }
    }
}

const USE: &str = "```python\nfrom transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\nfolder = \
                   \"path/to/this/folder\"\ntokenizer = AutoTokenizer.from_pretrained(folder)\nmodel = \
                   AutoModelForSeq2SeqLM.from_pretrained(folder)\ninputs = tokenizer(\"…\", return_tensors=\"pt\")\nprint(\
                   tokenizer.decode(model.generate(**inputs, num_beams=4, max_new_tokens=128)[0], \
                   skip_special_tokens=True))\n```\n";

const USE_OF_ADAPTER: &str = "This is an adapter; the model that it was trained on is in `base/`.\n\n```python\nfrom peft \
                              import PeftModel\nfrom transformers import AutoModelForSeq2SeqLM, AutoTokenizer\n\nfolder = \
                              \"path/to/this/folder\"\nbase = \
                              AutoModelForSeq2SeqLM.from_pretrained(f\"{folder}/base\")\nmodel = \
                              PeftModel.from_pretrained(base, folder).merge_and_unload()\ntokenizer = \
                              AutoTokenizer.from_pretrained(folder)\ninputs = tokenizer(\"…\", \
                              return_tensors=\"pt\")\nprint(tokenizer.decode(model.generate(**inputs, num_beams=4, \
                              max_new_tokens=128)[0], skip_special_tokens=True))\n```\n";

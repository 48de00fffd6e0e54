//! Token classification: a tag for each word, by its first token.
//!
//! The loss is that of transformers' `…ForTokenClassification`: cross-entropy over the tokens that carry a tag, a mean over all
//! of them in a step.

use anyhow::Result;
use formats::dataset::tagged::Scheme;
use formats::tokenizer::Piece;
use serde_json::{Map, Value, json};
use tch::{Kind, Reduction, Tensor};

use super::{Given, Objective, Predictions, Targets};
use crate::data::{Data, Split, Tagged, Tags};
use crate::failure::Failure;
use crate::metrics::examples::pick;
use crate::metrics::{Metrics, Tagging};
use crate::models::Head;
use crate::tensors::floats;

/// Words of a row that are shown.
const MOST_SHOWN: usize = 200;

/// Tags and loss.
pub struct TokenClassification {
    /// Names of the tags by id.
    labels: Vec<String>,
    scheme: Scheme,
    smoothing: f64,
    /// Words that the model sees of a row, at most.
    words: usize,
}

impl TokenClassification {
    /// The loss over the tags of the training rows, of rows as long as those of `data`.
    pub fn new(tags: Tags, data: &Data, smoothing: f64) -> Self {
        let splits = [Some(&*data.train), data.validation.as_ref(), data.test.as_ref()];
        let longest = |split: &Split| rows_of(split).iter().map(Tagged::seen).max().unwrap_or(0);
        TokenClassification {
            labels: tags.names,
            scheme: tags.scheme,
            smoothing,
            words: splits.into_iter().flatten().map(longest).max().unwrap_or(0),
        }
    }

    /// Where each sequence of a batch begins.
    fn starts(of: &Given) -> Vec<usize> {
        let lengths = of.batch.inputs.packing.lengths.iter();
        let next = |at: &mut usize, length: &i64| {
            let start = *at;
            *at += *length as usize;
            Some(start)
        };
        lengths.scan(0, next).collect()
    }

    /// The loss of each counted token of a batch, `[m]`, row by row.
    fn token_losses(&self, of: &Given) -> Tensor {
        let (mut places, mut tags) = (Vec::new(), Vec::new());
        let rows = rows_of(of.split);
        for (&row, start) in of.rows.iter().zip(Self::starts(of)) {
            for (token, tag) in &rows[row].counted {
                places.push((start + token) as i64);
                tags.push(*tag as i64);
            }
        }
        let tensor = |numbers: &[i64]| Tensor::from_slice(numbers).to_device(of.top.device());
        let logits = of.top.index_select(0, &tensor(&places)); // [m, labels]
        logits.cross_entropy_loss(&tensor(&tags), None::<&Tensor>, Reduction::None, -100, self.smoothing)
    }

    /// What the model said of each word of a row: the id of a tag and its probability; `None` of a word it did not see.
    fn said(&self, predictions: &Predictions, row: usize, pieces: &[Piece]) -> Vec<Option<(usize, f64)>> {
        let all = self.outputs();
        let mut seen = predictions.outputs[row * all..][..all].chunks(2);
        let of_word = |piece: &Piece| match piece {
            Piece::At(_) => seen.next().map(|said| (said[0] as usize, f64::from(said[1]))),
            Piece::None | Piece::Cut => None,
        };
        pieces.iter().map(of_word).collect()
    }

    fn name(&self, tag: usize) -> &str {
        &self.labels[tag]
    }
}

/// The sentences of a split.
fn rows_of(split: &Split) -> &[Tagged] {
    match &split.targets {
        Targets::Tags(rows) => rows,
        _ => unreachable!("rows of a tagger have tags"),
    }
}

/// For each word whether it counts in the metrics: one without a token does so only where an entity is made of such words alone,
/// which is then missed.
fn judged(row: &Tagged, names: &[&str], scheme: Scheme) -> Vec<bool> {
    let mut judged: Vec<bool> = row.pieces.iter().map(|piece| *piece != Piece::None).collect();
    for entity in formats::dataset::tagged::entities::lenient(names, scheme) {
        let words = entity.words.0..entity.words.1;
        if !judged[words.clone()].contains(&true) {
            judged[words].fill(true);
        }
    }
    judged
}

impl Objective for TokenClassification {
    fn head(&self) -> Head {
        Head::TokenLabels(self.labels.len() as i64)
    }

    fn labels(&self) -> &[String] {
        &self.labels
    }

    fn weight(&self, split: &Split, rows: &[usize]) -> f64 {
        let all = rows_of(split);
        let counted: usize = rows.iter().map(|&row| all[row].counted.len()).sum();
        // A step without any token that counts moves nothing.
        counted.max(1) as f64
    }

    fn loss(&self, of: &Given, by: f64) -> Tensor {
        self.token_losses(of).sum(Kind::Float) * by
    }

    fn outputs(&self) -> usize {
        2 * self.words
    }

    /// Of each word that it sees the id of the likeliest tag and its probability, one after the other.
    fn look(&self, of: &Given) -> Result<(Vec<f32>, Vec<f32>)> {
        let all = rows_of(of.split);
        let each = floats(&self.token_losses(of))?;
        let (mut losses, mut next) = (Vec::with_capacity(of.rows.len()), 0);
        for &row in of.rows {
            let counted = all[row].counted.len();
            losses.push(each[next..next + counted].iter().sum());
            next += counted;
        }
        let (probabilities, tags) = of.top.softmax(-1, Kind::Float).max_dim(-1, false); // [n] each
        let probabilities = floats(&probabilities)?;
        let tags = floats(&tags.to_kind(Kind::Float))?;
        let mut said = vec![0.0; of.rows.len() * self.outputs()];
        for ((&row, start), own) in
            of.rows.iter().zip(Self::starts(of)).zip(said.chunks_mut(self.outputs().max(1)))
        {
            let seen = all[row].pieces.iter().filter_map(|piece| match piece {
                Piece::At(token) => Some(start + *token as usize),
                Piece::None | Piece::Cut => None,
            });
            for (token, kept) in seen.zip(own.chunks_mut(2)) {
                kept[0] = tags[token];
                kept[1] = probabilities[token];
            }
        }
        Ok((said, losses))
    }

    fn metrics(&self, split: &Split, predictions: &Predictions) -> Result<Metrics> {
        let rows = rows_of(split);
        let (mut gold, mut predicted) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        let (mut seen, mut right) = (0, 0);
        for (at, row) in rows.iter().enumerate() {
            let said = self.said(predictions, at, &row.pieces);
            let names: Vec<&str> = row.tags.iter().map(|&tag| self.name(tag)).collect();
            let judged = judged(row, &names, self.scheme);
            for (tag, said) in row.tags.iter().zip(&said) {
                seen += u64::from(said.is_some());
                right += u64::from(said.is_some_and(|(said, _)| said == *tag));
            }
            let counts: Vec<usize> = (0..names.len()).filter(|&word| judged[word]).collect();
            gold.push(counts.iter().map(|&word| names[word]).collect());
            let said = |&word: &usize| said[word].map_or("O", |(tag, _)| self.name(tag));
            predicted.push(counts.iter().map(said).collect());
        }
        let counted: usize = rows.iter().map(|row| row.counted.len()).sum();
        let loss = (counted > 0).then(|| predictions.losses.iter().sum::<f64>() / counted as f64);
        let words = (seen, right);
        let tagging = Tagging { scheme: self.scheme, gold: &gold, predicted: &predicted, words, loss };
        Ok(tagging.metrics()?)
    }

    /// The best, worst and some random sentences, by the mean loss of their words.
    fn examples(&self, split: &Split, predictions: &Predictions, seed: u64) -> Option<Value> {
        const SHOWN: usize = 5;
        let rows = rows_of(split);
        let mean = |(row, loss): (&Tagged, &f64)| loss / row.counted.len().max(1) as f64;
        let losses: Vec<f64> = rows.iter().zip(&predictions.losses).map(mean).collect();
        let shown = |at: usize| {
            let row = &rows[at];
            let said = self.said(predictions, at, &row.pieces);
            let some = row.words.len().min(MOST_SHOWN);
            let predicted: Vec<Option<&str>> =
                said[..some].iter().map(|said| said.map(|(tag, _)| self.name(tag))).collect();
            json!({
                "row": split.numbers[at],
                "words": row.words[..some],
                "tags": row.tags[..some].iter().map(|&tag| self.name(tag)).collect::<Vec<_>>(),
                "predicted": predicted,
                "more": row.words.len() - some,
                "loss": losses[at].is_finite().then_some(losses[at]),
            })
        };
        let picked = pick(&losses, SHOWN, seed);
        let all = |rows: &[usize]| rows.iter().map(|&row| shown(row)).collect::<Vec<_>>();
        Some(json!({"best": all(&picked.best), "worst": all(&picked.worst), "random": all(&picked.random)}))
    }

    /// A line a word: row, place, word, tag, predicted and its probability; without the last two where the model did not see it.
    fn predictions_csv(&self, split: &Split, predictions: &Predictions) -> Result<String> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(["row", "word", "token", "tag", "predicted", "score"])?;
        for (at, row) in rows_of(split).iter().enumerate() {
            let said = self.said(predictions, at, &row.pieces);
            for (word, said) in said.iter().enumerate() {
                let (predicted, score) = match said {
                    Some((tag, score)) => (self.name(*tag), score.to_string()),
                    None => ("", String::new()),
                };
                let (number, place) = (split.numbers[at].to_string(), word.to_string());
                let tag = self.name(row.tags[word]);
                csv.write_record([&number, &place, &row.words[word], tag, predicted, &score])?;
            }
        }
        Ok(String::from_utf8(csv.into_inner()?)?)
    }

    /// Where the head is a tagger of exactly these tags, it is kept, matched by name.
    fn kept_head(&self, config: &Value) -> Option<Vec<i64>> {
        let class = config["architectures"][0].as_str()?;
        if !class.ends_with("ForTokenClassification") {
            return None;
        }
        let names = config["id2label"].as_object()?;
        if names.len() != self.labels.len() {
            return None;
        }
        let number = |label| names.iter().find(|(_, name)| name.as_str() == Some(label))?.0.parse().ok();
        self.labels.iter().map(|label| number(label.as_str())).collect()
    }

    fn tuned_config(&self, base: &Value) -> Result<Value> {
        let class = match base["model_type"].as_str().unwrap_or_default() {
            "bert" => "BertForTokenClassification",
            "roberta" => "RobertaForTokenClassification",
            "xlm-roberta" => "XLMRobertaForTokenClassification",
            "distilbert" => "DistilBertForTokenClassification",
            "llama" => "LlamaForTokenClassification",
            "mistral" => "MistralForTokenClassification",
            "qwen2" => "Qwen2ForTokenClassification",
            "qwen3" => "Qwen3ForTokenClassification",
            "smollm3" => "SmolLM3ForTokenClassification",
            "phi3" => "Phi3ForTokenClassification",
            "gemma2" => "Gemma2ForTokenClassification",
            "gpt2" => "GPT2ForTokenClassification",
            "gpt_neox" => "GPTNeoXForTokenClassification",
            other => {
                let message = format!("transformers has no tagger of the family {other}.");
                return Err(Failure::user("unsupported_model", message).at("model").into());
            }
        };
        let mut config: Map<String, Value> = base.as_object().cloned().unwrap_or_default();
        let ids: Map<String, Value> =
            self.labels.iter().enumerate().map(|(id, name)| (id.to_string(), json!(name))).collect();
        let names: Map<String, Value> =
            self.labels.iter().enumerate().map(|(id, name)| (name.clone(), json!(id))).collect();
        config.insert("architectures".into(), json!([class]));
        config.insert("id2label".into(), ids.into());
        config.insert("label2id".into(), names.into());
        for gone in ["problem_type", "num_labels", "_num_labels"] {
            config.shift_remove(gone);
        }
        Ok(config.into())
    }

    /// The tokenizer is used as it was in training: where a blank is part of a token, with one before each word.
    fn files(&self, base: &std::path::Path, config: &Value) -> Vec<(String, Value)> {
        const NAME: &str = "tokenizer_config.json";
        if !matches!(config["model_type"].as_str(), Some("roberta" | "gpt2")) {
            return Vec::new();
        }
        let text = std::fs::read(base.join(NAME)).unwrap_or_default();
        let mut settings: Map<String, Value> = serde_json::from_slice(&text).unwrap_or_default();
        settings.insert("add_prefix_space".to_owned(), json!(true));
        vec![(NAME.to_owned(), settings.into())]
    }

    fn peft_task(&self) -> &'static str {
        "TOKEN_CLS"
    }

    fn usage(&self, adapter: bool) -> &'static str {
        if adapter { USE_OF_ADAPTER } else { USE }
    }
}

const USE: &str = "```python\nfrom transformers import pipeline\n\ntag = pipeline(\"token-classification\", \
                   model=\"path/to/this/folder\", aggregation_strategy=\"first\")\nprint(tag(\"…\"))\n```\n";

const USE_OF_ADAPTER: &str = "This is an adapter; the model that it was trained on is in `base/`.\n\n```python\nfrom peft \
                              import PeftModel\nfrom transformers import AutoConfig, \
                              AutoModelForTokenClassification, AutoTokenizer, pipeline\n\nfolder = \
                              \"path/to/this/folder\"\nbase = AutoModelForTokenClassification.from_pretrained(f\"{folder}/base\", \
                              config=AutoConfig.from_pretrained(folder), ignore_mismatched_sizes=True)\nmodel = PeftModel.from_pretrained(base, \
                              folder).merge_and_unload()\ntag = pipeline(\"token-classification\", model=model, \
                              tokenizer=AutoTokenizer.from_pretrained(folder), aggregation_strategy=\"first\")\nprint(tag(\"…\"))\n```\n";

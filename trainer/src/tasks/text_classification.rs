//! Text classification: one label, several labels or a number for each text or pair of texts.
//!
//! Losses are those of transformers' `…ForSequenceClassification`: cross-entropy, binary cross-entropy on each label,
//! mean squared error.

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};
use store::spec::{ClassWeights, ProblemType, Training};
use tch::{Device, Kind, Reduction, Tensor};

use super::{Given, Objective, Predictions, Targets};
use crate::data::Split;
use crate::failure::Failure;
use crate::metrics::examples::{Answer, Example, pick};
use crate::metrics::{self, Metrics, MultiLabel, Regression, SingleLabel};
use crate::models::Head;
use crate::tensors::floats;

impl Targets {
    /// Those of some rows, as the loss takes them.
    fn tensor(&self, rows: &[usize], labels: usize, device: Device) -> Tensor {
        let tensor = match self {
            Targets::Classes(ids) => {
                Tensor::from_slice(&rows.iter().map(|&row| ids[row] as i64).collect::<Vec<_>>())
            }
            Targets::Flags(flags) => {
                let values = rows.iter().flat_map(|&row| &flags[row * labels..(row + 1) * labels]);
                let values: Vec<f32> = values.map(|&flag| f32::from(u8::from(flag))).collect();
                Tensor::from_slice(&values).view([rows.len() as i64, labels as i64])
            }
            Targets::Numbers(numbers) => {
                Tensor::from_slice(&rows.iter().map(|&row| numbers[row] as f32).collect::<Vec<_>>())
            }
            Targets::Tokens
            | Targets::Answers(_)
            | Targets::Nearness(_)
            | Targets::Spans(_)
            | Targets::Tags(_) => {
                unreachable!("rows of a classifier have labels")
            }
        };
        tensor.to_device(device)
    }
}

/// Labels and loss.
pub struct TextClassification {
    /// What a label is.
    pub problem: ProblemType,
    /// Names by id; one made-up name for a regression.
    pub labels: Vec<String>,
    /// Weight of each class, `[labels]`.
    weights: Option<Tensor>,
    weight_of: Vec<f64>,
    smoothing: f64,
    /// What fills rows up in transformers, which finds a decoder's last token by it.
    padding: Option<u32>,
}

impl TextClassification {
    /// The loss that the settings describe; class weights are counted from the training rows where they are balanced.
    pub fn new(
        problem: ProblemType,
        labels: Vec<String>,
        training: &Training,
        train: &Targets,
        device: Device,
    ) -> Result<Self> {
        let weight_of = match &training.class_weights {
            Some(weights) => class_weights(weights, &labels, train)?,
            None => vec![1.0; labels.len()],
        };
        let weights = training.class_weights.as_ref().map(|_| {
            let values: Vec<f32> = weight_of.iter().map(|&weight| weight as f32).collect();
            Tensor::from_slice(&values).to_device(device)
        });
        Ok(TextClassification {
            problem,
            labels,
            weights,
            weight_of,
            smoothing: training.label_smoothing,
            padding: None,
        })
    }

    /// Notes the padding token, which `config.json` has to name where it does not.
    pub fn padded_by(self, padding: Option<u32>) -> Self {
        TextClassification { padding, ..self }
    }

    /// Loss of each row, `[b]`.
    pub fn row_losses(&self, logits: &Tensor, targets: &Targets, rows: &[usize]) -> Tensor {
        let target = targets.tensor(rows, self.labels.len(), logits.device());
        match self.problem {
            ProblemType::SingleLabel => logits.cross_entropy_loss(
                &target,
                self.weights.as_ref(),
                Reduction::None,
                -100,
                self.smoothing,
            ),
            ProblemType::MultiLabel => logits
                .binary_cross_entropy_with_logits(&target, None::<&Tensor>, None::<&Tensor>, Reduction::None)
                .mean_dim(1, false, Kind::Float),
            ProblemType::Regression => (logits.squeeze_dim(1) - target).square(),
        }
    }

    /// What the summed loss of these rows is divided by: their number, or the weights of their classes.
    pub fn weight_of_rows(&self, targets: &Targets, rows: &[usize]) -> f64 {
        match targets {
            Targets::Classes(ids) => rows.iter().map(|&row| self.weight_of[ids[row]]).sum(),
            _ => rows.len() as f64,
        }
    }

    /// The answer that a row of logits gives.
    pub fn answer(&self, logits: &[f32]) -> Scored {
        scored(self.problem, &self.labels, logits)
    }

    fn gold(&self, targets: &Targets, row: usize) -> Answer {
        match targets {
            Targets::Classes(ids) => Answer::Label(self.labels[ids[row]].clone()),
            Targets::Flags(flags) => {
                let own = &flags[row * self.labels.len()..][..self.labels.len()];
                let names = self.labels.iter().zip(own).filter(|(_, flag)| **flag);
                Answer::Labels(names.map(|(name, _)| name.clone()).collect())
            }
            Targets::Numbers(numbers) => Answer::Number(numbers[row]),
            Targets::Tokens
            | Targets::Answers(_)
            | Targets::Nearness(_)
            | Targets::Spans(_)
            | Targets::Tags(_) => {
                unreachable!("rows of a classifier have labels")
            }
        }
    }

    fn logits_of<'a>(&self, predictions: &'a Predictions, row: usize) -> &'a [f32] {
        &predictions.outputs[row * self.labels.len()..][..self.labels.len()]
    }
}

impl Objective for TextClassification {
    fn head(&self) -> Head {
        Head::Labels(self.labels.len() as i64)
    }

    fn labels(&self) -> &[String] {
        &self.labels
    }

    fn weight(&self, split: &Split, rows: &[usize]) -> f64 {
        self.weight_of_rows(&split.targets, rows)
    }

    fn loss(&self, of: &Given, by: f64) -> Tensor {
        self.row_losses(of.top, &of.split.targets, of.rows).sum(Kind::Float) * by
    }

    fn outputs(&self) -> usize {
        self.labels.len()
    }

    fn look(&self, of: &Given) -> Result<(Vec<f32>, Vec<f32>)> {
        let losses = self.row_losses(of.top, &of.split.targets, of.rows);
        Ok((floats(of.top)?, floats(&losses)?))
    }

    fn metrics(&self, split: &Split, predictions: &Predictions) -> Result<Metrics> {
        let targets = &split.targets;
        let rows: Vec<usize> = (0..predictions.losses.len()).collect();
        let sum: f64 = predictions.losses.iter().sum();
        let loss = Some(sum / self.weight_of_rows(targets, &rows));
        let (labels, logits) = (&self.labels, &predictions.outputs);
        Ok(match targets {
            Targets::Classes(gold) => SingleLabel {
                labels,
                gold,
                predicted: &metrics::argmax_rows(logits, labels.len()),
                probabilities: &metrics::softmax_rows(logits, labels.len()),
                loss,
            }
            .metrics()?,
            Targets::Flags(gold) => MultiLabel {
                labels,
                gold,
                predicted: &metrics::above_half(logits),
                probabilities: &metrics::sigmoid(logits),
                loss,
            }
            .metrics()?,
            Targets::Numbers(gold) => {
                let predicted: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
                Regression { gold, predicted: &predicted, loss }.metrics()?
            }
            Targets::Tokens
            | Targets::Answers(_)
            | Targets::Nearness(_)
            | Targets::Spans(_)
            | Targets::Tags(_) => {
                unreachable!("rows of a classifier have labels")
            }
        })
    }

    /// The best, worst and some random predictions.
    fn examples(&self, split: &Split, predictions: &Predictions, seed: u64) -> Option<Value> {
        const SHOWN: usize = 5;
        let picked = pick(&predictions.losses, SHOWN, seed);
        Some(picked.shown(|row| {
            let scored = self.answer(self.logits_of(predictions, row));
            let (text, pair) = &split.texts[row];
            let number = split.numbers[row];
            let gold = self.gold(&split.targets, row);
            let loss = predictions.losses[row];
            let example = Example::new(number, text, gold, scored.answer, scored.probability, loss);
            match pair {
                Some(pair) => example.with_pair(pair),
                None => example,
            }
        }))
    }

    /// Row, label, predicted, and a score a label.
    fn predictions_csv(&self, split: &Split, predictions: &Predictions) -> Result<String> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        let mut header = vec!["row".to_string(), "label".into(), "predicted".into()];
        header.extend(self.labels.iter().map(|label| format!("score {label}")));
        csv.write_record(&header)?;
        for (at, number) in split.numbers.iter().enumerate() {
            let scored = self.answer(self.logits_of(predictions, at));
            let mut record =
                vec![number.to_string(), plain(&self.gold(&split.targets, at)), plain(&scored.answer)];
            record.extend(scored.scores.iter().map(f64::to_string));
            csv.write_record(&record)?;
        }
        Ok(String::from_utf8(csv.into_inner()?)?)
    }

    /// Where the head is a classifier of exactly these labels, it is kept, matched by name.
    fn kept_head(&self, config: &Value) -> Option<Vec<i64>> {
        let class = config["architectures"][0].as_str()?;
        if !class.ends_with("ForSequenceClassification") {
            return None;
        }
        let stated = config.get("problem_type").and_then(Value::as_str);
        let stated = stated.map(|name| serde_json::from_value::<ProblemType>(name.into()).ok());
        if stated.is_some_and(|stated| stated != Some(self.problem)) {
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
            "bert" => "BertForSequenceClassification",
            "roberta" => "RobertaForSequenceClassification",
            "xlm-roberta" => "XLMRobertaForSequenceClassification",
            "distilbert" => "DistilBertForSequenceClassification",
            "llama" => "LlamaForSequenceClassification",
            "mistral" => "MistralForSequenceClassification",
            "qwen2" => "Qwen2ForSequenceClassification",
            "qwen3" => "Qwen3ForSequenceClassification",
            "smollm3" => "SmolLM3ForSequenceClassification",
            "phi3" => "Phi3ForSequenceClassification",
            "gemma2" => "Gemma2ForSequenceClassification",
            "gemma3_text" => "Gemma3TextForSequenceClassification",
            "gpt2" => "GPT2ForSequenceClassification",
            "gpt_neox" => "GPTNeoXForSequenceClassification",
            other => {
                return Err(Failure::internal("internal_error", format!("no class name for {other}")).into());
            }
        };
        let mut config: Map<String, Value> = base.as_object().cloned().unwrap_or_default();
        let ids = |(id, name): (usize, &String)| (id.to_string(), json!(name));
        let names = |(id, name): (usize, &String)| (name.clone(), json!(id));
        config.insert("architectures".into(), json!([class]));
        config.insert("problem_type".into(), serde_json::to_value(self.problem)?);
        config
            .insert("id2label".into(), self.labels.iter().enumerate().map(ids).collect::<Map<_, _>>().into());
        config.insert(
            "label2id".into(),
            self.labels.iter().enumerate().map(names).collect::<Map<_, _>>().into(),
        );
        let unnamed = config.get("pad_token_id").is_none_or(Value::is_null);
        if let Some(padding) = self.padding.filter(|_| unnamed) {
            config.insert("pad_token_id".into(), json!(padding));
        }
        for gone in ["num_labels", "_num_labels"] {
            config.shift_remove(gone);
        }
        Ok(config.into())
    }

    fn peft_task(&self) -> &'static str {
        "SEQ_CLS"
    }

    fn usage(&self, adapter: bool) -> &'static str {
        if adapter { USE_OF_ADAPTER } else { USE }
    }
}

const USE: &str = "```python\nfrom transformers import pipeline\n\nclassify = pipeline(\"text-classification\", \
                   model=\"path/to/this/folder\")\nprint(classify(\"…\"))\n```\n";

const USE_OF_ADAPTER: &str = "This is an adapter; the model that it was trained on is in `base/`.\n\n```python\nfrom peft \
                              import PeftModel\nfrom transformers import AutoConfig, \
                              AutoModelForSequenceClassification, AutoTokenizer, pipeline\n\nfolder = \
                              \"path/to/this/folder\"\nbase = AutoModelForSequenceClassification.from_pretrained(f\"{folder}/base\", \
                              config=AutoConfig.from_pretrained(folder), ignore_mismatched_sizes=True)\nmodel = PeftModel.from_pretrained(base, \
                              folder).merge_and_unload()\nclassify = pipeline(\"text-classification\", model=model, \
                              tokenizer=AutoTokenizer.from_pretrained(folder))\nprint(classify(\"…\"))\n```\n";

/// An answer with its scores.
pub struct Scored {
    /// The label, the labels or the number.
    pub answer: Answer,
    /// Probability of the one label; `None` where there is no single one.
    pub probability: Option<f64>,
    /// Softmax, sigmoid or the number itself, one an output.
    pub scores: Vec<f64>,
}

/// Reads a row of logits.
pub fn scored(problem: ProblemType, labels: &[String], logits: &[f32]) -> Scored {
    match problem {
        ProblemType::SingleLabel => {
            let scores = metrics::softmax_rows(logits, labels.len());
            let id = metrics::argmax_rows(logits, labels.len())[0];
            Scored { answer: Answer::Label(labels[id].clone()), probability: Some(scores[id]), scores }
        }
        ProblemType::MultiLabel => {
            let flags = metrics::above_half(logits);
            let names = labels.iter().zip(flags).filter(|(_, flag)| *flag).map(|(name, _)| name.clone());
            Scored {
                answer: Answer::Labels(names.collect()),
                probability: None,
                scores: metrics::sigmoid(logits),
            }
        }
        ProblemType::Regression => {
            let number = f64::from(logits[0]);
            Scored { answer: Answer::Number(number), probability: None, scores: vec![number] }
        }
    }
}

fn plain(answer: &Answer) -> String {
    match answer {
        Answer::Label(label) => label.clone(),
        Answer::Labels(labels) => labels.join("|"),
        Answer::Number(number) => number.to_string(),
    }
}

/// The weight of each class.
fn class_weights(weights: &ClassWeights, labels: &[String], train: &Targets) -> Result<Vec<f64>> {
    let Targets::Classes(ids) = train else {
        return Err(Failure::user(
            "invalid_class_weights",
            "class_weights are for rows with exactly one label; leave them out for several labels or numbers.",
        )
        .at("class_weights")
        .into());
    };
    match weights {
        ClassWeights::Named(_) => {
            let mut counts = vec![0_usize; labels.len()];
            ids.iter().for_each(|&id| counts[id] += 1);
            let share = ids.len() as f64 / labels.len() as f64;
            Ok(counts.iter().map(|&count| share / count.max(1) as f64).collect())
        }
        ClassWeights::ByName(by_name) => {
            let unknown: Vec<_> = by_name.keys().filter(|name| !labels.contains(name)).cloned().collect();
            ensure!(
                unknown.is_empty(),
                Failure::user(
                    "invalid_class_weights",
                    format!(
                        "class_weights: no class {}; the classes are {}.",
                        unknown.join(", "),
                        labels.join(", ")
                    ),
                )
                .at("class_weights")
            );
            Ok(labels.iter().map(|label| by_name.get(label).copied().unwrap_or(1.0)).collect())
        }
    }
}

//! Text generation: each token that counts is foretold by those before it in its row.
//!
//! The loss is that of transformers' `…ForCausalLM`: the cross-entropy of the next token. Which tokens count is a matter of
//! the data (`formats::chat`): what the assistant says, or all.

use std::cell::RefCell;

use anyhow::Result;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::{Given, Objective, Predictions};
use crate::data::Split;
use crate::metrics::{LanguageModel, Metrics};
use crate::models::Head;
use crate::tensors::floats;

/// Numbers of a row: tokens that count, and those of them that were right.
const OUTPUTS: usize = 2;

/// The next token.
#[derive(Default)]
pub struct TextGeneration {
    /// Tokens that were foretold in the passes of the step that is at work.
    right: RefCell<Option<Tensor>>,
}

impl TextGeneration {
    /// The losses of a batch, each times `by` in the total.
    pub(super) fn losses(of: &Given, by: f64) -> native::Losses {
        let size = of.batch.counted.targets.size();
        Self::weighted(of, &Tensor::full(size, by, (Kind::Float, of.top.device())))
    }

    /// The losses of a batch, each times its weight in the total.
    pub(super) fn weighted(of: &Given, weights: &Tensor) -> native::Losses {
        let counted = &of.batch.counted;
        let vocabulary = of.model.vocabulary().expect("a language model has a vocabulary");
        // Only where a token counts are the states multiplied by the whole vocabulary.
        let states = of.top.index_select(0, &counted.places); // [m, d]
        vocabulary.losses(&states, &counted.targets, weights)
    }
}

/// Of answers as wholes: what rules for preferences look at.
impl TextGeneration {
    /// The logarithm of the probability of each sequence's counted tokens.
    pub(super) fn log_probabilities(of: &Given) -> Result<Vec<f64>> {
        let each = tch::no_grad(|| Self::losses(of, 1.0).each);
        let (each, mut at) = (floats(&each)?, 0);
        let sum = |&count: &usize| {
            at += count;
            -each[at - count..at].iter().map(|&loss| f64::from(loss)).sum::<f64>()
        };
        Ok(of.batch.counted.of_row.iter().map(sum).collect())
    }

    /// A loss with this value, which grows by a sequence's slope with the logarithm of its probability.
    pub(super) fn steered(of: &Given, value: f64, slopes: &[f64]) -> Tensor {
        let counted = slopes.iter().zip(&of.batch.counted.of_row);
        // A token's loss is what its log-probability is not.
        let weights: Vec<f32> =
            counted.flat_map(|(slope, &count)| std::iter::repeat_n(-slope as f32, count)).collect();
        let weights = Tensor::from_slice(&weights).to_device(of.top.device());
        let total = Self::weighted(of, &weights).total;
        // The gradient is that of the weighted sum, the value that of the rule.
        let value = Tensor::from(value).to_kind(Kind::Float).to_device(total.device());
        &total + (value - &total).detach()
    }
}

impl Objective for TextGeneration {
    fn head(&self) -> Head {
        Head::Tokens
    }

    fn weight(&self, split: &Split, rows: &[usize]) -> f64 {
        rows.iter().map(|&row| split.row(row).counted() as f64).sum::<f64>().max(1.0)
    }

    fn loss(&self, of: &Given, by: f64) -> Tensor {
        let losses = Self::losses(of, by);
        // A process that computes for the exchange alone counts for nothing.
        if by > 0.0 {
            let right = losses.right.sum(Kind::Float);
            let before = self.right.take();
            self.right.replace(Some(before.map_or_else(|| right.shallow_clone(), |before| before + &right)));
        }
        losses.total
    }

    fn right(&self) -> Option<Tensor> {
        Some(self.right.take().unwrap_or_else(|| Tensor::zeros([], (Kind::Float, Device::Cpu))))
    }

    fn outputs(&self) -> usize {
        OUTPUTS
    }

    fn look(&self, of: &Given) -> Result<(Vec<f32>, Vec<f32>)> {
        let losses = Self::losses(of, 1.0);
        let (each, right) = (floats(&losses.each)?, floats(&losses.right)?);
        let (mut outputs, mut sums, mut at) = (Vec::new(), Vec::new(), 0);
        for &count in &of.batch.counted.of_row {
            let span = at..at + count;
            outputs.extend([count as f32, right[span.clone()].iter().sum()]);
            sums.push(each[span].iter().map(|&loss| f64::from(loss)).sum::<f64>() as f32);
            at += count;
        }
        Ok((outputs, sums))
    }

    fn metrics(&self, _split: &Split, predictions: &Predictions) -> Result<Metrics> {
        let sum = |which: usize| {
            predictions.outputs.iter().skip(which).step_by(OUTPUTS).map(|&number| f64::from(number)).sum()
        };
        let loss = predictions.losses.iter().sum();
        Ok(LanguageModel { loss, tokens: sum(0), right: sum(1) }.metrics())
    }

    /// Row, tokens that count, their mean loss, and the share of them that was right.
    fn predictions_csv(&self, split: &Split, predictions: &Predictions) -> Result<String> {
        let mut csv = csv::Writer::from_writer(Vec::new());
        csv.write_record(["row", "tokens", "loss", "mean_token_accuracy"])?;
        for (at, number) in split.numbers.iter().enumerate() {
            let tokens = f64::from(predictions.outputs[at * OUTPUTS]);
            let right = f64::from(predictions.outputs[at * OUTPUTS + 1]);
            let mean = |sum: f64| if tokens > 0.0 { (sum / tokens).to_string() } else { String::new() };
            csv.write_record([
                number.to_string(),
                tokens.to_string(),
                mean(predictions.losses[at]),
                mean(right),
            ])?;
        }
        Ok(String::from_utf8(csv.into_inner()?)?)
    }

    fn tuned_config(&self, base: &Value) -> Result<Value> {
        let mut config = base.clone();
        let class = match base["model_type"].as_str().unwrap_or_default() {
            "gpt2" => "GPT2LMHeadModel",
            "gpt_neox" => "GPTNeoXForCausalLM",
            "llama" => "LlamaForCausalLM",
            "mistral" => "MistralForCausalLM",
            "qwen2" => "Qwen2ForCausalLM",
            "qwen3" => "Qwen3ForCausalLM",
            "smollm3" => "SmolLM3ForCausalLM",
            "phi3" => "Phi3ForCausalLM",
            "gemma2" => "Gemma2ForCausalLM",
            "gemma3_text" => "Gemma3ForCausalLM",
            other => anyhow::bail!("no class name for {other}"),
        };
        config["architectures"] = json!([class]);
        Ok(config)
    }

    fn peft_task(&self) -> &'static str {
        "CAUSAL_LM"
    }

    fn usage(&self, adapter: bool) -> &'static str {
        if adapter { USE_OF_ADAPTER } else { USE }
    }
}

const USE: &str = "```python\nfrom transformers import pipeline\n\ngenerate = pipeline(\"text-generation\", \
                   model=\"path/to/this/folder\")\nprint(generate(\"…\", max_new_tokens=64))\n```\n";

const USE_OF_ADAPTER: &str = "This is an adapter; the model that it was trained on is in `base/`.\n\n```python\nfrom peft \
                              import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer, \
                              pipeline\n\nfolder = \"path/to/this/folder\"\nbase = \
                              AutoModelForCausalLM.from_pretrained(f\"{folder}/base\")\nmodel = \
                              PeftModel.from_pretrained(base, folder).merge_and_unload()\ngenerate = \
                              pipeline(\"text-generation\", model=model, \
                              tokenizer=AutoTokenizer.from_pretrained(folder))\nprint(generate(\"…\", \
                              max_new_tokens=64))\n```\n";

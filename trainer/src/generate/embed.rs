//! Vectors of texts, made of the states of a text's tokens as the checkpoint says (`formats::checkpoint::SentenceModel`), and
//! by mean pooling where it says nothing: those that sentence-transformers' `encode` gives.

use std::borrow::Cow;
use std::path::Path;

use anyhow::Result;
use formats::checkpoint::{Pooling, SentenceModel, Weights};
use formats::tokenizer::Tokenizer;
use tch::{Device, Tensor};

use super::Model;
use super::protocol::{Embed, Prompt};
use crate::data::{Row, collate};
use crate::failure::Failure;
use crate::models::{self, Head, TextModel};
use crate::nn::pooling::{normalized, pool};
use crate::nn::{Context, Loader};
use crate::tensors::floats;

/// Texts that go through the model at once.
const BATCH: usize = 32;

/// An encoder without a head.
pub struct Reader {
    model: Box<dyn TextModel>,
    tokenizer: Tokenizer,
    sentence: SentenceModel,
    context: usize,
    parameters: u64,
}

impl Reader {
    /// Loads the encoder of a checkpoint, with whatever head.
    ///
    /// # Errors
    /// A [`Failure`] of the user where the folder holds none.
    pub fn open(folder: &Path, device: Device) -> Result<Self> {
        let config = models::read_config(folder)?;
        let base = models::base_of(config["model_type"].as_str().unwrap_or_default())?;
        let weights = Weights::open(folder)?;
        let loader = Loader::new(&weights, base, 0, device);
        let model = models::build(&config, &loader, Head::States, Some(0.0))?;
        let params = loader.finish()?.params;
        let tokenizer = Tokenizer::load(folder)?;
        let positions = models::max_positions(&config).unwrap_or(512);
        let sentence = SentenceModel::read(folder)?;
        let stated = sentence.max_seq_length.or_else(|| tokenizer.model_max_length());
        Ok(Reader {
            model,
            context: stated.unwrap_or(positions).min(positions),
            tokenizer,
            sentence,
            parameters: params.iter().map(|(_, param)| param.numel() as u64).sum(),
        })
    }

    /// Tokens that a text may have.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Numbers of the model.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Vectors of texts.
    ///
    /// # Errors
    /// A [`Failure`] of the user for a text that is too long.
    pub fn embed(&self, texts: &[String], normalize: bool, device: Device) -> Result<Vec<Vec<f32>>> {
        let inputs = texts.iter().cloned().map(Prompt::Text).collect();
        let asked = Embed { adapter: None, inputs, normalize };
        let rows = rows_of((&self.tokenizer, &self.sentence), &asked, self.context)?;
        tch::no_grad(|| vectors(self.model.as_ref(), &rows, &self.sentence.pooling, normalize, device))
    }
}

/// Vectors and the number of their tokens.
pub(super) fn answer(
    model: &mut Model,
    asked: &Embed,
    device: Device,
) -> Result<(Vec<Vec<f32>>, usize), Failure> {
    Failure::contain(|| {
        let (voice, own);
        let (model, tokenizer, sentence, context) = match model {
            Model::Reads(reader) => {
                (reader.model.as_ref(), &reader.tokenizer, &reader.sentence, reader.context)
            }
            Model::Writes(voices) => {
                let context = voices.context();
                own = SentenceModel::read(voices.folder())?;
                voice = voices.get(asked.adapter.as_deref())?;
                (voice.model.as_ref(), voice.tokenizer.as_ref(), &own, context)
            }
        };
        let rows = rows_of((tokenizer, sentence), asked, context)?;
        let made = tch::no_grad(|| vectors(model, &rows, &sentence.pooling, asked.normalize, device))?;
        Ok((made, rows.iter().map(Vec::len).sum()))
    })
}

fn rows_of(
    (tokenizer, sentence): (&Tokenizer, &SentenceModel),
    asked: &Embed,
    context: usize,
) -> Result<Vec<Vec<u32>>> {
    let of_input = |(number, input): (usize, &Prompt)| {
        let ids = ids_of(tokenizer, sentence, input)?;
        let words = tokenizer.vocab_size();
        let wrong = |code: &str, message: String| Err(Failure::user(code, message).at("input").into());
        if ids.is_empty() {
            return wrong("empty_input", format!("Input {number} has no tokens."));
        }
        if ids.len() > context {
            let message = format!(
                "Input {number} has {} tokens, and the model takes {context}: shorten it, or cut it into parts.",
                ids.len()
            );
            return wrong("context_length_exceeded", message);
        }
        match ids.iter().find(|&&id| u64::from(id) >= words) {
            Some(id) => wrong(
                "unknown_token",
                format!("Input {number} has token {id}, the last one is {}.", words - 1),
            ),
            None => Ok(ids),
        }
    };
    asked.inputs.iter().enumerate().map(of_input).collect()
}

/// Tokens of a text, with the model's prompt before it and what the tokenizer puts around both; of a list of tokens these.
fn ids_of(tokenizer: &Tokenizer, sentence: &SentenceModel, input: &Prompt) -> Result<Vec<u32>> {
    const UNCUT: usize = 1 << 30;
    match input {
        Prompt::Ids(ids) => Ok(ids.clone()),
        Prompt::Text(text) => {
            let whole = match &sentence.prompt {
                Some(prompt) => Cow::Owned(format!("{prompt}{text}")),
                None => Cow::Borrowed(text.as_str()),
            };
            let text = if sentence.is_stated { sentence.prepared(&whole) } else { whole };
            Ok(tokenizer.encode_pairs(&[(text.as_ref(), None)], UNCUT)?.remove(0).ids)
        }
    }
}

fn vectors(
    model: &dyn TextModel,
    rows: &[Vec<u32>],
    ways: &[Pooling],
    normalize: bool,
    device: Device,
) -> Result<Vec<Vec<f32>>> {
    let mut made = Vec::with_capacity(rows.len());
    for rows in rows.chunks(BATCH) {
        let row = |ids| Row { number: 0, ids, type_ids: &[], counts: &[], answer: &[] };
        let own: Vec<Row> = rows.iter().map(|ids| row(ids.as_slice())).collect();
        let batch = collate(&own, (0, 0), device);
        let states = model.forward(&batch.inputs, &Context::evaluation(&batch.inputs.packing));
        let pooled = pool(&states, &batch.inputs.packing, ways); // [b, width]
        let pooled = if normalize { normalized(&pooled) } else { pooled };
        let numbers = floats(&Tensor::f_contiguous(&pooled)?.view(-1))?;
        made.extend(numbers.chunks(numbers.len() / rows.len()).map(<[f32]>::to_vec));
    }
    Ok(made)
}

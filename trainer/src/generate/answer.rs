//! Texts that an encoder with a decoder writes for sources, by the likeliest token or by beam search.
//!
//! The search is that of transformers' `generate` (5.24): the same candidates, scores and ends, so that what is written is the
//! same token for token. Of a source keys and values are made once, for all of its beams.

use anyhow::Result;
use formats::tokenizer::Tokenizer;
use serde_json::Value;
use store::spec::TextToText;
use tch::{Device, Kind, Tensor};

use super::beams::{Beam, Search};
use crate::data::{Row, collate};
use crate::failure::Failure;
use crate::models::{Answering, Sources, TextModel};
use crate::nn::{Context, KeyValues, Packing};
use crate::tensors::floats;

/// How answers are written; names are those of transformers' `GenerationConfig`.
#[derive(Clone, Debug, PartialEq)]
pub struct Writing {
    /// Answers that are kept beside each other while one is written; 1 takes the likeliest token each time.
    pub num_beams: usize,
    /// The power of its length that an answer's score is divided by.
    pub length_penalty: f64,
    /// Whether the search ends as soon as there are as many whole answers as beams.
    pub early_stopping: bool,
    /// So many tokens in a row are written once at most; 0 for no such limit.
    pub no_repeat_ngram_size: usize,
    /// Tokens of an answer at most, its end included.
    pub max_new_tokens: usize,
    /// What the decoder begins with.
    pub begin: u32,
    /// The first token of each answer.
    pub forced_bos: Option<u32>,
    /// The last token of an answer that is as long as may be.
    pub forced_eos: Option<u32>,
    /// Tokens that are never written.
    pub never: Vec<u32>,
    /// Tokens that end an answer.
    pub ends: Vec<u32>,
}

impl Writing {
    /// What the settings ask for, with what the checkpoint's `generation_config.json` and `config.json` say of their own.
    ///
    /// # Errors
    /// A [`Failure`] of the user where neither says what a decoder begins with, or a token is not in the vocabulary.
    pub fn new(
        (config, generation): (&Value, &Value),
        settings: &TextToText,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let field = |name: &str| {
            [generation, config].iter().find_map(|from| from.get(name).filter(|it| !it.is_null()))
        };
        let id = |name: &str| field(name).and_then(Value::as_u64).map(|id| id as u32);
        let target = settings.target_lang.as_deref().filter(|_| config["model_type"] == "mbart");
        let language = target.map(|code| tokenizer.language_id(code)).transpose()?;
        // mBART's decoder begins with the language itself, mBART-50's with an end mark and then the language.
        let of_fifty = tokenizer.class().is_some_and(|class| class.starts_with("MBart50"));
        let forced = match &settings.forced_bos_token {
            Some(token) => Some(tokenizer.token_id(token).ok_or_else(|| {
                Failure::user("unknown_token", format!("The vocabulary has no token `{token}`."))
                    .at("training.text_to_text.forced_bos_token")
            })?),
            None => language.filter(|_| of_fifty).or_else(|| id("forced_bos_token_id")),
        };
        let begin = language.filter(|_| !of_fifty).or_else(|| id("decoder_start_token_id"));
        let single = |words: &Value| match words.as_array()?.as_slice() {
            [id] => id.as_u64().map(|id| id as u32),
            _ => None,
        };
        let ends = match field("eos_token_id") {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).map(|id| id as u32).collect(),
            _ => id("eos_token_id").or_else(|| tokenizer.eos_id()).into_iter().collect(),
        };
        Ok(Writing {
            num_beams: settings.num_beams as usize,
            length_penalty: settings.length_penalty,
            early_stopping: settings.early_stopping,
            no_repeat_ngram_size: settings.no_repeat_ngram_size as usize,
            max_new_tokens: settings.target_length(),
            begin: begin.ok_or_else(|| {
                Failure::user("bad_config", "config.json: decoder_start_token_id is not given.")
            })?,
            forced_bos: forced,
            forced_eos: id("forced_eos_token_id"),
            never: field("bad_words_ids")
                .and_then(Value::as_array)
                .map_or_else(Vec::new, |words| words.iter().filter_map(single).collect()),
            ends,
        })
    }

    /// The same for a model with so many positions, if it has a limit; a place goes to what the decoder begins with.
    pub fn within(self, positions: Option<usize>) -> Self {
        let most = positions.map_or(usize::MAX, |positions| positions.saturating_sub(1).max(1));
        Writing { max_new_tokens: self.max_new_tokens.min(most), ..self }
    }

    /// Writes an answer for each source, given as token ids; without what the decoder begins with, and with its end.
    ///
    /// # Errors
    /// Where the model has no decoder that answers.
    pub fn answers(
        &self,
        model: &dyn TextModel,
        sources: &[&[u32]],
        padding: (u32, u32),
        device: Device,
    ) -> Result<Vec<Vec<u32>>> {
        let Some(answering) = model.answering() else {
            anyhow::bail!("the model has no decoder that answers")
        };
        if sources.is_empty() {
            return Ok(Vec::new());
        }
        let _guard = tch::no_grad_guard();
        let rows: Vec<Row> = sources.iter().map(|ids| Row::of(ids)).collect();
        let batch = collate(&rows, padding, device);
        let context = Context::evaluation(&batch.inputs.packing);
        let key_values = answering.read(&batch.inputs, &context);
        let lengths = batch.inputs.packing.lengths.clone();
        let mut live = Live::new(key_values, lengths, self.num_beams);
        let mut searches: Vec<Search> = sources.iter().map(|_| Search::new(self)).collect();
        while !live.sources.is_empty() {
            let logits = live.step(answering, model, &searches, device);
            let scores = self.scores(&logits, &live, &searches);
            live.go_on(self, &mut searches, &scores)?;
        }
        Ok(searches.into_iter().map(Search::best).collect())
    }

    /// The logarithms of the probabilities of next tokens, `[sequences, vocabulary]`, with those that may not come at −∞.
    fn scores(&self, logits: &Tensor, live: &Live, searches: &[Search]) -> Tensor {
        let mut scores = logits.log_softmax(-1, Kind::Float);
        let beams = live.beams(searches);
        let length = beams.first().map_or(0, |beam| beam.ids.len());
        let only = |token: u32, scores: &Tensor| {
            let none = scores.full_like(f64::NEG_INFINITY);
            _ = none.narrow(1, i64::from(token), 1).fill_(0.0);
            none
        };
        for &token in &self.never {
            _ = scores.narrow(1, i64::from(token), 1).fill_(f64::NEG_INFINITY);
        }
        if self.no_repeat_ngram_size > 0 {
            for (at, beam) in beams.iter().enumerate() {
                let banned: Vec<i64> = beam.would_repeat(self.no_repeat_ngram_size).map(i64::from).collect();
                if !banned.is_empty() {
                    let row = scores.get(at as i64);
                    let places = Tensor::from_slice(&banned).to_device(row.device());
                    _ = row.shallow_clone().index_fill_(0, &places, f64::NEG_INFINITY);
                }
            }
        }
        match (self.forced_bos, self.forced_eos) {
            (Some(token), _) if length == 1 => scores = only(token, &scores),
            (_, Some(token)) if length == self.max_new_tokens => scores = only(token, &scores),
            _ => {}
        }
        scores
    }
}

/// The sources that are still being answered.
struct Live {
    /// Which of all they are.
    sources: Vec<usize>,
    /// Tokens of each.
    lengths: Vec<i64>,
    key_values: Vec<Tensor>,
    /// What is kept of each sequence, a source's beams side by side.
    kept: Vec<KeyValues>,
    beams: usize,
}

impl Live {
    fn new(key_values: Vec<Tensor>, lengths: Vec<i64>, beams: usize) -> Self {
        let kept = (0..lengths.len() * beams).map(|_| KeyValues::new()).collect();
        Live { sources: (0..lengths.len()).collect(), lengths, key_values, kept, beams }
    }

    fn beams<'s>(&self, searches: &'s [Search]) -> Vec<&'s Beam> {
        self.sources.iter().flat_map(|&source| searches[source].running()).collect()
    }

    /// Logits of the next token of each sequence, fp32 `[sequences, vocabulary]`.
    fn step(
        &self,
        answering: &dyn Answering,
        model: &dyn TextModel,
        searches: &[Search],
        device: Device,
    ) -> Tensor {
        let last = self.beams(searches).into_iter().map(|beam| i64::from(beam.last())).collect::<Vec<_>>();
        let past: Vec<i64> = self.kept.iter().map(KeyValues::tokens).collect();
        let packing = Packing::continuing(&past, &vec![1; last.len()], device);
        let kept: Vec<&KeyValues> = self.kept.iter().collect();
        let context = Context::continuing(&packing, &kept);
        let ends = |each: i64, of: &mut dyn Iterator<Item = i64>| {
            let mut offsets = vec![0];
            offsets.extend(of.scan(0, |end, length| {
                *end += each * length;
                Some(*end)
            }));
            Tensor::from_slice(&offsets)
        };
        let sources = Sources {
            key_values: self.key_values.iter().map(Tensor::shallow_clone).collect(),
            offsets: ends(1, &mut self.lengths.iter().copied()),
            written: ends(self.beams as i64, &mut self.lengths.iter().map(|_| 1)),
        };
        let states = answering.go_on(&Tensor::from_slice(&last).to_device(device), &context, &sources);
        self.kept.iter().for_each(|kept| kept.count(1));
        model.vocabulary().expect("a decoder has a vocabulary").logits(&states)
    }

    /// Takes each source's next tokens, and leaves those that are done.
    fn go_on(&mut self, writing: &Writing, searches: &mut [Search], scores: &Tensor) -> Result<()> {
        let vocabulary = scores.size()[1];
        let wanted = writing.candidates().min(self.beams * vocabulary as usize) as i64;
        let own: Vec<f32> = self.beams(searches).into_iter().map(|beam| beam.score).collect();
        let own = Tensor::from_slice(&own).to_device(scores.device()).unsqueeze(1);
        let all = (scores + own).view([self.sources.len() as i64, -1]);
        let (best, places) = all.topk(wanted, -1, true, true);
        let (best, places) = (floats(&best)?, Vec::<i64>::try_from(places.flatten(0, -1))?);
        let mut parents = Vec::new();
        for (at, &source) in self.sources.iter().enumerate() {
            let span = at * wanted as usize..(at + 1) * wanted as usize;
            let candidates = best[span.clone()].iter().zip(&places[span]);
            let candidates = candidates
                .map(|(&score, &place)| ((place / vocabulary) as usize, (place % vocabulary) as u32, score));
            let from = searches[source].take(writing, &candidates.collect::<Vec<_>>());
            parents.extend(from.into_iter().map(|beam| at * self.beams + beam));
        }
        self.follow(&parents);
        let staying: Vec<usize> =
            (0..self.sources.len()).filter(|&at| !searches[self.sources[at]].is_done()).collect();
        if staying.len() < self.sources.len() {
            self.keep(&staying);
        }
        Ok(())
    }

    /// Each sequence goes on from another one's past, which several may share.
    fn follow(&mut self, parents: &[usize]) {
        let mut left = vec![0_usize; self.kept.len()];
        parents.iter().for_each(|&parent| left[parent] += 1);
        let mut before: Vec<Option<KeyValues>> =
            std::mem::take(&mut self.kept).into_iter().map(Some).collect();
        for &parent in parents {
            left[parent] -= 1;
            let kept = match left[parent] {
                0 => before[parent].take(),
                _ => before[parent].as_ref().map(KeyValues::copy),
            };
            self.kept.push(kept.expect("a parent is taken once it is needed no more"));
        }
    }

    /// These of the sources alone.
    fn keep(&mut self, staying: &[usize]) {
        let starts: Vec<i64> = self
            .lengths
            .iter()
            .scan(0, |at, length| {
                *at += length;
                Some(*at - length)
            })
            .collect();
        let mut kept: Vec<Option<KeyValues>> = std::mem::take(&mut self.kept).into_iter().map(Some).collect();
        self.kept = staying
            .iter()
            .flat_map(|&at| at * self.beams..(at + 1) * self.beams)
            .filter_map(|at| kept[at].take())
            .collect();
        if !staying.is_empty() {
            let part = |all: &Tensor| {
                let own: Vec<Tensor> =
                    staying.iter().map(|&at| all.narrow(0, starts[at], self.lengths[at])).collect();
                Tensor::cat(&own, 0)
            };
            self.key_values = self.key_values.iter().map(part).collect();
        }
        self.sources = staying.iter().map(|&at| self.sources[at]).collect();
        self.lengths = staying.iter().map(|&at| self.lengths[at]).collect();
    }
}

//! The choice of the next token.

use std::collections::{BTreeMap, HashMap};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// How tokens are chosen. Absent fields leave the model's distribution as it is.
///
/// What changes it is applied in the order of transformers: penalties and biases, the grammar, temperature, `top_k`, `top_p`,
/// `min_p`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the likeliest token.
    pub temperature: f64,
    /// How many of the likeliest tokens are kept; 0 for all.
    pub top_k: usize,
    /// The fewest likeliest tokens are kept that together have this probability (A. Holtzman et al., 2020).
    pub top_p: f64,
    /// Tokens are kept that have this share of the likeliest one's probability (M. Nguyen et al., 2024).
    pub min_p: f64,
    /// Positive logits of tokens that occurred are divided by it, negative ones multiplied (N. Keskar et al., 2019).
    pub repetition_penalty: f64,
    /// Taken from the logits of tokens that were written.
    pub presence_penalty: f64,
    /// Taken from them for each time.
    pub frequency_penalty: f64,
    /// Added to the logits of tokens.
    #[serde(deserialize_with = "by_id")]
    pub logit_bias: BTreeMap<u32, f64>,
}

/// Keys of JSON are texts.
fn by_id<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<u32, f64>, D::Error> {
    let written = BTreeMap::<String, f64>::deserialize(from)?;
    let id = |name: &str| {
        name.parse().map_err(|_| D::Error::custom(format!("logit_bias: `{name}` is no token id")))
    };
    written.into_iter().map(|(name, bias)| Ok((id(&name)?, bias))).collect()
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
        }
    }
}

/// A choice of tokens that goes on: what occurred counts.
#[derive(Clone, Debug)]
pub struct Sampler {
    sampling: Sampling,
    /// Whether a token occurred, and how often it was written.
    occurred: HashMap<u32, u32>,
    seed: u64,
    choice: u64,
    drawn: u64,
}

/// A token and its probability.
type Candidate = (u32, f64);

impl Sampler {
    /// Begins after a prompt. A draw is a function of the seed, of the number of the choice and of how many tokens came before.
    pub fn new(sampling: Sampling, prompt: &[u32], seed: u64, choice: u64) -> Self {
        let occurred = prompt.iter().map(|&id| (id, 0)).collect();
        Sampler { sampling, occurred, seed, choice, drawn: 0 }
    }

    /// Chooses by logits, which are changed; `allowed` tells which tokens the grammar lets follow.
    pub fn choose(&mut self, logits: &mut [f32], allowed: Option<&dyn Fn(u32) -> bool>) -> u32 {
        self.change(logits, allowed);
        let id = match self.sampling.temperature {
            0.0 => greatest(logits),
            _ => pick(&self.candidates(logits), self.next_draw()),
        };
        *self.occurred.entry(id).or_default() += 1;
        id
    }

    /// Penalties, biases and the grammar.
    fn change(&self, logits: &mut [f32], allowed: Option<&dyn Fn(u32) -> bool>) {
        let Sampling { repetition_penalty, presence_penalty, frequency_penalty, .. } = self.sampling;
        for (&id, &written) in &self.occurred {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            if repetition_penalty != 1.0 {
                let by = repetition_penalty as f32;
                *logit = if *logit < 0.0 { *logit * by } else { *logit / by };
            }
            if written > 0 {
                *logit -= (presence_penalty + frequency_penalty * f64::from(written)) as f32;
            }
        }
        for (&id, &bias) in &self.sampling.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias as f32;
            }
        }
        if let Some(allowed) = allowed {
            for (id, logit) in logits.iter_mut().enumerate() {
                if !allowed(id as u32) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    /// The tokens that may be chosen, the likeliest first.
    fn candidates(&self, logits: &[f32]) -> Vec<Candidate> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let scaled = |(id, &logit): (usize, &f32)| (id as u32, f64::from(logit) / temperature);
        let mut kept: Vec<Candidate> = logits.iter().enumerate().map(scaled).collect();
        let descending = |a: &Candidate, b: &Candidate| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if top_k > 0 && top_k < kept.len() {
            kept.select_nth_unstable_by(top_k - 1, descending);
            kept.truncate(top_k);
        }
        kept.sort_unstable_by(descending);
        let top = kept[0].1;
        kept.iter_mut().for_each(|(_, value)| *value = (*value - top).exp());
        if top_p < 1.0 {
            let all: f64 = kept.iter().map(|(_, weight)| weight).sum();
            let mut below = 0.0;
            let enough = kept.iter().take_while(|(_, weight)| {
                let more = below < top_p * all;
                below += weight;
                more
            });
            let enough = enough.count().max(1);
            kept.truncate(enough);
        }
        // The likeliest has weight 1.
        kept.retain(|(_, weight)| *weight >= min_p && *weight > 0.0);
        let all: f64 = kept.iter().map(|(_, weight)| weight).sum();
        kept.iter_mut().for_each(|(_, weight)| *weight /= all);
        kept
    }

    /// Evenly in 0 .. 1.
    fn next_draw(&mut self) -> f64 {
        let bits = native::key(self.seed, self.drawn, self.choice, 0).cast_unsigned();
        self.drawn += 1;
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The first of the greatest.
fn greatest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

fn pick(candidates: &[Candidate], draw: f64) -> u32 {
    let mut left = draw;
    for (id, probability) in candidates {
        left -= probability;
        if left < 0.0 {
            return *id;
        }
    }
    candidates.last().map_or(0, |(id, _)| *id)
}

/// Natural logarithms of the probabilities that logits stand for.
pub fn log_probabilities(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let all: f64 = logits.iter().map(|&logit| f64::from(logit - top).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit - top) - all.ln()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn kept(sampling: Sampling, logits: &[f32]) -> Vec<Candidate> {
        let mut logits = logits.to_vec();
        let sampler = Sampler::new(sampling, &[0, 3], 1, 0);
        sampler.change(&mut logits, None);
        sampler.candidates(&logits)
    }

    /// Values by `fixtures/make_sampling.py`.
    #[test]
    fn what_settings_leave_is_what_transformers_leaves() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/sampling.json");
        let fixture: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let logits: Vec<f32> = serde_json::from_value(fixture["logits"].clone()).unwrap();
        let prompt: Vec<u32> = serde_json::from_value(fixture["prompt"].clone()).unwrap();
        for case in fixture["cases"].as_array().unwrap() {
            let sampling: Sampling = serde_json::from_value(case["settings"].clone()).unwrap();
            let (sampler, mut logits) = (Sampler::new(sampling, &prompt, 1, 0), logits.clone());
            sampler.change(&mut logits, None);
            let mut found = vec![0.0; logits.len()];
            for (id, probability) in sampler.candidates(&logits) {
                found[id as usize] = probability;
            }
            for (id, right) in case["probabilities"].as_array().unwrap().iter().enumerate() {
                let right = right.as_f64().unwrap();
                let off = (found[id] - right).abs();
                assert!(off < 1e-6, "{} token {id}: {} for {right}", case["settings"], found[id]);
                // What is left out is left out.
                assert_eq!(found[id] == 0.0, right == 0.0, "{} token {id}", case["settings"]);
            }
        }
    }

    #[test]
    fn draws_have_the_probabilities_and_repeat_with_their_seed() {
        let logits = [0.0_f32, 1.0, 2.0, f32::NEG_INFINITY];
        let draw = |seed| {
            let mut sampler = Sampler::new(Sampling::default(), &[], seed, 0);
            (0..20_000).map(|_| sampler.choose(&mut logits.clone(), None)).collect::<Vec<_>>()
        };
        let (first, again, other) = (draw(1), draw(1), draw(2));
        assert_eq!(first, again);
        assert_ne!(first, other);
        for (id, right) in [(0, 0.090_03), (1, 0.244_73), (2, 0.665_24), (3, 0.0)] {
            let share = first.iter().filter(|&&drawn| drawn == id).count() as f64 / 20_000.0;
            assert!((share - right).abs() < 0.015, "{id}: {share}");
        }
    }

    #[test]
    fn a_grammar_that_leaves_one_token_gets_it() {
        let mut sampler = Sampler::new(Sampling::default(), &[], 1, 0);
        for _ in 0..50 {
            assert_eq!(sampler.choose(&mut [9.0, 9.0, -9.0, 9.0], Some(&|id| id == 2)), 2);
        }
    }

    #[test]
    fn one_token_is_left_at_least() {
        let strict = Sampling { top_p: 0.0, ..Sampling::default() };
        assert_eq!(kept(strict, &[0.0, 1.0]), [(1, 1.0)]);
    }

    #[test]
    fn penalties_of_what_was_written_grow_with_its_number() {
        let sampling = Sampling {
            temperature: 0.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(sampling, &[1], 1, 0);
        let mut next = || sampler.choose(&mut [1.0, 0.2], None);
        // 1.0, then 1.0 - 0.75, then 1.0 - 1.0 against 0.2: the prompt's token is not one that was written.
        assert_eq!([next(), next(), next()], [0, 0, 1]);
    }
}

//! Sequences of one batch laid end to end: no padding is computed, and a token sees only its own sequence.

use tch::{Device, Kind, Tensor};

/// Tokens of a batch are rounded up to a multiple of this many.
///
/// libtorch prepares a product anew for each shape it has not met; with few different shapes it soon has met them all.
/// The tokens added belong to no sequence.
const ROUNDING: usize = 16;

/// Where each sequence of a batch lies.
pub struct Packing {
    /// Int64 `[b + 1]`, on the CPU: sequence `i` is the tokens `offsets[i] .. offsets[i + 1]`.
    pub offsets: Tensor,
    /// The first token of each sequence, Int64 `[b]`.
    pub starts: Tensor,
    /// The sequence that each token belongs to, Int64 `[n]`; the last one for tokens that belong to none.
    pub sequences: Tensor,
    /// The place of each token in its sequence, Int64 `[n]`; 0 for tokens that belong to none.
    pub positions: Tensor,
    /// Tokens of each sequence in this batch.
    pub lengths: Vec<i64>,
    /// Tokens of each sequence before this batch.
    pub past: Vec<i64>,
    /// Where what a decoder reads lies, one sequence for each of these, in a model with an encoder and a decoder.
    pub answers: Option<Box<Packing>>,
    tokens: i64,
}

impl Packing {
    /// Sequences of these lengths, each at least 1.
    pub fn new(lengths: &[i64], device: Device) -> Self {
        let used = lengths.iter().sum::<i64>() as usize;
        Self::laid_out(&vec![0; lengths.len()], lengths, used.next_multiple_of(ROUNDING), device)
    }

    /// Sources of these lengths, and what a decoder reads of the answer to each.
    pub fn answered(lengths: &[i64], answers: &[i64], device: Device) -> Self {
        let answers = Some(Box::new(Packing::new(answers, device)));
        Packing { answers, ..Packing::new(lengths, device) }
    }

    /// The next tokens of sequences, of which `past` are known already. There are no others: a batch of a model that writes has
    /// few tokens, and each one more would be work.
    pub fn continuing(past: &[i64], lengths: &[i64], device: Device) -> Self {
        Self::laid_out(past, lengths, lengths.iter().sum::<i64>() as usize, device)
    }

    /// Sequences end to end, filled up to so many tokens.
    fn laid_out(past: &[i64], lengths: &[i64], tokens: usize, device: Device) -> Self {
        let mut offsets = vec![0];
        let (mut sequences, mut positions) = (Vec::new(), Vec::new());
        for (sequence, (&past, &length)) in past.iter().zip(lengths).enumerate() {
            offsets.push(offsets[sequence] + length);
            sequences.extend(std::iter::repeat_n(sequence as i64, length as usize));
            positions.extend(past..past + length);
        }
        sequences.resize(tokens, lengths.len() as i64 - 1);
        positions.resize(tokens, 0);
        let offsets = Tensor::from_slice(&offsets);
        Packing {
            starts: offsets.narrow(0, 0, lengths.len() as i64).to_device(device),
            offsets,
            sequences: Tensor::from_slice(&sequences).to_device(device),
            positions: Tensor::from_slice(&positions).to_device(device),
            past: past.to_vec(),
            lengths: lengths.to_vec(),
            answers: None,
            tokens: tokens as i64,
        }
    }

    /// Rows of a packed tensor, those that belong to no sequence included.
    pub fn tokens(&self) -> i64 {
        self.tokens
    }

    /// The same with those of the answers.
    pub fn rows(&self) -> i64 {
        self.tokens + self.answers.as_ref().map_or(0, |answers| answers.tokens)
    }

    /// Tokens of the longest sequence, those before this batch included.
    pub fn longest(&self) -> i64 {
        self.past.iter().zip(&self.lengths).map(|(past, length)| past + length).max().unwrap_or(0)
    }

    /// Each sequence's first token alone.
    pub fn firsts(&self) -> Packing {
        let (count, device) = (self.starts.size()[0], self.starts.device());
        let places = Tensor::arange(count, (Kind::Int64, device));
        Packing {
            offsets: Tensor::arange(count + 1, (Kind::Int64, Device::Cpu)),
            starts: places.shallow_clone(),
            positions: places.zeros_like(),
            sequences: places,
            past: vec![0; count as usize],
            lengths: vec![1; count as usize],
            answers: None,
            tokens: count,
        }
    }

    /// The states of each sequence's last token: `[n, d]` → `[b, d]`.
    pub fn last(&self, states: &Tensor) -> Tensor {
        let ends = self.offsets.narrow(0, 1, self.lengths.len() as i64) - 1;
        states.index_select(0, &ends.to_device(states.device()))
    }

    /// The states of each sequence's first token: `[n, d]` → `[b, d]`.
    pub fn first(&self, states: &Tensor) -> Tensor {
        states.index_select(0, &self.starts)
    }
}

//! Rows end to end, as tensors.

use tch::{Device, Tensor};

use crate::models::Inputs;
use crate::nn::Packing;

/// A tokenized row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The row's number in its file, from 0: what dropout is drawn by, and how predictions name it.
    pub number: u64,
    /// Token ids.
    pub ids: Vec<u32>,
    /// Which text of a pair each token belongs to.
    pub type_ids: Vec<u32>,
}

/// Some rows as tensors.
pub struct Batch {
    /// What the model takes.
    pub inputs: Inputs,
    /// Row numbers, Int64 `[b]`.
    pub examples: Tensor,
    /// Tokens of the rows.
    pub tokens: u64,
}

impl Batch {
    /// Tokens that the model computes: those of the rows and the few that round them up.
    pub fn computed(&self) -> u64 {
        self.inputs.packing.tokens() as u64
    }
}

/// Lays rows end to end, and fills up with `padding` for token ids and for type ids.
pub fn collate(rows: &[&Row], (pad_id, pad_type_id): (u32, u32), device: Device) -> Batch {
    let lengths: Vec<i64> = rows.iter().map(|row| row.ids.len() as i64).collect();
    let packing = Packing::new(&lengths, device);
    let joined = |of: fn(&Row) -> &[u32], padding: u32| {
        let values = rows.iter().flat_map(|row| of(row)).copied().map(i64::from);
        let filled = values.chain(std::iter::repeat(i64::from(padding)));
        Tensor::from_slice(&filled.take(packing.tokens() as usize).collect::<Vec<_>>()).to_device(device)
    };
    let numbers: Vec<i64> = rows.iter().map(|row| row.number as i64).collect();
    Batch {
        inputs: Inputs {
            input_ids: joined(|row| &row.ids, pad_id),
            token_type_ids: joined(|row| &row.type_ids, pad_type_id),
            packing,
        },
        examples: Tensor::from_slice(&numbers).to_device(device),
        tokens: lengths.iter().sum::<i64>() as u64,
    }
}

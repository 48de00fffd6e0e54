//! Rows end to end, as tensors.

use tch::{Device, Tensor};

use crate::models::Inputs;
use crate::nn::Packing;

/// A tokenized row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The row's number in its file, from 0: what dropout is drawn by, and how predictions name it.
    pub number: u64,
    /// Token ids.
    pub ids: &'a [u32],
    /// Which text of a pair each token belongs to.
    pub type_ids: &'a [u8],
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
pub fn collate(rows: &[Row], (pad_id, pad_type_id): (u32, u32), device: Device) -> Batch {
    let lengths: Vec<i64> = rows.iter().map(|row| row.ids.len() as i64).collect();
    let packing = Packing::new(&lengths, device);
    let filled = |mut values: Vec<i64>, padding: u32| {
        values.resize(packing.tokens() as usize, i64::from(padding));
        Tensor::from_slice(&values).to_device(device)
    };
    let ids = rows.iter().flat_map(|row| row.ids).map(|&id| i64::from(id)).collect();
    let type_ids = rows.iter().flat_map(|row| row.type_ids).map(|&id| i64::from(id)).collect();
    let numbers: Vec<i64> = rows.iter().map(|row| row.number as i64).collect();
    Batch {
        inputs: Inputs {
            input_ids: filled(ids, pad_id),
            token_type_ids: filled(type_ids, pad_type_id),
            packing,
        },
        examples: Tensor::from_slice(&numbers).to_device(device),
        tokens: lengths.iter().sum::<i64>() as u64,
    }
}

//! Rows of one length, as tensors.

use tch::{Device, Tensor};

use crate::models::Inputs;

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

/// Some rows as tensors, padded on the right to the longest.
pub struct Batch {
    /// What the model takes.
    pub inputs: Inputs,
    /// Row numbers, Int64 `[b]`.
    pub examples: Tensor,
    /// Tokens that are not padding.
    pub tokens: u64,
}

/// Pads rows to their longest, with `padding` for token ids and for type ids, and stacks them.
pub fn collate(rows: &[&Row], (pad_id, pad_type_id): (u32, u32), device: Device) -> Batch {
    let length = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
    let padded = |of: fn(&Row) -> &[u32], padding: u32| {
        let values = rows.iter().flat_map(|row| {
            let own = of(row);
            own.iter().copied().chain(std::iter::repeat_n(padding, length - own.len())).map(i64::from)
        });
        stack(values.collect(), rows.len(), length, device)
    };
    let mask = rows.iter().flat_map(|row| (0..length).map(|at| i64::from(at < row.ids.len())));
    let numbers: Vec<i64> = rows.iter().map(|row| row.number as i64).collect();
    Batch {
        inputs: Inputs {
            input_ids: padded(|row| &row.ids, pad_id),
            token_type_ids: padded(|row| &row.type_ids, pad_type_id),
            attention_mask: stack(mask.collect(), rows.len(), length, device),
        },
        examples: Tensor::from_slice(&numbers).to_device(device),
        tokens: rows.iter().map(|row| row.ids.len() as u64).sum(),
    }
}

fn stack(values: Vec<i64>, rows: usize, length: usize, device: Device) -> Tensor {
    Tensor::from_slice(&values).view([rows as i64, length as i64]).to_device(device)
}

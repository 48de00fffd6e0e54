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
    /// Which text of a pair each token belongs to; empty where there is none.
    pub type_ids: &'a [u8],
    /// 1 for each token that counts in a language model's loss; empty where labels do.
    pub counts: &'a [u8],
    /// What a decoder is to say of the tokens, after the one that it begins with; empty where there is no decoder. All of it
    /// counts in the loss but the first.
    pub answer: &'a [u32],
}

impl<'a> Row<'a> {
    /// Tokens alone.
    pub fn of(ids: &'a [u32]) -> Self {
        Row { number: 0, ids, type_ids: &[], counts: &[], answer: &[] }
    }

    /// How many of its tokens count. Nothing foretells the first.
    pub fn counted(&self) -> usize {
        if !self.answer.is_empty() {
            return self.answer.len() - 1;
        }
        self.counts.iter().skip(1).filter(|&&counts| counts > 0).count()
    }
}

/// The tokens of a batch that count in the loss.
pub struct Counted {
    /// Where each is foretold: one token before it, Int64 `[m]`; among the rows of the answers where there are such.
    pub places: Tensor,
    /// What it is, Int64 `[m]`.
    pub targets: Tensor,
    /// How many of them each row has.
    pub of_row: Vec<usize>,
}

impl Counted {
    fn of(rows: &[Row], device: Device) -> Self {
        let (mut places, mut targets, mut start) = (Vec::new(), Vec::new(), 0);
        for row in rows {
            if !row.answer.is_empty() {
                places.extend((start..start + row.answer.len() - 1).map(|place| place as i64));
                targets.extend(row.answer[1..].iter().map(|&id| i64::from(id)));
                start += row.answer.len() - 1;
                continue;
            }
            let counts = row.counts.iter().enumerate().skip(1).filter(|(_, counts)| **counts > 0);
            for (at, _) in counts {
                places.push((start + at - 1) as i64);
                targets.push(i64::from(row.ids[at]));
            }
            start += row.ids.len();
        }
        let tensor = |numbers: &[i64]| Tensor::from_slice(numbers).to_device(device);
        Counted {
            places: tensor(&places),
            targets: tensor(&targets),
            of_row: rows.iter().map(Row::counted).collect(),
        }
    }
}

/// Some rows as tensors.
pub struct Batch {
    /// What the model takes.
    pub inputs: Inputs,
    /// Row numbers, Int64 `[b]`.
    pub examples: Tensor,
    /// Tokens of the rows.
    pub tokens: u64,
    /// Those that count in the loss; none where labels do.
    pub counted: Counted,
}

impl Batch {
    /// Tokens that the model computes: those of the rows and the few that round them up.
    pub fn computed(&self) -> u64 {
        self.inputs.packing.rows() as u64
    }
}

/// Lays rows end to end, and fills up with `padding` for token ids and for type ids. Answers, which all rows have or none, lie
/// apart, without the last token of each: nothing comes after it.
pub fn collate(rows: &[Row], (pad_id, pad_type_id): (u32, u32), device: Device) -> Batch {
    let lengths: Vec<i64> = rows.iter().map(|row| row.ids.len() as i64).collect();
    let read = rows.iter().map(|row| row.answer.split_last().map_or(&[][..], |(_, read)| read));
    let read: Vec<&[u32]> = read.collect();
    let answers: Vec<i64> = read.iter().map(|ids| ids.len() as i64).collect();
    let packing = match answers.iter().any(|&length| length > 0) {
        true => Packing::answered(&lengths, &answers, device),
        false => Packing::new(&lengths, device),
    };
    let padded = |mut values: Vec<i64>, tokens: i64, padding: u32| {
        values.resize(tokens as usize, i64::from(padding));
        Tensor::from_slice(&values).to_device(device)
    };
    let filled = |values, padding| padded(values, packing.tokens(), padding);
    let answer_ids = packing.answers.as_ref().map(|answers| {
        let ids = read.concat().into_iter().map(i64::from).collect();
        padded(ids, answers.tokens(), pad_id)
    });
    let ids = rows.iter().flat_map(|row| row.ids).map(|&id| i64::from(id)).collect();
    let of_row = |row: &Row| match row.type_ids {
        [] => vec![0; row.ids.len()],
        type_ids => type_ids.iter().map(|&id| i64::from(id)).collect(),
    };
    let type_ids = rows.iter().flat_map(of_row).collect();
    let numbers: Vec<i64> = rows.iter().map(|row| row.number as i64).collect();
    Batch {
        inputs: Inputs {
            input_ids: filled(ids, pad_id),
            token_type_ids: filled(type_ids, pad_type_id),
            answer_ids,
            packing,
        },
        examples: Tensor::from_slice(&numbers).to_device(device),
        counted: Counted::of(rows, device),
        tokens: lengths.iter().chain(&answers).sum::<i64>() as u64,
    }
}

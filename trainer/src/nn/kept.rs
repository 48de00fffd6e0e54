//! Keys and values of earlier tokens, kept while a model writes, so that each new token costs one row of work.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use native::{Heads, Projections};
use tch::{Device, Kind, Tensor};

use super::Packing;

/// Tokens that the memory of a sequence begins with; it doubles from there.
const FIRST_ROOM: i64 = 64;

/// What is kept of one sequence: for each attention of the model `[2, heads, room, width]`, keys and then values.
#[derive(Default)]
pub struct KeyValues {
    attentions: RefCell<BTreeMap<usize, Tensor>>,
    tokens: Cell<i64>,
}

impl KeyValues {
    /// Of a sequence that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Tokens that are kept.
    pub fn tokens(&self) -> i64 {
        self.tokens.get()
    }

    /// Counts tokens whose keys and values a pass has written.
    pub fn count(&self, more: i64) {
        self.tokens.set(self.tokens.get() + more);
    }

    /// The same again, for a sequence that goes on in another way.
    pub fn copy(&self) -> Self {
        let tokens = self.tokens.get();
        let own = |kept: &Tensor| kept.narrow(2, 0, tokens.min(kept.size()[2])).copy();
        let attentions = self.attentions.borrow().iter().map(|(at, kept)| (*at, own(kept))).collect();
        KeyValues { attentions: RefCell::new(attentions), tokens: Cell::new(tokens) }
    }

    /// The place of attention `number`, with room for `needed` tokens.
    fn place(&self, number: usize, heads: Heads, needed: i64, like: &Tensor) -> Tensor {
        let mut attentions = self.attentions.borrow_mut();
        let options = (like.kind(), like.device());
        let make = |room: i64| Tensor::zeros([2, heads.key, room, heads.width], options);
        let kept = attentions.entry(number).or_insert_with(|| make(needed.max(FIRST_ROOM)));
        let room = kept.size()[2];
        if room < needed {
            let larger = make(needed.max(2 * room));
            larger.narrow(2, 0, room).copy_(kept);
            *kept = larger;
        }
        kept.shallow_clone()
    }
}

/// Attention `number` over what is kept of each sequence and the new tokens, whose projections are `joined`,
/// `[n, (query + 2 · key) · width]`; gives `[n, query · width]`. `by_distance`: what scores get by the distance of tokens.
pub(super) fn attend(
    joined: &Tensor,
    number: usize,
    heads: Heads,
    packing: &Packing,
    kept: &[&KeyValues],
    by_distance: Option<&Tensor>,
) -> Tensor {
    let lengths = packing.lengths.iter().zip(kept);
    let totals: Vec<i64> = lengths.map(|(new, kept)| kept.tokens() + new).collect();
    let places: Vec<Tensor> =
        kept.iter().zip(&totals).map(|(kept, &total)| kept.place(number, heads, total, joined)).collect();
    let quick = joined.device() == Device::Cpu && joined.kind() == Kind::Float;
    if quick && packing.lengths.iter().all(|&new| new == 1) {
        return native::decode_attention(joined, &places, &totals, heads, by_distance);
    }
    let mut at = 0;
    let mut mixed = Vec::with_capacity(kept.len());
    for ((place, &total), &new) in places.iter().zip(&totals).zip(&packing.lengths) {
        let own = joined.narrow(0, at, new);
        mixed.push(match quick && new == 1 {
            // As in a batch where all have one: a sequence's bits are its own matter.
            true => native::decode_attention(&own, std::slice::from_ref(place), &[total], heads, by_distance),
            false => one(&own, place, total, heads, by_distance),
        });
        at += new;
    }
    Tensor::cat(&mixed, 0)
}

/// New tokens of one sequence, `[new, …]`, of `total` with those that are kept.
fn one(joined: &Tensor, place: &Tensor, total: i64, heads: Heads, by_distance: Option<&Tensor>) -> Tensor {
    let Heads { query, key, width, .. } = heads;
    let new = joined.size()[0];
    let own = joined.narrow(1, query * width, 2 * key * width);
    let own = own.reshape([new, 2, key, width]).permute([1, 2, 0, 3]); // [2, key, new, width]
    place.narrow(2, total - new, new).copy_(&own);
    let offsets = Tensor::from_slice(&[0, new]);
    if new == total {
        return packed(Projections::Joined(joined), heads, &offsets, by_distance);
    }
    let all = place.narrow(2, 0, total).permute([2, 0, 1, 3]).reshape([total, 2 * key * width]);
    let queries = joined.narrow(1, 0, query * width).contiguous();
    let across = Projections::Across { query: &queries, query_offsets: &offsets, key_value: &all };
    packed(across, heads, &Tensor::from_slice(&[0, total]), by_distance)
}

fn packed(projections: Projections, heads: Heads, offsets: &Tensor, by_distance: Option<&Tensor>) -> Tensor {
    match by_distance {
        Some(given) => native::distance_attention(projections, heads, offsets, given, None),
        None => native::attention(projections, heads, offsets, None),
    }
}

//! Which row of a tensor stands where on the other side.

use super::family::Change;

/// The heads of a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub(super) queries: u64,
    pub(super) keys: u64,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    ToCheckpoint,
    ToGguf,
}

/// How the rows of a tensor change their places; `None` where they stay, an error in words where they cannot be what they
/// are said to be.
pub(super) fn order(change: Change, way: Way, rows: u64, heads: Heads) -> Result<Option<Order>, String> {
    let (heads, parts) = match change {
        Change::Same | Change::PlusOne | Change::Transposed => return Ok(None),
        Change::QueryHeads => (heads.queries, 2),
        Change::KeyHeads => (heads.keys, 2),
        Change::Interleaved => (heads.queries, 3),
    };
    if heads == 0 || !rows.is_multiple_of(heads * parts) {
        return Err(format!("its {rows} rows cannot be those of {heads} heads"));
    }
    let width = rows / heads / parts;
    // In a checkpoint a head is `parts` by `width`. A GGUF has a head's rows as `width` by `parts`, or the parts outside of
    // the heads.
    Ok(Some(match (change, way) {
        (Change::Interleaved, Way::ToCheckpoint) => {
            Order { sizes: [heads, parts, width], steps: [width, heads * width, 1] }
        }
        (Change::Interleaved, Way::ToGguf) => {
            Order { sizes: [parts, heads, width], steps: [width, parts * width, 1] }
        }
        (_, Way::ToCheckpoint) => Order { sizes: [heads, parts, width], steps: [parts * width, 1, parts] },
        (_, Way::ToGguf) => Order { sizes: [heads, width, parts], steps: [parts * width, 1, width] },
    }))
}

/// A change of places: the target counts three sizes, each of which is a step in the source.
#[derive(Clone, Copy, Debug)]
pub(super) struct Order {
    sizes: [u64; 3],
    steps: [u64; 3],
}

impl Order {
    /// The source's row for the target's.
    pub(super) fn source(&self, row: u64) -> u64 {
        let [_, middle, inner] = self.sizes;
        let places = [row / (middle * inner), row / inner % middle, row % inner];
        places.iter().zip(self.steps).map(|(place, step)| place * step).sum()
    }
}

//! The key of every random draw of a training step.
//!
//! A draw is a function of (seed, step, site, example) and of the position within the example, and
//! of nothing else: not of how many draws came before, of the batch an example lies in, of its
//! padding, of the rank or of the number of threads. So a resumed run, a recomputed layer and any
//! number of ranks draw alike.

use tch::{Device, Kind, Tensor};

use crate::Result;

/// The increment of SplitMix64, 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's output function, a bijection of 64 bits: G. L. Steele, D. Lea, C. H. Flood, "Fast
/// splittable pseudorandom number generators", OOPSLA 2014, doi:10.1145/2660193.2660195.
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const fn absorb(state: u64, word: u64) -> u64 {
    mix((state ^ word).wrapping_add(GOLDEN))
}

/// What `seed`, `step` and `site` have in common for all examples.
const fn prefix(seed: u64, step: u64, site: u64) -> u64 {
    absorb(absorb(absorb(0, seed), step), site)
}

/// The key of one example's draws at one site of the model.
///
/// - `seed`: the job's;
/// - `step`: the optimizer step, counted over the whole job. Two micro-steps of one step need no
///   number of their own as long as no example occurs in both; where one can, number micro-steps;
/// - `site`: which dropout of the model (layer and place within it), constant over time;
/// - `example`: the example's row in its dataset, not its place in the batch.
///
/// Each word in turn is mixed in by `state = mix((state ^ word) + golden)` with SplitMix64's `mix`.
/// For three words held, the fourth's map onto keys is a bijection: two examples never share a key
/// at one site and step.
#[must_use]
pub const fn key(seed: u64, step: u64, site: u64, example: u64) -> i64 {
    absorb(prefix(seed, step, site), example).cast_signed()
}

/// [`key`] for each of `examples`: Int64 `[b]` to Int64 `[b]`, on the device of `examples`.
///
/// Keys are made on the CPU; ids that lie on a GPU cost a wait for it.
///
/// # Errors
/// When `examples` is not a vector of Int64.
pub fn f_keys(seed: u64, step: u64, site: u64, examples: &Tensor) -> Result<Tensor> {
    let ids = ids_of(examples)?;
    keys_of(seed, step, site, &ids).f_to_device(examples.device())
}

/// [`f_keys`] in the manner of tch's operations.
///
/// # Panics
/// When `examples` is not a vector of Int64.
pub fn keys(seed: u64, step: u64, site: u64, examples: &Tensor) -> Tensor {
    f_keys(seed, step, site, examples).unwrap()
}

/// [`key`] for each of `examples`, as Int64 `[b]` on the CPU.
pub fn keys_of(seed: u64, step: u64, site: u64, examples: &[i64]) -> Tensor {
    let state = prefix(seed, step, site);
    let keys: Vec<i64> = examples.iter().map(|id| absorb(state, id.cast_unsigned()).cast_signed()).collect();
    Tensor::from_slice(&keys)
}

fn ids_of(examples: &Tensor) -> Result<Vec<i64>> {
    let (kind, size) = (examples.f_kind()?, examples.size());
    if kind != Kind::Int64 || size.len() != 1 {
        return Err(tch::TchError::Shape(format!(
            "example ids are {kind:?} {size:?}, they must be Int64 [b]"
        )));
    }
    Vec::<i64>::try_from(&examples.f_to_device(Device::Cpu)?)
}

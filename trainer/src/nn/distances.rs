//! What scores get by the distance of two tokens, learnt by buckets of distances.

use native::Heads;
use tch::{Kind, Tensor};

use super::{Init, Path};

/// A number for each bucket and head (C. Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text
/// transformer", 2020, section 2.1).
pub struct Distances {
    /// `[buckets, heads]`.
    table: Tensor,
    buckets: i64,
    /// Distances from which on all are one bucket.
    farthest: i64,
    both_ways: bool,
}

impl Distances {
    /// Takes `weight` `[buckets, heads]` below `path`. Where tokens see only what is before them distances go one way.
    pub fn new(path: &Path, buckets: i64, heads: Heads, farthest: i64, std: f64) -> Self {
        let whole = path.room("weight", &[buckets, path.heads(heads).query]);
        let table = path.param_at("weight", whole, Init::Normal(std), Some(1));
        Distances { table, buckets, farthest, both_ways: !heads.causal }
    }

    /// What [`native::distance_attention`] takes, for sequences of at most `span` tokens: fp32 `[heads, 2 · span − 1]`.
    pub fn given(&self, span: i64) -> Tensor {
        let buckets: Vec<i64> = (1 - span..span).map(|distance| self.bucket(distance)).collect();
        let buckets = Tensor::from_slice(&buckets).to_device(self.table.device());
        let given = self.table.index_select(0, &buckets).to_kind(Kind::Float);
        given.transpose(0, 1).contiguous()
    }

    /// The bucket of a key so far behind its query.
    fn bucket(&self, distance: i64) -> i64 {
        let (buckets, first, far) = match (self.both_ways, distance > 0) {
            (true, true) => (self.buckets / 2, self.buckets / 2, distance),
            (true, false) => (self.buckets / 2, 0, -distance),
            (false, true) => (self.buckets, 0, 0),
            (false, false) => (self.buckets, 0, -distance),
        };
        let exact = buckets / 2;
        if far < exact {
            return first + far;
        }
        // In fp32, step by step, as the reference computes it: near a border the bits decide.
        let share = (far as f32 / exact as f32).ln() / (self.farthest as f64 / exact as f64).ln() as f32;
        first + (exact + (share * (buckets - exact) as f32) as i64).min(buckets - 1)
    }
}

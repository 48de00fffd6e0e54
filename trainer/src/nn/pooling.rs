//! From the states of a sequence's tokens to one vector, as sentence-transformers' `Pooling` makes it.

use formats::checkpoint::Pooling;
use tch::{Kind, Tensor};

use super::Packing;

/// Vectors of a batch's sequences, `[n, d]` → `[b, d · ways]` in fp32. Tokens that belong to no sequence count for nothing.
pub fn pool(states: &Tensor, packing: &Packing, ways: &[Pooling]) -> Tensor {
    let used = packing.lengths.iter().sum();
    // One cut, whose gradient is one tensor: a piece taken out on its own has the gradient of all.
    let each = states.narrow(0, 0, used).to_kind(Kind::Float).split_with_sizes(packing.lengths.as_slice(), 0);
    let made: Vec<Tensor> = ways
        .iter()
        .map(|way| Tensor::stack(&each.iter().map(|states| vector(states, *way)).collect::<Vec<_>>(), 0))
        .collect();
    Tensor::cat(&made, 1)
}

/// Of one sequence, `[t, d]` → `[d]`.
fn vector(states: &Tensor, way: Pooling) -> Tensor {
    let length = states.size()[0];
    match way {
        Pooling::Cls => states.select(0, 0),
        Pooling::LastToken => states.select(0, length - 1),
        Pooling::Max => states.amax(0, false),
        Pooling::Mean => states.mean_dim(0, false, Kind::Float),
        Pooling::MeanSqrtLength => states.sum_dim_intlist(0, false, Kind::Float) / (length as f64).sqrt(),
        Pooling::WeightedMean => {
            let weights = Tensor::arange_start(1, length + 1, (Kind::Float, states.device()));
            let sum = (length * (length + 1)) as f64 / 2.0;
            (states * weights.unsqueeze(1)).sum_dim_intlist(0, false, Kind::Float) / sum
        }
    }
}

/// Vectors of length 1, `[b, d]`; a vector of zeros stays one.
pub fn normalized(vectors: &Tensor) -> Tensor {
    // The norm's own gradient is 0 at 0, where that of a root is not finite.
    vectors / vectors.norm_scalaropt_dim(2, 1, true).clamp_min(1e-12)
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn each_way_looks_at_its_own_sequence_alone() {
        let rows: &[f32] = &[1.0, 4.0, 3.0, 0.0, 5.0, -1.0, 9.0, 9.0];
        let states = Tensor::from_slice(rows).view([4, 2]);
        // The last token belongs to no sequence.
        let packing = Packing::new(&[2, 1], Device::Cpu);
        let of = |way: Pooling| Vec::<f32>::try_from(pool(&states, &packing, &[way]).view(-1)).unwrap();
        let root = 2.0_f32.sqrt();
        assert_eq!(of(Pooling::Cls), [1.0, 4.0, 5.0, -1.0]);
        assert_eq!(of(Pooling::LastToken), [3.0, 0.0, 5.0, -1.0]);
        assert_eq!(of(Pooling::Max), [3.0, 4.0, 5.0, -1.0]);
        assert_eq!(of(Pooling::Mean), [2.0, 2.0, 5.0, -1.0]);
        assert_eq!(of(Pooling::MeanSqrtLength), [4.0 / root, 4.0 / root, 5.0, -1.0]);
        assert_eq!(of(Pooling::WeightedMean), [7.0 / 3.0, 4.0 / 3.0, 5.0, -1.0]);
        let both = pool(&states, &packing, &[Pooling::Cls, Pooling::Mean]);
        assert_eq!(Vec::<f32>::try_from(both.select(0, 0)).unwrap(), [1.0, 4.0, 2.0, 2.0]);
    }
}

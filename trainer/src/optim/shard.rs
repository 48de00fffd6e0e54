//! Which copy of the model updates which parameter, where they share the optimizer's state.

use tch::Tensor;

use super::Group;
use crate::data::Share;
use crate::tensors::Named;

/// Parameters, and the copy that updates each.
pub(super) type Owners = Vec<(Tensor, usize)>;

/// Takes what is another copy's to update out of `groups`; returns it, and who updates what. The largest go first to
/// whoever has the least.
pub(super) fn shard(groups: &mut [Group], share: Share) -> (Named, Owners) {
    if share.size == 1 {
        return (Vec::new(), Vec::new());
    }
    let all = groups.iter().flat_map(|group| &group.params);
    let mut all: Vec<(String, Tensor)> =
        all.map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect();
    all.sort_by(|(a, x), (b, y)| (y.numel(), a).cmp(&(x.numel(), b)));
    let mut loads = vec![0; share.size];
    let (mut others, mut owners) = (Vec::new(), Vec::new());
    for (name, tensor) in all {
        let least = (0..share.size).min_by_key(|&rank| (loads[rank], rank)).unwrap_or_default();
        loads[least] += tensor.numel();
        owners.push((tensor.shallow_clone(), least));
        if least != share.rank {
            for group in groups.iter_mut() {
                group.params.retain(|(other, _)| *other != name);
            }
            others.push((name, tensor));
        }
    }
    (others, owners)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    fn groups() -> Vec<Group> {
        let param = |at: i64| (format!("p{at}"), Tensor::zeros([at % 5 + 1, 10], (Kind::Float, Device::Cpu)));
        let group = |first: i64| Group {
            params: (first..first + 12).map(param).collect(),
            lr_scale: 1.0,
            weight_decay: 0.0,
            hidden: false,
        };
        vec![group(0), group(12)]
    }

    #[test]
    fn each_parameter_is_one_copys_and_all_have_about_as_much() {
        let (mut seen, mut sizes) = (Vec::new(), Vec::new());
        for rank in 0..3 {
            let mut groups = groups();
            let (others, owners) = shard(&mut groups, Share { rank, size: 3 });
            let own: Vec<_> = groups.iter().flat_map(|group| &group.params).collect();
            assert_eq!((own.len() + others.len(), owners.len()), (24, 24));
            assert_eq!(owners.iter().filter(|(_, owner)| *owner == rank).count(), own.len());
            sizes.push(own.iter().map(|(_, tensor)| tensor.numel()).sum::<usize>());
            seen.extend(own.iter().map(|(name, _)| name.clone()));
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 24);
        assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 20, "{sizes:?}");
    }

    #[test]
    fn one_copy_has_all() {
        let mut groups = groups();
        let (others, owners) = shard(&mut groups, Share { rank: 0, size: 1 });
        assert!(others.is_empty() && owners.is_empty());
        assert_eq!(groups.iter().map(|group| group.params.len()).sum::<usize>(), 24);
    }
}

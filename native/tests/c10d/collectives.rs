//! Each collective against its definition.

use native::c10d::{Group, Reduce, Store};
use tch::{Device, IndexOp, Kind, Tensor};

use crate::{LONG, RANKS, numbers, ranks, skipped};

fn both(shape: &[i64]) -> [Tensor; RANKS] {
    [numbers(0, shape), numbers(1, shape)]
}

#[test]
fn an_all_reduce_sums_averages_and_takes_the_largest() {
    ranks("collectives::an_all_reduce_sums_averages_and_takes_the_largest", |rank| {
        let group = rank.group();
        assert_eq!((group.rank(), group.size(), group.timeout()), (rank.rank, RANKS, LONG));
        // From one number to more than Gloo sends at once.
        for shape in [&[][..], &[3, 5], &[700, 1000], &[0, 4]] {
            let all = both(shape);
            let sum = &all[0] + &all[1];
            for (op, wanted) in
                [(Reduce::Sum, sum.copy()), (Reduce::Avg, &sum / 2.0), (Reduce::Max, all[0].maximum(&all[1]))]
            {
                let tensor = all[rank.rank].copy();
                group.all_reduce(&tensor, op).unwrap();
                assert!(tensor.equal(&wanted), "{op:?} of {shape:?}");
            }
        }
        let floating = [Kind::Double, Kind::Half, Kind::BFloat16];
        for kind in floating.into_iter().chain([Kind::Int8, Kind::Uint8, Kind::Int, Kind::Int64]) {
            let tensor = Tensor::from_slice(&[rank.rank as i64 + 3]).to_kind(kind);
            group.all_reduce(&tensor, Reduce::Sum).unwrap();
            assert_eq!((tensor.kind(), tensor.int64_value(&[0])), (kind, 7));
        }
    });
}

#[test]
fn all_reduces_can_be_under_way_at_once() {
    ranks("collectives::all_reduces_can_be_under_way_at_once", |rank| {
        let group = rank.group();
        let all: Vec<_> =
            (0..6).map(|i| [numbers(2 * i, &[1000, 77]), numbers(2 * i + 1, &[1000, 77])]).collect();
        let own: Vec<_> = all.iter().map(|pair| pair[rank.rank].copy()).collect();
        let work: Vec<_> = own.iter().map(|t| group.all_reduce_start(t, Reduce::Avg).unwrap()).collect();
        work.into_iter().for_each(|work| work.wait().unwrap());
        assert!(own.iter().zip(&all).all(|(own, [a, b])| own.equal(&((a + b) / 2.0))));
    });
}

#[test]
fn a_broadcast_brings_the_roots_tensor() {
    ranks("collectives::a_broadcast_brings_the_roots_tensor", |rank| {
        let group = rank.group();
        for root in 0..RANKS {
            let all = both(&[40, 3]);
            group
                .broadcast_all(&[&all[rank.rank], &Tensor::zeros([0], (Kind::Float, all[0].device()))], root)
                .unwrap();
            assert!(all[rank.rank].equal(&both(&[40, 3])[root]));
        }
        assert!(group.agrees(-5).unwrap());
        assert!(!group.agrees(rank.rank as i64).unwrap());
    });
}

#[test]
fn a_gather_joins_and_a_reduce_scatter_splits_the_sum() {
    ranks("collectives::a_gather_joins_and_a_reduce_scatter_splits_the_sum", |rank| {
        let group = rank.group();
        let all = both(&[6, 4]);
        let own = &all[rank.rank];
        assert!(group.all_gather(own).unwrap().equal(&Tensor::cat(&all, 0)));
        // Columns do not lie one after the other in memory.
        let wanted = Tensor::cat(&[all[0].tr(), all[1].tr()], 0);
        assert!(group.all_gather(&own.tr()).unwrap().equal(&wanted));
        assert_eq!(group.all_gather(&own.i((0, 0))).unwrap().size(), [2]);

        let part = group.reduce_scatter(own).unwrap();
        let at = 3 * rank.rank as i64;
        assert!(part.equal(&(&all[0] + &all[1]).i(at..at + 3)));
        assert!(own.equal(&both(&[6, 4])[rank.rank]), "what went in is left as it was");
        let error = group.reduce_scatter(&numbers(0, &[5])).unwrap_err().to_string();
        assert!(error.contains("multiple of the 2 ranks"), "{error}");
    });
}

#[test]
fn what_is_sent_is_received() {
    ranks("collectives::what_is_sent_is_received", |rank| {
        let group = rank.group();
        group.barrier().unwrap();
        let (there, back) = (numbers(5, &[300, 300]), numbers(6, &[2]));
        if rank.rank == 0 {
            group.send(&there, 1, 7).unwrap();
            let tensor = back.zeros_like();
            group.recv(&tensor, 1, 8).unwrap();
            assert!(tensor.equal(&back));
        } else {
            let tensor = there.zeros_like();
            group.recv(&tensor, 0, 7).unwrap();
            assert!(tensor.equal(&there));
            group.send(&back, 0, 8).unwrap();
        }
        assert!(group.send(&back, 2, 0).unwrap_err().to_string().contains("rank 2 of 2"));
    });
}

#[test]
fn rows_of_unequal_number_are_joined_in_rank_order() {
    ranks("collectives::rows_of_unequal_number_are_joined_in_rank_order", |rank| {
        let group = rank.group();
        let rows = [vec![4i64, 1, 4], vec![9]];
        let values = [numbers(0, &[3, 5]), numbers(1, &[1, 5])];
        let indices = Tensor::from_slice(&rows[rank.rank]);
        for (op, divisor) in [(Reduce::Sum, 1.0), (Reduce::Avg, 2.0)] {
            let sparse = group.all_reduce_rows(&indices, &values[rank.rank], 10, op).unwrap();
            assert_eq!((sparse.is_sparse(), sparse.size()), (true, vec![10, 5]));
            let found = Vec::<i64>::try_from(sparse.internal_indices().i(0)).unwrap();
            assert_eq!(found, [4, 1, 4, 9]);
            assert!(sparse.internal_values().equal(&(Tensor::cat(&values, 0) / divisor)));
        }
        // A rank that touched no row.
        let few = if rank.rank == 0 { 0 } else { 1 };
        let sparse = group
            .all_reduce_rows(
                &indices.narrow(0, 0, few),
                &values[rank.rank].narrow(0, 0, few),
                10,
                Reduce::Sum,
            )
            .unwrap();
        assert!(sparse.internal_values().equal(&values[1]));
        // An index that lies outside is found on every rank.
        let error = group.all_reduce_rows(&indices, &values[rank.rank], 9, Reduce::Sum).unwrap_err();
        assert!(error.to_string().contains("lies outside of 0 to 9"), "{error}");
    });
}

#[test]
fn ranks_meet_through_a_port_and_groups_by_prefixes() {
    ranks("collectives::ranks_meet_through_a_port_and_groups_by_prefixes", |rank| {
        let file = rank.store();
        let store = if rank.rank == 0 {
            let store = Store::tcp_master("127.0.0.1", 0, LONG).unwrap();
            file.set("port", store.port().unwrap().to_string().as_bytes()).unwrap();
            store
        } else {
            let port = String::from_utf8(file.get("port").unwrap()).unwrap();
            Store::tcp_client("127.0.0.1", port.parse().unwrap(), LONG).unwrap()
        };
        for name in ["one", "two"] {
            let part = store.with_prefix(name).unwrap();
            let group = Group::gloo(&part, rank.rank, RANKS, LONG, "127.0.0.1").unwrap();
            let tensor = numbers(rank.rank as i64, &[10]);
            group.all_reduce(&tensor, Reduce::Sum).unwrap();
            assert!(tensor.equal(&(numbers(0, &[10]) + numbers(1, &[10]))));
        }
        // The one that serves must be the last to go.
        store.add("gone", 1).unwrap();
        if rank.rank == 0 {
            store.set("counted", b"").unwrap();
            store.get("all gone").unwrap();
        } else {
            // Until the other has counted too, the number may still change.
            store.get("counted").unwrap();
            assert_eq!(store.add("gone", 0).unwrap(), 2);
            store.set("all gone", b"").unwrap();
        }
    });
}

#[test]
fn values_of_a_store_are_those_that_were_set() {
    let store = Store::tcp_master("127.0.0.1", 0, LONG).unwrap();
    let bytes: Vec<u8> = (0..=255).collect();
    store.set("all bytes", &bytes).unwrap();
    assert_eq!(store.get("all bytes").unwrap(), bytes);
    store.set("none", b"").unwrap();
    assert_eq!(store.get("none").unwrap(), b"");
    assert_eq!((store.add("n", 2).unwrap(), store.add("n", -5).unwrap()), (2, -3));
    assert!(Store::tcp_master("127.0.0.1", store.port().unwrap(), LONG).is_err(), "the port is taken");
}

#[test]
fn without_a_gpu_nccl_is_refused() {
    if native::cuda::available() {
        println!("SKIPPED collectives::without_a_gpu_nccl_is_refused: this machine has a GPU");
        return;
    }
    let store = Store::tcp_master("127.0.0.1", 0, LONG).unwrap();
    let error = Group::nccl(&store, 0, 1, LONG, 0).unwrap_err().to_string();
    assert!(error.contains("NCCL"), "{error}");
}

#[test]
fn wrong_ranks_are_refused() {
    if skipped("collectives::wrong_ranks_are_refused") {
        return;
    }
    let store = Store::tcp_master("127.0.0.1", 0, LONG).unwrap();
    let error = Group::gloo(&store, 2, 2, LONG, "127.0.0.1").unwrap_err().to_string();
    assert!(error.contains("rank 2 of 2"), "{error}");
    // A group of one is one.
    let group = Group::gloo(&store, 0, 1, LONG, "127.0.0.1").unwrap();
    let tensor = numbers(0, &[3]);
    group.all_reduce(&tensor, Reduce::Avg).unwrap();
    assert!(tensor.equal(&numbers(0, &[3])));
    let error = group.all_reduce(&numbers(0, &[3, 2]).tr(), Reduce::Sum).unwrap_err().to_string();
    assert!(error.contains("contiguous"), "{error}");
    let error = group.all_reduce(&Tensor::from_slice(&[1i64]), Reduce::Avg).unwrap_err().to_string();
    assert!(error.contains("a mean of"), "{error}");
}

#[test]
fn sends_may_cross_and_be_received_in_another_order() {
    ranks("collectives::sends_may_cross_and_be_received_in_another_order", |rank| {
        let group = rank.group();
        let peer = 1 - rank.rank;
        // More than the kernel holds for a peer that does not read yet.
        let of = |rank: usize, tag: u16| numbers(rank as i64 * 2 + i64::from(tag), &[2000, 1000]);
        let sent: Vec<_> =
            (0..2).map(|tag| group.send_start(&of(rank.rank, tag), peer, tag).unwrap()).collect();
        for tag in [1, 0] {
            let found = Tensor::zeros([2000, 1000], (Kind::Float, Device::Cpu));
            group.recv(&found, peer, tag).unwrap();
            assert!(found.equal(&of(peer, tag)), "tag {tag}");
        }
        sent.into_iter().for_each(|work| work.wait().unwrap());
    });
}

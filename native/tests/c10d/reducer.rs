//! Averaged gradients are those of the joint batch.

use native::c10d::{Group, Reduce, Reducer, ReducerOptions};
use native::gradients::clear_grads;
use tch::{Kind, Tensor};

use crate::{Rank, close, numbers, ranks};

/// Two layers: `w1` `[6, 50]`, `b1` `[50]`, `w2` `[50, 3]`, `b2` `[3]`.
struct Net {
    params: Vec<Tensor>,
}

impl Net {
    fn new() -> Self {
        let leaf = |seed, shape: &[i64]| (numbers(seed, shape) * 0.3).set_requires_grad(true);
        Self { params: vec![leaf(1, &[6, 50]), leaf(2, &[50]), leaf(3, &[50, 3]), leaf(4, &[3])] }
    }

    fn loss(&self, rows: &Tensor) -> Tensor {
        let [w1, b1, w2, b2] = &self.params[..] else { unreachable!() };
        let y = (rows.matmul(w1) + b1).tanh().matmul(w2) + b2;
        y.square().mean(Kind::Float)
    }

    fn grads(&self) -> Vec<Tensor> {
        self.params.iter().map(|p| p.grad().copy()).collect()
    }
}

/// The rows of a step, `[16, 6]`; a rank has half of them.
fn rows(step: i64) -> Tensor {
    numbers(10 + step, &[16, 6])
}

fn own(rank: &Rank, rows: &Tensor) -> Tensor {
    rows.narrow(0, 8 * rank.rank as i64, 8)
}

fn joint(step: i64) -> Vec<Tensor> {
    let net = Net::new();
    net.loss(&rows(step)).backward();
    net.grads()
}

/// Gradients are the joint batch's, and the same bits on both ranks.
fn check(group: &Group, found: &[Tensor], wanted: &[Tensor]) {
    for (found, wanted) in found.iter().zip(wanted) {
        close(found, wanted, 1e-6);
        let all = group.all_gather(&found.reshape([-1])).unwrap().chunk(2, 0);
        assert!(all[0].equal(&all[1]), "the ranks have different bits");
    }
}

fn small_buckets() -> ReducerOptions {
    ReducerOptions { first_bucket_bytes: 100, bucket_bytes: 700, ..ReducerOptions::default() }
}

fn several_steps(rank: &Rank, options: &ReducerOptions, buckets: Option<usize>) {
    let group = rank.group();
    let net = Net::new();
    let mut reducer = Reducer::new(&group, &net.params, options).unwrap();
    for step in 0..4 {
        clear_grads(&net.params).unwrap();
        reducer.prepare_for_forward().unwrap();
        reducer.backward(&net.loss(&own(rank, &rows(step)))).unwrap();
        check(&group, &net.grads(), &joint(step));
    }
    if let Some(buckets) = buckets {
        assert_eq!(reducer.buckets().unwrap(), buckets);
    }
}

#[test]
fn averaged_gradients_are_those_of_the_joint_batch() {
    ranks("reducer::averaged_gradients_are_those_of_the_joint_batch", |rank| {
        several_steps(rank, &ReducerOptions::default(), Some(1));
    });
}

#[test]
fn gradients_in_several_buckets_are_the_same() {
    ranks("reducer::gradients_in_several_buckets_are_the_same", |rank| {
        several_steps(rank, &small_buckets(), Some(2));
    });
}

#[test]
fn gradients_that_are_views_of_buckets_are_the_same() {
    ranks("reducer::gradients_that_are_views_of_buckets_are_the_same", |rank| {
        several_steps(rank, &ReducerOptions { gradient_as_bucket_view: true, ..small_buckets() }, None);
    });
}

#[test]
fn a_static_graph_gives_the_same_gradients() {
    ranks("reducer::a_static_graph_gives_the_same_gradients", |rank| {
        several_steps(rank, &ReducerOptions { static_graph: true, ..small_buckets() }, None);
    });
}

fn accumulates(rank: &Rank, options: &ReducerOptions) {
    let group = rank.group();
    let net = Net::new();
    let mut reducer = Reducer::new(&group, &net.params, options).unwrap();
    for round in 0..3 {
        clear_grads(&net.params).unwrap();
        let mut wanted = joint(2 * round);
        for (sum, more) in wanted.iter_mut().zip(joint(2 * round + 1)) {
            *sum += more;
        }
        for micro in 0..2 {
            reducer.set_require_grad_sync(micro == 1);
            reducer.prepare_for_forward().unwrap();
            reducer.backward(&net.loss(&own(rank, &rows(2 * round + micro)))).unwrap();
            if micro == 0 && (round > 0 || !options.static_graph) {
                let alone = Net::new();
                alone.loss(&own(rank, &rows(2 * round))).backward();
                let same = |(found, own): (&Tensor, &Tensor)| found.equal(own);
                assert!(net.grads().iter().zip(&alone.grads()).all(same), "it was exchanged too early");
            }
        }
        check(&group, &net.grads(), &wanted);
    }
}

#[test]
fn accumulation_exchanges_only_with_the_last_micro_batch() {
    ranks("reducer::accumulation_exchanges_only_with_the_last_micro_batch", |rank| {
        accumulates(rank, &ReducerOptions::default());
    });
}

#[test]
fn accumulation_in_a_static_graph_gives_the_same() {
    ranks("reducer::accumulation_in_a_static_graph_gives_the_same", |rank| {
        accumulates(rank, &ReducerOptions { static_graph: true, ..ReducerOptions::default() });
    });
}

#[test]
fn a_parameter_that_takes_no_part_is_an_error_or_looked_for() {
    ranks("reducer::a_parameter_that_takes_no_part_is_an_error_or_looked_for", |rank| {
        let group = rank.group();
        let part = |options: &ReducerOptions| {
            let net = Net::new();
            let mut reducer = Reducer::new(&group, &net.params, options).unwrap();
            reducer.prepare_for_forward().unwrap();
            // Only the first rank uses w2.
            let mut loss = net.params[0].square().sum(Kind::Float);
            if rank.rank == 0 {
                loss += net.params[2].square().sum(Kind::Float);
            }
            let answer = reducer.backward(&loss);
            (answer, net)
        };
        let (answer, net) = part(&ReducerOptions { find_unused: true, ..ReducerOptions::default() });
        answer.unwrap();
        close(&net.params[0].grad(), &(&net.params[0] * 2.0), 1e-6);
        close(&net.params[2].grad(), &net.params[2], 1e-6);
        assert!(!net.params[1].grad().defined(), "no rank used it");
        let error = part(&ReducerOptions::default()).0.unwrap_err().to_string();
        assert!(error.contains("finished reduction"), "{error}");
    });
}

#[test]
fn an_embeddings_sparse_gradient_is_averaged() {
    ranks("reducer::an_embeddings_sparse_gradient_is_averaged", |rank| {
        let group = rank.group();
        let tokens = [Tensor::from_slice(&[1i64, 7, 1]), Tensor::from_slice(&[7i64, 3])];
        let table = || numbers(1, &[9, 4]).set_requires_grad(true);
        let loss = |table: &Tensor, w: &Tensor, tokens: &Tensor| {
            Tensor::embedding(table, tokens, -1, false, true).matmul(w).sum(Kind::Float)
        };
        let w = || numbers(2, &[4]).set_requires_grad(true);
        let (whole, whole_w) = (table(), w());
        tokens.iter().for_each(|tokens| loss(&whole, &whole_w, tokens).backward());

        let (own, own_w) = (table(), w());
        let options = ReducerOptions { sparse: vec![true, false], ..ReducerOptions::default() };
        let mut reducer = Reducer::new(&group, &[&own, &own_w], &options).unwrap();
        for _ in 0..2 {
            clear_grads(&[&own, &own_w]).unwrap();
            reducer.prepare_for_forward().unwrap();
            reducer.backward(&loss(&own, &own_w, &tokens[rank.rank])).unwrap();
            assert!(own.grad().is_sparse());
            close(&own.grad().to_dense(None, false), &(whole.grad().to_dense(None, false) / 2.0), 1e-6);
            close(&own_w.grad(), &(whole_w.grad() / 2.0), 1e-6);
        }

        // The same, outside of the reducer.
        let alone = table();
        loss(&alone, &own_w.detach(), &tokens[rank.rank]).backward();
        let grad = alone.grad();
        let rows = grad.internal_indices().reshape([-1]);
        let sparse = group.all_reduce_rows(&rows, &grad.internal_values(), 9, Reduce::Avg).unwrap();
        assert!(sparse.to_dense(None, false).allclose(&own.grad().to_dense(None, false), 1e-6, 0.0, false));
    });
}

#[test]
fn ranks_with_other_parameters_are_refused() {
    ranks("reducer::ranks_with_other_parameters_are_refused", |rank| {
        let group = rank.group();
        let w = numbers(0, &[3 + rank.rank as i64]).set_requires_grad(true);
        let error = Reducer::new(&group, &[&w], &ReducerOptions::default()).unwrap_err().to_string();
        let said = ["another rank has other parameters", "sizes"][rank.rank];
        assert!(error.contains(said), "{error}");
        let frozen = numbers(0, &[3]);
        let error = Reducer::new(&group, &[&frozen], &ReducerOptions::default()).unwrap_err().to_string();
        assert!(error.contains("parameter 0 is not a leaf"), "{error}");
    });
}

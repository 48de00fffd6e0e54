//! A model that is split over two ranks has the outputs and gradients of the whole one.

use native::c10d::autograd::{copy, gather, recv, scatter_sum, send, sum};
use tch::{Kind, Tensor};

use crate::{close, numbers, ranks};

struct Whole {
    x: Tensor,
    a: Tensor,
    b: Tensor,
    target: Tensor,
}

impl Whole {
    /// `x`: `[8, 6]`, `a`: `[6, 10]`, `b`: `[10, 4]`.
    fn new() -> Self {
        let leaf = |seed, shape: &[i64]| numbers(seed, shape).set_requires_grad(true);
        Self { x: leaf(0, &[8, 6]), a: leaf(1, &[6, 10]), b: leaf(2, &[10, 4]), target: numbers(3, &[8, 4]) }
    }

    fn loss(&self, y: &Tensor) -> Tensor {
        (y - &self.target).square().mean(Kind::Float)
    }

    /// The output, and gradients of `x`, `a`, `b`.
    fn wanted(&self) -> (Tensor, [Tensor; 3]) {
        let y = self.x.matmul(&self.a).gelu("none").matmul(&self.b);
        self.loss(&y).backward();
        (y, [self.x.grad().copy(), self.a.grad().copy(), self.b.grad().copy()])
    }
}

fn part(whole: &Tensor, dim: i64, rank: usize) -> Tensor {
    let half = whole.size()[dim as usize] / 2;
    whole.detach().narrow(dim, half * rank as i64, half).contiguous().set_requires_grad(true)
}

#[test]
fn a_column_then_a_row_parallel_layer_equal_the_whole() {
    ranks("autograd::a_column_then_a_row_parallel_layer_equal_the_whole", |rank| {
        let group = rank.group();
        let whole = Whole::new();
        let (y, [of_x, of_a, of_b]) = whole.wanted();
        let x = whole.x.detach().set_requires_grad(true);
        let (a, b) = (part(&whole.a, 1, rank.rank), part(&whole.b, 0, rank.rank));

        let inner = copy(&group, &x).unwrap().matmul(&a).gelu("none");
        let found = sum(&group, &inner.matmul(&b)).unwrap();
        close(&found, &y, 1e-6);
        whole.loss(&found).backward();
        close(&x.grad(), &of_x, 1e-6);
        close(&a.grad(), &part(&of_a, 1, rank.rank), 1e-6);
        close(&b.grad(), &part(&of_b, 0, rank.rank), 1e-6);
    });
}

#[test]
fn a_sequence_that_is_split_equals_the_whole() {
    ranks("autograd::a_sequence_that_is_split_equals_the_whole", |rank| {
        let group = rank.group();
        let whole = Whole::new();
        let (y, [of_x, of_a, of_b]) = whole.wanted();
        let x = part(&whole.x, 0, rank.rank);
        let (a, b) = (part(&whole.a, 1, rank.rank), part(&whole.b, 0, rank.rank));

        let inner = gather(&group, &x).unwrap().matmul(&a).gelu("none");
        let found = scatter_sum(&group, &inner.matmul(&b)).unwrap();
        close(&found, &part(&y, 0, rank.rank), 1e-6);
        // The mean over all rows is half the mean over this rank's, summed over the ranks.
        let own = (&found - part(&whole.target, 0, rank.rank).detach()).square().mean(Kind::Float) / 2.0;
        own.backward();
        close(&x.grad(), &part(&of_x, 0, rank.rank), 1e-6);
        close(&a.grad(), &part(&of_a, 1, rank.rank), 1e-6);
        close(&b.grad(), &part(&of_b, 0, rank.rank), 1e-6);
    });
}

#[test]
fn a_pipeline_of_two_stages_equals_the_whole() {
    ranks("autograd::a_pipeline_of_two_stages_equals_the_whole", |rank| {
        let group = rank.group();
        let whole = Whole::new();
        let (y, [of_x, of_a, of_b]) = whole.wanted();
        if rank.rank == 0 {
            let (x, a) = (whole.x.detach().set_requires_grad(true), whole.a.detach().set_requires_grad(true));
            send(&group, &x.matmul(&a).gelu("none"), 1, 3).unwrap().backward();
            close(&x.grad(), &of_x, 1e-6);
            close(&a.grad(), &of_a, 1e-6);
        } else {
            let b = whole.b.detach().set_requires_grad(true);
            let found = recv(&group, &[8, 10], Kind::Float, 0, 3).unwrap().matmul(&b);
            close(&found, &y, 1e-6);
            whole.loss(&found).backward();
            close(&b.grad(), &of_b, 1e-6);
        }
    });
}

#[test]
fn a_gradient_can_be_differentiated_again() {
    ranks("autograd::a_gradient_can_be_differentiated_again", |rank| {
        let group = rank.group();
        let all = [numbers(0, &[5]), numbers(1, &[5])];
        let x = all[rank.rank].detach().set_requires_grad(true);
        // s = x0 + x1 is one value, on both ranks; d(s³)/dx = 3s² is each rank's own. The sum of the two, 6s², has the
        // derivative 12s.
        let s = sum(&group, &x).unwrap();
        let cube = (&s * &s * &s).sum(Kind::Float);
        let first = Tensor::run_backward(&[cube], &[&x], true, true).remove(0);
        let wanted = &all[0] + &all[1];
        close(&first, &(wanted.square() * 3.0), 1e-5);
        let second = Tensor::run_backward(&[first.sum(Kind::Float)], &[&x], false, false).remove(0);
        close(&second, &(wanted * 12.0), 1e-5);
    });
}

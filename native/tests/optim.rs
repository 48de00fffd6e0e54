//! Optimizer kernels: independence of threads, and what is refused. Agreement with torch.optim is
//! tested where the optimizers are built from these, in the trainer.

use native::optim::{Adam, AdamState, Extra, Rmsprop, RmspropState, Sgd, adamw, rmsprop, sgd};
use native::runtime;
use tch::{Device, Kind, Tensor};

fn randn(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

fn copies(of: &[Tensor]) -> Vec<Tensor> {
    of.iter().map(Tensor::copy).collect()
}

const ADAM: Adam =
    Adam { lr: 1e-3, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, scale: 1.0, amsgrad: false };
const RMSPROP: Rmsprop = Rmsprop {
    lr: 1e-2,
    alpha: 0.99,
    eps: 1e-8,
    weight_decay: 0.01,
    momentum: 0.9,
    scale: 1.0,
    centered: true,
};
const SGD: Sgd = Sgd {
    lr: 0.1,
    momentum: 0.0,
    dampening: 0.0,
    weight_decay: 0.0,
    scale: 1.0,
    nesterov: false,
    first_step: true,
};

/// Runs `steps` on `threads` threads and returns the parameters.
fn run(threads: usize, start: &[Tensor], steps: impl Fn(&[Tensor], &[Vec<Tensor>; 3])) -> Vec<Tensor> {
    runtime::set_threads(threads).unwrap();
    let params = copies(start);
    let zeros = || params.iter().map(Tensor::zeros_like).collect();
    steps(&params, &[zeros(), zeros(), zeros()]);
    params
}

#[test]
fn one_and_two_threads_give_the_same_bits() {
    let start = [randn(&[1000, 77]), randn(&[13]), randn(&[40_001])];
    let grads = [randn(&[1000, 77]), randn(&[13]), randn(&[40_001])];
    let with_rmsprop = |params: &[Tensor], state: &[Vec<Tensor>; 3]| {
        let [square_avgs, grad_avgs, momentum_buffers] = state;
        let state = RmspropState { square_avgs, grad_avgs, momentum_buffers };
        for _ in 0..3 {
            rmsprop(params, &grads, &state, &RMSPROP).unwrap();
        }
    };
    let with_adamw = |params: &[Tensor], state: &[Vec<Tensor>; 3]| {
        let steps: Vec<_> = params.iter().map(|_| Tensor::zeros([], (Kind::Float, Device::Cpu))).collect();
        let state =
            AdamState { exp_avgs: &state[0], exp_avg_sqs: &state[1], max_exp_avg_sqs: &[], steps: &steps };
        for _ in 0..3 {
            adamw(params, &grads, &state, &ADAM, &Extra::default()).unwrap();
        }
        assert!(steps.iter().all(|s| s.double_value(&[]) == 3.0));
    };
    let same = |a: Vec<Tensor>, b: Vec<Tensor>| a.iter().zip(&b).all(|(a, b)| a.equal(b));
    assert!(same(run(1, &start, with_rmsprop), run(2, &start, with_rmsprop)));
    assert!(same(run(1, &start, with_adamw), run(2, &start, with_adamw)));
}

#[test]
fn a_step_is_not_recorded() {
    let param = randn(&[5]).set_requires_grad(true);
    let grad = randn(&[5]);
    let before = param.detach().copy();
    sgd(&[&param], &[&grad], &[], &SGD).unwrap();
    assert!(param.is_leaf() && param.requires_grad());
    assert!(param.detach().allclose(&(before - grad * 0.1), 1e-6, 1e-7, false));
}

#[test]
fn a_gradient_laid_out_otherwise_is_read_in_its_order() {
    let param = Tensor::zeros([3, 2], (Kind::Float, Device::Cpu));
    let grad = randn(&[2, 3]).transpose(0, 1);
    assert!(!grad.is_contiguous());
    sgd(&[&param], &[&grad], &[], &Sgd { lr: 1.0, ..SGD }).unwrap();
    assert!(param.equal(&-grad));
}

#[test]
fn lists_that_do_not_fit_are_refused_before_memory_is_touched() {
    let error = |params: &[Tensor], grads: &[Tensor], buffers: &[Tensor]| {
        sgd(params, grads, buffers, &Sgd { momentum: 0.9, ..SGD }).unwrap_err().to_string()
    };
    let [a, b] = [randn(&[4]), randn(&[5])];
    let one = |t: &Tensor| [t.shallow_clone()];
    assert!(error(&one(&a), &[], &[]).contains("gradients: 0 tensors for 1"));
    assert!(error(&one(&a), &one(&b), &one(&a)).contains("gradient 0 is Float [5]"));
    assert!(error(&one(&a), &one(&a), &one(&b)).contains("momentum_buffer 0 is Float [5]"));
    assert!(error(&one(&a), &one(&a), &[]).contains("momentum_buffer: 0 tensors"));
    assert!(error(&one(&a), &one(&a.to_kind(Kind::Double)), &one(&a)).contains("Double"));
    let strided = randn(&[4, 4]).transpose(0, 1);
    assert!(error(&one(&strided), &one(&strided), &one(&strided)).contains("not contiguous"));
    assert!(error(&[Tensor::new()], &one(&a), &one(&a)).contains("tensor 0 of the list is undefined"));
    let steps = [Tensor::from_slice(&[0i64])];
    let state = AdamState { exp_avgs: &one(&a), exp_avg_sqs: &one(&a), max_exp_avg_sqs: &[], steps: &steps };
    assert!(
        adamw(&one(&a), &one(&a), &state, &ADAM, &Extra::default())
            .unwrap_err()
            .to_string()
            .contains("one Float")
    );
}

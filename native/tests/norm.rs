//! The norm of a sum and the joined linear layer against libtorch's own operations.

use native::{dropout_packed, keys, linear, norm_residual, runtime};
use tch::{Device, Kind, Tensor};

fn randn(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind).set_requires_grad(true)
}

fn difference(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (a.to_kind(Kind::Double), b.to_kind(Kind::Double));
    (&a - &b).abs().max().double_value(&[]) / b.abs().max().double_value(&[]).max(1e-30)
}

#[test]
fn a_norm_of_a_sum_is_its_operations() {
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
        for (d, p, added) in [(37, 0.0, false), (37, 0.3, true), (128, 0.1, true), (16, 0.5, false)] {
            let (x, residual) = (randn(&[75, d], kind), randn(&[75, d], kind));
            let (weight, bias) = (randn(&[d], Kind::Float), randn(&[d], Kind::Float));
            let offsets = Tensor::from_slice(&[0_i64, 3, 40, 70]);
            let keys = keys(5, 1, 2, &Tensor::arange(3, (Kind::Int64, Device::Cpu)));
            let residual_of = added.then_some(&residual);
            let drop = (p > 0.0).then_some((p, &keys, Some(&offsets)));
            let fused = norm_residual(&x, residual_of, &weight, &bias, 1e-5, drop);
            let float = |t: &Tensor| t.to_kind(Kind::Float);
            let mut sum = dropout_packed(&float(&x), p, &keys, &offsets);
            if added {
                sum += float(&residual);
            }
            let apart = sum.layer_norm([d], Some(&weight), Some(&bias), 1e-5, false);
            let what = format!("{kind:?} {d} {p} {added}");
            assert_eq!(fused.kind(), kind);
            assert!(difference(&fused, &apart) < tolerance, "{what}");
            let seen = Tensor::randn([75, d], (Kind::Float, Device::Cpu));
            let grads = |out: &Tensor| {
                let loss = (float(out) * &seen).sum(Kind::Float);
                let mut of = vec![&x, &weight, &bias];
                of.extend(residual_of);
                Tensor::run_backward(&[loss], &of, false, false)
            };
            for (a, b) in grads(&fused).iter().zip(grads(&apart)) {
                assert!(difference(a, &b) < tolerance, "{what}: {}", difference(a, &b));
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let run = |threads| {
        runtime::set_threads(threads).unwrap();
        tch::manual_seed(1);
        let (x, residual) = (randn(&[700, 96], Kind::Float), randn(&[700, 96], Kind::Float));
        let (weight, bias) = (randn(&[96], Kind::Float), randn(&[96], Kind::Float));
        let out = norm_residual(&x, Some(&residual), &weight, &bias, 1e-5, None);
        let grads = Tensor::run_backward(
            &[out.square().sum(Kind::Float)],
            &[&x, &residual, &weight, &bias],
            false,
            false,
        );
        (out, grads)
    };
    let (one, two) = (run(1), run(2));
    assert!(one.0.equal(&two.0) && one.1.iter().zip(&two.1).all(|(a, b)| a.equal(b)));
}

#[test]
fn layers_beside_each_other_are_one_product() {
    let x = randn(&[9, 5], Kind::Float);
    let all = Tensor::randn([7, 5], (Kind::Float, Device::Cpu));
    let biases = Tensor::randn([7], (Kind::Float, Device::Cpu));
    let parts = |of: &Tensor| -> Vec<Tensor> {
        [(0, 3), (3, 4)].map(|(at, n)| of.narrow(0, at, n).detach().set_requires_grad(true)).into()
    };
    let params: Vec<Tensor> = parts(&all).into_iter().chain(parts(&biases)).collect();
    let inputs: Vec<&Tensor> = std::iter::once(&x).chain(&params).collect();
    let grads = |out: Tensor| Tensor::run_backward(&[out.square().sum(Kind::Float)], &inputs, false, false);
    let joined = linear(&x, &all, Some(&biases), &params, 2);
    let apart =
        Tensor::cat(&[x.linear(&params[0], Some(&params[2])), x.linear(&params[1], Some(&params[3]))], 1);
    assert!(difference(&joined, &apart) < 1e-6);
    for (a, b) in grads(joined).iter().zip(grads(apart)) {
        assert!(difference(a, &b) < 1e-5);
    }
}

#[test]
fn a_copy_in_half_the_bits_gives_gradients_in_full() {
    let x = randn(&[9, 5], Kind::BFloat16);
    let weight = randn(&[4, 5], Kind::Float);
    let copy = weight.detach().to_kind(Kind::BFloat16);
    let out = linear(&x, &copy, None, &[&weight], 1);
    assert_eq!(out.kind(), Kind::BFloat16);
    let grads =
        Tensor::run_backward(&[out.to_kind(Kind::Float).sum(Kind::Float)], &[&x, &weight], false, false);
    assert_eq!((grads[0].kind(), grads[1].kind()), (Kind::BFloat16, Kind::Float));
    let expected =
        x.to_kind(Kind::Float).sum_dim_intlist([0].as_slice(), true, Kind::Float).expand([4, 5], false);
    assert!(difference(&grads[1], &expected) < 2e-2);
}

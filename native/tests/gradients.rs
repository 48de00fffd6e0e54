//! The norm of gradients and what is done with it.

use native::gradients::{clear_grads, clip_grad_norm, grad_norm, scale_grads};
use native::runtime;
use tch::{Device, Kind, Tensor};

fn randn(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

fn some() -> Vec<Tensor> {
    vec![randn(&[300, 170]), randn(&[7]), randn(&[]), randn(&[33, 5]).transpose(0, 1), randn(&[0, 4])]
}

/// In double precision, by the definition.
fn norm_of(grads: &[Tensor]) -> f64 {
    let square = |g: &Tensor| g.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
    grads.iter().map(square).sum::<f64>().sqrt()
}

#[test]
fn the_norm_is_that_of_all_gradients_as_one_vector() {
    let grads = some();
    let found = grad_norm(&grads).unwrap();
    assert_eq!((found.size(), found.kind()), (vec![], Kind::Float));
    assert!((found.double_value(&[]) / norm_of(&grads) - 1.0).abs() < 1e-7);
    assert_eq!(grad_norm::<Tensor>(&[]).unwrap().double_value(&[]), 0.0);

    let half: Vec<_> = grads.iter().map(|g| g.to_kind(Kind::BFloat16)).collect();
    assert!((grad_norm(&half).unwrap().double_value(&[]) / norm_of(&half) - 1.0).abs() < 1e-5);
    // A sum of squares in fp32 would overflow.
    let large = [Tensor::full([4], 1e30, (Kind::Float, Device::Cpu))];
    assert!((grad_norm(&large).unwrap().double_value(&[]) / 2e30 - 1.0).abs() < 1e-6);
}

#[test]
fn the_norm_has_the_same_bits_at_one_and_two_threads() {
    let grads = [randn(&[1000, 333]), randn(&[17])];
    runtime::set_threads(1).unwrap();
    let one = grad_norm(&grads).unwrap();
    runtime::set_threads(2).unwrap();
    assert!(one.equal(&grad_norm(&grads).unwrap()));
}

#[test]
fn clipping_scales_by_max_norm_over_norm() {
    let grads = some();
    let before: Vec<_> = grads.iter().map(Tensor::copy).collect();
    let norm = norm_of(&before);
    let returned = clip_grad_norm(&grads, 1.0).unwrap().double_value(&[]);
    assert!((returned / norm - 1.0).abs() < 1e-7, "the norm before clipping is returned");
    assert!((norm_of(&grads) - norm / (norm + 1e-6)).abs() < 1e-6);
    for (now, then) in grads.iter().zip(&before) {
        assert!(now.allclose(&(then / (norm + 1e-6)), 1e-6, 0.0, false));
    }
}

#[test]
fn a_small_norm_is_left_as_it_is() {
    let grads = some();
    let before: Vec<_> = grads.iter().map(Tensor::copy).collect();
    let _ = clip_grad_norm(&grads, 1e6).unwrap();
    assert!(grads.iter().zip(&before).all(|(now, then)| now.equal(then)));
}

#[test]
fn a_gradient_that_is_not_finite_shows_in_the_norm() {
    for bad in [f64::NAN, f64::INFINITY] {
        let grads = [randn(&[9]), Tensor::full([3], bad, (Kind::Float, Device::Cpu))];
        assert!(!clip_grad_norm(&grads, 1.0).unwrap().double_value(&[]).is_finite());
        assert_eq!(grads[1].isfinite().any().int64_value(&[]), 0);
    }
}

#[test]
fn scaling_reaches_every_gradient() {
    let grads = some();
    let before: Vec<_> = grads.iter().map(Tensor::copy).collect();
    scale_grads(&grads, 0.25).unwrap();
    assert!(grads.iter().zip(&before).all(|(now, then)| now.equal(&(then * 0.25))));
}

#[test]
fn cleared_gradients_are_undefined_and_come_back() {
    let x = randn(&[3]).set_requires_grad(true);
    let backward = || x.square().sum(Kind::Float).backward();
    backward();
    let first = x.grad().copy();
    clear_grads(&[&x]).unwrap();
    assert!(!x.grad().defined());
    backward();
    assert!(x.grad().equal(&first), "nothing of the old gradient is left");
}

#[test]
fn what_cannot_be_summed_is_named() {
    let error = |grads: &[Tensor]| grad_norm(grads).unwrap_err().to_string();
    assert!(error(&[randn(&[2]), Tensor::new()]).contains("tensor 1 of the list is undefined"));
    assert!(error(&[Tensor::from_slice(&[1i64])]).contains("gradient 0 is"));
    assert!(clip_grad_norm(&[randn(&[2])], -1.0).unwrap_err().to_string().contains("max_norm"));
}

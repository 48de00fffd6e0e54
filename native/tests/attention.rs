//! Attention against its definition, written with plain operations in double precision.

use native::{attention, dropout, f_attention, keys};
use tch::{Device, Kind, Tensor};

const LOWEST: f64 = f32::MIN as f64;

fn randn(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu))
}

/// Padding as transformers masks it: `[b, 1, 1, t]`, the last `i` positions of row `i` are out.
fn padding_mask(b: i64, t: i64) -> Tensor {
    let mask = Tensor::zeros([b, 1, 1, t], (Kind::Float, Device::Cpu));
    for row in 1..b {
        let _ = mask.select(0, row).narrow(2, t - row, row).fill_(LOWEST);
    }
    mask
}

fn by_definition(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor, factor: &Tensor) -> Tensor {
    let double = |x: &Tensor| x.to_kind(Kind::Double);
    let scale = 1.0 / (q.size()[3] as f64).sqrt();
    let scores = double(q).matmul(&double(k).transpose(-2, -1)) * scale + double(mask);
    (scores.softmax(-1, None) * double(factor)).matmul(&double(v))
}

fn close(a: &Tensor, b: &Tensor, tolerance: f64) -> bool {
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[]) < tolerance
}

#[test]
fn it_is_its_definition_with_and_without_dropout() {
    let (b, h, t, d) = (3, 4, 21, 16);
    let (q, k, v) = (randn(&[b, h, t, d]), randn(&[b, h, t, d]), randn(&[b, h, t, d]));
    let keys = keys(1, 2, 3, &Tensor::arange(b, (Kind::Int64, Device::Cpu)));
    let causal = Tensor::full([t, t], LOWEST, (Kind::Float, Device::Cpu)).triu(1).expand([b, 1, t, t], false);
    for mask in [padding_mask(b, t), causal] {
        for p in [0.0, 0.1, 0.6] {
            let factor = dropout(&Tensor::ones([b, h, t, t], (Kind::Float, Device::Cpu)), p, &keys);
            let found = attention(&q, &k, &v, Some(&mask), p, Some(&keys));
            assert!(close(&found, &by_definition(&q, &k, &v, &mask, &factor), 1e-5), "p {p}");
        }
    }
    let none = Tensor::zeros([1, 1, 1, 1], (Kind::Float, Device::Cpu));
    let factor = none.ones_like();
    assert!(close(&attention(&q, &k, &v, None, 0.0, None), &by_definition(&q, &k, &v, &none, &factor), 1e-5));
}

#[test]
fn queries_and_keys_may_differ_in_length() {
    let (q, k, v) = (randn(&[2, 2, 5, 8]), randn(&[2, 2, 9, 8]), randn(&[2, 2, 9, 8]));
    let keys = keys(1, 2, 3, &Tensor::arange(2, (Kind::Int64, Device::Cpu)));
    let mask = padding_mask(2, 9);
    let factor = dropout(&Tensor::ones([2, 2, 5, 9], (Kind::Float, Device::Cpu)), 0.3, &keys);
    let found = attention(&q, &k, &v, Some(&mask), 0.3, Some(&keys));
    assert!(close(&found, &by_definition(&q, &k, &v, &mask, &factor), 1e-5));
}

#[test]
fn gradients_are_those_of_the_definition() {
    let leaf = || randn(&[2, 2, 7, 8]).set_requires_grad(true);
    let (q, k, v) = (leaf(), leaf(), leaf());
    let keys = keys(1, 2, 3, &Tensor::arange(2, (Kind::Int64, Device::Cpu)));
    let mask = padding_mask(2, 7);
    let weight = randn(&[2, 2, 7, 8]);
    for p in [0.0, 0.4] {
        let factor = dropout(&Tensor::ones([2, 2, 7, 7], (Kind::Float, Device::Cpu)), p, &keys);
        let grads = |out: Tensor| {
            let loss = (out * &weight).sum(Kind::Double);
            Tensor::run_backward(&[loss], &[&q, &k, &v], false, false)
        };
        let found = grads(attention(&q, &k, &v, Some(&mask), p, Some(&keys)));
        let expected = grads(by_definition(&q, &k, &v, &mask, &factor));
        for (a, b) in found.iter().zip(&expected) {
            assert!(close(a, b, 1e-5), "p {p}");
        }
    }
}

#[test]
fn more_padding_draws_the_same_for_real_tokens() {
    let (b, h, t, d) = (2, 2, 6, 8);
    let (q, k, v) = (randn(&[b, h, t, d]), randn(&[b, h, t, d]), randn(&[b, h, t, d]));
    let keys = keys(1, 2, 3, &Tensor::arange(b, (Kind::Int64, Device::Cpu)));
    let short = attention(&q, &k, &v, None, 0.3, Some(&keys));
    let pad = |x: &Tensor| x.constant_pad_nd([0, 0, 0, 10]);
    let mask = Tensor::zeros([b, 1, 1, t + 10], (Kind::Float, Device::Cpu));
    let _ = mask.narrow(3, t, 10).fill_(LOWEST);
    let long = attention(&pad(&q), &pad(&k), &pad(&v), Some(&mask), 0.3, Some(&keys));
    assert!(close(&long.narrow(2, 0, t), &short, 1e-6));
}

#[test]
fn dropout_without_keys_and_shapes_that_do_not_fit_are_errors() {
    let x = randn(&[1, 1, 3, 4]);
    let without = f_attention(&x, &x, &x, None, 0.1, None).unwrap_err().to_string();
    assert!(without.contains("without keys"), "{without}");
    let k = randn(&[1, 1, 3, 5]);
    assert!(f_attention(&x, &k, &x, None, 0.0, None).is_err());
}

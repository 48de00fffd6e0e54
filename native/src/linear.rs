//! A linear layer whose parameters need not be the numbers that it multiplies by.

use std::borrow::Borrow;

use tch::Tensor;

use crate::{Result, ffi};

/// `x · weightᵀ + bias`, with gradients for `params`.
///
/// - `x`: `[tokens, in]`;
/// - `weight`: `[out, in]`, `bias`: `[out]`, in the kind of `x`: what is computed with, without gradients;
/// - `params`: `weights` weights whose rows together are `weight`'s, then as many biases, or none. They may share memory
///   with `weight` (several layers beside each other are one product), or hold it in a higher precision.
///
/// Returns `[tokens, out]`. A gradient comes in the kind of its parameter. Where no weight is trained, `x` is not kept.
///
/// # Errors
/// When shapes or kinds do not fit.
pub fn f_linear<T: Borrow<Tensor>>(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    params: &[T],
    weights: usize,
) -> Result<Tensor> {
    ffi::linear(x, weight, bias, params, weights)
}

/// [`f_linear`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_linear`] gives an error.
pub fn linear<T: Borrow<Tensor>>(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    params: &[T],
    weights: usize,
) -> Tensor {
    f_linear(x, weight, bias, params, weights).unwrap()
}

/// `x · weightᵀ + bias` without a gradient, for a model that writes a token at a time or reads several prompts at once.
///
/// Rows of fp32 on the CPU are multiplied by a kernel of our own that reads the weight once for few rows; the bits of a row do not
/// depend on the rows beside it nor on how many they are. The weight may lie by row or by column, and be in bf16 while `x` is not.
/// Training has [`f_linear`], whose bits are the same whether gradients are wanted or not.
///
/// # Errors
/// When shapes do not fit.
pub fn f_linear_of_few(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    ffi::linear_of_few(x, weight, bias)
}

/// [`f_linear_of_few`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_linear_of_few`] gives an error.
pub fn linear_of_few(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    f_linear_of_few(x, weight, bias).unwrap()
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    /// Gradients of a product whose input a norm or a gate made, which is seen or hidden by a view.
    fn grads_of(input: impl Fn(&Tensor) -> Tensor, start: &Tensor, hidden: bool) -> Vec<Tensor> {
        let (start, weight) =
            (start.detach().set_requires_grad(true), Tensor::ones([3, 6], (start.kind(), Device::Cpu)));
        let weight = (weight * 0.25).set_requires_grad(true);
        let made = input(&start);
        let made = if hidden { made.view_as(&made) } else { made };
        let out = linear(&made, &weight.detach(), None, &[&weight], 1);
        let factors = [[2, 6], [3, 2]].map(|shape: [i64; 2]| {
            Tensor::full(shape, 0.5, (start.kind(), Device::Cpu)).set_requires_grad(true)
        });
        let numbers = [&factors[0].detach(), &factors[1].detach()];
        let adapter = crate::Adapter { start: 0, numbers, params: [&factors[0], &factors[1]] };
        let out = crate::low_rank(out, &made, &[adapter], 2.0);
        drop(made);
        let leaves = [&start, &weight, &factors[0], &factors[1]];
        Tensor::run_backward(&[out.square().sum(Kind::Float)], &leaves, false, false)
    }

    #[test]
    fn an_input_that_is_made_again_gives_the_same_bits() {
        tch::manual_seed(2);
        for kind in [Kind::Float, Kind::BFloat16] {
            let start = Tensor::randn([40, 12], (Kind::Float, Device::Cpu)).to_kind(kind);
            let norm_weight = Tensor::randn([6], (Kind::Float, Device::Cpu));
            let gate = |x: &Tensor| crate::gated(x, crate::Gate::Silu);
            let half = start.narrow(1, 0, 6).contiguous();
            let norm = |x: &Tensor| crate::rms_norm(x, Some(&(x * 0.5)), &norm_weight, 1e-5, 1.0).0;
            for (seen, hidden) in [
                (grads_of(gate, &start, false), grads_of(gate, &start, true)),
                (grads_of(norm, &half, false), grads_of(norm, &half, true)),
            ] {
                assert!(seen.iter().zip(&hidden).all(|(seen, hidden)| seen.equal(hidden)), "{kind:?}");
            }
        }
    }

    #[test]
    fn an_input_that_can_be_made_again_is_not_kept() {
        const ROWS: i64 = 1 << 20;
        let opened = Tensor::zeros([ROWS, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let weight = Tensor::zeros([1, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let kept = |hidden: bool| {
            let before = crate::memory::allocated_bytes();
            let made = crate::gated(&opened, crate::Gate::Silu);
            let made = if hidden { made.view_as(&made) } else { made };
            let out = linear(&made, &weight.detach(), None, &[&weight], 1);
            drop(made);
            let after = crate::memory::allocated_bytes();
            drop(out);
            after.saturating_sub(before) as i64 / (4 * ROWS)
        };
        // A number a row goes out; four a row come in.
        assert_eq!((kept(false), kept(true)), (1, 5));
    }

    #[test]
    fn rows_get_what_libtorch_gives_and_the_same_bits_in_any_company() {
        tch::manual_seed(4);
        let options = (Kind::Float, Device::Cpu);
        for (inputs, outputs) in [(576, 97), (7, 3), (40, 1), (33, 300)] {
            let weight = Tensor::randn([outputs, inputs], options);
            let bias = Tensor::randn([outputs], options);
            let x = Tensor::randn([300, inputs], options);
            let right = x.matmul(&weight.transpose(0, 1)) + &bias;
            let by_column = weight.transpose(0, 1).contiguous().transpose(0, 1);
            let low = weight.to_kind(Kind::BFloat16);
            let low_right = x.matmul(&low.to_kind(Kind::Float).transpose(0, 1)) + &bias;
            for (way, weight, right) in [
                ("by row", &weight, &right),
                ("by column", &by_column, &right),
                ("in bf16", &low, &low_right),
            ] {
                let name = |rows: i64| format!("{rows} rows of {inputs} to {outputs} {way}");
                let alone: Vec<Tensor> =
                    (0..300).map(|row| linear_of_few(&x.narrow(0, row, 1), weight, Some(&bias))).collect();
                let alone = Tensor::cat(&alone, 0);
                for (first, rows) in
                    [(0, 1), (1, 2), (2, 3), (0, 4), (5, 7), (7, 32), (0, 33), (3, 113), (11, 129), (0, 300)]
                {
                    let found = linear_of_few(&x.narrow(0, first, rows), weight, Some(&bias));
                    let off = (&found - right.narrow(0, first, rows)).abs().max().double_value(&[]);
                    assert!(off < 2e-4, "{}: {off}", name(rows));
                    assert!(alone.narrow(0, first, rows).equal(&found), "{}", name(rows));
                }
            }
        }
    }
}

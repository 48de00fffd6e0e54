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

//! Root-mean-square norm of a sum, and the sum, in one pass.

use tch::Tensor;

use crate::{Result, ffi};

/// `y / √(mean(y²) + eps) · (add + weight)` over the last dimension, of `y = residual + x`; and `y` itself where there is a
/// residual.
///
/// - `x`, `residual`: `[n, d]`, alike; without a residual `y` is `x`;
/// - `weight`: fp32 `[d]`;
/// - `add`: 0; 1 in families that keep what a weight has beyond 1 (Gemma).
///
/// Returns the shape and kind of `x`. fp32 inside, on the CPU by a kernel of our own whose bits do not depend on the number
/// of threads; elsewhere by libtorch's operations.
///
/// Source: B. Zhang, R. Sennrich, "Root mean square layer normalization", 2019.
///
/// # Errors
/// When shapes, kinds or devices do not fit.
pub fn f_rms_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    eps: f64,
    add: f64,
) -> Result<(Tensor, Option<Tensor>)> {
    ffi::rms_norm(x, residual, weight, eps, add, false)
}

/// [`f_rms_norm`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_rms_norm`] gives an error.
pub fn rms_norm(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    eps: f64,
    add: f64,
) -> (Tensor, Option<Tensor>) {
    f_rms_norm(x, residual, weight, eps, add).unwrap()
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::ffi::tests::{close, leaf};

    #[test]
    fn the_kernel_is_its_tensor_operations() {
        tch::manual_seed(1);
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 2e-2)] {
            for (rows, width, add, summed) in [(130, 32, 0.0, true), (1, 7, 1.0, true), (70, 48, 1.0, false)]
            {
                let (x, residual) = (leaf(&[rows, width], kind), leaf(&[rows, width], kind));
                let weight = leaf(&[width], Kind::Float);
                let seen = Tensor::randn([2 * rows, width], (Kind::Float, Device::Cpu));
                let run = |by_ops: bool| {
                    let residual = summed.then_some(&residual);
                    let (out, sum) = ffi::rms_norm(&x, residual, &weight, 1e-6, add, by_ops).unwrap();
                    let all = Tensor::cat(&[&out, sum.as_ref().unwrap_or(&out)], 0).to_kind(Kind::Float);
                    let inputs = [Some(&x), Some(&weight), residual].into_iter().flatten();
                    let inputs: Vec<&Tensor> = inputs.collect();
                    let mut found =
                        Tensor::run_backward(&[(&all * &seen).sum(Kind::Float)], &inputs, false, false);
                    found.push(all.detach());
                    found
                };
                close(&run(false), &run(true), tolerance);
            }
        }
    }
}

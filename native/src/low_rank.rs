//! Low-rank adapters beside frozen layers.

use tch::Tensor;

use crate::{Result, ffi};

/// One adapter beside one of several layers: the matrices A `[rank, in]` and B `[out, rank]`.
#[derive(Debug)]
pub struct Adapter<'a> {
    /// Which of the layers' outputs is its first.
    pub start: i64,
    /// A and B in the kind that is multiplied in.
    pub numbers: [&'a Tensor; 2],
    /// A and B as they are trained: their gradients come in this kind.
    pub params: [&'a Tensor; 2],
}

/// `base + scale · (x Aᵀ) Bᵀ`, written into `base`: that is `[n, out]`, what the layers made of `x` `[n, in]`, and nobody else's.
///
/// Source: E. Hu et al., "LoRA: Low-rank adaptation of large language models", 2021. All adapters share one product with `x`
/// each way, and no sum of theirs stands beside `base`.
///
/// # Errors
/// When shapes or kinds do not fit.
pub fn f_low_rank(base: Tensor, x: &Tensor, adapters: &[Adapter], scale: f64) -> Result<Tensor> {
    let which = |matrix: usize| adapters.iter().map(move |adapter| adapter.numbers[matrix]);
    let numbers: Vec<&Tensor> = which(0).chain(which(1)).collect();
    let which = |matrix: usize| adapters.iter().map(move |adapter| adapter.params[matrix]);
    let params: Vec<&Tensor> = which(0).chain(which(1)).collect();
    let starts: Vec<i64> = adapters.iter().map(|adapter| adapter.start).collect();
    ffi::low_rank(&base, x, &numbers, &params, &starts, scale)
}

/// [`f_low_rank`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_low_rank`] gives an error.
pub fn low_rank(base: Tensor, x: &Tensor, adapters: &[Adapter], scale: f64) -> Tensor {
    f_low_rank(base, x, adapters, scale).unwrap()
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::ffi::tests::{close, leaf};
    use crate::linear;

    #[test]
    fn outputs_and_gradients_are_those_of_the_products_apart() {
        tch::manual_seed(5);
        for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 4e-2)] {
            let random = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.3;
            let weight = random([20, 12]).to_kind(kind);
            // Of three layers the second has no adapter.
            let sizes = [(0, 7, 2), (11, 9, 3)];
            let (x, up) = (leaf(&[10, 12], kind), random([10, 20]).to_kind(kind));
            let factors: Vec<[Tensor; 2]> = sizes
                .iter()
                .map(|&(_, outputs, rank)| {
                    [leaf(&[rank, 12], Kind::Float), leaf(&[outputs, rank], Kind::Float)]
                })
                .collect();
            let run = |fused: bool| {
                let numbers: Vec<[Tensor; 2]> = factors
                    .iter()
                    .map(|pair| [0, 1].map(|which| pair[which].detach().to_kind(kind)))
                    .collect();
                let base = linear(&x, &weight, None, &[&weight], 1);
                let out = if fused {
                    let adapters: Vec<Adapter> = (0..2)
                        .map(|n| Adapter {
                            start: sizes[n].0,
                            numbers: [&numbers[n][0], &numbers[n][1]],
                            params: [&factors[n][0], &factors[n][1]],
                        })
                        .collect();
                    low_rank(base, &x, &adapters, 0.5)
                } else {
                    let added = (0..2).map(|n| {
                        let [a, b] = [0, 1].map(|which| factors[n][which].to_kind(kind));
                        let made = x.matmul(&a.transpose(0, 1)).matmul(&b.transpose(0, 1)) * 0.5;
                        let (start, outputs, _) = sizes[n];
                        made.constant_pad_nd([start, 20 - start - outputs])
                    });
                    added.fold(base, |sum, added| sum + added)
                };
                let leaves: Vec<&Tensor> = [&x].into_iter().chain(factors.iter().flatten()).collect();
                let grads = Tensor::run_backward(&[(&out * &up).sum(Kind::Float)], &leaves, false, false);
                (out, grads)
            };
            let ((found, grads), (right, expected)) = (run(true), run(false));
            close(&[found], &[right], tolerance);
            assert!(grads.iter().zip(&expected).all(|(found, right)| found.kind() == right.kind()));
            close(&grads, &expected, tolerance);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let zeros = |shape: [i64; 2]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
        let (a, b) = (zeros([2, 5]), zeros([4, 2]));
        let adapter = |start| [Adapter { start, numbers: [&a, &b], params: [&a, &b] }];
        assert!(f_low_rank(zeros([3, 6]), &zeros([3, 5]), &adapter(2), 1.0).is_ok());
        for (base, x, start) in
            [([3, 6], [3, 5], 3), ([3, 6], [3, 4], 0), ([2, 6], [3, 5], 0), ([3, 6], [3, 5], -1)]
        {
            let error = f_low_rank(zeros(base), &zeros(x), &adapter(start), 1.0).unwrap_err();
            assert!(error.to_string().contains("low_rank"), "{error}");
        }
        assert!(f_low_rank(zeros([3, 6]), &zeros([3, 5]), &[], 1.0).is_err());
    }
}

//! The middle of a gated feed-forward block.

use tch::Tensor;

use crate::{Result, ffi};

/// The activation of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU by tanh.
    GeluTanh,
    /// Exact GELU.
    Gelu,
}

impl Gate {
    fn number(self) -> i64 {
        match self {
            Gate::Silu => 0,
            Gate::GeluTanh => 1,
            Gate::Gelu => 2,
        }
    }
}

/// `act(gate) · up` of both side by side: `[n, 2 m]` → `[n, m]`, in the kind of `x`.
///
/// On the CPU a kernel of our own computes it, in fp32 inside, and keeps `x` alone for backward.
///
/// Source: N. Shazeer, "GLU variants improve Transformer", 2020.
///
/// # Errors
/// When `x` has no two halves.
pub fn f_gated(x: &Tensor, gate: Gate) -> Result<Tensor> {
    ffi::gated(x, gate.number(), false)
}

/// [`f_gated`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_gated`] gives an error.
pub fn gated(x: &Tensor, gate: Gate) -> Tensor {
    f_gated(x, gate).unwrap()
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::ffi::tests::{close, leaf};

    #[test]
    fn the_kernel_is_its_tensor_operations() {
        tch::manual_seed(1);
        for gate in [Gate::Silu, Gate::GeluTanh, Gate::Gelu] {
            for (kind, tolerance) in [(Kind::Float, 2e-6), (Kind::BFloat16, 2e-2)] {
                // Far out the exponential would leave fp32.
                let x = leaf(&[33, 38], kind);
                let wide = (&x * 30.0).detach().set_requires_grad(true);
                for x in [x, wide] {
                    let run = |by_ops: bool| {
                        let out = ffi::gated(&x, gate.number(), by_ops).unwrap().to_kind(Kind::Float);
                        let loss = out.square().sum(Kind::Float);
                        let grad = Tensor::run_backward(&[loss], &[&x], false, false);
                        [grad[0].shallow_clone(), out.detach()]
                    };
                    close(&run(false), &run(true), tolerance);
                }
            }
        }
    }
}

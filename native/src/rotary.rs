//! Rotary position embedding.

use tch::Tensor;

use crate::{Result, ffi};

/// Cosines and sines by position, fp32 `[positions, turned / 2]` each.
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// Cosines.
    pub cos: &'a Tensor,
    /// Sines.
    pub sin: &'a Tensor,
}

/// Turns the first `heads` heads, of `width` numbers each, of every row by the angles of its position; what is to the right
/// of them stays as it is.
///
/// Of a head the first `turned` numbers are points: number `i` and number `i + turned / 2`, turned by angle `i`. That is the
/// order of transformers' `rotate_half`.
///
/// - `x`: `[n, any]`, at least `heads · width` wide;
/// - `positions`: Int64 `[n]`.
///
/// Returns the shape and kind of `x`; fp32 inside on the CPU.
///
/// Source: J. Su et al., "RoFormer", 2021, section 3.4.
///
/// # Errors
/// When shapes do not fit, or a position has no angles.
pub fn f_rotary(x: &Tensor, angles: Angles, positions: &Tensor, heads: i64, width: i64) -> Result<Tensor> {
    ffi::rotary(x, (angles.cos, angles.sin), positions, heads, width, false)
}

/// [`f_rotary`] in the manner of tch's operations.
///
/// # Panics
/// Where [`f_rotary`] gives an error.
pub fn rotary(x: &Tensor, angles: Angles, positions: &Tensor, heads: i64, width: i64) -> Tensor {
    f_rotary(x, angles, positions, heads, width).unwrap()
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::ffi::tests::{close, leaf};

    #[test]
    fn the_kernel_is_its_tensor_operations() {
        tch::manual_seed(1);
        let angle = Tensor::rand([9, 3], (Kind::Float, Device::Cpu)) * 6.0;
        let (cos, sin) = (angle.cos(), angle.sin());
        let positions = Tensor::from_slice(&[0_i64, 8, 3, 3, 1]);
        for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 2e-2)] {
            let x = leaf(&[5, 30], kind);
            let seen = Tensor::randn([5, 30], (Kind::Float, Device::Cpu));
            let run = |by_ops: bool| {
                let out = ffi::rotary(&x, (&cos, &sin), &positions, 3, 8, by_ops).unwrap();
                let out = out.to_kind(Kind::Float);
                let loss = (&out * &seen).sum(Kind::Float);
                let grad = Tensor::run_backward(&[loss], &[&x], false, false);
                [grad[0].shallow_clone(), out.detach()]
            };
            close(&run(false), &run(true), tolerance);
        }
        let far = Tensor::from_slice(&[0_i64, 9, 3, 3, 1]);
        let error = f_rotary(&leaf(&[5, 30], Kind::Float), Angles { cos: &cos, sin: &sin }, &far, 3, 8);
        assert!(error.unwrap_err().to_string().contains("leave the 9"));
    }
}

//! Frozen weights in 4 bits, in the layout and with the numbers of bitsandbytes.
//!
//! T. Dettmers et al., "QLoRA: Efficient finetuning of quantized LLMs" (2023), with double quantization: of 64 numbers
//! the largest magnitude is kept in 8 bits, 256 of which share an fp32 scale.

use tch::{Kind, Tensor};

use crate::{Result, ffi};

/// Numbers that share a scale.
pub const BLOCK: i64 = 64;

/// Scales that share a scale.
const NESTED_BLOCK: i64 = 256;

/// The levels of NF4: quantiles of a normal distribution within -1 to 1, with an exact 0 (appendix E of the paper).
pub const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// A matrix in 4 bits a number and half a bit for scales.
#[derive(Debug)]
pub struct Nf4 {
    /// Two codes a byte, the first in the upper half, row by row: Uint8 `[rows · columns / 2]`.
    pub codes: Tensor,
    /// Codes of the largest magnitude of each [`BLOCK`] numbers, less their mean: Uint8.
    pub scales: Tensor,
    /// Float, one for 256 scales.
    pub nested: Tensor,
    /// The mean of the scales, Float scalar.
    pub offset: Tensor,
    levels: Tensor,
    map: Tensor,
    rows: i64,
    columns: i64,
}

impl Nf4 {
    /// Quantizes `weight` `[rows, columns]`, of an even number of elements.
    ///
    /// # Errors
    /// libtorch's; when the shape is another.
    pub fn quantize(weight: &Tensor) -> Result<Self> {
        let (rows, columns) = weight.size2()?;
        if (rows * columns) % 2 != 0 {
            return Err(tch::TchError::Shape(format!(
                "nf4: [{rows}, {columns}] has an odd number of elements"
            )));
        }
        let device = weight.device();
        let levels = Tensor::from_slice(&LEVELS).to_device(device);
        let map = dynamic_map()?.to_device(device);
        let (codes, largest) = tch::no_grad(|| quantized(weight, &levels, BLOCK))?;
        let pairs = codes.f_view([-1, 2])?;
        let (upper, lower) = (pairs.f_select(1, 0)?, pairs.f_select(1, 1)?);
        let offset = largest.f_mean(Kind::Float)?;
        let (scales, nested) = quantized(&largest.f_sub(&offset)?, &map, NESTED_BLOCK)?;
        let codes = (upper * 16 + lower).f_to_kind(Kind::Uint8)?.contiguous();
        Ok(Nf4 { codes, scales: scales.f_to_kind(Kind::Uint8)?, nested, offset, levels, map, rows, columns })
    }

    /// The matrix again, Float `[rows, columns]`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn dequantize(&self) -> Result<Tensor> {
        ffi::nf4_dequantize(&self.parts(), self.rows, self.columns)
    }

    /// `x · matrixᵀ + bias`, `[n, columns]` → `[n, rows]` in the kind of `x`, with a gradient for `x` alone. The matrix
    /// is made for each product, also in the backward pass, and not kept.
    ///
    /// # Errors
    /// libtorch's; when shapes do not fit.
    pub fn f_linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        ffi::nf4_linear(x, bias, &self.parts(), self.rows)
    }

    /// Its rows.
    pub fn rows(&self) -> i64 {
        self.rows
    }

    /// Its columns.
    pub fn columns(&self) -> i64 {
        self.columns
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        [&self.codes, &self.scales, &self.nested, &self.offset]
            .map(|tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64)
            .iter()
            .sum()
    }

    fn parts(&self) -> [&Tensor; 6] {
        [&self.codes, &self.levels, &self.scales, &self.map, &self.nested, &self.offset]
    }
}

/// For each number the nearest of `levels`, which ascend, times the largest magnitude of its block; and those magnitudes.
fn quantized(numbers: &Tensor, levels: &Tensor, block: i64) -> Result<(Tensor, Tensor)> {
    let flat = numbers.f_detach()?.f_to_kind(Kind::Float)?.f_reshape([-1])?;
    let count = flat.size()[0];
    let blocks = (count + block - 1) / block;
    let padded = flat.f_constant_pad_nd([0, blocks * block - count])?.f_view([blocks, block])?;
    let largest = padded.f_abs()?.f_amax([1], false)?;
    let inverse = largest.f_clamp_min(1e-38)?.f_reciprocal()?.f_unsqueeze(1)?;
    let scaled = padded.f_mul(&inverse)?.f_clamp(-1.0, 1.0)?.f_view([-1])?.f_narrow(0, 0, count)?;
    let last = levels.size()[0] - 1;
    let between = (levels.f_narrow(0, 0, last)? + levels.f_narrow(0, 1, last)?) / 2.0;
    Ok((scaled.contiguous().f_bucketize(&between, true, false)?, largest))
}

/// The 256 codes of scales: decades of 10⁰ to 10⁻⁶ of either sign, the finer the larger, and 0 and 1 (T. Dettmers,
/// "8-bit approximations for parallelism in deep learning", 2016).
fn dynamic_map() -> Result<Tensor> {
    let mut codes = vec![0.0_f32, 1.0];
    for decade in 0..7 {
        let edges = Tensor::f_linspace(0.1, 1.0, (1 << decade) + 1, (Kind::Float, tch::Device::Cpu))?;
        let count = 1 << decade;
        let middles = (edges.f_narrow(0, 0, count)? + edges.f_narrow(0, 1, count)?) / 2.0;
        let middles = Vec::<f32>::try_from(middles * 10_f64.powi(decade - 6))?;
        codes.extend(middles.iter().flat_map(|code| [*code, -code]));
    }
    codes.sort_by(f32::total_cmp);
    Ok(Tensor::from_slice(&codes))
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    fn matrix(rows: i64, columns: i64) -> Tensor {
        tch::manual_seed(7);
        Tensor::randn([rows, columns], (Kind::Float, Device::Cpu)) * 0.05
    }

    #[test]
    fn there_are_256_codes_of_scales_and_they_ascend() {
        let codes = Vec::<f32>::try_from(dynamic_map().unwrap()).unwrap();
        assert_eq!(codes.len(), 256);
        assert!(codes.windows(2).all(|two| two[0] < two[1]));
        assert_eq!((codes[255], codes[127]), (1.0, 0.0));
    }

    #[test]
    fn a_matrix_takes_about_half_a_byte_a_number_and_comes_back_near() {
        let whole = matrix(96, 130);
        let kept = Nf4::quantize(&whole).unwrap();
        let bits = kept.bytes() as f64 * 8.0 / whole.numel() as f64;
        assert!((4.0..4.2).contains(&bits), "{bits}");
        let off = (kept.dequantize().unwrap() - &whole).norm() / whole.norm();
        assert!(f64::try_from(off).unwrap() < 0.1);
    }

    #[test]
    fn a_product_and_its_gradient_are_those_of_the_matrix_in_full() {
        let kept = Nf4::quantize(&matrix(48, 32)).unwrap();
        let x = matrix(5, 32).set_requires_grad(true);
        let bias = matrix(1, 48).squeeze();
        let y = kept.f_linear(&x, Some(&bias)).unwrap();
        let full = kept.dequantize().unwrap();
        let right = x.detach().linear(&full, Some(&bias));
        assert!(y.allclose(&right, 1e-6, 1e-7, false));
        y.square().sum(Kind::Float).backward();
        let gradient = (right * 2.0).matmul(&full);
        assert!(x.grad().allclose(&gradient, 1e-5, 1e-6, false));
    }
}

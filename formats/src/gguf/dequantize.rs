//! Blocks of quantized elements to fp32.
//!
//! Layouts are those of the format's description: a block's scale (and minimum) in 16 bits, then its elements. In the K types
//! 256 elements share these, and groups of 16 or 32 have small multiples of them. Products and sums are made in fp32 in the
//! order of the reference, so that results are the same bits.

use half::{bf16, f16};

use super::kind::TensorKind;

/// Writes whole blocks as fp32; `bytes` and `out` must belong to the same number of blocks.
pub(super) fn dequantize(kind: TensorKind, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.chunks_exact(kind.block_bytes() as usize);
    debug_assert_eq!(blocks.len() * kind.block() as usize, out.len(), "blocks of {kind}");
    let pairs = blocks.zip(out.chunks_exact_mut(kind.block() as usize));
    let each: fn(&[u8], &mut [f32]) = match kind {
        TensorKind::F32 => |block, out| out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
        TensorKind::F16 => |block, out| out[0] = half_at(block, 0),
        TensorKind::Bf16 => |block, out| out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
        TensorKind::Q4_0 => q4_0,
        TensorKind::Q4_1 => q4_1,
        TensorKind::Q5_0 => q5_0,
        TensorKind::Q5_1 => q5_1,
        TensorKind::Q8_0 => q8_0,
        TensorKind::Q2K => q2_k,
        TensorKind::Q3K => q3_k,
        TensorKind::Q4K => q4_k,
        TensorKind::Q5K => q5_k,
        TensorKind::Q6K => q6_k,
    };
    pairs.for_each(|(block, out)| each(block, out));
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Element `at` of 32: the first half lies in the low four bits of 16 bytes, the second in the high ones.
fn nibble(bytes: &[u8], at: usize) -> u8 {
    if at < 16 { bytes[at] & 15 } else { bytes[at - 16] >> 4 }
}

/// The fifth bit of element `at` of 32.
fn fifth(bytes: &[u8], at: usize) -> u8 {
    (bytes[at / 8] >> (at % 8) & 1) << 4
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (at, out) in out.iter_mut().enumerate() {
        *out = scale * (f32::from(nibble(&block[2..], at)) - 8.0);
    }
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    for (at, out) in out.iter_mut().enumerate() {
        *out = scale * f32::from(nibble(&block[4..], at)) + least;
    }
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (at, out) in out.iter_mut().enumerate() {
        *out = scale * (f32::from(nibble(&block[6..], at) | fifth(&block[2..], at)) - 16.0);
    }
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    for (at, out) in out.iter_mut().enumerate() {
        *out = scale * f32::from(nibble(&block[8..], at) | fifth(&block[4..], at)) + least;
    }
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half_at(block, 0);
    for (out, byte) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(*byte as i8) * scale;
    }
}

/// 16 groups of 16; four bits each for a group's scale and minimum, two for an element.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, elements) = (&block[..16], &block[16..80]);
    let (scale, least) = (half_at(block, 80), half_at(block, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (step, offset) = (scale * f32::from(scales[group] & 15), least * f32::from(scales[group] >> 4));
        // 128 elements share 32 bytes: 32 elements for each two bits.
        let (first, shift) = (group / 8 * 32 + group % 2 * 16, group / 2 % 4 * 2);
        for (at, out) in out.iter_mut().enumerate() {
            *out = step * f32::from(elements[first + at] >> shift & 3) - offset;
        }
    }
}

/// 16 groups of 16; six bits for a group's scale, three for an element, whose highest one lies apart and is inverted.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let (high, elements, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = half_at(block, 108);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let low = packed[group % 8] >> (group / 8 * 4) & 15;
        let top = packed[8 + group % 4] >> (group / 4 * 2) & 3;
        let step = scale * (f32::from(low | top << 4) - 32.0);
        let (first, shift) = (group / 8 * 32 + group % 2 * 16, group / 2 % 4 * 2);
        for (at, out) in out.iter_mut().enumerate() {
            let low = elements[first + at] >> shift & 3;
            let is_high = high[group % 2 * 16 + at] >> (group / 2) & 1 == 1;
            *out = step * (f32::from(low) - if is_high { 0.0 } else { 4.0 });
        }
    }
}

/// Six bits each for the scale and the minimum of group `group` of 8, in 12 bytes: the lower four groups lie whole in the first
/// eight bytes, whose two highest bits are those of the upper four.
pub(super) fn scale_and_least(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (packed[group] & 63, packed[group + 4] & 63);
    }
    let low = packed[group + 4];
    (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
}

/// 8 groups of 32; 64 elements share 32 bytes.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (step, offset) = scale_and_least(&block[4..16], group);
        let (step, offset) = (scale * f32::from(step), least * f32::from(offset));
        let elements = &block[16 + group / 2 * 32..];
        for (out, byte) in out.iter_mut().zip(elements) {
            *out = step * f32::from(byte >> (group % 2 * 4) & 15) - offset;
        }
    }
}

/// As `q4_k`, with the fifth bits of group `g` in bit `g` of 32 bytes.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half_at(block, 0), half_at(block, 2));
    let high = &block[16..48];
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (step, offset) = scale_and_least(&block[4..16], group);
        let (step, offset) = (scale * f32::from(step), least * f32::from(offset));
        let elements = &block[48 + group / 2 * 32..];
        for (at, out) in out.iter_mut().enumerate() {
            let element = elements[at] >> (group % 2 * 4) & 15 | (high[at] >> group & 1) << 4;
            *out = step * f32::from(element) - offset;
        }
    }
}

/// 16 groups of 16 with a scale of eight bits; of 128 elements four bits lie in 64 bytes, two in 32.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let step = scale * f32::from(scales[group] as i8);
        // Which 32 of the half's 128 elements, and where in them.
        let (half, quarter, first) = (group / 8, group / 2 % 4, group % 2 * 16);
        for (at, out) in out.iter_mut().enumerate() {
            let bits = low[half * 64 + quarter % 2 * 32 + first + at] >> (quarter / 2 * 4) & 15;
            let top = high[half * 32 + first + at] >> (quarter * 2) & 3;
            *out = step * (f32::from(bits | top << 4) - 32.0);
        }
    }
}

//! fp32 to blocks of quantized elements.
//!
//! Where llama.cpp's files leave freedom, which is in the choice of scales, a block's sum of squared errors decides: nothing is
//! known of the inputs, for which that is the expected error of a product. A group's scale and minimum start from several
//! divisions of its range and go to the least squares of the elements they give; after they were rounded to the block's grid,
//! their neighbours are tried.

mod groups;
mod k;

use half::{bf16, f16};

use super::kind::TensorKind;

/// Writes values as whole blocks; `None` for a type that is read alone.
pub(super) fn quantize(kind: TensorKind, values: &[f32], out: &mut [u8]) -> Option<()> {
    let each: fn(&[f32], &mut [u8]) = match kind {
        TensorKind::F32 => |values, out| out.copy_from_slice(&values[0].to_le_bytes()),
        TensorKind::F16 => |values, out| out.copy_from_slice(&f16::from_f32(values[0]).to_le_bytes()),
        TensorKind::Bf16 => |values, out| out.copy_from_slice(&bf16::from_f32(values[0]).to_le_bytes()),
        TensorKind::Q5_0 => q5_0,
        TensorKind::Q5_1 => q5_1,
        TensorKind::Q8_0 => q8_0,
        TensorKind::Q4K => k::q4_k,
        TensorKind::Q5K => k::q5_k,
        TensorKind::Q6K => k::q6_k,
        TensorKind::Q4_0 | TensorKind::Q4_1 | TensorKind::Q2K | TensorKind::Q3K => return None,
    };
    let blocks = values.chunks_exact(kind.block() as usize);
    debug_assert_eq!(blocks.len() * kind.block_bytes() as usize, out.len(), "blocks of {kind}");
    blocks.zip(out.chunks_exact_mut(kind.block_bytes() as usize)).for_each(|(values, out)| each(values, out));
    Some(())
}

/// Rounds a scale to 16 bits, and says what it has become. What does not fit into them becomes the greatest that does.
fn put_half(value: f32, out: &mut [u8]) -> f32 {
    let rounded = f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
    out.copy_from_slice(&rounded.to_le_bytes());
    rounded.to_f32()
}

/// One over it, or 0 where there is none.
fn inverse(value: f32) -> f32 {
    let inverse = 1.0 / value;
    if inverse.is_finite() { inverse } else { 0.0 }
}

fn q8_0(values: &[f32], out: &mut [u8]) {
    let most = values.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
    // As in the reference the elements are those of the scale before it is rounded.
    let step = most / 127.0;
    put_half(step, &mut out[..2]);
    let inverse = inverse(step);
    for (out, value) in out[2..].iter_mut().zip(values) {
        *out = (value * inverse).round() as i8 as u8;
    }
}

fn q5_0(values: &[f32], out: &mut [u8]) {
    let step = put_half(groups::symmetric(values, 16), &mut out[..2]);
    let inverse = inverse(step);
    let element = |value: f32| (value * inverse).round().clamp(-16.0, 15.0) as i8;
    put_fives(values.iter().map(|value| (element(*value) + 16) as u8), &mut out[2..]);
}

fn q5_1(values: &[f32], out: &mut [u8]) {
    let group = groups::ranged(values, 31, f32::INFINITY);
    let (step, least) = (put_half(group.step, &mut out[..2]), put_half(-group.offset, &mut out[2..4]));
    let inverse = inverse(step);
    let element = |value: f32| ((value - least) * inverse).round().clamp(0.0, 31.0) as u8;
    put_fives(values.iter().map(|value| element(*value)), &mut out[4..]);
}

/// 32 elements of five bits: 4 bytes of fifth bits, 16 of the others.
fn put_fives(elements: impl Iterator<Item = u8>, out: &mut [u8]) {
    out.fill(0);
    let (high, low) = out.split_at_mut(4);
    for (at, element) in elements.enumerate() {
        high[at / 8] |= (element >> 4) << (at % 8);
        low[at % 16] |= (element & 15) << (at / 16 * 4);
    }
}

//! The K types: 256 elements in groups whose scales are small multiples of the block's.

use super::groups::{Group, nearest, ranged, sum_of, symmetric};
use super::{inverse, put_half};

const GROUPS: usize = 8;
const GROUP: usize = 32;
/// Scales and minima of groups have six bits.
const MOST: f32 = 63.0;

pub(super) fn q4_k(values: &[f32], out: &mut [u8]) {
    let block = Block::of(values, 15);
    block.put_head(out);
    out[16..].fill(0);
    block.elements(values, |group, at, element| {
        out[16 + group / 2 * GROUP + at] |= element << (group % 2 * 4)
    });
}

pub(super) fn q5_k(values: &[f32], out: &mut [u8]) {
    let block = Block::of(values, 31);
    block.put_head(out);
    out[16..].fill(0);
    block.elements(values, |group, at, element| {
        out[16 + at] |= (element >> 4) << group;
        out[48 + group / 2 * GROUP + at] |= (element & 15) << (group % 2 * 4);
    });
}

/// What `q4_k` and `q5_k` have in common.
struct Block {
    scale: f32,
    least: f32,
    /// Multiples of `scale` and `least`.
    groups: [(u8, u8); GROUPS],
    most: u8,
}

impl Block {
    fn of(values: &[f32], most: u8) -> Self {
        let mut found = [Group::default(); GROUPS];
        for (group, values) in found.iter_mut().zip(values.chunks_exact(GROUP)) {
            *group = ranged(values, most, f32::MAX);
        }
        let greatest = |of: fn(&Group) -> f32| found.iter().map(of).fold(0.0, f32::max);
        let (scale, least) = (greatest(|group| group.step) / MOST, greatest(|group| group.offset) / MOST);
        let mut best = Self::rounded(values, &found, scale, least, most);
        let mut best_error = best.error(values);
        for _ in 0..3 {
            let (scale, least) = best.refitted(values);
            let next = Self::rounded(values, &found, scale, least, most);
            let error = next.error(values);
            if error >= best_error || error.is_nan() {
                break;
            }
            (best, best_error) = (next, error);
        }
        best
    }

    /// The best multiples near those of `found`, on the grid of these scales in 16 bits.
    fn rounded(values: &[f32], found: &[Group], scale: f32, least: f32, most: u8) -> Self {
        let mut bytes = [0; 2];
        let (scale, least) = (put_half(scale, &mut bytes), put_half(least, &mut bytes));
        let mut block = Self { scale, least, groups: [(0, 0); GROUPS], most };
        let near = |value: f32, unit: f32| (value * inverse(unit)).round().clamp(0.0, MOST) as i16;
        for (number, values) in values.chunks_exact(GROUP).enumerate() {
            let (step, offset) = (near(found[number].step, scale), near(found[number].offset, least));
            let mut best_error = f32::INFINITY;
            for step in (step - 1).max(0)..=(step + 1).min(MOST as i16) {
                for offset in (offset - 1).max(0)..=(offset + 1).min(MOST as i16) {
                    let pair = (step as u8, offset as u8);
                    let error = block.group(pair).error(values, f32::from(most));
                    if error < best_error {
                        best_error = error;
                        block.groups[number] = pair;
                    }
                }
            }
        }
        block
    }

    fn group(&self, (step, offset): (u8, u8)) -> Group {
        Group { step: self.scale * f32::from(step), offset: self.least * f32::from(offset) }
    }

    fn error(&self, values: &[f32]) -> f32 {
        let groups = values.chunks_exact(GROUP).zip(self.groups);
        groups.map(|(values, pair)| self.group(pair).error(values, f32::from(self.most))).sum()
    }

    fn elements(&self, values: &[f32], mut put: impl FnMut(usize, usize, u8)) {
        for (number, values) in values.chunks_exact(GROUP).enumerate() {
            let Group { step, offset } = self.group(self.groups[number]);
            let inverse = inverse(step);
            for (at, value) in values.iter().enumerate() {
                let element = nearest(((value + offset) * inverse).clamp(0.0, f32::from(self.most)));
                put(number, at, element as u8);
            }
        }
    }

    /// The least squares of both scales for all elements and multiples as they are.
    fn refitted(&self, values: &[f32]) -> (f32, f32) {
        let (mut aa, mut ab, mut bb, mut ax, mut bx) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
        self.elements(values, |group, at, element| {
            let (step, offset) = self.groups[group];
            let (a, b) = (f64::from(step) * f64::from(element), -f64::from(offset));
            let x = f64::from(values[group * GROUP + at]);
            aa += a * a;
            ab += a * b;
            bb += b * b;
            ax += a * x;
            bx += b * x;
        });
        let determinant = aa * bb - ab * ab;
        let pair = match determinant > 0.0 {
            true => ((ax * bb - bx * ab) / determinant, (bx * aa - ax * ab) / determinant),
            false => (ax / aa, f64::from(self.least)),
        };
        match pair.0 > 0.0 && pair.1 >= 0.0 && pair.0.is_finite() && pair.1.is_finite() {
            true => (pair.0 as f32, pair.1 as f32),
            false => (self.scale, self.least),
        }
    }

    /// Scales, and the multiples in 12 bytes.
    fn put_head(&self, out: &mut [u8]) {
        put_half(self.scale, &mut out[..2]);
        put_half(self.least, &mut out[2..4]);
        let packed = &mut out[4..16];
        for group in 0..4 {
            let ((step, offset), (high_step, high_offset)) = (self.groups[group], self.groups[group + 4]);
            packed[group] = step | high_step >> 4 << 6;
            packed[group + 4] = offset | high_offset >> 4 << 6;
            packed[group + 8] = high_step & 15 | (high_offset & 15) << 4;
        }
    }
}

/// 16 groups of 16 with a scale of eight bits.
pub(super) fn q6_k(values: &[f32], out: &mut [u8]) {
    const GROUP: usize = 16;
    let mut steps = [0.0; 16];
    for (step, values) in steps.iter_mut().zip(values.chunks_exact(GROUP)) {
        *step = symmetric(values, 32);
    }
    let extreme =
        steps.iter().copied().fold(0.0, |most: f32, step| if step.abs() > most.abs() { step } else { most });
    let mut best = (0.0, [0; 16], [0; 256], f32::INFINITY);
    // The multiples reach one further below zero than above.
    let mut scale = -extreme / 128.0;
    for _ in 0..3 {
        let mut bytes = [0; 2];
        scale = put_half(scale, &mut bytes);
        let (multiples, elements, error) = sixes(values, &steps, scale);
        if error >= best.3 || error.is_nan() {
            break;
        }
        best = (scale, multiples, elements, error);
        let (mut over, mut under) = (0.0f64, 0.0f64);
        for (at, value) in values.iter().enumerate() {
            let a = f64::from(multiples[at / GROUP]) * f64::from(elements[at]);
            over += a * f64::from(*value);
            under += a * a;
        }
        if under <= 0.0 || under.is_nan() {
            break;
        }
        scale = (over / under) as f32;
    }
    let (scale, multiples, elements, _) = best;
    out.fill(0);
    put_half(scale, &mut out[208..]);
    for (at, element) in elements.into_iter().enumerate() {
        let (half, quarter, place) = (at / 128, at / 32 % 4, at % 32);
        let bits = (element + 32) as u8;
        out[half * 64 + quarter % 2 * 32 + place] |= (bits & 15) << (quarter / 2 * 4);
        out[128 + half * 32 + place] |= (bits >> 4) << (quarter * 2);
        out[192 + at / GROUP] = multiples[at / GROUP] as u8;
    }
}

/// The best multiples near these steps, the elements they give, and the sum of squared errors.
fn sixes(values: &[f32], steps: &[f32; 16], scale: f32) -> ([i8; 16], [i8; 256], f32) {
    let (mut multiples, mut elements, mut sum) = ([0; 16], [0; 256], 0.0);
    for (number, values) in values.chunks_exact(16).enumerate() {
        let middle = (steps[number] * inverse(scale)).round().clamp(-128.0, 127.0) as i16;
        let mut best_error = f32::INFINITY;
        for multiple in (middle - 1).max(-128)..=(middle + 1).min(127) {
            let step = scale * f32::from(multiple);
            let inverse = inverse(step);
            let element = |value: f32| nearest((value * inverse).clamp(-32.0, 31.0));
            let error = sum_of(values, |value| {
                let error = step * element(value) - value;
                error * error
            });
            if error < best_error {
                best_error = error;
                multiples[number] = multiple as i8;
                let places = elements[number * 16..].iter_mut().zip(values);
                places.for_each(|(place, value)| *place = element(*value) as i8);
            }
        }
        sum += best_error;
    }
    (multiples, elements, sum)
}

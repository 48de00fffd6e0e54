//! The best scale, or scale and offset, of one group of elements.

/// Lanes that are summed beside each other, so that the compiler computes them together. Groups are multiples of it.
const LANES: usize = 8;

/// The nearest whole number, of two the even one; good for numbers below 2^22.
///
/// Plain x86-64 has no instruction for it, and a call for each element would take most of the time.
pub(super) fn nearest(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (value + SHIFT) - SHIFT
}

/// The sum of a function of the elements.
pub(super) fn sum_of(values: &[f32], each: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    for chunk in values.chunks_exact(LANES) {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += each(*value);
        }
    }
    sums.iter().sum()
}

/// A group's elements are `step * q - offset`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Group {
    pub(super) step: f32,
    pub(super) offset: f32,
}

impl Group {
    /// The sum of squared errors with the nearest of `0..=most` for each element.
    pub(super) fn error(self, values: &[f32], most: f32) -> f32 {
        let inverse = super::inverse(self.step);
        sum_of(values, |value| {
            let element = nearest(((value + self.offset) * inverse).clamp(0.0, most));
            let error = self.step * element - self.offset - value;
            error * error
        })
    }
}

/// Steps and offsets with `q` from 0 to `most`. The offset is between 0 and `greatest`; infinity lets it be negative as well.
pub(super) fn ranged(values: &[f32], most: u8, greatest: f32) -> Group {
    let signed = greatest.is_infinite();
    let most = f32::from(most);
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    let least = if signed { least } else { least.min(0.0) };
    let range = values.iter().copied().fold(f32::NEG_INFINITY, f32::max) - least;
    if !range.is_finite() || range <= f32::MIN_POSITIVE {
        return Group { step: 0.0, offset: if least.is_finite() { -least } else { 0.0 } };
    }
    let mut best = Group { step: range / most, offset: -least };
    let mut best_error = best.error(values, most);
    // From divisions somewhat coarser than the range, which cut its ends off, to somewhat finer ones.
    for tenths in -9..=9 {
        let mut inverse = (most + tenths as f32 * 0.1) / range;
        let mut offset = -least;
        for _ in 0..3 {
            let Some(group) = fitted(values, most, inverse, offset, signed) else { break };
            let error = group.error(values, most);
            if error >= best_error {
                break;
            }
            (best, best_error) = (group, error);
            (inverse, offset) = (super::inverse(group.step), group.offset);
        }
    }
    best
}

/// The least squares of step and offset for the elements that a division gives.
fn fitted(values: &[f32], most: f32, inverse: f32, offset: f32, signed: bool) -> Option<Group> {
    let mut sums = [[0.0f32; LANES]; 4];
    for chunk in values.chunks_exact(LANES) {
        for (lane, value) in chunk.iter().enumerate() {
            let element = nearest(((value + offset) * inverse).clamp(0.0, most));
            sums[0][lane] += element;
            sums[1][lane] += element * element;
            sums[2][lane] += value;
            sums[3][lane] += value * element;
        }
    }
    let [sum_q, sum_qq, sum_x, sum_xq] = sums.map(|lanes| lanes.iter().sum::<f32>());
    let count = values.len() as f32;
    let determinant = count * sum_qq - sum_q * sum_q;
    if determinant > 0.0 {
        let step = (count * sum_xq - sum_x * sum_q) / determinant;
        let offset = (sum_q * sum_xq - sum_qq * sum_x) / determinant;
        if step > 0.0 && step.is_finite() && (signed || offset >= 0.0) {
            return Some(Group { step, offset });
        }
    }
    let step = sum_xq / sum_qq;
    (!signed && step > 0.0 && step.is_finite()).then_some(Group { step, offset: 0.0 })
}

/// The best step with `q` from `-half` to `half - 1`; it may be negative, since one side reaches further than the other.
pub(super) fn symmetric(values: &[f32], half: u8) -> f32 {
    let extreme = values
        .iter()
        .copied()
        .fold(0.0, |most: f32, value| if value.abs() > most.abs() { value } else { most });
    let half = f32::from(half);
    if !extreme.is_finite() || extreme.abs() <= f32::MIN_POSITIVE {
        return 0.0;
    }
    let (mut best, mut most_explained) = (-extreme / half, f32::NEG_INFINITY);
    for tenths in -9..=9 {
        let mut inverse = -(half + tenths as f32 * 0.1) / extreme;
        for _ in 0..2 {
            let mut sums = [[0.0f32; LANES]; 2];
            for chunk in values.chunks_exact(LANES) {
                for (lane, value) in chunk.iter().enumerate() {
                    let element = nearest((value * inverse).clamp(-half, half - 1.0));
                    sums[0][lane] += value * element;
                    sums[1][lane] += element * element;
                }
            }
            let [sum_xq, sum_qq] = sums.map(|lanes| lanes.iter().sum::<f32>());
            // With the least squares' step the error is the sum of squares less this.
            let explained = sum_xq * sum_xq / sum_qq;
            if explained <= most_explained || explained.is_nan() {
                break;
            }
            (best, most_explained) = (sum_xq / sum_qq, explained);
            inverse = super::inverse(best);
        }
    }
    best
}

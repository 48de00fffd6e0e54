//! The best scale, or scale and offset, of one group of elements.

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
        let sum = values.iter().map(|value| {
            let element = ((value + self.offset) * inverse).round_ties_even().clamp(0.0, most);
            let error = self.step * element - self.offset - value;
            error * error
        });
        sum.sum()
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
    let (mut sum_q, mut sum_qq, mut sum_x, mut sum_xq) = (0.0f32, 0.0f32, 0.0f32, 0.0f32);
    for value in values {
        let element = ((value + offset) * inverse).round_ties_even().clamp(0.0, most);
        sum_q += element;
        sum_qq += element * element;
        sum_x += value;
        sum_xq += value * element;
    }
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
            let (mut sum_xq, mut sum_qq) = (0.0f32, 0.0f32);
            for value in values {
                let element = (value * inverse).round_ties_even().clamp(-half, half - 1.0);
                sum_xq += value * element;
                sum_qq += element * element;
            }
            // With the least squares' step the error is the sum of squares less this.
            let explained = sum_xq * sum_xq / sum_qq;
            if !(explained > most_explained) {
                break;
            }
            (best, most_explained) = (sum_xq / sum_qq, explained);
            inverse = super::inverse(best);
        }
    }
    best
}

//! How the learning rate moves over the steps: the curves of transformers' `get_scheduler`.

use std::f64::consts::PI;

use store::spec::{Schedule, ScheduleName};

/// What the learning rate of `step` (counted from 0) is multiplied by, in a job of `total` steps.
///
/// `peak` is the learning rate after warm-up; only the polynomial, which ends at a rate and not at a share of it, looks
/// at it. After `total` steps the factor stays at its end. Equal to transformers' `linear`, `cosine`, `polynomial` and
/// `constant_with_warmup`; `constant` without warm-up is 1.
pub fn factor(schedule: &Schedule, peak: f64, step: u64, total: u64) -> f64 {
    let warmup = warmup_steps(schedule, total);
    if step < warmup {
        return step as f64 / warmup as f64;
    }
    let after = total.saturating_sub(warmup).max(1) as f64;
    let progress = (step - warmup) as f64 / after;
    match schedule.name {
        ScheduleName::Constant => 1.0,
        ScheduleName::Linear => total.saturating_sub(step) as f64 / after,
        ScheduleName::Cosine => (0.5 * (1.0 + (PI * schedule.cycles * 2.0 * progress).cos())).max(0.0),
        ScheduleName::Polynomial => {
            let end = schedule.end_learning_rate / peak;
            (1.0 - end) * (1.0 - progress).max(0.0).powf(schedule.power) + end
        }
    }
}

/// Steps of warm-up: those given, or the share of `total` rounded up, or none.
pub fn warmup_steps(schedule: &Schedule, total: u64) -> u64 {
    match (schedule.warmup_steps, schedule.warmup_ratio) {
        (Some(steps), _) => steps,
        (None, Some(ratio)) => (total as f64 * ratio).ceil() as u64,
        (None, None) => 0,
    }
}

//! The factor of the loss in fp16, whose smallest numbers the gradients would fall below.

use serde::{Deserialize, Serialize};

/// Doubles after so many steps without a fault, halves at each fault (P. Micikevicius et al., "Mixed precision training",
/// 2018; the numbers are `torch.amp.GradScaler`'s).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scaler {
    factor: f32,
    good: u32,
    on: bool,
}

impl Default for Scaler {
    fn default() -> Self {
        Scaler::new(false)
    }
}

const FIRST: f32 = 65536.0;
const GROWTH_INTERVAL: u32 = 2000;
/// Below this the fault is not the factor's.
const LEAST: f32 = 1.0 / 16384.0;

impl Scaler {
    /// A factor of 1 that stays, or one that moves.
    pub fn new(on: bool) -> Self {
        Scaler { factor: if on { FIRST } else { 1.0 }, good: 0, on }
    }

    /// What the loss is multiplied by.
    pub fn factor(&self) -> f32 {
        self.factor
    }

    /// Looks at the gradients' norm and moves the factor; true where the step must be left out.
    pub fn skips(&mut self, norm: f32) -> bool {
        if !self.on {
            return false;
        }
        if norm.is_finite() {
            self.good += 1;
            if self.good == GROWTH_INTERVAL {
                (self.factor, self.good) = (self.factor * 2.0, 0);
            }
            return false;
        }
        (self.factor, self.good) = (self.factor / 2.0, 0);
        self.factor >= LEAST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_1_where_it_is_off() {
        let mut scaler = Scaler::new(false);
        assert!(!scaler.skips(f32::NAN));
        assert_eq!(scaler.factor(), 1.0);
    }

    #[test]
    fn a_fault_halves_and_2000_good_steps_double() {
        let mut scaler = Scaler::new(true);
        assert!(scaler.skips(f32::INFINITY));
        assert_eq!(scaler.factor(), 32768.0);
        for _ in 0..1999 {
            assert!(!scaler.skips(1.0));
        }
        assert_eq!(scaler.factor(), 32768.0);
        assert!(!scaler.skips(1.0));
        assert_eq!(scaler.factor(), 65536.0);
    }

    #[test]
    fn a_fault_that_no_factor_heals_is_told() {
        let mut scaler = Scaler::new(true);
        let skipped = (0..100).take_while(|_| scaler.skips(f32::NAN)).count();
        assert_eq!(skipped, 30);
    }
}

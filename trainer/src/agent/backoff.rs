//! Waiting times that grow and scatter, so that many agents do not come back at once.

use std::time::Duration;

use uuid::Uuid;

/// A waiting time that doubles up to a limit, each draw scattered over its upper half.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Backoff { first, most, tries: 0 }
    }

    /// The time to wait before the next try.
    pub(super) fn next(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.tries.min(16));
        self.tries = self.tries.saturating_add(1);
        scattered(full.min(self.most))
    }
}

/// A time between half of `time` and the whole of it.
pub(super) fn scattered(time: Duration) -> Duration {
    let draw = Uuid::new_v4().as_u128() as u32;
    time / 2 + (time / 2).mul_f64(f64::from(draw) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_below_the_limit() {
        let most = Duration::from_secs(5);
        let mut backoff = Backoff::new(Duration::from_millis(100), most);
        let waits: Vec<_> = (0..40).map(|_| backoff.next()).collect();
        assert!(waits[0] >= Duration::from_millis(50) && waits[0] <= Duration::from_millis(100));
        assert!(waits[3] >= Duration::from_millis(400) && waits[3] <= Duration::from_millis(800));
        assert!(waits.iter().all(|wait| *wait <= most));
        assert!(waits[39] >= most / 2);
    }
}

//! Exponential delay with full jitter: each delay is drawn between half of the
//! current bound and the bound, and the bound doubles up to a maximum.

use std::time::Duration;

use rand::RngExt as _;

/// Delays between attempts at something that fails for now.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// From `first`, doubling up to `max`.
    pub const fn new(first: Duration, max: Duration) -> Self {
        Self {
            first,
            max,
            attempts: 0,
        }
    }

    /// Attempts that failed since the last success.
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Another failure: how long to wait.
    pub fn next_delay(&mut self) -> Duration {
        let bound = self
            .first
            .saturating_mul(1 << self.attempts.min(20))
            .min(self.max);
        self.attempts = self.attempts.saturating_add(1);
        bound.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// A success: the next failure starts from the first delay.
    pub const fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for bound in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay();
            assert!(
                delay <= Duration::from_millis(bound),
                "{delay:?} above {bound} ms"
            );
            assert!(
                delay >= Duration::from_millis(bound / 2),
                "{delay:?} below half of {bound} ms"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}

//! The broker's two clocks. The only file of the broker that reads the wall clock.
//!
//! What is kept across restarts is dated by the wall clock; everything else is
//! measured since the broker's start.

use std::time::{Duration, Instant};

/// No clock that is right says less: 2015-01-01.
const PLAUSIBLE_MS: i64 = 1_420_070_400_000;

/// Tells the time. Copies tell the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// Milliseconds since the broker's start.
    pub(crate) fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }

    /// Milliseconds since 1970, by the wall clock, which may step.
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    pub(crate) fn wall_ms() -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
    }
}

/// How much time has passed between two readings of the wall clock. Nothing,
/// where one of them cannot be right: a box without a clock of its own boots in
/// 1970, and what is kept must not all be too old when it hears the time.
pub(crate) fn passed_ms(then: i64, now: i64) -> u64 {
    if !is_plausible(then) || now < then {
        return 0;
    }
    now.abs_diff(then)
}

/// Whether a reading of the wall clock can be right.
pub(crate) fn is_plausible(wall_ms: i64) -> bool {
    wall_ms >= PLAUSIBLE_MS
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_cannot_be_right_makes_nothing_old() {
        let now = PLAUSIBLE_MS + 1_000_000;
        assert_eq!(passed_ms(now - 5, now), 5);
        assert_eq!(passed_ms(now + 5, now), 0, "set back");
        assert_eq!(passed_ms(0, now), 0, "booted in 1970");
        assert_eq!(passed_ms(0, 60_000), 0);
    }
}

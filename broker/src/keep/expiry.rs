//! When a session without a connection ends.
//!
//! Within a run that is measured by the monotonic clock, so that no step of the wall
//! clock ends one early. Across a restart the time in which nothing ran counts, by
//! the wall clock, unless that cannot be right (`clock::passed_ms`).

use std::time::{Duration, Instant};

/// Never, in seconds of a session expiry interval.
const NEVER: u32 = u32::MAX;

/// When a session is due that has waited for so long already; `None` for never.
pub(super) fn due(now: Instant, expiry_secs: u32, waited_ms: u64) -> Option<Instant> {
    if expiry_secs == NEVER {
        return None;
    }
    let left = (u64::from(expiry_secs) * 1000).saturating_sub(waited_ms);
    now.checked_add(Duration::from_millis(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_was_waited_counts() {
        let now = Instant::now();
        let at = |secs, waited| due(now, secs, waited).map(|due| due - now);
        assert_eq!(at(10, 0), Some(Duration::from_secs(10)));
        assert_eq!(at(10, 4_000), Some(Duration::from_secs(6)));
        assert_eq!(at(10, 40_000), Some(Duration::ZERO));
        assert_eq!(at(NEVER, 40_000), None);
    }
}

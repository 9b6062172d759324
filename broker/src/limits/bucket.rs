//! A token bucket that stores one instant: when it will be full again.
//!
//! Nothing has to be refilled, and the moment at which something may be taken is
//! known exactly, so a holder can sleep until then.

use tokio::time::{Duration, Instant};

/// So many units a second, and for how long they may pile up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    per_sec: u64,
    burst: Duration,
}

impl Rate {
    /// `None` for a rate of 0: no limit.
    pub(crate) fn new(per_sec: u64, burst: Duration) -> Option<Self> {
        (per_sec > 0).then_some(Self { per_sec, burst })
    }

    /// A rate whose burst is `units`.
    pub(crate) fn with_burst(per_sec: u64, units: u64) -> Option<Self> {
        let one_sec = Self::new(per_sec, Duration::ZERO)?;
        Self::new(per_sec, one_sec.time_of(units.max(1)))
    }

    /// How long a full bucket lasts that is not filled.
    pub(crate) const fn burst(self) -> Duration {
        self.burst
    }

    /// How long it takes to earn `units`.
    fn time_of(self, units: u64) -> Duration {
        let nanos = u128::from(units) * 1_000_000_000 / u128::from(self.per_sec);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Full at first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    pub(crate) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one unit if it is there.
    pub(crate) fn try_take(&mut self, rate: Rate, now: Instant) -> bool {
        self.try_take_leaving(rate, Duration::ZERO, now)
    }

    /// Takes one unit if it is there besides a part of the burst that stays.
    pub(crate) fn try_take_leaving(&mut self, rate: Rate, stays: Duration, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + rate.time_of(1);
        let there = full_at.duration_since(now) + stays <= rate.burst;
        if there {
            self.full_at = full_at;
        }
        there
    }

    /// Takes units that may not be there: the bucket owes them.
    pub(crate) fn take(&mut self, rate: Rate, units: u64, now: Instant) {
        self.full_at = self.full_at.max(now) + rate.time_of(units);
    }

    /// When something is in it; `None` if that is now.
    pub(crate) fn empty_until(&self, rate: Rate, now: Instant) -> Option<Instant> {
        let missing = self.full_at.saturating_duration_since(now);
        (missing > rate.burst).then(|| now + (missing - rate.burst))
    }

    /// Whether more than `units` were taken and not earned back.
    pub(crate) fn owes_more_than(&self, rate: Rate, units: u64, now: Instant) -> bool {
        self.full_at.saturating_duration_since(now) > rate.time_of(units)
    }

    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_passes_at_once_and_then_the_rate_holds() {
        let rate = Rate::with_burst(10, 5).unwrap();
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let at = |ms| start + Duration::from_millis(ms);
        let mut took = |ms| bucket.try_take(rate, at(ms));
        assert_eq!((0..10).filter(|_| took(0)).count(), 5);
        assert!(!took(99));
        assert!(took(100));
        assert!(!took(100));
        assert_eq!((0..10).filter(|_| took(10_000)).count(), 5);
    }

    #[test]
    fn what_was_taken_on_credit_is_earned_before_more_passes() {
        let rate = Rate::new(1000, Duration::from_secs(1)).unwrap();
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        assert_eq!(bucket.empty_until(rate, start), None);
        bucket.take(rate, 3000, start);
        let ready = bucket.empty_until(rate, start).unwrap();
        assert_eq!(ready.duration_since(start), Duration::from_secs(2));
        let later = start + Duration::from_millis(2001);
        assert_eq!(bucket.empty_until(rate, later), None);
        assert!(bucket.is_full(start + Duration::from_secs(3)));
    }

    proptest! {
        /// Over any time a client gets at most the burst, the rate, and its last packet.
        #[test]
        fn no_more_passes_than_rate_and_burst_allow(
            per_sec in 1_u64..100_000,
            burst_ms in 0_u64..5000,
            sends in prop::collection::vec((1_u64..500, 0_u64..50), 1..200),
        ) {
            let rate = Rate::new(per_sec, Duration::from_millis(burst_ms)).unwrap();
            let start = Instant::now();
            let (mut now, mut bucket) = (start, Bucket::new(start));
            let (mut passed, mut largest) = (0, 0);
            for (units, pause_ms) in sends {
                now += Duration::from_millis(pause_ms);
                if let Some(ready) = bucket.empty_until(rate, now) {
                    prop_assert!(ready > now);
                    now = ready;
                }
                prop_assert_eq!(bucket.empty_until(rate, now), None);
                bucket.take(rate, units, now);
                passed += units;
                largest = largest.max(units);
            }
            let millis = u64::try_from(now.duration_since(start).as_millis()).unwrap() + 1 + burst_ms;
            prop_assert!(passed <= per_sec * millis / 1000 + 1 + largest);
        }
    }
}

//! When a device samples.
//!
//! The total rate is spread evenly: device `i` of `n` samples every `n / rate`
//! seconds, `i / rate` seconds after the first. Sample times are computed, not
//! counted by a timer, so a device that was busy or offline finds the samples
//! it owes, with the times at which they were taken. What it may owe is
//! bounded: beyond `backlog` samples the oldest are not taken at all, and
//! counted in [`Schedule::skipped`].

use std::time::Duration;

use tokio::time::Instant;

/// The sampling times of one device.
#[derive(Debug)]
pub(crate) struct Schedule {
    first: Instant,
    /// `None`: whenever there is room in the window.
    interval: Option<Duration>,
    backlog: u64,
    /// The number of the next sample in time; runs ahead of `taken` by `skipped`.
    slot: u64,
    taken: u64,
    skipped: u64,
    count_max: Option<u64>,
    ends: Option<Instant>,
}

/// What all devices of a run share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// When the run starts.
    pub(crate) start: Instant,
    /// When the run stops sampling.
    pub(crate) ends: Option<Instant>,
    /// Samples of all devices together.
    pub(crate) count: Option<u64>,
    /// Samples per second of all devices together; zero for no limit.
    pub(crate) rate: f64,
    /// How many devices share it.
    pub(crate) devices: u32,
    /// Samples that one device may owe.
    pub(crate) backlog: u64,
}

impl Schedule {
    /// The schedule of device number `index`.
    pub(crate) fn new(pace: &Pace, index: u32) -> Self {
        let paced = pace.rate > 0.0;
        let devices = u64::from(pace.devices);
        Self {
            first: if paced {
                pace.start + Duration::from_secs_f64(f64::from(index) / pace.rate)
            } else {
                pace.start
            },
            interval: paced.then(|| Duration::from_secs_f64(f64::from(pace.devices) / pace.rate)),
            backlog: pace.backlog,
            slot: 0,
            taken: 0,
            skipped: 0,
            // The first devices take what does not divide.
            count_max: pace
                .count
                .map(|count| count / devices + u64::from(u64::from(index) < count % devices)),
            ends: pace.ends,
        }
    }

    /// Takes the next sample if it is due; answers when it was taken.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Instant> {
        if self.is_finished(now) {
            return None;
        }
        let Some(interval) = self.interval else {
            self.taken += 1;
            return Some(now);
        };
        let mut at = self.at(self.slot, interval);
        if at > now {
            return None;
        }
        let owed = (now - at).as_nanos() / interval.as_nanos().max(1);
        let owed = u64::try_from(owed).unwrap_or(u64::MAX);
        if owed > self.backlog {
            self.skipped += owed - self.backlog;
            self.slot += owed - self.backlog;
            at = self.at(self.slot, interval);
            if self.is_finished(now) {
                return None;
            }
        }
        self.slot += 1;
        self.taken += 1;
        Some(at)
    }

    /// When [`Self::take`] may have a sample again; `None` when it never will.
    pub(crate) fn next_at(&self, now: Instant) -> Option<Instant> {
        if self.is_finished(now) {
            return None;
        }
        Some(
            self.interval
                .map_or(now, |interval| self.at(self.slot, interval)),
        )
    }

    /// No sample will be taken any more.
    pub(crate) fn is_finished(&self, now: Instant) -> bool {
        let counted_out = self.count_max.is_some_and(|max| self.taken >= max);
        let timed_out = self.ends.is_some_and(|ends| match self.interval {
            Some(interval) => self.at(self.slot, interval) >= ends,
            None => now >= ends,
        });
        counted_out || timed_out
    }

    /// When the last sample is due, where that is known: from then on a device
    /// that still has samples only waits for room.
    pub(crate) fn last_due(&self) -> Option<Instant> {
        let counted = self.count_max.map(|max| match self.interval {
            Some(interval) => self.at(self.slot + max.saturating_sub(self.taken), interval),
            None => self.first,
        });
        match (counted, self.ends) {
            (Some(counted), Some(ends)) => Some(counted.min(ends)),
            (counted, ends) => counted.or(ends),
        }
    }

    /// Takes no sample after `now`.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.ends = Some(self.ends.map_or(now, |ends| ends.min(now)));
    }

    /// Samples that were due and not taken because too many were owed.
    pub(crate) const fn skipped(&self) -> u64 {
        self.skipped
    }

    fn at(&self, slot: u64, interval: Duration) -> Instant {
        let nanos = interval.as_nanos().saturating_mul(u128::from(slot));
        let after = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // Half a thousand years of nanoseconds from now: past what an `Instant` must hold.
        self.first.checked_add(after).unwrap_or(self.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: f64, devices: u32) -> Pace {
        Pace {
            start: Instant::now(),
            ends: None,
            count: None,
            rate,
            devices,
            backlog: 10,
        }
    }

    fn drain(schedule: &mut Schedule, now: Instant) -> Vec<Instant> {
        std::iter::from_fn(|| schedule.take(now)).collect()
    }

    #[test]
    fn samples_of_all_devices_are_evenly_spaced() {
        let pace = Pace {
            backlog: 1_000,
            ..pace(100.0, 4)
        };
        let end = pace.start + Duration::from_secs(1);
        let mut times: Vec<_> = (0..4)
            .flat_map(|index| drain(&mut Schedule::new(&pace, index), end))
            .filter(|at| *at < end)
            .collect();
        times.sort();
        assert_eq!(times.len(), 100);
        for pair in times.windows(2) {
            assert_eq!((pair[1] - pair[0]).as_millis(), 10);
        }
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let pace = pace(10.0, 1);
        let mut schedule = Schedule::new(&pace, 0);
        assert_eq!(drain(&mut schedule, pace.start).len(), 1);
        assert_eq!(schedule.take(pace.start + Duration::from_millis(99)), None);
        assert_eq!(
            schedule.next_at(pace.start),
            Some(pace.start + Duration::from_millis(100))
        );
    }

    #[test]
    fn a_device_that_was_away_owes_at_most_its_backlog() {
        let pace = pace(10.0, 1);
        let mut schedule = Schedule::new(&pace, 0);
        let owed = drain(&mut schedule, pace.start + Duration::from_secs(10));
        assert_eq!(owed.len(), 11, "the backlog and the one that is due now");
        assert_eq!(schedule.skipped(), 90);
        assert_eq!(owed[10], pace.start + Duration::from_secs(10));
    }

    #[test]
    fn the_count_is_shared_out_to_the_last_message() {
        let pace = Pace {
            count: Some(103),
            ..pace(0.0, 10)
        };
        let taken: usize = (0..10)
            .map(|index| drain(&mut Schedule::new(&pace, index), pace.start).len())
            .sum();
        assert_eq!(taken, 103);
    }

    #[test]
    fn samples_owed_at_the_end_are_still_taken() {
        let pace = pace(10.0, 1);
        let mut schedule = Schedule::new(
            &Pace {
                ends: Some(pace.start + Duration::from_millis(450)),
                ..pace
            },
            0,
        );
        assert_eq!(
            schedule.last_due(),
            Some(pace.start + Duration::from_millis(450))
        );
        assert_eq!(
            drain(&mut schedule, pace.start + Duration::from_secs(1)).len(),
            5
        );
        assert!(schedule.is_finished(pace.start));
    }

    #[test]
    fn without_a_rate_a_device_samples_until_the_end() {
        let pace = pace(0.0, 1);
        let mut schedule = Schedule::new(&pace, 0);
        let later = pace.start + Duration::from_secs(5);
        assert_eq!(schedule.take(later), Some(later));
        schedule.stop(later);
        assert_eq!(schedule.take(later), None);
        assert_eq!(schedule.next_at(later), None);
    }
}

//! A clock that is not believed before there is reason to.
//!
//! A box without a battery for its clock starts in 1970, or, with systemd-timesyncd or
//! fake-hwclock, at the time at which it was last seen alive: a time that looks right and
//! is not. Until something has set the clock, this one tells how long the machine is up,
//! counted from 1970, which everybody knows for a time that is none
//! ([`Timestamp::is_unset`]).
//!
//! A clock that was believed once stays believed, unless it says a time before this
//! version was written: a network that is away for a day is no reason to doubt. And no
//! clock is doubted for ever that may be right: [decision
//! 72](../../../docs/decisions/0072-times-from-before-the-clock-was-set.md).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{Booted, Clock, Set};
use crate::event::Timestamp;

/// No clock that is right says less: this version was written later. 2026-01-01.
const LEAST: Timestamp = Timestamp::from_millis(1_767_225_600_000);
/// A clock may be set back by this much without having been wrong.
const BEHIND: Duration = Duration::from_mins(5);

/// See the module.
#[derive(Debug)]
pub struct Believed {
    machine: Arc<dyn Clock>,
    /// A clock that nothing sets is believed when the machine is up for so long.
    wait: Duration,
    /// The newest time that is known to have been.
    newest: AtomicI64,
    believed: AtomicBool,
    /// That it is not was said.
    said: AtomicBool,
}

impl Believed {
    /// Where `wait` is not configured.
    pub const WAIT: Duration = Duration::from_hours(1);

    /// Believes the clock of a machine as soon as something has set it, or, where
    /// nothing does, when the machine is up for `wait`.
    pub fn new(machine: Arc<dyn Clock>, wait: Duration) -> Self {
        Self {
            machine,
            wait,
            newest: AtomicI64::new(i64::MIN),
            believed: AtomicBool::new(false),
            said: AtomicBool::new(false),
        }
    }

    fn believes(&self, now: Timestamp, up: Duration) -> bool {
        let behind = i64::try_from(BEHIND.as_nanos()).unwrap_or(i64::MAX);
        let is_behind = now.as_nanos().saturating_add(behind) < self.newest.load(Relaxed);
        match self.machine.set() {
            Set::Done => true,
            Set::Awaited => up >= self.wait,
            Set::Unknown => !is_behind || up >= self.wait,
        }
    }
}

impl Clock for Believed {
    fn now(&self) -> Timestamp {
        let now = self.machine.now();
        if now >= LEAST && self.believed.load(Relaxed) {
            return now;
        }
        // Without it nobody could ever say when something came; a stamp of 1970 says at
        // least that it is none.
        let Some(Booted { up, .. }) = self.machine.booted() else {
            return now;
        };
        if now >= LEAST && self.believes(now, up) {
            self.believed.store(true, Relaxed);
            if self.said.load(Relaxed) {
                tracing::info!("the clock is set");
            }
            return now;
        }
        if !self.said.swap(true, Relaxed) {
            tracing::info!(
                says_secs = now.as_nanos() / 1_000_000_000,
                "the clock is not set yet; until it is, events are marked clock-unset"
            );
        }
        Timestamp::from_nanos(i64::try_from(up.as_nanos()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.machine.monotonic()
    }

    fn booted(&self) -> Option<Booted> {
        self.machine.booted()
    }

    fn set(&self) -> Set {
        self.machine.set()
    }

    fn has_been(&self, at: Timestamp) {
        self.newest.fetch_max(at.as_nanos(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// 2026-03-01T12:00:00Z, in seconds.
    const NOON: i64 = 1_772_366_400;
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;

    /// A machine: what its clock says, how long it is up, and whether the clock is set.
    #[derive(Debug)]
    struct Machine(Mutex<(i64, Option<u64>, Set)>);

    impl Clock for Machine {
        fn now(&self) -> Timestamp {
            seconds(self.0.lock().unwrap().0)
        }

        fn booted(&self) -> Option<Booted> {
            let up = self.0.lock().unwrap().1?;
            Some(Booted {
                id: "b".into(),
                up: Duration::from_secs(up),
            })
        }

        fn set(&self) -> Set {
            self.0.lock().unwrap().2
        }
    }

    fn seconds(at: i64) -> Timestamp {
        Timestamp::from_nanos(at * 1_000_000_000)
    }

    /// What a clock tells at each of these moments: its own time, or none.
    fn tells(newest: Option<i64>, moments: &[(i64, Option<u64>, Set)]) -> Vec<bool> {
        let machine = Arc::new(Machine(Mutex::new(moments[0])));
        let clock = Believed::new(machine.clone(), Believed::WAIT);
        if let Some(at) = newest {
            clock.has_been(seconds(at));
            clock.has_been(seconds(30));
        }
        let told = moments.iter().map(|moment| {
            *machine.0.lock().unwrap() = *moment;
            let now = clock.now();
            match now == seconds(moment.0) {
                true => !now.is_unset(),
                false => {
                    let up = i64::try_from(moment.1.unwrap()).unwrap();
                    assert_eq!(now, seconds(up), "how long it is up");
                    assert!(now.is_unset());
                    false
                }
            }
        });
        told.collect()
    }

    #[test]
    fn a_clock_that_nothing_speaks_against_is_believed_at_once() {
        let up = Some(10);
        assert_eq!(tells(None, &[(NOON, up, Set::Unknown)]), [true]);
        assert_eq!(tells(None, &[(NOON, up, Set::Done)]), [true]);
        assert_eq!(tells(Some(NOON), &[(NOON + 9, up, Set::Unknown)]), [true]);
        let corrected = [(NOON - 240, up, Set::Unknown)];
        assert_eq!(tells(Some(NOON), &corrected), [true], "a little behind");
        assert_eq!(tells(None, &[(NOON, None, Set::Awaited)]), [true]);
    }

    #[test]
    fn a_clock_of_the_past_is_not_believed_until_it_is_set() {
        let day = 86_400;
        let told = tells(
            None,
            &[
                (10, Some(10), Set::Unknown),
                // The date of the system's own build.
                (NOON - 300 * day, Some(20), Set::Unknown),
                (NOON - 300 * day, Some(5 * HOUR), Set::Unknown),
                (NOON, Some(6 * HOUR), Set::Unknown),
            ],
        );
        assert_eq!(told, [false, false, false, true]);
    }

    #[test]
    fn a_clock_behind_what_the_journal_has_seen_is_not_believed_until_it_is_set() {
        let told = tells(
            Some(NOON),
            &[
                (NOON - 3_600, Some(10), Set::Unknown),
                (NOON - 3_590, Some(20), Set::Unknown),
                (NOON + 90, Some(30), Set::Unknown),
            ],
        );
        assert_eq!(told, [false, false, true]);
        // An operator who set a clock back that was wrong: whoever keeps it says so.
        let set_back = [(NOON - 3_600, Some(10), Set::Done)];
        assert_eq!(tells(Some(NOON), &set_back), [true]);
    }

    #[test]
    fn a_clock_that_somebody_is_about_to_set_is_waited_for() {
        let told = tells(
            Some(NOON),
            &[
                // It looks right: the time at which the box was last seen alive.
                (NOON + 1, Some(10), Set::Awaited),
                (NOON + 90, Some(99), Set::Awaited),
                (NOON + 7_200, Some(100), Set::Done),
            ],
        );
        assert_eq!(told, [false, false, true]);
    }

    #[test]
    fn no_clock_that_may_be_right_is_doubted_for_ever() {
        for (newest, set) in [(None, Set::Awaited), (Some(NOON + 9_000), Set::Unknown)] {
            let told = tells(
                newest,
                &[
                    (NOON, Some(HOUR - 1), set),
                    (NOON + 1, Some(HOUR), set),
                    (NOON + 2, Some(HOUR + 1), set),
                ],
            );
            assert_eq!(told, [false, true, true]);
        }
    }

    #[test]
    fn what_was_believed_stays_believed_without_a_network() {
        let told = tells(
            None,
            &[
                (NOON, Some(10), Set::Done),
                (NOON + 1, Some(11), Set::Awaited),
                (NOON - 3_600, Some(12), Set::Unknown),
                // Somebody set it to nothing.
                (13, Some(13), Set::Unknown),
                (NOON, Some(14), Set::Unknown),
            ],
        );
        assert_eq!(told, [true, true, true, false, true]);
    }
}

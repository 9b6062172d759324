//! Steps of the wall clock: a box without a clock of its own boots in 1970 and
//! hears the time from the network later; somebody sets it back by a year.
//!
//! Ages are differences of wall times, and a step between the two would make
//! everything too old at once, or nothing ever again. So a step is noticed, and
//! all that was stored before it counts as received at the step: it stays for
//! its whole age from there, whatever its stamp says. Nothing leaves early; some
//! may stay for up to twice its age, and longer where the clock steps again.
//!
//! Within a run a step is the wall clock moving against the monotonic one by
//! more than [`STEP`] between two looks (about a second apart); a machine that
//! slept looks the same, and is treated the same. Between two runs nobody knows
//! how much time has passed. There a step is noticed when the clock is behind
//! that of the last commit, or when the last commit was stamped before [`PLAUSIBLE`]
//! and the clock is now beyond it. A clock that was wrong by less is not noticed.
//! The last step is part of the state, so a restart after it changes nothing.

use std::time::Duration;

use super::{stage::Stage, state::State};
use crate::{event::Timestamp, record::Position};

/// More than this is a step; less is a correction that changes no age by much.
const STEP: Duration = Duration::from_mins(5);
/// What was stamped before a step may be stored that much later.
const UNDER_WAY: Duration = Duration::from_mins(1);
/// No clock that is right says less: 2015-01-01.
const PLAUSIBLE: Timestamp = Timestamp::from_millis(1_420_070_400_000);

/// The last step: what it divides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// The last record stored before it.
    pub(super) position: Position,
    /// The last commit before it.
    pub(super) commit: u64,
    /// The wall time after it.
    pub(super) at: Timestamp,
}

impl Default for Step {
    fn default() -> Self {
        Self {
            position: Position(0),
            commit: 0,
            at: Timestamp::from_nanos(0),
        }
    }
}

impl Step {
    /// From when the age of a record counts.
    pub(super) fn received(&self, position: Position, stamped: Timestamp) -> Timestamp {
        if position <= self.position {
            self.at
        } else {
            stamped
        }
    }

    /// From when the age of the keys of a commit counts.
    pub(super) const fn committed(&self, commit: u64, stamped: Timestamp) -> Timestamp {
        if commit <= self.commit {
            self.at
        } else {
            stamped
        }
    }
}

/// Watches the wall clock against the monotonic one.
#[derive(Debug)]
pub(super) struct Steps {
    now: Timestamp,
    monotonic: Duration,
    /// There was a step that no commit knows of yet.
    pending: bool,
    /// When the last step was noticed, by the monotonic clock.
    noticed: Option<Duration>,
}

impl Steps {
    /// Begins to watch; notes in `state` a step since its last commit.
    pub(super) fn new(state: &mut State, now: Timestamp, monotonic: Duration) -> Self {
        let before = state.wall.filter(|last| {
            let back = now < *last && between(now, *last) > STEP;
            back || (*last < PLAUSIBLE && now >= PLAUSIBLE)
        });
        if let Some(last) = before {
            warn(last, now);
            state.step = Step {
                position: state.position,
                commit: state.commit,
                at: now,
            };
        }
        Self {
            now,
            monotonic,
            pending: before.is_some(),
            noticed: None,
        }
    }

    /// Looks at both clocks; says whether the wall clock has stepped.
    pub(super) fn look(&mut self, now: Timestamp, monotonic: Duration) -> bool {
        let passed = i64::try_from(monotonic.saturating_sub(self.monotonic).as_nanos());
        let expected = self
            .now
            .as_nanos()
            .saturating_add(passed.unwrap_or(i64::MAX));
        let expected = Timestamp::from_nanos(expected);
        (self.now, self.monotonic) = (now, monotonic);
        let stepped = between(now, expected) > STEP;
        if stepped {
            warn(expected, now);
            self.pending = true;
            self.noticed = Some(monotonic);
        }
        stepped
    }

    /// Notes a step in the commit under way, behind what it stores.
    pub(super) fn note(&self, stage: &mut Stage) {
        let under_way = stage.first.is_some()
            && self
                .noticed
                .is_some_and(|noticed| self.monotonic.saturating_sub(noticed) < UNDER_WAY);
        if self.pending || under_way {
            stage.state.step = Step {
                position: stage.state.position,
                commit: stage.state.commit,
                at: stage.now,
            };
            stage.dirty = true;
        }
    }

    /// The commit is durable.
    pub(super) const fn noted(&mut self) {
        self.pending = false;
    }
}

fn between(a: Timestamp, b: Timestamp) -> Duration {
    Duration::from_nanos(a.as_nanos().abs_diff(b.as_nanos()))
}

fn warn(expected: Timestamp, now: Timestamp) {
    tracing::warn!(
        from_secs = expected.as_nanos() / 1_000_000_000,
        to_secs = now.as_nanos() / 1_000_000_000,
        "the clock stepped; the ages of what is stored count from here"
    );
}

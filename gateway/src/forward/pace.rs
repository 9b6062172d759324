//! How fast a destination may be fed, and when: a rate, a budget of bytes for a day or a
//! month, and hours in which its link is open.
//!
//! Bytes are those of the events as the journal has them; what
//! a protocol adds, or compression saves, is not counted. A batch goes while there is
//! anything left, and what it took beyond that is waited for afterwards: so the largest
//! record goes at any rate, and over time no more than the rate does. All of it is for a
//! [place](super::place): its lanes take from one and the same.

mod allowance;
mod bucket;
mod budget;

use std::{sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use tokio::time::Instant;

pub(super) use self::allowance::Allowance;
pub use self::budget::{Budget, Period};
use super::place::{Place, Way};
use crate::{
    event::Timestamp,
    hours::{Hours, Window},
    store::Spent,
};

/// How fast a destination is fed, and when. By default as fast as it takes it, always.
#[derive(Debug, Clone)]
pub struct Config {
    /// Records in a second, at most.
    pub records_per_sec: Option<u64>,
    /// Bytes of records in a second, at most.
    pub bytes_per_sec: Option<u64>,
    /// Bytes of records in a day or a month.
    pub budget: Option<Budget>,
    /// When anything is sent; always where there are none.
    pub windows: Vec<Window>,
    /// Whose days, months and hours these are.
    pub time_zone: TimeZone,
    /// A batch that takes longer than this makes the next ones smaller.
    pub latency_max: Duration,
}

impl Config {
    /// `latency_max` where not configured.
    pub const LATENCY_MAX: Duration = Duration::from_secs(5);

    /// The same always, whatever was spent. It is counted all the same.
    #[must_use]
    pub fn without_hours(&self) -> Self {
        let endless = |budget: &Budget| Budget {
            bytes: u64::MAX,
            ..*budget
        };
        Self {
            budget: self.budget.as_ref().map(endless),
            windows: Vec::new(),
            ..self.clone()
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            records_per_sec: None,
            bytes_per_sec: None,
            budget: None,
            windows: Vec::new(),
            time_zone: TimeZone::UTC,
            latency_max: Self::LATENCY_MAX,
        }
    }
}

/// Why nothing may go at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Closed {
    /// So much went that the rate wants a pause, which is short.
    Rate(Instant),
    /// What there is for this period is used up, until the next begins.
    Budget(Timestamp),
    /// It is not the hour, until then.
    Window(Timestamp),
}

/// How fast one lane of a place is fed.
#[derive(Debug)]
pub(super) struct Pace {
    config: Config,
    place: Arc<Place>,
    way: Way,
    spent_changed: bool,
    hours: Hours,
}

impl Pace {
    /// A lane that has [come](Place::join) there.
    pub(super) fn new(config: Config, place: Arc<Place>, way: Way) -> Self {
        Self {
            hours: Hours::default(),
            spent_changed: false,
            config,
            place,
            way,
        }
    }

    /// Whether something may go now.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&mut self, now: Instant, wall: Timestamp) -> Result<(), Closed> {
        let Config {
            budget,
            windows,
            time_zone,
            ..
        } = &self.config;
        if let Err(until) = self.hours.check(windows, wall, time_zone) {
            return Err(Closed::Window(until));
        }
        let mut allowance = self.place.allowance();
        if let Some(budget) = budget {
            allowance.begin_periods(|spent| budget.begin_period(spent, wall, time_zone));
            if allowance.spent_beside(self.way) >= budget.bytes {
                let since = allowance.spent(self.way).since;
                return Err(Closed::Budget(budget.ends(since, time_zone)));
            }
        }
        match allowance.wait(now) {
            Some(until) => Err(Closed::Rate(until)),
            None => Ok(()),
        }
    }

    /// What a batch should have at most, so that it takes no more than about a second's
    /// worth, or what is left: records and bytes.
    pub(super) fn batch_max(&self) -> (usize, usize) {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
        let records = self.config.records_per_sec.map_or(usize::MAX, size);
        let bytes = self.config.bytes_per_sec.map_or(usize::MAX, size);
        let left = self.config.budget.as_ref().map_or(usize::MAX, |budget| {
            let spent = self.place.allowance().spent_beside(self.way);
            size(budget.bytes.saturating_sub(spent))
        });
        (records, bytes.min(left))
    }

    /// A batch goes; one that goes again, because nothing was said of it, was paid for
    /// already: otherwise a destination that is away would use a budget up.
    pub(super) fn took(&mut self, records: usize, bytes: usize, pays: bool) {
        let mut allowance = self.place.allowance();
        allowance.take(records, bytes);
        if self.config.budget.is_some() && pays {
            allowance.spend(self.way, bytes);
            self.spent_changed = true;
        }
    }

    /// What was spent, where that changed since this was asked last.
    pub(super) fn take_spent(&mut self) -> Option<Spent> {
        let changed = std::mem::take(&mut self.spent_changed);
        changed.then(|| self.place.allowance().spent(self.way))
    }

    /// What the journal says that was spent already.
    pub(super) fn begin_with(&self, spent: Spent) {
        self.place.allowance().set_spent(self.way, spent);
    }
}

#[cfg(test)]
mod tests;

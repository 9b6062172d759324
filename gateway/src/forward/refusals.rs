//! Records refused one after the other: are they to blame, or is the destination?
//!
//! Promises: a destination that refuses everything costs few records, one at a time
//! and ever more rarely; bad records do not stop the good ones behind them for good.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use super::{
    batch::Item,
    destination::{Error, Outcome, Outcomes},
};

/// Records of several partition keys refused in a row, with none taken in between,
/// after which the destination may be at fault.
const REFUSED_MAX: usize = 16;
/// The same while all are of one partition key: one device with a bad past is
/// likelier then.
const REFUSED_MAX_OF_ONE: usize = 256;
/// Partition keys whose first record is tried by itself, each time.
pub(super) const PROBES_MAX: usize = 16;
/// Times that nothing at all is given up.
const ROUNDS: u32 = 2;
/// How long until the destination is tried again, at first and at most; doubles in between.
const WAIT_FIRST: Duration = Duration::from_secs(60);
const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// Records that were refused since one was taken, over any number of batches.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusals {
    in_a_row: usize,
    /// The partition key of all of them; `None` once there were several.
    only_key: Option<Box<str>>,
    /// The destination may be at fault.
    fault: Option<Fault>,
}

#[derive(Debug, Clone)]
struct Fault {
    /// How often it was found so.
    rounds: u32,
    until: Instant,
    reason: String,
}

impl Refusals {
    /// What became of another record.
    pub(super) fn add(&mut self, key: &str, outcome: &Outcome) {
        match outcome {
            Outcome::Acknowledged => *self = Self::default(),
            Outcome::Permanent(_) => {
                if self.in_a_row == 0 {
                    self.only_key = Some(key.into());
                } else if self.only_key.as_deref() != Some(key) {
                    self.only_key = None;
                }
                self.in_a_row += 1;
            }
            _ => {}
        }
    }

    /// Whether anything was refused since something was taken.
    pub(super) const fn are_some(&self) -> bool {
        self.in_a_row > 0 || self.fault.is_some()
    }

    /// Whether the destination may be at fault rather than the records.
    pub(super) const fn are_too_many(&self) -> bool {
        let most = match self.only_key {
            Some(_) => REFUSED_MAX_OF_ONE,
            None => REFUSED_MAX,
        };
        self.in_a_row >= most
    }

    /// Whether the destination was found to be at fault, and has taken nothing since.
    pub(super) const fn has_fault(&self) -> bool {
        self.fault.is_some()
    }

    /// Whether single records are tried now.
    ///
    /// # Errors
    /// When it is too early for that.
    pub(super) fn is_probing(&self, now: Instant) -> Result<bool, Error> {
        match &self.fault {
            Some(fault) if fault.until > now => Err(fault.error(now)),
            fault => Ok(fault.is_some()),
        }
    }

    /// The destination may be at fault: everything waits, and counts as it did `before`.
    pub(super) fn begin(&mut self, before: Self, reason: &str, now: Instant) -> Error {
        *self = before;
        self.go_on(reason, now).0
    }

    /// Single records were tried of a batch of `count`, and none was taken: these were
    /// refused. The first is given up, at most: good ones may be waiting behind it.
    pub(super) fn none_taken(
        &mut self,
        mut refused: Vec<(usize, String)>,
        count: usize,
        now: Instant,
    ) -> Outcomes {
        let Some((_, last)) = refused.last() else {
            let reason = "an answer about no record".to_owned();
            return Err(Error::unavailable(reason));
        };
        let (refusing, gives_up) = self.go_on(last, now);
        if !gives_up {
            return Err(refusing);
        }
        let mut outcomes = vec![Outcome::Unknown(refusing.to_string()); count];
        let (at, reason) = refused.swap_remove(0);
        outcomes[at] = Outcome::Permanent(reason);
        Ok(outcomes)
    }

    /// It still refuses everything; says whether a record is given up this time.
    fn go_on(&mut self, reason: &str, now: Instant) -> (Error, bool) {
        let rounds = self.fault.as_ref().map_or(0, |fault| fault.rounds);
        let wait = WAIT_FIRST.saturating_mul(1 << rounds.min(16)).min(WAIT_MAX);
        let fault = Fault {
            rounds: rounds + 1,
            until: now + wait,
            reason: reason.to_owned(),
        };
        let error = fault.error(now);
        self.fault = Some(fault);
        (error, rounds >= ROUNDS)
    }
}

/// Which records are tried by themselves: the first of each partition key, of some.
pub(super) fn probes(items: &[Item]) -> Vec<usize> {
    let mut tried = HashSet::new();
    let numbered = items.iter().enumerate();
    numbered
        .filter(|(_, item)| tried.insert(item.partition_key()))
        .map(|(at, _)| at)
        .take(PROBES_MAX)
        .collect()
}

impl Fault {
    fn error(&self, now: Instant) -> Error {
        Error::Refusing {
            reason: format!("refuses record after record: {}", self.reason),
            retry_after: self.until.saturating_duration_since(now),
        }
    }
}

//! Entries that fail, and not by their own fault as the service says: is it away, or is
//! it them?
//!
//! Where others are taken it is them. So where all of a request failed and others of its
//! batch were taken, its events are put off, which is no attempt, and others go. Where
//! nothing is taken the service is away and the batch goes again; but at the third time, and
//! ever more rarely after that, it is put off too, because those behind it may be taken.
//!
//! If others were taken since when such events come again and fail again, they are halved,
//! and one that fails alone has had an attempt: it waits longer each time, and is a dead
//! letter in the end.

use std::{collections::HashSet, time::Duration};

use tokio::time::Instant;

use crate::record::Position;

/// How long events are put off: others go meanwhile, and where none were taken either the
/// service has some time to come back.
const PUT_OFF: Duration = Duration::from_millis(250);
const PUT_OFF_AWAY: Duration = Duration::from_secs(2);
/// Twice as long each time, up to this.
const PUT_OFF_MAX: Duration = Duration::from_secs(60);
/// Events that have an attempt in one batch of which nothing is taken, at most.
pub(super) const BLAMED_MAX: usize = 16;
/// Batches that failed in a row before one is put off although nothing was taken; the next
/// one is after so many times as many.
const PATIENCE: u32 = 3;
const MORE_PATIENCE: u32 = 4;
/// Events that are known to have been put off, at most: more than can wait for another
/// attempt. Forgotten ones are put off as if it were for the first time.
const KNOWN_MAX: usize = 20_000;

/// What failed, and what was taken since.
#[derive(Debug)]
pub(super) struct Doubt {
    /// Something was taken since a batch failed.
    takes: bool,
    /// Events that were put off, or have had an attempt.
    known: HashSet<Position>,
    /// Batches of others that failed since something was taken.
    in_a_row: u32,
    /// With how many of them one is put off.
    patience: u32,
    /// For how long events are put off where nothing is taken, until when that is so, and
    /// for how long after that: an outage is a round of many batches.
    away: Option<(Instant, Duration)>,
    next: Duration,
}

impl Default for Doubt {
    fn default() -> Self {
        Self {
            takes: false,
            known: HashSet::new(),
            in_a_row: 0,
            patience: PATIENCE,
            away: None,
            next: PUT_OFF_AWAY,
        }
    }
}

impl Doubt {
    /// Something of a batch was taken, and no request of it failed whole.
    pub(super) const fn taken(&mut self) {
        self.takes = true;
        self.in_a_row = 0;
        self.patience = PATIENCE;
        (self.away, self.next) = (None, PUT_OFF_AWAY);
    }

    /// These are done with.
    pub(super) fn forget(&mut self, events: impl Iterator<Item = Position>) {
        if !self.known.is_empty() {
            events.for_each(|event| {
                self.known.remove(&event);
            });
        }
    }

    /// Whether others were taken since a batch failed.
    pub(super) const fn takes_others(&self) -> bool {
        self.takes
    }

    /// Whether these failed before, and others were taken since.
    pub(super) fn is_about(&self, events: &[Position]) -> bool {
        self.takes && self.knows(events)
    }

    fn knows(&self, events: &[Position]) -> bool {
        events.iter().all(|event| self.known.contains(event))
    }

    /// Requests of a batch failed whole, with these events; `taken` says whether something
    /// else of it was taken. Says for how long they are put off; if they are not, the
    /// service is away.
    pub(super) fn failed(&mut self, events: Vec<Position>, taken: bool) -> Option<Duration> {
        if taken {
            self.taken();
        }
        let is_known = self.knows(&events);
        if !taken && !is_known {
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
        let is_turn = self.in_a_row >= self.patience;
        if is_turn {
            self.patience = self.patience.saturating_mul(MORE_PATIENCE);
        }
        let takes = std::mem::take(&mut self.takes);
        if !(taken || is_known || is_turn) {
            return None;
        }
        if self.known.len() + events.len() > KNOWN_MAX {
            self.known.clear();
        }
        self.known.extend(events);
        if takes {
            return Some(PUT_OFF);
        }
        let now = Instant::now();
        if let Some((until, wait)) = self.away
            && now < until
        {
            return Some(wait);
        }
        let wait = self.next;
        self.away = Some((now + wait, wait));
        self.next = wait.saturating_mul(2).min(PUT_OFF_MAX);
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn while_nothing_is_taken_events_are_put_off_for_longer_each_round() {
        let mut doubt = Doubt::default();
        let events = || vec![Position(1), Position(2)];
        assert_eq!(doubt.failed(events(), true), Some(PUT_OFF));
        let mut waits = Vec::new();
        for _ in 0..8 {
            // Batches of the same round wait for as long.
            let round: Vec<_> = (0..3).map(|_| doubt.failed(events(), false)).collect();
            assert_eq!(round, [round[0]; 3]);
            waits.extend(round[0].map(|wait| wait.as_secs()));
            tokio::time::advance(PUT_OFF_MAX).await;
        }
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
        doubt.taken();
        assert_eq!(doubt.failed(events(), false), Some(PUT_OFF));
        assert_eq!(doubt.failed(events(), false), Some(PUT_OFF_AWAY));
    }
}

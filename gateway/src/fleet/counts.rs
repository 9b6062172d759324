//! How many commands entered which state since the start, and how those stand that are
//! not over.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use serde::Serialize;

use super::{Announce, Fleet, State};
use crate::{
    event::{Event, Timestamp},
    store::NewEvent,
};

/// The account of commands. Field names are the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, utoipa::ToSchema)]
#[schema(as = CommandCounts)]
pub struct Account {
    /// Commands that are not over.
    pub open: u64,
    /// Seconds since the oldest of those was placed; 0 where there is none.
    pub oldest_age_secs: u64,
    /// Commands that were placed, since the start; like all that follow.
    pub queued: u64,
    /// Noted as sent.
    pub sent: u64,
    /// Done, as their devices said.
    pub acknowledged: u64,
    /// Not done, as their devices said, or in doubt after damage.
    pub failed: u64,
    /// Over because of their deadline, or their device.
    pub expired: u64,
    /// Taken back.
    pub cancelled: u64,
}

/// Counts by state, each of them after the commit.
#[derive(Debug, Default)]
pub(super) struct Counts {
    states: [AtomicU64; 6],
    /// When the oldest was placed that is open, in milliseconds since 1970; 0 for none.
    oldest_ms: AtomicI64,
}

impl Counts {
    fn of(&self, state: State) -> &AtomicU64 {
        &self.states[match state {
            State::Queued => 0,
            State::Sent => 1,
            State::Acknowledged => 2,
            State::Failed => 3,
            State::Expired => 4,
            State::Cancelled => 5,
        }]
    }

    /// When the oldest was placed that is open, as the table has it.
    pub(super) fn set_oldest(&self, ms: Option<i64>) {
        self.oldest_ms.store(ms.unwrap_or_default(), Relaxed);
    }

    /// One was placed: the oldest, if there was none.
    pub(super) fn placed(&self, ms: i64) {
        // Another one that was placed at the same moment is as old.
        self.oldest_ms
            .compare_exchange(0, ms, Relaxed, Relaxed)
            .unwrap_or_default();
    }

    pub(super) fn account(&self, open: u64, now: Timestamp) -> Account {
        let count = |state| self.of(state).load(Relaxed);
        let oldest = Some(self.oldest_ms.load(Relaxed)).filter(|at| open > 0 && *at > 0);
        let age_ms = oldest.map_or(0, |at| now.as_millis().saturating_sub(at));
        Account {
            open,
            oldest_age_secs: u64::try_from(age_ms / 1_000).unwrap_or_default(),
            queued: count(State::Queued),
            sent: count(State::Sent),
            acknowledged: count(State::Acknowledged),
            failed: count(State::Failed),
            expired: count(State::Expired),
            cancelled: count(State::Cancelled),
        }
    }
}

/// Decides where events go as another one does, and counts.
#[derive(Debug)]
pub(super) struct Counting {
    pub(super) announce: Arc<dyn Announce>,
    pub(super) counts: Arc<Counts>,
}

impl Announce for Counting {
    fn entry(&self, event: &Event) -> NewEvent {
        self.announce.entry(event)
    }

    fn entered(&self, state: State, commands: u64) {
        self.counts.of(state).fetch_add(commands, Relaxed);
    }
}

impl Fleet {
    /// The account of commands; what is open a moment old.
    pub fn account(&self) -> Account {
        let open = self.0.open.load(Relaxed);
        self.0.counts.account(open, self.now())
    }
}

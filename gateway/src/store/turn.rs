//! Order across refusals.
//!
//! A device's groups wait in the queue one behind the other. When one finds no
//! room and the next one, some commits later, does, the next one would overtake
//! it. So a group carries the turn in which its connection handed it over: the
//! first refusal ends the turn, and what else comes of it is turned away too,
//! until the connection has heard of the refusal and begins another turn.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use penstock_broker::Publisher;

/// The turn of a connection that a group belongs to.
#[derive(Debug, Clone)]
pub struct Turn {
    number: u64,
    /// Turns below this are over. Written by the writer only.
    over: Arc<AtomicU64>,
}

impl Turn {
    /// The turn that a connection is in. Read it once for all that is handed
    /// over together, before anything is waited for.
    pub fn of(publisher: &Publisher) -> Self {
        Self {
            number: publisher.turn.load(Relaxed),
            over: publisher.turns_over.clone(),
        }
    }

    /// Whether something of this turn was turned away before.
    pub(super) fn is_over(&self) -> bool {
        self.number < self.over.load(Relaxed)
    }

    /// Something of this turn was turned away.
    pub(super) fn end(&self) {
        self.over.fetch_max(self.number + 1, Relaxed);
    }

    #[cfg(test)]
    pub(super) const fn new(number: u64, over: Arc<AtomicU64>) -> Self {
        Self { number, over }
    }
}

//! What all connections together may hold.
//!
//! Limits per connection do not add up to something a small box has: ten
//! thousand connections with a megabyte each are ten gigabytes. So connections
//! also share one budget. When it is spent, a connection that holds more than
//! [`FAIR_BYTES`] of unsettled publishes is not read until its own receipts come
//! in, and a packet larger than a read is refused (0x97) instead of collected.
//! Nobody can be starved of the fair share, and nothing acknowledged is at stake.
//!
//! What waits for subscribers has a second budget of the same kind. There each
//! may hold as much as is still free, so that those who take nothing leave room
//! for those who do: see [`Budget::has_room_for`]. What is in memory is at most
//! the budget and everybody's fair share.
//!
//! A third is for what sessions keep for as long as they last: wills, names, topic
//! aliases. A client that wants more than its fair share of it when it is spent is
//! refused, or disconnected (0x97).
//!
//! Each is a quarter of `memory_max`. The last quarter is for subscriptions, which
//! [`crate::fanout`] estimates by their filters; beyond it they are refused (0x97).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

/// What a connection may hold whatever the others do.
pub(crate) const FAIR_BYTES: usize = 8 * 1024;

/// The three.
#[derive(Debug, Clone)]
pub(crate) struct Budgets {
    /// For what clients send.
    pub(crate) input: Arc<Budget>,
    /// For what waits to be sent to clients.
    pub(crate) output: Arc<Budget>,
    /// For what lasts as long as its session.
    pub(crate) kept: Arc<Budget>,
}

impl Budgets {
    /// Three budgets of `max` bytes each.
    pub(crate) fn of(max: usize) -> Self {
        let one = || Arc::new(Budget::of(max));
        Self {
            input: one(),
            output: one(),
            kept: one(),
        }
    }
}

/// Bytes held by all connections.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    max: usize,
}

impl Budget {
    /// A few packets of the largest size must fit: see [`crate::Limits`].
    pub(crate) fn of(max: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            max,
        }
    }

    /// Whether a holder may come to hold `bytes`: the fair share, or as much as
    /// is still free for others. So the greediest leave a part of it free.
    pub(crate) fn has_room_for(&self, bytes: usize) -> bool {
        bytes <= FAIR_BYTES || bytes <= self.max.saturating_sub(self.used.load(Relaxed))
    }

    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    pub(crate) fn is_spent(&self) -> bool {
        self.used.load(Relaxed) >= self.max
    }
}

/// One holder's part of the budget; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    held: usize,
}

impl Share {
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            held: 0,
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Whether this holder should take no more for now.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.held > FAIR_BYTES && self.budget.is_spent()
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.held += bytes;
        self.budget.used.fetch_add(bytes, Relaxed);
    }

    /// Holds `bytes` from now on.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes > self.held {
            self.add(bytes - self.held);
        } else if bytes < self.held {
            self.sub(self.held - bytes);
        }
    }

    /// Holds `bytes` from now on, if that is the fair share or all may hold as much.
    pub(crate) fn try_set(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.held);
        let room = more == 0
            || bytes <= FAIR_BYTES
            || self.budget.used.load(Relaxed).saturating_add(more) <= self.budget.max;
        if room {
            self.set(bytes);
        }
        room
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Adds unless that is beyond what all may hold.
    pub(crate) fn try_add(&mut self, bytes: usize) -> bool {
        if self.budget.used.load(Relaxed).saturating_add(bytes) > self.budget.max {
            return false;
        }
        self.add(bytes);
        true
    }

    pub(crate) fn sub(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.held, "only what was added is given back");
        self.held -= bytes;
        self.budget.used.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.sub(self.held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_budget_stops_those_who_hold_much_and_comes_back_with_them() {
        const BYTES: usize = 1_000_000;
        let budget = Arc::new(Budget::of(BYTES));
        let mut greedy = Share::new(&budget);
        let mut modest = Share::new(&budget);
        greedy.add(BYTES);
        modest.add(FAIR_BYTES);
        assert!(greedy.is_exhausted() && !modest.is_exhausted());
        assert!(!modest.try_add(1));
        drop(greedy);
        assert!(!budget.is_spent());
        assert!(modest.try_add(1));
        modest.sub(1);
        drop(modest);
        assert_eq!(budget.used(), 0);
    }
}

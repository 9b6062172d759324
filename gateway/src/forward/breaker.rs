//! Keeps batches in flight from overtaking one that failed.
//!
//! A destination that takes several batches at a time publishes nothing more once
//! one of them has failed, until all that are in flight have ended (decision 12).

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst},
};

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Breaker {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// One of the numbers below.
    state: AtomicU8,
    sending: AtomicUsize,
}

/// Batches are published.
const FREE: u8 = 0;
/// A record failed by itself.
const HELD: u8 = 1;
/// A batch failed.
const BROKEN: u8 = 2;

/// A batch in flight; when the last has ended, publishing may go on.
#[derive(Debug)]
pub(super) struct Sending(Arc<Shared>);

impl Breaker {
    /// A batch begins.
    pub(super) fn begin(&self) -> Sending {
        self.shared.sending.fetch_add(1, SeqCst);
        Sending(self.shared.clone())
    }

    /// A batch failed: none of those in flight publishes any more.
    pub(super) fn trip(&self) {
        self.shared.state.fetch_max(BROKEN, SeqCst);
    }

    /// A record failed by itself. Those in flight publish nothing more either, because
    /// they may have records that belong behind it; but the destination is well.
    pub(super) fn hold(&self) {
        self.shared.state.fetch_max(HELD, SeqCst);
    }

    /// How many batches are in flight.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.shared.sending.load(SeqCst)
    }

    /// Whether nothing more is to be published.
    pub(super) fn is_tripped(&self) -> bool {
        self.shared.state.load(SeqCst) != FREE
    }

    /// Whether that is because a batch in flight has failed.
    pub(super) fn is_broken(&self) -> bool {
        self.shared.state.load(SeqCst) == BROKEN
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.0.sending.fetch_sub(1, SeqCst) == 1 {
            self.0.state.store(FREE, SeqCst);
        }
    }
}

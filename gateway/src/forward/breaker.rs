//! Keeps batches in flight from overtaking one that failed.
//!
//! A destination that takes several batches at a time publishes nothing more once
//! one of them has failed, until all that are in flight have ended (decision 12).

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Breaker {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    broken: AtomicBool,
    sending: AtomicUsize,
}

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
        self.shared.broken.store(true, SeqCst);
    }

    /// How many batches are in flight.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> usize {
        self.shared.sending.load(SeqCst)
    }

    /// Whether a batch in flight has failed.
    pub(super) fn is_tripped(&self) -> bool {
        self.shared.broken.load(SeqCst)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.0.sending.fetch_sub(1, SeqCst) == 1 {
            self.0.broken.store(false, SeqCst);
        }
    }
}

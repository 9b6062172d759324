//! How much of the journal the tables of devices and commands may take: they do not make
//! way for telemetry as events do, and would leave none for it.
//!
//! The count is from above: what is added is counted at once, what shrinks or goes with the
//! next look at the tables. When they come near their bound, what is over and answers to
//! old requests are [forgotten](super::edits::press), the oldest first; when that is not
//! enough, what would add to them is refused.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    bytes: AtomicU64,
    max: u64,
}

impl Room {
    pub(super) const fn new(bytes: u64, max: u64) -> Self {
        Self {
            bytes: AtomicU64::new(bytes),
            max,
        }
    }

    /// Whether there is none for so many bytes.
    pub(super) fn is_full(&self, more: usize) -> bool {
        self.bytes.load(Relaxed).saturating_add(more as u64) > self.max
    }

    /// So many were added.
    pub(super) fn added(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// What the tables take as they were read.
    pub(super) fn counted(&self, bytes: u64) {
        self.bytes.store(bytes, Relaxed);
    }

    /// Bytes that should be forgotten, so that there is room for some time: an eighth.
    pub(super) fn too_much(&self) -> u64 {
        let bytes = self.bytes.load(Relaxed);
        bytes.saturating_sub(self.max - self.max / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_counts_at_once_and_an_eighth_is_kept_free() {
        let room = Room::new(700, 800);
        assert!(!room.is_full(100) && room.is_full(101));
        assert_eq!(room.too_much(), 0);
        room.added(90);
        assert!(room.is_full(11));
        assert_eq!(room.too_much(), 90);
        room.counted(10);
        assert!(!room.is_full(790) && room.too_much() == 0);
    }
}

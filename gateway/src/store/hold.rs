//! Somebody who is no destination reads the journal too: what everybody has settled
//! stays until he has come by, as long as that costs little.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::record::Position;

/// Settled records that stay for him, at most.
const EVENTS_MAX: u64 = 100_000;

/// How far he has come.
#[derive(Debug)]
pub struct Hold {
    position: AtomicU64,
    /// He has the tallies of commits up to here.
    tallied: AtomicU64,
    /// Tallies left before he had them.
    missed: AtomicBool,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            position: AtomicU64::new(u64::MAX),
            tallied: AtomicU64::new(0),
            missed: AtomicBool::new(false),
        }
    }
}

impl Hold {
    /// He has everything up to here.
    pub fn set(&self, position: Position) {
        self.position.store(position.0, Relaxed);
    }

    /// He does not read at the moment: nothing stays for him.
    pub fn release(&self) {
        self.position.store(u64::MAX, Relaxed);
    }

    /// Whether anything stays for him.
    pub fn is_set(&self) -> bool {
        self.position.load(Relaxed) != u64::MAX
    }

    /// He has what commits up to this one say of the ledger by device: that may leave.
    pub fn set_tallied(&self, commit: u64) {
        self.tallied.store(commit, Relaxed);
    }

    /// Whether some of that left before he had it, since this was asked last.
    pub fn take_missed(&self) -> bool {
        self.missed.swap(false, Relaxed)
    }

    pub(super) fn tallied(&self) -> u64 {
        self.tallied.load(Relaxed)
    }

    pub(super) fn set_missed(&self) {
        self.missed.store(true, Relaxed);
    }

    /// How far what is settled up to `settled` may leave; `scarce` when the room is
    /// needed.
    pub(super) fn limit(&self, settled: Position, scarce: bool) -> Position {
        if scarce {
            return settled;
        }
        let held = self.position.load(Relaxed);
        settled.min(Position(held.max(settled.0.saturating_sub(EVENTS_MAX))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_stands_still_holds_so_much_and_no_more() {
        let hold = Hold::default();
        let limit = |settled, scarce| hold.limit(Position(settled), scarce).0;
        assert_eq!(limit(500, false), 500);
        hold.set(Position(200));
        assert_eq!(limit(100, false), 100);
        assert_eq!(limit(500, false), 200);
        assert_eq!(limit(500, true), 500);
        assert_eq!(limit(200 + 3 * EVENTS_MAX, false), 200 + 2 * EVENTS_MAX);
        hold.release();
        assert_eq!(limit(500, false), 500);
    }
}

//! Somebody who is no destination reads the journal too: what everybody has settled
//! stays until he has come by, as long as that costs little.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::record::Position;

/// Settled records that stay for him, at most.
const EVENTS_MAX: u64 = 100_000;

/// How far he has come.
#[derive(Debug)]
pub struct Hold(AtomicU64);

impl Default for Hold {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Hold {
    /// He has everything up to here.
    pub fn set(&self, position: Position) {
        self.0.store(position.0, Relaxed);
    }

    /// He does not read at the moment: nothing stays for him.
    pub fn release(&self) {
        self.0.store(u64::MAX, Relaxed);
    }

    /// Whether anything stays for him.
    pub fn is_set(&self) -> bool {
        self.0.load(Relaxed) != u64::MAX
    }

    /// How far what is settled up to `settled` may leave; `scarce` when the room is
    /// needed.
    pub(super) fn limit(&self, settled: Position, scarce: bool) -> Position {
        if scarce {
            return settled;
        }
        let held = self.0.load(Relaxed);
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

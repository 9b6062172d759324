//! Tests that load the machine take turns.

use std::sync::{Mutex, MutexGuard, PoisonError};

static TURN: Mutex<()> = Mutex::new(());

/// Waits until no other such test of this program runs. A load of thousands of messages a
/// second is one only if it has the machine to itself.
pub fn alone() -> MutexGuard<'static, ()> {
    // A test that failed in its turn is over, too.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Waiting for something to become true.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Looks until `probe` gives something, and gives that.
///
/// # Panics
/// When it took longer than `within`.
#[track_caller]
pub fn until<T>(within: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "waited {within:?} in vain for {what}"
        );
        thread::sleep(POLL);
    }
}

/// Lets a time pass. Only for the length of a fault that is defined by its length, and for
/// the random moment at which one begins; never to wait for something to have happened.
pub fn pass(time: Duration) {
    thread::sleep(time);
}

//! Low priority for threads that nobody waits for, and rests for those that hold locks.
//!
//! A low priority alone is not enough where locks are shared: a thread that is not let
//! on while it has one keeps others waiting. So it rests while processors are wanted by
//! others, instead of being pushed aside again and again.

use std::{fs, time::Duration};

/// How much less than everything else it gets of a busy processor (nice): the least.
const NICE: i32 = 19;
/// It never rests for longer.
const REST_MAX: Duration = Duration::from_millis(250);

/// Gives way to everything else that wants a processor; of the calling thread alone.
pub(crate) fn give_way() {
    // Where that may not be, it is as any other.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::debug!(%error, "a thread has the priority of everything else");
    }
}

/// How long one thread had to wait for processors.
#[derive(Debug)]
pub(crate) struct Pace {
    /// In all, so far.
    waited: Duration,
}

impl Pace {
    /// Of the calling thread, from now on.
    pub(crate) fn begin() -> Self {
        Self { waited: waited() }
    }

    /// How long to rest now: as long as it had to wait since it was asked last.
    pub(crate) fn rest(&mut self) -> Duration {
        let now = waited();
        let since = now.saturating_sub(self.waited);
        self.waited = now;
        since.min(REST_MAX)
    }
}

/// How long this thread has waited for a processor; 0 where the system does not tell.
fn waited() -> Duration {
    // Nanoseconds on a processor, nanoseconds waited for one, turns.
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited = text.split_whitespace().nth(1);
    Duration::from_nanos(waited.and_then(|n| n.parse().ok()).unwrap_or(0))
}

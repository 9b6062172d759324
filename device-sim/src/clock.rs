//! Wall time from a monotonic clock, read once.
//!
//! Devices stamp their samples with [`Clock::wall_ms`]; a step of the machine's
//! clock during a run does not reach them.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The wall clock at the start of the run, carried forward monotonically.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
    started_ms: i64,
}

impl Clock {
    /// Reads the machine's clock.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place where the simulator reads the wall clock"
    )]
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Self {
            started: Instant::now(),
            started_ms: i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// When this clock was started.
    pub(crate) const fn started(&self) -> Instant {
        self.started
    }

    /// Milliseconds since the Unix epoch at `at`.
    pub(crate) fn wall_ms(&self, at: Instant) -> i64 {
        let since = at.saturating_duration_since(self.started).as_millis();
        self.started_ms
            .saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }
}

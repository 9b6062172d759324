//! Time behind a trait. The only file that reads the wall clock; elapsed time
//! elsewhere comes from `tokio::time::Instant`, which tests can pause.

use std::{
    fmt::Debug,
    sync::LazyLock,
    time::{Duration, Instant},
};

use crate::event::Timestamp;

/// Any fixed point will do, as long as it is the same for the whole process.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Tells the time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Now, by the wall clock, which may step.
    fn now(&self) -> Timestamp;

    /// Since a fixed point in this process; never steps. Against [`Clock::now`]
    /// this tells a step from time that has passed.
    fn monotonic(&self) -> Duration {
        BEGAN.elapsed()
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the place")]
    fn now(&self) -> Timestamp {
        let nanos = match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
        };
        Timestamp::from_nanos(nanos)
    }
}

//! Time behind a trait. The only file that reads the wall clock; elapsed time
//! elsewhere comes from `tokio::time::Instant`, which tests can pause.

use std::{
    fmt::Debug,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use crate::event::Timestamp;

/// Any fixed point will do, as long as it is the same for the whole process.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// This start of the machine, and how long it was ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Booted {
    /// Differs from one start to the next.
    pub id: Arc<str>,
    /// Since then; never steps.
    pub up: Duration,
}

/// Tells the time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Now, by the wall clock, which may step.
    fn now(&self) -> Timestamp;

    /// Since a fixed point in this process; never steps. Against [`Clock::now`]
    /// this tells a step from time that has passed.
    fn monotonic(&self) -> Duration {
        BEGAN.elapsed()
    }

    /// This start of the machine; `None` where the system does not tell.
    fn booted(&self) -> Option<Booted> {
        None
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

    fn booted(&self) -> Option<Booted> {
        static ID: LazyLock<Option<Arc<str>>> = LazyLock::new(|| {
            let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
            Some(id.trim_end().into())
        });
        let text = std::fs::read_to_string("/proc/uptime").ok()?;
        let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
        Some(Booted {
            id: ID.clone()?,
            up: Duration::try_from_secs_f64(seconds).ok()?,
        })
    }
}

//! Time behind a trait. The only file that reads the wall clock; elapsed time
//! elsewhere comes from `tokio::time::Instant`, which tests can pause.

mod believed;

use std::{
    fmt::Debug,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use crate::event::Timestamp;

/// Any fixed point will do, as long as it is the same for the whole process.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

pub use believed::Believed;

/// Whether somebody has set a machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// The machine does not tell.
    Unknown,
    /// Nobody has in this boot, and somebody is about to.
    Awaited,
    /// It was.
    Done,
}

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

    /// Whether somebody has set it since the start of the machine.
    fn set(&self) -> Set {
        Set::Unknown
    }

    /// Hears of a time that is known to have been.
    fn has_been(&self, _at: Timestamp) {}
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

    /// What systemd-timesyncd says of itself: `synchronized` is there from the first
    /// answer of a server on. A clock with a battery that the kernel took the time from
    /// is not waited for.
    fn set(&self) -> Set {
        const TIMESYNC: &str = "/run/systemd/timesync";
        let is_there = |path: &str| std::fs::exists(path).unwrap_or(false);
        if is_there(&format!("{TIMESYNC}/synchronized")) {
            Set::Done
        } else if is_there(TIMESYNC) && !has_battery() {
            Set::Awaited
        } else {
            Set::Unknown
        }
    }
}

/// Whether the kernel took the time from a clock that goes on while the machine is off.
fn has_battery() -> bool {
    let clocks = std::fs::read_dir("/sys/class/rtc").into_iter().flatten();
    let took = |clock: std::io::Result<std::fs::DirEntry>| {
        let took = std::fs::read_to_string(clock.ok()?.path().join("hctosys"));
        Some(took.ok()?.trim_end() == "1")
    };
    clocks.filter_map(took).any(|took| took)
}

//! Where a destination stands, for people and for `/readyz`: written by the
//! engine, read by anyone, never waited for.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::{event::Timestamp, store::Mode};

/// What a destination is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Nothing to do.
    #[default]
    Idle,
    /// Records are going out.
    Delivering,
    /// Waiting to try again.
    Retrying,
    /// The destination asked us to slow down.
    Throttled,
    /// Needs a person; looks now and then whether it was put right.
    Stopped,
    /// Waits because an operator said so.
    Paused,
    /// Waits for its budget or its hours.
    Waiting,
}

impl State {
    /// The word used in reports and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Delivering => "delivering",
            Self::Retrying => "retrying",
            Self::Throttled => "throttled",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::Waiting => "waiting",
        }
    }
}

/// What a destination waits for that is as configured, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// What it may send in this period is used up.
    Budget(Timestamp),
    /// It may send at other hours.
    Window(Timestamp),
}

/// Where a destination stands.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// What went wrong last, until something is delivered again.
    pub error: Option<String>,
    /// What it waits for that is as configured.
    pub waits: Option<Waits>,
    /// All that it has waits for what was stored before it and goes by its lane.
    pub held: bool,
    /// Records delivered per second, over the last ten seconds.
    pub delivered_per_sec: f64,
    /// When the last record was delivered.
    pub last_delivered: Option<Timestamp>,
    /// Records handed to the destination and not settled.
    pub in_flight: usize,
    /// For how long there has been something to deliver without any record
    /// being settled; zero when there is nothing to deliver.
    pub waiting: Duration,
}

impl Status {
    /// Whether records go out, or there are none: readiness means delivery
    /// progress, not a connection.
    pub fn is_progressing(&self, patience: Duration) -> bool {
        self.waiting <= patience
    }
}

/// Tells where a destination stands, and tells it how it is run; cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Mutex<Shared>>,
    mode: watch::Sender<Mode>,
}

impl Default for Handle {
    fn default() -> Self {
        Self {
            shared: Arc::default(),
            mode: watch::Sender::new(Mode::Running),
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    status: Status,
    waiting_since: Option<Instant>,
    rate: Rate,
}

impl Handle {
    /// Where the destination stands now.
    pub fn status(&self) -> Status {
        let now = Instant::now();
        let mut shared = self.lock();
        Status {
            delivered_per_sec: shared.rate.per_sec(now),
            waiting: shared
                .waiting_since
                .map_or(Duration::ZERO, |since| now - since),
            ..shared.status.clone()
        }
    }

    /// Says how the destination is run, from now on.
    pub fn set_mode(&self, mode: Mode) {
        self.mode
            .send_if_modified(|known| std::mem::replace(known, mode) != mode);
    }

    pub(super) fn mode(&self) -> watch::Receiver<Mode> {
        self.mode.subscribe()
    }

    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, state: State, in_flight: usize, has_work: bool) {
        let mut shared = self.lock();
        shared.status.state = state;
        shared.status.in_flight = in_flight;
        if !has_work {
            shared.waiting_since = None;
        } else if shared.waiting_since.is_none() {
            shared.waiting_since = Some(Instant::now());
        }
    }

    pub(super) fn waits(&self, waits: Option<Waits>, held: bool) {
        let mut shared = self.lock();
        shared.status.waits = waits;
        shared.status.held = held;
    }

    pub(super) fn failed(&self, error: &str) {
        self.lock().status.error = Some(error.to_owned());
    }

    pub(super) fn recovered(&self) {
        self.lock().status.error = None;
    }

    pub(super) fn settled(&self, delivered: u32, at: Timestamp) {
        let now = Instant::now();
        let mut shared = self.lock();
        shared.waiting_since = Some(now);
        if delivered > 0 {
            shared.status.last_delivered = Some(at);
            shared.rate.add(now, delivered);
        }
    }
}

/// Counts by second, of the last ten and the one that is running.
#[derive(Debug, Default)]
struct Rate {
    since: Option<Instant>,
    /// The second, counted from `since`, that the last bucket written is for.
    second: u64,
    buckets: [u32; Self::SECONDS + 1],
}

impl Rate {
    const SECONDS: usize = 10;

    fn add(&mut self, now: Instant, count: u32) {
        let bucket = self.advance(now);
        self.buckets[bucket] = self.buckets[bucket].saturating_add(count);
    }

    fn per_sec(&mut self, now: Instant) -> f64 {
        let running = self.advance(now);
        let since = self.since.map_or(Duration::ZERO, |since| now - since);
        let whole = self.second.min(Self::SECONDS as u64);
        let sum: u64 = self.buckets.iter().copied().map(u64::from).sum();
        if whole == 0 {
            // The first second: what there is, over the time there was.
            return count(sum) / since.as_secs_f64().max(0.1);
        }
        count(sum - u64::from(self.buckets[running])) / count(whole)
    }

    /// Empties the buckets of seconds that passed without a count; gives the running one.
    fn advance(&mut self, now: Instant) -> usize {
        let since = *self.since.get_or_insert(now);
        let second = (now - since).as_secs();
        let buckets = self.buckets.len() as u64;
        for passed in (self.second + 1..=second).rev().take(self.buckets.len()) {
            self.buckets[bucket(passed % buckets)] = 0;
        }
        self.second = second;
        bucket(second % buckets)
    }
}

fn bucket(n: u64) -> usize {
    usize::try_from(n).expect("less than the number of buckets")
}

#[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
const fn count(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_ten_seconds() {
        let start = Instant::now();
        let mut rate = Rate::default();
        for second in 0..30 {
            rate.add(start + Duration::from_secs(second), 100);
        }
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} instead of {b}");
        close(rate.per_sec(start + Duration::from_secs(30)), 100.0);
        close(rate.per_sec(start + Duration::from_secs(35)), 50.0);
        close(rate.per_sec(start + Duration::from_secs(400)), 0.0);
    }

    #[test]
    fn a_destination_without_work_is_progressing_and_one_that_settles_nothing_is_not() {
        let handle = Handle::default();
        let patience = Duration::ZERO;
        assert!(handle.status().is_progressing(patience));
        handle.set(State::Retrying, 1, true);
        std::thread::sleep(Duration::from_millis(2));
        assert!(!handle.status().is_progressing(patience));
        handle.set(State::Idle, 0, false);
        assert!(handle.status().is_progressing(patience));
    }
}

//! So much in a second: a bucket that fills at that rate, and holds a second's worth.

use std::time::Duration;

use tokio::time::Instant;

/// What is in it is counted in nanoseconds of its rate, so that nothing is lost to rounding
/// however often it is looked at.
#[derive(Debug)]
pub(super) struct Bucket {
    per_sec: u64,
    /// When it will be, or was, empty: an instant in the future is a debt.
    empty_at: Instant,
}

impl Bucket {
    /// A full one. The rate is at least one.
    pub(super) fn new(per_sec: u64, now: Instant) -> Self {
        let per_sec = per_sec.max(1);
        let empty_at = now.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        Self { per_sec, empty_at }
    }

    /// What goes in a second.
    pub(super) const fn per_sec(&self) -> u64 {
        self.per_sec
    }

    /// Until when to wait before anything is taken; `None` where there is something.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Instant> {
        if let Some(full) = now.checked_sub(Duration::from_secs(1)) {
            self.empty_at = self.empty_at.max(full);
        }
        (self.empty_at > now).then_some(self.empty_at)
    }

    /// Takes so much, whether or not it is there.
    pub(super) fn take(&mut self, amount: u64) {
        let nanos = u128::from(amount) * 1_000_000_000 / u128::from(self.per_sec);
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        let later = self.empty_at.checked_add(Duration::from_nanos(nanos));
        self.empty_at = later.unwrap_or(self.empty_at);
    }
}

//! Where a remote stands, for whoever asks.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{mqtt::reason::Broken, status::RemoteCounts};

/// Whether messages can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Not yet, or no longer; it is tried again.
    #[default]
    Connecting,
    /// Subscribed.
    Connected,
    /// Nothing will come until a person changes something; it is tried again now and then.
    Stopped,
}

impl State {
    /// The word used in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Stopped => "stopped",
        }
    }
}

/// Looks at a remote while it runs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Handle {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<(State, Option<String>)>,
    counters: Counters,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    received: AtomicU64,
    shown: AtomicU64,
    kept: AtomicU64,
    circles: AtomicU64,
    refused: AtomicU64,
    disconnects: AtomicU64,
}

impl Handle {
    /// Whether messages can come, and if not, why.
    pub fn state(&self) -> (State, Option<String>) {
        self.lock().clone()
    }

    /// The counts as they are now.
    pub fn counted(&self) -> RemoteCounts {
        let counters = &self.shared.counters;
        RemoteCounts {
            received: counters.received.load(Relaxed),
            shown: counters.shown.load(Relaxed),
            kept: counters.kept.load(Relaxed),
            circles: counters.circles.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            disconnects: counters.disconnects.load(Relaxed),
        }
    }

    pub(super) fn counts(&self) -> &Counters {
        &self.shared.counters
    }

    pub(super) fn connected(&self) {
        *self.lock() = (State::Connected, None);
    }

    /// Whether this is news, and should be logged.
    pub(super) fn broke(&self, broken: &Broken) -> bool {
        self.shared.counters.disconnects.fetch_add(1, Relaxed);
        let now = match broken.needs_person {
            true => State::Stopped,
            false => State::Connecting,
        };
        let mut state = self.lock();
        let is_news = state.0 != now || state.1.is_none();
        *state = (now, Some(broken.reason.clone()));
        is_news
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (State, Option<String>)> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counters {
    pub(super) fn received(&self, count: usize) {
        self.received.fetch_add(count as u64, Relaxed);
    }

    pub(super) fn shown(&self, count: usize) {
        self.shown.fetch_add(count as u64, Relaxed);
    }

    pub(super) fn kept(&self) {
        self.kept.fetch_add(1, Relaxed);
    }

    pub(super) fn circle(&self) {
        self.circles.fetch_add(1, Relaxed);
    }

    /// Whether it should be logged: the first, and then ever fewer.
    pub(super) fn refused(&self) -> bool {
        let before = self.refused.fetch_add(1, Relaxed);
        (before + 1).is_power_of_two()
    }
}

//! Where a remote stands, for whoever asks.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::{mqtt::reason::Broken, status::RemoteCounts};

/// Why nothing comes while the broker is connected.
const WAITS: &str = "its messages wait for room here";

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
    /// Messages wait because there is no room for them here.
    waits: AtomicBool,
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

    /// There has been no room for messages for a while. Whether this is news.
    pub(super) fn waits_for_room(&self) -> bool {
        self.lock().1 = Some(WAITS.to_owned());
        !self.shared.waits.swap(true, Relaxed)
    }

    /// There is room for messages.
    pub(super) fn has_room(&self) {
        if self.shared.waits.swap(false, Relaxed) {
            self.lock().1 = None;
        }
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
        let reason = match self.shared.waits.swap(false, Relaxed) {
            true => format!("{WAITS}; then {broken}"),
            false => broken.reason.clone(),
        };
        *state = (now, Some(reason));
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

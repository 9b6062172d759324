//! A place that events go to, as those share it that lead there: a destination, and lanes
//! beside it. What may go there at all, whose turn it is, and what goes before what.
//!
//! Promises: what is configured for a place is for all of them together ([`pace`](super::pace));
//! what is live and the rest take [turns]; a record of the rest goes when nothing
//! that was stored before it waits in the lane of what is live, so that nothing but what is
//! live overtakes anything. Nobody waits for a lane that is paused or stopped.
//!
//! Nothing is held here but what each of three is doing. Nobody waits with the lock held.

mod turns;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{sync::Notify, time::Instant};

use self::turns::Turns;
use super::{Config, pace::Allowance};
use crate::{record::DestinationId, store::Spent};

/// Which way an event goes to a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the lane of what passes whatever budget and hours say.
    Urgent,
    /// By the lane of what comes while the rest is behind.
    Live,
    /// By the destination itself.
    Rest,
}

impl Way {
    /// How many there are.
    pub(super) const COUNT: usize = 3;

    /// Its place in a list of all.
    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Place {
    turns: Mutex<Turns>,
    allowance: Mutex<Allowance>,
    before: Mutex<Before>,
    /// Something changed that one may have waited for.
    changed: [Notify; Way::COUNT],
}

/// What goes before the rest.
#[derive(Debug, Default)]
struct Before {
    /// The lane of what is live.
    live: Option<DestinationId>,
    /// Nobody waits for it at the moment.
    is_off: bool,
    /// The rest has something that waits for it.
    is_waited_for: bool,
}

impl Place {
    /// A destination or lane comes to its place, and has spent so much.
    pub fn join(self: &Arc<Self>, config: &Config, id: DestinationId, spent: Spent) -> At {
        let (way, now) = (config.way(), Instant::now());
        self.allowance().join(way, &config.pacing, spent, now);
        let mut turns = lock(&self.turns);
        turns.join(way, config.pacing.latency_max);
        if let (Way::Live, Some(live)) = (way, config.live) {
            turns.share(live.share);
            *lock(&self.before) = Before {
                live: Some(id),
                ..Before::default()
            };
        }
        drop(turns);
        At {
            place: self.clone(),
            way,
        }
    }

    /// What may go there.
    pub(super) fn allowance(&self) -> MutexGuard<'_, Allowance> {
        lock(&self.allowance)
    }

    fn tell(&self, ways: impl IntoIterator<Item = Way>) {
        for way in ways {
            self.changed[way.index()].notify_one();
        }
    }
}

/// One of those that lead to a place, until it is dropped.
#[derive(Debug)]
pub struct At {
    place: Arc<Place>,
    way: Way,
}

impl At {
    /// Where.
    pub(super) const fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Which way.
    pub(super) const fn way(&self) -> Way {
        self.way
    }

    /// It has a batch ready, and `is_open` says whether the rate lets it go: whether it is
    /// its turn. If not, it is [told](Self::changed) when to ask again, or is to ask
    /// [then](Self::wake_at).
    pub(super) fn may_go(&self, now: Instant, is_open: bool, in_flight: usize) -> bool {
        lock(&self.place.turns).may_go(self.way, now, is_open, in_flight)
    }

    /// It has nothing that could go now.
    pub(super) fn rests(&self) {
        let told = lock(&self.place.turns).rests(self.way);
        self.place.tell(told);
    }

    /// A batch of so many bytes goes.
    pub(super) fn sent(&self, sequence: u64, bytes: usize, now: Instant) {
        let told = lock(&self.place.turns).sent(self.way, sequence, bytes, now);
        self.place.tell(told);
    }

    /// It has landed, whatever became of it.
    pub(super) fn landed(&self, sequence: u64) {
        let told = lock(&self.place.turns).landed(self.way, sequence);
        self.place.tell(told);
    }

    /// When one that was not let go asks again if nothing happens.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        lock(&self.place.turns).wake_at(self.way, now)
    }

    /// Waits for something that may change whose turn it is.
    pub(super) async fn changed(&self) {
        self.place.changed[self.way.index()].notified().await;
    }

    /// Says whether the rest is to wait for the lane of what is live.
    pub(super) fn goes_first(&self, goes: bool) {
        if self.way != Way::Live {
            return;
        }
        let mut before = lock(&self.place.before);
        if before.is_off == goes {
            before.is_off = !goes;
            drop(before);
            self.place.tell([Way::Rest]);
        }
    }

    /// What the lane of what is live has settled is on disk.
    pub(super) fn recorded(&self) {
        if self.way == Way::Live && std::mem::take(&mut lock(&self.place.before).is_waited_for) {
            self.place.tell([Way::Rest]);
        }
    }

    /// Whom the rest has to wait for: the lane of what is live.
    pub(super) fn before(&self) -> Option<DestinationId> {
        if self.way != Way::Rest {
            return None;
        }
        let before = lock(&self.place.before);
        before.live.filter(|_| !before.is_off)
    }

    /// The rest is told when that has settled more, and that is on disk.
    pub(super) fn waits_for_live(&self) {
        lock(&self.place.before).is_waited_for = true;
    }
}

impl Drop for At {
    fn drop(&mut self) {
        if self.way == Way::Live {
            *lock(&self.place.before) = Before::default();
            self.place.allowance().set_spent(self.way, Spent::default());
        }
        let told = lock(&self.place.turns).leave(self.way);
        self.place.tell(told);
        self.place.tell([Way::Rest]);
    }
}

/// Nothing that holds a lock panics, so a poisoned one is as good.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

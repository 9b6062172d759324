//! The front of a session's queue, in memory while its client is connected.
//!
//! The writer adds what is committed, in order, as long as there is room; beyond
//! that the session asks for more once it has taken what is here. Bounded by
//! [`COUNT_MAX`] and the outbox's bytes, and by the budget that everything waiting
//! for subscribers shares.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use crate::{
    QoS,
    budget::Budget,
    fanout::{Message, Outbox},
};

/// Most messages of one session's queue in memory.
const COUNT_MAX: usize = 256;
/// What an item takes beside its message.
const ITEM_BYTES: usize = 128;

/// One place of a queue, as the subscriber gets it.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) position: i64,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Vec<u32>,
    /// It may have been sent before.
    pub(crate) dup: bool,
    /// `None`: PUBREC came, PUBREL is owed.
    pub(crate) message: Option<Message>,
}

impl Item {
    /// Lowers the QoS if it is one of these places, which are in order.
    pub(super) fn lower(&mut self, places: &[(i64, QoS)]) {
        let known = places.binary_search_by_key(&self.position, |(position, _)| *position);
        if let Some((_, qos)) = known.ok().and_then(|at| places.get(at)) {
            self.qos = *qos;
        }
    }

    fn bytes(&self) -> usize {
        ITEM_BYTES + self.message.as_ref().map_or(0, Message::len)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Feed {
    items: Mutex<VecDeque<Item>>,
    /// Of what is here and of what will be with the next commit.
    count: AtomicUsize,
    bytes: AtomicUsize,
    bytes_max: usize,
    behind: AtomicBool,
    gone: AtomicBool,
    budget: Arc<Budget>,
    outbox: Arc<Outbox>,
}

impl Feed {
    pub(super) fn new(outbox: Arc<Outbox>, budget: &Arc<Budget>) -> Self {
        Self {
            items: Mutex::default(),
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            bytes_max: outbox.bytes_max(),
            behind: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            budget: Arc::clone(budget),
            outbox,
        }
    }

    /// Bytes that fit.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max as u64
    }

    /// Takes room for an item; only the writer does.
    pub(super) fn reserve(&self, item: &Item) -> bool {
        let (count, bytes) = (self.count.load(SeqCst), self.bytes.load(SeqCst));
        let more = bytes + item.bytes();
        // One always fits, or large ones would never arrive.
        let full = count >= COUNT_MAX || more > self.bytes_max || !self.budget.has_room_for(more);
        if full && count > 0 {
            return false;
        }
        self.count.fetch_add(1, SeqCst);
        self.bytes.fetch_add(item.bytes(), SeqCst);
        true
    }

    /// Gives the room of an item back that will not come.
    pub(super) fn give_back(&self, item: &Item) {
        self.count.fetch_sub(1, SeqCst);
        self.bytes.fetch_sub(item.bytes(), SeqCst);
    }

    /// Adds an item that has room; whether it is the only one.
    pub(super) fn push(&self, item: Item) -> bool {
        let mut items = self.lock();
        items.push_back(item);
        items.len() == 1
    }

    /// Wakes the session.
    pub(super) fn wake(&self) {
        self.outbox.wake();
    }

    pub(super) fn set_behind(&self, behind: bool) {
        let was_behind = self.behind.swap(behind, SeqCst);
        if behind && !was_behind {
            // The session may have taken everything since there was no room.
            self.wake();
        }
    }

    /// The session was removed under its connection.
    pub(super) fn end(&self) {
        self.gone.store(true, SeqCst);
        self.wake();
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(SeqCst)
    }

    /// Whether everything here was taken, and the queue has more.
    pub(crate) fn wants_more(&self) -> bool {
        self.behind.load(SeqCst) && self.count.load(SeqCst) == 0
    }

    /// Whether nothing is here, on its way, or behind.
    pub(crate) fn is_drained(&self) -> bool {
        // In this order: the writer counts what it brings before it says that it was all.
        !self.behind.load(SeqCst) && self.count.load(SeqCst) == 0
    }

    pub(crate) fn pop(&self) -> Option<Item> {
        let mut items = self.lock();
        let item = items.pop_front()?;
        if items.is_empty() {
            *items = VecDeque::new();
        }
        drop(items);
        self.give_back(&item);
        Some(item)
    }

    /// Lowers the QoS of places that are here.
    pub(super) fn lower(&self, places: &[(i64, QoS)]) {
        self.lock().iter_mut().for_each(|item| item.lower(places));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Item>> {
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_session_that_has_taken_everything_hears_that_there_is_more() {
        let budget = Arc::new(Budget::of(1 << 20));
        let outbox = Arc::new(Outbox::new(1 << 20, 64, &budget));
        let feed = Feed::new(Arc::clone(&outbox), &budget);
        assert!(feed.pop().is_none() && !feed.wants_more());
        feed.set_behind(true);
        assert!(outbox.filled().now_or_never().is_some());
        assert!(feed.wants_more());
    }

    #[test]
    fn what_is_on_its_way_is_not_drained() {
        let budget = Arc::new(Budget::of(1 << 20));
        let outbox = Arc::new(Outbox::new(1 << 20, 64, &budget));
        let feed = Feed::new(outbox, &budget);
        assert!(feed.is_drained());
        let item = Item {
            position: 1,
            qos: QoS::AtLeastOnce,
            retain: false,
            subscription_ids: Vec::new(),
            dup: false,
            message: None,
        };
        assert!(feed.reserve(&item));
        assert!(feed.pop().is_none() && !feed.is_drained());
        feed.push(item);
        assert!(feed.pop().is_some() && feed.is_drained());
    }
}

//! What waits for one subscriber.
//!
//! Bounded in bytes for live messages, in count for retained ones, and for both by
//! the budget that all subscribers share: when that is spent, a subscriber gets no
//! more than its fair share ([`crate::budget`]). When there is no room the newest
//! message is the one that is dropped.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::Notify;

use super::{Message, shared::Claim};
use crate::{
    QoS,
    budget::{Budget, Share},
};

/// What one entry takes beside its message.
const ENTRY_BYTES: usize = 128;

/// A message as one subscriber gets it.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Message,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Vec<u32>,
    /// What ties a message of a shared subscription to this subscriber.
    pub(crate) claim: Option<Claim>,
}

impl Delivery {
    /// A message that no other member of a shared subscription is to get.
    pub(crate) fn settle(&mut self) {
        if let Some(claim) = &mut self.claim {
            claim.settle();
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    queues: Mutex<Queues>,
    bytes_max: usize,
    /// Messages of a shared subscription that may wait here or be in flight.
    window: usize,
    /// Nobody takes from it any more.
    closed: AtomicBool,
    filled: Notify,
    /// Messages that found no room.
    dropped: AtomicU64,
}

/// What waits in an outbox, and what did not find room.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    pub(crate) dropped: u64,
}

#[derive(Debug)]
struct Queues {
    retained: VecDeque<Delivery>,
    live: VecDeque<Delivery>,
    live_bytes: usize,
    retained_bytes: usize,
    /// What the entries take; their messages count by themselves.
    share: Share,
}

impl Queues {
    /// Whether an entry of `bytes` is within the budget; if so, it counts.
    fn take_room(&mut self, bytes: usize) -> bool {
        let own = self.live_bytes + self.retained_bytes + bytes;
        let room = self.share.budget().has_room_for(own);
        if room {
            self.share.add(ENTRY_BYTES);
        }
        room
    }
}

impl Outbox {
    pub(crate) fn new(bytes_max: usize, window: u16, budget: &Arc<Budget>) -> Self {
        let queues = Queues {
            retained: VecDeque::new(),
            live: VecDeque::new(),
            live_bytes: 0,
            retained_bytes: 0,
            share: Share::new(budget),
        };
        Self {
            queues: Mutex::new(queues),
            bytes_max,
            window: window.into(),
            closed: AtomicBool::new(false),
            filled: Notify::new(),
            dropped: AtomicU64::new(0),
        }
    }

    pub(crate) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(crate) fn standing(&self) -> Standing {
        let queues = self.lock();
        Standing {
            messages: queues.live.len() + queues.retained.len(),
            bytes: queues.live_bytes + queues.retained_bytes,
            dropped: self.dropped.load(Relaxed),
        }
    }

    pub(crate) fn window(&self) -> usize {
        self.window
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Takes no more, and gives what waits back to its shared subscriptions.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        let mut queues = self.lock();
        let Queues {
            live,
            live_bytes,
            share,
            ..
        } = &mut *queues;
        let all = std::mem::take(live);
        share.sub(all.iter().filter(|one| one.claim.is_none()).count() * ENTRY_BYTES);
        *live_bytes = 0;
        // Not under the lock: whoever they go to may be us.
        drop(queues);
        drop(all);
    }

    /// Adds a message of a shared subscription, whose group bounds and counts it.
    pub(crate) fn push_claimed(&self, delivery: Delivery) {
        let mut queues = self.lock();
        queues.live.push_back(delivery);
        let first = queues.live.len() == 1;
        drop(queues);
        if first {
            self.filled.notify_one();
        }
    }

    /// Adds a live message; false if there is no room for it.
    pub(crate) fn push(&self, delivery: Delivery) -> bool {
        let mut queues = self.lock();
        let bytes = delivery.message.len() + ENTRY_BYTES;
        // One message always fits, or large ones would never arrive.
        let full = queues.live_bytes + bytes > self.bytes_max && queues.live_bytes > 0;
        if full || !queues.take_room(bytes) {
            self.dropped.fetch_add(1, Relaxed);
            return false;
        }
        queues.live_bytes += bytes;
        queues.live.push_back(delivery);
        let first = queues.live.len() == 1;
        drop(queues);
        if first {
            self.filled.notify_one();
        }
        true
    }

    /// Whether a live message of `bytes` would find room behind `more` that are on their way.
    pub(crate) fn has_room(&self, bytes: usize, more: usize) -> bool {
        let queues = self.lock();
        let before = queues.live_bytes + more;
        let own = before + queues.retained_bytes + bytes + ENTRY_BYTES;
        let is_within = before == 0 || before + bytes + ENTRY_BYTES <= self.bytes_max;
        is_within && queues.share.budget().has_room_for(own)
    }

    /// Adds a retained message unless `count_max` are waiting.
    pub(crate) fn push_retained(&self, delivery: Delivery, count_max: usize) -> bool {
        let mut queues = self.lock();
        let bytes = delivery.message.len() + ENTRY_BYTES;
        if queues.retained.len() >= count_max || !queues.take_room(bytes) {
            self.dropped.fetch_add(1, Relaxed);
            return false;
        }
        queues.retained_bytes += bytes;
        queues.retained.push_back(delivery);
        drop(queues);
        self.filled.notify_one();
        true
    }

    /// Wakes the session, which has something else to look at.
    pub(crate) fn wake(&self) {
        self.filled.notify_one();
    }

    /// Takes the next message: retained ones first, so that a newer live
    /// message of the same topic comes after the retained one.
    pub(crate) fn pop(&self) -> Option<Delivery> {
        let mut queues = self.lock();
        if let Some(delivery) = queues.retained.pop_front() {
            queues.retained_bytes -= delivery.message.len() + ENTRY_BYTES;
            queues.share.sub(ENTRY_BYTES);
            if queues.retained.is_empty() {
                queues.retained = VecDeque::new();
            }
            return Some(delivery);
        }
        let delivery = queues.live.pop_front()?;
        if delivery.claim.is_none() {
            queues.live_bytes -= delivery.message.len() + ENTRY_BYTES;
            queues.share.sub(ENTRY_BYTES);
        }
        if queues.live.is_empty() && queues.live.capacity() > 256 {
            queues.live = VecDeque::new();
        }
        Some(delivery)
    }

    /// Resolves once something was added to an empty outbox; may resolve early.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Publish;

    fn large() -> Arc<Budget> {
        Arc::new(Budget::of(1_000_000))
    }

    fn delivery(bytes: usize, budget: &Arc<Budget>) -> Delivery {
        let publish = Publish {
            topic: Arc::from("t"),
            payload: Bytes::from(vec![0; bytes]),
            qos: QoS::AtMostOnce,
            retain: false,
            dup: false,
            properties: None,
            delivery: None,
        };
        Delivery {
            message: Message::new(&publish, 0, 0, 0, budget),
            qos: QoS::AtMostOnce,
            retain: false,
            subscription_ids: Vec::new(),
            claim: None,
        }
    }

    #[test]
    fn a_full_outbox_refuses_and_has_room_again_when_read() {
        let outbox = Outbox::new(1000, 64, &large());
        assert!(outbox.push(delivery(400, &large())));
        assert!(!outbox.push(delivery(400, &large())));
        assert!(outbox.pop().is_some());
        assert!(outbox.push(delivery(400, &large())));
        assert!(outbox.pop().is_some());
        assert!(outbox.pop().is_none());
        assert_eq!(outbox.lock().live_bytes, 0);
    }

    #[test]
    fn a_message_larger_than_the_outbox_still_passes_alone() {
        let outbox = Outbox::new(1000, 64, &large());
        assert!(outbox.push(delivery(5000, &large())));
        assert!(!outbox.push(delivery(1, &large())));
    }

    #[test]
    fn subscribers_that_take_nothing_leave_room_for_those_that_do() {
        const LEN: usize = 10_000;
        let budget = Arc::new(Budget::of(100 * LEN));
        let mut greedy = Vec::new();
        for n in 0..1000 {
            let outbox = Outbox::new(50 * LEN, 64, &budget);
            if n % 2 == 0 {
                while outbox.push(delivery(LEN, &budget)) {}
            } else {
                while outbox.push_retained(delivery(LEN, &budget), 8192) {}
            }
            greedy.push(outbox);
            assert!(budget.used() < 105 * LEN, "{} after {n}", budget.used());
        }
        // The fair share is there whatever the others do, and more is not.
        let honest = Outbox::new(50 * LEN, 64, &budget);
        assert!(honest.push(delivery(crate::budget::FAIR_BYTES / 2, &budget)));
        assert!(!honest.push(delivery(LEN, &budget)));
        greedy.clear();
        assert!(honest.push(delivery(LEN, &budget)));
        assert!(honest.pop().is_some() && honest.pop().is_some());
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn what_others_hold_leaves_no_room_beforehand_either() {
        const LEN: usize = 10_000;
        let budget = Arc::new(Budget::of(20 * LEN));
        let greedy = Outbox::new(50 * LEN, 64, &budget);
        while greedy.push(delivery(LEN, &budget)) {}
        let one = Outbox::new(50 * LEN, 64, &budget);
        let held = delivery(12 * LEN, &budget);
        assert!(one.has_room(100, 0) && one.push(delivery(100, &budget)));
        assert!(!one.has_room(LEN, 0) && !one.push(delivery(LEN, &budget)));
        drop((greedy, held));
        assert!(one.has_room(LEN, 0) && one.push(delivery(LEN, &budget)));
    }

    #[test]
    fn a_message_that_many_wait_for_counts_once() {
        let budget = Arc::new(Budget::of(1_000_000));
        let one = delivery(10_000, &budget);
        let outboxes: Vec<_> = (0..100)
            .map(|_| Outbox::new(100_000, 64, &budget))
            .collect();
        for outbox in &outboxes {
            assert!(outbox.push(Delivery {
                message: one.message.clone(),
                qos: one.qos,
                retain: one.retain,
                subscription_ids: Vec::new(),
                claim: None,
            }));
        }
        assert!(budget.used() < 30_000);
    }
}

//! What waits for one subscriber.
//!
//! Bounded in bytes for live messages and in count for retained ones, whose
//! bytes the retained store owns. When there is no room the newest message is
//! the one that is dropped.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::Message;
use crate::QoS;

/// What one entry takes beside its message.
const ENTRY_BYTES: usize = 128;

/// A message as one subscriber gets it.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) message: Message,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) subscription_ids: Vec<u32>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    queues: Mutex<Queues>,
    bytes_max: usize,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    retained: VecDeque<Delivery>,
    live: VecDeque<Delivery>,
    live_bytes: usize,
}

impl Outbox {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            queues: Mutex::default(),
            bytes_max,
            filled: Notify::new(),
        }
    }

    /// Adds a live message; false if there is no room for it.
    pub(crate) fn push(&self, delivery: Delivery) -> bool {
        let mut queues = self.lock();
        let bytes = queues.live_bytes + delivery.message.len() + ENTRY_BYTES;
        // One message always fits, or large ones would never arrive.
        if bytes > self.bytes_max && !queues.live.is_empty() {
            return false;
        }
        queues.live_bytes = bytes;
        queues.live.push_back(delivery);
        let first = queues.live.len() == 1;
        drop(queues);
        if first {
            self.filled.notify_one();
        }
        true
    }

    /// Adds a retained message unless `count_max` are waiting.
    pub(crate) fn push_retained(&self, delivery: Delivery, count_max: usize) -> bool {
        let mut queues = self.lock();
        if queues.retained.len() >= count_max {
            return false;
        }
        queues.retained.push_back(delivery);
        drop(queues);
        self.filled.notify_one();
        true
    }

    /// Takes the next message: retained ones first, so that a newer live
    /// message of the same topic comes after the retained one.
    pub(crate) fn pop(&self) -> Option<Delivery> {
        let mut queues = self.lock();
        if let Some(delivery) = queues.retained.pop_front() {
            if queues.retained.is_empty() {
                queues.retained = VecDeque::new();
            }
            return Some(delivery);
        }
        let delivery = queues.live.pop_front()?;
        queues.live_bytes -= delivery.message.len() + ENTRY_BYTES;
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
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::Publish;

    fn delivery(bytes: usize) -> Delivery {
        let publish = Publish {
            topic: Arc::from("t"),
            payload: Bytes::from(vec![0; bytes]),
            qos: QoS::AtMostOnce,
            retain: false,
            dup: false,
            properties: None,
        };
        Delivery {
            message: Message::new(&publish, 0, 0, 0),
            qos: QoS::AtMostOnce,
            retain: false,
            subscription_ids: Vec::new(),
        }
    }

    #[test]
    fn a_full_outbox_refuses_and_has_room_again_when_read() {
        let outbox = Outbox::new(1000);
        assert!(outbox.push(delivery(400)));
        assert!(!outbox.push(delivery(400)));
        assert!(outbox.pop().is_some());
        assert!(outbox.push(delivery(400)));
        assert!(outbox.pop().is_some());
        assert!(outbox.pop().is_none());
        assert_eq!(outbox.lock().live_bytes, 0);
    }

    #[test]
    fn a_message_larger_than_the_outbox_still_passes_alone() {
        let outbox = Outbox::new(1000);
        assert!(outbox.push(delivery(5000)));
        assert!(!outbox.push(delivery(1)));
    }
}

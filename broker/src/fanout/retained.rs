//! The last retained message of each topic, in memory.
//!
//! Bounded by [`COUNT_MAX`] and [`BYTES_MAX`]; beyond them a message is
//! delivered but not retained, and counted. Gone at a restart: retained
//! messages in the store are the next issue.

use std::{collections::BTreeMap, sync::Arc};

use super::Message;
use crate::topic;

/// Most topics with a retained message.
pub(crate) const COUNT_MAX: usize = 8192;
/// Most bytes of all retained messages.
const BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Retained {
    by_topic: BTreeMap<Arc<str>, Message>,
    bytes: usize,
}

impl Retained {
    pub(super) fn len(&self) -> usize {
        self.by_topic.len()
    }

    /// Keeps a message in place of the topic's previous one; false if there is
    /// no room, and then the previous one is gone too: it is out of date.
    pub(super) fn keep(&mut self, topic: &Arc<str>, message: Message) -> bool {
        self.clear(topic);
        if self.by_topic.len() >= COUNT_MAX || self.bytes + message.len() > BYTES_MAX {
            return false;
        }
        self.bytes += message.len();
        self.by_topic.insert(Arc::clone(topic), message);
        true
    }

    /// Whether there was one.
    pub(super) fn clear(&mut self, topic: &str) -> bool {
        let old = self.by_topic.remove(topic);
        if let Some(old) = &old {
            self.bytes -= old.len();
        }
        old.is_some()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Message> {
        self.by_topic.values()
    }

    pub(super) fn matching<'a>(&'a self, filter: &'a str) -> impl Iterator<Item = &'a Message> {
        self.by_topic
            .iter()
            .filter(move |(name, _)| topic::matches(name, filter))
            .map(|(_, message)| message)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Publish, QoS, budget::Budget};

    fn message(topic: &Arc<str>, bytes: usize) -> Message {
        let publish = Publish {
            topic: Arc::clone(topic),
            payload: Bytes::from(vec![0; bytes]),
            qos: QoS::AtMostOnce,
            retain: true,
            dup: false,
            properties: None,
        };
        Message::new(&publish, 0, 0, 0, &Arc::new(Budget::of(0)))
    }

    #[test]
    fn retained_messages_are_bounded_in_count_and_bytes() {
        let mut retained = Retained::default();
        for n in 0..COUNT_MAX {
            let topic = Arc::from(format!("a/{n}"));
            assert!(retained.keep(&topic, message(&topic, 1)));
        }
        let topic = Arc::from("one/more");
        assert!(!retained.keep(&topic, message(&topic, 1)));
        let topic = Arc::from("a/0");
        assert!(
            retained.keep(&topic, message(&topic, 2)),
            "a known topic is replaced"
        );
        assert!(!retained.keep(&topic, message(&topic, BYTES_MAX)));
        assert_eq!(retained.len(), COUNT_MAX - 1);
        assert_eq!(retained.matching("a/+").count(), COUNT_MAX - 1);
        assert_eq!(retained.matching("a/1").count(), 1);
        for n in 0..COUNT_MAX {
            retained.clear(&format!("a/{n}"));
        }
        assert_eq!((retained.len(), retained.bytes), (0, 0));
    }
}

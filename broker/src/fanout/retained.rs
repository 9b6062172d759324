//! The last retained message of each topic, as it is in memory.
//!
//! Bounded in count and bytes. Who publishes beyond them at QoS 1 or 2 is pushed back
//! (`keep/room.rs`); what nobody can be pushed back for is delivered, not retained, and
//! counted. Only the keeper's writer changes what is here, in the order in which
//! it keeps it, so memory and disk agree. Messages are numbered here, because a new
//! subscriber must get one either as retained or as live, and never as both.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::Message;
use crate::{budget::Budget, keep::RetainedInfo, metrics::Counters, topic};

/// Topics that others may add between asking for room and having it.
const SPARE_TOPICS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Retained {
    topics: Mutex<Topics>,
    /// The number of the next message.
    number: AtomicU64,
    count_max: usize,
    bytes_max: usize,
    /// For what its messages take, which [`Retained::bytes_max`] bounds.
    budget: Arc<Budget>,
}

/// The messages by topic, under their lock.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    by_topic: BTreeMap<Arc<str>, Message>,
    bytes: usize,
}

/// Messages that are about to be retained, for the bounds.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What each topic has by then, in bytes; nothing if it is cleared.
    lens: HashMap<Arc<str>, usize>,
    /// Topics and bytes that come, and that go for them.
    come: (usize, usize),
    go: (usize, usize),
}

/// Some of the retained messages that a filter brings.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    pub(crate) found: Vec<Message>,
    /// Topics that were looked at.
    pub(crate) looked_at: usize,
    /// The last of them, where there may be more.
    pub(crate) after: Option<Arc<str>>,
}

/// What a retained message did.
#[derive(Debug)]
pub(crate) struct Change {
    /// The message with its number.
    pub(crate) message: Message,
    /// What the topic had before.
    pub(crate) before: Option<Message>,
    pub(crate) how: How,
}

/// How a topic was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// The message is the topic's.
    Kept,
    /// It was empty: the topic has none.
    Cleared,
    /// There was no room for it, and what it replaces is out of date: the topic has none.
    Refused,
}

impl Retained {
    pub(crate) fn new(count_max: usize, bytes_max: usize) -> Self {
        Self {
            topics: Mutex::default(),
            number: AtomicU64::new(1),
            count_max,
            bytes_max,
            budget: Arc::new(Budget::of(usize::MAX)),
        }
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(crate) fn count_max(&self) -> usize {
        self.count_max
    }

    /// A number for a message, or for what is to get only messages from here on.
    pub(crate) fn number(&self) -> u64 {
        self.number.fetch_add(1, Relaxed)
    }

    /// The messages; none is numbered and retained while they are locked.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Topics> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is retained at all: the operator wants it so.
    pub(crate) fn is_off(&self) -> bool {
        self.count_max == 0 || self.bytes_max == 0
    }

    /// Whether it is not certain that so many bytes more have room beside what others
    /// publish meanwhile.
    pub(crate) fn is_short(&self, bytes: usize) -> bool {
        let topics = self.lock();
        topics.len() + SPARE_TOPICS > self.count_max
            || topics.bytes + bytes + self.bytes_max / 8 > self.bytes_max
    }

    /// Whether one more message of `len` bytes has room, behind what is planned; of none
    /// the topic is cleared. What no room would be enough for is not waited for.
    pub(crate) fn plan(&self, plan: &mut Plan, topic: &Arc<str>, len: usize) -> bool {
        if self.is_off() || len > self.bytes_max {
            return true;
        }
        let topics = self.lock();
        let known = || topics.by_topic.get(topic).map(Message::len);
        let before = plan.lens.insert(Arc::clone(topic), len).or_else(known);
        let before = before.unwrap_or(0);
        plan.come.0 += usize::from(len > 0);
        plan.come.1 += len;
        plan.go.0 += usize::from(before > 0);
        plan.go.1 += before;
        len == 0
            || topics.len() + plan.come.0 <= self.count_max + plan.go.0
                && topics.bytes + plan.come.1 <= self.bytes_max + plan.go.1
    }

    /// The same of a message by itself.
    pub(crate) fn has_room(&self, message: &Message) -> bool {
        let len = match message.payload() {
            [] => 0,
            _ => message.len(),
        };
        let topic = Arc::from(message.topic_str());
        self.plan(&mut Plan::default(), &topic, len)
    }

    /// Numbers a message and makes it its topic's.
    pub(crate) fn change(&self, message: &Message) -> Change {
        let mut topics = self.lock();
        let message = message.renumbered(self.number(), &self.budget);
        let topic = message.topic_str();
        let before = topics.take(topic);
        let how = if message.payload().is_empty() {
            How::Cleared
        } else if topics.by_topic.len() >= self.count_max
            || topics.bytes + message.len() > self.bytes_max
        {
            How::Refused
        } else {
            let topic = Arc::from(topic);
            topics.put(topic, message.clone());
            How::Kept
        };
        Change {
            message,
            before,
            how,
        }
    }

    /// Puts back what a change replaced, or what a file has.
    pub(crate) fn restore(&self, topic: &Arc<str>, before: Option<Message>) {
        let mut topics = self.lock();
        topics.take(topic);
        if let Some(message) = before {
            topics.put(Arc::clone(topic), message);
        }
    }

    /// Forgets a topic; what it had.
    pub(crate) fn forget(&self, topic: &str) -> Option<Message> {
        self.lock().take(topic)
    }

    pub(crate) fn get(&self, topic: &str) -> Option<Message> {
        self.lock().by_topic.get(topic).cloned()
    }

    pub(crate) fn clear_all(&self) {
        *self.lock() = Topics::default();
    }

    /// Topics whose message has outlived itself.
    pub(crate) fn expired(&self, now_ms: u64) -> Vec<Arc<str>> {
        let topics = self.lock();
        let over = topics
            .by_topic
            .iter()
            .filter(|(_, message)| message.lifetime_left(now_ms).is_err());
        over.map(|(topic, _)| Arc::clone(topic)).collect()
    }

    pub(crate) fn all(&self) -> Vec<Message> {
        self.lock().by_topic.values().cloned().collect()
    }

    pub(crate) fn list(&self) -> Vec<RetainedInfo> {
        let topics = self.lock();
        let each = topics.by_topic.iter().map(|(topic, message)| RetainedInfo {
            topic: topic.to_string(),
            qos: message.qos() as u8,
            payload_bytes: message.payload().len(),
        });
        each.collect()
    }

    /// Counts the messages and their bytes.
    pub(crate) fn count(&self, counters: &Counters) {
        let topics = self.lock();
        counters.retained.set(topics.len());
        counters.retained_bytes.set(topics.bytes);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}

impl Topics {
    pub(crate) fn len(&self) -> usize {
        self.by_topic.len()
    }

    fn put(&mut self, topic: Arc<str>, message: Message) {
        self.bytes += message.len();
        self.by_topic.insert(topic, message);
    }

    fn take(&mut self, topic: &str) -> Option<Message> {
        let old = self.by_topic.remove(topic)?;
        self.bytes -= old.len();
        Some(old)
    }

    /// The messages whose topics match, looking only at those that begin as the
    /// filter does.
    pub(crate) fn matching<'a>(&'a self, filter: &'a str) -> impl Iterator<Item = &'a Message> {
        self.candidates(filter, None)
            .filter(move |(name, _)| topic::matches(name, filter))
            .map(|(_, message)| message)
    }

    /// Those of [`Topics::matching`] that `is_wanted` agrees to, behind the topic
    /// `after`, having looked at no more than `topics` and found no more than `places`.
    pub(crate) fn slice(
        &self,
        filter: &str,
        after: Option<&str>,
        topics: usize,
        places: usize,
        is_wanted: impl Fn(&Message) -> bool,
    ) -> Slice {
        let mut slice = Slice::default();
        for (name, message) in self.candidates(filter, after) {
            slice.looked_at += 1;
            if topic::matches(name, filter) && is_wanted(message) {
                slice.found.push(message.clone());
            }
            if slice.looked_at >= topics || slice.found.len() >= places {
                slice.after = Some(Arc::clone(name));
                break;
            }
        }
        slice
    }

    /// How many [`Topics::slice`] would find, were there no bounds.
    pub(crate) fn count(
        &self,
        filter: &str,
        after: Option<&str>,
        is_wanted: impl Fn(&Message) -> bool,
    ) -> usize {
        self.candidates(filter, after)
            .filter(|(name, message)| topic::matches(name, filter) && is_wanted(message))
            .count()
    }

    /// The topics that begin as the filter does, behind `after`.
    fn candidates<'a>(
        &'a self,
        filter: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Message)> {
        let wildcard = memchr::memchr2(b'+', b'#', filter.as_bytes());
        // `a/#` matches `a` too.
        let prefix = filter[..wildcard.unwrap_or(filter.len())].trim_end_matches('/');
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        self.by_topic
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |(name, _)| name.starts_with(prefix))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Publish, QoS};

    fn message(topic: &str, bytes: usize) -> Message {
        let publish = Publish {
            topic: Arc::from(topic),
            payload: Bytes::from(vec![0; bytes]),
            qos: QoS::AtMostOnce,
            retain: true,
            dup: false,
            properties: None,
            delivery: None,
        };
        Message::new(&publish, 0, 0, 0, &Arc::new(Budget::of(0)))
    }

    #[test]
    fn retained_messages_are_bounded_in_count_and_bytes() {
        let retained = Retained::new(100, 100_000);
        let change = |topic: &str, bytes| retained.change(&message(topic, bytes)).how;
        for n in 0..100 {
            assert_eq!(change(&format!("a/{n}"), 1), How::Kept);
        }
        assert_eq!(change("one/more", 1), How::Refused);
        assert_eq!(change("a/0", 2), How::Kept, "a known topic is replaced");
        assert_eq!(change("a/0", 100_000), How::Refused);
        assert_eq!(retained.len(), 99);
        assert_eq!(retained.lock().matching("a/+").count(), 99);
        assert_eq!(retained.lock().matching("a/1").count(), 1);
        for n in 0..100 {
            assert_eq!(change(&format!("a/{n}"), 0), How::Cleared);
        }
        assert_eq!((retained.len(), retained.lock().bytes), (0, 0));
    }

    #[test]
    fn a_filter_finds_its_topics_and_no_others() {
        let retained = Retained::new(100, 100_000);
        let all = ["a", "a/b", "a/b/c", "ab", "b", "$x/a", "/a", "a//c"];
        for topic in all {
            retained.change(&message(topic, 1));
        }
        for filter in [
            "#", "a/#", "a/+", "a/b", "+", "+/a", "$x/#", "a/+/c", "/+", "a//#",
        ] {
            let topics = retained.lock();
            let mut found: Vec<_> = topics.matching(filter).map(Message::topic_str).collect();
            found.sort_unstable();
            let mut expect: Vec<_> = all
                .into_iter()
                .filter(|name| topic::matches(name, filter))
                .collect();
            expect.sort_unstable();
            assert_eq!(found, expect, "{filter}");
        }
    }
}

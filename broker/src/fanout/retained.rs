//! The last retained message of each topic, as it is in memory.
//!
//! Bounded in count and bytes, and in what one client and one user may have of them
//! (`shares`). Who publishes beyond that at QoS 1 or 2 is pushed back
//! (`keep/room.rs`), unless the operator wants it otherwise; what nobody can be pushed
//! back for is delivered, not retained, and counted. A message that takes no more than the
//! one it replaces always has room, also where the bounds were lowered. Only the keeper's
//! writer changes what is here, in the order in which it keeps it, so memory and disk
//! agree; but `$SYS`, which is in memory only, bounded by itself, and in no bound here.
//! Messages are numbered here, because a new subscriber must get one either as retained or
//! as live, and never as both.

mod shares;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

pub(crate) use shares::Owner;
use shares::{Amount, Names, Shares};

use super::Message;
use crate::{
    budget::Budget,
    keep::{Config, RetainedFull, RetainedInfo},
    metrics::Counters,
    topic,
};

/// Topics that others may add between asking for room and having it.
const SPARE_TOPICS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Retained {
    topics: Mutex<Topics>,
    /// The number of the next message.
    number: AtomicU64,
    max: Amount,
    /// Who finds no room is pushed back.
    refuses: bool,
    names: Names,
    /// For what its messages take, which [`Retained::max`] bounds.
    budget: Arc<Budget>,
}

/// The messages by topic, under their lock.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    by_topic: BTreeMap<Arc<str>, Owned>,
    /// All there is, and what of it is in no bound.
    all: Amount,
    unbounded: Amount,
    shares: Shares,
}

/// A retained message, and whose it is where that is known.
#[derive(Debug, Clone)]
pub(crate) struct Owned {
    pub(crate) message: Message,
    of: Option<Owner>,
}

impl From<Message> for Owned {
    /// Nobody's.
    fn from(message: Message) -> Self {
        Self { message, of: None }
    }
}

/// Messages that are about to be retained, for the bounds.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What each topic has by then, in bytes; nothing if it is cleared.
    lens: HashMap<Arc<str>, usize>,
    /// What comes, and what goes for it.
    come: Amount,
    go: Amount,
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
    pub(crate) before: Option<Owned>,
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
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            topics: Mutex::default(),
            number: AtomicU64::new(1),
            max: Amount {
                topics: config.retained_max,
                bytes: config.retained_bytes_max,
            },
            refuses: config.retained_full == RetainedFull::Refuse,
            names: Names::default(),
            budget: Arc::new(Budget::of(usize::MAX)),
        }
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Messages that there may be, or are: bounds may have been lowered.
    pub(crate) fn count_max(&self, topics: &Topics) -> usize {
        self.max.topics.max(topics.len())
    }

    /// Whose messages a client's are.
    pub(crate) fn owner(&self, client: &str, user: Option<&str>) -> Owner {
        self.names.owner(client, user)
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
        self.max.topics == 0 || self.max.bytes == 0
    }

    /// Whether it is not certain that so many bytes more of a client's have room beside
    /// what others publish meanwhile.
    pub(crate) fn is_short(&self, bytes: usize, of: Owner) -> bool {
        if !self.refuses {
            return false;
        }
        let topics = self.lock();
        let has = topics.bounded();
        let left = self.max.topics.saturating_sub(has.topics + SPARE_TOPICS);
        let bytes_left = (self.max.bytes - self.max.bytes / 8).saturating_sub(has.bytes + bytes);
        left == 0
            || bytes_left == 0
            || !topics.shares.may_have_topics(of, SPARE_TOPICS, left)
            || !topics.shares.may_have_bytes(of, bytes, bytes_left)
    }

    /// Whether one more message of `len` bytes has room, behind what is planned; of none
    /// the topic is cleared. What no room would be enough for is not waited for, nor
    /// anything where the operator wants that.
    pub(crate) fn plan(
        &self,
        plan: &mut Plan,
        topic: &Arc<str>,
        len: usize,
        of: Option<Owner>,
    ) -> bool {
        if self.is_off() || self.is_too_large(len) || !self.refuses {
            return true;
        }
        self.fits(&self.lock(), plan, topic, len, of)
    }

    /// Whether a message of that size never has room.
    pub(crate) const fn is_too_large(&self, len: usize) -> bool {
        len > self.max.bytes
    }

    /// Whether there is room, whoever asks.
    fn fits(
        &self,
        topics: &Topics,
        plan: &mut Plan,
        topic: &Arc<str>,
        len: usize,
        of: Option<Owner>,
    ) -> bool {
        if is_unbounded(topic) {
            return true;
        }
        let known = || topics.by_topic.get(topic).map(|one| one.message.len());
        let before = plan.lens.insert(Arc::clone(topic), len).or_else(known);
        let before = before.unwrap_or(0);
        plan.come.add(len);
        plan.go.add(before);
        let has = topics.bounded();
        let then = Amount {
            topics: (has.topics + plan.come.topics).saturating_sub(plan.go.topics),
            bytes: (has.bytes + plan.come.bytes).saturating_sub(plan.go.bytes),
        };
        let more = Amount {
            topics: plan.come.topics.saturating_sub(plan.go.topics),
            bytes: plan.come.bytes.saturating_sub(plan.go.bytes),
        };
        let topic_fits = || {
            let left = (self.max.topics + 1).checked_sub(then.topics);
            left.is_some_and(|left| {
                left > 0 && of.is_none_or(|of| topics.shares.may_have_topics(of, more.topics, left))
            })
        };
        let bytes_fit = || {
            let left = (self.max.bytes + len - before).checked_sub(then.bytes);
            left.is_some_and(|left| {
                left >= len - before
                    && of.is_none_or(|of| topics.shares.may_have_bytes(of, more.bytes, left))
            })
        };
        // What takes no more than there was needs none.
        len == 0 || (before > 0 || topic_fits()) && (len <= before || bytes_fit())
    }

    /// The same of a message by itself.
    pub(crate) fn has_room(&self, message: &Message, of: Option<Owner>) -> bool {
        let len = match message.payload() {
            [] => 0,
            _ => message.len(),
        };
        let topic = Arc::from(message.topic_str());
        self.plan(&mut Plan::default(), &topic, len, of)
    }

    /// Numbers a message and makes it its topic's.
    pub(crate) fn change(&self, message: &Message, of: Option<Owner>) -> Change {
        let mut topics = self.lock();
        let message = message.renumbered(self.number(), &self.budget);
        let topic = Arc::from(message.topic_str());
        let fits =
            !self.is_off() && self.fits(&topics, &mut Plan::default(), &topic, message.len(), of);
        let before = topics.take(&topic);
        let how = if message.payload().is_empty() {
            How::Cleared
        } else if !fits {
            How::Refused
        } else {
            let message = message.clone();
            topics.put(topic, Owned { message, of });
            How::Kept
        };
        Change {
            message,
            before,
            how,
        }
    }

    /// Puts back what a change replaced, or what a file has.
    pub(crate) fn restore(&self, topic: &Arc<str>, before: Option<Owned>) {
        let mut topics = self.lock();
        topics.take(topic);
        if let Some(before) = before {
            topics.put(Arc::clone(topic), before);
        }
    }

    /// Forgets a topic; what it had.
    pub(crate) fn forget(&self, topic: &str) -> Option<Owned> {
        self.lock().take(topic)
    }

    pub(crate) fn get(&self, topic: &str) -> Option<Message> {
        let topics = self.lock();
        topics.by_topic.get(topic).map(|one| one.message.clone())
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
            .filter(|(_, one)| one.message.lifetime_left(now_ms).is_err());
        over.map(|(topic, _)| Arc::clone(topic)).collect()
    }

    pub(crate) fn all(&self) -> Vec<Message> {
        let topics = self.lock();
        let each = topics.by_topic.values().map(|one| one.message.clone());
        each.collect()
    }

    pub(crate) fn list(&self) -> Vec<RetainedInfo> {
        let topics = self.lock();
        let each = topics.by_topic.iter().map(|(topic, one)| RetainedInfo {
            topic: topic.to_string(),
            qos: one.message.qos() as u8,
            payload_bytes: one.message.payload().len(),
        });
        each.collect()
    }

    /// Counts the messages and their bytes.
    pub(crate) fn count(&self, counters: &Counters) {
        let topics = self.lock();
        counters.retained.set(topics.len());
        counters.retained_bytes.set(topics.all.bytes);
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

    /// What the bounds are about.
    const fn bounded(&self) -> Amount {
        Amount {
            topics: self.all.topics - self.unbounded.topics,
            bytes: self.all.bytes - self.unbounded.bytes,
        }
    }

    fn put(&mut self, topic: Arc<str>, one: Owned) {
        let len = one.message.len();
        self.all.add(len);
        if is_unbounded(&topic) {
            self.unbounded.add(len);
        }
        if let Some(of) = one.of {
            self.shares.add(of, len);
        }
        self.by_topic.insert(topic, one);
    }

    fn take(&mut self, topic: &str) -> Option<Owned> {
        let old = self.by_topic.remove(topic)?;
        let len = old.message.len();
        self.all.remove(len);
        if is_unbounded(topic) {
            self.unbounded.remove(len);
        }
        if let Some(of) = old.of {
            self.shares.remove(of, len);
        }
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
            .map(|(name, one)| (name, &one.message))
    }
}

/// What the broker says again by itself.
fn is_unbounded(topic: &str) -> bool {
    topic.starts_with("$SYS/")
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

    fn bounded(topics: usize, bytes: usize) -> Retained {
        Retained::new(&Config {
            retained_max: topics,
            retained_bytes_max: bytes,
            ..Config::default()
        })
    }

    fn of_a_hundred() -> Retained {
        bounded(100, 100_000)
    }

    /// A store whose bounds were lowered beneath what a file brought.
    #[test]
    fn what_takes_no_more_than_there_is_has_room_also_beyond_a_bound_that_was_lowered() {
        for retained in [bounded(2, 100_000), bounded(100, 300)] {
            for topic in ["a", "b", "c"] {
                let brought = message(topic, 200);
                retained.restore(&Arc::from(topic), Some(brought.into()));
            }
            let same = message("a", 200);
            assert!(retained.has_room(&same, None));
            assert_eq!(retained.change(&same, None).how, How::Kept);
            assert!(!retained.has_room(&message("d", 200), None));
            assert_eq!(retained.change(&message("d", 200), None).how, How::Refused);
            assert_eq!(retained.len(), 3);
        }
    }

    #[test]
    fn one_client_that_retains_without_end_leaves_room_for_others() {
        let retained = bounded(1000, 1 << 20);
        let retain = |client: &str, user: Option<&str>, topic: &str| {
            let of = Some(retained.owner(client, user));
            let message = message(topic, 1);
            let has_room = retained.has_room(&message, of);
            if has_room {
                assert_eq!(retained.change(&message, of).how, How::Kept);
            } else {
                assert_eq!(retained.change(&message, of).how, How::Refused);
            }
            has_room
        };
        let fill = |client: &str, user: Option<&str>| {
            let each = (0..1000).filter(|n| retain(client, user, &format!("{client}/{n}")));
            each.count()
        };
        assert_eq!(fill("greedy", Some("u")), 800);
        assert!(retain("device", Some("u"), "device"), "another of its user");
        assert!(retain("device", None, "other"), "and of none");
        for n in 0..100 {
            fill(&format!("greedy {n}"), Some("u"));
        }
        assert!(
            !retain("one more", Some("u"), "more"),
            "its user has enough"
        );
        assert!(retain("device", Some("v"), "v"));
        // What is cleared may be had again.
        let cleared = message("greedy/0", 0);
        assert_eq!(retained.change(&cleared, None).how, How::Cleared);
        retained.clear_all();
        assert_eq!(fill("greedy", Some("u")), 800);
    }

    #[test]
    fn a_client_that_has_its_share_of_the_bytes_leaves_room_for_others() {
        let retained = bounded(1000, 100_000);
        let fill = |client: &str| {
            let of = Some(retained.owner(client, None));
            let fits = |n: &usize| {
                let message = message(&format!("{client}/{n}"), 1_000);
                retained.change(&message, of).how == How::Kept
            };
            (0..100).filter(fits).count()
        };
        let greedy = fill("greedy");
        assert!((70..80).contains(&greedy), "{greedy}");
        assert!(fill("device") > 3);
    }

    #[test]
    fn what_the_broker_says_of_itself_takes_no_room_from_anybody() {
        let retained = bounded(1, 100);
        for n in 0..50 {
            let change = retained.change(&message(&format!("$SYS/{n}"), 100), None);
            assert_eq!(change.how, How::Kept);
        }
        assert_eq!(retained.change(&message("a", 1), None).how, How::Kept);
        assert_eq!(retained.change(&message("b", 1), None).how, How::Refused);
        assert_eq!(retained.len(), 51);
    }

    #[test]
    fn retained_messages_are_bounded_in_count_and_bytes() {
        let retained = of_a_hundred();
        let change = |topic: &str, bytes| retained.change(&message(topic, bytes), None).how;
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
        assert_eq!(retained.lock().all, Amount::default());
    }

    #[test]
    fn a_filter_finds_its_topics_and_no_others() {
        let retained = of_a_hundred();
        let all = ["a", "a/b", "a/b/c", "ab", "b", "$x/a", "/a", "a//c"];
        for topic in all {
            retained.change(&message(topic, 1), None);
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

//! Nodes that should be asked to be born again, because something of what they said
//! was missed. Each is asked at most once a minute, and more and more seldom while that
//! does not help: a birth that is refused again and again is not asked for for ever.
//!
//! Fair among clients, each node being that of who asked for it last: they are asked in turn, one node of each, and where there is no
//! place for one more node, the client that has most of them gives one up. Whoever has
//! most itself finds none, and asks with a later message.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use super::super::sparkplug::commands;
use crate::event::Timestamp;

/// Nodes that are remembered as asked, or wait for it, at most.
const NODES_MAX: usize = 10_000;
/// What they may take, about.
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// What a node takes besides the names, about.
const PLACE_BYTES: usize = 320;
/// How long after the first question the second one may follow; twice as long from
/// one to the next, [`DOUBLINGS`] times.
const PAUSE_NANOS: i64 = 60 * 1_000_000_000;
/// Until there is about an hour between two.
const DOUBLINGS: u32 = 6;
/// Between looking for places whose time is over.
const SWEEP_NANOS: i64 = 1_000_000_000;

/// What is to be asked, where, and what was asked lately. What it takes is bounded.
#[derive(Debug, Default)]
pub struct Rebirths {
    asking: Mutex<Asking>,
    /// Whether somebody is to be asked: looked at after every batch.
    wanted: AtomicBool,
    gaps: AtomicU64,
}

#[derive(Debug, Default)]
struct Asking {
    /// By the node: whoever publishes for it, it is asked no more often.
    asked: HashMap<Arc<str>, Asked>,
    /// Those of whom a node is in `asked`.
    clients: HashMap<Arc<str>, Client>,
    /// Clients of which a node waits, each once.
    turns: VecDeque<Arc<str>>,
    bytes: usize,
    swept: Option<Timestamp>,
}

#[derive(Debug)]
struct Asked {
    client_id: Arc<str>,
    at: Timestamp,
    times: u32,
    waits: bool,
}

#[derive(Debug, Default)]
struct Client {
    nodes: usize,
    waiting: VecDeque<Arc<str>>,
}

impl Asked {
    fn passed(&self, now: Timestamp) -> i64 {
        now.as_nanos().saturating_sub(self.at.as_nanos())
    }

    fn pause(&self) -> i64 {
        PAUSE_NANOS << self.times.min(DOUBLINGS)
    }

    /// A clock that was set back does not make anybody wait for it.
    fn is_early(&self, now: Timestamp) -> bool {
        self.waits || (0..self.pause()).contains(&self.passed(now))
    }
}

impl Rebirths {
    /// The topics on which commands for nodes go that are to be asked now: of one node of
    /// each client. Empty when nobody is to be asked.
    pub fn take(&self) -> Vec<Arc<str>> {
        let mut asking = self.lock();
        let topics = asking.take();
        self.wanted.store(!asking.turns.is_empty(), Relaxed);
        topics
    }

    /// Whether somebody is to be asked now.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Relaxed)
    }

    /// How often numbers were missing in the messages of a node, since this was asked.
    pub fn take_gaps(&self) -> u64 {
        match self.gaps.load(Relaxed) {
            0 => 0,
            _ => self.gaps.swap(0, Relaxed),
        }
    }

    pub(super) fn gap(&self) {
        self.gaps.fetch_add(1, Relaxed);
    }

    /// The node `group/node` of a client is to be asked, unless it was a moment ago.
    pub(super) fn want(&self, client_id: &str, node: &str, now: Timestamp) {
        let mut asking = self.lock();
        if asking.want(client_id, node, now) {
            self.wanted.store(true, Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        // Nothing panics while the lock is held.
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking {
    fn take(&mut self) -> Vec<Arc<str>> {
        let mut topics = Vec::with_capacity(self.turns.len());
        for _ in 0..self.turns.len() {
            let Some(client_id) = self.turns.pop_front() else {
                break;
            };
            let Some(client) = self.clients.get_mut(&client_id) else {
                continue;
            };
            if let Some(node) = client.waiting.pop_front() {
                if let Some(asked) = self.asked.get_mut(&node) {
                    asked.waits = false;
                }
                topics.extend(commands(&node).map(Arc::from));
            }
            if !client.waiting.is_empty() {
                self.turns.push_back(client_id);
            }
        }
        topics
    }

    /// Whether the node waits from now on.
    fn want(&mut self, client_id: &str, node: &str, now: Timestamp) -> bool {
        let before = self.asked.get(node);
        if before.is_some_and(|asked| asked.is_early(now)) {
            return false;
        }
        // What was in order for as long again is another matter.
        let again = |asked: &&Asked| (0..2 * asked.pause()).contains(&asked.passed(now));
        let times = before.filter(again).map_or(0, |asked| asked.times + 1);
        self.forget(node);
        if !self.has_place(client_id, node, now) {
            return false;
        }
        let client_id: Arc<str> = match self.clients.get_key_value(client_id) {
            Some((client_id, _)) => client_id.clone(),
            None => client_id.into(),
        };
        let node: Arc<str> = node.into();
        let asked = Asked {
            client_id: client_id.clone(),
            at: now,
            times,
            waits: true,
        };
        self.bytes += bytes(&node, &client_id);
        self.asked.insert(node.clone(), asked);
        let client = self.clients.entry(client_id.clone()).or_default();
        client.nodes += 1;
        if client.waiting.is_empty() {
            self.turns.push_back(client_id);
        }
        client.waiting.push_back(node);
        true
    }

    /// Forgets a node that is in no queue.
    fn forget(&mut self, node: &str) {
        let Some((node, Asked { client_id, .. })) = self.asked.remove_entry(node) else {
            return;
        };
        self.bytes -= bytes(&node, &client_id);
        if let Some(client) = self.clients.get_mut(&client_id) {
            client.nodes -= 1;
            if client.nodes == 0 {
                self.clients.remove(&client_id);
            }
        }
    }

    /// Whether there is a place for a node of a client, by now.
    fn has_place(&mut self, client_id: &str, node: &str, now: Timestamp) -> bool {
        let more = bytes(node, client_id);
        if self.has_room(more) {
            return true;
        }
        let since = |swept: Timestamp| now.as_nanos().saturating_sub(swept.as_nanos());
        let lately = |swept| (0..SWEEP_NANOS).contains(&since(swept));
        if !self.swept.is_some_and(lately) {
            self.swept = Some(now);
            let over = self.asked.iter().filter(|(_, asked)| !asked.is_early(now));
            let over: Vec<Arc<str>> = over.map(|(node, _)| node.clone()).collect();
            for node in over {
                self.forget(&node);
            }
        }
        while !self.has_room(more) {
            if !self.give_way(client_id) {
                return false;
            }
        }
        true
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.asked.len() < NODES_MAX && self.bytes + bytes <= BYTES_MAX
    }

    /// The client with the most nodes gives one up, if it has more than this one would.
    fn give_way(&mut self, client_id: &str) -> bool {
        let own = self.clients.get(client_id).map_or(0, |own| own.nodes);
        let most = self.clients.iter_mut();
        let most = most.max_by_key(|(_, client)| client.nodes);
        let Some((name, client)) = most.filter(|(_, client)| client.nodes > own + 1) else {
            return false;
        };
        // One that waits was asked nothing yet.
        let node = match client.waiting.pop_back() {
            Some(node) => {
                if client.waiting.is_empty() {
                    self.turns.retain(|turn| turn != name);
                }
                Some(node)
            }
            None => {
                let theirs = self.asked.iter();
                let theirs = theirs.filter(|(_, asked)| asked.client_id == *name);
                let oldest = theirs.min_by_key(|(_, asked)| asked.at);
                oldest.map(|(node, _)| node.clone())
            }
        };
        node.is_some_and(|node| {
            self.forget(&node);
            true
        })
    }
}

/// What a place takes, about, with as much of its client as if that had no other.
fn bytes(node: &str, client_id: &str) -> usize {
    PLACE_BYTES + node.len() + client_id.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn want(rebirths: &Rebirths, client_id: &str, node: &str, millis: i64) {
        rebirths.want(client_id, node, Timestamp::from_millis(millis));
    }

    fn asked(rebirths: &Rebirths, node: &str, millis: i64) -> bool {
        want(rebirths, "c", node, millis);
        !rebirths.take().is_empty()
    }

    #[test]
    fn a_node_is_asked_once_a_minute_and_then_more_and_more_seldom() {
        let rebirths = Rebirths::default();
        assert!(asked(&rebirths, "G/n", 0));
        assert!(!asked(&rebirths, "G/n", MINUTE - 1));
        assert!(asked(&rebirths, "G/other", 1));
        assert!(asked(&rebirths, "G/n", MINUTE));
        assert!(!asked(&rebirths, "G/n", 3 * MINUTE - 1));
        assert!(asked(&rebirths, "G/n", 3 * MINUTE));
        // One that was in order for a while is asked as soon as the first time.
        assert!(asked(&rebirths, "G/n", 11 * MINUTE));
        assert!(asked(&rebirths, "G/n", 12 * MINUTE));
        assert!(!asked(&rebirths, "G/n", 14 * MINUTE - 1));
        // A clock that was set back.
        assert!(asked(&rebirths, "G/n", -100 * MINUTE));
    }

    #[test]
    fn what_is_remembered_has_a_bound_and_is_forgotten_in_time() {
        let rebirths = Rebirths::default();
        for node in 0..NODES_MAX + 5 {
            want(&rebirths, "c", &format!("G/{node}"), 0);
        }
        // Nobody takes them, and they do not pile up.
        want(&rebirths, "c", "G/late", MINUTE);
        want(&rebirths, "c", "G/0", MINUTE);
        for _ in 0..NODES_MAX {
            assert_eq!(rebirths.take().len(), 1);
        }
        assert!(rebirths.take().is_empty());
        assert!(!rebirths.is_wanted());
        assert!(asked(&rebirths, "G/late", 2 * MINUTE));
        let asking = rebirths.lock();
        assert_eq!((asking.clients.len(), asking.asked.len()), (1, 1));
        assert_eq!(asking.bytes, bytes("G/late", "c"));
    }

    #[test]
    fn long_names_count() {
        let rebirths = Rebirths::default();
        for node in 0..200 {
            let client = format!("{node}{}", "c".repeat(60_000));
            want(&rebirths, &client, &format!("G/{node}"), 0);
        }
        let nodes = rebirths.lock().asked.len();
        assert!((100..150).contains(&nodes), "{nodes}");
    }

    #[test]
    fn a_client_of_many_nodes_takes_no_others_place_or_turn() {
        let rebirths = Rebirths::default();
        for node in 0..NODES_MAX {
            want(&rebirths, "many", &format!("G/{node}"), 0);
        }
        for (client, node) in [("a", "G/a"), ("b", "G/b"), ("b", "G/c")] {
            want(&rebirths, client, node, 1);
        }
        let topics = |node: &[&str]| -> Vec<Arc<str>> {
            let topic = |node: &&str| format!("spBv1.0/G/NCMD/{node}").into();
            node.iter().map(topic).collect()
        };
        assert_eq!(rebirths.take(), topics(&["0", "a", "b"]));
        assert_eq!(rebirths.take(), topics(&["1", "c"]));
        assert!(rebirths.is_wanted());
        // It gave up three that waited, and does not get them back at once.
        want(&rebirths, "many", "G/9999", 2);
        let asking = rebirths.lock();
        assert_eq!(asking.asked.len(), NODES_MAX);
        assert_eq!(asking.clients["many"].nodes, NODES_MAX - 3);
        assert!(!asking.asked.contains_key("G/9999"));
    }

    #[test]
    fn whoever_publishes_for_a_node_it_is_asked_no_more_often() {
        let rebirths = Rebirths::default();
        for client in 0..100 {
            want(&rebirths, &client.to_string(), "G/n", client);
        }
        assert_eq!(rebirths.take().len(), 1);
        // It is that of who asked for it last.
        want(&rebirths, "last", "G/n", MINUTE);
        assert_eq!(rebirths.take().len(), 1);
        let asking = rebirths.lock();
        assert_eq!(asking.clients.len(), 1);
        assert_eq!(asking.clients["last"].nodes, 1);
    }
}

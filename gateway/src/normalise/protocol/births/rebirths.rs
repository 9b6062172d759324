//! Nodes that should be asked to be born again, because something of what they said
//! was missed. Each is asked at most once a minute, and more and more seldom while that
//! does not help: a birth that is refused again and again is not asked for for ever.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use crate::event::Timestamp;

/// Nodes that are remembered as asked, and that wait for it, at most.
const NODES_MAX: usize = 10_000;
/// How long after the first question the second one may follow; twice as long from
/// one to the next, [`DOUBLINGS`] times.
const PAUSE_NANOS: i64 = 60 * 1_000_000_000;
/// Until there is about an hour between two.
const DOUBLINGS: u32 = 6;

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
    /// By the topic that a node listens to.
    asked: HashMap<Arc<str>, Asked>,
    waiting: Vec<Arc<str>>,
}

#[derive(Debug, Clone, Copy)]
struct Asked {
    at: Timestamp,
    times: u32,
}

impl Rebirths {
    /// The topics on which commands for the nodes go that are to be asked now.
    pub fn take(&self) -> Vec<Arc<str>> {
        let mut asking = self.lock();
        self.wanted.store(false, Relaxed);
        std::mem::take(&mut asking.waiting)
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

    pub(in crate::normalise::protocol) fn gap(&self) {
        self.gaps.fetch_add(1, Relaxed);
    }

    /// The node that listens to `topic` is to be asked, unless it was a moment ago.
    pub(super) fn want(&self, topic: Arc<str>, now: Timestamp) {
        let mut asking = self.lock();
        let before = asking.asked.get(&topic).copied();
        let passed = |since: Timestamp| now.as_nanos().saturating_sub(since.as_nanos());
        let pause = |asked: Asked| PAUSE_NANOS << asked.times.min(DOUBLINGS);
        // A clock that was set back does not make anybody wait for it.
        let early = |asked: Asked| (0..pause(asked)).contains(&passed(asked.at));
        if before.is_some_and(early) || asking.waiting.len() >= NODES_MAX {
            return;
        }
        if before.is_none() && asking.asked.len() >= NODES_MAX {
            asking.asked.retain(|_, asked| early(*asked));
            // Whoever finds no room now asks with its next message.
            if asking.asked.len() >= NODES_MAX {
                return;
            }
        }
        // What was in order for as long again is another matter.
        let again = |asked: &Asked| (0..2 * pause(*asked)).contains(&passed(asked.at));
        let times = before.filter(again).map_or(0, |asked| asked.times + 1);
        asking.asked.insert(topic.clone(), Asked { at: now, times });
        asking.waiting.push(topic);
        self.wanted.store(true, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Asking> {
        // Nothing panics while the lock is held.
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    fn asked(rebirths: &Rebirths, topic: &str, millis: i64) -> bool {
        rebirths.want(topic.into(), Timestamp::from_millis(millis));
        !rebirths.take().is_empty()
    }

    #[test]
    fn a_node_is_asked_once_a_minute_and_then_more_and_more_seldom() {
        let rebirths = Rebirths::default();
        assert!(asked(&rebirths, "n", 0));
        assert!(!asked(&rebirths, "n", MINUTE - 1));
        assert!(asked(&rebirths, "other", 1));
        assert!(asked(&rebirths, "n", MINUTE));
        assert!(!asked(&rebirths, "n", 3 * MINUTE - 1));
        assert!(asked(&rebirths, "n", 3 * MINUTE));
        // One that was in order for a while is asked as soon as the first time.
        assert!(asked(&rebirths, "n", 11 * MINUTE));
        assert!(asked(&rebirths, "n", 12 * MINUTE));
        assert!(!asked(&rebirths, "n", 14 * MINUTE - 1));
        // A clock that was set back.
        assert!(asked(&rebirths, "n", -100 * MINUTE));
    }

    #[test]
    fn what_is_remembered_has_a_bound_and_is_forgotten_in_time() {
        let rebirths = Rebirths::default();
        for node in 0..NODES_MAX + 5 {
            rebirths.want(node.to_string().into(), Timestamp::from_millis(0));
        }
        // Nobody takes them, and they do not pile up.
        rebirths.want("late".into(), Timestamp::from_millis(MINUTE));
        assert_eq!(rebirths.take().len(), NODES_MAX);
        assert!(asked(&rebirths, "late", MINUTE));
    }
}

//! Records that failed by themselves, and those held back behind them.
//!
//! A twin in memory of the journal's retry list. Records of one partition key
//! wait in one queue, in journal order: as long as the first has not gone,
//! none of the others is tried. Bounded by [`RECORDS_MAX`] and [`BYTES_MAX`];
//! the engine hands out nothing more when a failure of all that is out would
//! not fit.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use super::batch::Item;
use crate::{event::Timestamp, record::Position};

/// Records that wait, at most.
pub(super) const RECORDS_MAX: usize = 10_000;
/// Bytes of records that wait, about.
pub(super) const BYTES_MAX: usize = 16 * 1024 * 1024;

/// A record that waits.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) item: Item,
    /// Attempts so far; none while it is only held back.
    pub(super) attempts: u32,
    /// When it failed first, as far as that is known.
    pub(super) first: Option<Timestamp>,
    pub(super) not_before: Instant,
}

/// Records of one key, by position.
#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    /// How many of them are out; none other goes meanwhile.
    out: usize,
}

impl Queue {
    fn find(&self, position: Position) -> Result<usize, usize> {
        self.entries
            .binary_search_by_key(&position, |entry| entry.item.position())
    }

    fn index_of(&self, item: &Item) -> usize {
        self.find(item.position())
            .expect("a record that is out is in its queue")
    }
}

/// All records that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queues: HashMap<Arc<str>, Queue>,
    /// When each key that has nothing out is due.
    due: BTreeSet<(Instant, Arc<str>)>,
    records: usize,
    bytes: usize,
}

impl Waiting {
    pub(super) const fn len(&self) -> usize {
        self.records
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Whether later records of `key` must be held back.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.records > 0 && self.queues.contains_key(key)
    }

    /// Whether this very record waits.
    pub(super) fn contains(&self, item: &Item) -> bool {
        let queue = self.queues.get(item.partition_key());
        queue.is_some_and(|queue| queue.find(item.position()).is_ok())
    }

    /// Puts a record into its key's queue, by position. One that is there already stays.
    pub(super) fn add(&mut self, entry: Entry) {
        if self.contains(&entry.item) {
            return;
        }
        let key: Arc<str> = entry.item.partition_key().into();
        let queue = self.queues.entry(key.clone()).or_default();
        if let Some(first) = queue.entries.front()
            && queue.out == 0
        {
            self.due.remove(&(first.not_before, key.clone()));
        }
        self.records += 1;
        self.bytes += entry.item.record().body.len();
        let at = queue
            .find(entry.item.position())
            .expect_err("looked for just before");
        queue.entries.insert(at, entry);
        if queue.out == 0 {
            self.due.insert((queue.entries[0].not_before, key));
        }
    }

    /// Puts a record that is out into its key's queue, so that none goes behind it.
    pub(super) fn add_out(&mut self, item: Item) {
        let key: Arc<str> = item.partition_key().into();
        self.add(Entry {
            item,
            attempts: 1,
            first: None,
            not_before: Instant::now(),
        });
        let queue = self.queues.get_mut(&key).expect("it was just added");
        if queue.out == 0 {
            self.due.remove(&(queue.entries[0].not_before, key));
        }
        queue.out += 1;
    }

    /// When the next record is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes records that are due, in journal order, at most `records` and about
    /// `bytes`. A record that failed before goes as the only one of its key;
    /// those that were only held back go together.
    pub(super) fn take_due(&mut self, now: Instant, records: usize, bytes: usize) -> Vec<Item> {
        let (mut items, mut taken_bytes) = (Vec::new(), 0);
        while items.len() < records && taken_bytes < bytes {
            if self.next_due().is_none_or(|at| at > now) {
                break;
            }
            let (_, key) = self.due.pop_first().expect("looked at just before");
            let queue = self
                .queues
                .get_mut(&key)
                .expect("a key that is due has a queue");
            for entry in &queue.entries {
                let fits = items.len() < records && (items.is_empty() || taken_bytes < bytes);
                let goes = queue.out == 0 || entry.attempts == 0 && entry.not_before <= now;
                if !fits || !goes {
                    break;
                }
                taken_bytes += entry.item.record().body.len();
                items.push(entry.item.clone());
                queue.out += 1;
                if entry.attempts > 0 {
                    break;
                }
            }
        }
        items.sort_unstable_by_key(Item::position);
        items
    }

    /// The record that was out, for good.
    pub(super) fn remove(&mut self, item: &Item) -> Entry {
        let key = item.partition_key();
        let queue = self
            .queues
            .get_mut(key)
            .expect("a record that is out has a queue");
        let at = queue.index_of(item);
        let entry = queue.entries.remove(at).expect("found just before");
        queue.out -= 1;
        self.records -= 1;
        self.bytes -= entry.item.record().body.len();
        self.back(key);
        entry
    }

    /// The record that was out waits on. `failed` tells until when, if it was an attempt,
    /// and when it failed first.
    pub(super) fn put_back(&mut self, item: &Item, failed: Option<(Instant, Timestamp)>) {
        let key = item.partition_key();
        let queue = self
            .queues
            .get_mut(key)
            .expect("a record that is out has a queue");
        let at = queue.index_of(item);
        let entry = &mut queue.entries[at];
        if let Some((not_before, first)) = failed {
            entry.attempts += 1;
            entry.first = Some(first);
            entry.not_before = not_before;
        }
        queue.out -= 1;
        self.back(key);
    }

    /// The record that was out waits on until then, and that was no attempt.
    pub(super) fn put_off(&mut self, item: &Item, until: Instant) {
        let queue = self
            .queues
            .get_mut(item.partition_key())
            .expect("a record that is out has a queue");
        let at = queue.index_of(item);
        queue.entries[at].not_before = until;
        self.put_back(item, None);
    }

    /// Which record of the same key waits just before one that is out.
    pub(super) fn before(&self, item: &Item) -> Option<Position> {
        let queue = &self.queues[item.partition_key()];
        let at = queue.index_of(item).checked_sub(1)?;
        Some(queue.entries[at].item.position())
    }

    /// Attempts made at a record that is out.
    pub(super) fn attempts(&self, item: &Item) -> u32 {
        let queue = &self.queues[item.partition_key()];
        queue.entries[queue.index_of(item)].attempts
    }

    /// When a record that is out failed first, as far as that is known.
    pub(super) fn first(&self, item: &Item) -> Option<Timestamp> {
        let queue = &self.queues[item.partition_key()];
        queue.entries[queue.index_of(item)].first
    }

    /// A record of `key` came back: the key is due again when the last one did.
    fn back(&mut self, key: &str) {
        let (key, queue) = self
            .queues
            .get_key_value(key)
            .expect("its caller has just seen it");
        match queue.entries.front() {
            None => {
                let key = key.clone();
                self.queues.remove(&key);
            }
            Some(first) if queue.out == 0 => {
                self.due.insert((first.not_before, key.clone()));
            }
            Some(_) => {}
        }
    }
}

//! The journal: the only meeting place between what comes in and what goes out.
//!
//! SKELETON of the public face, to be replaced by the real thing with these names.

use std::{future::Future, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{
    event::{Key, Timestamp},
    record::{DestinationId, Position, Record, Routes},
};

/// What to do when the journal has reached its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFull {
    /// Take nothing more until something was delivered; devices keep their data.
    PushBack,
    /// Make room by evicting the oldest events, each counted.
    DropOldest,
}

/// How the journal keeps what it is given.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory; created if missing.
    pub dir: PathBuf,
    /// Size of database and write-ahead log together, at most.
    pub max_bytes: u64,
    /// Undelivered events older than this expire; `None` keeps them until delivered.
    pub max_age: Option<Duration>,
    /// What to do at `max_bytes`, or when the disk is full.
    pub on_full: OnFull,
    /// Preallocated file that is given back to the disk to get out of disk-full.
    pub reserve_bytes: u64,
    /// How long an idempotency key is remembered.
    pub dedup_age: Duration,
    /// How many keys are remembered, at most.
    pub dedup_count: usize,
    /// Memory for remembered keys, at most.
    pub dedup_memory_bytes: usize,
    /// Names of the destinations in use; others that the journal knows keep their backlog.
    pub destinations: Vec<Arc<str>>,
}

/// One thing to keep.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A normalised event.
    Event(NewEvent),
    /// A message that could not be decoded.
    Quarantine(NewQuarantine),
}

/// An event before it has a position.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Its idempotency key; always kept with the record.
    pub key: Key,
    /// Whether an event with the same key is the same event. False where nothing
    /// tells two readings apart.
    pub dedup: bool,
    /// Who measured, for the ledger.
    pub device: Arc<str>,
    /// When the gateway received it.
    pub received: Timestamp,
    /// Who gets it.
    pub routes: Routes,
    /// The event as CBOR.
    pub body: Bytes,
}

/// A message that could not be decoded, as it came.
#[derive(Debug, Clone)]
pub struct NewQuarantine {
    /// When the gateway received it.
    pub received: Timestamp,
    /// Who sent it.
    pub client_id: Arc<str>,
    /// On which topic.
    pub topic: Arc<str>,
    /// Why it could not be decoded: a class (`syntax`, `limit`...) and a sentence.
    pub class: &'static str,
    /// The sentence.
    pub reason: String,
    /// The payload as received.
    pub payload: Bytes,
    /// MQTT 5 user properties and content type, as CBOR, for a later retry.
    pub properties: Option<Bytes>,
}

/// What became of one entry, durable by the time it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// Kept, at this position.
    Stored(Position),
    /// An event with the same key was kept before.
    Duplicate,
    /// Kept among the quarantined, under this number.
    Quarantined(u64),
    /// No room; nothing of the entry's group was kept.
    Full,
}

/// The store has stopped; whether the entries were kept is not known.
#[derive(Debug, thiserror::Error)]
#[error("the store has stopped")]
pub struct Stopped;

/// Resolves after the commit that holds the group.
pub type Receipt = Pin<Box<dyn Future<Output = Result<Vec<Appended>, Stopped>> + Send>>;

/// A destination's progress, applied in one transaction.
#[derive(Debug, Clone)]
pub struct Progress {
    /// Whose.
    pub destination: DestinationId,
    /// Everything up to here is settled: delivered, not for this destination, or in one of the lists.
    pub cursor: Position,
    /// How many records were delivered since the last progress, retried ones among them.
    pub delivered: u64,
    /// Records at or before the cursor that failed by themselves and will be tried again.
    pub retry: Vec<Retry>,
    /// Records tried again with success.
    pub retried: Vec<Position>,
    /// Records that will not be tried again.
    pub dead: Vec<Dead>,
}

/// A record that waits for another attempt.
#[derive(Debug, Clone)]
pub struct Retry {
    /// The record.
    pub record: Record,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before this instant.
    pub not_before: Timestamp,
    /// What the destination said.
    pub reason: String,
}

/// A record that was given up.
#[derive(Debug, Clone)]
pub struct Dead {
    /// The record.
    pub record: Record,
    /// Attempts made.
    pub attempts: u32,
    /// What the destination said.
    pub reason: String,
}

/// A page of the journal for one destination.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Records routed to the destination, by position.
    pub records: Vec<Record>,
    /// How far the journal was looked through; the cursor may move here once
    /// `records` are settled.
    pub scanned_to: Position,
}

/// Where one destination stands.
#[derive(Debug, Clone)]
pub struct DestinationStatus {
    /// Its number in the journal.
    pub id: DestinationId,
    /// Its name.
    pub name: Arc<str>,
    /// Whether the configuration names it.
    pub configured: bool,
    /// Everything up to here is settled.
    pub cursor: Position,
    /// Events routed to it, ever.
    pub routed: u64,
    /// Of those: delivered.
    pub delivered: u64,
    /// Of those: expired by age.
    pub expired: u64,
    /// Of those: evicted for room.
    pub evicted: u64,
    /// Of those: lost with a damaged file.
    pub damaged: u64,
    /// Of those: dead letters, discarded ones among them.
    pub dead: u64,
    /// Of those: not settled yet (after the cursor, or waiting for another attempt).
    pub backlog: u64,
    /// Waiting for another attempt; part of `backlog`.
    pub retrying: u64,
    /// When the oldest unsettled event was received.
    pub oldest: Option<Timestamp>,
}

/// The store's own account of itself, as of the last commit.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The last committed position.
    pub committed: Position,
    /// Events and messages taken from devices: stored + duplicate + quarantined.
    pub accepted: u64,
    /// Of those: events stored.
    pub stored: u64,
    /// Of those: refused a second copy.
    pub duplicate: u64,
    /// Of those: quarantined, also those retried or discarded since.
    pub quarantined: u64,
    /// Turned away for want of room; not part of `accepted`.
    pub refused_full: u64,
    /// Events in the journal now.
    pub buffered: u64,
    /// Database and write-ahead log.
    pub file_bytes: u64,
    /// The most they may take.
    pub max_bytes: u64,
    /// Whether appends are being turned away.
    pub full: bool,
    /// Bytes written to disk since the start, for flash wear.
    pub written_bytes: u64,
    /// Commits since the start.
    pub commits: u64,
    /// Keys remembered, and the memory they take.
    pub dedup_keys: u64,
    /// Memory for them.
    pub dedup_bytes: u64,
    /// Messages in quarantine now.
    pub in_quarantine: u64,
    /// Each destination the journal knows.
    pub destinations: Vec<DestinationStatus>,
}

/// The way in for everyone else: cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    committed: watch::Receiver<Position>,
}

impl Handle {
    /// Queues a group of entries to be committed together. Waits for room in
    /// the bounded queue; the receipt waits for the commit.
    ///
    /// # Errors
    /// When the store has stopped.
    #[expect(clippy::unused_async, clippy::todo)]
    pub async fn append(&self, entries: Vec<Entry>) -> Result<Receipt, Stopped> {
        drop(entries);
        todo!()
    }

    /// Queues a destination's progress; it is committed with the next group.
    ///
    /// # Errors
    /// When the store has stopped.
    #[expect(clippy::unused_async, clippy::todo)]
    pub async fn progress(&self, progress: Progress) -> Result<Receipt, Stopped> {
        drop(progress);
        todo!()
    }

    /// Follows the last committed position.
    pub fn committed(&self) -> watch::Receiver<Position> {
        self.committed.clone()
    }

    /// The store's account of itself, at most a moment old. Cheap.
    #[expect(clippy::todo)]
    pub fn status(&self) -> Arc<Status> {
        todo!()
    }
}

/// Reads the journal for one destination, on a connection of its own. Blocking:
/// call it from a blocking task.
#[derive(Debug)]
pub struct Reader;

impl Reader {
    /// Records routed to `destination` after `after`: at most `count` of them and
    /// about `bytes`, in one short read transaction.
    ///
    /// # Errors
    /// When the database cannot be read.
    #[expect(clippy::todo)]
    pub fn read(
        &mut self,
        destination: DestinationId,
        after: Position,
        count: usize,
        bytes: usize,
    ) -> Result<Page, Error> {
        let _ = (destination, after, count, bytes);
        todo!()
    }

    /// Records of `destination` that wait for another attempt, by position: at
    /// most `count`, and no more once they have `bytes`.
    ///
    /// # Errors
    /// When the database cannot be read.
    #[expect(clippy::todo)]
    pub fn retries(
        &mut self,
        destination: DestinationId,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Retry>, Error> {
        let _ = (destination, count, bytes);
        todo!()
    }
}

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// SQLite said no.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The file system said no.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

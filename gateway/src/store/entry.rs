//! What is given to the journal, and what became of it.

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

use super::shed::{Keep, Sheddable};
use crate::{
    event::{Key, Timestamp},
    record::{Position, Routes},
};

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
    /// The message that it was made of, where that is kept.
    pub original: Option<NewOriginal>,
    /// What it may be given up as while room is short; never where this is `None`.
    pub shed: Option<Sheddable>,
}

/// A message as it came, for the events made of it: it is kept once, with the first of
/// them that is stored, and leaves with that one.
#[derive(Debug, Clone)]
pub struct NewOriginal {
    /// The stored form ([`Original::to_cbor`](crate::event::Original::to_cbor)); all
    /// events of the message share it.
    pub bytes: Bytes,
    /// Whether this is the first event of its message.
    pub is_first: bool,
    /// Destinations that get the message itself: of the events that are stored and
    /// routed to one of them, only the first is, and that one has the message.
    pub once: Routes,
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
    /// Given up because room is short, as configured, and counted.
    Shed,
    /// No room; nothing of the entry's group was kept.
    Full,
}

/// The store has stopped; whether the entries were kept is not known.
#[derive(Debug, thiserror::Error)]
#[error("the store has stopped")]
pub struct Stopped;

/// Resolves after the commit that holds the group.
pub type Receipt = Pin<Box<dyn Future<Output = Result<Vec<Appended>, Stopped>> + Send>>;

impl NewOriginal {
    /// What the message takes with all of its events: it is kept with the first that is
    /// stored, and with one more for each destination that gets it and not that event.
    fn cost_bytes(&self) -> usize {
        self.bytes.len() * (1 + self.once.count())
    }
}

/// About what a group takes in the database, at most, when of its entries these are given up.
pub(super) fn group_cost_bytes(entries: &[Entry], given_up: &[Option<Keep>]) -> usize {
    if given_up.is_empty() {
        return entries.iter().map(Entry::cost_bytes).sum();
    }
    let is_all = given_up.iter().all(Option::is_some);
    let costs = entries
        .iter()
        .zip(given_up)
        .map(|(entry, keep)| match entry {
            // Its key is remembered; the message lies behind the first event that is kept.
            Entry::Event(event) if keep.is_some() => {
                let original = event.original.as_ref().filter(|o| o.is_first && !is_all);
                32 + original.map_or(0, NewOriginal::cost_bytes)
            }
            entry => entry.cost_bytes(),
        });
    costs.sum()
}

impl Entry {
    /// About what it takes in the database, at most, for the gate and the queue.
    pub(super) fn cost_bytes(&self) -> usize {
        match self {
            // Row header, frame, and the key once more in its commit's list.
            Self::Event(event) => {
                let original = event.original.as_ref().filter(|o| o.is_first);
                event.body.len() + original.map_or(0, NewOriginal::cost_bytes) + 64
            }
            Self::Quarantine(item) => {
                item.payload.len()
                    + item.topic.len()
                    + item.client_id.len()
                    + item.reason.len()
                    + item.properties.as_ref().map_or(0, Bytes::len)
                    + 64
            }
        }
    }
}

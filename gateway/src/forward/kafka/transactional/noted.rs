//! What transactions have, on disk before they are committed ([`notes`]).
//!
//! An entry is the position and key of every event of a transaction, where its last record
//! is and whose, and whether the transaction of the entry before it was committed. So of all
//! entries but the last it is known what became of them, and of the last the topic knows.

use std::{collections::HashSet, io, path::PathBuf};

use krafka::producer::{DeliveryConfirmation, RecordMetadata};
use serde::{Deserialize, Serialize};

use crate::forward::{
    batch::{Batch, Item},
    notes::{self, EVENT_BYTES, Event, Notes},
};

/// A record of a transaction: if committed records have it, the transaction was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// The idempotency key in its headers.
    pub(super) key: String,
}

impl Proof {
    /// What the brokers said of a record, where they said where it is.
    pub(super) fn of(item: &Item, place: &RecordMetadata) -> Option<Self> {
        let is_placed = place.delivery == DeliveryConfirmation::Offset && place.offset >= 0;
        is_placed.then(|| Self {
            topic: place.topic.clone(),
            partition: place.partition,
            offset: place.offset,
            key: item.view().attributes.delivery_key().to_string(),
        })
    }
}

/// A transaction as it is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    /// Whether that of the entry before was committed.
    before: bool,
    #[serde(with = "notes::as_bytes")]
    events: Vec<u8>,
    topic: String,
    partition: i32,
    offset: i64,
    /// Of the record at that place.
    key: String,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Noted {
    notes: Notes,
    /// Events that were committed, and may come again.
    committed: HashSet<Event>,
    /// The last transaction, while it is not known whether it was committed.
    doubt: Option<Doubt>,
    /// Whether the last one that was written down was, once that is known.
    last: bool,
}

#[derive(Debug)]
struct Doubt {
    events: Vec<u8>,
    proof: Proof,
    /// Whether the next start knows of it.
    is_written: bool,
}

impl Noted {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self {
            notes: Notes::new(dir),
            committed: HashSet::new(),
            doubt: None,
            last: false,
        }
    }

    /// Reads what was written down before, the first time.
    pub(super) fn open(&mut self) -> io::Result<()> {
        let events = |entry: &Entry| entry.events.len() / EVENT_BYTES;
        let Some(mut entries) = self.notes.open(events)? else {
            return Ok(());
        };
        for pair in entries.windows(2) {
            if let [entry, next] = pair
                && next.before
            {
                self.committed.extend(notes::events_of(&entry.events));
            }
        }
        self.doubt = entries.pop().map(|entry| Doubt {
            events: entry.events,
            proof: Proof {
                topic: entry.topic,
                partition: entry.partition,
                offset: entry.offset,
                key: entry.key,
            },
            is_written: true,
        });
        Ok(())
    }

    /// The transaction of which it is not known whether it was committed.
    pub(super) fn doubt(&self) -> Option<Proof> {
        self.doubt.as_ref().map(|doubt| doubt.proof.clone())
    }

    /// Writes down what a transaction has; on disk when this returns, unless the disk is
    /// full. Then delivery goes on, because nothing else may give it room again, and what a
    /// crash then brings again may be there twice.
    pub(super) fn write(&mut self, batch: &Batch, proof: Proof) -> io::Result<()> {
        let events = notes::bytes_of(batch.items.iter().map(Item::record));
        let entry = Entry {
            before: self.last,
            events,
            topic: proof.topic.clone(),
            partition: proof.partition,
            offset: proof.offset,
            key: proof.key.clone(),
        };
        let is_written = match self.notes.append(&entry, batch.items.len()) {
            Ok(()) => true,
            Err(error) if notes::is_full(&error) => {
                tracing::warn!(
                    dir = %self.notes.dir().display(),
                    "the disk is full: a transaction is committed without a note of what it has"
                );
                false
            }
            Err(error) => return Err(error),
        };
        self.doubt = Some(Doubt {
            events: entry.events,
            proof,
            is_written,
        });
        Ok(())
    }

    /// The last one was committed, and all of it is answered as taken.
    pub(super) fn committed(&mut self) {
        self.end(true);
    }

    /// It is known what became of the one in doubt; of what was committed nothing was
    /// answered yet.
    pub(super) fn resolve(&mut self, was_committed: bool) {
        if let Some(doubt) = self.end(was_committed)
            && was_committed
        {
            self.committed.extend(notes::events_of(&doubt.events));
        }
    }

    fn end(&mut self, was_committed: bool) -> Option<Doubt> {
        let doubt = self.doubt.take()?;
        if doubt.is_written {
            self.last = was_committed;
        }
        Some(doubt)
    }

    /// Whether the topic has the event already.
    pub(super) fn was_committed(&self, item: &Item) -> bool {
        let event = (item.position(), item.record().key);
        self.committed.contains(&event)
    }

    /// These are answered as taken: none of them comes again before the next start.
    pub(super) fn settled<'a>(&mut self, items: impl Iterator<Item = &'a Item>) {
        for item in items {
            self.committed.remove(&(item.position(), item.record().key));
        }
    }
}

//! Records on their way out.

use std::sync::Arc;

use crate::{
    event::{CborError, View},
    record::{Position, Record},
};

/// A record whose event was checked and can be written out.
#[derive(Debug, Clone)]
pub struct Item(Record);

impl Item {
    /// Checks the event once; damage shows here and nowhere later.
    ///
    /// # Errors
    /// Gives the record back, with what is wrong with it.
    pub fn check(record: Record) -> Result<Self, (Record, CborError)> {
        match View::parse(&record.body) {
            Ok(_) => Ok(Self(record)),
            Err(error) => Err((record, error)),
        }
    }

    /// As stored.
    pub const fn record(&self) -> &Record {
        &self.0
    }

    /// Its place in the journal.
    pub const fn position(&self) -> Position {
        self.0.position
    }

    /// The event, borrowed from the record.
    pub fn view(&self) -> View<'_> {
        View::parse(&self.0.body).expect("checked when the item was made")
    }

    /// A copy that keeps no page of the journal in memory.
    #[must_use]
    pub fn detached(&self) -> Self {
        let body = bytes::Bytes::copy_from_slice(&self.0.body);
        Self(Record {
            body,
            ..self.0.clone()
        })
    }

    /// What keeps its order at a destination.
    pub fn partition_key(&self) -> &str {
        self.view().attributes.partition_key()
    }
}

impl From<Item> for Record {
    fn from(item: Item) -> Self {
        item.0
    }
}

/// Some records of one destination, in journal order; cheap to clone, so that a
/// retry sends the very same.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The records, at least one.
    pub items: Arc<[Item]>,
}

/// 16 bytes that two batches share only when they hold the same events in the same order.
pub type Fingerprint = [u8; 16];

impl Batch {
    /// Two batches, the first not smaller. For batches of two or more.
    pub fn halves(&self) -> (Self, Self) {
        let (first, second) = self.items.split_at(self.items.len().div_ceil(2));
        let batch = |items: &[Item]| Self {
            items: items.into(),
        };
        (batch(first), batch(second))
    }

    /// Names the batch by the idempotency keys in it.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hash = blake3::Hasher::new();
        for item in &*self.items {
            hash.update(&item.record().key.0);
        }
        let mut fingerprint = Fingerprint::default();
        hash.finalize_xof().fill(&mut fingerprint);
        fingerprint
    }
}

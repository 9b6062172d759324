//! Who is to blame when the server ends the connection again and again.
//!
//! A server of MQTT 3.1.1 has no other way to refuse a message, and some of MQTT 5 do
//! the same. Which message it was they do not say: it is among those on the wire. After
//! three ends at the same place, or one where the first unanswered message is of a device
//! that had one refused, messages go one by one; the one at which the connection
//! ends twice while it is alone on the wire is refused. A device whose messages were
//! refused three times in a row, while those of others were taken, is shunned for a
//! while, because each refusal costs a connection ([decision 28](../../../../docs/decisions/0028-a-server-that-refuses-by-closing.md)).

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{Error, Item, session::Suspects};
use crate::{
    forward::{batch::Batch, refusals::Refusals},
    record::Position,
};

/// Ends at the same place, after which messages go one by one.
const ENDS_MAX: u32 = 3;
/// Ends at a message that is alone on the wire.
const ENDS_ALONE_MAX: u32 = 2;
/// Messages of a partition key refused in a row, after which it is shunned.
const REFUSED_MAX: u32 = 3;
/// For how long, at first and at most; doubles each time.
const SHUNNED_FIRST: Duration = Duration::from_secs(60);
const SHUNNED_MAX: Duration = Duration::from_secs(3_600);
/// Partition keys that are remembered; the one that is free first makes room.
const KEYS_MAX: usize = 1_024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Blame {
    /// The first message that was not answered when the server ended the connection,
    /// and how often it ended there.
    place: Option<(Position, u32)>,
    /// The last one that was on the wire then.
    until: Position,
    /// The message that was alone on the wire, and how often.
    alone: Option<(Position, u32)>,
    keys: HashMap<Box<str>, Refused>,
    /// Messages that were taken while some key was remembered.
    taken: u64,
    /// Whether it may be the server rather than the messages.
    pub(super) refusals: Refusals,
}

/// What became of a partition key's messages since one was taken.
#[derive(Debug)]
struct Refused {
    in_a_row: u32,
    /// What [`Blame::taken`] was at the first of them.
    taken: u64,
    /// Shunned until then; from the beginning it is past.
    until: Instant,
}

impl Blame {
    /// The server ended the connection with these on the wire, or forbade them.
    pub(super) fn struck(&mut self, suspects: Suspects) {
        let ends = match self.place {
            Some((place, ends)) if place == suspects.first.position() => ends.saturating_add(1),
            // Who was refused before is likely to blame again.
            _ if self.was_refused(&suspects.first) => ENDS_MAX,
            _ => 1,
        };
        self.place = Some((suspects.first.position(), ends));
        self.until = suspects.last;
    }

    /// Whether a message of the same partition key was refused, and none taken since.
    pub(super) fn was_refused(&self, item: &Item) -> bool {
        !self.keys.is_empty() && self.keys.contains_key(item.partition_key())
    }

    /// Whether the messages of a batch go one by one.
    pub(super) fn is_sought_in(&mut self, batch: &Batch) -> bool {
        if self.refusals.has_fault() {
            return true;
        }
        let Some((_, ENDS_MAX..)) = self.place else {
            return false;
        };
        if batch.items.iter().all(|item| item.position() > self.until) {
            // Those that were suspected are settled.
            (self.place, self.alone) = (None, None);
        }
        self.place.is_some()
    }

    /// The connection ended while this message was alone on the wire: is it refused?
    pub(super) fn ended_alone(&mut self, position: Position, key: &str) -> bool {
        let ends = match self.alone {
            Some((alone, ends)) if alone == position => ends + 1,
            _ => 1,
        };
        self.alone = Some((position, ends));
        ends >= ENDS_ALONE_MAX || self.keys.contains_key(key)
    }

    /// A message was refused.
    pub(super) fn refused(&mut self, key: &str, now: Instant) {
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(key) {
            let first = self.keys.iter().min_by_key(|(_, refused)| refused.until);
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                self.keys.remove(&first);
            }
        }
        let refused = self.keys.entry(key.into()).or_insert(Refused {
            in_a_row: 0,
            taken: self.taken,
            until: now,
        });
        refused.in_a_row += 1;
        // Where nothing else is taken it may be the server.
        if let Some(times) = refused.in_a_row.checked_sub(REFUSED_MAX)
            && self.taken > refused.taken
        {
            let shunned = SHUNNED_FIRST.saturating_mul(1 << times.min(16));
            refused.until = now + shunned.min(SHUNNED_MAX);
        }
    }

    /// A message was taken.
    pub(super) fn taken(&mut self, key: &str) {
        self.refusals = Refusals::default();
        self.keys.remove(key);
        self.taken += 1;
    }

    /// The server may be at fault: everything waits, and counts as it did `before`.
    pub(super) fn doubt_server(&mut self, before: Refusals, reason: &str, now: Instant) -> Error {
        self.keys.clear();
        self.refusals.begin(before, reason, now)
    }

    /// Whether [`Blame::taken`] would change anything.
    pub(super) fn is_any(&self) -> bool {
        !self.keys.is_empty() || self.refusals.are_some()
    }

    /// Why messages of this key are not sent, if they are not.
    pub(super) fn shuns(&self, key: &str, now: Instant) -> Option<String> {
        let refused = self.keys.get(key).filter(|refused| refused.until > now)?;
        Some(format!(
            "not sent: the server refused {} messages of the same partition key in a row",
            refused.in_a_row
        ))
    }
}

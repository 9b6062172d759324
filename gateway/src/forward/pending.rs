//! Progress on its way to the journal: gathered, sent, one message at a time.

use std::collections::BTreeMap;

use super::window::Fate;
use crate::{
    record::{DestinationId, Position},
    store::{Progress, Retry, Spent},
};

/// Records settled and not committed as such, at most: what a crash sends again.
pub(super) const RECORDS_MAX: usize = 16_384;
/// Bytes of records on their way into the retry list or the dead letters, about.
pub(super) const BYTES_MAX: usize = 8 * 1024 * 1024;

/// What was settled since the last message, and how much the one before still holds.
#[derive(Debug)]
pub(super) struct Pending {
    progress: Progress,
    /// Those of `progress`, by position.
    retry: BTreeMap<Position, Retry>,
    size: Size,
    /// Of the message that the journal has not committed yet.
    sent: Option<Size>,
    sent_cursor: Position,
}

#[derive(Debug, Clone, Copy, Default)]
struct Size {
    records: usize,
    bytes: usize,
    /// Dead letters among the records.
    dead: usize,
}

impl Pending {
    pub(super) const fn new(destination: DestinationId, cursor: Position) -> Self {
        Self {
            progress: nothing(destination, cursor),
            retry: BTreeMap::new(),
            size: Size {
                records: 0,
                bytes: 0,
                dead: 0,
            },
            sent: None,
            sent_cursor: cursor,
        }
    }

    /// What became of a record that the cursor has passed.
    pub(super) fn add(&mut self, fate: Fate) {
        self.size.records += 1;
        match fate {
            Fate::Delivered => self.progress.delivered += 1,
            Fate::Waits(retry) => {
                self.size.bytes += retry.record.body.len();
                self.retry.insert(retry.record.position, retry);
            }
            Fate::Dead(dead) => {
                self.size.bytes += dead.record.body.len();
                self.size.dead += 1;
                self.progress.dead.push(dead);
            }
        }
    }

    /// What became of a record that waited. The journal may not know yet that
    /// it did, and then need never know.
    pub(super) fn add_retried(&mut self, position: Position, fate: Fate) {
        self.retry.remove(&position);
        if matches!(fate, Fate::Delivered) && position <= self.sent_cursor {
            self.progress.retried.push(position);
        }
        self.add(fate);
    }

    /// Whether enough waits for the journal that nothing more should be sent.
    pub(super) fn is_full(&self) -> bool {
        let sent = self.sent.unwrap_or_default();
        self.size.records + sent.records >= RECORDS_MAX || self.size.bytes + sent.bytes >= BYTES_MAX
    }

    /// Dead letters that the journal may not have yet.
    pub(super) fn dead(&self) -> usize {
        self.size.dead + self.sent.unwrap_or_default().dead
    }

    /// Whether so much has gathered that it should go now.
    pub(super) const fn is_large(&self) -> bool {
        self.size.records >= RECORDS_MAX / 4 || self.size.bytes >= BYTES_MAX / 4
    }

    /// So much was spent of the budget, whatever became of it.
    pub(super) const fn spent(&mut self, spent: Spent) {
        self.progress.spent = Some(spent);
    }

    /// Whether there is anything to tell the journal.
    pub(super) fn is_empty(&self, cursor: Position) -> bool {
        self.size.records == 0 && self.progress.spent.is_none() && cursor == self.sent_cursor
    }

    /// Whether a message is with the journal.
    pub(super) const fn is_sent(&self) -> bool {
        self.sent.is_some()
    }

    /// The message to send; until [`Self::committed`] there is no other.
    pub(super) fn take(&mut self, cursor: Position) -> Progress {
        assert!(self.sent.is_none(), "one message at a time");
        assert!(cursor >= self.sent_cursor, "a cursor only moves on");
        self.sent = Some(std::mem::take(&mut self.size));
        self.sent_cursor = cursor;
        let next = nothing(self.progress.destination, cursor);
        Progress {
            cursor,
            retry: std::mem::take(&mut self.retry).into_values().collect(),
            ..std::mem::replace(&mut self.progress, next)
        }
    }

    /// The message that was sent is on disk.
    pub(super) const fn committed(&mut self) {
        self.sent = None;
    }
}

const fn nothing(destination: DestinationId, cursor: Position) -> Progress {
    Progress {
        destination,
        cursor,
        delivered: 0,
        retry: Vec::new(),
        retried: Vec::new(),
        dead: Vec::new(),
        spent: None,
    }
}

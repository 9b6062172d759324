//! Reads messages that were kept as they came, each with the events that were made of it.

use super::{
    Error, Listing, column,
    frame::{self, column, integer},
};
use crate::{
    event::{Original, Timestamp, View},
    record::{Position, Record},
};

/// Rows looked through for one page, at most, unless a message is longer.
const ROWS_MAX: u32 = 20_000;
/// A page ends with the message that brings it to so many bytes.
const PAGE_BYTES: usize = 1024 * 1024;

/// A message, and its events that are in the journal.
#[derive(Debug, Clone)]
pub struct Kept {
    /// On which topic.
    pub topic: String,
    /// When it was received.
    pub received: Timestamp,
    /// The rest of it.
    pub original: Original,
    /// The events, in order; at least the one that it lies with.
    pub events: Vec<Record>,
}

impl Kept {
    /// Where it lies.
    pub fn position(&self) -> Position {
        self.events.first().map_or(Position(0), |r| r.position)
    }
}

/// Some of the messages.
#[derive(Debug, Clone, Default)]
pub struct KeptPage {
    /// In order.
    pub messages: Vec<Kept>,
    /// How far the journal was looked through; `None` at the end.
    pub next: Option<Position>,
    /// Rows that could not be read.
    pub damaged: u64,
    /// Events that are wanted and belong to no message here: none was kept of them, it
    /// has left the journal, or its row is damaged.
    pub orphaned: u64,
}

impl Listing {
    /// Messages that lie after `after` and at most at `until`, and that `wanted` says yes
    /// to: at most `count`, and no more once they and their events have a megabyte.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn kept(
        &self,
        after: Position,
        until: Position,
        count: usize,
        wanted: impl Fn(&View<'_>) -> bool,
    ) -> Result<KeptPage, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT position, routes, received, frame FROM events
             WHERE position > ?1 ORDER BY position",
        )?;
        let mut rows = statement.query([column(after.0)])?;
        let mut page = KeptPage::default();
        // Whether events that follow belong to the last message of the page.
        let (mut open, mut bytes, mut seen) = (false, 0, 0_u32);
        let mut last = after;
        while let Some(row) = rows.next()? {
            let record = frame::from_row(row, 0)?;
            let view = record.as_ref().map(|record| View::parse(&record.body));
            let (Some(record), Some(Ok(view))) = (&record, view) else {
                page.damaged += 1;
                // It may have been the first of the next message, which nothing tells.
                open = false;
                last = Position(integer(column::number(row, 0)?.unwrap_or(0)));
                continue;
            };
            if let Some(message) = page.messages.last_mut().filter(|_| open)
                && message.has(&view)
            {
                bytes += record.body.len();
                message.events.push(record.clone());
                last = record.position;
                continue;
            }
            open = false;
            let full = page.messages.len() >= count || bytes >= PAGE_BYTES || seen >= ROWS_MAX;
            if full || record.position > until {
                page.next = full.then_some(last);
                return Ok(page);
            }
            seen += 1;
            last = record.position;
            if !wanted(&view) {
                continue;
            }
            if let Some(original) = view.original {
                open = true;
                bytes += record.body.len();
                page.messages.push(Kept {
                    topic: view.attributes.topic.to_owned(),
                    received: view.attributes.received,
                    original: original.to_owned(),
                    events: vec![record.clone()],
                });
            } else if view.attributes.corrected.is_none() {
                page.orphaned += 1;
            }
        }
        Ok(page)
    }
}

impl Kept {
    /// Whether an event that follows was made of this message too.
    fn has(&self, view: &View<'_>) -> bool {
        let of = &view.attributes;
        let same = view.original.is_none_or(|o| o.nonce == self.original.nonce);
        same && of.corrected.is_none() && of.received == self.received && of.topic == self.topic
    }
}

//! Reads messages that were kept as they came, each with the events that were made of it.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

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
/// A page ends once so many bytes were read, wanted or not.
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A page ends after this long: a long read makes the write-ahead log grow.
const READ_TIME_MAX: Duration = Duration::from_millis(50);

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
    /// Where the last of its events lies.
    pub fn end(&self) -> Position {
        self.events.last().map_or(Position(0), |r| r.position)
    }

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
    /// Messages that lie after `after` and at most at `until`, were `received` then, and
    /// that `wanted` says yes to: at most `count`, and no more once they and their events
    /// have a megabyte, or reading takes long.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn kept(
        &self,
        after: Position,
        until: Position,
        count: usize,
        received: &Range<Timestamp>,
        wanted: impl Fn(&View<'_>) -> bool,
    ) -> Result<KeptPage, Error> {
        // What was received at another time is not even read.
        let mut statement = self.connection.prepare_cached(
            "SELECT position, routes, received,
                    CASE WHEN received >= ?2 AND received < ?3 THEN frame END
             FROM events WHERE position > ?1 ORDER BY position",
        )?;
        let (from, to) = (received.start.as_nanos(), received.end.as_nanos());
        let mut rows = statement.query((column(after.0), from, to))?;
        let began = Instant::now();
        let mut page = KeptPage::default();
        // Whether events that follow belong to the last message of the page.
        let (mut open, mut bytes, mut read, mut seen) = (false, 0, 0, 0_u32);
        let mut last = after;
        while let Some(row) = rows.next()? {
            let record = frame::from_row(&self.seal, row, 0)?;
            let view = record.as_ref().map(|record| View::parse(&record.body));
            if let (Some(record), Some(Ok(view))) = (&record, &view)
                && let Some(message) = page.messages.last_mut().filter(|_| open)
                && message.has(view)
            {
                bytes += record.body.len();
                message.events.push(record.clone());
                last = record.position;
                continue;
            }
            open = false;
            let position = Position(integer(column::number(row, 0)?.unwrap_or(0)));
            let full = page.messages.len() >= count
                || bytes >= PAGE_BYTES
                || read >= READ_BYTES_MAX
                || seen >= ROWS_MAX
                || (seen > 0 && began.elapsed() > READ_TIME_MAX);
            if full || position > until {
                page.next = full.then_some(last);
                return Ok(page);
            }
            seen += 1;
            last = position;
            let (Some(record), Some(Ok(view))) = (record.as_ref(), view) else {
                let at = column::number(row, 2)?.map(Timestamp::from_nanos);
                page.damaged += u64::from(at.is_none_or(|at| received.contains(&at)));
                continue;
            };
            read += record.body.len();
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
            } else if view.attributes.corrected.is_none() && view.attributes.replayed.is_none() {
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
        let is_other = of.corrected.is_some() || of.replayed.is_some();
        same && !is_other && of.received == self.received && of.topic == self.topic
    }
}

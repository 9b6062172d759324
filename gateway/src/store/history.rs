//! Reads records for whoever looks back: page by page, by the time of receipt, whoever
//! they were for.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::{
    Error, Listing, column,
    frame::{self, column, integer},
};
use crate::{
    event::Timestamp,
    record::{Position, Record},
};

/// Rows looked through for one page, at most.
const ROWS_MAX: u32 = 20_000;
/// A page ends with the record that brings it to so many bytes.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// A page ends after this long: a long read makes the write-ahead log grow.
const READ_TIME_MAX: Duration = Duration::from_millis(50);

/// Some of the records.
#[derive(Debug, Clone, Default)]
pub struct HistoryPage {
    /// By position.
    pub records: Vec<Record>,
    /// How far the journal was looked through; `None` at the end.
    pub next: Option<Position>,
    /// The row that follows; `None` at the end.
    pub following: Option<Position>,
    /// Where rows are that could not be read: at most as many as one page looks through.
    pub damaged: Vec<Position>,
}

impl Listing {
    /// Records after `after` and at most at `until` that were `received` then: at most
    /// `count`, and no more once they have four megabytes, or reading takes long. A page
    /// may be empty and not the last.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn history(
        &self,
        after: Position,
        until: Position,
        count: usize,
        received: &Range<Timestamp>,
    ) -> Result<HistoryPage, Error> {
        // What was received at another time is not even read.
        let mut statement = self.connection.prepare_cached(
            "SELECT position, routes, received,
                    CASE WHEN received >= ?3 AND received < ?4 THEN frame END
             FROM events WHERE position > ?1 AND position <= ?2 ORDER BY position",
        )?;
        let (from, to) = (received.start.as_nanos(), received.end.as_nanos());
        let mut rows = statement.query((column(after.0), column(until.0), from, to))?;
        let began = Instant::now();
        let mut page = HistoryPage::default();
        let (mut bytes, mut seen, mut last) = (0, 0_u32, after);
        while let Some(row) = rows.next()? {
            let full = page.records.len() >= count
                || bytes >= PAGE_BYTES
                || seen >= ROWS_MAX
                || (seen > 0 && began.elapsed() > READ_TIME_MAX);
            let position = Position(integer(column::number(row, 0)?.unwrap_or(0)));
            if full {
                (page.next, page.following) = (Some(last), Some(position));
                return Ok(page);
            }
            seen += 1;
            last = position.max(last);
            let at = column::number(row, 2)?.map(Timestamp::from_nanos);
            if at.is_some_and(|at| !received.contains(&at)) {
                continue;
            }
            match frame::from_row(&self.seal, row, 0)? {
                Some(record) => {
                    bytes += record.body.len();
                    page.records.push(record);
                }
                None => page.damaged.push(position),
            }
        }
        Ok(page)
    }

    /// Whether there is an event at a position, whole or damaged.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn has(&self, position: Position) -> Result<bool, Error> {
        let mut statement =
            (self.connection).prepare_cached("SELECT 1 FROM events WHERE position = ?1")?;
        Ok(statement.exists([column(position.0)])?)
    }

    /// Up to where the journal has been filled; what was given a position later is not
    /// part of what whoever asks now looks back at.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn last_position(&self) -> Result<Position, Error> {
        let last: Option<i64> =
            (self.connection)
                .query_row("SELECT max(position) FROM events", [], |row| row.get(0))?;
        Ok(Position(last.map_or(0, integer)))
    }
}

//! Reads the journal for one destination.
//!
//! Promises: a page holds committed records only, in order, none left out up to
//! `scanned_to`; a backlog of any length is read page by page; a read
//! transaction is short, because a long one makes the write-ahead log grow.
//! A damaged row is passed, and the writer is told of it.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;

use super::{
    Error,
    frame::{self, column, integer},
    handle::Handle,
    progress::Retry,
    tail::Tail,
};
use crate::{
    event::Timestamp,
    record::{DestinationId, Position, Record, Routes},
};

/// A read transaction ends after this long, with what it has.
const READ_TIME_MAX: Duration = Duration::from_millis(50);
/// How long a reader waits for a lock; readers of a write-ahead log rarely do.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// A page of the journal for one destination.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Records routed to the destination, by position.
    pub records: Vec<Record>,
    /// How far the journal was looked through; the cursor may move here once
    /// `records` are settled.
    pub scanned_to: Position,
}

/// Damaged rows that readers met and the writer has not dealt with; it does so
/// before it applies any progress that passes them.
#[derive(Debug, Default)]
pub(super) struct Noticed(Mutex<Vec<Position>>);

impl Noticed {
    const POSITIONS_MAX: usize = 4_096;

    pub(super) fn put(&self, positions: &[Position]) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(positions);
    }

    pub(super) fn take(&self) -> Vec<Position> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    fn is_full(&self, more: usize) -> bool {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        waiting + more >= Self::POSITIONS_MAX
    }
}

/// Reads the journal for one destination, on a connection of its own. Blocking:
/// call it from a blocking task.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    committed: watch::Receiver<Position>,
    tail: Arc<Tail>,
    noticed: Arc<Noticed>,
}

impl Reader {
    pub(super) fn open(handle: &Handle) -> Result<Self, Error> {
        Ok(Self {
            connection: open_read_only(&handle.database)?,
            committed: handle.committed.clone(),
            tail: handle.tail.clone(),
            noticed: handle.noticed.clone(),
        })
    }

    /// Records routed to `destination` after `after`: at most `count` of them and
    /// about `bytes`, in one short read transaction.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn read(
        &mut self,
        destination: DestinationId,
        after: Position,
        count: usize,
        bytes: usize,
    ) -> Result<Page, Error> {
        if let Some(page) = self.tail.read(destination, after, count, bytes) {
            return Ok(page);
        }
        // What was committed before the transaction begins is visible in it.
        let committed = *self.committed.borrow();
        let mut damaged = Vec::new();
        let mut page = self.scan(destination, after, count, bytes, &mut damaged)?;
        if page.scanned_to == END {
            page.scanned_to = committed.max(after);
        }
        self.noticed.put(&damaged);
        Ok(page)
    }

    /// Records of `destination` that wait for another attempt, by position: at
    /// most `count`, and no more once they have `bytes`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn retries(
        &mut self,
        destination: DestinationId,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Retry>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT attempts, not_before, reason, position, routes, received, frame
             FROM retry WHERE destination = ?1 ORDER BY position LIMIT ?2",
        )?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let mut rows = statement.query((destination.0, count))?;
        let mut retries = Vec::new();
        let mut taken = 0;
        let mut damaged = Vec::new();
        while taken < bytes
            && let Some(row) = rows.next()?
        {
            let Some(record) = frame::from_row(row, 3)? else {
                damaged.push(Position(integer(row.get(3)?)));
                continue;
            };
            taken += record.body.len();
            retries.push(Retry {
                record,
                attempts: row.get(0)?,
                not_before: Timestamp::from_nanos(row.get(1)?),
                reason: row.get(2)?,
            });
        }
        drop(rows);
        drop(statement);
        self.noticed.put(&damaged);
        Ok(retries)
    }

    /// Looks through the journal; `scanned_to` is [`END`] where the end was reached.
    fn scan(
        &self,
        destination: DestinationId,
        after: Position,
        count: usize,
        bytes: usize,
        damaged: &mut Vec<Position>,
    ) -> Result<Page, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT position, routes, received, frame FROM events
             WHERE position > ?1 ORDER BY position",
        )?;
        let began = Instant::now();
        let mut page = Page {
            records: Vec::new(),
            scanned_to: after,
        };
        let (mut taken, mut seen) = (0, 0_u32);
        let mut rows = statement.query([column(after.0)])?;
        while let Some(row) = rows.next()? {
            let position = Position(integer(row.get(0)?));
            if position <= page.scanned_to {
                return Err(Error::Damaged(
                    "rows are not in the order of their positions".into(),
                ));
            }
            if Routes(integer(row.get(1)?)).contains(destination) {
                let size = row
                    .get_ref(3)?
                    .as_bytes()
                    .map_err(rusqlite::Error::from)?
                    .len();
                if page.records.len() >= count || (taken > 0 && taken + size > bytes) {
                    return Ok(page);
                }
                match frame::from_row(row, 0)? {
                    Some(record) => {
                        taken += size;
                        page.records.push(record);
                    }
                    // It is passed only if the writer will hear of it.
                    None if self.noticed.is_full(damaged.len()) => return Ok(page),
                    None => damaged.push(position),
                }
            }
            page.scanned_to = position;
            seen += 1;
            if seen.is_multiple_of(256) && began.elapsed() > READ_TIME_MAX {
                return Ok(page);
            }
        }
        page.scanned_to = END;
        Ok(page)
    }
}

/// No position is this far.
const END: Position = Position(u64::MAX);

/// Opens the database so that nothing can be written to it. Works beside a
/// running gateway, also from another process.
pub(super) fn open_read_only(database: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

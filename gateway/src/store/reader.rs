//! Reads the journal for one destination.
//!
//! Promises: a page holds committed records only, in order, none left out up to
//! `scanned_to`; a backlog of any length is read page by page; a read
//! transaction is short, because a long one makes the write-ahead log grow.
//! A damaged row is passed, and the writer is told of it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use penstock_broker::seal::Seal;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::watch;

use super::{
    Error, column,
    frame::{self, column, integer},
    handle::Handle,
    progress::Retry,
    sealed,
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

/// What readers and the writer tell each other about damage.
#[derive(Debug, Default)]
pub(super) struct Noticed {
    /// Rows with a wrong checksum that readers met. The writer deals with them
    /// before it applies any progress that passes them.
    rows: Mutex<Vec<Position>>,
    /// The same in the retry list, by row number.
    retries: Mutex<BTreeSet<i64>>,
    /// A reader found the structure of the file damaged.
    structure: AtomicBool,
    /// How often the file was replaced by a salvaged one.
    replaced: AtomicU64,
}

impl Noticed {
    const ROWS_MAX: usize = 4_096;

    pub(super) fn put_rows(&self, positions: &[Position]) {
        self.rows().extend(positions);
    }

    pub(super) fn take_rows(&self) -> Vec<Position> {
        std::mem::take(&mut self.rows())
    }

    /// What is not noted for want of room is met again.
    pub(super) fn put_retries(&self, rows: impl IntoIterator<Item = i64>) {
        let mut retries = self.retries();
        let room = Self::ROWS_MAX.saturating_sub(retries.len());
        retries.extend(rows.into_iter().take(room));
    }

    pub(super) fn take_retries(&self) -> BTreeSet<i64> {
        std::mem::take(&mut self.retries())
    }

    pub(super) fn take_structure(&self) -> bool {
        self.structure.swap(false, Ordering::AcqRel)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows().is_empty()
            && self.retries().is_empty()
            && !self.structure.load(Ordering::Acquire)
    }

    /// Readers must open the file again.
    pub(super) fn replace_file(&self) {
        self.structure.store(false, Ordering::Release);
        self.replaced.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::Acquire)
    }

    fn is_full(&self, more: usize) -> bool {
        self.rows().len() + more >= Self::ROWS_MAX
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Position>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retries(&self) -> MutexGuard<'_, BTreeSet<i64>> {
        self.retries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the journal for one destination, on a connection of its own. Blocking:
/// call it from a blocking task.
#[derive(Debug)]
pub struct Reader {
    pub(super) connection: Connection,
    database: Arc<PathBuf>,
    /// Which file `connection` is of, in [`Noticed::replaced`].
    pub(super) file: u64,
    committed: watch::Receiver<Position>,
    tail: Arc<Tail>,
    pub(super) noticed: Arc<Noticed>,
    pub(super) seal: Seal,
}

impl Reader {
    pub(super) fn open(handle: &Handle) -> Result<Self, Error> {
        let file = handle.noticed.replaced();
        Ok(Self {
            connection: open_read_only(&handle.database)?,
            database: handle.database.clone(),
            file,
            committed: handle.committed.clone(),
            tail: handle.tail.clone(),
            noticed: handle.noticed.clone(),
            seal: handle.seal.clone(),
        })
    }

    /// Records routed to `destination` after `after`: at most `count` of them and
    /// about `bytes`, in one short read transaction.
    ///
    /// # Errors
    /// When the database cannot be read. A damaged one is replaced by the writer
    /// within a moment: try again.
    pub fn read(
        &mut self,
        destination: DestinationId,
        after: Position,
        count: usize,
        bytes: usize,
    ) -> Result<Page, Error> {
        self.page(Some(destination), after, count, bytes)
    }

    /// The same of all records, also those that are routed to nobody.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn all(&mut self, after: Position, count: usize, bytes: usize) -> Result<Page, Error> {
        self.page(None, after, count, bytes)
    }

    fn page(
        &mut self,
        destination: Option<DestinationId>,
        after: Position,
        count: usize,
        bytes: usize,
    ) -> Result<Page, Error> {
        if let Some(page) = self.tail.read(destination, after, count, bytes) {
            return Ok(page);
        }
        loop {
            self.follow_file()?;
            // What was committed before the transaction begins is visible in it.
            let committed = *self.committed.borrow();
            let mut damaged = Vec::new();
            let scanned = self.scan(destination, after, count, bytes, &mut damaged);
            if self.noticed.replaced() != self.file {
                // The old file knows nothing of what the new one was given meanwhile.
                continue;
            }
            let mut page = scanned.map_err(|error| self.notice(error))?;
            if page.scanned_to == END {
                // Commits that came since may have been read too.
                let last = page.records.last().map_or(after, |r| r.position);
                page.scanned_to = committed.max(after).max(last);
            }
            self.noticed.put_rows(&damaged);
            return Ok(page);
        }
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
        self.follow_file()?;
        self.waiting(destination, count, bytes)
            .map_err(|error| self.notice(error))
    }

    fn waiting(
        &self,
        destination: DestinationId,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Retry>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT attempts, not_before, reason, position, routes, received, frame, rowid, first
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
            let Some(record) = frame::from_row(&self.seal, row, 3)? else {
                damaged.push(row.get(7)?);
                continue;
            };
            taken += record.body.len();
            let place = column(record.position.0);
            let reason = sealed::reason_of(&self.seal, place, column::text(row, 2)?);
            retries.push(Retry {
                record,
                attempts: column::small(row, 0)?,
                first: column::number(row, 8)?.map(Timestamp::from_nanos),
                not_before: column::instant(row, 1)?,
                reason,
            });
        }
        drop(rows);
        drop(statement);
        self.noticed.put_retries(damaged);
        Ok(retries)
    }

    /// Opens the file again where the writer has replaced it.
    pub(super) fn follow_file(&mut self) -> Result<(), Error> {
        let replaced = self.noticed.replaced();
        if replaced != self.file {
            self.connection = open_read_only(&self.database)?;
            self.file = replaced;
        }
        Ok(())
    }

    /// Lets the writer know of a damaged file.
    pub(super) fn notice(&self, error: Error) -> Error {
        if error.means_damage() {
            self.noticed.structure.store(true, Ordering::Release);
        }
        error
    }

    /// Looks through the journal; `scanned_to` is [`END`] where the end was reached.
    pub(super) fn scan(
        &self,
        destination: Option<DestinationId>,
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
            // A row that does not tell who wants it is looked at, and found damaged.
            let routes = column::number(row, 1)?.map_or(u64::MAX, integer);
            if destination.is_none_or(|id| Routes(routes).contains(id)) {
                let size = row.get_ref(3)?.as_bytes().map_or(0, <[u8]>::len);
                if page.records.len() >= count || (taken > 0 && taken + size > bytes) {
                    return Ok(page);
                }
                match frame::from_row(&self.seal, row, 0)? {
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
pub(super) const END: Position = Position(u64::MAX);

/// Opens the database so that nothing can be written to it. Works beside a
/// running gateway, also from another process.
pub(super) fn open_read_only(database: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

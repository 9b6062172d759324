//! The write-ahead log of `read.db`: when it is copied back, how long it may get, and up
//! to where nothing can be taken back any more.
//!
//! A question that takes long keeps the log from being begun anew. So it has a bound: at
//! it the feed takes nothing more until the log was emptied, and questions that have had
//! their time are ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rusqlite::Connection;

use super::Error;

/// Frames that are not copied yet, before they are: 16 MiB, or less of a small file.
const FRAMES_MAX: u64 = 4_096;
const FRAMES_MIN: u64 = 256;
/// The log may have so many times as many.
const TIMES: u64 = 4;
/// What has changed is copied after so long, where it is less.
const COPY_EVERY: Duration = Duration::from_secs(2);
/// How often a log that is too long is tried to be emptied, and how long that waits.
const EMPTY_EVERY: Duration = Duration::from_millis(500);
const EMPTY_WAIT_MAX: Duration = Duration::from_millis(100);

/// Whether the log is at its bound: questions look at it.
#[derive(Debug, Clone, Default)]
pub(super) struct Cramped(Arc<AtomicBool>);

impl Cramped {
    pub(super) fn get(&self) -> bool {
        self.0.load(Relaxed)
    }

    pub(super) fn set(&self, cramped: bool) {
        self.0.store(cramped, Relaxed);
    }
}

/// The log, as the feed sees it.
#[derive(Debug)]
pub(super) struct Log {
    /// Not copied, before they are.
    frames: u64,
    /// In all, before nothing more is written.
    frames_max: u64,
    copied: Instant,
    emptied: Instant,
    /// Something was written that may not be copied.
    dirty: bool,
    cramped: Cramped,
}

/// Frames of the log.
#[derive(Debug, Clone, Copy)]
struct Frames {
    all: u64,
    /// Of those, in the database.
    copied: u64,
}

impl Frames {
    /// Nothing is in the log alone, so that power loss takes nothing back.
    const fn are_copied(self) -> bool {
        self.copied >= self.all
    }
}

impl Log {
    /// Of a file of at most so many bytes.
    pub(super) fn new(bytes_max: u64, cramped: Cramped) -> Self {
        cramped.set(false);
        let frames = (bytes_max / 4_096 / 8).clamp(FRAMES_MIN, FRAMES_MAX);
        Self {
            frames,
            frames_max: TIMES * frames,
            copied: Instant::now(),
            emptied: Instant::now(),
            dirty: true,
            cramped,
        }
    }

    #[cfg(test)]
    pub(super) fn of_frames(frames_max: u64) -> Self {
        Self {
            frames: frames_max,
            frames_max,
            ..Self::new(0, Cramped::default())
        }
    }

    /// Something was written.
    pub(super) const fn wrote(&mut self) {
        self.dirty = true;
    }

    /// Whether nothing more may be written for now.
    pub(super) fn is_cramped(&self) -> bool {
        self.cramped.get()
    }

    /// Copies the log when it is time. True when all that was written so far is in the
    /// database, and on the disk, since this call: only that cannot be taken back.
    pub(super) fn tend(&mut self, connection: &Connection) -> Result<bool, Error> {
        if !self.dirty {
            return Ok(false);
        }
        let mut frames = run(connection, "NOOP")?;
        let due = self.copied.elapsed() >= COPY_EVERY;
        let many = frames.all.saturating_sub(frames.copied) >= self.frames;
        if !due && !many && frames.all < self.frames_max {
            return Ok(false);
        }
        if due || many {
            frames = run(connection, "PASSIVE")?;
            self.copied = Instant::now();
        }
        if frames.all >= self.frames_max
            && (!self.is_cramped() || self.emptied.elapsed() >= EMPTY_EVERY)
        {
            frames = empty(connection)?;
            self.emptied = Instant::now();
        }
        self.cramped.set(frames.all >= self.frames_max);
        let whole = frames.are_copied();
        self.dirty = !whole;
        Ok(whole)
    }
}

/// Copies everything and empties the log. Waits a moment for readers, not longer.
fn empty(connection: &Connection) -> Result<Frames, Error> {
    connection.busy_timeout(EMPTY_WAIT_MAX)?;
    let frames = run(connection, "TRUNCATE");
    connection.busy_timeout(super::schema::BUSY_TIMEOUT)?;
    frames
}

/// At the end.
pub(super) fn close(connection: &Connection) -> Result<(), Error> {
    empty(connection).map(|_| ())
}

fn run(connection: &Connection, mode: &str) -> Result<Frames, Error> {
    let frames = connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        // -1 where there is no log.
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(Frames {
            all: count(row.get(1)?),
            copied: count(row.get(2)?),
        })
    })?;
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::schema;

    fn write(connection: &Connection, count: u32) {
        for n in 0..count {
            connection
                .execute("UPDATE state SET evicted = ?1", [n])
                .unwrap();
        }
    }

    #[test]
    fn a_copy_that_a_question_was_in_the_way_of_makes_nothing_safe() {
        let dir = tempfile::tempdir().unwrap();
        let connection = schema::open(dir.path()).unwrap();
        let mut log = Log::of_frames(10);
        write(&connection, 5);
        log.copied = log.copied.checked_sub(COPY_EVERY).unwrap();
        assert!(log.tend(&connection).unwrap());
        assert!(!log.tend(&connection).unwrap(), "nothing was written since");

        // Somebody reads what was there before.
        let reader = schema::open_read_only(dir.path()).unwrap();
        reader.execute_batch("BEGIN").unwrap();
        let seen = |reader: &Connection| -> i64 {
            let evicted = "SELECT evicted FROM state";
            reader.query_row(evicted, [], |row| row.get(0)).unwrap()
        };
        assert_eq!(seen(&reader), 4);
        write(&connection, 3);
        log.wrote();
        log.copied = log.copied.checked_sub(COPY_EVERY).unwrap();
        assert!(!log.tend(&connection).unwrap(), "not all could be copied");
        assert!(!log.is_cramped());
        // It goes on reading, and the log may not grow for ever.
        write(&connection, 20);
        log.wrote();
        assert!(!log.tend(&connection).unwrap());
        assert!(log.is_cramped());
        drop(reader);
        log.emptied = log.emptied.checked_sub(EMPTY_EVERY).unwrap();
        assert!(log.tend(&connection).unwrap());
        assert!(!log.is_cramped());
        let file = std::fs::metadata(dir.path().join("read.db-wal")).unwrap();
        assert_eq!(file.len(), 0);
    }
}

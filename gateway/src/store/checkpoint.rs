//! Checkpoints, by the writer itself: a thread of its own lets the write-ahead
//! log grow without gain. Never truncated in steady state: overwriting the log
//! costs half of growing it.

use std::{path::Path, time::Duration};

use rusqlite::Connection;

use super::{room::PAGE_BYTES, schema, stage};

/// Frames in the log that are not in the database yet, before a checkpoint.
const FRAMES_MAX: u64 = 4_000;
const FRAMES_MIN: u64 = 64;
/// How long emptying the log may wait for readers.
const TRUNCATE_WAIT_MAX: Duration = Duration::from_millis(100);

/// When to checkpoint.
#[derive(Debug)]
pub(super) struct Checkpoints {
    threshold: u64,
}

/// Frames in the write-ahead log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log {
    pub(super) frames: u64,
    /// Of those, in the database already.
    pub(super) copied: u64,
}

impl Checkpoints {
    /// For a journal of at most so many bytes: the log takes an eighth of it, about.
    pub(super) fn new(max_bytes: u64) -> Self {
        Self {
            threshold: (max_bytes / PAGE_BYTES / 8).clamp(FRAMES_MIN, FRAMES_MAX),
        }
    }

    /// Copies the log into the database when it is long enough. Takes what it
    /// can get: readers are not waited for.
    pub(super) fn after_commit(&self, connection: &Connection) -> rusqlite::Result<()> {
        let log = run(connection, "PRAGMA wal_checkpoint(NOOP)")?;
        if log.frames.saturating_sub(log.copied) >= self.threshold {
            run(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
        }
        Ok(())
    }
}

/// Copies what can be copied.
pub(super) fn passive(connection: &Connection) -> rusqlite::Result<Log> {
    run(connection, "PRAGMA wal_checkpoint(PASSIVE)")
}

/// Copies everything and empties the log: at the end, or to get room back.
/// Waits a moment for readers, not longer.
pub(super) fn truncate(connection: &Connection) -> rusqlite::Result<Log> {
    connection.busy_timeout(TRUNCATE_WAIT_MAX)?;
    let result = run(connection, "PRAGMA wal_checkpoint(TRUNCATE)");
    connection.busy_timeout(schema::BUSY_TIMEOUT)?;
    result
}

fn run(connection: &Connection, pragma: &str) -> rusqlite::Result<Log> {
    stage::cached(connection, pragma)?.query_row([], |row| {
        let frames: i64 = row.get(1)?;
        let copied: i64 = row.get(2)?;
        // -1 where there is no log.
        Ok(Log {
            frames: u64::try_from(frames).unwrap_or(0),
            copied: u64::try_from(copied).unwrap_or(0),
        })
    })
}

/// Bytes this thread has sent to storage so far; 0 where the system does not tell.
pub(super) fn thread_written_bytes() -> u64 {
    let Ok(text) = std::fs::read_to_string(Path::new("/proc/thread-self/io")) else {
        return 0;
    };
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

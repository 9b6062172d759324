//! A transaction under way: what will be true if it commits.
//!
//! Everything that a commit changes in memory is collected here first, so that
//! a failed commit leaves nothing behind.

use rusqlite::{CachedStatement, Connection};

use super::{account::Name, frame::column, mode::Wanted, state::State, tally::Tallying};
use crate::{
    dedup::window::Window,
    event::{Key, Timestamp},
    record::{Position, Record},
};

/// Dead letters and the like carry this much of a reason, at most.
const REASON_BYTES_MAX: usize = 4 * 1024;

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) state: State,
    pub(super) now: Timestamp,
    /// Keys to remember, one after the other.
    pub(super) keys: Vec<u8>,
    /// The first position stored.
    pub(super) first: Option<Position>,
    /// What was stored, for the tail.
    pub(super) records: Vec<Record>,
    /// Everything up to here was removed undelivered; the tail must forget it.
    pub(super) dropped_to: Option<Position>,
    /// The destinations that are known from now on, where that changes.
    pub(super) names: Option<Vec<Name>>,
    /// What new destinations want, where that changes; nobody says it any more where it is
    /// `Some(None)`.
    pub(super) wanted: Option<Option<Wanted>>,
    /// What changes in the ledger by device, where somebody reads that.
    pub(super) tally: Option<Tallying>,
    /// There is something to commit.
    pub(super) dirty: bool,
    /// Scratch for frames.
    pub(super) frame: Vec<u8>,
}

impl Stage {
    /// The next commit after `state`.
    pub(super) fn new(state: &State, now: Timestamp) -> Self {
        let mut state = state.clone();
        state.commit += 1;
        state.wall = Some(now);
        Self {
            state,
            now,
            keys: Vec::new(),
            first: None,
            records: Vec::new(),
            dropped_to: None,
            names: None,
            wanted: None,
            tally: None,
            dirty: false,
            frame: Vec::new(),
        }
    }

    /// Takes the staged keys out of the window again: the commit failed.
    pub(super) fn forget_keys(&self, window: &mut Window) {
        let (keys, _) = self.keys.as_chunks::<16>();
        for key in keys {
            window.remove(Key(*key));
        }
    }

    /// Writes what belongs to the commit as a whole: its keys, and the state.
    pub(super) fn write_commit(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if !self.keys.is_empty() {
            let first = self.first.unwrap_or_default();
            let count = i64::try_from(self.keys.len() / 16).unwrap_or(i64::MAX);
            cached(
                connection,
                "INSERT INTO commits (sequence, at, first, count, checksum, keys)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute((
                column(self.state.commit),
                self.now.as_nanos(),
                column(first.0),
                count,
                crc32fast::hash(&self.keys),
                &self.keys[..],
            ))?;
        }
        if let Some(tally) = &mut self.tally {
            tally.write(connection, self.state.commit)?;
        }
        write_state(connection, &self.state, &mut self.frame)
    }
}

/// Writes the one row of `state`.
pub(super) fn write_state(
    connection: &Connection,
    state: &State,
    scratch: &mut Vec<u8>,
) -> rusqlite::Result<()> {
    state.encode(scratch);
    cached(
        connection,
        "INSERT OR REPLACE INTO state (id, body) VALUES (1, ?1)",
    )?
    .execute([&scratch[..]])?;
    Ok(())
}

/// A statement that was prepared once.
pub(super) fn cached<'c>(
    connection: &'c Connection,
    sql: &str,
) -> rusqlite::Result<CachedStatement<'c>> {
    connection.prepare_cached(sql)
}

/// A reason of bounded length.
pub(super) fn reason(text: &str) -> &str {
    let mut end = text.len().min(REASON_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

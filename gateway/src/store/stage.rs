//! A transaction under way: what will be true if it commits.
//!
//! Everything that a commit changes in memory is collected here first, so that
//! a failed commit leaves nothing behind.

use penstock_broker::seal::Seal;
use rusqlite::{CachedStatement, Connection};

use super::{
    account::Name, entry::NewEvent, frame::column, gap::Gaps, mode::Wanted, shed::Keep,
    state::State, tally::Tallying,
};
use crate::{
    class::Class,
    dedup::window::Window,
    event::{Key, Timestamp},
    record::{Position, Record},
};

/// Dead letters and the like carry this much of a reason, at most.
const REASON_BYTES_MAX: usize = 4 * 1024;
/// What a row of keys takes beside them, about.
const ROW_BYTES: u64 = 48;

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) state: State,
    pub(super) now: Timestamp,
    /// Keys to remember, one after the other.
    pub(super) keys: Vec<u8>,
    /// Those that are remembered until the next start only.
    pub(super) passing_keys: Vec<u8>,
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
    /// What is given up.
    pub(super) gaps: Gaps,
    /// Something was told before: who counts by device sees a difference.
    pub(super) told_again: bool,
    /// What its keys take on disk, about.
    pub(super) shed_key_bytes: u64,
    /// There is something to commit.
    pub(super) dirty: bool,
    /// Scratch for frames.
    pub(super) frame: Vec<u8>,
    /// How they lie there.
    pub(super) seal: Seal,
}

impl Stage {
    /// The next commit after `state`.
    pub(super) fn new(state: &State, now: Timestamp, seal: &Seal) -> Self {
        let mut state = state.clone();
        state.commit += 1;
        state.wall = Some(now);
        Self {
            state,
            now,
            keys: Vec::new(),
            passing_keys: Vec::new(),
            first: None,
            records: Vec::new(),
            dropped_to: None,
            names: None,
            wanted: None,
            tally: None,
            gaps: Gaps::default(),
            told_again: false,
            shed_key_bytes: 0,
            dirty: false,
            frame: Vec::new(),
            seal: seal.clone(),
        }
    }

    /// An event is given up: counted, by class here and by device to be told upstream.
    pub(super) fn give_up(&mut self, event: &NewEvent, class: Class, keep: Keep) {
        if let Some(count) = self.state.shed.get_mut(class as usize) {
            *count += 1;
        }
        let NewEvent {
            device,
            routes,
            received,
            ..
        } = event;
        self.gaps.add(device, class, *routes, *received, &keep);
    }

    /// Remembers the key of an event: on disk, or, of one that is given up, until the next
    /// start only where there `is_room` for no more.
    pub(super) fn remember(&mut self, key: Key, is_given_up: bool, is_room: bool) {
        if is_given_up && !is_room {
            self.passing_keys.extend_from_slice(&key.0);
            return;
        }
        if is_given_up {
            // The row that they lie in may have no other keys.
            let row = if self.keys.is_empty() { ROW_BYTES } else { 0 };
            self.shed_key_bytes += key.0.len() as u64 + row;
        }
        self.keys.extend_from_slice(&key.0);
    }

    /// Takes the staged keys out of the window again: the commit failed.
    pub(super) fn forget_keys(&self, window: &mut Window) {
        for keys in [&self.keys, &self.passing_keys] {
            let (keys, _) = keys.as_chunks::<16>();
            for key in keys {
                window.remove(Key(*key));
            }
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
        self.gaps.write(connection, self.state.commit)?;
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

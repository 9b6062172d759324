//! The part of a salvage that does without SQLite: what lies on the pages of a file
//! whose trees cannot be followed.

use std::path::Path;

use rusqlite::types::Value::{self, Blob, Integer, Null, Text};

use super::{
    Copy, INSERT_DEAD_LETTER, INSERT_EVENT, INSERT_KEYS, INSERT_QUARANTINE, INSERT_RETRY, others,
};
use crate::{
    event::Timestamp,
    record::{DESTINATIONS_MAX, DestinationId, Position, Record, Routes},
    store::{
        Error,
        carve::{self, Cell},
        frame::{self, integer},
        quarantine,
        scan::is_about_the_row,
        state::State,
    },
};

/// Columns of these tables since the last was added.
const RETRY_COLUMNS: usize = 9;
const DEAD_LETTER_COLUMNS: usize = 11;

/// Lists other than that of events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    pub(super) retries: bool,
    pub(super) dead_letters: bool,
    pub(super) quarantine: bool,
}

impl Copy<'_> {
    /// What SQLite did not find, page by page.
    ///
    /// Pages that are no longer in use hold rows that were removed. Events that
    /// were are known by their positions, and keys do no harm; of the other lists a
    /// page is believed only if SQLite found none of that list and there should be some, and
    /// of the tables of devices only where SQLite could not read all of one.
    pub(super) fn pages(&mut self, aside: &Path) -> Result<(), Error> {
        let missing = Missing {
            retries: self.salvaged.retries == 0 && self.expected.retries,
            dead_letters: self.salvaged.dead_letters == 0 && self.expected.dead_letters,
            quarantine: self.salvaged.quarantined == 0 && self.expected.quarantine,
        };
        self.fresh.execute_batch("BEGIN IMMEDIATE")?;
        let result = carve::read(aside, |cell| {
            match self.cell(cell, missing) {
                // The row is not what it seemed to be.
                Err(error) if is_about_the_row(&error) => Ok(()),
                other => other,
            }
        });
        if !self.fresh.is_autocommit() {
            self.fresh.execute_batch("COMMIT")?;
        }
        result.map_err(Error::from)
    }

    /// A row that was found on a page: its shape tells the table, its checksum the rest.
    fn cell(&mut self, mut cell: Cell, missing: Missing) -> rusqlite::Result<()> {
        if self.out_of_room {
            return Ok(());
        }
        // Rows from before the last column was added end before it.
        let ends_early = match cell.columns.first() {
            Some(Integer(_)) => cell.columns.len() == RETRY_COLUMNS - 1,
            _ => cell.columns.len() == DEAD_LETTER_COLUMNS - 1,
        };
        if ends_early {
            cell.columns.push(Null);
        }
        let number = integer(cell.row);
        let numbered = Value::Integer(cell.row);
        if let Some(record) = event(&cell) {
            self.seal.require(&record.body)?;
            cell.columns[0] = numbered;
            if self.may_be_here(&record) && self.insert(INSERT_EVENT, &cell.columns)? {
                self.count_event(&record);
            }
        } else if is_keys(&cell) {
            cell.columns[0] = numbered;
            if self.insert(INSERT_KEYS, &cell.columns)? {
                self.count_keys(number);
            }
        } else if missing.retries
            && let Some((id, record)) = retry(&cell)
        {
            self.require_record(Some(&record))?;
            if self.may_wait(id, &record) && self.insert(INSERT_RETRY, &cell.columns)? {
                self.count_retry(id);
            }
        } else if missing.dead_letters && is_dead_letter(&cell) {
            self.require_record(dead_letter(&cell).as_ref())?;
            cell.columns[0] = numbered;
            if self.insert(INSERT_DEAD_LETTER, &cell.columns)? {
                self.count_dead_letter(number);
            }
        } else if missing.quarantine
            && let Some(bytes) = quarantined(&cell)
        {
            self.require_each(&cell.columns[5..8])?;
            cell.columns[0] = numbered;
            if self.insert(INSERT_QUARANTINE, &cell.columns)? {
                self.count_quarantined(number, bytes);
            }
        } else if let Some(other) = others::of(&cell).filter(|of| self.broken.contains(of)) {
            // What was removed, or went on, since then would be back.
            if cell.is_old {
                return Ok(());
            }
            if other.is_sealed() {
                self.require_each(&cell.columns[cell.columns.len() - 1..])?;
            }
            let bytes = match cell.columns.last() {
                Some(Blob(body)) => body.len(),
                _ => 0,
            };
            if others::put(self.fresh, other, cell, |_| true)? {
                self.salvaged.others += 1;
                self.inserted(bytes)?;
            }
        }
        Ok(())
    }
}

impl Copy<'_> {
    /// The keys of values that have their checksum are there.
    fn require_each(&self, values: &[Value]) -> rusqlite::Result<()> {
        for value in values {
            match value {
                Blob(stored) => self.seal.require(stored)?,
                Text(stored) => self.seal.require_text(stored)?,
                Null | Integer(_) | Value::Real(_) => {}
            }
        }
        Ok(())
    }
}

/// A whole row of the events.
pub(in crate::store) fn event(cell: &Cell) -> Option<Record> {
    match &cell.columns[..] {
        [Null, Integer(routes), Integer(received), Blob(bytes)] => {
            record(cell.row, *routes, *received, bytes)
        }
        _ => None,
    }
}

/// Whether it is a whole row of the keys.
pub(in crate::store) fn is_keys(cell: &Cell) -> bool {
    match &cell.columns[..] {
        [
            Null,
            Integer(_),
            Integer(_),
            Integer(count),
            Integer(checksum),
            Blob(keys),
        ] => {
            let has_count = usize::try_from(*count).is_ok_and(|n| n == keys.len() / 16);
            has_count && i64::from(crc32fast::hash(keys)) == *checksum
        }
        _ => false,
    }
}

/// A whole message in quarantine; what it takes.
pub(in crate::store) fn quarantined(cell: &Cell) -> Option<u64> {
    let [
        Null,
        Integer(_),
        Text(client),
        Text(topic),
        Text(class),
        Text(reason),
        Blob(payload),
        properties,
        Integer(checksum),
    ] = &cell.columns[..]
    else {
        return None;
    };
    let properties = match properties {
        Blob(bytes) => Some(&bytes[..]),
        _ => None,
    };
    let texts: [&str; 4] = [client, topic, class, reason];
    let whole = i64::from(quarantine::checksum(&texts, payload, properties)) == *checksum;
    let texts = client.len() + topic.len() + reason.len();
    let bytes = payload.len() + properties.map_or(0, <[u8]>::len) + texts + 64;
    whole.then_some(bytes as u64)
}

/// A whole row of the retry list.
fn retry(cell: &Cell) -> Option<(DestinationId, Record)> {
    match &cell.columns[..] {
        [
            Integer(id),
            Integer(position),
            _,
            _,
            _,
            Integer(routes),
            Integer(received),
            Blob(bytes),
            _,
        ] => {
            let id = DestinationId(u8::try_from(*id).ok()?);
            Some((id, record(*position, *routes, *received, bytes)?))
        }
        _ => None,
    }
}

/// Whether it is a dead letter: whole, or kept as it was found.
fn is_dead_letter(cell: &Cell) -> bool {
    match &cell.columns[..] {
        [
            Null,
            Integer(_),
            Integer(position),
            Integer(damaged),
            _,
            _,
            _,
            Integer(routes),
            Integer(received),
            Blob(bytes),
            _,
        ] => *damaged == 1 || record(*position, *routes, *received, bytes).is_some(),
        _ => false,
    }
}

/// The record of a dead letter that is whole.
fn dead_letter(cell: &Cell) -> Option<Record> {
    match &cell.columns[..] {
        [
            _,
            _,
            Integer(position),
            _,
            _,
            _,
            _,
            Integer(routes),
            Integer(received),
            Blob(bytes),
            _,
        ] => record(*position, *routes, *received, bytes),
        _ => None,
    }
}

/// Where the journal stood, as far as a page tells; the newest of all that are found.
/// Also the names of its destinations, where they are not known.
pub(super) fn find_state(aside: &Path, names: &mut Vec<(DestinationId, String)>) -> Option<State> {
    let mut newest: Option<State> = None;
    let mut found: Vec<(DestinationId, String)> = Vec::new();
    let all = carve::read(aside, |cell| {
        match (&cell.columns[..], u8::try_from(cell.row)) {
            ([Null, Blob(body)], Ok(1)) => {
                let state = State::decode(body);
                let commit = newest.as_ref().map(|newest| newest.commit);
                if state.as_ref().map(|state| state.commit) > commit {
                    newest = state;
                }
            }
            ([Null, Text(name)], Ok(id))
                if usize::from(id) < DESTINATIONS_MAX && !found.iter().any(|f| f.0.0 == id) =>
            {
                found.push((DestinationId(id), name.clone()));
            }
            _ => {}
        }
        Ok::<_, std::convert::Infallible>(())
    });
    debug_assert!(all.is_ok(), "nothing above fails");
    if names.is_empty() {
        *names = found;
    }
    newest
}

/// A whole record.
pub(super) fn record(position: i64, routes: i64, received: i64, bytes: &[u8]) -> Option<Record> {
    frame::stored(
        Position(integer(position)),
        Routes(integer(routes)),
        Timestamp::from_nanos(received),
        bytes,
    )
}

//! What a commit changed in the ledger otherwise than by storing and delivering, by device.
//!
//! The ledger of a destination is a handful of counters, written with every commit. By
//! device that would be a row for each device and commit, so it is counted by who reads the
//! journal anyway (`query/ledger.rs`): what was stored and routed he sees, and what was
//! delivered is the rest. What ends otherwise (dead letters, what is too old or evicted,
//! damage) and what is routed later (a new destination that is given what was kept) is
//! rare or comes in bulk, and is written here, in the transaction that counts it. So is what
//! was given up, when it is told: until then it is by device in the rows of `gaps`.
//!
//! Only while somebody reads ([`Hold`](super::Hold)), and no more than [`ROWS_MAX`] and
//! [`BYTES_MAX`]: who
//! falls behind so far, or comes later, sees by the counters what he missed.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use super::{
    frame::{column, integer},
    stage,
};
use crate::{
    event::View,
    record::{DestinationId, Position, Record, Routes},
};

/// Commits whose tallies are kept, at most.
const ROWS_MAX: i64 = 1_024;
/// Bytes of tallies that are kept, about: with more, none is written.
pub(super) const BYTES_MAX: u64 = 4 << 20;

/// How an event ended that was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ending {
    /// It was too old.
    Expired,
    /// There was no room.
    Evicted,
    /// It could not be read back.
    Damaged,
    /// It was given up.
    Dead,
}

/// A record that left the journal before everybody had it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Where it was.
    pub position: u64,
    /// Its device, by its place in [`Tally::devices`].
    pub device: u32,
    /// Who it was for, one bit each.
    pub routes: u64,
    /// Who of them had not settled it.
    pub waited: u64,
}

/// A record of which only the position is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damaged {
    /// Where it was.
    pub position: u64,
    /// It was the copy that waited for another attempt; the record itself is another row.
    pub is_copy: bool,
    /// Who had not settled it, one bit each.
    pub waited: u64,
}

/// What had been counted as lost while it was on its way, and was settled after all: the
/// last `count` of a destination's records among those that left the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenBack {
    /// Whose.
    pub destination: u8,
    /// They lie after this position,
    pub after: u64,
    /// and up to this one.
    pub to: u64,
    /// How many, by what they were counted as.
    pub counts: Vec<(Ending, u64)>,
}

/// A record that a new destination was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Where it is.
    pub position: u64,
    /// To whom.
    pub destination: u8,
    /// Its device, by its place in [`Tally::devices`].
    pub device: u32,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Devices; the empty name is of those that could not be told.
    pub devices: Vec<String>,
    /// By device and destination, how many more (or fewer) ended how.
    pub endings: Vec<(u32, u8, Ending, i64)>,
    /// What left, and as what.
    pub dropped: Vec<(Ending, Dropped)>,
    /// What was damaged.
    pub damaged: Vec<Damaged>,
    /// What was settled after all.
    pub taken_back: Vec<TakenBack>,
    /// What was routed later.
    pub given: Vec<Given>,
    /// Devices of which was told that something was given up, and how much.
    #[serde(default)]
    pub told: Vec<(u32, u64)>,
}

/// A tally that is being written.
#[derive(Debug, Default)]
pub(super) struct Tallying {
    tally: Tally,
    bytes: u64,
    places: BTreeMap<String, u32>,
}

impl Tallying {
    fn device(&mut self, record: Option<&Record>) -> u32 {
        let view = record.and_then(|record| View::parse(&record.body).ok());
        self.place(view.map_or("", |view| view.attributes.device))
    }

    fn place(&mut self, device: &str) -> u32 {
        if let Some(place) = self.places.get(device) {
            return *place;
        }
        let place = u32::try_from(self.tally.devices.len()).unwrap_or(u32::MAX);
        self.tally.devices.push(device.to_owned());
        self.places.insert(device.to_owned(), place);
        place
    }

    /// One more of a destination's records ended so, or one fewer.
    pub(super) fn ended(
        &mut self,
        record: Option<&Record>,
        destination: DestinationId,
        ending: Ending,
        by: i64,
    ) {
        let device = self.device(record);
        self.tally.endings.push((device, destination.0, ending, by));
    }

    /// A record leaves the journal.
    pub(super) fn dropped(
        &mut self,
        position: Position,
        routes: Routes,
        waited: Routes,
        record: Option<&Record>,
        ending: Ending,
    ) {
        let dropped = Dropped {
            position: position.0,
            device: self.device(record),
            routes: routes.0,
            waited: waited.0,
        };
        self.tally.dropped.push((ending, dropped));
    }

    /// A record cannot be read.
    pub(super) fn damaged(&mut self, position: Position, waited: Routes, is_copy: bool) {
        self.tally.damaged.push(Damaged {
            position: position.0,
            is_copy,
            waited: waited.0,
        });
    }

    /// Counted as lost, and settled.
    pub(super) fn taken_back(&mut self, taken: TakenBack) {
        self.tally.taken_back.push(taken);
    }

    /// A new destination is given a record.
    pub(super) fn given(&mut self, record: &Record, destination: DestinationId) {
        let given = Given {
            position: record.position.0,
            destination: destination.0,
            device: self.device(Some(record)),
        };
        self.tally.given.push(given);
    }

    /// It is told that so much of a device was given up; of none where it is empty.
    pub(super) fn told(&mut self, device: &str, count: u64) {
        let place = self.place(device);
        self.tally.told.push((place, count));
    }

    /// Writes what there is, as part of commit `number`.
    pub(super) fn write(&mut self, connection: &Connection, number: u64) -> rusqlite::Result<()> {
        if self.tally == Tally::default() {
            return Ok(());
        }
        let mut body = Vec::new();
        if let Err(error) = ciborium::into_writer(&self.tally, &mut body) {
            // Whoever reads sees by the counters that something is missing.
            tracing::error!(%error, "a tally could not be written");
            return Ok(());
        }
        stage::cached(
            connection,
            "INSERT INTO tallies (commit_number, checksum, body) VALUES (?1, ?2, ?3)",
        )?
        .execute((column(number), crc32fast::hash(&body), &body[..]))?;
        self.bytes = body.len() as u64;
        Ok(())
    }

    /// Bytes that were written.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Bytes of the tallies that are there.
pub(super) fn bytes(connection: &Connection) -> rusqlite::Result<u64> {
    stage::cached(
        connection,
        "SELECT coalesce(sum(length(body)), 0) FROM tallies",
    )?
    .query_row([], |row| row.get(0).map(integer))
}

/// Removes tallies up to commit `to`, which whoever reads has, and those that are too
/// many; says how many of each.
pub(super) fn forget(connection: &Connection, to: u64) -> rusqlite::Result<(usize, usize)> {
    let read = stage::cached(connection, "DELETE FROM tallies WHERE commit_number <= ?1")?
        .execute([column(to)])?;
    let dropped = stage::cached(
        connection,
        "DELETE FROM tallies WHERE commit_number <= (SELECT commit_number FROM tallies
         ORDER BY commit_number DESC LIMIT 1 OFFSET ?1)",
    )?
    .execute([ROWS_MAX])?;
    Ok((read, dropped))
}

/// Tallies with the numbers of their commits, and the last commit that was looked at where
/// there are more.
pub(super) type Found = (Vec<(u64, Tally)>, Option<u64>);

/// Tallies after commit `after`, at most `count`. One that is damaged is passed.
pub(super) fn read(connection: &Connection, after: u64, count: usize) -> rusqlite::Result<Found> {
    let mut statement = connection.prepare_cached(
        "SELECT commit_number, checksum, body FROM tallies
         WHERE commit_number > ?1 ORDER BY commit_number LIMIT ?2",
    )?;
    let limit = i64::try_from(count).unwrap_or(i64::MAX).saturating_add(1);
    let mut rows = statement.query((column(after), limit))?;
    let (mut tallies, mut seen, mut last) = (Vec::new(), 0, after);
    while let Some(row) = rows.next()? {
        if seen == count {
            return Ok((tallies, Some(last)));
        }
        seen += 1;
        last = integer(row.get(0)?);
        let (checksum, body) = (row.get_ref(1)?.as_i64(), row.get_ref(2)?.as_bytes());
        let (Ok(checksum), Ok(body)) = (checksum, body) else {
            continue;
        };
        if i64::from(crc32fast::hash(body)) == checksum
            && let Ok(tally) = ciborium::from_reader(body)
        {
            tallies.push((last, tally));
        }
    }
    Ok((tallies, None))
}

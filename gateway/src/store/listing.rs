//! Lists what is kept but not delivered: quarantine and dead letters. Reads
//! only, page by page, also from another process while the gateway runs.

use std::path::Path;

use bytes::Bytes;
use penstock_broker::seal::{self, Seal};
use rusqlite::{Connection, OptionalExtension, Row, types::ValueRef};

use super::{
    Error, column,
    frame::{self, column, integer},
    quarantine, reader, schema, sealed,
};
use crate::{
    event::{Key, Timestamp},
    record::{DestinationId, Position, Record, Routes},
};

/// A message in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Its number.
    pub id: u64,
    /// When the gateway received it.
    pub received: Timestamp,
    /// Who sent it.
    pub client_id: String,
    /// On which topic.
    pub topic: String,
    /// Why it could not be decoded, in a word.
    pub class: String,
    /// The same in a sentence.
    pub reason: String,
    /// The payload as received.
    pub payload: Bytes,
    /// MQTT 5 user properties and content type, as CBOR.
    pub properties: Option<Bytes>,
    /// Whether it reads back as it was written.
    pub intact: bool,
}

/// A record that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its number.
    pub id: u64,
    /// Whose.
    pub destination: DestinationId,
    /// The destination's name.
    pub destination_name: String,
    /// The record; where it is damaged, as far as it could be read.
    pub record: Record,
    /// Whether the record's checksum is wrong: it can be looked at, not redriven.
    pub damaged: bool,
    /// Attempts made.
    pub attempts: u32,
    /// When it failed first, where that is known.
    pub first: Option<Timestamp>,
    /// When it was given up.
    pub at: Timestamp,
    /// What the destination said.
    pub reason: String,
}

/// A page ends with the item that brings it to so many bytes of payload.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Reads quarantine and dead letters. Blocking.
#[derive(Debug)]
pub struct Listing {
    pub(super) connection: Connection,
    pub(super) seal: Seal,
}

impl Listing {
    /// Opens the journal of a data directory for reading.
    ///
    /// # Errors
    /// When there is no journal, it cannot be read by this version, or its key is not given.
    pub fn open(dir: &Path, seal: &Seal) -> Result<Self, Error> {
        let database = dir.join(super::DATABASE);
        sealed::check(&database, seal)?;
        Self::of_database(&database, seal)
    }

    pub(super) fn of_database(database: &Path, seal: &Seal) -> Result<Self, Error> {
        let connection = reader::open_read_only(database)?;
        seal::register(&connection, seal, sealed::JOURNAL)?;
        let seal = seal.clone();
        match schema::check_version(&connection) {
            // What can be read of a damaged one is worth listing.
            Ok(_) | Err(Error::Damaged(_)) => Ok(Self { connection, seal }),
            Err(error) => Err(error),
        }
    }

    /// The tables beside the journal's own ([`Edit`](super::Edit)), for reading.
    pub const fn tables(&self) -> &Connection {
        &self.connection
    }

    /// Messages in quarantine after number `after`: at most `count`, and no more
    /// once they have two megabytes. The last page is the empty one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn quarantine(&self, after: u64, count: usize) -> Result<Vec<Quarantined>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, received, client_id, topic, class, reason, payload, properties, checksum
             FROM quarantine WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let rows = statement.query_map((column(after), limit(count)), |row| {
            quarantined(&self.seal, row)
        })?;
        page(rows, |item| item.payload.len())
    }

    /// One message in quarantine.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn quarantined(&self, id: u64) -> Result<Option<Quarantined>, Error> {
        let after = id.saturating_sub(1);
        Ok(self
            .quarantine(after, 1)?
            .into_iter()
            .find(|item| item.id == id))
    }

    /// Dead letters after number `after`, of one destination or of all: at most
    /// `count`, and no more once they have two megabytes. The last page is the
    /// empty one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn dead_letters(
        &self,
        destination: Option<DestinationId>,
        after: u64,
        count: usize,
    ) -> Result<Vec<DeadLetter>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT d.id, d.destination, coalesce(n.name, ''), d.damaged, d.attempts, d.at,
                    d.reason, d.position, d.routes, d.received, d.frame, d.first
             FROM dead_letters d LEFT JOIN destinations n ON n.id = d.destination
             WHERE d.id > ?1 AND (?2 IS NULL OR d.destination = ?2) ORDER BY d.id LIMIT ?3",
        )?;
        let rows = statement.query_map(
            (column(after), destination.map(|d| d.0), limit(count)),
            |row| dead_letter(&self.seal, row),
        )?;
        page(rows, |letter| letter.record.body.len())
    }

    /// How many dead letters of a destination are kept.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn count_dead(&self, destination: DestinationId) -> Result<u64, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT count(*) FROM dead_letters WHERE destination = ?1")?;
        Ok(statement.query_row([destination.0], |row| row.get(0).map(integer))?)
    }

    /// One dead letter.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn dead_letter(&self, id: u64) -> Result<Option<DeadLetter>, Error> {
        let letters = self.dead_letters(None, id.saturating_sub(1), 1)?;
        Ok(letters.into_iter().find(|letter| letter.id == id))
    }

    /// The destinations that the journal knows.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn destinations(&self) -> Result<Vec<(DestinationId, String)>, Error> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT id, name FROM destinations ORDER BY id")?;
        let rows = statement.query_map([], |row| Ok((DestinationId(row.get(0)?), row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// A record that is still in the journal, by position.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn record(&self, position: Position) -> Result<Option<Record>, Error> {
        let mut statement = self.connection.prepare_cached(
            "SELECT position, routes, received, frame FROM events WHERE position = ?1",
        )?;
        let record = statement
            .query_row([column(position.0)], |row| {
                frame::from_row(&self.seal, row, 0)
            })
            .optional()?;
        Ok(record.flatten())
    }
}

fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Takes items until they have [`PAGE_BYTES`].
fn page<T>(
    rows: impl Iterator<Item = rusqlite::Result<T>>,
    bytes: impl Fn(&T) -> usize,
) -> Result<Vec<T>, Error> {
    let mut taken = 0;
    let mut items = Vec::new();
    for row in rows {
        let item = row?;
        taken += bytes(&item);
        items.push(item);
        if taken >= PAGE_BYTES {
            break;
        }
    }
    Ok(items)
}

pub(super) fn quarantined(seal: &Seal, row: &Row<'_>) -> rusqlite::Result<Quarantined> {
    let mut item = quarantined_as_it_lies(row, 0)?;
    item.intact = item.intact && quarantine::open(seal, &mut item).is_ok();
    Ok(item)
}

/// The same, not opened, of columns that begin with `first`; intact where the checksum is
/// that of what lies there.
pub(super) fn quarantined_as_it_lies(row: &Row<'_>, first: usize) -> rusqlite::Result<Quarantined> {
    let mut item = Quarantined {
        id: integer(row.get(first)?),
        received: column::instant(row, first + 1)?,
        client_id: column::text(row, first + 2)?,
        topic: column::text(row, first + 3)?,
        class: column::text(row, first + 4)?,
        reason: column::text(row, first + 5)?,
        payload: Bytes::copy_from_slice(column::bytes(row, first + 6)?),
        properties: match row.get_ref(first + 7)? {
            ValueRef::Null => None,
            _ => Some(Bytes::copy_from_slice(column::bytes(row, first + 7)?)),
        },
        intact: false,
    };
    let checksum = column::number(row, first + 8)?;
    let has_types = row.get_ref(first + 1)?.as_i64().is_ok()
        && row.get_ref(first + 7)?.as_bytes_or_null().is_ok();
    item.intact = has_types && checksum == Some(quarantine::checksum_of(&item).into());
    Ok(item)
}

fn dead_letter(seal: &Seal, row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    let destination = column::number(row, 1)?.and_then(|id| u8::try_from(id).ok());
    let record = frame::from_row(seal, row, 7)?;
    let damaged = column::number(row, 3)? != Some(0) || record.is_none() || destination.is_none();
    let record = match record {
        Some(record) => record,
        None => as_found(row)?,
    };
    Ok(DeadLetter {
        id: integer(row.get(0)?),
        // No destination has this number.
        destination: DestinationId(destination.unwrap_or(u8::MAX)),
        destination_name: column::text(row, 2)?,
        record,
        damaged,
        attempts: column::small(row, 4)?,
        first: column::number(row, 11)?.map(Timestamp::from_nanos),
        at: column::instant(row, 5)?,
        reason: sealed::reason_of(
            seal,
            column::number(row, 7)?.unwrap_or(0),
            column::text(row, 6)?,
        ),
    })
}

/// What can be read of a damaged record.
fn as_found(row: &Row<'_>) -> rusqlite::Result<Record> {
    let frame = column::bytes(row, 10)?;
    let rest = frame.get(4..).unwrap_or_default();
    let (key, body) = rest
        .split_first_chunk::<16>()
        .map_or(([0; 16], rest), |(k, b)| (*k, b));
    Ok(Record {
        position: Position(integer(column::number(row, 7)?.unwrap_or(0))),
        key: Key(key),
        received: column::instant(row, 9)?,
        routes: Routes(integer(column::number(row, 8)?.unwrap_or(0))),
        body: Bytes::copy_from_slice(body),
    })
}

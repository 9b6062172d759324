//! Frames as they lie in `broker.db`: sealed where the operator has a key. A checksum is of
//! what lies there. What is bound to a frame is the number of a message in queues, the topic
//! of a retained one, and the token of a will.

use std::{borrow::Cow, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::{Error, schema};
use crate::seal::{self, Column, NotOpened, Place, Resealed, Seal, Tally};

/// What keys are noted for.
pub(super) const DATABASE: &str = "broker.db";

/// Tables with frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Messages,
    Retained,
    Wills,
}

impl Table {
    fn place<'p>(self, row: &'p [u8]) -> Place<'p> {
        let table = match self {
            Self::Messages => "broker.messages",
            Self::Retained => "broker.retained",
            Self::Wills => "broker.wills",
        };
        Place { table, row }
    }
}

/// A frame as it is to be stored.
pub(super) fn sealed<'f>(seal: &Seal, table: Table, row: &[u8], frame: &'f [u8]) -> Cow<'f, [u8]> {
    seal.seal(table.place(row), frame)
}

/// What a stored frame says; `None` where it is damaged.
///
/// # Errors
/// When its key is not there.
pub(super) fn opened<'f>(
    seal: &Seal,
    table: Table,
    row: &[u8],
    checksum: rusqlite::Result<i64>,
    stored: &'f [u8],
) -> rusqlite::Result<Option<Cow<'f, [u8]>>> {
    if checksum != Ok(i64::from(crc32fast::hash(stored))) {
        return Ok(None);
    }
    match seal.open(table.place(row), stored) {
        Ok(frame) => Ok(Some(frame)),
        Err(NotOpened::Damaged) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the keys are there; notes the one that is new.
pub(super) fn check(connection: &Connection, seal: &Seal) -> Result<(), Error> {
    seal::check(connection, seal, DATABASE)??;
    if seal::note(connection, seal, DATABASE)? {
        let has_more: bool = connection.query_row(
            "SELECT EXISTS (SELECT 1 FROM messages) OR EXISTS (SELECT 1 FROM retained)
                 OR EXISTS (SELECT 1 FROM wills)",
            [],
            |row| row.get(0),
        )?;
        if has_more {
            tracing::warn!(
                "what broker.db had before stays as it is until `penstock encryption reseal`"
            );
        }
    }
    Ok(())
}

const COLUMNS: [Column; 3] = [
    Column {
        table: "messages",
        place: "messages",
        row: "id",
        value: "frame",
        checksum: Some("checksum"),
        has_rowid: true,
    },
    Column {
        table: "retained",
        place: "retained",
        row: "topic",
        value: "frame",
        checksum: Some("checksum"),
        has_rowid: true,
    },
    Column {
        table: "wills",
        place: "wills",
        row: "token",
        value: "frame",
        checksum: Some("checksum"),
        has_rowid: true,
    },
];

/// Brings the file in `dir` under the key that `seal` seals with, or under none, while no
/// gateway runs.
///
/// # Errors
/// When it cannot be read or written, or a key is missing.
pub fn reseal(dir: &Path, seal: &Seal) -> Result<Resealed, Error> {
    let Some(connection) = schema::open_there(dir)? else {
        return Ok(Resealed::default());
    };
    seal::check(&connection, seal, DATABASE)??;
    seal::note(&connection, seal, DATABASE)?;
    let mut done = Resealed::default();
    for column in &COLUMNS {
        done.add(seal::reseal(&connection, seal, "broker", column)?);
    }
    // What a queue has of a message is counted by what that takes, also where this was
    // interrupted before.
    connection.execute(
        "UPDATE queue SET bytes =
             (SELECT length(frame) FROM messages m WHERE m.id = queue.message)
         WHERE message IN (SELECT id FROM messages)",
        [],
    )?;
    seal::settle(&connection, seal)?;
    Ok(done)
}

/// What the values of the file in `dir` are sealed with; `None` where there is none.
///
/// # Errors
/// When it cannot be read, or a gateway has it.
pub fn tally(dir: &Path) -> Result<Option<Tally>, Error> {
    let path = dir.join(DATABASE);
    if !path.try_exists()? {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    match connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())) {
        Err(error) if schema::is_in_use(&error) => return Err(Error::InUse),
        read => read?,
    }
    seal::register(&connection, &Seal::default(), "broker")?;
    let mut tally = Tally::default();
    for column in &COLUMNS {
        seal::tally_column(&connection, column, &mut tally)?;
    }
    Ok(Some(tally))
}

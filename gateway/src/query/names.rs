//! What the numbers in route masks meant when events got them. The journal gives the
//! number of a destination that was forgotten to another one later:
//! an event from before is not for that one.

use std::{path::Path, sync::Arc};

use rusqlite::{Connection, OptionalExtension};

use super::{Error, schema};
use crate::record::{DestinationId, Position};

/// That a number meant a destination from a position on; of which one is not known
/// where it has no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    number: u8,
    since: i64,
    name: Option<String>,
}

/// All that is known, of a file that is given up; nothing where it cannot be read.
pub(super) fn rescue(dir: &Path) -> Vec<Name> {
    let read = || -> Result<Vec<Name>, Error> {
        let connection = schema::open_read_only(dir)?;
        let mut names = connection.prepare("SELECT number, since, name FROM names")?;
        let names = names.query_map([], |row| {
            Ok(Name {
                number: row.get(0)?,
                since: row.get(1)?,
                name: row.get(2)?,
            })
        })?;
        Ok(names.collect::<Result<_, _>>()?)
    };
    read().unwrap_or_default()
}

/// Notes what numbers mean now, and have meant since `began`, which is when this process
/// began, or when that they changed was seen; an empty file takes over what an earlier one knew.
pub(super) fn note(
    connection: &mut Connection,
    known: &[(DestinationId, Arc<str>)],
    began: Position,
    rescued: &[Name],
) -> Result<(), Error> {
    let transaction = connection.transaction()?;
    let position = schema::position(&transaction)?;
    let put = |number: u8, since: i64, name: Option<&str>| {
        transaction.execute(
            // What was noted for the same position, nothing was routed by.
            "INSERT OR REPLACE INTO names VALUES (?1, ?2, ?3)",
            (number, since, name),
        )
    };
    if position == Position(0) {
        for name in rescued {
            put(name.number, name.since, name.name.as_deref())?;
        }
    }
    let since = began.0.cast_signed() + 1;
    for (id, name) in known {
        let latest: Option<Option<String>> = transaction
            .query_row(
                "SELECT name FROM names WHERE number = ?1 ORDER BY since DESC LIMIT 1",
                [id.0],
                |row| row.get(0),
            )
            .optional()?;
        match latest {
            Some(latest) if latest.as_deref() == Some(&**name) => {}
            // What is between was routed while nobody looked.
            Some(_) => {
                if position < began {
                    put(id.0, position.0.cast_signed() + 1, None)?;
                }
                put(id.0, since, Some(name))?;
            }
            // In what was there before, it can have meant no other that we know of.
            None => {
                put(id.0, 0, Some(name))?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// What a number meant in the mask of the event at a position: `None` where nothing was
/// noted, and `Some(None)` where it may have been another than now.
pub(super) fn at(
    connection: &Connection,
    number: u8,
    position: Position,
) -> Result<Option<Option<String>>, Error> {
    let found = connection
        .prepare_cached(
            "SELECT name FROM names WHERE number = ?1 AND since <= ?2
             ORDER BY since DESC LIMIT 1",
        )?
        .query_row((number, position.0.cast_signed()), |row| row.get(0))
        .optional()?;
    Ok(found)
}

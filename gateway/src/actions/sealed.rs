//! What of `rules.db` may be sealed, and how it is bound to its place: an event on its way to
//! its number; what a window has counted, and the text of an alarm, to rule and device; a
//! failure to rule, position and time; a note to its alarm and time.

use std::{borrow::Cow, path::Path};

use penstock_broker::seal::{self, Column, NotOpened, Place, Resealed, Seal, Tally};
use rusqlite::Connection;

use super::{Error, schema};
use crate::aside;

/// What is bound to values of this database.
pub(super) const RULES: &str = "rules";

const BY_DEVICE: &str = "length(rule) || ':' || rule || device";
const BY_FAILURE: &str = "length(rule) || ':' || rule || position || ':' || at";

const COLUMNS: [Column; 6] = [
    column("outbox", "outbox", "id", "body"),
    column("failed", "failed", BY_FAILURE, "body"),
    column("failed", "failed.reason", BY_FAILURE, "reason"),
    column("alarms", "alarms", BY_DEVICE, "text"),
    column(
        "alarm_changes",
        "alarm_changes",
        "alarm || ':' || at",
        "note",
    ),
    Column {
        has_rowid: false,
        ..column("windows", "windows", BY_DEVICE, "window")
    },
];

const fn column(
    table: &'static str,
    place: &'static str,
    row: &'static str,
    value: &'static str,
) -> Column {
    Column {
        table,
        place,
        row,
        value,
        checksum: None,
        has_rowid: true,
    }
}

/// What an event on its way says; `None` where it is damaged. `is_checked` where all keys
/// that the file notes are known to be there.
///
/// # Errors
/// When its key is not there, and may be one.
pub(super) fn outbox<'b>(
    seal: &Seal,
    is_checked: bool,
    id: i64,
    stored: &'b [u8],
) -> rusqlite::Result<Option<Cow<'b, [u8]>>> {
    let row = id.to_string();
    let place = Place {
        table: "rules.outbox",
        row: row.as_bytes(),
    };
    match seal.open(place, stored) {
        Ok(body) => Ok(Some(body)),
        Err(NotOpened::NoKey(key)) if !is_checked => Err(NotOpened::NoKey(key).into()),
        // All keys that the file notes are there: another one is a flipped bit.
        Err(_) => Ok(None),
    }
}

/// Brings the file in `dir` under the key that `seal` seals with, or under none, while no
/// gateway runs. Blocking.
///
/// # Errors
/// When it cannot be read or written, or a key is missing.
pub fn reseal(dir: &Path, seal: &Seal) -> Result<Resealed, Error> {
    let path = dir.join(schema::FILE);
    if !path.try_exists()? {
        return Ok(Resealed::default());
    }
    aside::finish(dir, schema::FILE)?;
    let connection = schema::open_sound(&path, seal)?;
    let mut done = Resealed::default();
    for column in &COLUMNS {
        done.add(seal::reseal(&connection, seal, RULES, column)?);
    }
    connection.execute(
        "UPDATE state SET failed_bytes = (SELECT coalesce(sum(length(body)), 0) FROM failed)",
        [],
    )?;
    seal::settle(&connection, seal)?;
    Ok(done)
}

/// What the values of the file in `dir` are sealed with; `None` where there is none. Blocking.
///
/// # Errors
/// When it cannot be read.
pub fn tally(dir: &Path) -> Result<Option<Tally>, Error> {
    let Some(connection) = schema::open_unchecked(dir)? else {
        return Ok(None);
    };
    tally_of(&connection).map(Some)
}

fn tally_of(connection: &Connection) -> Result<Tally, Error> {
    seal::register(connection, &Seal::default(), RULES)?;
    let mut tally = Tally::default();
    for column in &COLUMNS {
        seal::tally(connection, column.table, column.value, &mut tally)?;
    }
    Ok(tally)
}

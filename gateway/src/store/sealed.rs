//! What of the journal may be sealed, and how it is bound to its place.
//!
//! A record is bound to its position and key, wherever its frame lies: it goes to the retry
//! list and to the dead letters with both. A message in quarantine is bound to its number, a
//! reason to the position of its record; what lies beside the journal's own tables to what
//! makes its row that one. Checksums are of what lies there, so that damage is found, and what
//! is whole salvaged, without a key.

use std::{borrow::Cow, path::Path};

use penstock_broker::seal::{self, NotOpened, Place, Seal};
use rusqlite::Connection;

use super::{Error, reader};

/// What is bound to values of the journal.
pub(super) const JOURNAL: &str = "journal";

/// The column `reason` of the retry list and of the dead letters.
const REASON: &str = "journal.reason";
const QUARANTINE: &str = "journal.quarantine";

/// A reason as it is stored.
pub(super) fn reason<'t>(seal: &Seal, position: i64, text: &'t str) -> Cow<'t, str> {
    let row = position.to_string();
    let row = row.as_bytes();
    seal.seal_text(Place { table: REASON, row }, text)
}

/// What a stored reason says; as it lies there where it is damaged: nothing hangs on it.
pub(super) fn reason_of(seal: &Seal, position: i64, stored: String) -> String {
    let row = position.to_string();
    let row = row.as_bytes();
    match seal.open_text(Place { table: REASON, row }, &stored) {
        Ok(text) => text.into_owned(),
        Err(NotOpened::Damaged | NotOpened::NoKey(_)) => stored,
    }
}

/// The row of a column of quarantine: columns are told apart, too.
pub(super) fn quarantined(id: u64, column: &str) -> Vec<u8> {
    format!("{id} {column}").into_bytes()
}

/// Where that is.
pub(super) const fn in_quarantine(row: &[u8]) -> Place<'_> {
    Place {
        table: QUARANTINE,
        row,
    }
}

/// Looks whether all keys that the journal notes are there. One that cannot be read says
/// nothing here: what it is instead is found when it is opened.
pub(super) fn check(database: &Path, seal: &Seal) -> Result<(), Error> {
    if !database.try_exists()? {
        return Ok(());
    }
    let Ok(connection) = reader::open_read_only(database) else {
        return Ok(());
    };
    match seal::check(&connection, seal, super::DATABASE) {
        Ok(checked) => Ok(checked?),
        Err(error) => {
            tracing::debug!(%error, "could not read which keys the journal needs");
            Ok(())
        }
    }
}

/// A value of a table beside the journal's own, as it is to be stored, with its checksum.
///
/// # Errors
/// When SQLite says no.
pub(crate) fn seal_body(
    tables: &Connection,
    table: &str,
    row: &str,
    body: Vec<u8>,
) -> rusqlite::Result<(u32, Vec<u8>)> {
    let stored: Vec<u8> = tables
        .prepare_cached("SELECT sealed(?1, ?2, ?3)")?
        .query_row((table, row, body), |row| row.get(0))?;
    Ok((crc32fast::hash(&stored), stored))
}

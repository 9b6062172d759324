//! `read.db`: tables, opening, beginning anew.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use super::{Error, ledger, words};
use crate::record::Position;

/// The database's name in the data directory.
pub const FILE: &str = "read.db";
/// Changed with the tables and what stands in them: what an earlier version built is built
/// anew.
const VERSION: i64 = 5;
/// The versions that are brought to this one, with all they have.
const BEFORE_PARTS: i64 = 3;
const BEFORE_LEDGER: i64 = 4;
const TABLES: &str = include_str!("read.sql");
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Where it is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Opens it for the feed; makes an empty one where there is none.
///
/// # Errors
/// [`Error::Stale`] where it is not of this version or not whole.
pub(super) fn open(dir: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path(dir))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Checkpoints are the feed's, so that it knows what is on disk for good.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch(
        "PRAGMA page_size = 4096;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = NORMAL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA cache_size = -4096;
         PRAGMA temp_store = MEMORY;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        connection.execute_batch(&format!(
            "BEGIN;
             {TABLES}
             {}
             INSERT INTO state VALUES (1, 0, 0, 0, 0, 0, 0, 0, 0);
             {}
             PRAGMA user_version = {VERSION};
             COMMIT;",
            [words::PARTS, ledger::TABLES].concat(),
            ledger::FIRST_ROWS
        ))?;
    }
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if matches!(version, BEFORE_PARTS | BEFORE_LEDGER) {
        let transaction = connection.unchecked_transaction()?;
        if version == BEFORE_PARTS {
            words::migrate(&transaction)?;
        }
        transaction.execute_batch(ledger::TABLES)?;
        transaction.execute_batch(ledger::FIRST_ROWS)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    check(&connection)?;
    let twin = Connection::open_in_memory()?;
    twin.execute_batch(TABLES)?;
    twin.execute_batch(words::PARTS)?;
    twin.execute_batch(ledger::TABLES)?;
    if names(&connection)? != names(&twin)? {
        return Err(Error::Stale("its tables are not ours"));
    }
    let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(Error::Stale("it is damaged"));
    }
    Ok(connection)
}

/// Opens it so that nothing can be written to it.
pub(super) fn open_read_only(dir: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match Connection::open_with_flags(path(dir), flags) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
            return Err(Error::Stale("it is not there yet"));
        }
        opened => opened?,
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch("PRAGMA cache_size = -2048")?;
    check(&connection)?;
    Ok(connection)
}

/// What makes up the tables, to the letter; of parts of words there may be any number.
fn names(connection: &Connection) -> rusqlite::Result<Vec<[Option<String>; 3]>> {
    connection
        .prepare(
            "SELECT type, name, sql FROM sqlite_schema
             WHERE name NOT GLOB 'event_text_[0-9]*' ORDER BY name",
        )?
        .query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]))?
        .collect()
}

fn check(connection: &Connection) -> Result<(), Error> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        return Err(Error::Stale("it is not there yet"));
    }
    if version != VERSION {
        return Err(Error::Stale("another version of penstock built it"));
    }
    Ok(())
}

/// Removes it.
pub(super) fn remove(dir: &Path) -> io::Result<()> {
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path(dir).into_os_string();
        file.push(suffix);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Up to where the projections go.
pub(super) fn position(connection: &Connection) -> Result<Position, Error> {
    let position: i64 =
        connection.query_row("SELECT position FROM state WHERE id = 1", [], |row| {
            row.get(0)
        })?;
    Ok(Position(position.cast_unsigned()))
}

/// Bytes in use without the log, and bytes that both files take.
pub(super) fn bytes(connection: &Connection, dir: &Path) -> Result<(u64, u64), Error> {
    let pages = |pragma| -> rusqlite::Result<u64> {
        let count = connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))?;
        Ok(count.cast_unsigned() * 4096)
    };
    let mut wal = path(dir).into_os_string();
    wal.push("-wal");
    let wal = fs::metadata(wal).map_or(0, |known| known.len());
    let (total, free) = (pages("page_count")?, pages("freelist_count")?);
    Ok((total.saturating_sub(free), total + wal))
}

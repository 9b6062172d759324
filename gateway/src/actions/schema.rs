//! `rules.db`: tables, opening, setting aside.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::Error;
use crate::record::Position;

/// The database's name in the data directory.
pub const FILE: &str = "rules.db";
const VERSION: i64 = 1;
const TABLES: &str = include_str!("actions.sql");
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Opens it; makes an empty one where there is none. A damaged one is set aside.
pub(super) fn open(dir: &Path) -> Result<Connection, Error> {
    match open_sound(dir) {
        Err(error) if error.means_damage() => {
            let aside = set_aside(dir)?;
            tracing::error!(%error, path = %aside.display(), "a damaged rules.db was set aside");
            open_sound(dir)
        }
        opened => opened,
    }
}

fn open_sound(dir: &Path) -> Result<Connection, Error> {
    let connection = Connection::open(path(dir))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // What the journal lets go of must be on the disk here.
    connection.execute_batch(
        "PRAGMA page_size = 4096;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA cache_size = -2048;
         PRAGMA temp_store = MEMORY;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        connection.execute_batch(&format!(
            "BEGIN;
             {TABLES}
             INSERT INTO state VALUES (1, 0, 0, 0, 0, 0, 0, 0, 0);
             PRAGMA user_version = {VERSION};
             COMMIT;"
        ))?;
    }
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version > VERSION {
        return Err(Error::Later);
    }
    let sound: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        let damage = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        return Err(rusqlite::Error::SqliteFailure(damage, Some(sound)).into());
    }
    Ok(connection)
}

/// Opens it so that nothing can be written to it; `None` where there is none.
pub(super) fn open_read_only(dir: &Path) -> Result<Option<Connection>, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match Connection::open_with_flags(path(dir), flags) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => return Ok(None),
        opened => opened?,
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok((version == VERSION).then_some(connection))
}

/// Renames it out of the way.
fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let mut n = 1_u32;
    let aside = loop {
        let aside = dir.join(format!("{FILE}.damaged-{n}"));
        if !aside.try_exists()? {
            break aside;
        }
        n += 1;
    };
    for suffix in ["-wal", "-shm", ""] {
        let with = |path: &Path| {
            let mut path = path.as_os_str().to_owned();
            path.push(suffix);
            PathBuf::from(path)
        };
        match fs::rename(with(&path(dir)), with(&aside)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(aside)
}

/// Up to where everything was acted on.
pub(super) fn position(connection: &Connection) -> Result<Position, Error> {
    let position: i64 = connection.query_row("SELECT position FROM state", [], |row| row.get(0))?;
    Ok(Position(position.cast_unsigned()))
}

/// Within a transaction: everything up to here was acted on.
pub(super) fn set_position(connection: &Connection, position: Position) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE state SET position = ?1")?
        .execute([position.0.cast_signed()])?;
    Ok(())
}

/// Milliseconds for which devices were listened to.
pub(super) fn listened(connection: &Connection) -> Result<i64, Error> {
    Ok(connection.query_row("SELECT listened FROM state", [], |row| row.get(0))?)
}

/// Notes them; they never become fewer.
pub(super) fn set_listened(connection: &Connection, listened: i64) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE state SET listened = max(listened, ?1)")?
        .execute([listened])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_set_aside_and_a_later_one_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        set_position(&open(dir.path()).unwrap(), Position(7)).unwrap();
        assert_eq!(position(&open(dir.path()).unwrap()).unwrap(), Position(7));
        open(dir.path())
            .unwrap()
            .pragma_update(None, "user_version", VERSION + 1)
            .unwrap();
        assert!(matches!(open(dir.path()), Err(Error::Later)));
        fs::write(path(dir.path()), [7; 8192]).unwrap();
        assert_eq!(position(&open(dir.path()).unwrap()).unwrap(), Position(0));
        let aside = dir.path().join("rules.db.damaged-1");
        assert_eq!(fs::read(aside).unwrap(), [7; 8192]);
    }
}

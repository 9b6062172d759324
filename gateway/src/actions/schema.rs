//! `rules.db`: tables, opening, setting aside.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use penstock_broker::seal::{self, Seal};
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Error, salvage, sealed};
use crate::{aside, record::Position};

/// The database's name in the data directory.
pub const FILE: &str = "rules.db";
const VERSION: i64 = 5;
const TABLES: &str = include_str!("actions.sql");
/// What the first version did not have.
const FROM_1: &str = "
    ALTER TABLE state ADD COLUMN handed INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE state ADD COLUMN lost INTEGER NOT NULL DEFAULT 0;
    UPDATE state SET handed = coalesce(
        (SELECT min(id) - 1 FROM outbox),
        (SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0);";
/// And the second.
const FROM_2: &str = "
    ALTER TABLE state ADD COLUMN windows_evicted INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE failed ADD COLUMN part INTEGER NOT NULL DEFAULT 0;";
/// And the third.
const FROM_3: &str = "
    ALTER TABLE state ADD COLUMN throttles INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE state ADD COLUMN held_back INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE throttles (
        rule TEXT NOT NULL,
        device TEXT NOT NULL,
        since INTEGER NOT NULL,
        until INTEGER NOT NULL,
        done INTEGER NOT NULL,
        PRIMARY KEY (rule, device)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX throttles_until ON throttles (until);
    CREATE TABLE throttled (
        rule TEXT NOT NULL PRIMARY KEY,
        devices INTEGER NOT NULL,
        held_back INTEGER NOT NULL,
        evicted INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;";
/// And the fourth.
const FROM_4: &str = "
    CREATE TABLE keys (
        key INTEGER PRIMARY KEY,
        proof BLOB NOT NULL
    ) STRICT;";
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a file that the disk cannot read is tried, and how long it is left alone in
/// between.
const ATTEMPTS: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Opens it; makes an empty one where there is none. A damaged one is set aside, and what
/// can be read of it is in the new one.
pub(super) fn open(dir: &Path, seal: &Seal) -> Result<Connection, Error> {
    aside::finish(dir, FILE)?;
    match patiently(PAUSE, || open_sound(&path(dir), seal)) {
        Err(error) if error.means_damage() => {
            let salvaged = match salvage::salvage(&path(dir), &aside::fresh(dir, FILE)?, seal) {
                // Nothing more can be had of it, and it will be no better the next time.
                Err(error) if error.means_damage() => {
                    tracing::error!(%error, "nothing can be read of a damaged rules.db");
                    salvage::nothing(&aside::fresh(dir, FILE)?, seal)?
                }
                salvaged => salvaged?,
            };
            let aside = aside::exchange(dir, FILE)?.unwrap_or_default();
            tracing::error!(
                %error, path = %aside.display(), ?salvaged,
                "a damaged rules.db was set aside; what could be read of it goes on"
            );
            open_sound(&path(dir), seal)
        }
        opened => opened,
    }
}

/// Tries again what the disk could not read: a bus that hiccups is no damage, and what is
/// set aside for it is missing afterwards. A bad sector says the same each time.
fn patiently<T>(
    pause: Duration,
    mut attempt: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    for _ in 1..ATTEMPTS {
        match attempt() {
            Err(error) if error.is_unreadable() => {
                tracing::warn!(%error, "rules.db cannot be read; it is tried again");
                std::thread::sleep(pause);
            }
            done => return done,
        }
    }
    attempt()
}

/// Opens one, and makes its tables where there are none.
pub(super) fn open_sound(path: &Path, seal: &Seal) -> Result<Connection, Error> {
    let mut connection = Connection::open(path)?;
    seal::register(&connection, seal, sealed::RULES)?;
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
             INSERT INTO state (id, position, listened, messages, failures, failures_evicted,
                 failed, failed_bytes, windows) VALUES (1, 0, 0, 0, 0, 0, 0, 0, 0);
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
    if (1..VERSION).contains(&version) {
        let transaction = connection.transaction()?;
        if version == 1 {
            transaction.execute_batch(FROM_1)?;
        }
        if version <= 2 {
            transaction.execute_batch(FROM_2)?;
        }
        if version <= 3 {
            transaction.execute_batch(FROM_3)?;
        }
        transaction.execute_batch(FROM_4)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
        transaction.commit()?;
    }
    seal::check(&connection, seal, FILE)??;
    if seal::note(&connection, seal, FILE)? && (1..).contains(&position(&connection)?.0) {
        tracing::warn!(
            "what rules.db had before stays as it is until `penstock encryption reseal`"
        );
    }
    // Read once: damage there would be found again with each page of records.
    listened(&connection)?;
    position(&connection)?;
    Ok(connection)
}

/// Opens it so that nothing can be written to it; `None` where there is none.
pub(super) fn open_read_only(dir: &Path, seal: &Seal) -> Result<Option<Connection>, Error> {
    let Some(connection) = open_unchecked(dir)? else {
        return Ok(None);
    };
    seal::register(&connection, seal, sealed::RULES)?;
    seal::check(&connection, seal, FILE)??;
    Ok(Some(connection))
}

/// The same whatever its values are sealed with.
pub(super) fn open_unchecked(dir: &Path) -> Result<Option<Connection>, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match Connection::open_with_flags(path(dir), flags) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => return Ok(None),
        opened => opened?,
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        0 => Ok(None),
        1..=VERSION => Ok(Some(connection)),
        _ => Err(Error::Later),
    }
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
        set_position(&open(dir.path(), &Seal::default()).unwrap(), Position(7)).unwrap();
        assert_eq!(
            position(&open(dir.path(), &Seal::default()).unwrap()).unwrap(),
            Position(7)
        );
        open(dir.path(), &Seal::default())
            .unwrap()
            .pragma_update(None, "user_version", VERSION + 1)
            .unwrap();
        assert!(matches!(
            open(dir.path(), &Seal::default()),
            Err(Error::Later)
        ));
        std::fs::write(path(dir.path()), [7; 8192]).unwrap();
        assert_eq!(
            position(&open(dir.path(), &Seal::default()).unwrap()).unwrap(),
            Position(0)
        );
        let aside = dir.path().join("rules.db.damaged-1");
        assert_eq!(std::fs::read(aside).unwrap(), [7; 8192]);
    }

    #[test]
    fn a_file_that_could_not_be_read_once_is_not_damaged_and_one_that_never_can_is() {
        let unreadable = || {
            let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_READ);
            Error::from(rusqlite::Error::SqliteFailure(error, None))
        };
        let tried = |fails: u32, error: &dyn Fn() -> Error| {
            let mut attempts = 0;
            let done = patiently(Duration::ZERO, || {
                attempts += 1;
                if attempts > fails {
                    Ok(())
                } else {
                    Err(error())
                }
            });
            (done.map_err(|error| error.means_damage()), attempts)
        };
        assert_eq!(tried(1, &unreadable), (Ok(()), 2));
        assert_eq!(tried(ATTEMPTS, &unreadable), (Err(true), ATTEMPTS));
        // What is damaged is so at once, and who is of a later version does not wait.
        let damaged = || {
            let error = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
            Error::from(rusqlite::Error::SqliteFailure(error, None))
        };
        assert_eq!(tried(1, &damaged), (Err(true), 1));
        assert_eq!(tried(1, &|| Error::Later), (Err(false), 1));
    }

    #[test]
    fn a_file_of_the_first_version_is_brought_to_this_one() {
        let dir = tempfile::tempdir().unwrap();
        let old = Connection::open(path(dir.path())).unwrap();
        let first = TABLES.replace(
            "windows INTEGER NOT NULL,
    -- The last of the outbox that the journal has.
    handed INTEGER NOT NULL DEFAULT 0,
    -- Events and failures that were lost with damaged files.
    lost INTEGER NOT NULL DEFAULT 0,
    -- Windows that made room for others.
    windows_evicted INTEGER NOT NULL DEFAULT 0,
    -- Rows of `throttles`.
    throttles INTEGER NOT NULL DEFAULT 0,
    -- How often a throttle held something back.
    held_back INTEGER NOT NULL DEFAULT 0",
            "windows INTEGER NOT NULL",
        );
        let without = |first: &str, from: &str, to: &str| {
            let (before, after) = first.split_once(from).unwrap();
            format!("{before}{to}{}", after.split_once(to).unwrap().1)
        };
        let first = without(&first, "-- How often a rule did", "-- One for each rule");
        let first = without(&first, "-- What may be sealed", "-- Everything up to");
        let first = first.replace(
            "body BLOB NOT NULL,
    -- What of it: 0 all, 1 the alarm, 2 the message, 3 the command, 4 the command, which
    -- waits for a clock.
    part INTEGER NOT NULL DEFAULT 0",
            "body BLOB NOT NULL",
        );
        assert!(!first.contains("DEFAULT"), "{first}");
        old.execute_batch(&first).unwrap();
        old.execute_batch(
            "INSERT INTO state VALUES (1, 7, 0, 0, 0, 0, 0, 0, 0);
             INSERT INTO outbox VALUES (5, x'00', NULL), (6, x'00', NULL);
             PRAGMA user_version = 1",
        )
        .unwrap();
        drop(old);
        assert!(
            open_read_only(dir.path(), &Seal::default())
                .unwrap()
                .is_some()
        );
        let new = open(dir.path(), &Seal::default()).unwrap();
        let handed: i64 = new
            .query_row("SELECT handed FROM state", [], |row| row.get(0))
            .unwrap();
        assert_eq!((position(&new).unwrap(), handed), (Position(7), 4));
        let columns = |of: &Connection| -> Vec<String> {
            let all =
                "SELECT m.name || '.' || c.name FROM sqlite_schema m, pragma_table_info(m.name) c
                 WHERE m.type = 'table' ORDER BY m.name, c.cid";
            let mut all = of.prepare(all).unwrap();
            let rows = all.query_map([], |row| row.get(0)).unwrap();
            rows.map(Result::unwrap).collect()
        };
        let begun = tempfile::tempdir().unwrap();
        assert_eq!(
            columns(&new),
            columns(&open(begun.path(), &Seal::default()).unwrap())
        );
    }
}

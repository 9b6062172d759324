//! Opening `broker.db`: pragmas, migrations, and what to do with a damaged file.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode};

use super::{Error, sealed};
use crate::seal::Seal;

/// The file, in the data directory.
const FILE: &str = "broker.db";
/// In order; the database's `user_version` says how many were applied.
const MIGRATIONS: [&str; 8] = [
    include_str!("migrations/1.sql"),
    include_str!("migrations/2.sql"),
    include_str!("migrations/3.sql"),
    include_str!("migrations/4.sql"),
    include_str!("migrations/5.sql"),
    include_str!("migrations/6.sql"),
    include_str!("migrations/7.sql"),
    include_str!("migrations/8.sql"),
];
const PAGE_BYTES: u64 = 4096;
/// `quick_check` may take this long; it looks through some 500 MB in that time.
const CHECK_TIME_MAX: Duration = Duration::from_secs(1);
/// The log is cut back to this after something large.
const LOG_BYTES: u64 = 16 * 1024 * 1024;

/// A database that can be used, and where a damaged one went.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) set_aside: Option<PathBuf>,
}

/// Opens the database in `dir`, or one in memory. A damaged file is set aside and
/// a fresh one begun.
pub(super) fn open(dir: Option<&Path>, bytes_max: u64, seal: &Seal) -> Result<Opened, Error> {
    let Some(dir) = dir else {
        let connection = prepare(Connection::open_in_memory()?, bytes_max)?;
        return Ok(Opened {
            connection,
            set_aside: None,
        });
    };
    fs::create_dir_all(dir)?;
    let path = dir.join(FILE);
    match try_open(&path, bytes_max, seal) {
        Ok(connection) => Ok(Opened {
            connection,
            set_aside: None,
        }),
        Err(Error::Sqlite(error)) if means_damage(&error) => {
            tracing::error!(file = %path.display(), %error, "the broker's own file is damaged");
            let aside = set_aside(&path)?;
            Ok(Opened {
                connection: try_open(&path, bytes_max, seal)?,
                set_aside: Some(aside),
            })
        }
        Err(Error::Sqlite(error)) if is_in_use(&error) => Err(Error::InUse),
        Err(error) => Err(error),
    }
}

pub(super) fn is_in_use(error: &rusqlite::Error) -> bool {
    use ErrorCode::{DatabaseBusy, DatabaseLocked};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseBusy | DatabaseLocked)
    )
}

/// Sets the file in `dir` aside, which nobody may have open, and begins another.
pub(super) fn replace(dir: &Path, bytes_max: u64, seal: &Seal) -> Result<Opened, Error> {
    let path = dir.join(FILE);
    let aside = set_aside(&path)?;
    Ok(Opened {
        connection: try_open(&path, bytes_max, seal)?,
        set_aside: Some(aside),
    })
}

fn try_open(path: &Path, bytes_max: u64, seal: &Seal) -> Result<Connection, Error> {
    let connection = prepare(Connection::open(path)?, bytes_max)?;
    // First: what is not a table of ours is not looked at below, but where one is
    // missing the rest needs no look.
    let found = tables(&connection)?;
    if !tables(&as_made()?)?.is_subset(&found) {
        return Err(Error::Sqlite(damaged(
            "a table is not as it was made".into(),
        )));
    }
    quick_check(&connection)?;
    sealed::check(&connection, seal)?;
    Ok(connection)
}

/// Opens the database in `dir` as it is, if it is there: for work on it while no gateway runs.
pub(super) fn open_there(dir: &Path) -> Result<Option<Connection>, Error> {
    let path = dir.join(FILE);
    if !path.try_exists()? {
        return Ok(None);
    }
    match prepare(Connection::open(&path)?, u64::from(u32::MAX) * PAGE_BYTES) {
        Err(Error::Sqlite(error)) if is_in_use(&error) => Err(Error::InUse),
        prepared => prepared.map(Some),
    }
}

/// Looks through the file for as long as a start may take. What it does not come to is
/// found when it is read.
fn quick_check(connection: &Connection) -> Result<(), Error> {
    let interrupt = connection.get_interrupt_handle();
    let (done, is_done) = mpsc::sync_channel::<()>(1);
    let watchdog = std::thread::Builder::new()
        .name("broker-check".into())
        .spawn(move || {
            if is_done.recv_timeout(CHECK_TIME_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
                interrupt.interrupt();
            }
        })?;
    let checked = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    drop(done);
    if watchdog.join().is_err() {
        tracing::debug!("the watchdog of the check ended badly");
    }
    match checked {
        Ok(verdict) if verdict == "ok" => Ok(()),
        Ok(verdict) => Err(Error::Sqlite(damaged(verdict))),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            tracing::debug!("broker.db is too large to be checked as a whole at the start");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Nobody else has the file open while we have it: another's read transaction would let
/// the log grow without end, and its write transaction would stop every acknowledgement.
/// It also needs no `-shm` file, for which a full disk has no room.
fn prepare(mut connection: Connection, bytes_max: u64) -> Result<Connection, Error> {
    connection.execute_batch(&format!(
        "PRAGMA page_size = {PAGE_BYTES};
         PRAGMA locking_mode = EXCLUSIVE;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 1000;
         PRAGMA journal_size_limit = {LOG_BYTES};
         PRAGMA cache_size = -8192;
         PRAGMA temp_store = MEMORY;
         PRAGMA max_page_count = {};",
        bytes_max / PAGE_BYTES
    ))?;
    connection.set_prepared_statement_cache_capacity(64);
    migrate(&mut connection)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let known = u32::try_from(MIGRATIONS.len()).expect("a handful");
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let Some(todo) = MIGRATIONS.get(found as usize..) else {
        return Err(Error::LaterVersion { found, known });
    };
    if todo.is_empty() {
        return Ok(());
    }
    let transaction = connection.transaction()?;
    for migration in todo {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

/// The tables as this version makes them. SQLite believes a flipped byte in them.
fn as_made() -> Result<Connection, Error> {
    let twin = Connection::open_in_memory()?;
    for migration in MIGRATIONS {
        twin.execute_batch(migration)?;
    }
    Ok(twin)
}

/// An operator's `ANALYZE` adds some that are not ours.
fn tables(connection: &Connection) -> rusqlite::Result<BTreeSet<[Option<String>; 4]>> {
    connection
        .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema")?
        .query_map([], |row| {
            Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
        })?
        .collect()
}

/// Renames the file and its log; where it went.
fn set_aside(path: &Path) -> Result<PathBuf, Error> {
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let log = with("-wal");
    let has_log = log.try_exists()?;
    let mut number = 1;
    let (aside, aside_log) = loop {
        let aside = with(&format!(".damaged-{number}"));
        let aside_log = with(&format!(".damaged-{number}-wal"));
        // A log without its file was renamed before a kill, and waits for it.
        if !(aside.try_exists()? || has_log && aside_log.try_exists()?) {
            break (aside, aside_log);
        }
        number += 1;
    };
    // The log first: a fresh file must never find the log of another beside it.
    if has_log {
        fs::rename(log, aside_log)?;
        sync_dir(path)?;
    }
    fs::rename(path, &aside)?;
    match fs::remove_file(with("-shm")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    sync_dir(path)?;
    Ok(aside)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

pub(super) fn means_damage(error: &rusqlite::Error) -> bool {
    use ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    )
}

/// An error that says that the file is damaged.
pub(super) fn damaged(what: String) -> rusqlite::Error {
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(code, Some(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read(path).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_fresh_file_never_finds_the_log_of_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_owned());
        // What goes wrong between the two goes wrong after the log is away.
        put("broker.db-wal", b"log 1");
        assert!(set_aside(&path).is_err());
        assert_eq!(
            files(dir.path()),
            [file("broker.db.damaged-1-wal", b"log 1")]
        );
        // The file comes to its log.
        put("broker.db", b"1");
        set_aside(&path).unwrap();
        let first = [
            file("broker.db.damaged-1", b"1"),
            file("broker.db.damaged-1-wal", b"log 1"),
        ];
        assert_eq!(files(dir.path()), first);
        // No other log takes the place of one that waits.
        fs::remove_file(dir.path().join("broker.db.damaged-1")).unwrap();
        put("broker.db", b"2");
        put("broker.db-wal", b"log 2");
        set_aside(&path).unwrap();
        let expect = [
            file("broker.db.damaged-1-wal", b"log 1"),
            file("broker.db.damaged-2", b"2"),
            file("broker.db.damaged-2-wal", b"log 2"),
        ];
        assert_eq!(files(dir.path()), expect);
    }
}

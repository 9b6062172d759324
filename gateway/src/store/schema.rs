//! Opening the database file: pragmas and migrations.

use std::{io::Read as _, path::Path, time::Duration};

use penstock_broker::seal::{self, Seal};
use rusqlite::{Connection, config::DbConfig};

use super::{Error, sealed, stage, state::State};

/// How long to wait for somebody else's lock; nobody else should write.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// In order; the database's `user_version` says how many were applied. Each changes
/// the tables: that tells a later version from a damaged number.
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

/// Opens the database for the writer; creates it where there is none.
pub(super) fn open(database: &Path, seal: &Seal) -> Result<Connection, Error> {
    let connection = Connection::open(database)?;
    seal::register(&connection, seal, sealed::JOURNAL)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Checkpoints are ours, also at the end.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.execute_batch(
        "PRAGMA page_size = 4096;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA cache_size = -8192;
         PRAGMA temp_store = MEMORY;",
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Looks at the first bytes of the file, which SQLite believes: one that is flipped
/// can make it read-only, or another format. Where there is none yet, all is well.
/// Not while the database is open: closing a file takes SQLite's locks away.
pub(super) fn check_header(database: &Path) -> Result<(), Error> {
    let mut header = Vec::new();
    std::fs::File::open(database)?
        .take(100)
        .read_to_end(&mut header)?;
    let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| header[at + n]));
    let is_ours = || {
        header.len() == 100
            && header.starts_with(b"SQLite format 3\0")
            && header[16..18] == [0x10, 0x00]
            && header[18] == header[19]
            && matches!(header[18], 1 | 2)
            && header[20..24] == [0, 64, 32, 32]
            // Nothing, as long as the tables are in the log only.
            && matches!((number(44), number(56)), (0, 0) | (4, 1))
            && [52, 64, 68].iter().all(|at| number(*at) == 0)
            && header[72..92].iter().all(|byte| *byte == 0)
    };
    if header.is_empty() || is_ours() {
        Ok(())
    } else {
        Err(Error::Damaged(
            "the beginning of the file is not ours".into(),
        ))
    }
}

/// Brings the database to this version; says from which version, if it changed.
pub(super) fn migrate(connection: &mut Connection) -> Result<Option<u32>, Error> {
    let from = check_version(connection)?;
    let todo = MIGRATIONS.get(from as usize..).unwrap_or_default();
    if todo.is_empty() {
        return Ok(None);
    }
    let transaction = connection.transaction()?;
    for migration in todo {
        transaction.execute_batch(migration)?;
    }
    if from == 0 {
        // A journal always says where it stands; one that does not is damaged.
        stage::write_state(&transaction, &State::default(), &mut Vec::new())?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()?;
    Ok(Some(from))
}

/// The version that this build writes.
#[expect(clippy::cast_possible_truncation, reason = "a handful")]
pub(super) const VERSION: u32 = MIGRATIONS.len() as u32;

/// No later version has a number as much higher as this.
const LATER_MAX: u32 = 1_000;

/// The database's version, if this build can read it. One that is not what the
/// tables say is damage: a later version has other tables.
pub(super) fn check_version(connection: &Connection) -> Result<u32, Error> {
    check_for(connection, VERSION)
}

/// The same for a build that writes version `known`.
fn check_for(connection: &Connection, known: u32) -> Result<u32, Error> {
    let found = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let damaged = |what: &str| {
        Err(Error::Damaged(format!(
            "it says that its format is {found}, {what}"
        )))
    };
    for version in 1..=known {
        if found != known && version != found && is_as_made(connection, version)? {
            return damaged(&format!("and has the tables of format {version}"));
        }
    }
    if found > known.saturating_add(LATER_MAX) {
        return damaged("which no version of penstock has");
    }
    if found > known {
        return Err(Error::LaterVersion { found, known });
    }
    Ok(found)
}

/// Whether the database has the tables that its version has, to the letter. SQLite
/// believes a flipped byte in them.
pub(super) fn is_as_made(connection: &Connection, version: u32) -> Result<bool, Error> {
    let twin = Connection::open_in_memory()?;
    for migration in MIGRATIONS.iter().take(version as usize) {
        twin.execute_batch(migration)?;
    }
    Ok(tables(connection)? == tables(&twin)?)
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<[Option<String>; 4]>> {
    connection
        .prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name")?
        .query_map([], |row| {
            Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
        })?
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_version_refuses_what_a_later_one_made_and_every_version_knows_its_own() {
        for made in 1..=VERSION {
            let database = Connection::open_in_memory().expect("a database");
            for migration in &MIGRATIONS[..made as usize] {
                database.execute_batch(migration).expect("migrated");
            }
            database
                .pragma_update(None, "user_version", made)
                .expect("numbered");
            for known in 1..made {
                let found = check_for(&database, known);
                assert!(
                    matches!(found, Err(Error::LaterVersion { found, .. }) if found == made),
                    "a build of format {known} takes format {made}: {found:?}"
                );
            }
            assert_eq!(check_version(&database).expect("known"), made);
        }
    }

    #[test]
    fn a_build_that_cannot_read_marks_refuses_a_journal_that_may_have_them() {
        let mut database = Connection::open_in_memory().expect("a database");
        migrate(&mut database).expect("made");
        let found = check_for(&database, 1);
        assert!(
            matches!(found, Err(Error::LaterVersion { known: 1, .. })),
            "{found:?}"
        );
    }
}

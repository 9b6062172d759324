//! `rulebook.db`: versions of rules.

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags, Row};

use crate::event::Timestamp;

/// The database's name in the data directory.
pub const FILE: &str = "rulebook.db";
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Versions that are kept of one rule; the oldest leave first.
const VERSIONS_MAX: u64 = 100;
const TABLES: &str = "
    -- Each version of each rule; text is null where the rule was taken away.
    CREATE TABLE IF NOT EXISTS versions (
        rule TEXT NOT NULL,
        version INTEGER NOT NULL,
        at INTEGER NOT NULL,
        actor TEXT NOT NULL,
        text TEXT,
        PRIMARY KEY (rule, version)
    ) STRICT;";

/// A version of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// From 1.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub actor: String,
    /// The rule as JSON; none where it was taken away.
    pub text: Option<String>,
}

pub(super) fn open(dir: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(dir.join(FILE))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA cache_size = -1024;",
    )?;
    connection.execute_batch(TABLES)?;
    Ok(connection)
}

/// `None` where there is none.
pub(super) fn open_read_only(dir: &Path) -> rusqlite::Result<Option<Connection>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match Connection::open_with_flags(dir.join(FILE), flags) {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => return Ok(None),
        opened => opened?,
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // A start that was cut short has made the file, and nothing in it.
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'versions'";
    let tables: i64 = connection.query_row(tables, [], |row| row.get(0))?;
    Ok((tables > 0).then_some(connection))
}

/// The latest version of each rule.
pub(super) fn latest(connection: &Connection) -> rusqlite::Result<Vec<(Arc<str>, Version)>> {
    connection
        .prepare_cached(
            "SELECT max(version), at, actor, text, rule FROM versions GROUP BY rule ORDER BY rule",
        )?
        .query_map([], |row| Ok((row.get(4)?, of_row(row)?)))?
        .collect()
}

/// Those of a rule, the latest first.
pub(super) fn versions(connection: &Connection, rule: &str) -> rusqlite::Result<Vec<Version>> {
    connection
        .prepare_cached(
            "SELECT version, at, actor, text FROM versions WHERE rule = ?1 ORDER BY version DESC",
        )?
        .query_map([rule], of_row)?
        .collect()
}

/// The number that its next version has.
pub(super) fn next(connection: &Connection, rule: &str) -> rusqlite::Result<u64> {
    connection
        .prepare_cached("SELECT coalesce(max(version), 0) + 1 FROM versions WHERE rule = ?1")?
        .query_row([rule], |row| row.get::<_, i64>(0))
        .map(i64::cast_unsigned)
}

/// Keeps one.
pub(super) fn add(
    connection: &mut Connection,
    rule: &str,
    version: &Version,
) -> rusqlite::Result<()> {
    let number = version.number.cast_signed();
    let transaction = connection.transaction()?;
    transaction
        .prepare_cached("INSERT INTO versions VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((
            rule,
            number,
            version.at.as_nanos(),
            &version.actor,
            version.text.as_deref(),
        ))?;
    transaction
        .prepare_cached("DELETE FROM versions WHERE rule = ?1 AND version <= ?2")?
        .execute((rule, number - VERSIONS_MAX.cast_signed()))?;
    transaction.commit()
}

fn of_row(row: &Row<'_>) -> rusqlite::Result<Version> {
    Ok(Version {
        number: row.get::<_, i64>(0)?.cast_unsigned(),
        at: Timestamp::from_nanos(row.get(1)?),
        actor: row.get(2)?,
        text: row.get(3)?,
    })
}

//! `rulebook.db`: versions of rules.

use std::{path::Path, sync::Arc, time::Duration};

use rusqlite::{Connection, ErrorCode, OpenFlags, Row};

use crate::{
    aside::{is_unreadable, means_damage},
    event::Timestamp,
};

/// The database's name in the data directory.
pub const FILE: &str = "rulebook.db";
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Versions that are kept of one rule; the oldest leave first.
const VERSIONS_MAX: u64 = 100;
/// Bytes of all versions, about. Those of rules that were taken away leave first, then the
/// oldest that are not in force; those in force have a bound of their own.
const BYTES_MAX: i64 = 64 << 20;
/// What a version takes beside its texts, about.
const VERSION_BYTES: i64 = 64;
/// Versions that leave at a time.
const LEAVING: i64 = 64;
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
    open_at(&dir.join(FILE))
}

/// Opens one under another name.
pub(super) fn open_at(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
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
        // One that is there and may not be read is not gone: nothing takes its place.
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
            return match dir.join(FILE).try_exists() {
                Ok(false) => Ok(None),
                _ => Err(error),
            };
        }
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

/// What is not as it was written, if anything is; nothing where there is no file.
pub(super) fn damage(dir: &Path) -> rusqlite::Result<Option<String>> {
    let checked = || -> rusqlite::Result<Option<String>> {
        let Some(connection) = open_read_only(dir)? else {
            return Ok(None);
        };
        // The index too: it has the names once more.
        let sound: String =
            connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        latest(&connection)?;
        Ok((sound != "ok").then_some(sound))
    };
    match checked() {
        Err(error) if means_damage(&error) || is_unreadable(&error) => Ok(Some(error.to_string())),
        checked => checked,
    }
}

/// Fills an empty one, at once.
pub(super) fn fill(
    connection: &mut Connection,
    rules: &[(Arc<str>, Version)],
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for (name, version) in rules {
        insert(&transaction, name, version)?;
    }
    transaction.commit()
}

fn insert(connection: &Connection, rule: &str, version: &Version) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO versions VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((
            rule,
            version.number.cast_signed(),
            version.at.as_nanos(),
            &version.actor,
            version.text.as_deref(),
        ))?;
    Ok(())
}

/// Keeps one.
pub(super) fn add(
    connection: &mut Connection,
    rule: &str,
    version: &Version,
) -> rusqlite::Result<()> {
    add_within(connection, rule, version, BYTES_MAX)
}

fn add_within(
    connection: &mut Connection,
    rule: &str,
    version: &Version,
    bytes_max: i64,
) -> rusqlite::Result<()> {
    let number = version.number.cast_signed();
    let transaction = connection.transaction()?;
    insert(&transaction, rule, version)?;
    transaction
        .prepare_cached("DELETE FROM versions WHERE rule = ?1 AND version <= ?2")?
        .execute((rule, number - VERSIONS_MAX.cast_signed()))?;
    while bytes(&transaction)? > bytes_max && shorten(&transaction)? > 0 {}
    transaction.commit()
}

/// What all versions take.
fn bytes(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached(
            "SELECT coalesce(sum(?1 + octet_length(rule) + octet_length(actor)
                 + coalesce(octet_length(text), 0)), 0) FROM versions",
        )?
        .query_row([VERSION_BYTES], |row| row.get(0))
}

/// Takes some versions away that are not in force; says how many. In the order in which
/// they came, so that what says that a rule was taken away leaves after the rule.
fn shorten(connection: &Connection) -> rusqlite::Result<usize> {
    shorten_by(connection, LEAVING)
}

fn shorten_by(connection: &Connection, count: i64) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(
            "WITH latest AS (
                 SELECT rule, max(version) AS version, text IS NULL AS gone
                 FROM versions GROUP BY rule)
             DELETE FROM versions WHERE rowid IN (
                 SELECT v.rowid FROM versions v JOIN latest l USING (rule)
                 WHERE l.gone OR v.version < l.version
                 ORDER BY l.gone DESC, v.rowid LIMIT ?1)",
        )?
        .execute([count])
}

fn of_row(row: &Row<'_>) -> rusqlite::Result<Version> {
    Ok(Version {
        number: row.get::<_, i64>(0)?.cast_unsigned(),
        at: Timestamp::from_nanos(row.get(1)?),
        actor: row.get(2)?,
        text: row.get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_a_bound_in_bytes_and_those_of_rules_that_are_gone_leave_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = open(dir.path()).unwrap();
        let mut add = |rule: &str, number, text: Option<String>| {
            let version = Version {
                number,
                at: Timestamp::from_nanos(0),
                actor: "ann".to_owned(),
                text,
            };
            add_within(&mut connection, rule, &version, 100_000).unwrap();
        };
        let text = |n: u64| Some(format!("{n:1000}"));
        add("kept", 1, text(0));
        // Names that come and go, each with three versions, and one that changes.
        for n in 0..200 {
            add(&format!("gone-{n}"), 1, text(n));
            add(&format!("gone-{n}"), 2, text(n));
            add(&format!("gone-{n}"), 3, None);
            add("changed", n + 1, text(n));
        }
        assert!(bytes(&connection).unwrap() <= 100_000);
        let latest = latest(&connection).unwrap();
        let in_force = latest.iter().filter(|(_, version)| version.text.is_some());
        let in_force: Vec<_> = in_force.map(|(name, v)| (&**name, v.number)).collect();
        // What was taken away does not come back.
        assert_eq!(in_force, [("changed", 200), ("kept", 1)]);
        assert!(versions(&connection, "changed").unwrap().len() > 50);
    }

    #[test]
    fn versions_leave_in_the_order_in_which_they_came_and_what_is_in_force_stays() {
        let dir = tempfile::tempdir().unwrap();
        let mut connection = open(dir.path()).unwrap();
        let mut add = |rule: &str, number, text: Option<&str>| {
            let version = Version {
                number,
                // The clock says nothing of the order.
                at: Timestamp::from_nanos(1_000 - number.cast_signed()),
                actor: "ann".to_owned(),
                text: text.map(str::to_owned),
            };
            add_within(&mut connection, rule, &version, i64::MAX).unwrap();
        };
        add("b", 1, Some("x"));
        add("z", 1, Some("x"));
        add("b", 2, Some("x"));
        add("a", 1, Some("x"));
        add("z", 2, None);
        add("b", 3, Some("x"));
        add("a", 2, Some("x"));
        let left = |connection: &Connection| -> Vec<(String, i64)> {
            let mut all = connection
                .prepare("SELECT rule, version FROM versions ORDER BY rowid")
                .unwrap();
            let rows = all.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
            rows.unwrap().map(Result::unwrap).collect()
        };
        let before = left(&connection);
        let mut order = Vec::new();
        loop {
            let known = left(&connection);
            let gone = shorten_by(&connection, 1).unwrap();
            if gone == 0 {
                break;
            }
            let now = left(&connection);
            order.extend(known.into_iter().filter(|one| !now.contains(one)));
        }
        let named = |all: &[(&str, i64)]| -> Vec<(String, i64)> {
            all.iter()
                .map(|(rule, n)| ((*rule).to_owned(), *n))
                .collect()
        };
        assert_eq!(before.len(), 7);
        // A rule that was taken away goes first, and that it was after the rule itself.
        let expect = [("z", 1), ("z", 2), ("b", 1), ("b", 2), ("a", 1)];
        assert_eq!(order, named(&expect));
        assert_eq!(left(&connection), named(&[("b", 3), ("a", 2)]));
    }
}

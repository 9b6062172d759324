//! What can be read of a damaged `rules.db`: events that rules made and the journal does
//! not have yet, what could not be done, alarms, windows and throttles. What is missing of
//! the first two is counted as lost; alarms, windows and throttles that are missing begin
//! anew.

use std::path::Path;

use bytes::Bytes;
use penstock_broker::seal::{self, Seal};
use rusqlite::{
    Connection, Row,
    types::{ToSqlOutput, Value},
};

use super::{Error, schema, sealed};
use crate::{
    event::Event,
    store::{carve, is_about_the_row, open_as_evidence, scan},
};

/// Rows of one transaction.
const CHUNK_ROWS: u64 = 2_000;

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Salvaged {
    /// Events on their way into the journal.
    pub(super) outbox: u64,
    /// What could not be done.
    pub(super) failed: u64,
    /// Alarms.
    pub(super) alarms: u64,
    /// What windows have counted.
    pub(super) windows: u64,
    /// Events and failures that are known to be missing.
    pub(super) lost: u64,
}

/// Of the row of `state`: position, listened, messages, failures, failures_evicted, failed.
type State = [i64; 6];

/// Fills a fresh database from a damaged one, and closes it.
pub(super) fn salvage(damaged: &Path, fresh: &Path, seal: &Seal) -> Result<Salvaged, Error> {
    let to = schema::open_sound(fresh, seal)?;
    // Which of them the damaged file needed is not known for certain.
    seal::note_all(&to, seal, schema::FILE)?;
    let mut salvaged = Salvaged::default();
    let mut is_readable = false;
    if let Ok(old) = open_as_evidence(damaged) {
        is_readable = fill(&old, &to, seal, &mut salvaged)?;
    }
    // Not beside another connection: closing a file takes SQLite's locks away.
    if !is_readable {
        salvaged.outbox += pages(damaged, &to, seal)?;
        tracing::error!("how much of a damaged rules.db is lost cannot be told");
    }
    to.close().map_err(|(_, error)| error)?;
    Ok(salvaged)
}

/// A fresh database where nothing can be read of the damaged one, which knows that something
/// is missing: how much nobody can tell.
pub(super) fn nothing(fresh: &Path, seal: &Seal) -> Result<Salvaged, Error> {
    let to = schema::open_sound(fresh, seal)?;
    to.execute("UPDATE state SET lost = 1", [])?;
    to.close().map_err(|(_, error)| error)?;
    Ok(Salvaged {
        lost: 1,
        ..Salvaged::default()
    })
}

/// By way of SQLite, which can pass over damaged pages; false where it cannot read how
/// much there should be.
fn fill(
    old: &Connection,
    to: &Connection,
    seal: &Seal,
    salvaged: &mut Salvaged,
) -> Result<bool, Error> {
    let number = |sql: &str| -> Option<i64> { old.query_row(sql, [], |row| row.get(0)).ok() };
    let state = old.query_row(
        "SELECT position, listened, messages, failures, failures_evicted, failed FROM state",
        [],
        |row| {
            let mut state = State::default();
            for (at, value) in state.iter_mut().enumerate() {
                *value = row.get(at)?;
            }
            Ok(state)
        },
    );
    let state = state.ok();
    let handed = number("SELECT handed FROM state");
    let last = number("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'");
    let before = number("SELECT lost FROM state").unwrap_or_default();
    let is_checked = matches!(seal::check(old, seal, schema::FILE), Ok(Ok(())));
    let mut ids: Option<(i64, i64)> = None;
    salvaged.outbox = table(old, to, "outbox", "id, body, rule", |row| {
        let id = row.get(0)?;
        let is_whole = is_event((seal, is_checked), id, row.get_ref(1)?.as_blob()?)?;
        if is_whole {
            let (first, last) = ids.unwrap_or((id, id));
            ids = Some((first.min(id), last.max(id)));
        }
        Ok(is_whole)
    })?;
    let mut failed = "id, rule, position, device, at, reason, body, part";
    if old.prepare("SELECT part FROM failed").is_err() {
        // Earlier versions did not note it.
        failed = "id, rule, position, device, at, reason, body";
    }
    salvaged.failed = table(old, to, "failed", failed, |_| Ok(true))?;
    let alarms = "id, rule, device, site, state, severity, text, raised, events, raised_at,
                  last_at, changed_at";
    salvaged.alarms = table(old, to, "alarms", alarms, |_| Ok(true))?;
    let changes = "id, alarm, state, at, actor, note, event";
    table(old, to, "alarm_changes", changes, |_| Ok(true))?;
    let windows = "rule, device, window, due, due_listened";
    salvaged.windows = both_ends(old, to, "windows", windows)?;
    throttles(old, to)?;
    // Of those that wait: after the last that the journal has, up to the last ever made.
    let (first_found, last_found) = ids.unwrap_or_default();
    let is_known = state.is_some() && (last.is_some() || handed == Some(0));
    let last = last.unwrap_or(last_found).max(last_found);
    let handed = handed.unwrap_or_else(|| first_found.saturating_sub(1));
    let missing = |expected: i64, found: u64| {
        u64::try_from(expected).map_or(0, |expected| expected.saturating_sub(found))
    };
    salvaged.lost = missing(last.saturating_sub(handed), salvaged.outbox)
        + state.map_or(0, |state| missing(state[5], salvaged.failed));
    let lost = i64::try_from(salvaged.lost).unwrap_or(i64::MAX);
    let [position, listened, messages, failures, evicted, _] = state.unwrap_or_default();
    to.execute(
        "UPDATE state SET position = ?1, listened = ?2, messages = ?3, failures = ?4,
             failures_evicted = ?5, handed = ?6, lost = ?7,
             failed = (SELECT count(*) FROM failed),
             failed_bytes = (SELECT coalesce(sum(length(body)), 0) FROM failed),
             windows = (SELECT count(*) FROM windows),
             throttles = (SELECT count(*) FROM throttles), held_back = ?8",
        (
            position,
            listened,
            messages,
            failures,
            evicted,
            handed,
            before.saturating_add(lost),
            number("SELECT held_back FROM state").unwrap_or_default(),
        ),
    )?;
    // Numbers go on, so that nothing has another's.
    let renumbered = to.execute(
        "UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = 'outbox'",
        [last],
    )?;
    if renumbered == 0 {
        to.execute("INSERT INTO sqlite_sequence VALUES ('outbox', ?1)", [last])?;
    }
    Ok(is_known)
}

/// Whether this is an event that rules made, as it lies there.
fn is_event((seal, is_checked): (&Seal, bool), id: i64, stored: &[u8]) -> rusqlite::Result<bool> {
    let body = sealed::outbox(seal, is_checked, id, stored)?;
    let body = body.map(|body| Bytes::from(body.into_owned()));
    Ok(body.is_some_and(|body| Event::from_cbor(&body).is_ok()))
}

/// Events on their way that SQLite did not find, page by page. Some may be on pages that
/// are no longer in use: the journal has those, and knows them by their keys.
fn pages(damaged: &Path, to: &Connection, seal: &Seal) -> Result<u64, Error> {
    let transaction = to.unchecked_transaction()?;
    let mut copied = 0;
    carve::read(damaged, |cell| {
        let [
            Value::Null,
            Value::Blob(body),
            rule @ (Value::Null | Value::Text(_)),
        ] = &cell.columns[..]
        else {
            return Ok(());
        };
        if is_event((seal, false), cell.row, body)? {
            let insert = "INSERT OR IGNORE INTO outbox (id, body, rule) VALUES (?1, ?2, ?3)";
            let mut insert = to.prepare_cached(insert)?;
            copied += insert.execute((cell.row, body, rule))? as u64;
        }
        Ok::<_, rusqlite::Error>(())
    })?;
    transaction.commit()?;
    Ok(copied)
}

/// Copies the rows of a table with a number that are whole; says how many.
fn table(
    old: &Connection,
    to: &Connection,
    table: &str,
    columns: &str,
    mut is_whole: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>,
) -> Result<u64, Error> {
    let count = columns.split(',').count();
    let places: Vec<String> = (1..=count).map(|n| format!("?{n}")).collect();
    let insert = format!(
        "INSERT OR IGNORE INTO {table} ({columns}) VALUES ({})",
        places.join(", ")
    );
    let select = format!("SELECT {columns} FROM {table} WHERE id >= ?1");
    let mut copied = 0;
    let mut transaction = Some(to.unchecked_transaction()?);
    scan(old, &select, |row| {
        if !is_whole(row)? {
            return Ok(false);
        }
        copied += copy_row(to, &insert, row, count)?;
        if copied % CHUNK_ROWS == 0
            && let Some(full) = transaction.take()
        {
            full.commit()?;
            transaction = Some(to.unchecked_transaction()?);
        }
        Ok(true)
    })?;
    if let Some(rest) = transaction {
        rest.commit()?;
    }
    Ok(copied)
}

/// Copies the rows of a table that has no numbers, by rule and device: those before the first
/// damaged page, and those after the last. Says how many.
fn both_ends(old: &Connection, to: &Connection, table: &str, columns: &str) -> Result<u64, Error> {
    let count = columns.split(',').count();
    let places: Vec<String> = (1..=count).map(|n| format!("?{n}")).collect();
    let places = places.join(", ");
    let insert = format!("INSERT OR IGNORE INTO {table} ({columns}) VALUES ({places})");
    let transaction = to.unchecked_transaction()?;
    let mut copied = 0;
    for order in ["", "DESC"] {
        let select = format!("SELECT {columns} FROM {table} ORDER BY rule {order}, device {order}");
        let Ok(mut statement) = old.prepare(&select) else {
            break;
        };
        let mut rows = statement.query([])?;
        let is_whole = loop {
            match rows.next() {
                Ok(Some(row)) => match copy_row(to, &insert, row, count) {
                    Err(error) if is_about_the_row(&error) => {
                        tracing::warn!(%error, table, "one of a rule and a device begins anew");
                    }
                    done => copied += done?,
                },
                Ok(None) => break true,
                Err(error) => {
                    tracing::warn!(%error, table, "those that cannot be read begin anew");
                    break false;
                }
            }
        };
        if is_whole {
            break;
        }
    }
    transaction.commit()?;
    Ok(copied)
}

/// What is missing of throttles begins anew, at worst by letting something through.
fn throttles(old: &Connection, to: &Connection) -> Result<(), Error> {
    both_ends(old, to, "throttles", "rule, device, since, until, done")?;
    let transaction = to.unchecked_transaction()?;
    transaction.execute_batch(
        "INSERT INTO throttled SELECT rule, count(*), 0, 0 FROM throttles GROUP BY rule",
    )?;
    let held_back = "SELECT rule, held_back, evicted FROM throttled";
    if let Ok(mut statement) = old.prepare(held_back) {
        let mut rows = statement.query([])?;
        while let Ok(Some(row)) = rows.next() {
            let counts = (
                row.get::<_, String>(0),
                row.get::<_, i64>(1),
                row.get::<_, i64>(2),
            );
            if let (Ok(rule), Ok(held_back), Ok(evicted)) = counts {
                transaction.execute(
                    "INSERT INTO throttled VALUES (?1, 0, ?2, ?3)
                     ON CONFLICT (rule) DO UPDATE SET held_back = ?2, evicted = ?3",
                    (rule, held_back, evicted),
                )?;
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

/// Inserts the first columns of a row as they are; says whether it was not there yet.
fn copy_row(to: &Connection, sql: &str, row: &Row<'_>, columns: usize) -> rusqlite::Result<u64> {
    let mut insert = to.prepare_cached(sql)?;
    for at in 0..columns {
        insert.raw_bind_parameter(at + 1, ToSqlOutput::Borrowed(row.get_ref(at)?))?;
    }
    Ok(insert.raw_execute()? as u64)
}

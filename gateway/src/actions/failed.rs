//! What a rule could not do for an event: kept with that event, so that it can be tried
//! again.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::Error;
use crate::{event::Timestamp, record::Position};

/// Failures that are kept, and what their events take, at most. The oldest leave first.
const FAILED_MAX: i64 = 10_000;
const FAILED_BYTES_MAX: i64 = 32 << 20;
/// Bytes of a reason.
const REASON_BYTES_MAX: usize = 1_024;

/// What a rule could not do for an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its number.
    pub id: u64,
    /// The rule.
    pub rule: Arc<str>,
    /// The event's place in the journal; 0 for one that the rule made and that has none.
    pub position: Position,
    /// Whose event it is.
    pub device: Arc<str>,
    /// When it was tried.
    pub at: Timestamp,
    /// Why it could not be done.
    pub reason: String,
    /// The event as the journal had it.
    pub body: Bytes,
}

/// What of a rule could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    All,
    /// The alarm.
    Alarm,
    /// The message to local subscribers.
    Message,
    /// The command to a device.
    Command,
    /// The same, which waits for a clock: that has not failed yet.
    Untimed,
}

impl Part {
    const fn of(number: i64) -> Self {
        match number {
            1 => Self::Alarm,
            2 => Self::Message,
            3 => Self::Command,
            4 => Self::Untimed,
            _ => Self::All,
        }
    }
}

/// The event for which something could not be done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Of<'o> {
    pub(super) position: Position,
    pub(super) device: &'o str,
    pub(super) body: &'o [u8],
    /// What of the rule.
    pub(super) part: Part,
}

/// Keeps one, within a transaction.
pub(super) fn add(
    connection: &Connection,
    rule: &str,
    of: Of<'_>,
    at: Timestamp,
    reason: &str,
) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT INTO failed (rule, position, device, at, reason, body, part)
             VALUES (?1, ?2, ?3, ?4,
                 sealed('failed.reason', length(?1) || ':' || ?1 || ?2 || ':' || ?4, ?5),
                 sealed('failed', length(?1) || ':' || ?1 || ?2 || ':' || ?4, ?6), ?7)",
        )?
        .execute((
            rule,
            of.position.0.cast_signed(),
            of.device,
            at.as_nanos(),
            shortened(reason),
            of.body,
            of.part as i64,
        ))?;
    connection
        .prepare_cached(
            // As it lies there: what leaves is counted so.
            "UPDATE state SET failures = failures + ?1, failed = failed + 1,
                 failed_bytes = failed_bytes
                     + (SELECT length(body) FROM failed WHERE id = last_insert_rowid())",
        )?
        .execute([i64::from(of.part != Part::Untimed)])?;
    while is_too_much(connection)? {
        let oldest = connection
            .prepare_cached("SELECT min(id) FROM failed")?
            .query_row([], |row| row.get::<_, i64>(0))?;
        // What waits for a clock fails when it leaves.
        if part(connection, oldest.cast_unsigned())? == Part::Untimed {
            count_failure(connection)?;
        }
        remove(connection, oldest.cast_unsigned())?;
        connection
            .prepare_cached("UPDATE state SET failures_evicted = failures_evicted + 1")?
            .execute([])?;
    }
    Ok(())
}

fn count_failure(connection: &Connection) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE state SET failures = failures + 1")?
        .execute([])?;
    Ok(())
}

/// What waited for a clock has failed now, within a transaction.
pub(super) fn fails(connection: &Connection, id: u64, reason: &str) -> Result<(), Error> {
    connection
        .prepare_cached(
            "UPDATE failed SET part = ?2, reason = sealed('failed.reason',
                 length(rule) || ':' || rule || position || ':' || at, ?3) WHERE id = ?1",
        )?
        .execute((id.cast_signed(), Part::Command as i64, shortened(reason)))?;
    count_failure(connection)
}

/// Some of those that wait for a clock, the oldest first.
pub(super) fn untimed(connection: &Connection, count: usize) -> Result<Vec<Failed>, Error> {
    let found = connection
        .prepare_cached(
            "SELECT id, rule, position, device, at,
                 coalesce(opened('failed.reason',
                     length(rule) || ':' || rule || position || ':' || at, NULL, reason), ''),
                 coalesce(opened('failed',
                     length(rule) || ':' || rule || position || ':' || at, NULL, body), x'')
             FROM failed WHERE part = ?1 ORDER BY id LIMIT ?2",
        )?
        .query_map(
            (
                Part::Untimed as i64,
                i64::try_from(count).unwrap_or(i64::MAX),
            ),
            of_row,
        )?
        .collect::<rusqlite::Result<_>>()?;
    Ok(found)
}

fn shortened(reason: &str) -> &str {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

fn is_too_much(connection: &Connection) -> Result<bool, Error> {
    let (count, bytes): (i64, i64) = connection
        .prepare_cached("SELECT failed, failed_bytes FROM state")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    // One alone may be larger.
    Ok(count > FAILED_MAX || (count > 1 && bytes > FAILED_BYTES_MAX))
}

/// Takes one away, within a transaction; false where there is none.
pub(super) fn remove(connection: &Connection, id: u64) -> Result<bool, Error> {
    let bytes: Option<i64> = connection
        .prepare_cached("DELETE FROM failed WHERE id = ?1 RETURNING length(body)")?
        .query_row([id.cast_signed()], |row| row.get(0))
        .optional()?;
    let Some(bytes) = bytes else {
        return Ok(false);
    };
    connection
        .prepare_cached("UPDATE state SET failed = failed - 1, failed_bytes = failed_bytes - ?1")?
        .execute([bytes])?;
    Ok(true)
}

/// What of one of them could not be done.
pub(super) fn part(connection: &Connection, id: u64) -> Result<Part, Error> {
    let part = connection
        .prepare_cached("SELECT part FROM failed WHERE id = ?1")?
        .query_row([id.cast_signed()], |row| row.get(0))
        .optional()?;
    Ok(Part::of(part.unwrap_or_default()))
}

/// One of them.
pub(super) fn find(connection: &Connection, id: u64) -> Result<Option<Failed>, Error> {
    let found = connection
        .prepare_cached(
            "SELECT id, rule, position, device, at,
                 coalesce(opened('failed.reason',
                     length(rule) || ':' || rule || position || ':' || at, NULL, reason), ''),
                 coalesce(opened('failed',
                     length(rule) || ':' || rule || position || ':' || at, NULL, body), x'')
             FROM failed WHERE id = ?1",
        )?
        .query_row([id.cast_signed()], of_row)
        .optional()?;
    Ok(found)
}

/// Bytes of names and reasons in one answer, about.
const LISTED_BYTES_MAX: usize = 1 << 20;

/// Those after `after`, of one rule or of all, without their events: at most `count`, and
/// where the next of them begin, if there are more.
pub(super) fn list(
    connection: &Connection,
    rule: Option<&str>,
    after: u64,
    count: usize,
) -> Result<(Vec<Failed>, Option<u64>), Error> {
    let mut statement = connection.prepare_cached(
        "SELECT id, rule, position, device, at,
             coalesce(opened('failed.reason',
                 length(rule) || ':' || rule || position || ':' || at, NULL, reason), ''), x''
         FROM failed
         WHERE id > ?1 AND (?2 IS NULL OR rule = ?2) ORDER BY id",
    )?;
    let mut rows = statement.query((after.cast_signed(), rule))?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        if found.len() >= count.max(1) || bytes >= LISTED_BYTES_MAX {
            let last = found.last().map_or(after, |last: &Failed| last.id);
            return Ok((found, Some(last)));
        }
        let failed = of_row(row)?;
        bytes += failed.rule.len() + failed.device.len() + failed.reason.len();
        found.push(failed);
    }
    Ok((found, None))
}

fn of_row(row: &Row<'_>) -> rusqlite::Result<Failed> {
    Ok(Failed {
        id: row.get::<_, i64>(0)?.cast_unsigned(),
        rule: row.get(1)?,
        position: Position(row.get::<_, i64>(2)?.cast_unsigned()),
        device: row.get(3)?,
        at: Timestamp::from_nanos(row.get(4)?),
        reason: row.get(5)?,
        body: row.get::<_, Vec<u8>>(6)?.into(),
    })
}

//! What leaves the journal, in chunks small enough that no commit stalls:
//! what everybody has settled (trimmed; at once, or after a while where it is kept to be
//! made again), what is too old (expired), and, with
//! `drop-oldest`, what there is no room for (evicted). The last two are counted
//! for each destination that had not settled them, and move its cursor.
//!
//! What the rules send nowhere is left standing when what lies around it is trimmed.
//! It expires like everything else, and is evicted before room is short for others:
//! nobody waits for it.
//!
//! Age is wall time since a record was received, or since the last step of the
//! wall clock for what was stored before it (see `step`).

use rusqlite::Connection;

use super::{
    column::number,
    frame::{self, column},
    stage::{self, Stage},
    state::Standing,
    tally::Ending,
};
use crate::{
    event::Timestamp,
    record::{Position, Routes},
};

/// Rows that leave with one commit, about. More makes commits slow.
pub(super) const CHUNK_ROWS: u64 = 2_000;
/// Bytes of records that leave with one commit, about: each page that is freed is read.
pub(super) const CHUNK_BYTES: u64 = 4 * 1024 * 1024;
/// Lists of keys that leave with one commit; each holds up to about 1,000 keys.
const CHUNK_COMMITS: u64 = 100;

/// Why undelivered records leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Age,
    Room,
}

impl Cause {
    const fn ending(self) -> Ending {
        match self {
            Self::Age => Ending::Expired,
            Self::Room => Ending::Evicted,
        }
    }
}

/// How many records could be trimmed up to `to`.
pub(super) const fn trimmable(stage: &Stage, to: Position) -> u64 {
    to.0.saturating_sub(stage.state.trimmed.0)
}

/// Removes a chunk of what everybody has settled, up to `to`, that ends with the record
/// that brings it to `bytes`; says whether one did.
pub(super) fn trim(
    connection: &Connection,
    to: Position,
    bytes: u64,
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    let from = stage.state.trimmed.0;
    let to = Position(to.0.min(from + CHUNK_ROWS));
    if to.0 <= from {
        return Ok(false);
    }
    let heavy = chunk(connection, Position(from), to, bytes)?.filter(|chunk| chunk.is_heavy);
    trim_to(
        connection,
        heavy.as_ref().map_or(to, |chunk| chunk.last),
        stage,
    )?;
    Ok(heavy.is_some())
}

/// The oldest records.
struct Chunk {
    last: Position,
    /// They have as many bytes as they may.
    is_heavy: bool,
}

/// The oldest records after `from` and up to `to`, no more than it takes to come to `bytes`.
fn chunk(
    connection: &Connection,
    from: Position,
    to: Position,
    bytes: u64,
) -> rusqlite::Result<Option<Chunk>> {
    let mut statement = stage::cached(
        connection,
        "SELECT position, length(frame) FROM events WHERE position > ?1 AND position <= ?2
         ORDER BY position LIMIT ?3",
    )?;
    let mut rows = statement.query((column(from.0), column(to.0), column(CHUNK_ROWS)))?;
    let (mut chunk, mut sum) = (None, 0);
    while let Some(row) = rows.next()? {
        sum += number(row, 1)?.map_or(0, super::frame::integer);
        let is_heavy = sum >= bytes;
        let last = Position(super::frame::integer(row.get(0)?));
        chunk = Some(Chunk { last, is_heavy });
        if is_heavy {
            break;
        }
    }
    Ok(chunk)
}

/// Removes a chunk of what lies up to `to` and whose age counts from before `before`; says whether more may follow.
pub(super) fn trim_before(
    connection: &Connection,
    before: Timestamp,
    to: Position,
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    let from = stage.state.trimmed;
    let (last, more) = older(connection, before, from, to, stage)?;
    if let Some(last) = last {
        trim_to(connection, last, stage)?;
    }
    Ok(more)
}

/// Removes a chunk of the oldest records, settled or not, of `bytes`, about; says whether
/// there was any.
pub(super) fn evict(
    connection: &Connection,
    bytes: u64,
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    evict_to(connection, stage.state.position, bytes, stage)
}

/// Removes a chunk of what is held for nobody, of `bytes`, about; says whether there was
/// any. What came after the oldest record that somebody waits for goes when that has gone.
pub(super) fn evict_held(
    connection: &Connection,
    bytes: u64,
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    // A new destination may have been given what was held, or be about to.
    let to = stage.state.trimmed.min(stage.state.settled_to());
    Ok(stage.state.held() > 0 && evict_to(connection, to, bytes, stage)?)
}

fn evict_to(
    connection: &Connection,
    to: Position,
    bytes: u64,
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    let Some(Chunk { last, .. }) = chunk(connection, Position(0), to, bytes)? else {
        return Ok(false);
    };
    drop_to(connection, last, Cause::Room, stage)?;
    Ok(true)
}

/// Removes a chunk of records whose age counts from before `before`; says whether more may follow.
pub(super) fn expire(
    connection: &Connection,
    before: Timestamp,
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    expire_retries(connection, before, stage)?;
    let end = stage.state.position;
    let (last, more) = older(connection, before, Position(0), end, stage)?;
    let Some(last) = last else { return Ok(false) };
    drop_to(connection, last, Cause::Age, stage)?;
    Ok(more)
}

/// The last of a chunk of records after `from` and up to `to` whose age counts from before
/// `before`, and whether there may be more of them.
fn older(
    connection: &Connection,
    before: Timestamp,
    from: Position,
    to: Position,
    stage: &Stage,
) -> rusqlite::Result<(Option<Position>, bool)> {
    let step = stage.state.step;
    let mut last = None;
    let (mut count, mut bytes) = (0, 0);
    let mut statement = stage::cached(
        connection,
        "SELECT position, received, length(frame) FROM events WHERE position > ?1 AND position <= ?3
         ORDER BY position LIMIT ?2",
    )?;
    let mut rows = statement.query((column(from.0), column(CHUNK_ROWS), column(to.0)))?;
    while let Some(row) = rows.next()? {
        // One that does not tell its age is as old as what surrounds it.
        let Some(received) = number(row, 1)?.map(Timestamp::from_nanos) else {
            continue;
        };
        let position = Position(super::frame::integer(row.get(0)?));
        if step.received(position, received) >= before {
            break;
        }
        last = Some(position);
        count += 1;
        bytes += number(row, 2)?.map_or(0, super::frame::integer);
        if bytes >= CHUNK_BYTES {
            break;
        }
    }
    Ok((last, count == CHUNK_ROWS || bytes >= CHUNK_BYTES))
}

fn expire_retries(
    connection: &Connection,
    before: Timestamp,
    stage: &mut Stage,
) -> rusqlite::Result<()> {
    let step = stage.state.step;
    for at in 0..stage.state.destinations.len() {
        if stage.state.destinations[at].retrying == 0 {
            continue;
        }
        let id = stage.state.destinations[at].id;
        let mut statement = stage::cached(
            connection,
            "DELETE FROM retry WHERE destination = ?1
             AND CASE WHEN position <= ?3 THEN ?4 ELSE received END < ?2
             RETURNING position, routes, received, frame",
        )?;
        let mut rows = statement.query((
            id.0,
            before.as_nanos(),
            column(step.position.0),
            step.at.as_nanos(),
        ))?;
        let mut removed = 0;
        while let Some(row) = rows.next()? {
            removed += 1;
            if let Some(tally) = &mut stage.tally {
                let record = frame::from_row(&stage.seal, row, 0)?;
                tally.ended(record.as_ref(), id, Ending::Expired, 1);
            }
        }
        let d = &mut stage.state.destinations[at];
        d.retrying = d.retrying.saturating_sub(removed);
        d.expired += removed;
        stage.dirty |= removed > 0;
    }
    Ok(())
}

/// Removes everything up to `to`, counted for those who had not settled it.
fn drop_to(
    connection: &Connection,
    to: Position,
    cause: Cause,
    stage: &mut Stage,
) -> rusqlite::Result<()> {
    let mut statement = stage::cached(
        connection,
        "SELECT position, routes, received, frame FROM events WHERE position <= ?1",
    )?;
    let mut rows = statement.query([column(to.0)])?;
    while let Some(row) = rows.next()? {
        let position = Position(super::frame::integer(row.get(0)?));
        // Who wanted one that does not tell is not known: everybody missed it.
        let known = number(row, 1)?.map(|routes| Routes(super::frame::integer(routes)));
        let routes = known.unwrap_or(Routes(u64::MAX));
        let mut waited = Routes::NONE;
        for d in &mut stage.state.destinations {
            if d.waits_for(position, routes) && d.backlog() > d.retrying {
                count(d, position, cause);
                waited = waited.with(d.id);
            }
        }
        if let Some(tally) = &mut stage.tally {
            let record = frame::from_row(&stage.seal, row, 0)?;
            let routes = known.unwrap_or(waited);
            tally.dropped(position, routes, waited, record.as_ref(), cause.ending());
        }
    }
    for d in &mut stage.state.destinations {
        d.cursor = d.cursor.max(to);
    }
    stage.dropped_to = Some(to);
    remove_to(connection, to, stage)
}

fn count(d: &mut Standing, position: Position, cause: Cause) {
    d.overtaken.to = d.overtaken.to.max(position);
    match cause {
        Cause::Age => {
            d.expired += 1;
            d.overtaken.expired += 1;
        }
        Cause::Room => {
            d.evicted += 1;
            d.overtaken.evicted += 1;
        }
    }
}

/// Removes what everybody has settled up to `to`. The bit of what is held for nobody is
/// the sign of the column.
fn trim_to(connection: &Connection, to: Position, stage: &mut Stage) -> rusqlite::Result<()> {
    let removed = stage::cached(
        connection,
        "DELETE FROM events WHERE position > ?1 AND position <= ?2 AND coalesce(routes, 0) >= 0",
    )?
    .execute((column(stage.state.trimmed.0), column(to.0)))?;
    removed_to(removed, to, stage);
    Ok(())
}

fn remove_to(connection: &Connection, to: Position, stage: &mut Stage) -> rusqlite::Result<()> {
    let removed = stage::cached(connection, "DELETE FROM events WHERE position <= ?1")?
        .execute([column(to.0)])?;
    removed_to(removed, to, stage);
    Ok(())
}

fn removed_to(removed: usize, to: Position, stage: &mut Stage) {
    stage.state.buffered = stage.state.buffered.saturating_sub(removed as u64);
    stage.state.trimmed = stage.state.trimmed.max(to);
    stage.dirty = true;
}

/// Removes a chunk of the keys that the window has forgotten; says whether more may follow.
pub(super) fn forget_commits(
    connection: &Connection,
    to: u64,
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    let removed = stage::cached(
        connection,
        "DELETE FROM commits WHERE sequence <= (SELECT max(sequence) FROM
         (SELECT sequence FROM commits WHERE sequence <= ?1 ORDER BY sequence LIMIT ?2))",
    )?
    .execute((column(to), column(CHUNK_COMMITS)))?;
    stage.dirty |= removed > 0;
    Ok(removed as u64 == CHUNK_COMMITS)
}

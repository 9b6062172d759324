//! Records that were given up, kept with the reason.

use rusqlite::{Connection, OptionalExtension};

use super::{
    column,
    frame::{self, column, integer},
    progress::{Dead, Retry},
    sealed, settle,
    stage::{self, Stage},
    state::Standing,
    tally::Ending,
};
use crate::{
    event::Timestamp,
    record::{DestinationId, Position, Routes},
};

/// Keeps a copy of a record that will not be tried again.
pub(super) fn insert(
    connection: &Connection,
    destination: DestinationId,
    dead: &Dead,
    stage: &mut Stage,
) -> rusqlite::Result<()> {
    frame::write_record(&mut stage.frame, &stage.seal, &dead.record);
    stage.state.dead_letter_last += 1;
    stage.state.dead_letters += 1;
    stage::cached(
        connection,
        "INSERT INTO dead_letters
         (id, destination, position, damaged, attempts, at, reason, routes, received, frame, first)
         VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute((
        column(stage.state.dead_letter_last),
        destination.0,
        column(dead.record.position.0),
        dead.attempts,
        stage.now.as_nanos(),
        sealed::reason(
            &stage.seal,
            column(dead.record.position.0),
            stage::reason(&dead.reason),
        ),
        column(dead.record.routes.0),
        dead.record.received.as_nanos(),
        &stage.frame[..],
        dead.first.map(Timestamp::as_nanos),
    ))?;
    Ok(())
}

/// Puts dead letters back to be tried again; says how many.
pub(super) fn redrive(
    connection: &Connection,
    ids: &[u64],
    stage: &mut Stage,
) -> rusqlite::Result<u64> {
    let mut redriven = 0;
    for id in ids {
        let found = stage::cached(
            connection,
            "SELECT destination, position, routes, received, frame
             FROM dead_letters WHERE id = ?1 AND damaged = 0",
        )?
        .query_row([column(*id)], |row| {
            let record = frame::from_row(&stage.seal, row, 1)?;
            Ok((column::number(row, 0)?, record))
        })
        .optional()?;
        // Where the columns do not fit together it is damaged, whatever it says.
        let Some((Some(destination), Some(record))) = found else {
            continue;
        };
        let Ok(destination) = u8::try_from(destination).map(DestinationId) else {
            continue;
        };
        let Some(d) = stage.state.destination_mut(destination) else {
            continue;
        };
        if d.dead == 0 || !record.routes.contains(destination) {
            continue;
        }
        d.dead -= 1;
        d.retrying += 1;
        if let Some(tally) = &mut stage.tally {
            tally.ended(Some(&record), destination, Ending::Dead, -1);
        }
        let (not_before, reason) = (stage.now, "redriven".to_owned());
        let retry = Retry {
            first: None,
            record,
            attempts: 0,
            not_before,
            reason,
        };
        settle::put_retry(
            connection,
            destination,
            &retry,
            &stage.seal,
            &mut stage.frame,
        )?;
        remove(connection, *id, stage)?;
        redriven += 1;
    }
    Ok(redriven)
}

/// Removes dead letters; says how many.
pub(super) fn discard(
    connection: &Connection,
    ids: &[u64],
    stage: &mut Stage,
) -> rusqlite::Result<u64> {
    let mut discarded = 0;
    for id in ids {
        discarded += u64::from(remove(connection, *id, stage)?);
    }
    Ok(discarded)
}

fn remove(connection: &Connection, id: u64, stage: &mut Stage) -> rusqlite::Result<bool> {
    let removed = stage::cached(connection, "DELETE FROM dead_letters WHERE id = ?1")?
        .execute([column(id)])?;
    if removed > 0 {
        stage.state.dead_letters = stage.state.dead_letters.saturating_sub(1);
        stage.dirty = true;
    }
    Ok(removed > 0)
}

/// Takes a damaged record out of the way: counted for every destination that
/// had not passed it, and kept as it was found.
pub(super) fn set_damaged_aside(
    connection: &Connection,
    position: Position,
    stage: &mut Stage,
) -> rusqlite::Result<()> {
    let row = stage::cached(
        connection,
        "SELECT position, routes, received, frame FROM events WHERE position = ?1",
    )?
    .query_row([column(position.0)], |row| {
        let record = frame::from_row(&stage.seal, row, 0)?;
        Ok((record, column::number(row, 1)?))
    })
    .optional()?;
    if let Some((None, routes)) = row {
        // Where nobody can tell who wanted it, all who still wait for anything did.
        let routes = Routes(routes.map_or(u64::MAX, integer));
        let (mut kept_for, mut waited) = (None, Routes::NONE);
        for d in &mut stage.state.destinations {
            if d.waits_for(position, routes) && d.backlog() > d.retrying {
                d.damaged += 1;
                d.overtaken.damaged += 1;
                d.overtaken.to = d.overtaken.to.max(position);
                kept_for.get_or_insert(d.id);
                waited = waited.with(d.id);
            }
        }
        if let Some(tally) = &mut stage.tally {
            tally.damaged(position, waited, false);
        }
        if let Some(destination) = kept_for {
            keep_damaged(
                connection,
                "SELECT ?1, ?2, position, 1, 0, ?3, ?4, coalesce(CAST(routes AS INTEGER), 0),
                 coalesce(CAST(received AS INTEGER), 0), coalesce(CAST(frame AS BLOB), x'')
                 FROM events WHERE position = ?5",
                destination,
                position,
                None,
                stage,
            )?;
        }
        stage::cached(connection, "DELETE FROM events WHERE position = ?1")?
            .execute([column(position.0)])?;
        stage.state.buffered = stage.state.buffered.saturating_sub(1);
        stage.dirty = true;
        tracing::error!(%position, "a damaged record was set aside as a dead letter");
    }
    Ok(())
}

/// The same for a row of the retry list.
pub(super) fn set_damaged_retry_aside(
    connection: &Connection,
    row: i64,
    stage: &mut Stage,
) -> rusqlite::Result<()> {
    let found = stage::cached(
        connection,
        "SELECT destination, position, routes, received, frame FROM retry WHERE rowid = ?1",
    )?
    .query_row([row], |row| {
        let whole = frame::from_row(&stage.seal, row, 1)?.is_some();
        Ok((whole, column::number(row, 0)?, column::number(row, 1)?))
    })
    .optional()?;
    let Some((false, destination, position)) = found else {
        return Ok(());
    };
    let position = Position(position.map_or(0, integer));
    let waits = |d: &&mut Standing| Some(i64::from(d.id.0)) == destination && d.retrying > 0;
    let Some(d) = stage.state.destinations.iter_mut().find(waits) else {
        // Nobody can be told that it is missing: a fresh file is counted anew.
        return Err(damage("a retry belongs to nobody"));
    };
    d.retrying -= 1;
    d.damaged += 1;
    let destination = d.id;
    if let Some(tally) = &mut stage.tally {
        tally.damaged(position, Routes::NONE.with(destination), true);
    }
    keep_damaged(
        connection,
        "SELECT ?1, ?2, ?5, 1, coalesce(CAST(attempts AS INTEGER), 0), ?3, ?4,
         coalesce(CAST(routes AS INTEGER), 0), coalesce(CAST(received AS INTEGER), 0),
         coalesce(CAST(frame AS BLOB), x'') FROM retry WHERE rowid = ?6",
        destination,
        position,
        Some(row),
        stage,
    )?;
    stage::cached(connection, "DELETE FROM retry WHERE rowid = ?1")?.execute([row])?;
    stage.dirty = true;
    tracing::error!(%position, "a damaged record that waited was set aside as a dead letter");
    Ok(())
}

fn damage(what: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(what.to_owned()),
    )
}

fn keep_damaged(
    connection: &Connection,
    select: &str,
    destination: DestinationId,
    position: Position,
    row: Option<i64>,
    stage: &mut Stage,
) -> rusqlite::Result<()> {
    stage.state.dead_letter_last += 1;
    stage.state.dead_letters += 1;
    let insert = format!(
        "INSERT INTO dead_letters
         (id, destination, position, damaged, attempts, at, reason, routes, received, frame) {select}"
    );
    let mut statement = stage::cached(connection, &insert)?;
    statement.raw_bind_parameter(1, column(stage.state.dead_letter_last))?;
    statement.raw_bind_parameter(2, destination.0)?;
    statement.raw_bind_parameter(3, stage.now.as_nanos())?;
    let reason = sealed::reason(&stage.seal, column(position.0), "damaged");
    statement.raw_bind_parameter(4, reason)?;
    statement.raw_bind_parameter(5, column(position.0))?;
    if let Some(row) = row {
        statement.raw_bind_parameter(6, row)?;
    }
    statement.raw_execute()?;
    Ok(())
}

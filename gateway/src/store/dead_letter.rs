//! Records that were given up, kept with the reason.

use rusqlite::{Connection, OptionalExtension};

use super::{
    frame::{self, column, integer},
    progress::{Dead, Retry},
    settle,
    stage::{self, Stage},
};
use crate::record::{DestinationId, Position};

/// Keeps a copy of a record that will not be tried again.
pub(super) fn insert(
    connection: &Connection,
    destination: DestinationId,
    dead: &Dead,
    stage: &mut Stage,
) -> rusqlite::Result<()> {
    frame::write_record(&mut stage.frame, &dead.record);
    stage.state.dead_letter_last += 1;
    stage.state.dead_letters += 1;
    stage::cached(
        connection,
        "INSERT INTO dead_letters
         (id, destination, position, damaged, attempts, at, reason, routes, received, frame)
         VALUES (?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute((
        column(stage.state.dead_letter_last),
        destination.0,
        column(dead.record.position.0),
        dead.attempts,
        stage.now.as_nanos(),
        stage::reason(&dead.reason),
        column(dead.record.routes.0),
        dead.record.received.as_nanos(),
        &stage.frame[..],
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
            Ok((DestinationId(row.get(0)?), frame::from_row(row, 1)?))
        })
        .optional()?;
        let Some((destination, Some(record))) = found else {
            continue;
        };
        let Some(d) = stage.state.destination_mut(destination) else {
            continue;
        };
        d.dead -= 1;
        d.retrying += 1;
        let (not_before, reason) = (stage.now, "redriven".to_owned());
        let retry = Retry {
            record,
            attempts: 0,
            not_before,
            reason,
        };
        settle::put_retry(connection, destination, &retry, &mut stage.frame)?;
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
        stage.state.dead_letters -= 1;
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
        Ok((frame::from_row(row, 0)?, frame::number(row, 1)?))
    })
    .optional()?;
    if let Some((None, routes)) = row {
        // Where nobody can tell who wanted it, all who still wait for anything did.
        let routes = crate::record::Routes(routes.map_or(u64::MAX, integer));
        let mut kept_for = None;
        for d in &mut stage.state.destinations {
            if d.cursor < position && routes.contains(d.id) && d.backlog() > d.retrying {
                d.damaged += 1;
                d.overtaken.damaged += 1;
                d.overtaken.to = d.overtaken.to.max(position);
                kept_for.get_or_insert(d.id);
            }
        }
        if let Some(destination) = kept_for {
            keep_damaged(
                connection,
                "SELECT ?1, ?2, position, 1, 0, ?3, ?4, CAST(routes AS INTEGER),
                 CAST(received AS INTEGER), CAST(frame AS BLOB)
                 FROM events WHERE position = ?5",
                destination,
                position,
                stage,
            )?;
        }
        stage::cached(connection, "DELETE FROM events WHERE position = ?1")?
            .execute([column(position.0)])?;
        stage.state.buffered = stage.state.buffered.saturating_sub(1);
        stage.dirty = true;
        tracing::error!(%position, "a damaged record was set aside as a dead letter");
    }
    set_damaged_retries_aside(connection, position, stage)
}

fn set_damaged_retries_aside(
    connection: &Connection,
    position: Position,
    stage: &mut Stage,
) -> rusqlite::Result<()> {
    let mut found = Vec::new();
    let mut statement = stage::cached(
        connection,
        "SELECT destination, position, routes, received, frame FROM retry WHERE position = ?1",
    )?;
    let mut rows = statement.query([column(position.0)])?;
    while let Some(row) = rows.next()? {
        if frame::from_row(row, 1)?.is_none() {
            found.push(DestinationId(row.get(0)?));
        }
    }
    for destination in found {
        keep_damaged(
            connection,
            "SELECT ?1, ?2, position, 1, attempts, ?3, ?4, CAST(routes AS INTEGER),
             CAST(received AS INTEGER), CAST(frame AS BLOB)
             FROM retry WHERE position = ?5 AND destination = ?2",
            destination,
            position,
            stage,
        )?;
        stage::cached(
            connection,
            "DELETE FROM retry WHERE destination = ?1 AND position = ?2",
        )?
        .execute((destination.0, column(position.0)))?;
        if let Some(d) = stage.state.destination_mut(destination) {
            d.retrying = d.retrying.saturating_sub(1);
            d.damaged += 1;
        }
        stage.dirty = true;
        tracing::error!(%position, "a damaged record was set aside as a dead letter");
    }
    Ok(())
}

fn keep_damaged(
    connection: &Connection,
    select: &str,
    destination: DestinationId,
    position: Position,
    stage: &mut Stage,
) -> rusqlite::Result<()> {
    stage.state.dead_letter_last += 1;
    stage.state.dead_letters += 1;
    let insert = format!(
        "INSERT INTO dead_letters
         (id, destination, position, damaged, attempts, at, reason, routes, received, frame) {select}"
    );
    stage::cached(connection, &insert)?.execute((
        column(stage.state.dead_letter_last),
        destination.0,
        stage.now.as_nanos(),
        "damaged",
        column(position.0),
    ))?;
    Ok(())
}

//! Applies a destination's progress.
//!
//! The rule that keeps the ledger balanced: every routed record is counted once.
//! A record is new to the count when it lies after what the destination reported
//! before; a retried one is known by its row in `retry`. Where retention has
//! overtaken the destination, records that it had in flight were counted as
//! evicted, expired or damaged already: as many as it settled beyond those still
//! in the journal are taken back from there.

use penstock_broker::seal::Seal;
use rusqlite::Connection;

use super::{
    dead_letter,
    frame::{self, column},
    progress::{Progress, Retry},
    sealed,
    stage::{self, Stage},
    state::{Overtaken, Standing},
    tally::{Ending, TakenBack},
};
use crate::{
    event::Timestamp,
    record::{DestinationId, Position},
};

/// Applies `progress`; false when the journal does not know the destination.
pub(super) fn apply(
    connection: &Connection,
    progress: &Progress,
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    let id = progress.destination;
    let Some(at) = stage.state.destinations.iter().position(|d| d.id == id) else {
        tracing::error!(
            destination.id = id.0,
            "progress of a destination that the journal does not know"
        );
        return Ok(false);
    };
    stage.dirty = true;
    let mut d = stage.state.destinations[at].clone();
    debug_assert!(
        progress.cursor <= stage.state.position,
        "a cursor is beyond what is committed"
    );
    let cursor = progress.cursor.min(stage.state.position);
    // Records settled for the first time.
    let mut first = progress
        .delivered
        .saturating_sub(progress.retried.len() as u64);
    d.delivered += first;

    for position in &progress.retried {
        if remove_retry(connection, id, *position)? {
            d.retrying -= 1;
            d.delivered += 1;
        }
    }
    for dead in &progress.dead {
        if remove_retry(connection, id, dead.record.position)? {
            d.retrying -= 1;
        } else if dead.record.position > d.reported {
            first += 1;
        } else {
            // It expired while it waited, and is counted as that.
            continue;
        }
        d.dead += 1;
        if let Some(tally) = &mut stage.tally {
            tally.ended(Some(&dead.record), id, Ending::Dead, 1);
        }
        dead_letter::insert(connection, id, dead, stage)?;
    }
    for retry in &progress.retry {
        let is_new = retry.record.position > d.reported;
        if is_new {
            first += 1;
            d.retrying += 1;
        } else if !is_waiting(connection, id, retry.record.position)? {
            continue;
        }
        put_retry(connection, id, retry, &stage.seal, &mut stage.frame)?;
    }

    if d.overtaken.total() > 0 {
        let still_there = count_routed(connection, id, d.cursor, cursor)?;
        let counts = take_back(&mut d, first.saturating_sub(still_there));
        if let Some(tally) = stage.tally.as_mut().filter(|_| !counts.is_empty()) {
            tally.taken_back(TakenBack {
                destination: id.0,
                after: d.reported.0,
                to: d.cursor.min(cursor).0,
                counts,
            });
        }
        if cursor >= d.overtaken.to {
            d.overtaken = Overtaken::default();
        }
    }
    d.spent = progress.spent.unwrap_or(d.spent);
    d.cursor = d.cursor.max(cursor);
    d.reported = d.reported.max(cursor);
    debug_assert!(
        d.settled() + d.retrying <= d.routed,
        "more settled than routed: {d:?}"
    );
    stage.state.destinations[at] = d;
    Ok(true)
}

/// What was in flight when retention took it was settled after all: how many, by what they
/// were counted as.
fn take_back(d: &mut Standing, mut count: u64) -> Vec<(Ending, u64)> {
    let Standing {
        evicted,
        expired,
        damaged,
        overtaken,
        ..
    } = d;
    let mut counts = Vec::new();
    for (ending, total, taken) in [
        (Ending::Evicted, evicted, &mut overtaken.evicted),
        (Ending::Expired, expired, &mut overtaken.expired),
        (Ending::Damaged, damaged, &mut overtaken.damaged),
    ] {
        let back = count.min(*taken);
        *total -= back;
        *taken -= back;
        count -= back;
        if back > 0 {
            counts.push((ending, back));
        }
    }
    counts
}

fn count_routed(
    connection: &Connection,
    id: DestinationId,
    after: Position,
    to: Position,
) -> rusqlite::Result<u64> {
    let bit = column(crate::record::Routes::NONE.with(id).0);
    let count: i64 = stage::cached(
        connection,
        "SELECT count(*) FROM events WHERE position > ?1 AND position <= ?2 AND routes & ?3 != 0",
    )?
    .query_row((column(after.0), column(to.0), bit), |row| row.get(0))?;
    Ok(frame::integer(count))
}

fn is_waiting(
    connection: &Connection,
    id: DestinationId,
    position: Position,
) -> rusqlite::Result<bool> {
    stage::cached(
        connection,
        "SELECT 1 FROM retry WHERE destination = ?1 AND position = ?2",
    )?
    .exists((id.0, column(position.0)))
}

fn remove_retry(
    connection: &Connection,
    id: DestinationId,
    position: Position,
) -> rusqlite::Result<bool> {
    let mut statement = stage::cached(
        connection,
        "DELETE FROM retry WHERE destination = ?1 AND position = ?2",
    )?;
    Ok(statement.execute((id.0, column(position.0)))? > 0)
}

/// Keeps a copy of a record for another attempt, or updates it.
pub(super) fn put_retry(
    connection: &Connection,
    id: DestinationId,
    retry: &Retry,
    seal: &Seal,
    scratch: &mut Vec<u8>,
) -> rusqlite::Result<()> {
    frame::write_record(scratch, seal, &retry.record);
    stage::cached(
        connection,
        "INSERT OR REPLACE INTO retry
         (destination, position, attempts, not_before, reason, routes, received, frame, first)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute((
        id.0,
        column(retry.record.position.0),
        retry.attempts,
        retry.not_before.as_nanos(),
        sealed::reason(
            seal,
            column(retry.record.position.0),
            stage::reason(&retry.reason),
        ),
        column(retry.record.routes.0),
        retry.record.received.as_nanos(),
        &scratch[..],
        retry.first.map(Timestamp::as_nanos),
    ))?;
    Ok(())
}

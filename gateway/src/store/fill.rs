//! Gives new destinations what was stored before they were known.
//!
//! A destination that starts from what is kept has its cursor before all of it, so that
//! nothing of it leaves. Chunk by chunk the writer asks of each record whether it is for
//! that destination, and says so in its routes; what it says is counted as routed in the
//! same transaction. Numbers of destinations are given again, so a record may have the
//! bit of an earlier one: it counts for nothing until it was looked at.

use std::time::{Duration, Instant};

use penstock_broker::seal::Seal;
use rusqlite::Connection;

use super::{
    account::Name,
    frame::{self, column, integer},
    mode::{Fill, Wanted},
    stage::{self, Stage},
};
use crate::record::{Position, Record, Routes};

/// Records looked through with one commit, and their bytes, about: those that are wanted
/// are written once more.
const ROWS: usize = 500;
const BYTES: usize = 1024 * 1024;
/// Rules may take their time over records, and devices wait for this thread.
const TIME_MAX: Duration = Duration::from_millis(20);

/// Looks through a chunk for a destination that waits for it; says whether more is to do.
pub(super) fn fill(
    connection: &Connection,
    wanted: &Wanted,
    names: &[Name],
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    // Of one that is not configured nobody says what it wants: it waits until it is again.
    let is_configured = |id| names.iter().any(|name| name.id == id && name.configured);
    let filling = stage.state.destinations.iter().enumerate();
    let mut filling = filling.filter(|(_, d)| is_configured(d.id));
    let Some((at, fill)) = filling.find_map(|(at, d)| d.fill.map(|fill| (at, fill))) else {
        return Ok(false);
    };
    let id = stage.state.destinations[at].id;
    let (looked, mut next) = chunk(connection, fill, &stage.seal)?;
    let began = Instant::now();
    for mut record in looked {
        if began.elapsed() >= TIME_MAX {
            next = Some(Position(record.position.0 - 1));
            break;
        }
        let is_set = record.routes.contains(id);
        if is_set && record.position > fill.known_from {
            continue;
        }
        let wants = wanted.is(id, &record);
        stage.state.destinations[at].routed += u64::from(wants);
        if let Some(tally) = stage.tally.as_mut().filter(|_| wants) {
            tally.given(&record, id);
        }
        if wants == is_set {
            continue;
        }
        let only = Routes::NONE.with(id);
        record.routes = match wants {
            true => record.routes.union(only),
            false => record.routes.without(only),
        };
        frame::write_record(&mut stage.frame, &stage.seal, &record);
        stage::cached(
            connection,
            "UPDATE events SET routes = ?2, frame = ?3 WHERE position = ?1",
        )?
        .execute((
            column(record.position.0),
            column(record.routes.0),
            &stage.frame[..],
        ))?;
    }
    let d = &mut stage.state.destinations[at];
    d.fill = next.map(|next| Fill { next, ..fill });
    if d.fill.is_none() {
        tracing::info!(
            destination.id = id.0,
            events = d.routed,
            "a new destination has been given what was kept"
        );
    }
    stage.dirty = true;
    let mut all = stage.state.destinations.iter();
    Ok(all.any(|d| d.fill.is_some() && is_configured(d.id)))
}

/// Records of a chunk, and the last position looked at where more follow. One that is
/// damaged is passed: whoever reads it next reports it.
fn chunk(
    connection: &Connection,
    fill: Fill,
    seal: &Seal,
) -> rusqlite::Result<(Vec<Record>, Option<Position>)> {
    let mut statement = stage::cached(
        connection,
        "SELECT position, routes, received, frame FROM events
         WHERE position > ?1 AND position <= ?2 ORDER BY position",
    )?;
    let mut rows = statement.query((column(fill.next.0), column(fill.to.0)))?;
    let (mut records, mut bytes, mut seen) = (Vec::new(), 0, 0);
    while let Some(row) = rows.next()? {
        let position = Position(integer(row.get(0)?));
        if let Some(record) = frame::from_row(seal, row, 0)? {
            bytes += record.body.len();
            records.push(record);
        }
        seen += 1;
        if seen >= ROWS || bytes >= BYTES {
            return Ok((records, Some(position)));
        }
    }
    Ok((records, None))
}

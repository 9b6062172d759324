//! Copies of events that are sent again. They are there to be sent and for nothing else:
//! where delivered events are kept, copies leave all the same, as soon as the one
//! destination that each is for has settled it.

use rusqlite::Connection;

use super::{
    frame::{column, integer},
    stage::{self, Stage},
};
use crate::record::{Position, Routes};

/// Copies of a destination that leave with one commit.
const CHUNK_ROWS: u64 = 1_000;

/// Notes that the event at a position is a copy, for the destination in its routes.
pub(super) fn note(
    connection: &Connection,
    position: Position,
    routes: Routes,
    bytes: usize,
) -> rusqlite::Result<()> {
    stage::cached(
        connection,
        "INSERT OR REPLACE INTO copies (destination, position, bytes) VALUES (?1, ?2, ?3)",
    )?
    .execute((
        routes.0.trailing_zeros(),
        column(position.0),
        column(bytes as u64),
    ))?;
    Ok(())
}

/// How many copies for a destination are in the journal, about, and their bytes.
pub(crate) fn standing(connection: &Connection, destination: u8) -> rusqlite::Result<(u64, u64)> {
    let sql = "SELECT count(*), coalesce(sum(bytes), 0) FROM copies WHERE destination = ?1";
    stage::cached(connection, sql)?.query_row([destination], |row| {
        Ok((integer(row.get(0)?), integer(row.get(1)?)))
    })
}

/// Removes a chunk of the copies that their destinations have settled, as far as `may` lets
/// them; says whether more may follow.
pub(super) fn remove(
    connection: &Connection,
    stage: &mut Stage,
    may: impl Fn(Position) -> Position,
) -> rusqlite::Result<bool> {
    // Mostly there is none.
    let mut of = stage::cached(connection, "SELECT DISTINCT destination FROM copies")?;
    let of: Vec<u8> = of
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let mut more = false;
    for destination in of {
        let mut known = stage.state.destinations.iter();
        let waits = known.find(|d| d.id.0 == destination);
        let waits = waits.filter(|d| d.backlog() > d.retrying || d.fill.is_some());
        let settled = may(waits.map_or(stage.state.position, |d| d.cursor));
        let to: Option<i64> = stage::cached(
            connection,
            "SELECT max(position) FROM (SELECT position FROM copies
             WHERE destination = ?1 AND position <= ?2 ORDER BY position LIMIT ?3)",
        )?
        .query_row(
            (destination, column(settled.0), column(CHUNK_ROWS)),
            |row| row.get(0),
        )?;
        let Some(to) = to else { continue };
        let removed = stage::cached(
            connection,
            "DELETE FROM events WHERE position IN
             (SELECT position FROM copies WHERE destination = ?1 AND position <= ?2)",
        )?
        .execute((destination, to))?;
        let known = stage::cached(
            connection,
            "DELETE FROM copies WHERE destination = ?1 AND position <= ?2",
        )?
        .execute((destination, to))?;
        // Those that left with what lies around them are counted already.
        stage.state.buffered = stage.state.buffered.saturating_sub(removed as u64);
        stage.dirty = true;
        more |= known as u64 >= CHUNK_ROWS;
    }
    Ok(more)
}

//! Commits that SQLite no longer sees: damage in the middle of the write-ahead log
//! hides all that comes after it, and yet most of its pages are whole.
//!
//! Promises: events, keys and quarantined messages of commits that were promised, and
//! that lie whole in the copy of the log, are in the journal again, and so is what changed
//! of devices and commands. What destinations had settled since is not: it goes out once
//! more, under the same keys. What commands had come to may not be all there, so those
//! that seem to be queued are in doubt.

use std::path::Path;

use rusqlite::{Connection, params_from_iter, types::Value};

use super::{
    Error,
    carve::{self, Cell},
    column,
    frame::{column, integer},
    quarantine,
    salvage::{INSERT_EVENT, INSERT_KEYS, INSERT_QUARANTINE, others, pages},
    scan::is_about_the_row,
    state::{Standing, State},
};
use crate::record::{DestinationId, NOWHERE, Routes};

/// Gives back to the journal, which stands at `state`, the destinations that it does not
/// know yet: without them what they were promised would be neither sent nor counted.
pub(super) fn destinations(
    connection: &Connection,
    promised: &State,
    names: &[(DestinationId, String)],
    state: &mut State,
) -> Result<(), Error> {
    let end = state.position;
    for Standing {
        id, mode, spent, ..
    } in &promised.destinations
    {
        let named = names.iter().find(|(named, _)| named == id);
        if let Some((_, name)) = named {
            connection.execute(
                "INSERT OR IGNORE INTO destinations (id, name) VALUES (?1, ?2)",
                (id.0, name),
            )?;
        } else if *id != NOWHERE {
            continue;
        }
        if state.destinations.iter().all(|known| known.id != *id) {
            state.destinations.push(Standing {
                mode: *mode,
                spent: *spent,
                ..Standing::new(*id, end)
            });
        }
    }
    Ok(())
}

/// Puts into the journal, which stands at `state`, what `aside` has up to `promised`.
pub(super) fn recover(
    connection: &Connection,
    aside: &Path,
    promised: &State,
    state: &mut State,
) -> Result<(), Error> {
    let transaction = connection.unchecked_transaction()?;
    let mut last = Vec::new();
    for other in &others::OTHERS {
        last.push((other, other.last(&transaction)?));
    }
    carve::read(aside, |cell| {
        if let Some(other) = others::of(&cell) {
            // The file had it before the log was begun anew, and says what became of it.
            if cell.is_old {
                return Ok(());
            }
            let mut last = last.iter();
            let last = last
                .find(|(of, _)| *of == other)
                .map_or(0, |(_, last)| *last);
            let put = others::put(&transaction, other, cell, |number| number > last);
            return match put {
                Err(error) if is_about_the_row(&error) => Ok(()),
                put => put.map(drop),
            };
        }
        let Some((insert, columns)) = wanted(cell, state, promised) else {
            return Ok(());
        };
        let inserted = transaction
            .prepare_cached(insert)?
            .execute(params_from_iter(&columns));
        inserted.map(drop)
    })?;
    // Counted from what is there: a crash before the state is written changes nothing.
    let mut events = transaction.prepare("SELECT routes FROM events WHERE position > ?1")?;
    let mut rows = events.query([column(state.position.0)])?;
    while let Some(row) = rows.next()? {
        let routes = Routes(column::number(row, 0)?.map_or(0, integer));
        state.stored += 1;
        state.buffered += 1;
        for d in &mut state.destinations {
            d.routed += u64::from(routes.contains(d.id));
        }
    }
    drop(rows);
    drop(events);
    let sql = format!(
        "SELECT count(*), coalesce(sum({}), 0) FROM quarantine WHERE id > ?1",
        quarantine::COST
    );
    let (messages, bytes): (i64, i64) =
        transaction.query_row(&sql, [column(state.quarantine_last)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    state.quarantined += integer(messages);
    state.in_quarantine += integer(messages);
    state.quarantine_bytes += integer(bytes);
    transaction.commit()?;
    Ok(())
}

/// How to insert a row that is missing, and whole.
fn wanted(cell: Cell, state: &State, promised: &State) -> Option<(&'static str, Vec<Value>)> {
    let number = integer(cell.row);
    let between = |after: u64, to: u64| number > after && number <= to;
    let insert = if pages::event(&cell).is_some() {
        between(state.position.0, promised.position.0).then_some(INSERT_EVENT)
    } else if pages::is_keys(&cell) {
        between(state.commit, promised.commit).then_some(INSERT_KEYS)
    } else if pages::quarantined(&cell).is_some() {
        between(state.quarantine_last, promised.quarantine_last).then_some(INSERT_QUARANTINE)
    } else {
        None
    }?;
    let mut columns = cell.columns;
    columns[0] = Value::Integer(cell.row);
    Some((insert, columns))
}

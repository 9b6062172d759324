//! An administrator's changes.

use rusqlite::Connection;

use super::{
    account::Name,
    dead_letter,
    job::Change,
    quarantine,
    stage::{self, Stage},
};

/// Applies a change; says how many things it changed.
pub(super) fn apply(
    connection: &Connection,
    change: &Change,
    names: &[Name],
    stage: &mut Stage,
) -> rusqlite::Result<u64> {
    match change {
        Change::DiscardQuarantined(ids) => {
            let mut count = 0;
            for id in ids {
                count += u64::from(quarantine::remove(connection, *id, stage)?);
            }
            Ok(count)
        }
        Change::Redrive(ids) => dead_letter::redrive(connection, ids, stage),
        Change::DiscardDead(ids) => dead_letter::discard(connection, ids, stage),
        Change::Forget(name) => {
            match names
                .iter()
                .find(|known| known.name == *name && !known.configured)
            {
                Some(known) => forget(connection, known, stage),
                None => Ok(0),
            }
        }
    }
}

fn forget(connection: &Connection, known: &Name, stage: &mut Stage) -> rusqlite::Result<u64> {
    let id = known.id;
    stage::cached(connection, "DELETE FROM retry WHERE destination = ?1")?.execute([id.0])?;
    let dead = stage::cached(
        connection,
        "DELETE FROM dead_letters WHERE destination = ?1",
    )?
    .execute([id.0])?;
    stage::cached(connection, "DELETE FROM destinations WHERE id = ?1")?.execute([id.0])?;
    stage.state.dead_letters = stage.state.dead_letters.saturating_sub(dead as u64);
    stage.state.destinations.retain(|d| d.id != id);
    stage.forgot.push(id);
    stage.dirty = true;
    Ok(1)
}

//! An administrator's changes.

use rusqlite::Connection;

use super::{
    account::Name,
    dead_letter, gap,
    job::Change,
    numbering::{self, Configured},
    quarantine,
    stage::{self, Stage},
};
use crate::record::DestinationId;

/// Applies a change; says how many things it changed. `names` are those of the last
/// commit, `noted` those that the promises file has.
pub(super) fn apply(
    connection: &Connection,
    change: &Change,
    names: &[Name],
    noted: &[(DestinationId, String)],
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
            let mut names = stage.names.take().unwrap_or_else(|| names.to_vec());
            let found = names
                .iter()
                .position(|known| known.name == *name && !known.configured);
            let forgot = found.map(|at| names.remove(at));
            stage.names = Some(names);
            forgot.map_or(Ok(0), |known| forget(connection, &known, stage))
        }
        Change::Configure {
            names: configured,
            from_kept,
        } => {
            let known = stage.names.take().unwrap_or_else(|| names.to_vec());
            let configured = Configured {
                names: configured,
                from_kept,
            };
            let mut state = stage.state.clone();
            let Ok(names) = numbering::number(&known, configured, noted, &mut state) else {
                stage.names = Some(known);
                return Ok(0);
            };
            stage.state = state;
            stage.dirty = true;
            // What those before wanted says nothing of those that are new.
            stage.wanted = Some(None);
            numbering::insert(connection, &names, &stage.state)?;
            stage.names = Some(names);
            Ok(1)
        }
        Change::SetMode(id, mode) => {
            let Some(d) = stage.state.destination_mut(*id) else {
                return Ok(0);
            };
            d.mode = *mode;
            stage.dirty = true;
            Ok(1)
        }
        Change::Fill(wanted) => {
            stage.wanted = Some(Some(wanted.clone()));
            // What was stored meanwhile may have been routed without it.
            let end = stage.state.position;
            for fill in stage
                .state
                .destinations
                .iter_mut()
                .filter_map(|d| d.fill.as_mut())
            {
                fill.to = end;
                stage.dirty = true;
                // What is in memory has the routes from before.
                stage.dropped_to = Some(end);
            }
            Ok(1)
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
    stage::cached(connection, "DELETE FROM beginnings WHERE destination = ?1")?.execute([id.0])?;
    gap::forget(connection, id)?;
    stage.state.dead_letters = stage.state.dead_letters.saturating_sub(dead as u64);
    stage.state.destinations.retain(|d| d.id != id);
    stage.dirty = true;
    Ok(1)
}

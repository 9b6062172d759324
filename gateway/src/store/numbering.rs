//! Which number each destination has.

use std::sync::Arc;

use rusqlite::Connection;

use super::{
    Error,
    account::Name,
    frame::column,
    gap,
    mode::Fill,
    stage,
    state::{Standing, State},
};
use crate::record::{DESTINATIONS_MAX, DestinationId, NOWHERE, Position, is_own};

/// What the configuration says of destinations.
#[derive(Debug, Clone, Copy)]
pub(super) struct Configured<'a> {
    pub(super) names: &'a [Arc<str>],
    /// Those of them that begin with what is kept, where they are new.
    pub(super) from_kept: &'a [Arc<str>],
}

/// Gives every destination its number. One that is new starts at the end, or with what
/// is kept. `noted` are the names that the promises file has: a number that stands for
/// another name there is not given again before the file says so too, because the next
/// start would take that for damage.
///
/// A destination of the gateway's own does without, where none is left: a journal of an
/// earlier version may have given all of them.
pub(super) fn number(
    known: &[Name],
    configured: Configured<'_>,
    noted: &[(DestinationId, String)],
    state: &mut State,
) -> Result<Vec<Name>, Error> {
    let mut names: Vec<Name> = known.to_vec();
    for name in &mut names {
        name.configured = configured.names.contains(&name.name);
    }
    let mut from_kept = Vec::new();
    for name in configured.names {
        if names.iter().any(|known| known.name == *name) {
            continue;
        }
        let taken = |id: &u8| names.iter().any(|known| known.id.0 == *id);
        let another = |id: &u8| noted.iter().any(|(n, of)| n.0 == *id && **of != **name);
        let mut free = (0_u8..).take(DESTINATIONS_MAX).filter(|id| !taken(id));
        let Some(id) = free.find(|id| !another(id)) else {
            if is_own(name) {
                continue;
            }
            return Err(Error::TooManyDestinations);
        };
        names.push(Name {
            id: DestinationId(id),
            name: name.clone(),
            configured: true,
        });
        if configured.from_kept.contains(name) {
            from_kept.push(DestinationId(id));
        }
    }
    names.sort_by_key(|name| name.id);
    let end = state.position;
    state
        .destinations
        .retain(|d| d.id == NOWHERE || names.iter().any(|name| name.id == d.id));
    for id in names.iter().map(|name| name.id).chain([NOWHERE]) {
        if !state.destinations.iter().any(|d| d.id == id) {
            let standing = match from_kept.contains(&id) && end > Position(0) {
                true => from_the_beginning(id, end),
                false => Standing::new(id, end),
            };
            state.destinations.push(standing);
        }
    }
    state.destinations.sort_by_key(|d| d.id);
    Ok(names)
}

/// Forgets destinations that are not configured and have nothing any more, where there are
/// not enough numbers for those that are. Says whether there were any: their numbers are
/// free when the promises file says so, too.
pub(super) fn retire(
    connection: &Connection,
    configured: &[Arc<str>],
    state: &mut State,
) -> Result<bool, Error> {
    let known = known(connection)?;
    let is_known = |name: &&Arc<str>| known.iter().any(|known| known.name == **name);
    let new = configured.len() - configured.iter().filter(is_known).count();
    if known.len() + new <= DESTINATIONS_MAX {
        return Ok(false);
    }
    let mut retired = false;
    for name in &known {
        let dead = "SELECT EXISTS (SELECT 1 FROM dead_letters WHERE destination = ?1)";
        let has_dead: bool = connection.query_row(dead, [name.id.0], |row| row.get(0))?;
        let mut all = state.destinations.iter();
        let has_work =
            all.any(|d| d.id == name.id && (d.backlog() > 0 || d.retrying > 0 || d.fill.is_some()));
        if has_dead || has_work || configured.contains(&name.name) {
            continue;
        }
        connection.execute("DELETE FROM destinations WHERE id = ?1", [name.id.0])?;
        connection.execute("DELETE FROM beginnings WHERE destination = ?1", [name.id.0])?;
        gap::forget(connection, name.id)?;
        state.destinations.retain(|d| d.id != name.id);
        tracing::warn!(
            destination = &*name.name,
            "there are no numbers left for destinations: this one is not configured and has \
             nothing any more, and is forgotten with its counts"
        );
        retired = true;
    }
    Ok(retired)
}

/// The names that the database has.
pub(super) fn known(connection: &Connection) -> Result<Vec<Name>, Error> {
    let mut statement = connection.prepare("SELECT id, name FROM destinations ORDER BY id")?;
    let known = statement.query_map([], |row| {
        Ok(Name {
            id: DestinationId(row.get(0)?),
            name: Arc::<str>::from(row.get::<_, String>(1)?),
            configured: false,
        })
    })?;
    Ok(known.collect::<Result<_, _>>()?)
}

/// A destination that gets what is kept, too.
fn from_the_beginning(id: DestinationId, end: Position) -> Standing {
    Standing {
        fill: Some(Fill {
            next: Position(0),
            to: end,
            known_from: end,
        }),
        ..Standing::new(id, Position(0))
    }
}

/// Keeps the names in the database, and where those that are new begin, as part of the
/// commit after which the journal stands at `state`.
pub(super) fn insert(
    connection: &Connection,
    names: &[Name],
    state: &State,
) -> rusqlite::Result<()> {
    for name in names {
        let new = stage::cached(
            connection,
            "INSERT OR IGNORE INTO destinations (id, name) VALUES (?1, ?2)",
        )?
        .execute((name.id.0, &*name.name))?;
        if new > 0 {
            let mut all = state.destinations.iter();
            let is_filled = all.any(|d| d.id == name.id && d.fill.is_some());
            stage::cached(
                connection,
                "INSERT OR REPLACE INTO beginnings (destination, commit_number, position, kept)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute((
                name.id.0,
                column(state.commit),
                column(state.position.0),
                is_filled,
            ))?;
        }
    }
    Ok(())
}

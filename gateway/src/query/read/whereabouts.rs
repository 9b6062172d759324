//! Where an event is: in the journal, delivered, waiting, given up.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use super::{
    Reader, instant,
    shown::{FateShown, Whereabouts},
};
use crate::{
    event::{Key, View},
    query::{Error, names},
    record::{DestinationId, NOWHERE, Position, Routes},
    store::{Fate, Listing, Standing},
};

/// Events of one key that are shown; there is more than one where it was forgotten, and
/// where it was corrected.
const EVENTS_MAX: i64 = 20;

/// Which event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// That of this idempotency key.
    Key(Key),
    /// That at this position.
    Position(Position),
}

impl Which {
    /// A key in 32 hexadecimal digits, or a position.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() == 32
            && let Ok(key) = u128::from_str_radix(text, 16)
        {
            return Ok(Self::Key(Key(key.to_be_bytes())));
        }
        match text.parse() {
            Ok(position) => Ok(Self::Position(Position(position))),
            Err(_) => Err(Error::Asked(format!(
                "{text:?} is neither an eventkey (32 hexadecimal digits) nor a position"
            ))),
        }
    }
}

/// What is known of an event.
struct Known {
    position: Position,
    routes: Routes,
    /// Those of them that were given it after it was stored.
    given: Routes,
    received: i64,
    key: String,
    body: Vec<u8>,
}

impl Reader {
    /// Where an event is now. What the journal still has is found before the read side
    /// has come to it; a key, only after that.
    ///
    /// # Errors
    /// When a database cannot be read.
    pub fn whereabouts(&mut self, which: Which) -> Result<Value, Error> {
        self.answer(|context| {
            context.journal.listing(|listing| {
                let mut items = Vec::new();
                for known in known(context.connection, listing, which)? {
                    items.push(item(context.connection, listing, &known)?);
                }
                Ok((items, None))
            })
        })
    }
}

fn known(connection: &Connection, listing: &Listing, which: Which) -> Result<Vec<Known>, Error> {
    let by = match which {
        Which::Key(_) => "key",
        Which::Position(_) => "position",
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT position, routes | coalesce(mask, 0), received, key, body, coalesce(mask, 0)
         FROM events LEFT JOIN given USING (position)
         WHERE {by} = ?1 ORDER BY position DESC LIMIT ?2"
    ))?;
    let read = |row: &rusqlite::Row<'_>| {
        let key: Vec<u8> = row.get(3)?;
        Ok(Known {
            position: Position(row.get::<_, i64>(0)?.cast_unsigned()),
            routes: Routes(row.get::<_, i64>(1)?.cast_unsigned()),
            received: row.get(2)?,
            key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
            body: row.get(4)?,
            given: Routes(row.get::<_, i64>(5)?.cast_unsigned()),
        })
    };
    let found = match which {
        Which::Key(key) => statement.query_map(params![&key.0[..], EVENTS_MAX], read)?,
        Which::Position(position) => {
            statement.query_map(params![position.0.cast_signed(), EVENTS_MAX], read)?
        }
    };
    let found: Vec<Known> = found.collect::<Result<_, _>>()?;
    if let (true, Which::Position(position)) = (found.is_empty(), which)
        && let Some(record) = listing.record(position)?
    {
        let view = View::parse(&record.body).ok();
        let key = view.map_or(record.key, |view| view.attributes.key);
        return Ok(vec![Known {
            position,
            routes: record.routes,
            given: Routes::NONE,
            received: record.received.as_nanos(),
            key: key.to_string(),
            body: record.body.to_vec(),
        }]);
    }
    Ok(found)
}

fn item(connection: &Connection, listing: &Listing, known: &Known) -> Result<Value, Error> {
    let fate = listing.fate(known.position)?;
    let record = listing.record(known.position)?;
    let in_journal = record.is_some();
    // A destination that was given what was kept when it was new: the read side had seen
    // the event before. What the journal says then is of now.
    let given = record.map_or(Routes::NONE, |record| record.routes.without(known.routes));
    let routes = known.routes.union(given);
    let mut destinations = Vec::new();
    for number in (0..NOWHERE.0).filter(|n| routes.contains(DestinationId(*n))) {
        let mut of_now = fate.standings.destinations.iter();
        let of_now = of_now.find(|one| one.id.0 == number);
        let is_given = given.union(known.given).contains(DestinationId(number));
        let then = match is_given {
            true => None,
            false => names::at(connection, number, known.position)?,
        };
        let name = match then {
            Some(name) => name,
            None => of_now.map(|one| one.name.clone()),
        };
        let mut one = match of_now.filter(|one| Some(&one.name) == name.as_ref()) {
            Some(destination) => fate_at(connection, &fate, destination, known.position)?,
            // Its number may be another's by now.
            None => FateShown {
                state: "forgotten",
                ..FateShown::default()
            },
        };
        one.name = name;
        destinations.push(one);
    }
    let nowhere = match (routes, in_journal) {
        (routes, _) if routes.count() == 0 => Some("for-nobody"),
        (routes, true) if routes.contains(NOWHERE) => Some("held"),
        (routes, false) if routes.contains(NOWHERE) => Some("gone"),
        _ => None,
    };
    let view = View::parse(&known.body).ok();
    let attributes = view.as_ref().map(|view| view.attributes);
    Ok(json!(Whereabouts {
        position: known.position.0,
        eventkey: known.key.clone(),
        received: instant(known.received),
        device: attributes.map(|a| a.device.to_owned()),
        kind: attributes.map(|a| a.kind.to_owned()),
        topic: attributes.map(|a| a.topic.to_owned()),
        in_journal,
        nowhere,
        destinations,
    }))
}

fn fate_at(
    connection: &Connection,
    fate: &Fate,
    destination: &Standing,
    position: Position,
) -> Result<FateShown, Error> {
    let waits = fate.waiting.iter().find(|retry| retry.0 == destination.id);
    let mut dead = fate.dead.iter().rev();
    let dead = dead.find(|dead| dead.destination == destination.id);
    Ok(match (waits, dead) {
        (Some((_, attempts, reason)), _) => FateShown {
            state: "retrying",
            attempts: Some(i64::from(*attempts)),
            reason: Some(reason.clone()),
            ..FateShown::default()
        },
        (None, Some(dead)) => FateShown {
            state: "dead-letter",
            id: Some(dead.id),
            attempts: Some(i64::from(dead.attempts)),
            reason: Some(dead.reason.clone()),
            ..FateShown::default()
        },
        (None, None) => settled(connection, destination, position)?,
    })
}

/// What is to be said where it waits for no attempt and is no dead letter now. The
/// read side may know of one that was.
fn settled(
    connection: &Connection,
    destination: &Standing,
    position: Position,
) -> Result<FateShown, Error> {
    let dead = connection
        .prepare_cached(
            "SELECT id, attempts, reason FROM dead_letters
             WHERE position = ?1 AND destination = ?2 ORDER BY id DESC LIMIT 1",
        )?
        .query_row(params![position.0.cast_signed(), destination.name], |row| {
            Ok(FateShown {
                // It was redriven, and is settled now, or it was discarded.
                state: "dead-letter-gone",
                id: Some(row.get::<_, i64>(0)?.cast_unsigned()),
                attempts: Some(row.get(1)?),
                reason: Some(row.get(2)?),
                ..FateShown::default()
            })
        })
        .optional()?;
    if let Some(dead) = dead {
        return Ok(dead);
    }
    let state = match (position <= destination.cursor, destination.lost) {
        (false, _) => "backlog",
        (true, 0) => "delivered",
        // It counted events that expired, were evicted or were damaged; which ones is
        // not written down.
        (true, _) => "delivered-or-lost",
    };
    Ok(FateShown {
        state,
        lost: Some(destination.lost),
        ..FateShown::default()
    })
}

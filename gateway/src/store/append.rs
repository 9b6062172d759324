//! A group of entries becomes rows.
//!
//! A group is kept whole or not at all. Each event gets the next position; an
//! event whose key is remembered, also one of the same transaction, is counted
//! as a duplicate, and its receipt waits for this commit like every other.

use rusqlite::{Connection, Statement};

use super::{
    entry::{Appended, Entry, NewEvent},
    frame::{self, column},
    job::Outcome,
    quarantine,
    stage::{self, Stage},
};
use crate::{
    dedup::window::Window,
    record::{Position, Record},
};

/// What inserting events needs, prepared once per transaction.
pub(super) struct Inserter<'c> {
    connection: &'c Connection,
    event: rusqlite::CachedStatement<'c>,
}

impl<'c> Inserter<'c> {
    pub(super) fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        let event = stage::cached(
            connection,
            "INSERT INTO events (position, routes, received, frame) VALUES (?1, ?2, ?3, ?4)",
        )?;
        Ok(Self { connection, event })
    }

    /// Keeps one group.
    pub(super) fn append(
        &mut self,
        entries: &[Entry],
        retry_of: Option<u64>,
        stage: &mut Stage,
        window: &mut Window,
    ) -> rusqlite::Result<Outcome> {
        if let Some(id) = retry_of
            && !quarantine::remove(self.connection, id, stage)?
        {
            return Ok(Outcome::Changed(0));
        }
        let mut appended = Vec::with_capacity(entries.len());
        for entry in entries {
            stage.dirty = true;
            appended.push(match entry {
                Entry::Event(event) => self.event(event, stage, window)?,
                Entry::Quarantine(item) => {
                    stage.state.quarantine_last += 1;
                    stage.state.quarantined += 1;
                    stage.state.in_quarantine += 1;
                    stage.state.quarantine_bytes += entry.cost_bytes() as u64;
                    let id = stage.state.quarantine_last;
                    quarantine::insert(self.connection, id, item)?;
                    Appended::Quarantined(id)
                }
            });
        }
        Ok(Outcome::Appended(appended))
    }

    fn event(
        &mut self,
        event: &NewEvent,
        stage: &mut Stage,
        window: &mut Window,
    ) -> rusqlite::Result<Appended> {
        if event.dedup {
            if !window.insert(event.key, stage.state.commit, stage.now) {
                stage.state.duplicate += 1;
                return Ok(Appended::Duplicate);
            }
            stage.keys.extend_from_slice(&event.key.0);
        }
        let position = Position(stage.state.position.0 + 1);
        insert_event(&mut self.event, position, event, &mut stage.frame)?;
        stage.state.position = position;
        stage.first.get_or_insert(position);
        stage.state.stored += 1;
        stage.state.buffered += 1;
        for destination in &mut stage.state.destinations {
            if event.routes.contains(destination.id) {
                destination.routed += 1;
            }
        }
        stage.records.push(Record {
            position,
            key: event.key,
            received: event.received,
            routes: event.routes,
            body: event.body.clone(),
        });
        Ok(Appended::Stored(position))
    }
}

fn insert_event(
    statement: &mut Statement<'_>,
    position: Position,
    event: &NewEvent,
    scratch: &mut Vec<u8>,
) -> rusqlite::Result<()> {
    frame::write(
        scratch,
        position,
        event.routes,
        event.received,
        event.key,
        &event.body,
    );
    statement.execute((
        column(position.0),
        column(event.routes.0),
        event.received.as_nanos(),
        &scratch[..],
    ))?;
    Ok(())
}

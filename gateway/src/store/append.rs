//! A group of entries becomes rows.
//!
//! A group is kept whole or not at all. Each event gets the next position; an
//! event whose key is remembered, also one of the same transaction, is counted
//! as a duplicate, and its receipt waits for this commit like every other.
//!
//! Where a message is kept as it came it lies behind the first of its events that is
//! stored; which one that is, is known only here.

use bytes::Bytes;
use penstock_broker::seal::Seal;
use rusqlite::{Connection, Statement};

use super::{
    copies,
    edit::AnyEdit,
    entry::{Appended, Entry, NewEvent, NewOriginal},
    frame::{self, column},
    job::Outcome,
    quarantine,
    scan::is_about_the_row,
    shed::Keep,
    stage::{self, Stage},
};
use crate::{
    dedup::window::Window,
    record::{Position, Record, Routes},
};

/// What inserting events needs, prepared once per transaction.
pub(super) struct Inserter<'c> {
    connection: &'c Connection,
    event: rusqlite::CachedStatement<'c>,
    message: Message,
    /// Whether keys of what is given up are remembered on disk.
    pub(super) remembers: bool,
}

/// What was kept of the message whose events are being stored.
#[derive(Debug, Default)]
struct Message {
    /// The message itself lies behind an event.
    is_kept: bool,
    /// Destinations that get it with an event that was stored.
    served: Routes,
}

impl Message {
    /// What to store of an event: where it goes, and its body with the message, if it
    /// is the one to have it.
    fn take(&mut self, event: &NewEvent, original: &NewOriginal) -> (Routes, Bytes) {
        let asked = event.routes.intersection(original.once);
        let own = asked.without(self.served);
        let routes = event.routes.without(asked).union(own);
        if self.is_kept && own == Routes::NONE {
            return (routes, event.body.clone());
        }
        self.is_kept = true;
        self.served = self.served.union(own);
        let body = [&event.body[..], &original.bytes[..]].concat();
        (routes, body.into())
    }
}

impl<'c> Inserter<'c> {
    pub(super) fn new(connection: &'c Connection) -> rusqlite::Result<Self> {
        let event = stage::cached(
            connection,
            "INSERT INTO events (position, routes, received, frame) VALUES (?1, ?2, ?3, ?4)",
        )?;
        Ok(Self {
            connection,
            event,
            message: Message::default(),
            remembers: true,
        })
    }

    /// Keeps one group, but for what is [given up](super::shed) of it.
    pub(super) fn append(
        &mut self,
        entries: &[Entry],
        given_up: &[Option<Keep>],
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
        for (at, entry) in entries.iter().enumerate() {
            stage.dirty = true;
            let keep = given_up.get(at).copied().flatten();
            appended.push(match entry {
                Entry::Event(event) => self.event(event, keep, stage, window)?,
                Entry::Quarantine(item) => {
                    stage.state.quarantine_last += 1;
                    stage.state.quarantined += 1;
                    stage.state.in_quarantine += 1;
                    let id = stage.state.quarantine_last;
                    let bytes = quarantine::insert(self.connection, &stage.seal, id, item)?;
                    stage.state.quarantine_bytes += bytes;
                    Appended::Quarantined(id)
                }
            });
        }
        Ok(Outcome::Appended(appended))
    }

    /// Makes a change of other tables, and keeps the events that tell of it.
    pub(super) fn edit(
        &mut self,
        edit: &dyn AnyEdit,
        stage: &mut Stage,
        window: &mut Window,
    ) -> rusqlite::Result<Outcome> {
        stage::cached(self.connection, "SAVEPOINT edit")?.execute([])?;
        let edited = match edit.apply(self.connection, stage.now) {
            // One row that is not as it should be takes nobody else along.
            Err(error) if is_about_the_row(&error) => {
                tracing::error!(%error, "a change could not be made");
                self.connection
                    .execute_batch("ROLLBACK TO edit; RELEASE edit")?;
                return Ok(Outcome::Failed);
            }
            edited => edited?,
        };
        stage::cached(self.connection, "RELEASE edit")?.execute([])?;
        stage.dirty |= edited.changed || !edited.events.is_empty();
        for (at, event) in edited.events.iter().enumerate() {
            let appended = self.event(event, None, stage, window)?;
            let Appended::Stored(position) = appended else {
                // What was told before, and came back out of a damaged file, was counted then.
                stage.told_again |= edited.told.get(at).is_some();
                continue;
            };
            if edited.are_copies {
                copies::note(self.connection, position, event.routes, event.body.len())?;
            }
            if let (Some((device, count)), Some(tally)) = (edited.told.get(at), &mut stage.tally) {
                tally.told(device, *count);
            }
        }
        Ok(Outcome::Edited(edited.answer))
    }

    fn event(
        &mut self,
        event: &NewEvent,
        given_up: Option<Keep>,
        stage: &mut Stage,
        window: &mut Window,
    ) -> rusqlite::Result<Appended> {
        if event.original.as_ref().is_some_and(|o| o.is_first) {
            self.message = Message::default();
        }
        if event.dedup {
            if !window.insert(event.key, stage.state.commit, stage.now) {
                stage.state.duplicate += 1;
                return Ok(Appended::Duplicate);
            }
            stage.remember(event.key, given_up.is_some(), self.remembers);
        }
        if let (Some(keep), Some(of)) = (given_up, event.shed) {
            stage.give_up(event, of.class, keep);
            return Ok(Appended::Shed);
        }
        let position = Position(stage.state.position.0 + 1);
        let (routes, body) = match &event.original {
            None => (event.routes, event.body.clone()),
            Some(original) => self.message.take(event, original),
        };
        let record = Record {
            position,
            key: event.key,
            received: event.received,
            routes,
            body,
        };
        insert(&mut self.event, &record, &stage.seal, &mut stage.frame)?;
        stage.state.position = position;
        stage.first.get_or_insert(position);
        stage.state.stored += 1;
        stage.state.buffered += 1;
        for destination in &mut stage.state.destinations {
            if routes.contains(destination.id) {
                destination.routed += 1;
            }
        }
        stage.records.push(record);
        Ok(Appended::Stored(position))
    }
}

fn insert(
    statement: &mut Statement<'_>,
    record: &Record,
    seal: &Seal,
    scratch: &mut Vec<u8>,
) -> rusqlite::Result<()> {
    frame::write_record(scratch, seal, record);
    statement.execute((
        column(record.position.0),
        column(record.routes.0),
        record.received.as_nanos(),
        &scratch[..],
    ))?;
    Ok(())
}

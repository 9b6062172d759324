//! The status that everybody else sees, from what the writer knows.

use std::{path::PathBuf, sync::Arc, time::Instant};

use rusqlite::{Connection, OptionalExtension};

use super::{
    checkpoint,
    column::{self, number},
    frame::{column, integer},
    gap,
    room::Room,
    stage,
    state::{Standing, State},
    status::{DestinationStatus, Status},
};
use crate::{
    dedup::window::Window,
    event::Timestamp,
    record::{DestinationId, Position, Routes},
};

/// Rows looked through for the oldest unsettled event of one destination, at a time.
const LOOK_ROWS: i64 = 2_000;

/// A destination's name, and whether it is in use.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) id: DestinationId,
    pub(super) name: Arc<str>,
    pub(super) configured: bool,
}

/// What the status needs beside the state.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) names: Vec<Name>,
    pub(super) set_aside: Vec<PathBuf>,
    pub(super) commits: u64,
    written_before: u64,
    written_bytes: u64,
    oldest: Vec<Oldest>,
    /// Gaps that are not told yet.
    gaps: u64,
    pub(super) looked: Option<Instant>,
}

/// The first unsettled event of a destination, as far as it was looked for.
#[derive(Debug, Clone, Copy)]
struct Oldest {
    id: DestinationId,
    /// Nothing of the destination's is after its cursor and before this.
    clear_to: Position,
    found: Option<(Position, Timestamp)>,
    retry: Option<Timestamp>,
}

impl Account {
    pub(super) fn new(names: Vec<Name>, set_aside: Vec<PathBuf>) -> Self {
        Self {
            names,
            set_aside,
            commits: 0,
            written_before: checkpoint::thread_written_bytes(),
            written_bytes: 0,
            oldest: Vec::new(),
            gaps: 0,
            looked: None,
        }
    }

    /// The writer has moved to another thread, whose writes count from here.
    pub(super) fn begin_thread(&mut self) {
        self.written_before = checkpoint::thread_written_bytes();
    }

    /// Looks up what costs a query; not with every commit.
    pub(super) fn look(&mut self, connection: &Connection, state: &State) -> rusqlite::Result<()> {
        self.looked = Some(Instant::now());
        self.gaps = gap::count(connection)?;
        self.written_bytes = checkpoint::thread_written_bytes().saturating_sub(self.written_before);
        self.oldest
            .retain(|o| state.destinations.iter().any(|d| d.id == o.id));
        for d in &state.destinations {
            let known = self.oldest.iter().copied().find(|o| o.id == d.id);
            let mut oldest = known.unwrap_or(Oldest {
                id: d.id,
                clear_to: d.cursor,
                found: None,
                retry: None,
            });
            oldest.look(connection, d)?;
            self.oldest.retain(|o| o.id != d.id);
            self.oldest.push(oldest);
        }
        Ok(())
    }

    /// The status; `shedding` says whether events are given up at the moment.
    pub(super) fn status(
        &self,
        state: &State,
        room: &Room,
        window: &Window,
        shedding: bool,
    ) -> Status {
        Status {
            committed: state.position,
            accepted: state.accepted(),
            stored: state.stored,
            duplicate: state.duplicate,
            quarantined: state.quarantined,
            refused_full: state.refused_full,
            shed: state.shed,
            shedding,
            gaps: self.gaps,
            buffered: state.buffered,
            buffered_settled: state.buffered_settled(),
            file_bytes: room.used_bytes(),
            max_bytes: room.max_bytes(),
            full: room.refusing(),
            written_bytes: self.written_bytes,
            commits: self.commits,
            dedup_keys: window.len() as u64,
            dedup_bytes: window.bytes() as u64,
            dedup_shortened: window.shortened(),
            in_quarantine: state.in_quarantine,
            quarantine_bytes: state.quarantine_bytes,
            quarantine_evicted: state.quarantine_evicted,
            dead_letters: state.dead_letters,
            set_aside: self.set_aside.clone(),
            nowhere: state
                .nowhere()
                .map(|d| self.destination(d).into())
                .unwrap_or_default(),
            destinations: state.named().map(|d| self.destination(d)).collect(),
        }
    }

    fn destination(&self, d: &Standing) -> DestinationStatus {
        let name = self.names.iter().find(|n| n.id == d.id);
        DestinationStatus {
            id: d.id,
            name: name.map_or_else(|| "".into(), |n| n.name.clone()),
            configured: name.is_some_and(|n| n.configured),
            cursor: d.cursor,
            mode: d.mode,
            filling: d.fill.is_some(),
            spent: d.spent,
            routed: d.routed,
            delivered: d.delivered,
            expired: d.expired,
            evicted: d.evicted,
            damaged: d.damaged,
            dead: d.dead,
            backlog: d.backlog(),
            retrying: d.retrying,
            oldest: self
                .oldest
                .iter()
                .find(|o| o.id == d.id)
                .and_then(|o| o.received(d)),
        }
    }
}

impl Oldest {
    fn look(&mut self, connection: &Connection, d: &Standing) -> rusqlite::Result<()> {
        self.clear_to = self.clear_to.max(d.cursor);
        self.retry = None;
        if d.retrying > 0 {
            let mut statement = stage::cached(
                connection,
                "SELECT received FROM retry WHERE destination = ?1 ORDER BY position LIMIT 1",
            )?;
            let received = statement
                .query_row([d.id.0], |row| column::number(row, 0))
                .optional()?;
            self.retry = received.flatten().map(Timestamp::from_nanos);
        }
        if self.found.is_some_and(|(position, _)| position > d.cursor) {
            return Ok(());
        }
        self.found = None;
        if d.backlog() == d.retrying {
            return Ok(());
        }
        let mut statement = stage::cached(
            connection,
            "SELECT position, routes, received FROM events
             WHERE position > ?1 ORDER BY position LIMIT ?2",
        )?;
        let mut rows = statement.query((column(self.clear_to.0), LOOK_ROWS))?;
        while let Some(row) = rows.next()? {
            let position = Position(integer(row.get(0)?));
            let routes = number(row, 1)?.map_or(0, integer);
            if let Some(received) = number(row, 2)?
                && Routes(routes).contains(d.id)
            {
                self.found = Some((position, Timestamp::from_nanos(received)));
                break;
            }
            self.clear_to = position;
        }
        Ok(())
    }

    fn received(&self, d: &Standing) -> Option<Timestamp> {
        let found = self
            .found
            .filter(|(position, _)| *position > d.cursor)
            .map(|(_, at)| at);
        match (found, self.retry.filter(|_| d.retrying > 0)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }
}

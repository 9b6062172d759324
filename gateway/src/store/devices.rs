//! What waits, by device: counted from the journal when somebody asks, so that it
//! costs nothing meanwhile.
//!
//! Bounded: so many devices, so much time; what goes beyond is one number, and whether
//! the end was reached is said. Read transactions are short, because a long one makes
//! the write-ahead log grow.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    Error, Listing, column,
    frame::{self, column, integer},
    open,
    state::State,
};
use crate::{
    event::{Timestamp, View},
    record::{DestinationId, Position, Record},
};

/// Devices that are told apart.
const DEVICES_MAX: usize = 10_000;
/// Counting ends after this long.
const TIME_MAX: Duration = Duration::from_secs(10);
/// Events read in one transaction.
const PAGE_ROWS: i64 = 2_000;

/// Events of one device that some destination waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The device; empty where a body cannot be read.
    pub device: String,
    /// Events that wait after a cursor or for another attempt.
    pub events: u64,
    /// When the oldest of them was received.
    pub oldest: Timestamp,
    /// The same for each destination that waits for any.
    pub destinations: Vec<(DestinationId, u64)>,
}

/// What waits, by device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// Those with the most events first.
    pub devices: Vec<Waiting>,
    /// Events of all other devices.
    pub others: u64,
    /// Whether everything was counted in the time there is.
    pub complete: bool,
}

impl Listing {
    /// Counts what waits by device, and shows `top` of them. Reads the whole backlog
    /// if ten seconds are enough for it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn devices(&self, top: usize) -> Result<Devices, Error> {
        let state = open::read_state(&self.connection)?.unwrap_or_default();
        let mut counted = Counted::default();
        self.retries(&mut counted)?;
        let complete = self.backlog(&state, &mut counted)?;
        let mut devices: Vec<_> = counted.devices.into_values().collect();
        devices.sort_by(|a, b| (b.events, &a.device).cmp(&(a.events, &b.device)));
        let others = devices.iter().skip(top).map(|one| one.events).sum::<u64>();
        devices.truncate(top);
        Ok(Devices {
            devices,
            others: counted.others + others,
            complete,
        })
    }

    /// Those that failed by themselves.
    fn retries(&self, counted: &mut Counted) -> Result<(), Error> {
        let mut statement = self
            .connection
            .prepare("SELECT destination, position, routes, received, frame FROM retry")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = column::number(row, 0)?.and_then(|id| u8::try_from(id).ok());
            if let (Some(id), Some(record)) = (id, frame::from_row(&self.seal, row, 1)?) {
                counted.add(&record, &[DestinationId(id)]);
            }
        }
        Ok(())
    }

    /// Those after a cursor; whether the end was reached.
    fn backlog(&self, state: &State, counted: &mut Counted) -> Result<bool, Error> {
        let began = Instant::now();
        let mut after = state.settled_to();
        let mut statement = self.connection.prepare(
            "SELECT position, routes, received, frame FROM events
             WHERE position > ?1 ORDER BY position LIMIT ?2",
        )?;
        let mut waits = Vec::new();
        loop {
            let mut found = 0;
            let mut rows = statement.query((column(after.0), PAGE_ROWS))?;
            while let Some(row) = rows.next()? {
                found += 1;
                after = after.max(Position(integer(row.get(0)?)));
                let Some(record) = frame::from_row(&self.seal, row, 0)? else {
                    continue;
                };
                waits.clear();
                let of = |id| record.routes.contains(id);
                let waiting = state.destinations.iter();
                let waiting = waiting.filter(|d| record.position > d.cursor && of(d.id));
                waits.extend(waiting.map(|d| d.id));
                counted.add(&record, &waits);
            }
            if found < PAGE_ROWS {
                return Ok(true);
            }
            if began.elapsed() > TIME_MAX {
                return Ok(false);
            }
        }
    }
}

#[derive(Default)]
struct Counted {
    devices: HashMap<String, Waiting>,
    others: u64,
}

impl Counted {
    fn add(&mut self, record: &Record, destinations: &[DestinationId]) {
        if destinations.is_empty() {
            return;
        }
        let view = View::parse(&record.body).ok();
        let device = view.as_ref().map_or("", |view| view.attributes.device);
        if !self.devices.contains_key(device) {
            if self.devices.len() >= DEVICES_MAX {
                self.others += 1;
                return;
            }
            let new = Waiting {
                device: device.to_owned(),
                events: 0,
                oldest: record.received,
                destinations: Vec::new(),
            };
            self.devices.insert(device.to_owned(), new);
        }
        let Some(waiting) = self.devices.get_mut(device) else {
            return;
        };
        waiting.events += 1;
        waiting.oldest = waiting.oldest.min(record.received);
        for id in destinations {
            match waiting
                .destinations
                .iter_mut()
                .find(|(known, _)| known == id)
            {
                Some((_, events)) => *events += 1,
                None => waiting.destinations.push((*id, 1)),
            }
        }
    }
}

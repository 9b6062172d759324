//! What records and tallies change in the ledger by device.

use std::{
    collections::{BTreeMap, HashMap},
    ops::AddAssign,
};

use rusqlite::{Connection, OptionalExtension, Row};

use super::Known;
use crate::{
    event::View,
    query::Error,
    record::{DestinationId, Position, Routes},
    store::{AccountOf, Ending, TakenBack, Tally},
};

/// The number under which what was stored is counted.
pub(in crate::query) const STORED: u8 = 64;
/// The number under which is counted what was given up, once it is told.
pub(in crate::query) const SHED: u8 = 65;

/// What is counted of a device and destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::query) struct Counts {
    pub(in crate::query) routed: i64,
    pub(in crate::query) expired: i64,
    pub(in crate::query) evicted: i64,
    pub(in crate::query) damaged: i64,
    pub(in crate::query) dead: i64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.routed += other.routed;
        self.expired += other.expired;
        self.evicted += other.evicted;
        self.damaged += other.damaged;
        self.dead += other.dead;
    }
}

impl Counts {
    /// What the journal's own ledger says.
    pub(super) const fn of(account: &AccountOf) -> Self {
        Self {
            routed: account.routed.cast_signed(),
            expired: account.expired.cast_signed(),
            evicted: account.evicted.cast_signed(),
            damaged: account.damaged.cast_signed(),
            dead: account.dead.cast_signed(),
        }
    }

    pub(in crate::query) fn from_row(row: &Row<'_>, first: usize) -> rusqlite::Result<Self> {
        Ok(Self {
            routed: row.get(first)?,
            expired: row.get(first + 1)?,
            evicted: row.get(first + 2)?,
            damaged: row.get(first + 3)?,
            dead: row.get(first + 4)?,
        })
    }

    /// One that was routed.
    const ROUTED: Self = Self {
        routed: 1,
        expired: 0,
        evicted: 0,
        damaged: 0,
        dead: 0,
    };

    const fn ended(ending: Ending, by: i64) -> Self {
        let mut counts = Self {
            routed: 0,
            ..Self::ROUTED
        };
        match ending {
            Ending::Expired => counts.expired = by,
            Ending::Evicted => counts.evicted = by,
            Ending::Damaged => counts.damaged = by,
            Ending::Dead => counts.dead = by,
        }
        counts
    }

    pub(super) const fn less(self, other: Self) -> Self {
        Self {
            routed: self.routed - other.routed,
            expired: self.expired - other.expired,
            evicted: self.evicted - other.evicted,
            damaged: self.damaged - other.damaged,
            dead: self.dead - other.dead,
        }
    }

    /// How much it is in all, whatever the signs.
    pub(super) const fn magnitude(self) -> i64 {
        self.routed.abs()
            + self.expired.abs()
            + self.evicted.abs()
            + self.damaged.abs()
            + self.dead.abs()
    }

    /// Routed, and ended otherwise than by delivery.
    pub(in crate::query) const fn lost(self) -> i64 {
        self.expired + self.evicted + self.damaged + self.dead
    }
}

/// Changes by device and destination. No more devices than a page of records and its
/// tallies name.
#[derive(Debug, Default)]
pub(in crate::query) struct Deltas(BTreeMap<String, Vec<(u8, Counts)>>);

impl Deltas {
    fn add(&mut self, device: &str, number: u8, counts: Counts) {
        if !self.0.contains_key(device) {
            self.0.insert(device.to_owned(), Vec::new());
        }
        let Some(all) = self.0.get_mut(device) else {
            return;
        };
        match all.iter_mut().find(|(of, _)| *of == number) {
            Some((_, known)) => *known += counts,
            None => all.push((number, counts)),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u8, Counts)> {
        let all = self.0.iter();
        all.flat_map(|(device, all)| {
            all.iter()
                .map(|(number, counts)| (&**device, *number, *counts))
        })
    }

    /// Those of one device.
    pub(in crate::query) fn of(&self, device: &str) -> &[(u8, Counts)] {
        self.0.get(device).map_or(&[], |all| all)
    }

    /// All devices together.
    pub(super) fn sums(&self) -> HashMap<u8, Counts> {
        let mut sums = HashMap::<u8, Counts>::new();
        for (_, number, counts) in self.iter() {
            *sums.entry(number).or_default() += counts;
        }
        sums
    }
}

/// Counts the records and tallies that follow what is counted already.
#[derive(Debug)]
pub(in crate::query) struct Fold<'c> {
    /// Where events are found by position.
    read: &'c Connection,
    /// Records up to here are counted.
    at: Position,
    known: Vec<Known>,
    pub(in crate::query) deltas: Deltas,
}

impl<'c> Fold<'c> {
    pub(in crate::query) fn new(read: &'c Connection, at: Position, known: Vec<Known>) -> Self {
        Self {
            read,
            at,
            known,
            deltas: Deltas::default(),
        }
    }

    /// A record of the journal.
    pub(in crate::query) fn record(&mut self, position: Position, device: &str, routes: Routes) {
        if position <= self.at {
            return;
        }
        self.deltas.add(device, STORED, Counts::ROUTED);
        for one in &self.known {
            if position.0 > one.since && routes.contains(DestinationId(one.number)) {
                self.deltas.add(device, one.number, Counts::ROUTED);
            }
        }
    }

    /// What a commit said, before any record that comes with it.
    pub(in crate::query) fn tally(&mut self, commit: u64, tally: &Tally) -> Result<(), Error> {
        let device = |place: u32| {
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            tally.devices.get(place).map_or("", |device| device)
        };
        for (place, number, ending, by) in &tally.endings {
            if self.is_of(*number, commit) {
                let counts = Counts::ended(*ending, *by);
                self.deltas.add(device(*place), *number, counts);
            }
        }
        for given in &tally.given {
            let known = self
                .known
                .iter()
                .find(|one| one.number == given.destination);
            let Some(known) = known.filter(|one| one.born <= commit) else {
                continue;
            };
            // One that is yet to be read is counted then, by its bit.
            if given.position <= known.since || given.position <= self.at.0 {
                self.deltas
                    .add(device(given.device), given.destination, Counts::ROUTED);
            }
        }
        for (ending, dropped) in &tally.dropped {
            let device = device(dropped.device);
            self.record(Position(dropped.position), device, Routes(dropped.routes));
            self.ended(commit, device, Routes(dropped.waited), *ending);
        }
        for damaged in &tally.damaged {
            let position = Position(damaged.position);
            let device = self.device_at(position)?;
            if !damaged.is_copy {
                self.record(position, &device, Routes(damaged.waited));
            }
            self.ended(commit, &device, Routes(damaged.waited), Ending::Damaged);
        }
        for (place, count) in &tally.told {
            let counts = Counts {
                routed: count.cast_signed(),
                ..Counts::default()
            };
            self.deltas.add(device(*place), SHED, counts);
        }
        for taken in &tally.taken_back {
            if self.is_of(taken.destination, commit) {
                self.taken_back(taken)?;
            }
        }
        Ok(())
    }

    /// Whether a commit's word on a number is of the destination that has it now.
    fn is_of(&self, number: u8, commit: u64) -> bool {
        let mut known = self.known.iter();
        known.any(|one| one.number == number && one.born <= commit)
    }

    fn ended(&mut self, commit: u64, device: &str, waited: Routes, ending: Ending) {
        for one in &self.known {
            if one.born <= commit && waited.contains(DestinationId(one.number)) {
                let counts = Counts::ended(ending, 1);
                self.deltas.add(device, one.number, counts);
            }
        }
    }

    /// What was on its way when it left the journal: the destination had read its records
    /// in their order and up to where it stands, so it is the last of them up to there. What
    /// is before them left before it was read.
    fn taken_back(&mut self, taken: &TakenBack) -> Result<(), Error> {
        let count: u64 = taken.counts.iter().map(|(_, count)| count).sum();
        let first: Option<i64> = self
            .read
            .prepare_cached("SELECT min(position) FROM events")?
            .query_row([], |row| row.get(0))?;
        // Without the first of them nobody can tell which the others are.
        let count = match first.is_some_and(|first| first.cast_unsigned() <= taken.after + 1) {
            true => count,
            false => 0,
        };
        let mut statement = self.read.prepare_cached(
            "SELECT body FROM (
               SELECT position, body FROM events LEFT JOIN given USING (position)
               WHERE position > ?1 AND position <= ?2
               AND (routes | coalesce(mask, 0)) & ?3 <> 0 ORDER BY position DESC LIMIT ?4)
             ORDER BY position",
        )?;
        let mut rows = statement.query((
            taken.after.cast_signed(),
            taken.to.cast_signed(),
            1_i64 << taken.destination,
            count.cast_signed(),
        ))?;
        for (ending, count) in &taken.counts {
            for done in 0..*count {
                let Some(row) = rows.next()? else {
                    // Which they were is not known here any more.
                    let rest = Counts::ended(*ending, -(count - done).cast_signed());
                    self.deltas.add("", taken.destination, rest);
                    break;
                };
                let body = row.get_ref(0)?.as_bytes().unwrap_or_default();
                let device = View::parse(body).map_or("", |view| view.attributes.device);
                let back = Counts::ended(*ending, -1);
                self.deltas.add(device, taken.destination, back);
            }
        }
        Ok(())
    }

    /// The device of an event that was read when it could be.
    fn device_at(&self, position: Position) -> Result<String, Error> {
        let body: Option<Vec<u8>> = self
            .read
            .prepare_cached("SELECT body FROM events WHERE position = ?1")?
            .query_row([position.0.cast_signed()], |row| row.get(0))
            .optional()?;
        let view = body.as_deref().and_then(|body| View::parse(body).ok());
        Ok(view.map_or_else(String::new, |view| view.attributes.device.to_owned()))
    }
}

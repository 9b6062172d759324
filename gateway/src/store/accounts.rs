//! The ledger, and what it is made of by device, as of one commit: for whoever counts by
//! device (`query/ledger.rs`). Reads only.
//!
//! What a destination's counters say, what tallies say and which records there are is
//! read in one transaction, so that it can be compared to the last event. Where that would
//! be a long one, which makes the write-ahead log grow, it is many short ones over what
//! does not change meanwhile, and whether it did is looked at.

use std::{collections::BTreeMap, time::Instant};

use rusqlite::Connection;

use super::{
    Error, Listing, column,
    frame::{self, column, integer},
    gap, open,
    reader::{END, Page, Reader},
    state::{Standing, State},
    tally::{self, Tally},
};
use crate::{
    event::View,
    record::{DestinationId, NOWHERE, Position, Record, Routes},
};

/// Tallies of one page.
const PAGE_TALLIES: usize = 64;
/// Events read in one transaction.
const PAGE_ROWS: i64 = 2_000;

/// When a destination got its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// With this commit.
    pub commit: u64,
    /// Events up to here may have its bit for another's sake, or because it was given them
    /// later.
    pub position: Position,
    /// It began with what was kept.
    pub kept: bool,
}

/// The ledger of a destination; [`NOWHERE`] has no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountOf {
    /// Its number.
    pub id: DestinationId,
    /// Its name.
    pub name: String,
    /// When it got its number, where that is known.
    pub began: Option<Beginning>,
    /// What it was given so far, of what was kept; all where this is `None`.
    pub given_to: Option<Position>,
    /// Events routed to it.
    pub routed: u64,
    /// Of those: delivered.
    pub delivered: u64,
    /// Of those: expired by age.
    pub expired: u64,
    /// Of those: evicted for room.
    pub evicted: u64,
    /// Of those: lost with a damaged file.
    pub damaged: u64,
    /// Of those: dead letters.
    pub dead: u64,
}

/// A page of the journal, and the ledger as of the same commit.
#[derive(Debug, Clone, Default)]
pub struct Accounts {
    /// Records after the position that was asked for, of all destinations and none.
    pub page: Page,
    /// What is said by device of commits after the one that was asked for.
    pub tallies: Vec<(u64, Tally)>,
    /// Up to which commit that is.
    pub commit: u64,
    /// Page and tallies go to the end: what was known before and they are all that the
    /// counters say.
    pub is_whole: bool,
    /// Events stored.
    pub stored: u64,
    /// Events given up of which was told; less than nothing where a damaged file brought
    /// back what was told before. Known where the page is whole.
    pub told: i64,
    /// What some rows of what is not told counted is not known.
    pub has_damaged_gaps: bool,
    /// The ledger of each destination.
    pub destinations: Vec<AccountOf>,
    /// How often the file was replaced by a salvaged one.
    pub replaced: u64,
}

impl Reader {
    /// Records after `after`, at most `count` of them and about `bytes`, and what is said
    /// by device of commits after `tallied`, in one short read transaction. Where there is
    /// much of the latter there are no records yet.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn accounts(
        &mut self,
        after: Position,
        tallied: u64,
        count: usize,
        bytes: usize,
    ) -> Result<Accounts, Error> {
        loop {
            self.follow_file()?;
            let mut damaged = Vec::new();
            let read = self.accounts_of_file(after, tallied, (count, bytes), &mut damaged);
            if self.noticed.replaced() != self.file {
                continue;
            }
            let accounts = read.map_err(|error| self.notice(error))?;
            self.noticed.put_rows(&damaged);
            return Ok(Accounts {
                replaced: self.file,
                ..accounts
            });
        }
    }

    fn accounts_of_file(
        &self,
        after: Position,
        tallied: u64,
        (count, bytes): (usize, usize),
        damaged: &mut Vec<Position>,
    ) -> Result<Accounts, Error> {
        let transaction = self.connection.unchecked_transaction()?;
        let Some(state) = open::read_state(&transaction)? else {
            let what = "the row that says where the journal stands cannot be read";
            return Err(Error::Damaged(what.into()));
        };
        let (tallies, more) = tally::read(&transaction, tallied, PAGE_TALLIES)?;
        let (mut page, mut is_whole) = (Page::default(), false);
        page.scanned_to = after;
        if more.is_none() {
            page = self.scan(None, after, count, bytes, damaged)?;
            is_whole = page.scanned_to == END;
        }
        let (mut told, mut has_damaged_gaps) = (0, false);
        if is_whole {
            page.scanned_to = state.position.max(after);
            let gaps = gap::untold(&transaction)?;
            let untold: u64 = gaps.by_device.values().sum();
            has_damaged_gaps = gaps.is_damaged;
            told = state.shed.iter().sum::<u64>().cast_signed() - untold.cast_signed();
        }
        Ok(Accounts {
            page,
            tallies,
            commit: more.unwrap_or(state.commit),
            is_whole,
            stored: state.stored,
            told,
            has_damaged_gaps,
            destinations: accounts(&transaction, &state)?,
            replaced: 0,
        })
    }
}

/// Where the journal stood at one commit.
#[derive(Debug)]
pub struct Snapshot {
    /// That commit.
    pub commit: u64,
    /// The last position stored.
    pub position: Position,
    /// All tallies that there were.
    pub tallies: Vec<(u64, Tally)>,
    /// The ledger of each destination.
    pub destinations: Vec<AccountOf>,
    /// Records that wait for another attempt, by device and destination.
    pub retrying: BTreeMap<(String, DestinationId), u64>,
    /// Events given up of which is not told yet, by device; under no name those of devices
    /// that are not told apart.
    pub untold: BTreeMap<String, u64>,
    state: State,
}

impl Listing {
    /// Where the journal stands, with what waits of some devices.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn snapshot(&self, is_wanted: impl Fn(&str) -> bool) -> Result<Snapshot, Error> {
        let transaction = self.connection.unchecked_transaction()?;
        let state = open::read_state(&transaction)?.unwrap_or_default();
        // The writer bounds how many there are.
        let (tallies, _) = tally::read(&transaction, 0, usize::MAX)?;
        let mut retrying = BTreeMap::new();
        let mut statement = transaction
            .prepare_cached("SELECT destination, position, routes, received, frame FROM retry")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let id = column::number(row, 0)?.and_then(|id| u8::try_from(id).ok());
            if let Some(id) = id {
                let device = device(frame::from_row(&self.seal, row, 1)?.as_ref());
                if is_wanted(&device) {
                    *retrying.entry((device, DestinationId(id))).or_default() += 1;
                }
            }
        }
        Ok(Snapshot {
            commit: state.commit,
            position: state.position,
            tallies,
            destinations: accounts(&transaction, &state)?,
            retrying,
            untold: gap::untold(&transaction)?.by_device,
            state,
        })
    }

    /// Devices of which something was given up that is not told yet.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn untold(&self) -> Result<Vec<String>, Error> {
        let devices = gap::untold(&self.connection)?.by_device.into_keys();
        Ok(devices.filter(|device| !device.is_empty()).collect())
    }

    /// Shows each record of a snapshot that lies after `after`, or that a destination
    /// waits for, with its device and those who wait for it. False where the time ended, or
    /// what was there had left before it was looked at.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn scan_snapshot(
        &self,
        snapshot: &Snapshot,
        after: Position,
        until: Instant,
        mut each: impl FnMut(&Record, &str, Routes),
    ) -> Result<bool, Error> {
        let state = &snapshot.state;
        let waits = |d: &&Standing| d.backlog() > d.retrying && d.id != NOWHERE;
        let cursors = state.destinations.iter().filter(waits).map(|d| d.cursor);
        let from = cursors.fold(after, Position::min).max(state.trimmed);
        if state.trimmed > after {
            // Not read by who asks, and gone.
            return Ok(false);
        }
        let mut at = from;
        while at < state.position {
            let transaction = self.connection.unchecked_transaction()?;
            let now = open::read_state(&transaction)?.unwrap_or_default();
            if now.trimmed > at || Instant::now() > until {
                return Ok(false);
            }
            let mut statement = transaction.prepare_cached(
                "SELECT position, routes, received, frame FROM events
                 WHERE position > ?1 AND position <= ?2 ORDER BY position LIMIT ?3",
            )?;
            let mut rows = statement.query((column(at.0), column(state.position.0), PAGE_ROWS))?;
            let mut found = 0;
            while let Some(row) = rows.next()? {
                found += 1;
                at = Position(integer(row.get(0)?));
                let Some(record) = frame::from_row(&self.seal, row, 0)? else {
                    continue;
                };
                let mut waiting = Routes::NONE;
                for d in &state.destinations {
                    if d.waits_for(at, record.routes) {
                        waiting = waiting.with(d.id);
                    }
                }
                each(&record, &device(Some(&record)), waiting);
            }
            if found < PAGE_ROWS {
                break;
            }
        }
        Ok(true)
    }
}

/// The device of a record; empty where it cannot be told.
fn device(record: Option<&Record>) -> String {
    let view = record.and_then(|record| View::parse(&record.body).ok());
    view.map_or_else(String::new, |view| view.attributes.device.to_owned())
}

fn accounts(connection: &Connection, state: &State) -> Result<Vec<AccountOf>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT d.id, d.name, b.commit_number, b.position, b.kept
         FROM destinations d LEFT JOIN beginnings b ON b.destination = d.id",
    )?;
    let known = statement.query_map([], |row| {
        let commit: Option<i64> = row.get(2)?;
        let began = match commit {
            Some(commit) => Some(Beginning {
                commit: integer(commit),
                position: Position(integer(row.get(3)?)),
                kept: row.get(4)?,
            }),
            None => None,
        };
        Ok((DestinationId(row.get(0)?), row.get::<_, String>(1)?, began))
    })?;
    let known: Vec<_> = known.collect::<Result<_, _>>()?;
    let account = |d: &Standing| {
        let of = known.iter().find(|(id, ..)| *id == d.id);
        let (name, began) = match of {
            Some((_, name, began)) => (name.clone(), *began),
            None if d.id == NOWHERE => (String::new(), None),
            None => return None,
        };
        Some(AccountOf {
            id: d.id,
            name,
            began,
            given_to: d.fill.map(|fill| fill.next),
            routed: d.routed,
            delivered: d.delivered,
            expired: d.expired,
            evicted: d.evicted,
            damaged: d.damaged,
            dead: d.dead,
        })
    };
    Ok(state.destinations.iter().filter_map(account).collect())
}

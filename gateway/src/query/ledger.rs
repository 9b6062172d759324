//! The ledger by device and destination: what was routed, and what ended otherwise than by
//! delivery; and what was given up. What waits is counted from the journal when somebody
//! asks (`read/ledger.rs`), and what was delivered is the rest.
//!
//! # Promises
//! - Together with what nobody can tell the device of, the rows of a destination are what
//!   the journal's own ledger says of it, whenever the read side has caught up: each time
//!   that is compared, as of one commit. A difference is put down as of no device, counted,
//!   and, where there is no reason for it, reported ([`Compared`]).
//! - It outlives a file that is built anew, as long as the old one can be read.
//! - So many devices have a line of their own; all others have one together.
//!
//! Events are counted as they come; what is routed later or ends otherwise is said by
//! tallies ([`Tally`]) of the same snapshot of the journal, so that nothing is counted twice
//! or not at all. Decision 205 says why it is counted here.

mod fold;
mod rescue;

use rusqlite::{Connection, OptionalExtension};

use super::{Error, Limits};
use crate::{
    record::{NOWHERE, Position, Record},
    store::{AccountOf, Accounts},
};

pub(super) use fold::{Counts, Deltas, Fold, SHED, STORED};
pub(super) use rescue::{Rescued, rescue};

/// Its tables, and what stands in them at first.
pub(super) const TABLES: &str = include_str!("ledger.sql");
pub(super) const FIRST_ROWS: &str = "INSERT INTO ledger_state VALUES (1, 0, 0, 0, 0);
    INSERT INTO ledger_destinations VALUES (64, '', NULL, 0, 0, 0, 0, 0, 0);";

/// What a row is of.
const DEVICE: i64 = 0;
const OTHERS: i64 = 1;
const UNKNOWN: i64 = 2;

/// A destination whose bit is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) number: u8,
    /// Its bit means it after this position; before, who was given an event is said by
    /// tallies.
    pub(super) since: u64,
    /// Tallies of commits before this one are of an earlier one.
    pub(super) born: u64,
    /// Nothing of it is counted yet: what there is, is of an earlier one of its number.
    pub(super) is_new: bool,
}

/// What came of comparing with the journal's ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Compared {
    /// It was compared: everything up to the end of the journal is counted.
    pub(super) is_whole: bool,
    /// What differed, a sentence each.
    pub(super) found: Vec<String>,
}

/// Up to which position and commit it goes.
pub(super) fn stands(connection: &Connection) -> Result<(Position, u64), Error> {
    let stands = connection
        .prepare_cached("SELECT position, commit_number FROM ledger_state")?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
    Ok((Position(stands.0.cast_unsigned()), stands.1.cast_unsigned()))
}

/// What was counted and nobody can tell the device of.
pub(super) fn unattributed(connection: &Connection) -> Result<u64, Error> {
    let sum: i64 = connection
        .prepare_cached("SELECT unattributed FROM ledger_state")?
        .query_row([], |row| row.get(0))?;
    Ok(sum.cast_unsigned())
}

/// The destinations of the journal, compared with those that were counted so far.
pub(super) fn known(connection: &Connection, accounts: &[AccountOf]) -> Result<Vec<Known>, Error> {
    let mut counted = connection
        .prepare_cached("SELECT name, born, since FROM ledger_destinations WHERE number = ?1")?;
    let mut known = Vec::with_capacity(accounts.len());
    for account in accounts {
        let counted: Option<(String, Option<i64>, i64)> = counted
            .query_row([account.id.0], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })
            .optional()?;
        let began = account.began;
        let born = began.map_or(0, |began| began.commit);
        let same = counted.filter(|(name, counted, _)| {
            let is_same = began.is_none() || counted.map(i64::cast_unsigned) == Some(born);
            *name == account.name && is_same
        });
        known.push(Known {
            number: account.id.0,
            since: match &same {
                Some((.., since)) => since.cast_unsigned(),
                None => began.map_or(0, |began| began.position.0),
            },
            born,
            is_new: same.is_none(),
        });
    }
    Ok(known)
}

/// Begins a page: what is counted of destinations that are no more is forgotten. Gives back
/// what the page and its tallies are counted with.
pub(super) fn begin<'c>(
    connection: &'c Connection,
    after: Position,
    accounts: &Accounts,
) -> Result<Fold<'c>, Error> {
    let (mut position, commit) = stands(connection)?;
    if commit > accounts.commit {
        // It is of another journal, as far as can be told.
        connection.execute_batch(
            "DELETE FROM ledger;
             DELETE FROM ledger_destinations WHERE number <> 64;
             UPDATE ledger_destinations
                SET routed = 0, expired = 0, evicted = 0, damaged = 0, dead = 0;
             UPDATE ledger_state SET devices = 0, position = 0",
        )?;
        position = after;
    }
    let known = known(connection, &accounts.destinations)?;
    let mut gone = Vec::new();
    let mut counted = connection.prepare_cached("SELECT number FROM ledger_destinations")?;
    let mut numbers = counted.query([])?;
    while let Some(row) = numbers.next()? {
        let number: u8 = row.get(0)?;
        let is_same = |one: &Known| one.number == number && !one.is_new;
        if !matches!(number, STORED | SHED) && !known.iter().any(is_same) {
            gone.push(number);
        }
    }
    drop(numbers);
    for number in gone {
        connection.execute("DELETE FROM ledger WHERE number = ?1", [number])?;
        connection.execute(
            "DELETE FROM ledger_destinations WHERE number = ?1",
            [number],
        )?;
        if number < NOWHERE.0 {
            connection.execute(
                "UPDATE given SET mask = mask & ~?1 WHERE mask & ?1 <> 0",
                [1_i64 << number],
            )?;
        }
    }
    // A file of an earlier version has none, nor what is taken over from one.
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO ledger_destinations VALUES (?1, '', NULL, 0, 0, 0, 0, 0, 0)",
        )?
        .execute([SHED])?;
    for (one, account) in known.iter().zip(&accounts.destinations) {
        if one.is_new {
            connection.execute(
                "INSERT INTO ledger_destinations VALUES (?1, ?2, ?3, ?4, 0, 0, 0, 0, 0)",
                (
                    one.number,
                    &account.name,
                    account.began.map(|began| began.commit.cast_signed()),
                    one.since.cast_signed(),
                ),
            )?;
        }
    }
    Ok(Fold::new(connection, position, known))
}

/// Which destinations were given an event after it was stored, as its routes tell.
pub(super) fn given(accounts: &[AccountOf], record: &Record) -> i64 {
    let mut given = 0;
    for account in accounts {
        let was_given = account.began.is_some_and(|began| {
            let is_settled = account.given_to.is_none_or(|to| record.position <= to);
            began.kept && record.position <= began.position && is_settled
        });
        if was_given && account.id != NOWHERE && record.routes.contains(account.id) {
            given |= 1 << account.id.0;
        }
    }
    given
}

/// Notes which destinations were given an event, where that is here.
pub(super) fn put_given(
    connection: &Connection,
    position: Position,
    mask: i64,
) -> Result<(), Error> {
    if mask != 0 {
        connection
            .prepare_cached(
                "INSERT INTO given SELECT position, ?2 FROM events WHERE position = ?1
                 ON CONFLICT (position) DO UPDATE SET mask = mask | excluded.mask",
            )?
            .execute((position.0.cast_signed(), mask))?;
    }
    Ok(())
}

/// Writes what was counted with a page, up to `to`, and compares where that is all there is.
pub(super) fn end(
    connection: &Connection,
    deltas: &Deltas,
    to: Position,
    accounts: &Accounts,
    limits: &Limits,
) -> Result<Compared, Error> {
    write(connection, deltas, limits)?;
    connection
        .prepare_cached("UPDATE ledger_state SET position = max(position, ?1), commit_number = ?2")?
        .execute((to.0.cast_signed(), accounts.commit.cast_signed()))?;
    let mut compared = Compared {
        is_whole: accounts.is_whole,
        found: Vec::new(),
    };
    if accounts.is_whole {
        compare(connection, accounts, &mut compared.found)?;
    }
    Ok(compared)
}

fn write(connection: &Connection, deltas: &Deltas, limits: &Limits) -> Result<(), Error> {
    for (device, number, counts) in deltas.iter() {
        if device.is_empty() {
            add(connection, UNKNOWN, "", number, counts)?;
            unattribute(connection, counts)?;
        } else if !raise(connection, DEVICE, device, number, counts)? {
            let kind = kind_of(connection, device, limits)?;
            let device = if kind == DEVICE { device } else { "" };
            add(connection, kind, device, number, counts)?;
        }
    }
    for (number, counts) in deltas.sums() {
        total(connection, number, counts)?;
    }
    Ok(())
}

fn unattribute(connection: &Connection, counts: Counts) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE ledger_state SET unattributed = unattributed + ?1")?
        .execute([counts.magnitude()])?;
    Ok(())
}

/// Whether a device has a line of its own; it gets one while there is room.
fn kind_of(connection: &Connection, device: &str, limits: &Limits) -> Result<i64, Error> {
    let is_known: bool = connection
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM ledger WHERE kind = 0 AND device = ?1)")?
        .query_row([device], |row| row.get(0))?;
    if is_known {
        return Ok(DEVICE);
    }
    let fits = connection
        .prepare_cached("UPDATE ledger_state SET devices = devices + 1 WHERE devices < ?1")?
        .execute([limits.ledger_devices.cast_signed()])?;
    Ok(if fits > 0 { DEVICE } else { OTHERS })
}

fn add(
    connection: &Connection,
    kind: i64,
    device: &str,
    number: u8,
    counts: Counts,
) -> Result<(), Error> {
    if raise(connection, kind, device, number, counts)? {
        return Ok(());
    }
    connection
        .prepare_cached("INSERT INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
        .execute((
            kind,
            device,
            number,
            counts.routed,
            counts.expired,
            counts.evicted,
            counts.damaged,
            counts.dead,
        ))?;
    Ok(())
}

/// False where there is no such row.
fn raise(
    connection: &Connection,
    kind: i64,
    device: &str,
    number: u8,
    counts: Counts,
) -> Result<bool, Error> {
    let raised = connection
        .prepare_cached(
            "UPDATE ledger SET routed = routed + ?4, expired = expired + ?5,
             evicted = evicted + ?6, damaged = damaged + ?7, dead = dead + ?8
             WHERE kind = ?1 AND device = ?2 AND number = ?3",
        )?
        .execute((
            kind,
            device,
            number,
            counts.routed,
            counts.expired,
            counts.evicted,
            counts.damaged,
            counts.dead,
        ))?;
    Ok(raised > 0)
}

fn total(connection: &Connection, number: u8, counts: Counts) -> Result<(), Error> {
    connection
        .prepare_cached(
            "UPDATE ledger_destinations SET routed = routed + ?2, expired = expired + ?3,
             evicted = evicted + ?4, damaged = damaged + ?5, dead = dead + ?6
             WHERE number = ?1",
        )?
        .execute((
            number,
            counts.routed,
            counts.expired,
            counts.evicted,
            counts.damaged,
            counts.dead,
        ))?;
    Ok(())
}

/// Puts down as of no device what the journal says beyond what was counted.
fn compare(
    connection: &Connection,
    accounts: &Accounts,
    found: &mut Vec<String>,
) -> Result<(), Error> {
    let stored = Counts {
        routed: accounts.stored.cast_signed(),
        ..Counts::default()
    };
    let all = accounts.destinations.iter();
    let all = all.map(|account| (account.id.0, Counts::of(account)));
    let shed = Counts {
        routed: accounts.told,
        ..Counts::default()
    };
    for (number, said) in all.chain([(STORED, stored), (SHED, shed)]) {
        let counted = sums(connection, number)?;
        let missing = said.less(counted);
        if missing == Counts::default() {
            continue;
        }
        add(connection, UNKNOWN, "", number, missing)?;
        total(connection, number, missing)?;
        unattribute(connection, missing)?;
        let what = match number {
            STORED => "what was stored".to_owned(),
            SHED => "what was given up".to_owned(),
            number if number == NOWHERE.0 => "what goes nowhere".to_owned(),
            number => format!("destination {number}"),
        };
        found.push(format!(
            "of {what} the journal has {said:?}, and by device there are {counted:?}"
        ));
    }
    Ok(())
}

/// The sums of a destination's rows.
fn sums(connection: &Connection, number: u8) -> Result<Counts, Error> {
    Ok(connection
        .prepare_cached(
            "SELECT routed, expired, evicted, damaged, dead
             FROM ledger_destinations WHERE number = ?1",
        )?
        .query_row([number], |row| Counts::from_row(row, 0))
        .optional()?
        .unwrap_or_default())
}

/// Looks whether the rows are what their sums say, and no device ended more than it was
/// routed; a sentence each that is not so.
pub(super) fn audit(connection: &Connection) -> Result<Vec<String>, Error> {
    let mut found = Vec::new();
    let mut statement = connection.prepare_cached(
        "SELECT number, sum(routed), sum(expired), sum(evicted), sum(damaged), sum(dead)
         FROM ledger GROUP BY number",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (number, counted) = (row.get(0)?, Counts::from_row(row, 1)?);
        let said = sums(connection, number)?;
        if said != counted {
            found.push(format!(
                "the rows of destination {number} by device have {counted:?}, and their sums {said:?}"
            ));
        }
    }
    let mut statement = connection.prepare_cached(
        // Of what is of no device nobody knows where it was routed.
        "SELECT device, number FROM ledger l
         WHERE kind = 0 AND expired + evicted + damaged + dead > routed
         AND NOT EXISTS (SELECT 1 FROM ledger
                         WHERE kind IN (1, 2) AND device = '' AND number = l.number)
         LIMIT 10",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (device, number): (String, u8) = (row.get(0)?, row.get(1)?);
        found.push(format!(
            "more events of device {device:?} ended at destination {number} than were routed to it"
        ));
    }
    Ok(found)
}

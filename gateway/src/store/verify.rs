//! Looks at a journal without changing it: is everything whole, do the counters
//! say what the rows say, how much is there. One read transaction, so that rows
//! and counters are of the same moment; beside a busy gateway the write-ahead
//! log grows meanwhile.

use std::path::Path;

use penstock_broker::seal::{self, Seal};
use rusqlite::{Connection, OptionalExtension};

use super::{
    DATABASE, Error, Listing, Promise, column,
    frame::{self, column, integer},
    open,
    promises::Promises,
    reader,
    salvage::others::{OTHERS, Other},
    schema, sealed,
    state::{Standing, State},
    status::{DestinationStatus, Nowhere},
};
use crate::{
    event::Timestamp,
    record::{DestinationId, NOWHERE, Position, Routes},
};

/// Findings of one kind that are listed; more are only counted.
const FINDINGS_MAX: usize = 100;

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct VerifyReport {
    /// Events looked at.
    pub events: u64,
    /// Other rows looked at: keys, retries, dead letters, quarantine.
    pub others: u64,
    /// Rows whose checksum is wrong.
    pub damaged: u64,
    /// What is wrong, a sentence each; at most a hundred of a kind.
    pub findings: Vec<String>,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub const fn is_whole(&self) -> bool {
        self.findings.is_empty() && self.damaged == 0
    }

    fn find(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX * 4 {
            self.findings.push(finding);
        }
    }

    fn same(&mut self, what: String, counter: u64, rows: u64) {
        if counter != rows {
            self.find(format!(
                "{what}: the counter says {counter}, the rows say {rows}"
            ));
        }
    }

    fn damaged(&mut self, what: &str, number: u64) {
        self.damaged += 1;
        if self.damaged <= FINDINGS_MAX as u64 {
            self.find(format!("{what} {number} is damaged"));
        }
    }
}

/// Checks the journal in a data directory: structure, every checksum, cursors,
/// and the ledger recounted from the rows. Blocking, and reads everything.
///
/// # Errors
/// When there is no journal, or it cannot be opened. What is wrong inside is a
/// finding, not an error.
pub fn verify(dir: &Path, seal: &Seal) -> Result<VerifyReport, Error> {
    let database = dir.join(DATABASE);
    sealed::check(&database, seal)?;
    let connection = reader::open_read_only(&database)?;
    seal::register(&connection, seal, sealed::JOURNAL)?;
    let mut report = VerifyReport::default();
    match schema::check_version(&connection) {
        Err(Error::Damaged(finding)) => report.find(finding),
        other => drop(other?),
    }
    let transaction = connection.unchecked_transaction()?;
    if let Err(error) = look(&transaction, dir, seal, &mut report) {
        report.find(format!("could not read on: {error}"));
    }
    Ok(report)
}

fn look(
    connection: &Connection,
    dir: &Path,
    seal: &Seal,
    report: &mut VerifyReport,
) -> Result<(), Error> {
    let mut statement = connection.prepare("PRAGMA integrity_check(100)")?;
    let verdicts = statement.query_map([], |row| row.get::<_, String>(0))?;
    for verdict in verdicts {
        let verdict = verdict?;
        if verdict != "ok" {
            report.find(verdict);
        }
    }
    let Some(state) = open::read_state(connection)? else {
        report.find("the row that says where the journal stands is missing or damaged".into());
        return Ok(());
    };
    if let Promise::Broken {
        promised, found, ..
    } = promise(dir, &state)
    {
        report.find(format!(
            "commit {promised} was promised, the journal ends at {found}"
        ));
    }
    let waiting = events(connection, &state, seal, report)?;
    each(
        connection,
        "SELECT sequence, keys, checksum FROM commits",
        |row| {
            report.others += 1;
            let checksum = crc32fast::hash(column::bytes(row, 1)?);
            if column::number(row, 2)? != Some(checksum.into()) {
                report.damaged("list of keys of commit", integer(row.get(0)?));
            }
            Ok(())
        },
    )?;
    each(
        connection,
        "SELECT position, routes, received, frame, destination FROM retry",
        |row| {
            report.others += 1;
            let destination = column::number(row, 4)?;
            let is_of = |d: &Standing| Some(i64::from(d.id.0)) == destination;
            let known = state.destinations.iter().any(is_of);
            if frame::from_row(seal, row, 0)?.is_none() || !known {
                let position = column::number(row, 0)?.map_or(0, integer);
                report.damaged("retry of position", position);
            }
            Ok(())
        },
    )?;
    let dead = "SELECT id, damaged, position, routes, received, frame FROM dead_letters";
    each(connection, dead, |row| {
        report.others += 1;
        if frame::from_row(seal, row, 2)?.is_none() && column::number(row, 1)? == Some(0) {
            report.damaged("dead letter", integer(row.get(0)?));
        }
        Ok(())
    })?;
    let listing = Listing::open(dir, seal)?;
    let mut after = 0;
    loop {
        let page = listing.quarantine(after, 100)?;
        let Some(last) = page.last() else { break };
        after = last.id;
        for item in &page {
            report.others += 1;
            if !item.intact {
                report.damaged("quarantined message", item.id);
            }
        }
    }
    for Other { table, row, .. } in &OTHERS {
        let opened = format!("opened('{table}', {row}, checksum, body)");
        let select = format!("SELECT number, {opened} IS NULL FROM {table}");
        if connection.prepare(&select).is_err() {
            // A journal of an earlier version has none.
            continue;
        }
        each(connection, &select, |row| {
            report.others += 1;
            if row.get(1)? {
                report.damaged(&format!("row of {table}"), integer(row.get(0)?));
            }
            Ok(())
        })?;
    }
    counters(connection, &state, &waiting, report)
}

/// Every event's checksum; returns how many wait after each destination's cursor.
fn events(
    connection: &Connection,
    state: &State,
    seal: &Seal,
    report: &mut VerifyReport,
) -> Result<Vec<u64>, Error> {
    let mut waiting = vec![0; state.destinations.len()];
    let mut last = Position(0);
    each(
        connection,
        "SELECT position, routes, received, frame FROM events ORDER BY position",
        |row| {
            report.events += 1;
            let position = Position(integer(row.get(0)?));
            // One that does not tell is waited for by all.
            let routes = Routes(column::number(row, 1)?.map_or(u64::MAX, integer));
            let left = position <= state.trimmed && !routes.contains(NOWHERE);
            if left || position <= last || position > state.position {
                report.find(format!("event {position} lies where none should be"));
            }
            last = last.max(position);
            if frame::from_row(seal, row, 0)?.is_none() {
                report.damaged("event", position.0);
            }
            for (d, waiting) in state.destinations.iter().zip(&mut waiting) {
                *waiting += u64::from(d.waits_for(position, routes));
            }
            Ok(())
        },
    )?;
    Ok(waiting)
}

fn counters(
    connection: &Connection,
    state: &State,
    waiting: &[u64],
    report: &mut VerifyReport,
) -> Result<(), Error> {
    let count = |table: &str| -> Result<u64, Error> {
        Ok(
            connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| {
                row.get(0).map(integer)
            })?,
        )
    };
    report.same(
        "events in the journal".into(),
        state.buffered,
        count("events")?,
    );
    report.same(
        "messages in quarantine".into(),
        state.in_quarantine,
        count("quarantine")?,
    );
    report.same(
        "dead letters".into(),
        state.dead_letters,
        count("dead_letters")?,
    );
    for (d, waiting) in state.destinations.iter().zip(waiting) {
        let retrying: u64 = connection.query_row(
            "SELECT count(*) FROM retry WHERE destination = ?1",
            [d.id.0],
            |row| row.get(0).map(integer),
        )?;
        report.same(
            format!("{}, waiting for another attempt", whose(d)),
            d.retrying,
            retrying,
        );
        report.same(
            format!("{}, backlog", whose(d)),
            d.backlog(),
            waiting + retrying,
        );
        if d.cursor > state.position {
            report.find(format!(
                "the cursor of {} is beyond the last position",
                whose(d)
            ));
        }
        if d.settled() > d.routed {
            report.find(format!("{} settled more than was routed to it", whose(d)));
        }
    }
    Ok(())
}

fn whose(d: &Standing) -> String {
    if d.id == NOWHERE {
        "what is held for nobody".to_owned()
    } else {
        format!("destination {}", d.id.0)
    }
}

fn promise(dir: &Path, state: &State) -> Promise {
    match Promises::open_existing(dir)
        .ok()
        .and_then(|promises| promises.read())
    {
        None => Promise::Unknown,
        Some(promised) if promised.commit <= state.commit => Promise::Kept,
        Some(promised) => Promise::Broken {
            promised: promised.commit,
            found: state.commit,
            events: promised.stored.saturating_sub(state.stored),
        },
    }
}

/// How much is there.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// The last committed position.
    pub committed: Position,
    /// Events in the journal.
    pub events: u64,
    /// Position of the first of them.
    pub first: Option<Position>,
    /// When the first of them was received.
    pub oldest: Option<Timestamp>,
    /// When the last of them was received.
    pub newest: Option<Timestamp>,
    /// Events and messages taken from devices, ever.
    pub accepted: u64,
    /// Of those: events stored.
    pub stored: u64,
    /// Of those: refused a second copy.
    pub duplicate: u64,
    /// Of those: quarantined.
    pub quarantined: u64,
    /// Of those: given up while room was short.
    pub shed: u64,
    /// Turned away for want of room.
    pub refused_full: u64,
    /// Keys on disk for the dedup window.
    pub keys: u64,
    /// Messages in quarantine now.
    pub in_quarantine: u64,
    /// Dead letters kept now.
    pub dead_letters: u64,
    /// The database file.
    pub database_bytes: u64,
    /// Of that: free, used again before it grows.
    pub free_bytes: u64,
    /// The write-ahead log.
    pub log_bytes: u64,
    /// Events that the rules sent nowhere.
    pub nowhere: Nowhere,
    /// Each destination the journal knows; `configured` is not known here and false.
    pub destinations: Vec<DestinationStatus>,
}

/// How much is in the journal of a data directory. Blocking, but quick.
///
/// # Errors
/// When there is no journal, or it cannot be read.
pub fn stats(dir: &Path) -> Result<Stats, Error> {
    let database = dir.join(DATABASE);
    let listing = Listing::of_database(&database, &Seal::default())?;
    let names = listing.destinations()?;
    let connection = reader::open_read_only(&database)?;
    let transaction = connection.unchecked_transaction()?;
    let state = open::read_state(&transaction)?.unwrap_or_default();
    let number = |sql: &str| -> Result<u64, Error> {
        Ok(transaction
            .query_row(sql, [], |row| row.get::<_, Option<i64>>(0))
            .map(|n| integer(n.unwrap_or(0)))?)
    };
    let end = |order: &str| -> Result<Option<(Position, Timestamp)>, Error> {
        let sql =
            format!("SELECT position, received FROM events ORDER BY position {order} LIMIT 1");
        let row = transaction.query_row(&sql, [], |row| {
            Ok((Position(integer(row.get(0)?)), column::instant(row, 1)?))
        });
        Ok(row.optional()?)
    };
    let (first, last) = (end("ASC")?, end("DESC")?);
    let page_bytes = number("PRAGMA page_size")?;
    let log = std::fs::metadata(dir.join(format!("{DATABASE}-wal"))).map_or(0, |m| m.len());
    let mut destinations = Vec::new();
    let nowhere = state.nowhere();
    let nowhere = nowhere
        .map(|d| destination(&transaction, d, ""))
        .transpose()?;
    for d in state.named() {
        let name = names
            .iter()
            .find(|(id, _)| *id == d.id)
            .map_or("", |(_, name)| name);
        destinations.push(destination(&transaction, d, name)?);
    }
    Ok(Stats {
        committed: state.position,
        events: state.buffered,
        first: first.map(|(position, _)| position),
        oldest: first.map(|(_, at)| at),
        newest: last.map(|(_, at)| at),
        accepted: state.accepted(),
        stored: state.stored,
        duplicate: state.duplicate,
        quarantined: state.quarantined,
        shed: state.shed.iter().sum(),
        refused_full: state.refused_full,
        keys: number("SELECT CAST(total(count) AS INTEGER) FROM commits")?,
        in_quarantine: state.in_quarantine,
        dead_letters: state.dead_letters,
        database_bytes: number("PRAGMA page_count")? * page_bytes,
        free_bytes: number("PRAGMA freelist_count")? * page_bytes,
        log_bytes: log,
        nowhere: nowhere.map(Nowhere::from).unwrap_or_default(),
        destinations,
    })
}

fn destination(
    connection: &Connection,
    d: &Standing,
    name: &str,
) -> Result<DestinationStatus, Error> {
    let bit = column(Routes::NONE.with(DestinationId(d.id.0)).0);
    let oldest = if d.backlog() > d.retrying {
        connection
            .query_row(
                "SELECT received FROM events WHERE position > ?1 AND routes & ?2 != 0
                 ORDER BY position LIMIT 1",
                (column(d.cursor.0), bit),
                |row| column::instant(row, 0),
            )
            .optional()?
    } else {
        None
    };
    Ok(DestinationStatus {
        id: d.id,
        name: name.into(),
        configured: false,
        cursor: d.cursor,
        routed: d.routed,
        delivered: d.delivered,
        expired: d.expired,
        evicted: d.evicted,
        damaged: d.damaged,
        dead: d.dead,
        backlog: d.backlog(),
        retrying: d.retrying,
        mode: d.mode,
        filling: d.fill.is_some(),
        spent: d.spent,
        oldest,
    })
}

fn each(
    connection: &Connection,
    sql: &str,
    mut look: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> Result<(), Error> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        look(row)?;
    }
    Ok(())
}

//! The ledger of devices, by destination.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Context, Reader, cursor, limit, place,
    shown::{LedgerDestination, LedgerDevice, LedgerMore, LedgerNowhere, LedgerSum},
};
use crate::{
    query::{
        Error,
        ledger::{self, Counts, Fold, Known, SHED, STORED},
    },
    record::{DestinationId, NOWHERE, is_own},
    store::{AccountOf, Listing, Snapshot},
};

/// Counting what waits ends after this long.
const COUNT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long it is tried again where the journal changed while it was looked through, and
/// how soon.
const AGAIN_MAX: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(20);

/// Of which devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// Of this device; of all without it.
    pub device: Option<String>,
    /// Where the page begins.
    pub after: Option<String>,
    /// Its size, at most.
    pub limit: usize,
}

impl Reader {
    /// What became of the events of each device, by destination, up to the last one that
    /// the journal has.
    ///
    /// # Errors
    /// When a database cannot be read, or `after` is not of an answer.
    pub fn ledger(&mut self, asked: &Ledger) -> Result<Value, Error> {
        let began = Instant::now();
        loop {
            let answer = self.ledger_once(asked)?;
            let took = began.elapsed();
            match answer {
                Some(answer) if answer["complete"] == true || took > AGAIN_MAX => {
                    return Ok(answer);
                }
                None if took > COUNT_TIME_MAX => {
                    let what = "the journal changes too fast for an answer; ask again";
                    return Err(Error::Waits(what.into()));
                }
                // The journal changed while it was looked through.
                _ => std::thread::sleep(AGAIN),
            }
        }
    }

    /// One try; `None` where the read side has counted more than the journal had when it was
    /// looked at.
    fn ledger_once(&mut self, asked: &Ledger) -> Result<Option<Value>, Error> {
        let untold = self.journal.listing(|listing| Ok(listing.untold()?))?;
        let (devices, next) = devices(&self.connection, asked, untold)?;
        // The journal first: what it has forgotten was counted before, and so is in what is
        // read of the read side afterwards.
        let snapshot = self
            .journal
            .listing(|listing| Ok(listing.snapshot(|device| devices.contains(device))?))?;
        let mut found = None;
        let mut answer = self.answer(|context| {
            let (at, commit) = ledger::stands(context.connection)?;
            if commit > snapshot.commit || at > snapshot.position {
                return Ok((Vec::new(), None));
            }
            let (items, more) = context
                .journal
                .listing(|listing| page(context, listing, (asked, &devices), &snapshot))?;
            found = Some(more);
            Ok((items, next))
        })?;
        let Some(more) = found else {
            return Ok(None);
        };
        if let (Value::Object(answer), Value::Object(mut more)) = (&mut answer, json!(more)) {
            answer.append(&mut more);
        }
        Ok(Some(answer))
    }

    /// Whether the ledger by device is the sum of its rows, a sentence for each that it is not.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn audit_ledger(&mut self) -> Result<Vec<String>, Error> {
        let transaction = self.connection.transaction()?;
        ledger::audit(&transaction)
    }
}

/// What is said of devices, and what is said of all.
type Page = (Vec<Value>, LedgerMore);

fn page(
    context: &Context<'_>,
    listing: &Listing,
    (asked, devices): (&Ledger, &BTreeSet<String>),
    snapshot: &Snapshot,
) -> Result<Page, Error> {
    let connection = context.connection;
    let known = ledger::known(connection, &snapshot.destinations)?;
    let since = Since::count(connection, listing, snapshot, &known, devices)?;
    let items = devices.iter();
    let items = items.map(|device| {
        let rows = rows(connection, 0, device, &known)?;
        Ok(item(device, rows, snapshot, &since))
    });
    let mut items: Vec<LedgerDevice> = items.collect::<Result<_, Error>>()?;
    if asked.device.is_some() {
        // Nothing was ever heard of it.
        items.retain(|item| {
            let sum = &item.sum;
            sum.stored != 0 || sum.shed != 0 || !sum.destinations.is_empty()
        });
    }
    let mut more = LedgerMore {
        complete: since.is_complete,
        others: None,
        unknown: None,
        unattributed: None,
    };
    if asked.device.is_none() {
        let sum = |kind| {
            let rows = rows(connection, kind, "", &known)?;
            Ok::<_, Error>(without_rest(rows, &snapshot.destinations))
        };
        let mut unknown = sum(2)?;
        unknown.shed += untold(snapshot, "");
        (more.others, more.unknown) = (Some(sum(1)?), Some(unknown));
        more.unattributed = Some(ledger::unattributed(connection)?);
    }
    let items = items.iter().map(|item| json!(item)).collect();
    Ok((items, more))
}

/// What was given up of a device and is not told yet.
fn untold(snapshot: &Snapshot, device: &str) -> i64 {
    snapshot
        .untold
        .get(device)
        .copied()
        .unwrap_or(0)
        .cast_signed()
}

/// The devices of a page, and where the next one begins. Those of which is `untold` that
/// something was given up may have nothing else.
fn devices(
    connection: &Connection,
    asked: &Ledger,
    untold: Vec<String>,
) -> Result<(BTreeSet<String>, Option<String>), Error> {
    if let Some(device) = &asked.device {
        return Ok((BTreeSet::from([device.clone()]), None));
    }
    let after: String = asked.after.as_deref().map_or(Ok(String::new()), place)?;
    let (count, rows) = limit(asked.limit);
    let mut devices: Vec<String> = connection
        .prepare_cached(
            "SELECT DISTINCT device FROM ledger WHERE kind = 0 AND device > ?1
             ORDER BY device LIMIT ?2",
        )?
        .query_map((&after, rows), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    devices.extend(untold.into_iter().filter(|device| *device > after));
    devices.sort_unstable();
    devices.dedup();
    let is_more = devices.len() > count;
    devices.truncate(count);
    let next = devices.last().filter(|_| is_more);
    let next = next.map(|last| cursor(&json!(last)));
    Ok((devices.into_iter().collect(), next))
}

/// What was counted of a device, by destination. What is of an earlier destination of a number
/// is left out.
fn rows(
    connection: &Connection,
    kind: i64,
    device: &str,
    known: &[Known],
) -> Result<BTreeMap<u8, Counts>, Error> {
    let mut statement = connection.prepare_cached(
        "SELECT number, routed, expired, evicted, damaged, dead FROM ledger
         WHERE kind = ?1 AND device = ?2",
    )?;
    let rows = statement.query_map((kind, device), |row| {
        Ok((row.get(0)?, Counts::from_row(row, 1)?))
    })?;
    let mut counted = BTreeMap::new();
    for row in rows {
        let (number, counts): (u8, Counts) = row?;
        let mut known = known.iter();
        if matches!(number, STORED | SHED) || known.any(|one| one.number == number && !one.is_new) {
            counted.insert(number, counts);
        }
    }
    Ok(counted)
}

/// What the journal has beyond what was counted, and what waits in it.
struct Since<'c> {
    fold: Fold<'c>,
    waiting: BTreeMap<(String, DestinationId), u64>,
    /// What waits was counted to the end.
    is_complete: bool,
}

impl<'c> Since<'c> {
    fn count(
        connection: &'c Connection,
        listing: &Listing,
        snapshot: &Snapshot,
        known: &[Known],
        devices: &BTreeSet<String>,
    ) -> Result<Self, Error> {
        let (at, counted) = ledger::stands(connection)?;
        let mut fold = Fold::new(connection, at, known.to_vec());
        for (commit, tally) in snapshot.tallies.iter().filter(|(of, _)| *of > counted) {
            fold.tally(*commit, tally)?;
        }
        let mut waiting = snapshot.retrying.clone();
        let until = Instant::now() + COUNT_TIME_MAX;
        let is_complete = listing.scan_snapshot(snapshot, at, until, |record, device, waits| {
            if !devices.contains(device) {
                return;
            }
            fold.record(record.position, device, record.routes);
            for one in known {
                let id = DestinationId(one.number);
                if id != NOWHERE && waits.contains(id) {
                    *waiting.entry((device.to_owned(), id)).or_default() += 1;
                }
            }
        })?;
        Ok(Self {
            fold,
            waiting,
            is_complete,
        })
    }
}

fn item(
    device: &str,
    mut counted: BTreeMap<u8, Counts>,
    snapshot: &Snapshot,
    since: &Since<'_>,
) -> LedgerDevice {
    let accounts = &snapshot.destinations;
    for (number, counts) in since.fold.deltas.of(device) {
        *counted.entry(*number).or_default() += *counts;
    }
    let mut sum = without_rest(counted.clone(), accounts);
    sum.shed += untold(snapshot, device);
    for one in &mut sum.destinations {
        let account = accounts.iter().find(|account| one.name == account.name);
        let Some(account) = account.filter(|_| since.is_complete) else {
            // Nobody had the time to count it.
            (one.backlog, one.delivered) = (Some(None), Some(None));
            continue;
        };
        let of = (device.to_owned(), account.id);
        let backlog = since.waiting.get(&of).copied().unwrap_or(0);
        let counts = counted.get(&account.id.0).copied().unwrap_or_default();
        one.backlog = Some(Some(backlog.cast_signed()));
        one.delivered = Some(Some(counts.routed - counts.lost() - backlog.cast_signed()));
    }
    LedgerDevice {
        device: device.to_owned(),
        sum,
    }
}

/// What is said of one device, or of many, without what waits and what was delivered.
fn without_rest(counted: BTreeMap<u8, Counts>, accounts: &[AccountOf]) -> LedgerSum {
    let of = |number| counted.get(&number).map_or(0, |counts| counts.routed);
    let (stored, shed) = (of(STORED), of(SHED));
    let mut nowhere = None;
    let mut destinations = Vec::new();
    for (number, counts) in counted {
        let Some(account) = accounts.iter().find(|account| account.id.0 == number) else {
            continue;
        };
        if is_own(&account.name) {
            // What rules do is in their own account.
            continue;
        }
        if account.id == NOWHERE {
            nowhere = Some(LedgerNowhere {
                total: counts.routed,
                held: counts.routed - counts.lost(),
                expired: counts.expired,
                evicted: counts.evicted,
                damaged: counts.damaged,
            });
            continue;
        }
        destinations.push(LedgerDestination {
            name: account.name.clone(),
            routed: counts.routed,
            expired: counts.expired,
            evicted: counts.evicted,
            damaged: counts.damaged,
            dead: counts.dead,
            backlog: None,
            delivered: None,
        });
    }
    LedgerSum {
        stored,
        shed,
        nowhere,
        destinations,
    }
}

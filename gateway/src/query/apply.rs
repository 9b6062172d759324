//! What a page of the journal changes in the projections: one transaction, with the
//! cursor.

use rusqlite::Connection;

use super::{
    Error, Limits, corrections,
    ledger::{self, Compared},
    series::Batch,
    words::Words,
};
use crate::{
    event::{Event, View},
    record::{Position, Record},
    store::{AccountOf, Accounts, Page},
};

/// Ranges of missing positions that are told apart; the oldest ones are joined.
const MISSING_MAX: i64 = 100;

/// Applies a page that was read after `after`, and the ledger as of the same commit.
pub(super) fn apply(
    connection: &mut Connection,
    after: Position,
    accounts: &Accounts,
    limits: &Limits,
) -> Result<Compared, Error> {
    let transaction = connection.transaction()?;
    let mut fold = ledger::begin(&transaction, after, accounts)?;
    for (commit, tally) in &accounts.tallies {
        fold.tally(*commit, tally)?;
        for given in &tally.given {
            let position = Position(given.position);
            ledger::put_given(&transaction, position, 1_i64 << given.destination)?;
        }
    }
    let page = &accounts.page;
    for record in &page.records {
        let view = View::parse(&record.body);
        let device = view.map_or("", |view| view.attributes.device);
        fold.record(record.position, device, record.routes);
    }
    let deltas = fold.deltas;
    let to = events(&transaction, after, page, &accounts.destinations, limits)?;
    let compared = ledger::end(&transaction, &deltas, to, accounts, limits)?;
    transaction.commit()?;
    Ok(compared)
}

/// Applies the records of a page; up to where it goes.
fn events(
    transaction: &Connection,
    after: Position,
    page: &Page,
    accounts: &[AccountOf],
    limits: &Limits,
) -> Result<Position, Error> {
    let mut batch = Batch::new(transaction, *limits)?;
    let mut words = Words::default();
    let (mut last, mut unread) = (after, 0_u32);
    for record in &page.records {
        missing(transaction, last, Position(record.position.0 - 1))?;
        last = record.position;
        match record.event() {
            // What it is a copy of was taken in when that came.
            Ok(event) if event.replayed.is_some() => {}
            Ok(event) => {
                let given = ledger::given(accounts, record);
                event_row(transaction, record, &event)?;
                words.add(transaction, record.position.0.cast_signed(), &event)?;
                ledger::put_given(transaction, record.position, given)?;
                if event.corrected.is_some() {
                    corrections::take_back(transaction, &mut batch, record.position, event.key)?;
                }
                batch.add(transaction, record.position, &event)?;
            }
            // What does not read back is a destination's to report.
            Err(_) => unread += 1,
        }
    }
    missing(transaction, last, page.scanned_to)?;
    batch.write(transaction)?;
    let to = page.scanned_to.max(last);
    transaction
        .prepare_cached("UPDATE state SET position = ?1, unread = unread + ?2")?
        .execute((to.0.cast_signed(), unread))?;
    Ok(to)
}

fn event_row(connection: &Connection, record: &Record, event: &Event) -> Result<(), Error> {
    let position = record.position.0.cast_signed();
    connection
        .prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3, ?4, 0, ?5)")?
        .execute((
            position,
            // Not the record's: a correction has one of its own there.
            &event.key.0[..],
            record.received.as_nanos(),
            record.routes.0.cast_signed(),
            &record.body[..],
        ))?;
    Ok(())
}

/// Notes that nothing is known of the positions after `after` up to `to`.
fn missing(connection: &Connection, after: Position, to: Position) -> Result<(), Error> {
    if to <= after {
        return Ok(());
    }
    let (first, last) = (after.0.cast_signed() + 1, to.0.cast_signed());
    // What follows a range that is known continues it.
    let continued = connection
        .prepare_cached("UPDATE missing SET last = ?1 WHERE last = ?2")?
        .execute((last, first - 1))?;
    if continued == 0 {
        connection
            .prepare_cached("INSERT INTO missing VALUES (?1, ?2)")?
            .execute((first, last))?;
    }
    let count: i64 = connection
        .prepare_cached("SELECT count(*) FROM missing")?
        .query_row([], |row| row.get(0))?;
    if count > MISSING_MAX {
        connection.execute_batch(
            "UPDATE missing SET last = (SELECT last FROM missing ORDER BY first LIMIT 1 OFFSET 1)
             WHERE first = (SELECT min(first) FROM missing);
             DELETE FROM missing
             WHERE first = (SELECT first FROM missing ORDER BY first LIMIT 1 OFFSET 1);",
        )?;
    }
    Ok(())
}

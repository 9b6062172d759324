//! Quarantine and dead letters: what is searched follows what is kept in the journal.
//!
//! Their numbers only grow, so new ones are those behind the last; what is gone is found
//! by comparing the numbers, a page at a time.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};

use super::{Error, text};
use crate::store::{DeadLetter, Listing, Quarantined};

/// Items of one transaction, about.
const PAGE: usize = 500;

/// Brings the projections of quarantine and dead letters up to date, as far as one page
/// of each goes. False when more may follow.
pub(super) fn follow(connection: &mut Connection, listing: &Listing) -> Result<bool, Error> {
    let transaction = connection.transaction()?;
    let quarantine = quarantine(&transaction, listing)?;
    let dead = dead_letters(&transaction, listing)?;
    transaction.commit()?;
    Ok(quarantine && dead)
}

fn last(connection: &Connection, table: &str) -> Result<u64, Error> {
    let last: Option<i64> = connection
        .prepare_cached(&format!("SELECT max(id) FROM {table}"))?
        .query_row([], |row| row.get(0))?;
    Ok(last.unwrap_or(0).cast_unsigned())
}

fn quarantine(connection: &Connection, listing: &Listing) -> Result<bool, Error> {
    let items = listing.quarantine(last(connection, "quarantine")?, PAGE)?;
    for item in &items {
        message(connection, item)?;
    }
    Ok(items.is_empty())
}

fn message(connection: &Connection, item: &Quarantined) -> Result<(), Error> {
    let id = item.id.cast_signed();
    connection
        .prepare_cached("INSERT INTO quarantine VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            id,
            item.received.as_nanos(),
            item.client_id,
            item.topic,
            item.class,
            item.reason
        ])?;
    connection
        .prepare_cached(
            "INSERT INTO quarantine_text (rowid, device, topic, type, text)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            id,
            item.client_id,
            item.topic,
            item.class,
            text::of_message(&item.reason, &item.payload)
        ])?;
    Ok(())
}

fn dead_letters(connection: &Connection, listing: &Listing) -> Result<bool, Error> {
    let letters = listing.dead_letters(None, last(connection, "dead_letters")?, PAGE)?;
    for letter in &letters {
        dead_letter(connection, letter)?;
    }
    Ok(letters.is_empty())
}

fn dead_letter(connection: &Connection, letter: &DeadLetter) -> Result<(), Error> {
    let id = letter.id.cast_signed();
    connection
        .prepare_cached("INSERT INTO dead_letters VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)")?
        .execute(params![
            id,
            letter.destination_name,
            letter.record.position.0.cast_signed(),
            letter.attempts,
            letter.at.as_nanos(),
            letter.reason
        ])?;
    let event = letter.record.event().ok().filter(|_| !letter.damaged);
    let mut words = event.as_ref().map(text::of_event).unwrap_or_default();
    text::add(&mut words, &letter.destination_name);
    text::add(&mut words, &letter.reason);
    let (device, topic, kind) = event.as_ref().map_or(("", "", ""), |event| {
        (&*event.device, &*event.topic, &*event.kind)
    });
    connection
        .prepare_cached(
            "INSERT INTO dead_letter_text (rowid, device, topic, type, text)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![id, device, topic, kind, words])?;
    Ok(())
}

/// Forgets messages that are not in quarantine any more.
pub(super) fn forget_messages(connection: &mut Connection, listing: &Listing) -> Result<(), Error> {
    let transaction = connection.transaction()?;
    for id in gone(&transaction, "quarantine", |after| {
        listing.quarantine_ids(after, PAGE)
    })? {
        transaction.execute("DELETE FROM quarantine WHERE id = ?1", [id])?;
        transaction.execute("DELETE FROM quarantine_text WHERE rowid = ?1", [id])?;
    }
    transaction.commit()?;
    Ok(())
}

/// Notes dead letters that are no more.
pub(super) fn forget_dead_letters(
    connection: &mut Connection,
    listing: &Listing,
) -> Result<(), Error> {
    let transaction = connection.transaction()?;
    for id in gone(&transaction, "dead_letters", |after| {
        listing.dead_letter_ids(after, PAGE)
    })? {
        // That there was one is part of where its event is.
        transaction.execute("UPDATE dead_letters SET gone = 1 WHERE id = ?1", [id])?;
        transaction.execute("DELETE FROM dead_letter_text WHERE rowid = ?1", [id])?;
    }
    transaction.commit()?;
    Ok(())
}

/// The numbers of a table that are no more among those that are kept.
fn gone(
    connection: &Connection,
    table: &str,
    kept: impl Fn(u64) -> Result<Vec<u64>, crate::store::Error>,
) -> Result<Vec<i64>, Error> {
    let filter = if table == "dead_letters" {
        "gone = 0 AND"
    } else {
        ""
    };
    let mut known = connection.prepare(&format!(
        "SELECT id FROM {table} WHERE {filter} id > ?1 AND id <= ?2 ORDER BY id"
    ))?;
    let (mut gone, mut after) = (Vec::new(), 0_u64);
    loop {
        let page = kept(after)?;
        let end = page.last().copied().unwrap_or(i64::MAX.cast_unsigned());
        let page: BTreeSet<u64> = page.into_iter().collect();
        let range = (after.cast_signed(), end.cast_signed());
        let known = known.query_map(range, |row| row.get::<_, i64>(0))?;
        for id in known {
            let id = id?;
            if !page.contains(&id.cast_unsigned()) {
                gone.push(id);
            }
        }
        if page.is_empty() {
            return Ok(gone);
        }
        after = end;
    }
}

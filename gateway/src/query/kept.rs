//! Quarantine and dead letters: what is searched follows what is kept in the journal.
//!
//! Their numbers only grow, so new ones are those behind the last; what is gone is found
//! by comparing the numbers, a page at a time. Both have a share of `read.db`; beyond it
//! the oldest leave it.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Error, text};
use crate::{
    admin,
    boots::Boots,
    store::{DeadLetter, Listing, Quarantined},
};

/// Items of one transaction, about.
const PAGE: usize = 500;

/// Where the items are, and where their words are.
type Tables = (&'static str, &'static str);
const QUARANTINE: Tables = ("quarantine", "quarantine_text");
const DEAD_LETTERS: Tables = ("dead_letters", "dead_letter_text");

/// Brings the projections of quarantine and dead letters up to date, as far as one page
/// of each goes. They take `share` bytes at most. False when more may follow.
pub(super) fn follow(
    connection: &mut Connection,
    listing: &Listing,
    boots: &Boots,
    share: u64,
) -> Result<bool, Error> {
    let transaction = connection.transaction()?;
    let quarantine = quarantine(&transaction, listing, boots)?;
    let dead = dead_letters(&transaction, listing)?;
    evict(&transaction, share.cast_signed())?;
    transaction.commit()?;
    Ok(quarantine && dead)
}

fn last(connection: &Connection, table: &str) -> Result<u64, Error> {
    let last: Option<i64> = connection
        .prepare_cached(&format!("SELECT max(id) FROM {table}"))?
        .query_row([], |row| row.get(0))?;
    Ok(last.unwrap_or(0).cast_unsigned())
}

/// Bytes that an item takes with its words, about: these are in an index, and may be as
/// long again.
fn bytes(texts: &[&str]) -> i64 {
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    i64::try_from(2 * bytes + 128).unwrap_or(i64::MAX)
}

/// Counts what came, or with a minus left.
fn count(connection: &Connection, bytes: i64) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE state SET kept_bytes = max(kept_bytes + ?1, 0)")?
        .execute([bytes])?;
    Ok(())
}

/// Gives up the oldest until the rest has `share` bytes. The newest of each stays: it
/// says what is new.
fn evict(connection: &Connection, share: i64) -> Result<(), Error> {
    loop {
        let taken: i64 = connection
            .prepare_cached("SELECT kept_bytes FROM state")?
            .query_row([], |row| row.get(0))?;
        if taken <= share {
            return Ok(());
        }
        let oldest: Option<(i64, i64, i64)> = connection
            .prepare_cached(
                "SELECT received, id, 0 FROM quarantine
                 WHERE id = (SELECT min(id) FROM quarantine)
                 AND id < (SELECT max(id) FROM quarantine)
                 UNION ALL SELECT at, id, 1 FROM dead_letters
                 WHERE id = (SELECT min(id) FROM dead_letters)
                 AND id < (SELECT max(id) FROM dead_letters)
                 ORDER BY 1, 3 LIMIT 1",
            )?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        match oldest {
            Some((_, id, 0)) => forget(connection, QUARANTINE, id)?,
            Some((_, id, _)) => forget(connection, DEAD_LETTERS, id)?,
            None => return Ok(()),
        }
        connection
            .prepare_cached("UPDATE state SET kept_evicted = kept_evicted + 1")?
            .execute([])?;
    }
}

/// Removes an item and its words.
fn forget(connection: &Connection, (table, words): Tables, id: i64) -> Result<(), Error> {
    let bytes: Option<i64> = connection
        .prepare_cached(&format!(
            "DELETE FROM {table} WHERE id = ?1 RETURNING bytes"
        ))?
        .query_row([id], |row| row.get(0))
        .optional()?;
    connection
        .prepare_cached(&format!("DELETE FROM {words} WHERE rowid = ?1"))?
        .execute([id])?;
    count(connection, -bytes.unwrap_or(0))
}

fn quarantine(connection: &Connection, listing: &Listing, boots: &Boots) -> Result<bool, Error> {
    let items = listing.quarantine(last(connection, "quarantine")?, PAGE)?;
    for item in &items {
        message(connection, item, boots)?;
    }
    Ok(items.is_empty())
}

fn message(connection: &Connection, item: &Quarantined, boots: &Boots) -> Result<(), Error> {
    let id = item.id.cast_signed();
    let words = text::of_message(&item.reason, &item.payload);
    let bytes = bytes(&[&item.client_id, &item.topic, &item.class, &words]);
    count(connection, bytes)?;
    connection
        .prepare_cached("INSERT INTO quarantine VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![
            id,
            admin::received(item, boots).as_nanos(),
            item.client_id,
            item.topic,
            item.class,
            item.reason,
            bytes
        ])?;
    connection
        .prepare_cached(
            "INSERT INTO quarantine_text (rowid, device, topic, type, text)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![id, item.client_id, item.topic, item.class, words])?;
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
    let event = letter.record.event().ok().filter(|_| !letter.damaged);
    let mut words = event.as_ref().map(text::of_event).unwrap_or_default();
    text::add(&mut words, &letter.destination_name);
    text::add(&mut words, &letter.reason);
    let (device, topic, kind) = event.as_ref().map_or(("", "", ""), |event| {
        (&*event.device, &*event.topic, &*event.kind)
    });
    let bytes = bytes(&[device, topic, kind, &words]);
    count(connection, bytes)?;
    connection
        .prepare_cached("INSERT INTO dead_letters VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, ?7)")?
        .execute(params![
            id,
            letter.destination_name,
            letter.record.position.0.cast_signed(),
            letter.attempts,
            letter.at.as_nanos(),
            letter.reason,
            bytes
        ])?;
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
        forget(&transaction, QUARANTINE, id)?;
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

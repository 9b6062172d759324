//! What came before the gateway knew the time: once it is known when its boot was, it
//! gets its times here, as it does on its way to a destination.
//!
//! Until then it stands at the times that it was stamped with, which everybody knows for
//! none. It is found by indexes that have nothing else in them.

use bytes::Bytes;
use rusqlite::Connection;

use super::{Error, Limits, series::Batch};
use crate::{
    admin,
    boots::Boots,
    event::{Key, Timestamp},
    record::{Position, Record, Routes},
    store::Listing,
};

/// Events of one transaction.
const PAGE: i64 = 500;

/// Gives everything its time whose boot is known by now.
pub(super) fn repair(
    connection: &mut Connection,
    listing: &Listing,
    boots: &Boots,
    limits: Limits,
) -> Result<(), Error> {
    let mut after = Position(0);
    while let Some(last) = events(connection, boots, after, limits)? {
        after = last;
    }
    messages(connection, listing, boots)
}

/// A page of events; where it ends.
fn events(
    connection: &mut Connection,
    boots: &Boots,
    after: Position,
    limits: Limits,
) -> Result<Option<Position>, Error> {
    let transaction = connection.transaction()?;
    let unset: Vec<(Record, bool)> = transaction
        .prepare_cached(
            "SELECT position, key, received, routes, body, replaced FROM events
             WHERE received < 1420070400000000000 AND position > ?1 ORDER BY position LIMIT ?2",
        )?
        .query_map((after.0.cast_signed(), PAGE), |row| {
            let record = Record {
                position: Position(row.get::<_, i64>(0)?.cast_unsigned()),
                key: Key(row.get(1)?),
                received: Timestamp::from_nanos(row.get(2)?),
                routes: Routes(row.get::<_, i64>(3)?.cast_unsigned()),
                body: Bytes::from(row.get::<_, Vec<u8>>(4)?),
            };
            Ok((record, row.get(5)?))
        })?
        .collect::<Result<_, _>>()?;
    let last = unset.last().map(|(record, _)| record.position);
    let mut batch = Batch::new(&transaction, limits)?;
    for (record, is_replaced) in unset {
        let before = record.event();
        let record = boots.repaired(record);
        let (Ok(before), Ok(event)) = (before, record.event()) else {
            continue;
        };
        if event.received.is_unset() {
            continue;
        }
        transaction
            .prepare_cached("UPDATE events SET received = ?2, body = ?3 WHERE position = ?1")?
            .execute((
                record.position.0.cast_signed(),
                record.received.as_nanos(),
                &record.body[..],
            ))?;
        // Of what was corrected, the correction is in history.
        if event.time != before.time && !is_replaced {
            batch.take_back(&transaction, record.position, &before)?;
            batch.add(&transaction, record.position, &event)?;
        }
    }
    batch.write(&transaction)?;
    transaction.commit()?;
    Ok(last)
}

/// Messages in quarantine.
fn messages(connection: &mut Connection, listing: &Listing, boots: &Boots) -> Result<(), Error> {
    let transaction = connection.transaction()?;
    let unset: Vec<i64> = transaction
        .prepare_cached("SELECT id FROM quarantine WHERE received < 1420070400000000000")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for id in unset {
        let Some(item) = listing.quarantined(id.cast_unsigned())? else {
            continue;
        };
        transaction
            .prepare_cached("UPDATE quarantine SET received = ?2 WHERE id = ?1")?
            .execute((id, admin::received(&item, boots).as_nanos()))?;
    }
    transaction.commit()?;
    Ok(())
}

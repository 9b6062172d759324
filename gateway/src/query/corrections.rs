//! Corrections: what stands in history for an event that was made again from its message
//! is the latest one. What the one before it measured is taken back.
//!
//! That is possible for as long as the event before is kept here.

use rusqlite::Connection;

use super::{Error, series::Batch};
use crate::{
    event::{Event, Key},
    record::Position,
};

/// Takes back what was measured by events of a key that came before a correction with it:
/// the event that it corrects, and earlier corrections of that.
pub(super) fn take_back(
    connection: &Connection,
    batch: &mut Batch,
    correction: Position,
    key: Key,
) -> Result<(), Error> {
    let mut before = connection.prepare_cached(
        "SELECT position, body FROM events
         WHERE key = ?1 AND position < ?2 AND replaced = 0 ORDER BY position",
    )?;
    let key = (&key.0[..], correction.0.cast_signed());
    let mut rows = before.query(key)?;
    while let Some(row) = rows.next()? {
        let position = Position(row.get::<_, i64>(0)?.cast_unsigned());
        let body: Vec<u8> = row.get(1)?;
        if let Ok(event) = Event::from_cbor(&body) {
            batch.take_back(connection, position, &event)?;
        }
    }
    connection
        .prepare_cached("UPDATE events SET replaced = 1 WHERE key = ?1 AND position < ?2")?
        .execute(key)?;
    Ok(())
}

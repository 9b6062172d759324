//! Events that rules made, on their way into the journal. They are kept with the state
//! that they tell of, and leave once the journal has them; one that went twice because of
//! a crash is known there by its key.

use bytes::Bytes;
use rusqlite::Connection;

use super::Error;
use crate::event::Event;

/// Events that go into the journal together.
const TOGETHER: i64 = 128;

/// An event on its way.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Waiting {
    pub(super) event: Event,
    /// The rule whose destinations get it beside those that the rules say.
    pub(super) rule: Option<String>,
}

/// Adds one, within a transaction.
pub(super) fn add(connection: &Connection, event: &Event, rule: Option<&str>) -> Result<(), Error> {
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    connection
        .prepare_cached(
            // Its number first: it is bound to what is sealed.
            "INSERT INTO outbox (id, body, rule) SELECT n, sealed('outbox', n, ?1), ?2
             FROM (SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)
                       + 1 AS n)",
        )?
        .execute((body, rule))?;
    Ok(())
}

/// The first of them, and the number of the last of these. One that was damaged here is
/// counted as a failure, and the others do not wait for it.
pub(super) fn first(connection: &Connection) -> Result<(i64, Vec<Waiting>), Error> {
    let mut statement = connection.prepare_cached(
        "SELECT id, coalesce(opened('outbox', id, NULL, body), x''), rule
         FROM outbox ORDER BY id LIMIT ?1",
    )?;
    let mut rows = statement.query([TOGETHER])?;
    let (mut last, mut events, mut damaged) = (0, Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let body = Bytes::from(row.get::<_, Vec<u8>>(1)?);
        match Event::from_cbor(&body) {
            Ok(event) => {
                last = id;
                events.push(Waiting {
                    event,
                    rule: row.get(2)?,
                });
            }
            Err(error) => {
                tracing::error!(%error, "an event that a rule made does not read back");
                damaged.push(id);
            }
        }
    }
    drop(rows);
    if damaged.is_empty() {
        return Ok((last, events));
    }
    let transaction = connection.unchecked_transaction()?;
    for id in damaged {
        transaction.execute("DELETE FROM outbox WHERE id = ?1", [id])?;
        transaction.execute(
            "UPDATE state SET failures = failures + 1, lost = lost + 1",
            [],
        )?;
    }
    transaction.commit()?;
    first(connection)
}

/// How many there are.
pub(super) fn count(connection: &Connection) -> Result<i64, Error> {
    let count = connection
        .prepare_cached("SELECT count(*) FROM outbox")?
        .query_row([], |row| row.get(0))?;
    Ok(count)
}

/// The journal has them up to this number.
pub(super) fn forget(connection: &Connection, last: i64) -> Result<(), Error> {
    let transaction = connection.unchecked_transaction()?;
    transaction
        .prepare_cached("DELETE FROM outbox WHERE id <= ?1")?
        .execute([last])?;
    transaction
        .prepare_cached("UPDATE state SET handed = max(handed, ?1)")?
        .execute([last])?;
    transaction.commit()?;
    Ok(())
}

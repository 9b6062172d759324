//! The words of events, in parts: an index for so many positions, and the next for those
//! that follow.
//!
//! An index gives the newest of what fits first, and one at a time; but words that are
//! common and hardly ever stand in one event take it through all that it has, and nothing
//! stops it on the way. So a question goes from part to part, newest first, and looks at a
//! clock in between: what an answer takes is bounded by a part, however many there are. And
//! a part whose events have all left is dropped as a whole.

use rusqlite::Connection;

use super::{Error, text};
use crate::event::Event;

/// Positions of one part.
pub(super) const PART: i64 = 1 << 19;

/// Which parts there are: each has a table `event_text_<part>`, with the words of events
/// from the position `first` up to where the next part begins.
pub(super) const PARTS: &str = "CREATE TABLE parts (
    part  INTEGER PRIMARY KEY,
    first INTEGER NOT NULL
);";

/// Brings a database of before there were parts to them: what there is becomes the first
/// part, whatever it has.
pub(super) fn migrate(connection: &Connection) -> Result<(), Error> {
    connection.execute_batch(&format!(
        "ALTER TABLE event_text RENAME TO event_text_0;
         {PARTS}
         INSERT INTO parts VALUES (0, 0);"
    ))?;
    Ok(())
}

/// The table of a part.
pub(super) fn table(part: i64) -> String {
    format!("event_text_{part}")
}

/// Adds the words of events in the order of their positions.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// The part that is known to be there.
    part: Option<i64>,
}

impl Words {
    /// Adds those of the event at a position.
    ///
    /// # Errors
    /// When SQLite says no.
    pub(super) fn add(
        &mut self,
        connection: &Connection,
        position: i64,
        event: &Event,
    ) -> Result<(), Error> {
        let part = position / PART;
        let table = table(part);
        if self.part != Some(part) {
            let is_new = connection
                .prepare_cached("INSERT OR IGNORE INTO parts (part, first) VALUES (?1, ?2)")?
                .execute((part, position))?;
            if is_new > 0 {
                connection.execute_batch(&format!(
                    "CREATE VIRTUAL TABLE {table} USING fts5(
                     device, topic, type, text, content = '', contentless_delete = 1)"
                ))?;
            }
            self.part = Some(part);
        }
        connection
            .prepare_cached(&format!(
                "INSERT INTO {table} (rowid, device, topic, type, text) VALUES (?1, ?2, ?3, ?4, ?5)"
            ))?
            .execute((
                position,
                &*event.device,
                &*event.topic,
                &*event.kind,
                text::of_event(event),
            ))?;
        Ok(())
    }
}

/// The parts that have positions before `before`, newest first: each with its first
/// position.
pub(super) fn parts(connection: &Connection, before: i64) -> Result<Vec<(i64, i64)>, Error> {
    let mut statement = connection
        .prepare_cached("SELECT part, first FROM parts WHERE first < ?1 ORDER BY part DESC")?;
    let parts = statement.query_map([before], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(parts.collect::<Result<_, _>>()?)
}

/// Removes the words of events up to a position.
pub(super) fn remove_to(connection: &Connection, to: i64) -> Result<(), Error> {
    // Where the part after it begins.
    let mut next = i64::MAX;
    for (part, first) in parts(connection, i64::MAX)? {
        let table = table(part);
        if next <= to.saturating_add(1) {
            connection.execute_batch(&format!("DROP TABLE {table}"))?;
            connection
                .prepare_cached("DELETE FROM parts WHERE part = ?1")?
                .execute([part])?;
        } else if first <= to {
            connection
                .prepare_cached(&format!("DELETE FROM {table} WHERE rowid <= ?1"))?
                .execute([to])?;
        }
        next = first;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{query::schema, rules::tests::event_of};

    fn found(connection: &Connection, part: i64) -> Vec<i64> {
        let table = table(part);
        let ask =
            format!("SELECT rowid FROM {table} WHERE {table} MATCH 'telemetry' ORDER BY rowid");
        let mut ask = connection.prepare(&ask).unwrap();
        let rows = ask.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn parts_come_with_positions_and_leave_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let connection = schema::open(dir.path()).unwrap();
        let event = event_of("b7", &[("t", 1.0)]);
        let mut words = Words::default();
        for position in [1, PART - 1, PART, 3 * PART + 7] {
            words.add(&connection, position, &event).unwrap();
        }
        // Whoever goes on finds the part there.
        let mut again = Words::default();
        again.add(&connection, 3 * PART + 8, &event).unwrap();
        let of = |before| {
            let parts = parts(&connection, before).unwrap().into_iter();
            parts.map(|(part, _)| part).collect::<Vec<_>>()
        };
        assert_eq!(of(i64::MAX), [3, 1, 0]);
        assert_eq!(of(PART + 1), [1, 0]);
        assert_eq!(of(PART), [0]);
        assert_eq!(found(&connection, 0), [1, PART - 1]);

        remove_to(&connection, PART - 2).unwrap();
        assert_eq!(found(&connection, 0), [PART - 1]);
        remove_to(&connection, PART - 1).unwrap();
        assert_eq!(of(i64::MAX), [3, 1]);
        remove_to(&connection, PART).unwrap();
        assert_eq!(of(i64::MAX), [3, 1], "the next begins later");
        remove_to(&connection, 3 * PART + 7).unwrap();
        assert_eq!(of(i64::MAX), [3]);
        assert_eq!(found(&connection, 3), [3 * PART + 8]);
        drop(connection);
        // It is ours when it is opened again, parts and all.
        let connection = schema::open(dir.path()).unwrap();
        assert_eq!(parts(&connection, i64::MAX).unwrap(), [(3, 3 * PART + 7)]);
    }

    #[test]
    fn a_file_of_before_there_were_parts_keeps_what_it_has() {
        let dir = tempfile::tempdir().unwrap();
        drop(schema::open(dir.path()).unwrap());
        let old = Connection::open(schema::path(dir.path())).unwrap();
        old.execute_batch(
            "DROP TABLE parts; DROP TABLE given;
             DROP TABLE ledger; DROP TABLE ledger_destinations; DROP TABLE ledger_state;
             CREATE VIRTUAL TABLE event_text USING fts5(
                 device, topic, type, text, content = '', contentless_delete = 1);
             UPDATE state SET position = 2000000;
             PRAGMA user_version = 3;",
        )
        .unwrap();
        for position in [7, 2 * PART + 5] {
            let add = "INSERT INTO event_text (rowid, device, topic, type, text)
                       VALUES (?1, 'b7', '', 'telemetry', '')";
            old.execute(add, [position]).unwrap();
        }
        drop(old);
        let connection = schema::open(dir.path()).unwrap();
        assert_eq!(schema::position(&connection).unwrap().0, 2_000_000);
        let event = event_of("b7", &[("t", 1.0)]);
        let mut words = Words::default();
        words.add(&connection, 2 * PART + 9, &event).unwrap();
        assert_eq!(
            parts(&connection, i64::MAX).unwrap(),
            [(2, 2 * PART + 9), (0, 0)]
        );
        assert_eq!(found(&connection, 0), [7, 2 * PART + 5]);
        assert_eq!(found(&connection, 2), [2 * PART + 9]);
        remove_to(&connection, PART).unwrap();
        assert_eq!(found(&connection, 0), [2 * PART + 5]);
        remove_to(&connection, 2 * PART + 8).unwrap();
        let left = parts(&connection, i64::MAX).unwrap();
        assert_eq!(left, [(2, 2 * PART + 9)]);
    }
}

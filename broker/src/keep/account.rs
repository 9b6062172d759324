//! What the queues take, counted again at each start.
//!
//! A start must not wait for what is stored: the rows of `queue` are read, in one pass
//! over the smaller tree, and the sizes of `messages`, which are the bulk of the file,
//! are added some at a time while the writer works ([`Survey`]). Until that is done the
//! total is too small, never too large.

use std::collections::HashMap;

use rusqlite::params;

use super::{SessionId, stage::PLACE_BYTES, writer::Writer};

/// Messages whose sizes are added in one commit.
const SURVEY: i64 = if cfg!(test) { 2 } else { 8192 };

/// The messages that the file had at the start, in the order of their rows: those
/// behind `after`, up to `last`, are not in the total yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Survey {
    after: i64,
    last: i64,
}

impl Survey {
    pub(super) fn is_over(&self) -> bool {
        self.after >= self.last
    }

    /// Whether a message is in the total.
    pub(super) fn has(&self, message: i64) -> bool {
        message <= self.after || message > self.last
    }

    /// A message was stored. SQLite gives the number after the highest, so that where
    /// it lies in the range, nothing behind it is left there.
    pub(super) fn stored(&mut self, message: i64) {
        self.last = self.last.min(message - 1);
    }
}

/// What one queue has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Depth {
    pub(super) count: u64,
    pub(super) bytes: u64,
    /// Its last place.
    pub(super) last: i64,
}

impl Writer {
    /// The depths of all queues of the file.
    pub(super) fn depths(&self) -> rusqlite::Result<HashMap<SessionId, Depth>> {
        self.connection
            .prepare(
                "SELECT session, count(*), sum(iif(message IS NULL, 0, bytes)), max(position)
                 FROM queue GROUP BY session",
            )?
            .query_map([], |row| {
                let count = row.get::<_, i64>(1)?.unsigned_abs();
                let bytes = row.get::<_, i64>(2)?.unsigned_abs() + count * PLACE_BYTES;
                let last = row.get(3)?;
                Ok((SessionId(row.get(0)?), Depth { count, bytes, last }))
            })?
            .collect()
    }

    /// Begins to add up the messages of the file.
    pub(super) fn begin_survey(&mut self) -> rusqlite::Result<()> {
        let last = self
            .connection
            .query_row("SELECT max(id) FROM messages", [], |row| {
                row.get::<_, Option<i64>>(0)
            })?;
        self.state.survey = Survey {
            after: 0,
            last: last.unwrap_or(0),
        };
        Ok(())
    }

    /// Adds up some more.
    pub(super) fn survey(&mut self) -> rusqlite::Result<()> {
        let Survey { after, last } = self.state.survey;
        let (count, up_to, bytes): (i64, Option<i64>, Option<i64>) = self
            .sql(
                "SELECT count(*), max(id), sum(bytes) FROM (
                     SELECT id, length(frame) AS bytes FROM messages
                     WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3)",
            )?
            .query_row(params![after, last, SURVEY], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
        self.state.total_bytes += bytes.unwrap_or(0).unsigned_abs();
        self.state.survey.after = match up_to {
            Some(up_to) if count == SURVEY => up_to,
            _ => last,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_again_under_a_number_of_the_range_ends_it_there() {
        let mut survey = Survey { after: 3, last: 9 };
        assert!(survey.has(3) && !survey.has(4) && !survey.has(9) && survey.has(10));
        survey.stored(12);
        assert_eq!(survey, Survey { after: 3, last: 9 });
        survey.stored(7);
        assert!(survey.has(7) && !survey.has(6));
        survey.stored(1);
        assert!(survey.is_over() && survey.has(1));
    }
}

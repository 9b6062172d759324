//! Numbers of a series within a step: count, least, most and sum.

use rusqlite::{Connection, OptionalExtension};

use super::STEP_BYTES;
use crate::query::Error;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sum {
    count: i64,
    min: f64,
    max: f64,
    sum: f64,
    /// The least position that was added.
    since: i64,
    /// There is a row of it.
    stored: bool,
    /// Something was taken back: what is left has to be added up again.
    taken: bool,
}

impl Sum {
    const NOTHING: Self = Self {
        count: 0,
        min: f64::INFINITY,
        max: f64::NEG_INFINITY,
        sum: 0.0,
        since: i64::MAX,
        stored: false,
        taken: false,
    };

    /// What is stored of a step.
    pub(super) fn stored(
        connection: &Connection,
        series: i64,
        step: i64,
        at: i64,
    ) -> Result<Self, Error> {
        let stored = connection
            .prepare_cached(
                "SELECT count, min, max, sum, since FROM steps
                 WHERE series = ?1 AND step = ?2 AND at = ?3",
            )?
            .query_row((series, step, at), |row| {
                Ok(Self {
                    count: row.get(0)?,
                    min: row.get(1)?,
                    max: row.get(2)?,
                    sum: row.get(3)?,
                    since: row.get(4)?,
                    stored: true,
                    taken: false,
                })
            })
            .optional()?;
        Ok(stored.unwrap_or(Self::NOTHING))
    }

    /// Adds a number of the event at a position.
    pub(super) fn add(&mut self, position: i64, value: f64) {
        self.count += 1;
        self.since = self.since.min(position);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.plus(value);
    }

    fn plus(&mut self, value: f64) {
        // A sum may leave what a double holds; then it stays at its end.
        self.sum = (self.sum + value).clamp(f64::MIN, f64::MAX);
    }

    /// Takes a number back where it was added; least and most stay as they are. What came
    /// while its series had no room, or before the step left for want of room, is not in it.
    pub(super) fn take_back(&mut self, position: i64, value: f64) {
        if self.count > 0 && position >= self.since {
            self.count -= 1;
            self.plus(-value);
            self.taken = true;
            if self.count == 0 {
                let Self { stored, taken, .. } = *self;
                *self = Self {
                    stored,
                    taken,
                    ..Self::NOTHING
                };
            }
        }
    }

    /// Writes it; says how many bytes more that takes.
    pub(super) fn write(
        mut self,
        connection: &Connection,
        series: i64,
        step: i64,
        at: i64,
    ) -> Result<i64, Error> {
        if self.taken && self.count > 0 {
            self.add_up_again(connection, series, step, at)?;
        }
        if self.count == 0 {
            let gone = connection
                .prepare_cached("DELETE FROM steps WHERE series = ?1 AND step = ?2 AND at = ?3")?
                .execute((series, step, at))?;
            return Ok(if gone > 0 { -STEP_BYTES } else { 0 });
        }
        connection
            .prepare_cached("INSERT OR REPLACE INTO steps VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?
            .execute((
                series, step, at, self.count, self.min, self.max, self.sum, self.since,
            ))?;
        Ok(if self.stored { 0 } else { STEP_BYTES })
    }

    /// From the single numbers, where all of them are still there: in the order of their
    /// positions, as they were added.
    fn add_up_again(
        &mut self,
        connection: &Connection,
        series: i64,
        step: i64,
        at: i64,
    ) -> Result<(), Error> {
        let from = at.saturating_mul(1_000_000_000);
        let to = from.saturating_add(step * 1_000_000_000);
        let mut values = connection.prepare_cached(
            "SELECT position, value FROM points WHERE series = ?1 AND time >= ?2 AND time < ?3
             AND position >= ?4 ORDER BY position, number",
        )?;
        let mut again = Self::NOTHING;
        let bounds = (series, from, to, self.since);
        for value in values.query_map(bounds, |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (position, value) = value?;
            again.add(position, value);
        }
        if again.count == self.count {
            let Self { stored, since, .. } = *self;
            *self = Self {
                stored,
                since,
                ..again
            };
        }
        Ok(())
    }
}

//! What leaves the read side: what is too old, and, when `read.db` has reached its
//! size, the oldest. In chunks, so that no transaction is long.

use std::{path::Path, time::Duration};

use rusqlite::Connection;

use super::{Config, Error, schema, series::STEPS};
use crate::event::Timestamp;

/// Events that leave with one transaction.
const CHUNK_ROWS: i64 = 2_000;
/// Series that are looked through with one transaction.
const CHUNK_SERIES: i64 = 500;

/// Where the rounds of retention stand.
#[derive(Debug, Default)]
pub(super) struct Retention {
    /// The last series that was looked through.
    series: i64,
    /// History is kept for so many halvings of its time less, for want of room.
    halved: u32,
}

/// What there is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing for a while.
    Rest,
    /// More of the same.
    More,
}

impl Retention {
    /// Removes a chunk.
    pub(super) fn run(
        &mut self,
        connection: &mut Connection,
        dir: &Path,
        config: &Config,
        now: Timestamp,
    ) -> Result<Next, Error> {
        let (used, _) = schema::bytes(connection, dir)?;
        let full = used > config.size_max;
        let transaction = connection.transaction()?;
        let before = if full {
            i64::MAX
        } else {
            ago(now, config.events_keep)
        };
        let gone = events(&transaction, before, full)?;
        let (round_over, left) = self.history(&transaction, config, now)?;
        transaction.commit()?;
        if round_over {
            // Without events to give up, history is kept for half as long.
            if full && gone == 0 {
                self.halved = (self.halved + 1).min(20);
            } else if used < config.size_max / 4 * 3 {
                self.halved = 0;
            }
        }
        let more = gone == CHUNK_ROWS || left || (full && !round_over);
        Ok(if more { Next::More } else { Next::Rest })
    }

    /// Looks through some series; whether all were, and whether any has more to give up.
    fn history(
        &mut self,
        connection: &Connection,
        config: &Config,
        now: Timestamp,
    ) -> Result<(bool, bool), Error> {
        let ids: Vec<i64> = connection
            .prepare_cached("SELECT id FROM series WHERE id > ?1 ORDER BY id LIMIT ?2")?
            .query_map((self.series, CHUNK_SERIES), |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        let keep = |keep: Duration| ago(now, keep / 2_u32.pow(self.halved));
        let raw = keep(config.raw_keep);
        let steps = [keep(config.minute_keep), keep(config.hour_keep)];
        for id in &ids {
            connection
                .prepare_cached("DELETE FROM points WHERE series = ?1 AND time < ?2")?
                .execute((id, raw))?;
            for (step, before) in STEPS.iter().zip(steps) {
                connection
                    .prepare_cached(
                        "DELETE FROM steps WHERE series = ?1 AND step = ?2 AND at < ?3",
                    )?
                    .execute((id, step, before.div_euclid(1_000_000_000)))?;
            }
            // Nothing was heard of it for as long as anything is kept.
            let silent = connection
                .prepare_cached("DELETE FROM last WHERE series = ?1 AND time < ?2")?
                .execute((id, ago(now, config.hour_keep)))?;
            if silent > 0 {
                connection.execute("DELETE FROM series WHERE id = ?1", [id])?;
                connection.execute("UPDATE state SET series = series - 1", [])?;
            }
        }
        let round_over = ids.len() < usize::try_from(CHUNK_SERIES).unwrap_or(0);
        self.series = match ids.last() {
            Some(last) if !round_over => *last,
            _ => 0,
        };
        Ok((round_over, !round_over))
    }
}

/// Removes a chunk of the oldest events that were received before.
fn events(connection: &Connection, before: i64, full: bool) -> Result<i64, Error> {
    let to: Option<i64> = connection
        .prepare_cached(
            "SELECT max(position) FROM
             (SELECT position, received FROM events ORDER BY position LIMIT ?2)
             WHERE received < ?1",
        )?
        .query_row((before, CHUNK_ROWS), |row| row.get(0))?;
    let Some(to) = to else { return Ok(0) };
    let gone = connection
        .prepare_cached("DELETE FROM events WHERE position <= ?1")?
        .execute([to])?;
    connection
        .prepare_cached("DELETE FROM event_text WHERE rowid <= ?1")?
        .execute([to])?;
    connection
        .prepare_cached("DELETE FROM dead_letters WHERE gone = 1 AND position <= ?1")?
        .execute([to])?;
    let gone = i64::try_from(gone).unwrap_or(i64::MAX);
    if full {
        connection
            .prepare_cached("UPDATE state SET evicted = evicted + ?1")?
            .execute([gone])?;
    }
    Ok(gone)
}

fn ago(now: Timestamp, keep: Duration) -> i64 {
    let keep = i64::try_from(keep.as_nanos()).unwrap_or(i64::MAX);
    now.as_nanos().saturating_sub(keep)
}

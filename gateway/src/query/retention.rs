//! What leaves the read side: what is too old, and, when there is no room, what has more
//! than its share. In chunks, so that no transaction is long.
//!
//! Quarantine, dead letters and last values are kept within their shares as they come.
//! History has half of the room; beyond it the devices that have most of it give up
//! their oldest, so that one that measures much costs the others nothing. What is left
//! is for events, of which the oldest leave.

use std::{path::Path, time::Duration};

use rusqlite::Connection;

use super::{
    Config, Error, schema,
    series::{self, POINT_BYTES, STEP_BYTES, STEPS},
    words,
};
use crate::event::Timestamp;

/// Events that leave with one transaction.
const CHUNK_ROWS: i64 = 2_000;
/// Series that are looked through with one transaction.
const CHUNK_SERIES: i64 = 500;
/// Devices whose history is cut with one transaction.
const CHUNK_DEVICES: usize = 20;

/// Where the rounds of retention stand.
#[derive(Debug, Default)]
pub(super) struct Retention {
    /// The last series that was looked through.
    series: i64,
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
        let gone = events(&transaction, before, now, full)?;
        let left = self.age(&transaction, config, now)?;
        // Without events to give up, all of history is too much.
        let cut = cut(
            &transaction,
            config.limits().history_bytes.cast_signed(),
            full && gone == 0,
        )?;
        transaction.commit()?;
        let more = gone == CHUNK_ROWS || left || cut;
        Ok(if more { Next::More } else { Next::Rest })
    }

    /// Looks through some series for what is too old; whether there are more.
    fn age(
        &mut self,
        connection: &Connection,
        config: &Config,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let found: Vec<(i64, String, String)> = connection
            .prepare_cached(
                "SELECT id, device, name FROM series WHERE id > ?1 ORDER BY id LIMIT ?2",
            )?
            .query_map((self.series, CHUNK_SERIES), |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?
            .collect::<Result<_, _>>()?;
        let raw = ago(now, config.raw_keep);
        let steps = [ago(now, config.minute_keep), ago(now, config.hour_keep)];
        for (id, device, name) in &found {
            let gone = connection
                .prepare_cached("DELETE FROM points WHERE series = ?1 AND time < ?2")?
                .execute((id, raw))?;
            let mut bytes = bytes_of(gone, POINT_BYTES);
            for (step, before) in STEPS.iter().zip(steps) {
                let gone = connection
                    .prepare_cached(
                        "DELETE FROM steps WHERE series = ?1 AND step = ?2 AND at < ?3",
                    )?
                    .execute((id, step, before.div_euclid(1_000_000_000)))?;
                bytes += bytes_of(gone, STEP_BYTES);
            }
            gave(connection, device, bytes)?;
            // Nothing was heard of it for as long as anything is kept, or a correction took
            // all of it back.
            let silent: Vec<i64> = connection
                .prepare_cached(
                    "DELETE FROM last WHERE series = ?1 AND time < ?2
                     RETURNING length(CAST(value AS BLOB))
                             + coalesce(length(CAST(unit AS BLOB)), 0)",
                )?
                .query_map((id, ago(now, config.hour_keep)), |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let bytes: i64 = silent.iter().sum();
            if has_nothing(connection, *id)? {
                let names_bytes = series::names_bytes(device, name);
                forget(connection, *id, device, bytes + names_bytes)?;
            } else if bytes > 0 {
                connection
                    .prepare_cached("UPDATE state SET last_bytes = max(last_bytes - ?1, 0)")?
                    .execute([bytes])?;
            }
        }
        let round_over = found.len() < usize::try_from(CHUNK_SERIES).unwrap_or(0);
        self.series = match found.last() {
            Some((last, ..)) if !round_over => *last,
            _ => 0,
        };
        Ok(!round_over)
    }
}

/// Whether there is neither a last value nor any history of a series.
fn has_nothing(connection: &Connection, id: i64) -> Result<bool, Error> {
    let nothing = connection
        .prepare_cached(
            "SELECT NOT EXISTS (SELECT 1 FROM last WHERE series = ?1)
                AND NOT EXISTS (SELECT 1 FROM points WHERE series = ?1)
                AND NOT EXISTS (SELECT 1 FROM steps WHERE series = ?1)",
        )?
        .query_row([id], |row| row.get(0))?;
    Ok(nothing)
}

/// Removes a series that has nothing any more; `bytes` were taken by its last value and
/// its names.
fn forget(connection: &Connection, id: i64, device: &str, bytes: i64) -> Result<(), Error> {
    connection
        .prepare_cached("DELETE FROM series WHERE id = ?1")?
        .execute([id])?;
    connection
        .prepare_cached("UPDATE devices SET series = series - 1 WHERE device = ?1")?
        .execute([device])?;
    connection
        .prepare_cached("DELETE FROM devices WHERE device = ?1 AND series <= 0")?
        .execute([device])?;
    connection
        .prepare_cached(
            "UPDATE state SET series = series - 1, last_bytes = max(last_bytes - ?1, 0)",
        )?
        .execute([bytes])?;
    Ok(())
}

/// Has the devices with most history give up their oldest where all have more than
/// `share`, or, when that is not the reason why there is no room, a tenth of it anyway.
/// Whether more may have to.
fn cut(connection: &Connection, share: i64, anyway: bool) -> Result<bool, Error> {
    let sum: i64 = connection
        .prepare_cached("SELECT coalesce(sum(bytes), 0) FROM devices")?
        .query_row([], |row| row.get(0))?;
    if sum <= share && !(anyway && sum > 0) {
        return Ok(false);
    }
    let target = (sum.min(share) / 10).saturating_mul(9);
    let mut devices: Vec<(i64, String)> = connection
        .prepare_cached("SELECT bytes, device FROM devices ORDER BY bytes DESC")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let level = level(devices.iter().map(|(bytes, _)| *bytes).rev(), target);
    devices.retain(|(bytes, _)| *bytes > level);
    let more = devices.len() > CHUNK_DEVICES;
    for (bytes, device) in devices.iter().take(CHUNK_DEVICES) {
        shorten(connection, device, *bytes, level)?;
    }
    Ok(more)
}

/// What each may have, so that together they have `target`; from the least on.
fn level(ascending: impl ExactSizeIterator<Item = i64>, target: i64) -> i64 {
    let (mut left, mut others) = (target, i64::try_from(ascending.len()).unwrap_or(i64::MAX));
    for bytes in ascending {
        let each = left / others;
        if bytes > each {
            return each;
        }
        left -= bytes;
        others -= 1;
    }
    i64::MAX
}

/// Brings a device's history from `bytes` to `level`: each of its series gives up the same
/// part of what it has, the oldest.
fn shorten(connection: &Connection, device: &str, bytes: i64, level: i64) -> Result<(), Error> {
    let ids: Vec<i64> = connection
        .prepare_cached("SELECT id FROM series WHERE device = ?1")?
        .query_map([device], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let part = |count: i64| {
        let gone = i128::from(count) * i128::from(bytes - level);
        i64::try_from(gone / i128::from(bytes.max(1)) + 1).unwrap_or(i64::MAX)
    };
    let mut left = 0;
    for id in ids {
        let count = |of: &str| -> Result<i64, Error> {
            let count = format!("SELECT count(*) FROM {of}");
            let mut count = connection.prepare_cached(&count)?;
            Ok(count.query_row([id], |row| row.get(0))?)
        };
        let points = count("points WHERE series = ?1")?;
        if points > 0 {
            let gone = connection
                .prepare_cached(
                    "DELETE FROM points WHERE (series, time, position, number) IN
                     (SELECT series, time, position, number FROM points WHERE series = ?1
                      ORDER BY time, position, number LIMIT ?2)",
                )?
                .execute((id, part(points)))?;
            left += points * POINT_BYTES - bytes_of(gone, POINT_BYTES);
        }
        for step in STEPS {
            let of = format!("steps WHERE series = ?1 AND step = {step}");
            let steps = count(&of)?;
            left += steps * STEP_BYTES;
            if steps > 1 {
                let gone = connection
                    .prepare_cached(
                        "DELETE FROM steps WHERE (series, step, at) IN
                         (SELECT series, step, at FROM steps WHERE series = ?1 AND step = ?2
                          ORDER BY at LIMIT ?3)",
                    )?
                    .execute((id, step, part(steps).min(steps - 1)))?;
                left -= bytes_of(gone, STEP_BYTES);
            }
        }
    }
    connection
        .prepare_cached("UPDATE devices SET bytes = ?2 WHERE device = ?1")?
        .execute((device, left))?;
    Ok(())
}

/// Counts what a device has less.
fn gave(connection: &Connection, device: &str, bytes: i64) -> Result<(), Error> {
    if bytes > 0 {
        connection
            .prepare_cached("UPDATE devices SET bytes = max(bytes - ?2, 0) WHERE device = ?1")?
            .execute((device, bytes))?;
    }
    Ok(())
}

fn bytes_of(rows: usize, each: i64) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX).saturating_mul(each)
}

/// Removes a chunk of the oldest events that were received before, up to the first that
/// was not: a clock may have been back for a while. What is from a time to come, by a clock
/// that was ahead, leaves with what came after it; so does what nobody knows the time of,
/// because the clock was not set, or for want of room.
fn events(connection: &Connection, before: i64, now: Timestamp, full: bool) -> Result<i64, Error> {
    let to: Option<i64> = connection
        .prepare_cached(
            "WITH oldest AS (SELECT position, received FROM events ORDER BY position LIMIT ?2)
             SELECT max(position) FROM oldest
             WHERE received < ?1 AND (?4 OR received >= 1420070400000000000)
             AND position < (SELECT coalesce(min(position), 9223372036854775807)
                             FROM oldest WHERE received BETWEEN ?1 AND ?3)",
        )?
        .query_row((before, CHUNK_ROWS, now.as_nanos(), full), |row| row.get(0))?;
    let Some(to) = to else { return Ok(0) };
    let gone = connection
        .prepare_cached("DELETE FROM events WHERE position <= ?1")?
        .execute([to])?;
    connection
        .prepare_cached("DELETE FROM given WHERE position <= ?1")?
        .execute([to])?;
    words::remove_to(connection, to)?;
    let letters: Option<i64> = connection
        .prepare_cached("SELECT sum(bytes) FROM dead_letters WHERE gone = 1 AND position <= ?1")?
        .query_row([to], |row| row.get(0))?;
    if let Some(bytes) = letters {
        connection
            .prepare_cached("DELETE FROM dead_letters WHERE gone = 1 AND position <= ?1")?
            .execute([to])?;
        connection
            .prepare_cached("UPDATE state SET kept_bytes = max(kept_bytes - ?1, 0)")?
            .execute([bytes])?;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_little_keeps_it_when_there_is_not_enough_for_all() {
        for (bytes, target, expect) in [
            (vec![10, 10, 10], 30, i64::MAX),
            (vec![10, 20, 90], 60, 30),
            (vec![1, 1, 1_000_000], 100, 98),
            (vec![50, 50], 60, 30),
            (vec![], 60, i64::MAX),
        ] {
            assert_eq!(level(bytes.iter().copied(), target), expect, "{bytes:?}");
        }
    }
}

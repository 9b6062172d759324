//! The numbers of one series over time: every one, or by steps.

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{
    Reader, cursor, instant, limit, place,
    shown::{Point, Recorded, Step},
};
use crate::{
    event::Timestamp,
    query::{Error, series::STEPS},
};

/// Steps are not longer than this, in seconds: a year.
const STEP_MAX: i64 = 366 * 86_400;
const STEP: &str = "a step has whole seconds, from 1s to 366d; leave it away for every number";

/// Which numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// Of this device.
    pub device: String,
    /// Of this measurement.
    pub name: String,
    /// From here on.
    pub from: Timestamp,
    /// Up to here, which is not in it.
    pub to: Timestamp,
    /// By steps of so many seconds; every number where it is 0.
    pub step_secs: i64,
    /// Where the page begins.
    pub after: Option<String>,
    /// Its size, at most.
    pub limit: usize,
}

impl History {
    /// A step as it is written, in seconds.
    ///
    /// # Errors
    /// When it has none.
    pub fn step(text: &str) -> Result<i64, Error> {
        let step = crate::config::parse_duration(text).ok();
        let step = step.filter(|step| step.subsec_nanos() == 0);
        let secs = step.and_then(|step| i64::try_from(step.as_secs()).ok());
        secs.filter(|secs| (1..=STEP_MAX).contains(secs))
            .ok_or_else(|| Error::Asked(STEP.to_owned()))
    }
}

impl Reader {
    /// A page of history, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read, or nobody can answer that.
    pub fn history(&mut self, asked: &History) -> Result<Value, Error> {
        if !(0..=STEP_MAX).contains(&asked.step_secs) {
            return Err(Error::Asked(STEP.to_owned()));
        }
        self.answer(|context| match asked.step_secs {
            0 => points(context.connection, asked),
            step => steps(context.connection, asked, step),
        })
    }
}

fn points(connection: &Connection, asked: &History) -> Result<(Vec<Value>, Option<String>), Error> {
    let after: (i64, i64, i64) = match &asked.after {
        Some(after) => place(after)?,
        None => (i64::MIN, 0, 0),
    };
    let (count, rows) = limit(asked.limit);
    let mut statement = connection.prepare_cached(
        "SELECT time, position, number, value FROM points
         WHERE series = (SELECT id FROM series WHERE device = ?1 AND name = ?2)
         AND time >= ?3 AND time < ?4 AND (time, position, number) > (?5, ?6, ?7)
         ORDER BY time, position, number LIMIT ?8",
    )?;
    let (from, to) = (asked.from.as_nanos(), asked.to.as_nanos());
    let found = statement.query_map(
        rusqlite::params![
            asked.device,
            asked.name,
            from,
            to,
            after.0,
            after.1,
            after.2,
            rows
        ],
        |row| {
            let place = json!([
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?
            ]);
            let item = json!(Recorded::Point(Point {
                time: instant(row.get(0)?),
                value: row.get(3)?,
                position: row.get(1)?,
            }));
            Ok((place, item))
        },
    )?;
    let found: Vec<_> = found.collect::<Result<_, _>>()?;
    Ok(page(found, count))
}

/// From the longest step that is kept and fits into the one asked for.
fn steps(
    connection: &Connection,
    asked: &History,
    step: i64,
) -> Result<(Vec<Value>, Option<String>), Error> {
    let kept = STEPS.iter().rev().find(|kept| step % **kept == 0);
    let after: i64 = match &asked.after {
        Some(after) => place(after)?,
        None => i64::MIN,
    };
    let floor = |at: Timestamp| at.as_nanos().div_euclid(1_000_000_000).div_euclid(step) * step;
    // Steps are whole: the first one has its beginning, the last one its end.
    let from = floor(asked.from).max(after.saturating_add(1));
    let to = match asked.to.as_nanos().checked_sub(1) {
        Some(end) => floor(Timestamp::from_nanos(end)).saturating_add(step),
        None => return Ok((Vec::new(), None)),
    };
    let from = from.saturating_add(step - 1).div_euclid(step) * step;
    let (count, rows) = limit(asked.limit);
    let source = match kept {
        Some(kept) => format!(
            "SELECT at AS second, count, min, max, sum FROM steps
             WHERE series = (SELECT id FROM series WHERE device = ?1 AND name = ?2)
             AND step = {kept} AND at >= ?3 AND at < ?4"
        ),
        None => "SELECT (time - ((time % 1000000000) + 1000000000) % 1000000000) / 1000000000
                     AS second, 1 AS count, value AS min, value AS max, value AS sum FROM points
             WHERE series = (SELECT id FROM series WHERE device = ?1 AND name = ?2)
             AND time >= ?3 * 1000000000 AND time < ?4 * 1000000000"
            .to_owned(),
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT second - ((second % ?5) + ?5) % ?5 AS begin,
                sum(count), min(min), max(max), sum(sum)
         FROM ({source}) GROUP BY begin ORDER BY begin LIMIT ?6"
    ))?;
    // Nanoseconds of 64 bits go from 1677 to 2262.
    let bound = |second: i64| second.clamp(-9_223_372_036, 9_223_372_036);
    let found = statement.query_map(
        (
            &asked.device,
            &asked.name,
            bound(from),
            bound(to),
            step,
            rows,
        ),
        |row| {
            let begin: i64 = row.get(0)?;
            let (count, sum): (i64, f64) = (row.get(1)?, row.get(4)?);
            #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 numbers")]
            let mean = sum / count as f64;
            let item = json!(Recorded::Step(Step {
                time: instant(begin.saturating_mul(1_000_000_000)),
                count,
                min: row.get(2)?,
                max: row.get(3)?,
                mean,
            }));
            Ok((json!(begin), item))
        },
    )?;
    let found: Vec<_> = found.collect::<Result<_, _>>()?;
    Ok(page(found, count))
}

fn page(mut found: Vec<(Value, Value)>, count: usize) -> (Vec<Value>, Option<String>) {
    let more = found.len() > count;
    found.truncate(count);
    let next = found.last().filter(|_| more);
    let next = next.map(|(place, _)| cursor(place));
    (found.into_iter().map(|(_, item)| item).collect(), next)
}

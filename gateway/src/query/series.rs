//! Last values and history: what one page changes in them, gathered and written once.
//!
//! Numbers are added in the order of their positions, to what is stored, so that a sum
//! is the same to the last bit however the journal was cut into pages.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::{Connection, OptionalExtension};

use super::Error;
use crate::{
    event::{Event, Measurement, Value, json},
    record::Position,
};

/// The steps that are kept, in seconds.
pub(super) const STEPS: [i64; 2] = [60, 3_600];

/// A last value with more bytes of JSON than these is not kept.
const VALUE_BYTES_MAX: usize = 16 << 10;

/// What of a page is not written yet.
#[derive(Debug)]
pub(super) struct Batch {
    /// By device and name; `None` where there are too many already.
    series: HashMap<(Box<str>, Box<str>), Option<i64>>,
    known: u64,
    max: u64,
    refused: u64,
    last: HashMap<i64, Last>,
    steps: HashMap<(i64, i64, i64), Sum>,
}

#[derive(Debug)]
struct Last {
    /// Time and position.
    at: (i64, i64),
    /// Text of JSON, unit, quality; `None` where the stored one stands.
    new: Option<(String, Option<String>, Option<&'static str>)>,
}

#[derive(Debug, Clone, Copy)]
struct Sum {
    count: i64,
    min: f64,
    max: f64,
    sum: f64,
}

impl Batch {
    pub(super) fn new(connection: &Connection, max: u64) -> Result<Self, Error> {
        let known: i64 = connection
            .prepare_cached("SELECT series FROM state")?
            .query_row([], |row| row.get(0))?;
        Ok(Self {
            series: HashMap::new(),
            known: known.cast_unsigned(),
            max,
            refused: 0,
            last: HashMap::new(),
            steps: HashMap::new(),
        })
    }

    pub(super) fn add(
        &mut self,
        connection: &Connection,
        position: Position,
        event: &Event,
    ) -> Result<(), Error> {
        for (n, measurement) in (0_i64..).zip(&event.measurements) {
            let Some(series) = self.series(connection, &event.device, &measurement.name)? else {
                self.refused += 1;
                continue;
            };
            let time = measurement.time.unwrap_or(event.time).as_nanos();
            let position = position.0.cast_signed();
            self.last(connection, series, (time, position), measurement)?;
            let Some(value) = number(&measurement.value) else {
                continue;
            };
            connection
                .prepare_cached("INSERT OR REPLACE INTO points VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute((series, time, position, n, value))?;
            let seconds = time.div_euclid(1_000_000_000);
            for step in STEPS {
                let at = seconds.div_euclid(step) * step;
                self.step(connection, (series, step, at), value)?;
            }
        }
        Ok(())
    }

    fn series(
        &mut self,
        connection: &Connection,
        device: &str,
        name: &str,
    ) -> Result<Option<i64>, Error> {
        let key = (Box::from(device), Box::from(name));
        let slot = match self.series.entry(key) {
            Entry::Occupied(known) => return Ok(*known.get()),
            Entry::Vacant(slot) => slot,
        };
        let stored = connection
            .prepare_cached("SELECT id FROM series WHERE device = ?1 AND name = ?2")?
            .query_row((device, name), |row| row.get(0))
            .optional()?;
        if stored.is_some() || self.known >= self.max {
            return Ok(*slot.insert(stored));
        }
        connection
            .prepare_cached("INSERT INTO series (device, name) VALUES (?1, ?2)")?
            .execute((device, name))?;
        self.known += 1;
        Ok(*slot.insert(Some(connection.last_insert_rowid())))
    }

    fn last(
        &mut self,
        connection: &Connection,
        series: i64,
        at: (i64, i64),
        measurement: &Measurement,
    ) -> Result<(), Error> {
        let last = match self.last.entry(series) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(slot) => {
                let stored = connection
                    .prepare_cached("SELECT time, position FROM last WHERE series = ?1")?
                    .query_row([series], |row| Ok((row.get(0)?, row.get(1)?)))
                    .optional()?;
                slot.insert(Last {
                    at: stored.unwrap_or((i64::MIN, i64::MIN)),
                    new: None,
                })
            }
        };
        if at >= last.at {
            let mut text = Vec::new();
            json::value(&measurement.value, &mut text);
            let text = match text.len() {
                0..=VALUE_BYTES_MAX => String::from_utf8_lossy(&text).into_owned(),
                long => format!("{{\"omitted\":{long}}}"),
            };
            let unit = measurement.unit.as_deref().map(str::to_owned);
            last.at = at;
            last.new = Some((text, unit, measurement.quality.word()));
        }
        Ok(())
    }

    fn step(
        &mut self,
        connection: &Connection,
        key: (i64, i64, i64),
        value: f64,
    ) -> Result<(), Error> {
        let sum = match self.steps.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(slot) => {
                let stored = connection
                    .prepare_cached(
                        "SELECT count, min, max, sum FROM steps
                         WHERE series = ?1 AND step = ?2 AND at = ?3",
                    )?
                    .query_row(key, |row| {
                        Ok(Sum {
                            count: row.get(0)?,
                            min: row.get(1)?,
                            max: row.get(2)?,
                            sum: row.get(3)?,
                        })
                    })
                    .optional()?;
                slot.insert(stored.unwrap_or(Sum {
                    count: 0,
                    min: f64::INFINITY,
                    max: f64::NEG_INFINITY,
                    sum: 0.0,
                }))
            }
        };
        sum.count += 1;
        sum.min = sum.min.min(value);
        sum.max = sum.max.max(value);
        // A sum may leave what a double holds; then it stays at its end.
        sum.sum = (sum.sum + value).clamp(f64::MIN, f64::MAX);
        Ok(())
    }

    /// Writes what was gathered.
    pub(super) fn write(self, connection: &Connection) -> Result<(), Error> {
        let mut put = connection
            .prepare_cached("INSERT OR REPLACE INTO last VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
        for (series, last) in self.last {
            if let Some((value, unit, quality)) = last.new {
                put.execute((series, last.at.0, last.at.1, value, unit, quality))?;
            }
        }
        let mut put = connection
            .prepare_cached("INSERT OR REPLACE INTO steps VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        for ((series, step, at), sum) in self.steps {
            put.execute((series, step, at, sum.count, sum.min, sum.max, sum.sum))?;
        }
        connection
            .prepare_cached("UPDATE state SET series = ?1, refused = refused + ?2")?
            .execute((self.known.cast_signed(), self.refused.cast_signed()))?;
        Ok(())
    }
}

/// What is counted of a value: numbers, and truth as 0 and 1.
#[expect(
    clippy::cast_precision_loss,
    reason = "history is of doubles; the last value is exact"
)]
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Bool(value) => Some(f64::from(u8::from(*value))),
        Value::Int(n) => Some(*n as f64),
        Value::UInt(n) => Some(*n as f64),
        Value::Float(x) if x.is_finite() => Some(*x),
        _ => None,
    }
}

//! Last values and history: what one page changes in them, gathered and written once.
//!
//! Numbers are added in the order of their positions, to what is stored, so that a sum
//! is the same to the last bit however the journal was cut into pages. What there is no
//! room for is decided in that order too.

mod sum;

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

use self::sum::Sum;
use super::{Error, Limits};
use crate::{
    event::{Event, Measurement, Timestamp, Value, json},
    record::Position,
};

/// The steps that are kept, in seconds.
pub(super) const STEPS: [i64; 2] = [60, 3_600];
/// What a number, and a step of history, take on the disk, about.
pub(super) const POINT_BYTES: i64 = 48;
pub(super) const STEP_BYTES: i64 = 80;

/// A last value with more bytes of JSON than these is not kept.
const VALUE_BYTES_MAX: usize = 16 << 10;
/// One of so many finds room also where there is none for last values.
const VALUE_BYTES_SMALL: usize = 128;
/// A longer unit is not kept: it would take room that is not there.
const UNIT_BYTES_MAX: usize = 64;

/// What of a page is not written yet.
#[derive(Debug)]
pub(super) struct Batch {
    devices: HashMap<Box<str>, Device>,
    points: Vec<Point>,
    totals: Totals,
}

/// What all series have together.
#[derive(Debug)]
struct Totals {
    limits: Limits,
    series: i64,
    refused: i64,
    last_bytes: i64,
}

impl Totals {
    /// Whether a new series may take so many bytes.
    fn has_room(&self, bytes: i64) -> bool {
        self.last_bytes.saturating_add(bytes) <= self.limits.last_bytes.cast_signed()
    }

    /// Whether a long value may take so many bytes more: half of the room is for names.
    fn has_room_for_long(&self, bytes: i64) -> bool {
        self.last_bytes.saturating_add(bytes) <= self.limits.last_bytes.cast_signed() / 2
    }
}

/// A row of `points`.
#[derive(Debug)]
struct Point {
    series: i64,
    time: i64,
    position: i64,
    number: i64,
    value: f64,
}

#[derive(Debug)]
struct Device {
    series: i64,
    bytes: i64,
    by_name: HashMap<Box<str>, Series>,
}

#[derive(Debug)]
struct Series {
    id: i64,
    last: Option<Last>,
    /// By step and its beginning.
    steps: HashMap<(i64, i64), Sum>,
}

#[derive(Debug)]
struct Last {
    /// Time and position.
    at: (i64, i64),
    bytes: i64,
    new: New,
}

/// What is to be stored.
#[derive(Debug)]
enum New {
    /// What is stored stands.
    Nothing,
    /// There is none any more.
    Gone,
    /// Text of JSON, unit, quality.
    Value(String, Option<String>, Option<&'static str>),
}

/// What a series takes beside its last value, about: its names are in an index too.
pub(super) fn names_bytes(device: &str, name: &str) -> i64 {
    let bytes = 2 * (device.len() + name.len()) + 64;
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Batch {
    pub(super) fn new(connection: &Connection, limits: Limits) -> Result<Self, Error> {
        let totals = connection
            .prepare_cached("SELECT series, last_bytes FROM state")?
            .query_row([], |row| {
                Ok(Totals {
                    limits,
                    series: row.get(0)?,
                    refused: 0,
                    last_bytes: row.get(1)?,
                })
            })?;
        Ok(Self {
            devices: HashMap::new(),
            points: Vec::new(),
            totals,
        })
    }

    pub(super) fn add(
        &mut self,
        connection: &Connection,
        position: Position,
        event: &Event,
    ) -> Result<(), Error> {
        let position = position.0.cast_signed();
        let Self {
            devices,
            points,
            totals,
        } = self;
        let device = device(devices, connection, &event.device)?;
        for (number, measurement) in (0_i64..).zip(&event.measurements) {
            let name = &*measurement.name;
            let Some(series) = device.follow(connection, totals, &event.device, name)? else {
                totals.refused += 1;
                continue;
            };
            let time = measurement.time.unwrap_or(event.time).as_nanos();
            let last = series.last(connection)?;
            if (time, position) >= last.at {
                last.put((time, position), measurement, totals);
            }
            let Some(value) = self::number(&measurement.value) else {
                continue;
            };
            for (step, at) in steps_of(time) {
                series.sum(connection, step, at)?.add(position, value);
            }
            points.push(Point {
                series: series.id,
                time,
                position,
                number,
                value,
            });
            device.bytes += POINT_BYTES;
        }
        Ok(())
    }

    /// Takes an event's numbers and last values back, as far as they are here. The last
    /// value is that of the latest number then, as long as its event is here.
    pub(super) fn take_back(
        &mut self,
        connection: &Connection,
        position: Position,
        event: &Event,
    ) -> Result<(), Error> {
        self.write_points(connection)?;
        let position = position.0.cast_signed();
        let Self {
            devices, totals, ..
        } = self;
        let device = device(devices, connection, &event.device)?;
        let mut without = Vec::new();
        for (number, measurement) in (0_i64..).zip(&event.measurements) {
            let Some(series) = device.known(connection, &event.device, &measurement.name)? else {
                continue;
            };
            let last = series.last(connection)?;
            if last.at.1 == position {
                totals.last_bytes -= last.bytes;
                *last = Last {
                    at: (i64::MIN, i64::MIN),
                    bytes: 0,
                    new: New::Gone,
                };
                without.push(&*measurement.name);
            }
            let Some(value) = self::number(&measurement.value) else {
                continue;
            };
            let time = measurement.time.unwrap_or(event.time).as_nanos();
            for (step, at) in steps_of(time) {
                series.sum(connection, step, at)?.take_back(position, value);
            }
            let gone = connection
                .prepare_cached(
                    "DELETE FROM points
                     WHERE series = ?1 AND time = ?2 AND position = ?3 AND number = ?4",
                )?
                .execute((series.id, time, position, number))?;
            if gone > 0 {
                device.bytes -= POINT_BYTES;
            }
        }
        for name in without {
            if let Some(series) = device.known(connection, &event.device, name)? {
                series.last_of_numbers(connection, totals)?;
            }
        }
        Ok(())
    }

    fn write_points(&mut self, connection: &Connection) -> Result<(), Error> {
        // Neighbours in the table, one after the other.
        self.points
            .sort_unstable_by_key(|p| (p.series, p.time, p.position, p.number));
        let mut put =
            connection.prepare_cached("INSERT INTO points VALUES (?1, ?2, ?3, ?4, ?5)")?;
        for p in self.points.drain(..) {
            put.execute((p.series, p.time, p.position, p.number, p.value))?;
        }
        Ok(())
    }

    /// Writes what was gathered.
    pub(super) fn write(mut self, connection: &Connection) -> Result<(), Error> {
        self.write_points(connection)?;
        let mut put_device =
            connection.prepare_cached("INSERT OR REPLACE INTO devices VALUES (?1, ?2, ?3)")?;
        let mut all = Vec::new();
        for (name, mut device) in self.devices {
            for (_, mut series) in device.by_name.drain() {
                for ((step, at), sum) in series.steps.drain() {
                    device.bytes += sum.write(connection, series.id, step, at)?;
                }
                all.extend(series.last.map(|last| (series.id, last)));
            }
            if device.series > 0 {
                put_device.execute((name, device.series, device.bytes.max(0)))?;
            }
        }
        all.sort_unstable_by_key(|(series, _)| *series);
        for (series, last) in all {
            last.write(connection, series)?;
        }
        connection
            .prepare_cached(
                "UPDATE state SET series = ?1, refused = refused + ?2, last_bytes = ?3",
            )?
            .execute((
                self.totals.series,
                self.totals.refused,
                self.totals.last_bytes.max(0),
            ))?;
        Ok(())
    }
}

fn steps_of(time: i64) -> impl Iterator<Item = (i64, i64)> {
    let seconds = Timestamp::from_nanos(time)
        .as_nanos()
        .div_euclid(1_000_000_000);
    STEPS
        .into_iter()
        .map(move |step| (step, seconds.div_euclid(step) * step))
}

fn device<'a>(
    devices: &'a mut HashMap<Box<str>, Device>,
    connection: &Connection,
    name: &str,
) -> Result<&'a mut Device, Error> {
    if !devices.contains_key(name) {
        let stored = connection
            .prepare_cached("SELECT series, bytes FROM devices WHERE device = ?1")?
            .query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let (series, bytes) = stored.unwrap_or((0, 0));
        let device = Device {
            series,
            bytes,
            by_name: HashMap::new(),
        };
        devices.insert(name.into(), device);
    }
    Ok(devices.get_mut(name).expect("it was put there"))
}

impl Device {
    /// A series, which is followed from now on if there is room.
    fn follow(
        &mut self,
        connection: &Connection,
        totals: &mut Totals,
        device: &str,
        name: &str,
    ) -> Result<Option<&mut Series>, Error> {
        if self.is_known(connection, device, name)? {
            return Ok(self.by_name.get_mut(name));
        }
        let bytes = names_bytes(device, name);
        if totals.series.cast_unsigned() >= totals.limits.series
            || self.series.cast_unsigned() >= totals.limits.device_series
            || !totals.has_room(bytes)
        {
            return Ok(None);
        }
        connection
            .prepare_cached("INSERT INTO series (device, name) VALUES (?1, ?2)")?
            .execute((device, name))?;
        totals.series += 1;
        totals.last_bytes += bytes;
        self.series += 1;
        let series = Series::of(connection.last_insert_rowid());
        Ok(Some(self.by_name.entry(name.into()).or_insert(series)))
    }

    fn known(
        &mut self,
        connection: &Connection,
        device: &str,
        name: &str,
    ) -> Result<Option<&mut Series>, Error> {
        self.is_known(connection, device, name)?;
        Ok(self.by_name.get_mut(name))
    }

    fn is_known(
        &mut self,
        connection: &Connection,
        device: &str,
        name: &str,
    ) -> Result<bool, Error> {
        if self.by_name.contains_key(name) {
            return Ok(true);
        }
        let stored = connection
            .prepare_cached("SELECT id FROM series WHERE device = ?1 AND name = ?2")?
            .query_row((device, name), |row| row.get(0))
            .optional()?;
        if let Some(id) = stored {
            self.by_name.insert(name.into(), Series::of(id));
        }
        Ok(stored.is_some())
    }
}

impl Series {
    fn of(id: i64) -> Self {
        Self {
            id,
            last: None,
            steps: HashMap::new(),
        }
    }

    fn last(&mut self, connection: &Connection) -> Result<&mut Last, Error> {
        if self.last.is_none() {
            let stored = connection
                .prepare_cached(
                    "SELECT time, position,
                            length(CAST(value AS BLOB)) + coalesce(length(CAST(unit AS BLOB)), 0)
                     FROM last WHERE series = ?1",
                )?
                .query_row([self.id], |row| {
                    Ok(Last {
                        at: (row.get(0)?, row.get(1)?),
                        bytes: row.get(2)?,
                        new: New::Nothing,
                    })
                })
                .optional()?;
            self.last = Some(stored.unwrap_or(Last {
                at: (i64::MIN, i64::MIN),
                bytes: 0,
                new: New::Nothing,
            }));
        }
        Ok(self.last.as_mut().expect("it was put there"))
    }

    /// Makes the latest number that is stored the last value.
    fn last_of_numbers(
        &mut self,
        connection: &Connection,
        totals: &mut Totals,
    ) -> Result<(), Error> {
        let latest: Option<(i64, i64, u32, Vec<u8>)> = connection
            .prepare_cached(
                "SELECT p.time, p.position, p.number, e.body
                 FROM (SELECT time, position, number FROM points WHERE series = ?1
                       ORDER BY time DESC, position DESC, number DESC LIMIT 1) p
                 JOIN events e ON e.position = p.position",
            )?
            .query_row([self.id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()?;
        let Some((time, position, number, body)) = latest else {
            return Ok(());
        };
        if let Ok(event) = Event::from_cbor(&body)
            && let Some(measurement) = event.measurements.get(number as usize)
        {
            let last = self.last(connection)?;
            last.put((time, position), measurement, totals);
        }
        Ok(())
    }

    fn sum(&mut self, connection: &Connection, step: i64, at: i64) -> Result<&mut Sum, Error> {
        if !self.steps.contains_key(&(step, at)) {
            let sum = Sum::stored(connection, self.id, step, at)?;
            self.steps.insert((step, at), sum);
        }
        Ok(self.steps.get_mut(&(step, at)).expect("it was put there"))
    }
}

impl Last {
    fn put(&mut self, at: (i64, i64), measurement: &Measurement, totals: &mut Totals) {
        let mut text = Vec::new();
        json::value(&measurement.value, &mut text);
        let unit = measurement.unit.as_deref();
        let unit = unit.filter(|unit| unit.len() <= UNIT_BYTES_MAX);
        let unit_bytes = unit.map_or(0, str::len);
        let bytes = |text: usize| i64::try_from(text + unit_bytes).unwrap_or(i64::MAX);
        let text = match text.len() {
            0..=VALUE_BYTES_SMALL => String::from_utf8_lossy(&text).into_owned(),
            long if long <= VALUE_BYTES_MAX
                && totals.has_room_for_long(bytes(long) - self.bytes) =>
            {
                String::from_utf8_lossy(&text).into_owned()
            }
            long => format!("{{\"omitted\":{long}}}"),
        };
        let bytes = bytes(text.len());
        totals.last_bytes += bytes - self.bytes;
        let unit = unit.map(str::to_owned);
        *self = Self {
            at,
            bytes,
            new: New::Value(text, unit, measurement.quality.word()),
        };
    }

    fn write(self, connection: &Connection, series: i64) -> Result<(), Error> {
        match self.new {
            New::Nothing => {}
            New::Gone => {
                connection
                    .prepare_cached("DELETE FROM last WHERE series = ?1")?
                    .execute([series])?;
            }
            New::Value(value, unit, quality) => {
                connection
                    .prepare_cached("INSERT OR REPLACE INTO last VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
                    .execute((series, self.at.0, self.at.1, value, unit, quality))?;
            }
        }
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

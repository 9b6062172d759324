//! The last value of every series.

use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{PAGE_BYTES, Reader, cursor, instant, limit, place, shown::LastValue};
use crate::query::Error;

/// Which series.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Last {
    /// Of this device; of all without it.
    pub device: Option<String>,
    /// Of this measurement; of all without it.
    pub name: Option<String>,
    /// Where the page begins.
    pub after: Option<String>,
    /// Its size, at most.
    pub limit: usize,
}

impl Reader {
    /// The last values, by device and name.
    ///
    /// # Errors
    /// When the database cannot be read, or `after` is not of an answer.
    pub fn last(&mut self, asked: &Last) -> Result<Value, Error> {
        self.answer(|context| page(context.connection, asked))
    }
}

fn page(connection: &Connection, asked: &Last) -> Result<(Vec<Value>, Option<String>), Error> {
    let after: (String, String) = match &asked.after {
        Some(after) => place(after)?,
        None => (asked.device.clone().unwrap_or_default(), String::new()),
    };
    let (count, rows) = limit(asked.limit);
    // Nothing stands before the first name of a device, which may be empty.
    let at = if asked.after.is_some() { ">" } else { ">=" };
    let mut statement = connection.prepare(&format!(
        "SELECT s.device, s.name, l.value, l.unit, l.quality, l.time, l.position
         FROM series s JOIN last l ON l.series = s.id
         WHERE (s.device, s.name) {at} (?1, ?2)
         AND (?3 IS NULL OR s.device = ?3) AND (?4 IS NULL OR s.name = ?4)
         AND (?3 IS NULL OR s.device <= ?3)
         ORDER BY s.device, s.name LIMIT ?5"
    ))?;
    let mut taken = 0;
    let found = statement.query_map(
        (&after.0, &after.1, &asked.device, &asked.name, rows),
        |row| {
            let (device, name): (String, String) = (row.get(0)?, row.get(1)?);
            let value: String = row.get(2)?;
            taken += value.len();
            let item = json!(LastValue {
                device: device.clone(),
                name: name.clone(),
                value: exact(&value),
                unit: row.get(3)?,
                quality: row.get(4)?,
                time: instant(row.get(5)?),
                position: row.get(6)?,
            });
            Ok(((device, name), item, taken))
        },
    )?;
    let (mut items, mut more) = (Vec::new(), false);
    for one in found {
        let (place, item, taken) = one?;
        items.push((place, item));
        more = items.len() > count || taken > PAGE_BYTES;
        if more {
            break;
        }
    }
    let mut found = items;
    found.truncate(count);
    let next = found.last().filter(|_| more);
    let next = next.map(|((device, name), _)| cursor(&json!([device, name])));
    Ok((found.into_iter().map(|(_, item)| item).collect(), next))
}

/// A value as it was measured; numbers to the last digit that a double has.
fn exact(text: &str) -> Value {
    if let Ok(n) = text.parse::<i64>() {
        return n.into();
    }
    if let Ok(n) = text.parse::<u64>() {
        return n.into();
    }
    let begins = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    match text.parse::<f64>() {
        Ok(x) if begins => x.into(),
        _ => serde_json::from_str(text).unwrap_or(Value::Null),
    }
}

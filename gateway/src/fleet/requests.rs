//! Changes that came with an Idempotency-Key: the same one again is answered as it was
//! before, and changes nothing. Kept for a day, and a hundred thousand of them.

use rusqlite::{Connection, OptionalExtension as _, params, types::ValueRef};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Asked, Change, Refusal, rows};
use crate::{
    event::Timestamp,
    store::{Edited, NewEvent},
};

/// How long an answer is kept, in milliseconds.
const KEEP_MS: i64 = 86_400_000;
/// How many.
const KEEP_MAX: i64 = 100_000;

#[derive(Serialize, Deserialize)]
struct Answered {
    digest: String,
    answer: Value,
}

/// What tells a request from others with the same key.
pub(super) fn digest(request: &impl std::fmt::Debug) -> String {
    blake3::hash(format!("{request:?}").as_bytes())
        .to_hex()
        .as_str()[..32]
        .to_owned()
}

/// Makes a change of a device, unless a request with the same key did before.
pub(super) fn once<T: Serialize + DeserializeOwned>(
    tables: &Connection,
    now: Timestamp,
    device: &str,
    asked: &Asked,
    digest: &str,
    change: impl FnOnce() -> rusqlite::Result<Result<(T, Vec<NewEvent>), Refusal>>,
) -> rusqlite::Result<Edited<Result<Change<T>, Refusal>>> {
    if let Some(key) = &asked.key
        && let Some(before) = find(tables, device, key)?
    {
        let value = serde_json::from_value(before.answer);
        return Ok(Edited::nothing(match value {
            Ok(value) if before.digest == digest => Ok(Change { value, again: true }),
            _ => Err(Refusal::KeyReused),
        }));
    }
    let (value, events) = match change()? {
        Ok(made) => made,
        Err(refusal) => return Ok(Edited::nothing(Err(refusal))),
    };
    if let Some(key) = &asked.key {
        let answered = Answered {
            digest: digest.to_owned(),
            answer: serde_json::to_value(&value)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?,
        };
        let (checksum, body) = rows::body(tables, "requests", &row(device, key), &answered)?;
        tables
            .prepare_cached(
                "INSERT OR REPLACE INTO requests (device, key, at, checksum, body)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![device, &**key, now.as_millis(), checksum, body])?;
    }
    let change = Change {
        value,
        again: false,
    };
    Ok(Edited::change(Ok(change), events))
}

/// What makes a row that one (`store/salvage/others.rs` has it in SQL).
fn row(device: &str, key: &str) -> String {
    format!("{}:{device}{key}", device.chars().count())
}

fn find(tables: &Connection, device: &str, key: &str) -> rusqlite::Result<Option<Answered>> {
    let found = tables
        .prepare_cached(
            "SELECT opened('requests', ?3, checksum, body) FROM requests
             WHERE device = ?1 AND key = ?2",
        )?
        .query_row([device, key, &row(device, key)], |row| {
            Ok(match row.get_ref(0)? {
                ValueRef::Blob(body) | ValueRef::Text(body) => serde_json::from_slice(body).ok(),
                _ => None,
            })
        })
        .optional()?;
    Ok(found.flatten())
}

/// Forgets what is too old, or too much, at most `limit` of it; how many.
pub(super) fn trim(tables: &Connection, now: Timestamp, limit: i64) -> rusqlite::Result<usize> {
    let before = now.as_millis().saturating_sub(KEEP_MS);
    let old = tables
        .prepare_cached(
            "DELETE FROM requests WHERE number IN
                 (SELECT number FROM requests WHERE at < ?1 ORDER BY at LIMIT ?2)",
        )?
        .execute([before, limit])?;
    // Numbers only grow while there are rows.
    let many = tables
        .prepare_cached(
            "DELETE FROM requests WHERE number IN
                 (SELECT number FROM requests
                  WHERE number <= (SELECT max(number) FROM requests) - ?1
                  ORDER BY number LIMIT ?2)",
        )?
        .execute([KEEP_MAX, limit])?;
    Ok(old + many)
}

//! Sealing within SQL: whoever has a connection can seal and open, and need not be handed keys.
//!
//! | function | what it gives |
//! |---|---|
//! | `sealed(table, row, value)` | the value as it is to be stored |
//! | `opened(table, row, checksum, stored)` | what it says; null where it is damaged. A checksum of null is not looked at |
//! | `key_of(stored)` | the key that it is sealed with, `plain`, or null for nothing |
//!
//! All keys that a database notes are there when it is opened ([`check`](super::check)), so
//! a value that says another one is damaged.

use rusqlite::{
    Connection,
    functions::{Context, FunctionFlags},
    types::{Value, ValueRef},
};

use super::{NotOpened, Place, Seal, cipher};

const FLAGS: FunctionFlags = FunctionFlags::SQLITE_UTF8.union(FunctionFlags::SQLITE_DIRECTONLY);

/// Gives a connection these functions; tables are those of `database`.
///
/// # Errors
/// When SQLite says no.
pub fn register(
    connection: &Connection,
    seal: &Seal,
    database: &'static str,
) -> rusqlite::Result<()> {
    // What is sorted may be opened already, and is on no disk for that.
    connection.execute_batch("PRAGMA temp_store = MEMORY")?;
    let ours = seal.clone();
    connection.create_scalar_function("sealed", 3, FLAGS, move |call| {
        let (table, row) = place(call, database)?;
        let place = Place {
            table: &table,
            row: &row,
        };
        Ok(match call.get_raw(2) {
            ValueRef::Blob(value) => Value::Blob(ours.seal(place, value).into_owned()),
            ValueRef::Text(text) => {
                let text = String::from_utf8_lossy(text);
                Value::Text(ours.seal_text(place, &text).into_owned())
            }
            other => other.try_into()?,
        })
    })?;
    let ours = seal.clone();
    connection.create_scalar_function("opened", 4, FLAGS, move |call| {
        let (table, row) = place(call, database)?;
        let place = Place {
            table: &table,
            row: &row,
        };
        let stored = call.get_raw(3);
        let opened = match stored {
            ValueRef::Blob(stored) if is_whole(call, stored) => ours
                .open(place, stored)
                .map(|value| Value::Blob(value.into_owned())),
            ValueRef::Text(stored) if is_whole(call, stored) => {
                let stored = String::from_utf8_lossy(stored);
                ours.open_text(place, &stored)
                    .map(|text| Value::Text(text.into_owned()))
            }
            ValueRef::Blob(_) | ValueRef::Text(_) => Err(NotOpened::Damaged),
            other => return Ok(other.try_into()?),
        };
        match opened {
            Ok(value) => Ok(value),
            // A key that nobody noted is a flipped bit.
            Err(NotOpened::Damaged | NotOpened::NoKey(_)) => Ok(Value::Null),
        }
    })?;
    let flags = FLAGS | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("key_of", 1, flags, |call| {
        let key = match call.get_raw(0) {
            ValueRef::Blob([]) | ValueRef::Text([]) => return Ok(None),
            ValueRef::Blob(stored) => cipher::key_of(stored),
            ValueRef::Text(stored) => std::str::from_utf8(stored)
                .ok()
                .and_then(cipher::key_of_text),
            _ => return Ok(None),
        };
        Ok(Some(
            key.map_or_else(|| "plain".to_owned(), |key| key.to_string()),
        ))
    })?;
    Ok(())
}

/// Table and row, the first two arguments.
fn place(call: &Context<'_>, database: &str) -> rusqlite::Result<(String, Vec<u8>)> {
    let table = format!("{database}.{}", call.get_raw(0).as_str()?);
    let row = match call.get_raw(1) {
        ValueRef::Text(row) | ValueRef::Blob(row) => row.to_vec(),
        ValueRef::Integer(row) => row.to_string().into_bytes(),
        ValueRef::Real(_) | ValueRef::Null => Vec::new(),
    };
    Ok((table, row))
}

/// Whether it has the checksum that stands before it.
fn is_whole(call: &Context<'_>, stored: &[u8]) -> bool {
    match call.get_raw(2) {
        ValueRef::Null => true,
        ValueRef::Integer(checksum) => checksum == i64::from(crc32fast::hash(stored)),
        _ => false,
    }
}

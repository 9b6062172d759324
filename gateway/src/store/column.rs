//! Reads columns that damage may have made something else of: one flipped bit in a
//! row's header turns a number into text, and SQLite calls the row sound. None of
//! these fails because of that; a checksum says which rows are whole.

use rusqlite::{Row, types::ValueRef};

use crate::event::Timestamp;

/// A number; `None` where there is something else.
pub(super) fn number(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<i64>> {
    Ok(row.get_ref(at)?.as_i64().ok())
}

/// A small number; zero where there is something else.
pub(super) fn small(row: &Row<'_>, at: usize) -> rusqlite::Result<u32> {
    let number = number(row, at)?;
    Ok(number.and_then(|n| u32::try_from(n).ok()).unwrap_or(0))
}

/// An instant; the epoch where there is something else.
pub(super) fn instant(row: &Row<'_>, at: usize) -> rusqlite::Result<Timestamp> {
    Ok(Timestamp::from_nanos(number(row, at)?.unwrap_or(0)))
}

/// Text as far as it can be read.
pub(super) fn text(row: &Row<'_>, at: usize) -> rusqlite::Result<String> {
    Ok(match row.get_ref(at)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        ValueRef::Integer(n) => n.to_string(),
        ValueRef::Real(x) => x.to_string(),
        ValueRef::Null => String::new(),
    })
}

/// Bytes; none where there is something else.
pub(super) fn bytes<'r>(row: &'r Row<'_>, at: usize) -> rusqlite::Result<&'r [u8]> {
    Ok(match row.get_ref(at)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => &[],
    })
}

//! A database is brought under another key, or under none, while nobody uses it.
//!
//! Promises: at any moment each value is whole, under the old key or the new one; what was
//! interrupted goes on where it is. The keys that a database notes become fewer only after
//! the old values are in neither file nor log ([`settle`]). A value that does not open under
//! any key is made one that everybody sees is damaged, whatever keys there are later. No
//! transaction is large.

use std::{collections::BTreeMap, fmt};

use rusqlite::{Connection, types::ValueRef};

use super::{NotOpened, Place, Seal, cipher, noted};

/// Rows, and bytes, of one transaction, about.
const CHUNK_ROWS: usize = 500;
const CHUNK_BYTES: usize = 2 * 1024 * 1024;

/// A column with sealed values.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its table. One that is not there has none.
    pub table: &'static str,
    /// The table's name in what is bound to values.
    pub place: &'static str,
    /// What is bound of the row, in SQL.
    pub row: &'static str,
    /// The column.
    pub value: &'static str,
    /// The column with the value's checksum, if it has one.
    pub checksum: Option<&'static str>,
    /// Rows have numbers of their own; otherwise all are changed at once: there are few.
    pub has_rowid: bool,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Values that are under the right key now.
    pub changed: u64,
    /// Values that do not open.
    pub damaged: u64,
    /// Of those: in plain text, and so they stay: nobody knows what they said.
    pub plain: u64,
}

impl Resealed {
    /// Adds what was done elsewhere.
    pub const fn add(&mut self, other: Self) {
        self.changed += other.changed;
        self.damaged += other.damaged;
        self.plain += other.plain;
    }
}

/// Values by what they are sealed with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Not sealed.
    pub plain: u64,
    /// Of those: damaged. They stay as they are.
    pub damaged: u64,
    /// Sealed, by key.
    pub sealed: BTreeMap<String, u64>,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} plain", self.plain)?;
        if self.damaged > 0 {
            write!(f, " ({} of them damaged, which stay plain)", self.damaged)?;
        }
        for (key, count) in &self.sealed {
            write!(f, ", {count} under key {key}")?;
        }
        Ok(())
    }
}

/// Counts values; `value` is SQL.
///
/// # Errors
/// When the database cannot be read.
pub fn tally(
    connection: &Connection,
    table: &str,
    value: &str,
    tally: &mut Tally,
) -> rusqlite::Result<()> {
    let sql = format!("SELECT key_of({value}), count(*) FROM {table} GROUP BY 1");
    let Ok(mut statement) = connection.prepare(&sql) else {
        // An earlier version had no such table.
        return Ok(());
    };
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let count = row.get::<_, i64>(1)?.unsigned_abs();
        match row.get::<_, Option<String>>(0)? {
            None => {}
            Some(key) if key == "plain" => tally.plain += count,
            Some(key) => *tally.sealed.entry(key).or_default() += count,
        }
    }
    Ok(())
}

/// Counts those of a column, and which of the plain ones are damaged.
///
/// # Errors
/// When the database cannot be read.
pub fn tally_column(
    connection: &Connection,
    column: &Column,
    of_all: &mut Tally,
) -> rusqlite::Result<()> {
    let Column {
        table,
        place,
        row,
        value,
        ..
    } = column;
    tally(connection, table, value, of_all)?;
    let Some(checksum) = column.checksum else {
        // Plain text without a checksum is what it is.
        return Ok(());
    };
    let sql = format!(
        "SELECT count(*) FROM {table} WHERE key_of({value}) = 'plain'
         AND opened('{place}', {row}, {checksum}, {value}) IS NULL"
    );
    if let Ok(mut statement) = connection.prepare(&sql) {
        of_all.damaged += statement
            .query_row([], |row| row.get::<_, i64>(0))?
            .unsigned_abs();
    }
    Ok(())
}

/// What lies in a row.
enum Found {
    Blob(Vec<u8>),
    Text(String),
}

/// Brings a column under the key that `seal` seals with, or under none.
///
/// # Errors
/// When the database says no, or a key is missing.
pub fn reseal(
    connection: &Connection,
    seal: &Seal,
    database: &str,
    column: &Column,
) -> rusqlite::Result<Resealed> {
    let Column {
        table,
        row,
        value,
        checksum,
        ..
    } = column;
    if connection
        .prepare(&format!("SELECT {value} FROM {table}"))
        .is_err()
    {
        return Ok(Resealed::default());
    }
    if !column.has_rowid {
        return all_at_once(connection, seal, column);
    }
    let label = format!("{database}.{}", column.place);
    let sum = checksum.unwrap_or("NULL");
    let select =
        format!("SELECT rowid, {row}, {sum}, {value} FROM {table} WHERE rowid > ?1 ORDER BY rowid");
    let update = match checksum {
        Some(sum) => format!("UPDATE {table} SET {value} = ?2, {sum} = ?3 WHERE rowid = ?1"),
        None => format!("UPDATE {table} SET {value} = ?2 WHERE rowid = ?1"),
    };
    // One that was moved has its checksum, and none of the keys that are there later.
    let spoil = match checksum {
        Some(sum) => {
            format!("UPDATE {table} SET {sum} = ({sum} + 1) & 4294967295 WHERE rowid = ?1")
        }
        None => format!("UPDATE {table} SET {value} = substr({value}, 1, 0) WHERE rowid = ?1"),
    };
    let mut done = Resealed::default();
    let mut last = i64::MIN;
    loop {
        let transaction = connection.unchecked_transaction()?;
        let (mut seen, mut bytes) = (0, 0);
        let (mut changes, mut broken) = (Vec::new(), Vec::new());
        let mut statement = connection.prepare_cached(&select)?;
        let mut rows = statement.query([last])?;
        let mut is_end = true;
        while let Some(found) = rows.next()? {
            last = found.get(0)?;
            seen += 1;
            let sum = found.get_ref(2)?.as_i64().ok();
            let of = match found.get_ref(1)? {
                ValueRef::Text(row) | ValueRef::Blob(row) => row.to_vec(),
                ValueRef::Integer(row) => row.to_string().into_bytes(),
                ValueRef::Real(_) | ValueRef::Null => Vec::new(),
            };
            let place = Place {
                table: &label,
                row: &of,
            };
            let (mut whole, mut is_plain) = (None, false);
            let changed = match found.get_ref(3)? {
                ValueRef::Blob(stored) => {
                    is_plain = cipher::key_of(stored).is_none();
                    whole = Some(crc32fast::hash(stored).into());
                    let is_whole = checksum.is_none() || sum == whole;
                    again(seal, place, stored, is_whole).map(|of| of.map(Found::Blob))
                }
                ValueRef::Text(stored) => again_text(seal, place, &String::from_utf8_lossy(stored))
                    .map(|of| of.map(Found::Text)),
                _ => Ok(None),
            };
            match changed {
                Ok(Some(changed)) => {
                    bytes += match &changed {
                        Found::Blob(value) => value.len(),
                        Found::Text(value) => value.len(),
                    };
                    changes.push((last, changed));
                }
                Ok(None) => {}
                // A key that the database does not note is a flipped bit.
                Err(NotOpened::Damaged | NotOpened::NoKey(_)) => {
                    done.damaged += 1;
                    done.plain += u64::from(is_plain);
                    broken.extend((sum == whole || checksum.is_none()).then_some(last));
                }
            }
            if changes.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES || seen >= 100 * CHUNK_ROWS {
                is_end = false;
                break;
            }
        }
        drop(rows);
        drop(statement);
        let mut statement = connection.prepare_cached(&update)?;
        for (number, changed) in &changes {
            match (changed, checksum) {
                (Found::Blob(value), Some(_)) => {
                    statement.execute((number, value, crc32fast::hash(value)))?;
                }
                (Found::Blob(value), None) => {
                    statement.execute((number, value))?;
                }
                (Found::Text(value), _) => {
                    statement.execute((number, value))?;
                }
            }
        }
        done.changed += changes.len() as u64;
        drop(statement);
        for number in broken {
            connection.prepare_cached(&spoil)?.execute([number])?;
        }
        transaction.commit()?;
        if is_end {
            return Ok(done);
        }
    }
}

/// A value as it should be stored, if it is not so yet.
fn again(
    seal: &Seal,
    place: Place<'_>,
    stored: &[u8],
    is_whole: bool,
) -> Result<Option<Vec<u8>>, NotOpened> {
    if stored.is_empty() || cipher::key_of(stored) == seal.key() {
        return Ok(None);
    }
    if !is_whole {
        return Err(NotOpened::Damaged);
    }
    let value = seal.open(place, stored)?;
    Ok(Some(seal.seal(place, &value).into_owned()))
}

fn again_text(seal: &Seal, place: Place<'_>, stored: &str) -> Result<Option<String>, NotOpened> {
    if stored.is_empty() || cipher::key_of_text(stored) == seal.key() {
        return Ok(None);
    }
    let text = seal.open_text(place, stored)?;
    Ok(Some(seal.seal_text(place, &text).into_owned()))
}

fn all_at_once(
    connection: &Connection,
    seal: &Seal,
    column: &Column,
) -> rusqlite::Result<Resealed> {
    let Column {
        table,
        place,
        row,
        value,
        ..
    } = column;
    let key = seal
        .key()
        .map_or_else(|| "plain".to_owned(), |id| id.to_string());
    let transaction = connection.unchecked_transaction()?;
    let opened = format!("opened('{place}', {row}, NULL, {value})");
    let changed = connection.execute(
        &format!(
            "UPDATE {table} SET {value} = sealed('{place}', {row}, {opened})
             WHERE key_of({value}) <> ?1 AND {opened} IS NOT NULL"
        ),
        [&key],
    )?;
    let damaged = connection.execute(
        &format!("UPDATE {table} SET {value} = substr({value}, 1, 0) WHERE key_of({value}) <> ?1"),
        [&key],
    )?;
    transaction.commit()?;
    Ok(Resealed {
        changed: changed as u64,
        damaged: damaged as u64,
        plain: 0,
    })
}

/// Ends it: what was written over is in neither file nor log any more, and after that the
/// database notes no other key.
///
/// # Errors
/// When the database says no; the old keys are still noted then.
pub fn settle(connection: &Connection, seal: &Seal) -> rusqlite::Result<()> {
    // The copy that this makes has sealed values in it as they are, and need not be in memory.
    // The log has room for the copy only once it is empty.
    empty_log(connection)?;
    connection.execute_batch("PRAGMA temp_store = FILE; VACUUM")?;
    empty_log(connection)?;
    noted::forget(connection, seal)?;
    empty_log(connection)
}

fn empty_log(connection: &Connection) -> rusqlite::Result<()> {
    let busy: i64 =
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    match busy {
        0 => Ok(()),
        _ => Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
            Some("somebody reads the database".to_owned()),
        )),
    }
}

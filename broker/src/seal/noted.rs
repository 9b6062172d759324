//! Each database notes the keys that its values may be sealed with, each with a proof: so a
//! key that is missing or wrong is told from damage before anything is read.

use rusqlite::Connection;

use super::{KeyId, NotOpened, Place, Seal, cipher::key_of};

const PROOF: &[u8] = b"penstock";

/// A key of `database` is not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{database} has values that are sealed with the key {key}, which is not given: {}",
    if *.is_on {
        "it is none of those in [encryption]; put that key back, or name it in old_keys until \
         `penstock encryption reseal` has run"
    } else {
        "name it in [encryption] (key_file, key_env or credential)"
    }
)]
pub struct KeyError {
    /// The file.
    pub database: String,
    /// The key that is missing.
    pub key: KeyId,
    /// Others are given.
    pub is_on: bool,
}

fn place(id: [u8; 4], table: &str) -> (String, [u8; 4]) {
    (format!("{table}.keys"), id)
}

/// The keys that a database notes. One whose row is damaged says nothing.
///
/// # Errors
/// When it cannot be read. One of before there were keys has none.
pub fn noted(connection: &Connection) -> rusqlite::Result<Vec<(KeyId, Vec<u8>)>> {
    let has_table = connection
        .prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'keys'")?
        .exists([])?;
    if !has_table {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare("SELECT key, proof FROM keys ORDER BY key")?;
    let mut rows = statement.query([])?;
    let mut keys = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get_ref(0)?.as_i64().ok();
        let id = id.and_then(|id| u32::try_from(id).ok()).map(KeyId);
        let proof = row.get_ref(1)?.as_blob().ok();
        // Both say which key it is: one that a flipped bit made is none.
        if let (Some(id), Some(proof)) = (id, proof)
            && key_of(proof) == Some(id)
        {
            keys.push((id, proof.to_vec()));
        }
    }
    Ok(keys)
}

/// Whether all keys that a database notes are there.
///
/// # Errors
/// [`KeyError`] where one is not; within, where the database cannot be read.
pub fn check(
    connection: &Connection,
    seal: &Seal,
    database: &str,
) -> rusqlite::Result<Result<(), KeyError>> {
    for (key, proof) in noted(connection)? {
        let (table, row) = place(key.0.to_be_bytes(), database);
        let place = Place {
            table: &table,
            row: &row,
        };
        match seal.open(place, &proof) {
            Ok(_) => {}
            Err(NotOpened::NoKey(key)) => {
                return Ok(Err(KeyError {
                    database: database.to_owned(),
                    key,
                    is_on: seal.keys().next().is_some(),
                }));
            }
            Err(NotOpened::Damaged) => {
                tracing::error!(database, %key, "the proof of a key is damaged");
            }
        }
    }
    Ok(Ok(()))
}

/// Notes the key that what is new is sealed with, before anything is; whether it is new there.
///
/// # Errors
/// When the database cannot be written.
pub fn note(connection: &Connection, seal: &Seal, database: &str) -> rusqlite::Result<bool> {
    let Some(key) = seal.key() else {
        return Ok(false);
    };
    let known = noted(connection)?.iter().any(|(known, _)| *known == key);
    if !known {
        put(connection, seal, key, database)?;
    }
    Ok(!known)
}

/// Notes all keys that are given: those of a damaged database are not known for certain.
///
/// # Errors
/// As [`note`].
pub fn note_all(connection: &Connection, seal: &Seal, database: &str) -> rusqlite::Result<()> {
    seal.keys()
        .try_for_each(|key| put(connection, seal, key, database))
}

fn put(connection: &Connection, seal: &Seal, key: KeyId, database: &str) -> rusqlite::Result<()> {
    let (table, row) = place(key.0.to_be_bytes(), database);
    let place = Place {
        table: &table,
        row: &row,
    };
    let Some(of) = seal.sealing_with(key) else {
        return Ok(());
    };
    connection.execute(
        "INSERT OR REPLACE INTO keys (key, proof) VALUES (?1, ?2)",
        (key.0, of.seal(place, PROOF)),
    )?;
    Ok(())
}

/// Forgets all keys but the one that what is new is sealed with: nothing is sealed with them
/// any more.
///
/// # Errors
/// As [`note`].
pub fn forget(connection: &Connection, seal: &Seal) -> rusqlite::Result<()> {
    let key = seal.key().map_or(-1, |key| i64::from(key.0));
    connection.execute("DELETE FROM keys WHERE key <> ?1", [key])?;
    Ok(())
}

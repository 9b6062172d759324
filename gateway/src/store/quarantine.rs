//! Messages that could not be decoded, kept as they came.

use rusqlite::Connection;

use super::{entry::NewQuarantine, frame::column, listing::Quarantined};

/// Keeps a message under a number of its own.
pub(super) fn insert(
    connection: &Connection,
    id: u64,
    item: &NewQuarantine,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO quarantine
         (id, received, client_id, topic, class, reason, payload, properties, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let checksum = checksum(
        &[&item.client_id, &item.topic, item.class, &item.reason],
        &item.payload,
        item.properties.as_deref(),
    );
    statement.execute((
        column(id),
        item.received.as_nanos(),
        &*item.client_id,
        &*item.topic,
        item.class,
        &item.reason,
        &item.payload[..],
        item.properties.as_deref(),
        checksum,
    ))?;
    Ok(())
}

/// Removes a message; says whether it was there.
pub(super) fn remove(connection: &Connection, id: u64) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached("DELETE FROM quarantine WHERE id = ?1")?;
    Ok(statement.execute([column(id)])? > 0)
}

/// The checksum that a message read back should have.
pub(super) fn checksum_of(item: &Quarantined) -> u32 {
    checksum(
        &[&item.client_id, &item.topic, &item.class, &item.reason],
        &item.payload,
        item.properties.as_deref(),
    )
}

fn checksum(texts: &[&str], payload: &[u8], properties: Option<&[u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for text in texts {
        hasher.update(text.as_bytes());
        hasher.update(&[0]);
    }
    hasher.update(payload);
    hasher.update(properties.unwrap_or_default());
    hasher.finalize()
}

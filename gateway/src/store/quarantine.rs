//! Messages that could not be decoded, kept as they came.

use rusqlite::Connection;

use super::{
    entry::NewQuarantine,
    frame::{column, integer},
    listing::Quarantined,
    stage::Stage,
};

/// Messages that leave with one commit, at most.
const CHUNK_ROWS: u64 = 1_000;
/// What a message counts towards the share; see `Entry::cost_bytes`.
pub(super) const COST: &str =
    "coalesce(octet_length(payload), 0) + coalesce(octet_length(topic), 0)
     + coalesce(octet_length(client_id), 0) + coalesce(octet_length(reason), 0)
     + coalesce(octet_length(properties), 0) + 64";

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
pub(super) fn remove(
    connection: &Connection,
    id: u64,
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    let sql = format!("DELETE FROM quarantine WHERE id = ?1 RETURNING {COST}");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([column(id)])?;
    let Some(row) = rows.next()? else {
        return Ok(false);
    };
    let bytes = integer(row.get(0)?);
    // To the end, or nothing is removed.
    while rows.next()?.is_some() {}
    let state = &mut stage.state;
    state.quarantine_bytes = state.quarantine_bytes.saturating_sub(bytes);
    state.in_quarantine = state.in_quarantine.saturating_sub(1);
    stage.dirty = true;
    Ok(true)
}

/// Evicts the oldest messages until at most so many bytes are left, or a chunk
/// has left; says whether any did.
pub(super) fn evict_to(
    connection: &Connection,
    bytes_max: u64,
    stage: &mut Stage,
) -> rusqlite::Result<bool> {
    let mut evicted = 0;
    while stage.state.quarantine_bytes > bytes_max && evicted < CHUNK_ROWS {
        let oldest: Option<i64> = connection
            .prepare_cached("SELECT min(id) FROM quarantine")?
            .query_row([], |row| row.get(0))?;
        let Some(oldest) = oldest else {
            stage.state.quarantine_bytes = 0;
            break;
        };
        remove(connection, integer(oldest), stage)?;
        evicted += 1;
    }
    stage.state.quarantine_evicted += evicted;
    Ok(evicted > 0)
}

/// The checksum that a message read back should have.
pub(super) fn checksum_of(item: &Quarantined) -> u32 {
    checksum(
        &[&item.client_id, &item.topic, &item.class, &item.reason],
        &item.payload,
        item.properties.as_deref(),
    )
}

/// Over what was received, and why it could not be decoded.
pub(super) fn checksum(texts: &[&str], payload: &[u8], properties: Option<&[u8]>) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for text in texts {
        hasher.update(text.as_bytes());
        hasher.update(&[0]);
    }
    hasher.update(payload);
    hasher.update(properties.unwrap_or_default());
    hasher.finalize()
}

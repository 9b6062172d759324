//! Messages that could not be decoded, kept as they came.

use penstock_broker::seal::{NotOpened, Seal};
use rusqlite::Connection;

use super::{
    entry::NewQuarantine,
    frame::{column, integer},
    listing::Quarantined,
    sealed,
    stage::Stage,
};

/// Messages that leave with one commit, at most.
const CHUNK_ROWS: u64 = 1_000;
/// Those that are sealed.
pub(super) const COLUMNS: [&str; 3] = ["reason", "payload", "properties"];
/// What a message counts towards the share; see `Entry::cost_bytes`.
pub(super) const COST: &str =
    "coalesce(octet_length(payload), 0) + coalesce(octet_length(topic), 0)
     + coalesce(octet_length(client_id), 0) + coalesce(octet_length(reason), 0)
     + coalesce(octet_length(properties), 0) + 64";

/// Keeps a message under a number of its own; says what it counts towards the share.
pub(super) fn insert(
    connection: &Connection,
    seal: &Seal,
    id: u64,
    item: &NewQuarantine,
) -> rusqlite::Result<u64> {
    let message = Message {
        id,
        received: item.received.as_nanos(),
        texts: [&item.client_id, &item.topic, item.class],
        reason: &item.reason,
        payload: &item.payload,
        properties: item.properties.as_deref(),
    };
    put(connection, seal, "INSERT", &message)
}

/// Writes a message again as it is sealed now.
pub(super) fn rewrite(
    connection: &Connection,
    seal: &Seal,
    item: &Quarantined,
) -> rusqlite::Result<()> {
    let message = Message {
        id: item.id,
        received: item.received.as_nanos(),
        texts: [&item.client_id, &item.topic, &item.class],
        reason: &item.reason,
        payload: &item.payload,
        properties: item.properties.as_deref(),
    };
    put(connection, seal, "INSERT OR REPLACE", &message).map(drop)
}

/// What there is to say of one.
struct Message<'m> {
    id: u64,
    received: i64,
    /// Client, topic, class.
    texts: [&'m str; 3],
    reason: &'m str,
    payload: &'m [u8],
    properties: Option<&'m [u8]>,
}

fn put(
    connection: &Connection,
    seal: &Seal,
    insert: &str,
    message: &Message<'_>,
) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached(&format!(
        "{insert} INTO quarantine
         (id, received, client_id, topic, class, reason, payload, properties, checksum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    ))?;
    let rows = COLUMNS.map(|column| sealed::quarantined(message.id, column));
    let [of_reason, of_payload, of_properties] =
        rows.each_ref().map(|row| sealed::in_quarantine(row));
    let reason = seal.seal_text(of_reason, message.reason);
    let payload = seal.seal(of_payload, message.payload);
    let properties = message.properties.map(|all| seal.seal(of_properties, all));
    let [client_id, topic, class] = message.texts;
    let checksum = checksum(
        &[client_id, topic, class, &reason],
        &payload,
        properties.as_deref(),
    );
    let texts = client_id.len() + topic.len() + reason.len();
    let bytes = payload.len() + properties.as_ref().map_or(0, |all| all.len());
    statement.execute((
        column(message.id),
        message.received,
        client_id,
        topic,
        class,
        reason,
        payload,
        properties,
        checksum,
    ))?;
    Ok((bytes + texts + 64) as u64)
}

/// What a message says, in the place of what lies there.
pub(super) fn open(seal: &Seal, item: &mut Quarantined) -> Result<(), NotOpened> {
    let rows = COLUMNS.map(|column| sealed::quarantined(item.id, column));
    let [of_reason, of_payload, of_properties] =
        rows.each_ref().map(|row| sealed::in_quarantine(row));
    let reason = seal.open_text(of_reason, &item.reason)?;
    let payload = seal.open(of_payload, &item.payload)?;
    let properties = item.properties.as_deref();
    let properties = properties.map(|all| seal.open(of_properties, all));
    let properties = properties.transpose()?;
    let (reason, payload) = (reason.into_owned(), payload.into_owned().into());
    item.properties = properties.map(|all| all.into_owned().into());
    (item.reason, item.payload) = (reason, payload);
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

/// The checksum that a message should have, as it lies there.
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

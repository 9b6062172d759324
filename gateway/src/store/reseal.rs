//! The journal is brought under another key, or under none, while no gateway runs.
//!
//! A record is read, opened, sealed and written again in one transaction with its checksum.
//! Frames that are kept as they were found, because they are damaged, stay so.

use std::path::Path;

use penstock_broker::seal::{self, Column, Resealed, Seal, Tally};
use rusqlite::{Connection, OptionalExtension as _, types::ValueRef};

use super::{
    DATABASE, Error, column as columns,
    frame::{self, column, integer},
    listing::{Quarantined, quarantined, quarantined_as_it_lies},
    lock::Lock,
    open, quarantine, reader, rescue,
    salvage::others::{OTHERS, Other},
    schema, sealed,
    stage::write_state,
};

/// Rows of one transaction, and their bytes, about.
const CHUNK_ROWS: usize = 500;
const CHUNK_BYTES: usize = 2 * 1024 * 1024;

/// Tables with frames.
const FRAMES: [&str; 3] = ["events", "retry", "dead_letters"];

/// Holds the data directory, and brings its journal under the key that `seal` seals with, or
/// under none; `others` does the same for what lies beside it, while nobody else may. Before
/// that `look` says whether it may begin. Blocking.
///
/// # Errors
/// When a gateway runs, the journal is damaged, a key is missing, or the disk says no.
pub fn reseal<E: From<Error>>(
    dir: &Path,
    seal: &Seal,
    look: impl FnOnce() -> Result<(), E>,
    others: impl FnOnce() -> Result<(), E>,
) -> Result<Resealed, E> {
    let lock = Lock::take(dir)?;
    look()?;
    let done = journal(&dir.join(DATABASE), seal)?;
    others()?;
    drop(lock);
    Ok(done)
}

fn journal(database: &Path, seal: &Seal) -> Result<Resealed, Error> {
    let mut done = Resealed::default();
    rescue::finish(database)?;
    if !database.try_exists()? {
        return Ok(done);
    }
    sealed::check(database, seal)?;
    schema::check_header(database)?;
    let mut connection = schema::open(database, seal)?;
    // A start after a kill counts the log as room that is used.
    connection.execute_batch("PRAGMA wal_autocheckpoint = 1000")?;
    schema::check_version(&connection)?;
    schema::migrate(&mut connection)?;
    seal::note(&connection, seal, DATABASE)?;
    for table in FRAMES {
        done.add(frames(&connection, seal, table)?);
    }
    for table in ["retry", "dead_letters"] {
        let reasons = Column {
            table,
            place: "reason",
            row: "position",
            value: "reason",
            checksum: None,
            has_rowid: true,
        };
        done.add(seal::reseal(&connection, seal, sealed::JOURNAL, &reasons)?);
    }
    done.add(messages(&connection, seal)?);
    for other in &OTHERS {
        if !other.is_sealed() {
            continue;
        }
        let bodies = bodies(other);
        done.add(seal::reseal(&connection, seal, sealed::JOURNAL, &bodies)?);
    }
    recount(&connection)?;
    seal::settle(&connection, seal)?;
    Ok(done)
}

/// The bodies of a table beside the journal's own.
const fn bodies(other: &Other) -> Column {
    Column {
        table: other.table,
        place: other.table,
        row: other.row,
        value: "body",
        checksum: Some("checksum"),
        has_rowid: true,
    }
}

/// The frames of a table.
fn frames(connection: &Connection, seal: &Seal, table: &str) -> Result<Resealed, Error> {
    let select = format!(
        "SELECT rowid, position, routes, received, frame FROM {table}
         WHERE rowid > ?1 ORDER BY rowid"
    );
    let update = format!("UPDATE {table} SET frame = ?2 WHERE rowid = ?1");
    let mut done = Resealed::default();
    let (mut last, mut scratch) = (i64::MIN, Vec::new());
    loop {
        let transaction = connection.unchecked_transaction()?;
        let (mut changes, mut bytes, mut seen, mut is_end) = (Vec::new(), 0, 0, true);
        let mut statement = connection.prepare_cached(&select)?;
        let mut rows = statement.query([last])?;
        while let Some(row) = rows.next()? {
            last = row.get(0)?;
            seen += 1;
            let change = match frame::stored_in(row, 1)? {
                Some(record) if seal::key_of(&record.body) == seal.key() => None,
                // A key that the journal does not note is a flipped bit.
                Some(record) => match frame::open(seal, record).ok().flatten() {
                    Some(record) => {
                        frame::write_record(&mut scratch, seal, &record);
                        Some(scratch.clone())
                    }
                    None => {
                        done.damaged += 1;
                        spoiled(row.get_ref(4)?)
                    }
                },
                None => {
                    done.damaged += 1;
                    let body = frame::body_of(columns::bytes(row, 4)?);
                    let is_plain = !body.is_empty() && seal::key_of(body).is_none();
                    done.plain += u64::from(is_plain);
                    None
                }
            };
            if let Some(frame) = change {
                bytes += frame.len();
                changes.push((last, frame));
            }
            if changes.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES || seen >= 100 * CHUNK_ROWS {
                is_end = false;
                break;
            }
        }
        drop(rows);
        drop(statement);
        let mut statement = connection.prepare_cached(&update)?;
        for (number, frame) in &changes {
            statement.execute((number, frame))?;
        }
        done.changed += changes.len() as u64;
        drop(statement);
        transaction.commit()?;
        if is_end {
            return Ok(done);
        }
    }
}

/// A frame that has its checksum and does not open, so that its checksum says it, too: later
/// nobody has the key to find out.
fn spoiled(frame: ValueRef<'_>) -> Option<Vec<u8>> {
    let mut frame = frame.as_blob().ok()?.to_vec();
    *frame.first_mut()? ^= 1;
    Some(frame)
}

/// Messages in quarantine: three values, one checksum.
fn messages(connection: &Connection, seal: &Seal) -> Result<Resealed, Error> {
    let key = seal
        .key()
        .map_or_else(|| "plain".to_owned(), |key| key.to_string());
    let is_other = quarantine::COLUMNS.map(|name| format!("coalesce(key_of({name}), ?2) <> ?2"));
    let select = format!(
        "SELECT id, received, client_id, topic, class, reason, payload, properties, checksum
         FROM quarantine WHERE id > ?1 AND ({}) ORDER BY id LIMIT 1",
        is_other.join(" OR ")
    );
    let mut done = Resealed::default();
    let mut after = -1;
    loop {
        let transaction = connection.unchecked_transaction()?;
        for _ in 0..CHUNK_ROWS {
            let item = connection
                .prepare_cached(&select)?
                .query_row((after, &key), |row| quarantined(seal, row))
                .optional()?;
            let Some(item) = item else {
                transaction.commit()?;
                return Ok(done);
            };
            after = column(item.id);
            if item.intact {
                quarantine::rewrite(connection, seal, &item)?;
                done.changed += 1;
            } else {
                // Later nobody has the key to find out.
                connection
                    .prepare_cached("UPDATE quarantine SET checksum = -1 WHERE id = ?1")?
                    .execute([after])?;
                done.damaged += 1;
                done.plain += u64::from(plain_values(&item) > 0);
            }
        }
        transaction.commit()?;
    }
}

/// How many values of a message are there, and not sealed.
fn plain_values(item: &Quarantined) -> u64 {
    let values = [
        &item.payload[..],
        item.properties.as_deref().unwrap_or_default(),
    ];
    let plain = values
        .iter()
        .filter(|value| !value.is_empty() && seal::key_of(value).is_none());
    let reason = !item.reason.is_empty() && seal::key_of_text(&item.reason).is_none();
    plain.count() as u64 + u64::from(reason)
}

/// What quarantine takes of the room.
fn recount(connection: &Connection) -> Result<(), Error> {
    let Some(mut state) = open::read_state(connection)? else {
        return Ok(());
    };
    let sum = format!(
        "SELECT coalesce(sum({}), 0) FROM quarantine",
        quarantine::COST
    );
    state.quarantine_bytes = connection.query_row(&sum, [], |row| row.get(0).map(integer))?;
    let transaction = connection.unchecked_transaction()?;
    write_state(connection, &state, &mut Vec::new())?;
    transaction.commit()?;
    Ok(())
}

/// What the values of the journal in `dir` are sealed with; `None` where there is none.
/// Blocking; reads everything.
///
/// # Errors
/// When it cannot be read.
pub fn tally(dir: &Path) -> Result<Option<Tally>, Error> {
    let database = dir.join(DATABASE);
    if !database.try_exists()? {
        return Ok(None);
    }
    let connection = reader::open_read_only(&database)?;
    seal::register(&connection, &Seal::default(), sealed::JOURNAL)?;
    let mut tally = Tally::default();
    for table in FRAMES {
        // Behind checksum and key.
        seal::tally(&connection, table, "substr(frame, 21)", &mut tally)?;
        tally.damaged += damaged_frames(&connection, table)?;
    }
    for table in ["retry", "dead_letters"] {
        seal::tally(&connection, table, "reason", &mut tally)?;
    }
    for column in quarantine::COLUMNS {
        seal::tally(&connection, "quarantine", column, &mut tally)?;
    }
    tally.damaged += damaged_messages(&connection)?;
    for other in OTHERS.iter().filter(|other| other.is_sealed()) {
        seal::tally_column(&connection, &bodies(other), &mut tally)?;
    }
    Ok(Some(tally))
}

/// Plain frames of a table that have not their checksum.
fn damaged_frames(connection: &Connection, table: &str) -> Result<u64, Error> {
    let mut statement = connection.prepare(&format!(
        "SELECT position, routes, received, frame FROM {table}
         WHERE key_of(substr(frame, 21)) = 'plain'"
    ))?;
    let mut rows = statement.query([])?;
    let mut damaged = 0;
    while let Some(row) = rows.next()? {
        damaged += u64::from(frame::stored_in(row, 0)?.is_none());
    }
    Ok(damaged)
}

/// Plain values of messages in quarantine that have not their checksum.
fn damaged_messages(connection: &Connection) -> Result<u64, Error> {
    let mut statement = connection.prepare(
        "SELECT id, received, client_id, topic, class, reason, payload, properties, checksum
         FROM quarantine",
    )?;
    let mut rows = statement.query([])?;
    let mut damaged = 0;
    while let Some(row) = rows.next()? {
        let item = quarantined_as_it_lies(row, 0)?;
        if !item.intact {
            damaged += plain_values(&item);
        }
    }
    Ok(damaged)
}

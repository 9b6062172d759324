//! Devices and commands as rows of the journal's database (`store/migrations/4.sql`).
//!
//! A body is JSON, which may be sealed, with the CRC-32 of what lies there beside it. A row
//! whose checksum is wrong, or whose body does not open, is as good as
//! none: it is passed, and said in the log; the journal's checks find it too. The columns
//! beside the body repeat what is looked for.

mod presence;
mod shadows;
mod sizes;

use std::{collections::BTreeSet, sync::Arc};

use rusqlite::{Connection, OptionalExtension as _, Row, params, types::ValueRef};
use serde::{Serialize, de::DeserializeOwned};

pub(super) use presence::{Presence, born, born_behind, online, set_heard, set_online};
pub use shadows::shadow_of;
pub(super) use shadows::{is_told, put_shadow, shadow_is_gone, told, untold};
pub(super) use sizes::{bytes, press_commands, press_requests};

use super::{Command, Device, State};
use crate::store::seal_body;

/// What is read of bodies in one go, about.
const BYTES_MAX: usize = 2 * 1024 * 1024;

/// What a table says of one device, or command, if its row is whole. Columns: number, and
/// the body, opened.
fn read<T: DeserializeOwned>(
    row: &Row<'_>,
    table: &'static str,
) -> rusqlite::Result<Option<(u64, T)>> {
    let number = match row.get_ref(0)? {
        ValueRef::Integer(number) => u64::try_from(number).unwrap_or_default(),
        _ => 0,
    };
    let read = match row.get_ref(1)? {
        ValueRef::Blob(body) | ValueRef::Text(body) => serde_json::from_slice(body).ok(),
        // It is damaged.
        _ => None,
    };
    if read.is_none() {
        tracing::error!(table, row = number, "passed a row that is damaged");
    }
    Ok(read.map(|read| (number, read)))
}

/// A body of a row as it is to be stored, and its checksum.
pub(super) fn body(
    tables: &Connection,
    table: &str,
    row: &str,
    of: &impl Serialize,
) -> rusqlite::Result<(u32, Vec<u8>)> {
    seal_body(tables, table, row, json(of)?)
}

fn json(of: &impl Serialize) -> rusqlite::Result<Vec<u8>> {
    serde_json::to_vec(of).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// How many there are.
pub(super) struct Counts {
    pub(super) devices: u64,
    pub(super) open: u64,
    pub(super) over: u64,
}

pub(super) fn counts(tables: &Connection) -> rusqlite::Result<Counts> {
    let count = |sql: &str| tables.query_row(sql, [], |row| row.get::<_, i64>(0));
    let number = |count: i64| u64::try_from(count).unwrap_or_default();
    Ok(Counts {
        devices: number(count("SELECT count(*) FROM devices")?),
        open: number(count(
            "SELECT count(*) FROM commands WHERE phase IN (0, 1, 3)",
        )?),
        over: number(count("SELECT count(*) FROM commands WHERE phase = 2")?),
    })
}

/// The device of a row. Columns: number, body, online.
fn device_of(row: &Row<'_>) -> rusqlite::Result<Option<Device>> {
    let presence = Presence::read(row, 2)?;
    let heard = presence.is_heard().then(|| presence.is_online());
    let read = read::<Device>(row, "devices")?;
    Ok(read.map(|(_, device)| Device { heard, ..device }))
}

/// The device of that name.
///
/// # Errors
/// When the table cannot be read.
pub fn device(tables: &Connection, id: &str) -> rusqlite::Result<Option<Device>> {
    let mut statement = tables.prepare_cached(
        "SELECT number, opened('devices', id, checksum, body), online FROM devices WHERE id = ?1",
    )?;
    let found = statement.query_row([id], device_of).optional()?;
    Ok(found.flatten())
}

/// Devices by name, after `after`: at most `limit` of those that are `wanted`, and where
/// the next page begins. Looks at no more than ten thousand of them at a time.
///
/// # Errors
/// When the table cannot be read.
pub fn devices(
    tables: &Connection,
    after: &str,
    limit: usize,
    wanted: impl Fn(&Device) -> bool,
) -> rusqlite::Result<(Vec<Device>, Option<String>)> {
    const LOOKED_AT_MAX: usize = 10_000;
    let mut statement = tables.prepare_cached(
        "SELECT number, opened('devices', id, checksum, body), online, id FROM devices WHERE id > ?1 ORDER BY id",
    )?;
    let mut rows = statement.query([after])?;
    let (mut found, mut looked_at, mut last) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        if found.len() >= limit || looked_at >= LOOKED_AT_MAX {
            return Ok((found, last));
        }
        looked_at += 1;
        last = row.get_ref(3)?.as_str().ok().map(str::to_owned).or(last);
        if let Some(device) = device_of(row)?
            && wanted(&device)
        {
            found.push(device);
        }
    }
    Ok((found, None))
}

pub(super) fn put_device(tables: &Connection, device: &Device) -> rusqlite::Result<()> {
    let (checksum, body) = body(tables, "devices", &device.id, device)?;
    tables
        .prepare_cached(
            "INSERT INTO devices (id, user, client, online, checksum, body)
             VALUES (?1, ?2, ?3, 0, ?4, ?5)
             ON CONFLICT (id) DO UPDATE SET user = ?2, client = ?3, checksum = ?4, body = ?5",
        )?
        .execute(params![
            device.id,
            device.fields.user,
            device.fields.client_id,
            checksum,
            body
        ])?;
    Ok(())
}

fn ids(statement: &mut rusqlite::Statement<'_>, name: &str) -> rusqlite::Result<Vec<String>> {
    statement.query_map([name], text)?.collect()
}

/// The devices that these clients are, each an identifier and the authenticated name.
pub(super) fn devices_of(
    tables: &Connection,
    clients: &[(Arc<str>, Option<Arc<str>>)],
) -> rusqlite::Result<BTreeSet<String>> {
    let mut by_client = tables.prepare_cached("SELECT id FROM devices WHERE client = ?1")?;
    let mut by_user = tables.prepare_cached("SELECT id FROM devices WHERE user = ?1")?;
    let mut by_name = tables.prepare_cached(
        "SELECT id FROM devices WHERE id = ?1 AND user IS NULL AND client IS NULL",
    )?;
    let mut found = BTreeSet::new();
    for (client, user) in clients {
        found.extend(ids(&mut by_client, client)?);
        if let Some(user) = user {
            found.extend(ids(&mut by_user, user)?);
        }
        found.extend(ids(&mut by_name, user.as_ref().unwrap_or(client))?);
    }
    Ok(found)
}

pub(super) fn remove_device(tables: &Connection, id: &str) -> rusqlite::Result<()> {
    tables
        .prepare_cached("DELETE FROM devices WHERE id = ?1")?
        .execute([id])?;
    Ok(())
}

fn commands_of(row: &Row<'_>) -> rusqlite::Result<Option<Command>> {
    let read = read::<Command>(row, "commands")?;
    Ok(read.map(|(number, command)| Command { number, ..command }))
}

/// The command of a device with that id.
///
/// # Errors
/// When the table cannot be read.
pub fn command(tables: &Connection, device: &str, id: &str) -> rusqlite::Result<Option<Command>> {
    let mut statement = tables.prepare_cached(
        "SELECT number, opened('commands', id, checksum, body) FROM commands WHERE id = ?1 AND device = ?2",
    )?;
    let found = statement.query_row([id, device], commands_of).optional()?;
    Ok(found.flatten())
}

pub(super) fn command_by_id(tables: &Connection, id: &str) -> rusqlite::Result<Option<Command>> {
    let mut statement = tables.prepare_cached(
        "SELECT number, opened('commands', id, checksum, body) FROM commands WHERE id = ?1",
    )?;
    let found = statement.query_row([id], commands_of).optional()?;
    Ok(found.flatten())
}

pub(super) fn command_by_key(
    tables: &Connection,
    device: &str,
    key: &str,
) -> rusqlite::Result<Option<Command>> {
    let mut statement = tables.prepare_cached(
        "SELECT number, opened('commands', id, checksum, body) FROM commands WHERE device = ?1 AND key = ?2",
    )?;
    let found = statement.query_row([device, key], commands_of).optional()?;
    Ok(found.flatten())
}

/// Whether a device has a command with that key, also one that cannot be read.
pub(super) fn is_key_taken(tables: &Connection, device: &str, key: &str) -> rusqlite::Result<bool> {
    tables
        .prepare_cached("SELECT 1 FROM commands WHERE device = ?1 AND key = ?2")?
        .exists([device, key])
}

/// Which commands to list.
#[derive(Debug, Clone, Default)]
pub struct Commands {
    /// Those of this device.
    pub device: String,
    /// Only those in this state.
    pub state: Option<State>,
    /// Only those placed before this one; 0 for all.
    pub before: u64,
    /// At most so many.
    pub limit: usize,
}

/// Commands of a device, newest first, and where the next page begins.
///
/// # Errors
/// When the table cannot be read.
pub fn commands(
    tables: &Connection,
    wanted: &Commands,
) -> rusqlite::Result<(Vec<Command>, Option<u64>)> {
    const LOOKED_AT_MAX: usize = 10_000;
    let before = match wanted.before {
        0 => i64::MAX,
        before => i64::try_from(before).unwrap_or(i64::MAX),
    };
    let phases = match wanted.state {
        Some(state) => state.phase()..=state.phase(),
        None => 0..=3,
    };
    // Numbers are sorted, and not what was opened: that would be in memory as a whole.
    let mut numbers = tables.prepare_cached(
        "SELECT number FROM commands
         WHERE device = ?1 AND number < ?4
             AND (phase BETWEEN ?2 AND ?3 OR (phase = 3 AND ?2 = 0))
         ORDER BY number DESC LIMIT ?5",
    )?;
    let most = i64::try_from(LOOKED_AT_MAX + 1).unwrap_or(i64::MAX);
    let numbers = numbers.query_map(
        params![wanted.device, phases.start(), phases.end(), before, most],
        |row| row.get::<_, i64>(0),
    )?;
    let numbers: Vec<i64> = numbers.collect::<rusqlite::Result<_>>()?;
    let mut statement = tables.prepare_cached(
        "SELECT number, opened('commands', id, checksum, body) FROM commands WHERE number = ?1",
    )?;
    let (mut found, mut looked_at, mut last) = (Vec::new(), 0, None);
    let mut bytes = 0;
    for number in numbers {
        let mut rows = statement.query([number])?;
        let Some(row) = rows.next()? else { continue };
        if found.len() >= wanted.limit || looked_at >= LOOKED_AT_MAX || bytes >= BYTES_MAX {
            return Ok((found, last));
        }
        looked_at += 1;
        bytes += body_bytes(row)?;
        last = row
            .get_ref(0)?
            .as_i64()
            .ok()
            .and_then(|n| u64::try_from(n).ok())
            .or(last);
        if let Some(command) = commands_of(row)?
            && wanted.state.is_none_or(|state| command.state == state)
        {
            found.push(command);
        }
    }
    Ok((found, None))
}

/// Commands of a device that wait to be sent, in the order in which they were placed. None
/// while one of them is in doubt: that comes first.
pub(super) fn queued(
    tables: &Connection,
    device: &str,
    limit: usize,
) -> rusqlite::Result<Vec<Command>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = tables.prepare_cached(
        "SELECT number, opened('commands', id, checksum, body) FROM commands
         WHERE device = ?1 AND phase = 0 AND NOT EXISTS
             (SELECT 1 FROM commands WHERE device = ?1 AND phase = 3)
         ORDER BY number LIMIT ?2",
    )?;
    let mut rows = statement.query(params![device, limit])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while bytes < BYTES_MAX
        && let Some(row) = rows.next()?
    {
        bytes += body_bytes(row)?;
        found.extend(commands_of(row)?);
    }
    Ok(found)
}

/// Commands of which a damaged journal says that they are queued: they may have been sent
/// since, and answered. At most so many, and the numbers of rows that are damaged.
pub(super) fn in_doubt(
    tables: &Connection,
    limit: usize,
) -> rusqlite::Result<(Vec<Command>, Vec<i64>)> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = tables.prepare_cached(
        "SELECT number, opened('commands', id, checksum, body) FROM commands
         WHERE phase = 3 ORDER BY number LIMIT ?1",
    )?;
    let mut rows = statement.query([limit])?;
    let (mut found, mut damaged, mut bytes) = (Vec::new(), Vec::new(), 0);
    while bytes < BYTES_MAX
        && let Some(row) = rows.next()?
    {
        bytes += body_bytes(row)?;
        match commands_of(row)? {
            Some(command) => found.push(command),
            None => damaged.extend(row.get_ref(0)?.as_i64().ok()),
        }
    }
    Ok((found, damaged))
}

/// Whether it is one of those.
pub(super) fn is_in_doubt(tables: &Connection, command: &Command) -> rusqlite::Result<bool> {
    tables
        .prepare_cached("SELECT 1 FROM commands WHERE id = ?1 AND phase = 3")?
        .exists([&command.id])
}

/// Commands of a device that are not over.
pub(super) fn open(tables: &Connection, device: &str) -> rusqlite::Result<Vec<Command>> {
    let mut statement = tables.prepare_cached(
        "SELECT number, opened('commands', id, checksum, body) FROM commands
         WHERE device = ?1 AND phase IN (0, 1, 3)",
    )?;
    let found = statement.query_map([device], commands_of)?;
    let found: Vec<Option<Command>> = found.collect::<rusqlite::Result<_>>()?;
    Ok(found.into_iter().flatten().collect())
}

/// How many commands of a device are not over.
pub(super) fn count_open(tables: &Connection, device: &str) -> rusqlite::Result<u32> {
    tables
        .prepare_cached("SELECT count(*) FROM commands WHERE device = ?1 AND phase IN (0, 1, 3)")?
        .query_row([device], |row| row.get(0))
}

/// Commands that are not over and should be.
pub(super) struct Due {
    pub(super) commands: Vec<Command>,
    /// The numbers of rows that are damaged.
    pub(super) damaged: Vec<i64>,
    pub(super) is_more: bool,
}

/// Commands that are not over and should be, those of the earliest deadlines first: so
/// many of them, and about so many bytes.
pub(super) fn due(tables: &Connection, now_ms: i64, limit: usize) -> rusqlite::Result<Due> {
    let mut due = Due {
        commands: Vec::new(),
        damaged: Vec::new(),
        is_more: false,
    };
    let mut bytes = 0;
    for phase in [0, 1] {
        let mut statement = tables.prepare_cached(
            "SELECT number, opened('commands', id, checksum, body) FROM commands
             WHERE phase = ?1 AND due <= ?2 ORDER BY due",
        )?;
        let mut rows = statement.query([phase, now_ms])?;
        while let Some(row) = rows.next()? {
            if due.commands.len() + due.damaged.len() >= limit || bytes >= BYTES_MAX {
                due.is_more = true;
                return Ok(due);
            }
            bytes += body_bytes(row)?;
            match commands_of(row)? {
                Some(command) => due.commands.push(command),
                None => due.damaged.extend(row.get_ref(0)?.as_i64().ok()),
            }
        }
    }
    Ok(due)
}

pub(super) fn forget_command(tables: &Connection, number: i64) -> rusqlite::Result<()> {
    tables
        .prepare_cached("DELETE FROM commands WHERE number = ?1")?
        .execute([number])?;
    Ok(())
}

/// The text in the first column, as far as it is one: damage may have made something else
/// of it.
fn text(row: &Row<'_>) -> rusqlite::Result<String> {
    Ok(match row.get_ref(0)? {
        ValueRef::Text(text) | ValueRef::Blob(text) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    })
}

/// Bytes of the body of a row of number and body.
fn body_bytes(row: &Row<'_>) -> rusqlite::Result<usize> {
    Ok(match row.get_ref(1)? {
        ValueRef::Blob(body) | ValueRef::Text(body) => body.len(),
        _ => 0,
    })
}

/// The earliest deadline of a command that is not over.
pub(super) fn next_due(tables: &Connection) -> rusqlite::Result<Option<i64>> {
    let mut next: Option<i64> = None;
    for phase in [0, 1] {
        let due: Option<i64> = tables
            .prepare_cached("SELECT min(due) FROM commands WHERE phase = ?1")?
            .query_row([phase], |row| row.get(0))?;
        next = [next, due].into_iter().flatten().min();
    }
    Ok(next)
}

/// When the oldest command was placed that is not over, in milliseconds since 1970.
pub(super) fn oldest_open(tables: &Connection) -> rusqlite::Result<Option<i64>> {
    // Numbers grow, and the index has them.
    let mut statement = tables.prepare_cached(
        "SELECT number, opened('commands', id, checksum, body) FROM commands WHERE number =
             (SELECT min(number) FROM commands INDEXED BY commands_by_due
              WHERE phase IN (0, 1, 3))",
    )?;
    let oldest = statement.query_row([], commands_of).optional()?;
    Ok(oldest.flatten().map(|command| command.created_ms))
}

/// The devices that have commands which wait to be sent.
pub(super) fn devices_with_queued(tables: &Connection) -> rusqlite::Result<BTreeSet<Arc<str>>> {
    tables
        .prepare_cached("SELECT DISTINCT device FROM commands WHERE phase = 0")?
        .query_map([], text)?
        .map(|device| Ok(Arc::from(device?)))
        .collect()
}

/// Writes a command, which may be new.
pub(super) fn put_command(tables: &Connection, command: &Command) -> rusqlite::Result<()> {
    let (checksum, body) = body(tables, "commands", &command.id, command)?;
    let due = command.ended_ms.unwrap_or(command.deadline_ms);
    tables
        .prepare_cached(
            "INSERT INTO commands (id, device, key, phase, due, checksum, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (id) DO UPDATE SET phase = ?4, due = ?5, checksum = ?6, body = ?7",
        )?
        .execute(params![
            command.id,
            command.device,
            command.key,
            command.state.phase(),
            due,
            checksum,
            body
        ])?;
    Ok(())
}

/// Removes commands that were over before `before_ms`, and `more` of the oldest others
/// that are over; at most `limit`. How many were removed.
pub(super) fn trim(
    tables: &Connection,
    before_ms: i64,
    more: u64,
    limit: usize,
) -> rusqlite::Result<u64> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let more = i64::try_from(more).unwrap_or(i64::MAX).min(limit);
    let old = tables
        .prepare_cached(
            "DELETE FROM commands WHERE number IN
                 (SELECT number FROM commands WHERE phase = 2 AND due < ?1 ORDER BY due LIMIT ?2)",
        )?
        .execute(params![before_ms, limit])?;
    let more = more
        .saturating_sub(i64::try_from(old).unwrap_or(i64::MAX))
        .max(0);
    let others = tables
        .prepare_cached(
            "DELETE FROM commands WHERE number IN
                 (SELECT number FROM commands WHERE phase = 2 ORDER BY due LIMIT ?1)",
        )?
        .execute([more])?;
    Ok((old + others) as u64)
}

//! Shadows. `told` is 1 where the device was told all of it, as far as the broker's
//! retained message goes.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{body, json, read};
use crate::fleet::{Device, Shadow};

/// The shadow of a device; one in which nothing is said where there is none yet.
///
/// # Errors
/// When the table cannot be read.
pub fn shadow_of(tables: &Connection, device: &Device) -> rusqlite::Result<Shadow> {
    let found = find(tables, &device.id)?.filter(|shadow| !shadow.is_gone);
    Ok(found.unwrap_or_else(|| Shadow::new(&device.id)))
}

fn find(tables: &Connection, device: &str) -> rusqlite::Result<Option<Shadow>> {
    let found = tables
        .prepare_cached("SELECT number, opened('shadows', device, checksum, body) FROM shadows WHERE device = ?1")?
        .query_row([device], |row| read(row, "shadows"))
        .optional()?;
    Ok(found.flatten().map(|(_, shadow)| shadow))
}

/// Whether the device was told all of it.
pub(in crate::fleet) fn is_told(tables: &Connection, device: &str) -> rusqlite::Result<bool> {
    let told = tables
        .prepare_cached("SELECT told FROM shadows WHERE device = ?1")?
        .query_row([device], |row| {
            row.get_ref(0).map(|told| told.as_i64() == Ok(1))
        })
        .optional()?;
    Ok(told.unwrap_or(true))
}

pub(in crate::fleet) fn put_shadow(
    tables: &Connection,
    shadow: &Shadow,
    is_told: bool,
) -> rusqlite::Result<()> {
    let (checksum, body) = body(tables, "shadows", &shadow.device, shadow)?;
    tables
        .prepare_cached(
            "INSERT INTO shadows (device, told, checksum, body) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (device) DO UPDATE SET told = ?2, checksum = ?3, body = ?4",
        )?
        .execute(params![shadow.device, is_told, checksum, body])?;
    Ok(())
}

/// The device is gone: so is what it was told, and that is still to be done.
pub(in crate::fleet) fn shadow_is_gone(tables: &Connection, device: &str) -> rusqlite::Result<()> {
    if find(tables, device)?.is_some() {
        let gone = Shadow {
            is_gone: true,
            ..Shadow::new(device)
        };
        put_shadow(tables, &gone, false)?;
    }
    Ok(())
}

/// Shadows of which the devices were not told all, at most so many.
pub(in crate::fleet) fn untold(tables: &Connection, limit: usize) -> rusqlite::Result<Vec<Shadow>> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut statement = tables.prepare_cached(
        "SELECT number, opened('shadows', device, checksum, body) FROM shadows WHERE told = 0 ORDER BY number LIMIT ?1",
    )?;
    let found = statement.query_map([limit], |row| read::<Shadow>(row, "shadows"))?;
    let found: Vec<_> = found.collect::<rusqlite::Result<_>>()?;
    Ok(found
        .into_iter()
        .flatten()
        .map(|(_, shadow)| shadow)
        .collect())
}

/// A device was told all of this; whether it is still as it was.
pub(in crate::fleet) fn told(tables: &Connection, shadow: &Shadow) -> rusqlite::Result<bool> {
    let body = json(shadow)?;
    let sql = match shadow.is_gone {
        true => {
            "DELETE FROM shadows WHERE device = ?1 AND opened('shadows', device, checksum, body) = ?2"
        }
        false => {
            "UPDATE shadows SET told = 1 WHERE device = ?1 AND opened('shadows', device, checksum, body) = ?2"
        }
    };
    let count = tables
        .prepare_cached(sql)?
        .execute(params![shadow.device, body])?;
    Ok(count > 0)
}

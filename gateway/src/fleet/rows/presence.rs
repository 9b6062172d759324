//! Which devices are there, as the column `online` of their table has it.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::text;

/// By what a device is there, or is not. Numbers are those on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fleet) enum Presence {
    /// No client is connected that it is.
    Away = 0,
    /// One is.
    Connected = 1,
    /// A node of this broker said that it was born.
    Born = 2,
    /// Its node said that it died, or has not been born again.
    Dead = 3,
    /// A node of another broker said that it was born.
    BornElsewhere = 4,
}

impl Presence {
    const fn of(number: i64) -> Self {
        match number {
            1 => Self::Connected,
            2 => Self::Born,
            3 => Self::Dead,
            4 => Self::BornElsewhere,
            _ => Self::Away,
        }
    }

    /// Whether it is there.
    pub(in crate::fleet) const fn is_online(self) -> bool {
        !matches!(self, Self::Away | Self::Dead)
    }

    /// Whether births say it, whoever is connected.
    pub(in crate::fleet) const fn is_heard(self) -> bool {
        !matches!(self, Self::Away | Self::Connected)
    }

    /// That of a row.
    pub(super) fn read(row: &Row<'_>, column: usize) -> rusqlite::Result<Self> {
        // A damaged one is as good as none.
        Ok(row.get_ref(column)?.as_i64().map_or(Self::Away, Self::of))
    }
}

/// Notes whether a client is connected that a device is; whether that is new. Where births
/// say whether it is there it is not asked.
pub(in crate::fleet) fn set_online(
    tables: &Connection,
    id: &str,
    online: bool,
) -> rusqlite::Result<bool> {
    let (from, to) = match online {
        true => (Presence::Away, Presence::Connected),
        false => (Presence::Connected, Presence::Away),
    };
    let changed = tables
        .prepare_cached("UPDATE devices SET online = ?3 WHERE id = ?1 AND online = ?2")?
        .execute(params![id, from as i64, to as i64])?;
    Ok(changed > 0)
}

/// Notes what a birth or a death says of a device; how it was before, if there is such a
/// device.
pub(in crate::fleet) fn set_heard(
    tables: &Connection,
    id: &str,
    to: Presence,
) -> rusqlite::Result<Option<Presence>> {
    let before = tables
        .prepare_cached("SELECT online FROM devices WHERE id = ?1")?
        .query_row([id], |row| Presence::read(row, 0))
        .optional()?;
    if before.is_some_and(|before| before != to) {
        tables
            .prepare_cached("UPDATE devices SET online = ?2 WHERE id = ?1")?
            .execute(params![id, to as i64])?;
    }
    Ok(before)
}

/// The devices that were told to be online because a client of theirs is connected.
pub(in crate::fleet) fn online(tables: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    those(tables, Presence::Connected)
}

/// The devices that were born by nodes of this broker.
pub(in crate::fleet) fn born(tables: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    those(tables, Presence::Born)
}

fn those(tables: &Connection, presence: Presence) -> rusqlite::Result<BTreeSet<String>> {
    tables
        .prepare_cached("SELECT id FROM devices WHERE online = ?1")?
        .query_map([presence as i64], text)?
        .collect()
}

/// Devices behind a node that were born, by name after `after`: at most `limit`.
pub(in crate::fleet) fn born_behind(
    tables: &Connection,
    node: &str,
    after: &str,
    limit: usize,
) -> rusqlite::Result<Vec<String>> {
    tables
        .prepare_cached(
            // What comes after a slash is a zero.
            "SELECT id FROM devices
             WHERE id > ?1 || '/' AND id < ?1 || '0' AND id > ?2 AND online IN (2, 4)
             ORDER BY id LIMIT ?3",
        )?
        .query_map(
            params![node, after, i64::try_from(limit).unwrap_or(i64::MAX)],
            text,
        )?
        .collect()
}

//! Windows as they are kept: one for each rule and device.

use std::{collections::HashMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension as _};

use super::{
    Error,
    window::{Due, State},
};
use crate::{
    event::Timestamp,
    rules::{ActingSet, action::Window},
};

/// Windows that are followed, of all rules and devices. When there would be more, some of
/// those leave whose device has been silent for longest.
const WINDOWS_MAX: i64 = 20_000;
/// As many at a time, because all are looked at for it.
const LEAVING: usize = 1_000;
/// Windows that are looked at in one transaction.
const DUE_MAX: i64 = 256;

/// The window of a rule and a device.
pub(super) fn load(
    connection: &Connection,
    rule: &str,
    device: &str,
) -> Result<Option<State>, Error> {
    let known: Option<Vec<u8>> = connection
        .prepare_cached(
            "SELECT coalesce(opened('windows', length(rule) || ':' || rule || device, NULL,
                 window), x'')
             FROM windows WHERE rule = ?1 AND device = ?2",
        )?
        .query_row((rule, device), |row| row.get(0))
        .optional()?;
    // What does not read back begins anew.
    Ok(known.and_then(|known| ciborium::from_reader(&known[..]).ok()))
}

/// Keeps it, within a transaction; `is_new` where there was none. It is looked at `again` at
/// a time, too.
pub(super) fn save(
    connection: &Connection,
    (rule, device): (&str, &str),
    window: &Window,
    state: &State,
    is_new: bool,
    again: Option<Timestamp>,
) -> Result<(), Error> {
    if state.is_idle(window) {
        return forget(connection, rule, device);
    }
    if is_new {
        let count: i64 = connection
            .prepare_cached("SELECT windows FROM state")?
            .query_row([], |row| row.get(0))?;
        if count >= WINDOWS_MAX {
            evict(connection)?;
        }
    }
    let mut body = Vec::new();
    ciborium::into_writer(state, &mut body).expect("writing to memory cannot fail");
    let (due, listened) = match state.due(window) {
        None => (None, None),
        Some(Due::At(at)) => (Some(at.as_nanos()), None),
        Some(Due::Listened(listened)) => (None, Some(listened)),
    };
    let due = due.into_iter().chain(again.map(Timestamp::as_nanos)).min();
    let updated = connection
        .prepare_cached(
            "UPDATE windows SET window = sealed('windows', length(?1) || ':' || ?1 || ?2, ?3),
                 due = ?4, due_listened = ?5
             WHERE rule = ?1 AND device = ?2",
        )?
        .execute((rule, device, &body, due, listened))?;
    if updated == 0 {
        connection
            .prepare_cached(
                "INSERT INTO windows VALUES
                 (?1, ?2, sealed('windows', length(?1) || ':' || ?1 || ?2, ?3), ?4, ?5)",
            )?
            .execute((rule, device, &body, due, listened))?;
        counted(connection, 1)?;
    }
    Ok(())
}

/// Takes those away whose device has been silent for longest, and counts them. An absence
/// that is still to be told leaves after all others: its device is silent by nature.
fn evict(connection: &Connection) -> Result<(), Error> {
    let mut all: Vec<(bool, i64, String, String)> = Vec::new();
    let mut statement = connection.prepare_cached(
        "SELECT coalesce(opened('windows', length(rule) || ':' || rule || device, NULL, window),
             x''), rule, device, due_listened IS NOT NULL FROM windows",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let body: Vec<u8> = row.get(0)?;
        let state: Option<State> = ciborium::from_reader(&body[..]).ok();
        // What does not read back is worth nothing.
        let heard = state.map_or(i64::MIN, |state| state.heard());
        all.push((row.get(3)?, heard, row.get(1)?, row.get(2)?));
    }
    drop(rows);
    all.sort_unstable();
    all.truncate(LEAVING);
    for (_, _, rule, device) in &all {
        forget(connection, rule, device)?;
    }
    let count = all.len();
    tracing::warn!(
        windows = count,
        "{WINDOWS_MAX} windows of rules and devices are followed; some are no more"
    );
    connection
        .prepare_cached("UPDATE state SET windows_evicted = windows_evicted + ?1")?
        .execute([i64::try_from(count).unwrap_or_default()])?;
    Ok(())
}

fn counted(connection: &Connection, more: i64) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE state SET windows = windows + ?1")?
        .execute([more])?;
    Ok(())
}

/// Forgets one, within a transaction.
pub(super) fn forget(connection: &Connection, rule: &str, device: &str) -> Result<(), Error> {
    let gone = connection
        .prepare_cached("DELETE FROM windows WHERE rule = ?1 AND device = ?2")?
        .execute((rule, device))?;
    counted(connection, -i64::try_from(gone).unwrap_or(0))
}

/// Whether the schedules of rules with windows were open when they were looked at last.
#[derive(Debug, Default)]
pub(super) struct Opened(HashMap<Arc<str>, bool>);

impl Opened {
    /// Has those windows looked at whose schedule has opened: what waited for that begins
    /// now, an absence when the device had its time to be heard once more.
    pub(super) fn look(
        &mut self,
        connection: &Connection,
        rules: &ActingSet,
        now: Timestamp,
        listened: i64,
    ) -> Result<(), Error> {
        if now.is_unset() {
            // Nobody knows which are open, and what opens when that is known did not open.
            self.0.clear();
            return Ok(());
        }
        let scheduled = rules.rules().iter().filter(|rule| rule.schedule.is_some());
        for rule in scheduled {
            let Some(window) = rule.actions.window.as_deref() else {
                continue;
            };
            let is_open = rule.may_begin(now);
            let before = self.0.insert(rule.name.clone(), is_open);
            if is_open && before != Some(true) {
                let was_closed = before == Some(false);
                opened(connection, &rule.name, window, now, listened, was_closed)?;
            }
        }
        Ok(())
    }
}

/// Looks at what waited. Where its schedule was seen closed, an absence that is still to
/// come counts anew, too: of that time the device may have slept. It does not each time that
/// the gateway starts, or absences would be put off by that.
fn opened(
    connection: &Connection,
    rule: &str,
    window: &Window,
    now: Timestamp,
    listened: i64,
    was_closed: bool,
) -> Result<(), Error> {
    let (due, due_listened) = match window {
        Window::Over { .. } => (Some(now.as_nanos()), None),
        Window::Absent(absent) => {
            let absent = i64::try_from(absent.as_millis()).unwrap_or(i64::MAX);
            (None, Some(listened.saturating_add(absent)))
        }
    };
    connection
        .prepare_cached(
            "UPDATE windows SET due = ?2, due_listened = ?3
             WHERE rule = ?1 AND (due_listened IS NULL OR (?4 AND due_listened < ?3))",
        )?
        .execute((rule, due, due_listened, was_closed))?;
    Ok(())
}

/// Some of those whose time has come: rule and device. While the clock is not set, none
/// by the clock.
pub(super) fn due(
    connection: &Connection,
    now: Timestamp,
    listened: i64,
) -> Result<Vec<(String, String)>, Error> {
    let of_row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let mut due: Vec<(String, String)> = connection
        .prepare_cached(
            "SELECT rule, device FROM windows WHERE due_listened <= ?1
             ORDER BY due_listened LIMIT ?2",
        )?
        .query_map((listened, DUE_MAX), of_row)?
        .collect::<rusqlite::Result<_>>()?;
    if !now.is_unset() {
        let by_clock = connection
            .prepare_cached(
                "SELECT rule, device FROM windows WHERE due <= ?1 ORDER BY due LIMIT ?2",
            )?
            .query_map((now.as_nanos(), DUE_MAX), of_row)?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        due.extend(by_clock);
    }
    Ok(due)
}

/// Forgets the windows of rules that have none any more.
pub(super) fn forget_others<'r>(
    connection: &mut Connection,
    rules: impl Iterator<Item = &'r str>,
) -> Result<(), Error> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS kept (rule TEXT PRIMARY KEY); DELETE FROM kept",
    )?;
    for rule in rules {
        transaction
            .prepare_cached("INSERT OR IGNORE INTO kept VALUES (?1)")?
            .execute([rule])?;
    }
    let gone = transaction.execute(
        "DELETE FROM windows WHERE rule NOT IN (SELECT rule FROM kept)",
        [],
    )?;
    counted(&transaction, -i64::try_from(gone).unwrap_or(0))?;
    transaction.commit()?;
    Ok(())
}

//! How often a rule did something for a device: kept in the transaction of what was done,
//! so that a crash takes back neither without the other.
//!
//! A time begins with the first that is done and lasts for as long as the rule says. What was
//! received before it began, however long before, counts within it: it is late, and begins
//! nothing. A clock that goes back by less than that time is waited for; one that goes back
//! further, is lost or is set begins it anew.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _};

use super::Error;
use crate::{
    event::Timestamp,
    rules::{Rule, action::Throttle},
};

/// Devices of one rule that are known, and of all of them. When there would be more, those
/// leave whose time ends first; for them it begins anew.
const DEVICES_MAX: i64 = 5_000;
const ALL_MAX: i64 = 50_000;
/// As many leave at a time, because they are looked for among all.
const LEAVING: i64 = 500;

/// By when a throttle goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct When {
    /// When what there is to do something for was received.
    pub(super) at: Timestamp,
    /// By the wall clock.
    pub(super) now: Timestamp,
}

/// Whether a rule may do something for a device at a time; if so, it does. What is held back
/// is counted. Within a transaction.
pub(super) fn take(
    connection: &Connection,
    rule: &str,
    throttle: &Throttle,
    device: &str,
    when: When,
) -> Result<bool, Error> {
    let at = when.at;
    let known = of(connection, rule, device)?;
    let Some((since, done)) = known else {
        make_room(connection, rule, at)?;
        begin(connection, rule, throttle, device, at)?;
        connection
            .prepare_cached(
                "INSERT INTO throttled VALUES (?1, 1, 0, 0)
                 ON CONFLICT (rule) DO UPDATE SET devices = devices + 1",
            )?
            .execute([rule])?;
        counted(connection, 1)?;
        return Ok(true);
    };
    if !lasts(throttle, since, when) {
        begin(connection, rule, throttle, device, at)?;
        return Ok(true);
    }
    if done < i64::from(throttle.times) {
        connection
            .prepare_cached("UPDATE throttles SET done = done + 1 WHERE rule = ?1 AND device = ?2")?
            .execute((rule, device))?;
        return Ok(true);
    }
    connection
        .prepare_cached("UPDATE throttled SET held_back = held_back + 1 WHERE rule = ?1")?
        .execute([rule])?;
    connection
        .prepare_cached("UPDATE state SET held_back = held_back + 1")?
        .execute([])?;
    Ok(false)
}

/// Until when a rule does nothing for a device, if that is so at a time.
pub(super) fn until(
    connection: &Connection,
    rule: &Rule,
    device: &str,
    when: When,
) -> Result<Option<Timestamp>, Error> {
    let Some(throttle) = &rule.actions.throttle else {
        return Ok(None);
    };
    let known = of(connection, &rule.name, device)?;
    let known = known.filter(|(since, done)| {
        lasts(throttle, *since, when) && *done >= i64::from(throttle.times)
    });
    Ok(known.map(|(since, _)| Timestamp::from_nanos(since.saturating_add(nanos(throttle.per)))))
}

fn of(connection: &Connection, rule: &str, device: &str) -> Result<Option<(i64, i64)>, Error> {
    let known = connection
        .prepare_cached("SELECT since, done FROM throttles WHERE rule = ?1 AND device = ?2")?
        .query_row((rule, device), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(known)
}

/// Whether the time that began then still lasts.
fn lasts(throttle: &Throttle, since: i64, When { at, now }: When) -> bool {
    let began = Timestamp::from_nanos(since);
    if began.is_unset() != at.is_unset() {
        return false;
    }
    let per = nanos(throttle.per);
    if at >= began {
        return at.as_nanos().saturating_sub(since) < per;
    }
    // It is late, unless the clock itself is so far back.
    now.is_unset() != began.is_unset() || now.as_nanos() >= since.saturating_sub(per)
}

fn begin(
    connection: &Connection,
    rule: &str,
    throttle: &Throttle,
    device: &str,
    at: Timestamp,
) -> Result<(), Error> {
    let since = at.as_nanos();
    connection
        .prepare_cached("INSERT OR REPLACE INTO throttles VALUES (?1, ?2, ?3, ?4, 1)")?
        .execute((
            rule,
            device,
            since,
            since.saturating_add(nanos(throttle.per)),
        ))?;
    Ok(())
}

/// Where there are too many, of the rule or of all, takes those away whose time is over, and
/// if that is not enough those whose time ends first.
fn make_room(connection: &Connection, rule: &str, at: Timestamp) -> Result<(), Error> {
    loop {
        let (of_rule, of_all): (i64, i64) = connection
            .prepare_cached(
                "SELECT coalesce((SELECT devices FROM throttled WHERE rule = ?1), 0), throttles
                 FROM state",
            )?
            .query_row([rule], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let is_full_of_it = of_rule >= DEVICES_MAX;
        if !is_full_of_it && of_all < ALL_MAX {
            return Ok(());
        }
        // Of whatever rule: they are found by their time alone, and are in nobody's way then.
        let over = "SELECT rule, device FROM throttles WHERE until <= ?1 ORDER BY until LIMIT ?2";
        let over = chosen(connection, over, (at.as_nanos(), LEAVING))?;
        let (leaving, evicted) = if !over.is_empty() {
            (over, 0)
        } else if is_full_of_it {
            let ours = "SELECT rule, device FROM throttles WHERE rule = ?1 ORDER BY until LIMIT ?2";
            (chosen(connection, ours, (rule, LEAVING))?, 1)
        } else {
            let any = "SELECT rule, device FROM throttles ORDER BY until LIMIT ?1";
            (chosen(connection, any, [LEAVING])?, 1)
        };
        // Never without end, should a count be more than there are.
        if leaving.is_empty() {
            return Ok(());
        }
        for (rule, device) in leaving {
            connection
                .prepare_cached("DELETE FROM throttles WHERE rule = ?1 AND device = ?2")?
                .execute((&rule, &device))?;
            connection
                .prepare_cached(
                    "UPDATE throttled SET devices = devices - 1, evicted = evicted + ?2
                     WHERE rule = ?1",
                )?
                .execute((&rule, evicted))?;
            counted(connection, -1)?;
        }
    }
}

/// Rules and devices of some rows.
fn chosen(
    connection: &Connection,
    sql: &str,
    of: impl rusqlite::Params,
) -> Result<Vec<(String, String)>, Error> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(of, |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn counted(connection: &Connection, more: i64) -> Result<(), Error> {
    connection
        .prepare_cached("UPDATE state SET throttles = throttles + ?1")?
        .execute([more])?;
    Ok(())
}

/// Forgets the devices of rules that have no throttle any more.
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
    transaction.execute_batch(
        "DELETE FROM throttles WHERE rule NOT IN (SELECT rule FROM kept);
         DELETE FROM throttled WHERE rule NOT IN (SELECT rule FROM kept);
         UPDATE state SET throttles = (SELECT count(*) FROM throttles);",
    )?;
    transaction.commit()?;
    Ok(())
}

/// What the throttle of a rule held back.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct HeldBack {
    /// The rule.
    #[schema(value_type = String)]
    pub rule: std::sync::Arc<str>,
    /// How often it did nothing, since it has a throttle.
    pub held_back: u64,
    /// Devices that are known, also of those whose time is over.
    pub devices: u64,
    /// Devices that were forgotten for others before their time was over, and may have had
    /// more than the rule says.
    pub evicted: u64,
}

/// Rules that are said by name, at most.
const SAID_MAX: i64 = 100;

/// What was held back by rule: of those that held back most.
pub(super) fn held_back(connection: &Connection) -> Result<Vec<HeldBack>, Error> {
    let count = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let all = connection
        .prepare_cached(
            "SELECT rule, held_back, devices, evicted FROM throttled
             ORDER BY held_back DESC, rule LIMIT ?1",
        )?
        .query_map([SAID_MAX], |row| {
            Ok(HeldBack {
                rule: row.get(0)?,
                held_back: count(row, 1)?,
                devices: count(row, 2)?,
                evicted: count(row, 3)?,
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    Ok(all)
}

fn nanos(of: Duration) -> i64 {
    i64::try_from(of.as_nanos()).unwrap_or(i64::MAX)
}

//! Alarms: one for each rule and device, raised by events, acknowledged by people, cleared
//! by either; every change is an event of the journal and stays in the history.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{
    Error,
    made::{self, Now, Of},
    outbox, topic,
};
use crate::{
    event::{Event, Key, Timestamp, Value},
    rules::{Rule, action},
};

/// Alarms that are known, at most: cleared ones leave first.
const ALARMS_MAX: i64 = 10_000;
/// Changes that are remembered of all of them; the oldest leave first.
const CHANGES_MAX: i64 = 100_000;
/// Bytes of what is said of an alarm.
const TEXT_BYTES_MAX: usize = 1_024;

/// Where an alarm stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It holds, and nobody has said that he knows.
    Raised,
    /// It holds, and somebody knows.
    Acknowledged,
    /// It does not hold any more.
    Cleared,
}

impl State {
    /// Every state with its word, in the order of their numbers.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("raised", Self::Raised),
        ("acknowledged", Self::Acknowledged),
        ("cleared", Self::Cleared),
    ];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        Self::WORDS[self as usize].0
    }

    fn of(number: i64) -> Self {
        match number {
            0 => Self::Raised,
            1 => Self::Acknowledged,
            _ => Self::Cleared,
        }
    }
}

/// An alarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// Its number: the same each time this rule raises it for this device.
    pub id: u64,
    /// The rule.
    pub rule: Arc<str>,
    /// The device.
    pub device: Arc<str>,
    /// Where that is.
    pub site: Option<Arc<str>>,
    /// Where it stands.
    pub state: State,
    /// How bad it is: `info`, `warning` or `critical`.
    pub severity: Arc<str>,
    /// What is said of it.
    pub text: String,
    /// How often it was raised.
    pub raised: u64,
    /// By how many events, this time.
    pub events: u64,
    /// When it was raised this time: when that event was received.
    pub raised_at: Timestamp,
    /// When the last of the events was received.
    pub last_at: Timestamp,
    /// When its state changed.
    pub changed_at: Timestamp,
}

/// What became of an alarm once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Grows.
    pub id: u64,
    /// Where it stood from then on.
    pub state: State,
    /// When.
    pub at: Timestamp,
    /// Who did it, where it was a person.
    pub actor: Option<String>,
    /// What he said.
    pub note: Option<String>,
    /// The key of the event by which it came, where it was an event.
    pub event: Option<Key>,
}

/// Which alarms.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only of this rule.
    pub rule: Option<String>,
    /// Only of this device.
    pub device: Option<String>,
    /// Only in this state.
    pub state: Option<State>,
    /// Only those that hold.
    pub active: bool,
}

/// By what an alarm changes.
#[derive(Debug, Clone, Copy)]
pub(super) enum By<'b> {
    /// By an event.
    Event(&'b Event),
    /// By a person, and what he said.
    Person(&'b str, Option<&'b str>),
}

const COLUMNS: &str = "id, rule, device, site, state, severity, \
                       coalesce(opened('alarms', length(rule) || ':' || rule || device, NULL, \
                           text), ''), \
                       raised, events, raised_at, last_at, changed_at";

/// Raises the alarm of a rule for the device of an event, within a transaction; says why
/// it cannot.
pub(super) fn raise(
    connection: &Connection,
    rule: &Rule,
    asked: &action::Alarm,
    event: &Event,
    now: &Now,
) -> Result<Result<(), String>, Error> {
    let before = of(connection, &rule.name, &event.device)?;
    if let Some(before) = &before
        && before.state != State::Cleared
    {
        connection
            .prepare_cached("UPDATE alarms SET events = events + 1, last_at = ?2 WHERE id = ?1")?
            .execute((before.id.cast_signed(), event.received.as_nanos()))?;
        return Ok(Ok(()));
    }
    let text = match asked
        .text
        .as_ref()
        .map(|text| text.apply(&rule.name, event))
    {
        None => String::new(),
        Some(Ok(text)) => shortened(text),
        Some(Err(error)) => return Ok(Err(error.to_string())),
    };
    if before.is_none() && !has_room(connection)? {
        let what = format!("there are {ALARMS_MAX} alarms that are not cleared");
        return Ok(Err(what));
    }
    connection
        .prepare_cached(
            "INSERT INTO alarms (rule, device, site, state, severity, text, raised, events,
                 raised_at, last_at, changed_at)
             VALUES (?1, ?2, ?3, 0, ?4,
                 sealed('alarms', length(?1) || ':' || ?1 || ?2, ?5), 1, 1, ?6, ?6, ?6)
             ON CONFLICT (rule, device) DO UPDATE SET site = ?3, state = 0, severity = ?4,
                 text = excluded.text, raised = raised + 1, events = 1, raised_at = ?6, last_at = ?6,
                 changed_at = ?6",
        )?
        .execute((
            &*rule.name,
            &*event.device,
            event.site.as_deref(),
            asked.severity.as_str(),
            text,
            event.received.as_nanos(),
        ))?;
    let alarm = of(connection, &rule.name, &event.device)?;
    if let Some(alarm) = alarm {
        changed(connection, &alarm, By::Event(event), event.received, now)?;
    }
    Ok(Ok(()))
}

/// Whether the alarm of a rule holds for a device.
pub(super) fn holds(connection: &Connection, rule: &str, device: &str) -> Result<bool, Error> {
    let known = of(connection, rule, device)?;
    Ok(known.is_some_and(|alarm| alarm.state != State::Cleared))
}

/// Clears the alarm of a rule for the device of an event, if it holds, within a
/// transaction.
pub(super) fn clear(
    connection: &Connection,
    rule: &Rule,
    event: &Event,
    now: &Now,
) -> Result<(), Error> {
    let before = of(connection, &rule.name, &event.device)?;
    match before {
        Some(before) if before.state != State::Cleared => {
            change(connection, before, State::Cleared, By::Event(event), now).map(drop)
        }
        _ => Ok(()),
    }
}

/// Gives an alarm that holds another state, within a transaction.
pub(super) fn change(
    connection: &Connection,
    alarm: Alarm,
    state: State,
    by: By<'_>,
    now: &Now,
) -> Result<Alarm, Error> {
    let at = match by {
        By::Event(event) => event.received,
        By::Person(..) => now.at,
    };
    connection
        .prepare_cached("UPDATE alarms SET state = ?2, changed_at = ?3 WHERE id = ?1")?
        .execute((alarm.id.cast_signed(), state as i64, at.as_nanos()))?;
    let alarm = Alarm {
        state,
        changed_at: at,
        ..alarm
    };
    changed(connection, &alarm, by, at, now)?;
    Ok(alarm)
}

/// Remembers a change, and has the journal hear of it.
fn changed(
    connection: &Connection,
    alarm: &Alarm,
    by: By<'_>,
    at: Timestamp,
    now: &Now,
) -> Result<(), Error> {
    let (cause, actor, note) = match by {
        By::Event(event) => (Some(event), None, None),
        By::Person(actor, note) => (None, Some(actor), note),
    };
    let cause_key = cause.map(|event| event.attributes().delivery_key());
    connection
        .prepare_cached(
            "INSERT INTO alarm_changes (alarm, state, at, actor, note, event)
             VALUES (?1, ?2, ?3, ?4, sealed('alarm_changes', ?1 || ':' || ?3, ?5), ?6)",
        )?
        .execute((
            alarm.id.cast_signed(),
            alarm.state as i64,
            at.as_nanos(),
            actor,
            note,
            cause_key.map(|key| key.0.to_vec()),
        ))?;
    connection
        .prepare_cached("DELETE FROM alarm_changes WHERE id <= last_insert_rowid() - ?1")?
        .execute([CHANGES_MAX])?;
    let text = |text: &str| Value::Text(text.into());
    let mut values = vec![
        ("alarm", Value::UInt(alarm.id)),
        ("rule", text(&alarm.rule)),
        ("state", text(alarm.state.as_str())),
        ("severity", text(&alarm.severity)),
        ("text", text(&alarm.text)),
        ("raised", Value::UInt(alarm.raised)),
        ("events", Value::UInt(alarm.events)),
    ];
    if let Some(key) = cause_key {
        values.push(("cause", Value::Text(key.to_string())));
    }
    if let Some(actor) = actor {
        values.push(("actor", text(actor)));
    }
    if let Some(note) = note {
        values.push(("note", text(note)));
    }
    let kind = format!("penstock.alarm.{}", alarm.state.as_str());
    // The same however often this change is made of this event.
    let key = cause_key.map(|key| topic::key(&kind, &alarm.rule, key));
    let of = Of {
        device: &alarm.device,
        site: alarm.site.as_ref(),
        cause,
    };
    let event = made::event(&kind, &alarm.rule, of, key, now, values);
    outbox::add(connection, &event, None)
}

/// Whether there is room for one more; makes some if it can.
fn has_room(connection: &Connection) -> Result<bool, Error> {
    let count: i64 = connection
        .prepare_cached("SELECT count(*) FROM alarms")?
        .query_row([], |row| row.get(0))?;
    if count < ALARMS_MAX {
        return Ok(true);
    }
    let removed = connection
        .prepare_cached(
            "DELETE FROM alarms WHERE id =
             (SELECT id FROM alarms WHERE state = 2 ORDER BY changed_at LIMIT 1)",
        )?
        .execute([])?;
    Ok(removed > 0)
}

fn of(connection: &Connection, rule: &str, device: &str) -> Result<Option<Alarm>, Error> {
    let found = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM alarms WHERE rule = ?1 AND device = ?2"
        ))?
        .query_row((rule, device), of_row)
        .optional()?;
    Ok(found)
}

/// One of them.
pub(super) fn find(connection: &Connection, id: u64) -> Result<Option<Alarm>, Error> {
    let found = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM alarms WHERE id = ?1"))?
        .query_row([id.cast_signed()], of_row)
        .optional()?;
    Ok(found)
}

/// Alarms after a number: at most `count`.
pub(super) fn list(
    connection: &Connection,
    wanted: &Wanted,
    after: u64,
    count: usize,
) -> Result<Vec<Alarm>, Error> {
    let alarms = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM alarms
             WHERE id > ?1 AND (?2 IS NULL OR rule = ?2) AND (?3 IS NULL OR device = ?3)
               AND (?4 IS NULL OR state = ?4) AND (NOT ?5 OR state < 2)
             ORDER BY id LIMIT ?6"
        ))?
        .query_map(
            (
                after.cast_signed(),
                wanted.rule.as_deref(),
                wanted.device.as_deref(),
                wanted.state.map(|state| state as i64),
                wanted.active,
                i64::try_from(count).unwrap_or(i64::MAX),
            ),
            of_row,
        )?
        .collect::<rusqlite::Result<_>>()?;
    Ok(alarms)
}

/// What became of an alarm, the latest first: at most `count` changes.
pub(super) fn history(
    connection: &Connection,
    id: u64,
    count: usize,
) -> Result<Vec<Change>, Error> {
    let changes = connection
        .prepare_cached(
            "SELECT id, state, at, actor,
                 opened('alarm_changes', alarm || ':' || at, NULL, note), event
             FROM alarm_changes
             WHERE alarm = ?1 ORDER BY id DESC LIMIT ?2",
        )?
        .query_map(
            (id.cast_signed(), i64::try_from(count).unwrap_or(i64::MAX)),
            |row| {
                let event: Option<Vec<u8>> = row.get(5)?;
                Ok(Change {
                    id: row.get::<_, i64>(0)?.cast_unsigned(),
                    state: State::of(row.get(1)?),
                    at: Timestamp::from_nanos(row.get(2)?),
                    actor: row.get(3)?,
                    note: row.get(4)?,
                    event: event.and_then(|key| key.try_into().ok()).map(Key),
                })
            },
        )?
        .collect::<rusqlite::Result<_>>()?;
    Ok(changes)
}

fn of_row(row: &Row<'_>) -> rusqlite::Result<Alarm> {
    let at = |column| row.get(column).map(Timestamp::from_nanos);
    let count = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(Alarm {
        id: count(0)?,
        rule: row.get(1)?,
        device: row.get(2)?,
        site: row.get(3)?,
        state: State::of(row.get(4)?),
        severity: row.get(5)?,
        text: row.get(6)?,
        raised: count(7)?,
        events: count(8)?,
        raised_at: at(9)?,
        last_at: at(10)?,
        changed_at: at(11)?,
    })
}

fn shortened(mut text: String) -> String {
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

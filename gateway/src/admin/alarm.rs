//! What is shown of alarms.

use serde_json::{Value, json};

use crate::actions::alarm::{Alarm, Change};

/// An alarm for a list.
pub fn alarm_line(alarm: &Alarm) -> Value {
    json!({
        "id": alarm.id,
        "rule": alarm.rule,
        "device": alarm.device,
        "site": alarm.site,
        "state": alarm.state.as_str(),
        "severity": alarm.severity,
        "text": alarm.text,
        "raised": alarm.raised,
        "events": alarm.events,
        "raised_at": super::known(alarm.raised_at),
        "last_at": super::known(alarm.last_at),
        "changed_at": super::known(alarm.changed_at),
    })
}

/// A change of an alarm.
pub fn alarm_change(change: &Change) -> Value {
    json!({
        "id": change.id,
        "state": change.state.as_str(),
        "at": super::known(change.at),
        "by": change.actor,
        "note": change.note,
        "event": change.event.map(|key| key.to_string()),
    })
}

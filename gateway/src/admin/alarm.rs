//! What is shown of alarms.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::actions::alarm::{Alarm, Change};

/// An alarm.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Alarm)]
pub struct AlarmShown {
    /// Its number.
    pub id: u64,
    /// The rule that raised it.
    #[schema(value_type = String)]
    pub rule: Arc<str>,
    /// The device that it is about.
    #[schema(value_type = String)]
    pub device: Arc<str>,
    /// Where that is.
    #[schema(value_type = Option<String>)]
    pub site: Option<Arc<str>>,
    /// `raised`, `acknowledged` or `cleared`.
    #[schema(value_type = String)]
    pub state: &'static str,
    /// `info`, `warning` or `critical`.
    #[schema(value_type = String)]
    pub severity: Arc<str>,
    /// What is said of it.
    pub text: String,
    /// How often it was raised.
    pub raised: u64,
    /// By how many events, this time.
    pub events: u64,
    /// When it was raised this time; null where the clock was not set.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub raised_at: Value,
    /// When the last of the events came.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_at: Value,
    /// When its state changed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub changed_at: Value,
    /// What became of it, the latest first: of one alarm only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<AlarmChange>>,
}

/// A change of an alarm.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AlarmChange {
    /// Grows.
    pub id: u64,
    /// How it stood from then on.
    #[schema(value_type = String)]
    pub state: &'static str,
    /// When.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Value,
    /// Who did it, where it was a person.
    pub by: Option<String>,
    /// What he said.
    pub note: Option<String>,
    /// The `eventkey` of the event by which it came, where it was an event.
    pub event: Option<String>,
}

/// An alarm, as it is shown.
pub fn alarm_line(alarm: &Alarm) -> AlarmShown {
    AlarmShown {
        id: alarm.id,
        rule: alarm.rule.clone(),
        device: alarm.device.clone(),
        site: alarm.site.clone(),
        state: alarm.state.as_str(),
        severity: alarm.severity.clone(),
        text: alarm.text.clone(),
        raised: alarm.raised,
        events: alarm.events,
        raised_at: super::known(alarm.raised_at),
        last_at: super::known(alarm.last_at),
        changed_at: super::known(alarm.changed_at),
        history: None,
    }
}

/// An alarm with what became of it.
pub fn alarm_whole(alarm: &Alarm, changes: &[Change]) -> AlarmShown {
    AlarmShown {
        history: Some(changes.iter().map(alarm_change).collect()),
        ..alarm_line(alarm)
    }
}

fn alarm_change(change: &Change) -> AlarmChange {
    AlarmChange {
        id: change.id,
        state: change.state.as_str(),
        at: super::known(change.at),
        by: change.actor.clone(),
        note: change.note.clone(),
        event: change.event.map(|key| key.to_string()),
    }
}

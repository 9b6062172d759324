//! What is shown of what was kept but not delivered, and of replays.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{instant, known, received};
use crate::{
    archive::{Identity, Replay},
    boots::Boots,
    event::{Timestamp, View},
    record::DestinationId,
    store::{DeadLetter, Devices, Quarantined},
};

/// A message that could not be decoded.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Quarantined)]
pub struct QuarantinedShown {
    /// Its number.
    pub id: u64,
    /// When it was received; null where the clock was not set.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub received: Value,
    /// Who sent it.
    pub client_id: String,
    /// On which topic.
    pub topic: String,
    /// Why it could not be decoded, in a word.
    pub class: String,
    /// The same in a sentence.
    pub reason: String,
    /// The size of its payload.
    pub payload_bytes: usize,
    /// Whether it reads back as it was written.
    pub intact: bool,
}

impl QuarantinedShown {
    pub(super) fn of(item: &Quarantined, boots: &Boots) -> Self {
        Self {
            id: item.id,
            received: known(received(item, boots)),
            client_id: item.client_id.clone(),
            topic: item.topic.clone(),
            class: item.class.clone(),
            reason: item.reason.clone(),
            payload_bytes: item.payload.len(),
            intact: item.intact,
        }
    }
}

/// The same with its payload.
#[derive(Debug, Serialize, ToSchema)]
pub struct QuarantinedWhole {
    /// What lists have of it.
    #[serde(flatten)]
    pub line: QuarantinedShown,
    /// The payload as received.
    pub payload_base64: String,
    /// The same, where it is UTF-8.
    pub payload_text: Option<String>,
    /// User properties and content type of MQTT 5.
    pub properties_cbor_base64: Option<String>,
}

/// An event that a destination will not take.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub struct DeadLetterShown {
    /// Its number.
    pub id: u64,
    /// The destination.
    pub destination: String,
    /// The position of the event.
    pub position: u64,
    /// The key of the event.
    pub eventkey: String,
    /// Attempts that were made.
    pub attempts: u32,
    /// When it failed first, where that is known.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first: Value,
    /// When it was given up.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub at: Value,
    /// What the destination said.
    pub reason: String,
    /// Whether it does not read back as it was written: it cannot be redriven then.
    pub damaged: bool,
}

impl DeadLetterShown {
    pub(super) fn of(letter: &DeadLetter) -> Self {
        // A correction's record has a key of its own; people look for the event's.
        let key = match View::parse(&letter.record.body) {
            Ok(view) if !letter.damaged => view.attributes.key,
            _ => letter.record.key,
        };
        Self {
            id: letter.id,
            destination: letter.destination_name.clone(),
            position: letter.record.position.0,
            eventkey: key.to_string(),
            attempts: letter.attempts,
            first: letter.first.map_or(Value::Null, known),
            at: known(letter.at),
            reason: letter.reason.clone(),
            damaged: letter.damaged,
        }
    }
}

/// The same with its event.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterWhole {
    /// What lists have of it.
    #[serde(flatten)]
    pub line: DeadLetterShown,
    /// The event, as destinations receive it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub event: Option<Value>,
    /// The bytes as found, of one that is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// Events that are sent again to a destination.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Replay)]
pub struct ReplayShown {
    /// When it began: its name.
    pub at: String,
    /// Events received from here on.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<Value>,
    /// Events received before this.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<Value>,
    /// Of this device.
    pub device: Option<String>,
    /// That this rule takes, or this pattern.
    pub rule: Option<String>,
    /// The destination.
    pub destination: String,
    /// As what.
    pub identity: Identity,
    /// Everything up to here was looked at.
    pub after: u64,
    /// The last position that belongs to it.
    pub until: u64,
    /// Events copied.
    pub copied: u64,
    /// Events that were not copied because the destination was still to get them.
    pub waiting: u64,
    /// Rows of the journal that could not be read.
    pub damaged: u64,
    /// Events that were not copied because the rule has too much to compare in them.
    pub too_much: u64,
    /// Whether an event was gone before the replay came to it.
    pub gone: bool,
    /// Whether it is at its end.
    pub done: bool,
}

impl ReplayShown {
    pub(crate) fn of(replay: &Replay) -> Self {
        let of = &replay.choice;
        let at = |nanos: Option<i64>| nanos.map(|nanos| instant(Timestamp::from_nanos(nanos)));
        Self {
            at: replay.name(),
            from: at(of.from),
            to: at(of.to),
            device: of.device.clone(),
            rule: of.rule.clone(),
            destination: of.destination.clone(),
            identity: of.identity,
            after: replay.after,
            until: replay.until,
            copied: replay.copied,
            waiting: replay.waiting,
            damaged: replay.damaged,
            too_much: replay.too_much,
            gone: replay.gone > 0,
            done: replay.is_done(),
        }
    }
}

/// What waits, by device.
#[derive(Debug, Serialize, ToSchema)]
pub struct DevicesWaiting {
    /// Those with the most events first.
    pub devices: Vec<DeviceWaiting>,
    /// Events of the devices that are not listed.
    pub others: u64,
    /// Whether everything was counted in the time there is.
    pub complete: bool,
}

/// What waits of one device.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeviceWaiting {
    /// The device.
    pub device: String,
    /// Its events that wait.
    pub waiting: u64,
    /// When the oldest of them was received.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub oldest: Value,
    /// How many wait for each destination.
    pub destinations: BTreeMap<String, u64>,
}

impl DevicesWaiting {
    pub(super) fn of(devices: &Devices, names: &[(DestinationId, String)]) -> Self {
        let name = |id: DestinationId| {
            let known = names.iter().find(|(known, _)| *known == id);
            known.map_or_else(|| id.0.to_string(), |(_, name)| name.clone())
        };
        let list = devices.devices.iter().map(|one| {
            let of = one.destinations.iter();
            DeviceWaiting {
                device: one.device.clone(),
                waiting: one.events,
                oldest: known(one.oldest),
                destinations: of.map(|(id, events)| (name(*id), *events)).collect(),
            }
        });
        Self {
            devices: list.collect(),
            others: devices.others,
            complete: devices.complete,
        }
    }
}

//! Devices come and go.

use std::sync::Arc;

use rusqlite::Connection;

use super::cost_bytes;
use crate::{
    event::Timestamp,
    fleet::{
        Device,
        announce::{Announce, News},
        rows,
    },
    store::{Edit, Edited, NewEvent},
};

/// Devices are online, or no longer.
#[derive(Debug)]
pub(in crate::fleet) struct Presence {
    pub(in crate::fleet) ids: Vec<String>,
    pub(in crate::fleet) online: bool,
    pub(in crate::fleet) announce: Arc<dyn Announce>,
}

/// What tells that a device is there, or not any more; `apart` tells it from what is told
/// of it at the same moment.
pub(super) fn news(
    device: &Device,
    online: bool,
    now: Timestamp,
    apart: &str,
    announce: &dyn Announce,
) -> NewEvent {
    let (kind, word) = match online {
        true => ("penstock.device.online", "online"),
        false => ("penstock.device.offline", "offline"),
    };
    let mut value = device.show();
    value["online"] = online.into();
    let mut id = format!("{word}:{}", now.as_nanos());
    if !apart.is_empty() {
        id = format!("{id}:{apart}");
    }
    News {
        kind,
        device: &device.id,
        site: device.fields.site.as_deref(),
        id,
        at: now,
        actor: super::progress::GATEWAY,
        key: None,
        rules: None,
        what: "record",
        value,
    }
    .entry(announce)
}

impl Edit for Presence {
    type Answer = ();

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<()>> {
        let mut events = Vec::new();
        for id in &self.ids {
            if !rows::set_online(tables, id, self.online)? {
                continue;
            }
            let Some(device) = rows::device(tables, id)? else {
                continue;
            };
            // It is one or the other, and not twice at one moment.
            events.push(news(&device, self.online, now, "", &*self.announce));
        }
        Ok(Edited {
            answer: (),
            changed: !events.is_empty(),
            are_copies: false,
            told: Vec::new(),
            events,
        })
    }

    fn cost_bytes(&self) -> usize {
        self.ids.len() * cost_bytes(512)
    }
}

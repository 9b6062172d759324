//! Shadows change.

use std::sync::Arc;

use rusqlite::Connection;
use serde_json::{Map, Value};

use super::{cost_bytes, progress::Heard};
use crate::{
    event::Timestamp,
    fleet::{
        Asked, Change, Device, Refusal, Shadow,
        announce::{Announce, News},
        device::merge,
        requests, rows,
    },
    store::{Edit, Edited, NewEvent, Turn},
};

/// Changes what a device should be.
#[derive(Debug)]
pub(in crate::fleet) struct Desire {
    device: String,
    patch: Map<String, Value>,
    version: Option<u64>,
    bytes_max: usize,
    asked: Asked,
    is_full: bool,
    digest: String,
    announce: Arc<dyn Announce>,
}

impl Desire {
    pub(in crate::fleet) fn new(
        device: &str,
        patch: Map<String, Value>,
        version: Option<u64>,
        bytes_max: usize,
        asked: Asked,
        announce: Arc<dyn Announce>,
    ) -> Self {
        Self {
            digest: requests::digest(&("desire", device, &patch, version)),
            device: device.to_owned(),
            patch,
            version,
            bytes_max,
            asked,
            is_full: false,
            announce,
        }
    }

    /// Adds nothing to the tables.
    pub(in crate::fleet) fn where_full(self, is_full: bool) -> Self {
        Self { is_full, ..self }
    }
}

/// A document after a patch; `None` if it is larger than it may be.
fn patched(
    document: &Map<String, Value>,
    patch: &Map<String, Value>,
    bytes_max: usize,
) -> Option<Map<String, Value>> {
    let mut whole = Value::Object(document.clone());
    merge(&mut whole, &Value::Object(patch.clone()));
    let bytes = serde_json::to_vec(&whole).map_or(usize::MAX, |text| text.len());
    match whole {
        Value::Object(whole) if bytes <= bytes_max => Some(whole),
        _ => None,
    }
}

fn news(
    kind: &'static str,
    id: String,
    device: &Device,
    shadow: &Shadow,
    now: Timestamp,
    asked: &Asked,
    announce: &dyn Announce,
) -> NewEvent {
    News {
        kind,
        device: &device.id,
        site: device.fields.site.as_deref(),
        id,
        at: now,
        actor: &asked.actor,
        key: asked.key.as_deref(),
        rules: None,
        what: "shadow",
        value: shadow.show(),
    }
    .entry(announce)
}

/// What tells a change of a shadow from all others of its device, also of one that was
/// there before under the same name.
fn news_id(word: &str, version: u64, device: &Device) -> String {
    format!("shadow:{}:{word}:{version}", device.created_ms)
}

impl Edit for Desire {
    type Answer = Result<Change<Shadow>, Refusal>;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Self::Answer>> {
        let asked = &self.asked;
        requests::once(tables, now, &self.device, asked, &self.digest, || {
            let Some(device) = rows::device(tables, &self.device)? else {
                return Ok(Err(Refusal::no_device(&self.device)));
            };
            let mut shadow = rows::shadow_of(tables, &device)?;
            if self
                .version
                .is_some_and(|version| version != shadow.version)
            {
                return Ok(Err(Refusal::Version {
                    has: shadow.version,
                }));
            }
            let Some(desired) = patched(&shadow.desired, &self.patch, self.bytes_max) else {
                return Ok(Err(Refusal::invalid(format!(
                    "what is desired has {} bytes at most",
                    self.bytes_max
                ))));
            };
            // What is answered to a key is kept, also where nothing changes.
            if self.is_full && asked.key.is_some() {
                return Ok(Err(Refusal::no_room()));
            }
            if desired == shadow.desired {
                return Ok(Ok((shadow, Vec::new())));
            }
            if self.is_full && length(&desired) > length(&shadow.desired) {
                return Ok(Err(Refusal::no_room()));
            }
            shadow.desired = desired;
            shadow.version += 1;
            shadow.desired_ms = Some(now.as_millis());
            rows::put_shadow(tables, &shadow, false)?;
            let event = news(
                "penstock.shadow.desired",
                news_id("desired", shadow.version, &device),
                &device,
                &shadow,
                now,
                asked,
                &*self.announce,
            );
            Ok(Ok((shadow, vec![event])))
        })
    }

    fn cost_bytes(&self) -> usize {
        cost_bytes(3 * self.bytes_max)
    }
}

/// A device says what it is.
#[derive(Debug)]
pub(in crate::fleet) struct Report {
    pub(in crate::fleet) device: String,
    pub(in crate::fleet) client_id: Arc<str>,
    pub(in crate::fleet) user: Option<Arc<str>>,
    pub(in crate::fleet) patch: Map<String, Value>,
    pub(in crate::fleet) bytes_max: usize,
    /// There is no room for more than is there.
    pub(in crate::fleet) is_full: bool,
    /// Its place among what the device publishes.
    pub(in crate::fleet) turn: Option<Turn>,
    pub(in crate::fleet) announce: Arc<dyn Announce>,
}

/// What became of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fleet) enum Taken {
    /// As of a reply.
    Heard(Heard),
    /// The document would be larger than it may be.
    TooLarge,
    /// It would be larger than it is, and there is no room for that.
    NoRoom,
}

/// Bytes of a document.
pub(in crate::fleet) fn length(document: &Map<String, Value>) -> usize {
    serde_json::to_vec(document).map_or(usize::MAX, |text| text.len())
}

impl Edit for Report {
    type Answer = Taken;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Taken>> {
        let noted = Taken::Heard(Heard::Noted { ended: false });
        let Some(device) = rows::device(tables, &self.device)? else {
            return Ok(Edited::nothing(Taken::Heard(Heard::Unknown)));
        };
        if !device.addressee().is(&self.client_id, self.user.as_deref()) {
            return Ok(Edited::nothing(Taken::Heard(Heard::NotYours)));
        }
        let mut shadow = rows::shadow_of(tables, &device)?;
        let Some(reported) = patched(&shadow.reported, &self.patch, self.bytes_max) else {
            return Ok(Edited::nothing(Taken::TooLarge));
        };
        if reported == shadow.reported {
            return Ok(Edited::nothing(noted));
        }
        if self.is_full && length(&reported) > length(&shadow.reported) {
            return Ok(Edited::nothing(Taken::NoRoom));
        }
        let before = shadow.delta();
        shadow.reported = reported;
        shadow.reported_version += 1;
        shadow.reported_ms = Some(now.as_millis());
        // What the device is told has the delta in it.
        let is_told = rows::is_told(tables, &self.device)? && shadow.delta() == before;
        rows::put_shadow(tables, &shadow, is_told)?;
        let asked = Asked {
            actor: self.user.as_ref().unwrap_or(&self.client_id).clone(),
            key: None,
        };
        let event = news(
            "penstock.shadow.reported",
            news_id("reported", shadow.reported_version, &device),
            &device,
            &shadow,
            now,
            &asked,
            &*self.announce,
        );
        Ok(Edited::change(noted, vec![event]))
    }

    fn cost_bytes(&self) -> usize {
        cost_bytes(3 * self.bytes_max)
    }

    fn turn(&self) -> Option<&Turn> {
        self.turn.as_ref()
    }
}

/// A device was told what it should be.
#[derive(Debug)]
pub(in crate::fleet) struct Told {
    pub(in crate::fleet) shadow: Shadow,
}

impl Edit for Told {
    type Answer = ();

    fn apply(&self, tables: &Connection, _now: Timestamp) -> rusqlite::Result<Edited<()>> {
        let changed = rows::told(tables, &self.shadow)?;
        Ok(Edited {
            answer: (),
            events: Vec::new(),
            changed,
            are_copies: false,
            told: Vec::new(),
        })
    }

    fn cost_bytes(&self) -> usize {
        // It writes what is there once more.
        0
    }
}

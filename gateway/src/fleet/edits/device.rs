//! Devices come, change and go.

use std::sync::Arc;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedRwLockReadGuard;

use super::{cost_bytes, enter};
use crate::{
    event::Timestamp,
    fleet::{
        Asked, Change, Device, Draft, Refusal, State,
        announce::{Announce, News},
        device::Changes,
        requests, rows,
    },
    store::{Edit, Edited, NewEvent},
};

/// What the event of a change is told by: random, because a device that is removed and
/// added again begins anew.
fn change_id() -> String {
    uuid::Uuid::from_bytes(rand::random()).simple().to_string()
}

fn news(
    kind: &'static str,
    device: &Device,
    id: &str,
    now: Timestamp,
    asked: &Asked,
    announce: &dyn Announce,
) -> NewEvent {
    News {
        kind,
        device: &device.id,
        site: device.fields.site.as_deref(),
        id: id.to_owned(),
        at: now,
        actor: &asked.actor,
        key: asked.key.as_deref(),
        rules: None,
        what: "record",
        value: device.show(),
    }
    .entry(announce)
}

/// Whether a device has the version that somebody wants to change.
fn check_version(device: &Device, wanted: Option<u64>) -> Result<(), Refusal> {
    match wanted {
        Some(version) if version != device.version => Err(Refusal::Version {
            has: device.version,
        }),
        _ => Ok(()),
    }
}

/// Adds a device.
#[derive(Debug)]
pub(in crate::fleet) struct Create {
    draft: Draft,
    asked: Asked,
    is_full: bool,
    change_id: String,
    digest: String,
    announce: Arc<dyn Announce>,
}

impl Create {
    pub(in crate::fleet) fn new(draft: Draft, asked: Asked, announce: Arc<dyn Announce>) -> Self {
        Self {
            digest: requests::digest(&("create", &draft)),
            draft,
            asked,
            is_full: false,
            change_id: change_id(),
            announce,
        }
    }

    /// Only answers what became of it if it was made before.
    pub(in crate::fleet) fn where_full(self, is_full: bool) -> Self {
        Self { is_full, ..self }
    }
}

impl Edit for Create {
    type Answer = Result<Change<Device>, Refusal>;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Self::Answer>> {
        let (draft, asked) = (&self.draft, &self.asked);
        requests::once(tables, now, &draft.id, asked, &self.digest, || {
            if rows::device(tables, &draft.id)?.is_some() {
                return Ok(Err(Refusal::Exists(format!(
                    "there is a device {:?} already",
                    draft.id
                ))));
            }
            if self.is_full {
                return Ok(Err(Refusal::no_room()));
            }
            let device = Device {
                id: draft.id.clone(),
                version: 1,
                fields: draft.fields.clone(),
                created_ms: now.as_millis(),
                updated_ms: now.as_millis(),
                heard: None,
            };
            rows::put_device(tables, &device)?;
            let kind = "penstock.device.created";
            let event = news(kind, &device, &self.change_id, now, asked, &*self.announce);
            Ok(Ok((device, vec![event])))
        })
    }

    fn cost_bytes(&self) -> usize {
        cost_bytes(self.draft.id.len() + format!("{:?}", self.draft.fields).len())
    }
}

/// Changes a device.
#[derive(Debug)]
pub(in crate::fleet) struct Update {
    id: String,
    changes: Changes,
    version: Option<u64>,
    asked: Asked,
    is_full: bool,
    change_id: String,
    digest: String,
    announce: Arc<dyn Announce>,
}

impl Update {
    pub(in crate::fleet) fn new(
        id: &str,
        changes: Changes,
        version: Option<u64>,
        asked: Asked,
        announce: Arc<dyn Announce>,
    ) -> Self {
        Self {
            digest: requests::digest(&("update", id, &changes, version)),
            id: id.to_owned(),
            changes,
            version,
            asked,
            is_full: false,
            change_id: change_id(),
            announce,
        }
    }

    /// Adds nothing to the tables.
    pub(in crate::fleet) fn where_full(self, is_full: bool) -> Self {
        Self { is_full, ..self }
    }
}

impl Edit for Update {
    type Answer = Result<Change<Device>, Refusal>;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Self::Answer>> {
        let asked = &self.asked;
        requests::once(tables, now, &self.id, asked, &self.digest, || {
            let Some(mut device) = rows::device(tables, &self.id)? else {
                return Ok(Err(Refusal::no_device(&self.id)));
            };
            if let Err(refusal) = check_version(&device, self.version) {
                return Ok(Err(refusal));
            }
            let fields = match self.changes.apply(&device.fields) {
                Ok(fields) => fields,
                Err(refusal) => return Ok(Err(refusal)),
            };
            // What is answered to a key is kept, also where nothing changes.
            if self.is_full && asked.key.is_some() {
                return Ok(Err(Refusal::no_room()));
            }
            if fields == device.fields {
                // Nothing to tell.
                return Ok(Ok((device, Vec::new())));
            }
            let length = |of| serde_json::to_vec(of).map_or(usize::MAX, |text| text.len());
            if self.is_full && length(&fields) > length(&device.fields) {
                return Ok(Err(Refusal::no_room()));
            }
            device.fields = fields;
            device.version += 1;
            device.updated_ms = now.as_millis();
            rows::put_device(tables, &device)?;
            let kind = "penstock.device.updated";
            let event = news(kind, &device, &self.change_id, now, asked, &*self.announce);
            Ok(Ok((device, vec![event])))
        })
    }

    fn cost_bytes(&self) -> usize {
        // A device is what it was and what is changed, at most.
        cost_bytes(16 * 1_024 + format!("{:?}", self.changes).len())
    }
}

/// Removes a device, and ends its commands.
#[derive(Debug)]
pub(in crate::fleet) struct Remove {
    id: String,
    version: Option<u64>,
    asked: Asked,
    change_id: String,
    digest: String,
    announce: Arc<dyn Announce>,
    #[expect(
        dead_code,
        reason = "held, not read: while the edit waits nothing is sent"
    )]
    guard: Option<OwnedRwLockReadGuard<()>>,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// The device as it was.
    pub device: Device,
    /// Commands that ended with it.
    pub commands: u64,
    /// Those of them that had not been sent.
    #[serde(default)]
    pub cancelled: u64,
}

impl Remove {
    pub(in crate::fleet) fn new(
        id: &str,
        version: Option<u64>,
        asked: Asked,
        announce: Arc<dyn Announce>,
    ) -> Self {
        Self {
            digest: requests::digest(&("remove", id, version)),
            id: id.to_owned(),
            version,
            asked,
            change_id: change_id(),
            announce,
            guard: None,
        }
    }

    /// Lets nothing be sent while it waits.
    pub(in crate::fleet) fn holding(self, guard: OwnedRwLockReadGuard<()>) -> Self {
        let guard = Some(guard);
        Self { guard, ..self }
    }
}

impl Edit for Remove {
    type Answer = Result<Change<Removed>, Refusal>;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<Self::Answer>> {
        let asked = &self.asked;
        requests::once(tables, now, &self.id, asked, &self.digest, || {
            let Some(device) = rows::device(tables, &self.id)? else {
                return Ok(Err(Refusal::no_device(&self.id)));
            };
            if let Err(refusal) = check_version(&device, self.version) {
                return Ok(Err(refusal));
            }
            let mut events = Vec::new();
            let open = rows::open(tables, &self.id)?;
            let commands = open.len() as u64;
            let mut cancelled = 0;
            for mut command in open {
                let state = match command.state {
                    State::Queued if !rows::is_in_doubt(tables, &command)? => State::Cancelled,
                    // It may be on its way, and nobody will know.
                    _ => State::Expired,
                };
                cancelled += u64::from(state == State::Cancelled);
                command.reason = Some("the device was removed".to_owned());
                let actor = &asked.actor;
                events.push(enter(
                    tables,
                    &*self.announce,
                    now,
                    &mut command,
                    state,
                    actor,
                )?);
            }
            rows::shadow_is_gone(tables, &self.id)?;
            rows::remove_device(tables, &self.id)?;
            let kind = "penstock.device.deleted";
            events.push(news(
                kind,
                &device,
                &self.change_id,
                now,
                asked,
                &*self.announce,
            ));
            let removed = Removed {
                device,
                commands,
                cancelled,
            };
            Ok(Ok((removed, events)))
        })
    }

    fn kept(&self, answer: &Self::Answer) {
        if let Ok(Change {
            value,
            again: false,
        }) = answer
        {
            let expired = value.commands - value.cancelled;
            self.announce.entered(State::Cancelled, value.cancelled);
            self.announce.entered(State::Expired, expired);
        }
    }

    fn cost_bytes(&self) -> usize {
        cost_bytes(16 * 1_024)
    }
}

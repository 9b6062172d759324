//! The events that tell of changes. They are in the journal in the same commit, and go
//! where the rules send them, as those of devices do.

use std::fmt::Debug;

use serde_json::Value;

use super::State;
use crate::{
    dedup::key::Parts,
    event::{
        self, Event, IdSource, Marks, Measurement, Quality, TimeSource, Timestamp,
        message::RULES_TAG,
    },
    ingest::Ingest,
    store::NewEvent,
};

/// Where such an event is said to have come in.
const TOPIC: &str = "$penstock/fleet";
/// The tag with who asked for the change.
const ACTOR_TAG: &str = "actor";
/// The tag with the Idempotency-Key of the request.
const KEY_TAG: &str = "requestkey";

/// Decides where an event of the gateway's own goes, and hears what is counted.
pub trait Announce: Debug + Send + Sync + 'static {
    /// The event as it is to be kept.
    fn entry(&self, event: &Event) -> NewEvent;

    /// So many commands entered a state, and that is on disk.
    fn entered(&self, _state: State, _commands: u64) {}
}

impl Announce for Ingest {
    fn entry(&self, event: &Event) -> NewEvent {
        // Asked by the journal's writer in the transaction that keeps it: no change of where
        // events go can come between.
        self.made(event, None).event
    }
}

/// What there is to tell.
pub(super) struct News<'a> {
    /// The `type`.
    pub(super) kind: &'static str,
    pub(super) device: &'a str,
    pub(super) site: Option<&'a str>,
    /// What tells it from all other news of the device.
    pub(super) id: String,
    pub(super) at: Timestamp,
    pub(super) actor: &'a str,
    pub(super) key: Option<&'a str>,
    /// The rules of which it came: they and others know by it what they may not follow.
    pub(super) rules: Option<&'a str>,
    /// What changed, as one value of this name.
    pub(super) what: &'static str,
    pub(super) value: Value,
}

impl News<'_> {
    pub(super) fn entry(self, announce: &dyn Announce) -> NewEvent {
        let mut parts = Parts::default();
        parts
            .start(IdSource::Explicit, self.site, self.device)
            .bytes(b"penstock.fleet")
            .bytes(self.id.as_bytes());
        let mut tags = vec![(ACTOR_TAG.into(), self.actor.into())];
        tags.extend(self.key.map(|key| (KEY_TAG.into(), key.into())));
        tags.extend(self.rules.map(|chain| (RULES_TAG.into(), chain.into())));
        let value = serde_json::from_value(self.value).unwrap_or(event::Value::Null);
        announce.entry(&Event {
            key: parts.key(),
            id: Some(self.id.into()),
            id_source: IdSource::Explicit,
            kind: self.kind.into(),
            device: self.device.into(),
            site: self.site.map(Into::into),
            time: self.at,
            time_source: TimeSource::Received,
            received: self.at,
            sequence: None,
            partition_key: None,
            topic: TOPIC.into(),
            traceparent: None,
            measurements: vec![Measurement {
                name: self.what.into(),
                value,
                unit: None,
                quality: Quality::Good,
                time: None,
            }],
            tags,
            marks: Marks::NONE,
            corrected: None,
            replayed: None,
        })
    }
}

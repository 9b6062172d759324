//! Events that rules make.

use std::sync::Arc;

use super::window::Turn;
use crate::{
    clock::{Booted, Clock},
    event::{
        Event, IdSource, Key, Marks, Measurement, Quality, TimeSource, Timestamp, Value,
        message::RULES_TAG,
    },
    ingest::mark_unset,
    rules::Rule,
};

/// An event that came of so many rules is acted on by no further one that would make
/// another.
const DEPTH_MAX: usize = 4;

/// What a window that turns is called.
pub(super) const fn word(turn: Turn) -> &'static str {
    match turn {
        Turn::Began => "began",
        Turn::Ended => "ended",
    }
}

/// The type of the event of a window that turned.
pub(super) const fn kind(turn: Turn) -> &'static str {
    match turn {
        Turn::Began => "penstock.window.began",
        Turn::Ended => "penstock.window.ended",
    }
}

/// Which turn of a rule's window an event tells of, if it does.
pub(super) fn turn(rule: &Rule, event: &Event) -> Option<Turn> {
    let mut tags = event.tags.iter();
    let (_, chain) = tags.find(|(name, _)| **name == *RULES_TAG)?;
    let own = chain.rsplit(' ').next() == Some(&*rule.name);
    let turns = [Turn::Began, Turn::Ended];
    turns
        .into_iter()
        .find(|turn| own && *event.kind == *kind(*turn))
}

/// When something is done.
#[derive(Debug, Clone)]
pub(super) struct Now {
    /// By the wall clock.
    pub(super) at: Timestamp,
    /// This start of the machine, while the time is not known.
    pub(super) booted: Option<Booted>,
}

impl Now {
    /// By a clock.
    pub(super) fn of(clock: &dyn Clock) -> Self {
        let at = clock.now();
        let booted = at.is_unset().then(|| clock.booted()).flatten();
        Self { at, booted }
    }
}

/// Whether an event is of a rule, and nothing that a device said.
pub(super) fn is_made(event: &Event) -> bool {
    event.tags.iter().any(|(name, _)| **name == *RULES_TAG)
}

/// Of whom an event is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Of<'o> {
    /// The device.
    pub(super) device: &'o Arc<str>,
    /// Where it is.
    pub(super) site: Option<&'o Arc<str>>,
    /// The event that the rule acted on, if it was one.
    pub(super) cause: Option<&'o Event>,
}

/// Whether a rule may make an event of this one: not of what it made itself, by whatever
/// way, nor without end.
pub(super) fn may_follow(rule: &Rule, event: &Event) -> bool {
    let mut tags = event.tags.iter();
    let Some((_, chain)) = tags.find(|(name, _)| **name == *RULES_TAG) else {
        return true;
    };
    let mut rules = chain.split(' ');
    rules.clone().count() < DEPTH_MAX && rules.all(|name| *name != *rule.name)
}

/// The rules of which something came, in their order, when this one makes it of an event.
pub(super) fn chain(rule: &str, cause: Option<&Event>) -> Arc<str> {
    let before = cause.and_then(|cause| {
        let mut tags = cause.tags.iter();
        tags.find(|(name, _)| **name == *RULES_TAG)
    });
    match before {
        Some((_, before)) => format!("{before} {rule}").into(),
        None => rule.into(),
    }
}

/// An event that a rule makes now. Without a key of its own it gets one that nothing
/// else has: for what a person did, which is kept before it goes anywhere.
pub(super) fn event(
    kind: &str,
    rule: &str,
    of: Of<'_>,
    key: Option<Key>,
    now: &Now,
    values: Vec<(&str, Value)>,
) -> Event {
    let chain = chain(rule, of.cause);
    let measurement = |(name, value): (&str, Value)| Measurement {
        name: name.into(),
        value,
        unit: None,
        quality: Quality::Good,
        time: None,
    };
    let mut event = Event {
        key: key.unwrap_or_else(|| Key(rand::random())),
        id: None,
        id_source: IdSource::Explicit,
        kind: kind.into(),
        device: of.device.clone(),
        site: of.site.cloned(),
        time: of.cause.map_or(now.at, |cause| cause.time),
        time_source: of
            .cause
            .map_or(TimeSource::Received, |cause| cause.time_source),
        received: now.at,
        sequence: None,
        partition_key: of.cause.and_then(|cause| cause.partition_key.clone()),
        topic: format!("$penstock/rules/{rule}").into(),
        traceparent: of.cause.and_then(|cause| cause.traceparent.clone()),
        measurements: values.into_iter().map(measurement).collect(),
        tags: vec![(RULES_TAG.into(), chain)],
        marks: Marks::NONE,
        corrected: None,
        replayed: None,
    };
    mark_unset(&mut event, now.booted.as_ref());
    event
}

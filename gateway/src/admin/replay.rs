//! Events are made again from messages that were kept as they came, with the mappings
//! and rules of today.
//!
//! A replay goes through the journal page by page, and appends group by group, each of
//! whole messages and kept whole or not at all. The keys of what it stores are made of
//! the event's key and the instant of the replay: a page that is asked for once more, by
//! whomever and after whatever, stores what is not there yet and nothing twice.
//!
//! Devices go first: corrections take only room that is to spare, and a group that finds
//! none ends its page, with what was kept before it.

mod diff;

use std::ops::Range;

use serde_json::{Value, json};

use super::{known, listing_event};
use crate::{
    boots,
    clock::Booted,
    event::{Timestamp, View},
    ingest::{Going, Ingest, Raw, Renormalised},
    normalise::topic::Template,
    record::{DestinationId, Position, Routes},
    store::{Appended, Entry, Handle, Kept, KeptPage, NewEvent, Stopped},
};

/// The number of a destination that corrections can be sent to.
///
/// # Errors
/// What is wrong with the name.
pub fn destination(store: &Handle, ingest: &Ingest, name: &str) -> Result<DestinationId, String> {
    let status = store.status();
    let known = status.destinations.iter().find(|d| *d.name == *name);
    let id = known
        .filter(|d| d.configured)
        .ok_or_else(|| format!("there is no destination {name:?}"))?
        .id;
    if ingest.sends_original_to(id) {
        return Err(format!(
            "{name:?} gets messages as they came; there is nothing to correct"
        ));
    }
    Ok(id)
}

/// Messages of one page, at most.
pub const MESSAGES_MAX: usize = 200;
/// Bytes of events that are made before they are appended, about: the message that
/// reaches it is the last of its group.
const GROUP_BYTES: usize = 1024 * 1024;
/// A page ends with the message that brings what was made for it, and in a dry run what
/// is said of it, to so many bytes.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// What to make again, and for whom.
#[derive(Debug, Clone)]
pub struct Replay {
    /// When it began: what its events say in `correctedtime`, and what their ids end with.
    pub at: Timestamp,
    /// Messages received then or later.
    pub from: Option<Timestamp>,
    /// Messages received before then.
    pub to: Option<Timestamp>,
    /// Events of this device, as it was called or is called.
    pub device: Option<String>,
    /// Messages on topics that this takes.
    pub topic: Option<Template>,
    /// For this destination, whatever the rules say.
    pub destination: Option<DestinationId>,
    /// Also events that were not stored with the message: another message may have them,
    /// or quarantine.
    pub with_new: bool,
    /// Only events that differ from what they were.
    pub only_changed: bool,
    /// Store nothing, and say what would change.
    pub dry_run: bool,
}

/// What became of one page.
#[derive(Debug, Default, serde::Serialize, utoipa::ToSchema)]
#[schema(as = ReplayPage)]
pub struct Done {
    /// What to give as `after` for the next page; `None` at the end.
    pub next: Option<u64>,
    /// Messages made again.
    pub messages: u64,
    /// Of those, messages that cannot be used today; their events stay as they are.
    pub refused: u64,
    /// Events as they were.
    pub same: u64,
    /// Events that differ.
    pub changed: u64,
    /// Events that were not stored with their message; sent only when asked for.
    pub new: u64,
    /// Events that are no longer made; nobody is told.
    pub gone: u64,
    /// Stored, to be sent.
    pub stored: u64,
    /// Stored by this replay before.
    pub duplicate: u64,
    /// Not stored, because the rules of today send them nowhere.
    pub nowhere: u64,
    /// Rows of the journal that could not be read.
    pub damaged: u64,
    /// Events left as they are, because no message of theirs is in the journal.
    pub orphaned: u64,
    /// There was no room to spare: nothing after `next` was stored.
    pub full: bool,
    /// What is refused, and in a dry run every event, old and new.
    pub items: Vec<Value>,
}

/// What is appended together.
#[derive(Debug, Default)]
struct Group {
    entries: Vec<Entry>,
    /// What they go by.
    going: Vec<Going>,
    /// Bytes of everything that was made for it.
    bytes: usize,
    /// What is to be said once it is kept.
    done: Done,
}

impl Done {
    /// Adds what became of a group.
    fn add(&mut self, group: Self) {
        let counts = [
            (&mut self.messages, group.messages),
            (&mut self.refused, group.refused),
            (&mut self.same, group.same),
            (&mut self.changed, group.changed),
            (&mut self.new, group.new),
            (&mut self.gone, group.gone),
            (&mut self.stored, group.stored),
            (&mut self.duplicate, group.duplicate),
            (&mut self.nowhere, group.nowhere),
            (&mut self.damaged, group.damaged),
            (&mut self.orphaned, group.orphaned),
        ];
        for (count, more) in counts {
            *count += more;
        }
        self.items.extend(group.items);
    }
}

impl Replay {
    /// The instant of a replay: to the millisecond, as the ids of its events say it.
    pub const fn instant(at: Timestamp) -> Timestamp {
        Timestamp::from_millis(at.as_millis())
    }

    /// When messages were received that are meant.
    pub fn received(&self) -> Range<Timestamp> {
        self.from.unwrap_or(Timestamp::from_nanos(i64::MIN))
            ..self.to.unwrap_or(Timestamp::from_nanos(i64::MAX))
    }

    /// Whether a message is meant, by the event that it lies with.
    pub fn wants(&self, view: &View<'_>) -> bool {
        let of = &view.attributes;
        (self.topic.as_ref()).is_none_or(|topic| topic.captures(of.topic).is_some())
    }

    /// Makes the events of a page again, and stores them unless it is a dry run. Works
    /// for long between its awaits.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn page(
        &self,
        store: &Handle,
        ingest: &Ingest,
        after: Position,
        page: KeptPage,
    ) -> Result<Done, Stopped> {
        let mut done = Done {
            damaged: page.damaged,
            orphaned: page.orphaned,
            ..Done::default()
        };
        let (mut group, mut bytes, mut kept_to) = (Group::default(), 0, after);
        let mut messages = page.messages.into_iter().peekable();
        while let Some(message) = messages.next() {
            let end = message.end();
            group.done.messages += 1;
            self.message(ingest, message, &mut group);
            let is_last = messages.peek().is_none() || bytes + group.bytes >= PAGE_BYTES;
            if !is_last && group.bytes < GROUP_BYTES {
                continue;
            }
            bytes += group.bytes;
            if !append(store, &mut group).await? {
                done.full = true;
                done.next = Some(kept_to.0);
                return Ok(done);
            }
            done.add(std::mem::take(&mut group).done);
            kept_to = end;
            if is_last && messages.peek().is_some() {
                done.next = Some(kept_to.0);
                return Ok(done);
            }
        }
        done.next = page.next.map(|next| next.0);
        Ok(done)
    }

    fn message(&self, ingest: &Ingest, message: Kept, group: &mut Group) {
        let Group {
            entries,
            going,
            bytes,
            done,
        } = group;
        let position = message.position();
        let booted = booted(&message);
        let mut raw = Raw::from_original(
            message.topic.as_str().into(),
            message.received,
            message.original,
        );
        raw.booted = booted;
        let made = match ingest.renormalise(&raw, self.at) {
            Ok(Renormalised { events, going: by }) => {
                going.push(by);
                events
            }
            Err(reject) => {
                done.refused += 1;
                done.items.push(json!({
                    "position": position.0,
                    "topic": message.topic,
                    "received": known(message.received),
                    "change": "refused",
                    "reason": reject.to_string(),
                }));
                return;
            }
        };
        let mut old: Vec<(Position, Value)> = message
            .events
            .iter()
            .map(|record| (record.position, listing_event(&record.body)))
            .collect();
        let may_send = (self.destination).is_none_or(|to| ingest.may_go_to(&raw, to));
        for mut event in made {
            *bytes += event.body.len();
            let new = listing_event(&event.body);
            let same_key = |(_, old): &(Position, Value)| old["eventkey"] == new["eventkey"];
            let before = old.iter().position(same_key).map(|at| old.remove(at));
            let was = before.as_ref().map(|(_, old)| old);
            if !(self.is_meant(&new) || was.is_some_and(|old| self.is_meant(old))) {
                continue;
            }
            let differs = before.as_ref().map(|(_, old)| diff::fields(old, &new));
            let change = match &differs {
                None => "new",
                Some(fields) if fields.is_empty() => "same",
                Some(_) => "changed",
            };
            *match change {
                "new" => &mut done.new,
                "same" => &mut done.same,
                _ => &mut done.changed,
            } += 1;
            if self.dry_run {
                // Both forms are said, as text.
                *bytes += 3 * event.body.len();
                done.items.push(json!({
                    "position": before.as_ref().map_or(position.0, |(at, _)| at.0),
                    "topic": message.topic,
                    "received": known(message.received),
                    "change": change,
                    "eventkey": new["eventkey"],
                    "differs": differs,
                    "old": before.map(|(_, old)| old),
                    "new": new,
                }));
            }
            if (change == "same" && self.only_changed) || (change == "new" && !self.with_new) {
                continue;
            }
            self.send(&mut event);
            if event.routes == Routes::NONE || !may_send {
                done.nowhere += 1;
            } else if !self.dry_run {
                entries.push(Entry::Event(event));
            }
        }
        for (at, old) in old.into_iter().filter(|(_, old)| self.is_meant(old)) {
            done.gone += 1;
            if self.dry_run {
                done.items.push(json!({
                    "position": at.0,
                    "topic": message.topic,
                    "received": known(message.received),
                    "change": "gone",
                    "eventkey": old["eventkey"],
                    "old": old,
                }));
            }
        }
    }

    /// Whether an event is one of the device's.
    fn is_meant(&self, event: &Value) -> bool {
        (self.device.as_deref()).is_none_or(|device| event["device"] == device)
    }

    /// Where an event goes.
    fn send(&self, event: &mut NewEvent) {
        if let Some(destination) = self.destination {
            event.routes = Routes::NONE.with(destination);
        }
    }
}

/// Keeps a group, if there is anything to keep; false where there is no room to spare.
async fn append(store: &Handle, group: &mut Group) -> Result<bool, Stopped> {
    let entries = std::mem::take(&mut group.entries);
    if entries.is_empty() {
        return Ok(true);
    }
    let receipt = store.append_spare(entries).await?;
    group.going.clear();
    for appended in receipt.await? {
        match appended {
            Appended::Stored(_) => group.done.stored += 1,
            Appended::Duplicate => group.done.duplicate += 1,
            Appended::Quarantined(_) | Appended::Shed => {}
            Appended::Full => return Ok(false),
        }
    }
    Ok(true)
}

/// How long the machine was up when a message came, where the clock was not set: with
/// that its events get the right time once it is.
fn booted(message: &Kept) -> Option<Booted> {
    if !message.received.is_unset() {
        return None;
    }
    boots::booted(&message.events.first()?.event().ok()?)
}

#[cfg(test)]
mod tests;

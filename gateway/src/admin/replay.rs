//! Events are made again from messages that were kept as they came, with the mappings
//! and rules of today.
//!
//! A replay goes through the journal page by page. Each page is one group of entries,
//! so it is kept whole or not at all, and the keys of what it stores are made of the
//! event's key and the instant of the replay: a page that is asked for once more, by
//! whomever and after whatever, stores what is not there yet and nothing twice.

mod diff;

use serde_json::{Value, json};

use super::{instant, listing_event};
use crate::{
    event::{Timestamp, View},
    ingest::{Ingest, Raw},
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
    /// Only events that differ from what they were.
    pub only_changed: bool,
    /// Store nothing, and say what would change.
    pub dry_run: bool,
}

/// What became of one page.
#[derive(Debug, Default, serde::Serialize)]
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
    /// Events that were not there.
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
    /// There was no room: nothing of this page was stored.
    pub full: bool,
    /// What is refused, and in a dry run every event, old and new.
    pub items: Vec<Value>,
}

impl Replay {
    /// Whether a message is meant, by the event that it lies with.
    pub fn wants(&self, view: &View<'_>) -> bool {
        let of = &view.attributes;
        self.from.is_none_or(|from| of.received >= from)
            && self.to.is_none_or(|to| of.received < to)
            && (self.topic.as_ref()).is_none_or(|topic| topic.captures(of.topic).is_some())
    }

    /// Makes the events of a page again, and stores them unless it is a dry run.
    ///
    /// # Errors
    /// When the store has stopped.
    pub async fn page(
        &self,
        store: &Handle,
        ingest: &Ingest,
        page: KeptPage,
    ) -> Result<Done, Stopped> {
        let mut done = Done {
            next: page.next.map(|next| next.0),
            damaged: page.damaged,
            orphaned: page.orphaned,
            ..Done::default()
        };
        let mut entries = Vec::new();
        for message in page.messages {
            done.messages += 1;
            self.message(ingest, message, &mut done, &mut entries);
        }
        if self.dry_run || entries.is_empty() {
            return Ok(done);
        }
        for appended in store.append(entries).await?.await? {
            match appended {
                Appended::Stored(_) => done.stored += 1,
                Appended::Duplicate => done.duplicate += 1,
                Appended::Quarantined(_) => {}
                Appended::Full => done.full = true,
            }
        }
        Ok(done)
    }

    fn message(&self, ingest: &Ingest, message: Kept, done: &mut Done, entries: &mut Vec<Entry>) {
        let position = message.position();
        let raw = Raw::from_original(
            message.topic.as_str().into(),
            message.received,
            message.original,
        );
        let made = match ingest.renormalise(&raw, self.at) {
            Ok(made) => made,
            Err(reject) => {
                done.refused += 1;
                done.items.push(json!({
                    "position": position.0,
                    "topic": message.topic,
                    "received": instant(message.received),
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
        for mut event in made {
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
                done.items.push(json!({
                    "position": before.as_ref().map_or(position.0, |(at, _)| at.0),
                    "topic": message.topic,
                    "received": instant(message.received),
                    "change": change,
                    "eventkey": new["eventkey"],
                    "differs": differs,
                    "old": before.map(|(_, old)| old),
                    "new": new,
                }));
            }
            if change == "same" && self.only_changed {
                continue;
            }
            self.send(&mut event);
            if event.routes == Routes::NONE {
                done.nowhere += 1;
            } else {
                entries.push(Entry::Event(event));
            }
        }
        for (at, old) in old.into_iter().filter(|(_, old)| self.is_meant(old)) {
            done.gone += 1;
            if self.dry_run {
                done.items.push(json!({
                    "position": at.0,
                    "topic": message.topic,
                    "received": instant(message.received),
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

#[cfg(test)]
mod tests;

//! Events that the journal has, sent again: by time, device or rule, to one destination,
//! as what they are or as new ones.
//!
//! A replay goes through the journal page by page. A page becomes copies behind everything
//! else in the journal, and in the same transaction the replay notes how far it has come:
//! whenever it is cut short, it goes on where it was, and copies nothing twice. Copies go
//! the way of every event, so the destination gets them in the order of the journal, once
//! for each copy as far as it promises that, and they are in the ledger.
//!
//! Only so many copies are in the journal at a time; the page that would be beyond that
//! waits until the destination has taken some. They leave when they were taken, so what is
//! kept is not pushed out by what was sent of it.

mod page;
mod rows;
#[cfg(test)]
mod tests;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use page::{Advance, Moved};
pub use page::{Chosen, Page, Selection};
use rows::Begin;
pub use rows::{list, read};

use crate::{
    event::{Timestamp, json},
    record::{DestinationId, Position},
    store::{Handle, NotEdited},
};

/// Replays that are remembered: the latest.
pub const REPLAYS_MAX: usize = 100;
/// Copies in the journal that their destination has not settled, about.
const COPIES_MAX: u64 = 10_000;
/// And their bytes, about.
const COPIES_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// As what events are sent.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    Serialize,
    Deserialize,
    clap::ValueEnum,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// As what they are: under the same id and key, by which whoever has them refuses them.
    #[default]
    Same,
    /// As new events, each under an id and key of its own.
    New,
}

/// Which events, where to, and as what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Choice {
    /// Received then or later, in nanoseconds since 1970.
    pub from: Option<i64>,
    /// Received before then.
    pub to: Option<i64>,
    /// Of this device.
    pub device: Option<String>,
    /// That this rule in force takes, or this pattern.
    pub rule: Option<String>,
    /// The destination.
    pub destination: String,
    /// As what.
    pub identity: Identity,
}

/// A replay and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// When it began: its name, to the millisecond. In nanoseconds since 1970.
    pub at: i64,
    /// What is sent.
    pub choice: Choice,
    /// The last position that belongs to it: what comes later was sent a moment ago.
    pub until: u64,
    /// Everything up to here was looked at.
    pub after: u64,
    /// Events copied.
    pub copied: u64,
    /// Events that were not copied because the destination was still to get them.
    pub waiting: u64,
    /// Rows of the journal that could not be read.
    pub damaged: u64,
    /// Events that were not copied because the rule has too much to compare in them.
    #[serde(default)]
    pub too_much: u64,
    /// The event that it comes to next; 0 where that is not known.
    #[serde(default)]
    pub following: u64,
    /// 1 where an event was gone before the replay came to it: others may be, too.
    #[serde(default)]
    pub gone: u8,
    /// 1 where it is at its end.
    pub done: u8,
}

/// Why a replay cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody began it, or it is forgotten.
    #[error("no replay began at {0}")]
    Missing(String),
    /// One of that instant chose otherwise.
    #[error("the replay of {0} chose otherwise; begin a new one")]
    Other(String),
    /// The rule is not in force.
    #[error("there is no rule {0:?} in force")]
    NoSuchRule(String),
    /// The pattern is none.
    #[error("the pattern: {0}")]
    Pattern(#[from] crate::rules::pattern::Error),
    /// The destination is not there, or is not one for copies.
    #[error("{0}")]
    Destination(String),
    /// The journal cannot be read.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The journal was not changed.
    #[error(transparent)]
    NotEdited(#[from] NotEdited),
}

/// What became of a page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = ReplayStep)]
pub enum Stepped {
    /// It was copied.
    Copied,
    /// Too many copies wait for the destination: try again in a moment.
    Busy,
    /// There is no room to spare in the journal: try again when destinations have taken
    /// more.
    Full,
}

impl Choice {
    /// When events were received that are meant.
    pub fn received(&self) -> Range<Timestamp> {
        Timestamp::from_nanos(self.from.unwrap_or(i64::MIN))
            ..Timestamp::from_nanos(self.to.unwrap_or(i64::MAX))
    }
}

impl Replay {
    /// One that begins now.
    pub const fn new(at: Timestamp, choice: Choice, until: Position) -> Self {
        Self {
            at: Timestamp::from_millis(at.as_millis()).as_nanos(),
            choice,
            until: until.0,
            after: 0,
            copied: 0,
            waiting: 0,
            damaged: 0,
            too_much: 0,
            following: 0,
            gone: 0,
            done: 0,
        }
    }

    /// When it began.
    pub const fn at(&self) -> Timestamp {
        Timestamp::from_nanos(self.at)
    }

    /// The instant at which it began, as text.
    pub fn name(&self) -> String {
        name(self.at())
    }

    /// Whether it is at its end.
    pub const fn is_done(&self) -> bool {
        self.done > 0
    }
}

/// What a replay that began then is called.
pub fn name(at: Timestamp) -> String {
    let mut text = Vec::new();
    json::time(Timestamp::from_millis(at.as_millis()), &mut text);
    String::from_utf8_lossy(&text).trim_matches('"').to_owned()
}

/// Begins a replay, or finds the one that began then and chose the same.
///
/// # Errors
/// When there is no room, or another began at that instant.
pub async fn begin(store: &Handle, replay: Replay) -> Result<Replay, Error> {
    let name = replay.name();
    let begun = store.edit(Begin { replay }).await?;
    begun.ok_or(Error::Other(name))
}

/// Copies a page; says what became of it, and where the replay is then.
///
/// # Errors
/// When the journal cannot be read or changed, or somebody else has gone on with the
/// replay meanwhile, which is [`Error::NotEdited`] and may be tried again.
pub async fn advance(store: &Handle, page: Page) -> Result<(Stepped, Replay), Error> {
    let before = page.replay.clone();
    let advance = Advance {
        page,
        copies_max: COPIES_MAX,
        bytes_max: COPIES_BYTES_MAX,
    };
    match store.edit(advance).await {
        Ok(Ok(replay)) => Ok((Stepped::Copied, replay)),
        Ok(Err(Moved::Busy)) => Ok((Stepped::Busy, before)),
        // Who looks again finds where it is now.
        Ok(Err(Moved::On(replay))) => Ok((Stepped::Busy, replay)),
        Ok(Err(Moved::Missing)) => Err(Error::Missing(before.name())),
        Ok(Err(Moved::NoDestination)) => Err(Error::Destination(format!(
            "there is no destination {:?} any more",
            before.choice.destination
        ))),
        Err(NotEdited::Full) => Ok((Stepped::Full, before)),
        Err(error) => Err(error.into()),
    }
}

/// A destination and its lanes, with where their cursors are: what waits for one of them is
/// still to come to that place by itself.
pub fn place(store: &Handle, name: &str) -> Vec<(DestinationId, Position)> {
    let place = crate::record::place(name);
    let status = store.status();
    let all = status.destinations.iter();
    let there = all.filter(|d| crate::record::place(&d.name) == place);
    there.map(|d| (d.id, d.cursor)).collect()
}

/// The number of a destination that copies can be sent to.
///
/// # Errors
/// What is wrong with the name.
pub fn destination(
    store: &Handle,
    name: &str,
    gets_originals: impl Fn(DestinationId) -> bool,
) -> Result<DestinationId, Error> {
    let status = store.status();
    let wrong = |what: &str| Error::Destination(format!("{name:?} {what}"));
    let mut known = status.destinations.iter();
    let known = known.find(|d| *d.name == *name && d.configured && !crate::record::is_own(name));
    let known =
        known.ok_or_else(|| Error::Destination(format!("there is no destination {name:?}")))?;
    if gets_originals(known.id) {
        return Err(wrong("gets messages as they came, and no events"));
    }
    if known.mode == crate::store::Mode::Draining {
        return Err(wrong("is being drained, and is given nothing more"));
    }
    if known.filling {
        return Err(wrong(
            "is still being given what was kept before it was known; try again when that is done",
        ));
    }
    Ok(known.id)
}

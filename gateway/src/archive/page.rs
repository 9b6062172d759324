//! A page of a replay: chosen by reading, copied by one edit of the journal.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OptionalExtension as _};

use super::{Choice, Error, Identity, Replay, rows};
use crate::{
    event::{Event, Timestamp, replayed_key},
    record::{DestinationId, Position, Record, Routes},
    rules::{Pattern, Rule, RuleSet, Scratch, TooMuch},
    store::{self, Edit, Edited, Listing, NewEvent},
};

/// Events of one page, at most.
const EVENTS_MAX: usize = 1_000;
/// Bytes of copies of one page, about: the event that reaches it is the last.
const BYTES_MAX: usize = 1024 * 1024;
/// Looking for what is meant takes no longer: then the page has what was found.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// What says whether an event is meant.
#[derive(Debug)]
pub struct Selection {
    device: Option<String>,
    rule: Option<RuleSet>,
    scratch: Scratch,
}

impl Selection {
    /// By a choice; `rule` says what a rule in force takes.
    ///
    /// # Errors
    /// When there is no such rule, or the pattern is none.
    pub fn new(choice: &Choice, rule: impl FnOnce(&str) -> Option<Pattern>) -> Result<Self, Error> {
        let pattern = match choice.rule.as_deref() {
            None => None,
            Some(text) if text.trim_start().starts_with('{') => Some(Pattern::parse(text)?),
            Some(name) => {
                let found = rule(name);
                Some(found.ok_or_else(|| Error::NoSuchRule(name.to_owned()))?)
            }
        };
        let alone = |pattern| {
            let rules = [Rule::to("chosen", pattern, Vec::new())];
            RuleSet::new(&rules, |_| None).expect("it names no destination")
        };
        Ok(Self {
            device: choice.device.clone(),
            rule: pattern.map(alone),
            scratch: Scratch::default(),
        })
    }

    /// Whether an event is meant; a copy never is.
    fn takes(&mut self, event: &Event) -> Result<bool, TooMuch> {
        if event.replayed.is_some() || self.device.as_ref().is_some_and(|d| **d != *event.device) {
            return Ok(false);
        }
        let Some(rule) = &self.rule else {
            return Ok(true);
        };
        let mut fits = false;
        self.scratch.begin_message();
        rule.each(event, &mut self.scratch, |_| fits = true)?;
        Ok(fits)
    }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// What is meant, by position.
    pub records: Vec<Record>,
    /// How far the journal was looked through; `None` at the end.
    pub next: Option<Position>,
    /// The event that follows; `None` at the end.
    pub following: Option<Position>,
    /// Rows that could not be read.
    pub damaged: u64,
    /// Events in which the rule has too much to compare.
    pub too_much: u64,
    /// What was to be the first of them has left the journal meanwhile.
    pub gone: bool,
}

impl Chosen {
    /// Looks for what is meant after `after`: at most `count`. Blocking.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn read(
        listing: &Listing,
        replay: &Replay,
        count: usize,
        selection: &mut Selection,
    ) -> Result<Self, store::Error> {
        let (received, until) = (replay.choice.received(), Position(replay.until));
        let count = count.clamp(1, EVENTS_MAX);
        let began = Instant::now();
        let mut chosen = Self {
            gone: replay.following > 0 && !listing.has(Position(replay.following))?,
            ..Self::default()
        };
        let (mut after, mut bytes) = (Position(replay.after), 0);
        loop {
            let rest = count - chosen.records.len();
            let page = listing.history(after, until, rest, &received)?;
            let (mut last, mut following) = (page.next, page.following);
            let mut records = page.records.into_iter().peekable();
            while let Some(record) = records.next() {
                match record.event() {
                    Ok(event) => match selection.takes(&event) {
                        Ok(true) => {}
                        Ok(false) => continue,
                        Err(TooMuch) => {
                            chosen.too_much += 1;
                            continue;
                        }
                    },
                    Err(_) => {
                        chosen.damaged += 1;
                        continue;
                    }
                }
                bytes += record.body.len();
                let position = record.position;
                chosen.records.push(record);
                if bytes >= BYTES_MAX
                    && let Some(rest) = records.peek()
                {
                    (last, following) = (Some(position), Some(rest.position));
                    break;
                }
            }
            // Those behind a page that is full are the next one's.
            let is_seen = |at: &&Position| last.is_none_or(|last| **at <= last);
            chosen.damaged += page.damaged.iter().filter(is_seen).count() as u64;
            let full =
                chosen.records.len() >= count || bytes >= BYTES_MAX || began.elapsed() >= LOOK_MAX;
            match last {
                Some(next) if !full => after = next,
                next => {
                    (chosen.next, chosen.following) = (next, following);
                    return Ok(chosen);
                }
            }
        }
    }
}

/// Copies that are to be appended.
#[derive(Debug)]
pub struct Page {
    /// The replay as it was when the page was read.
    pub(super) replay: Replay,
    destination: DestinationId,
    /// That one, and another at the same place.
    place: Vec<DestinationId>,
    /// Each with the position of what it is a copy of.
    copies: Vec<(Position, NewEvent)>,
    next: Option<Position>,
    following: Option<Position>,
    waiting: u64,
    damaged: u64,
    too_much: u64,
    gone: bool,
}

impl Page {
    /// Makes copies of what was chosen for a destination. At its `place` everything is settled
    /// up to these cursors; what is still to get there is no copy's: it gets there under the
    /// same key in any case.
    pub fn new(
        replay: Replay,
        chosen: Chosen,
        destination: DestinationId,
        place: Vec<(DestinationId, Position)>,
        now: Timestamp,
    ) -> Self {
        let (identity, at) = (replay.choice.identity, replay.at());
        let mut page = Self {
            replay,
            destination,
            place: place.iter().map(|(id, _)| *id).collect(),
            copies: Vec::with_capacity(chosen.records.len()),
            next: chosen.next,
            following: chosen.following,
            waiting: 0,
            damaged: chosen.damaged,
            too_much: chosen.too_much,
            gone: chosen.gone,
        };
        for record in &chosen.records {
            let still = |(id, cursor): &(DestinationId, Position)| {
                record.routes.contains(*id) && record.position > *cursor
            };
            let waits = place.iter().any(still);
            if waits && identity == Identity::Same {
                page.waiting += 1;
                continue;
            }
            match record.event() {
                Ok(event) => {
                    let copy = copy(event, at, identity, destination, now);
                    page.copies.push((record.position, copy));
                }
                Err(_) => page.damaged += 1,
            }
        }
        page
    }
}

/// An event as it is sent again. It is as old as it is, and stays in the journal as if it
/// came now.
fn copy(
    mut event: Event,
    at: Timestamp,
    identity: Identity,
    destination: DestinationId,
    now: Timestamp,
) -> NewEvent {
    event.replayed = Some(at);
    if identity == Identity::New {
        event.key = replayed_key(event.key, at);
        let id = |id: &str| format!("{id}~{}", at.as_millis()).into();
        event.id = event.id.as_deref().map(id);
    }
    let mut body = Vec::with_capacity(512);
    event.to_cbor(&mut body);
    NewEvent {
        key: event.attributes().delivery_key(),
        // How far the replay has come says what was copied.
        dedup: false,
        device: event.device,
        received: now,
        routes: Routes::NONE.with(destination),
        body: body.into(),
        original: None,
        shed: None,
    }
}

/// Records after a position that a place will be tried with again. They are few: a
/// destination has a bound for them.
fn retrying(
    tables: &Connection,
    place: &[DestinationId],
    after: Position,
) -> rusqlite::Result<BTreeSet<Position>> {
    let mut statement = tables
        .prepare_cached("SELECT position FROM retry WHERE destination = ?1 AND position > ?2")?;
    let mut waiting = BTreeSet::new();
    for destination in place {
        let rows = statement.query_map((destination.0, after.0.cast_signed()), |row| {
            Ok(Position(row.get::<_, i64>(0)?.cast_unsigned()))
        })?;
        for position in rows {
            waiting.insert(position?);
        }
    }
    Ok(waiting)
}

/// Appends a page of copies, and notes how far the replay has come.
#[derive(Debug)]
pub(super) struct Advance {
    pub(super) page: Page,
    pub(super) copies_max: u64,
    pub(super) bytes_max: u64,
}

/// Why a page was not appended.
#[derive(Debug)]
pub(super) enum Moved {
    /// Too many copies wait.
    Busy,
    /// It was, or another was: this is where the replay is.
    On(Replay),
    /// The replay is not known any more.
    Missing,
    /// The number is not the destination's any more.
    NoDestination,
}

impl Edit for Advance {
    type Answer = Result<Replay, Moved>;

    fn apply(&self, tables: &Connection, _: Timestamp) -> rusqlite::Result<Edited<Self::Answer>> {
        let Page {
            replay,
            destination,
            place,
            copies,
            next,
            following,
            waiting,
            damaged,
            too_much,
            gone,
        } = &self.page;
        let Some(mut known) = rows::read(tables, &replay.name())? else {
            return Ok(Edited::nothing(Err(Moved::Missing)));
        };
        if known != *replay || known.is_done() {
            return Ok(Edited::nothing(Err(Moved::On(known))));
        }
        let named: Option<String> = tables
            .prepare_cached("SELECT name FROM destinations WHERE id = ?1")?
            .query_row([destination.0], |row| row.get(0))
            .optional()?;
        if named.as_deref() != Some(&*replay.choice.destination) {
            return Ok(Edited::nothing(Err(Moved::NoDestination)));
        }
        let (count, bytes) = store::copies_standing(tables, destination.0)?;
        if !copies.is_empty() && (count >= self.copies_max || bytes >= self.bytes_max) {
            return Ok(Edited::nothing(Err(Moved::Busy)));
        }
        // What waits for another attempt is still to come to the destination by itself.
        let retrying = match replay.choice.identity {
            Identity::Same => retrying(tables, place, Position(known.after))?,
            Identity::New => BTreeSet::new(),
        };
        let mut waiting = *waiting;
        let mut sent = Vec::with_capacity(copies.len());
        for (position, copy) in copies {
            match retrying.contains(position) {
                true => waiting += 1,
                false => sent.push(copy.clone()),
            }
        }
        known.after = next.map_or(replay.until, |next| next.0);
        known.copied += sent.len() as u64;
        known.waiting += waiting;
        known.too_much += too_much;
        known.damaged += damaged;
        known.following = following.map_or(0, |following| following.0);
        known.gone |= u8::from(*gone);
        known.done = u8::from(next.is_none());
        rows::put(tables, &known)?;
        Ok(Edited::copies(Ok(known), sent))
    }

    fn cost_bytes(&self) -> usize {
        let copies = self.page.copies.iter();
        1_024 + copies.map(|(_, copy)| copy.body.len() + 128).sum::<usize>()
    }

    fn is_spare(&self) -> bool {
        true
    }
}

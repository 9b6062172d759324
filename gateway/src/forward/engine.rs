//! Delivers one destination's records: read, send, settle, record progress.
//!
//! Promises: the cursor passes only settled records; records of one partition
//! key are handed over in journal order, a failed one holding back those after
//! it; a batch about which nothing is known goes again as it was; memory is
//! bounded by the window, the records that wait, and the progress that waits.
//! The engine is one task; it does not know what a destination is made of.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    batch::{Batch, Item},
    destination::{self, Destination, Limits, Outcome, Outcomes},
    flight::{Flight, Landing, Origin, retry_delay},
    journal::{Journal, Pages},
    load::{Damaged, Loaded, Request, load},
    pending::Pending,
    status::{Handle, State},
    waiting::{self, Entry, Waiting},
    window::{Fate, Window},
};
use crate::{
    backoff::Backoff,
    clock::Clock,
    event::Timestamp,
    record::{DestinationId, Position, Record},
    store::{self, Dead, Retry, Stopped},
};

/// Progress is recorded this often at most, unless much of it gathers.
const PROGRESS_EVERY: Duration = Duration::from_millis(20);
/// The journal is read this often at most, so that records come in handfuls.
const READ_EVERY: Duration = Duration::from_millis(2);
/// Records read at a time, at least and at most.
const PAGE_RECORDS: (usize, usize) = (256, 2_048);
/// Bytes read at a time, at least.
const PAGE_BYTES_MIN: usize = 1024 * 1024;
/// How often to look whether dead letters were put back.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often a destination that needs a person is tried.
const PROBE_EVERY: Duration = Duration::from_secs(60);
/// Dead letters kept for a destination, about: with more it stops, so that one
/// that refuses everything does not turn all there is into dead letters.
const DEAD_MAX: u64 = 10_000;
/// How long the end may take where nothing else is said.
pub(super) const END_MAX: Duration = Duration::from_secs(10);
/// How much of a reason is kept.
const REASON_MAX: usize = 500;

/// How records are tried again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retrying {
    pub(super) first: Duration,
    pub(super) max: Duration,
    pub(super) attempts_max: u32,
}

/// What an engine works with.
pub(super) struct Parts<J, P> {
    pub(super) name: Arc<str>,
    pub(super) id: DestinationId,
    pub(super) cursor: Position,
    pub(super) destination: Arc<dyn Destination>,
    pub(super) retrying: Retrying,
    pub(super) journal: Arc<J>,
    pub(super) pages: P,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) status: Handle,
}

type Read<P> = (P, Result<Loaded, store::Error>);
type Recording = std::pin::Pin<Box<dyn Future<Output = Result<(), Stopped>> + Send>>;

/// One destination's engine.
pub(super) struct Engine<J, P> {
    name: Arc<str>,
    id: DestinationId,
    destination: Arc<dyn Destination>,
    limits: Limits,
    retrying: Retrying,
    journal: Arc<J>,
    clock: Arc<dyn Clock>,
    status: Handle,
    end_max: Duration,

    window: Window,
    waiting: Waiting,
    /// Whether every record of the journal's retry list is in `waiting`.
    waiting_complete: bool,
    /// Records that left `waiting`, to notice while the list is read again.
    waiting_left: u64,
    pending: Pending,

    /// Away while it reads.
    pages: Option<P>,
    reading: Option<JoinHandle<Read<P>>>,
    read_not_before: Instant,
    read_backoff: Backoff,
    look_at: Instant,
    /// Dead letters seem to have been put back: nothing more goes out until what
    /// was settled is recorded, so that they can be told from what is known.
    looking: bool,
    recording: Option<Recording>,
    recorded_at: Option<Instant>,

    flights: FuturesUnordered<Landing>,
    sequence: u64,
    /// Batches to hand over again before anything else, in their order.
    again: BTreeMap<u64, Flight>,
    /// Records of the window that are out or in `again`, and their bytes: each
    /// has a place among the waiting reserved for it.
    out_records: usize,
    out_bytes: usize,
    /// Something failed: everything lands before anything else goes, so that
    /// the order is kept.
    landing: bool,
    pause_until: Option<Instant>,
    backoff: Backoff,
    trouble: Option<State>,
    /// It stopped because of its dead letters.
    too_many_dead: bool,
    /// Since when records wait for their batch to fill.
    fresh_since: Option<Instant>,
}

impl<J: Journal, P: Pages> Engine<J, P> {
    pub(super) fn new(parts: Parts<J, P>) -> Self {
        let now = Instant::now();
        let Retrying { first, max, .. } = parts.retrying;
        Self {
            name: parts.name,
            id: parts.id,
            limits: parts.destination.limits(),
            destination: parts.destination,
            retrying: parts.retrying,
            journal: parts.journal,
            clock: parts.clock,
            status: parts.status,
            end_max: END_MAX,
            window: Window::new(parts.cursor),
            waiting: Waiting::default(),
            waiting_complete: false,
            waiting_left: 0,
            pending: Pending::new(parts.id, parts.cursor),
            pages: Some(parts.pages),
            reading: None,
            read_not_before: now,
            read_backoff: Backoff::new(first, max),
            look_at: now,
            looking: false,
            recording: None,
            recorded_at: None,
            flights: FuturesUnordered::new(),
            sequence: 0,
            again: BTreeMap::new(),
            out_records: 0,
            out_bytes: 0,
            landing: false,
            pause_until: None,
            backoff: Backoff::new(first, max),
            trouble: None,
            too_many_dead: false,
            fresh_since: None,
        }
    }

    /// Bounds the end: half of it is for what is in flight to land, so that there
    /// is time to record what became of it, and to close.
    pub(super) const fn end_within(&mut self, end_max: Duration) {
        self.end_max = end_max;
    }

    /// Delivers until `shutdown`, then lets what is in flight land.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut committed = self.journal.committed();
        loop {
            let now = Instant::now();
            let end = *committed.borrow_and_update();
            self.dispatch(now);
            self.start_reading(now, end);
            self.start_recording(now);
            self.show(end);
            let wake = self.wake_at(now, end);
            let idle = self.reading.is_none() && end <= self.window.scanned();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some((flight, outcomes)) = self.flights.next() => self.landed(flight, outcomes),
                done = wait(&mut self.recording) => self.recorded(done)?,
                done = wait(&mut self.reading) => self.read(done)?,
                changed = committed.changed(), if idle => changed.map_err(|_| Stopped)?,
                () = sleep_until(wake) => {}
            }
        }
        self.finish().await
    }

    // What goes out.

    /// Hands over whatever may go now.
    fn dispatch(&mut self, now: Instant) {
        while self.may_dispatch(now) {
            let Some(flight) = self.next_flight(now) else {
                break;
            };
            let destination = self.destination.clone();
            let mut landing: Landing = Box::pin(async move {
                let outcomes = destination.send(flight.batch.clone()).await;
                (flight, outcomes)
            });
            // Begun here and now: were it begun after something else has
            // landed, it could overtake what that sends back.
            match (&mut landing).now_or_never() {
                Some((flight, outcomes)) => self.landed(flight, outcomes),
                None => self.flights.push(landing),
            }
        }
    }

    fn may_dispatch(&mut self, now: Instant) -> bool {
        if self.pause_until.is_some_and(|until| until > now) {
            return false;
        }
        self.pause_until = None;
        if !self.dead_letters_have_room() {
            return false;
        }
        self.landing &= !self.flights.is_empty();
        !self.landing
            && !self.looking
            && self.flights.len() < self.limits.in_flight.max(1)
            && !self.pending.is_full()
    }

    /// Otherwise the destination stops, until a person has looked at them.
    fn dead_letters_have_room(&mut self) -> bool {
        let pending = u64::try_from(self.pending.dead()).unwrap_or(u64::MAX);
        let dead = self.journal.dead(self.id).saturating_add(pending);
        if dead >= DEAD_MAX {
            self.too_many_dead = true;
            let reason = format!(
                "{dead} dead letters wait: look at them with `penstock dead-letter list`, \
                 redrive or discard them"
            );
            self.pause(State::Stopped, &reason, Some(LOOK_EVERY));
            return false;
        }
        if std::mem::take(&mut self.too_many_dead) {
            self.recovered();
        }
        true
    }

    fn next_flight(&mut self, now: Instant) -> Option<Flight> {
        while let Some((_, flight)) = self.again.pop_first() {
            let flight = self.without_held_back(flight);
            if flight.is_some() {
                return flight;
            }
        }
        let Limits {
            batch_records,
            batch_bytes,
            ..
        } = self.limits;
        let due = self.waiting.take_due(now, batch_records, batch_bytes);
        let (items, origin) = if due.is_empty() {
            (self.next_fresh(now), Origin::Journal)
        } else {
            (due, Origin::Waiting)
        };
        if items.is_empty() {
            return None;
        }
        self.sequence += 1;
        Some(Flight {
            sequence: self.sequence,
            origin,
            batch: Batch {
                items: items.into(),
            },
        })
    }

    /// With several batches in flight, a record of an earlier one may have
    /// failed by itself while this one came back whole: what belongs behind it
    /// goes there. With one in flight a batch always stays what it was.
    fn without_held_back(&mut self, flight: Flight) -> Option<Flight> {
        if flight.origin == Origin::Waiting || self.limits.in_flight <= 1 || self.waiting.is_empty()
        {
            return Some(flight);
        }
        let mut items = Vec::with_capacity(flight.batch.items.len());
        for item in &*flight.batch.items {
            if self.waiting.holds(item.partition_key()) {
                self.leave(item);
                self.hold_back(item.clone());
            } else {
                items.push(item.clone());
            }
        }
        (!items.is_empty()).then(|| Flight {
            batch: Batch {
                items: items.into(),
            },
            ..flight
        })
    }

    /// Records for the next batch, if enough gathered or they waited long enough.
    fn next_fresh(&mut self, now: Instant) -> Vec<Item> {
        let Limits {
            batch_records,
            batch_bytes,
            linger,
            ..
        } = self.limits;
        let full =
            self.window.fresh_len() >= batch_records || self.window.fresh_bytes() >= batch_bytes;
        let waited = self.fresh_since.is_some_and(|since| since + linger <= now);
        if !self.waiting_complete || !(full || waited) {
            return Vec::new();
        }
        let (mut items, mut bytes) = (Vec::new(), 0);
        while items.len() < batch_records
            && let Some(next) = self.window.peek_fresh()
        {
            let size = next.record().body.len();
            if !items.is_empty() && bytes + size > batch_bytes || !self.has_room(size) {
                break;
            }
            let item = self.window.take_fresh().expect("looked at just before");
            if self.waiting.holds(item.partition_key()) {
                self.hold_back(item);
                continue;
            }
            bytes += size;
            self.out_records += 1;
            self.out_bytes += size;
            items.push(item);
        }
        self.fresh_since = self.window.peek_fresh().map(|_| now);
        items
    }

    /// Whether a record of `size` would find a place among the waiting if
    /// everything that is out failed. Otherwise the cursor stands still.
    fn has_room(&self, size: usize) -> bool {
        let records = self.waiting.len() + self.out_records;
        let bytes = self.waiting.bytes() + self.out_bytes;
        records == 0 || records < waiting::RECORDS_MAX && bytes + size <= waiting::BYTES_MAX
    }

    // What comes back.

    fn landed(&mut self, flight: Flight, outcomes: Outcomes) {
        match outcomes {
            Ok(outcomes) => self.settle(flight, outcomes),
            Err(destination::Error::Unavailable {
                reason,
                retry_after,
            }) => {
                self.pause(State::Retrying, &reason, retry_after);
                self.again.insert(flight.sequence, flight);
            }
            Err(destination::Error::Misconfigured(reason)) => {
                self.pause(State::Stopped, &reason, Some(PROBE_EVERY));
                self.again.insert(flight.sequence, flight);
            }
            Err(destination::Error::Refusing {
                reason,
                retry_after,
            }) => {
                self.pause(State::Stopped, &reason, Some(retry_after));
                self.again.insert(flight.sequence, flight);
            }
        }
    }

    fn settle(&mut self, flight: Flight, outcomes: Vec<Outcome>) {
        let items = &flight.batch.items;
        assert_eq!(items.len(), outcomes.len(), "one outcome per record");
        let undecided = |o: &Outcome| matches!(o, Outcome::Throttled { .. } | Outcome::Unknown(_));
        let stopped_short = outcomes.iter().any(undecided);
        let (mut delivered, mut dead, mut left) = (0, 0, Vec::new());
        let mut pause: Option<(State, String, Option<Duration>)> = None;
        for (item, outcome) in items.iter().zip(outcomes) {
            match outcome {
                Outcome::Acknowledged => {
                    delivered += 1;
                    self.acknowledged(flight.origin, item);
                }
                Outcome::Permanent(reason) => {
                    dead += 1;
                    self.give_up(flight.origin, item, reason);
                }
                // While the whole destination is in trouble no record is to blame.
                Outcome::Transient(reason) if !stopped_short => {
                    dead += u32::from(self.failed(flight.origin, item, reason));
                }
                Outcome::Throttled { retry_after } => {
                    let longest = pause
                        .take()
                        .and_then(|(_, _, after)| after)
                        .max(retry_after);
                    pause = Some((State::Throttled, "asked to slow down".to_owned(), longest));
                    left.push(item.clone());
                }
                Outcome::Unknown(reason) | Outcome::Transient(reason) => {
                    pause.get_or_insert((State::Retrying, reason, None));
                    left.push(item.clone());
                }
            }
        }
        if dead > 0 {
            tracing::warn!(destination = %self.name, records = dead, "records became dead letters");
        }
        self.status.settled(delivered, self.clock.now());
        if let Some((state, reason, retry_after)) = pause {
            if delivered > 0 {
                self.backoff.reset();
            }
            self.pause(state, &reason, retry_after);
        } else if delivered > 0 || self.trouble != Some(State::Stopped) {
            // That it refuses records does not show that it was put right.
            self.recovered();
        }
        match flight.origin {
            _ if left.is_empty() => {}
            Origin::Waiting => {
                for item in &left {
                    self.waiting.put_back(item, None);
                }
            }
            Origin::Journal => {
                let batch = Batch { items: left.into() };
                self.again
                    .insert(flight.sequence, Flight { batch, ..flight });
            }
        }
    }

    /// Says what became of a record. One that waits can be tried again while
    /// the cursor has not passed it; then its fate is only another.
    fn settled(&mut self, position: Position, fate: Fate) {
        if let Err(fate) = self.window.settle(position, fate, &mut self.pending) {
            self.pending.add_retried(position, fate);
        }
    }

    fn acknowledged(&mut self, origin: Origin, item: &Item) {
        match origin {
            Origin::Journal => self.leave(item),
            Origin::Waiting => {
                self.waiting.remove(item);
                self.waiting_left += 1;
            }
        }
        self.settled(item.position(), Fate::Delivered);
    }

    /// A record failed by itself; true if that was its last attempt.
    fn failed(&mut self, origin: Origin, item: &Item, reason: String) -> bool {
        let before = match origin {
            Origin::Journal => 0,
            Origin::Waiting => self.waiting.attempts(item),
        };
        let attempts = before + 1;
        if attempts >= self.retrying.attempts_max {
            self.give_up(origin, item, format!("gave up: {reason}"));
            return true;
        }
        let delay = retry_delay(self.retrying.first, self.retrying.max, attempts);
        let not_before = Instant::now() + delay;
        match origin {
            Origin::Journal => {
                self.leave(item);
                self.waiting.add(Entry {
                    item: item.detached(),
                    attempts,
                    not_before,
                });
            }
            Origin::Waiting => self.waiting.put_back(item, Some(not_before)),
        }
        let retry = Retry {
            record: item.detached().into(),
            attempts,
            not_before: later(self.clock.now(), delay),
            reason: short(reason),
        };
        self.settled(item.position(), Fate::Waits(retry));
        false
    }

    /// A record whose key waits goes behind what waits.
    fn hold_back(&mut self, item: Item) {
        let item = item.detached();
        let retry = Retry {
            record: item.clone().into(),
            attempts: 0,
            not_before: self.clock.now(),
            reason: "held back behind an earlier record of the same partition key".to_owned(),
        };
        self.settled(item.position(), Fate::Waits(retry));
        self.waiting.add(Entry {
            item,
            attempts: 0,
            not_before: Instant::now(),
        });
    }

    fn give_up(&mut self, origin: Origin, item: &Item, reason: String) {
        let attempts = match origin {
            Origin::Journal => {
                self.leave(item);
                1
            }
            Origin::Waiting => {
                self.waiting_left += 1;
                self.waiting.remove(item).attempts + 1
            }
        };
        tracing::debug!(
            destination = %self.name,
            position = item.position().0,
            reason,
            "record became a dead letter"
        );
        self.status.failed(&reason);
        let dead = Dead {
            record: item.detached().into(),
            attempts,
            reason: short(reason),
        };
        self.settled(item.position(), Fate::Dead(dead));
    }

    /// A record that cannot be read back cannot be sent.
    fn bury(&mut self, record: Record, error: &crate::event::CborError) {
        tracing::error!(
            destination = %self.name,
            position = record.position.0,
            %error,
            "record cannot be read back, it became a dead letter"
        );
        let dead = Dead {
            attempts: 0,
            reason: short(error.to_string()),
            record,
        };
        self.settled(dead.record.position, Fate::Dead(dead));
    }

    /// The record of the window is no longer out.
    fn leave(&mut self, item: &Item) {
        self.out_records -= 1;
        self.out_bytes -= item.record().body.len();
    }

    // Trouble and its end.

    fn pause(&mut self, state: State, reason: &str, at_least: Option<Duration>) {
        let delay = self.backoff.next_delay().max(at_least.unwrap_or_default());
        let until = Instant::now() + delay;
        self.pause_until = Some(self.pause_until.map_or(until, |other| other.max(until)));
        self.landing = true;
        if self.trouble != Some(state) {
            let destination = &*self.name;
            match state {
                State::Stopped => tracing::error!(
                    destination,
                    reason,
                    "destination needs a person; looks now and then whether it was put right"
                ),
                State::Throttled => tracing::info!(destination, "destination asked to slow down"),
                _ => tracing::warn!(destination, reason, "destination is unavailable"),
            }
        }
        self.trouble = Some(state);
        self.status.failed(reason);
    }

    fn recovered(&mut self) {
        self.backoff.reset();
        if let Some(state) = self.trouble.take()
            && state != State::Throttled
        {
            tracing::info!(destination = &*self.name, "destination is back");
        }
        if self.waiting.is_empty() {
            self.status.recovered();
        }
    }

    fn show(&self, end: Position) {
        let busy = !self.flights.is_empty() || self.window.fresh_len() > 0;
        let state = match self.trouble {
            Some(trouble) => trouble,
            None if busy => State::Delivering,
            None if !self.waiting.is_empty() => State::Retrying,
            None => State::Idle,
        };
        let has_work =
            !self.window.is_empty() || !self.waiting.is_empty() || end > self.window.scanned();
        self.status.set(state, self.out_records, has_work);
    }

    // The journal.

    fn start_reading(&mut self, now: Instant, end: Position) {
        if self.reading.is_some() || now < self.read_not_before {
            return;
        }
        let Some(request) = self.next_request(now, end) else {
            return;
        };
        let Some(mut pages) = self.pages.take() else {
            return;
        };
        let id = self.id;
        self.read_not_before = now + READ_EVERY;
        self.reading = Some(tokio::task::spawn_blocking(move || {
            let loaded = load(&mut pages, id, request);
            (pages, loaded)
        }));
    }

    fn next_request(&mut self, now: Instant, end: Position) -> Option<Request> {
        let settled = self.pending.is_empty(self.window.cursor()) && !self.pending.is_sent();
        if !self.waiting_complete && self.waiting.is_empty() && settled {
            return Some(Request::Waiting {
                left: self.waiting_left,
            });
        }
        if now >= self.look_at {
            let known = u64::try_from(self.waiting.len()).unwrap_or(u64::MAX);
            let put_back = self.journal.retrying(self.id) > known;
            self.looking = put_back;
            // Under load this is rarely so by itself.
            if settled {
                self.look_at = now + LOOK_EVERY;
            }
            if settled && put_back {
                return Some(Request::Waiting {
                    left: self.waiting_left,
                });
            }
        }
        let records = self
            .limits
            .batch_records
            .clamp(PAGE_RECORDS.0, PAGE_RECORDS.1);
        let bytes = self.limits.batch_bytes.max(PAGE_BYTES_MIN);
        let room = self.window.len() < self.window_records() && self.window.fresh_bytes() < bytes;
        (end > self.window.scanned() && room).then_some(Request::Page {
            after: self.window.scanned(),
            records,
            bytes,
        })
    }

    /// Records between the cursor and the end of what was read, about.
    fn window_records(&self) -> usize {
        let out = self
            .limits
            .batch_records
            .saturating_mul(self.limits.in_flight.max(1));
        out.saturating_add(PAGE_RECORDS.1)
            .saturating_add(self.limits.batch_records)
    }

    fn read(&mut self, done: Result<Read<P>, tokio::task::JoinError>) -> Result<(), Error> {
        let (pages, loaded) = done.map_err(|error| Error::Reader(error.to_string()))?;
        self.pages = Some(pages);
        self.looking = false;
        match loaded {
            Ok(loaded) => {
                self.read_backoff.reset();
                self.take_in(loaded);
            }
            Err(error) => {
                if self.read_backoff.attempts() == 0 {
                    tracing::error!(destination = %self.name, %error, "the journal cannot be read");
                }
                self.read_not_before = Instant::now() + self.read_backoff.next_delay();
                self.status
                    .failed(&format!("the journal cannot be read: {error}"));
            }
        }
        Ok(())
    }

    fn take_in(&mut self, loaded: Loaded) {
        match loaded {
            Loaded::Page {
                after,
                items,
                scanned_to,
            } => {
                if items.is_empty() && scanned_to <= after {
                    self.read_not_before = Instant::now() + self.read_backoff.next_delay();
                }
                for item in items {
                    self.take_record(item);
                }
                self.window.scanned_to(scanned_to);
                if self.fresh_since.is_none() && self.window.fresh_len() > 0 {
                    self.fresh_since = Some(Instant::now());
                }
            }
            // What left meanwhile must not come back: look again.
            Loaded::Waiting { left, .. } if left != self.waiting_left => {
                self.look_at = Instant::now();
            }
            Loaded::Waiting {
                entries, complete, ..
            } => {
                self.waiting_complete = complete;
                for (item, retry) in entries {
                    self.take_waiting(item, &retry);
                }
            }
        }
    }

    fn take_record(&mut self, item: Result<Item, Damaged>) {
        match item {
            Ok(item) => self.window.push(item),
            Err((record, error)) => {
                self.window.expect(record.position);
                self.bury(record, &error);
            }
        }
    }

    fn take_waiting(&mut self, item: Result<Item, Damaged>, retry: &Retry) {
        match item {
            Ok(item) if self.waiting.contains(&item) => {}
            Ok(item) if !self.has_room(item.record().body.len()) => self.waiting_complete = false,
            Ok(item) => self.waiting.add(Entry {
                attempts: retry.attempts,
                // A wall clock that was set back must not keep it for ever.
                not_before: Instant::now()
                    + since(self.clock.now(), retry.not_before).min(self.retrying.max),
                item: item.detached(),
            }),
            Err((record, error)) => self.bury(record, &error),
        }
    }

    fn start_recording(&mut self, now: Instant) {
        let cursor = self.window.cursor();
        if self.recording.is_some() || self.pending.is_empty(cursor) {
            return;
        }
        if self.record_at().is_some_and(|at| at > now) && !self.pending.is_large() {
            return;
        }
        self.recorded_at = Some(now);
        self.recording = Some(self.record(cursor));
    }

    fn record(&mut self, cursor: Position) -> Recording {
        let progress = self.pending.take(cursor);
        let journal = self.journal.clone();
        Box::pin(async move {
            journal.progress(progress).await?.await?;
            Ok(())
        })
    }

    fn record_at(&self) -> Option<Instant> {
        self.recorded_at.map(|at| at + PROGRESS_EVERY)
    }

    fn recorded(&mut self, done: Result<(), Stopped>) -> Result<(), Error> {
        done?;
        self.pending.committed();
        Ok(())
    }

    /// When to look again if nothing happens. Whatever is due already has been
    /// tried just before and waits for something else.
    fn wake_at(&self, now: Instant, end: Position) -> Instant {
        let linger = self.fresh_since.map(|since| since + self.limits.linger);
        let to_read = end > self.window.scanned() || self.looking;
        let read = (self.reading.is_none() && to_read).then_some(self.read_not_before);
        let record = if self.recording.is_none() && !self.pending.is_empty(self.window.cursor()) {
            self.record_at()
        } else {
            None
        };
        [
            self.pause_until,
            linger,
            read,
            record,
            self.waiting.next_due(),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > now)
        .fold(now + LOOK_EVERY, Instant::min)
    }

    // The end.

    async fn finish(mut self) -> Result<(), Error> {
        let began = Instant::now();
        let deadline = began + self.end_max / 2;
        while let Ok(Some((flight, outcomes))) = timeout_at(deadline, self.flights.next()).await {
            self.landed(flight, outcomes);
        }
        let left = self.flights.len();
        self.flights.clear();
        if left > 0 {
            tracing::info!(destination = %self.name, batches = left, "left in flight, sent again at the next start");
        }
        if let Some(recording) = self.recording.take() {
            self.recorded(recording.await)?;
        }
        let cursor = self.window.cursor();
        if !self.pending.is_empty(cursor) {
            self.record(cursor).await?;
        }
        if timeout_at(began + self.end_max, self.destination.close())
            .await
            .is_err()
        {
            tracing::warn!(destination = %self.name, "destination did not close in time");
        }
        self.status.set(State::Idle, 0, false);
        Ok(())
    }
}

/// What is under way, if anything is; afterwards nothing is.
async fn wait<F: Future + Unpin>(slot: &mut Option<F>) -> F::Output {
    match slot {
        Some(future) => {
            let output = future.await;
            *slot = None;
            output
        }
        None => std::future::pending().await,
    }
}

fn later(at: Timestamp, delay: Duration) -> Timestamp {
    let nanos = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX);
    Timestamp::from_nanos(at.as_nanos().saturating_add(nanos))
}

/// From `now` to `at`; nothing if that is past.
fn since(now: Timestamp, at: Timestamp) -> Duration {
    let nanos = at.as_nanos().saturating_sub(now.as_nanos());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

fn short(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_MAX));
    reason
}

#[cfg(test)]
mod tests;

//! Delivers one destination's records: read, send, settle, record progress.
//!
//! Promises: the cursor passes only settled records; records of one partition
//! key are handed over in journal order, a failed one holding back those after
//! it; a batch about which nothing is known goes again as it was; memory is
//! bounded by the window, the records that wait, and the progress that waits.
//! The engine is one task; it does not know what a destination is made of.

mod dispatching;
mod journaling;
mod settling;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Error,
    adapt::Adapting,
    batch::Item,
    destination::{Destination, Limits},
    flight::{Flight, Landing},
    journal::{Journal, Pages},
    load::Loaded,
    pace::{self, Closed, Pace},
    pending::Pending,
    place::At,
    status::{Handle, State, Waits},
    waiting::Waiting,
    window::Window,
};
use crate::{
    backoff::Backoff,
    clock::Clock,
    record::{DestinationId, Position},
    store::{self, Mode, Spent, Stopped},
};

/// Progress is recorded this often at most, unless much of it gathers.
const PROGRESS_EVERY: Duration = Duration::from_millis(20);
/// How often to look whether dead letters were put back.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Dead letters kept for a destination, about: with more it stops, so that one
/// that refuses everything does not turn all there is into dead letters.
const DEAD_MAX: u64 = 10_000;
/// How long the end may take where nothing else is said.
pub(super) const END_MAX: Duration = Duration::from_secs(10);

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
    pub(super) mode: watch::Receiver<Mode>,
    pub(super) pacing: pace::Config,
    pub(super) at: At,
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
    mode: watch::Receiver<Mode>,
    end_max: Duration,

    window: Window,
    waiting: Waiting,
    /// Whether every record of the journal's retry list is in `waiting`.
    waiting_complete: bool,
    /// Records that left `waiting`, to notice while the list is read again.
    waiting_left: u64,
    /// Records that were given up: they keep places in `waiting`, and so their keys,
    /// until that is on disk. The second ones are under way there.
    given_up: Vec<Item>,
    being_given_up: Vec<Item>,
    pending: Pending,
    pace: Pace,
    /// Where it goes, and who else does.
    at: At,
    adapting: Adapting,
    /// Why nothing may go, where it may not.
    closed: Option<Closed>,

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
    /// The first record of the batch that was shown to the destination before its turn.
    prepared: Option<Position>,
}

impl<J: Journal, P: Pages> Engine<J, P> {
    pub(super) fn new(parts: Parts<J, P>) -> Self {
        let now = Instant::now();
        let Retrying { first, max, .. } = parts.retrying;
        Self {
            name: parts.name,
            id: parts.id,
            limits: parts.destination.limits(),
            retrying: parts.retrying,
            journal: parts.journal,
            clock: parts.clock,
            status: parts.status,
            mode: parts.mode,
            end_max: END_MAX,
            window: Window::new(parts.cursor),
            waiting: Waiting::default(),
            waiting_complete: false,
            waiting_left: 0,
            given_up: Vec::new(),
            being_given_up: Vec::new(),
            pending: Pending::new(parts.id, parts.cursor),
            adapting: Adapting::new(parts.destination.limits(), parts.pacing.latency_max),
            pace: Pace::new(parts.pacing, parts.at.place().clone(), parts.at.way()),
            at: parts.at,
            closed: None,
            destination: parts.destination,
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
            prepared: None,
        }
    }

    /// Bounds the end: half of it is for what is in flight to land, so that there
    /// is time to record what became of it, and to close.
    pub(super) const fn end_within(&mut self, end_max: Duration) {
        self.end_max = end_max;
    }

    /// Begins where the journal says that the destination stands, with what it has spent
    /// of its budget.
    pub(super) fn begin_at(&mut self, cursor: Position, spent: Spent) {
        self.pace.begin_with(spent);
        self.window = Window::new(cursor);
        self.pending = Pending::new(self.id, cursor);
    }

    /// Whether an operator wants it to wait.
    fn is_paused(&self) -> bool {
        *self.mode.borrow() == Mode::Paused
    }

    /// Delivers until `shutdown`, then lets what is in flight land.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), Error> {
        let mut committed = self.journal.committed();
        let mut mode = self.mode.clone();
        loop {
            let now = Instant::now();
            let end = *committed.borrow_and_update();
            self.dispatch(now);
            self.prepare_next();
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
                Ok(()) = mode.changed() => {}
                () = self.at.changed() => {}
                () = sleep_until(wake) => {}
            }
        }
        self.finish().await
    }

    fn show(&self, end: Position) {
        let busy = !self.flights.is_empty() || self.window.fresh_len() > 0;
        let paused = self.is_paused() && self.flights.is_empty();
        let waits = self.waits();
        let state = match self.trouble {
            _ if paused => State::Paused,
            Some(State::Retrying | State::Throttled) | None if waits.is_some() => State::Waiting,
            Some(trouble) => trouble,
            None if busy => State::Delivering,
            None if !self.waiting.is_empty() => State::Retrying,
            None => State::Idle,
        };
        let has_work =
            !self.window.is_empty() || !self.waiting.is_empty() || end > self.window.scanned();
        let held = self.is_held();
        let waits_on_purpose = paused || waits.is_some() || held;
        self.status
            .set(state, self.out_records, has_work && !waits_on_purpose);
        self.status.waits(waits, held);
        // Budget and hours are those of the rest, which waits for them, too.
        self.at
            .goes_first(!matches!(state, State::Paused | State::Stopped));
    }

    /// What it waits for, where that is as configured and not over in a moment.
    fn waits(&self) -> Option<Waits> {
        match self.closed {
            Some(Closed::Budget(until)) => Some(Waits::Budget(until)),
            Some(Closed::Window(until)) => Some(Waits::Window(until)),
            Some(Closed::Rate(_)) | None => None,
        }
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
        let rate = match self.closed {
            Some(Closed::Rate(until)) => Some(until),
            _ => None,
        };
        [
            self.pause_until,
            rate,
            linger,
            read,
            record,
            self.waiting.next_due(),
            self.at.wake_at(now),
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > now)
        .fold(now + LOOK_EVERY, Instant::min)
    }

    async fn finish(mut self) -> Result<(), Error> {
        let began = Instant::now();
        let deadline = began + self.end_max / 2;
        while let Ok(Some((flight, outcomes))) = timeout_at(deadline, self.flights.next()).await {
            self.landed(flight, outcomes);
            self.at.rests();
        }
        self.at.rests();
        let left = self.flights.len();
        self.flights.clear();
        if left > 0 {
            tracing::info!(destination = %self.name, batches = left, "left in flight, sent again at the next start");
        }
        if let Some(recording) = self.recording.take() {
            self.recorded(recording.await)?;
        }
        let cursor = self.window.cursor();
        if let Some(spent) = self.pace.take_spent() {
            self.pending.spent(spent);
        }
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

#[cfg(test)]
mod tests;

//! What goes out: which records may go now, and in which batches.

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::{DEAD_MAX, Engine, LOOK_EVERY};
use crate::forward::{
    batch::{Batch, Item},
    flight::{Flight, Landing, Origin},
    journal::{Journal, Pages},
    pace::Closed,
    pending,
    status::State,
    waiting,
};
use crate::record::Position;

impl<J: Journal, P: Pages> Engine<J, P> {
    /// Hands over whatever may go now.
    pub(super) fn dispatch(&mut self, now: Instant) {
        while self.may_dispatch(now) {
            let Some(mut flight) = self.next_flight(now) else {
                self.at.rests();
                break;
            };
            flight.alone = self.flights.is_empty();
            flight.began = now;
            let bytes = flight
                .batch
                .items
                .iter()
                .map(|item| item.record().body.len());
            let bytes = bytes.sum();
            self.pace
                .took(flight.batch.items.len(), bytes, !flight.paid);
            flight.paid = true;
            self.at.sent(flight.sequence, bytes, now);
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

    /// Shows the destination what will probably be the next batch, once, while another one is
    /// on its way. Only a whole one, so that what comes meanwhile still finds room in it.
    pub(super) fn prepare_next(&mut self) {
        if !self.destination.prepares() || self.flights.is_empty() || !self.waiting.is_empty() {
            return;
        }
        let (batch_records, batch_bytes) = self.batch_max();
        let first = self.window.peek_fresh().map(Item::position);
        let full =
            self.window.fresh_len() >= batch_records || self.window.fresh_bytes() >= batch_bytes;
        if !full || first == self.prepared {
            return;
        }
        self.prepared = first;
        let (mut items, mut bytes) = (Vec::with_capacity(batch_records.min(2_048)), 0);
        for item in self.window.fresh().take(batch_records) {
            bytes += item.record().body.len();
            if !items.is_empty() && bytes > batch_bytes {
                break;
            }
            items.push(item.clone());
        }
        self.destination.prepare(Batch {
            items: items.into(),
        });
    }

    /// Whether a batch is ready that may go now, and it is its turn.
    pub(super) fn may_dispatch(&mut self, now: Instant) -> bool {
        if self.is_able(now) {
            let is_open = self.is_open(now);
            // A rate is for the whole place: its next turn is for one of those that wait.
            let waits = matches!(self.closed, Some(Closed::Rate(_)));
            if (is_open || waits) && self.has_ready(now) {
                let in_flight = self.limits.in_flight.max(1);
                return self.at.may_go(now, is_open, in_flight);
            }
        }
        self.at.rests();
        false
    }

    /// Whether another batch may be handed over, if it is the hour.
    fn is_able(&mut self, now: Instant) -> bool {
        if self.is_paused() {
            return false;
        }
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
            && self.flights.len() < self.adapting.in_flight()
            && !self.pending.is_full()
    }

    /// Whether rate, budget and hours let something go now.
    fn is_open(&mut self, now: Instant) -> bool {
        self.closed = self.pace.check(now, self.clock.now()).err();
        self.closed.is_none()
    }

    /// Whether there is a batch.
    fn has_ready(&self, now: Instant) -> bool {
        !self.again.is_empty()
            || self.waiting.next_due().is_some_and(|due| due <= now)
            || self.has_fresh(now)
    }

    /// Up to where records may go, so that they overtake nothing that was stored before them
    /// and goes by the lane of what is live. What of that is not settled on disk comes again
    /// after a crash, and must not come behind those that would have gone meanwhile.
    fn behind_live(&self) -> Position {
        let live = self.at.before();
        let clear = live.map_or(Position(u64::MAX), |live| self.journal.clear_to(live));
        Position(clear.0.saturating_add(1))
    }

    /// Whether all that it has waits for the lane of what is live.
    pub(super) fn is_held(&self) -> bool {
        let is_out = self.out_records > 0 || !self.waiting.is_empty();
        let next = self.window.peek_fresh().filter(|_| !is_out);
        next.is_some_and(|next| next.position() > self.behind_live())
    }

    /// Records and bytes of the next batch, at most.
    fn batch_max(&self) -> (usize, usize) {
        let (records, bytes) = self.pace.batch_max();
        let records = records.min(self.adapting.records());
        (records, bytes.min(self.limits.batch_bytes))
    }

    /// Otherwise the destination stops, until a person has looked at them.
    pub(super) fn dead_letters_have_room(&mut self) -> bool {
        let dead = self.dead();
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

    /// Dead letters of the journal, and those on their way there.
    fn dead(&self) -> u64 {
        let pending = u64::try_from(self.pending.dead()).unwrap_or(u64::MAX);
        self.journal.dead(self.id).saturating_add(pending)
    }

    /// Whether so much waits for the cursor that nothing should be added to it.
    pub(super) fn is_crowded(&self) -> bool {
        let held = self.window.held();
        let held_dead = u64::try_from(held.dead).unwrap_or(u64::MAX);
        held.bytes >= pending::BYTES_MAX || self.dead().saturating_add(held_dead) >= DEAD_MAX
    }

    pub(super) fn next_flight(&mut self, now: Instant) -> Option<Flight> {
        while let Some((_, flight)) = self.again.pop_first() {
            let flight = match flight.origin {
                Origin::Journal => self.without_held_back(flight),
                Origin::Waiting => self.without_overtaking(flight),
            };
            if flight.is_some() {
                return flight;
            }
        }
        let (batch_records, batch_bytes) = self.batch_max();
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
            alone: false,
            paid: false,
            began: now,
        })
    }

    /// With several batches in flight, a record of an earlier one may have
    /// failed by itself while this one came back whole; or one of this batch was
    /// given up: what belongs behind it goes there. A batch about which nothing is
    /// known, and which was in flight alone, stays what it was.
    pub(super) fn without_held_back(&mut self, flight: Flight) -> Option<Flight> {
        let given_up = !self.given_up.is_empty() || !self.being_given_up.is_empty();
        if self.waiting.is_empty() || self.limits.in_flight <= 1 && !given_up {
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
        flight.with(items)
    }

    /// Records that waited, and came back whole: since then, one that was in flight
    /// before them may have been put before them.
    fn without_overtaking(&mut self, flight: Flight) -> Option<Flight> {
        if self.limits.in_flight <= 1 {
            return Some(flight);
        }
        let mut items: Vec<Item> = Vec::with_capacity(flight.batch.items.len());
        for item in &*flight.batch.items {
            let goes = self
                .waiting
                .before(item)
                .is_none_or(|before| items.binary_search_by_key(&before, Item::position).is_ok());
            if goes {
                items.push(item.clone());
            } else {
                self.waiting.put_back(item, None);
            }
        }
        flight.with(items)
    }

    /// Whether enough records gathered for a batch, or they waited long enough, and nothing
    /// keeps the first of them.
    fn has_fresh(&self, now: Instant) -> bool {
        let Some(next) = self.window.peek_fresh() else {
            return false;
        };
        let linger = self.limits.linger;
        let (batch_records, batch_bytes) = self.batch_max();
        let full =
            self.window.fresh_len() >= batch_records || self.window.fresh_bytes() >= batch_bytes;
        let waited = self.fresh_since.is_some_and(|since| since + linger <= now);
        // What is out lands, and then the cursor passes what waits for it.
        let crowded = self.out_records > 0 && self.is_crowded();
        let ready = self.waiting_complete && (full || waited) && !crowded;
        if !ready || !self.has_room(next.record().body.len()) {
            return false;
        }
        let held = next.position() > self.behind_live();
        if held {
            self.at.waits_for_live();
        }
        // It may have settled more just before that was said.
        !held || next.position() <= self.behind_live()
    }

    /// Records for the next batch.
    pub(super) fn next_fresh(&mut self, now: Instant) -> Vec<Item> {
        if !self.has_fresh(now) {
            return Vec::new();
        }
        let (batch_records, batch_bytes) = self.batch_max();
        let behind_live = self.behind_live();
        let (mut items, mut bytes) = (Vec::new(), 0);
        while items.len() < batch_records
            && let Some(next) = self.window.peek_fresh()
            && next.position() <= behind_live
        {
            let size = next.record().body.len();
            if !items.is_empty() && bytes + size > batch_bytes || !self.has_room(size) {
                break;
            }
            let item = self.window.take_fresh().expect("looked at just before");
            // Whose key it is takes reading it: not while nothing waits.
            if !self.waiting.is_empty() && self.waiting.holds(item.partition_key()) {
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
    pub(super) fn has_room(&self, size: usize) -> bool {
        let records = self.waiting.len() + self.out_records;
        let bytes = self.waiting.bytes() + self.out_bytes;
        records == 0 || records < waiting::RECORDS_MAX && bytes + size <= waiting::BYTES_MAX
    }
}

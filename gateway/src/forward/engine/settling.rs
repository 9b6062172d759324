//! What comes back: what became of each record, and how the destination is.

use std::time::Duration;

use rand::RngExt as _;
use tokio::time::Instant;

use super::Engine;
use crate::{
    event::{CborError, Timestamp},
    forward::{
        adapt::Went,
        batch::{Batch, Item},
        destination::{self, Outcome, Outcomes},
        flight::{Flight, Origin, retry_delay},
        journal::{Journal, Pages},
        status::State,
        waiting::Entry,
        window::Fate,
    },
    record::{Position, Record},
    store::{Dead, Retry},
};

/// How often a destination that needs a person is tried.
const PROBE_EVERY: Duration = Duration::from_secs(60);
/// A pause that was asked for is so much longer, at most: a fleet that was told the same
/// at the same moment does not come back at the same moment.
const JITTER_MAX: f64 = 0.25;
const JITTER_TIME_MAX: Duration = Duration::from_secs(30);
/// How much of a reason is kept.
const REASON_MAX: usize = 500;

impl<J: Journal, P: Pages> Engine<J, P> {
    pub(super) fn landed(&mut self, flight: Flight, outcomes: Outcomes) {
        self.at.landed(flight.sequence);
        if let Some(went) = went(flight.began.elapsed(), &outcomes) {
            self.adapting.landed(flight.sequence, self.sequence, went);
        }
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

    pub(super) fn settle(&mut self, flight: Flight, outcomes: Vec<Outcome>) {
        let items = &flight.batch.items;
        assert_eq!(items.len(), outcomes.len(), "one outcome per record");
        let stopped_short = outcomes.iter().any(Outcome::is_open);
        let none_tried = outcomes.iter().all(|one| *one == Outcome::Behind);
        let all_wait = outcomes.iter().all(waits);
        let (mut delivered, mut dead, mut left) = (0, 0, Vec::new());
        let mut pause: Option<(State, String, Option<Duration>)> = None;
        if none_tried && flight.alone {
            let reason = "the destination waits for nothing that is known".to_owned();
            pause = Some((State::Retrying, reason, None));
        }
        for (item, outcome) in items.iter().zip(outcomes) {
            match outcome {
                Outcome::Behind => {
                    // What is in flight lands first, so that this is not overtaken.
                    self.landing = true;
                    let holds = || self.waiting.holds(item.partition_key());
                    if flight.origin == Origin::Journal && holds() {
                        self.leave(item);
                        self.hold_back(item.clone());
                    } else {
                        left.push(item.clone());
                    }
                }
                Outcome::Acknowledged => {
                    delivered += 1;
                    self.acknowledged(flight.origin, item);
                }
                Outcome::Permanent(reason) => {
                    dead += 1;
                    self.give_up(flight.origin, item, reason);
                }
                // With nothing beside it nobody can tell which of the two is to blame.
                Outcome::Transient(reason)
                    if items.len() == 1 && flight.origin == Origin::Journal =>
                {
                    self.paced(flight.origin, item, self.retrying.first, reason);
                }
                // While the whole destination is in trouble no record is to blame.
                Outcome::Transient(reason) if !stopped_short => {
                    dead += u32::from(self.failed(flight.origin, item, reason));
                }
                Outcome::Paced {
                    retry_after,
                    reason,
                } if !stopped_short => {
                    self.paced(flight.origin, item, retry_after, reason);
                }
                Outcome::Paced { .. } => left.push(item.clone()),
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
        } else if delivered > 0 || self.trouble != Some(State::Stopped) && !all_wait {
            // That it refuses records does not show that it was put right, and that it puts
            // them off not even that it is there.
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
    pub(super) fn settled(&mut self, position: Position, fate: Fate) {
        if let Err(fate) = self.window.settle(position, fate, &mut self.pending) {
            self.pending.add_retried(position, *fate);
        }
    }

    pub(super) fn acknowledged(&mut self, origin: Origin, item: &Item) {
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
    pub(super) fn failed(&mut self, origin: Origin, item: &Item, reason: String) -> bool {
        let (before, first) = match origin {
            Origin::Journal => (0, None),
            Origin::Waiting => (self.waiting.attempts(item), self.waiting.first(item)),
        };
        let attempts = before + 1;
        let now = self.clock.now();
        let first = first.unwrap_or(now);
        if attempts >= self.retrying.attempts_max {
            self.give_up(origin, item, format!("gave up: {reason}"));
            return true;
        }
        let delay = retry_delay(self.retrying.first, self.retrying.max, attempts);
        let not_before = Instant::now() + delay;
        let item = &item.detached();
        match origin {
            Origin::Journal => {
                self.leave(item);
                self.waiting.add(Entry {
                    item: item.clone(),
                    attempts,
                    first: Some(first),
                    not_before,
                });
            }
            Origin::Waiting => self.waiting.put_back(item, Some((not_before, first))),
        }
        let retry = Retry {
            record: item.clone().into(),
            attempts,
            first: Some(first),
            not_before: later(now, delay),
            reason: short(reason),
        };
        self.settled(item.position(), Fate::Waits(retry));
        false
    }

    /// There was no room for a record: its key waits, and nobody is to blame.
    pub(super) fn paced(
        &mut self,
        origin: Origin,
        item: &Item,
        retry_after: Duration,
        reason: String,
    ) {
        let not_before = Instant::now() + retry_after;
        if origin == Origin::Waiting {
            // It is in the journal's list already.
            self.waiting.put_off(item, not_before);
            return;
        }
        self.leave(item);
        let item = item.detached();
        let retry = Retry {
            record: item.clone().into(),
            attempts: 0,
            first: None,
            not_before: later(self.clock.now(), retry_after),
            reason: short(reason),
        };
        self.settled(item.position(), Fate::Waits(retry));
        self.waiting.add(Entry {
            item,
            attempts: 0,
            first: None,
            not_before,
        });
    }

    /// A record whose key waits goes behind what waits.
    pub(super) fn hold_back(&mut self, item: Item) {
        let item = item.detached();
        let retry = Retry {
            record: item.clone().into(),
            attempts: 0,
            first: None,
            not_before: self.clock.now(),
            reason: "held back behind an earlier record of the same partition key".to_owned(),
        };
        self.settled(item.position(), Fate::Waits(retry));
        self.waiting.add(Entry {
            item,
            attempts: 0,
            first: None,
            not_before: Instant::now(),
        });
    }

    pub(super) fn give_up(&mut self, origin: Origin, item: &Item, reason: String) {
        // Its key waits until that is on disk: after a crash the record goes again,
        // and must not come behind those that would have gone meanwhile.
        let item = &item.detached();
        self.given_up.push(item.clone());
        let now = self.clock.now();
        let (attempts, first) = match origin {
            Origin::Journal => {
                self.leave(item);
                self.waiting.add_out(item.clone());
                (1, now)
            }
            Origin::Waiting => {
                let first = self.waiting.first(item).unwrap_or(now);
                (self.waiting.attempts(item) + 1, first)
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
            record: item.clone().into(),
            attempts,
            first: Some(first),
            reason: short(reason),
        };
        self.settled(item.position(), Fate::Dead(dead));
    }

    /// A record that cannot be read back cannot be sent.
    pub(super) fn bury(&mut self, record: Record, error: &CborError) {
        tracing::error!(
            destination = %self.name,
            position = record.position.0,
            %error,
            "record cannot be read back, it became a dead letter"
        );
        let dead = Dead {
            attempts: 0,
            first: None,
            reason: short(error.to_string()),
            record,
        };
        self.settled(dead.record.position, Fate::Dead(dead));
    }

    /// The record of the window is no longer out.
    pub(super) fn leave(&mut self, item: &Item) {
        self.out_records -= 1;
        self.out_bytes -= item.record().body.len();
    }

    pub(super) fn pause(&mut self, state: State, reason: &str, at_least: Option<Duration>) {
        let asked = at_least.map_or(Duration::ZERO, with_jitter);
        let delay = self.backoff.next_delay().max(asked);
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

    pub(super) fn recovered(&mut self) {
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
}

/// Whether that says nothing of a record but that it waits.
const fn waits(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Behind | Outcome::Paced { .. })
}

/// What a batch says of how much the destination takes at once; one about which a person
/// must be asked says nothing.
fn went(took: Duration, outcomes: &Outcomes) -> Option<Went> {
    match outcomes {
        Ok(outcomes) if outcomes.iter().any(Outcome::is_open) => Some(Went::Badly),
        Ok(outcomes) if outcomes.iter().all(waits) => None,
        Ok(_) => Some(Went::Well(took)),
        Err(destination::Error::Unavailable { .. }) => Some(Went::Badly),
        Err(_) => None,
    }
}

/// Until when to wait that was asked to wait so long: never less, and not everybody who
/// was told the same at the same moment.
fn with_jitter(asked: Duration) -> Duration {
    let most = asked.mul_f64(JITTER_MAX).min(JITTER_TIME_MAX);
    asked + most.mul_f64(rand::rng().random_range(0.0..=1.0))
}

fn later(at: Timestamp, delay: Duration) -> Timestamp {
    let nanos = i64::try_from(delay.as_nanos()).unwrap_or(i64::MAX);
    Timestamp::from_nanos(at.as_nanos().saturating_add(nanos))
}

fn short(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_MAX));
    reason
}

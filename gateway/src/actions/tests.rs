//! What pages of records do, without a gateway around it.

mod alarms;
mod commands;
mod salvage;
mod sealed;
mod throttles;
mod topics;
mod windows;

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use penstock_broker::{Publish, seal::Seal};

use super::{
    Error,
    command::Place,
    work::{Done, Show, Work},
};
use crate::{
    event::{Event, Key, Timestamp},
    fleet::{Asked, Order},
    gateway_id::GatewayId,
    record::{Position, Record, Routes},
    rules::{ActingSet, Actions, Pattern, Rule, Scratch, tests::event_of},
};

/// Subscribers to everything, who see what they are shown.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) publishes: RefCell<Vec<Publish>>,
    /// The gateway ends before anything is shown.
    pub(super) ending: Cell<bool>,
    /// It ends right after something was shown.
    pub(super) cut: Cell<bool>,
    /// Commands that were placed, and with `no` why none can be.
    pub(super) placed: RefCell<Vec<(Order, Asked)>>,
    pub(super) no: Cell<Option<&'static str>>,
}

impl Show for Seen {
    fn is_wanted(&self, topic: &str) -> bool {
        !topic.starts_with("unwanted")
    }

    fn show(&self, publishes: &[Publish]) -> Result<(), Error> {
        if self.ending.get() {
            return Err(Error::Ending);
        }
        self.publishes.borrow_mut().extend_from_slice(publishes);
        match self.cut.get() {
            true => Err(Error::Ending),
            false => Ok(()),
        }
    }
}

impl Place for Seen {
    fn times(&self) -> (Duration, Duration) {
        (Duration::from_secs(60), Duration::from_secs(3_600))
    }

    fn place(&self, order: Order, asked: Asked) -> Result<Result<(), String>, Error> {
        if let Some(why) = self.no.get() {
            return Ok(Err(why.to_owned()));
        }
        self.placed.borrow_mut().push((order, asked));
        Ok(Ok(()))
    }
}

/// A directory with `rules.db`, and what is asked to act there.
pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) seen: Seen,
    pub(super) gateway: GatewayId,
    pub(super) now: Timestamp,
    pub(super) listened: i64,
    pub(super) seal: Seal,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            seen: Seen::default(),
            gateway: GatewayId::random(),
            now: Timestamp::from_millis(1_772_366_400_000),
            listened: 0,
            seal: Seal::default(),
        }
    }

    pub(super) fn work(&self) -> Work<'_, Seen> {
        Work {
            gateway: &self.gateway,
            show: &self.seen,
            now: super::made::Now {
                at: self.now,
                booted: None,
            },
            listened: self.listened,
        }
    }

    /// Opens the file anew and acts on records, as after a start.
    pub(super) fn act(&self, rules: &ActingSet, records: &[Record]) -> Result<Done, Error> {
        let mut connection = super::schema::open(self.dir.path(), &self.seal)?;
        let mut scratch = Scratch::default();
        self.work()
            .page(&mut connection, rules, &mut scratch, records, false)
    }

    /// Topics and payloads that were shown so far.
    pub(super) fn shown(&self) -> Vec<(String, String)> {
        let publishes = self.seen.publishes.borrow();
        let text = |one: &Publish| String::from_utf8_lossy(&one.payload).into_owned();
        let shown = publishes
            .iter()
            .map(|one| (one.topic.to_string(), text(one)));
        shown.collect()
    }
}

/// The record of an event with a key made of its position.
pub(super) fn record(position: u64, event: Event) -> Record {
    let mut key = Key([0; 16]);
    key.0[8..].copy_from_slice(&position.to_be_bytes());
    let event = Event { key, ..event };
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    Record {
        position: Position(position),
        key,
        received: event.received,
        routes: Routes(1),
        body: body.into(),
    }
}

/// A reading of a device.
pub(super) fn reading(position: u64, device: &str, value: f64) -> Record {
    record(position, event_of(device, &[("t", value)]))
}

pub(super) fn rule(name: &str, pattern: &str, actions: Actions) -> Rule {
    Rule {
        actions,
        ..Rule::to(name, Pattern::parse(pattern).unwrap(), Vec::new())
    }
}

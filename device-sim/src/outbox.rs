//! What a device transmits next: samples as they fall due, swapped neighbours,
//! and the duplicates of what it sent before.
//!
//! Messages are numbered, filled and broken here, from the seed alone; only
//! their time stamps come from the clock.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    chaos::{Chaos, Cut, Fate, Fates},
    clock::Clock,
    identity::Identity,
    payload::{self, Contents, Format},
    profile::{Generator, Profile},
    schedule::Schedule,
    window::Message,
};

/// How the messages of one device come about.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) device: Rc<str>,
    pub(crate) boot: u64,
    pub(crate) profile: Rc<Profile>,
    pub(crate) format: Format,
    /// The identity is a field of the payload.
    pub(crate) id_field: bool,
    pub(crate) chaos: Chaos,
    pub(crate) values_seed: u64,
    pub(crate) chaos_seed: u64,
}

/// The next thing to put on the wire.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A message for the first time.
    First {
        message: Message,
        /// Counts first transmissions.
        n: u64,
        cut: Option<Cut>,
        offline: Option<Duration>,
    },
    /// A message that was sent before, on purpose.
    Duplicate(Message),
}

/// Produces one device's transmissions.
#[derive(Debug)]
pub(crate) struct Outbox {
    recipe: Recipe,
    clock: Clock,
    schedule: Schedule,
    generator: Generator,
    fates: Fates,
    next_seq: u64,
    /// First transmissions so far.
    emitted: u64,
    /// Waits for its successor to go first.
    held: Option<(Message, Fate)>,
    /// Has let its successor go first.
    overtaken: Option<(Message, Fate)>,
    /// Duplicates, each with the count of `emitted` from which it may go. At
    /// most one for each of the last messages, as many as a duplicate may lag.
    duplicates: VecDeque<(u64, Message)>,
    reordered: u64,
    scratch: Vec<u8>,
}

impl Outbox {
    /// A device at its first message.
    pub(crate) fn new(recipe: Recipe, schedule: Schedule, clock: Clock) -> Self {
        Self {
            generator: Generator::new(Rc::clone(&recipe.profile), recipe.values_seed),
            fates: Fates::new(recipe.chaos, recipe.chaos_seed),
            recipe,
            clock,
            schedule,
            next_seq: 0,
            emitted: 0,
            held: None,
            overtaken: None,
            duplicates: VecDeque::new(),
            reordered: 0,
            scratch: Vec::new(),
        }
    }

    /// The identity of one of this device's messages.
    pub(crate) fn identity(&self, seq: u64) -> Identity<'_> {
        Identity {
            device: &self.recipe.device,
            boot: self.recipe.boot,
            seq,
        }
    }

    /// What to transmit now, if anything is due.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Outgoing> {
        if let Some(message) = self.overtaken.take() {
            return Some(self.first(message));
        }
        if let Some(message) = self.due_duplicate(now) {
            return Some(Outgoing::Duplicate(message));
        }
        while let Some(sampled) = self.schedule.take(now) {
            let (message, fate) = self.create(sampled);
            if let Some(held) = self.held.take() {
                self.reordered += 1;
                self.overtaken = Some(held);
            } else if fate.swapped && !self.schedule.is_finished(now) {
                self.held = Some((message, fate));
                continue;
            }
            return Some(self.first((message, fate)));
        }
        // Its successor will never come.
        if self.schedule.is_finished(now)
            && let Some(held) = self.held.take()
        {
            return Some(self.first(held));
        }
        None
    }

    /// When [`Self::next`] may have something again.
    pub(crate) fn next_at(&self, now: Instant) -> Option<Instant> {
        if self.is_finished(now) {
            return None;
        }
        if self.overtaken.is_some() || self.schedule.is_finished(now) || self.has_due_duplicate() {
            return Some(now);
        }
        self.schedule.next_at(now)
    }

    /// Nothing will be transmitted for the first time, or on purpose, any more.
    pub(crate) fn is_finished(&self, now: Instant) -> bool {
        self.schedule.is_finished(now)
            && self.held.is_none()
            && self.overtaken.is_none()
            && self.duplicates.is_empty()
    }

    /// Drops the duplicates to come. At QoS 0 the original may be lost with its
    /// connection, and a duplicate would then arrive as a late original.
    pub(crate) fn forget_duplicates(&mut self) {
        self.duplicates.clear();
    }

    /// The device's schedule.
    pub(crate) const fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Samples no more.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.schedule.stop(now);
    }

    /// Messages that went after their successor.
    pub(crate) const fn reordered(&self) -> u64 {
        self.reordered
    }

    fn has_due_duplicate(&self) -> bool {
        self.duplicates.iter().any(|(due, _)| *due <= self.emitted)
    }

    fn due_duplicate(&mut self, now: Instant) -> Option<Message> {
        let all = self.schedule.is_finished(now) && self.held.is_none();
        let index = self
            .duplicates
            .iter()
            .position(|(due, _)| all || *due <= self.emitted)?;
        self.duplicates.remove(index).map(|(_, message)| message)
    }

    fn first(&mut self, (message, fate): (Message, Fate)) -> Outgoing {
        let n = self.emitted;
        self.emitted += 1;
        if let Some(lag) = fate.duplicate_after {
            self.duplicates
                .push_back((self.emitted + lag, message.clone()));
        }
        Outgoing::First {
            message,
            n,
            cut: fate.cut,
            offline: fate.offline,
        }
    }

    fn create(&mut self, sampled: Instant) -> (Message, Fate) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.generator.advance();
        let fate = self.fates.next();
        let ts_ms = self
            .clock
            .wall_ms(sampled)
            .saturating_add(self.fates.skew_ms());
        Contents {
            identity: Identity {
                device: &self.recipe.device,
                boot: self.recipe.boot,
                seq,
            },
            id_field: self.recipe.id_field,
            ts_ms,
            generator: &self.generator,
        }
        .encode(self.recipe.format, &mut self.scratch);
        let payload = match fate.malformed {
            Some(manner) => payload::broken(&self.scratch, manner),
            None => Bytes::copy_from_slice(&self.scratch),
        };
        (
            Message {
                seq,
                payload,
                malformed: fate.malformed.is_some(),
            },
            fate,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{profile, schedule::Pace};

    fn outbox(chaos: &str, count: u64, seed: u64) -> Outbox {
        let clock = Clock::start();
        let pace = Pace {
            start: clock.started(),
            ends: None,
            count: Some(count),
            rate: 0.0,
            devices: 1,
            backlog: 10,
        };
        let recipe = Recipe {
            device: "d".into(),
            boot: 1,
            profile: Rc::new(profile::load("environment").unwrap().remove(0)),
            format: Format::Json,
            id_field: true,
            chaos: chaos.parse().unwrap(),
            values_seed: seed,
            chaos_seed: seed,
        };
        Outbox::new(recipe, Schedule::new(&pace, 0), clock)
    }

    /// Sequence numbers of first transmissions, and of duplicates with their place among them.
    fn transmit(outbox: &mut Outbox) -> (Vec<u64>, Vec<(u64, usize)>) {
        let (mut firsts, mut duplicates) = (Vec::new(), Vec::new());
        while let Some(outgoing) = outbox.next(Instant::now()) {
            match outgoing {
                Outgoing::First { message, n, .. } => {
                    assert_eq!(n, firsts.len() as u64);
                    firsts.push(message.seq);
                }
                Outgoing::Duplicate(message) => duplicates.push((message.seq, firsts.len())),
            }
        }
        assert!(outbox.is_finished(Instant::now()));
        (firsts, duplicates)
    }

    #[test]
    fn without_chaos_messages_go_once_and_in_order() {
        let (firsts, duplicates) = transmit(&mut outbox("", 100, 1));
        assert_eq!(firsts, (0..100).collect::<Vec<_>>());
        assert_eq!(duplicates, []);
    }

    #[test]
    fn reordering_swaps_neighbours_and_loses_none() {
        let mut outbox = outbox("reorder=0.2", 1_000, 1);
        let (mut firsts, _) = transmit(&mut outbox);
        assert!(outbox.reordered() > 50);
        for (place, seq) in firsts.iter().enumerate() {
            assert!(seq.abs_diff(place as u64) <= 1, "{seq} at {place}");
        }
        firsts.sort_unstable();
        assert_eq!(firsts, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_duplicate_follows_its_original() {
        let (firsts, duplicates) = transmit(&mut outbox("duplicates=0.1,reorder=0.1", 1_000, 1));
        assert!(duplicates.len() > 50);
        for (seq, place) in duplicates {
            assert!(firsts[..place].contains(&seq));
        }
    }

    #[test]
    fn a_forgotten_duplicate_does_not_come() {
        let mut outbox = outbox("duplicates=1", 5, 1);
        assert!(matches!(
            outbox.next(Instant::now()),
            Some(Outgoing::First { .. })
        ));
        outbox.forget_duplicates();
        let (mut firsts, mut duplicates) = (1, Vec::new());
        while let Some(outgoing) = outbox.next(Instant::now()) {
            match outgoing {
                Outgoing::First { .. } => firsts += 1,
                Outgoing::Duplicate(message) => duplicates.push(message.seq),
            }
        }
        duplicates.sort_unstable();
        assert_eq!((firsts, duplicates), (5, vec![1, 2, 3, 4]));
    }

    #[test]
    fn everything_at_once_still_sends_every_message() {
        let (mut firsts, duplicates) =
            transmit(&mut outbox("duplicates=1,reorder=1,malformed=1", 101, 1));
        firsts.sort_unstable();
        assert_eq!(firsts, (0..101).collect::<Vec<_>>());
        assert_eq!(duplicates.len(), 101);
    }

    #[test]
    fn the_same_seed_gives_the_same_messages() {
        let all = |seed| {
            let mut outbox = outbox(
                "duplicates=0.1,reorder=0.1,malformed=0.1,disconnect=0.1,offline=0.1",
                200,
                seed,
            );
            let time = without_ts;
            std::iter::from_fn(|| outbox.next(Instant::now()))
                .map(|outgoing| match outgoing {
                    Outgoing::First {
                        message,
                        n,
                        cut,
                        offline,
                    } => (
                        message.seq,
                        Some((n, cut, offline)),
                        time(&message),
                        message.malformed,
                    ),
                    Outgoing::Duplicate(message) => {
                        (message.seq, None, time(&message), message.malformed)
                    }
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
    }

    /// The payload without its time stamp, `None` when it is broken.
    fn without_ts(message: &Message) -> Option<serde_json::Value> {
        let mut value: serde_json::Value = serde_json::from_slice(&message.payload).ok()?;
        value.as_object_mut().unwrap().remove("ts").unwrap();
        Some(value)
    }
}

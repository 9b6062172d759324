//! Publishes that are admitted together, on their way to their acknowledgements.

use std::collections::VecDeque;

use crate::{
    Protocol, Publish, QoS, Receipt, Verdict,
    fanout::{Message, Owner},
    keep::{Kept, Token, Wish},
};

/// One publish on its way to its acknowledgement.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u16,
    pub(super) qos: QoS,
    /// Somebody subscribes to the topic, or it is to be retained.
    pub(super) wanted: bool,
    pub(super) keep: Keep,
    /// Kept only where it may be needed again.
    pub(super) publish: Option<Publish>,
    pub(super) verdict: Option<Verdict>,
}

/// What the keeper has to do with a publish.
#[derive(Debug)]
pub(super) enum Keep {
    Nothing,
    /// It is to keep it.
    Wanted,
    /// It has, and this is to be shown.
    Done(Option<Message>),
    /// It had no room.
    Refused,
}

/// Publishes that were admitted together.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) entries: VecDeque<Entry>,
    pub(super) bytes: usize,
    pub(super) receipt: Option<Receipt>,
    /// The keeper has something to do with one of them.
    pub(super) is_kept: bool,
    /// One of them is to be retained.
    pub(super) retains: bool,
    /// The exchanges of a persistent session that begin with them.
    pub(super) begun: Vec<(u16, Token)>,
    /// The connection's turn when it was handed over last.
    pub(super) turn: u64,
}

impl Batch {
    /// Gives the verdicts to the entries that wait for one, in order. An
    /// admission that says too little has lost the rest.
    pub(super) fn judge(&mut self, verdicts: Vec<Verdict>) {
        self.receipt = None;
        let mut verdicts = verdicts.into_iter();
        for entry in self
            .entries
            .iter_mut()
            .filter(|entry| entry.verdict.is_none())
        {
            entry.verdict = Some(verdicts.next().unwrap_or(Verdict::Lost));
        }
    }

    /// The entries that the keeper is asked about: those that will be answered, up to
    /// the first that has to be asked about at the gateway again.
    pub(super) fn owed_to_keeper(&mut self, v5: bool) -> impl Iterator<Item = &mut Entry> {
        let held = move |entry: &Entry| {
            entry.verdict == Some(Verdict::Busy) && (entry.qos == QoS::AtMostOnce || !v5)
        };
        self.entries
            .iter_mut()
            .take_while(move |entry| !held(entry))
            .filter(move |entry| {
                let received = match entry.verdict {
                    Some(Verdict::Accepted | Verdict::Duplicate) => true,
                    // Of an exchange that gets its PUBREC the end is kept all the same.
                    Some(Verdict::Returned) => entry.qos == QoS::ExactlyOnce,
                    Some(Verdict::Refused { .. }) => entry.qos == QoS::ExactlyOnce && !v5,
                    _ => false,
                };
                received && matches!(entry.keep, Keep::Wanted)
            })
    }

    /// What of the publishes without a verdict the keeper is to have room for. Nothing if
    /// one is of an exchange that was begun before: the gateway may have that already, so
    /// it cannot be refused.
    pub(super) fn wishes(&self, by: Owner, protocol: Protocol) -> Vec<Wish> {
        let undecided = || self.entries.iter().filter(|entry| entry.verdict.is_none());
        let was_begun = |entry: &Entry| {
            let has_token = match &entry.publish {
                Some(publish) => publish.delivery.is_some(),
                None => matches!(entry.keep, Keep::Wanted),
            };
            let is_new = || self.begun.iter().any(|(id, _)| *id == entry.id);
            entry.qos == QoS::ExactlyOnce && has_token && !is_new()
        };
        if undecided().any(was_begun) {
            return Vec::new();
        }
        let wish = |(at, entry): (usize, &Entry)| {
            let owed = entry.wanted && matches!(entry.keep, Keep::Wanted);
            let publish = entry.publish.as_ref().filter(|_| owed)?;
            Some(Wish::new(publish, at, by, protocol))
        };
        undecided().enumerate().filter_map(wish).collect()
    }

    /// Notes what the keeper has done.
    pub(super) fn kept(&mut self, v5: bool, answers: Vec<Kept>) {
        let mut answers = answers.into_iter();
        for entry in self.owed_to_keeper(v5) {
            entry.keep = match answers.next() {
                Some(Kept::Done(message)) => Keep::Done(message),
                Some(Kept::Refused) | None => Keep::Refused,
            };
        }
    }
}

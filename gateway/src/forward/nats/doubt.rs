//! Messages that were published and not answered.
//!
//! Within the stream's duplicate window they simply go again, and the stream
//! refuses those that it has. When the server was away for longer, the stream
//! may have forgotten their ids, so it is asked: the last message of each
//! subject tells, because messages of a subject were published in order. If
//! that is one of those in doubt, it and those before it have arrived. The
//! order is therefore noted when a message is published, not when it is given
//! up: of two batches in flight either may be given up first.
//!
//! This holds where nobody else publishes on the subject, as with `{device}` in
//! it. It does not cover a gateway that was itself stopped for longer than the
//! duplicate window: the doubts are gone with it.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_nats::{header::NATS_MESSAGE_ID, jetstream::stream::LastRawMessageErrorKind};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

use super::{Batch, Error, Item, Session};
use crate::event::Key;

/// Answers awaited at a time.
const ASKED_AT_ONCE: usize = 64;

/// Keys in doubt: at most as many as can be in flight, and those of the batches
/// that go again.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    open: HashMap<Key, Doubt>,
    /// The place of the next message.
    next: u64,
    /// A message was refused while others were in doubt, and goes again behind
    /// them: which came last on a subject tells nothing until all is settled.
    unsure: bool,
}

/// A message that was published and not answered.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// Its place in the order in which messages were first published.
    place: u64,
    since: Instant,
}

impl Doubts {
    /// This one is about to be published: called in the order of publishing.
    /// One that goes again keeps its place, because all before it do.
    pub(super) fn publishing(&mut self, key: Key) {
        let doubt = Doubt {
            place: self.next,
            since: Instant::now(),
        };
        self.open.entry(key).or_insert(doubt);
        self.next += 1;
    }

    /// These have an answer.
    pub(super) fn settled(&mut self, keys: impl Iterator<Item = Key>) {
        for key in keys {
            self.open.remove(&key);
        }
        self.unsure &= !self.open.is_empty();
    }

    /// One was not taken, but goes again.
    pub(super) fn refused(&mut self) {
        self.unsure = !self.open.is_empty();
    }

    /// Those of `batch` that the stream has, as far as it must be asked.
    pub(super) async fn resolve(
        &self,
        session: &Session,
        batch: &Batch,
        subject: impl Fn(&Item) -> Result<String, String>,
    ) -> Result<HashSet<Key>, Error> {
        let mut known = HashSet::new();
        // Half, because the server may have kept the first of them well before we gave up.
        let patience = session.stream().duplicate_window / 2;
        let mut here: HashMap<String, Vec<(Key, u64)>> = HashMap::new();
        let mut is_old = false;
        for item in &*batch.items {
            let key = item.record().key;
            if let Some(doubt) = self.open.get(&key)
                && let Ok(subject) = subject(item)
            {
                is_old |= doubt.since.elapsed() >= patience;
                here.entry(subject).or_default().push((key, doubt.place));
            }
        }
        if !is_old || self.unsure {
            return Ok(known);
        }
        let mut answers = stream::iter(here)
            .map(|(subject, keys)| async move {
                let last = last_id(session, &subject).await?;
                Ok::<_, Error>((last, keys))
            })
            .buffer_unordered(ASKED_AT_ONCE);
        while let Some((last, keys)) = answers.try_next().await? {
            known.extend(self.arrived(last, keys));
        }
        Ok(known)
    }

    /// Which of `keys`, all of one subject, have arrived if `last` was the last to.
    fn arrived(&self, last: Option<Key>, keys: Vec<(Key, u64)>) -> impl Iterator<Item = Key> {
        let last = last.and_then(|key| self.open.get(&key)).map(|d| d.place);
        let arrived = move |place| last.is_some_and(|last| place <= last);
        keys.into_iter()
            .filter_map(move |(key, place)| arrived(place).then_some(key))
    }
}

/// The id of the last message on a subject.
async fn last_id(session: &Session, subject: &str) -> Result<Option<Key>, Error> {
    let asked = session
        .stream()
        .stream
        .get_last_raw_message_by_subject(subject);
    match tokio::time::timeout(Duration::from_secs(10), asked).await {
        Ok(Ok(message)) => Ok(message
            .headers
            .get(NATS_MESSAGE_ID)
            .and_then(|id| parse(id.as_str()))),
        Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Ok(Err(error)) => Err(Error::unavailable(error.to_string())),
        Err(_) => Err(Error::unavailable("the stream does not answer".to_owned())),
    }
}

/// A key as it stands in the header.
fn parse(id: &str) -> Option<Key> {
    let number = u128::from_str_radix(id, 16).ok()?;
    (id.len() == 32).then_some(Key(number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_published_before_the_last_message_has_arrived() {
        let key = |n: u8| Key([n; 16]);
        let mut doubts = Doubts::default();
        (1..=4).for_each(|n| doubts.publishing(key(n)));
        doubts.settled([key(1)].into_iter());
        // 2 goes again: that does not put it behind the others.
        doubts.publishing(key(2));
        let check = |last: Option<u8>, expect: &[u8]| {
            let keys = [2, 3, 4].map(|n| (key(n), doubts.open[&key(n)].place));
            let arrived = doubts.arrived(last.map(key), keys.to_vec());
            let expect: Vec<Key> = expect.iter().copied().map(key).collect();
            assert_eq!(arrived.collect::<Vec<_>>(), expect, "{last:?}");
        };
        check(Some(3), &[2, 3]);
        check(Some(2), &[2]);
        check(Some(4), &[2, 3, 4]);
        check(Some(1), &[]);
        check(None, &[]);
    }

    #[test]
    fn a_key_is_read_back_as_it_was_written() {
        for key in [Key([0; 16]), Key(*b"0123456789abcdef"), Key([255; 16])] {
            assert_eq!(parse(&key.to_string()), Some(key));
        }
        for other in ["", "probe", "00", "éé"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn after_a_refusal_nothing_is_concluded_until_all_is_settled() {
        let key = |n: u8| Key([n; 16]);
        let mut doubts = Doubts::default();
        (1..=2).for_each(|n| doubts.publishing(key(n)));
        doubts.settled([key(1)].into_iter());
        doubts.refused();
        assert!(doubts.unsure);
        doubts.publishing(key(1));
        doubts.settled([key(2)].into_iter());
        assert!(doubts.unsure);
        doubts.settled([key(1)].into_iter());
        assert!(!doubts.unsure);
    }
}

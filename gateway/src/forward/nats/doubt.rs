//! Messages that were published and not answered.
//!
//! Within the stream's duplicate window they simply go again, and the stream
//! refuses those that it has. When the server was away for longer, the stream
//! may have forgotten their ids, so it is asked: the last message of each
//! subject tells, because messages of a subject were published in order. If
//! that is one of those in doubt, it and those before it have arrived.
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

use super::{Batch, Error, Item, Session, unavailable};
use crate::event::Key;

/// Answers awaited at a time.
const ASKED_AT_ONCE: usize = 64;

/// Keys in doubt, in the order in which they were published: at most as many as
/// can be in flight.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    keys: Vec<Key>,
    since: Option<Instant>,
}

impl Doubts {
    /// These were published, and may have been kept.
    pub(super) fn add(&mut self, keys: impl Iterator<Item = Key>) {
        let before = self.keys.len();
        for key in keys {
            if !self.keys.contains(&key) {
                self.keys.push(key);
            }
        }
        if self.keys.len() > before {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    /// These have an answer.
    pub(super) fn settled(&mut self, keys: impl Iterator<Item = Key>) {
        if self.keys.is_empty() {
            return;
        }
        let settled: HashSet<Key> = keys.collect();
        self.keys.retain(|key| !settled.contains(key));
        if self.keys.is_empty() {
            self.since = None;
        }
    }

    /// Those of `batch` that the stream has, as far as it must be asked.
    pub(super) async fn resolve(
        &mut self,
        session: &Session,
        batch: &Batch,
        subject: impl Fn(&Item) -> Result<String, String>,
    ) -> Result<HashSet<Key>, Error> {
        let mut known = HashSet::new();
        let Some(since) = self.since else {
            return Ok(known);
        };
        let mut here: HashMap<String, Vec<Key>> = HashMap::new();
        for item in &*batch.items {
            let key = item.record().key;
            if self.keys.contains(&key)
                && let Ok(subject) = subject(item)
            {
                here.entry(subject).or_default().push(key);
            }
        }
        // Half, because the server may have kept the first of them well before we gave up.
        if here.is_empty() || since.elapsed() < session.stream().duplicate_window / 2 {
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
    fn arrived(&self, last: Option<String>, keys: Vec<Key>) -> Vec<Key> {
        let Some(last) = last else {
            return Vec::new();
        };
        let place = |key: &Key| self.keys.iter().position(|other| other == key);
        let last = self.keys.iter().position(|key| key.to_string() == last);
        keys.into_iter().filter(|key| place(key) <= last).collect()
    }
}

/// The id of the last message on a subject.
async fn last_id(session: &Session, subject: &str) -> Result<Option<String>, Error> {
    let asked = session
        .stream()
        .stream
        .get_last_raw_message_by_subject(subject);
    match tokio::time::timeout(Duration::from_secs(10), asked).await {
        Ok(Ok(message)) => Ok(message
            .headers
            .get(NATS_MESSAGE_ID)
            .map(ToString::to_string)),
        Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Ok(Err(error)) => Err(unavailable(error.to_string())),
        Err(_) => Err(unavailable("the stream does not answer".to_owned())),
    }
}

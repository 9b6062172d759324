//! The journal's side: reading ahead of what goes out, and recording what was settled.

use std::time::Duration;

use tokio::time::Instant;

use super::{Engine, LOOK_EVERY, PROGRESS_EVERY, Read, Recording};
use crate::{
    event::Timestamp,
    forward::{
        Error,
        batch::Item,
        journal::{Journal, Pages},
        load::{Damaged, Loaded, Request, load},
        waiting::Entry,
    },
    record::Position,
    store::{Retry, Stopped},
};

/// The journal is read this often at most, so that records come in handfuls.
const READ_EVERY: Duration = Duration::from_millis(2);
/// Records read at a time, at least and at most.
const PAGE_RECORDS: (usize, usize) = (256, 2_048);
/// Bytes read at a time, at least.
const PAGE_BYTES_MIN: usize = 1024 * 1024;

impl<J: Journal, P: Pages> Engine<J, P> {
    pub(super) fn start_reading(&mut self, now: Instant, end: Position) {
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

    pub(super) fn next_request(&mut self, now: Instant, end: Position) -> Option<Request> {
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
        let room = self.window.len() < self.window_records()
            && self.window.fresh_bytes() < bytes
            && !self.pending.is_full()
            && !self.is_crowded();
        (end > self.window.scanned() && room).then_some(Request::Page {
            after: self.window.scanned(),
            records,
            bytes,
        })
    }

    /// Records between the cursor and the end of what was read, about.
    pub(super) fn window_records(&self) -> usize {
        let out = self
            .limits
            .batch_records
            .saturating_mul(self.limits.in_flight.max(1));
        out.saturating_add(PAGE_RECORDS.1)
            .saturating_add(self.limits.batch_records)
    }

    pub(super) fn read(
        &mut self,
        done: Result<Read<P>, tokio::task::JoinError>,
    ) -> Result<(), Error> {
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

    pub(super) fn take_in(&mut self, loaded: Loaded) {
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

    pub(super) fn take_record(&mut self, item: Result<Item, Damaged>) {
        match item {
            Ok(item) => self.window.push(item),
            Err((record, error)) => {
                self.window.expect(record.position);
                self.bury(record, &error);
            }
        }
    }

    pub(super) fn take_waiting(&mut self, item: Result<Item, Damaged>, retry: &Retry) {
        match item {
            Ok(item) if self.waiting.contains(&item) => {}
            Ok(item) if !self.has_room(item.record().body.len()) => self.waiting_complete = false,
            Ok(item) => self.waiting.add(Entry {
                attempts: retry.attempts,
                first: retry.first,
                // A wall clock that was set back must not keep it for ever.
                not_before: Instant::now()
                    + since(self.clock.now(), retry.not_before).min(self.retrying.max),
                item: item.detached(),
            }),
            Err((record, error)) => self.bury(record, &error),
        }
    }

    pub(super) fn start_recording(&mut self, now: Instant) {
        if let Some(spent) = self.pace.take_spent() {
            self.pending.spent(spent);
        }
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

    pub(super) fn record(&mut self, cursor: Position) -> Recording {
        let progress = self.pending.take(cursor);
        // What the cursor has not passed is not part of it.
        let passed = |item: &mut Item| item.position() <= cursor;
        self.being_given_up
            .extend(self.given_up.extract_if(.., passed));
        let journal = self.journal.clone();
        Box::pin(async move {
            journal.progress(progress).await?.await?;
            Ok(())
        })
    }

    pub(super) fn record_at(&self) -> Option<Instant> {
        self.recorded_at.map(|at| at + PROGRESS_EVERY)
    }

    pub(super) fn recorded(&mut self, done: Result<(), Stopped>) -> Result<(), Error> {
        done?;
        self.pending.committed();
        self.at.recorded();
        for item in std::mem::take(&mut self.being_given_up) {
            self.waiting.remove(&item);
            self.waiting_left += 1;
        }
        Ok(())
    }
}

/// From `now` to `at`; nothing if that is past.
fn since(now: Timestamp, at: Timestamp) -> Duration {
    let nanos = at.as_nanos().saturating_sub(now.as_nanos());
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

//! Times of receipt from before the gateway knew the time.
//!
//! A box without a clock boots in 1970. What it receives until it hears the time is marked
//! `clock-unset`, and carries which boot that was and how long after it. Once the clock is
//! set, when the boot was is known, and with it when the message came: records on their way
//! out get the right time. What was sent before, or came in another boot that never heard
//! the time, stays as it is, with its mark.
//!
//! When the boot was is worked out once and kept in a file, because a clock goes on being
//! corrected, and a resend is to be the very same event.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use super::journal::Pages;
use crate::{
    clock::Clock,
    event::{BOOT_TAG, Event, Marks, TimeSource, Timestamp, UPTIME_TAG, View},
    record::{DestinationId, Position, Record},
    store::{self, Page, Retry},
};

/// Works out when messages came. Shared by all destinations.
#[derive(Debug)]
pub struct Repair {
    clock: Arc<dyn Clock>,
    file: PathBuf,
    boot: Mutex<Option<Boot>>,
}

/// When this machine was started.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Boot {
    id: Arc<str>,
    at: Timestamp,
}

impl Repair {
    /// Remembers in `file` when the machine was started.
    pub fn new(clock: Arc<dyn Clock>, file: PathBuf) -> Self {
        Self {
            clock,
            file,
            boot: Mutex::default(),
        }
    }

    /// The record with the time at which its message came, where that is known by now.
    fn repaired(&self, record: Record) -> Record {
        if !record.received.is_unset() {
            return record;
        }
        let Some(event) = self.event(&record) else {
            return record;
        };
        let mut body = Vec::with_capacity(record.body.len());
        event.to_cbor(&mut body);
        if let Some(original) = View::parse(&record.body).ok().and_then(|v| v.original) {
            body.extend_from_slice(&original.to_owned().to_cbor());
        }
        Record {
            received: event.received,
            body: body.into(),
            ..record
        }
    }

    fn event(&self, record: &Record) -> Option<Event> {
        // What cannot be read is somebody else's to report.
        let mut event = record.event().ok()?;
        let tag = |name: &str| {
            let mut tags = event.tags.iter();
            tags.find(|(known, _)| **known == *name).map(|(_, v)| v)
        };
        let boot = self.boot().filter(|boot| tag(BOOT_TAG) == Some(&boot.id))?;
        let up = tag(UPTIME_TAG)?.parse::<u64>().ok()?;
        let up = i64::try_from(up).ok()?.checked_mul(1_000_000)?;
        event.received = Timestamp::from_nanos(boot.at.as_nanos().checked_add(up)?);
        if event.time_source == TimeSource::Received {
            event.time = event.received;
        }
        event.marks = event.marks.without(Marks::CLOCK_UNSET);
        Some(event)
    }

    /// When this boot was; `None` as long as the clock is not set.
    fn boot(&self) -> Option<Boot> {
        // Nothing panics while the lock is held.
        let mut known = self.boot.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            let now = self.clock.now();
            let booted = self.clock.booted().filter(|_| !now.is_unset())?;
            let up = i64::try_from(booted.up.as_nanos()).ok()?;
            let at = Timestamp::from_nanos(now.as_nanos().saturating_sub(up));
            *known = Some(self.written(Boot { id: booted.id, at }));
        }
        known.clone()
    }

    /// What the file says of this boot; where it says nothing, what is said now.
    fn written(&self, now: Boot) -> Boot {
        let before = fs::read_to_string(&self.file).ok();
        let before = before.as_deref().and_then(|text| {
            let (id, nanos) = text.trim_end().split_once(' ')?;
            (*id == *now.id).then_some(Timestamp::from_nanos(nanos.parse().ok()?))
        });
        if let Some(at) = before {
            return Boot { at, ..now };
        }
        let text = format!("{} {}\n", now.id, now.at.as_nanos());
        if let Err(error) = fs::write(&self.file, text) {
            // After a restart it may be worked out some milliseconds differently.
            tracing::warn!(%error, file = %self.file.display(), "could not note when the machine was started");
        }
        now
    }
}

/// Records as they are read, with the times at which their messages came.
pub(super) struct Repairing<P> {
    pub(super) pages: P,
    pub(super) repair: Arc<Repair>,
}

impl<P: Pages> Pages for Repairing<P> {
    fn read(
        &mut self,
        destination: DestinationId,
        after: Position,
        count: usize,
        bytes: usize,
    ) -> Result<Page, store::Error> {
        let mut page = self.pages.read(destination, after, count, bytes)?;
        let records = std::mem::take(&mut page.records).into_iter();
        page.records = records.map(|record| self.repair.repaired(record)).collect();
        Ok(page)
    }

    fn retries(
        &mut self,
        destination: DestinationId,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<Retry>, store::Error> {
        let retries = self.pages.retries(destination, count, bytes)?.into_iter();
        let retries = retries.map(|retry| Retry {
            record: self.repair.repaired(retry.record),
            ..retry
        });
        Ok(retries.collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicI64, Ordering::SeqCst},
        time::Duration,
    };

    use super::*;
    use crate::{clock::Booted, event::Original, forward::testing::record};

    /// 2026-03-01T12:00:00Z.
    const NOW: i64 = 1_772_366_400_000;

    /// A box that was started ten minutes ago.
    #[derive(Debug)]
    struct Board(AtomicI64);

    impl Clock for Board {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.load(SeqCst))
        }

        fn booted(&self) -> Option<Booted> {
            Some(Booted {
                id: "this".into(),
                up: Duration::from_mins(10),
            })
        }
    }

    /// Received while the clock said 1970, with a message behind it.
    fn early(boot: &str, time_source: TimeSource) -> Record {
        let mut early = record(7, 1);
        let mut event = early.event().unwrap();
        event.received = Timestamp::from_millis(30_000);
        event.time_source = time_source;
        if time_source == TimeSource::Received {
            event.time = event.received;
        }
        event.marks = Marks::CLOCK_UNSET.with(Marks::LATE);
        event.tags = vec![
            (BOOT_TAG.into(), boot.into()),
            (UPTIME_TAG.into(), "60000".into()),
        ];
        let original = Original {
            client_id: "c".into(),
            content_type: None,
            user: Vec::new(),
            identity: None,
            origin: None,
            nonce: [1; 16],
            delivery: None,
            payload: "p".into(),
        };
        let mut body = Vec::new();
        event.to_cbor(&mut body);
        body.extend_from_slice(&original.to_cbor());
        early.received = event.received;
        early.body = body.into();
        early
    }

    #[test]
    fn once_the_time_is_known_what_came_before_gets_it_and_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("gateway.boot");
        let clock = Arc::new(Board(AtomicI64::new(600_000)));
        let repair = Repair::new(clock.clone(), file.clone());
        let before = early("this", TimeSource::Received);
        assert_eq!(
            repair.repaired(before.clone()),
            before,
            "the clock is not set yet"
        );

        clock.0.store(NOW, SeqCst);
        let after = repair.repaired(before.clone());
        let came = Timestamp::from_millis(NOW - 9 * 60_000);
        let event = after.event().unwrap();
        assert_eq!(
            (after.received, event.received, event.time),
            (came, came, came)
        );
        assert_eq!(event.marks, Marks::LATE);
        assert_eq!((after.key, after.position), (before.key, before.position));
        let view = View::parse(&after.body).unwrap();
        assert_eq!(view.original.unwrap().payload, b"p");

        // The device's own time is its own.
        let own = early("this", TimeSource::Device);
        let time = own.event().unwrap().time;
        assert_eq!(repair.repaired(own).event().unwrap().time, time);

        // The clock was corrected a little; a resend is the very same event.
        clock.0.store(NOW + 250, SeqCst);
        let restarted = Repair::new(clock, file);
        assert_eq!(restarted.repaired(before), after);
    }

    #[test]
    fn what_came_in_another_boot_or_with_the_clock_set_stays() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(Board(AtomicI64::new(NOW)));
        let repair = Repair::new(clock, dir.path().join("gateway.boot"));
        let other = early("another", TimeSource::Received);
        assert_eq!(repair.repaired(other.clone()), other);
        let usual = record(8, 1);
        assert_eq!(repair.repaired(usual.clone()), usual);
        assert_ne!(repair.repaired(early("this", TimeSource::Received)), other);
    }
}

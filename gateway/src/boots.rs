//! When this machine was started: with it the times of receipt from before the gateway
//! knew the time.
//!
//! A box without a clock boots in 1970, or at the time at which it was last seen alive.
//! What it receives until it hears the time is marked `clock-unset`, and carries which
//! boot that was and how long after it. Once the clock is set, when the boot was is
//! known, and with it when the message came. What came in a boot that never heard the
//! time stays as it is, with its mark.
//!
//! When a boot was is worked out once and kept in a file, because a clock goes on being
//! corrected, and a resend is to be the very same event. The file has the last boots, so
//! that what waits over a restart of the machine gets its time as well.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    clock::{Booted, Clock},
    event::{BOOT_TAG, Event, Marks, TimeSource, Timestamp, UPTIME_TAG, View},
    record::Record,
};

/// The file's name in the data directory.
const FILE: &str = "gateway.boot";
/// Boots that are kept; the oldest is forgotten first.
const BOOTS_MAX: usize = 64;
/// How often a clock that is not set is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Works out when messages came. Shared by everybody who shows or sends them.
#[derive(Debug)]
pub struct Boots {
    clock: Option<Arc<dyn Clock>>,
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The oldest first.
    boots: Vec<Boot>,
    /// This one is among them.
    noted: bool,
}

/// When a machine was started.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Boot {
    id: Arc<str>,
    at: Timestamp,
}

impl Boots {
    /// Remembers in the data directory when the machine was started.
    pub fn new(clock: Arc<dyn Clock>, data_dir: &Path) -> Self {
        Self {
            clock: Some(clock),
            ..Self::of_dir(data_dir)
        }
    }

    /// What was remembered in a data directory; nothing is added.
    pub fn of_dir(data_dir: &Path) -> Self {
        let file = data_dir.join(FILE);
        let text = fs::read_to_string(&file).unwrap_or_default();
        let boots = text.lines().filter_map(|line| {
            let (id, nanos) = line.split_once(' ')?;
            Some(Boot {
                id: id.into(),
                at: Timestamp::from_nanos(nanos.parse().ok()?),
            })
        });
        Self {
            clock: None,
            file,
            known: Mutex::new(Known {
                boots: boots.collect(),
                noted: false,
            }),
        }
    }

    /// Notes when this boot was, once the clock is set. Whether nothing more is to be known.
    pub fn note(&self) -> bool {
        // Nothing panics while the lock is held.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.noted(&mut known)
    }

    /// Notes when this boot was as soon as the clock is set: also where nothing leaves
    /// until the next boot.
    pub async fn run(&self, stop: CancellationToken) {
        let mut noted = self.note();
        while !noted {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => noted = self.note(),
            }
        }
        stop.cancelled().await;
    }

    /// The last boot that is known: a time that has been.
    pub fn newest(&self) -> Option<Timestamp> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.boots.iter().map(|boot| boot.at).max()
    }

    /// When a message came that says in which boot, and how long after it; `None` as
    /// long as nobody knows.
    pub fn received(&self, booted: &Booted) -> Option<Timestamp> {
        let up = i64::try_from(booted.up.as_nanos()).ok()?;
        let at = self.boot(&booted.id)?.as_nanos().checked_add(up)?;
        Some(Timestamp::from_nanos(at))
    }

    /// The record with the time at which its message came, where that is known by now.
    pub fn repaired(&self, record: Record) -> Record {
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
        event.received = self.received(&booted(&event)?)?;
        if event.time_source == TimeSource::Received {
            event.time = event.received;
        }
        event.marks = event.marks.without(Marks::CLOCK_UNSET);
        Some(event)
    }

    fn boot(&self, id: &str) -> Option<Timestamp> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.noted(&mut known);
        let mut boots = known.boots.iter();
        boots.find(|boot| *boot.id == *id).map(|boot| boot.at)
    }

    fn noted(&self, known: &mut Known) -> bool {
        let Some(clock) = self.clock.as_ref().filter(|_| !known.noted) else {
            return true;
        };
        let now = clock.now();
        if now.is_unset() {
            return false;
        }
        // Where the system tells nothing of its start, nothing is to be noted.
        known.noted = true;
        let Some(Booted { id, up }) = clock.booted() else {
            return true;
        };
        if known.boots.iter().any(|boot| boot.id == id) {
            return true;
        }
        let up = i64::try_from(up.as_nanos()).unwrap_or(i64::MAX);
        let at = Timestamp::from_nanos(now.as_nanos().saturating_sub(up));
        known.boots.push(Boot { id, at });
        let forgotten = known.boots.len().saturating_sub(BOOTS_MAX);
        known.boots.drain(..forgotten);
        self.write(&known.boots);
        true
    }

    fn write(&self, boots: &[Boot]) {
        let lines = boots.iter();
        let lines = lines.map(|boot| format!("{} {}\n", boot.id, boot.at.as_nanos()));
        let new = self.file.with_extension("boot.new");
        let written = fs::File::create(&new).and_then(|mut file| {
            file.write_all(lines.collect::<String>().as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.file)
        });
        if let Err(error) = written {
            // After a restart it may be worked out some milliseconds differently.
            tracing::warn!(%error, file = %self.file.display(), "could not note when the machine was started");
        }
    }
}

/// What an event says of the start of the machine, where the clock was not set.
pub fn booted(event: &Event) -> Option<Booted> {
    let tag = |name: &str| {
        let mut tags = event.tags.iter();
        tags.find(|(known, _)| **known == *name).map(|(_, v)| v)
    };
    Some(Booted {
        id: tag(BOOT_TAG)?.clone(),
        up: Duration::from_millis(tag(UPTIME_TAG)?.parse().ok()?),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::{event::Original, forward::testing::record};

    /// 2026-03-01T12:00:00Z.
    const NOW: i64 = 1_772_366_400_000;

    /// A box that was started ten minutes ago.
    #[derive(Debug)]
    pub(crate) struct Board {
        pub(crate) millis: AtomicI64,
        id: &'static str,
        asked: AtomicUsize,
    }

    impl Board {
        pub(crate) fn new(id: &'static str, millis: i64) -> Arc<Self> {
            Arc::new(Self {
                millis: AtomicI64::new(millis),
                id,
                asked: AtomicUsize::new(0),
            })
        }
    }

    impl Clock for Board {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.millis.load(SeqCst))
        }

        fn booted(&self) -> Option<Booted> {
            self.asked.fetch_add(1, SeqCst);
            Some(Booted {
                id: self.id.into(),
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
        let clock = Board::new("this", 600_000);
        let boots = Boots::new(clock.clone(), dir.path());
        let before = early("this", TimeSource::Received);
        assert_eq!(
            boots.repaired(before.clone()),
            before,
            "the clock is not set yet"
        );
        assert!(!boots.note());

        clock.millis.store(NOW, SeqCst);
        let after = boots.repaired(before.clone());
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
        assert_eq!(boots.repaired(own).event().unwrap().time, time);

        // The clock was corrected a little; a resend is the very same event.
        clock.millis.store(NOW + 250, SeqCst);
        let restarted = Boots::new(clock, dir.path());
        assert_eq!(restarted.repaired(before.clone()), after);
        // Commands that find no gateway know it too.
        assert_eq!(Boots::of_dir(dir.path()).repaired(before), after);
    }

    #[test]
    fn what_waits_over_a_boot_that_heard_the_time_gets_it_in_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let waits = early("first", TimeSource::Received);
        assert!(Boots::new(Board::new("first", NOW), dir.path()).note());
        let next = Boots::new(Board::new("second", 600_000), dir.path());
        let came = Timestamp::from_millis(NOW - 9 * 60_000);
        assert_eq!(next.repaired(waits.clone()).received, came);

        // Many boots later it is forgotten.
        for n in 0..BOOTS_MAX {
            let id = format!("boot-{n}").leak();
            assert!(Boots::new(Board::new(id, NOW), dir.path()).note());
        }
        let lines = fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert_eq!(lines.lines().count(), BOOTS_MAX);
        assert_eq!(Boots::of_dir(dir.path()).repaired(waits.clone()), waits);
    }

    #[test]
    fn what_came_in_another_boot_or_with_the_clock_set_stays() {
        let dir = tempfile::tempdir().unwrap();
        let boots = Boots::new(Board::new("this", NOW), dir.path());
        let other = early("another", TimeSource::Received);
        assert_eq!(boots.repaired(other.clone()), other);
        let usual = record(8, 1);
        assert_eq!(boots.repaired(usual.clone()), usual);
        assert_ne!(boots.repaired(early("this", TimeSource::Received)), other);
    }

    #[test]
    fn the_system_is_asked_about_its_start_only_once_and_only_with_the_clock_set() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Board::new("this", 600_000);
        let boots = Boots::new(clock.clone(), dir.path());
        for _ in 0..100 {
            boots.repaired(early("this", TimeSource::Received));
        }
        assert_eq!(clock.asked.load(SeqCst), 0);
        clock.millis.store(NOW, SeqCst);
        for _ in 0..100 {
            boots.repaired(early("this", TimeSource::Received));
        }
        assert_eq!(clock.asked.load(SeqCst), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_boot_was_is_noted_though_nothing_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Board::new("this", 600_000);
        let boots = Arc::new(Boots::new(clock.clone(), dir.path()));
        let stop = CancellationToken::new();
        let watching = tokio::spawn({
            let (boots, stop) = (boots.clone(), stop.clone());
            async move { boots.run(stop).await }
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!dir.path().join(FILE).try_exists().unwrap());
        clock.millis.store(NOW, SeqCst);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(dir.path().join(FILE).try_exists().unwrap());
        stop.cancel();
        watching.await.unwrap();
    }
}

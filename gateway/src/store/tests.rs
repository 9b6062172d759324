//! The journal's promises, tried on a real database.

mod audit;
mod damage;
mod devices;
mod edits;
mod failure;
mod fill;
mod full;
mod life;
mod lost_keys;
pub(crate) mod model;
mod originals;
mod retention;
mod sealed;
mod shed;
mod step;
mod turns;
mod unconfigured;

use std::{
    cell::Cell,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use penstock_broker::seal::{Key as OperatorsKey, Seal};
use tempfile::TempDir;

use super::*;
use crate::{
    event::{Key, Timestamp},
    record::{DestinationId, Position, Record, Routes},
};

thread_local! {
    /// Whether the journals of this test's thread are sealed.
    static IS_SEALED: Cell<bool> = const { Cell::new(false) };
}

/// The one that tests seal with.
pub(crate) fn seal() -> Seal {
    Seal::new(&operators_key(1), &[]).expect("random bytes")
}

/// A test once more, with sealed journals.
fn sealed_too(test: fn()) {
    IS_SEALED.set(true);
    test();
    IS_SEALED.set(false);
}

fn operators_key(n: u8) -> OperatorsKey {
    OperatorsKey::parse(format!("{n:02x}").repeat(32).as_bytes()).expect("a key")
}

/// Looks at a journal, sealed or not.
fn verify(dir: &Path) -> Result<VerifyReport, Error> {
    super::verify(dir, &seal())
}

/// A clock that stands where it was put: milliseconds that have passed, and
/// those by which the wall clock was set besides.
#[derive(Debug)]
struct Stopped {
    passed: AtomicI64,
    set: AtomicI64,
}

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        let set = self.set.load(Ordering::SeqCst);
        Timestamp::from_millis(self.passed.load(Ordering::SeqCst) + set)
    }

    fn monotonic(&self) -> Duration {
        let passed = self.passed.load(Ordering::SeqCst);
        Duration::from_millis(passed.try_into().expect("it only grows"))
    }
}

/// A data directory with what is needed to open the journal in it.
struct Place {
    dir: TempDir,
    config: Config,
    clock: Arc<Stopped>,
}

impl Place {
    fn new(destinations: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = Config {
            dir: dir.path().to_owned(),
            max_bytes: 256 * 1024 * 1024,
            max_age: None,
            keep_delivered: None,
            on_full: OnFull::PushBack,
            shed: Vec::new(),
            reserve_bytes: 64 * 1024,
            dedup_age: Duration::from_secs(3600),
            dedup_count: 100_000,
            dedup_memory_bytes: 16 * 1024 * 1024,
            destinations: destinations.iter().map(|name| Arc::from(*name)).collect(),
            from_kept: Vec::new(),
            seal: IS_SEALED.get().then(seal).unwrap_or_default(),
        };
        Self {
            dir,
            config,
            clock: Arc::new(Stopped {
                passed: AtomicI64::new(1_000_000),
                set: AtomicI64::new(0),
            }),
        }
    }

    fn database(&self) -> std::path::PathBuf {
        self.config.dir.join(DATABASE)
    }

    fn open(&self) -> Result<(Store, Report), Error> {
        Store::open(self.config.clone(), self.clock.clone())
    }

    fn run(&self) -> Running {
        self.run_reported().0
    }

    fn run_reported(&self) -> (Running, Report) {
        let (store, report) = self.open().expect("the journal opens");
        (store.run().expect("a thread"), report)
    }

    fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).expect("a short while");
        self.clock.passed.fetch_add(ms, Ordering::SeqCst);
    }

    /// What is on disk now, as if the power had gone.
    fn crash_image(&self) -> Self {
        let image = tempfile::tempdir().expect("a temporary directory");
        // The log first would miss what a checkpoint moves meanwhile; callers
        // copy while nothing is written.
        for entry in std::fs::read_dir(self.dir.path()).expect("the directory") {
            let entry = entry.expect("an entry");
            let name = entry.file_name();
            if name != "lock" && !name.to_string_lossy().ends_with("-shm") {
                std::fs::copy(entry.path(), image.path().join(name)).expect("a copy");
            }
        }
        let config = Config {
            dir: image.path().to_owned(),
            ..self.config.clone()
        };
        Self {
            dir: image,
            config,
            clock: self.clock.clone(),
        }
    }
}

fn key(n: u64) -> Key {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    bytes[8..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Key(bytes)
}

fn to(ids: &[u8]) -> Routes {
    ids.iter()
        .fold(Routes::NONE, |routes, id| routes.with(DestinationId(*id)))
}

fn event(n: u64, routes: Routes) -> Entry {
    Entry::Event(NewEvent {
        key: key(n),
        dedup: true,
        device: "d".into(),
        received: Timestamp::from_millis(1_000_000),
        routes,
        body: Bytes::from(format!("event {n}")),
        original: None,
        shed: None,
    })
}

fn broken(n: u64) -> Entry {
    Entry::Quarantine(NewQuarantine {
        received: Timestamp::from_millis(1_000_000),
        client_id: "c".into(),
        topic: "t".into(),
        class: "syntax",
        reason: format!("not JSON {n}"),
        payload: Bytes::from(format!("{{{n}")),
        properties: None,
    })
}

async fn append(handle: &Handle, entries: Vec<Entry>) -> Vec<Appended> {
    handle
        .append(entries)
        .await
        .expect("open")
        .await
        .expect("kept")
}

async fn settle(handle: &Handle, progress: Progress) {
    handle
        .progress(progress)
        .await
        .expect("open")
        .await
        .expect("kept");
}

fn delivered(id: u8, cursor: u64, count: u64) -> Progress {
    Progress {
        destination: DestinationId(id),
        cursor: Position(cursor),
        delivered: count,
        retry: Vec::new(),
        retried: Vec::new(),
        dead: Vec::new(),
        spent: None,
    }
}

fn read_all(handle: &Handle, id: u8, after: u64) -> Vec<Record> {
    let mut reader = handle.reader().expect("a reader");
    let end = *handle.committed().borrow();
    let mut after = Position(after);
    let mut records = Vec::new();
    while after < end {
        let page = reader
            .read(DestinationId(id), after, 100, 1 << 20)
            .expect("a page");
        assert!(
            page.scanned_to > after || !page.records.is_empty(),
            "reading moves on"
        );
        after = page.scanned_to;
        records.extend(page.records);
    }
    records
}

/// Waits until the journal's own account says so.
async fn until(handle: &Handle, what: impl Fn(&Status) -> bool) -> Arc<Status> {
    for _ in 0..2_000 {
        let status = handle.status();
        if what(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to that: {:?}", handle.status());
}

/// Brings the tables of a journal back to what they were in the first format.
fn to_first_format() -> String {
    let first = include_str!("migrations/1.sql").split(';');
    let ours = |one: &&str| {
        ["CREATE TABLE retry", "CREATE TABLE dead_letters"]
            .iter()
            .any(|table| one.contains(table))
    };
    let dropped = "DROP TABLE events_may_have_marks; DROP TABLE retry; DROP TABLE dead_letters;
        DROP TABLE devices; DROP TABLE commands; DROP TABLE shadows; DROP TABLE requests;
        DROP TABLE replays; DROP TABLE copies; DROP TABLE tallies; DROP TABLE beginnings;
        DROP TABLE gaps; DROP TABLE keys";
    [dropped]
        .into_iter()
        .chain(first.filter(ours))
        .collect::<Vec<_>>()
        .join(";")
}

/// Both equations of the ledger.
fn assert_balanced(status: &Status) {
    assert_eq!(
        status.accepted,
        status.stored + status.duplicate + status.quarantined + status.shed.iter().sum::<u64>()
    );
    for d in &status.destinations {
        let settled = d.delivered + d.expired + d.evicted + d.damaged + d.dead;
        assert_eq!(d.routed, settled + d.backlog, "{d:?}");
        assert!(d.retrying <= d.backlog, "{d:?}");
    }
}

fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 0x55], at).expect("written");
}

//! The read side over a real journal.

mod answers;
mod asking;
mod corrections;
mod ledger;
mod life;
mod room;
mod unset;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value as Json;
use tempfile::TempDir;

use tokio_util::sync::CancellationToken;

use super::{
    Config, Feed, Handle, Reader, Status,
    read::{History, In, Last, Search, Which},
};
use crate::{
    class::Class,
    clock::Clock,
    event::{Event, IdSource, Key, Marks, Measurement, Quality, TimeSource, Timestamp, Value},
    record::{DestinationId, Position, Routes},
    store::{
        self, Appended, Dead, Entry, Keep, NewEvent, NewQuarantine, OnFull, Progress, Shed, Store,
    },
};

/// 2026-03-01T12:00:00Z.
const NOON: i64 = 1_772_366_400;

/// A clock that stands where it was put, in seconds.
#[derive(Debug)]
struct At(Mutex<i64>);

impl Clock for At {
    fn now(&self) -> Timestamp {
        seconds(*self.0.lock().unwrap())
    }
}

fn seconds(at: i64) -> Timestamp {
    Timestamp::from_nanos(at * 1_000_000_000)
}

fn open(dir: &Path, max_bytes: u64, clock: &Arc<At>) -> store::Running {
    open_with(dir, max_bytes, clock, &["lake", "alarms"])
}

fn open_with(dir: &Path, max_bytes: u64, clock: &Arc<At>, destinations: &[&str]) -> store::Running {
    let config = store::Config {
        dir: dir.to_owned(),
        max_bytes,
        max_age: None,
        keep_delivered: None,
        on_full: OnFull::PushBack,
        // Of what says that it may be given up.
        shed: vec![Shed {
            class: Class::Low,
            above: 0,
            keep: Keep::None,
        }],
        reserve_bytes: 64 * 1024,
        dedup_age: Duration::from_hours(1),
        dedup_count: 100_000,
        dedup_memory_bytes: 16 << 20,
        destinations: destinations.iter().map(|name| (*name).into()).collect(),
        from_kept: Vec::new(),
        seal: penstock_broker::seal::Seal::default(),
    };
    let (store, _) = Store::open(config, clock.clone()).unwrap();
    store.run().unwrap()
}

/// A journal that runs, and where its read side is.
struct Place {
    dir: TempDir,
    store: store::Running,
    clock: Arc<At>,
    config: Config,
}

impl Place {
    /// With the destinations `lake` and `alarms`.
    fn new() -> Self {
        Self::of_size(64 << 20)
    }

    fn of_size(max_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(At(Mutex::new(NOON)));
        Self {
            store: open(dir.path(), max_bytes, &clock),
            dir,
            clock,
            config: Config {
                enabled: true,
                ..Config::default()
            },
        }
    }

    /// Ends the journal and opens it again: nothing of it is in memory.
    async fn reopened(self) -> Self {
        self.reopened_with(&["lake", "alarms"]).await
    }

    async fn reopened_with(self, destinations: &[&str]) -> Self {
        self.store.shutdown().await.unwrap();
        let store = open_with(self.dir.path(), 64 << 20, &self.clock, destinations);
        Self { store, ..self }
    }

    fn handle(&self) -> store::Handle {
        self.store.handle()
    }

    /// A read side in a directory of its own.
    fn feed(&self, dir: &Path) -> Feed {
        Feed::new(self.config.clone(), dir, self.handle(), self.clock.clone())
    }

    fn reader(&self, dir: &Path) -> Reader {
        Reader::open(dir, self.handle().listing().unwrap()).unwrap()
    }

    /// Built from scratch.
    fn built(&self) -> (TempDir, Reader) {
        let dir = tempfile::tempdir().unwrap();
        self.feed(dir.path()).catch_up().unwrap();
        let reader = self.reader(dir.path());
        (dir, reader)
    }

    async fn append(&self, entries: Vec<Entry>) -> Vec<Appended> {
        let receipt = self.handle().append(entries).await.unwrap();
        receipt.await.unwrap()
    }

    /// Settles the first `count` events of a destination.
    async fn settle(&self, id: u8, cursor: u64, delivered: u64, dead: Vec<Dead>) {
        let progress = Progress {
            destination: DestinationId(id),
            cursor: Position(cursor),
            delivered,
            retry: Vec::new(),
            retried: Vec::new(),
            dead,
            spent: None,
        };
        let receipt = self.handle().progress(progress).await.unwrap();
        receipt.await.unwrap();
    }
}

/// An event that was measured at a second, with its values by name.
fn event(n: u8, device: &str, at: i64, values: &[(&str, Value)]) -> Event {
    let measurement = |(name, value): &(&str, Value)| Measurement {
        name: (*name).into(),
        value: value.clone(),
        unit: (*name == "t").then(|| "Cel".into()),
        quality: Quality::Good,
        time: None,
    };
    Event {
        key: Key([n; 16]),
        id: None,
        id_source: IdSource::None,
        kind: "telemetry".into(),
        device: device.into(),
        site: None,
        time: seconds(at),
        time_source: TimeSource::Device,
        received: seconds(NOON),
        sequence: None,
        partition_key: None,
        topic: format!("devices/{device}/telemetry").into(),
        traceparent: None,
        measurements: values.iter().map(measurement).collect(),
        tags: vec![],
        marks: Marks::NONE,
        corrected: None,
        replayed: None,
    }
}

/// Is routed to `lake`.
fn entry(event: &Event) -> Entry {
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    Entry::Event(NewEvent {
        key: event.attributes().delivery_key(),
        dedup: false,
        device: event.device.clone(),
        received: event.received,
        routes: Routes(1),
        body: Bytes::from(body),
        original: None,
        shed: None,
    })
}

fn broken(reason: &str, payload: &str) -> Entry {
    Entry::Quarantine(NewQuarantine {
        received: seconds(NOON + 5),
        client_id: "press-9".into(),
        topic: "devices/press-9/telemetry".into(),
        class: "syntax",
        reason: reason.to_owned(),
        payload: Bytes::from(payload.to_owned()),
        properties: None,
    })
}

fn history(device: &str, name: &str, step_secs: i64) -> History {
    History {
        device: device.to_owned(),
        name: name.to_owned(),
        from: Timestamp::from_nanos(i64::MIN),
        to: Timestamp::from_nanos(i64::MAX),
        step_secs,
        after: None,
        limit: 1_000,
    }
}

fn search(q: &str, among: In, limit: usize, after: Option<String>) -> Search {
    Search {
        q: q.to_owned(),
        among,
        after,
        limit,
    }
}

fn items(answer: &Json) -> &Vec<Json> {
    answer["items"].as_array().unwrap()
}

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(180);

/// A read side that follows, in the data directory of the journal.
struct Following {
    handle: Handle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<crate::tasks::Result>,
}

impl Following {
    fn start(place: &Place) -> Self {
        Self::of(place.feed(place.dir.path()))
    }

    fn of(feed: Feed) -> Self {
        let stop = CancellationToken::new();
        Self {
            handle: feed.handle(),
            task: tokio::spawn(feed.run(stop.clone())),
            stop,
        }
    }

    async fn until(&self, what: impl Fn(&Status) -> bool) -> Status {
        let seen = async {
            loop {
                let status = self.handle.status();
                if what(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let seen = tokio::time::timeout(LONG, seen).await;
        seen.unwrap_or_else(|_| panic!("it never came to that: {:?}", self.handle.status()))
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn count(following: &Following, q: &str) -> usize {
    let asked = search(q, In::All, 1_000, None);
    let answer = following.handle.ask(move |reader| reader.search(&asked));
    items(&answer.await.unwrap()).len()
}

fn numbered(from: u8, to: u8) -> Vec<Entry> {
    let one = |n| entry(&event(n, "b7", NOON, &[("t", Value::Int(n.into()))]));
    (from..=to).map(one).collect()
}

//! A journal in memory, for tests: forgets what was not committed.

#[cfg(any(feature = "http", feature = "nats"))]
pub(super) mod certificates;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    Config, Kind, Start,
    batch::{Batch, Item},
    destination::Destination,
    engine::{Engine, Parts, Retrying},
    file,
    journal::{Journal, Pages},
    pace,
    place::Place,
    status::Handle,
};
use crate::{
    class::Classes,
    clock::Clock,
    event::{Event, IdSource, Key, Measurement, TimeSource, Timestamp, Value},
    record::{DestinationId, Position, Record, Routes},
    store::{self, Page, Progress, Receipt, Retry, Spent, Stopped},
};

/// When every test begins.
const START_MS: i64 = 1_700_000_000_000;
pub(super) const ID: DestinationId = DestinationId(0);

#[derive(Debug)]
pub(super) struct TestClock(pub(super) Instant);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        let millis = i64::try_from(self.0.elapsed().as_millis()).unwrap();
        Timestamp::from_millis(START_MS + millis)
    }
}

/// What is on disk, and what each engine may see of it.
#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) records: BTreeMap<Position, Record>,
    pub(super) cursor: Position,
    pub(super) delivered: u64,
    pub(super) retry: BTreeMap<Position, Retry>,
    pub(super) dead: BTreeMap<Position, (u32, String)>,
    pub(super) spent: Spent,
    pub(super) retry_most: usize,
    /// The last record that was read.
    pub(super) read_to: Position,
}

#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) disk: Arc<Mutex<Disk>>,
    pub(super) committed: watch::Sender<Position>,
    /// Progress waits while this is false.
    pub(super) open: watch::Sender<bool>,
    /// The lane of what is live at the same place.
    pub(super) beside: Option<Box<Model>>,
}

impl Model {
    pub(super) fn new() -> Self {
        Self {
            disk: Arc::default(),
            committed: watch::Sender::new(Position(0)),
            open: watch::Sender::new(true),
            beside: None,
        }
    }

    /// The journal has got further, with nothing for this one.
    pub(super) fn pass(&self, position: Position) {
        self.committed.send_replace(position);
    }

    /// Up to where nothing waits but for another attempt.
    fn clear(&self) -> Position {
        let disk = self.disk.lock().unwrap();
        let waits = disk.records.range(Position(disk.cursor.0 + 1)..).count() > 0;
        match waits {
            true => disk.cursor,
            false => *self.committed.borrow(),
        }
    }

    pub(super) fn append(&self, record: Record) {
        let position = record.position;
        self.disk.lock().unwrap().records.insert(position, record);
        self.committed.send_replace(position);
    }

    /// Puts all dead letters back, as a person would.
    pub(super) fn redrive(&self) {
        let mut disk = self.disk.lock().unwrap();
        let dead = std::mem::take(&mut disk.dead);
        for position in dead.keys() {
            let retry = Retry {
                first: None,
                record: disk.records[position].clone(),
                attempts: 0,
                not_before: Timestamp::from_millis(START_MS),
                reason: "redriven".to_owned(),
            };
            disk.retry.insert(*position, retry);
        }
    }

    pub(super) fn backlog(&self) -> usize {
        let disk = self.disk.lock().unwrap();
        disk.retry.len() + disk.records.range(Position(disk.cursor.0 + 1)..).count()
    }
}

impl Journal for Model {
    async fn progress(&self, progress: Progress) -> Result<Receipt, Stopped> {
        let (disk, mut open) = (self.disk.clone(), self.open.subscribe());
        Ok(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            drop(open.wait_for(|open| *open).await);
            let mut disk = disk.lock().unwrap();
            assert!(progress.cursor >= disk.cursor);
            let reported = std::mem::replace(&mut disk.cursor, progress.cursor);
            disk.delivered += progress.delivered;
            disk.spent = progress.spent.unwrap_or(disk.spent);
            // In the store's order: what is retried and dead leaves the list first.
            for position in progress.retried {
                assert!(disk.retry.remove(&position).is_some(), "it waited");
            }
            for dead in progress.dead {
                let position = dead.record.position;
                let waited = disk.retry.remove(&position).is_some();
                assert!(waited || position > reported, "it waited or is new");
                let twice = disk.dead.insert(position, (dead.attempts, dead.reason));
                assert!(twice.is_none(), "a record dies once");
            }
            for retry in progress.retry {
                let position = retry.record.position;
                assert!(position <= progress.cursor, "the cursor passed what waits");
                let known = disk.retry.insert(position, retry).is_some();
                assert!(known || position > reported, "it waited or is new");
            }
            disk.retry_most = disk.retry_most.max(disk.retry.len());
            Ok(Vec::new())
        }))
    }

    fn committed(&self) -> watch::Receiver<Position> {
        self.committed.subscribe()
    }

    fn retrying(&self, _: DestinationId) -> u64 {
        self.disk.lock().unwrap().retry.len() as u64
    }

    fn dead(&self, _: DestinationId) -> u64 {
        self.disk.lock().unwrap().dead.len() as u64
    }

    fn clear_to(&self, _: DestinationId) -> Position {
        self.beside
            .as_ref()
            .map_or(Position(0), |beside| beside.clear())
    }
}

impl Pages for Model {
    fn read(
        &mut self,
        _: DestinationId,
        after: Position,
        count: usize,
        bytes_max: usize,
    ) -> Result<Page, store::Error> {
        let mut disk = self.disk.lock().unwrap();
        let mut bytes = 0;
        let records: Vec<_> = disk
            .records
            .range(Position(after.0 + 1)..)
            .take(count)
            .map(|(_, record)| record.clone())
            .take_while(|record| {
                let more = bytes < bytes_max;
                bytes += record.body.len();
                more
            })
            .collect();
        let last = records.last().map_or(after, |record| record.position);
        disk.read_to = last;
        let follows = disk.records.range(Position(last.0 + 1)..).next().is_some();
        let scanned_to = match follows {
            true => last,
            false => last.max(*self.committed.borrow()),
        };
        Ok(Page {
            records,
            scanned_to,
        })
    }

    fn retries(
        &mut self,
        _: DestinationId,
        count: usize,
        _: usize,
    ) -> Result<Vec<Retry>, store::Error> {
        let disk = self.disk.lock().unwrap();
        Ok(disk.retry.values().take(count).cloned().collect())
    }
}

/// A record of `device`, whose key is made of its position.
pub(crate) fn record(position: u64, device: u8) -> Record {
    let at = Timestamp::from_millis(START_MS);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&position.to_be_bytes());
    let event = Event {
        key: Key(key),
        id: None,
        id_source: IdSource::None,
        kind: "iot.telemetry.v1".into(),
        device: format!("device-{device}").into(),
        site: None,
        time: at,
        time_source: TimeSource::Received,
        received: at,
        sequence: Some(position),
        partition_key: None,
        topic: "t".into(),
        traceparent: None,
        measurements: vec![Measurement {
            name: "temperature".into(),
            value: Value::Float(21.5),
            unit: Some("Cel".into()),
            quality: crate::event::Quality::Good,
            time: None,
        }],
        tags: Vec::new(),
        marks: crate::event::Marks::NONE,
        corrected: None,
        replayed: None,
    };
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    Record {
        position: Position(position),
        key: event.key,
        received: at,
        routes: Routes::NONE.with(ID),
        body: body.into(),
    }
}

/// A record whose event has a text of so many bytes.
pub(super) fn large_record(position: u64, bytes: usize) -> Record {
    large_record_of(position, 1, bytes)
}

/// The same of `device`.
pub(super) fn large_record_of(position: u64, device: u8, bytes: usize) -> Record {
    let small = record(position, device);
    let mut event = small.event().unwrap();
    event.measurements[0].value = Value::Text("x".repeat(bytes));
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    Record {
        body: body.into(),
        ..small
    }
}

/// A batch of records at these positions, of one device.
pub(super) fn batch(positions: impl IntoIterator<Item = u64>) -> Batch {
    let item = |position| Item::check(record(position, 1)).unwrap();
    Batch {
        items: positions.into_iter().map(item).collect(),
    }
}

/// An engine from the model's journal to `destination`.
pub(super) fn engine(
    model: &Model,
    destination: Arc<dyn Destination>,
    attempts_max: u32,
) -> (Engine<Model, Model>, Handle) {
    engine_at(model, destination, attempts_max, pace::Config::default())
}

/// The same at a pace.
pub(super) fn engine_at(
    model: &Model,
    destination: Arc<dyn Destination>,
    attempts_max: u32,
    pacing: pace::Config,
) -> (Engine<Model, Model>, Handle) {
    let one = config(pacing);
    engine_of(model, destination, attempts_max, &one, &Arc::default())
}

/// A destination, as far as its engine knows one.
pub(super) fn config(pacing: pace::Config) -> Config {
    Config {
        name: "test".into(),
        kind: Kind::File(file::Config::new("test".into())),
        retry_first: Duration::from_millis(10),
        retry_max: Duration::from_secs(1),
        attempts_max: 20,
        start: Start::Now,
        pacing,
        urgent: Classes::NONE,
        live: None,
        lane_of: None,
    }
}

/// The same as one of those that lead to a place.
pub(super) fn engine_of(
    model: &Model,
    destination: Arc<dyn Destination>,
    attempts_max: u32,
    config: &Config,
    place: &Arc<Place>,
) -> (Engine<Model, Model>, Handle) {
    let status = Handle::default();
    let (cursor, spent) = {
        let disk = model.disk.lock().unwrap();
        (disk.cursor, disk.spent)
    };
    let mut engine = Engine::new(Parts {
        name: config.name.clone(),
        id: ID,
        cursor,
        at: place.join(config, ID, spent),
        destination,
        retrying: Retrying {
            first: config.retry_first,
            max: config.retry_max,
            attempts_max,
        },
        journal: Arc::new(model.clone()),
        pages: model.clone(),
        clock: Arc::new(TestClock(Instant::now())),
        status: status.clone(),
        mode: status.mode(),
        pacing: config.pacing.clone(),
    });
    engine.begin_at(cursor, spent);
    (engine, status)
}

//! What questions cost ingest: `cargo bench -p penstock --bench read`. How long they take
//! with many events: `cargo bench -p penstock --bench read -- search 1000000`.
//!
//! The journal takes events as fast as it can, in turns with nobody asking, with the
//! read side following, and with eight clients beside that ask for history, words and
//! last values all the time. Only the ratios within one run mean something.

#![allow(clippy::print_stdout, missing_docs)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use penstock::{
    clock::{Clock as _, SystemClock},
    event::{Event, IdSource, Key, Marks, Measurement, Quality, TimeSource, Timestamp, Value},
    query::{
        Config, Feed, Handle,
        read::{History, In, Last, Search},
    },
    record::{DestinationId, Position, Routes},
    store::{self, Entry, NewEvent, OnFull, Progress, Store},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[path = "read/search.rs"]
mod search;

const CLIENTS: usize = 8;
const DEVICES: u64 = 100;
const GROUP: u64 = 16;
const WRITERS: u64 = 16;
/// Long enough that the journal removes as much as it takes in: what stays for a read side
/// at first makes ingest faster, not slower.
const TURN: Duration = Duration::from_secs(10);
const TURNS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let of_search = arguments.iter().position(|argument| argument == "search");
    match of_search {
        Some(at) => {
            let count = arguments.get(at + 1).and_then(|count| count.parse().ok());
            runtime.block_on(search::run(count.unwrap_or(1_000_000)));
        }
        None => runtime.block_on(run()),
    }
}

async fn run() {
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    let (mut answered, mut taken_over) = (0, [Vec::new(), Vec::new(), Vec::new()]);
    for _ in 0..TURNS {
        for (n, (reads, clients)) in [(false, 0), (true, 0), (true, CLIENTS)]
            .into_iter()
            .enumerate()
        {
            let turn = turn(reads, clients).await;
            rates[n].push(turn.rate);
            taken_over[n].push(turn.taken_over);
            answered += turn.answers;
        }
    }
    // Each to the one without in its own round: machines drift.
    let shares = |of: usize| {
        let pairs = rates[of].iter().zip(&rates[0]);
        pairs.map(|(with, without)| with / without).collect()
    };
    let shares: [Vec<f64>; 2] = [shares(1), shares(2)];
    let middle = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        rates[rates.len() / 2]
    };
    let [without, following, asked] = rates.map(middle);
    let [_, alone, beside] = taken_over.map(middle);
    let [share_following, share_asked] = shares.map(middle);
    println!("events/s, the middle of {TURNS} turns");
    println!("without a read side       {without:>10.0}");
    println!(
        "with one that follows     {following:>10.0}  {share_following:.2} of that; {alone:.0} taken over",
    );
    println!(
        "and {CLIENTS} clients that ask     {asked:>10.0}  {share_asked:.2} of that; {beside:.0} taken over",
    );
    println!("{answered} questions answered");
}

/// What one turn came to.
struct Turn {
    /// Events a second.
    rate: f64,
    /// Of those: in the read side by the end.
    taken_over: f64,
    /// Questions answered.
    answers: u64,
}

async fn turn(reads: bool, clients: usize) -> Turn {
    let dir = tempfile::tempdir().expect("a directory");
    let config = store_config(dir.path(), 1 << 30);
    let (store, _) = Store::open(config, Arc::new(SystemClock)).expect("a journal");
    let store = store.run().expect("a thread");
    let config = Config {
        enabled: reads,
        ..Config::default()
    };
    let feed = Feed::new(config, dir.path(), store.handle(), Arc::new(SystemClock));
    let (read, stop) = (feed.handle(), CancellationToken::new());
    let following = tokio::spawn(feed.run(stop.clone()));
    let done = Arc::new(AtomicBool::new(false));
    let answers = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    let number = Arc::new(AtomicU64::new(0));
    // Something to be asked for.
    append(&store.handle(), &number).await;
    for client in 0..clients {
        tasks.spawn(ask(client, read.clone(), done.clone(), answers.clone()));
    }
    let began = Instant::now();
    let before = number.load(Relaxed);
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (handle, number, done) = (store.handle(), number.clone(), done.clone());
        writers.spawn(async move {
            while !done.load(Relaxed) {
                append(&handle, &number).await;
            }
        });
    }
    let settling = tokio::spawn(settle(store.handle(), done.clone()));
    tokio::time::sleep(TURN).await;
    done.store(true, Relaxed);
    while writers.join_next().await.is_some() {}
    let secs = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let a_second = |count: u64| count as f64 / secs;
    let rate = a_second(number.load(Relaxed) - before);
    let taken_over = a_second(read.status().position);
    while tasks.join_next().await.is_some() {}
    settling.await.expect("settled");
    stop.cancel();
    following.await.expect("it ends").expect("in order");
    store.shutdown().await.expect("closed");
    Turn {
        rate,
        taken_over,
        answers: answers.load(Relaxed),
    }
}

fn store_config(dir: &std::path::Path, max_bytes: u64) -> store::Config {
    store::Config {
        dir: dir.to_owned(),
        max_bytes,
        max_age: None,
        keep_delivered: None,
        on_full: OnFull::PushBack,
        shed: Vec::new(),
        reserve_bytes: 1 << 20,
        dedup_age: Duration::from_hours(1),
        dedup_count: 1_000_000,
        dedup_memory_bytes: 64 << 20,
        destinations: vec!["lake".into()],
        from_kept: Vec::new(),
        seal: penstock_broker::seal::Seal::default(),
    }
}

/// Appends so many events, in large groups.
async fn append_many(store: &store::Handle, count: u64) {
    let mut number = 0;
    while number < count {
        let to = count.min(number + 1_000);
        let now = SystemClock.now();
        let entries = (number..to).map(|n| event(n, now)).collect();
        let receipt = store.append(entries).await.expect("open");
        receipt.await.expect("kept");
        number = to;
    }
}

async fn append(store: &store::Handle, number: &AtomicU64) {
    let now = SystemClock.now();
    let entries = (0..GROUP)
        .map(|_| event(number.fetch_add(1, Relaxed), now))
        .collect();
    let receipt = store.append(entries).await.expect("open");
    receipt.await.expect("kept");
}

fn event(n: u64, now: Timestamp) -> Entry {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&n.to_le_bytes());
    let device: Arc<str> = format!("press-{}", n % DEVICES).into();
    let measured = |name: &str, value| Measurement {
        name: name.into(),
        value,
        unit: None,
        quality: Quality::Good,
        time: None,
    };
    #[expect(clippy::cast_precision_loss, reason = "a measurement")]
    let temperature = (n % 1_000) as f64 / 10.0;
    let event = Event {
        key: Key(key),
        id: None,
        id_source: IdSource::Sequence,
        kind: "telemetry".into(),
        device: device.clone(),
        site: None,
        time: now,
        time_source: TimeSource::Device,
        received: now,
        sequence: Some(n),
        partition_key: None,
        topic: format!("devices/{device}/telemetry").into(),
        traceparent: None,
        measurements: vec![
            measured("temperature", Value::Float(temperature)),
            measured("state", Value::Text(format!("word{}", n % 97))),
        ],
        tags: vec![],
        marks: Marks::NONE,
        corrected: None,
        replayed: None,
    };
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    Entry::Event(NewEvent {
        key: event.key,
        dedup: true,
        device,
        received: now,
        routes: Routes::NONE.with(DestinationId(0)),
        body: Bytes::from(body),
        original: None,
        shed: None,
    })
}

/// Everything is delivered a moment later, so that the journal stays small.
async fn settle(store: store::Handle, done: Arc<AtomicBool>) {
    let committed = store.committed();
    let mut settled = Position(0);
    while !done.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let to = *committed.borrow();
        let progress = Progress {
            destination: DestinationId(0),
            cursor: to,
            delivered: to.0 - settled.0,
            retry: Vec::new(),
            retried: Vec::new(),
            dead: Vec::new(),
            spent: None,
        };
        let receipt = store.progress(progress).await.expect("open");
        receipt.await.expect("kept");
        settled = to;
    }
}

async fn ask(client: usize, read: Handle, done: Arc<AtomicBool>, answers: Arc<AtomicU64>) {
    let mut n = client;
    while !done.load(Relaxed) {
        n += 1;
        let answer = read
            .ask(move |reader| {
                Ok(match n % 4 {
                    0 => reader.last(&Last {
                        limit: 100,
                        ..Last::default()
                    }),
                    1 => reader.search(&Search {
                        q: format!("word{} device:press*", n % 97),
                        among: In::Events,
                        after: None,
                        limit: 100,
                    }),
                    kind => reader.history(&History {
                        device: format!("press-{}", n % 100),
                        name: "temperature".to_owned(),
                        from: Timestamp::from_nanos(0),
                        to: Timestamp::from_nanos(i64::MAX),
                        step_secs: if kind == 2 { 1 } else { 60 },
                        after: None,
                        limit: 1_000,
                    }),
                }?
                // As over HTTP.
                .to_string())
            })
            .await;
        match answer {
            Ok(_) => {
                answers.fetch_add(1, Relaxed);
            }
            // At the beginning there is nothing to ask.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

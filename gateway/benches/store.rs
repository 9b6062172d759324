//! How fast the journal takes events: `cargo bench -p penstock --bench store`.
//!
//! Ratios within one run mean something; absolute figures depend on the disk.
//! Arguments after `--` choose cases by a part of their name. `-- ratio` is what sealing
//! values costs, plain and sealed in turn. `-- backlog` is only
//! run when asked for: it fills a journal with ten million undelivered events
//! (`PENSTOCK_BACKLOG` says another number), keeps it for the next time, and tells how
//! long a start takes with them.

#![allow(clippy::print_stdout, missing_docs)]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use penstock::{
    clock::SystemClock,
    event::{Key, Timestamp},
    record::{DestinationId, Position, Routes},
    store::{Config, Entry, Handle, NewEvent, OnFull, Progress, Store},
};
use penstock_broker::seal::{Key as OperatorsKey, Seal};

/// With key and checksum a frame of 359 bytes.
const BODY_BYTES: usize = 339;

struct Case {
    name: &'static str,
    events: u64,
    /// Entries in a group, groups awaited at a time, tasks that append.
    group: u64,
    window: usize,
    tasks: u64,
    dedup: bool,
    readers: u8,
    /// Keys remembered before the clock starts.
    keys_before: u64,
    /// Values lie sealed.
    sealed: bool,
}

const CASES: [Case; 7] = [
    Case {
        name: "append, groups of 1, one at a time",
        events: 20_000,
        group: 1,
        window: 1,
        tasks: 1,
        dedup: false,
        readers: 0,
        keys_before: 0,
        sealed: false,
    },
    Case {
        name: "append, groups of 16",
        events: 1_500_000,
        group: 16,
        window: 16,
        tasks: 16,
        dedup: false,
        readers: 0,
        keys_before: 0,
        sealed: false,
    },
    Case {
        name: "append + dedup",
        events: 1_500_000,
        group: 16,
        window: 16,
        tasks: 16,
        dedup: true,
        readers: 0,
        keys_before: 0,
        sealed: false,
    },
    Case {
        name: "append + dedup + 1 reader + trim",
        events: 3_000_000,
        group: 16,
        window: 16,
        tasks: 16,
        dedup: true,
        readers: 1,
        keys_before: 0,
        sealed: false,
    },
    Case {
        name: "append + dedup + 1 reader + trim, sealed",
        events: 3_000_000,
        group: 16,
        window: 16,
        tasks: 16,
        dedup: true,
        readers: 1,
        keys_before: 0,
        sealed: true,
    },
    Case {
        name: "append + dedup, groups of 1 + 1 reader + trim",
        events: 1_500_000,
        group: 1,
        window: 100,
        tasks: 50,
        dedup: true,
        readers: 1,
        keys_before: 0,
        sealed: false,
    },
    Case {
        name: "append + dedup + 3 readers + trim, 2M keys",
        events: 3_000_000,
        group: 16,
        window: 16,
        tasks: 16,
        dedup: true,
        readers: 3,
        keys_before: 2_000_000,
        sealed: false,
    },
];

fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    if wanted.iter().any(|w| w == "backlog") {
        return backlog();
    }
    if wanted.iter().any(|w| w == "ratio") {
        return sealing();
    }
    println!(
        "{:<48} {:>9} {:>8} {:>9} {:>9} {:>8} {:>8} {:>8}",
        "case", "events/s", "B/event", "ev/commit", "drained/s", "log MiB", "open ms", "take ms"
    );
    for case in &CASES {
        if wanted.is_empty() || wanted.iter().any(|w| case.name.contains(w.as_str())) {
            run(case);
        }
    }
}

/// Appends in a second.
fn run(case: &Case) -> f64 {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    runtime().block_on(measure(case, dir.path()))
}

/// What sealing values costs: each case plain and sealed in turn, as machines drift.
fn sealing() {
    const TURNS: usize = 5;
    for case in [&CASES[3], &CASES[5]] {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..TURNS {
            for (sealed, rates) in [false, true].into_iter().zip(&mut rates) {
                rates.push(run(&Case { sealed, ..*case }));
            }
        }
        let [plain, sealed] = rates.map(|mut of| {
            of.sort_by(f64::total_cmp);
            of[TURNS / 2]
        });
        println!(
            "{}: {plain:.0} plain, {sealed:.0} sealed, {:.2} of it (middles of {TURNS})",
            case.name,
            sealed / plain
        );
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// How long a start takes with much behind it.
fn backlog() {
    let wanted = std::env::var("PENSTOCK_BACKLOG").ok();
    let wanted = wanted.map_or(10_000_000, |n| {
        n.parse().expect("PENSTOCK_BACKLOG is a number")
    });
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("backlog-{wanted}"));
    let config = config(&dir, 1);
    let case = Case {
        name: "backlog",
        dedup: true,
        ..CASES[1]
    };
    let routes = Routes::NONE.with(DestinationId(0));
    runtime().block_on(async {
        let (store, _) = Store::open(config.clone(), Arc::new(SystemClock)).expect("opens");
        let running = store.run().expect("a thread");
        let there = running.handle().status().buffered;
        if there < wanted {
            println!("filling {} with {} events", dir.display(), wanted - there);
            produce(&running.handle(), &case, routes, there, wanted - there).await;
        }
        running.shutdown().await.expect("an orderly end");
        for n in 1..=3 {
            let began = Instant::now();
            let (store, report) =
                Store::open(config.clone(), Arc::new(SystemClock)).expect("opens");
            let opened = began.elapsed();
            let running = store.run().expect("a thread");
            produce(&running.handle(), &case, Routes::NONE, u64::MAX / 4 + n, 1).await;
            let taken = began.elapsed();
            let status = running.handle().status();
            println!(
                "{} events, {} keys, {:.1} GiB: open in {:.0} ms (checked whole: {}), first event kept after {:.0} ms",
                status.buffered,
                status.dedup_keys,
                status.file_bytes as f64 / f64::from(1 << 30),
                opened.as_secs_f64() * 1e3,
                report.checked_whole,
                taken.as_secs_f64() * 1e3,
            );
            running.shutdown().await.expect("an orderly end");
        }
    });
}

fn config(dir: &Path, destinations: u8) -> Config {
    Config {
        dir: dir.to_owned(),
        max_bytes: 16 << 30,
        max_age: Some(Duration::from_secs(7 * 24 * 3600)),
        keep_delivered: None,
        on_full: OnFull::PushBack,
        shed: Vec::new(),
        reserve_bytes: 16 << 20,
        dedup_age: Duration::from_secs(24 * 3600),
        dedup_count: 2_000_000,
        dedup_memory_bytes: 128 << 20,
        destinations: (0..destinations)
            .map(|n| Arc::from(format!("d{n}")))
            .collect(),
        from_kept: Vec::new(),
        seal: Seal::default(),
    }
}

async fn measure(case: &Case, dir: &Path) -> f64 {
    // One that nobody reads for keeps everything in the journal.
    let mut config = config(dir, case.readers.max(1));
    if case.sealed {
        let key = OperatorsKey::random().expect("random bytes");
        config.seal = Seal::new(&key, &[]).expect("random bytes");
    }
    let (store, _) = Store::open(config.clone(), Arc::new(SystemClock)).expect("opens");
    let running = store.run().expect("a thread");
    let handle = running.handle();
    let mut routes = Routes::NONE;
    for n in 0..case.readers.max(1) {
        routes = routes.with(DestinationId(n));
    }
    if case.keys_before > 0 {
        produce(&handle, case, Routes::NONE, u64::MAX / 2, case.keys_before).await;
    }
    let before = handle.status();
    let start = before.committed;
    let end = start.0 + case.events;
    let began = Instant::now();
    let readers: Vec<_> = (0..case.readers)
        .map(|id| {
            let handle = handle.clone();
            tokio::task::spawn_blocking(move || drain(&handle, DestinationId(id), start, end))
        })
        .collect();
    produce(&handle, case, routes, 0, case.events).await;
    let appended = began.elapsed();
    for reader in readers {
        reader.await.expect("a reader");
    }
    let drained = began.elapsed();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = handle.status();
    let log = std::fs::metadata(dir.join("journal.db-wal")).map_or(0, |m| m.len());
    drop(handle);
    running.shutdown().await.expect("an orderly end");

    // Again, as after a restart: how long until it is open, and takes an event.
    let began = Instant::now();
    let (store, _) = Store::open(config, Arc::new(SystemClock)).expect("opens");
    let opened = began.elapsed();
    let running = store.run().expect("a thread");
    let handle = running.handle();
    produce(&handle, case, routes, u64::MAX / 4, 1).await;
    let taken = began.elapsed();
    let mut drain_rate = case.events as f64 / drained.as_secs_f64();
    if case.readers == 0 {
        // What nobody read is read from disk now.
        let (began, end) = (Instant::now(), handle.status().committed.0);
        let reader = move || drain(&handle, DestinationId(0), start, end);
        tokio::task::spawn_blocking(reader).await.expect("a reader");
        drain_rate = case.events as f64 / began.elapsed().as_secs_f64();
    }
    let append_rate = case.events as f64 / appended.as_secs_f64();
    println!(
        "{:<48} {:>9.0} {:>8.0} {:>9.0} {:>9.0} {:>8.1} {:>8.0} {:>8.0}",
        case.name,
        append_rate,
        (after.written_bytes - before.written_bytes) as f64 / case.events as f64,
        case.events as f64 / (after.commits - before.commits) as f64,
        drain_rate,
        log as f64 / f64::from(1 << 20),
        opened.as_secs_f64() * 1e3,
        taken.as_secs_f64() * 1e3,
    );
    running.shutdown().await.expect("an orderly end");
    append_rate
}

async fn produce(handle: &Handle, case: &Case, routes: Routes, first: u64, events: u64) {
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let device: Arc<str> = "bench".into();
    let per_task = events / case.tasks;
    let mut tasks = Vec::new();
    for task in 0..case.tasks {
        let share = if task == 0 {
            events - per_task * (case.tasks - 1)
        } else {
            per_task
        };
        let (handle, body, device) = (handle.clone(), body.clone(), device.clone());
        let (group, window, dedup) = (case.group, case.window, case.dedup);
        tasks.push(tokio::spawn(async move {
            let mut waiting = std::collections::VecDeque::new();
            let mut sent = 0;
            while sent < share {
                let count = group.min(share - sent);
                let entries = (0..count)
                    .map(|n| {
                        Entry::Event(NewEvent {
                            key: key(first + (task << 40) + sent + n),
                            dedup,
                            device: device.clone(),
                            received: Timestamp::from_millis(1_800_000_000_000),
                            routes,
                            body: body.clone(),
                            original: None,
                            shed: None,
                        })
                    })
                    .collect();
                sent += count;
                waiting.push_back(handle.append(entries).await.expect("open"));
                if waiting.len() >= window {
                    waiting
                        .pop_front()
                        .expect("there is one")
                        .await
                        .expect("kept");
                }
            }
            for receipt in waiting {
                receipt.await.expect("kept");
            }
        }));
    }
    for task in tasks {
        task.await.expect("a task");
    }
}

/// Reads and settles in pages of up to 500 until `end` is behind it.
fn drain(handle: &Handle, destination: DestinationId, mut after: Position, end: u64) {
    let mut reader = handle.reader().expect("a reader");
    let mut committed = handle.committed();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    while after.0 < end {
        let page = reader
            .read(destination, after, 500, 1 << 20)
            .expect("a page");
        if page.scanned_to == after {
            runtime
                .block_on(committed.wait_for(|c| *c > after))
                .expect("open");
            continue;
        }
        after = page.scanned_to;
        let progress = Progress {
            destination,
            cursor: after,
            delivered: page.records.len() as u64,
            retry: Vec::new(),
            retried: Vec::new(),
            dead: Vec::new(),
            spent: None,
        };
        drop(runtime.block_on(handle.progress(progress)).expect("open"));
    }
}

fn key(n: u64) -> Key {
    let mixed = u128::from(n ^ 0x5851_f42d).wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645);
    Key((mixed ^ (mixed >> 64)).to_le_bytes())
}

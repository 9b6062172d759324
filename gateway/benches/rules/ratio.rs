//! What many rules cost ingest as a whole, the journal included: in turns, because
//! machines drift, and each turn against that with ten rules in its own round.

#![allow(clippy::print_stdout)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use penstock::{
    clock::SystemClock,
    ingest::{Config, Ingest},
    record::{DestinationId, Routes},
    rules::{Pattern, Rule, RuleSet},
    store::{self, OnFull, Progress, Store},
};
use penstock_broker::{Admission as _, Protocol, Publish, Publisher, QoS};
use tokio::task::JoinSet;

use super::pattern;

const RULES: [usize; 3] = [10, 100, 10_000];
const PUBLISHERS: usize = 16;
/// Messages that a publisher hands over together.
const BATCH: u64 = 16;
const TURN: Duration = Duration::from_secs(5);
const TURNS: usize = 5;

pub(super) fn run() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut rates: [Vec<f64>; RULES.len()] = Default::default();
    for _ in 0..TURNS {
        for (rules, rates) in RULES.into_iter().zip(&mut rates) {
            rates.push(runtime.block_on(turn(rules)));
        }
    }
    let middle = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!("messages/s into a journal, the middle of {TURNS} turns of {TURN:?}");
    for (rules, of) in RULES.into_iter().zip(&rates) {
        let ratios = of.iter().zip(&rates[0]).map(|(of, ten)| of / ten);
        println!(
            "{rules:>6} rules  {:>10.0}  {:.2} of that with {}",
            middle(of.clone()),
            middle(ratios.collect()),
            RULES[0]
        );
    }
}

async fn turn(rules: usize) -> f64 {
    let dir = tempfile::tempdir().expect("a directory");
    let config = store::Config {
        dir: dir.path().to_owned(),
        max_bytes: 1 << 30,
        max_age: None,
        keep_delivered: None,
        on_full: OnFull::PushBack,
        shed: Vec::new(),
        reserve_bytes: 1 << 20,
        dedup_age: Duration::from_hours(1),
        dedup_count: 1_000_000,
        dedup_memory_bytes: 64 << 20,
        destinations: vec!["d".into(), "e".into()],
        from_kept: Vec::new(),
        seal: penstock_broker::seal::Seal::default(),
    };
    let clock = Arc::new(SystemClock);
    let (store, _) = Store::open(config, clock.clone()).expect("a journal");
    let store = store.run().expect("a thread");
    let ingest = Arc::new(Ingest::new(
        Config::default(),
        Routes(3),
        store.handle(),
        clock,
    ));
    let rule = |n| {
        let pattern = Pattern::parse(&pattern(n)).expect("it is one");
        Rule::to(&format!("r{n}"), pattern, vec!["d".into()])
    };
    let rules: Vec<_> = (0..rules).map(rule).collect();
    ingest.set_rules(RuleSet::new(&rules, |_| Some(DestinationId(0))).expect("it is known"));

    let (done, taken) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut publishers = JoinSet::new();
    let began = Instant::now();
    for publisher in 0..PUBLISHERS {
        publishers.spawn(publish(
            publisher,
            ingest.clone(),
            done.clone(),
            taken.clone(),
        ));
    }
    let settling = tokio::spawn(settle(store.handle(), done.clone()));
    tokio::time::sleep(TURN).await;
    done.store(true, Relaxed);
    while publishers.join_next().await.is_some() {}
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = taken.load(Relaxed) as f64 / began.elapsed().as_secs_f64();
    settling.await.expect("settled");
    store.shutdown().await.expect("closed");
    rate
}

async fn publish(of: usize, ingest: Arc<Ingest>, done: Arc<AtomicBool>, taken: Arc<AtomicU64>) {
    let publisher = Arc::new(Publisher {
        client_id: format!("press-{of}").into(),
        username: None,
        identity: None,
        origin: None,
        address: None,
        protocol: Protocol::V5,
        turn: Default::default(),
        turns_over: Default::default(),
    });
    let mut number = 0_u64;
    while !done.load(Relaxed) {
        let batch = (number..number + BATCH).map(|n| {
            // Devices that rules ask for, one after the other.
            let device = (n * 37 + of as u64 * 613) % 10_000;
            let payload = format!(
                r#"{{"seq":{n},"boot":"{of}","temperature":{}.5,"humidity":40.1,"pressure":1013.25,"line":{device},"state":"running","ok":true}}"#,
                60 + n % 40
            );
            Publish {
                topic: format!("devices/press-{device}/telemetry").into(),
                payload: payload.into(),
                qos: QoS::AtLeastOnce,
                retain: false,
                dup: false,
                properties: None,
                delivery: None,
            }
        });
        let receipt = ingest.admit(&publisher, batch.collect()).await;
        receipt.await;
        number += BATCH;
        taken.fetch_add(BATCH, Relaxed);
    }
}

/// Everything is delivered a moment later, so that the journal stays small.
async fn settle(store: store::Handle, done: Arc<AtomicBool>) {
    let committed = store.committed();
    while !done.load(Relaxed) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let to = *committed.borrow();
        for destination in [DestinationId(0), DestinationId(1)] {
            let progress = Progress {
                destination,
                cursor: to,
                delivered: 0,
                retry: Vec::new(),
                retried: Vec::new(),
                dead: Vec::new(),
                spent: None,
            };
            let receipt = store.progress(progress).await.expect("open");
            receipt.await.expect("kept");
        }
    }
}

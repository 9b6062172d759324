//! How fast a backlog leaves: `cargo bench -p penstock --bench forward`.
//!
//! Ratios within one run mean something; absolute figures depend on the disk.
//! `PENSTOCK_NATS_URL` adds a JetStream server to the destinations.

#![allow(clippy::print_stdout, missing_docs)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, routing::post};
use penstock::{
    boots::Boots,
    clock::{Clock, SystemClock},
    event::{Event, IdSource, Key, Measurement, TimeSource, Timestamp, Value, View},
    forward::{self, Forwarder, Kind, Made, file, http, nats},
    record::{DestinationId, Routes},
    store::{Config, Entry, NewEvent, OnFull, Store},
};
use tokio_util::sync::CancellationToken;

const EVENTS: u64 = 300_000;

fn main() -> anyhow::Result<()> {
    encoding();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let dir = tempfile::tempdir()?;
        drain(
            "file",
            Kind::File(file::Config::new(dir.path().join("events"))),
        )
        .await?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let app = Router::new().route("/", post(|body: Bytes| async move { drop(body) }));
        let server = tokio::spawn(async move { axum::serve(listener, app).await });
        for gzip in [false, true] {
            let config = http::Config {
                gzip,
                ..http::Config::new(format!("http://{address}/"))
            };
            drain(
                if gzip { "http, gzip" } else { "http" },
                Kind::Http(Box::new(config)),
            )
            .await?;
        }
        server.abort();
        if let Ok(url) = std::env::var("PENSTOCK_NATS_URL") {
            drain("nats", Kind::Nats(nats::Config::new(vec![url], "BENCH"))).await?;
        }
        Ok(())
    })
}

fn encoding() {
    let mut cbor = Vec::new();
    event(1).to_cbor(&mut cbor);
    let mut json = Vec::new();
    View::parse(&cbor)
        .expect("just written")
        .to_json(Some("1"), &mut json);
    println!(
        "event: {} bytes stored, {} bytes of JSON",
        cbor.len(),
        json.len()
    );
    let per_event = |name: &str, work: &mut dyn FnMut(&mut Vec<u8>)| {
        let began = Instant::now();
        for _ in 0..EVENTS {
            json.clear();
            work(&mut json);
        }
        println!(
            "{name}: {} ns per event",
            began.elapsed().as_nanos() / u128::from(EVENTS)
        );
    };
    let mut per_event = per_event;
    per_event("decode and write JSON", &mut |json| {
        Event::from_cbor(&cbor)
            .expect("just written")
            .to_json(Some("1"), json);
    });
    per_event("look at it in place and write JSON", &mut |json| {
        View::parse(&cbor)
            .expect("just written")
            .to_json(Some("1"), json);
    });
    per_event("look at it in place", &mut |_| {
        assert!(View::parse(&cbor).is_ok());
    });
}

/// Fills a journal, then delivers all of it.
async fn drain(name: &str, kind: Kind) -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let config = Config {
        dir: dir.path().to_owned(),
        max_bytes: 4 << 30,
        max_age: None,
        keep_delivered: None,
        on_full: OnFull::PushBack,
        shed: Vec::new(),
        reserve_bytes: 1 << 20,
        dedup_age: Duration::from_secs(3600),
        dedup_count: 1,
        dedup_memory_bytes: 1 << 20,
        destinations: vec!["bench".into()],
        from_kept: Vec::new(),
        seal: penstock_broker::seal::Seal::default(),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (store, _) = Store::open(config, clock.clone())?;
    let store = store.run()?;
    let handle = store.handle();
    let mut receipts = Vec::new();
    for first in (0..EVENTS).step_by(1_000) {
        let group = (first..first + 1_000)
            .map(|n| Entry::Event(entry(n)))
            .collect();
        receipts.push(handle.append(group).await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    let destination = forward::Config {
        name: "bench".into(),
        kind,
        retry_first: forward::Config::RETRY_FIRST,
        retry_max: forward::Config::RETRY_MAX,
        start: forward::Start::Now,
        pacing: forward::pace::Config::default(),
        urgent: penstock::class::Classes::NONE,
        live: None,
        lane_of: None,
        attempts_max: forward::Config::ATTEMPTS_MAX,
    };
    let known = handle.status().destinations[0].clone();
    let repair = Boots::new(clock.clone(), dir.path());
    let made = Made::new(&destination, &handle, &clock)?;
    let forwarder = Forwarder::new(
        made,
        &known,
        &Arc::default(),
        handle.clone(),
        Arc::new(repair),
        clock,
    );
    let stop = CancellationToken::new();
    let began = Instant::now();
    let cpu = cpu_time();
    let task = tokio::spawn(forwarder.run(stop.clone()));
    while handle.status().destinations[0].backlog > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (took, cpu) = (began.elapsed(), cpu_time() - cpu);
    println!(
        "drain to {name}: {:.0} events/s, {:.1} us of CPU per event",
        EVENTS as f64 / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / EVENTS as f64
    );
    stop.cancel();
    task.await??;
    store.shutdown().await?;
    Ok(())
}

/// Of the whole process, receivers in it included.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit_once(')')
        .map_or("", |(_, rest)| rest)
        .split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}

fn entry(n: u64) -> NewEvent {
    let event = event(n);
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    NewEvent {
        key: event.key,
        dedup: false,
        device: event.device,
        received: event.received,
        routes: Routes::NONE.with(DestinationId(0)),
        body: body.into(),
        original: None,
        shed: None,
    }
}

fn event(n: u64) -> Event {
    let at = Timestamp::from_millis(1_700_000_000_123);
    let measurement = |name: &str, value| Measurement {
        name: name.into(),
        value,
        unit: None,
        quality: penstock::event::Quality::Good,
        time: None,
    };
    Event {
        key: Key((u128::from(n) << 64 | 0x9e37_79b9).to_be_bytes()),
        id: Some(format!("sim-device-{}-1-{n}", n % 50).into()),
        id_source: IdSource::Field,
        kind: "iot.telemetry.v1".into(),
        device: format!("device-{}", n % 50).into(),
        site: None,
        time: at,
        time_source: TimeSource::Device,
        received: at,
        sequence: Some(n),
        partition_key: None,
        topic: format!("devices/device-{}/telemetry", n % 50).into(),
        traceparent: None,
        measurements: vec![
            measurement("temperature", Value::Float(21.53)),
            measurement("humidity", Value::Float(48.2)),
            measurement("pressure", Value::Int(1013)),
            measurement("battery", Value::Float(3.71)),
        ],
        tags: vec![("boot".into(), "1".into())],
        marks: penstock::event::Marks::NONE,
        corrected: None,
        replayed: None,
    }
}

//! Publishes into a real journal: what is acknowledged is on disk.

#![allow(clippy::unwrap_used, reason = "a test that fails is to say where")]

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use penstock::{
    admin,
    clock::{Clock as _, SystemClock},
    ingest::{Config, Ingest},
    record::{Position, Routes},
    store::{self, Listing, OnFull, Running, Store},
};
use penstock_broker::{Admission, Properties, Protocol, Publish, Publisher, QoS, Verdict};

struct Gateway {
    store: Running,
    ingest: Ingest,
    publisher: Arc<Publisher>,
}

impl Gateway {
    fn open(dir: &Path, config: Config) -> Self {
        Self::with_size(dir, config, 1 << 30)
    }

    fn with_size(dir: &Path, config: Config, max_bytes: u64) -> Self {
        let settings = store::Config {
            dir: dir.to_path_buf(),
            max_bytes,
            max_age: None,
            keep_delivered: None,
            on_full: OnFull::PushBack,
            shed: Vec::new(),
            reserve_bytes: 1 << 20,
            dedup_age: Duration::from_secs(3_600),
            dedup_count: 100_000,
            dedup_memory_bytes: 16 << 20,
            destinations: vec!["events".into()],
            from_kept: Vec::new(),
            seal: penstock_broker::seal::Seal::default(),
        };
        let clock = Arc::new(SystemClock);
        let (store, _) = Store::open(settings, clock.clone()).expect("an empty directory");
        let store = store.run().expect("a thread");
        let handle = store.handle();
        let routes = Routes::NONE.with(handle.destination_id("events").expect("it is configured"));
        let publisher = Publisher {
            identity: None,
            client_id: "c1".into(),
            username: None,
            origin: None,
            address: Some(([127, 0, 0, 1], 1).into()),
            protocol: Protocol::V5,
            turn: 0.into(),
            turns_over: Arc::default(),
        };
        Self {
            ingest: Ingest::new(config, routes, handle, clock),
            store,
            publisher: Arc::new(publisher),
        }
    }

    async fn admit(&self, batch: Vec<Publish>) -> Vec<Verdict> {
        self.ingest.admit(&self.publisher, batch).await.await
    }
}

fn publish(topic: &str, payload: &str) -> Publish {
    Publish {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        properties: None,
        delivery: None,
    }
}

fn identified(id: &str) -> Publish {
    let user = vec![("idempotency-key".into(), id.into())];
    let properties = Properties {
        user,
        ..Properties::default()
    };
    Publish {
        properties: Some(Arc::new(properties)),
        ..publish("devices/b7/t", "{\"v\":1}")
    }
}

#[tokio::test]
async fn a_resend_is_a_duplicate_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::open(dir.path(), Config::default());
    assert_eq!(
        gateway.admit(vec![identified("a"), identified("b")]).await,
        vec![Verdict::Accepted; 2]
    );
    let resent = vec![identified("b"), identified("c"), identified("c")];
    let expect = vec![Verdict::Duplicate, Verdict::Accepted, Verdict::Duplicate];
    assert_eq!(gateway.admit(resent).await, expect);
    gateway.store.shutdown().await.unwrap();

    let gateway = Gateway::open(dir.path(), Config::default());
    let resent = vec![identified("a"), identified("d")];
    assert_eq!(
        gateway.admit(resent).await,
        [Verdict::Duplicate, Verdict::Accepted]
    );
    let handle = gateway.store.handle();
    let id = handle.destination_id("events").unwrap();
    let page = handle
        .reader()
        .unwrap()
        .read(id, Position(0), 100, 1 << 20)
        .unwrap();
    let ids: Vec<_> = page
        .records
        .iter()
        .map(|record| record.event().unwrap().id.unwrap().to_string())
        .collect();
    assert_eq!(
        ids,
        ["a", "b", "c", "d"],
        "each once, in the order of acknowledgement"
    );
    gateway.store.shutdown().await.unwrap();
}

#[tokio::test]
async fn readings_that_nothing_tells_apart_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::open(dir.path(), Config::default());
    let on_off_on = ["ON", "OFF", "ON"].map(|state| publish("devices/plug/state", state));
    assert_eq!(
        gateway.admit(on_off_on.to_vec()).await,
        vec![Verdict::Accepted; 3]
    );
    assert_eq!(
        gateway.admit(on_off_on.to_vec()).await,
        vec![Verdict::Accepted; 3]
    );
    gateway.store.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_decoded_is_quarantined_acknowledged_and_retried_by_a_better_mapping() {
    let dir = tempfile::tempdir().unwrap();
    let unmapped = Config {
        mappings: vec![],
        ..Config::default()
    };
    let gateway = Gateway::open(dir.path(), unmapped);
    assert_eq!(
        gateway.admit(vec![identified("a")]).await,
        [Verdict::Accepted]
    );
    let broken = publish("devices/b7/t", "{\"v\":");
    assert_eq!(gateway.admit(vec![broken]).await, [Verdict::Accepted]);
    gateway.store.shutdown().await.unwrap();

    let gateway = Gateway::open(dir.path(), Config::default());
    let handle = gateway.store.handle();
    let kept = Listing::open(dir.path(), &penstock_broker::seal::Seal::default())
        .unwrap()
        .quarantine(0, 10)
        .unwrap();
    assert_eq!(kept.len(), 2);
    for item in kept {
        admin::retry(&handle, &gateway.ingest, item).await.unwrap();
    }
    let left = Listing::open(dir.path(), &penstock_broker::seal::Seal::default())
        .unwrap()
        .quarantine(0, 10)
        .unwrap();
    assert_eq!(left.len(), 1, "the broken one stays");
    // The device's own resend finds the event that the retry made.
    assert_eq!(
        gateway.admit(vec![identified("a")]).await,
        [Verdict::Duplicate]
    );
    gateway.store.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_full_journal_pushes_the_whole_batch_back() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::with_size(dir.path(), Config::default(), 8 << 20);
    let large = "x".repeat(512 << 10);
    let mut last = Vec::new();
    for _ in 0..64 {
        last = gateway
            .admit(vec![
                publish("devices/b7/t", &large),
                publish("devices/b7/t", "1"),
            ])
            .await;
        if last.contains(&Verdict::Busy) {
            break;
        }
    }
    assert_eq!(last, [Verdict::Busy, Verdict::Busy]);
    let status = gateway.store.handle().status();
    assert_eq!(
        status.accepted,
        status.stored + status.duplicate + status.quarantined
    );
    gateway.store.shutdown().await.unwrap();
}

/// Asked again for as long as the disk is full, nothing looks out of order or missing.
#[tokio::test]
async fn what_finds_no_room_teaches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = penstock::config::Config::from_text(
        "[[mapping]]\ntopic = \"spBv1.0/#\"\npreset = \"sparkplug\"\n\
         [[mapping]]\ntopic = \"devices/{device}/#\"",
        Path::new(""),
        &|_| None,
    );
    let gateway = Gateway::with_size(dir.path(), config.unwrap().ingest, 8 << 20);
    // A metric "T" with alias 1 and type double; then values of alias 1.
    let birth = b"\x08\x01\x12\x07\x0a\x01T\x10\x01\x20\x0a\x18\0";
    let bytes = |topic, payload: &[u8]| Publish {
        payload: Bytes::copy_from_slice(payload),
        ..publish(topic, "")
    };
    let value = |seq| {
        let mut payload = b"\x08\x02\x12\x0b\x10\x01\x69\0\0\0\0\0\0\xf0\x3f\x18".to_vec();
        payload.push(seq);
        bytes("spBv1.0/G/NDATA/N", &payload)
    };
    let now = u64::try_from(SystemClock.now().as_nanos() / 1_000_000_000).unwrap();
    let reading = |at| {
        let text = format!(
            "{{\"time\":{},\"pad\":\"{}\"}}",
            now + at,
            "x".repeat(1 << 16)
        );
        publish("devices/b7/t", &text)
    };
    let born = vec![bytes("spBv1.0/G/NBIRTH/N", birth), value(1)];
    assert_eq!(gateway.admit(born).await, vec![Verdict::Accepted; 2]);
    let metrics = gateway.ingest.metrics();
    let disorder = || {
        let mut marks = metrics.marks();
        marks.find(|(mark, _)| *mark == "out-of-order").unwrap().1
    };
    let told = || {
        let (clocks, _) = gateway.ingest.clocks(9);
        let of_device = clocks.into_iter().find(|clock| &*clock.device == "b7");
        of_device.map_or((0, 0), |clock| (clock.events, clock.out_of_order))
    };
    let (mut full, mut kept) = (0, 0);
    while full < 3 {
        // Each batch is in order, and behind what is kept.
        let mut batch: Vec<Publish> = (0..10).map(|at| reading(kept * 10 + at)).collect();
        batch.extend((2..5).map(|seq| value(u8::try_from(kept * 3 + seq).unwrap())));
        match gateway.admit(batch).await.pop() {
            Some(Verdict::Busy) => full += 1,
            verdict => {
                assert_eq!(verdict, Some(Verdict::Accepted));
                kept += 1;
            }
        }
    }
    assert!(kept > 0);
    let (events, out_of_order) = told();
    assert_eq!(events, kept * 10);
    assert_eq!((out_of_order, disorder()), (0, 0));
    assert_eq!(metrics.sparkplug_gaps(), 0);
    gateway.store.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_batch_larger_than_the_journal_is_kept_up_to_where_it_is_full_and_nothing_after() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::with_size(dir.path(), Config::default(), 8 << 20);
    let mut batch = vec![publish("devices/b7/t", &"x".repeat(512 << 10)); 64];
    batch.push(publish("devices/b7/t", "1"));
    let verdicts = gateway.admit(batch).await;
    assert_eq!(verdicts.len(), 65);
    let kept = verdicts
        .iter()
        .take_while(|v| **v == Verdict::Accepted)
        .count();
    assert!(kept > 0, "the first of them fit");
    assert!(verdicts[kept..].iter().all(|v| *v == Verdict::Busy));
    let handle = gateway.store.handle();
    gateway.store.shutdown().await.unwrap();
    assert_eq!(handle.status().stored, kept as u64);
}

#[tokio::test]
async fn nothing_is_acknowledged_once_the_journal_has_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let gateway = Gateway::open(dir.path(), Config::default());
    let Gateway {
        store,
        ingest,
        publisher,
    } = gateway;
    store.shutdown().await.unwrap();
    let clear = Publish {
        retain: true,
        ..publish("devices/b7/t", "")
    };
    let verdicts = ingest
        .admit(&publisher, vec![identified("a"), clear])
        .await
        .await;
    assert_eq!(verdicts, [Verdict::Lost, Verdict::Lost]);
}

//! With a real journal and a real broker, without a network.

use std::time::Duration;

use penstock_broker::{Admission, Admitted, Publisher};

use super::*;
use crate::{
    clock::SystemClock,
    event::{Event, IdSource, Key, TimeSource, Timestamp},
    record::Routes,
    store::{Entry, NewEvent, OnFull, Store},
};

struct Nobody;

impl Admission for Nobody {
    fn admit<'a>(&'a self, _: &'a Arc<Publisher>, _: Vec<Publish>) -> Admitted<'a> {
        panic!("what is committed is not admitted again")
    }
}

fn entry(n: u64, bytes: usize) -> Entry {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&n.to_be_bytes());
    let event = Event {
        key: Key(key),
        id: None,
        id_source: IdSource::None,
        kind: "env".into(),
        device: "d/1".into(),
        site: None,
        time: Timestamp::from_millis(0),
        time_source: TimeSource::Received,
        received: Timestamp::from_millis(0),
        sequence: Some(n),
        partition_key: None,
        topic: "t".into(),
        traceparent: None,
        measurements: Vec::new(),
        tags: vec![("text".into(), "x".repeat(bytes).into())],
        marks: crate::event::Marks::NONE,
        corrected: None,
        replayed: None,
    };
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    Entry::Event(NewEvent {
        key: event.key,
        dedup: false,
        device: event.device,
        received: event.received,
        routes: Routes::NONE,
        body: body.into(),
        original: None,
        shed: None,
    })
}

/// What `mosquitto_sub` would get, as positions.
async fn next(events: &mut rumqttc::EventLoop) -> u64 {
    let wait = async {
        loop {
            if let rumqttc::Event::Incoming(rumqttc::Packet::Publish(publish)) =
                events.poll().await.unwrap()
            {
                assert_eq!(publish.topic, "$penstock/events/d%2F1/env");
                let json: serde_json::Value = serde_json::from_slice(&publish.payload).unwrap();
                return json["sequence"].as_str().unwrap().parse().unwrap();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_left_memory_before_it_could_be_shown_is_counted_and_the_rest_comes_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let settings = store::Config {
        dir: dir.path().to_path_buf(),
        max_bytes: 256 << 20,
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
    let (store, _) = Store::open(settings, Arc::new(SystemClock)).unwrap();
    let store = store.run().unwrap();
    let journal = store.handle();
    let append = |from: u64, to: u64, bytes| {
        let entries = (from..=to).map(|n| entry(n, bytes)).collect();
        let journal = journal.clone();
        async move { journal.append(entries).await.unwrap().await.unwrap() }
    };
    let broker = penstock_broker::Config {
        listeners: vec![penstock_broker::listener::Config::tcp(
            "127.0.0.1:0".parse().unwrap(),
        )],
        outbound_queue_bytes_max: 64 << 20,
        ..penstock_broker::Config::default()
    };
    let broker = broker.bind().await.unwrap();
    let port = broker.local_addr().unwrap().port();
    let local = broker.handle().local();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(broker.run(Arc::new(Nobody), stop.clone()));

    // Nobody subscribes, so this is not shown.
    let events = Events::new(
        Config::default(),
        GatewayId::random(),
        journal.clone(),
        local.clone(),
    );
    let handle = events.handle();
    append(1, 10, 10).await;
    let showing = tokio::spawn(events.run(stop.clone()));
    append(11, 20, 10).await;

    let mut options = rumqttc::MqttOptions::new("sub", "127.0.0.1", port);
    options.set_max_packet_size(1 << 20, 1 << 20);
    let (client, mut link) = rumqttc::AsyncClient::new(options, 10);
    let filter = "$penstock/events/#";
    client
        .subscribe(filter, rumqttc::QoS::AtMostOnce)
        .await
        .unwrap();
    while !matches!(
        link.poll().await.unwrap(),
        rumqttc::Event::Incoming(rumqttc::Packet::SubAck(_))
    ) {}
    append(21, 30, 10).await;
    // A moment before the subscription may be shown too.
    let first = next(&mut link).await;
    assert!((11..=21).contains(&first), "{first}");
    for n in first + 1..=30 {
        assert_eq!(next(&mut link).await, n);
    }
    let (shown, skipped) = (31 - first, 0);
    // What is shown is counted a moment later.
    let counted = async {
        while handle.counts() != (Counts { shown, skipped }) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), counted)
        .await
        .unwrap();

    // One commit that is more than memory holds of the newest.
    append(31, 330, 40_000).await;
    let first = next(&mut link).await;
    assert!(first > 31, "{first}");
    assert_eq!(handle.counts().skipped, first - 31);
    stop.cancel();
    showing.await.unwrap();
    serving.await.unwrap().unwrap();
    store.shutdown().await.unwrap();
}

//! Wills, 3.1.2.5 of both versions.

use std::sync::Arc;

use penstock_broker::{
    Config, Verdict,
    acl::{Filter, Rule, Rules},
};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    support::{Client, Running, config, connect_v5, start, string},
    wire::{Peer, connack, connect_with_will},
};

/// [MQTT-3.1.2-7] to [MQTT-3.1.2-15] of 5: as it was given, with QoS, RETAIN and
/// properties, when the connection ends without goodbye.
#[tokio::test]
async fn a_will_is_published_as_it_was_given() {
    let broker = start(config()).await;
    let mut watcher = Peer::connect(&broker, true, "watcher").await;
    watcher.subscribe("will/#", 2 | 0b1000).await;
    let properties = [
        vec![0x01, 1],
        [&[0x03][..], &string("text/plain")].concat(),
        [&[0x08][..], &string("answers")].concat(),
        [&[0x09][..], &string("17")].concat(),
        [&[0x26][..], &string("k"), &string("v")].concat(),
        vec![0x02, 0, 0, 0, 90],
    ]
    .concat();
    for qos in 0..=2 {
        let mut dying = broker.raw().await;
        let flags = 2 | qos << 3 | 0b10_0000;
        dying
            .send(&connect_with_will(
                "d",
                flags,
                &[],
                &properties,
                "will/d",
                "died",
            ))
            .await;
        dying.packet().await;
        dying.abort();
        let message = watcher.receive().await;
        assert_eq!((&*message.topic, &*message.payload), ("will/d", "died"));
        assert_eq!((message.qos, message.retain), (qos, true));
        assert_eq!(message.all(0x01), [[1]]);
        assert_eq!(message.all(0x03), [b"text/plain"]);
        assert_eq!(message.all(0x08), [b"answers"]);
        assert_eq!(message.all(0x09), [b"17"]);
        assert_eq!(message.all(0x26), [b"k=v"]);
        assert!(message.all(0x02)[0][3] > 60);
        assert!(
            message.all(0x18).is_empty(),
            "the delay is not the message's"
        );
    }
    // [MQTT-3.1.2-17]: retained.
    let mut late = Peer::connect(&broker, true, "late").await;
    late.subscribe("will/d", 1).await;
    assert_eq!(late.receive().await.payload, "died");
    broker.stop().await;
}

/// [MQTT-3.14.4-3], [MQTT-3.1.2-10]: no will after goodbye; 0x04 is goodbye with it.
#[tokio::test]
async fn goodbye_deletes_the_will_unless_it_asks_for_it() {
    let broker = start(config()).await;
    let mut watcher = Peer::connect(&broker, true, "watcher").await;
    watcher.subscribe("will", 0).await;
    for (goodbye, payload) in [
        (&[0xE0, 0][..], "never"),
        (&[0xE0, 1, 0], "never"),
        (&[0xE0, 1, 4], "asked for"),
    ] {
        let mut client = broker.raw().await;
        client
            .send(&connect_with_will("d", 2, &[], &[], "will", payload))
            .await;
        client.packet().await;
        client.send(goodbye).await;
        client.expect_end().await;
    }
    assert_eq!(watcher.receive().await.payload, "asked for");
    watcher.nothing().await;
    broker.stop().await;
}

/// [MQTT-3.1.2-11], [MQTT-3.1.2-13]: flags of a will that is not there; [MQTT-3.1.2-12]:
/// QoS 3.
#[tokio::test]
async fn will_flags_without_sense_are_malformed() {
    let broker = start(config()).await;
    for flags in [0b1_1110, 0b0_1010, 0b10_0010] {
        let mut client = broker.raw().await;
        client.send(&connect_v5("d", flags, 0, &[])).await;
        let answer = client.packet().await;
        assert_eq!((answer[0], answer[3]), (0x20, 0x81), "{flags:b}");
        client.expect_end().await;
        let mut client = broker.raw().await;
        client
            .send(&crate::support::connect_v4("d", flags, 0))
            .await;
        client.expect_end().await;
    }
    broker.stop().await;
}

/// A client with a session of `expiry` seconds and a will after `delay` seconds.
async fn dying(broker: &Running, id: &str, expiry: u8, delay: u8) -> Client {
    let mut client = broker.raw().await;
    let session = [0x11, 0, 0, 0, expiry];
    let waits = [0x18, 0, 0, 0, delay];
    client
        .send(&connect_with_will(id, 2, &session, &waits, "will", id))
        .await;
    client.packet().await;
    client
}

/// Connects again, to the session or without it.
async fn back(broker: &Running, id: &str, clean: bool) -> Client {
    let mut client = broker.raw().await;
    let flags = if clean { 2 } else { 0 };
    let session = [0x11, 0, 0, 0, 60];
    client.send(&connect_v5(id, flags, 0, &session)).await;
    let (present, _, _) = connack(&client.packet().await);
    assert_eq!(present, !clean);
    client
}

async fn watcher(broker: &Running) -> Peer {
    let mut watcher = Peer::connect(broker, true, "watcher").await;
    watcher.subscribe("will", 1).await;
    watcher
}

/// [MQTT-3.1.3-9], 3.1.3.2.2: after the delay, also after DISCONNECT with 0x04, and when
/// the session ends if that is earlier.
#[tokio::test]
async fn a_will_waits_for_its_delay_or_for_the_end_of_its_session() {
    let broker = start(config()).await;
    let mut watcher = watcher(&broker).await;
    for (id, expiry, delay) in [("delay", 60, 1), ("expiry", 1, 60), ("longer", 2, 1)] {
        let client = dying(&broker, id, expiry, delay).await;
        let began = Instant::now();
        client.abort();
        assert_eq!(watcher.receive().await.payload, id);
        assert!(began.elapsed() >= Duration::from_secs(1), "{id}");
    }
    let mut client = dying(&broker, "asked", 60, 1).await;
    let began = Instant::now();
    client.send(&[0xE0, 1, 4]).await;
    client.expect_end().await;
    assert_eq!(watcher.receive().await.payload, "asked");
    assert!(began.elapsed() >= Duration::from_secs(1));
    // Without a session there is nothing to wait for.
    let client = dying(&broker, "at once", 0, 60).await;
    client.abort();
    assert_eq!(watcher.receive().await.payload, "at once");
    broker.stop().await;
}

/// [MQTT-3.1.3-9]: not at all if the client is back before; 3.1.2.5: at once if it comes
/// back to end its session.
#[tokio::test]
async fn a_client_that_comes_back_in_time_calls_its_will_off() {
    let broker = start(config()).await;
    let mut watcher = watcher(&broker).await;
    dying(&broker, "back", 60, 2).await.abort();
    broker.until("gone", |now| now.sessions_open == 1).await;
    let back_again = back(&broker, "back", false).await;
    dying(&broker, "taken over", 60, 1).await.abort();
    broker.until("gone", |now| now.sessions_open == 2).await;
    let _anew = back(&broker, "taken over", true).await;
    assert_eq!(watcher.receive().await.payload, "taken over");
    sleep(Duration::from_millis(2500)).await;
    // The one that came back without a will has none.
    back_again.abort();
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    publisher.publish("will", 1, "end").await;
    assert_eq!(watcher.receive().await.payload, "end");
    broker.stop().await;
}

/// 3.1.3.2.2: the end of its session, by an operator too, is the end of its delay.
#[tokio::test]
async fn a_will_waits_no_longer_than_a_session_that_an_operator_removes() {
    let broker = start(config()).await;
    let mut watcher = watcher(&broker).await;
    for id in ["removed", "not removed"] {
        dying(&broker, id, 200, 200).await.abort();
    }
    broker.until("gone", |now| now.sessions_open == 1).await;
    let removed = broker.handle.remove_session(Arc::from("removed")).await;
    assert_eq!(removed, Some(true));
    assert_eq!(watcher.receive().await.payload, "removed");
    watcher.nothing().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_will_that_the_gateway_has_no_room_for_holds_up_no_other() {
    let broker = start(config()).await;
    let mut watcher = watcher(&broker).await;
    broker.gateway.judge(|will| match &will.payload[..] {
        b"stuck" => Verdict::Busy,
        _ => Verdict::Accepted,
    });
    dying(&broker, "stuck", 60, 1).await.abort();
    broker.gateway.took(1).await;
    dying(&broker, "other", 60, 1).await.abort();
    assert_eq!(watcher.receive().await.payload, "other");
    broker.gateway.judge(|_| Verdict::Accepted);
    assert_eq!(watcher.receive().await.payload, "stuck");
    broker.stop().await;
}

/// A delay outlasts the process, and so does what calls a will off.
#[tokio::test]
async fn a_will_that_waits_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let config = || {
        let mut config = config();
        config.keep.dir = Some(dir.path().to_owned());
        config
    };
    let broker = start(config()).await;
    dying(&broker, "waiting", 60, 2).await.abort();
    dying(&broker, "back", 60, 2).await.abort();
    broker.until("gone", |now| now.sessions_open == 0).await;
    broker.stop().await;
    let broker = start(config()).await;
    let mut watcher = watcher(&broker).await;
    let _back = back(&broker, "back", false).await;
    assert_eq!(watcher.receive().await.payload, "waiting");
    sleep(Duration::from_secs(1)).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    publisher.publish("will", 1, "end").await;
    assert_eq!(watcher.receive().await.payload, "end");
    broker.stop().await;
}

fn kept(dir: &tempfile::TempDir) -> Config {
    let mut config = config();
    config.keep.dir = Some(dir.path().to_owned());
    config
}

/// 3.1.2.5: a will that the gateway has no room for is not lost with the process, where
/// its session is not, and its client cannot call it off by then.
#[tokio::test]
async fn a_will_without_room_is_published_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(kept(&dir)).await;
    broker.gateway.judge(|_| Verdict::Busy);
    dying(&broker, "d", 60, 0).await.abort();
    broker.until("gone", |now| now.sessions_open == 0).await;
    broker.gateway.took(2).await;
    broker.stop().await;
    let broker = start(kept(&dir)).await;
    broker.until("published", |now| now.wills == 1).await;
    let taken = broker.gateway.taken();
    let [(client, will)] = &taken[..] else {
        panic!("{taken:?}");
    };
    assert_eq!((&**client, &*will.topic), ("d", "will"));
    assert!(will.delivery.is_some(), "it is the same to the journal");
    broker.stop().await;
    // It is forgotten, once it was published.
    let broker = start(kept(&dir)).await;
    let mut watcher = watcher(&broker).await;
    watcher.nothing().await;
    broker.stop().await;
}

/// A will of an earlier process is published only if its client still may publish it.
#[tokio::test]
async fn a_will_that_is_no_longer_allowed_is_not_published_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let allowing = |filter: &str| {
        let mut config = kept(&dir);
        config.auth.rules = Arc::new(Rules(vec![Rule {
            anonymous: true,
            publish: vec![Filter::parse(filter).unwrap()],
            ..Rule::default()
        }]));
        config
    };
    let broker = start(allowing("will")).await;
    dying(&broker, "d", 60, 1).await.abort();
    broker.until("gone", |now| now.sessions_open == 0).await;
    broker.stop().await;
    let broker = start(allowing("other")).await;
    broker
        .until("refused", |now| now.publishes_denied == 1)
        .await;
    assert_eq!(broker.handle.metrics().wills, 0);
    assert!(broker.gateway.taken().is_empty());
    broker.stop().await;
}

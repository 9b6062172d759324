//! Retained messages, 3.3.1.3 of both versions.

use tokio::time::{Duration, sleep};

use crate::{
    support::{config, start},
    wire::Peer,
};

/// [MQTT-3.3.1-5], [MQTT-3.3.1-6] (3.1.1: [MQTT-3.3.1-6], [MQTT-3.3.1-8]): the last one
/// of each matching topic, at the lower QoS, flagged.
#[tokio::test]
async fn a_new_subscription_gets_the_last_retained_message_of_each_topic() {
    let broker = start(config()).await;
    for v5 in [false, true] {
        let mut publisher = Peer::connect(&broker, v5, "publisher").await;
        for (topic, payload) in [("a/1", "old"), ("a/1", "new"), ("a/2", "two"), ("b", "b")] {
            publisher.retain(topic, payload).await;
        }
        for filter in ["a/+", "a/#", "+/+"] {
            let mut subscriber = Peer::connect(&broker, v5, "subscriber").await;
            subscriber.subscribe(filter, 2).await;
            let mut got = Vec::new();
            for _ in 0..2 {
                let message = subscriber.receive().await;
                assert!(message.retain && message.qos == 1, "{message:?}");
                got.push((message.topic, message.payload));
            }
            got.sort();
            assert_eq!(
                got,
                [("a/1", "new"), ("a/2", "two")].map(|(a, b)| (a.to_owned(), b.to_owned()))
            );
            subscriber.nothing().await;
        }
    }
    broker.stop().await;
}

/// [MQTT-3.3.1-6] and [MQTT-3.3.1-7] of 5, [MQTT-3.3.1-10], [MQTT-3.3.1-11] of 3.1.1: an
/// empty one clears, is delivered like any, and is not kept itself.
#[tokio::test]
async fn an_empty_retained_message_clears_the_topic() {
    let broker = start(config()).await;
    for v5 in [false, true] {
        let mut peer = Peer::connect(&broker, v5, "d").await;
        peer.retain("a", "x").await;
        peer.retain("a", "").await;
        peer.subscribe("a", 1).await;
        peer.nothing().await;
        // Live, so no RETAIN: [MQTT-3.3.1-9] of 3.1.1, [MQTT-3.3.1-12] of 5.
        peer.client
            .send(&peer.publish_bytes("a", 0, true, 0, &[], ""))
            .await;
        let message = peer.receive().await;
        assert!(message.payload.is_empty() && !message.retain);
    }
    broker.stop().await;
}

/// [MQTT-3.3.1-8] of 5, [MQTT-3.3.1-12] of 3.1.1: what is not retained neither
/// replaces nor removes what is.
#[tokio::test]
async fn a_message_without_retain_changes_nothing() {
    let broker = start(config()).await;
    let mut peer = Peer::connect(&broker, true, "d").await;
    peer.retain("a", "kept").await;
    peer.publish("a", 1, "passing").await;
    peer.publish("a", 1, "").await;
    peer.subscribe("a", 1).await;
    assert_eq!(peer.receive().await.payload, "kept");
    broker.stop().await;
}

/// [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11]: retain handling 0, 1 and 2; and
/// [MQTT-3.8.4-4]: an identical subscription brings them again at 0.
#[tokio::test]
async fn retain_handling_decides_what_a_subscription_brings() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    publisher.retain("a", "x").await;
    for (handling, first, again) in [(0, true, true), (1, true, false), (2, false, false)] {
        let mut peer = Peer::connect(&broker, true, "d").await;
        for expected in [first, again] {
            peer.subscribe("a", 1 | handling << 4).await;
            if expected {
                let message = peer.receive().await;
                assert!(message.retain, "handling {handling}");
            }
            peer.nothing().await;
        }
    }
    let mut peer = Peer::connect(&broker, true, "d").await;
    peer.client
        .send(&[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x30])
        .await;
    peer.client.expect_disconnect(0x82).await;
    broker.stop().await;
}

/// [MQTT-3.3.1-12], [MQTT-3.3.1-13]: retain as published.
#[tokio::test]
async fn retain_is_kept_for_who_wants_it_as_published() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let mut plain = Peer::connect(&broker, true, "plain").await;
    let mut as_published = Peer::connect(&broker, true, "as-published").await;
    let mut old = Peer::connect(&broker, false, "old").await;
    plain.subscribe("a", 1).await;
    as_published.subscribe("a", 1 | 0b1000).await;
    old.subscribe("a", 1).await;
    for retain in [false, true] {
        publisher.publish_with("a", 1, retain, &[], "x").await;
        assert!(!plain.receive().await.retain);
        assert_eq!(as_published.receive().await.retain, retain);
        assert!(!old.receive().await.retain, "[MQTT-3.3.1-9] of 3.1.1");
    }
    broker.stop().await;
}

/// 3.3.2.3.3: a retained message that has expired is not delivered any more, and one
/// that has not says what is left.
#[tokio::test]
async fn a_retained_message_expires() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let lives = |secs: u8| [0x02, 0, 0, 0, secs];
    publisher
        .publish_with("short", 1, true, &lives(1), "x")
        .await;
    publisher
        .publish_with("long", 1, true, &lives(90), "x")
        .await;
    sleep(Duration::from_millis(2100)).await;
    let mut subscriber = Peer::connect(&broker, true, "subscriber").await;
    subscriber.subscribe("short", 1).await;
    subscriber.subscribe("long", 1).await;
    let message = subscriber.receive().await;
    assert_eq!(message.topic, "long");
    assert!((60..=88).contains(&message.all(0x02)[0][3]));
    broker.stop().await;
}

/// [MQTT-3.3.1-5]: QoS 0 too, and one of a wildcard first level is not `$`.
#[tokio::test]
async fn qos_0_is_retained_and_dollar_topics_stay_apart() {
    let broker = start(config()).await;
    let mut peer = Peer::connect(&broker, true, "d").await;
    peer.publish_with("$own/a", 1, true, &[], "dollar").await;
    peer.publish_with("own/a", 0, true, &[], "zero").await;
    peer.nothing().await;
    broker.until("retained", |now| now.retained == 2).await;
    peer.subscribe("+/a", 1).await;
    let message = peer.receive().await;
    assert_eq!((&*message.payload, message.qos), ("zero", 0));
    peer.nothing().await;
    peer.subscribe("$own/#", 1).await;
    assert_eq!(peer.receive().await.payload, "dollar");
    broker.stop().await;
}

//! SUBSCRIBE and UNSUBSCRIBE.

use crate::{
    support::{config, packet, start, string},
    wire::Peer,
};

/// [MQTT-3.8.4-1], [MQTT-3.8.4-5], [MQTT-3.8.4-6], [MQTT-3.9.3-1]: one SUBACK, one code
/// for each filter, in their order; a filter that cannot be is refused alone.
#[tokio::test]
async fn each_filter_is_answered_on_its_own() {
    let broker = start(config()).await;
    for v5 in [false, true] {
        let filters: Vec<u8> = [("a", 2), ("a/#/b", 1), ("b", 0), ("+a", 0), ("#", 1)]
            .iter()
            .flat_map(|(filter, qos)| [&string(filter)[..], &[*qos]].concat())
            .collect();
        let mut peer = Peer::connect(&broker, v5, "d").await;
        let head: &[u8] = if v5 { &[0, 9, 0] } else { &[0, 9] };
        peer.client.send(&packet(0x82, &[head, &filters])).await;
        let refused = if v5 { 0x8F } else { 0x80 };
        let codes = [2, refused, 0, refused, 1];
        peer.client.expect(&packet(0x90, &[head, &codes])).await;
    }
    broker.stop().await;
}

/// [MQTT-3.8.3-2], [MQTT-3.8.3-5], [MQTT-3.8.1-1], [MQTT-2.2.1-3], [MQTT-3.10.3-2].
#[tokio::test]
async fn a_subscribe_that_cannot_be_ends_the_connection() {
    let broker = start(config()).await;
    for (bytes, code) in [
        (packet(0x82, &[&[0, 1, 0]]), 0x82),
        (packet(0x80, &[&[0, 1, 0], &string("a"), &[0]]), 0x81),
        (packet(0x82, &[&[0, 0, 0], &string("a"), &[0]]), 0x82),
        (packet(0x82, &[&[0, 1, 0], &string("a"), &[3]]), 0x81),
        (packet(0x82, &[&[0, 1, 0], &string("a"), &[0xC0]]), 0x81),
        (
            packet(0x82, &[&[0, 1, 2, 0x0B, 0], &string("a"), &[0]]),
            0x82,
        ),
        (packet(0xA2, &[&[0, 1, 0]]), 0x82),
        (packet(0xA0, &[&[0, 1, 0], &string("a")]), 0x81),
    ] {
        let mut client = broker.v5("d").await;
        client.send(&bytes).await;
        client.expect_disconnect(code).await;
    }
    // 3.1.1 has no options but the QoS: [MQTT-3-8.3-4].
    let mut client = broker.v4("d").await;
    client
        .send(&packet(0x82, &[&[0, 1], &string("a"), &[0b100]]))
        .await;
    client.expect_end().await;
    broker.stop().await;
}

/// [MQTT-4.7.1-1] to [MQTT-4.7.3-4]: which topics a filter takes.
#[tokio::test]
async fn filters_take_the_topics_that_the_specification_says() {
    let broker = start(config()).await;
    let topics = ["a", "a/", "/a", "a/b", "a/b/c", "/", "$own/a", "A"];
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for (filter, expect) in [
        ("#", vec!["a", "a/", "/a", "a/b", "a/b/c", "/", "A"]),
        ("+", vec!["a", "A"]),
        ("+/+", vec!["a/", "/a", "a/b", "/"]),
        ("/+", vec!["/a", "/"]),
        ("a/#", vec!["a", "a/", "a/b", "a/b/c"]),
        ("a/+", vec!["a/", "a/b"]),
        ("a/+/c", vec!["a/b/c"]),
        ("+/a", vec!["/a"]),
        ("$own/+", vec!["$own/a"]),
    ] {
        let mut subscriber = Peer::connect(&broker, false, "subscriber").await;
        subscriber.subscribe(filter, 0).await;
        subscriber.subscribe("end", 0).await;
        for topic in topics {
            publisher.publish(topic, 1, "x").await;
        }
        publisher.publish("end", 1, "x").await;
        let mut got = Vec::new();
        loop {
            let message = subscriber.receive().await;
            if message.topic == "end" {
                break;
            }
            got.push(message.topic);
        }
        assert_eq!(got, expect, "{filter}");
    }
    broker.stop().await;
}

/// [MQTT-3.3.4-2], [MQTT-3.3.4-3], [MQTT-3.3.5-1]: subscriptions of one client that
/// overlap: the highest QoS counts, and every identifier is there.
#[tokio::test]
async fn overlapping_subscriptions_give_the_highest_qos_and_all_identifiers() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let mut peer = Peer::connect(&broker, true, "d").await;
    peer.subscribe_as("a/#", 2, Some(2)).await;
    peer.subscribe_as("a/+", 1, Some(3)).await;
    peer.subscribe_as("a/b", 0, None).await;
    publisher.publish("a/b", 2, "x").await;
    // One copy, or one for each: ours is one.
    let message = peer.receive().await;
    assert_eq!(message.qos, 2);
    let mut ids: Vec<&[u8]> = message.all(0x0B);
    ids.sort_unstable();
    assert_eq!(ids, [[2], [3]]);
    publisher.publish("a/b/c", 2, "next").await;
    let next = peer.receive().await;
    assert_eq!((&*next.payload, next.all(0x0B)), ("next", vec![&[2][..]]));
    // 3.1.1: [MQTT-3.3.5-1].
    let mut old = Peer::connect(&broker, false, "old").await;
    old.subscribe("a/#", 2).await;
    old.subscribe("a/+", 1).await;
    publisher.publish("a/b", 2, "x").await;
    assert_eq!(old.receive().await.qos, 2);
    old.nothing().await;
    broker.stop().await;
}

/// [MQTT-3.8.4-3], [MQTT-3.8.4-4] of 3.1.1 and 5: the same filter replaces its
/// subscription, its QoS and identifier too.
#[tokio::test]
async fn a_filter_that_comes_again_replaces_its_subscription() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let mut peer = Peer::connect(&broker, true, "d").await;
    peer.subscribe_as("a", 2, Some(5)).await;
    peer.subscribe_as("a", 1, Some(6)).await;
    publisher.publish("a", 2, "x").await;
    let message = peer.receive().await;
    assert_eq!((message.qos, message.all(0x0B)), (1, vec![&[6][..]]));
    peer.subscribe("a", 0).await;
    publisher.publish("a", 2, "y").await;
    let message = peer.receive().await;
    assert_eq!((&*message.payload, message.qos), ("y", 0));
    assert!(message.all(0x0B).is_empty());
    broker.stop().await;
}

/// [MQTT-3.8.3-3]: no local.
#[tokio::test]
async fn a_no_local_subscription_does_not_bring_one_s_own_messages() {
    let broker = start(config()).await;
    let mut peer = Peer::connect(&broker, true, "d").await;
    let mut other = Peer::connect(&broker, true, "other").await;
    peer.subscribe("a", 1 | 0b100).await;
    other.subscribe("a", 1).await;
    peer.publish("a", 1, "mine").await;
    assert_eq!(other.receive().await.payload, "mine");
    other.publish("a", 1, "yours").await;
    assert_eq!(other.receive().await.payload, "yours");
    assert_eq!(peer.receive().await.payload, "yours");
    broker.stop().await;
}

/// [MQTT-3.10.4-1], [MQTT-3.10.4-2], [MQTT-3.10.4-4], [MQTT-3.10.4-5], [MQTT-3.11.3-1].
#[tokio::test]
async fn unsubscribe_ends_exactly_what_it_names() {
    let broker = start(config()).await;
    for v5 in [false, true] {
        let mut publisher = Peer::connect(&broker, true, "publisher").await;
        let mut peer = Peer::connect(&broker, v5, "d").await;
        for filter in ["a/+", "a/b", "a/#", "end"] {
            peer.subscribe(filter, 1).await;
        }
        assert_eq!(peer.unsubscribe("a/+").await, 0);
        assert_eq!(peer.unsubscribe("a/#").await, 0);
        // The same topics in other words are another filter; 0x11 where it can be said.
        let none = if v5 { 0x11 } else { 0 };
        assert_eq!(peer.unsubscribe("+/b").await, none);
        publisher.publish("a/c", 1, "gone").await;
        publisher.publish("a/b", 1, "still").await;
        publisher.publish("end", 1, "end").await;
        assert_eq!(peer.receive().await.payload, "still");
        assert_eq!(peer.receive().await.payload, "end");
    }
    broker.stop().await;
}

/// [MQTT-4.7.2-1]: a topic of ours is not for clients to publish, and wildcards do not
/// show what begins with `$`.
#[tokio::test]
async fn topics_with_a_dollar_are_apart() {
    let broker = start(config()).await;
    let mut peer = Peer::connect(&broker, true, "d").await;
    peer.subscribe("#", 0).await;
    peer.subscribe("+/x", 0).await;
    peer.publish("$own/x", 1, "hidden").await;
    let bytes = peer.publish_bytes("$SYS/x", 1, false, 9, &[], "ours");
    peer.client.send(&bytes).await;
    let answer = peer.client.packet().await;
    assert_eq!((answer[0], answer[4]), (0x40, 0x90), "topic name invalid");
    peer.publish("plain", 1, "seen").await;
    assert_eq!(peer.receive().await.payload, "seen");
    broker.stop().await;
}

//! PUBLISH from one client to another: what goes on, what is changed, what expires.

use penstock_broker::Config;
use tokio::time::{Duration, sleep};

use crate::{
    support::{config, packet, start, string},
    wire::Peer,
};

/// [MQTT-4.3.1-1], [MQTT-4.3.2-2], [MQTT-4.3.3-8], [MQTT-3.8.4-8]; and
/// [MQTT-3.3.1-3]: DUP is ours, not the sender's.
#[tokio::test]
async fn every_qos_arrives_between_all_versions_at_the_lower_of_the_two() {
    let broker = start(config()).await;
    for (from, to) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut publisher = Peer::connect(&broker, from, "publisher").await;
        let mut subscriber = Peer::connect(&broker, to, "subscriber").await;
        for granted in 0..=2 {
            assert_eq!(subscriber.subscribe("t/+", granted).await, granted);
            for sent in 0..=2 {
                publisher.publish("t/x", sent, "x").await;
                let message = subscriber.receive().await;
                assert_eq!(message.qos, granted.min(sent));
                assert_eq!((&*message.topic, &*message.payload), ("t/x", "x"));
                assert!(!message.dup && !message.retain);
            }
        }
    }
    broker.stop().await;
}

/// [MQTT-3.3.2-4] (payload format), [MQTT-3.3.2-20] (content type), [MQTT-3.3.2-15]
/// (response topic), [MQTT-3.3.2-16] (correlation data), [MQTT-3.3.2-17] and
/// [MQTT-3.3.2-18] (user properties, all of them and in their order).
#[tokio::test]
async fn properties_of_a_message_go_on_unchanged_and_in_order() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let mut subscriber = Peer::connect(&broker, true, "subscriber").await;
    let mut old = Peer::connect(&broker, false, "old").await;
    subscriber.subscribe("t", 2).await;
    old.subscribe("t", 2).await;
    let pair = |name: &str, value: &str| [&[0x26][..], &string(name), &string(value)].concat();
    let properties = [
        pair("b", "1"),
        vec![0x01, 1],
        [&[0x03][..], &string("text/plain")].concat(),
        pair("a", "2"),
        [&[0x08][..], &string("answers/here")].concat(),
        [&[0x09][..], &string("\u{1}\u{2}")].concat(),
        pair("b", "1"),
        pair("", ""),
    ]
    .concat();
    for qos in 0..=2 {
        publisher
            .publish_with("t", qos, false, &properties, "ü")
            .await;
        let message = subscriber.receive().await;
        assert_eq!(message.payload, "ü");
        let pairs = message.all(0x26);
        assert_eq!(pairs, [&b"b=1"[..], b"a=2", b"b=1", b"="], "in order");
        assert_eq!(message.all(0x01), [[1]]);
        assert_eq!(message.all(0x03), [b"text/plain"]);
        assert_eq!(message.all(0x08), [b"answers/here"]);
        assert_eq!(message.all(0x09), [[1, 2]]);
        assert_eq!(message.properties.len(), 8, "and nothing else");
        assert_eq!(old.receive().await.payload, "ü");
    }
    broker.stop().await;
}

/// 4.10: a request names where the answer goes and what it belongs to.
#[tokio::test]
async fn a_request_is_answered_where_it_asks() {
    let broker = start(config()).await;
    let mut asking = Peer::connect(&broker, true, "asking").await;
    let mut answering = Peer::connect(&broker, true, "answering").await;
    asking.subscribe("answers/asking", 1).await;
    answering.subscribe("requests", 1).await;
    let to = [
        [&[0x08][..], &string("answers/asking")].concat(),
        [&[0x09][..], &string("17")].concat(),
    ]
    .concat();
    asking
        .publish_with("requests", 1, false, &to, "what?")
        .await;
    let request = answering.receive().await;
    let topic = String::from_utf8(request.all(0x08)[0].to_vec()).unwrap();
    let belongs = [&[0x09][..], &string("17")].concat();
    answering
        .publish_with(&topic, 1, false, &belongs, "this")
        .await;
    let answer = asking.receive().await;
    assert_eq!(
        (&*answer.payload, answer.all(0x09)[0]),
        ("this", &b"17"[..])
    );
    // [MQTT-3.3.2-14]: no wildcards in a response topic.
    asking
        .client
        .send(&packet(0x30, &[&string("t"), &[6, 0x08], &string("a/#")]))
        .await;
    asking.client.expect_disconnect(0x82).await;
    broker.stop().await;
}

/// [MQTT-3.3.2-5], [MQTT-3.3.2-6]: a message that waits longer than it lives is not
/// sent, and one that is sent says what is left of its life.
#[tokio::test]
async fn a_message_expires_while_it_waits_and_says_what_is_left() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    // One message in flight keeps the others waiting.
    let narrow = broker.v5_with("subscriber", &[0x21, 0, 1]).await;
    let mut subscriber = Peer::of(narrow, true);
    subscriber.subscribe("t", 1).await;
    publisher.publish("t", 1, "first").await;
    let first = subscriber.take().await;
    assert!(first.all(0x02).is_empty(), "no lifetime of our own");
    let lives = |secs: u8| [0x02, 0, 0, 0, secs];
    publisher
        .publish_with("t", 1, false, &lives(1), "short")
        .await;
    publisher
        .publish_with("t", 1, false, &lives(0), "never")
        .await;
    publisher
        .publish_with("t", 1, false, &lives(90), "long")
        .await;
    sleep(Duration::from_millis(2100)).await;
    subscriber.acknowledge(&first).await;
    let long = subscriber.receive().await;
    assert_eq!(long.payload, "long");
    let left = long.all(0x02)[0][3];
    assert!((60..=88).contains(&left), "{left} seconds of 90");
    assert_eq!(broker.handle.metrics().dropped_expired, 2);
    broker.stop().await;
}

/// [MQTT-3.3.2-7] to [MQTT-3.3.2-12]: topic aliases from a client.
#[tokio::test]
async fn a_client_s_topic_alias_stands_for_its_topic_until_it_is_set_again() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let mut subscriber = Peer::connect(&broker, true, "subscriber").await;
    subscriber.subscribe("#", 0).await;
    for (topic, alias, arrives) in [
        ("one", 1, "one"),
        ("", 1, "one"),
        ("two", 1, "two"),
        ("", 1, "two"),
        ("three", 16, "three"),
        ("", 16, "three"),
        ("", 1, "two"),
    ] {
        publisher
            .publish_with(topic, 1, false, &[0x23, 0, alias], "x")
            .await;
        let message = subscriber.receive().await;
        assert_eq!(message.topic, arrives);
        // [MQTT-3.3.2-7]: it is not passed on.
        assert!(message.all(0x23).is_empty());
    }
    // It is of one connection: another does not know it. 0 and what was not announced
    // are errors of their own.
    for (topic, alias, code) in [("", 1, 0x82), ("t", 0, 0x94), ("t", 17, 0x94)] {
        let mut client = broker.v5("other").await;
        client
            .send(&packet(0x30, &[&string(topic), &[3, 0x23, 0, alias]]))
            .await;
        client.expect_disconnect(code).await;
    }
    broker.stop().await;
}

/// [MQTT-3.1.2-26], [MQTT-3.1.2-27]: aliases to a client only as far as it takes them.
#[tokio::test]
async fn topics_that_repeat_go_out_as_aliases_within_the_client_s_maximum() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let with = broker.v5_with("with", &[0x22, 0, 2]).await;
    let mut with = Peer::of(with, true);
    let mut without = Peer::connect(&broker, true, "without").await;
    with.subscribe("#", 1).await;
    without.subscribe("#", 1).await;
    let mut known: Vec<Option<String>> = vec![None; 3];
    let mut saved = 0;
    let topics = [
        "a/topic", "a/topic", "b/topic", "a/topic", "c/topic", "b/topic",
    ];
    for topic in topics.into_iter().chain(topics) {
        publisher.publish(topic, 1, "x").await;
        let plain = without.receive().await;
        assert_eq!(plain.topic, topic);
        assert!(plain.all(0x23).is_empty());
        let message = with.receive().await;
        let alias = match message.all(0x23).first() {
            Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
            _ => panic!("an alias"),
        };
        assert!((1..=2).contains(&alias), "{alias} within 1..=2");
        if message.topic.is_empty() {
            saved += 1;
        } else {
            known[alias] = Some(message.topic);
        }
        assert_eq!(known[alias].as_deref(), Some(topic));
    }
    assert!(saved >= 3, "{saved} topics were left out");
    broker.stop().await;
}

/// [MQTT-3.1.2-24], [MQTT-3.1.2-25]: nothing larger than the client takes, and what is
/// left out does not hold up the rest.
#[tokio::test]
async fn packets_keep_to_the_client_s_maximum_size() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let small = broker
        .v5_with("small", &[0x27, 0, 0, 0, 64, 0x22, 0, 4])
        .await;
    let mut small = Peer::of(small, true);
    small.subscribe("a/topic", 1).await;
    for payload in ["x".repeat(60), "y".repeat(49), "fits".to_owned()] {
        publisher.publish("a/topic", 1, &payload).await;
    }
    // 49 bytes fit without a new alias, not with one.
    let message = small.receive().await;
    assert_eq!(message.payload, "y".repeat(49));
    assert!(message.all(0x23).is_empty() && message.topic == "a/topic");
    assert_eq!(small.receive().await.payload, "fits");
    assert_eq!(broker.handle.metrics().dropped_too_large, 1);
    broker.stop().await;
}

/// [MQTT-3.2.2-15]: nothing larger than we take; 0x95.
#[tokio::test]
async fn a_packet_larger_than_announced_ends_the_connection() {
    let broker = start(Config {
        packet_bytes_max: 1000,
        ..config()
    })
    .await;
    let mut client = broker.v5("d").await;
    client
        .send(&packet(0x30, &[&string("t"), &[0], &[b'x'; 1000]]))
        .await;
    client.expect_disconnect(0x95).await;
    let mut client = broker.v4("d").await;
    client
        .send(&packet(0x30, &[&string("t"), &[b'x'; 1000]]))
        .await;
    client.expect_end().await;
    broker.stop().await;
}

/// [MQTT-3.3.1-4], [MQTT-3.3.1-2], [MQTT-2.2.1-3], [MQTT-3.3.2-1], [MQTT-3.3.2-2],
/// [MQTT-1.5.4-1], [MQTT-1.5.4-2].
#[tokio::test]
async fn a_publish_that_cannot_be_is_answered_with_its_reason() {
    let broker = start(config()).await;
    for (first, parts, code) in [
        (0x36, vec![string("t"), vec![0, 1, 0]], 0x81),
        (0x38, vec![string("t"), vec![0]], 0x81),
        (0x32, vec![string("t"), vec![0, 0, 0]], 0x82),
        (0x30, vec![string(""), vec![0]], 0x90),
        (0x30, vec![string("a/+"), vec![0]], 0x90),
        (0x30, vec![string("a\0"), vec![0]], 0x81),
        (0x30, vec![vec![0, 1, 0xFF], vec![0]], 0x81),
    ] {
        let parts: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        let mut client = broker.v5("d").await;
        client.send(&packet(first, &parts)).await;
        client.expect_disconnect(code).await;
    }
    broker.stop().await;
}

/// [MQTT-4.6.0-5], [MQTT-4.6.0-6]: per topic in the order received, at every QoS.
#[tokio::test]
async fn messages_of_a_topic_keep_their_order() {
    let broker = start(config()).await;
    for qos in 0..=2 {
        let mut publisher = Peer::connect(&broker, true, "publisher").await;
        let mut subscriber = Peer::connect(&broker, false, "subscriber").await;
        subscriber.subscribe("t", qos).await;
        for n in 0..50 {
            publisher.publish("t", qos, &n.to_string()).await;
        }
        for n in 0..50 {
            assert_eq!(subscriber.receive().await.payload, n.to_string());
        }
    }
    broker.stop().await;
}

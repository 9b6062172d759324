//! Retained messages beyond their bounds: who can hear of it hears it, who cannot is held,
//! and the gateway does not have what was refused.

use penstock_broker::Config;

use crate::support::{Running, config, connect_v5, packet, publish_v4, publish_v5, start, string};

/// A broker that retains two messages.
async fn start_with_two() -> Running {
    let mut config: Config = config();
    config.keep.retained_max = 2;
    start(config).await
}

fn retained(mut packet: Vec<u8>) -> Vec<u8> {
    packet[0] |= 1;
    packet
}

async fn fill(broker: &Running) {
    let mut filler = broker.v5("filler").await;
    for topic in ["a", "b"] {
        filler
            .send(&retained(publish_v5(topic, 1, 1, &[], topic)))
            .await;
        filler.expect(&[0x40, 2, 0, 1]).await;
    }
}

async fn clear(broker: &Running, topic: &str) {
    let mut clearing = broker.v5("clearing").await;
    clearing
        .send(&retained(publish_v5(topic, 1, 1, &[], "")))
        .await;
    clearing.expect(&[0x40, 2, 0, 1]).await;
}

#[tokio::test]
async fn a_client_of_5_hears_that_a_message_would_not_be_retained_and_it_goes_nowhere() {
    let broker = start_with_two().await;
    fill(&broker).await;
    let mut watcher = broker.v4("watcher").await;
    watcher.subscribe_v4("c", 0).await;
    let mut client = broker.v5("d").await;
    client
        .send(&retained(publish_v5("c", 1, 1, &[], "one")))
        .await;
    let refused = client.packet().await;
    assert_eq!((refused[0], &refused[2..5]), (0x40, &[0, 1, 0x97][..]));
    client
        .send(&retained(publish_v5("c", 2, 2, &[], "two")))
        .await;
    let refused = client.packet().await;
    assert_eq!((refused[0], &refused[2..5]), (0x50, &[0, 2, 0x97][..]));
    assert_eq!(broker.gateway.payloads(), ["a", "b"]);
    assert!(broker.handle.metrics().retained_refused >= 2);
    // A topic that has one may have another, and what is not retained is as ever.
    client
        .send(&retained(publish_v5("a", 1, 3, &[], "a2")))
        .await;
    client.expect(&[0x40, 2, 0, 3]).await;
    client.send(&publish_v5("c", 1, 4, &[], "live")).await;
    client.expect(&[0x40, 2, 0, 4]).await;
    watcher.expect(&publish_v4("c", 0, 0, "live")).await;
    clear(&broker, "b").await;
    client
        .send(&retained(publish_v5("c", 1, 5, &[], "three")))
        .await;
    client.expect(&[0x40, 2, 0, 5]).await;
    assert_eq!(broker.handle.metrics().retained, 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_of_3_1_1_is_held_until_its_message_can_be_retained() {
    let broker = start_with_two().await;
    fill(&broker).await;
    let mut client = broker.v4("d").await;
    client.send(&retained(publish_v4("c", 1, 1, "one"))).await;
    client.send(&publish_v4("c", 1, 2, "behind")).await;
    broker
        .until("it is asked about", |now| now.refused_queue_full >= 2)
        .await;
    assert_eq!(broker.gateway.payloads(), ["a", "b"]);
    clear(&broker, "b").await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client.expect(&[0x40, 2, 0, 2]).await;
    assert_eq!(broker.gateway.payloads(), ["a", "b", "", "one", "behind"]);
    let mut late = broker.v4("late").await;
    late.subscribe_v4("c", 0).await;
    late.expect(&retained(publish_v4("c", 0, 0, "one"))).await;
    broker.stop().await;
}

/// [MQTT-3.3.1-7] of 3.1.1: at QoS 0 a server may forget it at any time.
#[tokio::test]
async fn a_message_of_qos_0_beyond_the_bounds_is_shown_and_not_retained() {
    let broker = start_with_two().await;
    fill(&broker).await;
    let mut watcher = broker.v4("watcher").await;
    watcher.subscribe_v4("c", 0).await;
    let mut client = broker.v5("d").await;
    client
        .send(&retained(publish_v5("c", 0, 0, &[], "zero")))
        .await;
    watcher.expect(&publish_v4("c", 0, 0, "zero")).await;
    let now = broker.handle.metrics();
    assert_eq!((now.retained, now.retained_refused), (2, 1));
    broker.stop().await;
}

#[tokio::test]
async fn publishes_of_one_batch_take_room_from_each_other() {
    let broker = start_with_two().await;
    let mut client = broker.v5("d").await;
    let three = ["a", "b", "c"]
        .map(|topic| retained(publish_v5(topic, 1, topic.as_bytes()[0], &[], topic)));
    client.send(&three.concat()).await;
    client.expect(&[0x40, 2, 0, b'a']).await;
    client.expect(&[0x40, 2, 0, b'b']).await;
    let refused = client.packet().await;
    assert_eq!((refused[0], &refused[2..5]), (0x40, &[0, b'c', 0x97][..]));
    assert_eq!(broker.gateway.payloads(), ["a", "b"]);
    broker.stop().await;
}

/// [MQTT-3.2.2-13] and [MQTT-3.2.2-14]
#[tokio::test]
async fn clients_of_5_hear_that_nothing_is_retained() {
    let mut config: Config = config();
    config.keep.retained_max = 0;
    let broker = start(config).await;
    let mut client = broker.raw().await;
    client.send(&connect_v5("d", 2, 0, &[])).await;
    let connack = client.packet().await;
    assert_eq!((connack[0], connack[3]), (0x20, 0));
    let unavailable = |properties: &[u8]| properties.windows(2).any(|at| at == [0x25, 0]);
    assert!(unavailable(&connack[5..]), "{connack:02x?}");
    client.send(&publish_v5("c", 1, 1, &[], "live")).await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client
        .send(&retained(publish_v5("c", 1, 2, &[], "one")))
        .await;
    client.expect_disconnect(0x9A).await;
    let mut willing = broker.raw().await;
    let connect: &[&[u8]] = &[
        &string("MQTT"),
        &[5, 0b10_1110, 0, 0, 0],
        &string("willing"),
        &[0],
        &string("c"),
        &string("gone"),
    ];
    willing.send(&packet(0x10, connect)).await;
    willing.expect(&[0x20, 3, 0, 0x9A, 0]).await;
    // 3.1.1 has no word for it.
    let mut old = broker.v4("old").await;
    old.send(&retained(publish_v4("c", 1, 1, "two"))).await;
    old.expect(&[0x40, 2, 0, 1]).await;
    assert_eq!(broker.gateway.payloads(), ["live", "two"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_of_5_hears_that_a_message_is_larger_than_all_that_may_be_retained() {
    let mut config: Config = config();
    config.keep.retained_bytes_max = 1000;
    let broker = start(config).await;
    let mut client = broker.v5("d").await;
    client
        .send(&retained(publish_v5("c", 1, 1, &[], "small")))
        .await;
    client.expect(&[0x40, 2, 0, 1]).await;
    let large = "x".repeat(2000);
    client
        .send(&retained(publish_v5("c", 1, 2, &[], &large)))
        .await;
    let refused = client.packet().await;
    assert_eq!((refused[0], &refused[2..5]), (0x40, &[0, 2, 0x97][..]));
    assert_eq!(broker.gateway.payloads(), ["small"]);
    assert_eq!(broker.handle.metrics().retained, 1, "the older one stays");
    // One of 3.1.1 would wait for ever.
    let mut old = broker.v4("old").await;
    old.send(&retained(publish_v4("c", 1, 1, &large))).await;
    old.expect(&[0x40, 2, 0, 1]).await;
    assert_eq!(broker.handle.metrics().retained, 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_retains_without_end_holds_no_other() {
    let mut config: Config = config();
    config.keep.retained_max = 10;
    let broker = start(config).await;
    let mut greedy = broker.v5("greedy").await;
    for n in 1..=9 {
        let publish = publish_v5(&format!("x/{n}"), 1, n, &[], "x");
        greedy.send(&retained(publish)).await;
        let answer = greedy.packet().await;
        // Four times as many as are left.
        let is_refused = answer.get(4) == Some(&0x97);
        assert_eq!(is_refused, n > 8, "{n}: {answer:02x?}");
    }
    let mut device = broker.v4("device").await;
    device
        .send(&retained(publish_v4("device", 1, 1, "online")))
        .await;
    device.send(&publish_v4("t", 1, 2, "telemetry")).await;
    device.expect(&[0x40, 2, 0, 1]).await;
    device.expect(&[0x40, 2, 0, 2]).await;
    assert_eq!(broker.handle.metrics().retained, 9);
    broker.stop().await;
}

//! Retained messages beyond their bounds: who can hear of it hears it, who cannot is held,
//! and the gateway does not have what was refused.

use penstock_broker::Config;

use crate::support::{Running, config, publish_v4, publish_v5, start};

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

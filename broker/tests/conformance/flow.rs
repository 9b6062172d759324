//! Flow control: receive maximum both ways, and exchanges in their order.

use penstock_broker::Config;

use crate::{
    support::{config, start},
    wire::Peer,
};

/// [MQTT-3.3.4-9], [MQTT-4.9.0-2]: never more in flight than the client takes; QoS 0
/// is not counted ([MQTT-3.3.4-9], 4.9).
#[tokio::test]
async fn no_more_is_in_flight_than_the_client_takes() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let narrow = broker.v5_with("subscriber", &[0x21, 0, 2]).await;
    let mut subscriber = Peer::of(narrow, true);
    subscriber.subscribe("t/+", 2).await;
    for n in 0..6_u8 {
        publisher.publish("t/x", 1 + n % 2, &n.to_string()).await;
    }
    // A message of QoS 0 would wait behind these, so it is a ping that says that nothing
    // more is on its way.
    let first = subscriber.take().await;
    let second = subscriber.take().await;
    subscriber.client.ping().await;
    // A PUBREC does not make room, PUBCOMP and PUBACK do.
    let [high, low] = second.id.to_be_bytes();
    subscriber.client.send(&[0x50, 2, high, low]).await;
    subscriber.client.expect(&[0x62, 2, high, low]).await;
    subscriber.client.ping().await;
    subscriber.client.send(&[0x70, 2, high, low]).await;
    let third = subscriber.take().await;
    subscriber.client.ping().await;
    subscriber.acknowledge(&first).await;
    let fourth = subscriber.take().await;
    let order = [&first, &second, &third, &fourth].map(|one| one.payload.clone());
    assert_eq!(order, ["0", "1", "2", "3"]);
    broker.stop().await;
}

/// [MQTT-3.3.4-7], [MQTT-4.9.0-1], [MQTT-4.13.1-1]: one more than announced is 0x93;
/// exactly as many are taken.
#[tokio::test]
async fn a_client_that_has_more_in_flight_than_we_take_is_disconnected() {
    let broker = start(Config {
        receive_max: 2,
        ..config()
    })
    .await;
    let mut peer = Peer::connect(&broker, true, "d").await;
    for number in 1..=2 {
        let bytes = peer.publish_bytes("t", 2, false, number, &[], "x");
        peer.client.send(&bytes).await;
        peer.client.expect(&[0x50, 2, 0, number]).await;
    }
    // A release makes room.
    peer.client.send(&[0x62, 2, 0, 1]).await;
    peer.client.expect(&[0x70, 2, 0, 1]).await;
    let bytes = peer.publish_bytes("t", 2, false, 3, &[], "x");
    peer.client.send(&bytes).await;
    peer.client.expect(&[0x50, 2, 0, 3]).await;
    let bytes = peer.publish_bytes("t", 1, false, 4, &[], "x");
    peer.client.send(&bytes).await;
    peer.client.expect_disconnect(0x93).await;
    broker.stop().await;
}

/// [MQTT-4.13.1-1]: the reason arrives although the client is in the middle of more.
#[tokio::test]
async fn a_client_that_is_told_to_leave_hears_why_while_it_still_sends() {
    let broker = start(Config {
        receive_max: 2,
        ..config()
    })
    .await;
    broker.gateway.let_pass(0);
    let mut peer = Peer::connect(&broker, true, "d").await;
    let payload = "x".repeat(10_000);
    let publish = |peer: &Peer, id| peer.publish_bytes("t", 1, false, id, &[], &payload);
    let all: Vec<u8> = (1..=100).flat_map(|id| publish(&peer, id)).collect();
    peer.client.send(&all).await;
    broker.gateway.open();
    let mut last = peer.client.packet().await;
    while last[0] == 0x40 {
        last = peer.client.packet().await;
    }
    assert_eq!((last[0], last[2]), (0xE0, 0x93), "{last:02x?}");
    peer.client.expect_end().await;
    broker.stop().await;
}

/// [MQTT-4.3.3-10], [MQTT-4.3.3-11], [MQTT-4.3.3-12] (receiver of QoS 2): a PUBLISH
/// sent again before its PUBREL is answered and not delivered again; after it, the
/// identifier is free.
#[tokio::test]
async fn a_qos_2_message_sent_twice_arrives_once() {
    let broker = start(config()).await;
    for v5 in [false, true] {
        let mut subscriber = Peer::connect(&broker, v5, "subscriber").await;
        subscriber.subscribe("t", 0).await;
        let mut peer = Peer::connect(&broker, v5, "d").await;
        let mut bytes = peer.publish_bytes("t", 2, false, 7, &[], "once");
        for _ in 0..3 {
            peer.client.send(&bytes).await;
            peer.client.expect(&[0x50, 2, 0, 7]).await;
            bytes[0] |= 8;
        }
        for _ in 0..2 {
            // [MQTT-4.3.3-11]: PUBREL is always answered, with 0x92 where it is unknown.
            peer.client.send(&[0x62, 2, 0, 7]).await;
            let answer = peer.client.packet().await;
            assert_eq!((answer[0], answer[3]), (0x70, 7));
        }
        peer.publish("t", 2, "another").await;
        assert_eq!(subscriber.receive().await.payload, "once");
        assert_eq!(subscriber.receive().await.payload, "another");
    }
    broker.stop().await;
}

/// [MQTT-4.3.2-5], [MQTT-4.3.2-4]: after PUBACK the identifier is free again.
#[tokio::test]
async fn a_qos_1_identifier_is_free_after_its_acknowledgement() {
    let broker = start(config()).await;
    let mut subscriber = Peer::connect(&broker, false, "subscriber").await;
    subscriber.subscribe("t", 0).await;
    let mut peer = Peer::connect(&broker, false, "d").await;
    for payload in ["one", "two"] {
        let bytes = peer.publish_bytes("t", 1, false, 7, &[], payload);
        peer.client.send(&bytes).await;
        peer.client.expect(&[0x40, 2, 0, 7]).await;
        assert_eq!(subscriber.receive().await.payload, payload);
    }
    broker.stop().await;
}

/// [MQTT-4.6.0-2], [MQTT-4.6.0-3] of 3.1.1: acknowledgements in the order of what
/// they acknowledge.
#[tokio::test]
async fn acknowledgements_come_in_order() {
    let broker = start(config()).await;
    let mut peer = Peer::connect(&broker, true, "d").await;
    let all: Vec<u8> = (1..=20_u8)
        .flat_map(|number| peer.publish_bytes("t", 1 + number % 2, false, number, &[], "x"))
        .collect();
    peer.client.send(&all).await;
    for number in 1..=20_u8 {
        let kind = if number % 2 == 1 { 0x50 } else { 0x40 };
        peer.client.expect(&[kind, 2, 0, number]).await;
    }
    broker.stop().await;
}

/// 4.4 of 5: nothing is sent again while the connection lasts ([MQTT-4.4.0-1]), and
/// [MQTT-4.3.3-4]: PUBREL for a PUBREC that comes twice.
#[tokio::test]
async fn nothing_is_sent_again_within_a_connection() {
    let broker = start(config()).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    let mut subscriber = Peer::connect(&broker, true, "subscriber").await;
    subscriber.subscribe("t", 2).await;
    publisher.publish("t", 2, "x").await;
    let message = subscriber.take().await;
    let [high, low] = message.id.to_be_bytes();
    for _ in 0..2 {
        subscriber.client.send(&[0x50, 2, high, low]).await;
        subscriber.client.expect(&[0x62, 2, high, low]).await;
    }
    subscriber.client.send(&[0x70, 2, high, low]).await;
    publisher.publish("t", 1, "next").await;
    assert_eq!(subscriber.receive().await.payload, "next");
    broker.stop().await;
}

//! Sessions that outlive their connection: 3.1.2.4, 3.1.2.11, 4.1, 4.4 of 5.

use tokio::time::{Duration, sleep};

use crate::{
    support::{Client, Running, config, connect_v4, connect_v5, start},
    wire::{Peer, connack, values},
};

/// Session expiry in CONNECT.
fn expiry(secs: u32) -> Vec<u8> {
    [&[0x11][..], &secs.to_be_bytes()].concat()
}

/// Connects and says whether there was a session.
async fn connect(broker: &Running, v5: bool, id: &str, clean: bool) -> (Peer, bool) {
    let flags = if clean { 2 } else { 0 };
    let mut client = broker.raw().await;
    let present = if v5 {
        client.send(&connect_v5(id, flags, 0, &expiry(60))).await;
        let (present, code, _) = connack(&client.packet().await);
        assert_eq!(code, 0);
        present
    } else {
        client.send(&connect_v4(id, flags, 0)).await;
        let answer = client.packet().await;
        assert_eq!((&answer[..2], answer[3]), (&[0x20, 2][..], 0));
        answer[2] == 1
    };
    (Peer::of(client, v5), present)
}

async fn goodbye(mut client: Client) {
    client.send(&[0xE0, 0]).await;
    client.expect_end().await;
}

/// [MQTT-3.1.2-4] to [MQTT-3.1.2-6], [MQTT-3.2.2-2], [MQTT-3.2.2-3] of 5;
/// [MQTT-3.1.2-4] to [MQTT-3.1.2-6], [MQTT-3.2.2-1] to [MQTT-3.2.2-3] of 3.1.1.
#[tokio::test]
async fn session_present_says_whether_there_was_one() {
    let broker = start(config()).await;
    for v5 in [false, true] {
        for (clean, expected) in [(false, false), (false, true), (true, false), (false, v5)] {
            let (peer, present) = connect(&broker, v5, "d", clean).await;
            assert_eq!(present, expected, "clean {clean}, version 5 {v5}");
            goodbye(peer.client).await;
        }
        // In 3.1.1 a clean session is gone with its connection; in 5 only its expiry
        // says how long it lasts.
        let (peer, _) = connect(&broker, v5, "d", true).await;
        peer.client.abort();
    }
    broker.stop().await;
}

/// [MQTT-3.1.2-5] of 3.1.1, 4.1 of 5: subscriptions last, and what comes meanwhile is
/// there on return, in order, at QoS 1 and 2.
#[tokio::test]
async fn messages_wait_for_a_client_that_is_away() {
    let broker = start(config()).await;
    for v5 in [false, true] {
        let (mut peer, _) = connect(&broker, v5, "d", true).await;
        if !v5 {
            goodbye(peer.client).await;
            peer = connect(&broker, v5, "d", false).await.0;
        }
        peer.subscribe("a/+", 2).await;
        peer.subscribe("b", 1).await;
        goodbye(peer.client).await;
        let mut publisher = Peer::connect(&broker, v5, "publisher").await;
        for (topic, qos, payload) in [("a/1", 1, "1"), ("b", 2, "2"), ("a/2", 2, "3")] {
            publisher.publish(topic, qos, payload).await;
        }
        let (mut peer, present) = connect(&broker, v5, "d", false).await;
        assert!(present);
        for (topic, qos, payload) in [("a/1", 1, "1"), ("b", 1, "2"), ("a/2", 2, "3")] {
            let message = peer.receive().await;
            assert_eq!((&*message.topic, message.qos), (topic, qos));
            assert_eq!(message.payload, payload);
            assert!(!message.dup && !message.retain);
        }
        peer.nothing().await;
        goodbye(peer.client).await;
    }
    broker.stop().await;
}

/// [MQTT-4.4.0-1], [MQTT-3.3.1-1]; [MQTT-4.3.3-4]: what is in flight is sent again with
/// its identifier, flagged, and PUBREL where PUBREC came.
#[tokio::test]
async fn what_was_in_flight_is_sent_again() {
    let broker = start(config()).await;
    for v5 in [false, true] {
        let (peer, _) = connect(&broker, v5, "d", true).await;
        goodbye(peer.client).await;
        let (mut peer, _) = connect(&broker, v5, "d", false).await;
        peer.subscribe("t", 2).await;
        let mut publisher = Peer::connect(&broker, v5, "publisher").await;
        publisher.publish("t", 1, "one").await;
        publisher.publish("t", 2, "two").await;
        publisher.publish("t", 2, "three").await;
        let (one, two, three) = (peer.take().await, peer.take().await, peer.take().await);
        let [high, low] = two.id.to_be_bytes();
        peer.client.send(&[0x50, 2, high, low]).await;
        peer.client.expect(&[0x62, 2, high, low]).await;
        peer.client.abort();

        let (mut peer, present) = connect(&broker, v5, "d", false).await;
        assert!(present);
        let again = peer.take().await;
        assert!(again.dup);
        assert_eq!((&*again.payload, again.id), ("one", one.id));
        peer.client.expect(&[0x62, 2, high, low]).await;
        let again = peer.take().await;
        assert!(again.dup);
        assert_eq!((&*again.payload, again.id), ("three", three.id));
        peer.client.send(&[0x70, 2, high, low]).await;
        peer.acknowledge(&one).await;
        peer.acknowledge(&three).await;
        peer.nothing().await;
        goodbye(peer.client).await;
        let (mut peer, _) = connect(&broker, v5, "d", false).await;
        peer.nothing().await;
        goodbye(peer.client).await;
    }
    broker.stop().await;
}

/// [MQTT-4.3.3-10], 4.1: an inbound QoS 2 exchange lasts over connections, so that a
/// message sent again arrives once.
#[tokio::test]
async fn a_qos_2_message_sent_again_after_a_reconnect_arrives_once() {
    let broker = start(config()).await;
    for v5 in [false, true] {
        let mut watcher = Peer::connect(&broker, true, "watcher").await;
        watcher.subscribe("t", 0).await;
        let (peer, _) = connect(&broker, v5, "d", true).await;
        goodbye(peer.client).await;
        let (mut peer, _) = connect(&broker, v5, "d", false).await;
        let mut bytes = peer.publish_bytes("t", 2, false, 7, &[], "once");
        peer.client.send(&bytes).await;
        peer.client.expect(&[0x50, 2, 0, 7]).await;
        peer.client.abort();
        let (mut peer, present) = connect(&broker, v5, "d", false).await;
        assert!(present);
        bytes[0] |= 8;
        peer.client.send(&bytes).await;
        peer.client.expect(&[0x50, 2, 0, 7]).await;
        peer.client.send(&[0x62, 2, 0, 7]).await;
        peer.client.expect(&[0x70, 2, 0, 7]).await;
        peer.publish("t", 2, "another").await;
        assert_eq!(watcher.receive().await.payload, "once");
        assert_eq!(watcher.receive().await.payload, "another");
        goodbye(peer.client).await;
    }
    broker.stop().await;
}

/// [MQTT-3.1.2-23], 3.1.2.11.2, [MQTT-3.14.2-2]: a session ends when its expiry is
/// over, and DISCONNECT may change it.
#[tokio::test]
async fn a_session_expires_and_disconnect_may_say_when() {
    let broker = start(config()).await;
    let session = async |secs: u32, id: &str| {
        let mut client = broker.raw().await;
        client.send(&connect_v5(id, 0, 0, &expiry(secs))).await;
        let (present, code, properties) = connack(&client.packet().await);
        assert_eq!(code, 0);
        assert!(values(&properties, 0x11).is_empty(), "as it asked");
        (client, present)
    };
    // None: gone with the connection.
    let (client, _) = session(0, "none").await;
    goodbye(client).await;
    assert!(!session(0, "none").await.1);
    // A second.
    let (client, _) = session(1, "short").await;
    goodbye(client).await;
    let (client, present) = session(1, "short").await;
    assert!(present);
    goodbye(client).await;
    sleep(Duration::from_millis(2500)).await;
    assert!(!session(1, "short").await.1);
    // Ended by DISCONNECT, or made longer.
    let (mut client, _) = session(60, "changed").await;
    client.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0]).await;
    client.expect_end().await;
    assert!(!session(60, "changed").await.1);
    let (mut client, _) = session(1, "longer").await;
    client.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 60]).await;
    client.expect_end().await;
    sleep(Duration::from_millis(2500)).await;
    assert!(session(60, "longer").await.1);
    broker.stop().await;
}

/// [MQTT-3.3.2-5], [MQTT-3.3.2-6] over a session that is away.
#[tokio::test]
async fn messages_expire_while_their_client_is_away() {
    let broker = start(config()).await;
    let (mut peer, _) = connect(&broker, true, "d", true).await;
    peer.subscribe("t", 2).await;
    goodbye(peer.client).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    for (secs, qos, payload) in [
        (1, 1, "gone"),
        (1, 2, "gone"),
        (90, 1, "left"),
        (90, 2, "left"),
    ] {
        let lives = [0x02, 0, 0, 0, secs];
        publisher
            .publish_with("t", qos, false, &lives, payload)
            .await;
    }
    sleep(Duration::from_millis(2100)).await;
    let (mut peer, _) = connect(&broker, true, "d", false).await;
    for qos in [1, 2] {
        let message = peer.receive().await;
        assert_eq!((&*message.payload, message.qos), ("left", qos));
        assert!((60..=88).contains(&message.all(0x02)[0][3]));
    }
    peer.nothing().await;
    broker.stop().await;
}

/// [MQTT-3.10.4-1] for a session that goes on later: an ended subscription stays ended.
#[tokio::test]
async fn subscriptions_end_for_good() {
    let broker = start(config()).await;
    let (mut peer, _) = connect(&broker, true, "d", true).await;
    peer.subscribe("gone", 1).await;
    peer.subscribe("kept", 1).await;
    assert_eq!(peer.unsubscribe("gone").await, 0);
    goodbye(peer.client).await;
    let mut publisher = Peer::connect(&broker, true, "publisher").await;
    publisher.publish("gone", 1, "x").await;
    publisher.publish("kept", 1, "y").await;
    let (mut peer, _) = connect(&broker, true, "d", false).await;
    assert_eq!(peer.receive().await.payload, "y");
    peer.nothing().await;
    assert_eq!(peer.unsubscribe("kept").await, 0);
    broker.stop().await;
}

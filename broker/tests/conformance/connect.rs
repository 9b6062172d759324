//! CONNECT, CONNACK, AUTH, PINGREQ and DISCONNECT.

use std::sync::Arc;

use penstock_broker::Config;
use tokio::time::Duration;

use crate::{
    support::{config, connect_v4, connect_v5, packet, start, string},
    wire::{self, Peer, connack, values},
};

/// [MQTT-3.1.3-6], [MQTT-3.1.3-7] of 3.1.1; [MQTT-3.1.3-6], [MQTT-3.2.2-16] of 5.
#[tokio::test]
async fn a_client_without_an_identifier_gets_one_of_its_own() {
    let broker = start(config()).await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let mut client = broker.raw().await;
        client.send(&connect_v5("", 2, 0, &[])).await;
        let (present, code, properties) = connack(&client.packet().await);
        assert_eq!((present, code), (false, 0));
        let id = values(&properties, 0x12)[0].to_vec();
        assert!(!id.is_empty() && !seen.contains(&id), "{seen:?}");
        seen.push(id);
    }
    let mut client = broker.raw().await;
    client.send(&connect_v4("", 2, 0)).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    // [MQTT-3.1.3-8] of 3.1.1: not without clean session; 0x02 and the end.
    let mut client = broker.raw().await;
    client.send(&connect_v4("", 0, 0)).await;
    client.expect(&[0x20, 2, 0, 2]).await;
    client.expect_end().await;
    // One that named itself is not told its name.
    let mut client = broker.raw().await;
    client.send(&connect_v5("me", 2, 0, &[])).await;
    let (_, _, properties) = connack(&client.packet().await);
    assert!(values(&properties, 0x12).is_empty());
    broker.stop().await;
}

/// [MQTT-3.1.2-2] of both, [MQTT-3.1.0-1], [MQTT-3.1.0-2], [MQTT-3.1.2-3].
#[tokio::test]
async fn what_is_no_connect_of_3_1_1_or_5_ends_the_connection() {
    let broker = start(config()).await;
    // A protocol that we do not know: 3.1.1 is told in its own way, 5 in its own.
    let mut client = broker.raw().await;
    client
        .send(&packet(
            0x10,
            &[&string("MQTT"), &[3, 2, 0, 0], &string("d")],
        ))
        .await;
    client.expect(&[0x20, 2, 0, 1]).await;
    client.expect_end().await;
    let mut client = broker.raw().await;
    client
        .send(&packet(
            0x10,
            &[&string("MQTT"), &[6, 2, 0, 0, 0], &string("d")],
        ))
        .await;
    client.expect(&[0x20, 3, 0, 0x84, 0]).await;
    client.expect_end().await;
    // Something else first.
    let mut client = broker.raw().await;
    client.send(&[0xC0, 0]).await;
    client.expect_end().await;
    // The reserved flag.
    let mut client = broker.raw().await;
    client.send(&connect_v4("d", 3, 0)).await;
    client.expect_end().await;
    // A second CONNECT.
    let mut client = broker.v4("d").await;
    client.send(&connect_v4("d", 2, 0)).await;
    client.expect_end().await;
    let mut client = broker.v5("d").await;
    client.send(&connect_v5("d", 2, 0, &[])).await;
    client.expect_disconnect(0x82).await;
    broker.stop().await;
}

/// [MQTT-3.2.2-9] to [MQTT-3.2.2-13], 3.2.2.3: what is available is announced by
/// absence, and what is limited by its number.
#[tokio::test]
async fn connack_announces_what_there_is() {
    let broker = start(Config {
        receive_max: 7,
        packet_bytes_max: 5000,
        ..config()
    })
    .await;
    let mut client = broker.raw().await;
    client.send(&connect_v5("d", 2, 0, &[])).await;
    let (present, code, properties) = connack(&client.packet().await);
    assert_eq!((present, code), (false, 0));
    assert_eq!(values(&properties, 0x21), [[0, 7]], "receive maximum");
    assert_eq!(
        values(&properties, 0x27),
        [[0, 0, 0x13, 0x88]],
        "packet size"
    );
    assert_eq!(values(&properties, 0x22), [[0, 16]], "topic alias maximum");
    for (id, name) in [
        (0x13, "server keep alive, where nothing was shortened"),
        (0x1A, "response information, where nobody asked"),
        (0x1C, "server reference"),
        (0x24, "maximum QoS below 2"),
        (0x25, "retain not available"),
        (0x28, "wildcards not available"),
        (0x29, "subscription identifiers not available"),
        (0x2A, "shared subscriptions not available"),
    ] {
        assert!(values(&properties, id).is_empty(), "{name}");
    }
    broker.stop().await;
}

/// [MQTT-3.1.2-21], [MQTT-3.2.2-21]: the server's keep-alive counts where it says one.
#[tokio::test]
async fn a_longer_keep_alive_than_allowed_is_shortened_and_told() {
    let broker = start(Config {
        keep_alive_max: Some(Duration::from_secs(1)),
        ..config()
    })
    .await;
    for asked in [0, 60] {
        let mut client = broker.raw().await;
        client.send(&connect_v5("d", 2, asked, &[])).await;
        let (_, _, properties) = connack(&client.packet().await);
        assert_eq!(values(&properties, 0x13), [[0, 1]], "asked for {asked}");
        client.expect_disconnect(0x8D).await;
    }
    let mut client = broker.raw().await;
    client.send(&connect_v5("d", 2, 1, &[])).await;
    let (_, _, properties) = connack(&client.packet().await);
    assert!(values(&properties, 0x13).is_empty(), "as it asked");
    // 3.1.1 has no way to be told, so what it asked for counts.
    let mut old = broker.raw().await;
    old.send(&connect_v4("old", 2, 60)).await;
    old.expect(&[0x20, 2, 0, 0]).await;
    client.expect_disconnect(0x8D).await;
    old.ping().await;
    broker.stop().await;
}

/// [MQTT-3.1.2-28], 3.2.2.3.15: response information only for who asks.
#[tokio::test]
async fn response_information_is_given_on_request() {
    let broker = start(Config {
        response_information: Some(Arc::from("responses/{client}/")),
        ..config()
    })
    .await;
    for (id, asked, expect) in [
        ("d", [0x19, 1], Some(&b"responses/d/"[..])),
        ("d", [0x19, 0], None),
        ("a+b", [0x19, 1], None),
    ] {
        let mut client = broker.raw().await;
        client.send(&connect_v5(id, 2, 0, &asked)).await;
        let (_, _, properties) = connack(&client.packet().await);
        assert_eq!(values(&properties, 0x1A).first().copied(), expect, "{id}");
    }
    broker.stop().await;
}

/// [MQTT-4.12.0-1], [MQTT-4.12.0-6], [MQTT-4.12.0-7], [MQTT-4.13.1-1]: an
/// authentication method that we do not have is refused, AUTH out of turn too.
#[tokio::test]
async fn enhanced_authentication_is_refused_with_its_reason() {
    let broker = start(config()).await;
    let method = [&[0x15][..], &string("SCRAM-SHA-1")].concat();
    let mut client = broker.raw().await;
    client.send(&connect_v5("d", 2, 0, &method)).await;
    let (_, code, _) = connack(&client.packet().await);
    assert_eq!(code, 0x8C);
    client.expect_end().await;
    let mut client = broker.raw().await;
    client
        .send(&connect_v5("d", 2, 0, &[0x16, 0, 1, b'x']))
        .await;
    let (_, code, _) = connack(&client.packet().await);
    assert_eq!(code, 0x82, "data without a method");
    let mut client = broker.v5("d").await;
    client
        .send(&packet(
            0xF0,
            &[&[0x18], &[u8::try_from(method.len()).unwrap()], &method],
        ))
        .await;
    client.expect_disconnect(0x82).await;
    let mut client = broker.v4("d").await;
    client.send(&[0xF0, 0]).await;
    client.expect_end().await;
    broker.stop().await;
}

/// [MQTT-3.1.2-29]: no reason string for who does not want to hear of problems.
#[tokio::test]
async fn reasons_in_words_only_go_to_who_takes_them() {
    let broker = start(config()).await;
    // 0x82: a PUBLISH with a subscription identifier, [MQTT-3.3.4-6].
    let offence = packet(0x30, &[&string("t"), &[2, 0x0B, 1]]);
    for (properties, expect) in [(&[][..], 1), (&[0x17, 1], 1), (&[0x17, 0], 0)] {
        let mut client = broker.v5_with("d", properties).await;
        client.send(&offence).await;
        let (code, found) = wire::disconnect(&client.packet().await);
        assert_eq!((code, values(&found, 0x1F).len()), (0x82, expect));
        client.expect_end().await;
    }
    broker.stop().await;
}

/// [MQTT-3.14.4-2], [MQTT-3.14.1-1], [MQTT-3.14.2-2].
#[tokio::test]
async fn disconnect_ends_the_connection_and_is_checked() {
    let broker = start(config()).await;
    for v5 in [false, true] {
        let mut peer = Peer::connect(&broker, v5, "d").await;
        peer.client.send(&[0xE0, 0]).await;
        peer.client.expect_end().await;
    }
    let mut client = broker.v5("d").await;
    client.send(&[0xE1, 0]).await;
    client.expect_disconnect(0x81).await;
    // A session expiry after a CONNECT without one.
    let mut client = broker.v5("d").await;
    client.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 1]).await;
    client.expect_disconnect(0x82).await;
    // A server reference is for servers.
    let mut client = broker.v5("d").await;
    client.send(&[0xE0, 6, 0, 4, 0x1C, 0, 1, b'x']).await;
    client.expect_disconnect(0x81).await;
    broker.stop().await;
}

/// [MQTT-3.12.4-1].
#[tokio::test]
async fn a_ping_is_answered() {
    let broker = start(config()).await;
    for v5 in [false, true] {
        Peer::connect(&broker, v5, "d").await.client.ping().await;
    }
    broker.stop().await;
}

/// [MQTT-3.1.4-3] and [MQTT-3.1.4-2] of 3.1.1: the older connection goes.
#[tokio::test]
async fn a_second_connection_of_a_client_ends_the_first() {
    let broker = start(config()).await;
    let mut first = broker.v5("d").await;
    let mut second = broker.v4("d").await;
    first.expect_disconnect(0x8E).await;
    let mut third = broker.v5("d").await;
    second.expect_end().await;
    third.ping().await;
    broker.stop().await;
}

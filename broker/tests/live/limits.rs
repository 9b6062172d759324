//! What the broker announces and enforces.

use std::time::Duration;

use penstock_broker::{Config, Limits};

use crate::support::{
    config, connect_v4, connect_v5, packet, publish_v4, publish_v5, start, string, varint,
};

/// A quarter of the memory for each kind.
fn with_parts_of_64_mib() -> Config {
    let limits = Limits {
        memory_max: 256 * 1024 * 1024,
        ..Limits::default()
    };
    Config { limits, ..config() }
}

#[tokio::test]
async fn connack_announces_what_is_enforced() {
    let mut config = config();
    config.keep.session_expiry_max = Duration::from_secs(59);
    let broker = start(config).await;
    let mut client = broker.raw().await;
    client
        .send(&connect_v5("d", 2, 0, &[0x11, 0, 0, 0, 60]))
        .await;
    let expect: Vec<u8> = [
        &[0x20, 19, 0, 0, 16][..],
        &[0x11, 0, 0, 0, 59],   // the session lasts less than was asked for
        &[0x21, 0x04, 0x00],    // receive maximum 1024
        &[0x27, 0, 0x10, 0, 0], // packets of 1 MiB
        &[0x22, 0, 16],         // topic aliases
    ]
    .concat();
    client.expect(&expect).await;
    broker.stop().await;
}

#[tokio::test]
async fn an_empty_client_id_is_assigned_where_the_protocol_allows() {
    let broker = start(config()).await;
    let mut v5 = broker.raw().await;
    v5.send(&connect_v5("", 2, 0, &[])).await;
    let connack = v5.packet().await;
    let text = String::from_utf8_lossy(&connack).into_owned();
    assert!(text.contains("auto-"), "{connack:02x?}");
    let mut v4 = broker.raw().await;
    v4.send(&connect_v4("", 2, 0)).await;
    v4.expect(&[0x20, 2, 0, 0]).await;
    let mut v4 = broker.raw().await;
    v4.send(&connect_v4("", 0, 0)).await;
    v4.expect(&[0x20, 2, 0, 2]).await;
    v4.expect_end().await;
    let mut long = broker.raw().await;
    long.send(&connect_v5(&"x".repeat(2000), 2, 0, &[])).await;
    long.expect(&[0x20, 3, 0, 0x85, 0]).await;
    long.expect_end().await;
    broker.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let broker = start(Config {
        connections_max: 2,
        ..config()
    })
    .await;
    let first = broker.v4("1").await;
    let _second = broker.v5("2").await;
    let mut third = broker.raw().await;
    third.send(&connect_v4("3", 2, 0)).await;
    third.expect(&[0x20, 2, 0, 3]).await;
    third.expect_end().await;
    let mut fourth = broker.raw().await;
    fourth.send(&connect_v5("4", 2, 0, &[])).await;
    fourth.expect(&[0x20, 3, 0, 0x89, 0]).await;
    fourth.expect_end().await;
    drop(first);
    broker.until("room", |now| now.connections_open == 1).await;
    broker.v4("5").await.ping().await;
    assert_eq!(broker.handle.metrics().refused_connection_limit, 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_packet_beyond_the_limit_ends_the_connection_before_it_is_buffered() {
    let broker = start(Config {
        packet_bytes_max: 1000,
        ..config()
    })
    .await;
    let fits = "x".repeat(1000 - 3 - 3 - 2);
    let mut v4 = broker.v4("four").await;
    v4.send(&publish_v4("t", 1, 1, &fits)).await;
    v4.expect(&[0x40, 2, 0, 1]).await;
    // The header alone is enough.
    v4.send(&publish_v4("t", 1, 1, &format!("{fits}x"))[..3])
        .await;
    v4.expect_end().await;
    let mut v5 = broker.v5("five").await;
    v5.send(&publish_v5("t", 1, 1, &[], &fits)[..3]).await;
    v5.expect_disconnect(0x95).await;
    assert_eq!(broker.handle.metrics().packets_too_large, 2);
    broker.stop().await;
}

#[tokio::test]
async fn subscriptions_beyond_the_limit_are_refused_one_by_one() {
    let broker = start(Config {
        subscriptions_per_client_max: 2,
        ..config()
    })
    .await;
    let mut client = broker.v5("d").await;
    let filters: Vec<u8> = ["a", "b", "c", "a"]
        .iter()
        .flat_map(|one| [&string(one)[..], &[1]].concat())
        .collect();
    client.send(&packet(0x82, &[&[0, 1, 0], &filters])).await;
    client.expect(&[0x90, 7, 0, 1, 0, 1, 1, 0x97, 1]).await;
    let mut old = broker.v4("e").await;
    old.send(&packet(0x82, &[&[0, 1], &filters])).await;
    old.expect(&[0x90, 6, 0, 1, 1, 1, 0x80, 1]).await;
    broker.stop().await;
}

#[tokio::test]
async fn answers_keep_to_the_client_s_maximum_packet_size() {
    let broker = start(config()).await;
    let limited = |id: &str, max: u8| connect_v5(id, 2, 0, &[0x27, 0, 0, 0, max]);
    let needed = [0x21, 4, 0, 0x27, 0, 0x10, 0, 0];
    for (max, answer) in [
        (
            16,
            Some([&[0x20, 14, 0, 0, 11][..], &needed, &[0x22, 0, 16]].concat()),
        ),
        (15, Some([&[0x20, 11, 0, 0, 8][..], &needed].concat())),
        (13, Some([&[0x20, 11, 0, 0, 8][..], &needed].concat())),
        (12, Some(vec![0x20, 3, 0, 0x95, 0])),
        (4, None),
    ] {
        let mut client = broker.raw().await;
        client.send(&limited("d", max)).await;
        if let Some(answer) = &answer {
            assert!(answer.len() <= max.into());
            client.expect(answer).await;
        }
        if max < 13 {
            client.expect_end().await;
            continue;
        }
        // Thirteen bytes are eight filters.
        for (kind, tail, count) in [(0x82, &[0][..], 8), (0xA2, &[], 8), (0x82, &[0], 20)] {
            let filters = [&string("a")[..], tail].concat().repeat(count);
            client.send(&packet(kind, &[&[0, 1, 0], &filters])).await;
            if count > 8 {
                client.expect_disconnect(0x95).await;
            } else {
                assert_eq!(client.packet().await.len(), 5 + count);
            }
        }
    }
    let mut client = broker.v5_with("d", &[0x27, 0, 0, 0, 13]).await;
    let filters = string("a").repeat(20);
    client.send(&packet(0xA2, &[&[0, 1, 0], &filters])).await;
    client.expect_disconnect(0x95).await;
    broker.stop().await;
}

/// A CONNECT of 5 with a will.
fn connect_with_will(id: &str, properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let will = [
        &varint(properties.len())[..],
        properties,
        &string("will"),
        &u16::try_from(payload.len()).unwrap().to_be_bytes(),
        payload,
    ]
    .concat();
    packet(
        0x10,
        &[&string("MQTT"), &[5, 0b110, 0, 0, 0], &string(id), &will],
    )
}

#[tokio::test]
async fn a_will_or_a_user_name_beyond_the_limit_is_refused() {
    let broker = start(config()).await;
    let pair = [0x26, 0, 1, b'k', 0, 1, b'v'];
    let content_type = [&[0x03][..], &string(&"x".repeat(8200))].concat();
    for (properties, code) in [
        (pair.repeat(256), 0),
        (pair.repeat(257), 0x97),
        (content_type, 0x97),
    ] {
        let mut client = broker.raw().await;
        client
            .send(&connect_with_will("d", &properties, b"x"))
            .await;
        assert_eq!(client.packet().await[3], code);
    }
    let named = |level: u8, name: &str| {
        let properties: &[u8] = if level == 5 { &[0] } else { &[] };
        packet(
            0x10,
            &[
                &string("MQTT"),
                &[level, 0b1000_0010, 0, 0],
                properties,
                &string("d"),
                &string(name),
            ],
        )
    };
    for (level, len, code) in [(4, 1024, 0), (4, 1025, 4), (5, 1024, 0), (5, 1025, 0x86)] {
        let mut client = broker.raw().await;
        client.send(&named(level, &"n".repeat(len))).await;
        assert_eq!(client.packet().await[3], code, "level {level}, {len} bytes");
    }
    broker.stop().await;
}

#[tokio::test]
async fn all_sessions_together_keep_a_bounded_amount_of_wills_and_aliases() {
    let broker = start(with_parts_of_64_mib()).await;
    // Sixteen aliases of this length are a megabyte.
    let topic = "t".repeat(65_000);
    let mut clients = Vec::new();
    'all: loop {
        let mut client = broker.v5(&clients.len().to_string()).await;
        for alias in 1..=16 {
            client
                .send(&publish_v5(&topic, 1, alias, &[0x23, 0, alias], "x"))
                .await;
            let answer = client.packet().await;
            if answer[0] == 0xE0 {
                assert_eq!(answer[2], 0x97);
                break 'all;
            }
            assert_eq!((answer[0], answer[4]), (0x40, 0x90));
        }
        clients.push(client);
        assert!(clients.len() < 100, "never too much");
    }
    let open = clients.len() as u64;
    broker.until("gone", |now| now.sessions_open == open).await;
    // Wills fill what is left, as far as they fit.
    let mut wills = Vec::new();
    for len in [65_000, 9_000] {
        loop {
            let mut client = broker.raw().await;
            let id = format!("will-{}", wills.len());
            client
                .send(&connect_with_will(&id, &[], &vec![0; len]))
                .await;
            let answer = client.packet().await[3];
            if answer != 0 {
                assert_eq!(answer, 0x97);
                break;
            }
            wills.push(client);
            assert!(wills.len() < 100, "never too much");
        }
    }
    assert_eq!(broker.handle.metrics().refused_memory, 2);
    // A small will still finds its place, and so do a few aliases.
    let mut small = broker.raw().await;
    small.send(&connect_with_will("small", &[], b"x")).await;
    assert_eq!(small.packet().await[3], 0);
    let long = "t".repeat(4000);
    for alias in 1..=2 {
        small
            .send(&publish_v5(&long, 1, alias, &[0x23, 0, alias], "x"))
            .await;
        small.expect(&[0x40, 2, 0, alias]).await;
    }
    small
        .send(&publish_v5(&long, 1, 3, &[0x23, 0, 3], "x"))
        .await;
    small.expect_disconnect(0x97).await;
    // What a session kept is free once it ended.
    clients.pop().unwrap().send(&[0xE0, 0]).await;
    let open = (clients.len() + wills.len()) as u64;
    broker.until("gone", |now| now.sessions_open == open).await;
    let mut again = broker.raw().await;
    again
        .send(&connect_with_will("again", &[], &[0; 65_000]))
        .await;
    assert_eq!(again.packet().await[3], 0);
    broker.shutdown.cancel();
}

#[tokio::test]
async fn a_filter_named_often_brings_its_retained_messages_once() {
    let broker = start(config()).await;
    let mut sender = broker.v4("sender").await;
    for n in 0..50 {
        let mut retained = publish_v4(&format!("r/{n}"), 1, 1, "x");
        retained[0] |= 1;
        sender.send(&retained).await;
        sender.expect(&[0x40, 2, 0, 1]).await;
    }
    broker.until("retained", |now| now.retained == 50).await;
    let mut client = broker.v4("d").await;
    // As many as one packet holds.
    let count = 200_000;
    let filters = [&string("#")[..], &[0]].concat().repeat(count);
    client.send(&packet(0x82, &[&[0, 1], &filters])).await;
    // The end of the queue is not to be seen before the answer is there.
    client.send(&[0xC0, 0]).await;
    let (mut messages, mut codes) = (0, Vec::new());
    loop {
        let packet = client.packet().await;
        match packet[0] {
            0x90 => codes = packet[6..].to_vec(),
            0xD0 => break,
            _ => messages += 1,
        }
    }
    while messages < 50 {
        assert_eq!(client.packet().await[0], 0x31);
        messages += 1;
    }
    client.ping().await;
    assert_eq!(codes.len(), count);
    assert!(codes[..8192].iter().all(|code| *code == 0));
    assert!(codes[8192..].iter().all(|code| *code == 0x80));
    assert_eq!(broker.handle.metrics().subscriptions, 1);
    broker.stop().await;
}

#[tokio::test]
async fn others_have_their_turn_while_one_subscribes_to_much() {
    // One thread: whoever does not let go of it stops everybody.
    let broker = start(Config {
        subscriptions_per_client_max: 8192,
        ..config()
    })
    .await;
    let mut sender = broker.v4("sender").await;
    for n in 0..2000 {
        let mut retained = publish_v4(&format!("r/{n}"), 0, 0, "x");
        retained[0] |= 1;
        sender.send(&retained).await;
    }
    broker.until("retained", |now| now.retained == 2000).await;
    let mut client = broker.v4("d").await;
    let filters: Vec<u8> = (0..4000)
        .flat_map(|n| [&string(&format!("none/{n}"))[..], &[0]].concat())
        .collect();
    client.send(&packet(0x82, &[&[0, 1], &filters])).await;
    broker.until("at work", |now| now.subscriptions > 0).await;
    sender.ping().await;
    let before = broker.handle.metrics().subscriptions;
    assert!(before < 4000, "the ping waited for {before} subscriptions");
    drop(client);
    broker.stop().await;
}

#[tokio::test]
async fn an_illegal_connect_is_answered_as_its_protocol_allows() {
    let broker = start(config()).await;
    for (bytes, answer) in [
        (
            packet(0x10, &[&string("MQTT"), &[3, 2, 0, 0], &string("x")]),
            Some(vec![0x20, 2, 0, 1]),
        ),
        (
            packet(0x10, &[&string("MQTT"), &[9, 2, 0, 0, 0], &string("x")]),
            Some(vec![0x20, 3, 0, 0x84, 0]),
        ),
        (connect_v4("x", 3, 0), None),
        (connect_v5("x", 3, 0, &[]), Some(vec![0x20, 3, 0, 0x81, 0])),
        (
            connect_v5("x", 2, 0, &[0x15, 0, 1, b'm']),
            Some(vec![0x20, 3, 0, 0x8C, 0]),
        ),
        (
            packet(0x10, &[&string("HTTP"), &[4, 2, 0, 0], &string("x")]),
            None,
        ),
        (publish_v4("t", 0, 0, "x"), None),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), None),
    ] {
        let mut client = broker.raw().await;
        client.send(&bytes).await;
        if let Some(answer) = answer {
            client.expect(&answer).await;
        }
        client.expect_end().await;
    }
    assert_eq!(broker.handle.metrics().refused_protocol, 8);
    broker.stop().await;
}

#[tokio::test]
async fn all_connections_together_collect_a_bounded_amount_of_large_packets() {
    const LARGE: usize = 8 * 1024 * 1024;
    let broker = start(Config {
        packet_bytes_max: LARGE,
        ..with_parts_of_64_mib()
    })
    .await;
    let whole = publish_v5("t", 1, 1, &[], &"x".repeat(LARGE - 11));
    assert_eq!(whole.len(), LARGE);
    let (most, last) = whole.split_at(LARGE - 1);
    // Eight packets, each of which lacks a byte, are all that is shared.
    let mut clients = Vec::new();
    for n in 0..8 {
        let mut client = broker.v5(&n.to_string()).await;
        client.send(most).await;
        clients.push(client);
    }
    broker
        .until("collected", |now| now.bytes_in >= 8 * most.len() as u64)
        .await;
    let mut ninth = broker.v5("ninth").await;
    ninth.send(&publish_v5("t", 1, 1, &[], "small")).await;
    ninth.expect(&[0x40, 2, 0, 1]).await;
    ninth.try_send(&most[..200_000]).await;
    let answer = ninth.try_packet().await;
    assert!(answer.is_none_or(|packet| packet[0] == 0xE0 && packet[2] == 0x97));
    clients[0].send(last).await;
    clients[0].expect(&[0x40, 2, 0, 1]).await;
    let mut ninth = broker.v5("ninth").await;
    ninth.send(&whole).await;
    ninth.expect(&[0x40, 2, 0, 1]).await;
    broker.stop().await;
}

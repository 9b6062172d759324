//! What one client, one address and one identity may take.

use std::time::Duration;

use penstock_broker::{
    Config, Limits, Rates,
    auth::{
        self,
        passwords::{Cost, Passwords, hash},
    },
};
use tokio::time::{Instant, timeout};

use crate::support::{
    LONG, config, connect_v4, connect_v5, packet, publish_v4, publish_v5, start, string,
};

fn limited(limits: Limits) -> Config {
    Config { limits, ..config() }
}

#[tokio::test]
async fn an_address_with_enough_connections_is_told_and_gets_one_when_one_ends() {
    let broker = start(limited(Limits {
        connections_per_address_max: 2,
        ..Limits::default()
    }))
    .await;
    let first = broker.v4("1").await;
    let _second = broker.v5("2").await;
    let mut third = broker.raw().await;
    third.send(&connect_v5("3", 2, 0, &[])).await;
    third.expect(&[0x20, 3, 0, 0x97, 0]).await;
    third.expect_end().await;
    let mut fourth = broker.raw().await;
    fourth.send(&connect_v4("4", 2, 0)).await;
    fourth.expect(&[0x20, 2, 0, 3]).await;
    fourth.expect_end().await;
    drop(first);
    broker.until("room", |now| now.connections_open == 1).await;
    broker.v4("5").await.ping().await;
    assert_eq!(broker.handle.metrics().refused_address_limit, 2);
    broker.stop().await;
}

#[tokio::test]
async fn connections_that_come_too_fast_are_told_and_those_that_are_there_stay() {
    let broker = start(Config {
        connections_max: 3,
        ..limited(Limits {
            connect_rate_per_address_max: 1,
            connect_rate_max: 0,
            ..Limits::default()
        })
    })
    .await;
    let mut honest = broker.v5("honest").await;
    let refused = async {
        loop {
            let mut one = broker.raw().await;
            one.send(&connect_v5("fast", 2, 0, &[])).await;
            let answer = one.packet().await;
            match answer[3] {
                0 => drop(one),
                code => break code,
            }
            let alone = |now: &penstock_broker::Metrics| now.connections_open == 1;
            broker.until("the place is free again", alone).await;
        }
    };
    assert_eq!(timeout(LONG, refused).await.unwrap(), 0x9F);
    honest.ping().await;
    assert!(broker.handle.metrics().refused_connect_rate > 0);
    broker.stop().await;
}

#[tokio::test]
async fn sessions_of_one_user_name_are_bounded_and_none_stands_in_its_own_way() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passwords");
    let cost = Cost {
        memory_kib: 8,
        iterations: 1,
    };
    let mut passwords = Passwords::default();
    for user in ["plc", "hmi"] {
        passwords.set(user, &hash(user.as_bytes(), cost).unwrap());
    }
    passwords.save(&path).unwrap();
    let broker = start(Config {
        auth: auth::Config {
            passwords: Some(path),
            ..auth::Config::default()
        },
        ..limited(Limits {
            connections_per_identity_max: 1,
            ..Limits::default()
        })
    })
    .await;
    let connect = |id: &str, user: &str| {
        let head = [&string("MQTT")[..], &[5, 0xC2, 0, 0, 0]].concat();
        packet(0x10, &[&head, &string(id), &string(user), &string(user)])
    };
    let mut first = broker.raw().await;
    first.send(&connect("1", "plc")).await;
    assert_eq!(first.packet().await[3], 0);
    let mut second = broker.raw().await;
    second.send(&connect("2", "plc")).await;
    second.expect(&[0x20, 3, 0, 0x97, 0]).await;
    let mut other = broker.raw().await;
    other.send(&connect("3", "hmi")).await;
    assert_eq!(other.packet().await[3], 0);
    // The same client again takes its own place.
    let mut again = broker.raw().await;
    again.send(&connect("1", "plc")).await;
    first.expect_disconnect(0x8E).await;
    assert_eq!(again.packet().await[3], 0);
    assert_eq!(broker.handle.metrics().refused_identity_limit, 1);
    broker.stop().await;
}

#[tokio::test]
async fn a_fast_publisher_is_read_slowly_and_loses_nothing_while_others_go_on() {
    const COUNT: usize = 300;
    let broker = start(limited(Limits {
        publish_rate_max: 100,
        publish_burst: Duration::from_secs(1),
        ..Limits::default()
    }))
    .await;
    let began = Instant::now();
    let mut fast = broker.raw().await;
    // With a keep-alive that is shorter than the time it is paused.
    fast.send(&connect_v4("fast", 2, 1)).await;
    fast.expect(&[0x20, 2, 0, 0]).await;
    let mut flood = Vec::new();
    for n in 0..COUNT {
        flood.extend(publish_v4("t", 0, 0, &n.to_string()));
    }
    fast.send(&flood).await;
    fast.send(&[0xC0, 0]).await;
    let mut honest = broker.v5("honest").await;
    honest.send(&publish_v5("t", 1, 1, &[], "x")).await;
    honest.expect(&[0x40, 2, 0, 1]).await;
    fast.expect(&[0xD0, 0]).await;
    broker.gateway.took(COUNT + 1).await;
    let numbers: Vec<String> = broker.gateway.payloads();
    let expect: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
    let fast_ones: Vec<String> = numbers.into_iter().filter(|one| one != "x").collect();
    assert_eq!(fast_ones, expect);
    // A hundred at once, and the others at their rate.
    assert!(began.elapsed() >= Duration::from_millis(1900));
    let now = broker.handle.metrics();
    assert!(now.publishes_paused > 0);
    assert_eq!(now.keep_alive_timeouts, 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_listener_may_have_a_publish_rate_of_its_own() {
    for (name, is_paused) in [("bridge", false), ("another", true)] {
        let mut config = limited(Limits {
            publish_rate_max: 100,
            publish_burst: Duration::from_secs(1),
            rates: vec![Rates {
                users: Vec::new(),
                listeners: vec!["bridge".into()],
                publish_rate_max: 0,
                publish_bytes_rate_max: 0,
            }],
            ..Limits::default()
        });
        config.listeners[0].name = name.into();
        let broker = start(config).await;
        let mut fast = broker.v4("fast").await;
        let flood: Vec<u8> = (0..150).flat_map(|_| publish_v4("t", 0, 0, "x")).collect();
        fast.send(&flood).await;
        broker.gateway.took(150).await;
        let paused = broker.handle.metrics().publishes_paused;
        assert_eq!(paused > 0, is_paused, "{name}: {paused}");
        broker.stop().await;
    }
}

#[tokio::test]
async fn while_a_publisher_is_paused_its_other_packets_are_answered() {
    let broker = start(limited(Limits {
        publish_bytes_rate_max: 1,
        publish_burst: Duration::from_secs(1),
        ..Limits::default()
    }))
    .await;
    let mut client = broker.v4("d").await;
    client
        .send(&publish_v4("t", 1, 1, &"x".repeat(10_000)))
        .await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client.ping().await;
    client.subscribe_v4("other", 1).await;
    // The next one waits for hours, and is no reason to wait for it at the end.
    client.send(&publish_v4("t", 1, 2, "late")).await;
    broker.stop().await;
    client.expect_end().await;
}

#[tokio::test]
async fn topics_that_are_too_deep_or_too_long_are_refused_with_their_reason() {
    let broker = start(limited(Limits {
        topic_levels_max: 3,
        topic_bytes_max: 20,
        ..Limits::default()
    }))
    .await;
    let mut client = broker.v5("d").await;
    for (topic, code) in [
        ("a/b/c", None),
        ("a/b/c/d", Some(0x90)),
        ("a-topic-of-many-bytes", Some(0x90)),
    ] {
        client.send(&publish_v5(topic, 1, 1, &[], "x")).await;
        let answer = client.packet().await;
        assert_eq!(answer.get(4).copied(), code, "{topic}");
    }
    for (filter, code) in [("a/+/#", 1), ("a/+/+/#", 0x8F)] {
        client
            .send(&packet(0x82, &[&[0, 1, 0], &string(filter), &[1]]))
            .await;
        client.expect(&[0x90, 4, 0, 1, 0, code]).await;
    }
    let mut with_will = broker.raw().await;
    let head = [&string("MQTT")[..], &[5, 0x06, 0, 0, 0]].concat();
    let will = [&[0][..], &string("a/b/c/d"), &string("gone")].concat();
    with_will
        .send(&packet(0x10, &[&head, &string("w"), &will]))
        .await;
    with_will.expect(&[0x20, 3, 0, 0x90, 0]).await;
    assert_eq!(broker.handle.metrics().topics_refused, 4);
    broker.stop().await;
}

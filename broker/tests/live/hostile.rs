//! Nothing a client sends stops the broker or another client.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    resuming::{kept, resume},
    support::{config, connect_v4, connect_v5, packet, publish_v4, publish_v5, start, string},
};

fn frames() -> Vec<Vec<u8>> {
    vec![
        publish_v4("a/b", 0, 0, "x"),
        publish_v4("a/b", 1, 1, "x"),
        publish_v4("ü", 2, 2, "x"),
        publish_v5("a/b", 1, 3, &[0x26, 0, 1, b'k', 0, 1, b'v'], "x"),
        publish_v5("a", 1, 3, &[0x23, 0, 1], "x"),
        packet(0x82, &[&[0, 1], &string("a/#"), &[2]]),
        packet(0x82, &[&[0, 1, 0], &string("+/b"), &[1]]),
        packet(0xA2, &[&[0, 1], &string("a/#")]),
        packet(0x82, &[&[0, 1], &string("$share/g/a"), &[1]]),
        vec![0x40, 2, 0, 1],
        vec![0x50, 2, 0, 1],
        vec![0x62, 2, 0, 1],
        vec![0x70, 2, 0, 1],
        vec![0xC0, 0],
        vec![0xE0, 0],
        vec![0xE0, 1, 0],
        vec![0x20, 2, 0, 0],
        vec![0xB0, 2, 0, 1],
        vec![0xF0, 0],
        connect_v4("again", 2, 0),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_client_works_while_mutated_frames_arrive() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let broker = start(config()).await;
    let mut honest = broker.v5("honest").await;
    honest.subscribe_v5("honest", 0).await;
    for round in 0..400_u32 {
        let id = format!("mallory-{}", round % 5);
        let mut client = broker.raw().await;
        let mut bytes = match random.random_range(0..3) {
            0 => connect_v4(&id, 2, 0),
            1 => connect_v5(&id, 2, 0, &[]),
            _ => packet(
                0x10,
                &[
                    &string("MQTT"),
                    &[4, 0b110, 0, 0],
                    &string(&id),
                    &string("w"),
                    &string("x"),
                ],
            ),
        };
        let whole = random.random_bool(0.8);
        if !whole {
            mutate(&mut bytes, &mut random);
        }
        let all = frames();
        for _ in 0..random.random_range(0..20) {
            let mut frame = all[random.random_range(0..all.len())].clone();
            if random.random_bool(0.5) {
                mutate(&mut frame, &mut random);
            }
            bytes.extend(frame);
        }
        client.try_send(&bytes).await;
        if random.random_bool(0.5) {
            client.abort();
        }
        if round % 10 == 0 {
            honest
                .send(&publish_v5("honest", 1, 1, &[], "still here"))
                .await;
            // The echo and the acknowledgement, in either order.
            let one = honest.packet().await;
            let other = honest.packet().await;
            let mut first = [one[0], other[0]];
            first.sort_unstable();
            assert_eq!(first, [0x30, 0x40], "seed {seed}, round {round}");
        }
    }
    broker
        .until("all gone", |now| now.connections_open == 1)
        .await;
    let now = broker.handle.metrics();
    assert_eq!(
        (now.sessions_open, now.subscriptions),
        (1, 1),
        "seed {seed}"
    );
    assert!(
        now.protocol_errors > 0 && now.refused_protocol > 0,
        "seed {seed}: {now:?}"
    );
    broker.stop().await;
}

fn mutate(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..4) {
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..4) {
            0 => bytes[at] = random.random(),
            1 => bytes[at] ^= 1 << random.random_range(0..8),
            2 => bytes.insert(at, random.random()),
            _ if bytes.len() > 1 => drop(bytes.remove(at)),
            _ => {}
        }
    }
}

#[tokio::test]
async fn what_kills_rumqttd_does_not_kill_us() {
    let broker = start(config()).await;
    let mut watcher = broker.v5("watcher").await;
    watcher.subscribe_v5("#", 0).await;
    // A topic that begins with a non-ASCII character.
    let mut client = broker.v4("one").await;
    client.send(&publish_v4("é", 1, 1, "x")).await;
    client.expect(&[0x40, 2, 0, 1]).await;
    watcher.expect(&publish_v5("é", 0, 0, &[], "x")).await;
    // A CONNACK from a client.
    client.send(&[0x20, 2, 0, 0]).await;
    client.expect_end().await;
    // Version 5 properties on their way to a 3.1.1 subscriber.
    let mut old = broker.v4("old").await;
    old.subscribe_v4("t", 0).await;
    let mut new = broker.v5("new").await;
    new.send(&publish_v5("t", 0, 0, &[0x26, 0, 1, b'k', 0, 1, b'v'], "x"))
        .await;
    old.expect(&publish_v4("t", 0, 0, "x")).await;
    // DISCONNECT while being flooded.
    let mut flooded = broker.v4("flooded").await;
    flooded.subscribe_v4("flood", 1).await;
    for _ in 0..2000 {
        new.send(&publish_v5("flood", 0, 0, &[], "x")).await;
    }
    flooded.send(&[0xE0, 0]).await;
    new.ping().await;
    broker
        .until("the flood is over", |now| now.accepted >= 2002)
        .await;
    assert_eq!(broker.handle.metrics().router_restarts, 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_holds_a_bounded_queue() {
    let broker = start(config()).await;
    let mut deaf = broker.v4("deaf").await;
    deaf.subscribe_v4("t", 0).await;
    let mut hearing = broker.v4("hearing").await;
    hearing.subscribe_v4("last", 0).await;
    let mut sender = broker.v4("sender").await;
    let large = "x".repeat(100_000);
    let publish = publish_v4("t", 1, 1, &large);
    let mut sent = 0;
    // More than the socket's buffers and the queue hold.
    while broker.handle.metrics().dropped_queue_full < 10 {
        sender.send(&publish).await;
        sender.expect(&[0x40, 2, 0, 1]).await;
        sent += 1;
        assert!(sent < 2000, "never full");
    }
    sender.send(&publish_v4("last", 0, 0, "x")).await;
    hearing.expect(&publish_v4("last", 0, 0, "x")).await;
    // It is only slow, not dead: what it was sent is whole and in order.
    deaf.expect(&publish_v4("t", 0, 0, &large)).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_packet_that_does_not_come_to_its_end_is_cut_off() {
    let broker = start(penstock_broker::Config {
        connect_timeout: Duration::from_millis(200),
        ..config()
    })
    .await;
    let publish = publish_v5("t", 1, 1, &[], "x");
    for begin in [1, 2, publish.len() - 1] {
        let mut client = broker.v5("d").await;
        client.send(&publish).await;
        client.expect(&[0x40, 2, 0, 1]).await;
        client.send(&publish[..begin]).await;
        client.expect_disconnect(0x8D).await;
    }
    assert_eq!(broker.handle.metrics().packets_stalled, 3);
    // One that keeps coming has its time.
    let mut slow = broker.v5("d").await;
    for byte in &publish {
        slow.send(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    slow.expect(&[0x40, 2, 0, 1]).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_packet_that_takes_longer_than_the_keep_alive_is_heard() {
    let broker = start(config()).await;
    let mut client = broker.raw().await;
    client.send(&connect_v4("slow", 2, 1)).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    // Twice what a silent client has.
    let publish = publish_v4("t", 1, 1, &"x".repeat(20));
    for byte in &publish {
        client.send(&[*byte]).await;
        tokio::time::sleep(Duration::from_millis(3000) / 28).await;
    }
    client.expect(&[0x40, 2, 0, 1]).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_connect_that_trickles_in_is_cut_off() {
    let broker = start(penstock_broker::Config {
        connect_timeout: Duration::from_millis(100),
        ..config()
    })
    .await;
    let mut slow = broker.raw().await;
    let connect = connect_v4("slow", 2, 0);
    slow.send(&connect[..connect.len() - 1]).await;
    slow.expect_end().await;
    assert_eq!(broker.handle.metrics().refused_connect_timeout, 1);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_of_311_that_releases_nothing_ends_and_may_release_when_it_is_back() {
    const MAX: u16 = 4096;
    let dir = tempfile::tempdir().unwrap();
    let broker = start(kept(dir.path())).await;
    let (mut client, _) = resume(&broker, "d").await;
    let publish = |id: u16| packet(0x34, &[&string("t"), &id.to_be_bytes(), &id.to_be_bytes()]);
    for ids in (1..=MAX).collect::<Vec<_>>().chunks(512) {
        let all: Vec<u8> = ids.iter().flat_map(|id| publish(*id)).collect();
        client.send(&all).await;
        for id in ids {
            client.expect(&packet(0x50, &[&id.to_be_bytes()])).await;
        }
    }
    // What would make room for it could come only behind it.
    client.send(&publish(MAX + 1)).await;
    client.expect_end().await;
    let (mut client, present) = resume(&broker, "d").await;
    assert!(present);
    client.send(&[0x62, 2, 0, 1]).await;
    client.expect(&[0x70, 2, 0, 1]).await;
    client.send(&publish(MAX + 1)).await;
    let id = (MAX + 1).to_be_bytes();
    client.expect(&packet(0x50, &[&id])).await;
    assert_eq!(broker.gateway.payloads().len(), usize::from(MAX) + 1);
    broker.stop().await;
}

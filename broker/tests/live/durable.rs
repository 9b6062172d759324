//! What a persistent session is spared: doubles, what it may not read, what is not there.

use std::sync::Arc;

use penstock_broker::{
    QoS, QueueFull, Verdict,
    acl::{Filter, Rule, Rules},
};

use crate::{
    resuming::{again, kept, leave_behind, publish, resume},
    support::{
        config, connect_v4, connect_v5, crash, packet, publish_v4, publish_v5, start, string,
    },
};

fn may_read(filters: &[&str]) -> Arc<Rules> {
    may_read_up_to(filters, QoS::ExactlyOnce)
}

fn may_read_up_to(filters: &[&str], qos_max: QoS) -> Arc<Rules> {
    let parse = |texts: &[&str]| {
        let parsed = texts.iter().map(|text| Filter::parse(text).unwrap());
        parsed.collect::<Vec<_>>()
    };
    Arc::new(Rules(vec![Rule {
        anonymous: true,
        publish: parse(&["#"]),
        subscribe: parse(filters),
        qos_max,
        ..Rule::default()
    }]))
}

#[tokio::test]
async fn what_was_queued_before_a_right_was_taken_away_is_not_delivered() {
    // More than are read from the file at once.
    const SECRETS: u16 = 300;
    let dir = tempfile::tempdir().unwrap();
    let mut before = kept(dir.path());
    before.auth.rules = may_read(&["open/#", "secret/#"]);
    let broker = start(before).await;
    let (mut client, _) = resume(&broker, "away").await;
    client.subscribe_v4("open/#", 1).await;
    client.subscribe_v4("secret/#", 1).await;
    client.send(&[0xE0, 0]).await;
    client.expect_end().await;
    publish(&broker, "open/1", &["a"]).await;
    publish(&broker, "secret/1", &["b"; SECRETS as usize]).await;
    publish(&broker, "open/2", &["c"]).await;
    broker.stop().await;
    let mut after = kept(dir.path());
    after.auth.rules = may_read(&["open/#"]);
    let broker = start(after).await;
    let (mut client, present) = resume(&broker, "away").await;
    assert!(present);
    client.expect(&publish_v4("open/1", 1, 2, "a")).await;
    let id = (SECRETS + 3).to_be_bytes();
    let mut last = publish_v4("open/2", 1, 0, "c");
    last[10..12].copy_from_slice(&id);
    client.expect(&last).await;
    client.send(&[0x40, 2, 0, 2]).await;
    client.send(&[0x40, 2, id[0], id[1]]).await;
    client.ping().await;
    broker
        .until("nothing is left", |now| now.queued_messages == 0)
        .await;
    assert_eq!(broker.handle.metrics().dropped_revoked, u64::from(SECRETS));
    broker.stop().await;
}

#[tokio::test]
async fn what_was_queued_before_a_right_was_narrowed_is_delivered_at_the_qos_that_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let with = |qos_max| {
        let mut config = kept(dir.path());
        config.auth.rules = may_read_up_to(&["t/#"], qos_max);
        // Publishers have no rules of their own here.
        Arc::make_mut(&mut config.auth.rules).0.insert(
            0,
            Rule {
                anonymous: true,
                publish: vec![Filter::parse("#").unwrap()],
                ..Rule::default()
            },
        );
        config
    };
    let broker = start(with(QoS::ExactlyOnce)).await;
    let (mut client, _) = resume(&broker, "away").await;
    client.subscribe_v4("t/#", 2).await;
    let mut publisher = broker.v4("at 2").await;
    for (id, topic) in [(1, "t/begun"), (2, "t/1"), (3, "t/2")] {
        publisher.send(&publish_v4(topic, 2, id, "m")).await;
        publisher.expect(&[0x50, 2, 0, id]).await;
        publisher.send(&[0x62, 2, 0, id]).await;
        publisher.expect(&[0x70, 2, 0, id]).await;
        if id == 1 {
            let begun = publish_v4("t/begun", 2, 2, "m");
            client.expect(&begun).await;
            client.send(&[0xE0, 0]).await;
            client.expect_end().await;
            broker
                .until("it is away", |now| now.sessions_open == 1)
                .await;
        }
    }
    broker.stop().await;
    let broker = start(with(QoS::AtLeastOnce)).await;
    let (mut client, present) = resume(&broker, "away").await;
    assert!(present);
    client
        .expect(&again(publish_v4("t/begun", 2, 2, "m")))
        .await;
    client.expect(&publish_v4("t/1", 1, 3, "m")).await;
    client.expect(&publish_v4("t/2", 1, 4, "m")).await;
    client.send(&[0x50, 2, 0, 2]).await;
    client.expect(&[0x62, 2, 0, 2]).await;
    client.send(&[0x70, 2, 0, 2]).await;
    client.send(&[0x40, 2, 0, 3]).await;
    client.send(&[0xE0, 0]).await;
    client.expect_end().await;
    publish(&broker, "t/3", &["m"]).await;
    broker.stop().await;
    let broker = start(with(QoS::AtMostOnce)).await;
    let (mut client, _) = resume(&broker, "away").await;
    // What may have been sent is sent again as it was.
    client.expect(&again(publish_v4("t/2", 1, 4, "m"))).await;
    client.expect(&publish_v4("t/3", 0, 0, "m")).await;
    client.send(&[0x40, 2, 0, 4]).await;
    broker
        .until("nothing is left", |now| now.queued_messages == 0)
        .await;
    broker.stop().await;
}

#[tokio::test]
async fn what_the_keeper_refuses_the_gateway_never_had() {
    let mut config = config();
    config.keep.queue_messages_max = 2;
    config.keep.queue_full = QueueFull::Refuse;
    let broker = start(config).await;
    leave_behind(&broker, "away", "t", 2).await;
    let mut publisher = broker.raw().await;
    publisher
        .send(&connect_v5("publisher", 0, 0, &[0x11, 0, 0, 0, 60]))
        .await;
    publisher.packet().await;
    let batch = [
        publish_v5("t", 1, 1, &[], "1"),
        publish_v5("other", 1, 2, &[], "2"),
        publish_v5("t", 2, 3, &[], "3"),
        publish_v5("t", 1, 4, &[], "4"),
    ];
    publisher.send(&batch.concat()).await;
    publisher.expect(&[0x40, 2, 0, 1]).await;
    publisher.expect(&[0x40, 2, 0, 2]).await;
    publisher.expect(&[0x50, 2, 0, 3]).await;
    let refused = publisher.packet().await;
    assert_eq!((refused[0], refused[3], refused[4]), (0x40, 4, 0x97));
    publisher.send(&[0x62, 2, 0, 3]).await;
    publisher.expect(&[0x70, 2, 0, 3]).await;
    publisher.send(&publish_v5("t", 2, 5, &[], "5")).await;
    let refused = publisher.packet().await;
    assert_eq!((refused[0], refused[3], refused[4]), (0x50, 5, 0x97));
    assert_eq!(broker.gateway.payloads(), ["1", "2", "3"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_pubrec_that_comes_before_its_message_is_sent_again_is_for_it() {
    let broker = start(config()).await;
    let (mut client, _) = resume(&broker, "d").await;
    client.subscribe_v4("t", 2).await;
    let mut publisher = broker.v4("publisher").await;
    publisher.send(&publish_v4("t", 2, 9, "x")).await;
    publisher.expect(&[0x50, 2, 0, 9]).await;
    client.expect(&publish_v4("t", 2, 2, "x")).await;
    client.abort();
    let mut client = broker.raw().await;
    let both = [connect_v4("d", 0, 0), vec![0x50, 2, 0, 2]].concat();
    client.send(&both).await;
    client.expect(&[0x20, 2, 1, 0]).await;
    client.expect(&[0x62, 2, 0, 2]).await;
    client.send(&[0x70, 2, 0, 2]).await;
    client.ping().await;
    broker
        .until("the exchange is over", |now| now.queued_messages == 0)
        .await;
    client.abort();
    // One for nothing is answered all the same.
    let mut client = broker.raw().await;
    let both = [connect_v4("d", 0, 0), vec![0x50, 2, 0, 77]].concat();
    client.send(&both).await;
    client.expect(&[0x20, 2, 1, 0]).await;
    client.expect(&[0x62, 2, 0, 77]).await;
    client.ping().await;
    assert_eq!(broker.handle.metrics().unknown_acks, 1);
    broker.stop().await;
}

#[tokio::test]
async fn an_exchange_that_is_refused_at_once_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(kept(dir.path())).await;
    let mut client = broker.raw().await;
    client
        .send(&connect_v5("d", 0, 0, &[0x11, 0, 0, 0, 60]))
        .await;
    client.packet().await;
    client.send(&publish_v5("$SYS/x", 2, 5, &[], "x")).await;
    let refused = client.packet().await;
    assert_eq!((refused[0], refused[3], refused[4]), (0x50, 5, 0x90));
    client.send(&publish_v5("t", 2, 6, &[], "x")).await;
    client.expect(&[0x50, 2, 0, 6]).await;
    client.send(&[0x62, 2, 0, 6]).await;
    client.expect(&[0x70, 2, 0, 6]).await;
    broker.stop().await;
    let file = rusqlite::Connection::open(dir.path().join("broker.db")).unwrap();
    let count = file.query_row("SELECT count(*) FROM exchanges", [], |row| row.get(0));
    assert_eq!(count, Ok(0));
}

#[tokio::test]
async fn pubrec_is_remembered_of_what_went_nowhere_too() {
    for verdict in [
        Verdict::Returned,
        Verdict::Refused {
            reason: 0x99,
            text: "unreadable",
        },
    ] {
        let dir = tempfile::tempdir().unwrap();
        let broker = start(kept(dir.path())).await;
        broker.gateway.judge(move |_| verdict.clone());
        let (mut publisher, _) = resume(&broker, "publisher").await;
        publisher.send(&publish_v4("t", 2, 9, "x")).await;
        publisher.expect(&[0x50, 2, 0, 9]).await;
        let copy = crash(dir.path());
        let after = start(kept(copy.path())).await;
        let (mut publisher, _) = resume(&after, "publisher").await;
        publisher.send(&again(publish_v4("t", 2, 9, "x"))).await;
        publisher.expect(&[0x50, 2, 0, 9]).await;
        assert!(after.gateway.payloads().is_empty(), "it was received");
        after.stop().await;
        broker.stop().await;
    }
}

#[tokio::test]
async fn bounds_that_were_lowered_hold_for_a_session_that_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(kept(dir.path())).await;
    let (mut client, _) = resume(&broker, "d").await;
    for filter in ["a", "b", "a/b/c/d/e/f"] {
        client.subscribe_v4(filter, 1).await;
    }
    broker.stop().await;
    let mut config = kept(dir.path());
    config.subscriptions_per_client_max = 1;
    config.limits.topic_levels_max = 3;
    let broker = start(config).await;
    let (mut client, present) = resume(&broker, "d").await;
    assert!(present);
    client.ping().await;
    let left = broker.handle.persistent_subscriptions().await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert_ne!(left[0].filter, "a/b/c/d/e/f");
    broker.stop().await;
}

#[tokio::test]
async fn a_subscriber_hears_what_it_missed_until_it_has_heard() {
    let mut config = config();
    config.keep.queue_messages_max = 1;
    let broker = start(config).await;
    let connect = connect_v5("away", 0, 0, &[0x11, 0, 0, 0, 60]);
    let told = [&[0x26][..], &string("messages-dropped"), &string("2")].concat();
    let is_told = |connack: &[u8]| connack.windows(told.len()).any(|at| *at == *told);
    let mut client = broker.raw().await;
    client.send(&connect).await;
    client.packet().await;
    client.subscribe_v5("t", 1).await;
    client.send(&[0xE0, 0]).await;
    client.expect_end().await;
    publish(&broker, "t", &["1", "2", "3"]).await;
    for _ in 0..2 {
        let mut client = broker.raw().await;
        client.send(&connect).await;
        assert!(is_told(&client.packet().await));
        client.abort();
    }
    let mut client = broker.raw().await;
    client.send(&connect).await;
    assert!(is_told(&client.packet().await));
    let mut third = client.packet().await;
    third[0] &= !0b1000;
    assert_eq!(third, publish_v5("t", 1, 4, &[], "3"));
    client.ping().await;
    client.abort();
    let mut client = broker.raw().await;
    client.send(&connect).await;
    assert!(!is_told(&client.packet().await), "it has heard");
    broker.stop().await;
}

#[tokio::test]
async fn only_the_filters_that_do_not_fit_are_refused_and_not_kept_either() {
    const COUNT: usize = 400;
    let mut config = config();
    config.subscriptions_per_client_max = COUNT;
    config.limits.memory_max = 16 * 1024 * 1024;
    let broker = start(config).await;
    let mut client = broker.raw().await;
    client
        .send(&connect_v5("d", 0, 0, &[0x11, 0, 0, 0, 60]))
        .await;
    client.packet().await;
    // Each takes about 16 KiB of the 4 MiB that there are.
    let filters: Vec<u8> = (0..COUNT)
        .flat_map(|n| [string(&format!("{n}/{}", "x/".repeat(60))), vec![1]].concat())
        .collect();
    client.send(&packet(0x82, &[&[0, 5, 0], &filters])).await;
    let suback = client.packet().await;
    assert_eq!(suback[0], 0x90, "{suback:02x?}");
    let codes = &suback[suback.len() - COUNT..];
    let granted = codes.iter().filter(|code| **code == 1).count();
    let refused = codes.iter().filter(|code| **code == 0x97).count();
    assert!(granted > 0 && refused > 0 && granted + refused == COUNT);
    let kept = broker.handle.persistent_subscriptions().await;
    assert_eq!(kept.len(), granted);
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn operators_see_what_is_in_flight_from_a_queue() {
    let broker = start(config()).await;
    let (mut client, _) = resume(&broker, "d").await;
    client.subscribe_v4("t", 1).await;
    publish(&broker, "t", &["a", "b"]).await;
    client.expect(&publish_v4("t", 1, 2, "a")).await;
    client.expect(&publish_v4("t", 1, 3, "b")).await;
    client.ping().await;
    let info = broker.handle.client("d").unwrap();
    assert_eq!(info.in_flight_out, 2);
    broker.stop().await;
}

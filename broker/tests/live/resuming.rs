//! Sessions that outlive their connection, and the broker.

use std::path::Path;

use penstock_broker::{Config, QueueFull};
use tokio::time::Duration;

use crate::support::{
    Client, Running, config, connect_v4, connect_v5, packet, publish_v4, publish_v5, start, string,
};

pub(crate) fn kept(dir: &Path) -> Config {
    let mut config = config();
    config.keep.dir = Some(dir.to_owned());
    config
}

/// Connects without clean session; whether the session was there.
pub(crate) async fn resume(broker: &Running, id: &str) -> (Client, bool) {
    let mut client = broker.raw().await;
    client.send(&connect_v4(id, 0, 0)).await;
    let connack = client.packet().await;
    assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:02x?}");
    (client, connack[2] == 1)
}

/// Subscribes at QoS 1 or 2 and goes away.
pub(crate) async fn leave_behind(broker: &Running, id: &str, filter: &str, qos: u8) {
    let (mut client, _) = resume(broker, id).await;
    client.subscribe_v4(filter, qos).await;
    client.send(&[0xE0, 0]).await;
    client.expect_end().await;
}

/// Publishes at QoS 1 and waits for the acknowledgement.
pub(crate) async fn publish(broker: &Running, topic: &str, payloads: &[&str]) {
    let mut publisher = broker.v4("publisher").await;
    for payload in payloads {
        publisher.send(&publish_v4(topic, 1, 7, payload)).await;
        publisher.expect(&[0x40, 2, 0, 7]).await;
    }
    publisher.send(&[0xE0, 0]).await;
    publisher.expect_end().await;
}

pub(crate) fn again(mut packet: Vec<u8>) -> Vec<u8> {
    packet[0] |= 0b1000;
    packet
}

#[tokio::test]
async fn session_present_says_what_is_there() {
    let broker = start(config()).await;
    let (client, present) = resume(&broker, "d").await;
    assert!(!present, "there was none");
    drop(client);
    let (client, present) = resume(&broker, "d").await;
    assert!(present);
    drop(client);
    broker.v4("d").await.ping().await;
    let (_client, present) = resume(&broker, "d").await;
    assert!(!present, "a clean session ended it");
    broker.stop().await;
}

#[tokio::test]
async fn an_expiry_of_zero_and_of_a_disconnect_end_the_session() {
    let broker = start(config()).await;
    let connect = |expiry: u8| connect_v5("d", 0, 0, &[0x11, 0, 0, 0, expiry]);
    let mut first = broker.raw().await;
    first.send(&connect(50)).await;
    assert_eq!(first.packet().await[2], 0);
    first.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 0]).await;
    first.expect_end().await;
    let mut second = broker.raw().await;
    second.send(&connect(50)).await;
    assert_eq!(second.packet().await[2], 0, "DISCONNECT ended it");
    drop(second);
    let mut third = broker.raw().await;
    third.send(&connect(0)).await;
    assert_eq!(
        third.packet().await[2],
        1,
        "it is resumed, and ends with this"
    );
    drop(third);
    broker
        .until("the session ends", |now| now.sessions_kept == 0)
        .await;
    let mut fourth = broker.raw().await;
    fourth.send(&connect(50)).await;
    assert_eq!(fourth.packet().await[2], 0);
    broker.stop().await;
}

#[tokio::test]
async fn a_session_that_stays_away_too_long_is_forgotten() {
    let mut config = config();
    config.keep.session_expiry_max = Duration::from_secs(1);
    let broker = start(config).await;
    leave_behind(&broker, "d", "t", 1).await;
    broker
        .until("it expires", |now| now.sessions_expired == 1)
        .await;
    let (_client, present) = resume(&broker, "d").await;
    assert!(!present);
    broker.stop().await;
}

#[tokio::test]
async fn what_came_while_a_client_was_away_comes_in_order_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(kept(dir.path())).await;
    leave_behind(&broker, "away", "t/#", 1).await;
    publish(&broker, "t/1", &["a", "b"]).await;
    broker.stop().await;
    let broker = start(kept(dir.path())).await;
    publish(&broker, "t/2", &["c"]).await;
    let (mut client, present) = resume(&broker, "away").await;
    assert!(present);
    client.expect(&publish_v4("t/1", 1, 2, "a")).await;
    client.expect(&publish_v4("t/1", 1, 3, "b")).await;
    client.expect(&publish_v4("t/2", 1, 4, "c")).await;
    // The subscription lives on.
    publish(&broker, "t/3", &["d"]).await;
    client.expect(&publish_v4("t/3", 1, 5, "d")).await;
    for id in 2..=5 {
        client.send(&[0x40, 2, 0, id]).await;
    }
    client.ping().await;
    broker
        .until("it is empty", |now| now.queued_messages == 0)
        .await;
    drop(client);
    let (mut client, _) = resume(&broker, "away").await;
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn what_was_not_acknowledged_comes_again_with_its_identifier() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(kept(dir.path())).await;
    let (mut client, _) = resume(&broker, "d").await;
    client.subscribe_v4("t", 2).await;
    publish(&broker, "t", &["a", "b", "c"]).await;
    client.expect(&publish_v4("t", 1, 2, "a")).await;
    client.expect(&publish_v4("t", 1, 3, "b")).await;
    client.expect(&publish_v4("t", 1, 4, "c")).await;
    client.send(&[0x40, 2, 0, 3]).await;
    client.ping().await;
    client.abort();
    let (mut client, _) = resume(&broker, "d").await;
    client.expect(&again(publish_v4("t", 1, 2, "a"))).await;
    client.expect(&again(publish_v4("t", 1, 4, "c"))).await;
    client.ping().await;
    broker.stop().await;
    let broker = start(kept(dir.path())).await;
    let (mut client, _) = resume(&broker, "d").await;
    client.expect(&again(publish_v4("t", 1, 2, "a"))).await;
    client.expect(&again(publish_v4("t", 1, 4, "c"))).await;
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_qos_2_message_is_sent_again_until_pubrec_and_released_until_pubcomp() {
    let broker = start(config()).await;
    let (mut client, _) = resume(&broker, "d").await;
    client.subscribe_v4("t", 2).await;
    let mut publisher = broker.v4("publisher").await;
    publisher.send(&publish_v4("t", 2, 9, "x")).await;
    publisher.expect(&[0x50, 2, 0, 9]).await;
    publisher.send(&[0x62, 2, 0, 9]).await;
    publisher.expect(&[0x70, 2, 0, 9]).await;
    client.expect(&publish_v4("t", 2, 2, "x")).await;
    client.abort();
    let (mut client, _) = resume(&broker, "d").await;
    client.expect(&again(publish_v4("t", 2, 2, "x"))).await;
    client.send(&[0x50, 2, 0, 2]).await;
    client.expect(&[0x62, 2, 0, 2]).await;
    client.abort();
    let (mut client, _) = resume(&broker, "d").await;
    client.expect(&[0x62, 2, 0, 2]).await;
    client.send(&[0x70, 2, 0, 2]).await;
    client.ping().await;
    client.abort();
    let (mut client, _) = resume(&broker, "d").await;
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_qos_2_publish_is_taken_once_across_connections_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(kept(dir.path())).await;
    leave_behind(&broker, "away", "t", 2).await;
    let (mut publisher, _) = resume(&broker, "publisher").await;
    publisher.send(&publish_v4("t", 2, 9, "x")).await;
    publisher.expect(&[0x50, 2, 0, 9]).await;
    publisher.abort();
    let (mut publisher, present) = resume(&broker, "publisher").await;
    assert!(present);
    publisher.send(&again(publish_v4("t", 2, 9, "x"))).await;
    publisher.expect(&[0x50, 2, 0, 9]).await;
    assert_eq!(broker.gateway.payloads(), ["x"]);
    publisher.abort();
    broker.stop().await;
    let broker = start(kept(dir.path())).await;
    let (mut publisher, _) = resume(&broker, "publisher").await;
    publisher.send(&again(publish_v4("t", 2, 9, "x"))).await;
    publisher.expect(&[0x50, 2, 0, 9]).await;
    publisher.send(&[0x62, 2, 0, 9]).await;
    publisher.expect(&[0x70, 2, 0, 9]).await;
    // The identifier is free again.
    publisher.send(&publish_v4("t", 2, 9, "y")).await;
    publisher.expect(&[0x50, 2, 0, 9]).await;
    assert_eq!(broker.gateway.payloads(), ["y"]);
    let (mut client, _) = resume(&broker, "away").await;
    client.expect(&publish_v4("t", 2, 2, "x")).await;
    client.expect(&publish_v4("t", 2, 3, "y")).await;
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_qos_2_publish_without_an_answer_keeps_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(kept(dir.path())).await;
    broker.gateway.let_pass(0);
    let (mut publisher, _) = resume(&broker, "publisher").await;
    publisher.send(&publish_v4("t", 2, 9, "x")).await;
    broker.gateway.took(1).await;
    let (_, first) = broker.gateway.taken().remove(0);
    // The process dies: nothing is ended in order.
    let copy = tempfile::tempdir().unwrap();
    for name in ["broker.db", "broker.db-wal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    let after = start(kept(copy.path())).await;
    let (mut publisher, present) = resume(&after, "publisher").await;
    assert!(present);
    publisher.send(&again(publish_v4("t", 2, 9, "x"))).await;
    publisher.expect(&[0x50, 2, 0, 9]).await;
    let (_, second) = after.gateway.taken().remove(0);
    assert!(first.delivery.is_some());
    assert_eq!(first.delivery, second.delivery, "it is the same message");
    publisher.send(&[0x62, 2, 0, 9]).await;
    publisher.expect(&[0x70, 2, 0, 9]).await;
    publisher.send(&publish_v4("t", 2, 9, "x")).await;
    publisher.expect(&[0x50, 2, 0, 9]).await;
    let (_, third) = after.gateway.taken().remove(1);
    assert_ne!(
        first.delivery, third.delivery,
        "another with the same words"
    );
    after.stop().await;
    broker.gateway.open();
    broker.stop().await;
}

#[tokio::test]
async fn retained_messages_survive_a_restart_as_they_were_last_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(kept(dir.path())).await;
    let mut publisher = broker.v4("publisher").await;
    for (topic, payload) in [("a", "1"), ("b", "2"), ("a", "3"), ("b", "")] {
        let mut packet = publish_v4(topic, 1, 7, payload);
        packet[0] |= 1;
        publisher.send(&packet).await;
        publisher.expect(&[0x40, 2, 0, 7]).await;
    }
    broker.stop().await;
    let broker = start(kept(dir.path())).await;
    assert_eq!(broker.handle.metrics().retained, 1);
    let mut subscriber = broker.v4("subscriber").await;
    subscriber.subscribe_v4("#", 0).await;
    let mut expect = publish_v4("a", 0, 0, "3");
    expect[0] |= 1;
    subscriber.expect(&expect).await;
    subscriber.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_subscriber_is_owed_retained_messages_too() {
    let broker = start(config()).await;
    let mut publisher = broker.v4("publisher").await;
    let mut retained = publish_v4("a", 1, 7, "1");
    retained[0] |= 1;
    publisher.send(&retained).await;
    publisher.expect(&[0x40, 2, 0, 7]).await;
    let (mut client, _) = resume(&broker, "d").await;
    client.subscribe_v4("#", 1).await;
    let mut expect = publish_v4("a", 1, 2, "1");
    expect[0] |= 1;
    client.expect(&expect).await;
    client.abort();
    let (mut client, _) = resume(&broker, "d").await;
    client.expect(&again(expect)).await;
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_publisher_is_told_that_a_queue_is_full_where_that_is_wanted() {
    let mut config = config();
    config.keep.queue_messages_max = 1;
    config.keep.queue_full = QueueFull::Refuse;
    let broker = start(config).await;
    leave_behind(&broker, "away", "t", 1).await;
    let mut publisher = broker.v5("publisher").await;
    publisher.send(&publish_v5("t", 1, 1, &[], "1")).await;
    publisher.expect(&[0x40, 2, 0, 1]).await;
    publisher.send(&publish_v5("t", 1, 2, &[], "2")).await;
    let refused = publisher.packet().await;
    assert_eq!((refused[0], refused[4]), (0x40, 0x97), "{refused:02x?}");
    // One of 3.1.1 cannot be told, and is held until there is room.
    let mut held = broker.v4("held").await;
    held.send(&publish_v4("t", 1, 3, "3")).await;
    broker
        .until("it is asked about", |now| now.refused_queue_full >= 3)
        .await;
    let (mut client, _) = resume(&broker, "away").await;
    client.expect(&publish_v4("t", 1, 2, "1")).await;
    client.send(&[0x40, 2, 0, 2]).await;
    held.expect(&[0x40, 2, 0, 3]).await;
    client.expect(&publish_v4("t", 1, 3, "3")).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_subscriber_hears_how_many_messages_it_did_not_get() {
    let mut config = config();
    config.keep.queue_messages_max = 2;
    let broker = start(config).await;
    let connect = connect_v5("away", 0, 0, &[0x11, 0, 0, 0, 60]);
    let mut client = broker.raw().await;
    client.send(&connect).await;
    client.packet().await;
    client.subscribe_v5("t", 1).await;
    client.send(&[0xE0, 0]).await;
    client.expect_end().await;
    publish(&broker, "t", &["1", "2", "3", "4", "5"]).await;
    let mut client = broker.raw().await;
    client.send(&connect).await;
    let connack = client.packet().await;
    let told = [&[0x26][..], &string("messages-dropped"), &string("3")].concat();
    assert!(
        connack.windows(told.len()).any(|at| *at == *told),
        "{connack:02x?}"
    );
    client.expect(&publish_v5("t", 1, 5, &[], "4")).await;
    client.expect(&publish_v5("t", 1, 6, &[], "5")).await;
    broker.stop().await;
}

#[tokio::test]
async fn an_operator_sees_sessions_and_can_remove_one() {
    let broker = start(config()).await;
    leave_behind(&broker, "away", "t/+", 1).await;
    publish(&broker, "t/1", &["1", "2"]).await;
    let (mut client, _) = resume(&broker, "here").await;
    let sessions = broker.handle.sessions().await;
    let seen: Vec<_> = sessions
        .iter()
        .map(|one| (one.client_id.as_str(), one.connected, one.queued))
        .collect();
    assert_eq!(seen, [("away", false, 2), ("here", true, 0)]);
    let subscriptions = broker.handle.persistent_subscriptions().await;
    assert_eq!(subscriptions.len(), 1);
    assert_eq!(subscriptions[0].filter, "t/+");
    assert_eq!(
        broker.handle.remove_session("away".into()).await,
        Some(true)
    );
    assert_eq!(
        broker.handle.remove_session("away".into()).await,
        Some(false)
    );
    assert_eq!(
        broker.handle.remove_session("here".into()).await,
        Some(true)
    );
    client.expect_end().await;
    broker
        .until("nothing is kept", |now| now.sessions_kept == 0)
        .await;
    assert_eq!(broker.handle.metrics().queued_messages, 0);
    broker.stop().await;
}

#[tokio::test]
async fn unsubscribing_is_remembered() {
    let broker = start(config()).await;
    let (mut client, _) = resume(&broker, "d").await;
    client.subscribe_v4("a", 1).await;
    client.subscribe_v4("b", 1).await;
    client.send(&packet(0xA2, &[&[0, 5], &string("a")])).await;
    client.expect(&[0xB0, 2, 0, 5]).await;
    client.abort();
    publish(&broker, "a", &["1"]).await;
    publish(&broker, "b", &["2"]).await;
    let (mut client, _) = resume(&broker, "d").await;
    client.expect(&publish_v4("b", 1, 2, "2")).await;
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_persistent_subscriber_gets_qos_0_live_and_the_rest_from_its_queue() {
    let broker = start(config()).await;
    let (mut client, _) = resume(&broker, "d").await;
    client.subscribe_v4("#", 2).await;
    let mut publisher = broker.v4("publisher").await;
    publisher.send(&publish_v4("t", 0, 0, "0")).await;
    client.expect(&publish_v4("t", 0, 0, "0")).await;
    publisher.send(&publish_v4("t", 1, 1, "1")).await;
    publisher.expect(&[0x40, 2, 0, 1]).await;
    client.expect(&publish_v4("t", 1, 2, "1")).await;
    client.ping().await;
    client.abort();
    publisher.send(&publish_v4("t", 0, 0, "lost")).await;
    publisher.ping().await;
    let (mut client, _) = resume(&broker, "d").await;
    client.expect(&again(publish_v4("t", 1, 2, "1"))).await;
    client.ping().await;
    broker.stop().await;
}

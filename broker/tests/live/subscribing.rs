//! Messages out: fan-out, QoS, windows, options, retained messages.

use penstock_broker::Verdict;

use crate::support::{Client, config, packet, publish_v4, publish_v5, start, string};

#[tokio::test]
async fn a_message_arrives_at_the_lower_of_the_two_qos() {
    let broker = start(config()).await;
    for granted in 0..=2_u8 {
        for sent in 0..=2_u8 {
            let mut subscriber = broker.v4("subscriber").await;
            subscriber.subscribe_v4("t/#", granted).await;
            let mut publisher = broker.v4("publisher").await;
            publisher.send(&publish_v4("t/x", sent, 9, "x")).await;
            let qos = granted.min(sent);
            subscriber.expect(&publish_v4("t/x", qos, 1, "x")).await;
            match qos {
                1 => subscriber.send(&[0x40, 2, 0, 1]).await,
                2 => {
                    subscriber.send(&[0x50, 2, 0, 1]).await;
                    subscriber.expect(&[0x62, 2, 0, 1]).await;
                    subscriber.send(&[0x70, 2, 0, 1]).await;
                }
                _ => {}
            }
            subscriber.ping().await;
        }
    }
    broker.stop().await;
}

#[tokio::test]
async fn subscribers_see_what_is_kept_also_again_and_only_after_its_receipt() {
    let broker = start(config()).await;
    broker.gateway.judge(|publish| match &*publish.payload {
        b"duplicate" => Verdict::Duplicate,
        b"refused" => Verdict::Refused {
            reason: 0x99,
            text: "no",
        },
        _ => Verdict::Accepted,
    });
    let mut subscriber = broker.v4("subscriber").await;
    subscriber.subscribe_v4("#", 0).await;
    broker.gateway.let_pass(0);
    let mut publisher = broker.v4("publisher").await;
    for payload in ["duplicate", "refused", "accepted"] {
        publisher.send(&publish_v4("t", 0, 0, payload)).await;
    }
    broker.gateway.took(3).await;
    subscriber.ping().await;
    broker.gateway.open();
    // After a crash nobody knows whether they saw it.
    subscriber.expect(&publish_v4("t", 0, 0, "duplicate")).await;
    subscriber.expect(&publish_v4("t", 0, 0, "accepted")).await;
    subscriber.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn the_window_of_a_subscriber_is_kept_and_acknowledgements_come_in_any_order() {
    let broker = start(config()).await;
    let mut subscriber = broker.v5_with("subscriber", &[0x21, 0, 2]).await;
    subscriber.subscribe_v5("t", 1).await;
    let mut publisher = broker.v5("publisher").await;
    for n in 1..=4 {
        publisher
            .send(&publish_v5("t", 1, n, &[], &n.to_string()))
            .await;
        publisher.expect(&[0x40, 2, 0, n]).await;
    }
    subscriber.expect(&publish_v5("t", 1, 1, &[], "1")).await;
    subscriber.expect(&publish_v5("t", 1, 2, &[], "2")).await;
    subscriber.ping().await;
    subscriber.send(&[0x40, 2, 0, 2]).await;
    subscriber.expect(&publish_v5("t", 1, 3, &[], "3")).await;
    subscriber.send(&[0x40, 2, 0, 1]).await;
    subscriber.expect(&publish_v5("t", 1, 4, &[], "4")).await;
    // Unknown ones are harmless, wrong ones are not.
    subscriber.send(&[0x40, 2, 0, 77]).await;
    subscriber.send(&[0x50, 2, 0, 78]).await;
    subscriber.expect(&[0x62, 3, 0, 78, 0x92]).await;
    subscriber.send(&[0x70, 2, 0, 3]).await;
    subscriber.expect_disconnect(0x82).await;
    assert_eq!(broker.handle.metrics().unknown_acks, 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_refused_qos2_delivery_frees_its_place() {
    let broker = start(config()).await;
    let mut subscriber = broker.v5_with("subscriber", &[0x21, 0, 1]).await;
    subscriber.subscribe_v5("t", 2).await;
    let mut publisher = broker.v5("publisher").await;
    for n in 1..=2 {
        publisher
            .send(&publish_v5("t", 2, n, &[], &n.to_string()))
            .await;
        publisher.expect(&[0x50, 2, 0, n]).await;
    }
    subscriber.expect(&publish_v5("t", 2, 1, &[], "1")).await;
    subscriber.send(&[0x50, 3, 0, 1, 0x97]).await;
    subscriber.expect(&publish_v5("t", 2, 2, &[], "2")).await;
    broker.stop().await;
}

#[tokio::test]
async fn properties_reach_a_5_subscriber_and_not_a_311_one() {
    let broker = start(config()).await;
    let mut old = broker.v4("old").await;
    old.subscribe_v4("t", 0).await;
    let mut new = broker.v5("new").await;
    new.subscribe_v5("t", 0).await;
    let properties = [0x01, 1, 0x03, 0, 1, b'c', 0x26, 0, 1, b'k', 0, 1, b'v'];
    let mut publisher = broker.v5("publisher").await;
    publisher
        .send(&publish_v5("t", 0, 0, &properties, "x"))
        .await;
    old.expect(&publish_v4("t", 0, 0, "x")).await;
    new.expect(&publish_v5("t", 0, 0, &properties, "x")).await;
    // A lifetime goes on, reduced by the wait; here there was none to speak of.
    publisher
        .send(&publish_v5("t", 0, 0, &[0x02, 0, 0, 0, 99], "x"))
        .await;
    let message = new.packet().await;
    assert_eq!(message[5..7], [5, 0x02]);
    assert!((90..=99).contains(&message[10]), "{message:?}");
    broker.stop().await;
}

async fn subscribe_with_id(client: &mut Client, filter: &str, id: u8, options: u8) {
    client
        .send(&packet(
            0x82,
            &[&[0, 9, 2, 0x0B, id], &string(filter), &[options]],
        ))
        .await;
    client.expect(&[0x90, 4, 0, 9, 0, options & 3]).await;
}

#[tokio::test]
async fn overlapping_subscriptions_give_one_copy_with_every_identifier() {
    let broker = start(config()).await;
    let mut client = broker.v5("d").await;
    subscribe_with_id(&mut client, "a/#", 3, 0).await;
    subscribe_with_id(&mut client, "a/+", 4, 1).await;
    let mut publisher = broker.v5("publisher").await;
    publisher.send(&publish_v5("a/b", 1, 1, &[], "x")).await;
    let message = client.packet().await;
    assert_eq!(message[0], 0x32, "at the higher QoS");
    let mut ids = [message[11], message[13]];
    ids.sort_unstable();
    assert_eq!(
        (message[9], message[10], message[12], ids),
        (4, 0x0B, 0x0B, [3, 4])
    );
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn no_local_and_retain_as_published_are_honoured() {
    let broker = start(config()).await;
    let mut client = broker.v5("d").await;
    client.subscribe_v5("t", 0b0000_0100).await;
    let mut other = broker.v5("other").await;
    other.subscribe_v5("t", 0b0000_1000).await;
    let mut retained = publish_v5("t", 0, 0, &[], "x");
    retained[0] |= 1;
    client.send(&retained).await;
    other.expect(&retained).await;
    client.ping().await;
    other.send(&publish_v5("t", 0, 0, &[], "y")).await;
    client.expect(&publish_v5("t", 0, 0, &[], "y")).await;
    broker.stop().await;
}

#[tokio::test]
async fn retained_messages_greet_new_subscribers() {
    let broker = start(config()).await;
    let mut publisher = broker.v4("publisher").await;
    for (topic, payload) in [
        ("a/1", "one"),
        ("a/2", "two"),
        ("a/2", "three"),
        ("b", "four"),
    ] {
        let mut publish = publish_v4(topic, 1, 1, payload);
        publish[0] |= 1;
        publisher.send(&publish).await;
        publisher.expect(&[0x40, 2, 0, 1]).await;
    }
    let greeting = |topic: &str, payload: &str| {
        let mut publish = publish_v5(topic, 0, 0, &[], payload);
        publish[0] |= 1;
        publish
    };
    let mut client = broker.v5("d").await;
    client.subscribe_v5("a/#", 0).await;
    client.expect(&greeting("a/1", "one")).await;
    client.expect(&greeting("a/2", "three")).await;
    // Retain handling 1: not to a subscription that was there; 2: never.
    client.subscribe_v5("a/#", 0b01_0000).await;
    client.subscribe_v5("b", 0b10_0000).await;
    client.ping().await;
    // An empty payload clears; it is delivered like any message.
    let mut clear = publish_v4("a/1", 1, 1, "");
    clear[0] |= 1;
    publisher.send(&clear).await;
    publisher.expect(&[0x40, 2, 0, 1]).await;
    client.expect(&publish_v5("a/1", 0, 0, &[], "")).await;
    client.subscribe_v5("a/#", 0).await;
    client.expect(&greeting("a/2", "three")).await;
    client.ping().await;
    assert_eq!(broker.handle.metrics().retained, 2);
    broker.stop().await;
}

#[tokio::test]
async fn an_empty_publish_that_is_not_retained_clears_nothing() {
    let broker = start(config()).await;
    let mut publisher = broker.v4("publisher").await;
    let mut retained = publish_v4("a", 1, 1, "x");
    retained[0] |= 1;
    for publish in [&retained, &publish_v4("a", 1, 1, "")] {
        publisher.send(publish).await;
        publisher.expect(&[0x40, 2, 0, 1]).await;
    }
    publisher.subscribe_v4("a", 0).await;
    let mut greeting = publish_v4("a", 0, 0, "x");
    greeting[0] |= 1;
    publisher.expect(&greeting).await;
    broker.stop().await;
}

#[tokio::test]
async fn after_unsubscribe_nothing_arrives() {
    let broker = start(config()).await;
    let mut client = broker.v5("d").await;
    client.subscribe_v5("a", 0).await;
    client.subscribe_v5("b", 0).await;
    client
        .send(&packet(0xA2, &[&[0, 5, 0], &string("a"), &string("x")]))
        .await;
    client.expect(&[0xB0, 5, 0, 5, 0, 0, 0x11]).await;
    client.send(&publish_v5("a", 0, 0, &[], "x")).await;
    client.send(&publish_v5("b", 0, 0, &[], "x")).await;
    client.expect(&publish_v5("b", 0, 0, &[], "x")).await;
    assert_eq!(broker.handle.metrics().subscriptions, 1);
    drop(client);
    broker
        .until("gone with the session", |now| now.subscriptions == 0)
        .await;
    broker.stop().await;
}

#[tokio::test]
async fn filters_that_cannot_be_are_refused_one_by_one() {
    let broker = start(config()).await;
    let filters: Vec<u8> = ["a/#/b", "$share/g", "ok", "", "a+"]
        .iter()
        .flat_map(|one| [&string(one)[..], &[0]].concat())
        .collect();
    let mut v5 = broker.v5("five").await;
    v5.send(&packet(0x82, &[&[0, 1, 0], &filters])).await;
    v5.expect(&[0x90, 8, 0, 1, 0, 0x8F, 0x8F, 0, 0x8F, 0x8F])
        .await;
    let mut v4 = broker.v4("four").await;
    v4.send(&packet(0x82, &[&[0, 1], &filters])).await;
    v4.expect(&[0x90, 7, 0, 1, 0x80, 0x80, 0, 0x80, 0x80]).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_message_larger_than_the_client_takes_is_left_out() {
    let broker = start(config()).await;
    let mut client = broker.v5_with("d", &[0x27, 0, 0, 0, 30]).await;
    client.subscribe_v5("t", 0).await;
    let mut publisher = broker.v5("publisher").await;
    for payload in ["x".repeat(30), "small".to_owned()] {
        publisher.send(&publish_v5("t", 0, 0, &[], &payload)).await;
    }
    client.expect(&publish_v5("t", 0, 0, &[], "small")).await;
    assert_eq!(broker.handle.metrics().dropped_too_large, 1);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_messages_reach_many_subscribers_in_order() {
    let broker = start(config()).await;
    let mut subscribers = Vec::new();
    for n in 0..5 {
        let mut client = broker.v4(&format!("s{n}")).await;
        client
            .subscribe_v4(if n % 2 == 0 { "t/#" } else { "t/+" }, 0)
            .await;
        subscribers.push(client);
    }
    let mut publisher = broker.v4("publisher").await;
    for block in 0..20_u32 {
        let bytes: Vec<u8> = (block * 100..block * 100 + 100)
            .flat_map(|n| publish_v4("t/x", 0, 0, &padded(n)))
            .collect();
        publisher.send(&bytes).await;
    }
    for client in &mut subscribers {
        for n in 0..2000_u32 {
            client.expect(&publish_v4("t/x", 0, 0, &padded(n))).await;
        }
    }
    let now = broker.handle.metrics();
    assert_eq!(
        (now.delivered, now.dropped_queue_full, now.dropped_router),
        (10_000, 0, 0)
    );
    broker.stop().await;
}

/// Large enough that a turn of the session does not write them all.
fn padded(n: u32) -> String {
    format!("{n:0>200}")
}

#[tokio::test]
async fn a_long_queue_is_delivered_without_a_further_push() {
    let broker = start(config()).await;
    let mut publisher = broker.v4("publisher").await;
    let payload = "x".repeat(1000);
    for n in 0..400 {
        let mut publish = publish_v4(&format!("r/{n:03}"), 0, 0, &payload);
        publish[0] |= 1;
        publisher.send(&publish).await;
    }
    broker.until("retained", |now| now.retained == 400).await;
    let mut client = broker.v4("d").await;
    client.subscribe_v4("r/#", 0).await;
    for n in 0..400 {
        let mut publish = publish_v4(&format!("r/{n:03}"), 0, 0, &payload);
        publish[0] |= 1;
        client.expect(&publish).await;
    }
    broker.stop().await;
}

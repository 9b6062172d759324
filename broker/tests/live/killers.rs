//! The sequences by which one client stops the router that we embed, or makes it lose
//! what others were sent. Each beside an honest pair of clients that has to go on as if
//! nothing were: `docs/decisions/0002-one-lane-through-the-router.md`.

use crate::support::{
    Client, Running, config, connect_v4, connect_v5, packet, publish_v4, publish_v5, start, string,
};

/// A publisher and a subscriber at QoS 1.
struct Honest {
    publisher: Client,
    subscriber: Client,
    count: u8,
}

impl Honest {
    async fn new(broker: &Running) -> Self {
        let mut subscriber = broker.v5("honest-subscriber").await;
        subscriber.subscribe_v5("honest/#", 1).await;
        Self {
            publisher: broker.v4("honest-publisher").await,
            subscriber,
            count: 0,
        }
    }

    /// A message goes all the way, in one piece and in turn.
    async fn go_on(&mut self) {
        self.count += 1;
        let n = self.count;
        let payload = n.to_string();
        let publish = publish_v4("honest/x", 1, n, &payload);
        self.publisher.send(&publish).await;
        self.publisher.expect(&[0x40, 2, 0, n]).await;
        let delivery = publish_v5("honest/x", 1, n, &[], &payload);
        self.subscriber.expect(&delivery).await;
        self.subscriber.send(&[0x40, 2, 0, n]).await;
        self.subscriber.ping().await;
    }
}

/// Goes through with it, with the honest clients before and after.
async fn beside<F: AsyncFnOnce(&Running)>(sequence: F) {
    let broker = start(config()).await;
    let mut honest = Honest::new(&broker).await;
    honest.go_on().await;
    sequence(&broker).await;
    for _ in 0..3 {
        honest.go_on().await;
    }
    let now = broker.handle.metrics();
    assert_eq!((now.router_restarts, now.dropped_router), (0, 0));
    broker.stop().await;
}

#[tokio::test]
async fn a_topic_that_begins_with_a_character_beyond_ascii() {
    beside(async |broker| {
        let mut watcher = broker.v5("watcher").await;
        watcher.subscribe_v5("é/#", 0).await;
        let mut client = broker.v4("killer").await;
        for topic in ["é", "日本/x", "\u{10ffff}"] {
            client.send(&publish_v4(topic, 1, 1, "x")).await;
            client.expect(&[0x40, 2, 0, 1]).await;
        }
        watcher.expect(&publish_v5("é", 0, 0, &[], "x")).await;
    })
    .await;
}

#[tokio::test]
async fn a_disconnect_in_the_middle_of_a_flood() {
    beside(async |broker| {
        let mut flood = broker.v5("flood").await;
        for round in 0..5 {
            let mut client = broker.v4("killer").await;
            client.subscribe_v4("flood", 1).await;
            let many: Vec<u8> = (0..200)
                .flat_map(|_| publish_v5("flood", 0, 0, &[], "x"))
                .collect();
            flood.send(&many).await;
            client.send(&[0xE0, 0]).await;
            flood.ping().await;
            broker
                .until("the flood is over", |now| now.accepted >= 200 * (round + 1))
                .await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_member_of_a_shared_subscription_that_leaves_a_message_unacknowledged() {
    beside(async |broker| {
        let mut publisher = broker.v4("publisher").await;
        for round in 1..=5 {
            let mut client = broker.raw().await;
            // One that asks for a session that outlives the connection, and is sent again
            // what it did not acknowledge.
            client.send(&connect_v4("killer", 0, 0)).await;
            client.packet().await;
            let subscribe = packet(0x82, &[&[0, 99], &string("$share/g/t"), &[1]]);
            client.send(&subscribe).await;
            let payload = format!("message {round}");
            while client.packet().await[0] != 0x90 {}
            publisher.send(&publish_v4("t", 1, round, &payload)).await;
            publisher.expect(&[0x40, 2, 0, round]).await;
            while !client.packet().await.ends_with(payload.as_bytes()) {}
            client.abort();
        }
        let mut other = broker.v5("other").await;
        other.subscribe_v5("$share/g/t", 1).await;
        publisher.send(&publish_v4("t", 1, 9, "x")).await;
        publisher.expect(&[0x40, 2, 0, 9]).await;
    })
    .await;
}

#[tokio::test]
async fn properties_of_5_on_their_way_to_a_subscriber_of_3_1_1() {
    beside(async |broker| {
        let mut old = broker.v4("old").await;
        old.subscribe_v4("t", 2).await;
        let mut new = broker.v5("new").await;
        let properties = [0x01, 1, 0x02, 0, 0, 0, 60, 0x26, 0, 1, b'k', 0, 1, b'v'];
        new.send(&publish_v5("t", 0, 0, &properties, "x")).await;
        old.expect(&publish_v4("t", 0, 0, "x")).await;
    })
    .await;
}

#[tokio::test]
async fn packets_that_only_servers_send() {
    beside(async |broker| {
        for first in [0x20, 0x90, 0xB0, 0xD0] {
            for _ in 0..20 {
                let mut client = broker.v4("killer").await;
                client.send(&[first, 2, 0, 1]).await;
                client.expect_end().await;
                let mut client = broker.v5("killer").await;
                client.send(&[first, 2, 0, 1]).await;
                client.expect_disconnect(0x82).await;
            }
        }
        broker
            .until("no seat is left taken", |now| now.sessions_open == 2)
            .await;
    })
    .await;
}

#[tokio::test]
async fn more_than_a_hundred_retained_messages_at_qos_1() {
    beside(async |broker| {
        let mut publisher = broker.v4("publisher").await;
        for n in 0..150 {
            let mut publish = publish_v4(&format!("r/{n:03}"), 1, 1, "x");
            publish[0] |= 1;
            publisher.send(&publish).await;
            publisher.expect(&[0x40, 2, 0, 1]).await;
        }
        // What is empty and not retained clears nothing.
        publisher.send(&publish_v4("r/000", 1, 1, "")).await;
        publisher.expect(&[0x40, 2, 0, 1]).await;
        let mut client = broker.v4("d").await;
        client.subscribe_v4("r/#", 1).await;
        for _ in 0..150 {
            let message = client.packet().await;
            assert_eq!(message[0], 0x33);
            let [high, low] = [message[9], message[10]];
            client.send(&[0x40, 2, high, low]).await;
        }
        client.ping().await;
    })
    .await;
}

#[tokio::test]
async fn acknowledgements_out_of_order_and_out_of_nowhere() {
    beside(async |broker| {
        let mut client = broker.v4("d").await;
        client.subscribe_v4("t", 1).await;
        let mut publisher = broker.v4("publisher").await;
        for n in 1..=3 {
            publisher.send(&publish_v4("t", 1, n, "x")).await;
            publisher.expect(&[0x40, 2, 0, n]).await;
            client.expect(&publish_v4("t", 1, n, "x")).await;
        }
        for n in [3, 1, 2, 2, 77] {
            client.send(&[0x40, 2, 0, n]).await;
        }
        client.ping().await;
    })
    .await;
}

#[tokio::test]
async fn filters_and_topics_that_come_and_go() {
    beside(async |broker| {
        let mut client = broker.v4("d").await;
        for n in 0..500 {
            let filter = format!("{n}/+/{n}/#");
            client.subscribe_v4(&filter, 0).await;
            client
                .send(&publish_v4(&format!("{n}/x/{n}"), 0, 0, "x"))
                .await;
            client
                .expect(&publish_v4(&format!("{n}/x/{n}"), 0, 0, "x"))
                .await;
            client
                .send(&packet(0xA2, &[&[0, 1], &string(&filter)]))
                .await;
            client.expect(&[0xB0, 2, 0, 1]).await;
        }
        assert_eq!(broker.handle.metrics().subscriptions, 1);
    })
    .await;
}

#[tokio::test]
async fn no_keep_alive_and_a_qos_2_message_again_and_again() {
    beside(async |broker| {
        let mut watcher = broker.v4("watcher").await;
        watcher.subscribe_v4("t", 0).await;
        let mut client = broker.raw().await;
        client.send(&connect_v5("d", 2, 0, &[])).await;
        client.packet().await;
        let mut publish = publish_v5("t", 2, 1, &[], "once");
        for _ in 0..10 {
            client.send(&publish).await;
            client.expect(&[0x50, 2, 0, 1]).await;
            publish[0] |= 8;
        }
        watcher.expect(&publish_v4("t", 0, 0, "once")).await;
        watcher.ping().await;
    })
    .await;
}

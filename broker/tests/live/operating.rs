//! What operators see of clients, and do to them; `$SYS`.

use std::time::Duration;

use penstock_broker::Config;

use crate::support::{
    config, connect_v4, connect_v5, packet, publish_v4, publish_v5, start, string,
};

#[tokio::test]
async fn a_connected_client_is_listed_with_what_it_does() {
    let broker = start(config()).await;
    let mut old = broker.v4("old").await;
    let mut new = broker.raw().await;
    new.send(&connect_v5("new", 2, 60, &[])).await;
    assert_eq!(new.packet().await[3], 0);
    old.subscribe_v4("a/+", 1).await;
    for n in 1..=3 {
        new.send(&publish_v5("a/b", 1, n, &[], "x")).await;
        new.expect(&[0x40, 2, 0, n]).await;
        assert_eq!(old.packet().await[0], 0x32);
    }
    old.ping().await;
    let clients = broker.handle.clients("", 10);
    let names: Vec<&str> = clients.iter().map(|one| &*one.client_id).collect();
    assert_eq!(names, ["new", "old"]);
    let [new_info, old_info] = &clients[..] else {
        panic!("two clients")
    };
    assert_eq!((new_info.protocol, old_info.protocol), ("5", "3.1.1"));
    assert_eq!(new_info.keep_alive_secs, Some(60));
    assert!(new_info.address.is_some());
    assert_eq!((new_info.publishes_in, new_info.publishes_out), (3, 0));
    assert_eq!(new_info.in_flight_in, 0);
    assert_eq!((old_info.publishes_in, old_info.publishes_out), (0, 3));
    assert_eq!((old_info.in_flight_out, old_info.subscriptions), (3, 1));
    assert!(old_info.bytes_out > old_info.publishes_out);
    let rest = broker.handle.clients("new", 1);
    assert_eq!(&*rest[0].client_id, "old");
    drop(new);
    broker.until("one left", |now| now.sessions_open == 1).await;
    assert!(broker.handle.client("new").is_none());
    assert!(broker.handle.client("old").is_some());
    broker.stop().await;
}

#[tokio::test]
async fn subscriptions_are_listed_by_client_and_filter() {
    let broker = start(config()).await;
    let mut one = broker.v5("one").await;
    let mut two = broker.v5("two").await;
    for (filter, options) in [("a/+/#", 1), ("/", 0), ("$share/g/x", 2)] {
        two.subscribe_v5(filter, options).await;
    }
    one.subscribe_v5("#", 2).await;
    let listed: Vec<_> = broker.handle.live_subscriptions(("", ""), 10, |_, _| true);
    let listed: Vec<_> = listed
        .iter()
        .map(|one| (&*one.client_id, &*one.filter, one.qos))
        .collect();
    assert_eq!(
        listed,
        [
            ("one", "#", 2),
            ("two", "$share/g/x", 2),
            ("two", "/", 0),
            ("two", "a/+/#", 1),
        ]
    );
    broker.stop().await;
}

#[tokio::test]
async fn a_client_that_is_kicked_hears_why_its_will_is_published_and_it_may_come_back() {
    let broker = start(config()).await;
    let mut client = broker.raw().await;
    let head = [&string("MQTT")[..], &[5, 0x06, 0, 0, 0]].concat();
    let will = [&[0][..], &string("will"), &string("gone")].concat();
    let connect = packet(0x10, &[&head, &string("d"), &will]);
    client.send(&connect).await;
    assert_eq!(client.packet().await[3], 0);
    assert!(!broker.handle.kick("other"));
    assert!(broker.handle.kick("d"));
    client.expect_disconnect(0x98).await;
    broker.gateway.took(1).await;
    assert_eq!(broker.gateway.payloads(), ["gone"]);
    let mut again = broker.raw().await;
    again.send(&connect).await;
    assert_eq!(again.packet().await[3], 0);
    again.ping().await;
    let mut old = broker.v4("old").await;
    assert!(broker.handle.kick("old"));
    old.expect_end().await;
    let now = broker.handle.metrics();
    assert_eq!((now.kicked, now.takeovers), (2, 0));
    broker.stop().await;
}

#[tokio::test]
async fn sys_is_there_for_those_who_ask_for_it_and_for_nobody_else() {
    let broker = start(Config {
        sys_interval: Duration::from_millis(20),
        ..config()
    })
    .await;
    broker.until("said", |now| now.retained > 0).await;
    let mut everything = broker.v4("everything").await;
    everything.subscribe_v4("#", 0).await;
    everything.subscribe_v4("+/broker/version", 0).await;
    let mut client = broker.v4("d").await;
    client.subscribe_v4("$SYS/broker/version", 0).await;
    let version = format!("penstock {}", env!("CARGO_PKG_VERSION"));
    let topic = string("$SYS/broker/version");
    client
        .expect(&packet(0x31, &[&topic, version.as_bytes()]))
        .await;
    client
        .send(&packet(0xA2, &[&[0, 1], &string("$SYS/broker/version")]))
        .await;
    client.expect(&[0xB0, 2, 0, 1]).await;
    client
        .subscribe_v4("$SYS/broker/clients/connected", 0)
        .await;
    // Retained as it was, then live as it is.
    let said = loop {
        let said = client.packet().await;
        if said.ends_with(b"/connected2") {
            break said;
        }
    };
    assert!(said[0] == 0x30 || said[0] == 0x31);
    // A client cannot say such things itself.
    client
        .send(&publish_v4("$SYS/broker/version", 1, 1, "mine"))
        .await;
    let answer = loop {
        let answer = client.packet().await;
        if answer[0] == 0x40 {
            break answer;
        }
    };
    assert_eq!(answer, [0x40, 2, 0, 1]);
    everything.ping().await;
    assert!(
        broker
            .gateway
            .taken()
            .iter()
            .all(|(client, _)| client == "d"),
        "the gateway hears nothing of it"
    );
    broker.stop().await;
}

#[tokio::test]
async fn bytes_of_payloads_are_counted_on_their_way_in_and_out() {
    let broker = start(config()).await;
    let mut live = broker.v4("live").await;
    live.subscribe_v4("t", 0).await;
    let mut kept = broker.raw().await;
    kept.send(&connect_v4("kept", 0, 0)).await;
    kept.packet().await;
    kept.subscribe_v4("t", 1).await;
    let mut publisher = broker.v4("d").await;
    let mut retained = publish_v4("t", 1, 1, "12345");
    retained[0] |= 1;
    publisher.send(&retained).await;
    publisher.expect(&[0x40, 2, 0, 1]).await;
    live.expect(&publish_v4("t", 0, 0, "12345")).await;
    kept.expect(&publish_v4("t", 1, 2, "12345")).await;
    let now = broker.handle.metrics();
    assert_eq!((now.payload_bytes_in, now.payload_bytes_out), (5, 10));
    assert!(now.retained_bytes > 5);
    broker.stop().await;
}

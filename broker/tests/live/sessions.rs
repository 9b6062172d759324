//! How sessions end: keep-alive, takeover, wills, shutdown.

use penstock_broker::{Config, Verdict};
use tokio::time::{Duration, sleep, timeout};

use crate::support::{
    LONG, config, connect_v4, connect_v5, packet, publish_v4, publish_v5, start, string,
};

/// CONNECT of 3.1.1 with a will on topic "will".
fn with_will(id: &str, keep_alive: u8) -> Vec<u8> {
    packet(
        0x10,
        &[
            &string("MQTT"),
            &[4, 0b1110, 0, keep_alive],
            &string(id),
            &string("will"),
            &string(&format!("{id} died")),
        ],
    )
}

#[tokio::test]
async fn a_silent_client_is_disconnected_and_one_without_keep_alive_is_not() {
    let broker = start(config()).await;
    let mut forever = broker.v4("forever").await;
    let mut pinging = broker.raw().await;
    pinging.send(&connect_v4("pinging", 2, 1)).await;
    pinging.expect(&[0x20, 2, 0, 0]).await;
    let mut silent = broker.raw().await;
    silent.send(&connect_v5("silent", 2, 1, &[])).await;
    silent.packet().await;
    let wait = async {
        loop {
            sleep(Duration::from_millis(300)).await;
            pinging.ping().await;
        }
    };
    tokio::select! {
        () = wait => {}
        () = silent.expect_disconnect(0x8D) => {}
    }
    assert_eq!(broker.handle.metrics().keep_alive_timeouts, 1);
    pinging.ping().await;
    forever.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn silence_is_not_counted_while_the_broker_does_not_read() {
    let broker = start(Config {
        receive_max: 1,
        ..config()
    })
    .await;
    broker.gateway.let_pass(0);
    let mut client = broker.raw().await;
    client.send(&connect_v4("d", 2, 1)).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    client.send(&publish_v4("t", 1, 1, "x")).await;
    // Sent in time, and not read until the receipt is there.
    client.send(&publish_v4("t", 1, 2, "x")).await;
    sleep(Duration::from_secs(2)).await;
    broker.gateway.open();
    client.expect(&[0x40, 2, 0, 1]).await;
    client.expect(&[0x40, 2, 0, 2]).await;
    client.ping().await;
    broker.stop().await;
}

#[tokio::test]
async fn the_same_client_id_takes_over() {
    let broker = start(config()).await;
    let mut old = broker.v5("d").await;
    let mut new = broker.v5("d").await;
    old.expect_disconnect(0x8E).await;
    new.ping().await;
    let mut third = broker.v4("d").await;
    new.expect_disconnect(0x8E).await;
    third.ping().await;
    let now = broker.handle.metrics();
    assert_eq!((now.takeovers, now.sessions_open), (2, 1));
    broker.stop().await;
}

#[tokio::test]
async fn a_takeover_waits_until_the_old_session_is_settled_with_its_will() {
    let broker = start(config()).await;
    broker.gateway.let_pass(0);
    let mut old = broker.raw().await;
    old.send(&with_will("d", 0)).await;
    old.expect(&[0x20, 2, 0, 0]).await;
    old.send(&publish_v4("t", 1, 1, "last words")).await;
    broker.gateway.took(1).await;
    let mut new = broker.raw().await;
    new.send(&connect_v4("d", 2, 0)).await;
    new.send(&publish_v4("t", 1, 1, "first words")).await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(
        broker.gateway.payloads(),
        ["last words"],
        "the new session has to wait"
    );
    broker.gateway.open();
    old.expect(&[0x40, 2, 0, 1]).await;
    old.expect_end().await;
    new.expect(&[0x20, 2, 0, 0]).await;
    new.expect(&[0x40, 2, 0, 1]).await;
    assert_eq!(
        broker.gateway.payloads(),
        ["last words", "d died", "first words"]
    );
    broker.stop().await;
}

#[tokio::test]
async fn a_will_without_room_does_not_lock_its_client_out() {
    let broker = start(Config {
        connect_timeout: Duration::from_secs(4),
        ..config()
    })
    .await;
    broker.gateway.judge(|_| Verdict::Busy);
    let mut before = broker.raw().await;
    before.send(&with_will("d", 0)).await;
    before.expect(&[0x20, 2, 0, 0]).await;
    before.abort();
    broker.gateway.took(1).await;
    // The will is being offered; the client has its place all the same.
    broker.v4("d").await.ping().await;
    assert_eq!(broker.handle.metrics().wills_lost, 1);
    broker.shutdown.cancel();
}

#[tokio::test]
async fn a_will_is_published_unless_the_client_says_goodbye() {
    let broker = start(config()).await;
    let mut watcher = broker.v4("watcher").await;
    watcher.subscribe_v4("will", 0).await;
    // Goodbye.
    let mut client = broker.raw().await;
    client.send(&with_will("polite", 0)).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    client.send(&[0xE0, 0]).await;
    client.expect_end().await;
    // A reset connection, a closed one, a broken protocol, silence.
    let mut client = broker.raw().await;
    client.send(&with_will("reset", 0)).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    client.abort();
    watcher
        .expect(&publish_v4("will", 0, 0, "reset died"))
        .await;
    let mut client = broker.raw().await;
    client.send(&with_will("closed", 0)).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    drop(client);
    watcher
        .expect(&publish_v4("will", 0, 0, "closed died"))
        .await;
    let mut client = broker.raw().await;
    client.send(&with_will("rude", 0)).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    client.send(&[0x00, 0]).await;
    watcher.expect(&publish_v4("will", 0, 0, "rude died")).await;
    let mut client = broker.raw().await;
    client.send(&with_will("silent", 1)).await;
    client.expect(&[0x20, 2, 0, 0]).await;
    watcher
        .expect(&publish_v4("will", 0, 0, "silent died"))
        .await;
    // Version 5: goodbye with the will.
    let mut client = broker.raw().await;
    client
        .send(&packet(
            0x10,
            &[
                &string("MQTT"),
                &[5, 0b110, 0, 0, 0],
                &string("five"),
                &[0],
                &string("will"),
                &string("five died"),
            ],
        ))
        .await;
    client.packet().await;
    client.send(&[0xE0, 1, 0x04]).await;
    watcher.expect(&publish_v4("will", 0, 0, "five died")).await;
    let wills = [
        "reset died",
        "closed died",
        "rude died",
        "silent died",
        "five died",
    ];
    assert_eq!(broker.gateway.payloads(), wills);
    assert_eq!(broker.handle.metrics().wills, 5);
    broker.stop().await;
}

#[tokio::test]
async fn shutdown_settles_what_was_taken_and_says_so() {
    let broker = start(config()).await;
    broker.gateway.let_pass(0);
    let mut v4 = broker.v4("four").await;
    let mut v5 = broker.v5("five").await;
    v4.send(&publish_v4("t", 1, 1, "x")).await;
    v5.send(&publish_v5("t", 2, 2, &[], "x")).await;
    broker.gateway.took(2).await;
    broker.shutdown.cancel();
    // New connections are not accepted any more.
    let refused = async {
        while tokio::net::TcpStream::connect(broker.address).await.is_ok() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(LONG, refused).await.unwrap();
    assert!(!broker.task.is_finished(), "receipts are awaited");
    broker.gateway.open();
    v4.expect(&[0x40, 2, 0, 1]).await;
    v4.expect_end().await;
    v5.expect(&[0x50, 2, 0, 2]).await;
    v5.expect_disconnect(0x8B).await;
    assert_eq!(broker.handle.metrics().acknowledged, 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_disconnect_right_behind_publishes_does_not_lose_them() {
    let broker = start(config()).await;
    let mut client = broker.v4("d").await;
    let bytes = [
        publish_v4("t", 0, 0, "a"),
        publish_v4("t", 1, 1, "b"),
        vec![0xE0, 0],
    ]
    .concat();
    client.send(&bytes).await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client.expect_end().await;
    assert_eq!(broker.gateway.payloads(), ["a", "b"]);
    broker.stop().await;
}

#[tokio::test]
async fn a_session_expiry_out_of_nowhere_is_a_protocol_error() {
    let broker = start(config()).await;
    let mut client = broker.v5("d").await;
    client.send(&[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 1]).await;
    client.expect_disconnect(0x82).await;
    broker.stop().await;
}

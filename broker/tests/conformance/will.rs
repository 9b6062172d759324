//! Wills, 3.1.2.5 of both versions.

use crate::{
    support::{config, start, string},
    wire::{Peer, connect_with_will},
};

/// [MQTT-3.1.2-7] to [MQTT-3.1.2-15] of 5: as it was given, with QoS, RETAIN and
/// properties, when the connection ends without goodbye.
#[tokio::test]
async fn a_will_is_published_as_it_was_given() {
    let broker = start(config()).await;
    let mut watcher = Peer::connect(&broker, true, "watcher").await;
    watcher.subscribe("will/#", 2 | 0b1000).await;
    let properties = [
        vec![0x01, 1],
        [&[0x03][..], &string("text/plain")].concat(),
        [&[0x08][..], &string("answers")].concat(),
        [&[0x09][..], &string("17")].concat(),
        [&[0x26][..], &string("k"), &string("v")].concat(),
        vec![0x02, 0, 0, 0, 90],
    ]
    .concat();
    for qos in 0..=2 {
        let mut dying = broker.raw().await;
        let flags = 2 | qos << 3 | 0b10_0000;
        dying
            .send(&connect_with_will(
                "d",
                flags,
                &[],
                &properties,
                "will/d",
                "died",
            ))
            .await;
        dying.packet().await;
        dying.abort();
        let message = watcher.receive().await;
        assert_eq!((&*message.topic, &*message.payload), ("will/d", "died"));
        assert_eq!((message.qos, message.retain), (qos, true));
        assert_eq!(message.all(0x01), [[1]]);
        assert_eq!(message.all(0x03), [b"text/plain"]);
        assert_eq!(message.all(0x08), [b"answers"]);
        assert_eq!(message.all(0x09), [b"17"]);
        assert_eq!(message.all(0x26), [b"k=v"]);
        assert!(message.all(0x02)[0][3] > 60);
        assert!(
            message.all(0x18).is_empty(),
            "the delay is not the message's"
        );
    }
    // [MQTT-3.1.2-17]: retained.
    let mut late = Peer::connect(&broker, true, "late").await;
    late.subscribe("will/d", 1).await;
    assert_eq!(late.receive().await.payload, "died");
    broker.stop().await;
}

/// [MQTT-3.14.4-3], [MQTT-3.1.2-10]: no will after goodbye; 0x04 is goodbye with it.
#[tokio::test]
async fn goodbye_deletes_the_will_unless_it_asks_for_it() {
    let broker = start(config()).await;
    let mut watcher = Peer::connect(&broker, true, "watcher").await;
    watcher.subscribe("will", 0).await;
    for (goodbye, payload) in [
        (&[0xE0, 0][..], "never"),
        (&[0xE0, 1, 0], "never"),
        (&[0xE0, 1, 4], "asked for"),
    ] {
        let mut client = broker.raw().await;
        client
            .send(&connect_with_will("d", 2, &[], &[], "will", payload))
            .await;
        client.packet().await;
        client.send(goodbye).await;
        client.expect_end().await;
    }
    assert_eq!(watcher.receive().await.payload, "asked for");
    watcher.nothing().await;
    broker.stop().await;
}

/// [MQTT-3.1.2-11], [MQTT-3.1.2-13]: flags of a will that is not there; [MQTT-3.1.2-12]:
/// QoS 3.
#[tokio::test]
async fn will_flags_without_sense_are_malformed() {
    let broker = start(config()).await;
    for flags in [0b1_1110, 0b0_1010, 0b10_0010] {
        let mut client = broker.raw().await;
        client
            .send(&crate::support::connect_v5("d", flags, 0, &[]))
            .await;
        let answer = client.packet().await;
        assert_eq!((answer[0], answer[3]), (0x20, 0x81), "{flags:b}");
        client.expect_end().await;
        let mut client = broker.raw().await;
        client
            .send(&crate::support::connect_v4("d", flags, 0))
            .await;
        client.expect_end().await;
    }
    broker.stop().await;
}

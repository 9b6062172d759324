//! Publishes in: acknowledged after the receipt, in order, or pushed back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use penstock_broker::{Config, Protocol, QoS, Verdict};

use crate::support::{config, packet, publish_v4, publish_v5, start, string, varint};

#[tokio::test]
async fn nothing_is_acknowledged_before_its_receipt() {
    let broker = start(config()).await;
    broker.gateway.let_pass(0);
    let mut client = broker.v4("d").await;
    client.send(&publish_v4("t", 1, 7, "one")).await;
    client.send(&publish_v4("t", 2, 8, "two")).await;
    broker.gateway.took(2).await;
    // The answer to a ping comes before the acknowledgements: they are not there.
    client.ping().await;
    assert_eq!(broker.handle.metrics().acknowledged, 0);
    broker.gateway.open();
    client.expect(&[0x40, 2, 0, 7]).await;
    client.expect(&[0x50, 2, 0, 8]).await;
    client.send(&[0x62, 2, 0, 8]).await;
    client.expect(&[0x70, 2, 0, 8]).await;
    broker.stop().await;
}

#[tokio::test]
async fn the_gateway_sees_what_was_sent() {
    let broker = start(config()).await;
    let mut client = broker.v5("dev").await;
    let properties: Vec<u8> = [
        &[0x01, 1, 0x02, 0, 0, 0, 9][..],
        &[0x03, 0, 1, b'c', 0x08, 0, 1, b'r', 0x09, 0, 1, 7],
        &[0x26, 0, 1, b'k', 0, 1, b'v', 0x26, 0, 1, b'k', 0, 1, b'w'],
    ]
    .concat();
    let mut bytes = publish_v5("a/b", 1, 1, &properties, "p");
    bytes[0] |= 0b1001; // DUP and RETAIN
    client.send(&bytes).await;
    client.expect(&[0x40, 2, 0, 1]).await;
    let (id, publish) = broker.gateway.taken().remove(0);
    assert_eq!(
        (&*id, &*publish.topic, &*publish.payload),
        ("dev", "a/b", &b"p"[..])
    );
    assert_eq!(
        (publish.qos, publish.retain, publish.dup),
        (QoS::AtLeastOnce, true, true)
    );
    let properties = publish.properties.unwrap();
    assert_eq!(properties.payload_is_utf8, Some(true));
    assert_eq!(properties.message_expiry_secs, Some(9));
    assert_eq!(properties.content_type.as_deref(), Some("c"));
    assert_eq!(properties.response_topic.as_deref(), Some("r"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&[7][..]));
    let user: Vec<(&str, &str)> = properties.user.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(user, [("k", "v"), ("k", "w")]);
    broker.stop().await;
}

#[tokio::test]
async fn acknowledgements_keep_the_order_of_the_publishes() {
    let broker = start(config()).await;
    broker.gateway.let_pass(0);
    let mut client = broker.v4("d").await;
    for id in 1..=50 {
        client
            .send(&publish_v4("t", 1 + id % 2, id, &id.to_string()))
            .await;
        if id % 10 == 0 {
            broker.gateway.took(id.into()).await;
        }
    }
    broker.gateway.open();
    for id in 1..=50 {
        let first = if id % 2 == 0 { 0x40 } else { 0x50 };
        client.expect(&[first, 2, 0, id]).await;
    }
    let expect: Vec<String> = (1..=50).map(|id| id.to_string()).collect();
    assert_eq!(broker.gateway.payloads(), expect);
    broker.stop().await;
}

#[tokio::test]
async fn qos0_passes_through_admission_too() {
    let broker = start(config()).await;
    let mut client = broker.v5("d").await;
    client.send(&publish_v5("t", 0, 0, &[], "zero")).await;
    broker.gateway.took(1).await;
    client.ping().await;
    assert_eq!(broker.gateway.payloads(), ["zero"]);
    broker
        .until("counted", |now| {
            now.publishes_in_qos0 == 1 && now.accepted == 1
        })
        .await;
    broker.stop().await;
}

#[tokio::test]
async fn every_verdict_has_its_answer() {
    let broker = start(config()).await;
    broker.gateway.judge(|publish| match &*publish.payload {
        b"known" => Verdict::Duplicate,
        b"bad" => Verdict::Refused {
            reason: 0x99,
            text: "not utf-8",
        },
        b"full" => Verdict::Busy,
        b"gone" => Verdict::Lost,
        _ => Verdict::Accepted,
    });
    let mut v5 = broker.v5("five").await;
    v5.send(&publish_v5("t", 1, 1, &[], "new")).await;
    v5.expect(&[0x40, 2, 0, 1]).await;
    v5.send(&publish_v5("t", 1, 2, &[], "known")).await;
    v5.expect(&[0x40, 2, 0, 2]).await;
    v5.send(&publish_v5("t", 1, 3, &[], "bad")).await;
    v5.expect(&packet(
        0x40,
        &[&[0, 3, 0x99, 12, 0x1F], &string("not utf-8")],
    ))
    .await;
    v5.send(&publish_v5("t", 2, 4, &[], "full")).await;
    let busy = v5.packet().await;
    assert_eq!((busy[0], &busy[2..5]), (0x50, &[0, 4, 0x97][..]));
    // A PUBREC with an error ended the exchange: the identifier is free.
    v5.send(&publish_v5("t", 2, 4, &[], "new")).await;
    v5.expect(&[0x50, 2, 0, 4]).await;
    v5.send(&publish_v5("t", 1, 5, &[], "gone")).await;
    v5.expect_disconnect(0x89).await;

    let mut v4 = broker.v4("four").await;
    v4.send(&publish_v4("t", 1, 3, "bad")).await;
    v4.expect(&[0x40, 2, 0, 3]).await;
    v4.send(&publish_v4("t", 1, 5, "gone")).await;
    v4.expect_end().await;
    let metrics = broker.handle.metrics();
    assert_eq!((metrics.accepted, metrics.duplicates), (2, 1));
    assert_eq!((metrics.refused, metrics.lost), (2, 2));
    broker.stop().await;
}

#[tokio::test]
async fn reason_strings_are_left_out_where_they_are_not_wanted() {
    let broker = start(config()).await;
    broker.gateway.judge(|_| Verdict::Refused {
        reason: 0x99,
        text: "why not",
    });
    for properties in [&[0x17, 0][..], &[0x27, 0, 0, 0, 13]] {
        let mut client = broker.v5_with("d", properties).await;
        client.send(&publish_v5("t", 1, 3, &[], "x")).await;
        client.expect(&[0x40, 3, 0, 3, 0x99]).await;
        client.send(&[0xE0, 0]).await;
        client.expect_end().await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_311_client_without_room_is_pushed_back_and_keeps_its_order() {
    let broker = start(config()).await;
    let full = Arc::new(AtomicBool::new(true));
    let gate = Arc::clone(&full);
    broker.gateway.judge(move |publish| {
        if gate.load(SeqCst) && &*publish.payload == b"two" {
            Verdict::Busy
        } else {
            Verdict::Accepted
        }
    });
    let mut client = broker.v4("d").await;
    client.send(&publish_v4("t", 1, 1, "one")).await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client.send(&publish_v4("t", 1, 2, "two")).await;
    broker.until("asked again", |now| now.busy >= 2).await;
    client.send(&publish_v4("t", 1, 3, "three")).await;
    broker
        .until("asked again and again", |now| now.busy >= 4)
        .await;
    assert!(
        !broker.gateway.payloads().contains(&"three".to_owned()),
        "nothing overtakes"
    );
    full.store(false, SeqCst);
    client.expect(&[0x40, 2, 0, 2]).await;
    client.expect(&[0x40, 2, 0, 3]).await;
    assert_eq!(broker.gateway.payloads().last().unwrap(), "three");
    broker.stop().await;
}

#[tokio::test]
async fn pipelined_batches_without_room_are_asked_about_again_in_order() {
    let broker = start(config()).await;
    broker.gateway.let_pass(0);
    let mut asked = std::collections::HashMap::new();
    broker.gateway.judge(move |publish| {
        let times = asked.entry(publish.payload.clone()).or_insert(0);
        *times += 1;
        match &*publish.payload {
            b"A" | b"B" if *times == 1 => Verdict::Busy,
            _ => Verdict::Accepted,
        }
    });
    let mut client = broker.v4("d").await;
    client.send(&publish_v4("t", 1, 1, "A")).await;
    broker.gateway.took(1).await;
    client.send(&publish_v4("t", 1, 2, "B")).await;
    broker.gateway.took(2).await;
    // A is heard first, and asked about again, while B's verdict is on its way.
    broker.gateway.hold(2);
    client.expect(&[0x40, 2, 0, 1]).await;
    client.send(&publish_v4("t", 1, 3, "C")).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(broker.gateway.payloads(), ["A", "B", "A"]);
    broker.gateway.open();
    client.expect(&[0x40, 2, 0, 2]).await;
    client.expect(&[0x40, 2, 0, 3]).await;
    assert_eq!(broker.gateway.payloads(), ["A", "B", "A", "B", "C"]);
    broker.stop().await;
}

#[tokio::test]
async fn whatever_waits_behind_a_lost_publish_counts_as_lost() {
    let broker = start(config()).await;
    broker.gateway.let_pass(0);
    broker.gateway.judge(|publish| match &*publish.payload {
        b"gone" => Verdict::Lost,
        _ => Verdict::Accepted,
    });
    let mut client = broker.v4("d").await;
    for (id, payload) in [(1, "kept"), (2, "gone"), (3, "behind"), (4, "behind")] {
        client.send(&publish_v4("t", 1, id, payload)).await;
        broker.gateway.took(id.into()).await;
    }
    broker.gateway.open();
    client.expect(&[0x40, 2, 0, 1]).await;
    client.expect_end().await;
    let now = broker.handle.metrics();
    assert_eq!(
        (now.publishes_in_qos1, now.accepted, now.lost),
        (4, 1, 3),
        "every publish ends somewhere"
    );
    broker.stop().await;
}

#[tokio::test]
async fn a_publish_at_qos0_without_room_waits_too() {
    let broker = start(config()).await;
    let full = Arc::new(AtomicBool::new(true));
    let gate = Arc::clone(&full);
    broker.gateway.judge(move |_| {
        if gate.load(SeqCst) {
            Verdict::Busy
        } else {
            Verdict::Accepted
        }
    });
    let mut client = broker.v5("d").await;
    client.send(&publish_v5("t", 0, 0, &[], "x")).await;
    broker.until("asked again", |now| now.busy >= 2).await;
    full.store(false, SeqCst);
    broker.until("taken", |now| now.accepted == 1).await;
    broker.stop().await;
}

#[tokio::test]
async fn shutdown_ends_the_wait_for_room_without_an_acknowledgement() {
    let broker = start(config()).await;
    broker.gateway.judge(|_| Verdict::Busy);
    let mut client = broker.v4("d").await;
    client.send(&publish_v4("t", 1, 1, "one")).await;
    broker.until("busy", |now| now.busy >= 1).await;
    broker.stop().await;
    client.expect_end().await;
}

#[tokio::test]
async fn a_qos2_publish_is_admitted_once_however_often_it_is_sent() {
    let broker = start(config()).await;
    let mut client = broker.v5("d").await;
    let once = publish_v5("t", 2, 5, &[], "x");
    let mut again = once.clone();
    again[0] |= 0b1000;
    client.send(&once).await;
    client.expect(&[0x50, 2, 0, 5]).await;
    client.send(&again).await;
    client.expect(&[0x50, 2, 0, 5]).await;
    client.send(&[0x62, 2, 0, 5]).await;
    client.expect(&[0x70, 2, 0, 5]).await;
    assert_eq!(broker.gateway.payloads().len(), 1);
    // The exchange is over: the identifier is a new publish, a PUBREL is unknown.
    client.send(&[0x62, 2, 0, 5]).await;
    client.expect(&[0x70, 3, 0, 5, 0x92]).await;
    client.send(&once).await;
    client.expect(&[0x50, 2, 0, 5]).await;
    assert_eq!(broker.gateway.payloads().len(), 2);
    broker.stop().await;
}

#[tokio::test]
async fn a_qos1_publish_sent_again_before_its_receipt_is_admitted_once() {
    let broker = start(config()).await;
    broker.gateway.let_pass(0);
    let mut client = broker.v4("d").await;
    let once = publish_v4("t", 1, 5, "x");
    let mut again = once.clone();
    again[0] |= 0b1000;
    client.send(&once).await;
    client.send(&again).await;
    let mut other = publish_v4("t", 1, 5, "y");
    other[0] |= 0b1000;
    client.send(&other).await;
    broker.gateway.took(2).await;
    broker.gateway.open();
    client.expect(&[0x40, 2, 0, 5]).await;
    client.expect(&[0x40, 2, 0, 5]).await;
    client.ping().await;
    assert_eq!(broker.gateway.payloads(), ["x", "y"]);
    assert_eq!(broker.handle.metrics().resent, 1);
    broker.stop().await;
}

#[tokio::test]
async fn a_client_of_5_that_exceeds_the_receive_maximum_is_disconnected() {
    let broker = start(Config {
        receive_max: 3,
        ..config()
    })
    .await;
    broker.gateway.let_pass(0);
    let mut client = broker.v5("d").await;
    for id in 1..=3 {
        client.send(&publish_v5("t", 1, id, &[], "x")).await;
    }
    broker.gateway.took(3).await;
    client.send(&publish_v5("t", 1, 4, &[], "x")).await;
    broker.gateway.open();
    for id in 1..=3 {
        client.expect(&[0x40, 2, 0, id]).await;
    }
    // The fourth may have come before or after the receipts.
    let last = client.packet().await;
    assert!(
        last[0] == 0xE0 && last[2] == 0x93 || last == [0x40, 2, 0, 4],
        "{last:?}"
    );
    let mut client = broker.v5("e").await;
    for id in 1..=4 {
        client.send(&publish_v5("t", 2, id, &[], "x")).await;
    }
    for id in 1..=3 {
        client.expect(&[0x50, 2, 0, id]).await;
    }
    client.expect_disconnect(0x93).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_client_of_311_beyond_the_receive_maximum_is_not_read() {
    let broker = start(Config {
        receive_max: 3,
        ..config()
    })
    .await;
    broker.gateway.let_pass(0);
    let mut client = broker.v4("d").await;
    for id in 1..=9 {
        client.send(&publish_v4("t", 1, id, &id.to_string())).await;
    }
    broker.gateway.took(3).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert_eq!(broker.gateway.taken().len(), 3);
    broker.gateway.open();
    for id in 1..=9 {
        client.expect(&[0x40, 2, 0, id]).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_client_of_311_may_have_every_identifier_in_a_qos2_exchange() {
    let broker = start(config()).await;
    let mut client = broker.v4("d").await;
    let publish = |id: u16| packet(0x34, &[&string("t"), &id.to_be_bytes(), &id.to_be_bytes()]);
    let release = |id: u16| packet(0x62, &[&id.to_be_bytes()]);
    for _ in 0..2 {
        for ids in (1..=u16::MAX).collect::<Vec<_>>().chunks(500) {
            let all: Vec<u8> = ids.iter().flat_map(|id| publish(*id)).collect();
            client.send(&all).await;
            for id in ids {
                client.expect(&packet(0x50, &[&id.to_be_bytes()])).await;
            }
        }
        for ids in (1..=u16::MAX).collect::<Vec<_>>().chunks(500) {
            let all: Vec<u8> = ids.iter().flat_map(|id| release(*id)).collect();
            client.send(&all).await;
            for id in ids {
                client.expect(&packet(0x70, &[&id.to_be_bytes()])).await;
            }
        }
    }
    assert_eq!(broker.handle.metrics().accepted, 2 * 65_535);
    broker.stop().await;
}

#[tokio::test]
async fn receipts_of_many_batches_are_pipelined() {
    let broker = start(config()).await;
    broker.gateway.let_pass(0);
    let mut client = broker.v4("d").await;
    for id in 1..=5 {
        client.send(&publish_v4("t", 1, id, "x")).await;
        broker.gateway.took(id.into()).await;
    }
    broker.gateway.let_pass(2);
    client.expect(&[0x40, 2, 0, 1]).await;
    client.expect(&[0x40, 2, 0, 2]).await;
    client.ping().await;
    broker.gateway.open();
    for id in 3..=5 {
        client.expect(&[0x40, 2, 0, id]).await;
    }
    broker.stop().await;
}

#[tokio::test]
async fn topics_that_are_ours_are_refused_and_others_with_a_dollar_taken() {
    let broker = start(config()).await;
    let mut v5 = broker.v5("five").await;
    for (id, topic) in [(1, "$SYS/x"), (2, "$penstock/x"), (3, "$share/g/x")] {
        v5.send(&publish_v5(topic, 1, id, &[], "x")).await;
        let answer = v5.packet().await;
        assert_eq!(
            (answer[0], answer[3], answer[4]),
            (0x40, id, 0x90),
            "{topic}"
        );
    }
    v5.send(&publish_v5("$aws/x", 1, 4, &[], "x")).await;
    v5.expect(&[0x40, 2, 0, 4]).await;
    assert_eq!(broker.gateway.taken().len(), 1);
    assert_eq!(broker.handle.metrics().refused, 3);
    broker.stop().await;
}

#[tokio::test]
async fn what_cannot_be_refused_aloud_reaches_the_gateway_and_nobody_else() {
    let broker = start(config()).await;
    let mut watcher = broker.v5("watcher").await;
    for filter in ["$SYS/#", "$share/#", "long/#"] {
        // `$share/` is refused to subscribers as well.
        watcher
            .send(&packet(0x82, &[&[0, 1, 0], &string(filter), &[0]]))
            .await;
        watcher.packet().await;
    }
    let long = format!("long/{}", "x".repeat(5000));
    let mut v4 = broker.v4("four").await;
    let mut v5 = broker.v5("five").await;
    for topic in ["$SYS/x", "$share/g/x", &long] {
        let mut retained = publish_v4(topic, 1, 1, "one");
        retained[0] |= 1;
        v4.send(&retained).await;
        v4.expect(&[0x40, 2, 0, 1]).await;
        v4.send(&publish_v4(topic, 2, 2, "two")).await;
        v4.expect(&[0x50, 2, 0, 2]).await;
        v4.send(&[0x62, 2, 0, 2]).await;
        v4.expect(&[0x70, 2, 0, 2]).await;
        v4.send(&publish_v4(topic, 0, 0, "zero")).await;
        v5.send(&publish_v5(topic, 0, 0, &[0x23, 0, 1], "zero"))
            .await;
        v5.send(&publish_v5("", 0, 0, &[0x23, 0, 1], "alias")).await;
    }
    broker.gateway.took(15).await;
    broker.until("accepted", |now| now.accepted == 15).await;
    let taken = broker.gateway.taken();
    for (topic, count) in [("$SYS/x", 5), ("$share/g/x", 5), (&long, 5)] {
        let there = taken.iter().filter(|(_, one)| &*one.topic == topic);
        assert_eq!(there.count(), count, "{topic}");
    }
    assert_eq!(broker.handle.metrics().retained, 0);
    assert_eq!(broker.handle.metrics().refused, 0);
    // The first thing a subscriber sees is what came after.
    v4.send(&publish_v4("long/but/not/too", 0, 0, "seen")).await;
    watcher
        .expect(&publish_v5("long/but/not/too", 0, 0, &[], "seen"))
        .await;
    broker.stop().await;
}

#[tokio::test]
async fn a_publish_with_too_many_user_properties_is_refused() {
    let broker = start(config()).await;
    let with_pairs = |qos: u8, id: u8, count: usize| {
        let pairs = [0x26, 0, 1, b'k', 0, 1, b'v'].repeat(count);
        let len = varint(pairs.len());
        let id: &[u8] = if qos > 0 { &[0, id] } else { &[] };
        packet(0x30 | qos << 1, &[&string("t"), id, &len, &pairs, b"x"])
    };
    let mut client = broker.v5("d").await;
    client.send(&with_pairs(1, 1, 256)).await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client.send(&with_pairs(1, 2, 257)).await;
    let answer = client.packet().await;
    assert_eq!((answer[0], &answer[2..5]), (0x40, &[0, 2, 0x83][..]));
    client.send(&with_pairs(2, 3, 257)).await;
    let answer = client.packet().await;
    assert_eq!((answer[0], &answer[2..5]), (0x50, &[0, 3, 0x83][..]));
    client.send(&with_pairs(0, 0, 257)).await;
    client.expect_disconnect(0x97).await;
    assert_eq!(broker.gateway.taken().len(), 1);
    assert_eq!(broker.handle.metrics().refused, 2);
    broker.stop().await;
}

#[tokio::test]
async fn what_properties_take_counts_as_held() {
    let broker = start(config()).await;
    broker.gateway.let_pass(0);
    let mut client = broker.v5("d").await;
    // A few bytes each, tens of kilobytes once taken apart.
    let pairs = [0x26, 0, 0, 0, 0].repeat(256);
    let len = varint(pairs.len());
    let publish = packet(0x30, &[&string("t"), &len, &pairs]);
    for _ in 0..200 {
        client.send(&publish).await;
    }
    broker.gateway.took(8).await;
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let taken = broker.gateway.taken().len();
    assert!(taken < 40, "{taken} publishes are held");
    broker.gateway.open();
    broker.gateway.took(200).await;
    broker.stop().await;
}

#[tokio::test]
async fn topic_aliases_stand_for_their_topics() {
    let broker = start(config()).await;
    let mut client = broker.v5("d").await;
    client
        .send(&publish_v5("long/topic", 1, 1, &[0x23, 0, 16], "x"))
        .await;
    client.expect(&[0x40, 2, 0, 1]).await;
    client
        .send(&publish_v5("", 1, 2, &[0x23, 0, 16], "y"))
        .await;
    client.expect(&[0x40, 2, 0, 2]).await;
    let topics: Vec<_> = broker
        .gateway
        .taken()
        .iter()
        .map(|(_, one)| one.topic.clone())
        .collect();
    assert_eq!(
        topics.iter().map(|one| &**one).collect::<Vec<_>>(),
        ["long/topic"; 2]
    );
    client
        .send(&publish_v5("t", 1, 3, &[0x23, 0, 17], "x"))
        .await;
    client.expect_disconnect(0x94).await;
    broker.stop().await;
}

#[tokio::test]
async fn one_write_with_many_publishes_is_taken_in_batches_in_order() {
    let broker = start(config()).await;
    let mut client = broker.v4("d").await;
    let many: Vec<u8> = (0..3000)
        .flat_map(|n: u32| publish_v4("t", 0, 0, &n.to_string()))
        .collect();
    client.send(&many).await;
    broker.gateway.took(3000).await;
    let expect: Vec<String> = (0..3000).map(|n| n.to_string()).collect();
    assert_eq!(broker.gateway.payloads(), expect);
    broker.stop().await;
}

#[tokio::test]
async fn the_publisher_is_who_connected() {
    use penstock_broker::{Admission, Admitted, Publish, Publisher};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Seen(Mutex<Option<Arc<Publisher>>>);
    impl Admission for Seen {
        fn admit<'a>(&'a self, who: &'a Arc<Publisher>, batch: Vec<Publish>) -> Admitted<'a> {
            *self.0.lock().unwrap() = Some(Arc::clone(who));
            Box::pin(async move {
                let receipt: penstock_broker::Receipt =
                    Box::pin(async move { vec![Verdict::Accepted; batch.len()] });
                receipt
            })
        }
    }
    let broker = config().bind().await.unwrap();
    let address = broker.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let task = tokio::spawn(broker.run(seen.clone(), Default::default()));
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connect = packet(
        0x10,
        &[
            &string("MQTT"),
            &[4, 0xC2, 0, 0],
            &string("dev"),
            &string("me"),
            &string("secret"),
        ],
    );
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream
        .write_all(&[connect, publish_v4("t", 1, 1, "x")].concat())
        .await
        .unwrap();
    let mut answers = [0; 8];
    stream.read_exact(&mut answers).await.unwrap();
    assert_eq!(answers, [0x20, 2, 0, 0, 0x40, 2, 0, 1]);
    let who = seen.0.lock().unwrap().clone().unwrap();
    assert_eq!(
        (&*who.client_id, who.username.as_deref()),
        ("dev", Some("me"))
    );
    assert_eq!(
        (who.protocol, who.address),
        (Protocol::V4, stream.local_addr().ok())
    );
    task.abort();
}

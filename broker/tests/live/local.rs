//! Publishing from within the process.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use penstock_broker::{Addressee, Config, Properties, Publish, QoS, QueueFull, Reach, Verdict};
use tokio::time::timeout;

use crate::support::{LONG, Running, config, connect_v4, publish_v4, publish_v5, start};

fn message(topic: &str, payload: &str, retain: bool) -> Publish {
    Publish {
        topic: topic.into(),
        payload: payload.to_owned().into(),
        qos: QoS::AtLeastOnce,
        retain,
        dup: false,
        properties: None,
        delivery: None,
    }
}

#[tokio::test]
async fn the_gateway_speaks_where_clients_may_not_and_asks_nobody() {
    let broker = start(config()).await;
    let local = broker.handle.local();
    let version = message("$SYS/broker/version", "1", true);
    assert_eq!(local.show(&[version]).await, 1);
    let mut subscriber = broker.v4("subscriber").await;
    subscriber.subscribe_v4("$SYS/#", 0).await;
    subscriber
        .expect(
            &[
                &[0x31][..],
                &publish_v4("$SYS/broker/version", 0, 0, "1")[1..],
            ]
            .concat(),
        )
        .await;
    let both = [message("$SYS/a", "2", false), message("other", "3", false)];
    assert_eq!(local.show(&both).await, 2);
    subscriber.expect(&publish_v4("$SYS/a", 0, 0, "2")).await;
    subscriber.ping().await;
    assert_eq!(broker.gateway.taken().len(), 0);
    broker.stop().await;
}

#[tokio::test]
async fn what_no_packet_can_carry_is_not_shown_and_ends_nobody() {
    let broker = start(config()).await;
    let local = broker.handle.local();
    let mut subscriber = broker.v5("subscriber").await;
    subscriber.subscribe_v5("a/#", 0).await;
    let long: Arc<str> = "x".repeat(65_536).into();
    let known = Properties::default();
    for too_long in [
        Properties {
            content_type: Some(long.clone()),
            ..known.clone()
        },
        Properties {
            response_topic: Some(long.clone()),
            ..known.clone()
        },
        Properties {
            correlation_data: Some(long.to_string().into()),
            ..known.clone()
        },
        Properties {
            user: vec![("name".into(), long.clone())],
            ..known.clone()
        },
        Properties {
            user: vec![(long.clone(), "value".into())],
            ..known.clone()
        },
    ] {
        let strange = Publish {
            properties: Some(Arc::new(too_long)),
            ..message("a/b", "never", false)
        };
        let batch = [
            message("a/b", "before", false),
            strange,
            message("a/b", "behind", false),
        ];
        assert_eq!(local.show(&batch).await, 2);
        for payload in ["before", "behind"] {
            let shown = publish_v5("a/b", 0, 0, &[], payload);
            subscriber.expect(&shown).await;
        }
    }
    // One that just fits.
    let fits = Properties {
        content_type: Some("x".repeat(65_535).into()),
        ..known
    };
    let last = Publish {
        properties: Some(Arc::new(fits)),
        ..message("a/b", "last", false)
    };
    assert_eq!(local.show(&[last]).await, 1);
    assert!(subscriber.packet().await.ends_with(b"last"));
    broker.stop().await;
}

#[tokio::test]
async fn who_waits_for_subscribers_hears_when_they_come_and_go() {
    let broker = start(config()).await;
    let local = broker.handle.local();
    assert!(!local.is_wanted_below("$penstock/events"));
    let changed = local.subscriptions_changed();
    let mut subscriber = broker.v4("subscriber").await;
    subscriber.subscribe_v4("$penstock/events/d/+", 0).await;
    timeout(LONG, changed).await.expect("a change is told");
    assert!(local.is_wanted_below("$penstock/events"));
    assert!(!local.is_wanted_below("$penstock/other"));
    assert!(local.is_wanted("$penstock/events/d/x"));
    let changed = local.subscriptions_changed();
    drop(subscriber);
    timeout(LONG, changed).await.expect("a change is told");
    assert!(!local.is_wanted_below("$penstock/events"));
    broker.stop().await;
}

#[tokio::test]
async fn what_a_client_within_publishes_is_admitted_in_order_and_then_shown() {
    let broker = start(config()).await;
    let refusals = AtomicUsize::new(0);
    broker
        .gateway
        .judge(move |publish| match &*publish.payload {
            b"bad" => Verdict::Refused {
                reason: 0x99,
                text: "no",
            },
            // Room is found at the third attempt.
            b"2" | b"3" if refusals.fetch_add(1, Relaxed) < 4 => Verdict::Busy,
            _ => Verdict::Accepted,
        });
    let mut subscriber = broker.v4("subscriber").await;
    subscriber.subscribe_v4("commands/#", 0).await;
    let client =
        broker
            .handle
            .local()
            .client(broker.gateway.clone(), "remote".into(), Some("r".into()));
    broker.gateway.let_pass(0);
    let batch = ["1", "bad", "2", "3"].map(|text| message("commands/a", text, false));
    let publishing = tokio::spawn(async move { client.publish(batch.into()).await });
    broker.gateway.took(4).await;
    subscriber.ping().await;
    broker.gateway.open();
    for text in ["1", "2", "3"] {
        subscriber
            .expect(&publish_v4("commands/a", 0, 0, text))
            .await;
    }
    let verdicts = timeout(LONG, publishing).await.unwrap().unwrap();
    assert!(matches!(
        verdicts[..],
        [
            Verdict::Accepted,
            Verdict::Refused { .. },
            Verdict::Accepted,
            Verdict::Accepted
        ]
    ));
    let asked = ["1", "bad", "2", "3", "2", "3", "2", "3"].map(str::to_owned);
    assert_eq!(broker.gateway.payloads(), asked);
    broker.stop().await;
}

/// Subscribes at QoS 1 in a session that lasts, and goes away.
async fn leave_behind(broker: &Running, id: &str, filter: &str) {
    let mut client = broker.raw().await;
    client.send(&connect_v4(id, 0, 0)).await;
    client.packet().await;
    client.subscribe_v4(filter, 1).await;
    client.send(&[0xE0, 0]).await;
    client.expect_end().await;
}

/// Nobody is told of a full queue, so it costs nobody else anything, whatever is to
/// become of publishers.
#[tokio::test]
async fn a_full_queue_keeps_nothing_of_the_gateway_s_from_others() {
    let mut config = config();
    config.keep.queue_full = QueueFull::Refuse;
    config.keep.queue_messages_max = 1;
    let broker = start(config).await;
    leave_behind(&broker, "away", "events/#").await;
    let mut subscriber = broker.v4("subscriber").await;
    subscriber.subscribe_v4("events/#", 0).await;
    let local = broker.handle.local();
    for n in ["1", "2", "3"] {
        let shown = [message("events/a", n, true), message("events/b", n, false)];
        assert_eq!(local.show(&shown).await, 2);
        for topic in ["events/a", "events/b"] {
            subscriber.expect(&publish_v4(topic, 0, 0, n)).await;
        }
    }
    let now = broker.handle.metrics();
    assert_eq!((now.queued_messages, now.dropped_kept_queue_full), (1, 5));
    let mut late = broker.v4("late").await;
    late.subscribe_v4("events/#", 0).await;
    let retained = publish_v4("events/a", 0, 0, "3");
    late.expect(&[&[0x31][..], &retained[1..]].concat()).await;
    broker.stop().await;
}

/// `$SYS` is said again by itself: it waits for nobody who is away.
#[tokio::test]
async fn what_the_broker_says_of_itself_is_not_queued() {
    let broker = start(config()).await;
    leave_behind(&broker, "away", "$SYS/#").await;
    let local = broker.handle.local();
    local.show(&[message("$SYS/a", "1", true)]).await;
    assert_eq!(broker.handle.metrics().queued_messages, 0);
    let mut client = broker.raw().await;
    client.send(&connect_v4("away", 0, 0)).await;
    client.packet().await;
    local.show(&[message("$SYS/a", "2", true)]).await;
    client.expect(&publish_v4("$SYS/a", 0, 0, "2")).await;
    broker.stop().await;
}

#[tokio::test]
async fn who_waits_for_subscribers_hears_when_a_session_that_was_away_is_gone() {
    let broker = start(config()).await;
    let local = broker.handle.local();
    leave_behind(&broker, "away", "$penstock/events/#").await;
    assert!(local.is_wanted_below("$penstock/events"));
    let changed = local.subscriptions_changed();
    let removed = broker.handle.remove_session("away".into()).await;
    assert_eq!(removed, Some(true));
    timeout(LONG, changed).await.expect("a change is told");
    assert!(!local.is_wanted_below("$penstock/events"));
    broker.stop().await;
}

/// The identifier and the end of a publish of QoS 1 with a large payload.
fn received(packet: &[u8]) -> ([u8; 2], &str) {
    let header = 1 + packet[1..].iter().take_while(|byte| **byte >= 0x80).count() + 1;
    let topic = usize::from(u16::from_be_bytes([packet[header], packet[header + 1]]));
    let id = &packet[header + 2 + topic..][..2];
    let end = std::str::from_utf8(&packet[packet.len() - 4..]).unwrap();
    ([id[0], id[1]], end)
}

#[tokio::test]
async fn what_a_live_client_has_no_room_for_is_said_before_it_is_shown() {
    let broker = start(Config {
        outbound_queue_bytes_max: 128 << 10,
        ..config()
    })
    .await;
    let errands = broker.handle.errands();
    let mut device = broker.v4("device").await;
    device.subscribe_v4("d/c", 1).await;
    let to = Addressee::Client("device".into());
    let padding = "x".repeat(16 << 10);
    let (mut shown, mut heard, mut full) = (0, 0, 0);
    while heard < 40 {
        let look = errands.look();
        while shown < 40 {
            let errand = message("d/c", &format!("{padding}{shown:04}"), false);
            match look.reach(&errand, &to) {
                Reach::Live => errands.show(&errand).await,
                Reach::Full => break,
                other => panic!("{other:?}"),
            }
            shown += 1;
        }
        full += usize::from(shown < 40);
        if heard == shown {
            // What was shown is still thought to be on its way.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            continue;
        }
        let packet = device.packet().await;
        let (id, end) = received(&packet);
        assert_eq!(end, format!("{heard:04}"), "none is dropped");
        device.send(&[0x40, 2, id[0], id[1]]).await;
        heard += 1;
    }
    assert!(full > 0, "it never had more than it has room for");
    let nobody = Addressee::Client("another".into());
    let look = errands.look();
    assert_eq!(
        look.reach(&message("d/c", "", false), &nobody),
        Reach::Nobody
    );
    broker.stop().await;
}

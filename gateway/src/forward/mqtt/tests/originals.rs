//! Messages as they came.

use super::*;
use crate::{
    event::Original,
    forward::batch::{Batch, Item},
};

/// Records at these positions, with a message behind each.
fn with_messages(positions: std::ops::RangeInclusive<u64>) -> Batch {
    let items = positions.map(|position| {
        let mut one = record(position, 1);
        let property = |name: &str, value: &str| (name.into(), value.into());
        let original = Original {
            client_id: "c1".into(),
            content_type: Some("application/x-device".into()),
            user: vec![
                property("unit", "bar"),
                property("idempotency-key", "of-the-device"),
                property("penstock-via", "somebody"),
            ],
            identity: None,
            origin: None,
            nonce: [0; 16],
            delivery: None,
            payload: format!("{{ \"sequence\" : \"{position}\" }}").into(),
        };
        one.body = [&one.body[..], &original.to_cbor()[..]].concat().into();
        Item::check(one).unwrap()
    });
    Batch {
        items: items.collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_arrives_as_the_device_sent_it_with_its_properties_and_the_key() {
    for version in [Version::V4, Version::V5] {
        let broker = Broker::start(|_| {}).await;
        let original = Config {
            payload: Payload::Original,
            ..config(broker.port, version)
        };
        let mqtt = mqtt(original);
        assert!(all_acknowledged(&mqtt.send(with_messages(1..=20)).await));
        assert_eq!(broker.inbox.positions(), (1..=20).collect::<Vec<_>>());
        let first = broker.inbox.kept.borrow()[0].clone();
        assert_eq!(&first.payload[..], b"{ \"sequence\" : \"1\" }");
        assert_eq!(&*first.topic, "telemetry/_/device-1/iot.telemetry.v1");
        if version == Version::V5 {
            let known = first.properties.unwrap();
            let user: Vec<(&str, &str)> = known
                .user
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .collect();
            let key = record(1, 1).key.to_string();
            assert_eq!(
                user,
                [
                    ("idempotency-key", key.as_str()),
                    ("unit", "bar"),
                    ("penstock-via", mqtt.gateway.as_str()),
                ]
            );
            assert_eq!(known.content_type.as_deref(), Some("application/x-device"));
        } else {
            assert!(first.properties.is_none());
        }
        mqtt.close().await;
        broker.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_without_its_message_is_a_dead_letter_that_says_so() {
    let broker = Broker::start(|_| {}).await;
    let original = Config {
        payload: Payload::Original,
        ..config(broker.port, Version::V5)
    };
    let mqtt = mqtt(original);
    let mixed = Batch {
        items: [batch([1]), with_messages(2..=2)]
            .iter()
            .flat_map(|batch| batch.items.iter().cloned())
            .collect(),
    };
    let outcomes = mqtt.send(mixed).await.unwrap();
    let Outcome::Permanent(reason) = &outcomes[0] else {
        panic!("{:?}", outcomes[0])
    };
    assert!(reason.contains("was not kept as it came"), "{reason}");
    assert_eq!(outcomes[1], Outcome::Acknowledged);
    mqtt.close().await;
    broker.stop().await;
}

//! A client that others wrote: rumqttc, in both protocols.

use std::time::Duration;

use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, v5};
use tokio::time::timeout;

use crate::support::{LONG, Running, config, start};

fn options(broker: &Running, id: &str) -> MqttOptions {
    let mut options = MqttOptions::new(id, "127.0.0.1", broker.address.port());
    options.set_keep_alive(Duration::from_secs(60));
    options
}

#[tokio::test]
async fn rumqttc_with_311_publishes_and_hears_itself_at_every_qos() {
    let broker = start(config()).await;
    let (client, mut events) = AsyncClient::new(options(&broker, "c"), 10);
    client.subscribe("a/+", QoS::ExactlyOnce).await.unwrap();
    let all = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    let (mut heard, mut acked, mut completed) = (Vec::new(), 0, 0);
    while heard.len() < 3 || acked < 1 || completed < 1 {
        match timeout(LONG, events.poll()).await.unwrap().unwrap() {
            Event::Incoming(Packet::SubAck(_)) => {
                for qos in all {
                    client.publish("a/b", qos, false, "x").await.unwrap();
                }
            }
            Event::Incoming(Packet::Publish(publish)) => heard.push(publish.qos),
            Event::Incoming(Packet::PubAck(_)) => acked += 1,
            Event::Incoming(Packet::PubComp(_)) => completed += 1,
            _ => {}
        }
    }
    assert_eq!(heard, all);
    client.disconnect().await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn rumqttc_with_5_publishes_with_properties_and_hears_them() {
    use v5::mqttbytes::{QoS, v5::PublishProperties};

    let broker = start(config()).await;
    let mut options = v5::MqttOptions::new("c", "127.0.0.1", broker.address.port());
    options.set_keep_alive(Duration::from_secs(60));
    let (client, mut events) = v5::AsyncClient::new(options, 10);
    client.subscribe("a/#", QoS::ExactlyOnce).await.unwrap();
    let properties = PublishProperties {
        user_properties: vec![("idempotency-key".into(), "17".into())],
        content_type: Some("text/plain".into()),
        ..PublishProperties::default()
    };
    let heard = loop {
        match timeout(LONG, events.poll()).await.unwrap().unwrap() {
            v5::Event::Incoming(v5::mqttbytes::v5::Packet::SubAck(_)) => {
                let send = client.publish_with_properties(
                    "a/b",
                    QoS::ExactlyOnce,
                    false,
                    "x",
                    properties.clone(),
                );
                send.await.unwrap();
            }
            v5::Event::Incoming(v5::mqttbytes::v5::Packet::Publish(publish)) => break publish,
            _ => {}
        }
    };
    assert_eq!(heard.qos, QoS::ExactlyOnce);
    let found = heard.properties.unwrap();
    assert_eq!(found.user_properties, properties.user_properties);
    assert_eq!(found.content_type, properties.content_type);
    broker.stop().await;
}

#[tokio::test]
async fn rumqttc_with_5_understands_aliases_and_shares_the_work() {
    use v5::mqttbytes::{
        QoS,
        v5::{ConnectProperties, Packet},
    };

    let broker = start(config()).await;
    let mut workers = Vec::new();
    for id in ["one", "two"] {
        let mut options = v5::MqttOptions::new(id, "127.0.0.1", broker.address.port());
        options.set_connect_properties(ConnectProperties {
            topic_alias_max: Some(4),
            ..ConnectProperties::new()
        });
        let (client, mut events) = v5::AsyncClient::new(options, 10);
        let filter = "$share/workers/a/topic";
        client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        loop {
            let event = timeout(LONG, events.poll()).await.unwrap().unwrap();
            if matches!(event, v5::Event::Incoming(Packet::SubAck(_))) {
                break;
            }
        }
        workers.push((client, events));
    }
    let options = v5::MqttOptions::new("publisher", "127.0.0.1", broker.address.port());
    let (publisher, mut events) = v5::AsyncClient::new(options, 10);
    for n in 0..10 {
        let send = publisher.publish("a/topic", QoS::AtLeastOnce, false, n.to_string());
        send.await.unwrap();
    }
    let publishing = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let mut got = Vec::new();
    for (_, events) in &mut workers {
        let (mut mine, mut known) = (0, None);
        while mine < 5 {
            let event = timeout(LONG, events.poll()).await.unwrap().unwrap();
            if let v5::Event::Incoming(Packet::Publish(publish)) = event {
                // This client shows its user what was on the wire.
                let alias = publish.properties.and_then(|found| found.topic_alias);
                assert!(alias.is_some_and(|alias| (1..=4).contains(&alias)));
                if publish.topic.is_empty() {
                    assert_eq!(alias, known);
                } else {
                    assert_eq!(publish.topic, "a/topic");
                    known = alias;
                }
                got.push(String::from_utf8(publish.payload.to_vec()).unwrap());
                mine += 1;
            }
        }
    }
    got.sort();
    let all: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    assert_eq!(got, all);
    publishing.abort();
    broker.stop().await;
}

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

//! One connection, from CONNECT to its first failure, in either protocol.
//!
//! [`Client`] asks, [`Link`] does: nothing moves unless [`Link::poll`] is called.
//! After it has failed once it must be dropped; what the server had said by then is
//! in [`Link::left`]. rumqttc would connect again by itself and send what it still
//! holds, before and among what its user sends again.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::{Event, Outgoing, Packet, QoS, TlsConfiguration, Transport, v5};

use super::{
    Server, Version, reason,
    reason::{Broken, Verdict},
    tls,
};

/// Requests that wait for the connection: few, because they cannot be taken back.
const REQUESTS: usize = 8;
/// The largest packet of the protocol.
pub(crate) const PACKET_BYTES_MAX: u32 = 268_435_455;

/// How a connection begins, beside where.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) client_id: String,
    /// How long the server keeps the session after the connection; `None` begins
    /// a new one that ends with it.
    pub(crate) session_expiry: Option<Duration>,
    /// Publishes without acknowledgement, at most, either way.
    pub(crate) in_flight: u16,
    /// The largest packet we take.
    pub(crate) packet_bytes_max: u32,
}

/// A message, either way.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    /// What only MQTT 5 carries; empty in 3.1.1.
    pub(crate) properties: v5::mqttbytes::v5::PublishProperties,
}

impl Message {
    /// About what its packet has, and not less.
    pub(crate) fn packet_bytes(&self) -> usize {
        let user = &self.properties.user_properties;
        let user: usize = user
            .iter()
            .map(|(name, value)| name.len() + value.len() + 5)
            .sum();
        let content_type = self.properties.content_type.as_deref().map_or(0, str::len);
        // Fixed header, lengths, packet identifier, lengths of the properties.
        16 + self.topic.len() + self.payload.len() + user + content_type + 3
    }
}

/// What the server announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) session_present: bool,
    /// The largest packet it takes.
    pub(crate) packet_bytes_max: u32,
    /// Publishes it takes before it has acknowledged them.
    pub(crate) receive_max: u16,
    /// The highest QoS it takes.
    pub(crate) qos_max: u8,
}

/// What happened on a connection.
#[derive(Debug)]
pub(crate) enum Signal {
    Connected(Announced),
    /// The next publish that was asked for left under this packet identifier.
    Sent(u16),
    /// The server answered the publish of this identifier.
    Answered(u16, Verdict),
    /// An acknowledgement that was asked for left.
    Acknowledged,
    /// A message came; it is to be acknowledged with [`Client::acknowledge`].
    Received(Received),
    /// What became of each filter asked for: the QoS granted, or why none.
    Subscribed(Vec<Result<u8, String>>),
    /// A filter was taken out.
    Unsubscribed,
    /// Our DISCONNECT left.
    Left,
    /// Nothing that matters.
    Other,
}

/// A message that came, as the library wants it back.
#[derive(Debug, Clone)]
pub(crate) enum Received {
    V4(rumqttc::Publish),
    V5(v5::mqttbytes::v5::Publish),
}

impl Received {
    /// Whether the server waits for an acknowledgement.
    pub(crate) fn is_owed(&self) -> bool {
        match self {
            Self::V4(publish) => publish.qos != QoS::AtMostOnce,
            Self::V5(publish) => publish.qos != v5::mqttbytes::QoS::AtMostOnce,
        }
    }

    /// Bytes that it holds, about.
    pub(crate) fn bytes(&self) -> usize {
        /// Beside what is in it, and beside each of its user properties.
        const MESSAGE_BYTES: usize = 256;
        const PROPERTY_BYTES: usize = 64;
        match self {
            Self::V4(publish) => MESSAGE_BYTES + publish.topic.len() + publish.payload.len(),
            Self::V5(publish) => {
                let properties = publish.properties.as_ref().map_or(0, |known| {
                    let text = |text: &Option<String>| text.as_deref().map_or(0, str::len);
                    let user = known.user_properties.iter();
                    let user = user.map(|(name, value)| PROPERTY_BYTES + name.len() + value.len());
                    user.sum::<usize>()
                        + text(&known.content_type)
                        + text(&known.response_topic)
                        + known.correlation_data.as_ref().map_or(0, Bytes::len)
                });
                MESSAGE_BYTES + publish.topic.len() + publish.payload.len() + properties
            }
        }
    }
}

/// Asks for what is to be done on a connection.
#[derive(Debug, Clone)]
pub(crate) enum Client {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// The connection is over, or about to be.
#[derive(Debug)]
pub(crate) struct Gone;

impl Client {
    /// Asks to publish at QoS 1; waits for room among the requests.
    pub(crate) async fn publish(&self, message: Message) -> Result<(), Gone> {
        let Message {
            topic,
            payload,
            properties,
        } = message;
        let qos = QoS::AtLeastOnce;
        match self {
            Self::V4(client) => {
                let asked = client.publish_bytes(topic, qos, false, payload).await;
                asked.map_err(|_| Gone)
            }
            Self::V5(client) => client
                .publish_bytes_with_properties(
                    topic,
                    v5::mqttbytes::QoS::AtLeastOnce,
                    false,
                    payload,
                    properties,
                )
                .await
                .map_err(|_| Gone),
        }
    }

    /// Asks to subscribe to filters at QoS 0 or 1.
    pub(crate) async fn subscribe(&self, filters: &[(String, u8)]) -> Result<(), Gone> {
        match self {
            Self::V4(client) => {
                let filters = filters.iter().map(|(filter, qos)| {
                    rumqttc::SubscribeFilter::new(
                        filter.clone(),
                        match qos {
                            0 => QoS::AtMostOnce,
                            _ => QoS::AtLeastOnce,
                        },
                    )
                });
                client.subscribe_many(filters).await.map_err(|_| Gone)
            }
            Self::V5(client) => {
                let filters = filters.iter().map(|(filter, qos)| {
                    let qos = match qos {
                        0 => v5::mqttbytes::QoS::AtMostOnce,
                        _ => v5::mqttbytes::QoS::AtLeastOnce,
                    };
                    let mut filter = v5::mqttbytes::v5::Filter::new(filter.clone(), qos);
                    // What we publish on this very connection is not for us. Shared
                    // subscriptions cannot ask for that (section 3.8.3.1).
                    filter.nolocal = !filter.path.starts_with("$share/");
                    filter.preserve_retain = true;
                    // What is retained has come when the subscription was new.
                    filter.retain_forward_rule =
                        v5::mqttbytes::v5::RetainForwardRule::OnNewSubscribe;
                    filter
                });
                client.subscribe_many(filters).await.map_err(|_| Gone)
            }
        }
    }

    /// Asks to take a filter out. The next one only when this one was answered: with a
    /// small window the library would give both the same identifier.
    pub(crate) async fn unsubscribe(&self, filter: String) -> Result<(), Gone> {
        match self {
            Self::V4(client) => client.unsubscribe(filter).await.map_err(|_| Gone),
            Self::V5(client) => client.unsubscribe(filter).await.map_err(|_| Gone),
        }
    }

    /// Asks to acknowledge a message; only those of QoS 1 can be.
    pub(crate) async fn acknowledge(&self, received: &Received) -> Result<(), Gone> {
        match (self, received) {
            (Self::V4(client), Received::V4(publish)) => {
                client.ack(publish).await.map_err(|_| Gone)
            }
            (Self::V5(client), Received::V5(publish)) => {
                client.ack(publish).await.map_err(|_| Gone)
            }
            _ => Ok(()),
        }
    }

    /// Asks to end the connection in order.
    pub(crate) async fn disconnect(&self) {
        match self {
            Self::V4(client) => client.disconnect().await.ok(),
            Self::V5(client) => client.disconnect().await.ok(),
        };
    }
}

/// Does what is asked for on a connection.
pub(crate) enum Link {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// Prepares a connection; nothing is sent before the first [`Link::poll`].
/// Reads the files of TLS: blocking, for a moment.
pub(crate) fn prepare(server: &Server, opening: &Opening) -> Result<(Client, Link), Broken> {
    let transport = match &server.tls {
        None => Transport::tcp(),
        Some(tls) => {
            let config = tls::client(tls).map_err(Broken::wrong)?;
            Transport::tls_with_config(TlsConfiguration::Rustls(config))
        }
    };
    let password = server.password.as_ref().map_or("", |word| word.expose());
    let user = server.user.as_deref();
    let timeout_secs = server.timeout.as_secs().max(1);
    Ok(match server.version {
        Version::V4 => {
            let id = opening.client_id.clone();
            let mut options = rumqttc::MqttOptions::new(id, server.host.clone(), server.port);
            let bytes_max = usize::try_from(opening.packet_bytes_max).unwrap_or(usize::MAX);
            options
                .set_transport(transport)
                .set_keep_alive(server.keep_alive)
                .set_clean_session(opening.session_expiry.is_none())
                .set_inflight(opening.in_flight)
                .set_max_packet_size(bytes_max, usize::MAX)
                .set_manual_acks(true);
            if let Some(user) = user {
                options.set_credentials(user, password);
            }
            let (client, mut link) = rumqttc::AsyncClient::new(options, REQUESTS);
            let mut network = rumqttc::NetworkOptions::new();
            network
                .set_connection_timeout(timeout_secs)
                .set_tcp_nodelay(true);
            link.set_network_options(network);
            (Client::V4(client), Link::V4(Box::new(link)))
        }
        Version::V5 => {
            let id = opening.client_id.clone();
            let mut options = v5::MqttOptions::new(id, server.host.clone(), server.port);
            let expiry_secs = opening
                .session_expiry
                .map(|expiry| u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX));
            let mut network = rumqttc::NetworkOptions::new();
            network.set_tcp_nodelay(true);
            options
                .set_transport(transport)
                .set_keep_alive(server.keep_alive)
                .set_clean_start(expiry_secs.is_none())
                .set_session_expiry_interval(expiry_secs)
                .set_receive_maximum(Some(opening.in_flight))
                .set_max_packet_size(Some(opening.packet_bytes_max))
                .set_outgoing_inflight_upper_limit(opening.in_flight)
                .set_connection_timeout(timeout_secs)
                .set_network_options(network)
                .set_manual_acks(true);
            if let Some(user) = user {
                options.set_credentials(user, password);
            }
            let (client, link) = v5::AsyncClient::new(options, REQUESTS);
            (Client::V5(client), Link::V5(Box::new(link)))
        }
    })
}

impl Link {
    /// Goes on until something happens. Not to be called again after an error.
    pub(crate) async fn poll(&mut self) -> Result<Signal, Broken> {
        match self {
            Self::V4(link) => Box::pin(link.poll())
                .await
                .map(of_event_v4)
                .map_err(|error| of_error_v4(&error)),
            Self::V5(link) => Box::pin(link.poll())
                .await
                .map(of_event_v5)
                .map_err(|error| of_error_v5(&error)),
        }
    }

    /// What was heard before the failure and not told yet.
    pub(crate) fn left(&mut self) -> Vec<Signal> {
        match self {
            Self::V4(link) => link.state.events.drain(..).map(of_event_v4).collect(),
            Self::V5(link) => link.state.events.drain(..).map(of_event_v5).collect(),
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

fn of_event_v4(event: Event) -> Signal {
    match event {
        Event::Incoming(Packet::ConnAck(connack)) => Signal::Connected(Announced {
            session_present: connack.session_present,
            packet_bytes_max: PACKET_BYTES_MAX,
            receive_max: u16::MAX,
            qos_max: 2,
        }),
        Event::Incoming(Packet::PubAck(ack)) => Signal::Answered(ack.pkid, Verdict::Kept),
        Event::Incoming(Packet::Publish(publish)) => Signal::Received(Received::V4(publish)),
        Event::Incoming(Packet::SubAck(suback)) => Signal::Subscribed(
            suback
                .return_codes
                .iter()
                .map(|code| match code {
                    rumqttc::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    rumqttc::SubscribeReasonCode::Failure => Err("refused".to_owned()),
                })
                .collect(),
        ),
        Event::Incoming(Packet::UnsubAck(_)) => Signal::Unsubscribed,
        Event::Outgoing(Outgoing::Disconnect) => Signal::Left,
        Event::Outgoing(Outgoing::Publish(id)) => Signal::Sent(id),
        Event::Outgoing(Outgoing::PubAck(_)) => Signal::Acknowledged,
        _ => Signal::Other,
    }
}

fn of_event_v5(event: v5::Event) -> Signal {
    use v5::mqttbytes::v5::{Packet, SubscribeReasonCode};
    match event {
        v5::Event::Incoming(Packet::ConnAck(connack)) => {
            let properties = connack.properties.as_ref();
            Signal::Connected(Announced {
                session_present: connack.session_present,
                packet_bytes_max: properties
                    .and_then(|known| known.max_packet_size)
                    .unwrap_or(PACKET_BYTES_MAX),
                receive_max: properties
                    .and_then(|known| known.receive_max)
                    .unwrap_or(u16::MAX),
                qos_max: properties.and_then(|known| known.max_qos).unwrap_or(2),
            })
        }
        v5::Event::Incoming(Packet::PubAck(ack)) => {
            let text = ack
                .properties
                .as_ref()
                .and_then(|p| p.reason_string.as_deref());
            Signal::Answered(ack.pkid, reason::of_puback(ack.reason, text))
        }
        v5::Event::Incoming(Packet::Publish(publish)) => Signal::Received(Received::V5(publish)),
        v5::Event::Incoming(Packet::SubAck(suback)) => Signal::Subscribed(
            suback
                .return_codes
                .iter()
                .map(|code| match code {
                    SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    refused => Err(format!("refused: {refused:?}")),
                })
                .collect(),
        ),
        v5::Event::Incoming(Packet::UnsubAck(_)) => Signal::Unsubscribed,
        v5::Event::Outgoing(Outgoing::Disconnect) => Signal::Left,
        v5::Event::Outgoing(Outgoing::Publish(id)) => Signal::Sent(id),
        v5::Event::Outgoing(Outgoing::PubAck(_)) => Signal::Acknowledged,
        _ => Signal::Other,
    }
}

fn of_error_v4(error: &rumqttc::ConnectionError) -> Broken {
    use rumqttc::{ConnectionError as Error, StateError, mqttbytes};
    match error {
        Error::ConnectionRefused(code) => reason::of_connack_v4(*code),
        Error::Tls(rumqttc::TlsError::Io(error)) | Error::Io(error) => reason::of_io(error),
        Error::MqttState(StateError::Deserialization(mqttbytes::Error::Io(error))) => {
            reason::of_io(error)
        }
        Error::MqttState(StateError::Io(error)) => reason::of_io(error),
        Error::MqttState(closed @ StateError::ConnectionAborted) => {
            Broken::lost(closed.to_string()).by_server()
        }
        Error::NetworkTimeout | Error::FlushTimeout => Broken::lost("no answer in time"),
        other => Broken::lost(other.to_string()),
    }
}

fn of_error_v5(error: &v5::ConnectionError) -> Broken {
    use v5::{ConnectionError as Error, StateError, mqttbytes};
    match error {
        Error::ConnectionRefused(code) => reason::of_connack_v5(*code),
        Error::Tls(rumqttc::TlsError::Io(error)) | Error::Io(error) => reason::of_io(error),
        Error::MqttState(StateError::ServerDisconnect {
            reason_code,
            reason_string,
        }) => reason::of_disconnect(*reason_code, reason_string.as_deref()),
        Error::MqttState(StateError::Deserialization(mqttbytes::Error::Io(error))) => {
            reason::of_io(error)
        }
        Error::MqttState(StateError::Io(error)) => reason::of_io(error),
        Error::MqttState(closed @ StateError::ConnectionAborted) => {
            Broken::lost(closed.to_string()).by_server()
        }
        Error::Timeout(_) => Broken::lost("no answer in time"),
        other => Broken::lost(other.to_string()),
    }
}

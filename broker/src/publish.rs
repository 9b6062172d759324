//! A PUBLISH as received: plain data, validated by the protocol's rules only.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use bytes::Bytes;

/// Who published: one per connection, shared by all its publishes.
#[derive(Debug)]
pub struct Publisher {
    /// The client identifier, as sent or as assigned.
    pub client_id: Arc<str>,
    /// The user name of CONNECT, if any: only a claim, see `identity`.
    pub username: Option<Arc<str>>,
    /// The user as whom the client was let in; `None` for an anonymous client.
    pub identity: Option<Arc<str>>,
    /// Where the messages come from, if not from a client of this broker: the name
    /// of the remote broker, so that they are not sent back there.
    pub origin: Option<Arc<str>>,
    /// The peer's address; none for the gateway itself, and for a program
    /// of this machine on a Unix socket.
    pub address: Option<SocketAddr>,
    /// The protocol of the connection.
    pub protocol: Protocol,
    /// The turn of what is handed over now. The session raises it whenever it
    /// has heard [`Busy`](crate::Verdict::Busy), before it asks again.
    pub turn: AtomicU64,
    /// For the admission's use: turns below this are over. Once it finds no room
    /// for something it turns away whatever follows in the same turn too, or
    /// that would overtake what is asked about again.
    pub turns_over: Arc<AtomicU64>,
}

/// The protocol version a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// MQTT 3.1.1, protocol level 4.
    V4,
    /// MQTT 5.0, protocol level 5.
    V5,
}

/// Delivery guarantee of one publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// At most once: no acknowledgement.
    AtMostOnce = 0,
    /// At least once: PUBACK.
    AtLeastOnce = 1,
    /// Exactly once: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

/// One PUBLISH. Cheap to clone: everything large is shared.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The topic, valid UTF-8 without wildcards; aliases are resolved.
    pub topic: Arc<str>,
    /// The application message, untouched.
    pub payload: Bytes,
    /// The sender's QoS.
    pub qos: QoS,
    /// The RETAIN flag as sent.
    pub retain: bool,
    /// The DUP flag as sent. Proves nothing by itself.
    pub dup: bool,
    /// MQTT 5 properties that travel with the message; `None` when there were none.
    pub properties: Option<Arc<Properties>>,
    /// What makes this the same message when a client sends it again after the
    /// connection, or the broker, has gone: set at QoS 2 in a persistent session.
    pub delivery: Option<[u8; 16]>,
}

impl Publish {
    /// Whether every string has at most the 65,535 bytes that MQTT can say
    /// (MQTT 5, section 1.5.4), and all of it is less than a packet takes. What came in
    /// a packet does.
    pub(crate) fn fits_a_packet(&self) -> bool {
        const STRING: usize = 65_535;
        const PACKET: usize = 256 * 1024 * 1024;
        let mut sum = self.topic.len().saturating_add(self.payload.len());
        let mut longest = self.topic.len();
        if let Some(known) = &self.properties {
            let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
            let user = known.user.iter();
            let lengths = [
                text(&known.content_type),
                text(&known.response_topic),
                known.correlation_data.as_ref().map_or(0, Bytes::len),
            ];
            let user = user.flat_map(|(name, value)| [name.len(), value.len()]);
            for length in lengths.into_iter().chain(user) {
                longest = longest.max(length);
                // With what comes before a string.
                sum = sum.saturating_add(length + 3);
            }
        }
        // Some room for the header.
        longest <= STRING && sum < PACKET - 1024
    }
}

/// The MQTT 5 properties of a PUBLISH that belong to the message (section 3.3.2.3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    /// The payload is declared to be UTF-8 text.
    pub payload_is_utf8: Option<bool>,
    /// Lifetime in seconds.
    pub message_expiry_secs: Option<u32>,
    /// MIME type of the payload.
    pub content_type: Option<Arc<str>>,
    /// Topic for a response.
    pub response_topic: Option<Arc<str>>,
    /// Opaque data for matching a response to its request.
    pub correlation_data: Option<Bytes>,
    /// Name and value pairs, in the order sent; names may repeat.
    pub user: Vec<(Arc<str>, Arc<str>)>,
}

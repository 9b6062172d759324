//! A message on its way to subscribers: one immutable buffer, shared by all.
//!
//! ```text
//! 0      flags: bits 0-1 QoS, bit 2 RETAIN, bit 3 has a lifetime
//! 1..9   session that published it
//! 9..17  when it was taken, in milliseconds since the broker's start
//! 17..21 lifetime in seconds
//! 21..25 length of the properties
//! 25..27 length of the topic
//! 27..35 its number: later messages have higher ones
//! 35..   topic, encoded MQTT 5 properties without the lifetime, payload
//! ```
//!
//! Copied out of the read buffer, so that a message waiting for a subscriber
//! pins its own bytes only. Counts in the output budget once, until the last one
//! who holds it is done with it.
//! The format lives in memory only; numbers are big endian.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    Publish, QoS,
    budget::{Budget, Share},
    packet,
};

const HEADER: usize = 35;
/// What a message takes beside its frame.
const MESSAGE_BYTES: usize = 96;

/// A frame that counts for as long as it is in memory.
struct Charged {
    frame: BytesMut,
    _share: Share,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    frame: Bytes,
    topic_end: usize,
    properties_end: usize,
}

impl Message {
    pub(crate) fn new(
        publish: &Publish,
        publisher: u64,
        taken_ms: u64,
        number: u64,
        budget: &Arc<Budget>,
    ) -> Self {
        let mut frame =
            BytesMut::with_capacity(HEADER + publish.topic.len() + publish.payload.len() + 16);
        let expiry = publish
            .properties
            .as_ref()
            .and_then(|known| known.message_expiry_secs);
        let topic_len = u16::try_from(publish.topic.len()).expect("a topic came with two bytes");
        frame.put_u8(
            publish.qos as u8 | u8::from(publish.retain) << 2 | u8::from(expiry.is_some()) << 3,
        );
        frame.put_u64(publisher);
        frame.put_u64(taken_ms);
        frame.put_u32(expiry.unwrap_or(0));
        frame.put_u32(0);
        frame.put_u16(topic_len);
        frame.put_u64(number);
        frame.put_slice(publish.topic.as_bytes());
        let topic_end = frame.len();
        packet::encode::message_properties(&mut frame, publish);
        let properties_end = frame.len();
        let properties = u32::try_from(properties_end - topic_end)
            .expect("properties came in one packet of less than 256 MiB");
        frame[21..25].copy_from_slice(&properties.to_be_bytes());
        frame.put_slice(&publish.payload);
        let mut share = Share::new(budget);
        share.add(frame.capacity() + MESSAGE_BYTES);
        let charged = Charged {
            frame,
            _share: share,
        };
        Self {
            frame: Bytes::from_owner(charged),
            topic_end,
            properties_end,
        }
    }

    /// Reads what [`Message::new`] wrote; `None` for anything else.
    pub(crate) fn from_frame(frame: Bytes) -> Option<Self> {
        let header = frame.get(..HEADER)?;
        let properties = u32::from_be_bytes(header[21..25].try_into().ok()?);
        let topic = u16::from_be_bytes(header[25..27].try_into().ok()?);
        let topic_end = HEADER + usize::from(topic);
        let properties_end = topic_end.checked_add(usize::try_from(properties).ok()?)?;
        std::str::from_utf8(frame.get(HEADER..topic_end)?).ok()?;
        frame.get(..properties_end)?;
        Some(Self {
            frame,
            topic_end,
            properties_end,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.frame.len()
    }

    pub(crate) fn topic(&self) -> &[u8] {
        &self.frame[HEADER..self.topic_end]
    }

    pub(crate) fn topic_str(&self) -> &str {
        std::str::from_utf8(self.topic()).expect("checked when the message was made")
    }

    pub(crate) fn properties(&self) -> &[u8] {
        &self.frame[self.topic_end..self.properties_end]
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.frame[self.properties_end..]
    }

    pub(crate) fn qos(&self) -> QoS {
        match self.frame[0] & 0b11 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    pub(crate) fn retain(&self) -> bool {
        self.frame[0] & 0b100 != 0
    }

    pub(crate) fn publisher(&self) -> u64 {
        self.u64_at(1)
    }

    pub(crate) fn taken_ms(&self) -> u64 {
        self.u64_at(9)
    }

    pub(crate) fn number(&self) -> u64 {
        self.u64_at(27)
    }

    pub(crate) fn expiry_secs(&self) -> Option<u32> {
        let secs = u32::from_be_bytes(self.array(17));
        (self.frame[0] & 0b1000 != 0).then_some(secs)
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.frame[at..at + N]
            .try_into()
            .expect("the header is there")
    }
}

impl From<Message> for Bytes {
    fn from(message: Message) -> Self {
        message.frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::Properties;

    #[test]
    fn a_message_survives_its_frame() {
        let publish = Publish {
            topic: Arc::from("a/ü"),
            payload: Bytes::from_static(b"payload"),
            qos: QoS::ExactlyOnce,
            retain: true,
            dup: true,
            properties: Some(Arc::new(Properties {
                message_expiry_secs: Some(7),
                content_type: Some(Arc::from("x")),
                ..Properties::default()
            })),
        };
        let budget = Arc::new(Budget::of(1000));
        let frame = Bytes::from(Message::new(&publish, 5, 9, 11, &budget));
        let message = Message::from_frame(frame.clone()).unwrap();
        assert_eq!(message.topic_str(), "a/ü");
        assert_eq!(message.payload(), b"payload");
        assert_eq!(message.properties(), [3, 0, 1, b'x']);
        assert_eq!((message.qos(), message.retain()), (QoS::ExactlyOnce, true));
        assert_eq!(
            (message.publisher(), message.taken_ms(), message.number()),
            (5, 9, 11)
        );
        assert_eq!(message.expiry_secs(), Some(7));
        for cut in 0..HEADER + 4 {
            assert!(Message::from_frame(frame.slice(..cut)).is_none());
        }
        let once = budget.used();
        assert!(once > frame.len());
        let shared = message.clone();
        assert_eq!(budget.used(), once);
        drop((frame, message));
        assert_eq!(budget.used(), once);
        drop(shared);
        assert_eq!(budget.used(), 0);
    }
}

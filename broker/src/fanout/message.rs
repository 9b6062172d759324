//! A message on its way to subscribers: one immutable buffer, shared by all.
//!
//! ```text
//! 0      flags: bits 0-1 QoS, bit 2 RETAIN, bit 3 has a lifetime,
//!        bit 4 its shared subscriptions have it (never on disk)
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
//! Numbers are big endian. The keeper stores these bytes, so a change of them is a
//! migration of its file; the session, the time and the number mean nothing there.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    Publish, QoS,
    budget::{Budget, Share},
    packet,
};

const HEADER: usize = 35;
const HANDED_OUT: u8 = 1 << 4;
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

fn charged(frame: BytesMut, budget: &Arc<Budget>) -> Bytes {
    let mut share = Share::new(budget);
    share.add(frame.capacity() + MESSAGE_BYTES);
    Bytes::from_owner(Charged {
        frame,
        _share: share,
    })
}

/// A message outlived its expiry interval.
#[derive(Debug)]
pub(crate) struct Expired;

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
        Self {
            frame: charged(frame, budget),
            topic_end,
            properties_end,
        }
    }

    /// How long the frame of a publish is.
    pub(crate) fn len_of(publish: &Publish) -> usize {
        let mut properties = BytesMut::new();
        packet::encode::message_properties(&mut properties, publish);
        HEADER + publish.topic.len() + properties.len() + publish.payload.len()
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

    /// The topic of a message as it is kept; `None` for what is none.
    pub(crate) fn topic_in(frame: &[u8]) -> Option<&str> {
        let len = u16::from_be_bytes(frame.get(25..27)?.try_into().ok()?);
        let topic = frame.get(HEADER..HEADER + usize::from(len))?;
        std::str::from_utf8(topic).ok()
    }

    /// The message as it is kept, as if it had waited `age_ms` until now; `None`
    /// for what is none.
    pub(crate) fn restore(
        frame: &[u8],
        age_ms: u64,
        now_ms: u64,
        budget: &Arc<Budget>,
    ) -> Option<Self> {
        let secs = u32::from_be_bytes(frame.get(17..21)?.try_into().ok()?);
        let left = u64::from(secs).saturating_sub(age_ms / 1000);
        let mut copy = BytesMut::from(frame);
        copy[1..9].fill(0);
        copy[9..17].copy_from_slice(&now_ms.to_be_bytes());
        copy[17..21].copy_from_slice(&u32::try_from(left).unwrap_or(secs).to_be_bytes());
        copy[27..35].fill(0);
        Self::from_frame(charged(copy, budget))
    }

    /// The same message with another number.
    pub(crate) fn renumbered(&self, number: u64, budget: &Arc<Budget>) -> Self {
        let mut copy = BytesMut::from(&self.frame[..]);
        copy[27..35].copy_from_slice(&number.to_be_bytes());
        Self {
            frame: charged(copy, budget),
            topic_end: self.topic_end,
            properties_end: self.properties_end,
        }
    }

    /// The same message, for those who have no share of it: the members of shared
    /// subscriptions have it already.
    pub(crate) fn handed_out(&self, budget: &Arc<Budget>) -> Self {
        let mut copy = BytesMut::from(&self.frame[..]);
        copy[0] |= HANDED_OUT;
        Self {
            frame: charged(copy, budget),
            topic_end: self.topic_end,
            properties_end: self.properties_end,
        }
    }

    /// Whether shared subscriptions have it already.
    pub(crate) fn is_handed_out(&self) -> bool {
        self.frame[0] & HANDED_OUT != 0
    }

    /// The bytes, as they are kept.
    pub(crate) fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// The message as it was published.
    pub(crate) fn to_publish(&self) -> Option<Publish> {
        let properties =
            packet::message_properties(&self.frame.slice(self.topic_end..self.properties_end))?;
        let expiry = self.expiry_secs();
        let properties = match (properties, expiry) {
            (None, None) => None,
            (found, expiry) => {
                let mut found = found.unwrap_or_default();
                found.message_expiry_secs = expiry;
                Some(Arc::new(found))
            }
        };
        Some(Publish {
            topic: Arc::from(self.topic_str()),
            payload: self.frame.slice(self.properties_end..),
            qos: self.qos(),
            retain: self.retain(),
            dup: false,
            properties,
            delivery: None,
        })
    }

    /// What is left of its lifetime at `now_ms`; `Err` when it is over.
    pub(crate) fn lifetime_left(&self, now_ms: u64) -> Result<Option<u32>, Expired> {
        let Some(secs) = self.expiry_secs() else {
            return Ok(None);
        };
        let waited = now_ms.saturating_sub(self.taken_ms()) / 1000;
        match u64::from(secs).checked_sub(waited) {
            Some(left) if left > 0 => Ok(u32::try_from(left).ok()),
            _ => Err(Expired),
        }
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
            delivery: None,
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
        let kept = Message::restore(&frame, 5_000, 77, &Arc::new(Budget::of(0))).unwrap();
        assert_eq!((kept.number(), kept.taken_ms()), (0, 77));
        assert_eq!(kept.lifetime_left(77).unwrap(), Some(2));
        assert!(kept.lifetime_left(77 + 2_000).is_err());
        let again = kept.to_publish().unwrap();
        assert_eq!(
            (&again.topic, &again.payload),
            (&publish.topic, &publish.payload)
        );
        assert_eq!(again.properties.unwrap().content_type.as_deref(), Some("x"));
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

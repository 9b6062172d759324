//! The message as it came, behind the stored form of an event that was made of it.
//!
//! ```text
//! [client, content type, [[name, value], ...], user, origin, nonce, delivery, payload]
//! ```
//! Topic and time of receipt are those of the event. Of the events of one message one
//! has it, as a second CBOR item (RFC 8742): it leaves the journal with that event, and
//! goes wherever the event goes, into the retry list and among the dead letters.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use super::view::{Cbor, malformed};
use crate::event::CborError;

const ELEMENTS: u64 = 8;

/// What normalising a message depends on, beside its topic and when it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Who sent it.
    pub client_id: Arc<str>,
    /// The MQTT 5 content type.
    pub content_type: Option<Arc<str>>,
    /// The MQTT 5 user properties.
    pub user: Vec<(Arc<str>, Arc<str>)>,
    /// The user that the client was let in as.
    pub identity: Option<Arc<str>>,
    /// The remote broker that it came from.
    pub origin: Option<Arc<str>>,
    /// Random, for events that nothing identifies.
    pub nonce: [u8; 16],
    /// What makes it the same message when its QoS 2 exchange goes on after a crash.
    pub delivery: Option<[u8; 16]>,
    /// The payload.
    pub payload: Bytes,
}

/// The same, borrowed from where it is stored; checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `Original`")]
pub struct OriginalView<'a> {
    pub client_id: &'a str,
    pub content_type: Option<&'a str>,
    user: (u64, &'a [u8]),
    pub identity: Option<&'a str>,
    pub origin: Option<&'a str>,
    pub nonce: [u8; 16],
    pub delivery: Option<[u8; 16]>,
    pub payload: &'a [u8],
}

struct ByteString<'b>(&'b [u8]);

impl Serialize for ByteString<'_> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(self.0)
    }
}

impl Original {
    /// The stored form, to be put behind that of an event.
    pub fn to_cbor(&self) -> Bytes {
        let stored = (
            &*self.client_id,
            self.content_type.as_deref(),
            &self.user,
            self.identity.as_deref(),
            self.origin.as_deref(),
            ByteString(&self.nonce),
            self.delivery.as_ref().map(|bytes| ByteString(bytes)),
            ByteString(&self.payload),
        );
        let mut out = Vec::with_capacity(self.payload.len() + 128);
        ciborium::into_writer(&stored, &mut out).expect("writing to memory cannot fail");
        out.into_boxed_slice().into()
    }
}

impl<'a> OriginalView<'a> {
    pub(super) fn parse(cbor: &mut Cbor<'a>) -> Result<Self, CborError> {
        if cbor.array()? != ELEMENTS {
            return Err(malformed("a message of the wrong length"));
        }
        Ok(Self {
            client_id: cbor.text()?,
            content_type: cbor.optional(Cbor::text)?,
            user: cbor.pairs()?,
            identity: cbor.optional(Cbor::text)?,
            origin: cbor.optional(Cbor::text)?,
            nonce: sixteen(cbor)?,
            delivery: cbor.optional(sixteen)?,
            payload: cbor.bytes()?,
        })
    }

    /// The MQTT 5 user properties.
    pub fn user(&self) -> Vec<(&'a str, &'a str)> {
        let mut cbor = Cbor { rest: self.user.1 };
        (0..self.user.0).map_while(|_| cbor.pair().ok()).collect()
    }

    /// With everything of its own.
    pub fn to_owned(&self) -> Original {
        let user = self.user().into_iter();
        Original {
            client_id: self.client_id.into(),
            content_type: self.content_type.map(Arc::from),
            user: user.map(|(n, v)| (n.into(), v.into())).collect(),
            identity: self.identity.map(Arc::from),
            origin: self.origin.map(Arc::from),
            nonce: self.nonce,
            delivery: self.delivery,
            payload: Bytes::copy_from_slice(self.payload),
        }
    }
}

fn sixteen(cbor: &mut Cbor<'_>) -> Result<[u8; 16], CborError> {
    let bytes = cbor.bytes()?.try_into();
    bytes.map_err(|_| malformed("something else than 16 bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Event, View, view::tests::event};

    fn original() -> impl Strategy<Value = Original> {
        let text = || ".{0,9}".prop_map(Arc::<str>::from);
        let option = || proptest::option::of(text());
        (
            (text(), option(), option(), option()),
            proptest::collection::vec((text(), text()), 0..4),
            any::<[u8; 16]>(),
            proptest::option::of(any::<[u8; 16]>()),
            proptest::collection::vec(any::<u8>(), 0..600),
        )
            .prop_map(|(texts, user, nonce, delivery, payload)| Original {
                client_id: texts.0,
                content_type: texts.1,
                user,
                identity: texts.2,
                origin: texts.3,
                nonce,
                delivery,
                payload: payload.into(),
            })
    }

    proptest! {
        #[test]
        fn a_message_behind_its_event_comes_back_and_changes_nothing_of_the_event(
            event in event(), original in original(),
        ) {
            let mut alone = Vec::new();
            event.to_cbor(&mut alone);
            let mut both = alone.clone();
            both.extend_from_slice(&original.to_cbor());
            let view = View::parse(&both).unwrap();
            prop_assert_eq!(view.original.map(|o| o.to_owned()), Some(original));
            let json = |view: View<'_>| {
                let mut out = Vec::new();
                view.to_json(None, &mut out);
                out
            };
            prop_assert_eq!(json(view), json(View::parse(&alone).unwrap()));
            prop_assert_eq!(View::parse(&alone).unwrap().original, None);
            let back = Event::from_cbor(&both).unwrap();
            prop_assert_eq!(format!("{back:?}"), format!("{event:?}"));
        }

        #[test]
        fn damaged_bytes_behind_an_event_are_refused_or_a_message(
            event in event(), original in original(), at in any::<prop::sample::Index>(),
            byte: u8, cut in any::<bool>(),
        ) {
            let mut body = Vec::new();
            event.to_cbor(&mut body);
            let begin = body.len();
            body.extend_from_slice(&original.to_cbor());
            let at = begin + 1 + at.index(body.len() - begin - 1);
            if cut {
                body.truncate(at);
                prop_assert!(View::parse(&body).is_err());
            } else {
                body[at] = byte;
                if let Ok(view) = View::parse(&body) {
                    let original = view.original.expect("bytes behind the event");
                    prop_assert!(original.user().len() as u64 <= original.user.0);
                }
            }
        }
    }
}

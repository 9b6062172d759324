//! A message as it came, also after a stay in quarantine.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    clock::Booted,
    event::{Original, Timestamp},
    normalise::Reject,
    store::NewQuarantine,
};

/// Everything about a message that its normalising depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw {
    /// On which topic.
    pub topic: Arc<str>,
    /// Who sent it.
    pub client_id: Arc<str>,
    /// The user that the client was let in as.
    pub identity: Option<Arc<str>>,
    /// The remote broker that it came from; none for a client of this one.
    pub origin: Option<Arc<str>>,
    /// The payload.
    pub payload: Bytes,
    /// The MQTT 5 content type.
    pub content_type: Option<Arc<str>>,
    /// The MQTT 5 user properties.
    pub user: Vec<(Arc<str>, Arc<str>)>,
    /// When it was received.
    pub received: Timestamp,
    /// What makes it the same message when its QoS 2 exchange goes on after a crash.
    pub delivery: Option<[u8; 16]>,
    /// Random, for events that nothing identifies.
    pub nonce: [u8; 16],
    /// This start of the machine, where the clock was not set when it was received.
    pub booted: Option<Booted>,
}

/// The properties as quarantine keeps them.
#[derive(Serialize, Deserialize)]
struct Stored(
    Option<Arc<str>>,
    Vec<(Arc<str>, Arc<str>)>,
    /// The user; not there in what was kept before users were known.
    #[serde(default)]
    Option<Arc<str>>,
    /// The origin; not there in what was kept before it was noted.
    #[serde(default)]
    Option<Arc<str>>,
    /// In which boot, and how many milliseconds after it, it came before the clock was
    /// set; not there in what was kept before that was noted.
    #[serde(default)]
    Option<(Arc<str>, u64)>,
);

/// Properties in quarantine that cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("the properties of the message are damaged: {0}")]
pub struct Damaged(String);

impl Raw {
    /// A message out of quarantine.
    ///
    /// # Errors
    /// When the properties are not what [`properties`](Self::properties) wrote.
    pub fn from_quarantine(
        topic: Arc<str>,
        client_id: Arc<str>,
        payload: Bytes,
        properties: Option<&[u8]>,
        received: Timestamp,
    ) -> Result<Self, Damaged> {
        let Stored(content_type, user, identity, origin, booted) = match properties {
            None => Stored(None, Vec::new(), None, None, None),
            Some(bytes) => {
                ciborium::from_reader(bytes).map_err(|error| Damaged(error.to_string()))?
            }
        };
        Ok(Self {
            topic,
            client_id,
            identity,
            origin,
            payload,
            content_type,
            user,
            received,
            delivery: None,
            nonce: rand::random(),
            booted: booted.map(of_boot),
        })
    }

    /// In which boot a message came, as quarantine keeps it; `None` where the clock was
    /// set, or nobody noted it.
    pub fn booted_of(properties: Option<&[u8]>) -> Option<Booted> {
        let Stored(.., booted) = ciborium::from_reader(properties?).ok()?;
        booted.map(of_boot)
    }

    /// A message that was kept with one of its events, which has its topic and when it
    /// was received.
    pub fn from_original(topic: Arc<str>, received: Timestamp, original: Original) -> Self {
        Self {
            topic,
            client_id: original.client_id,
            identity: original.identity,
            origin: original.origin,
            payload: original.payload,
            content_type: original.content_type,
            user: original.user,
            received,
            delivery: original.delivery,
            nonce: original.nonce,
            booted: None,
        }
    }

    /// What is kept with one of its events.
    pub(super) fn original(&self) -> Original {
        Original {
            client_id: self.client_id.clone(),
            content_type: self.content_type.clone(),
            user: self.user.clone(),
            identity: self.identity.clone(),
            origin: self.origin.clone(),
            nonce: self.nonce,
            delivery: self.delivery,
            payload: self.payload.clone(),
        }
    }

    /// The message, or the rest of it, as quarantine keeps it.
    pub(super) fn quarantined(&self, reject: Reject, payload: Bytes) -> NewQuarantine {
        NewQuarantine {
            received: self.received,
            client_id: self.client_id.clone(),
            topic: self.topic.clone(),
            class: reject.class.as_str(),
            reason: reject.reason.into_owned(),
            payload,
            properties: self.properties(),
        }
    }

    /// Content type, user properties, the user, the origin and the boot as CBOR; `None`
    /// where there are none.
    fn properties(&self) -> Option<Bytes> {
        let nobody = self.identity.is_none() && self.origin.is_none() && self.booted.is_none();
        if self.content_type.is_none() && self.user.is_empty() && nobody {
            return None;
        }
        let mut bytes = Vec::new();
        let stored = Stored(
            self.content_type.clone(),
            self.user.clone(),
            self.identity.clone(),
            self.origin.clone(),
            self.booted.as_ref().map(|booted| {
                let millis = u64::try_from(booted.up.as_millis()).unwrap_or(u64::MAX);
                (booted.id.clone(), millis)
            }),
        );
        ciborium::into_writer(&stored, &mut bytes).expect("writing to memory cannot fail");
        Some(bytes.into())
    }
}

fn of_boot((id, millis): (Arc<str>, u64)) -> Booted {
    Booted {
        id,
        up: Duration::from_millis(millis),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn properties_come_back_from_quarantine(
            content_type in proptest::option::of(".{0,9}"),
            user in proptest::collection::vec((".{0,9}", ".{0,9}"), 0..4),
            identity in proptest::option::of(".{0,9}"),
            origin in proptest::option::of(".{0,9}"),
            booted in proptest::option::of((".{0,9}", 0..u64::MAX)),
        ) {
            let raw = Raw {
                topic: "t".into(),
                client_id: "c".into(),
                identity: identity.map(Into::into),
                origin: origin.map(Into::into),
                payload: Bytes::from_static(b"x"),
                content_type: content_type.map(Into::into),
                user: user.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
                received: Timestamp::from_millis(1),
                delivery: None,
                nonce: [7; 16],
                booted: booted.map(|(id, millis)| Booted {
                    id: id.into(),
                    up: Duration::from_millis(millis),
                }),
            };
            let kept = raw.properties();
            let back = Raw::from_quarantine(
                raw.topic.clone(), raw.client_id.clone(), raw.payload.clone(), kept.as_deref(), raw.received,
            );
            let back = Raw { nonce: raw.nonce, ..back.unwrap() };
            prop_assert_eq!(back, raw);
        }

        #[test]
        fn what_was_kept_before_users_were_known_is_still_read(
            content_type in proptest::option::of(".{0,9}"),
            user in proptest::collection::vec((".{0,9}", ".{0,9}"), 0..4),
        ) {
            let mut bytes = Vec::new();
            ciborium::into_writer(&(&content_type, &user), &mut bytes).unwrap();
            let mut with_user = Vec::new();
            ciborium::into_writer(&(&content_type, &user, Some("u")), &mut with_user).unwrap();
            let back = Raw::from_quarantine(
                "t".into(), "c".into(), Bytes::new(), Some(&with_user), Timestamp::from_millis(1),
            ).unwrap();
            prop_assert_eq!((back.identity.as_deref(), back.origin), (Some("u"), None));
            prop_assert_eq!(back.booted, None);
            let back = Raw::from_quarantine(
                "t".into(), "c".into(), Bytes::new(), Some(&bytes), Timestamp::from_millis(1),
            ).unwrap();
            prop_assert_eq!(back.content_type.as_deref(), content_type.as_deref());
            prop_assert_eq!(back.user.len(), user.len());
            prop_assert_eq!(back.identity, None);
        }

        #[test]
        fn damaged_properties_are_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _either = Raw::from_quarantine("t".into(), "c".into(), Bytes::new(), Some(&bytes), Timestamp::from_millis(1));
        }
    }
}

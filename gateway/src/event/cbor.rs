//! The stored form of an event: one CBOR array, first element the version.
//!
//! ```text
//! [1, key, id, id_source, type, device, site, time, time_source, received,
//!  sequence, partition_key, topic, traceparent,
//!  [[name, value, unit, quality, time], ...], [[name, value], ...], marks, corrected,
//!  replayed]
//! ```
//! The last three are there only as far as one of them says something: none of them, two,
//! or all. Behind the array
//! may be the message that the event was made of ([`super::original`]).
//! Times are nanoseconds since the Unix epoch; sources are their place in the
//! order of preference. A quality is false for good, true for bad, 1 for uncertain. A later version may append elements, never reorder them.

use std::sync::Arc;

use serde::{Deserialize, Serialize, ser::SerializeTuple as _};

use super::{Event, IdSource, Key, Marks, Measurement, Quality, TimeSource, Timestamp, Value};

const VERSION: u8 = 1;

/// A stored event that cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not CBOR of the expected shape.
    #[error("not a stored event: {0}")]
    Malformed(String),
    /// Written by a later Penstock.
    #[error("stored event of version {0}, this build reads up to {VERSION}")]
    Version(u8),
}

/// As it is read: owned.
#[derive(Deserialize)]
struct Stored(
    u8,
    KeyBytes,
    Option<Arc<str>>,
    u8,
    Arc<str>,
    Arc<str>,
    Option<Arc<str>>,
    i64,
    u8,
    i64,
    Option<u64>,
    Option<Arc<str>>,
    Arc<str>,
    Option<Arc<str>>,
    Vec<StoredMeasurement>,
    Vec<(Arc<str>, Arc<str>)>,
    #[serde(default)] u8,
    #[serde(default)] Option<i64>,
    #[serde(default)] Option<i64>,
);

#[derive(Deserialize)]
struct StoredMeasurement(
    Arc<str>,
    Value,
    Option<Arc<str>>,
    StoredQuality,
    Option<i64>,
);

/// A quality as it is stored: there were two at first, and a boolean for them.
struct StoredQuality(Quality);

impl Serialize for StoredQuality {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Quality::Good => s.serialize_bool(false),
            Quality::Uncertain => s.serialize_u8(1),
            Quality::Bad => s.serialize_bool(true),
        }
    }
}

impl<'de> Deserialize<'de> for StoredQuality {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Word;
        impl serde::de::Visitor<'_> for Word {
            type Value = StoredQuality;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a quality")
            }
            fn visit_bool<E: serde::de::Error>(self, bad: bool) -> Result<StoredQuality, E> {
                Ok(StoredQuality(match bad {
                    false => Quality::Good,
                    true => Quality::Bad,
                }))
            }
            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<StoredQuality, E> {
                match n {
                    1 => Ok(StoredQuality(Quality::Uncertain)),
                    n => Err(E::invalid_value(serde::de::Unexpected::Unsigned(n), &self)),
                }
            }
        }
        d.deserialize_any(Word)
    }
}

/// The same as it is written: borrowed, because every accepted event passes here.
struct Storing<'e>(&'e Event);

impl Serialize for Storing<'_> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let event = self.0;
        let is_copy = event.replayed.is_some();
        let more = !event.marks.is_empty() || event.corrected.is_some() || is_copy;
        let mut array = s.serialize_tuple(match (more, is_copy) {
            (false, _) => 16,
            (true, false) => 18,
            (true, true) => 19,
        })?;
        array.serialize_element(&VERSION)?;
        array.serialize_element(&KeyBytes(event.key.0))?;
        array.serialize_element(&event.id.as_deref())?;
        array.serialize_element(&(event.id_source as u8))?;
        array.serialize_element(&*event.kind)?;
        array.serialize_element(&*event.device)?;
        array.serialize_element(&event.site.as_deref())?;
        array.serialize_element(&event.time.as_nanos())?;
        array.serialize_element(&(event.time_source as u8))?;
        array.serialize_element(&event.received.as_nanos())?;
        array.serialize_element(&event.sequence)?;
        array.serialize_element(&event.partition_key.as_deref())?;
        array.serialize_element(&*event.topic)?;
        array.serialize_element(&event.traceparent.as_deref())?;
        array.serialize_element(&StoringMeasurements(&event.measurements))?;
        array.serialize_element(&event.tags)?;
        if more {
            array.serialize_element(&event.marks.bits())?;
            array.serialize_element(&event.corrected.map(Timestamp::as_nanos))?;
        }
        if is_copy {
            array.serialize_element(&event.replayed.map(Timestamp::as_nanos))?;
        }
        array.end()
    }
}

struct StoringMeasurements<'e>(&'e [Measurement]);

impl Serialize for StoringMeasurements<'_> {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.0.iter().map(|m| {
            (
                &*m.name,
                &m.value,
                m.unit.as_deref(),
                StoredQuality(m.quality),
                m.time.map(Timestamp::as_nanos),
            )
        }))
    }
}

struct KeyBytes([u8; 16]);

impl Serialize for KeyBytes {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for KeyBytes {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = KeyBytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("16 bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, b: &[u8]) -> Result<KeyBytes, E> {
                b.try_into()
                    .map(KeyBytes)
                    .map_err(|_| E::invalid_length(b.len(), &self))
            }
        }
        d.deserialize_bytes(Bytes)
    }
}

impl Event {
    /// Appends the stored form to `out`.
    pub fn to_cbor(&self, out: &mut Vec<u8>) {
        ciborium::into_writer(&Storing(self), out).expect("writing to memory cannot fail");
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// When `bytes` are not an event that this version, or an earlier one, wrote.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, Error> {
        let s: Stored =
            ciborium::from_reader(bytes).map_err(|error| Error::Malformed(error.to_string()))?;
        if s.0 != VERSION {
            return Err(Error::Version(s.0));
        }
        let malformed = |what: &str, n: u8| Error::Malformed(format!("{what} {n}"));
        Ok(Self {
            key: Key(s.1.0),
            id: s.2,
            id_source: *IdSource::ALL
                .get(usize::from(s.3))
                .ok_or_else(|| malformed("id source", s.3))?,
            kind: s.4,
            device: s.5,
            site: s.6,
            time: Timestamp::from_nanos(s.7),
            time_source: match s.8 {
                0 => TimeSource::Device,
                1 => TimeSource::Received,
                n => return Err(malformed("time source", n)),
            },
            received: Timestamp::from_nanos(s.9),
            sequence: s.10,
            partition_key: s.11,
            topic: s.12,
            traceparent: s.13,
            measurements: s
                .14
                .into_iter()
                .map(|m| Measurement {
                    name: m.0,
                    value: m.1,
                    unit: m.2,
                    quality: m.3.0,
                    time: m.4.map(Timestamp::from_nanos),
                })
                .collect(),
            tags: s.15,
            marks: Marks::from_bits(s.16).ok_or_else(|| malformed("marks", s.16))?,
            corrected: s.17.map(Timestamp::from_nanos),
            replayed: s.18.map(Timestamp::from_nanos),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::view::tests::event;

    fn one() -> Event {
        Event {
            key: Key([0xab; 16]),
            id: Some("m-1".into()),
            id_source: IdSource::Field,
            kind: "t".into(),
            device: "b7".into(),
            site: None,
            time: Timestamp::from_nanos(-1),
            time_source: TimeSource::Received,
            received: Timestamp::from_nanos(24),
            sequence: Some(7),
            partition_key: None,
            topic: "a/b".into(),
            traceparent: None,
            measurements: vec![Measurement {
                name: "v".into(),
                value: Value::Float(1.5),
                unit: Some("W".into()),
                quality: Quality::Good,
                time: None,
            }],
            tags: vec![("line".into(), "1".into())],
            marks: Marks::NONE,
            corrected: None,
            replayed: None,
        }
    }

    #[test]
    fn events_stored_by_version_1_are_read_by_every_later_one() {
        let event = one();
        let mut stored = Vec::new();
        event.to_cbor(&mut stored);
        let hex: String = stored.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "900150abababababababababababababababab636d2d31016174626237f62001181807f663612f62f68185\
             6176f93e006157f4f68182646c696e656131"
        );
        assert_eq!(Event::from_cbor(&stored).unwrap(), event);
    }

    #[test]
    fn long_texts_come_back() {
        let long: Arc<str> = "\u{e9}x".repeat(50_000).into();
        let mut event = one();
        event.topic = long.clone();
        event.id = Some(long.clone());
        event.measurements = vec![Measurement {
            name: long.clone(),
            value: Value::Text(long.as_ref().to_owned()),
            unit: None,
            quality: Quality::Good,
            time: None,
        }];
        let mut stored = Vec::new();
        event.to_cbor(&mut stored);
        assert_eq!(Event::from_cbor(&stored).unwrap(), event);
    }

    #[test]
    fn an_event_of_a_later_version_is_said_to_be_one() {
        let event = one();
        let mut stored = Vec::new();
        event.to_cbor(&mut stored);
        stored[1] = VERSION + 1;
        assert!(matches!(Event::from_cbor(&stored), Err(Error::Version(2))));
    }

    proptest! {
        #[test]
        fn a_stored_event_is_read_back_as_it_was(event in event()) {
            let mut stored = Vec::new();
            event.to_cbor(&mut stored);
            // In words, because a float that is no number does not equal itself.
            let back = Event::from_cbor(&stored).unwrap();
            prop_assert_eq!(format!("{back:?}"), format!("{event:?}"));
        }

        #[test]
        fn damaged_bytes_are_an_error_or_another_event(
            event in event(), at in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>(),
        ) {
            let mut stored = Vec::new();
            event.to_cbor(&mut stored);
            prop_assert!(Event::from_cbor(&stored[..cut.index(stored.len())]).is_err());
            let at = at.index(stored.len());
            stored[at] = byte;
            let _either = Event::from_cbor(&stored);
        }
    }
}

//! The stored form of an event: one CBOR array, first element the version.
//!
//! ```text
//! [1, key, id, id_source, type, device, site, time, time_source, received,
//!  sequence, partition_key, topic, traceparent,
//!  [[name, value, unit, bad, time], ...], [[name, value], ...]]
//! ```
//! Times are nanoseconds since the Unix epoch; sources are their place in the
//! order of preference. A later version may append elements, never reorder them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Event, IdSource, Key, Measurement, TimeSource, Timestamp, Value};

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

#[derive(Serialize, Deserialize)]
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
);

#[derive(Serialize, Deserialize)]
struct StoredMeasurement(Arc<str>, Value, Option<Arc<str>>, bool, Option<i64>);

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
        let stored = Stored(
            VERSION,
            KeyBytes(self.key.0),
            self.id.clone(),
            self.id_source as u8,
            self.kind.clone(),
            self.device.clone(),
            self.site.clone(),
            self.time.as_nanos(),
            self.time_source as u8,
            self.received.as_nanos(),
            self.sequence,
            self.partition_key.clone(),
            self.topic.clone(),
            self.traceparent.clone(),
            self.measurements
                .iter()
                .map(|m| {
                    StoredMeasurement(
                        m.name.clone(),
                        m.value.clone(),
                        m.unit.clone(),
                        m.bad,
                        m.time.map(Timestamp::as_nanos),
                    )
                })
                .collect(),
            self.tags.clone(),
        );
        ciborium::into_writer(&stored, out).expect("writing to memory cannot fail");
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
                    bad: m.3,
                    time: m.4.map(Timestamp::from_nanos),
                })
                .collect(),
            tags: s.15,
        })
    }
}

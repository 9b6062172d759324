//! One sample as bytes: a JSON object or a CBOR map of the same shape.
//!
//! ```text
//! {"id":"sim-env-0001-1764-7","seq":7,"boot":1764,"ts":"2026-01-02T03:04:05.678Z","temperature":21.5,...}
//! ```
//! `id` is there only where the identity travels as a field.

use bytes::Bytes;
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::{
    identity::Identity,
    profile::{Generator, Sample},
};

/// How payloads are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Cbor,
}

/// Everything that goes into one payload.
pub(crate) struct Contents<'a> {
    pub(crate) identity: Identity<'a>,
    /// The identity is a field of the payload.
    pub(crate) id_field: bool,
    /// The device's clock, in milliseconds since the Unix epoch.
    pub(crate) ts_ms: i64,
    pub(crate) generator: &'a Generator,
}

impl Contents<'_> {
    /// Encodes into `scratch`, which is emptied first.
    pub(crate) fn encode(&self, format: Format, scratch: &mut Vec<u8>) {
        scratch.clear();
        match format {
            Format::Json => {
                serde_json::to_writer(&mut *scratch, self)
                    .expect("numbers and text in memory are always JSON");
            }
            Format::Cbor => {
                ciborium::into_writer(self, &mut *scratch).expect("writing to memory cannot fail");
            }
        }
    }
}

impl Serialize for Contents<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.generator.len() + 3 + usize::from(self.id_field);
        let mut map = serializer.serialize_map(Some(fields))?;
        if self.id_field {
            map.serialize_entry("id", &Text(format_args!("{}", self.identity)))?;
        }
        map.serialize_entry("seq", &self.identity.seq)?;
        map.serialize_entry("boot", &self.identity.boot)?;
        // A clock that is off by more than the calendar is left at the epoch.
        let ts =
            jiff::Timestamp::from_millisecond(self.ts_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        map.serialize_entry("ts", &Text(format_args!("{ts:.3}")))?;
        for (name, sample) in self.generator.samples() {
            match sample {
                Sample::Number(x) => map.serialize_entry(name, &x),
                Sample::Whole(n) => map.serialize_entry(name, &n),
                Sample::Word(word) => map.serialize_entry(name, word),
                Sample::Flag(flag) => map.serialize_entry(name, &flag),
                Sample::Position {
                    lat,
                    lon,
                    speed,
                    heading,
                } => map.serialize_entry(
                    name,
                    &Position {
                        lat,
                        lon,
                        speed,
                        heading,
                    },
                ),
            }?;
        }
        map.end()
    }
}

struct Text<'a>(std::fmt::Arguments<'a>);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[derive(serde::Serialize)]
struct Position {
    lat: f64,
    lon: f64,
    speed: f64,
    heading: f64,
}

/// Breaks a payload so that no decoder can take it for a message: `manner`
/// selects how. The result is neither JSON, nor CBOR, nor UTF-8 text.
pub(crate) fn broken(intact: &[u8], manner: u32) -> Bytes {
    // No UTF-8 text and no CBOR item begins with 0xFF or holds it as it is cut here.
    const NEVER: u8 = 0xff;
    let half = intact.len() / 2;
    let mut bytes = Vec::with_capacity(intact.len() + 1);
    match manner % 3 {
        // Cut in the middle, as by a full buffer on the device.
        0 => {
            bytes.extend_from_slice(&intact[..half]);
            bytes.push(NEVER);
        }
        // Overwritten from the first byte on.
        1 => {
            bytes.push(NEVER);
            bytes.extend_from_slice(&intact[half..]);
        }
        // Noise.
        _ => bytes.extend([NEVER; 24]),
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::profile;

    fn for_each_payload(mut check: impl FnMut(Format, bool, Vec<u8>)) {
        for profile in profile::load("mixed").unwrap() {
            let mut generator = Generator::new(Rc::new(profile), 5);
            for seq in 0..200 {
                generator.advance();
                for format in [Format::Json, Format::Cbor] {
                    for id_field in [false, true] {
                        let identity = Identity {
                            device: "d-1",
                            boot: 1_764_000_000_123,
                            seq,
                        };
                        let mut out = vec![1, 2, 3];
                        Contents {
                            identity,
                            id_field,
                            ts_ms: 1_764_000_000_007,
                            generator: &generator,
                        }
                        .encode(format, &mut out);
                        check(format, id_field, out);
                    }
                }
            }
        }
    }

    fn decode(format: Format, bytes: &[u8]) -> Option<serde_json::Value> {
        match format {
            Format::Json => serde_json::from_slice(bytes).ok(),
            Format::Cbor => {
                let mut rest = bytes;
                let value = ciborium::from_reader(&mut rest).ok()?;
                rest.is_empty().then_some(value)
            }
        }
    }

    #[test]
    fn payloads_of_every_profile_decode_back() {
        let mut last_seq = None;
        for_each_payload(|format, id_field, bytes| {
            let value = decode(format, &bytes).unwrap();
            let object = value.as_object().unwrap();
            let seq = object["seq"].as_u64().unwrap();
            assert_eq!(object["boot"], 1_764_000_000_123_u64);
            assert_eq!(object["ts"], "2025-11-24T16:00:00.007Z");
            assert_eq!(object.contains_key("id"), id_field);
            if id_field {
                assert_eq!(object["id"], format!("sim-d-1-1764000000123-{seq}"));
            }
            assert!(object.len() > 5, "measurements");
            last_seq = Some(seq);
        });
        assert_eq!(last_seq, Some(199));
    }

    #[test]
    fn json_and_cbor_hold_the_same_values() {
        let mut json = Vec::new();
        for_each_payload(|format, _, bytes| {
            let value = decode(format, &bytes).unwrap();
            match format {
                Format::Json => json.push(value),
                Format::Cbor => {
                    let twin = json.iter().rev().find(|twin| {
                        twin["seq"] == value["seq"] && twin.get("id") == value.get("id")
                    });
                    assert_eq!(Some(&value), twin);
                }
            }
        });
    }

    #[test]
    fn a_broken_payload_is_neither_json_nor_cbor_nor_text() {
        for_each_payload(|_, _, bytes| {
            for manner in 0..3 {
                let broken = broken(&bytes, manner);
                assert_eq!(decode(Format::Json, &broken), None, "{manner} {broken:?}");
                assert_eq!(decode(Format::Cbor, &broken), None, "{manner} {broken:?}");
                assert!(std::str::from_utf8(&broken).is_err());
            }
        });
    }
}

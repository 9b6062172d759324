//! A stored event looked at in place: what forwarding needs, without building
//! an [`Event`](super::Event).
//!
//! [`View::parse`] checks the whole stored form once, nested values included,
//! and borrows everything from it. It reads what [`super::cbor`] documents, and
//! only the definite-length CBOR that `to_cbor` writes.

use super::{
    Attributes, CborError, IdSource, Key, Marks, OriginalView, TimeSource, Timestamp, json,
};

const VERSION: u64 = 1;
/// Elements of version 1: alone, with marks and correction, and with the replay.
const ELEMENTS: [u64; 3] = [16, 18, 19];
/// Elements of a measurement.
const MEASUREMENT: u64 = 5;
/// Values nested deeper than this are not ours.
const DEPTH_MAX: usize = 200;

/// A stored event, checked, with everything borrowed from its bytes.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Everything but the measurements and tags.
    pub attributes: Attributes<'a>,
    measurements: List<'a>,
    tags: List<'a>,
    /// The message as it came, where it is kept with this event.
    pub original: Option<OriginalView<'a>>,
}

/// Elements of an array that were checked and are read again when written out.
#[derive(Debug, Clone, Copy)]
struct List<'a> {
    count: u64,
    bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// Checks the stored form and looks at it.
    ///
    /// # Errors
    /// When `bytes` are not an event that this version wrote.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CborError> {
        let (mut cbor, elements) = Cbor::of_event(bytes)?;
        let key = Key(cbor
            .bytes()?
            .try_into()
            .map_err(|_| malformed("a key that is not 16 bytes"))?);
        let id = cbor.optional(Cbor::text)?;
        let id_source = usize::try_from(cbor.unsigned()?)
            .ok()
            .and_then(|n| IdSource::ALL.get(n).copied())
            .ok_or_else(|| malformed("an unknown id source"))?;
        let kind = cbor.text()?;
        let device = cbor.text()?;
        let site = cbor.optional(Cbor::text)?;
        let time = cbor.time()?;
        let time_source = match cbor.unsigned()? {
            0 => TimeSource::Device,
            1 => TimeSource::Received,
            _ => return Err(malformed("an unknown time source")),
        };
        let mut attributes = Attributes {
            key,
            id,
            id_source,
            kind,
            device,
            site,
            time,
            time_source,
            received: cbor.time()?,
            sequence: cbor.optional(Cbor::unsigned)?,
            partition_key: cbor.optional(Cbor::text)?,
            topic: cbor.text()?,
            traceparent: cbor.optional(Cbor::text)?,
            marks: Marks::NONE,
            corrected: None,
            replayed: None,
        };
        let measurements = cbor.list(|cbor| cbor.measurement(&mut Ignore))?;
        let tags = cbor.list(|cbor| cbor.tag(&mut Ignore))?;
        if elements >= ELEMENTS[1] {
            attributes.marks = u8::try_from(cbor.unsigned()?)
                .ok()
                .and_then(Marks::from_bits)
                .ok_or_else(|| malformed("an unknown mark"))?;
            attributes.corrected = cbor.optional(Cbor::time)?;
        }
        if elements >= ELEMENTS[2] {
            attributes.replayed = cbor.optional(Cbor::time)?;
        }
        let original = match cbor.rest {
            [] => None,
            _ => Some(OriginalView::parse(&mut cbor)?),
        };
        if !cbor.rest.is_empty() {
            return Err(malformed("bytes after the end"));
        }
        Ok(Self {
            attributes,
            measurements,
            tags,
            original,
        })
    }

    /// Type and device alone, without looking at what follows them.
    ///
    /// # Errors
    /// When the beginning is not that of an event.
    pub fn kind_and_device(bytes: &'a [u8]) -> Result<(&'a str, &'a str), CborError> {
        let (mut cbor, _) = Cbor::of_event(bytes)?;
        cbor.bytes()?;
        cbor.optional(Cbor::text)?;
        cbor.unsigned()?;
        Ok((cbor.text()?, cbor.text()?))
    }

    /// The value of a tag.
    pub fn tag(&self, name: &str) -> Option<&'a str> {
        let mut cbor = Cbor {
            rest: self.tags.bytes,
        };
        (0..self.tags.count).find_map(|_| {
            cbor.array().ok()?;
            let (known, value) = (cbor.text().ok()?, cbor.text().ok()?);
            (known == name).then_some(value)
        })
    }

    /// Appends the event as [`Event::to_json`](super::Event::to_json) would.
    pub fn to_json(&self, position: Option<&str>, out: &mut Vec<u8>) {
        self.attributes.open_json(position, out);
        out.extend_from_slice(br#","data":"#);
        self.data_json(out);
        out.push(b'}');
    }

    /// Appends what `data` is in that.
    pub fn data_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"m":["#);
        self.measurements
            .write(out, |cbor, out| cbor.measurement(out));
        out.push(b']');
        if self.tags.count > 0 {
            out.extend_from_slice(br#","tags":{"#);
            self.tags.write(out, |cbor, out| cbor.tag(out));
            out.push(b'}');
        }
        out.push(b'}');
    }

    /// Appends all the rest of that: an object of texts.
    pub fn attributes_json(&self, out: &mut Vec<u8>) {
        self.attributes.open_json(None, out);
        out.push(b'}');
    }
}

impl List<'_> {
    fn write(
        &self,
        out: &mut Vec<u8>,
        element: impl Fn(&mut Cbor<'_>, &mut Vec<u8>) -> Result<(), CborError>,
    ) {
        let mut cbor = Cbor { rest: self.bytes };
        for n in 0..self.count {
            if n > 0 {
                out.push(b',');
            }
            element(&mut cbor, out).expect("`View::parse` has read these bytes before");
        }
    }
}

/// Where JSON goes: a buffer, or nowhere while the bytes are only checked.
trait Json {
    fn raw(&mut self, text: &[u8]);
    fn string(&mut self, text: &str);
    fn time(&mut self, at: Timestamp);
    fn scalar(&mut self, value: &super::Value);
}

struct Ignore;

impl Json for Ignore {
    fn raw(&mut self, _: &[u8]) {}
    fn string(&mut self, _: &str) {}
    fn time(&mut self, _: Timestamp) {}
    fn scalar(&mut self, _: &super::Value) {}
}

impl Json for Vec<u8> {
    fn raw(&mut self, text: &[u8]) {
        self.extend_from_slice(text);
    }
    fn string(&mut self, text: &str) {
        json::string(text, self);
    }
    fn time(&mut self, at: Timestamp) {
        json::time(at, self);
    }
    fn scalar(&mut self, value: &super::Value) {
        json::value(value, self);
    }
}

/// What is left to read.
pub(super) struct Cbor<'a> {
    pub(super) rest: &'a [u8],
}

impl<'a> Cbor<'a> {
    /// Behind the version of an event, and how many elements it has.
    fn of_event(bytes: &'a [u8]) -> Result<(Self, u64), CborError> {
        let mut cbor = Self { rest: bytes };
        let elements = cbor.array()?;
        let version = cbor.unsigned()?;
        if version != VERSION {
            return Err(u8::try_from(version)
                .map_or_else(|_| malformed("a version above 255"), CborError::Version));
        }
        if !ELEMENTS.contains(&elements) {
            return Err(malformed("the wrong number of elements"));
        }
        Ok((cbor, elements))
    }

    /// Major type, additional information and argument of the next item. Most are of one
    /// byte.
    #[inline]
    fn head(&mut self) -> Result<(u8, u8, u64), CborError> {
        let (&first, rest) = self.rest.split_first().ok_or_else(short)?;
        self.rest = rest;
        let (major, info) = (first >> 5, first & 31);
        match info {
            0..=23 => Ok((major, info, u64::from(info))),
            _ => Ok((major, info, self.argument(info)?)),
        }
    }

    /// An argument that stands behind its item's first byte.
    fn argument(&mut self, info: u8) -> Result<u64, CborError> {
        Ok(match info {
            24 => u64::from(self.take::<1>()?[0]),
            25 => u64::from(u16::from_be_bytes(self.take()?)),
            26 => u64::from(u32::from_be_bytes(self.take()?)),
            27 => u64::from_be_bytes(self.take()?),
            _ => return Err(malformed("an item of indefinite length")),
        })
    }

    #[inline]
    fn take<const N: usize>(&mut self) -> Result<[u8; N], CborError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(short)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn slice(&mut self, length: u64) -> Result<&'a [u8], CborError> {
        let length = usize::try_from(length).map_err(|_| short())?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or_else(short)?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn array(&mut self) -> Result<u64, CborError> {
        match self.head()? {
            (4, _, count) => Ok(count),
            _ => Err(malformed("something else than an array")),
        }
    }

    fn unsigned(&mut self) -> Result<u64, CborError> {
        match self.head()? {
            (0, _, n) => Ok(n),
            _ => Err(malformed("something else than a count")),
        }
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], CborError> {
        match self.head()? {
            (2, _, length) => self.slice(length),
            _ => Err(malformed("something else than bytes")),
        }
    }

    pub(super) fn text(&mut self) -> Result<&'a str, CborError> {
        match self.head()? {
            (3, _, length) => self.utf8(length),
            _ => Err(malformed("something else than text")),
        }
    }

    fn utf8(&mut self, length: u64) -> Result<&'a str, CborError> {
        std::str::from_utf8(self.slice(length)?).map_err(|_| malformed("text that is not UTF-8"))
    }

    fn time(&mut self) -> Result<Timestamp, CborError> {
        let nanos = match self.head()? {
            (0, _, n) => i64::try_from(n).ok(),
            (1, _, n) => i64::try_from(n).ok().map(|n| -1 - n),
            _ => None,
        };
        nanos
            .map(Timestamp::from_nanos)
            .ok_or_else(|| malformed("something else than a time"))
    }

    pub(super) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, CborError>,
    ) -> Result<Option<T>, CborError> {
        if let Some((0xf6, rest)) = self.rest.split_first() {
            self.rest = rest;
            return Ok(None);
        }
        read(self).map(Some)
    }

    /// Checks an array and remembers where its elements are.
    fn list(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), CborError>,
    ) -> Result<List<'a>, CborError> {
        let count = self.array()?;
        let before = self.rest;
        for _ in 0..count {
            element(self)?;
        }
        Ok(List {
            count,
            bytes: &before[..before.len() - self.rest.len()],
        })
    }

    fn measurement(&mut self, out: &mut impl Json) -> Result<(), CborError> {
        if self.array()? != MEASUREMENT {
            return Err(malformed("a measurement of the wrong length"));
        }
        out.raw(br#"{"n":"#);
        out.string(self.text()?);
        out.raw(br#","v":"#);
        self.value(out, 0)?;
        if let Some(unit) = self.optional(Self::text)? {
            out.raw(br#","u":"#);
            out.string(unit);
        }
        match self.head()? {
            (7, 20, _) => {}
            (7, 21, _) => out.raw(br#","q":"bad""#),
            (0, _, 1) => out.raw(br#","q":"uncertain""#),
            _ => return Err(malformed("something else than a quality")),
        }
        if let Some(at) = self.optional(Self::time)? {
            out.raw(br#","t":"#);
            out.time(at);
        }
        out.raw(b"}");
        Ok(())
    }

    /// Two texts.
    pub(super) fn pair(&mut self) -> Result<(&'a str, &'a str), CborError> {
        if self.array()? != 2 {
            return Err(malformed("a pair of the wrong length"));
        }
        Ok((self.text()?, self.text()?))
    }

    /// How many pairs there are, and where.
    pub(super) fn pairs(&mut self) -> Result<(u64, &'a [u8]), CborError> {
        let list = self.list(|cbor| cbor.pair().map(drop))?;
        Ok((list.count, list.bytes))
    }

    fn tag(&mut self, out: &mut impl Json) -> Result<(), CborError> {
        let (name, value) = self.pair()?;
        out.string(name);
        out.raw(b":");
        out.string(value);
        Ok(())
    }

    fn value(&mut self, out: &mut impl Json, depth: usize) -> Result<(), CborError> {
        use super::Value;
        if depth > DEPTH_MAX {
            return Err(malformed("values nested too deeply"));
        }
        match self.head()? {
            (0, _, n) => out.scalar(&Value::from(n)),
            (1, _, n) => out.scalar(&Value::Int(
                i64::try_from(n)
                    .map(|n| -1 - n)
                    .map_err(|_| malformed("a number below 64 bits"))?,
            )),
            (2, _, length) => out.scalar(&Value::Bytes(self.slice(length)?.to_vec())),
            (3, _, length) => out.string(self.utf8(length)?),
            (4, _, count) => {
                out.raw(b"[");
                for n in 0..count {
                    if n > 0 {
                        out.raw(b",");
                    }
                    self.value(out, depth + 1)?;
                }
                out.raw(b"]");
            }
            (5, _, count) => {
                out.raw(b"{");
                for n in 0..count {
                    if n > 0 {
                        out.raw(b",");
                    }
                    out.string(self.text()?);
                    out.raw(b":");
                    self.value(out, depth + 1)?;
                }
                out.raw(b"}");
            }
            (7, 20, _) => out.raw(b"false"),
            (7, 21, _) => out.raw(b"true"),
            (7, 22, _) => out.raw(b"null"),
            (7, 25, bits) => out.scalar(&Value::Float(half(bits))),
            (7, 26, bits) => out.scalar(&Value::Float(f64::from(f32::from_bits(
                u32::try_from(bits).map_err(|_| short())?,
            )))),
            (7, 27, bits) => out.scalar(&Value::Float(f64::from_bits(bits))),
            _ => return Err(malformed("a value of an unknown kind")),
        }
        Ok(())
    }
}

/// A half-precision float (IEEE 754 binary16) from its bits.
fn half(bits: u64) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::try_from(bits >> 10 & 31).expect("five bits");
    let fraction = f64::from(u32::try_from(bits & 0x3ff).expect("ten bits"));
    sign * match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    }
}

#[cold]
pub(super) fn malformed(what: &str) -> CborError {
    CborError::Malformed(format!("found {what}"))
}

#[cold]
fn short() -> CborError {
    CborError::Malformed("it ends too early".to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::event::{Event, Measurement, Quality, Value};

    fn text() -> impl Strategy<Value = Arc<str>> {
        prop_oneof!["[a-z/]{0,12}", "\\PC{0,6}", "[\u{0}-\u{1f}\"\\\\]{1,4}"].prop_map(Arc::from)
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            (0i64..300).prop_map(Value::Int),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::Float),
            any::<f32>().prop_map(|x| Value::Float(f64::from(x))),
            (0u64..0x1_0000).prop_map(|bits| Value::Float(half(bits))),
            (-1000i16..1000).prop_map(|x| Value::Float(f64::from(x) / 10.0)),
            text().prop_map(|t| Value::Text(t.to_string())),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
        ];
        leaf.prop_recursive(3, 20, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::Array),
                proptest::collection::vec((text().prop_map(|t| t.to_string()), inner), 0..5)
                    .prop_map(Value::Map),
            ]
        })
    }

    /// Any event, the odd ones more often.
    pub(in crate::event) fn event() -> impl Strategy<Value = Event> {
        let option = || proptest::option::of(text());
        let time = || any::<i64>().prop_map(Timestamp::from_nanos);
        let measurement = (
            text(),
            value(),
            option(),
            0..Quality::WORDS.len(),
            proptest::option::of(time()),
        )
            .prop_map(|(name, value, unit, quality, time)| Measurement {
                name,
                value,
                unit,
                quality: Quality::WORDS[quality].1,
                time,
            });
        (
            (
                any::<[u8; 16]>(),
                option(),
                0usize..6,
                text(),
                text(),
                option(),
            ),
            (
                time(),
                any::<bool>(),
                time(),
                proptest::option::of(any::<u64>()),
            ),
            (option(), text(), option()),
            proptest::collection::vec(measurement, 0..4),
            proptest::collection::vec((text(), text()), 0..3),
            (
                0..16_u8,
                proptest::option::of(time()),
                proptest::option::of(time()),
            ),
        )
            .prop_map(|(a, b, c, measurements, tags, d)| Event {
                key: Key(a.0),
                id: a.1,
                id_source: IdSource::ALL[a.2],
                kind: a.3,
                device: a.4,
                site: a.5,
                time: b.0,
                time_source: if b.1 {
                    TimeSource::Device
                } else {
                    TimeSource::Received
                },
                received: b.2,
                sequence: b.3,
                partition_key: c.0,
                topic: c.1,
                traceparent: c.2,
                measurements,
                tags,
                marks: Marks::from_bits(d.0).expect("four marks"),
                corrected: d.1,
                replayed: d.2,
            })
    }

    proptest! {
        #[test]
        fn a_view_writes_the_same_json_as_the_event(event in event()) {
            let mut cbor = Vec::new();
            event.to_cbor(&mut cbor);
            let view = View::parse(&cbor).unwrap();
            prop_assert_eq!(view.attributes.partition_key(), &**event.partition_key());
            let (mut of_event, mut of_view) = (Vec::new(), Vec::new());
            event.to_json(Some("7"), &mut of_event);
            view.to_json(Some("7"), &mut of_view);
            prop_assert_eq!(
                String::from_utf8(of_view).unwrap(),
                String::from_utf8(of_event).unwrap()
            );
        }

        #[test]
        fn damaged_bytes_are_refused_or_written_whole(
            event in event(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<bool>(),
        ) {
            let mut cbor = Vec::new();
            event.to_cbor(&mut cbor);
            let at = at.index(cbor.len());
            if cut {
                cbor.truncate(at);
                prop_assert!(View::parse(&cbor).is_err());
            } else {
                cbor[at] = byte;
                if let Ok(view) = View::parse(&cbor) {
                    let mut json = Vec::new();
                    view.to_json(None, &mut json);
                    prop_assert!(serde_json::from_slice::<serde_json::Value>(&json).is_ok());
                }
            }
        }
    }
}

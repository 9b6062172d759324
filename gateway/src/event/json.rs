//! `CloudEvents` 1.0 JSON, as destinations receive it.
//!
//! Written by hand into one buffer, because every delivered event passes here.
//! Attribute order is fixed, so the same event is the same bytes every time.

use base64::Engine as _;
use jiff::Timestamp as Instant;

use super::{Attributes, Event, Measurement, Timestamp, Value};

/// The media type of one event.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";
/// The media type of an array of events.
pub const BATCH_MEDIA_TYPE: &str = "application/cloudevents-batch+json";

impl Event {
    /// Appends the event as one JSON object without line breaks. `position`,
    /// where given, is added as the extension `position`: the place of the
    /// record in this gateway's journal, as text.
    pub fn to_json(&self, position: Option<&str>, out: &mut Vec<u8>) {
        self.attributes().open_json(position, out);
        out.extend_from_slice(br#","data":{"m":["#);
        separated(&self.measurements, out, measurement);
        out.push(b']');
        if !self.tags.is_empty() {
            out.extend_from_slice(br#","tags":{"#);
            separated(&self.tags, out, |(name, value), out| {
                string(name, out);
                out.push(b':');
                string(value, out);
            });
            out.push(b'}');
        }
        out.extend_from_slice(b"}}");
    }
}

impl Attributes<'_> {
    /// Appends everything before `data`: an object that is left open.
    pub(super) fn open_json(self, position: Option<&str>, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"specversion":"1.0","id":"#);
        match self.id {
            Some(id) => string(id, out),
            None => hex(&self.key.0, out),
        }
        out.extend_from_slice(br#","source":"#);
        string(&super::source(self.site, self.device), out);
        attribute("type", self.kind, out);
        attribute("subject", self.device, out);
        out.extend_from_slice(br#","time":"#);
        time(self.time, out);
        out.extend_from_slice(br#","datacontenttype":"application/json","recordedtime":"#);
        time(self.received, out);
        attribute("partitionkey", self.partition_key(), out);
        if let Some(sequence) = self.sequence {
            // Must order as text within a source, hence the zeros (CloudEvents sequence extension).
            let mut digits = itoa::Buffer::new();
            let digits = digits.format(sequence);
            out.extend_from_slice(br#","sequence":""#);
            out.extend_from_slice(&b"00000000000000000000"[digits.len()..]);
            out.extend_from_slice(digits.as_bytes());
            out.push(b'"');
        }
        if let Some(traceparent) = self.traceparent {
            attribute("traceparent", traceparent, out);
        }
        if let Some(site) = self.site {
            attribute("site", site, out);
        }
        attribute("device", self.device, out);
        attribute("mqtttopic", self.topic, out);
        attribute("idsource", self.id_source.as_str(), out);
        attribute("timesource", self.time_source.as_str(), out);
        out.extend_from_slice(br#","eventkey":"#);
        hex(&self.key.0, out);
        if let Some(position) = position {
            attribute("position", position, out);
        }
    }
}

fn measurement(m: &Measurement, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"n":"#);
    string(&m.name, out);
    out.extend_from_slice(br#","v":"#);
    value(&m.value, out);
    if let Some(unit) = &m.unit {
        attribute("u", unit, out);
    }
    if m.bad {
        out.extend_from_slice(br#","q":"bad""#);
    }
    if let Some(at) = m.time {
        out.extend_from_slice(br#","t":"#);
        time(at, out);
    }
    out.push(b'}');
}

/// Appends a value. Bytes become `{"b64":"..."}`; numbers that JSON cannot
/// write become `null`.
pub fn value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(n) => out.extend_from_slice(itoa::Buffer::new().format(*n).as_bytes()),
        Value::UInt(n) => out.extend_from_slice(itoa::Buffer::new().format(*n).as_bytes()),
        Value::Float(x) if x.is_finite() => {
            out.extend_from_slice(zmij::Buffer::new().format_finite(*x).as_bytes());
        }
        Value::Float(_) => out.extend_from_slice(b"null"),
        Value::Text(text) => string(text, out),
        Value::Bytes(bytes) => {
            out.extend_from_slice(br#"{"b64":""#);
            out.extend_from_slice(
                base64::engine::general_purpose::STANDARD
                    .encode(bytes)
                    .as_bytes(),
            );
            out.extend_from_slice(br#""}"#);
        }
        Value::Array(items) => {
            out.push(b'[');
            separated(items, out, self::value);
            out.push(b']');
        }
        Value::Map(members) => {
            out.push(b'{');
            separated(members, out, |(name, member), out| {
                string(name, out);
                out.push(b':');
                self::value(member, out);
            });
            out.push(b'}');
        }
    }
}

fn separated<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write(item, out);
    }
}

fn attribute(name: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    string(text, out);
}

fn hex(bytes: &[u8; 16], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
    out.push(b'"');
}

/// Appends `text` as a JSON string (RFC 8259, section 7).
pub fn string(text: &str, out: &mut Vec<u8>) {
    let plain = |b: &u8| *b >= 0x20 && *b != b'"' && *b != b'\\';
    if text.as_bytes().iter().all(plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("writing to memory cannot fail");
    }
}

/// Appends an instant as a JSON string in RFC 3339, UTC, with as many digits
/// of the second as it needs.
pub fn time(at: Timestamp, out: &mut Vec<u8>) {
    use std::io::Write as _;
    let at = Instant::from_nanosecond(i128::from(at.as_nanos()))
        .expect("64 bits of nanoseconds are within the years that jiff knows");
    write!(out, "\"{at}\"").expect("writing to memory cannot fail");
}

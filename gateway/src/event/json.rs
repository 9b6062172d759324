//! `CloudEvents` 1.0 JSON, as destinations receive it.
//!
//! Written by hand into one buffer, because every delivered event passes here.
//! Attribute order is fixed, so the same event is the same bytes every time.

use base64::Engine as _;

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
        match (self.id, self.corrected) {
            (Some(id), None) => string(id, out),
            (None, None) => hex(&self.key.0, out),
            _ => string(&self.id(), out),
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
        if let Some(marks) = self.marks.text() {
            attribute("timemarks", &marks, out);
        }
        if let Some(at) = self.corrected {
            out.extend_from_slice(br#","correctedtime":"#);
            time(at, out);
        }
        if let Some(at) = self.replayed {
            out.extend_from_slice(br#","replayedtime":"#);
            time(at, out);
        }
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
    if let Some(word) = m.quality.word() {
        attribute("q", word, out);
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
    out.push(b'"');
    out.extend_from_slice(hex_digits(bytes, &mut [0; 32]).as_bytes());
    out.push(b'"');
}

/// Writes `bytes` in hex, two digits each.
pub(super) fn hex_digits<'d>(bytes: &[u8; 16], digits: &'d mut [u8; 32]) -> &'d str {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(digits.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    std::str::from_utf8(digits).expect("digits are ASCII")
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
    out.push(b'"');
    rfc3339(at, out);
    out.push(b'"');
}

/// The same without quotation marks. Each event has three or four of them, so they are
/// written without the detour of a calendar type and its formatting.
pub fn rfc3339(at: Timestamp, out: &mut Vec<u8>) {
    const NANOS: i64 = 1_000_000_000;
    const DAY: i64 = 86_400;
    let (seconds, nanos) = (
        at.as_nanos().div_euclid(NANOS),
        at.as_nanos().rem_euclid(NANOS),
    );
    let (year, month, day) = date(seconds.div_euclid(DAY));
    let of_day = seconds.rem_euclid(DAY);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    decimal(year, &mut text[..4]);
    decimal(month, &mut text[5..7]);
    decimal(day, &mut text[8..10]);
    decimal(of_day / 3_600, &mut text[11..13]);
    decimal(of_day / 60 % 60, &mut text[14..16]);
    decimal(of_day % 60, &mut text[17..19]);
    decimal(nanos, &mut text[20..29]);
    let fraction = text[20..29].iter().rposition(|digit| *digit != b'0');
    let end = fraction.map_or(19, |last| 21 + last);
    out.extend_from_slice(&text[..end]);
    out.push(b'Z');
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
/// Years begin in March here, so that the leap day is the last one; months have 153 days in
/// five. (Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.)
const fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = year + era * 400;
    match month {
        0..10 => (year, month + 3, day),
        _ => (year + 1, month - 9, day),
    }
}

/// Fills `digits` with those of a number that has no more.
fn decimal(mut number: i64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use jiff::Timestamp as Instant;
    use proptest::prelude::*;
    use serde_json::Value as Json;

    use super::*;
    use crate::event::{source, view::tests::event};

    fn instant(json: &Json) -> i128 {
        json.as_str()
            .unwrap()
            .parse::<Instant>()
            .unwrap()
            .as_nanosecond()
    }

    fn same(ours: &Value, theirs: &Json) -> bool {
        match ours {
            Value::Null => theirs.is_null(),
            Value::Bool(b) => theirs.as_bool() == Some(*b),
            Value::Int(n) => theirs.as_i64() == Some(*n),
            Value::UInt(n) => theirs.as_u64() == Some(*n),
            Value::Float(x) if x.is_finite() => {
                theirs.as_f64().is_some_and(|y| x.to_bits() == y.to_bits())
            }
            Value::Float(_) => theirs.is_null(),
            Value::Text(text) => theirs.as_str() == Some(text),
            Value::Bytes(bytes) => {
                let text = theirs["b64"].as_str().unwrap();
                base64::engine::general_purpose::STANDARD
                    .decode(text)
                    .unwrap()
                    == *bytes
            }
            Value::Array(items) => {
                let others = theirs.as_array().unwrap();
                items.len() == others.len() && items.iter().zip(others).all(|(a, b)| same(a, b))
            }
            Value::Map(members) => {
                // Names that repeat cannot come from a payload; serde_json keeps the last.
                let names: HashSet<_> = members.iter().map(|(name, _)| name).collect();
                names.len() != members.len()
                    || members.iter().all(|(name, v)| same(v, &theirs[name]))
            }
        }
    }

    proptest! {
        #[test]
        fn times_are_written_as_the_calendar_has_them(
            nanos in any::<i64>(),
            whole in proptest::sample::select(vec![1, 1_000, 1_000_000, 1_000_000_000, 86_400_000_000_000]),
        ) {
            let at = Timestamp::from_nanos(nanos / whole * whole);
            let mut text = Vec::new();
            rfc3339(at, &mut text);
            let known = Instant::from_nanosecond(i128::from(at.as_nanos())).unwrap();
            prop_assert_eq!(String::from_utf8(text).unwrap(), known.to_string());
        }

        #[test]
        fn serde_json_reads_what_an_event_says(event in event()) {
            let mut bytes = Vec::new();
            event.to_json(None, &mut bytes);
            prop_assert!(!bytes.contains(&b'\n'));
            let json: Json = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(json["specversion"].as_str(), Some("1.0"));
            let mut id = event.id.as_deref().map_or_else(|| event.key.to_string(), ToOwned::to_owned);
            if let Some(at) = event.corrected {
                id = format!("{id}#{}", at.as_millis());
                prop_assert_eq!(instant(&json["correctedtime"]), i128::from(at.as_nanos()));
            }
            if let Some(at) = event.replayed {
                prop_assert_eq!(instant(&json["replayedtime"]), i128::from(at.as_nanos()));
            }
            prop_assert_eq!(json["id"].as_str(), Some(id.as_str()));
            let marks = event.marks.text();
            prop_assert_eq!(json["timemarks"].as_str(), marks.as_deref());
            let source = source(event.site.as_deref(), &event.device);
            prop_assert_eq!(json["source"].as_str(), Some(source.as_str()));
            prop_assert_eq!(json["type"].as_str(), Some(&*event.kind));
            prop_assert_eq!(json["subject"].as_str(), Some(&*event.device));
            prop_assert_eq!(instant(&json["time"]), i128::from(event.time.as_nanos()));
            prop_assert_eq!(instant(&json["recordedtime"]), i128::from(event.received.as_nanos()));
            prop_assert_eq!(json["mqtttopic"].as_str(), Some(&*event.topic));
            prop_assert_eq!(json["site"].as_str(), event.site.as_deref());
            let key = event.key.to_string();
            prop_assert_eq!(json["eventkey"].as_str(), Some(key.as_str()));
            let sequence = event.sequence.map(|n| format!("{n:020}"));
            prop_assert_eq!(json["sequence"].as_str(), sequence.as_deref());
            let measured = json["data"]["m"].as_array().unwrap();
            prop_assert_eq!(measured.len(), event.measurements.len());
            for (ours, theirs) in event.measurements.iter().zip(measured) {
                prop_assert_eq!(theirs["n"].as_str(), Some(&*ours.name));
                prop_assert!(same(&ours.value, &theirs["v"]), "{:?} {}", ours, theirs);
                prop_assert_eq!(theirs["u"].as_str(), ours.unit.as_deref());
                prop_assert_eq!(theirs["q"].as_str(), ours.quality.word());
                prop_assert_eq!(theirs.get("t").map(instant), ours.time.map(|t| i128::from(t.as_nanos())));
            }
            for name in json.as_object().unwrap().keys() {
                let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
                prop_assert!(name.len() <= 20 && name.chars().all(word), "{name} is no CloudEvents attribute");
            }
        }
    }
}

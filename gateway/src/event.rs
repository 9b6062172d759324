//! The canonical event: plain data, no I/O, no clock.
//!
//! One device message becomes one or more [`Event`]s. Each carries the
//! `CloudEvents` 1.0 context attributes, a handful of extensions, and its
//! measurements. In the store an event is CBOR ([`Event::to_cbor`]); towards
//! destinations it is `CloudEvents` JSON ([`json`]).

mod cbor;
pub mod json;
mod marks;
pub mod message;
mod original;
pub(crate) mod template;
mod value;
mod view;

use std::{borrow::Cow, fmt, sync::Arc};

pub use cbor::Error as CborError;
pub use marks::{BOOT_TAG, Marks, UPTIME_TAG};
pub use original::{Original, OriginalView};
pub use value::Value;
pub use view::View;

/// Milliseconds, microseconds and nanoseconds are all of one unit here:
/// nanoseconds since 1970-01-01T00:00:00Z, from 1677 to 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From nanoseconds since the Unix epoch.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From milliseconds since the Unix epoch; saturates.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the Unix epoch.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Before 2015-01-01: no clock that is set says so.
    pub const fn is_unset(self) -> bool {
        self.0 < 1_420_070_400_000_000_000
    }

    /// Milliseconds since the Unix epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
}

/// The idempotency key: 128 bits that are equal exactly when two events are the
/// same event, whatever gateway they came through. `CloudEvents` says that equal
/// `source` and `id` mean the same event; the key is the hash of those two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 16]);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(json::hex_digits(&self.0, &mut [0; 32]))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

/// What an event's identity was taken from, in the order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdSource {
    /// An MQTT 5 user property or a `CloudEvents` id.
    Explicit,
    /// A configured field of the payload.
    Field,
    /// The protocol's own identity.
    Protocol,
    /// Device, boot id and sequence number.
    Sequence,
    /// The content, where the device's own clock tells readings apart.
    Content,
    /// Nothing: a random id, and no deduplication.
    None,
}

impl IdSource {
    /// Every source, in the order of preference.
    pub const ALL: [Self; 6] = [
        Self::Explicit,
        Self::Field,
        Self::Protocol,
        Self::Sequence,
        Self::Content,
        Self::None,
    ];

    /// The word used in events, metrics and reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::Field => "field",
            Self::Protocol => "protocol",
            Self::Sequence => "sequence",
            Self::Content => "content",
            Self::None => "none",
        }
    }
}

/// Whose clock an event's time is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimeSource {
    /// The device said so, and it is plausible.
    Device,
    /// The gateway's clock at receipt.
    Received,
}

impl TimeSource {
    /// The word used in events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Received => "received",
        }
    }
}

/// One normalised reading, or several taken at once.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Hash of `source` and `id`; see [`Key`].
    pub key: Key,
    /// `id` where the device gave one; without it the id is the key in hex.
    pub id: Option<Arc<str>>,
    /// What the identity was taken from.
    pub id_source: IdSource,
    /// `type`, for example `iot.telemetry.v1`.
    pub kind: Arc<str>,
    /// Who measured. Also `subject`, and the last part of `source`.
    pub device: Arc<str>,
    /// Where. The first part of `source` where there is one.
    pub site: Option<Arc<str>>,
    /// When it was measured.
    pub time: Timestamp,
    /// Whose clock `time` is from.
    pub time_source: TimeSource,
    /// When the gateway received it.
    pub received: Timestamp,
    /// The device's own counter.
    pub sequence: Option<u64>,
    /// What keeps its order at a destination; the device where `None`.
    pub partition_key: Option<Arc<str>>,
    /// The MQTT topic it came on.
    pub topic: Arc<str>,
    /// W3C trace context, passed on untouched.
    pub traceparent: Option<Arc<str>>,
    /// What was measured.
    pub measurements: Vec<Measurement>,
    /// Words that describe the event: static tags, topic captures.
    pub tags: Vec<(Arc<str>, Arc<str>)>,
    /// What is odd about its times.
    pub marks: Marks,
    /// When it was made again from the message as it came, by mappings of that day.
    /// The key is that of the event which it corrects.
    pub corrected: Option<Timestamp>,
    /// When the replay began that sends it again, of a copy.
    pub replayed: Option<Timestamp>,
}

/// One value with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Measurement {
    /// Name, nested names joined with dots.
    pub name: Arc<str>,
    /// The value as measured.
    pub value: Value,
    /// UCUM or `SenML` unit.
    pub unit: Option<Arc<str>>,
    /// Whether the value is to be trusted.
    pub quality: Quality,
    /// When, where this differs from the event's time.
    pub time: Option<Timestamp>,
}

/// Whether a value is to be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Quality {
    /// Yes, as far as anybody said.
    #[default]
    Good,
    /// Perhaps: the device says that it is not sure.
    Uncertain,
    /// No: not a number, or the device says that the reading failed.
    Bad,
}

impl Quality {
    /// Every quality, with its word in the configuration and in events.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("good", Self::Good),
        ("uncertain", Self::Uncertain),
        ("bad", Self::Bad),
    ];

    /// The word used in events; nothing is said of a good value.
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Self::Good => None,
            Self::Uncertain => Some("uncertain"),
            Self::Bad => Some("bad"),
        }
    }
}

impl Event {
    /// `source`: the device, not the gateway, so that the same event through
    /// two gateways is the same event.
    pub fn source(&self) -> String {
        source(self.site.as_deref(), &self.device)
    }

    /// What keeps its order at a destination.
    pub fn partition_key(&self) -> &Arc<str> {
        self.partition_key.as_ref().unwrap_or(&self.device)
    }

    /// Everything but the measurements and tags.
    pub fn attributes(&self) -> Attributes<'_> {
        Attributes {
            key: self.key,
            id: self.id.as_deref(),
            id_source: self.id_source,
            kind: &self.kind,
            device: &self.device,
            site: self.site.as_deref(),
            time: self.time,
            time_source: self.time_source,
            received: self.received,
            sequence: self.sequence,
            partition_key: self.partition_key.as_deref(),
            topic: &self.topic,
            traceparent: self.traceparent.as_deref(),
            marks: self.marks,
            corrected: self.corrected,
            replayed: self.replayed,
        }
    }
}

/// An event without its measurements and tags, borrowed; the fields are those of [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in `Event`")]
pub struct Attributes<'a> {
    pub key: Key,
    pub id: Option<&'a str>,
    pub id_source: IdSource,
    pub kind: &'a str,
    pub device: &'a str,
    pub site: Option<&'a str>,
    pub time: Timestamp,
    pub time_source: TimeSource,
    pub received: Timestamp,
    pub sequence: Option<u64>,
    pub partition_key: Option<&'a str>,
    pub topic: &'a str,
    pub traceparent: Option<&'a str>,
    pub marks: Marks,
    pub corrected: Option<Timestamp>,
    pub replayed: Option<Timestamp>,
}

impl<'a> Attributes<'a> {
    /// What keeps its order at a destination.
    pub fn partition_key(&self) -> &'a str {
        self.partition_key.unwrap_or(self.device)
    }

    /// The `CloudEvents` id: what the device gave, or the key in hex. A correction is
    /// another event than the one that it corrects, so its id says when it was made.
    pub fn id(&self) -> Cow<'a, str> {
        match (self.id, self.corrected) {
            (Some(id), None) => id.into(),
            (None, None) => self.key.to_string().into(),
            (Some(id), Some(at)) => format!("{id}#{}", at.as_millis()).into(),
            (None, Some(at)) => format!("{}#{}", self.key, at.as_millis()).into(),
        }
    }

    /// The key by which whoever receives events refuses a second copy: the event's own,
    /// or, of a correction, one of its own that is the same each time it is made in one
    /// replay. With the event's key it would be taken for a copy of what it corrects.
    pub fn delivery_key(&self) -> Key {
        delivery_key(self.key, self.corrected)
    }
}

/// See [`Attributes::delivery_key`]: that of an event with this key, corrected then.
pub(crate) fn delivery_key(key: Key, corrected: Option<Timestamp>) -> Key {
    let Some(at) = corrected else {
        return key;
    };
    let mut input = [b'r'; 25];
    input[1..17].copy_from_slice(&key.0);
    input[17..].copy_from_slice(&at.as_nanos().to_be_bytes());
    let mut key = Key([0; 16]);
    key.0
        .copy_from_slice(&blake3::hash(&input).as_bytes()[..16]);
    key
}

/// The key of an event that is sent again as a new one by the replay that began at `at`:
/// the same each time, so that a replay that is interrupted makes it once.
pub(crate) fn replayed_key(key: Key, at: Timestamp) -> Key {
    let mut input = [b'a'; 25];
    input[1..17].copy_from_slice(&key.0);
    input[17..].copy_from_slice(&at.as_nanos().to_be_bytes());
    let mut key = Key([0; 16]);
    key.0
        .copy_from_slice(&blake3::hash(&input).as_bytes()[..16]);
    key
}

/// The `CloudEvents` `source` of a device: a path of one or two segments, in which
/// everything but letters, digits, `-`, `.`, `_` and `~` is percent-encoded, so
/// that no two pairs of site and device read the same.
pub fn source(site: Option<&str>, device: &str) -> String {
    let mut source = String::with_capacity(site.map_or(0, str::len) + device.len() + 2);
    for segment in site.into_iter().chain([device]) {
        source.push('/');
        percent_encode(segment, &mut source);
    }
    source
}

/// Adds `text` as one segment of a path.
pub(crate) fn percent_encode(text: &str, out: &mut String) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    for byte in text.bytes() {
        // Unreserved (RFC 3986, section 2.3).
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(DIGITS[usize::from(byte >> 4)]);
            out.push(DIGITS[usize::from(byte & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_source_is_a_path_of_site_and_device() {
        assert_eq!(source(Some("pune"), "b7"), "/pune/b7");
        assert_eq!(source(None, "b7"), "/b7");
        assert_eq!(source(None, "line 1/é%"), "/line%201%2F%C3%A9%25");
    }

    proptest! {
        #[test]
        fn no_two_devices_have_one_source(
            a in (proptest::option::of("[a/%2F]{0,3}"), "[a/%2F]{0,3}"),
            b in (proptest::option::of("[a/%2F]{0,3}"), "[a/%2F]{0,3}"),
        ) {
            let same = source(a.0.as_deref(), &a.1) == source(b.0.as_deref(), &b.1);
            prop_assert_eq!(same, a == b);
        }
    }
}

//! An event as a message: what it looks like, and what is said beside it.
//!
//! The payload is the whole event (structured mode of the `CloudEvents` MQTT
//! binding). The properties repeat what names it, so that whoever routes or dedupes
//! need not look inside: the attributes under their own names, and
//! `idempotency-key`.

use std::{ops::Range, sync::Arc};

use super::{Attributes, View, json, source};
use crate::gateway_id::GatewayId;

/// The media type of an event in CBOR.
pub const CBOR_MEDIA_TYPE: &str = "application/cloudevents+cbor";
/// The user property with the idempotency key, in hex.
pub const KEY_PROPERTY: &str = "idempotency-key";

/// The user property that says through which gateway a message came, one for each,
/// so that it does not go in circles; also the tag that remembers them in an event.
pub const VIA_PROPERTY: &str = "penstock-via";

/// The tag with the names of the rules that an event came of, the last one last.
pub const RULES_TAG: &str = "penstock-rules";

/// The same of a message that was shown to subscribers and is not kept. An answer to
/// it may carry this on and is kept all the same; a copy of it that comes back from
/// another broker is known by it.
pub const SHOWN_PROPERTY: &str = "penstock-shown";

/// What an event looks like in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// `CloudEvents` JSON.
    Json,
    /// The same document in CBOR.
    Cbor,
}

impl Payload {
    /// The words used in the configuration.
    pub const WORDS: [(&'static str, Self); 2] = [("json", Self::Json), ("cbor", Self::Cbor)];

    /// For the content type.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => json::MEDIA_TYPE,
            Self::Cbor => CBOR_MEDIA_TYPE,
        }
    }

    /// The event in this form.
    pub fn encode(self, view: &View<'_>) -> Vec<u8> {
        let mut text = Vec::with_capacity(512);
        view.to_json(None, &mut text);
        match self {
            Self::Json => text,
            Self::Cbor => {
                let document: serde_json::Value =
                    serde_json::from_slice(&text).expect("`to_json` writes JSON");
                let mut bytes = Vec::with_capacity(text.len());
                ciborium::into_writer(&document, &mut bytes)
                    .expect("a document of JSON can be CBOR, and memory takes it");
                bytes
            }
        }
    }
}

/// What a string of MQTT has at most, in bytes (MQTT 5, section 1.5.4).
const STRING_BYTES_MAX: usize = 65_535;

/// Through which gateways the event came, and this one, for what leaves it.
pub fn via(view: &View<'_>, gateway: &GatewayId) -> Vec<Arc<str>> {
    let own = gateway.as_str();
    let before = view.tag(VIA_PROPERTY).unwrap_or_default();
    let before = before
        .split(' ')
        .filter(|id| is_gateway(id) && **id != **own);
    before.map(Arc::from).chain([own.clone()]).collect()
}

/// Whether this may be the name of a gateway; anything else is not passed on.
pub fn is_gateway(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (1..=64).contains(&text.len()) && text.chars().all(word)
}

/// What names the event, as user properties. What no property can hold, such as a
/// very long id, is only in the payload.
pub fn properties(of: &Attributes<'_>) -> Vec<(&'static str, String)> {
    let mut text = Vec::with_capacity(256);
    let all = append_properties(of, &mut text).into_iter().flatten();
    let text = String::from_utf8_lossy(&text);
    all.map(|(name, at)| (name, text[at].to_owned())).collect()
}

/// Properties that were appended to something: what each is called, and where it is.
pub type Properties = [Option<(&'static str, Range<usize>)>; 7];

/// The same appended to `out`. All of it is UTF-8.
pub fn append_properties(of: &Attributes<'_>, out: &mut Vec<u8>) -> Properties {
    let mut append = |name, write: &dyn Fn(&mut Vec<u8>)| {
        let from = out.len();
        write(out);
        let at = from..out.len();
        (at.len() <= STRING_BYTES_MAX).then_some((name, at))
    };
    [
        append("specversion", &|out| out.extend_from_slice(b"1.0")),
        append("id", &|out| out.extend_from_slice(of.id().as_bytes())),
        append("source", &|out| {
            out.extend_from_slice(source(of.site, of.device).as_bytes());
        }),
        append("type", &|out| out.extend_from_slice(of.kind.as_bytes())),
        append("subject", &|out| {
            out.extend_from_slice(of.device.as_bytes())
        }),
        append("time", &|out| json::rfc3339(of.time, out)),
        append(KEY_PROPERTY, &|out| {
            let key = of.delivery_key();
            out.extend_from_slice(json::hex_digits(&key.0, &mut [0; 32]).as_bytes());
        }),
    ]
}

/// Appends `text` as one level of a topic, or part of one: `/`, `+`, `#`, `$`, `%` and
/// control characters are written as `%XX` per UTF-8 byte, so that two names never
/// give the same level. An empty name is `_`.
pub fn escape(text: &str, out: &mut String) {
    super::template::escape(text, |c| !c.is_control() && !"/+#$%".contains(c), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, IdSource, Key, Measurement, Quality, TimeSource, Timestamp, Value};

    #[test]
    fn whatever_a_device_is_called_it_stays_in_its_level() {
        for (name, expect) in [
            ("a-1", "a-1"),
            ("a/b", "a%2Fb"),
            ("+#$", "%2B%23%24"),
            ("100%", "100%25"),
            ("ü ö", "ü ö"),
            ("a\u{0}\u{85}", "a%00%C2%85"),
            ("", "_"),
        ] {
            let mut level = String::new();
            escape(name, &mut level);
            assert_eq!(level, expect);
        }
    }

    #[test]
    fn what_no_property_can_hold_is_left_to_the_payload() {
        let (site, id) = ("!".repeat(22_000), "i".repeat(65_536));
        let of = Attributes {
            key: Key([1; 16]),
            id: Some(&id),
            id_source: IdSource::Explicit,
            kind: "env",
            device: "a",
            site: Some(&site),
            time: Timestamp::from_millis(0),
            time_source: TimeSource::Device,
            received: Timestamp::from_millis(0),
            sequence: None,
            partition_key: None,
            topic: "t",
            traceparent: None,
            marks: crate::event::Marks::NONE,
            corrected: None,
            replayed: None,
        };
        let names: Vec<_> = properties(&of).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["specversion", "type", "subject", "time", KEY_PROPERTY]
        );
    }

    #[test]
    fn json_and_cbor_say_the_same_and_so_do_the_properties() {
        let event = Event {
            key: Key([0xAB; 16]),
            id: None,
            id_source: IdSource::Explicit,
            kind: "env".into(),
            device: "a/1".into(),
            site: Some("pune".into()),
            time: Timestamp::from_millis(1_700_000_000_000),
            time_source: TimeSource::Device,
            received: Timestamp::from_millis(1_700_000_000_001),
            sequence: None,
            partition_key: None,
            topic: "t".into(),
            traceparent: None,
            measurements: vec![Measurement {
                name: "n".into(),
                value: Value::UInt(u64::MAX),
                unit: None,
                quality: Quality::Good,
                time: None,
            }],
            tags: Vec::new(),
            marks: crate::event::Marks::NONE,
            corrected: None,
            replayed: None,
        };
        let mut body = Vec::new();
        event.to_cbor(&mut body);
        let view = View::parse(&body).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&Payload::Json.encode(&view)).unwrap();
        let cbor: serde_json::Value =
            ciborium::from_reader(&Payload::Cbor.encode(&view)[..]).unwrap();
        assert_eq!(json, cbor);
        for (name, value) in properties(&view.attributes) {
            let name = if name == KEY_PROPERTY {
                "eventkey"
            } else {
                name
            };
            assert_eq!(json[name], value, "{name}");
        }
    }
}

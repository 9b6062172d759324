//! No message becomes more than a bounded multiple of itself, whatever its format and
//! whatever a mapping makes of it.

use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::Config;

/// What attributes without texts, and the heads of what is in an event, take in CBOR at
/// most, for each event and for each thing in it.
const EVENT_BYTES: usize = 160;
const THING_BYTES: usize = 32;

fn of(keys: &str) -> Mapping {
    let text = format!("[[mapping]]\ntopic = \"devices/{{device}}/{{rest...}}\"\n{keys}");
    let config = Config::from_text(&text, Path::new(""), &|_| None);
    config.unwrap().ingest.mappings.swap_remove(0)
}

/// What the events of a message take where they are stored, and at most may take.
fn stored(done: &Normalised, payload_bytes: usize) -> (usize, usize) {
    let mut most = stored_bytes_max(payload_bytes);
    let mut bytes = Vec::new();
    for event in &done.events {
        event.to_cbor(&mut bytes);
        let things = event.measurements.len() + event.tags.len();
        most += EVENT_BYTES + things * THING_BYTES;
    }
    (bytes.len(), most)
}

/// `{"note": ..., "r": [{"v": 1}, ...]}`
fn batch(note: &serde_json::Value, elements: usize) -> serde_json::Value {
    let elements = vec![json!({"v": 1}); elements];
    json!({"note": note, "r": elements})
}

fn cbor(value: &serde_json::Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

/// The same as [`batch`], of a text and 400 elements.
fn msgpack(note: &str) -> Vec<u8> {
    let mut bytes = b"\x82\xa4note\xdb".to_vec();
    bytes.extend(u32::try_from(note.len()).unwrap().to_be_bytes());
    bytes.extend(note.as_bytes());
    bytes.extend(b"\xa1r\xdc\x01\x90");
    bytes.extend(b"\x81\xa1v\x01".repeat(400));
    bytes
}

#[test]
fn what_would_swell_is_refused_whatever_makes_it() {
    let note = "n".repeat(100_000);
    let text = |value: &serde_json::Value| value.to_string().into_bytes();
    let noted = batch(&json!(note), 400);
    let plain = batch(&json!(""), 1_000);
    let long = format!("devices/b7/{}", "t".repeat(4_000));
    let short = "devices/b7/telemetry";
    let digits = text(&batch(&json!("NOTE"), 400));
    let digits = String::from_utf8(digits).unwrap();
    let digits = digits.replace("\"NOTE\"", &format!("0.{}1", "0".repeat(100_000)));
    let values: Vec<String> = (0..60)
        .map(|n| format!("{{ name = \"v{n}\", at = \"/note\" }}"))
        .collect();
    let names = json!({"n".repeat(500): vec![1; 8_000]});
    let records: Vec<_> = (0..4_900).map(|n| json!({"v": n})).collect();
    let records = [vec![json!({"bn": "n".repeat(500), "v": 0})], records].concat();
    let events = vec![
        json!({"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": {"v": 1}});
        1_000
    ];
    for (what, keys, topic, payload) in [
        ("what is around, in JSON", "split = \"/r\"".to_owned(), short, text(&noted)),
        ("in CBOR", "format = \"cbor\"\nsplit = \"/r\"".to_owned(), short, cbor(&noted)),
        ("in MessagePack", "format = \"msgpack\"\nsplit = \"/r\"".to_owned(), short, msgpack(&note)),
        (
            "a tag of the mapping's",
            format!("split = \"/r\"\ntags = {{ t = \"{}\" }}", "t".repeat(4_000)),
            short,
            text(&plain),
        ),
        ("a long topic, in JSON", "split = \"/r\"".to_owned(), &long, text(&plain)),
        (
            "in lines of values",
            "format = \"csv\"\ncsv = { columns = [\"v\"] }".to_owned(),
            &long,
            b"1\n".repeat(1_000),
        ),
        ("in line protocol", "format = \"influx\"".to_owned(), &long, b"m v=1\n".repeat(1_000)),
        ("in CloudEvents", "format = \"cloudevents\"".to_owned(), &long, text(&json!(events))),
        (
            "a time around that nobody believes",
            "split = \"/r\"\ntime = { at = \"/note\" }".to_owned(),
            short,
            digits.into_bytes(),
        ),
        (
            "the boot around",
            "split = \"/r\"\nsequence = { at = \"/v\", boot = \"/note\" }".to_owned(),
            short,
            text(&noted),
        ),
        ("an id around", "split = \"/r\"\nid = [\"/note\"]\nexclude = [\"/note\"]".to_owned(), short, text(&noted)),
        (
            "one value under many names",
            format!("values = [{}]", values.join(",")),
            short,
            text(&json!({"note": note})),
        ),
        ("a long name over many values", String::new(), short, text(&names)),
        ("a base name", "format = \"senml-json\"".to_owned(), short, text(&json!(records))),
        ("the same in CBOR", "format = \"senml-cbor\"".to_owned(), short, cbor(&json!(records))),
        #[cfg(feature = "cel")]
        (
            "an expression that takes what is around",
            "split = \"/r\"\nexclude = [\"/note\"]\nderive = [{ name = \"n\", expr = \"payload.note\" }]".to_owned(),
            short,
            text(&noted),
        ),
        #[cfg(feature = "cel")]
        (
            "an expression that takes the topic",
            "split = \"/r\"\nexclude = [\"/note\"]\nderive = [{ name = \"n\", expr = \"topic + topic\" }]".to_owned(),
            &long,
            text(&plain),
        ),
    ] {
        let sent = Sent {
            topic,
            payload: &payload,
            ..SENT
        };
        let refused = run(&of(&keys), &sent).map(|done| stored(&done, payload.len()));
        assert_eq!(refused.map_err(|reject| reject.class), Err(Class::Limit), "{what}");
    }
}

#[test]
fn what_batches_are_like_is_no_swelling() {
    let payload = batch(&json!("line 4, behind the press"), 2_000).to_string();
    let keys = format!("split = \"/r\"\ntags = {{ t = \"{}\" }}", "t".repeat(300));
    let done = events(&of(&keys), &payload);
    assert_eq!(done.len(), 2_000);
}

#[test]
fn a_unit_has_a_bound_wherever_a_message_says_one() {
    let long = "u".repeat(257);
    let longest = "u".repeat(256);
    let json = |unit: &str| {
        [
            json!([{"bu": unit, "n": "a", "v": 1}, {"n": "b", "v": 1}]),
            json!([{"n": "a", "u": unit, "v": 1}]),
        ]
    };
    let senml = |unit: &str| {
        let [base, own] = json(unit);
        let json = |value: serde_json::Value| ("senml-json", value.to_string().into_bytes());
        let [cbor_base, cbor_own] = json_as_cbor(unit);
        [
            json(base),
            json(own),
            ("senml-cbor", cbor_base),
            ("senml-cbor", cbor_own),
        ]
    };
    for (format, payload) in senml(&long) {
        let mapping = of(&format!("format = \"{format}\""));
        let sent = Sent {
            payload: &payload,
            ..SENT
        };
        let reject = run(&mapping, &sent).unwrap_err();
        assert_eq!(reject.class, Class::Limit);
        assert!(
            reject.reason.contains("a unit has more than 256 bytes"),
            "{reject}"
        );
    }
    for (format, payload) in senml(&longest) {
        let mapping = of(&format!("format = \"{format}\""));
        let sent = Sent {
            payload: &payload,
            ..SENT
        };
        let done = run(&mapping, &sent).unwrap();
        let measured = &done.events[0].measurements;
        assert!(
            measured
                .iter()
                .all(|m| m.unit.as_deref() == Some(&*longest))
        );
    }
}

/// A base unit, and a unit of a record's own.
fn json_as_cbor(unit: &str) -> [Vec<u8>; 2] {
    [
        cbor(&json!([{"bu": unit, "n": "a", "v": 1}, {"n": "b", "v": 1}])),
        cbor(&json!([{"n": "a", "u": unit, "v": 1}])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_message_becomes_more_than_a_bounded_multiple_of_itself(
        elements in 1_usize..600,
        note in 0_usize..30_000,
        level in 0_usize..4_000,
        tag in 0_usize..4_000,
        in_cbor in any::<bool>(),
        keys in prop::sample::select(vec![
            "split = \"/r\"",
            "split = \"/r\"\nid = [\"/note\"]",
            "split = \"/r\"\nvalues = [{ name = \"v\" }]",
            "split = \"/r\"\nsequence = { at = \"/v\", boot = \"/note\" }",
            "",
        ]),
    ) {
        let value = batch(&json!("n".repeat(note)), elements);
        let (format, payload) = match in_cbor {
            true => ("cbor", cbor(&value)),
            false => ("json", value.to_string().into_bytes()),
        };
        let tag = "t".repeat(tag);
        let mapping = of(&format!("format = \"{format}\"\ntags = {{ t = \"{tag}\" }}\n{keys}"));
        let topic = format!("devices/b7/{}", "t".repeat(level));
        let sent = Sent { topic: &topic, payload: &payload, ..SENT };
        match run(&mapping, &sent) {
            Ok(done) => {
                let (bytes, most) = stored(&done, payload.len());
                prop_assert!(bytes <= most, "{bytes} bytes of {}, at most {most}", payload.len());
            }
            Err(reject) => prop_assert_eq!(reject.class, Class::Limit, "{}", reject.reason),
        }
    }
}

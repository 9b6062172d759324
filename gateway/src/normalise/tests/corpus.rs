//! Hand-written cases: what arrives, how it is mapped, and what must come of it.

use std::collections::HashMap;

use base64::Engine as _;
use serde_json::Value as Json;

use super::{super::topic, *};

const CASES: &str = include_str!("corpus.jsonl");

fn text<'j>(json: &'j Json, name: &str) -> Option<&'j str> {
    json.get(name)?.as_str()
}

fn word<T: Copy>(words: &[(&str, T)], json: &Json, name: &str) -> Option<T> {
    let word = text(json, name)?;
    Some(
        words
            .iter()
            .find(|(w, _)| *w == word)
            .unwrap_or_else(|| panic!("{word}"))
            .1,
    )
}

fn mapping_of(config: &Json) -> Mapping {
    let topic = topic::Template::parse(text(config, "topic").unwrap()).unwrap();
    let template = |text| Template::parse(text, topic.names()).unwrap();
    let required = config.get("require_time") == Some(&Json::Bool(true));
    let time = config.get("time").map(|time| Time {
        at: pointer(text(time, "at").unwrap()),
        fallback: text(time, "fallback").map(pointer),
        unit: word(&Unit::WORDS, time, "unit").unwrap_or_default(),
        required,
    });
    let (mut values, mut exclude) = (Vec::new(), Vec::new());
    match config.get("values") {
        Some(Json::Array(list)) => {
            for value in list {
                values.push(Measured {
                    name: text(value, "name").unwrap().into(),
                    at: text(value, "at").map(pointer),
                    kind: word(&Kind::WORDS, value, "type").unwrap_or_default(),
                    unit: text(value, "unit").map(Into::into),
                    required: value.get("required") == Some(&Json::Bool(true)),
                });
            }
        }
        Some(flatten) => {
            exclude = flatten["exclude"]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| pointer(p.as_str().unwrap()))
                .collect();
        }
        None => {}
    }
    Mapping {
        format: word(&Format::WORDS, config, "format").unwrap_or(Format::Json),
        device: Device::Text(template(text(config, "device").unwrap())),
        site: None,
        kind: template(mapping::KIND_DEFAULT),
        time,
        split: text(config, "split").map(pointer),
        id: config.get("id").map_or(vec![], |ids| {
            ids.as_array()
                .unwrap()
                .iter()
                .map(|id| pointer(id.as_str().unwrap()))
                .collect()
        }),
        id_property: text(config, "id_property").map(Into::into),
        sequence: config.get("sequence").map(|sequence| Sequence {
            at: pointer(text(sequence, "at").unwrap()),
            boot: text(sequence, "boot").map(pointer),
            persistent: sequence.get("persistent") == Some(&Json::Bool(true)),
        }),
        dedup: word(&Dedup::WORDS, config, "dedup").unwrap_or_default(),
        exclude,
        tags: config.get("tags").map_or(vec![], |tags| {
            tags.as_object()
                .unwrap()
                .iter()
                .map(|(n, v)| (n.as_str().into(), v.as_str().unwrap().into()))
                .collect()
        }),
        values,
        topic,
    }
}

fn instant(text: &str) -> Timestamp {
    let at: jiff::Timestamp = text.parse().unwrap();
    Timestamp::from_nanos(at.as_nanosecond().try_into().unwrap())
}

fn run_case(case: &Json, nonce: u8) -> Result<Normalised, Reject> {
    let mqtt = &case["mqtt"];
    let mapping = mapping_of(&case["config"]);
    let topic: Arc<str> = text(mqtt, "topic").unwrap().into();
    let payload = base64::engine::general_purpose::STANDARD
        .decode(text(mqtt, "payload_b64").unwrap())
        .unwrap();
    let user: Vec<(Arc<str>, Arc<str>)> = mqtt["user_properties"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.as_str().into(), value.as_str().unwrap().into()))
        .collect();
    let message = Message {
        topic: &topic,
        client_id: &"c1".into(),
        identity: None,
        payload: &payload,
        content_type: text(mqtt, "content_type"),
        user: &user,
        received: instant(text(mqtt, "received").unwrap()),
        nonce: [nonce; 16],
    };
    let resolved = mapping
        .resolve(&topic, None)
        .expect("the mapping takes the topic");
    normalise(&mapping, &resolved, &message, &mut Scratch::default())
}

fn same_value(ours: &Value, theirs: &Json) -> bool {
    match ours {
        Value::Null => theirs.is_null(),
        Value::Bool(b) => theirs.as_bool() == Some(*b),
        Value::Int(n) => theirs.as_i64() == Some(*n),
        Value::UInt(n) => theirs.as_u64() == Some(*n),
        Value::Float(x) => theirs
            .as_f64()
            .is_some_and(|y| (x - y).abs() <= y.abs() * 1e-12),
        Value::Text(text) => theirs.as_str() == Some(text),
        Value::Bytes(_) | Value::Array(_) | Value::Map(_) => false,
    }
}

fn check_event(name: &str, event: &Event, expect: &Json) {
    assert_eq!(&*event.device, text(expect, "device").unwrap(), "{name}");
    assert_eq!(event.time, instant(text(expect, "time").unwrap()), "{name}");
    assert_eq!(
        event.time_source.as_str(),
        text(expect, "time_source").unwrap(),
        "{name}"
    );
    assert_eq!(
        event.id_source.as_str(),
        text(expect, "id_source").unwrap(),
        "{name}"
    );
    let expected = expect["measurements"].as_array().unwrap();
    assert_eq!(
        event.measurements.len(),
        expected.len(),
        "{name}: {:?}",
        event.measurements
    );
    for (ours, theirs) in event.measurements.iter().zip(expected) {
        assert_eq!(&*ours.name, text(theirs, "name").unwrap(), "{name}");
        assert!(
            same_value(&ours.value, &theirs["value"]),
            "{name}: {ours:?} {theirs}"
        );
        assert_eq!(ours.unit.as_deref(), text(theirs, "unit"), "{name}");
        assert_eq!(ours.bad, text(theirs, "quality") == Some("bad"), "{name}");
    }
    for (tag, value) in expect
        .get("tags")
        .and_then(Json::as_object)
        .into_iter()
        .flatten()
    {
        let tag = event.tags.iter().find(|(name, _)| **name == **tag);
        assert_eq!(tag.map(|(_, text)| &**text), value.as_str(), "{name}");
    }
}

#[test]
fn the_corpus_comes_out_as_written() {
    let cases: Vec<Json> = CASES
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(cases.len() > 50);
    let mut keys = HashMap::new();
    for case in &cases {
        let name = text(case, "name").unwrap();
        let expect = &case["expect"];
        let done = match (run_case(case, 1), text(expect, "error")) {
            (Err(reject), Some(error)) => {
                let also = expect.get("error_also").and_then(Json::as_array);
                let fine = |class: &str| {
                    class == error
                        || also.is_some_and(|also| also.iter().any(|c| c.as_str() == Some(class)))
                };
                assert!(fine(reject.class.as_str()), "{name}: {reject}, not {error}");
                continue;
            }
            (Err(reject), None) => panic!("{name}: {reject}"),
            (Ok(done), Some(error)) => panic!("{name}: {error} expected, not {done:?}"),
            (Ok(done), None) => done,
        };
        let expected = expect["events"].as_array().unwrap();
        assert_eq!(done.events.len(), expected.len(), "{name}");
        for (event, expect) in done.events.iter().zip(expected) {
            check_event(name, event, expect);
        }
        let ours: Vec<_> = done.rejected.iter().flat_map(|r| &r.elements).collect();
        let theirs = expect
            .get("rejected")
            .and_then(Json::as_array)
            .map_or(&[][..], |r| r);
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for ((index, reject), theirs) in ours.into_iter().zip(theirs) {
            assert_eq!(Some(*index as u64), theirs["index"].as_u64(), "{name}");
            assert_eq!(Some(reject.class.as_str()), text(theirs, "error"), "{name}");
        }
        // Each case on its own: what nothing identifies is random from case to case.
        let nonce = u8::try_from(keys.len()).unwrap();
        let events = run_case(case, nonce).unwrap().events;
        keys.insert(
            name,
            events.iter().map(|event| event.key).collect::<Vec<_>>(),
        );
    }
    for case in &cases {
        let name = text(case, "name").unwrap();
        if let Some(other) = text(&case["expect"], "key_equals") {
            assert_eq!(
                keys[name], keys[other],
                "{name} and {other} are the same event"
            );
        }
        if let Some(other) = text(&case["expect"], "key_differs") {
            assert_ne!(keys[name], keys[other], "{name} and {other} are two events");
        }
    }
}

//! What holds for every format and protocol, and what vectors cannot say.

use base64::Engine as _;
use proptest::prelude::*;

use super::{super::decode::ELEMENTS_MAX, *};
use crate::normalise::{
    decode::{Columns, Format},
    preset::{Name, Preset},
};

fn by_format(format: Format) -> Mapping {
    Mapping {
        columns: Columns {
            names: vec!["ts".into(), "v".into()],
            ..Columns::default()
        },
        ..filled_in(Preset::of_format(format))
    }
}

fn filled_in(preset: Preset) -> Mapping {
    let all = Mapping::defaults().swap_remove(1);
    Mapping {
        protocol: preset.protocol,
        format: preset.format,
        device: preset.device.map_or(all.device, Device::At),
        time: preset.time,
        sequence: preset.sequence,
        split: preset.split,
        flatten: preset.flatten,
        ..all
    }
}

fn presets() -> Vec<Mapping> {
    let names = Name::WORDS.iter().filter_map(|(_, name)| *name);
    names.map(|name| filled_in(Preset::named(name))).collect()
}

#[test]
fn what_one_client_claims_never_suppresses_what_another_sends() {
    let payload = br#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"v":1}}"#;
    let key = |client_id| {
        let sent = Sent {
            client_id,
            payload,
            ..SENT
        };
        run(&by_format(Format::CloudEvents), &sent).unwrap().events[0].key
    };
    assert_eq!(key("a"), key("a"));
    assert_ne!(key("a"), key("b"));
    let by_tag = Mapping {
        device_tag: Some(pointer("/tags/host")),
        ..by_format(Format::Influx)
    };
    let key = |client_id| {
        let sent = Sent {
            client_id,
            payload: b"m,host=h v=1 1772366390000000001",
            ..SENT
        };
        let event = run(&by_tag, &sent).unwrap().events.swap_remove(0);
        assert_eq!(&*event.device, "h");
        event.key
    };
    assert_ne!(key("a"), key("b"));
}

#[test]
fn lines_keep_their_keys_however_they_are_batched() {
    let keys = |payload: &str| -> Vec<_> {
        let events = events(&by_format(Format::Influx), payload);
        events.iter().map(|event| event.key).collect()
    };
    let (a, b) = ("m v=1 1772366390000000001", "m v=1 1772366390000000002");
    let (first, second) = (keys(a), keys(b));
    assert_eq!(keys(&format!("{a}\n{b}\n")), [first[0], second[0]]);
    // The second of two equal lines is a reading of its own, and the same again.
    let twice = keys(&format!("{a}\n{a}"));
    assert_eq!(twice[0], first[0]);
    assert_ne!(twice[1], first[0]);
    assert_eq!(keys(&format!("# again\n{a}\n{b}\n{a}"))[2], twice[1]);
}

/// Payloads that are what they should be, to be damaged.
fn good() -> Vec<(String, Vec<u8>)> {
    let lines = include_str!("../../../tests/vectors/traps.jsonl").lines();
    let lines = lines.chain(include_str!("../../../tests/vectors/normalise.jsonl").lines());
    let message = |line: &str| {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let message = &case["mqtt"];
        let payload = match message["payload"].as_str() {
            Some(text) => text.as_bytes().to_vec(),
            None => base64::engine::general_purpose::STANDARD
                .decode(message["payload_b64"].as_str().unwrap())
                .unwrap(),
        };
        (message["topic"].as_str().unwrap().to_owned(), payload)
    };
    lines
        .map(message)
        .filter(|(_, payload)| !payload.is_empty() && payload.len() < 2_000)
        .collect()
}

/// Runs a payload: events that are stored and read back, or a reason; the same again.
fn holds(mapping: &Mapping, topic: &str, payload: &[u8]) {
    let sent = Sent {
        topic,
        payload,
        ..SENT
    };
    if mapping.resolve(topic, None).is_none() {
        return;
    }
    let (done, again) = match (run(mapping, &sent), run(mapping, &sent)) {
        (Ok(done), Ok(again)) => (done, again),
        (Err(reject), Err(again)) => {
            assert_eq!(reject, again);
            assert!(reject.reason.len() < 600, "{}", reject.reason);
            return;
        }
        different => panic!("once events, once a reason: {different:?}"),
    };
    assert!(done.events.len() <= ELEMENTS_MAX);
    let mut stored = Vec::new();
    for (event, again) in done.events.iter().zip(&again.events) {
        assert_eq!(event.key, again.key);
        let from = stored.len();
        event.to_cbor(&mut stored);
        assert_eq!(Event::from_cbor(&stored[from..]).unwrap().key, event.key);
    }
    // Inflated, nothing of this is larger than a few kilobytes.
    let most = 1_024 * (payload.len() + 8);
    assert!(
        stored.len() <= most,
        "{} from {}",
        stored.len(),
        payload.len()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn any_bytes_give_events_or_a_reason_in_every_format(
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        format in prop::sample::select(Format::WORDS.map(|(_, format)| format).to_vec()),
    ) {
        holds(&by_format(format), "t", &payload);
    }

    #[test]
    fn any_bytes_give_events_or_a_reason_under_every_preset(
        payload in proptest::collection::vec(any::<u8>(), 0..200),
        mapping in prop::sample::select(presets()),
        topic in prop::sample::select(vec!["t", "spBv1.0/G/NDATA/N", "spBv1.0/G/DBIRTH/N/D", "spBv1.0/STATE/h"]),
    ) {
        holds(&mapping, topic, &payload);
    }

    #[test]
    fn damaged_payloads_give_events_or_a_reason(
        (topic, payload) in prop::sample::select(good()),
        mapping in prop::sample::select(
            presets().into_iter().chain(Format::WORDS.map(|(_, format)| by_format(format))).collect::<Vec<_>>()
        ),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in proptest::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let mut payload = payload;
        for (at, byte) in damage {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
        }
        holds(&mapping, &topic, &payload);
    }
}

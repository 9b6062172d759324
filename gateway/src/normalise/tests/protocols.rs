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

#[test]
fn a_content_type_makes_nobody_speak_for_another_device() {
    let payload =
        br#"{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"b","data":{"v":1}}"#;
    let sent = Sent {
        topic: "devices/a/telemetry",
        client_id: "a",
        content_type: Some("application/cloudevents+json"),
        payload,
        ..SENT
    };
    let device = |mapping: &Mapping| {
        let event = run(mapping, &sent).unwrap().events.swap_remove(0);
        let subject = event.tags.iter().find(|(name, _)| **name == *"cesubject");
        (
            event.device.to_string(),
            subject.map(|(_, s)| s.to_string()),
        )
    };
    let [of_devices, of_clients] = &Mapping::defaults()[..] else {
        panic!("there are two mappings");
    };
    let subject = Some("b".to_owned());
    assert_eq!(device(of_devices), ("a".to_owned(), subject.clone()));
    assert_eq!(device(of_clients), ("a".to_owned(), subject.clone()));
    // Where the operator says that these are CloudEvents, what they say counts; unless
    // the operator also says who the device is.
    let said = by_format(Format::CloudEvents);
    assert_eq!(device(&said), ("b".to_owned(), None));
    let named = Mapping {
        own_device: true,
        ..said
    };
    assert_eq!(device(&named), ("a".to_owned(), subject));
}

/// What events take that are kept while others of the message are made.
fn bytes(events: &[Event]) -> usize {
    let mut seen = std::collections::HashSet::new();
    let tags = events.iter().flat_map(|event| &event.tags);
    tags.map(|(_, text)| match seen.insert(text.as_ptr()) {
        true => text.len(),
        false => 0,
    })
    .sum()
}

#[test]
fn what_elements_share_is_held_once() {
    let elements = |element: &str, more: &str| {
        let elements = vec![element; 900].join(",");
        format!("[{elements}]{more}")
    };
    let preset = |name| filled_in(Preset::named(name));
    let space = " ".repeat(100_000);
    let discovery = elements("{}", &space);
    assert_eq!(class(&preset(Name::HaDiscovery), &discovery), Class::Type);
    let metadata = elements("1", &space);
    let metadata = format!(r#"{{"MessageType":"ua-x","Messages":{metadata}}}"#);
    let events = event(&preset(Name::OpcUa), &metadata);
    assert!(bytes(&[events]) < 2 * metadata.len());
    // What is around the elements, as the mapping finds it.
    let split = Mapping {
        split: Some(pointer("/r")),
        ..mapping()
    };
    let long = "x".repeat(1_000);
    for name in ["boot", "ts"] {
        let value = match name {
            "ts" => format!("1.{}", "1".repeat(long.len())),
            _ => format!("{long:?}"),
        };
        let payload = format!(r#"{{"{name}":{value},"r":{}}}"#, elements("{\"v\":1}", ""));
        let events = super::events(&split, &payload);
        assert_eq!(events.len(), 900);
        let tag = |(n, text): &&mapping::Tag| {
            text.len() > long.len() / 2 && (name == "boot" || **n != *name)
        };
        let long = |event: &Event| event.tags.iter().find(tag).unwrap().1.clone();
        let first = long(&events[0]);
        let mut others = events.iter().map(long);
        assert!(others.all(|text| Arc::ptr_eq(&text, &first)), "{name}");
    }
}

#[test]
fn what_is_excluded_is_left_out_within_envelopes_too() {
    let names = |mapping: &Mapping, exclude: &str, payload: &str| -> Vec<String> {
        let mapping = Mapping {
            exclude: vec![pointer(exclude)],
            ..mapping.clone()
        };
        let event = event(&mapping, payload);
        let names = event.measurements.iter().map(|m| m.name.to_string());
        names.collect()
    };
    let event =
        r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":{"gps":{"x":1},"v":1}}"#;
    let events = by_format(Format::CloudEvents);
    let network = r#"{"MessageType":"ua-data","Messages":[{"DataSetWriterId":1,"Payload":{"gps":{"x":1},"v":1}}]}"#;
    let opcua = filled_in(Preset::named(Name::OpcUa));
    for (mapping, payload, within) in [(&events, event, "/data"), (&opcua, network, "/Payload")] {
        assert_eq!(names(mapping, "/gps", payload), ["v"]);
        assert_eq!(names(mapping, "/gps/x", payload), ["v"]);
        assert_eq!(names(mapping, &format!("{within}/gps"), payload), ["v"]);
        assert_eq!(names(mapping, "/no", payload), ["gps.x", "v"]);
    }
}

#[test]
fn a_single_opcua_message_has_its_own_time() {
    let opcua = filled_in(Preset::named(Name::OpcUa));
    let payload = |time: &str| {
        format!(
            r#"{{"MessageType":"ua-data","Messages":{{"DataSetWriterId":1,"Timestamp":"{time}","Payload":{{"v":1}}}}}}"#
        )
    };
    let said = event(&opcua, &payload("2026-03-01T11:59:50Z"));
    assert_eq!(said.time_source, TimeSource::Device);
    let unbelieved = event(&opcua, &payload("1970-01-01T00:00:00Z"));
    assert_eq!(unbelieved.time_source, TimeSource::Received);
    assert_eq!(&*unbelieved.tags[0].0, "devicetime");
}

#[test]
fn keep_alives_beside_data_are_counted() {
    let opcua = filled_in(Preset::named(Name::OpcUa));
    let payload = br#"{"MessageType":"ua-data","Messages":[{"DataSetWriterId":1},{"DataSetWriterId":1,"Payload":{"v":1}}]}"#;
    let done = run(&opcua, &Sent { payload, ..SENT }).unwrap();
    assert_eq!((done.events.len(), done.nothing), (1, 1));
}

#[test]
fn what_is_left_of_a_batch_of_opcua_messages_is_read_again() {
    let opcua = filled_in(Preset::named(Name::OpcUa));
    let payload = br#"[{"DataSetWriterId":1,"Payload":{"v":1}},{"DataSetWriterId":1,"Payload":2}]"#;
    let done = run(&opcua, &Sent { payload, ..SENT }).unwrap();
    let left = done.rejected.unwrap().payload;
    let left = run(
        &opcua,
        &Sent {
            payload: &left,
            ..SENT
        },
    )
    .unwrap_err();
    assert!(left.reason.contains("payload is an object"), "{left}");
    let mended = br#"[null,{"DataSetWriterId":1,"Payload":{"v":2}}]"#;
    let done = run(
        &opcua,
        &Sent {
            payload: mended,
            ..SENT
        },
    )
    .unwrap();
    assert_eq!(done.events.len(), 1);
}

#[test]
fn a_publisher_that_counts_from_1_again_loses_nothing() {
    let opcua = filled_in(Preset::named(Name::OpcUa));
    let key = |value: &str| {
        let payload = format!(
            r#"{{"MessageId":"1","MessageType":"ua-data","Messages":[{{"DataSetWriterId":1,"Payload":{{"v":{value}}}}}]}}"#
        );
        let event = event(&opcua, &payload);
        assert_eq!(event.id_source, IdSource::Protocol);
        event.key
    };
    assert_eq!(key("1"), key("1"));
    assert_ne!(key("1"), key("2"));
}

#[test]
fn a_relative_time_that_nobody_would_believe_is_not_believed() {
    let senml = by_format(Format::SenmlJson);
    for (seconds, source) in [
        (60, TimeSource::Device),
        (-60, TimeSource::Device),
        (360_000, TimeSource::Received),
        (200_000_000, TimeSource::Received),
    ] {
        let event = event(&senml, &format!(r#"[{{"n":"t","v":1,"t":{seconds}}}]"#));
        assert_eq!(event.time_source, source, "{seconds}");
        let kept = event.tags.iter().any(|(name, _)| **name == *"devicetime");
        assert_eq!(kept, source == TimeSource::Received, "{seconds}");
    }
}

#[test]
fn commands_of_homes_are_no_readings_and_the_bridge_is_no_device() {
    let mapping = |name, template: &str| {
        let topic = topic::Template::parse(template).unwrap();
        Mapping {
            device: Device::Text(Template::parse("{device}", topic.names()).unwrap()),
            kind: Template::parse("iot.telemetry.v1", topic.names()).unwrap(),
            topic,
            ..filled_in(Preset::named(name))
        }
    };
    let zigbee = mapping(Name::Zigbee2Mqtt, "home/zigbee2mqtt/{device...}");
    let homie = mapping(Name::Homie, "homie/5/{device}/{node...}");
    let on = |mapping: &Mapping, topic, payload| {
        let sent = Sent {
            topic,
            payload,
            ..SENT
        };
        run(mapping, &sent).unwrap()
    };
    for (mapping, topic, payload) in [
        (
            &zigbee,
            "home/zigbee2mqtt/a/lamp/set",
            &b"{\"state\":\"ON\"}"[..],
        ),
        (&zigbee, "home/zigbee2mqtt/lamp/get", b""),
        (&homie, "homie/5/lamp/light/power/set", b"true"),
    ] {
        let done = on(mapping, topic, payload);
        assert_eq!((done.events.len(), done.nothing), (0, 1), "{topic}");
    }
    let kind = |topic| on(&zigbee, topic, b"{\"v\":1}").events[0].kind.to_string();
    assert_eq!(kind("home/zigbee2mqtt/bridge/devices"), "iot.metadata.v1");
    assert_eq!(kind("home/zigbee2mqtt/lamp"), "iot.telemetry.v1");
}

#[test]
fn a_time_that_is_required_is_required_of_protocols_too() {
    let required = |mapping: Mapping| Mapping {
        require_time: true,
        ..mapping
    };
    let senml = required(by_format(Format::SenmlJson));
    assert_eq!(class(&senml, r#"[{"n":"t","v":1}]"#), Class::Missing);
    let old = r#"[{"n":"t","v":1,"t":300000000}]"#;
    assert_eq!(class(&senml, old), Class::Range);
    let cloud = required(by_format(Format::CloudEvents));
    let event = r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":1}"#;
    assert_eq!(class(&cloud, event), Class::Missing);
    let will = required(filled_in(Preset::named(Name::Lwt)));
    assert_eq!(class(&will, "online"), Class::Missing);
}

#[test]
fn a_decoder_that_knows_nothing_does_not_hide_the_bytes() {
    let chirpstack = r#"{"deviceInfo":{"devEui":"d"},"object":{},"data":"AQI="}"#;
    let tts = r#"{"end_device_ids":{"device_id":"d"},"uplink_message":{"decoded_payload":{},"frm_payload":"AQI="}}"#;
    for (name, payload) in [(Name::ChirpStack, chirpstack), (Name::Tts, tts)] {
        let event = event(&filled_in(Preset::named(name)), payload);
        let bytes = Value::Text("AQI=".to_owned());
        assert_eq!(event.measurements[0].value, bytes);
    }
}

#[test]
fn a_content_type_does_not_make_the_values_of_a_mapping_mean_nothing() {
    let auto = Mapping {
        values: vec![mapping::Measured {
            at: Some(pointer("/0/v")),
            name: "t".into(),
            ..mapping::Measured::default()
        }],
        split: Some(pointer("/r")),
        ..mapping()
    };
    let sent = Sent {
        content_type: Some("application/senml+json"),
        payload: br#"{"r":[[{"n":"x","v":5}],[{"n":"x","v":6}]]}"#,
        ..SENT
    };
    let done = run(&auto, &sent).unwrap();
    assert_eq!(done.events.len(), 2);
    assert_eq!(&*done.events[0].measurements[0].name, "t");
}

#[test]
fn a_shadow_that_was_deleted_counts_from_1_again() {
    let shadow = filled_in(Preset::named(Name::AwsShadow));
    let key = |time: u32| {
        let payload =
            format!(r#"{{"state":{{"reported":{{"v":1}}}},"version":1,"timestamp":{time}}}"#);
        let sent = Sent {
            topic: "aws/things/t/shadow/update/accepted",
            payload: payload.as_bytes(),
            ..SENT
        };
        run(&shadow, &sent).unwrap().events[0].key
    };
    assert_eq!(key(1_772_366_390), key(1_772_366_390));
    assert_ne!(key(1_772_366_390), key(1_772_366_391));
}

#[test]
fn a_structure_with_a_member_called_value_is_a_structure() {
    let mapping = filled_in(Preset::named(Name::OpcUa));
    let fields = |payload: &str| -> Vec<String> {
        let payload = format!(r#"{{"DataSetWriterId":1,"Payload":{{"f":{payload}}}}}"#);
        let all = event(&mapping, &payload).measurements;
        all.iter().map(|m| m.name.to_string()).collect()
    };
    assert_eq!(fields(r#"{"Value":1,"Limit":2}"#), ["f.Value", "f.Limit"]);
    assert_eq!(fields(r#"{"Value":1,"StatusCode":{"Code":0}}"#), ["f"]);
    assert_eq!(fields(r#"{"UaType":11,"Value":1}"#), ["f"]);
}

#[test]
fn what_belongs_to_an_attribute_of_homie_is_none_of_its_readings() {
    let topic = topic::Template::parse("homie/5/{device}/{node...}").unwrap();
    let homie = Mapping {
        device: Device::Text(Template::parse("{device}", topic.names()).unwrap()),
        topic,
        ..filled_in(Preset::named(Name::Homie))
    };
    let sent = |topic: &str| {
        let sent = Sent {
            topic,
            payload: b"x",
            ..SENT
        };
        run(&homie, &sent)
    };
    let kind = |topic: &str| sent(topic).unwrap().events[0].kind.to_string();
    assert_eq!(kind("homie/5/lamp/$alert/low"), "iot.metadata.v1");
    assert_eq!(kind("homie/5/lamp/$state"), "iot.state.v1");
    assert_eq!(kind("homie/5/lamp/light/power"), "iot.telemetry.v1");
    let long = format!("homie/5/lamp/{}", "n/".repeat(300));
    assert_eq!(sent(&long).unwrap_err().class, Class::Limit);
}

#[test]
fn numbers_are_labels_of_senml_in_cbor_alone_and_sums_are_exact() {
    let json = by_format(Format::SenmlJson);
    assert_eq!(class(&json, r#"[{"n":"a","2":5}]"#), Class::Senml);
    let sum = |base: &str, value: &str| {
        let payload = format!(r#"[{{"bn":"a","bv":{base},"v":{value}}}]"#);
        events(&json, &payload)[0].measurements[0].value.clone()
    };
    assert_eq!(
        sum("9223372036854775807", "9223372036854775808"),
        Value::UInt(u64::MAX)
    );
    assert_eq!(
        sum("-9223372036854775808", "18446744073709551615"),
        Value::Int(i64::MAX)
    );
    assert_eq!(
        sum("9007199254740993", "1"),
        Value::Int(9_007_199_254_740_994)
    );
    for (base, value) in [("18446744073709551615", "1"), ("1e308", "1.7e308")] {
        let payload = format!(r#"[{{"bn":"a","bv":{base},"v":{value}}}]"#);
        assert_eq!(class(&json, &payload), Class::Range);
    }
}

#[test]
fn senml_loses_no_digit_of_sums_and_of_times_that_nobody_believes() {
    let senml = by_format(Format::SenmlJson);
    let sum = |value: &str| format!(r#"[{{"bv":0.5}},{{"n":"a","v":{value}}}]"#);
    assert_eq!(class(&senml, &sum("9007199254740993")), Class::Range);
    assert_eq!(
        event(&senml, &sum("9007199254740992")).measurements.len(),
        1,
        "a float is equal to this one"
    );
    for time in ["1000000000.123456789", "-1000000000.000000001", "400000000"] {
        let said = event(&senml, &format!(r#"[{{"n":"t","v":1,"t":{time}}}]"#));
        let mut tags = said.tags.iter();
        let kept = tags.find(|(name, _)| **name == *"devicetime").unwrap();
        assert_eq!(&*kept.1, time);
    }
}

//! The rules of `normalise` and `identity`, on small mappings.

mod corpus;

use super::{
    mapping::{Dedup, Kind, Measured, Sequence, Time},
    pointer::Pointer,
    template::Template,
    timestamp::Unit,
    *,
};
use crate::event::{IdSource, Measurement, Value};

/// 2026-03-01T12:00:00Z.
const RECEIVED: Timestamp = Timestamp::from_millis(1_772_366_400_000);

fn pointer(text: &str) -> Pointer {
    Pointer::parse(text).unwrap()
}

/// The first mapping of a gateway without a configuration.
fn mapping() -> Mapping {
    Mapping::defaults().swap_remove(0)
}

fn with_id(fields: &[&str]) -> Mapping {
    Mapping {
        id: fields.iter().map(|text| pointer(text)).collect(),
        ..mapping()
    }
}

fn claimed() -> Mapping {
    Mapping {
        device: Device::At(pointer("/dev")),
        ..mapping()
    }
}

struct Sent<'a> {
    topic: &'a str,
    client_id: &'a str,
    payload: &'a [u8],
    user: &'a [(&'a str, &'a str)],
    nonce: u8,
}

const SENT: Sent<'_> = Sent {
    topic: "devices/b7/telemetry",
    client_id: "c1",
    payload: b"",
    user: &[],
    nonce: 1,
};

fn run(mapping: &Mapping, sent: &Sent<'_>) -> Result<Normalised, Reject> {
    let topic = Arc::from(sent.topic);
    let user: Vec<(Arc<str>, Arc<str>)> = sent
        .user
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    let message = Message {
        topic: &topic,
        client_id: &sent.client_id.into(),
        payload: sent.payload,
        content_type: None,
        user: &user,
        received: RECEIVED,
        nonce: [sent.nonce; 16],
    };
    let resolved = mapping
        .resolve(sent.topic, None)
        .expect("the mapping takes the topic");
    normalise(mapping, &resolved, &message, &mut Scratch::default())
}

fn events(mapping: &Mapping, payload: &str) -> Vec<Event> {
    let done = run(
        mapping,
        &Sent {
            payload: payload.as_bytes(),
            ..SENT
        },
    )
    .unwrap();
    assert_eq!(done.rejected, None);
    done.events
}

fn event(mapping: &Mapping, payload: &str) -> Event {
    let mut events = events(mapping, payload);
    assert_eq!(events.len(), 1, "{events:?}");
    events.swap_remove(0)
}

fn class(mapping: &Mapping, payload: &str) -> Class {
    run(
        mapping,
        &Sent {
            payload: payload.as_bytes(),
            ..SENT
        },
    )
    .unwrap_err()
    .class
}

fn with_property(payload: &str, id: &str) -> Event {
    let user = [("other", "x"), ("idempotency-key", id)];
    let sent = Sent {
        payload: payload.as_bytes(),
        user: &user,
        ..SENT
    };
    run(&mapping(), &sent).unwrap().events.swap_remove(0)
}

fn measured(event: &Event) -> Vec<(&str, &Value)> {
    event
        .measurements
        .iter()
        .map(|m| (&*m.name, &m.value))
        .collect()
}

fn tags(event: &Event) -> Vec<(&str, &str)> {
    event
        .tags
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect()
}

const TS: &str = "1772366390123";

#[test]
fn everything_that_is_not_an_attribute_or_a_tag_becomes_a_measurement() {
    let event = event(
        &with_id(&["/mid"]),
        r#"{"ts":1772366390123,"seq":7,"boot":"x1","mid":"m-1","t":21.5,"in":{"a":[1,true]},"off":null,"s":"ok"}"#,
    );
    assert_eq!(
        measured(&event),
        [
            ("t", &Value::Float(21.5)),
            ("in.a.0", &Value::Int(1)),
            ("in.a.1", &Value::Bool(true)),
            ("s", &Value::Text("ok".into())),
        ]
    );
    assert_eq!(tags(&event), [("boot", "x1")]);
    assert_eq!(event.sequence, Some(7));
    assert_eq!(event.id.as_deref(), Some("m-1"));
    assert_eq!(event.time, Timestamp::from_millis(1_772_366_390_123));
    assert_eq!((&*event.device, &*event.kind), ("b7", "telemetry"));
}

#[test]
fn a_field_that_is_not_understood_stays_a_measurement() {
    let event = event(
        &mapping(),
        r#"{"seq":"abc","boot":"","id":"sim-1","ts":12}"#,
    );
    assert_eq!(
        measured(&event),
        [
            ("seq", &Value::Text("abc".into())),
            ("boot", &Value::Text(String::new())),
            ("id", &Value::Text("sim-1".into())),
        ]
    );
    assert_eq!(
        tags(&event),
        [("devicetime", "12")],
        "a time that cannot be is kept as a tag"
    );
    assert_eq!(
        (event.time, event.time_source),
        (RECEIVED, TimeSource::Received)
    );
}

#[test]
fn an_id_field_that_was_not_needed_stays_a_measurement() {
    let user = [("idempotency-key", "p1")];
    let sent = Sent {
        payload: br#"{"mid":"m1"}"#,
        user: &user,
        ..SENT
    };
    let event = run(&with_id(&["/mid"]), &sent)
        .unwrap()
        .events
        .swap_remove(0);
    assert_eq!(
        (event.id.as_deref(), event.id_source),
        (Some("p1"), IdSource::Explicit)
    );
    assert_eq!(measured(&event), [("mid", &Value::Text("m1".into()))]);
}

#[test]
fn a_bare_value_is_a_measurement_named_value() {
    for (payload, value) in [
        ("21.5", Value::Float(21.5)),
        ("ON", Value::Text("ON".into())),
        ("true", Value::Bool(true)),
        ("\"21\"", Value::Text("21".into())),
        ("18446744073709551615", Value::UInt(u64::MAX)),
    ] {
        assert_eq!(
            measured(&event(&mapping(), payload)),
            [("value", &value)],
            "{payload}"
        );
    }
    assert_eq!(
        measured(&event(&mapping(), "[1,2]")),
        [("0", &Value::Int(1)), ("1", &Value::Int(2))]
    );
}

#[test]
fn what_holds_nothing_is_rejected_but_a_heartbeat_is_an_event() {
    for payload in ["", " ", "null", "[]", "[null]"] {
        assert_eq!(class(&mapping(), payload), Class::Empty, "{payload:?}");
    }
    assert_eq!(event(&mapping(), "{}").measurements, []);
    assert_eq!(event(&mapping(), r#"{"seq":1,"t":null}"#).measurements, []);
}

#[test]
fn captures_become_attributes_or_tags() {
    let mapping = Mapping {
        topic: topic::Template::parse("{site}/{line}/{device}/{type...}").unwrap(),
        site: Some(Template::parse("{site}", &["site".into()]).unwrap()),
        ..Mapping::defaults().swap_remove(0)
    };
    let names = mapping.topic.names().to_vec();
    let mapping = Mapping {
        device: Device::Text(Template::parse("{device}@{client}", &names).unwrap()),
        kind: Template::parse("iot.{type}", &names).unwrap(),
        tags: vec![("fixed".into(), "yes".into())],
        ..mapping
    };
    let sent = Sent {
        topic: "pune/l1/b7/a/b",
        payload: b"1",
        ..SENT
    };
    let event = run(&mapping, &sent).unwrap().events.swap_remove(0);
    assert_eq!(event.site.as_deref(), Some("pune"));
    assert_eq!((&*event.device, &*event.kind), ("b7@c1", "iot.a.b"));
    assert_eq!(tags(&event), [("fixed", "yes"), ("line", "l1")]);
}

#[test]
fn a_device_without_a_name_or_with_a_huge_one_is_rejected() {
    let sent = |topic| {
        run(
            &mapping(),
            &Sent {
                topic,
                payload: b"1",
                ..SENT
            },
        )
        .map_err(|r| r.class)
    };
    assert_eq!(sent("devices//telemetry").unwrap_err(), Class::Missing);
    let long = format!("devices/{}/x", "a".repeat(DEVICE_BYTES_MAX + 1));
    assert_eq!(sent(&long).unwrap_err(), Class::Limit);
    assert_eq!(class(&claimed(), r#"{"t":1}"#), Class::Missing);
    assert_eq!(class(&claimed(), r#"{"dev":"","t":1}"#), Class::Missing);
    assert_eq!(class(&claimed(), r#"{"dev":{},"t":1}"#), Class::Type);
    let event = event(&claimed(), r#"{"dev":17,"t":1}"#);
    assert_eq!(
        (&*event.device, measured(&event)),
        ("17", vec![("t", &Value::Int(1))])
    );
}

#[test]
fn only_a_well_formed_traceparent_is_passed_on() {
    let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (text, expect) in [
        (good, Some(good)),
        ("00-x", None),
        (&good.to_uppercase(), None),
    ] {
        let user = [("traceparent", text)];
        let done = run(
            &mapping(),
            &Sent {
                payload: b"1",
                user: &user,
                ..SENT
            },
        )
        .unwrap();
        assert_eq!(done.events[0].traceparent.as_deref(), expect);
    }
}

#[test]
fn identity_comes_from_the_first_source_that_there_is() {
    let all = format!(r#"{{"ts":{TS},"seq":1,"boot":"b","mid":"m"}}"#);
    let user = [("idempotency-key", "p")];
    let sent = Sent {
        payload: all.as_bytes(),
        user: &user,
        ..SENT
    };
    let by_property = run(&with_id(&["/mid"]), &sent)
        .unwrap()
        .events
        .swap_remove(0);
    assert_eq!(by_property.id_source, IdSource::Explicit);
    assert_eq!(event(&with_id(&["/mid"]), &all).id_source, IdSource::Field);
    assert_eq!(event(&mapping(), &all).id_source, IdSource::Sequence);
    assert_eq!(
        event(&mapping(), r#"{"ts":1772366390123}"#).id_source,
        IdSource::Content
    );
    assert_eq!(
        event(&mapping(), r#"{"ts":1772366390}"#).id_source,
        IdSource::None
    );
    let none = Mapping {
        dedup: Dedup::None,
        ..with_id(&["/mid"])
    };
    let event = event(&none, &all);
    assert_eq!((event.id_source, event.id), (IdSource::None, None));
    assert_eq!(event.sequence, Some(1), "it is still the device's counter");
}

#[test]
fn an_empty_or_incomplete_id_falls_through() {
    let user = [("idempotency-key", "")];
    let sent = Sent {
        payload: b"1",
        user: &user,
        ..SENT
    };
    assert_eq!(
        run(&mapping(), &sent).unwrap().events[0].id_source,
        IdSource::None
    );
    for payload in [
        r#"{"a":"x"}"#,
        r#"{"a":"x","b":""}"#,
        r#"{"a":"x","b":null}"#,
        r#"{"a":"x","b":[1]}"#,
    ] {
        assert_eq!(
            event(&with_id(&["/a", "/b"]), payload).id_source,
            IdSource::None,
            "{payload}"
        );
    }
}

#[test]
fn an_explicit_id_of_one_device_never_suppresses_another() {
    let of = |topic| {
        let user = [("idempotency-key", "42")];
        run(
            &mapping(),
            &Sent {
                topic,
                payload: b"1",
                user: &user,
                ..SENT
            },
        )
        .unwrap()
        .events[0]
            .key
    };
    assert_eq!(of("devices/b7/telemetry"), of("devices/b7/telemetry"));
    assert_ne!(of("devices/b7/telemetry"), of("devices/b8/telemetry"));
}

#[test]
fn a_client_that_claims_to_be_a_device_cannot_suppress_what_another_client_sends() {
    let of = |client_id| {
        let user = [("idempotency-key", "42")];
        let payload = br#"{"dev":"b7","ts":1772366390123}"#;
        run(
            &claimed(),
            &Sent {
                client_id,
                payload,
                user: &user,
                ..SENT
            },
        )
        .unwrap()
        .events
        .swap_remove(0)
    };
    assert_eq!(of("honest").key, of("honest").key);
    assert_ne!(of("honest").key, of("evil").key);
    assert_eq!(
        of("a:b%").id.as_deref(),
        Some("a%3Ab%25:42"),
        "the id is as distinct as the key"
    );
    for payload in [
        &br#"{"dev":"b7","seq":1,"boot":"x"}"#[..],
        br#"{"dev":"b7","ts":1772366390123}"#,
    ] {
        let of = |client_id| {
            run(
                &claimed(),
                &Sent {
                    client_id,
                    payload,
                    ..SENT
                },
            )
            .unwrap()
            .events
            .swap_remove(0)
        };
        assert_ne!(of("honest").id_source, IdSource::None);
        assert_ne!(of("honest").key, of("evil").key);
    }
}

#[test]
fn the_client_does_not_matter_where_the_topic_names_the_device() {
    let of = |client_id| {
        let user = [("idempotency-key", "42")];
        run(
            &mapping(),
            &Sent {
                client_id,
                payload: b"1",
                user: &user,
                ..SENT
            },
        )
        .unwrap()
        .events[0]
            .key
    };
    assert_eq!(
        of("c1"),
        of("c2"),
        "a device that reconnects under another client identifier"
    );
}

#[test]
fn key_is_the_hash_of_source_and_id_whatever_else_the_message_says() {
    assert_eq!(
        with_property("1", "a").key,
        with_property(r#"{"t":2}"#, "a").key
    );
    assert_ne!(with_property("1", "a").key, with_property("1", "b").key);
    let field = |payload| event(&with_id(&["/mid"]), payload).key;
    assert_eq!(field(r#"{"mid":"7","t":1}"#), field(r#"{"mid":7,"t":2}"#));
    assert_ne!(
        field(r#"{"mid":"7"}"#),
        with_property("1", "7").key,
        "sources do not mix"
    );
}

#[test]
fn several_id_fields_count_together_and_stay_measurements() {
    let of = |payload| event(&with_id(&["/a", "/b"]), payload);
    assert_ne!(
        of(r#"{"a":"x","b":"yz"}"#).key,
        of(r#"{"a":"xy","b":"z"}"#).key
    );
    let event = of(r#"{"a":"x","b":1}"#);
    assert_eq!((event.id, event.measurements.len()), (None, 2));
}

#[test]
fn a_very_long_id_identifies_but_is_not_carried() {
    let long = "x".repeat(identity::ID_BYTES_MAX + 1);
    let event = with_property("1", &long);
    assert_eq!((event.id, event.id_source), (None, IdSource::Explicit));
    assert_eq!(event.key, with_property("2", &long).key);
}

#[test]
fn a_sequence_number_counts_only_where_restarts_show() {
    let persistent = Mapping {
        sequence: Some(Sequence {
            at: pointer("/seq"),
            boot: None,
            persistent: true,
        }),
        ..mapping()
    };
    for (mapping, payload, source) in [
        (&mapping(), r#"{"seq":1}"#, IdSource::None),
        (&mapping(), r#"{"seq":1,"ts":12}"#, IdSource::None),
        (&mapping(), r#"{"seq":1,"boot":""}"#, IdSource::None),
        (&mapping(), r#"{"seq":1,"boot":"b"}"#, IdSource::Sequence),
        (&mapping(), r#"{"seq":1,"boot":3}"#, IdSource::Sequence),
        (
            &mapping(),
            r#"{"seq":1,"ts":1772366390}"#,
            IdSource::Sequence,
        ),
        (&mapping(), r#"{"seq":"1","boot":"b"}"#, IdSource::Sequence),
        (&mapping(), r#"{"seq":-1,"boot":"b"}"#, IdSource::None),
        (&mapping(), r#"{"seq":1.5,"boot":"b"}"#, IdSource::None),
        (&persistent, r#"{"seq":1}"#, IdSource::Sequence),
    ] {
        assert_eq!(event(mapping, payload).id_source, source, "{payload}");
    }
}

#[test]
fn sequences_of_another_boot_topic_time_or_content_are_other_events() {
    let of = |topic, payload: &str| {
        run(
            &mapping(),
            &Sent {
                topic,
                payload: payload.as_bytes(),
                ..SENT
            },
        )
        .unwrap()
        .events[0]
            .key
    };
    let first = of("devices/b7/t", r#"{"seq":1,"boot":"a","v":1}"#);
    assert_eq!(first, of("devices/b7/t", r#"{"seq":1,"boot":"a","v":1}"#));
    // A counter of eight bits begins again after 256 messages.
    assert_ne!(first, of("devices/b7/t", r#"{"seq":1,"boot":"a","v":2}"#));
    assert_ne!(first, of("devices/b7/t", r#"{"seq":1,"boot":"b","v":1}"#));
    assert_ne!(first, of("devices/b7/t", r#"{"seq":2,"boot":"a","v":1}"#));
    assert_ne!(first, of("devices/b7/u", r#"{"seq":1,"boot":"a","v":1}"#));
    // A device that always says 0.
    let zero = |ts| of("devices/b7/t", &format!(r#"{{"seq":0,"ts":{ts}}}"#));
    assert_eq!(zero(1_772_366_390), zero(1_772_366_390));
    assert_ne!(zero(1_772_366_390), zero(1_772_366_391));
}

#[test]
fn content_counts_only_with_a_clock_finer_than_a_second() {
    let tasmota = Mapping {
        sequence: None,
        ..mapping()
    };
    for (payload, source) in [
        (r#"{"ts":1772366390123,"P":"ON"}"#, IdSource::Content),
        (r#"{"ts":1772366390.25,"P":"ON"}"#, IdSource::Content),
        (
            r#"{"ts":"2026-03-01T11:59:50.5Z","P":"ON"}"#,
            IdSource::Content,
        ),
        (r#"{"ts":1772366390,"P":"ON"}"#, IdSource::None),
        (r#"{"ts":"2026-03-01T11:59:50Z","P":"ON"}"#, IdSource::None),
        (r#"{"ts":86400123,"P":"ON"}"#, IdSource::None),
        (r#"{"ts":4102444800123,"P":"ON"}"#, IdSource::None),
        (r#"{"P":"ON"}"#, IdSource::None),
    ] {
        assert_eq!(event(&tasmota, payload).id_source, source, "{payload}");
    }
    let content = Mapping {
        dedup: Dedup::Content,
        ..tasmota
    };
    assert_eq!(
        event(&content, r#"{"P":"ON"}"#).key,
        event(&content, r#"{"P":"ON"}"#).key
    );
    assert_ne!(
        event(&content, r#"{"P":"ON"}"#).key,
        event(&content, r#"{"P": "ON"}"#).key
    );
}

#[test]
fn two_equal_readings_without_a_clock_are_two_events() {
    let of = |nonce| {
        run(
            &mapping(),
            &Sent {
                payload: b"21.5",
                nonce,
                ..SENT
            },
        )
        .unwrap()
        .events
        .swap_remove(0)
    };
    assert_ne!(of(1).key, of(2).key);
    let on_off_on = r#"[{"P":"ON"},{"P":"OFF"},{"P":"ON"}]"#;
    let keys: Vec<_> = events(&mapping(), on_off_on)
        .iter()
        .map(|event| event.key)
        .collect();
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
}

#[test]
fn equal_elements_of_a_batch_are_two_readings_however_they_are_batched() {
    let keys = |payload: &str| -> Vec<_> {
        events(&mapping(), payload)
            .iter()
            .map(|event| event.key)
            .collect()
    };
    let a = r#"{"ts":1772366390123,"v":1}"#;
    let b = r#"{"ts":1772366390124,"v":1}"#;
    let both = keys(&format!("[{a},{a},{b}]"));
    assert_ne!(both[0], both[1]);
    assert_eq!(keys(&format!("[{b},{a}]")), [both[2], both[0]]);
    assert_eq!(keys(&format!("[{a}, {a}]")), both[..2]);
}

#[test]
fn what_is_around_a_batch_tells_its_elements_apart() {
    let split = Mapping {
        split: Some(pointer("/r")),
        ..mapping()
    };
    let of = |payload| event(&split, payload).key;
    let first = of(r#"{"sensor":"a","r":[{"ts":1772366390123,"v":1}]}"#);
    assert_eq!(
        first,
        of(r#"{"sensor":"a","r":[{"ts":1772366390123,"v":1}]}"#)
    );
    assert_ne!(
        first,
        of(r#"{"sensor":"b","r":[{"ts":1772366390123,"v":1}]}"#)
    );
}

#[test]
fn elements_share_what_is_around_them() {
    let split = Mapping {
        split: Some(pointer("/r")),
        ..with_id(&["/mid"])
    };
    let payload = r#"{"mid":"m","ts":1772366390,"boot":"x","hw":{"rev":2,"old":true,"no":null},
        "r":[{"v":1},{"v":2,"ts":1772366391},{"v":3,"mid":"own"}]}"#;
    let events = events(&split, payload);
    let ids: Vec<_> = events
        .iter()
        .map(|event| event.id.as_deref().unwrap())
        .collect();
    assert_eq!(ids, ["m/0", "m/1", "own"]);
    assert_eq!(measured(&events[0]), [("v", &Value::Int(1))]);
    assert_eq!(
        tags(&events[0]),
        [("boot", "x"), ("hw.rev", "2"), ("hw.old", "true")]
    );
    assert_eq!(events[0].time, Timestamp::from_millis(1_772_366_390_000));
    assert_eq!(events[1].time, Timestamp::from_millis(1_772_366_391_000));
    assert!(
        tags(&events[1]).contains(&("ts", "1772366390")),
        "the time of the batch is not lost"
    );
}

#[test]
fn a_tag_whose_name_is_taken_gets_a_number() {
    let mapping = Mapping {
        split: Some(pointer("/r")),
        tags: vec![("boot".into(), "mine".into())],
        ..mapping()
    };
    let event = event(
        &mapping,
        r#"{"boot":"x","a.b":1,"a":{"b":2},"r":[{"v":1}]}"#,
    );
    assert_eq!(
        tags(&event),
        [
            ("boot", "mine"),
            ("boot.2", "x"),
            ("a.b", "1"),
            ("a.b.2", "2")
        ]
    );
}

/// Would not end within hours if each tag tried every number.
#[test]
fn a_hundred_thousand_tags_of_one_name_are_numbered() {
    let mut tags: Vec<Tag> = vec![("a".into(), "1".into()); 100_000];
    tags[1].0 = "a.3".into();
    number_repeated(&mut tags);
    assert_eq!(
        (&*tags[1].0, &*tags[2].0, &*tags[3].0),
        ("a.3", "a.2", "a.4")
    );
    let names: HashSet<_> = tags.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), tags.len());
}

/// Would not end within minutes if each element searched what is around it.
#[test]
fn many_elements_with_much_around_them_and_many_pointers_are_read() {
    let exclude = (0..1_000).map(|n| pointer(&format!("/x{n}"))).collect();
    let split = Mapping {
        split: Some(pointer("/r")),
        exclude,
        ..mapping()
    };
    let around: Vec<_> = (0..4_900).map(|n| format!("\"n{n}\":null")).collect();
    let elements = ["1"; 5_000].join(",");
    let payload = format!(
        r#"{{"ts":1772366390,"boot":"b",{},"r":[{elements}]}}"#,
        around.join(",")
    );
    let events = events(&split, &payload);
    assert_eq!(events.len(), 5_000);
    assert!(events.iter().all(|event| tags(event) == [("boot", "b")]));
}

#[test]
fn an_explicit_id_on_a_batch_counts_with_the_number_of_the_element() {
    let user = [("idempotency-key", "p")];
    let of = |payload: &str| {
        run(
            &mapping(),
            &Sent {
                payload: payload.as_bytes(),
                user: &user,
                ..SENT
            },
        )
        .unwrap()
        .events
    };
    let batch = of(r#"[{"v":1},{"v":1}]"#);
    assert_eq!(batch[0].id.as_deref(), Some("p/0"));
    assert_ne!(batch[0].key, batch[1].key);
    assert_ne!(batch[0].key, of(r#"{"v":1}"#)[0].key);
}

#[test]
fn the_number_of_a_batch_counts_with_the_number_of_the_element() {
    let split = Mapping {
        split: Some(pointer("/r")),
        ..mapping()
    };
    let keys = |payload| {
        events(&split, payload)
            .iter()
            .map(|event| event.key)
            .collect::<Vec<_>>()
    };
    let shared = keys(r#"{"seq":1,"boot":"x","r":[{"v":1},{"v":1}]}"#);
    assert_ne!(shared[0], shared[1]);
    let own = keys(r#"{"boot":"x","r":[{"seq":1,"v":1},{"seq":2,"v":1}]}"#);
    assert_eq!(
        own[1],
        keys(r#"{"boot":"x","r":[{"seq":2,"v":1}]}"#)[0],
        "re-batching changes nothing"
    );
}

#[test]
fn elements_with_the_same_number_or_id_are_not_each_others_duplicates() {
    let keys = |mapping: &Mapping, payload: &str| {
        let events = events(mapping, payload);
        events.iter().map(|event| event.key).collect::<Vec<_>>()
    };
    let by_sequence = [
        r#"{"seq":5,"ts":1772366390,"n":"t","v":1}"#,
        r#"{"seq":5,"ts":1772366390,"n":"h","v":2}"#,
        r#"{"seq":5,"ts":1772366390,"n":"t","v":1}"#,
    ];
    let by_id = [
        r#"{"mid":"m","n":"t","v":1}"#,
        r#"{"mid":"m","n":"h","v":2}"#,
        r#"{"mid":"m","n":"t","v":1}"#,
    ];
    for (mapping, elements) in [
        (mapping(), by_sequence),
        (with_id(&["/mid"]), by_id),
        (with_id(&["/mid", "/mid"]), by_id),
    ] {
        let batch = format!("[{}]", elements.join(","));
        let whole = keys(&mapping, &batch);
        let distinct: HashSet<_> = whole.iter().collect();
        assert_eq!(distinct.len(), 3, "{batch}");
        assert_eq!(keys(&mapping, &batch), whole, "a resend is the same");
    }
    let whole = keys(&mapping(), &format!("[{}]", by_sequence.join(",")));
    for (element, key) in by_sequence[..2].iter().zip(&whole) {
        assert_eq!(
            keys(&mapping(), &format!("[{element}]")),
            [*key],
            "re-batching changes nothing"
        );
    }
    let ids: Vec<_> = events(&with_id(&["/mid"]), &format!("[{}]", by_id.join(",")))
        .into_iter()
        .map(|event| event.id.unwrap().to_string())
        .collect();
    assert_eq!(ids, ["m", "m.2", "m.3"]);
}

#[test]
fn the_number_of_an_element_counts_with_what_is_around_it() {
    let split = Mapping {
        split: Some(pointer("/r")),
        ..mapping()
    };
    let of = |sensor| {
        let payload = format!(r#"{{"boot":"x","sensor":"{sensor}","r":[{{"seq":1,"v":1}}]}}"#);
        event(&split, &payload).key
    };
    assert_eq!(of("a"), of("a"));
    assert_ne!(of("a"), of("b"));
}

#[test]
fn a_batch_whose_bad_element_repeats_the_id_of_another_stays_together() {
    let by_id = with_id(&["/mid"]);
    // Alone, the second would take the key of the first and be lost when retried.
    let repeated = r#"[{"mid":"m","v":1},{"mid":"m","ts":"never"},{"mid":"o"}]"#;
    assert_eq!(class(&by_id, repeated), Class::Type);
    let own = r#"[{"mid":"m","v":1},{"mid":"n","ts":"never"},{"mid":"m","v":2}]"#;
    let sent = Sent {
        payload: own.as_bytes(),
        ..SENT
    };
    assert_eq!(run(&by_id, &sent).unwrap().events.len(), 2);
}

#[test]
fn bad_elements_come_back_in_a_payload_that_gives_only_them() {
    let split = Mapping {
        split: Some(pointer("/r")),
        time: Some(Time {
            at: pointer("/ts"),
            fallback: None,
            unit: Unit::Auto,
            required: false,
        }),
        ..mapping()
    };
    let payload =
        r#"{"boot":"x","r":[{"seq":1},{"seq":2,"ts":"never"},{"seq":3},{"seq":4,"ts":true}]}"#;
    let user = [("idempotency-key", "p")];
    let done = run(
        &split,
        &Sent {
            payload: payload.as_bytes(),
            user: &user,
            ..SENT
        },
    )
    .unwrap();
    let ids: Vec<_> = done
        .events
        .iter()
        .map(|event| event.id.as_deref().unwrap())
        .collect();
    assert_eq!(ids, ["p/0", "p/2"]);
    let rejected = done.rejected.unwrap();
    assert_eq!(
        rejected.reject.to_string(),
        "type: element 1: \"never\" is not a time with an offset from UTC (RFC 3339) (2 of 4 elements cannot be used)"
    );
    assert_eq!(
        String::from_utf8_lossy(&rejected.payload),
        r#"{"boot":"x","r":[null,{"seq":2,"ts":"never"},null,{"seq":4,"ts":true}]}"#
    );
    // With a mapping that takes them, the rest becomes the very events that were missing.
    let mended = Mapping {
        time: None,
        ..split
    };
    let retried = run(
        &mended,
        &Sent {
            payload: &rejected.payload,
            user: &user,
            ..SENT
        },
    )
    .unwrap();
    let whole = run(
        &mended,
        &Sent {
            payload: payload.as_bytes(),
            user: &user,
            ..SENT
        },
    )
    .unwrap();
    let keys = |events: &[Event]| events.iter().map(|event| event.key).collect::<Vec<_>>();
    assert_eq!(
        keys(&retried.events),
        [whole.events[1].key, whole.events[3].key]
    );
}

#[test]
fn bad_elements_come_back_with_the_digits_they_were_sent_with() {
    let payload =
        r#"{"h\"":1.10,"r":[1,{"ts":"never","v":[0.10000000000000000555,1e2,-0.0],"é\\":null}]}"#;
    let split = Mapping {
        split: Some(pointer("/r")),
        ..mapping()
    };
    let sent = Sent {
        payload: payload.as_bytes(),
        ..SENT
    };
    let rejected = run(&split, &sent).unwrap().rejected.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&rejected.payload),
        payload.replace("[1,", "[null,")
    );
}

#[test]
fn a_batch_without_a_good_element_is_rejected_whole() {
    assert_eq!(
        class(&mapping(), r#"[{"ts":"never"},{"ts":[]}]"#),
        Class::Type
    );
    assert_eq!(class(&mapping(), r#"[{"v":1},5]"#), Class::Type);
    let split = Mapping {
        split: Some(pointer("/r")),
        ..mapping()
    };
    assert_eq!(class(&split, r#"{"r":{}}"#), Class::Type);
    assert_eq!(class(&split, "{}"), Class::Type);
    assert_eq!(class(&split, r#"{"r":[]}"#), Class::Empty);
}

#[test]
fn elements_of_a_split_array_need_not_be_objects() {
    let split = Mapping {
        split: Some(pointer("/r")),
        ..mapping()
    };
    let events = events(&split, r#"{"ts":1772366390123,"r":[1,2.5]}"#);
    assert_eq!(measured(&events[1]), [("value", &Value::Float(2.5))]);
    assert_ne!(events[0].key, events[1].key);
}

#[test]
fn payloads_that_would_swell_are_refused() {
    let split = Mapping {
        split: Some(pointer("/r")),
        ..mapping()
    };
    let header: Vec<String> = (0..200).map(|n| format!("\"h{n}\":1")).collect();
    let elements = vec!["{\"v\":1}"; 200].join(",");
    let payload = format!("{{{},\"r\":[{elements}]}}", header.join(","));
    assert_eq!(class(&split, &payload), Class::Limit);
    let name = "n".repeat(measure::NAME_BYTES_MAX);
    assert_eq!(
        event(&mapping(), &format!("{{\"{name}\":1}}"))
            .measurements
            .len(),
        1
    );
    assert_eq!(
        class(&mapping(), &format!("{{\"{name}\":{{\"a\":1}}}}")),
        Class::Limit
    );
    assert_eq!(
        class(&mapping(), &format!("{{\"{name}n\":1}}")),
        Class::Limit
    );
}

fn value(name: &str, at: Option<&str>, kind: Kind, required: bool) -> Measured {
    Measured {
        name: name.into(),
        at: at.map(pointer),
        kind,
        unit: Some("Cel".into()),
        required,
    }
}

#[test]
fn named_values_are_taken_and_nothing_else() {
    let mapping = Mapping {
        values: vec![
            value("t", Some("/a/b"), Kind::Number, true),
            value("deep", Some("/a"), Kind::Any, false),
            value("name", None, Kind::Text, false),
            value("on", None, Kind::Boolean, false),
        ],
        ..mapping()
    };
    let event = event(
        &mapping,
        r#"{"a":{"b":"21.50"},"name":"x","on":true,"other":1}"#,
    );
    assert_eq!(
        measured(&event),
        [
            ("t", &Value::Float(21.5)),
            ("deep.b", &Value::Text("21.50".into())),
            ("name", &Value::Text("x".into())),
            ("on", &Value::Bool(true)),
        ]
    );
    assert!(
        event
            .measurements
            .iter()
            .all(|m| m.unit.as_deref() == Some("Cel"))
    );
    for (payload, expect) in [
        (r#"{"a":{"b":true}}"#, Class::Type),
        (r#"{"a":{"b":"21,5"}}"#, Class::Type),
        (r#"{"a":{"b":{}}}"#, Class::Type),
        (r#"{"a":{"b":1},"on":1}"#, Class::Type),
        (r#"{"a":{"b":1},"name":1}"#, Class::Type),
        (r#"{"a":{"b":"1e999"}}"#, Class::Range),
        (r#"{"a":{"b":null}}"#, Class::Missing),
        (r#"{"name":"x"}"#, Class::Missing),
    ] {
        assert_eq!(class(&mapping, payload), expect, "{payload}");
    }
}

#[test]
fn a_message_that_has_none_of_the_named_values_is_not_dropped_silently() {
    let mapping = Mapping {
        values: vec![value("t", None, Kind::Any, false)],
        ..mapping()
    };
    assert_eq!(class(&mapping, r#"{"temperature":21}"#), Class::Missing);
    assert_eq!(event(&mapping, r#"{"t":null}"#).measurements, []);
}

#[test]
fn a_number_that_is_none_is_kept_as_bad() {
    let mapping = Mapping {
        format: Format::Scalar,
        ..mapping()
    };
    let mapping = Mapping {
        values: vec![value("t", None, Kind::Number, true)],
        ..mapping
    };
    let bad = Measurement {
        name: "t".into(),
        value: Value::Null,
        unit: Some("Cel".into()),
        bad: true,
        time: None,
    };
    assert_eq!(event(&mapping, "nan").measurements, [bad]);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn mappings() -> Vec<Mapping> {
        let split = Mapping {
            split: Some(pointer("/a")),
            ..with_id(&["/b"])
        };
        let values = Mapping {
            values: vec![value("t", None, Kind::Number, false)],
            ..mapping()
        };
        let cbor = Mapping {
            format: Format::Cbor,
            ..mapping()
        };
        vec![mapping(), claimed(), split, values, cbor]
    }

    /// Text that is often JSON, with the names that mappings look for.
    fn payload() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            r#"([\[\]{},:]|"(ts|seq|boot|dev|a|b)":|1772366390123|null|true|1\.5e3|"x"){0,30}"#
                .prop_map(String::into_bytes),
            r#"\[(\{"ts":(1772366390[0-9]{0,3}|null|"x"),"a":[0-9]\},?){0,5}\]"#
                .prop_map(|text| text.replace(",]", "]").into_bytes()),
        ]
    }

    proptest! {
        #[test]
        fn any_payload_gives_events_or_a_reason_and_the_same_ones_again(payload in payload(), which in 0..5usize) {
            let mapping = &mappings()[which];
            let sent = Sent { payload: &payload, ..SENT };
            match (run(mapping, &sent), run(mapping, &sent)) {
                (Ok(first), Ok(second)) => {
                    prop_assert!(!first.events.is_empty());
                    prop_assert_eq!(&first.events, &second.events);
                    prop_assert_eq!(first.rejected, second.rejected);
                }
                (Err(first), Err(second)) => prop_assert_eq!(first, second),
                _ => prop_assert!(false, "once events, once a reason"),
            }
        }

        #[test]
        fn every_event_of_a_message_that_its_operator_gave_no_id_has_its_own_key(payload in payload()) {
            if let Ok(done) = run(&Mapping { sequence: None, ..mapping() }, &Sent { payload: &payload, ..SENT }) {
                let keys: std::collections::HashSet<_> = done.events.iter().map(|event| event.key).collect();
                prop_assert_eq!(keys.len(), done.events.len());
            }
        }

        #[test]
        fn events_survive_the_store(payload in payload()) {
            if let Ok(done) = run(&mapping(), &Sent { payload: &payload, ..SENT }) {
                for event in done.events {
                    let mut stored = Vec::new();
                    event.to_cbor(&mut stored);
                    prop_assert_eq!(Event::from_cbor(&stored).unwrap(), event);
                }
            }
        }
    }
}

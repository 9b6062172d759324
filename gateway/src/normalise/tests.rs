//! The rules of `normalise` and `identity`, on small mappings.

mod batches;
mod docs;
mod expressions;
mod identities;
mod lenient;
mod penstock;
mod protocols;
mod sparkplug;
mod swelling;
mod values;

use super::{
    mapping::{Dedup, Device, Kind, Measured, Sequence, Time},
    pointer::Pointer,
    template::Template,
    timestamp::Unit,
    *,
};
use crate::event::{IdSource, Measurement, TimeSource, Value};

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
    identity: Option<&'a str>,
    content_type: Option<&'a str>,
    payload: &'a [u8],
    user: &'a [(&'a str, &'a str)],
    nonce: u8,
}

const SENT: Sent<'_> = Sent {
    topic: "devices/b7/telemetry",
    client_id: "c1",
    identity: None,
    content_type: None,
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
        identity: sent.identity,
        payload: sent.payload,
        content_type: sent.content_type,
        user: &user,
        received: RECEIVED,
        nonce: [sent.nonce; 16],
        delivery: None,
        births: &Births::default(),
    };
    let resolved = mapping
        .resolve(sent.topic, None)
        .expect("the mapping takes the topic");
    normalise(mapping, &resolved, &message, &mut Scratch::default())
}

#[test]
fn a_device_that_is_the_user_is_the_one_that_was_let_in() {
    let topic = topic::Template::parse("telemetry").unwrap();
    let mapping = Mapping {
        device: Device::Text(Template::parse("{user}", topic.names()).unwrap()),
        topic,
        ..mapping()
    };
    let sent = |identity| {
        let sent = Sent {
            topic: "telemetry",
            client_id: "somebody-else",
            identity,
            payload: b"{\"v\":1}",
            ..SENT
        };
        run(&mapping, &sent)
    };
    assert_eq!(&*sent(Some("line-3")).unwrap().events[0].device, "line-3");
    let anonymous = sent(None).unwrap_err();
    assert_eq!(anonymous.class, Class::Missing);
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

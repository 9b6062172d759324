//! An event of one gateway is the same event at the next one.

use proptest::prelude::*;

use super::*;
use crate::event::{
    Marks, Quality, View,
    message::{KEY_PROPERTY, Payload, escape},
};

fn event_of(device: &str, measurements: Vec<Measurement>) -> Event {
    Event {
        key: crate::event::Key([0xab; 16]),
        id: Some("m-1".into()),
        id_source: IdSource::Sequence,
        kind: "env".into(),
        device: device.into(),
        site: Some("pune".into()),
        time: Timestamp::from_millis(1_772_366_390_123),
        time_source: TimeSource::Device,
        received: Timestamp::from_millis(1_772_366_390_500),
        sequence: Some(7),
        partition_key: None,
        topic: "plant/a".into(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        measurements,
        tags: vec![("line".into(), "L1".into()), ("boot".into(), "x".into())],
        marks: Marks::default(),
        corrected: None,
        replayed: None,
    }
}

fn measurements() -> Vec<Measurement> {
    let one = |name: &str, value: Value, quality, time| Measurement {
        name: name.into(),
        value,
        unit: Some("Cel".into()),
        quality,
        time,
    };
    let at = Timestamp::from_millis(1_772_366_380_000);
    vec![
        one("t", Value::Float(21.0), Quality::Good, Some(at)),
        one("m.0.n", Value::Int(-3), Quality::Uncertain, None),
        one("big", Value::UInt(u64::MAX), Quality::Good, None),
        one("none", Value::Null, Quality::Bad, None),
        one("raw", Value::Bytes(vec![0, 255]), Quality::Good, None),
        one(
            "list",
            Value::Array(vec![Value::Int(1), Value::Null]),
            Quality::Good,
            None,
        ),
    ]
}

/// The ways in which an event gets to another gateway: its payload and content type.
fn forms(event: &Event) -> Vec<(Vec<u8>, Option<&'static str>)> {
    let mut stored = Vec::new();
    event.to_cbor(&mut stored);
    let view = View::parse(&stored).unwrap();
    let mut all = Vec::new();
    for payload in [Payload::Json, Payload::Cbor] {
        all.push((payload.encode(&view), Some(payload.media_type())));
        // What MQTT 3.1.1 cannot say.
        all.push((payload.encode(&view), None));
    }
    all
}

fn received(event: &Event, payload: &[u8], content_type: Option<&str>, key: bool) -> Event {
    let mut topic = String::from("devices/");
    escape(&event.device, &mut topic);
    topic.push_str("/env");
    let hex = event.key.to_string();
    let user = [(KEY_PROPERTY, &*hex)];
    let sent = Sent {
        topic: &topic,
        payload,
        content_type,
        user: if key { &user } else { &[] },
        ..SENT
    };
    let mut done = run(&mapping(), &sent).unwrap();
    assert_eq!(done.rejected, None);
    assert_eq!(done.events.len(), 1);
    done.events.swap_remove(0)
}

#[test]
fn a_unit_beyond_its_bound_is_a_text_like_any_other() {
    for (length, is_unit) in [(256, true), (257, false)] {
        let unit = "u".repeat(length);
        let mut measurements = measurements();
        measurements.truncate(1);
        measurements[0].unit = Some(unit.as_str().into());
        let sent = event_of("b7", measurements);
        for (payload, content_type) in forms(&sent) {
            let got = received(&sent, &payload, content_type, false);
            let mut units = got.measurements.iter();
            assert_eq!(units.any(|m| m.unit.as_deref() == Some(&unit)), is_unit);
            let mut texts = got.measurements.iter();
            let text = Value::Text(unit.clone());
            assert_eq!(texts.any(|m| m.value == text), !is_unit, "nothing is lost");
        }
    }
}

#[test]
fn an_event_is_the_same_event_at_the_next_gateway() {
    for device in ["b7", "hall/b 7"] {
        let sent = event_of(device, measurements());
        let mut keys = Vec::new();
        for (payload, content_type) in forms(&sent) {
            for with_key in [true, false] {
                let got = received(&sent, &payload, content_type, with_key);
                assert_eq!(*got.device, *sent.device);
                assert_eq!(got.time, sent.time);
                assert_eq!(got.time_source, sent.time_source);
                assert_eq!(got.kind, sent.kind);
                assert_eq!(got.sequence, sent.sequence);
                assert_eq!(got.traceparent, sent.traceparent);
                assert_eq!(got.measurements, sent.measurements);
                assert_eq!(got.id_source, IdSource::Explicit);
                let id = got.id.as_deref().unwrap();
                assert!(id.ends_with(&sent.key.to_string()), "{id}");
                let tag = |name: &str| {
                    let mut tags = got.tags.iter();
                    tags.find(|(n, _)| **n == *name)
                        .map(|(_, text)| text.to_string())
                };
                assert_eq!(tag("line").as_deref(), Some("L1"));
                assert_eq!(tag("ceid").as_deref(), Some("m-1"));
                assert_eq!(tag("site").as_deref(), Some("pune"));
                assert_eq!(
                    tag("recordedtime").as_deref(),
                    Some("2026-03-01T11:59:50.5Z")
                );
                keys.push(got.key);
            }
        }
        keys.dedup();
        assert_eq!(keys.len(), 1, "every way to one key");
    }
}

#[test]
fn a_compressed_event_is_the_same_event_where_the_dictionary_is_known() {
    let dictionary = crate::dictionary::tests::dictionary();
    let packer = crate::dictionary::Packer::new(&dictionary).unwrap();
    let knowing = Mapping {
        dictionaries: crate::dictionary::Known::new(&[dictionary]).unwrap(),
        ..mapping()
    };
    let event = event_of("b7", measurements());
    for (payload, content_type) in forms(&event) {
        let frame = packer.pack(&payload).unwrap();
        let sent = |payload| Sent {
            payload,
            content_type,
            ..SENT
        };
        let got = run(&knowing, &sent(&frame)).unwrap();
        let plain = run(&knowing, &sent(&payload)).unwrap();
        assert_eq!(got.events, plain.events);
        let reject = run(&mapping(), &sent(&frame)).unwrap_err();
        assert_eq!(reject.class, Class::Unsupported);
        assert!(reject.reason.contains("does not have"), "{reject}");
    }
}

#[test]
fn a_time_of_receipt_stays_one() {
    let sent = Event {
        time_source: TimeSource::Received,
        ..event_of("b7", measurements())
    };
    let (payload, content_type) = forms(&sent).swap_remove(0);
    let got = received(&sent, &payload, content_type, true);
    assert_eq!(
        (got.time, got.time_source),
        (sent.time, TimeSource::Received)
    );
}

#[test]
fn a_correction_is_another_event_than_what_it_corrects() {
    let sent = event_of("b7", measurements());
    let corrected = Event {
        corrected: Some(Timestamp::from_millis(1_772_366_395_000)),
        ..sent.clone()
    };
    let got = |event: &Event, by_property: bool| {
        let mut stored = Vec::new();
        event.to_cbor(&mut stored);
        let view = View::parse(&stored).unwrap();
        let key = view.attributes.delivery_key().to_string();
        let user = [(KEY_PROPERTY, &*key)];
        let payload = Payload::Json.encode(&view);
        let sent = Sent {
            payload: &payload,
            user: if by_property { &user } else { &[] },
            ..SENT
        };
        run(&mapping(), &sent).unwrap().events[0].key
    };
    assert_ne!(got(&sent, false), got(&corrected, false));
    assert_eq!(got(&corrected, false), got(&corrected, true));
}

#[test]
fn after_two_gateways_it_still_says_where_it_comes_from() {
    let sent = event_of("b7", measurements());
    let first = forms(&sent).swap_remove(0);
    let second = received(&sent, &first.0, first.1, true);
    let again = forms(&second).swap_remove(0);
    let third = received(&second, &again.0, again.1, true);
    assert_eq!(third.measurements, sent.measurements);
    let tag = |name: &str| {
        let mut tags = third.tags.iter();
        tags.find(|(n, _)| **n == *name)
            .map(|(_, text)| text.to_string())
    };
    assert_eq!(tag("cesource").as_deref(), Some("/pune/b7"));
    assert_eq!(tag("cesource.2"), None);
}

#[test]
fn who_may_not_speak_for_a_device_does_not_by_such_an_event() {
    let (payload, content_type) = forms(&event_of("victim", measurements())).swap_remove(0);
    let sent = Sent {
        topic: "devices/b7/env",
        payload: &payload,
        content_type,
        ..SENT
    };
    let got = run(&mapping(), &sent).unwrap().events.swap_remove(0);
    assert_eq!(&*got.device, "b7");
}

#[test]
fn a_device_that_is_called_like_an_escaped_name_keeps_its_name() {
    let own = event_of("hall/b 7", measurements());
    let (payload, canonical) = forms(&own).swap_remove(0);
    let device = |payload: &[u8], content_type, user| {
        let sent = Sent {
            topic: "devices/hall%2Fb 7/env",
            payload,
            content_type,
            user,
            ..SENT
        };
        run(&mapping(), &sent).unwrap().events[0].device.clone()
    };
    assert_eq!(&*device(&payload, canonical, &[]), "hall/b 7");
    assert_eq!(&*device(&payload, None, &[]), "hall/b 7", "MQTT 3.1.1");
    for content_type in [Some("application/json"), Some("application/cbor; x=1")] {
        let json = content_type == Some("application/json");
        let payload = if json {
            payload.clone()
        } else {
            forms(&own).swap_remove(2).0
        };
        let of = device(&payload, content_type, &[]);
        assert_eq!(&*of, "hall%2Fb 7", "{content_type:?}");
    }
    let user: &[(&str, &str)] = &[("line", "L1")];
    assert_eq!(&*device(&payload, None, user), "hall%2Fb 7");
    let text = String::from_utf8(payload).unwrap();
    for (was, is) in [
        (r#""subject":"hall/b 7""#, r#""subject":"hall/b 8""#),
        (r#""source":"/pune/hall%2Fb%207""#, r#""source":"/pune/x""#),
    ] {
        let other = text.replace(was, is);
        assert_ne!(other, text, "{was}");
        assert_eq!(&*device(other.as_bytes(), canonical, &[]), "hall%2Fb 7");
    }
}

#[test]
fn a_batch_of_them_is_a_batch_of_events() {
    let mut sent = vec![
        event_of("b7", measurements()),
        event_of("b7", measurements()),
    ];
    sent[1].key = crate::event::Key([1; 16]);
    let mut batch = vec![b'['];
    for (n, event) in sent.iter().enumerate() {
        if n > 0 {
            batch.push(b',');
        }
        event.to_json(None, &mut batch);
    }
    batch.push(b']');
    let message = Sent {
        payload: &batch,
        content_type: Some("application/cloudevents-batch+json"),
        ..SENT
    };
    let got = run(&mapping(), &message).unwrap().events;
    assert_eq!(got.len(), 2);
    for (got, sent) in got.iter().zip(&sent) {
        assert_eq!(got.measurements, sent.measurements);
        assert_eq!(got.id.as_deref(), Some(&*sent.key.to_string()));
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::Float),
        any::<String>().prop_map(Value::Text),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
    ];
    leaf.prop_recursive(3, 20, 5, |inner| {
        proptest::collection::vec(inner, 0..5).prop_map(Value::Array)
    })
}

proptest! {
    #[test]
    fn any_value_comes_through(value in value()) {
        let one = Measurement {
            name: "v".into(),
            value,
            unit: None,
            quality: Quality::Good,
            time: None,
        };
        let sent = event_of("b7", vec![one]);
        for (payload, content_type) in &forms(&sent) {
            let got = received(&sent, payload, *content_type, true);
            let (mut a, mut b) = (Vec::new(), Vec::new());
            crate::event::json::value(&got.measurements[0].value, &mut a);
            crate::event::json::value(&sent.measurements[0].value, &mut b);
            prop_assert_eq!(String::from_utf8(a), String::from_utf8(b));
        }
    }
}

//! Mappings that name their values, and what holds for every payload.

use super::*;

fn value(name: &str, at: Option<&str>, kind: Kind, required: bool) -> Measured {
    Measured {
        name: name.into(),
        at: at.map(pointer),
        kind,
        unit: Some("Cel".into()),
        required,
        ..Measured::default()
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
        quality: crate::event::Quality::Bad,
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

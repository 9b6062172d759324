//! Units, conditions and derived values, as an operator writes them.

use std::path::Path;

use super::*;
use crate::config::Config;

/// The mapping of a configuration, and what else it says.
fn configured(text: &str) -> Mapping {
    let config = Config::from_text(text, Path::new(""), &|_| None);
    config.unwrap().ingest.mappings.swap_remove(0)
}

fn of(keys: &str) -> Mapping {
    configured(&format!(
        "[[mapping]]\ntopic = \"devices/{{device}}/{{type...}}\"\n{keys}"
    ))
}

fn units(event: &Event) -> Vec<(&str, &Value, Option<&str>)> {
    let measurements = event.measurements.iter();
    measurements
        .map(|m| (&*m.name, &m.value, m.unit.as_deref()))
        .collect()
}

#[test]
fn a_value_is_scaled_and_then_converted_to_the_unit_that_is_wanted() {
    let mapping = of(
        r#"values = [{ name = "t", unit = "[degF]", scale = 0.1, to = "Cel" }, { name = "u", unit = "Cel", to = "Cel" }]"#,
    );
    let converted = event(&mapping, r#"{"t":2120,"u":7}"#);
    assert_eq!(
        units(&converted),
        [
            ("t", &Value::Float(100.0), Some("Cel")),
            ("u", &Value::Int(7), Some("Cel")),
        ]
    );
    assert_eq!(class(&mapping, r#"{"u":"warm"}"#), Class::Type);
    assert_eq!(class(&mapping, r#"{"t":"warm"}"#), Class::Type);
    let huge = of(r#"values = [{ name = "t", unit = "Ym", to = "nm" }]"#);
    assert_eq!(class(&huge, r#"{"t":1e300}"#), Class::Range);
}

#[test]
fn a_site_gets_its_units_whoever_says_what_they_were() {
    let mapping = configured(
        r#"
        [units]
        temperature = "[degF]"
        energy = "kW.h"
        [[mapping]]
        topic = "devices/{device}/{type...}"
        format = "senml-json"
        "#,
    );
    let event = event(
        &mapping,
        r#"[{"n":"t","u":"Cel","v":100},{"n":"e","u":"J","v":3600000},{"n":"w","u":"kWh","v":2},{"n":"x","u":"Cel","vs":"hot"},{"n":"y","u":"lat","v":1},{"n":"z","v":5}]"#,
    );
    assert_eq!(
        units(&event),
        [
            ("t", &Value::Float(212.0), Some("[degF]")),
            ("e", &Value::Float(1.0), Some("kW.h")),
            ("w", &Value::Int(2), Some("kW.h")),
            ("x", &Value::Text("hot".into()), Some("Cel")),
            ("y", &Value::Int(1), Some("lat")),
            ("z", &Value::Int(5), None),
        ]
    );
    // What belongs to an event's identity is what was sent.
    let sent = r#"[{"n":"t","u":"Cel","v":100,"t":1772366390.5}]"#;
    let plain = of(r#"format = "senml-json""#);
    assert_eq!(
        events(&mapping, sent)[0].key,
        events(&plain, sent)[0].key,
        "a resend across a change of units is the same event"
    );
}

#[test]
fn an_integer_that_no_float_is_equal_to_keeps_its_digits_or_is_refused() {
    let counter = r#"{"c":9007199254740993}"#;
    let exact = Value::Int(9_007_199_254_740_993);
    for keys in ["scale = 0.1", "offset = 1", "unit = \"J\", to = \"kW.h\""] {
        let of = |lenient: &str| of(&format!("{lenient}\nvalues = [{{ name = \"c\", {keys} }}]"));
        assert_eq!(class(&of(""), counter), Class::Range, "{keys}");
        let near = of("lenient = [\"big-integers\"]");
        assert!(matches!(
            event(&near, counter).measurements[0].value,
            Value::Float(_)
        ));
    }
    let same = of(r#"values = [{ name = "c", unit = "J", to = "J" }]"#);
    assert_eq!(event(&same, counter).measurements[0].value, exact);
    let site = configured(
        r#"
        [units]
        energy = "kW.h"
        [[mapping]]
        topic = "devices/{device}/{type...}"
        values = [{ name = "c", unit = "J" }]
        "#,
    );
    assert_eq!(
        units(&event(&site, counter)),
        [("c", &exact, Some("J"))],
        "with all its digits it is worth more than in another unit"
    );
}

#[test]
#[cfg(feature = "cel")]
fn what_is_dropped_is_counted_and_what_is_required_and_not_so_is_quarantined() {
    let mapping = of(r#"
        drop = ["p.status == 'test'", "/heartbeat"]
        require = ["p.t > -60.0 && p.t < 150.0"]
        "#);
    let done = run(
        &mapping,
        &Sent {
            payload: br#"[{"t":1.5},{"t":2.5,"status":"test"},{"heartbeat":1},{"t":999.0},{"t":3.5,"status":7},{"heartbeat":null}]"#,
            ..SENT
        },
    )
    .unwrap();
    assert_eq!((done.events.len(), done.dropped, done.nothing), (2, 2, 0));
    let rejected = done.rejected.unwrap().elements;
    let classes: Vec<_> = rejected.iter().map(|(n, r)| (*n, r.class)).collect();
    assert_eq!(classes, [(3, Class::Range), (5, Class::Missing)]);
    let whole = run(
        &mapping,
        &Sent {
            payload: br#"{"status":"test"}"#,
            ..SENT
        },
    );
    let whole = whole.unwrap();
    assert_eq!(
        (whole.events.len(), whole.dropped, whole.nothing),
        (0, 1, 0)
    );
    assert_eq!(class(&mapping, r#"{"t":"warm"}"#), Class::Expression);
}

#[test]
#[cfg(feature = "cel")]
fn what_is_derived_sees_what_was_measured_and_what_was_derived_before() {
    let mapping = of(r#"
        values = [{ name = "u", unit = "V" }, { name = "i", unit = "A", scale = 0.001 }]
        derive = [
            { name = "p", expr = "double(v.u) * v.i", unit = "W" },
            { name = "much", expr = "v.p > 100.0" },
            { name = "where", expr = "device + ' ' + topic" },
            { name = "lost", expr = "v.nothing + 1" },
            { name = "u", expr = "v.u + payload.off" },
        ]
        "#);
    let derived = event(&mapping, r#"{"u":230,"i":500,"off":1}"#);
    assert_eq!(
        units(&derived),
        [
            ("i", &Value::Float(0.5), Some("A")),
            ("p", &Value::Float(115.0), Some("W")),
            ("much", &Value::Bool(true), None),
            (
                "where",
                &Value::Text("b7 devices/b7/telemetry".into()),
                None
            ),
            ("u", &Value::Int(231), None),
        ]
    );
    assert_eq!(class(&mapping, r#"{"u":"x","i":1}"#), Class::Expression);
}

#[test]
#[cfg(feature = "cel")]
fn a_batch_cannot_make_expressions_cost_more_than_one_message_may() {
    let mapping = of(r#"require = ["payload.all(x, payload.exists(y, x == y))"]"#);
    assert!(
        run(
            &mapping,
            &Sent {
                payload: b"[{\"a\":1},{\"a\":2}]",
                ..SENT
            }
        )
        .is_ok()
    );
    let batch = format!("[{}{{\"a\":0}}]", "{\"a\":1},".repeat(3_000));
    assert_eq!(class(&mapping, &batch), Class::Limit);
}

#[test]
#[cfg(feature = "cel")]
fn each_element_of_a_large_batch_may_ask_for_the_whole_payload() {
    let mapping = of(r#"
        split = "/readings"
        require = ["payload.site == 'pune'", "size(payload.readings) > 1", "p.kind in payload.kinds"]
        derive = [{ name = "scaled", expr = "v.t * payload.factor" }]
        "#);
    let readings = "{\"kind\":\"env\",\"t\":2.5},".repeat(1_000);
    let batch = format!(
        "{{\"site\":\"pune\",\"factor\":2.0,\"kinds\":[\"env\",\"state\"],\"readings\":[{readings}{{\"kind\":\"odd\",\"t\":1.0}}]}}"
    );
    let sent = Sent {
        payload: batch.as_bytes(),
        ..SENT
    };
    let done = run(&mapping, &sent).unwrap();
    assert_eq!(done.events.len(), 1_000);
    let scaled = done.events[999].measurements.last().unwrap();
    assert_eq!(
        (&*scaled.name, &scaled.value),
        ("scaled", &Value::Float(5.0))
    );
    let rejected = done.rejected.unwrap().elements;
    assert_eq!((rejected[0].0, rejected[0].1.class), (1_000, Class::Range));
    let dear =
        of("split = \"/readings\"\nrequire = [\"payload.readings.all(r, r.t > p.t - 9.0)\"]");
    let rejected = run(&dear, &sent).unwrap().rejected.unwrap().elements;
    assert_eq!(rejected.last().unwrap().1.class, Class::Limit);
}

#[test]
fn what_is_done_is_said_step_by_step_where_somebody_asks() {
    let mapping = configured(
        r#"
        [units]
        temperature = "K"
        [[mapping]]
        topic = "devices/{device}/{type...}"
        require = ["/t"]
        values = [{ name = "temp", at = "/t", unit = "Cel", scale = 0.1 }]
        "#,
    );
    let topic: Arc<str> = "devices/b7/telemetry".into();
    let message = Message {
        topic: &topic,
        client_id: &"c".into(),
        identity: None,
        payload: br#"{"t":215}"#,
        content_type: None,
        user: &[],
        received: RECEIVED,
        nonce: [0; 16],
        delivery: None,
        births: &Births::default(),
    };
    let resolved = mapping.resolve(&topic, None).unwrap();
    let mut scratch = Scratch::explaining();
    normalise(&mapping, &resolved, &message, &mut scratch).unwrap();
    assert_eq!(
        scratch.steps(),
        [
            "required: there is something at \"/t\"",
            "\"temp\" from \"/t\": \"215\", times 0.1, is 21.5 Cel",
            "\"temp\" from Cel to K, which the site prefers",
        ]
    );
}

#[test]
#[cfg(feature = "schema")]
fn what_is_not_as_the_schema_of_its_type_says_is_quarantined_or_tagged_element_by_element() {
    let of = |on_mismatch: &str| {
        configured(&format!(
            "[[schema]]\ntype = \"telemetry\"\nschema = '{{\"properties\":{{\"t\":{{\"type\":\"number\"}}}}}}'\non_mismatch = \"{on_mismatch}\"\n[[mapping]]\ntopic = \"devices/{{device}}/{{type...}}\""
        ))
    };
    let sent = Sent {
        payload: br#"[{"t":1},{"t":"x"}]"#,
        ..SENT
    };
    let done = run(&of("quarantine"), &sent).unwrap();
    assert_eq!((done.events.len(), done.mismatched), (1, 0));
    let rejected = done.rejected.unwrap().elements;
    assert_eq!((rejected[0].0, rejected[0].1.class), (1, Class::Schema));

    let done = run(&of("tag"), &sent).unwrap();
    assert_eq!((done.events.len(), done.mismatched), (2, 1));
    let tag = |event: &Event| event.tags.iter().any(|(name, _)| **name == *schema::TAG);
    assert_eq!((tag(&done.events[0]), tag(&done.events[1])), (false, true));

    let done = run(&of("pass"), &sent).unwrap();
    assert_eq!((done.events.len(), done.mismatched), (2, 1));
    assert!(!done.events.iter().any(tag));
    let other = Sent {
        topic: "devices/b7/other",
        ..sent
    };
    assert_eq!(run(&of("quarantine"), &other).unwrap().events.len(), 2);
}

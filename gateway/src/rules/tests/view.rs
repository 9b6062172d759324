//! Patterns see an event of the gateway as they see what destinations receive.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{
    event::{
        Event, IdSource, Key, Marks, Measurement, Quality, TimeSource, Timestamp, Value as Measured,
    },
    rules::{
        Matcher, Pattern,
        fields::Fields,
        flatten,
        json::{self, Node, Value},
        seen as seen_as,
        view::View,
    },
};

fn paths_of(node: &Node<'_>, path: &str, paths: &mut Vec<String>) {
    match &node.value {
        Value::Object(members) => {
            for member in members {
                let dot = if path.is_empty() { "" } else { "." };
                paths_of(&member.node, &format!("{path}{dot}{}", member.name), paths);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| paths_of(item, path, paths)),
        _ => paths.push(path.to_owned()),
    }
}

/// Every value by its path, with the elements around it.
fn seen(matcher: &Matcher, fields: &Fields<'_>) -> BTreeMap<u32, Vec<String>> {
    let of = |path: &u32| {
        let values = fields.values(*path).map(|value| format!("{value:?}"));
        (*path, values.collect())
    };
    assert!(!fields.touched().is_empty() && matcher.paths().len() > 1);
    fields.touched().iter().map(of).collect()
}

fn check(event: &Event) {
    let text = seen_as::of_event(event);
    let mut received = Vec::new();
    event.to_json(Some("7"), &mut received);
    let received = String::from_utf8(received).unwrap();
    assert_eq!(seen_as::of_text(&received).unwrap(), text);
    assert_eq!(seen_as::of_text(&text).unwrap(), text);
    let mut paths = Vec::new();
    paths_of(&json::parse(&text).unwrap(), "", &mut paths);
    let mut matcher = Matcher::default();
    for path in &paths {
        let pattern = format!(
            "{{{}:[{{\"exists\":true}}]}}",
            serde_json::to_string(path).unwrap()
        );
        matcher.add(0, &Pattern::parse(&pattern).unwrap());
    }
    let mut of_text = Fields::default().renewed(matcher.paths());
    flatten::flatten(&text, matcher.paths(), &mut of_text).unwrap();
    let mut of_event = Fields::default().renewed(matcher.paths());
    View::of(matcher.paths()).flatten(event, matcher.paths(), &mut of_event);
    assert_eq!(
        seen(&matcher, &of_event),
        seen(&matcher, &of_text),
        "{text}"
    );
}

fn measured() -> impl Strategy<Value = Measured> {
    let leaf = prop_oneof![
        Just(Measured::Null),
        any::<bool>().prop_map(Measured::Bool),
        any::<i64>().prop_map(Measured::Int),
        (i64::MAX as u64..).prop_map(Measured::from),
        any::<f64>().prop_map(Measured::Float),
        "[a\"ä.]{0,3}".prop_map(Measured::Text),
        prop::collection::vec(any::<u8>(), 0..4).prop_map(Measured::Bytes),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Measured::Array),
            prop::collection::vec(("[ab.]{0,2}", inner), 0..4).prop_map(Measured::Map),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_event_is_seen_as_destinations_receive_it(
        texts in prop::collection::vec(prop::option::of("[ab./]{0,3}"), 4),
        measurements in prop::collection::vec(
            ("[ab.]{0,3}", measured(), prop::option::of("[a-z]{0,2}"), 0..3_usize, prop::option::of(any::<i64>())),
            0..4,
        ),
        tags in prop::collection::vec(("[ab.]{0,2}", "[ab]{0,2}"), 0..3),
        sequence in prop::option::of(any::<u64>()),
        times in any::<(i64, i64)>(),
        late in any::<bool>(),
        corrected in prop::option::of(any::<i64>()),
        replayed in prop::option::of(any::<i64>()),
    ) {
        let text = |n: usize| texts[n].as_deref().map(Into::into);
        let event = Event {
            key: Key([0xa5; 16]),
            id: text(0),
            id_source: IdSource::Sequence,
            kind: "iot.telemetry.v1".into(),
            device: "b/7".into(),
            site: text(1),
            time: Timestamp::from_nanos(times.0),
            time_source: TimeSource::Device,
            received: Timestamp::from_nanos(times.1),
            sequence,
            partition_key: text(2),
            topic: "devices/b7/t".into(),
            traceparent: text(3),
            measurements: measurements
                .into_iter()
                .map(|(name, value, unit, quality, time)| Measurement {
                    name: name.into(),
                    value,
                    unit: unit.map(Into::into),
                    quality: Quality::WORDS[quality].1,
                    time: time.map(Timestamp::from_nanos),
                })
                .collect(),
            tags: tags.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            marks: if late { Marks::LATE } else { Marks::NONE },
            corrected: corrected.map(Timestamp::from_nanos),
            replayed: replayed.map(Timestamp::from_nanos),
        };
        check(&event);
    }
}

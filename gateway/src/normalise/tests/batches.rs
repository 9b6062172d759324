//! Payloads that become several events.

use std::collections::HashSet;

use super::*;
use crate::normalise::{element::number_repeated, mapping::Tag};

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

/// A message is told apart by its bytes, not by the numbers that were made of them.
#[test]
fn digits_that_a_double_has_not_tell_two_messages_apart() {
    let (short, long) = ("0.1", "0.10000000000000000000001");
    let reading = |v: &str| format!(r#"{{"ts":1772366390123,"v":{v}}}"#);
    let of = |payload: &str| event(&mapping(), payload);
    let (first, second) = (of(&reading(short)), of(&reading(long)));
    assert_eq!(first.measurements[0].value, second.measurements[0].value);
    assert_ne!(first.key, second.key);
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
            zone: None,
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

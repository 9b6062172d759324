//! What makes two messages the same event.

use super::*;

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
fn a_user_cannot_suppress_what_another_sends_of_a_device() {
    let key = |mapping: &Mapping, identity, payload: &[u8], user: &[(&str, &str)]| {
        let sent = Sent {
            identity,
            payload,
            user,
            ..SENT
        };
        run(mapping, &sent).unwrap().events[0].key
    };
    let explicit: &[(&str, &str)] = &[("idempotency-key", "1")];
    let cases = [
        (mapping(), &b"{\"v\":1}"[..], explicit),
        (with_id(&["/n"]), b"{\"n\":1}", &[]),
        (mapping(), b"{\"seq\":1,\"boot\":\"x\"}", &[]),
        (mapping(), b"{\"ts\":1772366390123}", &[]),
    ];
    for (mapping, payload, user) in cases {
        let of = |identity| key(&mapping, identity, payload, user);
        assert_ne!(of(Some("mallory")), of(Some("alice")));
        assert_ne!(of(Some("mallory")), of(Some("b7")));
        assert_eq!(of(Some("mallory")), of(Some("mallory")));
        // The device itself has the keys that it has where nobody is asked.
        assert_eq!(of(Some("b7")), of(None));
        // Where others are asked, nobody is not the device.
        let asked = Mapping {
            dedup_scope: mapping::Scope::Asked,
            ..mapping.clone()
        };
        let nobody = key(&asked, None, payload, user);
        for somebody in ["b7", "mallory"] {
            assert_ne!(nobody, key(&asked, Some(somebody), payload, user));
            assert_eq!(
                key(&asked, Some(somebody), payload, user),
                of(Some(somebody))
            );
        }
        let ways = Mapping {
            dedup_scope: mapping::Scope::Device,
            ..mapping.clone()
        };
        let of = |identity| key(&ways, identity, payload, user);
        assert_eq!(of(Some("gateway-1")), of(Some("gateway-2")));
    }
    let claimed = claimed();
    let of = |identity| key(&claimed, identity, b"{\"dev\":\"x\"}", explicit);
    assert_ne!(of(Some("mallory")), of(Some("alice")));
}

//! Groups and verdicts, without a store.

use bytes::Bytes;
use penstock_broker::Properties;

use super::{preparing::via, *};
use crate::{
    boots::{Boots, tests::Board},
    clock::Booted,
    event::{Event, IdSource, Marks, message::VIA_PROPERTY},
    normalise::{self, Class, Message, Scratch},
    record::{Position, Record},
    rules,
    store::{Appended, NewOriginal, NewQuarantine},
};

/// 2026-03-01T12:00:00Z.
const RECEIVED: Timestamp = Timestamp::from_millis(1_772_366_400_000);

fn publish(topic: &str, payload: &[u8]) -> Publish {
    Publish {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload),
        qos: penstock_broker::QoS::AtLeastOnce,
        retain: false,
        dup: false,
        properties: None,
        delivery: None,
    }
}

struct Group {
    entries: Vec<Entry>,
    counts: Vec<usize>,
    metrics: Metrics,
}

fn prepare(config: Config, publishes: &[Publish]) -> Group {
    prepare_by(&RuleSet::default(), config, publishes)
}

fn prepare_by(rules: &RuleSet, config: Config, publishes: &[Publish]) -> Group {
    let topics = Topics::new(config);
    let metrics = Metrics::default();
    let births = Births::default();
    let mut preparing = Preparing::new(&topics, Routes(5), rules, &metrics, &births);
    for publish in publishes {
        preparing.publish(&"c1".into(), publish, RECEIVED);
    }
    let Preparing {
        entries, counts, ..
    } = preparing;
    Group {
        entries,
        counts,
        metrics,
    }
}

fn event(entry: &Entry) -> (&NewEvent, Event) {
    match entry {
        Entry::Event(new) => (new, Event::from_cbor(&new.body).unwrap()),
        Entry::Quarantine(new) => panic!("quarantined: {}", new.reason),
    }
}

fn quarantined(entry: &Entry) -> &NewQuarantine {
    match entry {
        Entry::Quarantine(new) => new,
        Entry::Event(_) => panic!("not quarantined"),
    }
}

#[test]
fn publishes_become_entries_in_their_order() {
    let group = prepare(
        Config::default(),
        &[
            publish("devices/b7/t", br#"{"seq":1,"boot":"x","v":1}"#),
            publish("devices/b7/t", b"{"),
            publish("devices/b8/t", br#"[{"v":1},{"v":2}]"#),
            publish("plain", b"21.5"),
        ],
    );
    assert_eq!(group.counts, [1, 1, 2, 1]);
    let (new, first) = event(&group.entries[0]);
    assert_eq!(
        (new.key, new.dedup, new.routes),
        (first.key, true, Routes(5))
    );
    assert_eq!(
        (&*new.device, new.received, first.sequence),
        ("b7", RECEIVED, Some(1))
    );
    let bad = quarantined(&group.entries[1]);
    assert_eq!(
        (bad.class, &*bad.payload, &*bad.topic),
        ("syntax", &b"{"[..], "devices/b7/t")
    );
    assert_eq!(
        (&*bad.client_id, bad.received, &bad.properties),
        ("c1", RECEIVED, &None)
    );
    assert!(
        !event(&group.entries[2]).0.dedup,
        "nothing tells these readings apart"
    );
    assert_eq!(&*event(&group.entries[4]).1.device, "c1");
    let by_source: Vec<_> = group
        .metrics
        .events()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(by_source, [(IdSource::Sequence, 1), (IdSource::None, 3)]);
    let rejects: Vec<_> = group
        .metrics
        .rejects()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert_eq!(rejects, [(Class::Syntax, 1)]);
}

#[test]
fn sparkplug_is_resolved_by_the_birth_before_it_and_commands_are_no_data() {
    let births = Births::default();
    let config = crate::config::Config::from_text(
        "[[mapping]]\ntopic = \"spBv1.0/#\"\npreset = \"sparkplug\"",
        std::path::Path::new(""),
        &|_| None,
    );
    let topics = Topics::new(config.unwrap().ingest);
    let (metrics, rules) = (Metrics::default(), RuleSet::default());
    let sent = |client_id: &str, topic: &str, payload: &[u8]| {
        // As a group of its own: what a birth said stays.
        let mut preparing = Preparing::new(&topics, Routes(1), &rules, &metrics, &births);
        preparing.publish(&client_id.into(), &publish(topic, payload), RECEIVED);
        preparing.entries
    };
    // A metric "T" with alias 1 and type double; then a value of alias 1.
    let birth = b"\x08\x01\x12\x07\x0a\x01T\x10\x01\x20\x0a\x18\0";
    let data = b"\x08\x02\x12\x0b\x10\x01\x69\0\0\0\0\0\0\xf0\x3f\x18\x01";
    let unknown = sent("c1", "spBv1.0/G/NDATA/N", data);
    assert_eq!(quarantined(&unknown[0]).class, "state");
    sent("c1", "spBv1.0/G/NBIRTH/N", birth);
    let known = sent("c1", "spBv1.0/G/NDATA/N", data);
    assert_eq!(&*event(&known[0]).1.measurements[0].name, "T");
    // Another client's births are its own affair.
    let other = sent("c2", "spBv1.0/G/NDATA/N", data);
    assert_eq!(quarantined(&other[0]).class, "state");
    assert_eq!(metrics.not_data(), 0);
    assert!(sent("c1", "spBv1.0/G/NCMD/N", data).is_empty());
    assert_eq!(metrics.not_data(), 1);
}

#[test]
fn a_topic_that_no_mapping_takes_is_quarantined() {
    let group = prepare(
        Config {
            mappings: vec![],
            ..Config::default()
        },
        &[publish("a", b"1")],
    );
    assert_eq!(quarantined(&group.entries[0]).class, "unmapped");
}

#[test]
fn an_empty_payload_is_quarantined_unless_it_clears_a_retained_message() {
    let empty = publish("devices/b7/t", b"");
    let clear = Publish {
        retain: true,
        ..empty.clone()
    };
    let retained = Publish {
        retain: true,
        ..publish("devices/b7/t", b"1")
    };
    let group = prepare(Config::default(), &[empty, clear, retained]);
    assert_eq!(group.counts, [1, 0, 1]);
    assert_eq!(quarantined(&group.entries[0]).class, "empty");
    assert_eq!(group.metrics.retained_cleared(), 1);
    event(&group.entries[1]);
}

#[test]
fn the_good_elements_of_a_batch_are_kept_and_the_bad_ones_quarantined() {
    let payload = br#"[{"v":1},{"ts":"never"},{"v":3}]"#;
    let group = prepare(Config::default(), &[publish("devices/b7/t", payload)]);
    assert_eq!(group.counts, [3]);
    let rest = quarantined(&group.entries[2]);
    assert_eq!(rest.class, "type");
    assert_eq!(rest.payload, &br#"[null,{"ts":"never"},null]"#[..]);
}

#[test]
fn a_message_that_would_swell_is_quarantined_whole() {
    let elements = vec!["{}"; 2_000].join(",");
    let topic = format!("devices/b7/{}", "t".repeat(3_000));
    let group = prepare(
        Config::default(),
        &[publish(&topic, format!("[{elements}]").as_bytes())],
    );
    assert_eq!(group.counts, [1]);
    assert_eq!(quarantined(&group.entries[0]).class, "limit");
    assert!(group.metrics.events().all(|(_, count)| count == 0));
}

#[test]
fn what_the_broker_takes_is_one_event_however_large() {
    let large = "x".repeat(8 << 20);
    let group = prepare(
        Config::default(),
        &[
            publish("devices/b7/t", large.as_bytes()),
            publish(&format!("devices/b7/{}", "t".repeat(4_000)), b"1"),
            publish(
                "devices/b7/t",
                format!("[{}]", ["{}"; 300].join(",")).as_bytes(),
            ),
        ],
    );
    assert_eq!(group.counts, [1, 1, 300]);
    for entry in &group.entries {
        event(entry);
    }
}

#[test]
fn a_batch_is_taken_apart_where_its_entries_would_take_too_much() {
    let topics = Topics::new(Config::default());
    let (metrics, rules) = (Metrics::default(), RuleSet::default());
    let text = "x".repeat(100 << 10);
    let sent = [
        publish("devices/b7/t", text.as_bytes()),
        publish("devices/b7/t", format!("{{{text}").as_bytes()),
    ];
    let batch: Vec<_> = sent.iter().cycle().take(25).cloned().collect();
    let mut batch = batch.into_iter();
    let mut sizes = Vec::new();
    while batch.len() > 0 {
        let super::Group {
            entries, counts, ..
        } = Preparing::new(&topics, Routes(1), &rules, &metrics, &Births::default()).group(
            &"c1".into(),
            &mut batch,
            RECEIVED,
        );
        assert_eq!(entries.len(), counts.len());
        sizes.push(counts.len());
    }
    assert_eq!(sizes, [11, 11, 3]);
}

#[test]
fn a_body_takes_no_more_memory_than_it_is_counted_for() {
    let spacious = format!("{{\"v\":1{}}}", " ".repeat(100_000));
    let bad = format!("[{{\"v\":1}},{{\"ts\":\"never\"{}}}]", " ".repeat(999));
    let group = prepare(
        Config::default(),
        &[
            publish("devices/b7/t", spacious.as_bytes()),
            publish("devices/b7/t", bad.as_bytes()),
        ],
    );
    let capacity = |bytes: Bytes| bytes.try_into_mut().expect("nobody shares it").capacity();
    assert_eq!(group.entries.len(), 3);
    for entry in group.entries {
        let bytes = match entry {
            Entry::Event(new) => new.body,
            Entry::Quarantine(new) => new.payload,
        };
        let length = bytes.len();
        assert_eq!(capacity(bytes), length);
    }
}

#[test]
fn a_quarantined_message_is_tried_again_with_its_properties() {
    let properties = Properties {
        content_type: Some("application/json".into()),
        user: vec![("idempotency-key".into(), "k1".into())],
        ..Properties::default()
    };
    let sent = Publish {
        properties: Some(Arc::new(properties)),
        ..publish("devices/b7/t", b"{\"v\":1}")
    };
    let nothing = Config {
        mappings: vec![],
        ..Config::default()
    };
    let group = prepare(nothing.clone(), std::slice::from_ref(&sent));
    let kept = quarantined(&group.entries[0]);
    let raw = Raw::from_quarantine(
        kept.topic.clone(),
        kept.client_id.clone(),
        kept.payload.clone(),
        kept.properties.as_deref(),
        kept.received,
    )
    .unwrap();
    let (metrics, rules) = (Metrics::default(), RuleSet::default());
    let again = |config| {
        Preparing::new(
            &Topics::new(config),
            Routes(1),
            &rules,
            &metrics,
            &Births::default(),
        )
        .retry(&raw)
    };
    assert_eq!(again(nothing).unwrap_err().class, Class::Unmapped);
    let entries = again(Config::default()).unwrap();
    let (_, retried) = event(&entries[0]);
    assert_eq!(
        (retried.id.as_deref(), retried.received),
        (Some("k1"), RECEIVED)
    );
    let direct = prepare(Config::default(), &[sent]);
    assert_eq!(
        event(&direct.entries[0]).1,
        retried,
        "as if it had been mapped at once"
    );
}

#[test]
fn what_was_quarantined_before_the_clock_was_set_gets_its_time_when_it_is_tried_again() {
    let nothing = Topics::new(Config {
        mappings: vec![],
        ..Config::default()
    });
    let (rules, metrics, births) = (RuleSet::default(), Metrics::default(), Births::default());
    let timing = Arc::new(Timing::new(Config::LATE_AFTER));
    let booted = Booted {
        id: "this".into(),
        up: std::time::Duration::from_mins(1),
    };
    let mut preparing = Preparing::new(&nothing, Routes(1), &rules, &metrics, &births)
        .timed_by(&timing, Some(&booted));
    let stamp = Timestamp::from_millis(60_000);
    preparing.publish(&"c1".into(), &publish("devices/b7/t", b"{\"v\":1}"), stamp);
    let kept = quarantined(&preparing.entries[0]);
    let raw = Raw::from_quarantine(
        kept.topic.clone(),
        kept.client_id.clone(),
        kept.payload.clone(),
        kept.properties.as_deref(),
        kept.received,
    )
    .unwrap();
    // After a restart, and in another boot too.
    let mapped = Topics::new(Config::default());
    let entries = Preparing::new(&mapped, Routes(1), &rules, &metrics, &births)
        .timed_by(&timing, None)
        .retry(&raw)
        .unwrap();
    let (new, retried) = event(&entries[0]);
    assert_eq!(retried.marks, Marks::CLOCK_UNSET);
    let dir = tempfile::tempdir().unwrap();
    // 2026-03-01T12:00:00Z, ten minutes after the start.
    let board = Board::new("this", 1_772_366_400_000);
    let repaired = Boots::new(board, dir.path()).repaired(Record {
        position: Position(1),
        key: new.key,
        received: new.received,
        routes: new.routes,
        body: new.body.clone(),
    });
    let came = Timestamp::from_millis(1_772_366_400_000 - 9 * 60_000);
    let repaired = repaired.event().unwrap();
    assert_eq!((repaired.received, repaired.time), (came, came));
    assert!(repaired.marks.is_empty());
}

/// Also from quarantine, which notes the remote broker that a message came from.
#[tokio::test]
async fn what_a_remote_broker_sent_does_not_go_back_there() {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(crate::clock::SystemClock);
    let settings = store::Config {
        dir: dir.path().to_path_buf(),
        max_bytes: 64 << 20,
        max_age: None,
        keep_delivered: None,
        on_full: store::OnFull::PushBack,
        shed: Vec::new(),
        reserve_bytes: 1 << 20,
        dedup_age: std::time::Duration::from_secs(60),
        dedup_count: 1_000,
        dedup_memory_bytes: 1 << 20,
        destinations: Vec::new(),
        from_kept: Vec::new(),
        seal: penstock_broker::seal::Seal::default(),
    };
    let (store, _) = store::Store::open(settings, clock.clone()).unwrap();
    let running = store.run().unwrap();
    let all = Routes(0b111);
    let same = HashMap::from([(Arc::from("cloud"), Routes(0b010))]);
    let rules = RuleSet::default();
    let ingest = Ingest::new(Config::default(), all, running.handle(), clock).not_back(same);
    for (origin, routes) in [
        (None, all),
        (Some("cloud"), Routes(0b101)),
        (Some("another"), all),
    ] {
        let origin: Option<Arc<str>> = origin.map(Arc::from);
        assert_eq!(ingest.routing().of(origin.as_ref()), routes, "{origin:?}");
        let topics = Topics::new(Config {
            mappings: vec![],
            ..Config::default()
        });
        let (metrics, births) = (Metrics::default(), Births::default());
        let mut preparing = Preparing::new(&topics, routes, &rules, &metrics, &births);
        preparing.origin.clone_from(&origin);
        preparing.publish(
            &"c1".into(),
            &publish("devices/b7/t", b"{\"v\":1}"),
            RECEIVED,
        );
        let kept = quarantined(&preparing.entries[0]);
        let raw = Raw::from_quarantine(
            kept.topic.clone(),
            kept.client_id.clone(),
            kept.payload.clone(),
            kept.properties.as_deref(),
            kept.received,
        )
        .unwrap();
        let counted = || ingest.metrics().events().map(|(_, n)| n).sum::<u64>();
        let before = counted();
        let retried = ingest.retry(&raw).unwrap();
        assert_eq!(event(&retried.entries[0]).0.routes, routes, "{origin:?}");
        // It may find no room, or have left quarantine meanwhile.
        assert_eq!(counted(), before);
        ingest.count(&retried.counts);
        assert_eq!(counted(), before + 1);
    }
    running.shutdown().await.unwrap();
}

#[test]
fn verdicts_say_what_is_on_disk() {
    use Appended::{Duplicate, Full, Quarantined, Stored};
    let stored = Stored(crate::record::Position(1));
    for (counts, appended, expect) in [
        (
            &[1, 1, 1][..],
            &[stored, Duplicate, Quarantined(1)][..],
            &[Verdict::Accepted, Verdict::Duplicate, Verdict::Accepted][..],
        ),
        (
            &[2, 2],
            &[stored, Duplicate, Duplicate, Duplicate],
            &[Verdict::Accepted, Verdict::Duplicate],
        ),
        (
            &[2, 1],
            &[Full, Full, Full],
            &[Verdict::Busy, Verdict::Busy],
        ),
        (
            &[0, 1],
            &[Duplicate],
            &[Verdict::Accepted, Verdict::Duplicate],
        ),
        (&[2], &[Duplicate, Quarantined(2)], &[Verdict::Accepted]),
        (&[1, 1], &[stored], &[Verdict::Accepted, Verdict::Lost]),
    ] {
        assert_eq!(
            verdicts(counts, Some(appended)),
            expect,
            "{counts:?} {appended:?}"
        );
    }
    assert_eq!(verdicts(&[1, 0], None), [Verdict::Lost, Verdict::Lost]);
}

#[test]
fn what_has_been_here_before_goes_nowhere_and_others_are_remembered() {
    let topics = Topics::new(Config::default());
    let (metrics, rules) = (Metrics::default(), RuleSet::default());
    let gateway = GatewayId::random();
    let own = gateway.as_str().clone();
    let via = |names: &[&str]| {
        let user = names
            .iter()
            .map(|name| (VIA_PROPERTY.into(), (*name).into()));
        Publish {
            properties: Some(Arc::new(Properties {
                user: user.collect(),
                ..Properties::default()
            })),
            ..publish("devices/a/env", b"1")
        }
    };
    let publisher = |origin: Option<&str>| Publisher {
        client_id: "c1".into(),
        username: None,
        identity: None,
        origin: origin.map(Arc::from),
        address: None,
        protocol: penstock_broker::Protocol::V5,
        turn: 0.into(),
        turns_over: Arc::default(),
    };
    let tags = |names: &[&str], origin| {
        let births = Births::default();
        let preparing = Preparing::new(&topics, Routes(5), &rules, &metrics, &births)
            .known_as(Some(&gateway), &publisher(origin));
        let mut publishes = [via(names)].into_iter();
        let super::Group {
            entries,
            sent,
            counts,
            returned,
            ..
        } = preparing.group(&"c1".into(), &mut publishes, RECEIVED);
        assert_eq!(counts, [entries.len()]);
        assert_eq!(sent.len(), entries.len());
        assert_eq!(returned.is_empty(), !entries.is_empty());
        let first = entries.first().map(|entry| event(entry).1.tags);
        first.map(|tags| format!("{tags:?}"))
    };
    assert_eq!(tags(&["other", &own], None), None);
    assert_eq!(metrics.circles(), 1);
    let remembered = r#"[("penstock-via", "x other")]"#;
    assert_eq!(tags(&["x", "other"], None).as_deref(), Some(remembered));
    // A remote has looked itself, and put our own mark on it.
    assert_eq!(
        tags(&["x", "other", &own], Some("r")).as_deref(),
        Some(remembered)
    );
    // No name of a gateway is passed on as one.
    assert_eq!(tags(&["a b", ""], None).as_deref(), Some("[]"));
    assert_eq!(metrics.circles(), 1);
}

#[test]
fn a_site_or_type_that_no_message_could_carry_is_quarantined() {
    let resolved = |site: usize, kind: usize| crate::normalise::Resolved {
        device: Some("d".into()),
        site: Some("!".repeat(site).into()),
        kind: "t".repeat(kind).into(),
        bare: None,
        tags: Vec::new(),
    };
    let births = Births::default();
    let message = Message {
        topic: &"devices/d/t".into(),
        client_id: &"c1".into(),
        identity: None,
        payload: b"1",
        content_type: None,
        user: &[],
        received: RECEIVED,
        nonce: [0; 16],
        delivery: None,
        births: &births,
    };
    let mapping = &Config::default().mappings[0];
    let class = |site, kind| {
        let scratch = &mut Scratch::default();
        let events = normalise::normalise(mapping, &resolved(site, kind), &message, scratch);
        events.map(|_| ()).map_err(|reject| reject.class)
    };
    assert_eq!(class(4_096, 4_096), Ok(()));
    assert_eq!(class(4_097, 1), Err(Class::Limit));
    assert_eq!(class(1, 4_097), Err(Class::Limit));
}

#[test]
fn invented_gateways_do_not_push_the_last_ones_out() {
    let name: Arc<str> = VIA_PROPERTY.into();
    let ids = (0..20).map(|n| (name.clone(), format!("id-{n}").into()));
    let all: Vec<_> = ids.collect();
    let kept = via(&all, |_| false).unwrap();
    let kept: Vec<_> = kept.split(' ').collect();
    let last: Vec<_> = (4..20).map(|n| format!("id-{n}")).collect();
    assert_eq!(kept, last);
}

mod classes;
mod lanes;
mod originals;
mod routes;

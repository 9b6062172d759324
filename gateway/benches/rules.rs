//! What rules cost: an event against one, a hundred and ten thousand of them.
//!
//! `cargo bench -p penstock --bench rules`
//!
//! `json` reads the JSON of an event of 465 bytes and matches it, as matchers elsewhere
//! are measured. `ingest` is what a message costs between socket and store.
//!
//! `cargo bench -p penstock --bench rules -- ratio` takes messages in, into a journal, with
//! ten rules, a hundred and ten thousand in turns, and prints what many rules cost ingest.

use std::{fmt::Write as _, sync::Arc};

use divan::{Bencher, black_box, counter::ItemsCount};
use penstock::{
    event::Timestamp,
    normalise::{self, Births, Mapping, Message, Scratch},
    record::{DestinationId, Routes},
    rules::{Matcher, Pattern, Rule, RuleSet, Scratch as Matching},
};

#[path = "rules/ratio.rs"]
mod ratio;

fn main() {
    match std::env::args().any(|argument| argument == "ratio") {
        true => ratio::run(),
        false => divan::main(),
    }
}

/// Events that are gone through in turn, each of another device.
const EVENTS: usize = 256;

/// Five kinds of rules in turn: a device and a range, a prefix, a device and a
/// negation, a wildcard, and an alternative.
fn pattern(n: usize) -> String {
    match n % 5 {
        0 => format!(
            r#"{{"type":["telemetry"],"device":["press-{n}"],"values":{{"temperature":[{{"numeric":[">",80]}}]}}}}"#
        ),
        1 => format!(r#"{{"mqtttopic":[{{"prefix":"devices/press-{n}/"}}]}}"#),
        2 => format!(
            r#"{{"device":["press-{n}"],"values":{{"state":[{{"anything-but":["running","idle"]}}]}}}}"#
        ),
        3 => {
            format!(r#"{{"mqtttopic":[{{"wildcard":"devices/press-{n}/*"}}],"site":["plant-7"]}}"#)
        }
        _ => format!(
            r#"{{"type":["telemetry"],"$or":[{{"device":["press-{n}"]}},{{"values":{{"line":[{n}]}}}}]}}"#
        ),
    }
}

/// An event as text, 465 bytes.
fn text(n: usize) -> String {
    let mut text = format!(
        r#"{{"specversion":"1.0","id":"m-{n:06}","source":"/plant-7/press-{n}","type":"telemetry","subject":"press-{n}","time":"2026-03-01T11:59:50.123Z","datacontenttype":"application/json","partitionkey":"press-{n}","site":"plant-7","device":"press-{n}","mqtttopic":"devices/press-{n}/telemetry","values":{{"temperature":{}.5,"humidity":40.1,"line":{n},"state":"running","ok":true}}"#,
        60 + n % 40
    );
    let _written = write!(text, r#","note":"{}"}}"#, "x".repeat(465 - text.len() - 11));
    assert_eq!(text.len(), 465);
    text
}

#[divan::bench(args = [1, 100, 10_000])]
fn json(bencher: Bencher<'_, '_>, rules: usize) {
    let mut matcher = Matcher::default();
    for n in 0..rules {
        let number = u32::try_from(n).expect("it is small");
        matcher.add(number, &Pattern::parse(&pattern(n)).expect("it is one"));
    }
    let events: Vec<_> = (0..EVENTS).map(|n| text(n * 37)).collect();
    let (mut scratch, mut found) = (Matching::default(), 0_usize);
    let mut events = events.iter().cycle();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let event = events.next().expect("it goes round");
        matcher
            .each_of_json(black_box(event), &mut scratch, |_| found += 1)
            .expect("it is an event");
    });
    black_box(found);
}

/// Decode, normalise, key, route and encode: everything between the socket and the store.
#[divan::bench(args = [0, 10, 100, 10_000])]
fn ingest(bencher: Bencher<'_, '_>, rules: usize) {
    let rule = |n| Rule {
        name: format!("r{n}").into(),
        pattern: Pattern::parse(&pattern(n)).expect("it is one"),
        class: None,
        destinations: vec!["d".into()],
        actions: penstock::rules::Actions::default(),
        schedule: None,
    };
    let rules: Vec<_> = (0..rules).map(rule).collect();
    let set = RuleSet::new(&rules, |_| Some(DestinationId(0))).expect("it is known");
    let mapping = Mapping::defaults().swap_remove(0);
    let client: Arc<str> = "press".into();
    let messages: Vec<_> = (0..EVENTS)
        .map(|n| {
            let n = n * 37;
            let topic: Arc<str> = format!("devices/press-{n}/telemetry").into();
            let resolved = mapping.resolve(&topic, None).expect("the mapping takes it");
            let payload = format!(
                r#"{{"id":"m-{n:06}","seq":{n},"boot":"a1b2c3d4","ts":"2026-03-01T11:59:50.123Z","temperature":{}.5,"humidity":40.1,"pressure":1013.25,"line":{n},"state":"running","ok":true}}"#,
                60 + n % 40
            );
            (topic, resolved, payload)
        })
        .collect();
    let (mut scratch, mut matching, births) =
        (Scratch::default(), Matching::default(), Births::default());
    let mut messages = messages.iter().cycle();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let (topic, resolved, payload) = messages.next().expect("it goes round");
        let message = Message {
            topic,
            client_id: &client,
            identity: None,
            payload: black_box(payload.as_bytes()),
            content_type: None,
            user: &[],
            received: Timestamp::from_millis(1_772_366_400_000),
            nonce: [7; 16],
            delivery: None,
            births: &births,
        };
        let events = normalise::normalise(&mapping, resolved, &message, &mut scratch)
            .expect("the payload is well-formed")
            .events;
        matching.begin_message();
        for event in events {
            if !set.is_empty() {
                black_box(set.route(&event, Routes(3), &mut matching)).expect("it is decided");
            }
            let mut body = Vec::with_capacity(512);
            event.to_cbor(&mut body);
            black_box(&body);
        }
    });
}

/// One message of ten thousand measurements, and rules that each ask for one of them:
/// it is there, and below what they ask for, while the others are above it.
#[divan::bench(args = [10, 1_000], sample_count = 20)]
fn large_message(bencher: Bencher<'_, '_>, rules: usize) {
    let rule = |n| Rule {
        name: format!("r{n}").into(),
        pattern: Pattern::parse(&format!(
            r#"{{"data":{{"m":{{"n":["x{n}"],"v":[{{"numeric":[">",80]}}]}}}}}}"#
        ))
        .expect("it is one"),
        class: None,
        destinations: vec!["d".into()],
        actions: penstock::rules::Actions::default(),
        schedule: None,
    };
    let asked: Vec<_> = (0..rules).map(rule).collect();
    let set = RuleSet::new(&asked, |_| Some(DestinationId(0))).expect("it is known");
    let mapping = Mapping::defaults().swap_remove(0);
    let (topic, client): (Arc<str>, Arc<str>) = ("devices/press/telemetry".into(), "press".into());
    let resolved = mapping.resolve(&topic, None).expect("the mapping takes it");
    let measured = (0..9_990).map(|n| format!(r#""x{n}":{}"#, if n < rules { 20 } else { 90 }));
    let payload = format!("{{{}}}", measured.collect::<Vec<_>>().join(","));
    let message = Message {
        topic: &topic,
        client_id: &client,
        identity: None,
        payload: payload.as_bytes(),
        content_type: None,
        user: &[],
        received: Timestamp::from_millis(1_772_366_400_000),
        nonce: [7; 16],
        delivery: None,
        births: &Births::default(),
    };
    let normalised = normalise::normalise(&mapping, &resolved, &message, &mut Scratch::default());
    let events = normalised.expect("the payload is well-formed").events;
    let mut matching = Matching::default();
    bencher.bench_local(|| {
        matching.begin_message();
        for event in &events {
            let routed = set.route(black_box(event), Routes(3), &mut matching);
            assert!(!routed.expect("it is decided").matched);
        }
    });
}

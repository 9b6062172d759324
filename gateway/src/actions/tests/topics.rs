//! Messages to local subscribers.

use std::sync::Arc;

use penstock_broker::seal::Seal;

use super::*;
use crate::rules::{action::Topic, transform::Transform};

fn to(topic: &str, template: Option<&str>) -> Actions {
    let paths = [("d", "$.device"), ("t", "$.values.t")];
    Actions {
        topic: Some(Topic::parse(topic, false).unwrap()),
        transform: template.map(|text| Arc::new(Transform::new(paths, text).unwrap())),
        ..Actions::default()
    }
}

const HOT: &str = r#"{"values":{"t":[{"numeric":[">",80]}]}}"#;
const ANY: &str = r#"{"device":[{"exists":true}]}"#;

#[test]
fn what_a_rule_takes_is_shown_in_the_order_of_the_journal_and_of_priority() {
    let bench = Bench::new();
    let first = Actions {
        priority: 1,
        ..to("first/{device}", Some("<d>: <t>"))
    };
    let rules = ActingSet::new(&[
        rule("a", HOT, to("hot/{device}", Some(r#"{"t": <t>}"#))),
        rule("b", ANY, first),
        rule("c", ANY, to("unwanted/{device}", None)),
    ]);
    let records = [reading(1, "x/1", 90.0), reading(2, "y", 10.5)];
    bench.act(&rules, &records).unwrap();
    let text = |topic: &str, payload: &str| (topic.to_owned(), payload.to_owned());
    let expect = [
        text("first/x%2F1", "x/1: 90.0"),
        text("hot/x%2F1", r#"{"t": 90.0}"#),
        text("first/y", "y: 10.5"),
    ];
    assert_eq!(bench.shown(), expect);
    let publishes = bench.seen.publishes.borrow();
    let property = |n: usize, name: &str| {
        let known = publishes[n].properties.clone().unwrap();
        let mut user = known.user.iter();
        let found = user.find(|(known, _)| **known == *name);
        found.map(|(_, value)| value.to_string())
    };
    assert_eq!(property(1, "penstock-rule").as_deref(), Some("a"));
    assert_eq!(property(1, "type").as_deref(), Some("telemetry"));
    let keys: Vec<_> = (0..3).map(|n| property(n, "idempotency-key")).collect();
    assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[0].is_some());
}

#[test]
fn what_was_not_shown_before_the_end_is_shown_after_the_next_start_and_only_then() {
    let bench = Bench::new();
    let rules = ActingSet::new(&[rule("a", ANY, to("t/{device}", Some("<t>")))]);
    let records = [reading(1, "x", 1.0), reading(2, "x", 2.0)];
    bench.act(&rules, &records[..1]).unwrap();
    bench.seen.ending.set(true);
    assert!(matches!(bench.act(&rules, &records), Err(Error::Ending)));
    bench.seen.ending.set(false);
    // The journal's cursor is behind: both come again.
    bench.act(&rules, &records).unwrap();
    bench.act(&rules, &records).unwrap();
    let payloads: Vec<_> = bench.shown().into_iter().map(|(_, text)| text).collect();
    assert_eq!(payloads, ["1.0", "2.0"]);
}

#[test]
fn what_does_not_read_back_is_said_and_the_rest_goes_on() {
    let bench = Bench::new();
    let rules = ActingSet::new(&[rule("a", ANY, to("t/{device}", Some("<t>")))]);
    let mut broken = reading(1, "x", 1.0);
    broken.body = broken.body.slice(..10);
    let done = bench.act(&rules, &[broken, reading(2, "x", 2.0)]).unwrap();
    assert_eq!(done.unread[0].0.position, Position(1));
    assert_eq!(bench.shown().len(), 1);
}

#[test]
fn what_a_rule_cannot_do_is_kept_and_tried_again_and_others_go_on() {
    let bench = Bench::new();
    let rules = |template: &str| {
        ActingSet::new(&[
            rule("a", ANY, to("a/{device}", Some(template))),
            rule("b", ANY, to("b", Some("<t>"))),
        ])
    };
    // A template may be small, and what it gives large.
    let device = "x".repeat(20_000);
    let huge = "<d>".repeat(60);
    bench
        .act(&rules(&huge), &[reading(1, &device, 1.0)])
        .unwrap();
    assert_eq!(bench.shown(), [("b".to_owned(), "1.0".to_owned())]);
    let mut connection = super::super::schema::open(bench.dir.path(), &Seal::default()).unwrap();
    let kept = super::super::failed::list(&connection, Some("a"), 0, 10)
        .unwrap()
        .0;
    assert_eq!((kept.len(), kept[0].position), (1, Position(1)));
    assert!(kept[0].reason.contains("longer than 1 MiB"), "{kept:?}");
    let id = kept[0].id;
    let mut retry = |template: &str| {
        let work = bench.work();
        work.retry(&mut connection, &rules(template), id).unwrap()
    };
    assert!(matches!(retry(&huge), Some(Err(_))));
    assert_eq!(retry("<t>"), Some(Ok(())));
    assert_eq!(retry("<t>"), None);
    let shown = bench.shown();
    assert_eq!(shown.len(), 2);
    assert_eq!((shown[1].0.len(), &*shown[1].1), (20_002, "1.0"));
}

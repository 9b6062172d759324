use super::*;
use crate::{
    event::{Key, Timestamp},
    record::Position,
    rules::{Pattern, tests::event_of},
};

fn rule(name: &str, pattern: &str, destinations: &[&str]) -> Rule {
    let destinations = destinations.iter().map(|name| Arc::from(*name)).collect();
    Rule::to(name, Pattern::parse(pattern).unwrap(), destinations)
}

const NOON: i64 = 1_772_366_400_000;

fn record(position: u64, device: &str, t: f64, minutes: i64) -> Record {
    let mut body = Vec::new();
    event_of(device, &[("t", t)]).to_cbor(&mut body);
    Record {
        position: Position(position),
        key: Key([7; 16]),
        received: Timestamp::from_millis(NOON + minutes * 60_000),
        routes: Routes::NONE,
        body: body.into(),
    }
}

fn asked(in_force: Vec<Rule>, changes: Vec<Rule>) -> Asked {
    Asked {
        destinations: vec!["lake".into(), "alarms".into()],
        in_force,
        changes,
        only: None,
    }
}

fn hot(above: u32) -> Rule {
    let pattern = format!(r#"{{"values":{{"t":[{{"numeric":[">",{above}]}}]}}}}"#);
    rule("hot", &pattern, &["alarms"])
}

fn report(asked: Asked) -> Report {
    let mut backtest = Backtest::new(asked).unwrap();
    for (n, (device, t, minutes)) in [
        ("b7", 90.0, 0),
        ("b7", 75.0, 10),
        ("b8", 95.0, 70),
        ("b8", 20.0, 80),
    ]
    .into_iter()
    .enumerate()
    {
        backtest.ask(&record(n as u64 + 1, device, t, minutes));
    }
    backtest.report()
}

#[test]
fn each_rule_in_force_is_told_of_by_device_and_hour() {
    let report = report(asked(vec![hot(80)], vec![]));
    assert_eq!((report.events, report.damaged, report.too_much), (4, 0, 0));
    assert_eq!(report.first.as_deref(), Some("2026-03-01T12:00:00Z"));
    assert_eq!(report.last.as_deref(), Some("2026-03-01T13:20:00Z"));
    let [hot] = &report.rules[..] else {
        panic!("{report:?}")
    };
    assert_eq!((hot.takes, hot.in_force), (2, None));
    let devices: Vec<_> = hot.devices.iter().map(|(d, n)| (&**d, *n)).collect();
    assert_eq!(devices, [("b7", 1), ("b8", 1)]);
    let hours: Vec<_> = hot.hours.iter().map(|(h, n)| (&**h, *n)).collect();
    assert_eq!(
        hours,
        [("2026-03-01T12:00:00Z", 1), ("2026-03-01T13:00:00Z", 1)]
    );
    let shown: Vec<_> = hot.examples.iter().map(|e| (e.kind, e.position)).collect();
    assert_eq!(shown, [("taken", 1), ("taken", 3)]);
    let sent: Vec<_> = report
        .destinations
        .iter()
        .map(|one| (&*one.name, one.in_force, one.then))
        .collect();
    assert_eq!(sent, [("lake", 4, None), ("alarms", 2, None)]);
}

#[test]
fn a_change_is_told_of_beside_the_rule_that_it_replaces() {
    let report = report(asked(
        vec![hot(80), rule("b8", r#"{"device":["b8"]}"#, &["lake"])],
        vec![hot(92)],
    ));
    let [hot] = &report.rules[..] else {
        panic!("{report:?}")
    };
    assert_eq!((hot.takes, hot.in_force), (1, Some(2)));
    assert_eq!((hot.gained, hot.lost), (Some(0), Some(1)));
    let shown: Vec<_> = hot.examples.iter().map(|e| (e.kind, e.position)).collect();
    assert_eq!(shown, [("lost", 1), ("both", 3)]);
    let sent: Vec<_> = report
        .destinations
        .iter()
        .map(|one| (&*one.name, one.in_force, one.then))
        .collect();
    assert_eq!(
        sent,
        [("lake", 2, Some(2)), ("alarms", 2, Some(1))],
        "the rule that stays goes on sending"
    );
}

#[test]
fn a_new_rule_narrows_the_destination_that_it_names() {
    let report = report(asked(
        vec![],
        vec![rule("warm", r#"{"device":["b7"]}"#, &["lake", "new"])],
    ));
    let warm = &report.rules[0];
    assert_eq!((warm.takes, warm.in_force, warm.gained), (2, None, None));
    let sent: Vec<_> = report
        .destinations
        .iter()
        .map(|one| (&*one.name, one.in_force, one.then))
        .collect();
    assert_eq!(
        sent,
        [
            ("lake", 4, Some(2)),
            ("alarms", 4, Some(4)),
            ("new", 0, Some(2))
        ]
    );
}

#[test]
fn examples_are_the_latest_and_what_has_no_room_is_counted_together() {
    let mut backtest = Backtest::new(asked(vec![hot(80)], vec![])).unwrap();
    backtest.room = Room::new(4);
    for n in 0..20 {
        backtest.ask(&record(n + 1, &format!("d{n}"), 90.0, 0));
    }
    let mut unset = record(30, "d0", 90.0, 0);
    unset.received = Timestamp::from_millis(5_000);
    backtest.ask(&unset);
    let mut unreadable = record(31, "d0", 90.0, 0);
    unreadable.body = unreadable.body.slice(..10);
    backtest.ask(&unreadable);
    backtest.damaged(2);
    let report = backtest.report();
    assert_eq!((report.events, report.damaged), (21, 3));
    let hot = &report.rules[0];
    assert_eq!(
        (hot.takes, hot.devices.len(), hot.other_devices),
        (21, 3, 17)
    );
    assert_eq!((hot.hours.len(), hot.other_hours), (1, 1));
    let shown: Vec<_> = hot.examples.iter().map(|e| e.position).collect();
    assert_eq!(shown, [17, 18, 19, 20, 30]);
}

#[test]
fn what_cannot_be_asked_is_said() {
    let error = |asked| Backtest::new(asked).unwrap_err();
    assert_eq!(error(asked(vec![], vec![])), Error::NoRules);
    let only = Asked {
        only: Some("cold".into()),
        ..asked(vec![hot(80)], vec![])
    };
    assert_eq!(error(only), Error::NoSuchRule("cold".into()));
    let many = (0..63).map(|n| rule(&format!("r{n}"), r#"{"device":["x"]}"#, &[&format!("d{n}")]));
    assert_eq!(
        error(asked(vec![], many.collect())),
        Error::TooManyDestinations(62)
    );
}

#[test]
fn a_rule_that_is_only_there_to_narrow_is_not_taken_for_the_one_in_force() {
    let hidden = rule("hot", r#"{"device":["nobody"]}"#, &["lake"]);
    let both = || vec![hot(80), hidden.clone()];
    let report = report(asked(both(), vec![hot(92)]));
    let hot_now = &report.rules[0];
    assert_eq!((hot_now.takes, hot_now.in_force), (1, Some(2)));
    let plain = Backtest::new(asked(both(), vec![])).unwrap().report();
    assert_eq!(plain.rules.len(), 1);
}

#[test]
fn a_rule_takes_only_what_was_received_within_its_schedule() {
    let hour = crate::hours::Window {
        opens: crate::hours::Cron::parse("0 12 * * *").unwrap(),
        length: std::time::Duration::from_secs(3_600),
    };
    let schedule = crate::rules::Schedule::new(vec![hour], jiff::tz::TimeZone::UTC);
    let hot = Rule {
        schedule: Some(Arc::new(schedule)),
        ..hot(80)
    };
    let report = report(asked(vec![hot], vec![]));
    assert_eq!((report.rules[0].takes, report.events), (1, 4));
    assert_eq!(report.destinations[1].in_force, 1);
}

#[test]
fn a_pattern_by_itself_has_a_name_that_no_rule_can_have() {
    let rule = format!(
        r#"{{"name": "{PATTERN}", "pattern": {{"device": ["b7"]}}, "destinations": ["lake"]}}"#
    );
    let mistakes = crate::config::Config::rule_of_json(&rule, &["lake".into()]).unwrap_err();
    assert!(mistakes[0].what.contains("a name has"), "{mistakes:?}");
}

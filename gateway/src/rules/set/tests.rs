//! Where events go, and of what class they are.

use super::*;
use crate::event::{IdSource, Key, Measurement, Quality, TimeSource, Timestamp, Value};
use crate::rules::action::Topic;

fn event(device: &str, value: f64) -> Event {
    Event {
        key: Key([7; 16]),
        id: None,
        id_source: IdSource::None,
        kind: "iot.telemetry.v1".into(),
        device: device.into(),
        site: None,
        time: Timestamp::from_millis(1),
        time_source: TimeSource::Received,
        received: Timestamp::from_millis(1),
        sequence: None,
        partition_key: None,
        topic: "devices/x/t".into(),
        traceparent: None,
        measurements: vec![Measurement {
            name: "temp".into(),
            value: Value::Float(value),
            unit: None,
            quality: Quality::Good,
            time: None,
        }],
        tags: vec![],
        marks: crate::event::Marks::NONE,
        corrected: None,
        replayed: None,
    }
}

fn rule(pattern: &str, destinations: &[&str]) -> Rule {
    let destinations = destinations.iter().map(|name| Arc::from(*name)).collect();
    Rule::to(pattern, Pattern::parse(pattern).unwrap(), destinations)
}

fn id(name: &str) -> Option<DestinationId> {
    let known = ["lake", "alarms", "archive"];
    let at = known.iter().position(|known| *known == name)?;
    u8::try_from(at).ok().map(DestinationId)
}

#[test]
fn a_destination_gets_what_its_rules_take_and_everything_without_rules() {
    let set = RuleSet::new(
        &[
            rule(r#"{"values":{"temp":[{"numeric":[">",80]}]}}"#, &["alarms"]),
            rule(r#"{"device":["b7"]}"#, &["alarms", "lake"]),
        ],
        id,
    )
    .unwrap();
    let (lake, alarms, archive) = (1, 2, 4);
    let open = Routes(lake | alarms | archive);
    let mut scratch = set.scratch();
    let mut route = |event: &Event, open| set.route(event, open, &mut scratch).unwrap();
    for (device, value, to, matched) in [
        ("b7", 20.0, lake | alarms | archive, true),
        ("b7", 90.0, lake | alarms | archive, true),
        ("b8", 90.0, alarms | archive, true),
        ("b8", 80.0, archive, false),
    ] {
        let routed = route(&event(device, value), open);
        assert_eq!(
            routed,
            Routed {
                routes: Routes(to),
                matched,
                class: Class::Normal
            },
            "{device} {value}"
        );
    }
    // What must not go back where it came from does not, whatever rules say.
    let routed = route(&event("b7", 20.0), Routes(alarms));
    assert_eq!((routed.routes, routed.matched), (Routes(alarms), true));
    let routed = route(&event("b7", 20.0), Routes(archive));
    assert_eq!((routed.routes, routed.matched), (Routes(archive), true));
}

#[test]
fn an_event_is_of_the_highest_class_that_a_rule_says_and_normal_otherwise() {
    let of = |pattern: &str, class, destinations: &[&str]| Rule {
        class,
        ..rule(pattern, destinations)
    };
    // The one that says most sends nothing more than others do, and is asked all the same.
    let set = RuleSet::new(
        &[
            of(r#"{"device":[{"prefix":"b"}]}"#, None, &["lake"]),
            of(r#"{"device":["b7","b8"]}"#, Some(Class::Low), &["lake"]),
            of(r#"{"device":["b8"]}"#, Some(Class::Critical), &[]),
            of(r#"{"device":["b8"]}"#, Some(Class::High), &[]),
        ],
        id,
    )
    .unwrap();
    let mut scratch = set.scratch();
    let mut class = |device: &str| {
        let routed = set.route(&event(device, 1.0), Routes(7), &mut scratch);
        routed.unwrap().class
    };
    assert_eq!(class("b6"), Class::Normal);
    assert_eq!(class("b7"), Class::Low);
    assert_eq!(class("b8"), Class::Critical);
    assert_eq!(class("c1"), Class::Normal);
}

#[test]
fn what_a_rule_has_more_to_do_for_is_for_the_actions_too_but_no_correction_is() {
    let mut acting = rule(r#"{"device":["b7"]}"#, &["lake"]);
    acting.destinations.clear();
    acting.actions.topic = Topic::parse("hot/{device}", false).ok();
    // Without anybody who does it, what it takes would be passed by.
    let refused = RuleSet::new(std::slice::from_ref(&acting), id);
    assert_eq!(&*refused.unwrap_err(), ACTIONS);
    let id = |name: &str| match name {
        ACTIONS => Some(DestinationId(5)),
        name => id(name),
    };
    let set = RuleSet::new(&[acting], id).unwrap();
    let (open, acted) = (Routes(0b10_0001), Routes(0b10_0001));
    let mut scratch = set.scratch();
    let mut routes = |event: &Event| set.route(event, open, &mut scratch).unwrap().routes;
    assert_eq!(routes(&event("b7", 1.0)), acted);
    assert_eq!(routes(&event("b8", 1.0)), Routes(1));
    let corrected = Event {
        corrected: Some(Timestamp::from_millis(5)),
        ..event("b7", 1.0)
    };
    assert_eq!(routes(&corrected), Routes(1));
}

/// In force from ten in the evening until six, in Berlin.
fn at_night(rule: Rule) -> Rule {
    let window = crate::hours::Window {
        opens: crate::hours::Cron::parse("0 22 * * *").unwrap(),
        length: std::time::Duration::from_secs(8 * 3_600),
    };
    let zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
    Rule {
        schedule: Some(Arc::new(Schedule::new(vec![window], zone))),
        ..rule
    }
}

#[test]
fn outside_its_schedule_a_rule_takes_nothing_and_what_it_names_stays_narrowed() {
    let set = RuleSet::new(
        &[
            at_night(rule(r#"{"device":["b7"]}"#, &["alarms"])),
            rule(r#"{"device":["b8"]}"#, &["lake"]),
        ],
        id,
    )
    .unwrap();
    let (lake, alarms, archive) = (1, 2, 4);
    let open = Routes(lake | alarms | archive);
    let mut scratch = set.scratch();
    for (received, to, matched) in [
        ("2026-03-01T20:59:59Z", archive, false),
        ("2026-03-01T21:00:00Z", archive | alarms, true),
        ("2026-03-02T04:59:59Z", archive | alarms, true),
        ("2026-03-02T05:00:00Z", archive, false),
        // Back in time, as after a clock that was set.
        ("2026-03-01T22:00:00Z", archive | alarms, true),
        // Nobody knows when that was: rather too much there than too little.
        ("1970-01-01T00:10:00Z", archive | alarms, true),
    ] {
        let event = Event {
            received: crate::admin::parse_instant(received).unwrap(),
            ..event("b7", 1.0)
        };
        let routed = set.route(&event, open, &mut scratch).unwrap();
        assert_eq!(
            (routed.routes.0, routed.matched),
            (to, matched),
            "{received}"
        );
        let mut took = Vec::new();
        set.each(&event, &mut scratch, |rule| took.push(rule))
            .unwrap();
        assert_eq!(!took.is_empty(), matched, "{received}");
    }
}

#[test]
fn who_asks_rules_of_other_times_takes_no_answer_away_from_the_others() {
    let rules = [Rule {
        actions: Actions {
            topic: Topic::parse("hot", false).ok(),
            ..Actions::default()
        },
        ..at_night(rule(r#"{"device":["b7"]}"#, &[]))
    }];
    let id = |name: &str| (name == ACTIONS).then_some(DestinationId(5));
    // Of ingest, and of a backtest; what rules do is asked of both by itself.
    let [now, then] = [(); 2].map(|()| RuleSet::new(&rules, id).unwrap());
    let received = |at: &str| Event {
        received: crate::admin::parse_instant(at).unwrap(),
        ..event("b7", 1.0)
    };
    let [live, old, later] = [
        "2026-03-01T22:00:00Z",
        "2026-02-20T12:00:00Z",
        "2026-03-02T12:00:00Z",
    ]
    .map(received);
    let mut scratch = now.scratch();
    let before = crate::hours::looks();
    for _ in 0..10 {
        assert!(now.route(&live, Routes(1), &mut scratch).unwrap().matched);
        assert!(!then.route(&old, Routes(1), &mut scratch).unwrap().matched);
        assert_eq!(now.acts().of(&later, &mut scratch).0.len(), 0);
    }
    assert_eq!(crate::hours::looks() - before, 3);
}

#[test]
fn what_a_rule_does_waits_for_a_clock_and_what_ends_ends_at_any_hour() {
    use crate::rules::{Role, action};
    let mut acting = at_night(rule(r#"{"values":{"temp":[{"numeric":[">",80]}]}}"#, &[]));
    acting.actions.alarm = Some(Arc::new(action::Alarm {
        severity: action::Severity::Info,
        text: None,
        clear: Pattern::parse(r#"{"values":{"temp":[{"numeric":["<",20]}]}}"#).ok(),
    }));
    let set = ActingSet::new(&[acting]);
    let mut scratch = Scratch::default();
    let mut roles = |received: &str, value| -> Vec<Role> {
        let event = Event {
            received: crate::admin::parse_instant(received).unwrap(),
            ..event("b7", value)
        };
        let (acting, done) = set.of(&event, &mut scratch);
        done.unwrap();
        acting.iter().map(|one| one.role).collect()
    };
    assert_eq!(roles("2026-03-01T22:00:00Z", 90.0), [Role::Takes]);
    assert_eq!(roles("2026-03-01T12:00:00Z", 90.0), []);
    assert_eq!(roles("1970-01-01T00:10:00Z", 90.0), []);
    assert_eq!(roles("2026-03-01T12:00:00Z", 10.0), [Role::Clears]);
    assert_eq!(roles("1970-01-01T00:10:00Z", 10.0), [Role::Clears]);
}

#[test]
fn what_a_rule_does_not_take_at_this_hour_clears_where_it_says_so() {
    use crate::rules::{Role, action};
    let mut acting = at_night(rule(r#"{"device":["b7"]}"#, &[]));
    acting.actions.alarm = Some(Arc::new(action::Alarm {
        severity: action::Severity::Info,
        text: None,
        clear: Pattern::parse(r#"{"values":{"temp":[{"numeric":["<",20]}]}}"#).ok(),
    }));
    let set = ActingSet::new(&[acting]);
    for (received, role) in [
        ("2026-03-01T22:00:00Z", Role::Takes),
        ("2026-03-01T12:00:00Z", Role::Clears),
    ] {
        let event = Event {
            received: crate::admin::parse_instant(received).unwrap(),
            ..event("b7", 10.0)
        };
        let (acting, _) = set.of(&event, &mut Scratch::default());
        let roles: Vec<Role> = acting.iter().map(|one| one.role).collect();
        assert_eq!(roles, [role], "{received}");
    }
}

#[test]
fn what_takes_too_many_comparisons_is_an_error_and_goes_nowhere() {
    // Fields of two arrays in turns: every element of one goes with every one of the other.
    let pattern = r#"{"values":{"a":{"x":[1],"y":{"v":[1],"w":[1]},"z":[1]}}}"#;
    let set = RuleSet::new(&[rule(pattern, &["lake"])], id).unwrap();
    let elements = |names: [&str; 2], count| {
        let member = |name: &str| (name.to_owned(), Value::Int(1));
        Value::Array(vec![Value::Map(names.map(member).into()); count])
    };
    let with = |count| {
        let mut event = event("b7", 1.0);
        let of = |name: &str, value| Measurement {
            name: name.into(),
            value,
            ..event.measurements[0].clone()
        };
        event.measurements = vec![
            of("a", elements(["x", "z"], count)),
            of("a.y", elements(["v", "w"], count)),
        ];
        event
    };
    let mut scratch = set.scratch();
    let routed = set.route(&with(100), Routes(1), &mut scratch).unwrap();
    assert_eq!(routed.routes, Routes(1));
    assert_eq!(
        set.route(&with(1_200), Routes(1), &mut scratch),
        Err(TooMuch)
    );
    assert!(
        set.route(&with(100), Routes(1), &mut scratch)
            .unwrap()
            .matched
    );
}

#[test]
fn what_rules_may_cost_is_counted_over_all_events_of_a_message() {
    let pattern = r#"{"device":[{"suffix":"x"}]}"#;
    let rules: Vec<_> = (0..100).map(|_| rule(pattern, &["lake"])).collect();
    let set = RuleSet::new(&rules, id).unwrap();
    let mut scratch = set.scratch();
    scratch.set_message_max(2_000);
    let event = event("b7", 1.0);
    let route = |scratch: &mut Scratch| set.route(&event, Routes(1), scratch);
    let many = (0..20).map(|_| route(&mut scratch)).collect::<Vec<_>>();
    assert!(many[0].is_ok() && many[19] == Err(TooMuch), "{many:?}");
    scratch.begin_message();
    assert!(route(&mut scratch).is_ok());
}

#[test]
fn a_destination_that_is_not_there_is_said() {
    let rules = [rule(r#"{"device":["b7"]}"#, &["lake", "sea"])];
    assert_eq!(&*RuleSet::new(&rules, id).unwrap_err(), "sea");
}

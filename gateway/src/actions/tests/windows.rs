//! Windows over restarts, against ones that are counted anew each time.

use std::{sync::Arc, time::Duration};

use penstock_broker::seal::Seal;
use proptest::prelude::*;

use super::{
    super::{outbox, schema},
    *,
};
use crate::{
    event::Value,
    rules::action::{Bounds, Measure, Window},
};

const ANY: &str = r#"{"device":[{"exists":true}]}"#;

fn windowed(window: Window) -> Rule {
    let actions = Actions {
        window: Some(Arc::new(window)),
        ..Actions::default()
    };
    Rule {
        destinations: vec!["lake".into()],
        ..rule("w", ANY, actions)
    }
}

fn over(secs: u64, what: Measure, bounds: &str) -> Window {
    Window::Over {
        over: Duration::from_secs(secs),
        what,
        bounds: Bounds::parse(bounds).unwrap(),
        samples_min: 1,
    }
}

/// Seconds after some time, which is a whole number of parts of every window here.
fn at(secs: f64) -> Timestamp {
    let after = i64::try_from(Duration::from_secs_f64(secs).as_nanos()).unwrap();
    Timestamp::from_nanos(Timestamp::from_millis(1_772_366_400_000).as_nanos() + after)
}

fn reading_at(position: u64, device: &str, value: f64, secs: f64) -> Record {
    let mut event = event_of(device, &[("t", value)]);
    event.received = at(secs);
    record(position, event)
}

impl Bench {
    /// Looks at windows whose time has come, as after a start.
    fn tick(&self, rules: &ActingSet) {
        let mut connection = schema::open(self.dir.path(), &Seal::default()).unwrap();
        let work = self.work();
        while work.tick(&mut connection, rules).unwrap() {}
    }

    /// What turned so far: the device, the word and the value.
    fn turns(&self) -> Vec<(String, String, Option<f64>)> {
        let connection = schema::open(self.dir.path(), &Seal::default()).unwrap();
        let waiting = outbox::first(&connection).unwrap().1;
        let turn = |one: &outbox::Waiting| {
            let mut all = one.event.measurements.iter();
            let value = all.find_map(|one| match one.value {
                Value::Float(x) => Some(x),
                _ => None,
            });
            let word = one.event.kind.rsplit('.').next().unwrap();
            assert_eq!(one.rule.as_deref(), Some("w"));
            (one.event.device.to_string(), word.to_owned(), value)
        };
        waiting.iter().map(turn).collect()
    }
}

fn turn(device: &str, word: &str, value: Option<f64>) -> (String, String, Option<f64>) {
    (device.to_owned(), word.to_owned(), value)
}

#[test]
fn many_events_begin_a_window_and_time_alone_ends_it() {
    let mut bench = Bench::new();
    let rules = ActingSet::new(&[windowed(over(20, Measure::Count, ">= 3"))]);
    for (n, secs) in [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)] {
        bench.act(&rules, &[reading_at(n, "a", 1.0, secs)]).unwrap();
    }
    assert_eq!(bench.turns(), [turn("a", "began", Some(3.0))]);
    bench.now = at(20.5);
    bench.tick(&rules);
    assert_eq!(
        bench.turns().len(),
        1,
        "three of them are within twenty seconds"
    );
    bench.now = at(21.5);
    bench.tick(&rules);
    let expect = [turn("a", "began", Some(3.0)), turn("a", "ended", Some(2.0))];
    assert_eq!(bench.turns(), expect);
}

#[test]
fn a_mean_needs_its_samples_and_few_events_need_a_whole_window() {
    let mut bench = Bench::new();
    let mut mean = over(20, Measure::Mean("t".into()), "> 80");
    if let Window::Over { samples_min, .. } = &mut mean {
        *samples_min = 2;
    }
    let rules = ActingSet::new(&[windowed(mean)]);
    bench.act(&rules, &[reading_at(1, "a", 90.0, 0.0)]).unwrap();
    assert!(bench.turns().is_empty());
    bench.act(&rules, &[reading_at(2, "a", 80.0, 1.0)]).unwrap();
    assert_eq!(bench.turns(), [turn("a", "began", Some(85.0))]);

    bench = Bench::new();
    let rules = ActingSet::new(&[windowed(over(20, Measure::Count, "< 2"))]);
    bench.act(&rules, &[reading_at(1, "a", 1.0, 0.5)]).unwrap();
    bench.now = at(19.0);
    bench.tick(&rules);
    assert!(bench.turns().is_empty(), "it is not known for so long");
    bench.now = at(21.0);
    bench.tick(&rules);
    assert_eq!(bench.turns(), [turn("a", "began", Some(0.0))]);
}

#[test]
fn a_device_is_absent_when_it_was_listened_to_for_so_long_and_it_said_nothing() {
    let mut bench = Bench::new();
    let rules = ActingSet::new(&[windowed(Window::Absent(Duration::from_secs(10)))]);
    bench.act(&rules, &[reading_at(1, "a", 1.0, 0.0)]).unwrap();
    bench.act(&rules, &[reading_at(2, "b", 1.0, 0.0)]).unwrap();
    // The gateway was away for long: nobody listened, and the clock counts for nothing.
    bench.now = at(1e6);
    bench.tick(&rules);
    bench.listened = 9_999;
    bench.tick(&rules);
    assert!(bench.turns().is_empty());
    bench.act(&rules, &[reading_at(3, "b", 1.0, 1e6)]).unwrap();
    bench.listened = 10_000;
    bench.tick(&rules);
    bench.tick(&rules);
    assert_eq!(bench.turns(), [turn("a", "began", None)]);
    bench.act(&rules, &[reading_at(4, "a", 1.0, 1e6)]).unwrap();
    let expect = [turn("a", "began", None), turn("a", "ended", None)];
    assert_eq!(bench.turns(), expect);
}

#[test]
fn another_window_under_the_same_name_begins_anew_and_that_of_no_rule_is_forgotten() {
    let bench = Bench::new();
    let rules = |bounds| ActingSet::new(&[windowed(over(20, Measure::Count, bounds))]);
    for n in 1..=2 {
        bench
            .act(&rules(">= 3"), &[reading_at(n, "a", 1.0, 0.0)])
            .unwrap();
    }
    bench
        .act(&rules(">= 2"), &[reading_at(3, "a", 1.0, 0.0)])
        .unwrap();
    assert!(bench.turns().is_empty());
    let mut connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    let count = |connection: &rusqlite::Connection| -> (i64, i64) {
        let count = "SELECT windows, (SELECT count(*) FROM windows) FROM state";
        connection
            .query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
    };
    assert_eq!(count(&connection), (1, 1));
    super::super::windows::forget_others(&mut connection, ["other"].into_iter()).unwrap();
    assert_eq!(count(&connection), (0, 0));
}

#[test]
fn what_rules_made_is_nothing_that_a_device_said() {
    let mut bench = Bench::new();
    let alarm = crate::rules::action::Alarm {
        severity: crate::rules::action::Severity::Info,
        text: None,
        clear: None,
    };
    let named = |name: &str| {
        let mut rule = windowed(over(20, Measure::Count, ">= 1"));
        rule.name = name.into();
        rule.actions.alarm = Some(Arc::new(alarm.clone()));
        rule
    };
    let rules = ActingSet::new(&[named("a"), named("b")]);
    bench.act(&rules, &[reading_at(1, "x", 1.0, 0.0)]).unwrap();
    // What they make comes out of the journal again, for ten windows.
    let (mut position, mut given) = (1, 0);
    for secs in 0..200_u32 {
        bench.now = at(f64::from(secs));
        bench.tick(&rules);
        let connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
        let made = outbox::first(&connection).unwrap().1;
        for one in made[given..].iter().map(|one| one.event.clone()) {
            position += 1;
            bench.act(&rules, &[record(position, one)]).unwrap();
        }
        given = made.len();
    }
    // Each begins and raises, ends and clears, once.
    assert_eq!(given, 8);
}

#[test]
fn a_turn_by_time_that_comes_again_after_a_crash_has_the_same_key() {
    let mut bench = Bench::new();
    let mut rule = windowed(Window::Absent(Duration::from_secs(10)));
    rule.actions.topic = crate::rules::action::Topic::parse("x", false).ok();
    let rules = ActingSet::new(&[rule]);
    let act = |bench: &Bench, n| bench.act(&rules, &[reading_at(n, "a", 1.0, 0.0)]).unwrap();
    act(&bench, 1);
    bench.listened = 10_000;
    bench.seen.cut.set(true);
    let mut connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    assert!(bench.work().tick(&mut connection, &rules).is_err());
    bench.seen.cut.set(false);
    bench.now = at(77.0);
    bench.listened = 10_300;
    bench.tick(&rules);
    // And another one later is another.
    act(&bench, 2);
    bench.listened = 30_000;
    bench.tick(&rules);
    let publishes = bench.seen.publishes.borrow();
    let key = |publish: &Publish| {
        let known = publish.properties.clone().unwrap();
        let mut user = known.user.iter();
        let found = user.find(|(name, _)| **name == *"idempotency-key");
        found.unwrap().1.clone()
    };
    let keys: Vec<_> = publishes.iter().map(key).collect();
    assert_eq!(keys.len(), 4);
    assert_eq!(keys[0], keys[1]);
    assert!(keys[1] != keys[2] && keys[1] != keys[3] && keys[2] != keys[3]);
}

#[test]
fn a_changed_window_that_is_looked_at_knows_nothing_from_before() {
    let mut bench = Bench::new();
    let rules = |secs| ActingSet::new(&[windowed(Window::Absent(Duration::from_secs(secs)))]);
    bench.listened = 36_000_000;
    bench
        .act(&rules(10), &[reading_at(1, "a", 1.0, 0.0)])
        .unwrap();
    bench.listened += 10_000;
    bench.tick(&rules(3_600));
    assert!(bench.turns().is_empty());
    bench.listened += 3_600_000;
    bench.tick(&rules(3_600));
    assert_eq!(bench.turns(), [turn("a", "began", None)]);
}

#[test]
fn when_there_are_too_many_windows_those_of_the_devices_that_were_silent_longest_leave() {
    let mut bench = Bench::new();
    let silent = Window::Absent(Duration::from_secs(60));
    let mut watched = windowed(silent.clone());
    watched.actions.alarm = Some(Arc::new(crate::rules::action::Alarm {
        severity: crate::rules::action::Severity::Critical,
        text: None,
        clear: None,
    }));
    let rules = ActingSet::new(&[watched]);
    // The first of them goes silent for good, and is absent.
    bench
        .act(&rules, &[reading_at(1, "old-0", 1.0, 0.0)])
        .unwrap();
    bench.listened = 60_000;
    bench.tick(&rules);
    let connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    let transaction = connection.unchecked_transaction().unwrap();
    for n in 1..20_000_i64 {
        let mut state = super::super::window::State::of(None, &silent);
        state.take(&silent, &event_of("old", &[]), 60_000 + n, true);
        let mut body = Vec::new();
        ciborium::into_writer(&state, &mut body).unwrap();
        let row = (format!("old-{n}"), body);
        let sql = "INSERT INTO windows VALUES ('w', ?1, ?2, NULL, 99999999)";
        transaction.execute(sql, row).unwrap();
    }
    transaction
        .execute("UPDATE state SET windows = 20000", [])
        .unwrap();
    transaction.commit().unwrap();
    bench.listened = 90_000;
    bench
        .act(&rules, &[reading_at(2, "new", 1.0, 90.0)])
        .unwrap();
    let counts = || -> [i64; 5] {
        let sql = "SELECT windows, (SELECT count(*) FROM windows), windows_evicted, failures,
             (SELECT count(*) FROM windows WHERE device IN ('old-0', 'old-999')) FROM state";
        connection
            .query_row(sql, [], |row| {
                Ok([
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                ])
            })
            .unwrap()
    };
    assert_eq!(counts(), [19_001, 19_001, 1_000, 0, 0]);
    // One that comes back is absent no more, though nobody followed it.
    let alarms = || -> i64 {
        let sql = "SELECT count(*) FROM alarms WHERE state < 2";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    };
    assert_eq!(alarms(), 1);
    bench
        .act(&rules, &[reading_at(3, "old-0", 1.0, 91.0)])
        .unwrap();
    assert_eq!(alarms(), 0);
}

#[test]
fn a_clock_that_is_put_back_begins_a_window_anew() {
    let bench = Bench::new();
    let rules = ActingSet::new(&[windowed(over(20, Measure::Count, ">= 2"))]);
    let act = |n, secs| bench.act(&rules, &[reading_at(n, "a", 1.0, secs)]).unwrap();
    act(1, 1e6);
    act(2, 0.0);
    act(3, 30.0);
    assert!(bench.turns().is_empty());
    // A little is no more than two events that came out of order.
    act(4, 29.5);
    assert_eq!(bench.turns(), [turn("a", "began", Some(2.0))]);
}

/// What a window comes to, counted anew of all that came until now.
fn naive(what: &Measure, came: &[(f64, f64)], now: f64, secs: u64) -> Option<f64> {
    let width = secs as f64 / 20.0;
    let part = |at: f64| (at / width).floor();
    let within = |(at, value): &(f64, f64)| (part(*at) > part(now) - 20.0).then_some(*value);
    let values: Vec<f64> = came.iter().filter_map(within).collect();
    let count = values.len() as f64;
    match what {
        Measure::Count => Some(count),
        Measure::Rate => Some(count / secs as f64),
        _ if values.is_empty() => None,
        Measure::Min(_) => values.iter().copied().reduce(f64::min),
        Measure::Max(_) => values.iter().copied().reduce(f64::max),
        Measure::Mean(_) => Some(values.iter().sum::<f64>() / count),
    }
}

fn measure() -> impl Strategy<Value = (Measure, &'static str)> {
    prop_oneof![
        Just((Measure::Count, ">= 4")),
        Just((Measure::Count, ">= 2, < 4")),
        Just((Measure::Count, "< 3")),
        Just((Measure::Rate, "> 0.1")),
        Just((Measure::Min("t".into()), ">= 10")),
        Just((Measure::Max("t".into()), "< 12")),
        Just((Measure::Mean("t".into()), "> 9.5")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Over any number of restarts, with records that come again, a window turns when one
    /// does that is counted anew each time, and each event counts once.
    #[test]
    fn a_window_is_what_is_counted_anew_whatever_crashes(
        (what, bounds) in measure(),
        steps in proptest::collection::vec((0_u32..12, 5_u8..15, any::<bool>(), 0_usize..4), 1..40),
    ) {
        let window = over(20, what.clone(), bounds);
        let bounds = Bounds::parse(bounds).unwrap();
        let mut rules = windowed(window);
        rules.actions.topic = crate::rules::action::Topic::parse("x", false).ok();
        let rules = ActingSet::new(&[rules]);
        let mut bench = Bench::new();
        let (mut now, mut holds) = (0.0, false);
        let (mut came, mut records, mut expect) = (Vec::new(), Vec::new(), Vec::new());
        for (n, (gap, value, crash, back)) in (1..).zip(steps) {
            // Whole sums, so that the order in which they are added makes no difference.
            let value = f64::from(value);
            let mut turned = |came: &[(f64, f64)], now: f64| {
                let value = naive(&what, came, now, 20);
                let first = came.first().map_or(now, |(at, _)| *at);
                let counts = matches!(what, Measure::Count | Measure::Rate);
                let is_known = !(counts && bounds.contains(0.0)) || now - first >= 20.0;
                let after = value.is_some_and(|value| is_known && bounds.contains(value));
                if std::mem::replace(&mut holds, after) != after {
                    expect.push(turn("a", if after { "began" } else { "ended" }, value));
                }
            };
            // Time passes first, second by second, as the gateway looks.
            for _ in 0..gap {
                now += 1.0;
                turned(&came, now);
                bench.now = at(now);
                bench.tick(&rules);
            }
            came.push((now, value));
            turned(&came, now);
            records.push(reading_at(n, "a", value, now));
            let from = records.len().saturating_sub(back + 1);
            if crash {
                bench.seen.ending.set(true);
                // It may have had nothing to show, and then it is done.
                drop(bench.act(&rules, &records[from..]));
                bench.seen.ending.set(false);
            }
            bench.act(&rules, &records[from..]).unwrap();
        }
        prop_assert_eq!(bench.turns(), expect);
    }
}

#[test]
fn an_absence_that_is_still_to_be_told_makes_no_room_for_others() {
    let bench = Bench::new();
    let silent = Window::Absent(Duration::from_secs(60));
    let rules = ActingSet::new(&[windowed(silent.clone())]);
    let reading = |position, device| reading_at(position, device, 1.0, 0.0);
    bench.act(&rules, &[reading(1, "watched")]).unwrap();
    let connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    let transaction = connection.unchecked_transaction().unwrap();
    // Those wait for nothing, and were heard of later.
    for n in 1..20_000_i64 {
        let mut state = super::super::window::State::of(None, &silent);
        state.take(&silent, &event_of("old", &[]), 1_000 + n, true);
        let mut body = Vec::new();
        ciborium::into_writer(&state, &mut body).unwrap();
        let sql = "INSERT INTO windows VALUES ('w', ?1, ?2, NULL, NULL)";
        transaction
            .execute(sql, (format!("old-{n}"), body))
            .unwrap();
    }
    transaction
        .execute("UPDATE state SET windows = 20000", [])
        .unwrap();
    transaction.commit().unwrap();
    bench.act(&rules, &[reading(2, "new")]).unwrap();
    let counts: [i64; 3] = connection
        .query_row(
            "SELECT windows, windows_evicted,
                 (SELECT count(*) FROM windows WHERE device = 'watched') FROM state",
            [],
            |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?]),
        )
        .unwrap();
    assert_eq!(counts, [19_001, 1_000, 1]);
}

/// In force from a minute after `at(0.0)` for an hour.
fn later(rule: Rule) -> Rule {
    let window = crate::hours::Window {
        opens: crate::hours::Cron::parse("1 12 * * *").unwrap(),
        length: Duration::from_secs(3_600),
    };
    let schedule = crate::rules::Schedule::new(vec![window], jiff::tz::TimeZone::UTC);
    Rule {
        schedule: Some(Arc::new(schedule)),
        ..rule
    }
}

/// As the follower does each time before it looks at windows.
fn look(bench: &Bench, opened: &mut super::super::windows::Opened, rules: &ActingSet) {
    let connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    opened
        .look(&connection, rules, bench.now, bench.listened)
        .unwrap();
    bench.tick(rules);
}

#[test]
fn a_window_is_followed_at_any_hour_begins_when_its_schedule_opens_and_ends_at_any_hour() {
    let mut bench = Bench::new();
    let mut opened = super::super::windows::Opened::default();
    let rules = ActingSet::new(&[later(windowed(over(20, Measure::Count, ">= 3")))]);
    for (n, secs) in [(1, 50.0), (2, 51.0), (3, 52.0), (4, 53.0)] {
        bench.act(&rules, &[reading_at(n, "a", 1.0, secs)]).unwrap();
    }
    bench.now = at(59.0);
    look(&bench, &mut opened, &rules);
    assert!(bench.turns().is_empty(), "it is not in force");
    // What came before counts once it is, and no event has to come for that.
    bench.now = at(60.0);
    look(&bench, &mut opened, &rules);
    assert_eq!(bench.turns(), [turn("a", "began", Some(4.0))]);
    for (n, secs) in [(5, 3_650.0), (6, 3_651.0), (7, 3_652.0)] {
        bench.act(&rules, &[reading_at(n, "a", 1.0, secs)]).unwrap();
    }
    assert_eq!(bench.turns().len(), 3, "it ended meanwhile, and began anew");
    bench.now = at(3_673.0);
    look(&bench, &mut opened, &rules);
    let ended = bench.turns();
    assert_eq!(ended.last().map(|turn| &*turn.1), Some("ended"));
    assert_eq!(ended.len(), 4);
}

#[test]
fn silence_is_told_when_a_schedule_is_open_and_the_device_had_its_time_in_it() {
    let mut bench = Bench::new();
    let mut opened = super::super::windows::Opened::default();
    let rules = ActingSet::new(&[later(windowed(Window::Absent(Duration::from_secs(10))))]);
    for device in ["a", "b"] {
        let n = u64::from(device == "b") + 1;
        bench
            .act(&rules, &[reading_at(n, device, 1.0, 0.0)])
            .unwrap();
    }
    (bench.now, bench.listened) = (at(30.0), 30_000);
    look(&bench, &mut opened, &rules);
    assert!(bench.turns().is_empty(), "it is not in force");
    (bench.now, bench.listened) = (at(61.0), 61_000);
    look(&bench, &mut opened, &rules);
    assert!(bench.turns().is_empty(), "its devices have slept until now");
    bench.listened = 65_000;
    bench.act(&rules, &[reading_at(3, "b", 1.0, 65.0)]).unwrap();
    (bench.now, bench.listened) = (at(71.0), 71_000);
    look(&bench, &mut opened, &rules);
    assert_eq!(bench.turns(), [turn("a", "began", None)]);
    // The end of it is heard at any hour, and silence after that told on the next day.
    (bench.now, bench.listened) = (at(4_000.0), 4_000_000);
    bench
        .act(&rules, &[reading_at(4, "a", 1.0, 4_000.0)])
        .unwrap();
    (bench.now, bench.listened) = (at(4_100.0), 4_100_000);
    look(&bench, &mut opened, &rules);
    let of_a: Vec<_> = bench
        .turns()
        .into_iter()
        .filter(|turn| turn.0 == "a")
        .collect();
    assert_eq!(of_a.last().map(|turn| &*turn.1), Some("ended"));
    assert_eq!(of_a.len(), 2);
}

#[test]
fn what_held_before_the_opening_and_is_acted_on_after_it_begins_without_another_event() {
    let mut bench = Bench::new();
    let mut opened = super::super::windows::Opened::default();
    let rules = ActingSet::new(&[later(windowed(over(20, Measure::Count, ">= 3")))]);
    bench.now = at(60.0);
    look(&bench, &mut opened, &rules);
    // The commit took a moment.
    for (n, secs) in [(1, 59.7), (2, 59.8), (3, 59.9)] {
        bench.act(&rules, &[reading_at(n, "a", 1.0, secs)]).unwrap();
    }
    assert!(bench.turns().is_empty(), "they came before it");
    look(&bench, &mut opened, &rules);
    assert_eq!(bench.turns(), [turn("a", "began", Some(3.0))]);
}

#[test]
fn silence_that_began_at_night_is_told_when_the_device_had_its_time_after_the_opening() {
    let mut bench = Bench::new();
    let absent = Window::Absent(Duration::from_secs(100));
    let rules = ActingSet::new(&[later(windowed(absent))]);
    bench.act(&rules, &[reading_at(1, "a", 1.0, 0.0)]).unwrap();
    let mut opened = super::super::windows::Opened::default();
    let mut step = |secs: i32, opened: &mut super::super::windows::Opened| {
        (bench.now, bench.listened) = (at(secs.into()), i64::from(secs) * 1_000);
        look(&bench, opened, &rules);
        bench.turns().len()
    };
    step(50, &mut opened);
    // It opens at 60, and the device was heard at 0: not at 100, but at 160.
    assert_eq!(step(60, &mut opened), 0);
    assert_eq!(step(101, &mut opened), 0);
    // A start puts nothing off.
    let mut opened = super::super::windows::Opened::default();
    assert_eq!(step(120, &mut opened), 0);
    assert_eq!(step(159, &mut opened), 0);
    assert_eq!(step(160, &mut opened), 1);
}

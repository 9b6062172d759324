//! How often a rule does something for a device, over restarts and crashes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use penstock_broker::seal::Seal;
use proptest::prelude::*;

use super::{
    super::{alarm, outbox, schema, throttle},
    *,
};
use crate::rules::action::{Alarm, Bounds, Measure, Severity, Throttle, Topic, Window};

const HOT: &str = r#"{"values":{"t":[{"numeric":[">",80]}]}}"#;
const COLD: &str = r#"{"values":{"t":[{"numeric":["<",70]}]}}"#;

fn throttle(times: u32, secs: u64) -> Throttle {
    Throttle {
        times,
        per: Duration::from_secs(secs),
        text: format!("{times} per {secs}s").into(),
    }
}

fn telling(times: u32, secs: u64) -> Actions {
    Actions {
        topic: Topic::parse("hot/{device}", false).ok(),
        throttle: Some(throttle(times, secs)),
        ..Actions::default()
    }
}

fn alarming(actions: Actions) -> Actions {
    let alarm = Alarm {
        severity: Severity::Warning,
        text: None,
        clear: Pattern::parse(COLD).ok(),
    };
    Actions {
        alarm: Some(Arc::new(alarm)),
        ..actions
    }
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_millis(1_772_366_400_000 + secs * 1_000)
}

fn reading_at(position: u64, device: &str, value: f64, secs: i64) -> Record {
    let mut event = event_of(device, &[("t", value)]);
    event.received = at(secs);
    record(position, event)
}

impl Bench {
    fn topics(&self) -> Vec<String> {
        self.shown().into_iter().map(|(topic, _)| topic).collect()
    }

    fn held_back(&self) -> (i64, Vec<throttle::HeldBack>) {
        let connection = schema::open(self.dir.path(), &Seal::default()).unwrap();
        let all = "SELECT held_back FROM state";
        let all = connection.query_row(all, [], |row| row.get(0)).unwrap();
        (all, throttle::held_back(&connection).unwrap())
    }
}

#[test]
fn a_rule_does_no_more_for_a_device_than_its_throttle_says_and_what_it_holds_back_is_counted() {
    let mut bench = Bench::new();
    let rules = ActingSet::new(&[rule("hot", HOT, telling(2, 600))]);
    for (n, device, secs) in [
        (1, "a", 0),
        (2, "a", 10),
        (3, "a", 20),
        (4, "b", 30),
        (5, "a", 599),
        (6, "a", 600),
        // A little back, as events come of several connections, and the clock far back.
        (7, "b", 29),
        (8, "b", 31),
        (9, "b", -600),
    ] {
        bench.now = at(secs);
        let before = bench.topics().len();
        let record = reading_at(n, device, 90.0, secs);
        bench.act(&rules, &[record]).unwrap();
        let held_back = [3, 5, 8].contains(&n);
        assert_eq!(bench.topics().len() == before, held_back, "{n}");
    }
    let (all, by_rule) = bench.held_back();
    let expect = throttle::HeldBack {
        rule: "hot".into(),
        held_back: 3,
        devices: 2,
        evicted: 0,
    };
    assert_eq!((all, by_rule), (3, vec![expect]));
}

#[test]
fn what_came_long_before_and_is_acted_on_late_begins_no_time_of_its_own() {
    let mut bench = Bench::new();
    let rules = ActingSet::new(&[rule("hot", HOT, telling(1, 3_600))]);
    // Live; out of quarantine, of yesterday; live; and once more when the time is over.
    for (n, now, received, done) in [
        (1, 0, 0, 1),
        (2, 600, -86_400, 1),
        (3, 660, 660, 1),
        (4, 3_599, -90_000, 1),
        (5, 3_600, 3_600, 2),
    ] {
        bench.now = at(now);
        bench
            .act(&rules, &[reading_at(n, "a", 90.0, received)])
            .unwrap();
        assert_eq!(bench.topics().len(), done, "{n}");
    }
}

#[test]
fn a_clock_that_is_lost_or_set_begins_the_time_anew() {
    let dir = tempfile::tempdir().unwrap();
    let connection = schema::open(dir.path(), &Seal::default()).unwrap();
    let one = throttle(1, 86_400);
    let take = |at, now| {
        let when = throttle::When { at, now };
        throttle::take(&connection, "hot", &one, "a", when).unwrap()
    };
    let uptime = |secs: i64| Timestamp::from_millis(secs * 1_000);
    assert!(take(at(0), at(0)));
    // It is lost; what was received before that is late all the same.
    assert!(!take(at(-90_000), uptime(40)));
    assert!(take(uptime(50), uptime(50)));
    assert!(!take(uptime(60), uptime(60)));
    // It is set.
    assert!(take(at(100), at(100)));
    assert!(!take(at(101), at(101)));
}

#[test]
fn a_window_of_a_backlog_is_throttled_by_when_it_turned() {
    let mut bench = Bench::new();
    let window = Window::Over {
        over: Duration::from_secs(20),
        what: Measure::Max("t".into()),
        bounds: Bounds::parse("> 80").unwrap(),
        samples_min: 1,
    };
    let actions = Actions {
        window: Some(Arc::new(window)),
        ..alarming(telling(1, 600))
    };
    let any = r#"{"device":[{"exists":true}]}"#;
    let rules = ActingSet::new(&[rule("hot", any, actions)]);
    // Nothing was acted on for an hour: it began twice, half an hour apart, and in between
    // once more within its time.
    bench.now = at(3_600);
    let readings = [
        (0, 90.0),
        (60, 20.0),
        (120, 90.0),
        (180, 20.0),
        (1_800, 90.0),
        (1_860, 20.0),
    ];
    let page: Vec<Record> = (1..)
        .zip(readings)
        .map(|(n, (secs, value))| reading_at(n, "a", value, secs))
        .collect();
    bench.act(&rules, &page).unwrap();
    assert_eq!(bench.topics().len(), 4, "two began and ended");
    assert_eq!(bench.held_back().0, 1);
}

#[test]
fn what_a_crash_takes_back_is_let_through_again_and_nothing_beside_it() {
    let bench = Bench::new();
    let rules = ActingSet::new(&[rule("hot", HOT, telling(1, 600))]);
    bench.seen.cut.set(true);
    let first = reading_at(1, "a", 90.0, 0);
    assert!(bench.act(&rules, std::slice::from_ref(&first)).is_err());
    bench.seen.cut.set(false);
    bench
        .act(&rules, &[first, reading_at(2, "a", 90.0, 1)])
        .unwrap();
    let publishes = bench.seen.publishes.borrow();
    let key = |one: &Publish| {
        let properties = one.properties.as_ref().unwrap();
        let mut user = properties.user.iter();
        let key = user.find(|(name, _)| &**name == "idempotency-key");
        key.map(|(_, key)| key.to_string())
    };
    let keys: Vec<_> = publishes.iter().map(key).collect();
    assert_eq!(keys.len(), 2);
    assert!(keys[0].is_some() && keys[0] == keys[1], "{keys:?}");
    drop(publishes);
    assert_eq!(bench.held_back().0, 1);
}

#[test]
fn an_alarm_that_comes_and_goes_is_raised_as_often_as_it_may_be_and_cleared_at_once() {
    let bench = Bench::new();
    let actions = Actions {
        topic: None,
        ..alarming(telling(1, 600))
    };
    let rules = ActingSet::new(&[rule("hot", HOT, actions)]);
    let alarm = || {
        let connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
        let all = alarm::list(&connection, &alarm::Wanted::default(), 0, 9).unwrap();
        all.into_iter()
            .next()
            .map(|one| (one.state, one.raised, one.events))
    };
    let act = |n, value, secs| {
        bench
            .act(&rules, &[reading_at(n, "a", value, secs)])
            .unwrap();
    };
    act(1, 90.0, 0);
    act(2, 90.0, 1);
    // What it only counts is not held back, and takes no turn.
    assert_eq!(alarm(), Some((alarm::State::Raised, 1, 2)));
    act(3, 60.0, 2);
    act(4, 90.0, 3);
    assert_eq!(alarm(), Some((alarm::State::Cleared, 1, 2)));
    act(5, 90.0, 600);
    assert_eq!(alarm(), Some((alarm::State::Raised, 2, 1)));
    assert_eq!(bench.held_back().0, 1);
}

#[test]
fn an_alarm_that_holds_counts_what_is_held_back_beside_it() {
    let bench = Bench::new();
    let rules = ActingSet::new(&[rule("hot", HOT, alarming(telling(1, 600)))]);
    for n in 1..=3 {
        let secs = i64::try_from(n).unwrap();
        bench
            .act(&rules, &[reading_at(n, "a", 90.0, secs)])
            .unwrap();
    }
    let connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    let all = alarm::list(&connection, &alarm::Wanted::default(), 0, 9).unwrap();
    assert_eq!((all[0].events, bench.topics().len()), (3, 1));
    assert_eq!(bench.held_back().0, 2);
}

#[test]
fn a_window_that_begins_while_its_rule_is_throttled_is_told_when_that_ends_if_it_still_holds() {
    let mut bench = Bench::new();
    let window = Window::Over {
        over: Duration::from_secs(20),
        what: Measure::Max("t".into()),
        bounds: Bounds::parse("> 80").unwrap(),
        samples_min: 1,
    };
    let actions = Actions {
        window: Some(Arc::new(window)),
        ..alarming(telling(1, 600))
    };
    let any = r#"{"device":[{"exists":true}]}"#;
    let rules = ActingSet::new(&[Rule {
        destinations: vec!["lake".into()],
        ..rule("hot", any, actions)
    }]);
    let tick = |bench: &Bench| {
        let mut connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
        while bench.work().tick(&mut connection, &rules).unwrap() {}
    };
    let words = |bench: &Bench| -> Vec<String> {
        let shown = bench.shown();
        let word = |text: &str| {
            let json: serde_json::Value = serde_json::from_str(text).unwrap();
            json["type"]
                .as_str()
                .unwrap()
                .rsplit('.')
                .next()
                .unwrap()
                .to_owned()
        };
        shown.iter().map(|(_, text)| word(text)).collect()
    };
    let told_elsewhere = |bench: &Bench| {
        let connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
        let waiting = outbox::first(&connection).unwrap().1;
        let turns = waiting.iter().filter(|one| one.rule.is_some());
        turns.count()
    };
    let mut step = |n: u64, secs: i64, value: Option<f64>| {
        bench.now = at(secs);
        if let Some(value) = value {
            bench
                .act(&rules, &[reading_at(n, "a", value, secs)])
                .unwrap();
        }
        tick(&bench);
        (words(&bench).len(), told_elsewhere(&bench))
    };
    assert_eq!(step(1, 0, Some(90.0)), (1, 1));
    assert_eq!(step(0, 30, None), (2, 2), "it ended");
    // It comes and goes: the destination hears it, the others do not.
    assert_eq!(step(2, 40, Some(90.0)), (2, 3));
    assert_eq!(step(0, 70, None), (2, 4));
    assert_eq!(step(3, 590, Some(90.0)), (2, 5));
    assert_eq!(step(0, 599, None), (2, 5));
    // And this one stays: it is told late, with no event to cause it, and once.
    assert_eq!(step(0, 600, None), (3, 5));
    assert_eq!(step(4, 601, Some(90.0)), (3, 5));
    assert_eq!(step(0, 640, None), (4, 6));
    assert_eq!(words(&bench), ["began", "ended", "began", "ended"]);
    assert_eq!(bench.held_back().0, 2);
}

#[test]
fn devices_of_a_throttle_take_bounded_room_and_none_is_kept_for_a_rule_without_one() {
    let bench = Bench::new();
    let mut connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    let one = throttle(1, 600);
    let transaction = connection.transaction().unwrap();
    let take = |rule: &str, n: i64, secs: i64| {
        let (device, at) = (format!("d{n}"), at(secs));
        let when = throttle::When { at, now: at };
        throttle::take(&transaction, rule, &one, &device, when).unwrap()
    };
    // All at once, and as it is by day: one after the other.
    for n in 0..6_000 {
        assert!(take("hot", n, 0), "{n}");
    }
    assert!(!take("hot", 5_999, 1));
    for n in 0..6_000 {
        assert!(take("warm", n, n), "{n}");
    }
    assert!(!take("warm", 5_999, 6_000));
    transaction.commit().unwrap();
    let said = throttle::held_back(&connection).unwrap();
    let [hot, warm] = &said[..] else {
        panic!("{said:?}");
    };
    assert!((500..=1_500).contains(&hot.evicted), "{hot:?}");
    assert_eq!(warm.evicted, 0, "nobody was forgotten before his time");
    assert!(hot.devices <= 5_000 && warm.devices <= 5_000, "{said:?}");
    let count = |connection: &rusqlite::Connection| -> (i64, i64) {
        let count = "SELECT throttles, (SELECT count(*) FROM throttles) FROM state";
        connection
            .query_row(count, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
    };
    let devices = i64::try_from(hot.devices + warm.devices).unwrap();
    assert_eq!(count(&connection), (devices, devices));
    throttle::forget_others(&mut connection, ["other"].into_iter()).unwrap();
    assert_eq!(count(&connection), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_restarts_in_between_it_lets_through_what_a_twin_in_memory_does(
        times in 1u32..4,
        // Some are retried from yesterday.
        steps in proptest::collection::vec(
            (0u8..3, 0i64..40, any::<bool>(), prop::bool::weighted(0.2)), 1..40),
    ) {
        let mut bench = Bench::new();
        let rules = ActingSet::new(&[rule("hot", HOT, telling(times, 60))]);
        let mut twin: HashMap<u8, (i64, u32)> = HashMap::new();
        let (mut now, mut expect, mut position) = (0, Vec::new(), 0);
        let mut page = Vec::new();
        for (device, later, restarts, is_old) in steps {
            now += later;
            position += 1;
            let received = if is_old { now - 86_400 } else { now };
            page.push(reading_at(position, &device.to_string(), 90.0, received));
            let (since, done) = twin.entry(device).or_insert((received, 0));
            if received - *since >= 60 {
                (*since, *done) = (received, 0);
            }
            if *done < times {
                *done += 1;
                expect.push(format!("hot/{device}"));
            }
            bench.now = at(now);
            if restarts {
                bench.act(&rules, &std::mem::take(&mut page)).unwrap();
            }
        }
        bench.act(&rules, &page).unwrap();
        prop_assert_eq!(bench.topics(), expect);
    }
}

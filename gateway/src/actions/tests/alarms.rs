//! Alarms over their lives, and over crashes.

use std::sync::Arc;

use penstock_broker::seal::Seal;
use proptest::prelude::*;

use super::{
    super::{
        alarm::{self, State, Wanted},
        made::Now,
        schema,
        work::{self, Said},
    },
    *,
};
use crate::{
    event::Value,
    rules::{
        action::{Alarm, Severity},
        transform::Transform,
    },
};

const HOT: &str = r#"{"values":{"t":[{"numeric":[">",80]}]}}"#;
const COLD: &str = r#"{"values":{"t":[{"numeric":["<",70]}]}}"#;

fn hot() -> Rule {
    let paths = [("t", "$.values.t")];
    let alarm = Alarm {
        severity: Severity::Critical,
        text: Some(Transform::new(paths, "at <t>").unwrap()),
        clear: Some(Pattern::parse(COLD).unwrap()),
    };
    let actions = Actions {
        alarm: Some(Arc::new(alarm)),
        ..Actions::default()
    };
    rule("hot", HOT, actions)
}

impl Bench {
    fn alarms(&self) -> Vec<alarm::Alarm> {
        let connection = schema::open(self.dir.path(), &self.seal).unwrap();
        alarm::list(&connection, &Wanted::default(), 0, 100).unwrap()
    }

    /// All that is on its way into the journal.
    fn made(&self) -> Vec<Event> {
        let connection = schema::open(self.dir.path(), &self.seal).unwrap();
        let mut all = connection
            .prepare("SELECT body FROM outbox ORDER BY id")
            .unwrap();
        let bodies = all.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
        let event = |body: rusqlite::Result<Vec<u8>>| Event::from_cbor(&body.unwrap()).unwrap();
        bodies.map(event).collect()
    }

    fn say(&self, id: u64, state: State) -> Option<Result<alarm::Alarm, alarm::Alarm>> {
        let mut connection = schema::open(self.dir.path(), &self.seal).unwrap();
        let said = Said {
            id,
            state,
            actor: "ann".into(),
            note: None,
        };
        let now = Now {
            at: self.now,
            booted: None,
        };
        work::said(&mut connection, &said, &now).unwrap()
    }
}

fn value(event: &Event, name: &str) -> String {
    let mut all = event.measurements.iter();
    match all.find(|one| *one.name == *name).map(|one| &one.value) {
        Some(Value::Text(text)) => text.to_string(),
        Some(Value::UInt(n)) => n.to_string(),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn an_alarm_is_raised_acknowledged_cleared_and_raised_again() {
    let bench = Bench::new();
    let rules = ActingSet::new(&[hot()]);
    let act = |position, value| bench.act(&rules, &[reading(position, "a", value)]).unwrap();
    act(1, 75.0);
    assert!(bench.alarms().is_empty());
    act(2, 90.0);
    act(3, 95.0);
    act(4, 75.0);
    let alarm = bench.alarms().remove(0);
    assert_eq!((alarm.state, alarm.events), (State::Raised, 2));
    assert_eq!((&*alarm.text, &*alarm.severity), ("at 90.0", "critical"));
    let said = bench.say(alarm.id, State::Acknowledged).unwrap().unwrap();
    assert_eq!(said.state, State::Acknowledged);
    // Said twice, and an event that would raise it: it stays as it is.
    bench.say(alarm.id, State::Acknowledged).unwrap().unwrap();
    act(5, 91.0);
    act(6, 60.0);
    assert_eq!(bench.alarms()[0].state, State::Cleared);
    assert!(bench.say(alarm.id, State::Acknowledged).unwrap().is_err());
    assert!(bench.say(99, State::Cleared).is_none());
    act(7, 81.0);
    let again = bench.alarms().remove(0);
    assert_eq!((again.id, again.raised, again.events), (alarm.id, 2, 1));
    bench.say(alarm.id, State::Cleared).unwrap().unwrap();

    let made = bench.made();
    let kinds: Vec<_> = made.iter().map(|event| &*event.kind).collect();
    assert_eq!(
        kinds,
        [
            "penstock.alarm.raised",
            "penstock.alarm.acknowledged",
            "penstock.alarm.cleared",
            "penstock.alarm.raised",
            "penstock.alarm.cleared",
        ]
    );
    assert_eq!(value(&made[0], "severity"), "critical");
    assert_eq!(value(&made[1], "actor"), "ann");
    assert!(made.iter().all(|event| *event.device == *"a"));
    let connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    let history = alarm::history(&connection, alarm.id, 10).unwrap();
    let states: Vec<_> = history.iter().map(|change| change.state).collect();
    use State::{Acknowledged, Cleared, Raised};
    assert_eq!(states, [Cleared, Raised, Cleared, Acknowledged, Raised]);
}

#[test]
fn what_was_done_is_not_done_again_when_the_rest_is_tried_again() {
    let bench = Bench::new();
    let rules = |template: &str| {
        let mut both = hot();
        both.actions.topic = crate::rules::action::Topic::parse("hot/{device}", false).ok();
        let template = Transform::new([("d", "$.device")], template).unwrap();
        both.actions.transform = Some(Arc::new(template));
        ActingSet::new(&[both])
    };
    let device = "x".repeat(20_000);
    let huge = rules(&"<d>".repeat(60));
    bench.act(&huge, &[reading(1, &device, 90.0)]).unwrap();
    assert_eq!(bench.alarms()[0].raised, 1);
    bench
        .say(bench.alarms()[0].id, State::Cleared)
        .unwrap()
        .unwrap();
    let made = bench.made().len();
    let mut connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    let id = super::super::failed::list(&connection, None, 0, 10)
        .unwrap()
        .0[0]
        .id;
    let work = bench.work();
    let tried = work.retry(&mut connection, &rules("short"), id).unwrap();
    assert_eq!(tried, Some(Ok(())));
    assert_eq!(bench.shown().len(), 1);
    // The alarm was raised then, and cleared by a person since.
    let alarm = &bench.alarms()[0];
    assert_eq!((alarm.state, alarm.raised), (State::Cleared, 1));
    assert_eq!(bench.made().len(), made);
}

#[test]
fn what_a_rule_made_raises_nothing_of_its_own_and_chains_end() {
    let bench = Bench::new();
    let any = r#"{"type":[{"exists":true}]}"#;
    let all = |name: &str| Rule {
        name: name.into(),
        ..rule("", any, hot().actions)
    };
    let names = ["a", "b", "c", "d", "e", "f"];
    let rules = ActingSet::new(&names.map(all));
    bench.act(&rules, &[reading(1, "x", 90.0)]).unwrap();
    // What was made comes out of the journal again, until nothing is made any more.
    let (mut position, mut taken) = (1, 0);
    loop {
        let made = bench.made();
        let fresh: Vec<_> = made[taken..].to_vec();
        if fresh.is_empty() {
            break;
        }
        taken = made.len();
        let records: Vec<_> = fresh
            .into_iter()
            .map(|event| {
                position += 1;
                // A device of its own, so that each may raise an alarm of its own.
                let device = format!("x{position}").into();
                record(position, Event { device, ..event })
            })
            .collect();
        bench.act(&rules, &records).unwrap();
        assert!(position < 10_000, "it does not end");
    }
    let depth = |event: &Event| event.tags[0].1.split(' ').count();
    let made = bench.made();
    // Each of what each of the others made, four rules deep.
    assert_eq!(made.len(), 6 + 6 * 5 + 6 * 5 * 4 + 6 * 5 * 4 * 3);
    assert_eq!(made.iter().map(depth).max(), Some(4));
    assert!(made.iter().all(|event| {
        let mut chain: Vec<_> = event.tags[0].1.split(' ').collect();
        let length = chain.len();
        chain.sort_unstable();
        chain.dedup();
        chain.len() == length && depth(event) <= 4
    }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is lost of what was not committed, and comes again: the alarms and what
    /// the journal hears of them are those of a run without a crash.
    #[test]
    fn crashes_neither_lose_nor_double_an_alarm(
        values in proptest::collection::vec((0_u8..3, 60_u8..95), 1..30),
        steps in proptest::collection::vec((1_usize..6, 0_usize..6, any::<bool>()), 1..20),
    ) {
        let records: Vec<Record> = (1..)
            .zip(&values)
            .map(|(n, (device, value))| reading(n, &format!("d{device}"), f64::from(*value)))
            .collect();
        let rules = ActingSet::new(&[hot()]);
        let whole = Bench::new();
        whole.act(&rules, &records).unwrap();

        let crashed = Bench::new();
        let mut shown = hot();
        // A message before the commit is where a crash can be.
        shown.actions.topic = crate::rules::action::Topic::parse("x", false).ok();
        let crashing = ActingSet::new(&[shown]);
        let mut at: usize = 0;
        for (count, back, crash) in steps {
            let end = (at + count).min(records.len());
            crashed.seen.ending.set(crash);
            let done = crashed.act(&crashing, &records[at.saturating_sub(back)..end]);
            crashed.seen.ending.set(false);
            if done.is_ok() {
                at = end;
            }
        }
        crashed.act(&rules, &records[at.saturating_sub(3)..]).unwrap();
        prop_assert_eq!(crashed.alarms(), whole.alarms());
        let said = |bench: &Bench| -> Vec<(Key, String)> {
            let made = bench.made().into_iter();
            made.map(|event| (event.key, event.kind.to_string())).collect()
        };
        prop_assert_eq!(said(&crashed), said(&whole));
    }
}

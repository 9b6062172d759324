//! Commands that rules place, and crashes in between.

use std::{path::Path, sync::Arc};

use penstock_broker::seal::Seal;
use tokio::runtime::Runtime;

use super::{
    super::{command, failed, schema},
    *,
};
use crate::{
    clock::SystemClock,
    config::Config,
    event::message::RULES_TAG,
    fleet::{self, Announce, Deadline, Draft, Fleet},
    store::{self, NewEvent, OnFull, Running, Store},
};

const HOT: &str = r#"{"values":{"t":[{"numeric":[">",80]}]}}"#;

/// A rule with this command, as it is put over the API.
fn with(command: &str) -> Rule {
    let text = format!(r#"{{"name": "shut", "pattern": {HOT}, "command": {command}}}"#);
    Config::rule_of_json(&text, &[]).unwrap()
}

const VALVE: &str = r#"{"device": "valve-{device}", "name": "close <t>", "qos": 2, "deadline": "10m",
    "payload": "{\"t\": <t>, \"why\": \"<d> is hot\"}",
    "paths": {"t": "$.values.t", "d": "$.device"}}"#;

#[test]
fn a_rule_says_whom_it_commands_what_and_until_when_and_the_same_each_time() {
    let bench = Bench::new();
    let rules = ActingSet::new(&[with(VALVE)]);
    let records = [reading(1, "a", 60.0), reading(2, "a", 90.5)];
    bench.act(&rules, &records).unwrap();
    let (order, asked) = bench.seen.placed.take().remove(0);
    assert_eq!(order.device, "valve-a");
    assert_eq!(order.name.as_deref(), Some("close 90.5"));
    assert_eq!(
        order.payload,
        serde_json::json!({"t": 90.5, "why": "a is hot"})
    );
    assert_eq!((order.qos, order.rules.as_deref()), (2, Some("shut")));
    let received = records[1].received.as_millis();
    assert_eq!(order.deadline, Deadline::At(received + 600_000));
    assert_eq!(&*asked.actor, "rule:shut");
    // A file that knows nothing of it, as after a crash: the very same.
    let other = Bench::new();
    other.act(&rules, &records).unwrap();
    let again = other.seen.placed.take();
    assert_eq!((&again[0].0, &again[0].1.key), (&order, &asked.key));
    // Another event has another key, and without more said it is the device's own.
    let rules = ActingSet::new(&[with("{}")]);
    bench.act(&rules, &[reading(3, "a", 91.0)]).unwrap();
    let (plain, key) = bench.seen.placed.take().remove(0);
    assert_ne!(key.key, asked.key);
    assert_eq!((&*plain.device, plain.qos), ("a", 1));
    assert!(plain.name.is_none() && plain.payload.is_null());
    assert_eq!(plain.deadline, Deadline::At(received + 60_000));
    // No more than any command may have.
    let rules = ActingSet::new(&[with(r#"{"deadline": "2h"}"#)]);
    bench.act(&rules, &[reading(4, "a", 91.0)]).unwrap();
    let (long, _) = bench.seen.placed.take().remove(0);
    let now = bench.now.as_millis();
    assert_eq!(
        long.deadline,
        Deadline::At((received + 7_200_000).min(now + 3_600_000))
    );
}

#[test]
fn what_came_of_a_rules_own_command_places_no_other() {
    let bench = Bench::new();
    let rules = ActingSet::new(&[with("{}")]);
    let after = |chain: &str| {
        let mut event = event_of("a", &[("t", 90.0)]);
        event.tags = vec![(RULES_TAG.into(), chain.into())];
        event
    };
    let chains = ["shut", "x shut y", "a b c d", "a b c"];
    let records: Vec<Record> = (1..)
        .zip(chains)
        .map(|(at, chain)| record(at, after(chain)))
        .collect();
    bench.act(&rules, &records).unwrap();
    let placed = bench.seen.placed.take();
    let chains: Vec<_> = placed.iter().map(|(order, _)| &order.rules).collect();
    assert_eq!(chains, [&Some("a b c shut".to_owned())]);
}

#[test]
fn what_cannot_be_placed_is_listed_and_has_all_its_time_when_it_is_tried_again() {
    let mut bench = Bench::new();
    let mut both = with(r#"{"deadline": "10m"}"#);
    both.actions.topic = crate::rules::action::Topic::parse("hot/{device}", false).ok();
    let rules = ActingSet::new(&[both]);
    bench.seen.no.set(Some("there is no device \"a\""));
    bench.act(&rules, &[reading(1, "a", 90.0)]).unwrap();
    assert_eq!(bench.shown().len(), 1);
    let mut connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    let failures = failed::list(&connection, None, 0, 10).unwrap().0;
    assert_eq!(&*failures[0].reason, "there is no device \"a\"");
    bench.now = Timestamp::from_millis(bench.now.as_millis() + 3_600_000);
    let again = bench.work().retry(&mut connection, &rules, failures[0].id);
    assert!(again.unwrap().unwrap().is_err());
    bench.seen.no.set(None);
    let again = bench.work().retry(&mut connection, &rules, failures[0].id);
    again.unwrap().unwrap().unwrap();
    let (order, _) = bench.seen.placed.take().remove(0);
    assert_eq!(
        order.deadline,
        Deadline::At(bench.now.as_millis() + 600_000)
    );
    // The message was sent the first time.
    assert_eq!(bench.shown().len(), 1);
    assert!(failed::list(&connection, None, 0, 10).unwrap().0.is_empty());
}

/// Sends everything to the one destination.
#[derive(Debug)]
struct Keep;

impl Announce for Keep {
    fn entry(&self, event: &Event) -> NewEvent {
        let mut body = Vec::new();
        event.to_cbor(&mut body);
        NewEvent {
            key: event.key,
            dedup: true,
            device: event.device.clone(),
            received: event.received,
            routes: Routes(1),
            body: body.into(),
            original: None,
            shed: None,
        }
    }
}

/// A journal with devices in it, and a broker that nobody is connected to.
struct Plant {
    fleet: Fleet,
    running: Running,
    runtime: Runtime,
}

impl Plant {
    fn open(dir: &Path) -> Self {
        let runtime = Runtime::new().unwrap();
        let clock = Arc::new(SystemClock);
        let config = store::Config {
            dir: dir.to_owned(),
            max_bytes: 1 << 30,
            max_age: None,
            keep_delivered: None,
            on_full: OnFull::PushBack,
            shed: Vec::new(),
            reserve_bytes: 64 * 1024,
            dedup_age: Duration::from_secs(3_600),
            dedup_count: 100_000,
            dedup_memory_bytes: 16 << 20,
            destinations: vec!["events".into()],
            from_kept: Vec::new(),
            seal: penstock_broker::seal::Seal::default(),
        };
        let (store, _) = Store::open(config, clock.clone()).unwrap();
        let running = store.run().unwrap();
        let broker = penstock_broker::Config {
            listeners: vec![penstock_broker::listener::Config::tcp(
                "127.0.0.1:0".parse().unwrap(),
            )],
            ..penstock_broker::Config::default()
        };
        let broker = runtime.block_on(broker.bind()).unwrap();
        let (config, errands) = (fleet::Config::default(), broker.handle().errands());
        let fleet = Fleet::open(config, running.handle(), Arc::new(Keep), clock, errands);
        Self {
            fleet: fleet.unwrap().0,
            running,
            runtime,
        }
    }

    fn add(&self, device: &str) {
        let members = serde_json::json!({ "id": device });
        let draft = Draft::read(members.as_object().unwrap().clone()).unwrap();
        let asked = Asked {
            actor: "ann".into(),
            key: None,
        };
        self.runtime
            .block_on(self.fleet.create(draft, asked))
            .unwrap();
    }

    fn commands(&self, device: &str) -> Vec<fleet::Command> {
        let listing = self.running.handle().listing().unwrap();
        let wanted = fleet::Commands {
            device: device.to_owned(),
            state: None,
            before: 0,
            limit: 100,
        };
        fleet::commands(listing.tables(), &wanted).unwrap().0
    }

    fn end(self) {
        self.runtime.block_on(self.running.shutdown()).unwrap();
    }
}

/// The broker's subscribers as they are seen, and real devices.
struct Real<'r>(&'r Plant, &'r Seen);

impl Show for Real<'_> {
    fn is_wanted(&self, topic: &str) -> bool {
        self.1.is_wanted(topic)
    }

    fn show(&self, publishes: &[Publish]) -> Result<(), Error> {
        self.1.show(publishes)
    }
}

impl Place for Real<'_> {
    fn times(&self) -> (Duration, Duration) {
        let config = self.0.fleet.config();
        (config.deadline, config.deadline_max)
    }

    fn place(&self, order: Order, asked: Asked) -> Result<Result<(), String>, Error> {
        command::outcome(self.0.runtime.block_on(self.0.fleet.order(order, asked)))
    }
}

/// What is on disk at this instant, and nothing else.
fn image(of: &Path) -> tempfile::TempDir {
    let image = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(of).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name != "lock" && !name.to_string_lossy().ends_with("-shm") {
            std::fs::copy(entry.path(), image.path().join(name)).unwrap();
        }
    }
    image
}

#[test]
fn a_rule_that_acts_again_after_a_crash_makes_no_second_command_whatever_it_says_by_then() {
    let bench = Bench::new();
    let now = crate::clock::Clock::now(&SystemClock);
    let act = |plant: &Plant, rule: Rule| {
        let rules = ActingSet::new(&[rule]);
        let outside = Real(plant, &bench.seen);
        let work = Work {
            gateway: &bench.gateway,
            show: &outside,
            now: super::super::made::Now {
                at: now,
                booted: None,
            },
            listened: 0,
        };
        let mut hot = event_of("a", &[("t", 90.0)]);
        hot.received = now;
        let mut connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
        let records = [record(1, hot)];
        let mut scratch = Scratch::default();
        work.page(&mut connection, &rules, &mut scratch, &records, false)
    };
    let rule = |payload: &str| {
        let command = format!(r#"{{"device": "valve", "payload": "{payload}"}}"#);
        let mut rule = with(&command);
        rule.actions.topic = crate::rules::action::Topic::parse("hot", false).ok();
        rule
    };
    let journal = tempfile::tempdir().unwrap();
    let plant = Plant::open(journal.path());
    plant.add("valve");
    // Killed when the command is in the journal and `rules.db` knows nothing of it.
    bench.seen.cut.set(true);
    assert!(act(&plant, rule("1")).is_err());
    let placed = plant.commands("valve");
    assert_eq!(placed.len(), 1);
    assert_eq!(placed[0].actor, "rule:shut");
    let left = image(journal.path());
    plant.end();
    let plant = Plant::open(left.path());
    assert!(act(&plant, rule("1")).is_err());
    bench.seen.cut.set(false);
    act(&plant, rule("2")).unwrap();
    let after = plant.commands("valve");
    assert_eq!(after.len(), 1);
    assert_eq!(
        (&after[0].id, &after[0].payload),
        (&placed[0].id, &1.into())
    );
    let connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    assert!(failed::list(&connection, None, 0, 10).unwrap().0.is_empty());
    // What tells of it says of which rules it came.
    let mut reader = plant.running.handle().reader().unwrap();
    let page = reader.all(Position(0), 100, 1 << 20).unwrap();
    let events = page.records.iter().map(|record| record.event().unwrap());
    let queued: Vec<Event> = events
        .filter(|event| *event.kind == *"penstock.command.queued")
        .collect();
    assert_eq!(queued.len(), 1);
    assert!(super::super::made::is_made(&queued[0]));
    drop(reader);
    plant.end();
}

#[test]
fn a_command_that_no_device_can_get_is_a_failure_with_its_reason() {
    let bench = Bench::new();
    let journal = tempfile::tempdir().unwrap();
    let plant = Plant::open(journal.path());
    plant.add("a");
    let outside = Real(&plant, &bench.seen);
    let now = crate::clock::Clock::now(&SystemClock);
    let work = Work {
        gateway: &bench.gateway,
        show: &outside,
        now: super::super::made::Now {
            at: now,
            booted: None,
        },
        listened: 0,
    };
    let at = |position, device: &str, received: Timestamp| {
        let mut event = event_of(device, &[("t", 90.0)]);
        event.received = received;
        record(position, event)
    };
    let day = 86_400_000;
    let long_ago = Timestamp::from_millis(now.as_millis() - day - 1_000);
    let large = format!(r#"{{"payload": "\"{}\""}}"#, "x".repeat(8_000));
    let mut connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    let mut scratch = Scratch::default();
    let mut act = |rule: Rule, record: Record| {
        let rules = ActingSet::new(&[rule]);
        work.page(&mut connection, &rules, &mut scratch, &[record], false)
            .unwrap();
        let failures = failed::list(&connection, None, 0, 10).unwrap().0;
        let reasons: Vec<String> = failures.into_iter().map(|one| one.reason).collect();
        reasons
    };
    assert!(act(with(&large), at(1, "a", now)).is_empty());
    let reasons = act(with("{}"), at(2, "nobody", now));
    assert_eq!(reasons, ["there is no device \"nobody\""]);
    // A backlog of yesterday moves no machine today.
    let reasons = act(with("{}"), at(3, "a", long_ago));
    assert_eq!(reasons[1..], ["the deadline has passed"]);
    assert_eq!(plant.commands("a").len(), 1);
    plant.end();
}

#[test]
fn a_command_waits_for_a_clock_and_is_placed_with_the_time_that_its_event_has_left() {
    let mut bench = Bench::new();
    let noon = bench.now;
    let minute = |n: i64| Timestamp::from_millis(noon.as_millis() + n * 60_000);
    let unset = Timestamp::from_millis(600_000);
    bench.now = unset;
    let rules = ActingSet::new(&[with(r#"{"deadline": "1h"}"#)]);
    let at = |position, device: &str| {
        let mut event = event_of(device, &[("t", 90.0)]);
        event.received = unset;
        record(position, event)
    };
    bench
        .act(
            &rules,
            &[at(1, "a"), at(2, "b"), at(3, "lost"), at(4, "old")],
        )
        .unwrap();
    assert!(bench.seen.placed.borrow().is_empty());
    let mut connection = schema::open(bench.dir.path(), &Seal::default()).unwrap();
    let state = |connection: &rusqlite::Connection| -> (i64, Vec<String>) {
        let count = "SELECT failures FROM state";
        let count = connection.query_row(count, [], |row| row.get(0)).unwrap();
        let listed = failed::list(connection, None, 0, 10).unwrap().0;
        (count, listed.into_iter().map(|one| one.reason).collect())
    };
    let (failures, waiting) = state(&connection);
    assert_eq!(
        (failures, waiting.len()),
        (0, 4),
        "they wait, and have not failed"
    );
    assert!(
        waiting[0].contains("it is placed when the clock is"),
        "{waiting:?}"
    );

    // When it is set, it turns out when the events came; of one nobody knows.
    bench.now = noon;
    let repaired = |record: Record| {
        let mut event = record.event().unwrap();
        event.received = match &*event.device {
            "lost" => unset,
            "old" => minute(-90),
            _ => minute(-10),
        };
        Record {
            position: record.position,
            ..super::record(0, event)
        }
    };
    let work = bench.work();
    while work
        .place_untimed(&mut connection, &rules, repaired)
        .unwrap()
    {}
    let placed = bench.seen.placed.borrow();
    let ends = |order: &Order| match order.deadline {
        crate::fleet::Deadline::At(ms) => ms,
        ref other => panic!("{other:?}"),
    };
    let orders: Vec<_> = placed
        .iter()
        .map(|(one, _)| (&*one.device, ends(one)))
        .collect();
    let (soon, over) = (minute(50).as_millis(), minute(-30).as_millis());
    // Whether the time is over is for whoever places it to say.
    assert_eq!(orders, [("a", soon), ("b", soon), ("old", over)]);
    let (failures, rest) = state(&connection);
    assert_eq!(failures, 1);
    assert_eq!(rest, ["nobody knows how long ago its event was received"]);
    // One whose rule has become another meanwhile is not just gone.
    drop(placed);
    bench.now = unset;
    bench.act(&rules, &[at(5, "a")]).unwrap();
    bench.now = noon;
    let topic = r#"{"name": "shut", "pattern": {"device": ["a"]}, "topic": "t"}"#;
    let other = ActingSet::new(&[Config::rule_of_json(topic, &[]).unwrap()]);
    let work = bench.work();
    while work
        .place_untimed(&mut connection, &other, |record| record)
        .unwrap()
    {}
    let (failures, rest) = state(&connection);
    assert_eq!(failures, 2);
    assert_eq!(rest[1], "no rule \"shut\" places a command any more");
}

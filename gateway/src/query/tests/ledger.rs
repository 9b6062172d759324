//! The ledger by device.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    query::{Limits, apply, ledger, read::Ledger, schema},
    store::{
        Retry,
        tests::model::{Became, Op, World, op},
    },
};

fn all() -> Ledger {
    Ledger {
        limit: 1_000,
        ..Ledger::default()
    }
}

/// A read side that is fed by hand.
struct Fed {
    dir: TempDir,
    connection: rusqlite::Connection,
    limits: Limits,
    found: Vec<String>,
}

impl Fed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            connection: schema::open(dir.path()).unwrap(),
            dir,
            limits: Config::default().limits(),
            found: Vec::new(),
        }
    }

    /// Counts up to the end, a few records at a time.
    fn fold(&mut self, store: &store::Handle, count: usize) {
        let mut reader = store.reader().unwrap();
        loop {
            let at = schema::position(&self.connection).unwrap();
            let (_, commit) = ledger::stands(&self.connection).unwrap();
            let accounts = reader.accounts(at, commit, count, 1 << 20).unwrap();
            let compared = apply::apply(&mut self.connection, at, &accounts, &self.limits).unwrap();
            self.found.extend(compared.found);
            if compared.is_whole {
                break;
            }
        }
        let (_, commit) = ledger::stands(&self.connection).unwrap();
        store.hold().set_tallied(commit);
        store.hold().set(self.position());
    }

    fn position(&self) -> Position {
        schema::position(&self.connection).unwrap()
    }

    /// Begins a new file, which takes the ledger over.
    fn rebuild(&mut self) {
        let ledger = ledger::rescue(self.dir.path());
        self.connection = rusqlite::Connection::open_in_memory().unwrap();
        schema::remove(self.dir.path()).unwrap();
        self.connection = schema::open(self.dir.path()).unwrap();
        ledger.put(&mut self.connection).unwrap();
    }

    fn answer(&self, store: &store::Handle, asked: &Ledger) -> Json {
        let mut reader = Reader::open(self.dir.path(), store.listing().unwrap()).unwrap();
        reader.ledger(asked).unwrap()
    }

    /// What it says was given up, by device.
    fn shed(&self, store: &store::Handle) -> BTreeMap<String, u64> {
        let shed = (0..4).filter_map(|n| {
            let device = format!("d{n}");
            let asked = Ledger {
                device: Some(device.clone()),
                ..all()
            };
            let answer = self.answer(store, &asked);
            let count = items(&answer).first()?["shed"].as_u64().unwrap();
            (count > 0).then_some((device, count))
        });
        shed.collect()
    }

    /// What it says by device and destination.
    fn by_device(&self, store: &store::Handle) -> BTreeMap<(String, u8), Became> {
        let mut found = BTreeMap::new();
        // One by one: a device that was not counted yet has no line.
        for n in 0..4 {
            let asked = Ledger {
                device: Some(format!("d{n}")),
                ..all()
            };
            let answer = self.answer(store, &asked);
            assert_eq!(answer["complete"], true, "{answer}");
            for item in items(&answer) {
                let device = item["device"].as_str().unwrap();
                for one in item["destinations"].as_array().unwrap() {
                    let count = |of: &str| one[of].as_i64().unwrap();
                    let id = store.destination_id(one["name"].as_str().unwrap());
                    let became = Became {
                        routed: count("routed"),
                        delivered: count("delivered"),
                        backlog: count("backlog"),
                        dead: count("dead"),
                        lost: count("expired") + count("evicted"),
                    };
                    if became != Became::default() {
                        found.insert((device.to_owned(), id.unwrap().0), became);
                    }
                }
            }
        }
        found
    }
}

/// What is done with the read side before something happens to the journal.
#[derive(Debug, Clone, Copy)]
enum Feeding {
    No,
    Fold(usize),
    Restart,
    Rebuild,
}

fn feeding() -> impl Strategy<Value = Feeding> {
    prop_oneof![
        6 => Just(Feeding::No),
        4 => (1..20_usize).prop_map(Feeding::Fold),
        1 => Just(Feeding::Restart),
        1 => Just(Feeding::Rebuild),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_by_device_is_that_of_the_journal_whatever_happens(
        ops in vec((op(), feeding()), 1..60),
        is_prompt in any::<bool>(),
    ) {
        let (mut world, mut fed) = (World::new(), Fed::new());
        world.held = Some(Position(0));
        world.act(Op::Crash);
        for (op, feeding) in ops {
            match feeding {
                Feeding::Fold(count) => fed.fold(&world.handle(), count),
                // What is settled leaves the journal at once where there is no room at all,
                // read or not; and what was on its way is known by device where it was read.
                _ if matches!(op, Op::Squeeze) || is_prompt => fed.fold(&world.handle(), 7),
                Feeding::Restart => fed.connection = schema::open(fed.dir.path()).unwrap(),
                Feeding::Rebuild => fed.rebuild(),
                Feeding::No => {}
            }
            world.held = Some(fed.position());
            world.act(op);
            if is_prompt {
                // As of now, although not all of it is counted.
                prop_assert_eq!(fed.by_device(&world.handle()), world.by_device());
                prop_assert_eq!(fed.shed(&world.handle()), world.shed());
            }
        }
        fed.fold(&world.handle(), 5);
        prop_assert_eq!(&fed.found, &Vec::<String>::new(), "every fold was compared");
        prop_assert_eq!(ledger::audit(&fed.connection).unwrap(), Vec::<String>::new());
        if is_prompt {
            prop_assert_eq!(ledger::unattributed(&fed.connection).unwrap(), 0);
            fed.rebuild();
            fed.fold(&world.handle(), 3);
            prop_assert_eq!(fed.by_device(&world.handle()), world.by_device());
            prop_assert_eq!(fed.shed(&world.handle()), world.shed());
            prop_assert_eq!(&fed.found, &Vec::<String>::new());
        }
    }
}

#[test]
fn what_was_evicted_before_it_was_read_is_not_what_was_on_its_way() {
    let (mut world, mut fed) = (World::new(), Fed::new());
    world.held = Some(Position(0));
    for op in [
        Op::Crash,
        Op::Append(vec![Some((11, 4, true))]),
        Op::Squeeze,
        Op::Append(vec![Some((1, 4, true))]),
        Op::Read {
            destination: 2,
            count: 1,
        },
        Op::Squeeze,
        Op::Settle {
            destination: 2,
            outcomes: vec![0],
        },
    ] {
        fed.fold(&world.handle(), 7);
        world.held = Some(fed.position());
        world.act(op);
    }
    fed.fold(&world.handle(), 7);
    assert_eq!(fed.by_device(&world.handle()), world.by_device());
    assert_eq!(ledger::unattributed(&fed.connection).unwrap(), 0);
}

fn of(device: &str, n: u8, routes: u64) -> Entry {
    let Entry::Event(one) = entry(&event(n, device, NOON, &[("t", Value::Int(1))])) else {
        panic!("it is an event");
    };
    Entry::Event(NewEvent {
        routes: Routes(routes),
        ..one
    })
}

async fn configure(place: &Place, names: &[&str], from_kept: &[&str]) {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).into()).collect();
    let handle = place.handle();
    assert!(
        handle
            .configure(owned(names), owned(from_kept))
            .await
            .unwrap()
    );
}

fn destination<'j>(answer: &'j Json, device: &str, name: &str) -> &'j Json {
    let item = items(answer).iter().find(|item| item["device"] == device);
    let all = item.unwrap()["destinations"].as_array().unwrap();
    all.iter().find(|one| one["name"] == name).unwrap()
}

#[tokio::test]
async fn what_a_new_destination_is_given_later_is_in_its_ledger_and_where_tells_of_it() {
    let place = Place::new();
    place.handle().hold().set(Position(0));
    let mut fed = Fed::new();
    place
        .append((1..=10).map(|n| of("b7", n, 1)).collect())
        .await;
    // Some of it is counted before, and some after it was given.
    let mut reader = place.handle().reader().unwrap();
    let accounts = reader.accounts(Position(0), 0, 4, 1 << 20).unwrap();
    apply::apply(&mut fed.connection, Position(0), &accounts, &fed.limits).unwrap();
    configure(&place, &["lake", "alarms", "new"], &["new"]).await;
    // Routed by those who did not know of it yet, and by those who did.
    place
        .append(vec![of("b7", 11, 1), of("b8", 12, 0b101)])
        .await;
    let odd = store::Wanted::new(|_, record| record.position.0 % 2 == 1);
    place.handle().fill(odd).await.unwrap();
    place.handle().filled(DestinationId(2)).await.unwrap();
    let before = fed.answer(&place.handle(), &all());
    fed.fold(&place.handle(), 3);
    let after = fed.answer(&place.handle(), &all());
    for answer in [&before, &after] {
        let new = destination(answer, "b7", "new");
        // 1, 3, 5, 7, 9 and 11.
        assert_eq!(
            (&new["routed"], &new["backlog"]),
            (&6.into(), &6.into()),
            "{answer}"
        );
    }
    assert_eq!(destination(&after, "b8", "new")["routed"], 1);
    assert_eq!((&fed.found, &after["unattributed"]), (&vec![], &0.into()));
    let mut reader = Reader::open(fed.dir.path(), place.handle().listing().unwrap()).unwrap();
    let mut gets = |position: u64| {
        let found = reader
            .whereabouts(Which::Position(Position(position)))
            .unwrap();
        let all = items(&found)[0]["destinations"].as_array().unwrap().clone();
        all.iter()
            .any(|one| one["name"] == "new" && one["state"] == "backlog")
    };
    let found: Vec<u64> = (1..=12).filter(|position| gets(*position)).collect();
    assert_eq!(found, [1, 3, 5, 7, 9, 11, 12]);
}

#[tokio::test]
async fn a_number_that_is_given_again_begins_a_ledger_of_its_own() {
    let place = Place::new();
    place.handle().hold().set(Position(0));
    let mut fed = Fed::new();
    place
        .append((1..=4).map(|n| of("b7", n, 2)).collect())
        .await;
    fed.fold(&place.handle(), 10);
    assert_eq!(
        destination(&fed.answer(&place.handle(), &all()), "b7", "alarms")["routed"],
        4
    );
    configure(&place, &["lake"], &[]).await;
    assert!(
        place
            .handle()
            .forget_destination("alarms".into())
            .await
            .unwrap()
    );
    // The next start would take a number for another name for damage until that is noted.
    configure(&place, &["lake"], &[]).await;
    configure(&place, &["lake", "other"], &["other"]).await;
    let handle = place.handle();
    assert_eq!(handle.destination_id("other"), Some(DestinationId(1)));
    handle
        .fill(store::Wanted::new(|_, record| record.position.0 > 3))
        .await
        .unwrap();
    handle.filled(DestinationId(1)).await.unwrap();
    place.append(vec![of("b7", 5, 2)]).await;
    let before = fed.answer(&handle, &all());
    fed.fold(&handle, 2);
    for answer in [before, fed.answer(&handle, &all())] {
        let other = destination(&answer, "b7", "other");
        assert_eq!(
            (&other["routed"], &other["backlog"]),
            (&2.into(), &2.into()),
            "{answer}"
        );
    }
    assert_eq!(fed.found, Vec::<String>::new());
}

#[tokio::test]
async fn what_was_missed_is_of_no_device_and_others_than_so_many_have_one_line() {
    let place = Place::new();
    // Nobody reads.
    let device = |n: u8| if n == 3 { "x9" } else { "b7" };
    place
        .append((1..=6).map(|n| of(device(n), n, 1)).collect())
        .await;
    let handle = place.handle();
    let record = |n: u64| {
        let listing = handle.listing().unwrap();
        listing.record(Position(n)).unwrap().unwrap()
    };
    let dead = |record| Dead {
        record,
        attempts: 1,
        first: None,
        reason: "no".into(),
    };
    let third = record(3);
    let mut progress = Progress {
        destination: DestinationId(0),
        cursor: Position(3),
        delivered: 1,
        retry: vec![Retry {
            record: third.clone(),
            attempts: 1,
            first: None,
            not_before: seconds(NOON),
            reason: "not now".into(),
        }],
        retried: Vec::new(),
        dead: vec![dead(record(2))],
        spent: None,
    };
    handle
        .progress(progress.clone())
        .await
        .unwrap()
        .await
        .unwrap();
    let listing = handle.listing().unwrap();
    let gone = async {
        while listing.record(Position(3)).unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
    let mut fed = Fed::new();
    fed.limits.ledger_devices = 3;
    fed.fold(&handle, 10);
    let found = std::mem::take(&mut fed.found);
    assert!(!found.is_empty(), "it began with what the journal had");
    // From here on nothing is missed. What ends now was routed before.
    progress.retry.clear();
    (progress.delivered, progress.dead) = (0, vec![dead(third)]);
    handle.progress(progress).await.unwrap().await.unwrap();
    fed.fold(&handle, 10);
    assert_eq!(
        ledger::audit(&fed.connection).unwrap(),
        Vec::<String>::new()
    );
    let news = (7..=10).map(|n| of(&format!("c{n:02}"), n, 1));
    place.append(news.collect()).await;
    place.settle(0, 4, 1, Vec::new()).await;
    fed.fold(&handle, 10);
    assert_eq!(fed.found, Vec::<String>::new());
    let answer = fed.answer(&handle, &all());
    assert_eq!(answer["others"]["destinations"][0]["routed"], 3, "{answer}");
    assert_eq!(answer["others"]["stored"], 3);
    let unknown = &answer["unknown"]["destinations"][0];
    assert_eq!(
        (&unknown["routed"], &unknown["dead"]),
        (&3.into(), &1.into())
    );
    let names: Vec<_> = items(&answer).iter().map(|item| &item["device"]).collect();
    assert_eq!(names, ["b7", "c07", "x9"]);
    let b7 = destination(&answer, "b7", "lake");
    assert_eq!((&b7["delivered"], &b7["backlog"]), (&1.into(), &2.into()));
    // By pages, and one alone.
    let one = Ledger {
        limit: 1,
        ..Ledger::default()
    };
    let first = fed.answer(&handle, &one);
    assert_eq!(items(&first)[0]["device"], "b7");
    let second = Ledger {
        after: first["next"].as_str().map(str::to_owned),
        ..one
    };
    assert_eq!(items(&fed.answer(&handle, &second))[0]["device"], "c07");
    let of = |device: &str| Ledger {
        device: Some(device.to_owned()),
        ..all()
    };
    assert_eq!(
        fed.answer(&handle, &of("b7"))["items"],
        json_of(&answer, "b7")
    );
    assert_eq!(items(&fed.answer(&handle, &of("nobody"))).len(), 0);
}

/// An event that may be given up.
fn low(device: &str, n: u8) -> Entry {
    let Entry::Event(one) = of(device, n, 1) else {
        panic!("it is an event");
    };
    Entry::Event(NewEvent {
        shed: Some(store::Sheddable {
            class: Class::Low,
            series: 0,
        }),
        ..one
    })
}

/// Tells of what was given up, under keys that begin with `first`.
#[derive(Debug)]
struct Tell(u8);

impl store::Edit for Tell {
    type Answer = usize;

    fn apply(
        &self,
        tables: &rusqlite::Connection,
        _: Timestamp,
    ) -> rusqlite::Result<store::Edited<usize>> {
        let gaps = store::take_gaps(tables, 100)?;
        let telling = |(n, gap): (u8, &store::Gap)| match of(&gap.device, self.0 + n, 1) {
            Entry::Event(event) => NewEvent {
                dedup: true,
                ..event
            },
            Entry::Quarantine(_) => panic!("it is an event"),
        };
        let events = (0..).zip(&gaps).map(telling).collect();
        let counts = gaps.iter().map(|gap| (gap.device.clone(), gap.count));
        Ok(store::Edited::tells(gaps.len(), events, counts.collect()))
    }

    fn cost_bytes(&self) -> usize {
        1
    }
}

/// A row that a damaged file brings back.
#[derive(Debug)]
struct BringBack(Vec<u8>);

impl store::Edit for BringBack {
    type Answer = ();

    fn apply(
        &self,
        tables: &rusqlite::Connection,
        _: Timestamp,
    ) -> rusqlite::Result<store::Edited<()>> {
        tables.execute(
            "INSERT INTO gaps (device, class, routes, checksum, body)
             VALUES ('b8', 0, 1, ?1, ?2)",
            (crc32fast::hash(&self.0), &self.0),
        )?;
        Ok(store::Edited::change((), Vec::new()))
    }

    fn cost_bytes(&self) -> usize {
        1
    }
}

#[tokio::test]
async fn what_was_given_up_is_in_the_ledger_before_it_is_told_and_after_and_once() {
    let place = Place::new();
    let handle = place.handle();
    handle.hold().set(Position(0));
    let mut fed = Fed::new();
    let shed = |answer: &Json| -> Vec<(String, i64, i64)> {
        let of = |item: &Json| {
            let number = |of: &str| item[of].as_i64().unwrap();
            let device = item["device"].as_str().unwrap().to_owned();
            (device, number("stored"), number("shed"))
        };
        items(answer).iter().map(of).collect()
    };
    let is = |of: &[(&str, i64, i64)]| -> Vec<(String, i64, i64)> {
        let owned = of
            .iter()
            .map(|(device, n, m)| ((*device).to_owned(), *n, *m));
        owned.collect()
    };
    place
        .append(vec![
            of("b7", 1, 1),
            low("b7", 2),
            low("b8", 3),
            low("b8", 4),
        ])
        .await;
    // The second device has nothing else; neither is counted by the read side yet.
    fed.fold(&handle, 10);
    let before = fed.answer(&handle, &all());
    assert_eq!(shed(&before), is(&[("b7", 1, 1), ("b8", 0, 2)]));
    let body = "SELECT body FROM gaps WHERE device = 'b8'";
    let row: Vec<u8> = handle
        .listing()
        .unwrap()
        .tables()
        .query_row(body, [], |row| row.get(0))
        .unwrap();
    assert_eq!(handle.edit(Tell(100)).await, Ok(2));
    let alone = Ledger {
        device: Some("b8".to_owned()),
        ..all()
    };
    let told = fed.answer(&handle, &alone);
    assert_eq!(shed(&told), is(&[("b8", 1, 2)]), "told, and not counted");
    fed.fold(&handle, 10);
    let after = fed.answer(&handle, &all());
    assert_eq!(shed(&after), is(&[("b7", 2, 1), ("b8", 1, 2)]));
    assert_eq!((&fed.found, &after["unattributed"]), (&vec![], &0.into()));
    // And more of it.
    place.append(vec![low("b8", 5)]).await;
    let more = fed.answer(&handle, &all());
    assert_eq!(shed(&more)[1].2, 3);
    assert_eq!(handle.edit(Tell(110)).await, Ok(1));
    fed.fold(&handle, 10);
    assert_eq!(fed.found, Vec::<String>::new());
    // What was told, and is brought back, is not counted once more.
    assert!(!handle.hold().take_missed());
    assert_eq!(handle.edit(BringBack(row)).await, Ok(()));
    assert_eq!(handle.edit(Tell(101)).await, Ok(1));
    assert_eq!(handle.status().duplicate, 1);
    assert!(handle.hold().take_missed(), "a difference has a reason");
    fed.fold(&handle, 10);
    assert_eq!(shed(&fed.answer(&handle, &all()))[1].2, 3);
    assert_eq!(fed.found, Vec::<String>::new());
    assert_eq!(
        ledger::audit(&fed.connection).unwrap(),
        Vec::<String>::new()
    );
}

#[tokio::test]
async fn what_was_given_up_while_nobody_read_is_of_no_device() {
    let place = Place::new();
    let handle = place.handle();
    place.append(vec![low("b7", 1), low("b7", 2)]).await;
    assert_eq!(handle.edit(Tell(100)).await, Ok(1));
    let mut fed = Fed::new();
    fed.fold(&handle, 10);
    let found = std::mem::take(&mut fed.found);
    assert!(
        found.iter().any(|one| one.contains("given up")),
        "{found:?}"
    );
    // From here on nothing is missed, and a file of an earlier version is taken over.
    fed.connection
        .execute("DELETE FROM ledger_destinations WHERE number = 65", [])
        .unwrap();
    fed.connection
        .execute("DELETE FROM ledger WHERE number = 65", [])
        .unwrap();
    handle.hold().set(fed.position());
    place.append(vec![low("b7", 3)]).await;
    assert_eq!(handle.edit(Tell(110)).await, Ok(1));
    fed.fold(&handle, 10);
    let answer = fed.answer(&handle, &all());
    assert_eq!(items(&answer)[0]["shed"], 1, "{answer}");
    assert_eq!(answer["unknown"]["shed"], 2, "{answer}");
}

fn json_of(answer: &Json, device: &str) -> Json {
    let item = items(answer).iter().find(|item| item["device"] == device);
    serde_json::json!([item.unwrap()])
}

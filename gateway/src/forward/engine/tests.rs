//! The engine against a journal in memory that forgets what was not committed,
//! and a destination that answers from a script.

use std::{
    collections::{BTreeSet, HashMap},
    pin::Pin,
    sync::{Arc, Mutex},
};

use proptest::prelude::*;

use super::*;
use crate::forward::{
    batch::Batch,
    destination::{Error as Trouble, Outcome, Outcomes},
    status::Status,
    testing::{Model, engine, record},
};

/// How the destination treats the next batch, or a record of it.
#[derive(Debug, Clone)]
enum Mood {
    Fine,
    Unavailable,
    /// Takes the batch, but the answer is lost.
    Ambiguous,
    Misconfigured,
    Throttled,
    /// Knows nothing of the records from here on.
    Breaks(usize),
    /// These records of the batch fail by themselves, for now or for good.
    Fails(Vec<usize>),
    Refuses(Vec<usize>),
    /// There is no room for these for a while, nor for those behind them.
    Paces(Vec<usize>),
    /// These fail for now, and nothing behind them is tried until all that are in
    /// flight have ended.
    Holds(Vec<usize>),
    /// Refuses these for good, but takes them if they come again. Those behind
    /// them it does not take meanwhile.
    RefusesNow(Vec<usize>),
}

/// Takes records by key, once each, and in order per partition key: while a
/// record fails for now, it takes no later one of its key that is in flight with it,
/// and once a batch has failed it takes none of those in flight beside it.
#[derive(Debug, Default)]
struct Place {
    moods: Vec<Mood>,
    /// Positions per device, in the order taken.
    taken: HashMap<String, Vec<u64>>,
    /// The same with all copies.
    arrivals: HashMap<String, Vec<u64>>,
    seen: BTreeSet<u64>,
    copies: usize,
    /// Failed for now, per device: the oldest.
    failing: HashMap<String, u64>,
    refused: BTreeSet<u64>,
    refused_now: BTreeSet<u64>,
    /// Refused once, and taken if it comes again.
    pardoned: BTreeSet<u64>,
    refuses_all: bool,
    broken: bool,
    held: bool,
    batches: Vec<Vec<u64>>,
    /// What was shown before its turn.
    shown: Vec<Vec<u64>>,
    /// A batch that begins with this one does not land.
    hangs: Option<u64>,
    out: usize,
    out_most: usize,
}

#[derive(Debug, Clone)]
struct Fake {
    place: Arc<Mutex<Place>>,
    limits: Limits,
}

impl Fake {
    fn new(moods: Vec<Mood>, in_flight: usize) -> Self {
        Self {
            place: Arc::new(Mutex::new(Place {
                moods,
                ..Place::default()
            })),
            limits: Limits {
                batch_records: 8,
                batch_bytes: 4_096,
                linger: Duration::from_millis(5),
                in_flight,
            },
        }
    }
}

impl Place {
    fn take(&mut self, device: &str, position: u64) {
        let arrivals = self.arrivals.entry(device.to_owned()).or_default();
        arrivals.push(position);
        if self.seen.insert(position) {
            self.taken
                .entry(device.to_owned())
                .or_default()
                .push(position);
        } else {
            self.copies += 1;
        }
        if self.failing.get(device) == Some(&position) {
            self.failing.remove(device);
        }
    }

    fn answer(&mut self, items: &[(String, u64)]) -> Outcomes {
        self.batches
            .push(items.iter().map(|(_, position)| *position).collect());
        let unavailable = || {
            Err(Trouble::Unavailable {
                reason: "away".to_owned(),
                retry_after: None,
            })
        };
        if self.broken {
            return unavailable();
        }
        if self.held {
            return Ok(vec![Outcome::Behind; items.len()]);
        }
        let mood = self.moods.pop().unwrap_or(Mood::Fine);
        self.broken = !matches!(
            mood,
            Mood::Fine
                | Mood::Fails(_)
                | Mood::Paces(_)
                | Mood::Refuses(_)
                | Mood::RefusesNow(_)
                | Mood::Holds(_)
        );
        match &mood {
            Mood::Unavailable => return unavailable(),
            Mood::Misconfigured => return Err(Trouble::Misconfigured("no such place".to_owned())),
            _ => {}
        }
        let mut outcomes = Vec::new();
        for (n, (device, position)) in items.iter().enumerate() {
            let behind = self
                .failing
                .get(device)
                .is_some_and(|failing| failing < position);
            let outcome = match &mood {
                Mood::Throttled => Outcome::Throttled { retry_after: None },
                Mood::Breaks(from) if n >= *from => Outcome::Unknown("broke".to_owned()),
                _ if self.refuses_all || self.refused.contains(position) => {
                    Outcome::Permanent("never".to_owned())
                }
                Mood::Refuses(which) if which.contains(&n) && !self.pardoned.contains(position) => {
                    self.refused.insert(*position);
                    Outcome::Permanent("never".to_owned())
                }
                Mood::RefusesNow(which) if which.contains(&n) && !behind => {
                    self.failing.entry(device.clone()).or_insert(*position);
                    self.refused_now.insert(*position);
                    Outcome::Permanent("not today".to_owned())
                }
                Mood::Holds(_) if self.held => Outcome::Behind,
                Mood::Holds(which) if which.contains(&n) => {
                    self.held = true;
                    Outcome::Transient("not now".to_owned())
                }
                Mood::Paces(which) if which.contains(&n) || behind => {
                    self.failing.entry(device.clone()).or_insert(*position);
                    Outcome::Paced {
                        retry_after: Duration::from_millis(1 + position % 40),
                        reason: "this shard is full".to_owned(),
                    }
                }
                Mood::Fails(which) if which.contains(&n) || behind => {
                    self.failing.entry(device.clone()).or_insert(*position);
                    Outcome::Transient("not now".to_owned())
                }
                _ if behind => Outcome::Transient("behind".to_owned()),
                _ => {
                    self.take(device, *position);
                    Outcome::Acknowledged
                }
            };
            outcomes.push(outcome);
        }
        if matches!(mood, Mood::Ambiguous) {
            return unavailable();
        }
        Ok(outcomes)
    }
}

impl Destination for Fake {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn prepares(&self) -> bool {
        true
    }

    fn prepare(&self, batch: Batch) {
        let positions = batch.items.iter().map(|item| item.position().0).collect();
        self.place.lock().unwrap().shown.push(positions);
    }

    fn send(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        let items: Vec<_> = batch
            .items
            .iter()
            .map(|item| (item.partition_key().to_owned(), item.position().0))
            .collect();
        // The order in which batches are handed over is the order in which they arrive.
        let outcomes = {
            let mut place = self.place.lock().unwrap();
            place.out += 1;
            place.out_most = place.out_most.max(place.out);
            place.answer(&items)
        };
        let hangs = self.place.lock().unwrap().hangs == Some(items[0].1);
        let delay = match hangs {
            true => Duration::from_secs(86_400),
            false => Duration::from_millis(1 + items[0].1 % 7),
        };
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            let mut place = self.place.lock().unwrap();
            place.out -= 1;
            if place.out == 0 {
                (place.broken, place.held) = (false, false);
                place.failing.clear();
            }
            outcomes
        })
    }
}

/// Runs an engine until nothing is left to deliver.
async fn drain(model: &Model, fake: &Fake, attempts_max: u32) -> Status {
    let (engine, status) = engine(model, Arc::new(fake.clone()), attempts_max);
    let stop = CancellationToken::new();
    let task = tokio::spawn(engine.run(stop.clone()));
    let everything = async {
        while model.backlog() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3_600), everything)
        .await
        .expect("everything is settled within an hour of test time");
    let last = status.status();
    stop.cancel();
    task.await.unwrap().unwrap();
    last
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

fn mood() -> impl Strategy<Value = Mood> {
    let some = || proptest::collection::vec(0usize..8, 0..3);
    prop_oneof![
        6 => Just(Mood::Fine),
        2 => Just(Mood::Unavailable),
        2 => Just(Mood::Ambiguous),
        1 => Just(Mood::Misconfigured),
        2 => Just(Mood::Throttled),
        2 => (0usize..8).prop_map(Mood::Breaks),
        3 => some().prop_map(Mood::Fails),
        2 => some().prop_map(Mood::Paces),
        2 => some().prop_map(Mood::Refuses),
        2 => some().prop_map(Mood::Holds),
        2 => some().prop_map(Mood::RefusesNow),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_is_lost_reordered_or_settled_too_early(
        devices in proptest::collection::vec(0u8..5, 1..80),
        moods in proptest::collection::vec(mood(), 0..40),
        in_flight in 1usize..4,
        crashes in proptest::collection::vec(1u64..400, 0..4),
        redrives in proptest::collection::vec(1u64..400, 0..4),
        attempts_max in prop_oneof![Just(1u32), Just(3), Just(1000)],
    ) {
        let total = devices.len();
        let mut redriven = BTreeSet::new();
        let (model, fake) = (Model::new(), Fake::new(moods, in_flight));
        paused().block_on(async {
            let feed = async {
                for (n, device) in devices.iter().enumerate() {
                    model.append(record(n as u64 * 2 + 1, *device));
                    if n % 3 == 0 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            };
            let crash = async {
                for after in &crashes {
                    let (engine, _) = engine(&model, Arc::new(fake.clone()), attempts_max);
                    let running = engine.run(CancellationToken::new());
                    drop(tokio::time::timeout(Duration::from_millis(*after), running).await);
                    let mut place = fake.place.lock().unwrap();
                    (place.out, place.broken, place.held) = (0, false, false);
                    place.failing.clear();
                    drop(place);
                    check_settled(&model, &fake);
                }
            };
            let redrive = async {
                for after in &redrives {
                    tokio::time::sleep(Duration::from_millis(*after)).await;
                    redriven.extend(redrive(&model, &fake));
                }
            };
            tokio::join!(feed, crash, redrive);
            drain(&model, &fake, attempts_max).await;
        });
        check_settled(&model, &fake);
        let disk = model.disk.lock().unwrap();
        let place = fake.place.lock().unwrap();
        let dead: BTreeSet<u64> = disk.dead.keys().map(|position| position.0).collect();
        let all: BTreeSet<u64> = place.seen.union(&dead).copied().collect();
        prop_assert_eq!(all.len(), total, "each record arrives or is a dead letter");
        prop_assert_eq!(disk.delivered + disk.dead.len() as u64, total as u64);
        for (device, taken) in &place.taken {
            // What a person puts back arrives late.
            let others = taken.iter().filter(|position| !redriven.contains(*position));
            prop_assert!(others.is_sorted(), "{} out of order: {:?} of {:?}", device, taken, place.batches);
        }
        prop_assert!(place.out_most <= in_flight);
        if attempts_max > 3 {
            let refused = place.refused.union(&place.refused_now).copied().collect();
            prop_assert!(dead.is_subset(&refused));
        }
    }
}

/// Everything up to the cursor has arrived, waits, or is dead.
fn check_settled(model: &Model, fake: &Fake) {
    let disk = model.disk.lock().unwrap();
    let place = fake.place.lock().unwrap();
    for position in disk
        .records
        .range(..=disk.cursor)
        .map(|(position, _)| position)
    {
        assert!(
            place.seen.contains(&position.0)
                || disk.retry.contains_key(position)
                || disk.dead.contains_key(position),
            "the cursor passed {position}, which is not settled"
        );
    }
}

/// A person puts the cause right, and the dead letters back.
fn redrive(model: &Model, fake: &Fake) -> BTreeSet<u64> {
    let dead: BTreeSet<u64> = {
        let disk = model.disk.lock().unwrap();
        disk.dead.keys().map(|position| position.0).collect()
    };
    let mut place = fake.place.lock().unwrap();
    place.pardoned.extend(&dead);
    place.refused.retain(|position| !dead.contains(position));
    model.redrive();
    dead
}

mod bounds;
mod lanes;
mod pacing;

#[test]
fn what_was_not_tried_behind_a_failed_record_has_had_no_attempt() {
    let (model, fake) = (Model::new(), Fake::new(vec![Mood::Holds(vec![0])], 2));
    for position in 1..=20 {
        model.append(record(position, 1));
    }
    paused().block_on(async { drain(&model, &fake, 1).await });
    let dead = &model.disk.lock().unwrap().dead;
    let dead: Vec<u64> = dead.keys().map(|position| position.0).collect();
    assert_eq!(dead, [1]);
    let expect: Vec<u64> = (2..=20).collect();
    assert_eq!(fake.place.lock().unwrap().taken["device-1"], expect);
}

#[test]
fn what_there_is_no_room_for_waits_without_an_attempt_and_others_go_on() {
    let moods = vec![Mood::Paces(vec![0]); 3];
    let (model, fake) = (Model::new(), Fake::new(moods, 1));
    for position in 1..=40 {
        model.append(record(position, u8::try_from(position % 2).unwrap()));
    }
    paused().block_on(async { drain(&model, &fake, 1).await });
    assert!(model.disk.lock().unwrap().dead.is_empty());
    let place = fake.place.lock().unwrap();
    for device in 0..2 {
        let expect: Vec<u64> = (1..=40).filter(|position| position % 2 == device).collect();
        assert_eq!(place.taken[&format!("device-{device}")], expect);
    }
    let [first, second, ..] = &place.batches[..] else {
        panic!("{:?}", place.batches);
    };
    assert_eq!(first[0], 1, "this one found no room");
    assert!(
        second.iter().all(|position| position % 2 == 0),
        "{second:?}"
    );
}

#[test]
fn what_is_put_off_waits_for_the_reason_that_the_destination_gave() {
    let (model, fake) = (Model::new(), Fake::new(vec![Mood::Paces(vec![0])], 1));
    model.append(record(1, 1));
    model.append(record(2, 2));
    paused().block_on(async {
        let (engine, _) = engine(&model, Arc::new(fake.clone()), 20);
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine.run(stop.clone()));
        let reason = async {
            let reason = || {
                let disk = model.disk.lock().unwrap();
                disk.retry
                    .get(&Position(1))
                    .map(|waits| waits.reason.clone())
            };
            loop {
                if let Some(reason) = reason() {
                    return reason;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert_eq!(reason.await, "this shard is full");
        stop.cancel();
        task.await.unwrap().unwrap();
    });
}

#[test]
fn a_destination_that_puts_off_everything_is_not_back() {
    let moods = vec![Mood::Paces(vec![0]), Mood::Throttled];
    let (model, fake) = (Model::new(), Fake::new(moods, 1));
    // It is put off for forty milliseconds.
    model.append(record(39, 1));
    paused().block_on(async {
        let (engine, status) = engine(&model, Arc::new(fake.clone()), 20);
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine.run(stop.clone()));
        let mut seen = Vec::new();
        while model.backlog() > 0 {
            let state = status.status().state;
            if seen.last() != Some(&state) {
                seen.push(state);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(seen.contains(&State::Throttled), "{seen:?}");
        // It would be tried again as one that is well.
        assert!(!seen.contains(&State::Retrying), "{seen:?}");
        stop.cancel();
        task.await.unwrap().unwrap();
    });
}

#[test]
fn a_record_that_fails_with_nothing_beside_it_has_had_no_attempt() {
    // As at the beginning of an outage.
    let (model, fake) = (Model::new(), Fake::new(vec![Mood::Fails(vec![0])], 1));
    model.append(record(1, 1));
    paused().block_on(async { drain(&model, &fake, 1).await });
    assert!(model.disk.lock().unwrap().dead.is_empty());
    assert!(fake.place.lock().unwrap().seen.contains(&1));
    // If it fails again, it is to blame.
    let moods = vec![Mood::Fails(vec![0]), Mood::Fails(vec![0])];
    let (model, fake) = (Model::new(), Fake::new(moods, 1));
    model.append(record(1, 1));
    paused().block_on(async { drain(&model, &fake, 1).await });
    assert_eq!(model.disk.lock().unwrap().dead.len(), 1);
}

#[test]
fn what_is_put_back_arrives_under_steady_load() {
    let (model, fake) = (Model::new(), Fake::new(vec![Mood::Refuses(vec![0])], 3));
    paused().block_on(async {
        let (engine, _) = engine(&model, Arc::new(fake.clone()), 20);
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine.run(stop.clone()));
        let dead = async {
            while redrive(&model, &fake).is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            while !fake.place.lock().unwrap().seen.contains(&1) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let load = async {
            for position in 1.. {
                model.append(record(position, u8::try_from(position % 5).unwrap()));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = load => {}
            arrived = tokio::time::timeout(Duration::from_secs(60), dead) => {
                arrived.expect("it arrives while others go on arriving");
            }
        }
        stop.cancel();
        task.await.unwrap().unwrap();
    });
}

#[test]
fn a_destination_that_refuses_everything_stops_before_everything_is_dead() {
    let (model, fake) = (Model::new(), Fake::new(Vec::new(), 3));
    fake.place.lock().unwrap().refuses_all = true;
    let total = DEAD_MAX + 5_000;
    for position in 1..=total {
        model.append(record(position, 1));
    }
    paused().block_on(async {
        let (engine, status) = engine(&model, Arc::new(fake.clone()), 20);
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine.run(stop.clone()));
        let sleep = || tokio::time::sleep(Duration::from_secs(100));
        sleep().await;
        let (cursor, dead) = {
            let disk = model.disk.lock().unwrap();
            (disk.cursor, disk.dead.len() as u64)
        };
        let out = 3 * 8;
        assert!((DEAD_MAX..=DEAD_MAX + out).contains(&dead), "{dead}");
        let status = || (status.status().state, status.status().error);
        let (state, error) = status();
        assert_eq!(state, State::Stopped);
        assert!(error.unwrap().contains("penstock dead-letter list"));
        sleep().await;
        assert_eq!(model.disk.lock().unwrap().cursor, cursor, "it stands still");
        // Put right, and discarded: it goes on.
        fake.place.lock().unwrap().refuses_all = false;
        model.disk.lock().unwrap().dead.clear();
        sleep().await;
        assert_eq!(model.backlog(), 0);
        assert_eq!(status(), (State::Idle, None));
        stop.cancel();
        task.await.unwrap().unwrap();
    });
    assert_eq!(model.disk.lock().unwrap().dead.len(), 0);
}

#[test]
fn a_destination_that_hangs_does_not_make_the_end_longer_than_it_may_be() {
    #[derive(Debug)]
    struct Hangs;
    impl Destination for Hangs {
        fn limits(&self) -> Limits {
            Fake::new(Vec::new(), 1).limits
        }
        fn send(&self, _: Batch) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
            Box::pin(std::future::pending())
        }
        fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(std::future::pending())
        }
    }
    let model = Model::new();
    model.append(record(1, 1));
    paused().block_on(async {
        let (mut engine, status) = engine(&model, Arc::new(Hangs), 20);
        let grace = Duration::from_secs(1);
        engine.end_within(grace);
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine.run(stop.clone()));
        while status.status().in_flight == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.cancel();
        // The clock of this test is not that of the machine.
        let ended = tokio::time::timeout(grace + Duration::from_millis(10), task).await;
        ended.expect("it ends in time").unwrap().unwrap();
    });
    assert_eq!(model.backlog(), 1);
}

#[test]
fn a_paused_destination_is_sent_nothing_settles_what_was_out_and_goes_on_at_once() {
    let (model, fake) = (Model::new(), Fake::new(Vec::new(), 2));
    paused().block_on(async {
        let (engine, status) = engine(&model, Arc::new(fake.clone()), 20);
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine.run(stop.clone()));
        let seen = || fake.place.lock().unwrap().seen.len();
        let a_while = || tokio::time::sleep(Duration::from_secs(60));
        for position in 1..=1_000 {
            model.append(record(position, u8::try_from(position % 3).unwrap()));
        }
        while seen() < 100 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        status.set_mode(Mode::Paused);
        a_while().await;
        let before = seen();
        assert!(before < 1_000, "it was paused in between");
        assert_eq!(model.backlog(), 1_000 - before, "what was out is settled");
        assert_eq!(status.status().state, State::Paused);
        assert!(status.status().is_progressing(Duration::ZERO), "on purpose");
        a_while().await;
        assert_eq!(seen(), before);
        status.set_mode(Mode::Running);
        // Long before it would look by itself.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(seen() > before);
        a_while().await;
        assert_eq!(model.backlog(), 0);
        stop.cancel();
        task.await.unwrap().unwrap();
    });
    let place = fake.place.lock().unwrap();
    assert!(place.taken.values().all(|taken| taken.is_sorted()));
    assert_eq!(place.copies, 0);
}

//! Destinations and lanes that lead to one place.

use std::cell::{Cell, OnceCell};

use super::*;
use crate::{
    class::{Class, Classes},
    forward::{
        Config, Live, Way,
        place::Place as Shared,
        testing::{config, engine_of},
    },
};

/// The position before the first record of what is live, where all of the rest came before.
const LATER: u64 = 100_000;

fn lane(way: Way, pacing: pace::Config) -> Config {
    let (mut one, of) = (config(pacing), Some("test".into()));
    match way {
        Way::Rest => {}
        Way::Urgent => {
            (one.urgent, one.lane_of) = (Classes::NONE.with(Class::Critical), of);
        }
        Way::Live => {
            let live = Live {
                share: 25,
                after: Live::AFTER,
            };
            (one.live, one.lane_of) = (Some(live), of);
        }
    }
    one
}

/// A journal that has the rest in it, and one that has what is live.
fn two() -> (Model, Model) {
    let (mut rest, live) = (Model::new(), Model::new());
    rest.beside = Some(Box::new(live.clone()));
    (rest, live)
}

/// Appends records to the rest, and to a lane behind them.
fn fill(rest: &Model, lane: &Model, count: (u64, u64)) {
    for position in 1..=count.0 {
        rest.append(record(position, 1));
    }
    lane.disk.lock().unwrap().cursor = Position(LATER);
    lane.pass(Position(LATER));
    for position in LATER + 1..=LATER + count.1 {
        lane.append(record(position, 2));
    }
}

/// Runs both while that is asked for.
async fn run(
    fake: &Fake,
    lanes: [(&Model, Way); 2],
    pacing: &pace::Config,
    begun: impl FnOnce([&Handle; 2]),
    until: impl Fn() -> bool,
) {
    let shared = Arc::<Shared>::default();
    let stop = CancellationToken::new();
    let [one, other] = lanes.map(|(model, way)| {
        let config = lane(way, pacing.clone());
        let to = Arc::new(fake.clone());
        let (engine, handle) = engine_of(model, to, 20, &config, &shared);
        (engine, handle)
    });
    begun([&one.1, &other.1]);
    let tasks = [one.0, other.0].map(|engine| tokio::spawn(engine.run(stop.clone())));
    let done = async {
        while !until() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(3_600), done)
        .await
        .expect("within an hour of test time");
    stop.cancel();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

/// Of the batches so far, the records: how many are live, and how many are not.
fn arrived(fake: &Fake) -> (usize, usize) {
    let place = fake.place.lock().unwrap();
    let all = place.batches.iter().flatten();
    let live = all.clone().filter(|position| **position > LATER).count();
    (live, all.count() - live)
}

#[test]
fn while_both_have_something_what_is_live_gets_its_share_and_then_the_other_all() {
    for in_flight in [1, 3] {
        let ((rest, live), fake) = (two(), Fake::new(Vec::new(), in_flight));
        fill(&rest, &live, (4_000, 400));
        paused().block_on(async {
            let lanes = [(&rest, Way::Rest), (&live, Way::Live)];
            let pacing = pace::Config::default();
            run(&fake, lanes, &pacing, |_| (), || live.backlog() == 0).await;
            let (of_live, of_rest) = arrived(&fake);
            assert_eq!(of_live, 400);
            assert!((1_000..1_500).contains(&of_rest), "{of_rest} beside 400");
            run(&fake, lanes, &pacing, |_| (), || rest.backlog() == 0).await;
        });
        let place = fake.place.lock().unwrap();
        assert!(place.out_most <= in_flight, "{}", place.out_most);
        assert!(place.taken.values().all(|taken| taken.is_sorted()));
    }
}

#[test]
fn a_lane_that_is_paused_or_hangs_holds_up_neither_turns_nor_order() {
    // What is live was stored before the rest, and would go first.
    let ((rest, live), fake) = (two(), Fake::new(Vec::new(), 1));
    for position in 1..=50 {
        live.append(record(position, 2));
    }
    rest.pass(Position(50));
    for position in 51..=100 {
        rest.append(record(position, 1));
        live.pass(Position(position));
    }
    paused().block_on(async {
        let lanes = [(&rest, Way::Rest), (&live, Way::Live)];
        let pause = |[_, live]: [&Handle; 2]| live.set_mode(Mode::Paused);
        let pacing = pace::Config::default();
        run(&fake, lanes, &pacing, pause, || rest.backlog() == 0).await;
        assert_eq!(live.backlog(), 50);
    });
    // One that hangs holds its place among those that are out for as long as it may.
    let ((rest, live), fake) = (two(), Fake::new(Vec::new(), 1));
    fill(&rest, &live, (50, 50));
    fake.place.lock().unwrap().hangs = Some(LATER + 1);
    paused().block_on(async {
        let lanes = [(&rest, Way::Rest), (&live, Way::Live)];
        let pacing = pace::Config::default();
        let (began, took) = (Instant::now(), Cell::new(Duration::ZERO));
        let done = || {
            took.set(began.elapsed());
            rest.backlog() == 0
        };
        run(&fake, lanes, &pacing, |_| (), done).await;
        let (took, patience) = (took.get(), pace::Config::LATENCY_MAX);
        assert!(took >= patience && took < 2 * patience, "{took:?}");
        assert_eq!(live.backlog(), 50);
    });
}

#[test]
fn what_waits_for_its_lane_alone_waits_as_it_should() {
    let ((rest, live), fake) = (two(), Fake::new(Vec::new(), 1));
    for position in 1..=8 {
        live.append(record(position, 2));
    }
    rest.pass(Position(8));
    for position in 9..=16 {
        rest.append(record(position, 1));
        live.pass(Position(position));
    }
    fake.place.lock().unwrap().hangs = Some(1);
    paused().block_on(async {
        let lanes = [(&rest, Way::Rest), (&live, Way::Live)];
        let pacing = pace::Config::default();
        let (began, handle) = (Instant::now(), OnceCell::new());
        let begun = |[rest, _]: [&Handle; 2]| handle.set(rest.clone()).expect("once");
        let done = || began.elapsed() > Duration::from_secs(60);
        run(&fake, lanes, &pacing, begun, || {
            let status = handle.get().map(Handle::status).expect("it has begun");
            let is_late = began.elapsed() > Duration::from_secs(1);
            assert!(!is_late || status.held && status.is_progressing(Duration::ZERO));
            done()
        })
        .await;
    });
    assert_eq!(fake.place.lock().unwrap().batches.len(), 1);
    assert_eq!(rest.backlog(), 8);
}

#[test]
fn what_was_stored_before_the_rest_goes_before_it_when_a_window_opens() {
    let ((rest, live), fake) = (two(), Fake::new(Vec::new(), 1));
    for position in 1..=50 {
        live.append(record(position, 1));
    }
    rest.pass(Position(50));
    for position in 51..=100 {
        rest.append(record(position, 1));
        live.pass(Position(position));
    }
    // It is thirteen minutes past when every test begins.
    let window = crate::hours::Window {
        opens: crate::hours::Cron::parse("15 * * * *").expect("a pattern"),
        length: Duration::from_secs(60),
    };
    let pacing = pace::Config {
        windows: vec![window],
        ..pace::Config::default()
    };
    paused().block_on(async {
        let lanes = [(&rest, Way::Rest), (&live, Way::Live)];
        run(&fake, lanes, &pacing, |_| (), || rest.backlog() == 0).await;
    });
    let place = fake.place.lock().unwrap();
    assert!(place.taken["device-1"].is_sorted(), "{:?}", place.batches);
}

#[test]
fn what_is_urgent_takes_first_of_a_rate_that_all_share() {
    let ((rest, urgent), fake) = (two(), Fake::new(Vec::new(), 1));
    fill(&rest, &urgent, (200, 50));
    let pacing = pace::Config {
        records_per_sec: Some(10),
        ..pace::Config::default()
    };
    paused().block_on(async {
        let lanes = [(&rest, Way::Rest), (&urgent, Way::Urgent)];
        let began = Instant::now();
        run(&fake, lanes, &pacing, |_| (), || urgent.backlog() == 0).await;
        assert!(
            began.elapsed() >= Duration::from_secs(3),
            "the rate is kept"
        );
        let (of_urgent, of_rest) = arrived(&fake);
        assert_eq!(of_urgent, 50);
        assert!(of_rest <= 16, "{of_rest} went beside it");
        run(&fake, lanes, &pacing, |_| (), || rest.backlog() == 0).await;
        let most = began.elapsed().as_secs() * 10 + 20 + 16;
        assert!(most >= 250, "both from one second's worth: {most}");
    });
}

/// What befalls a whole place, and is not for a person to end.
fn trouble() -> impl Strategy<Value = Mood> {
    prop_oneof![
        6 => Just(Mood::Fine),
        2 => Just(Mood::Unavailable),
        2 => Just(Mood::Ambiguous),
        2 => Just(Mood::Throttled),
        2 => (0usize..8).prop_map(Mood::Breaks),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn only_what_is_live_overtakes_whatever_is_away_or_killed(
        // Of each event whether it is live, and its device.
        events in proptest::collection::vec((any::<bool>(), 0u8..3), 1..150),
        moods in proptest::collection::vec(trouble(), 0..30),
        in_flight in 1usize..4,
        crashes in proptest::collection::vec(1u64..300, 0..4),
    ) {
        let ((rest, live), fake) = (two(), Fake::new(moods, in_flight));
        paused().block_on(async {
            let feed = async {
                for (position, (is_live, device)) in (1u64..).zip(&events) {
                    let (to, beside) = if *is_live { (&live, &rest) } else { (&rest, &live) };
                    to.append(record(position, *device));
                    beside.pass(Position(position));
                    if position % 3 == 0 {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
            };
            let crash = async {
                for after in &crashes {
                    let shared = Arc::<Shared>::default();
                    let engines = [(&rest, Way::Rest), (&live, Way::Live)].map(|(model, way)| {
                        let config = lane(way, pace::Config::default());
                        let (engine, _) =
                            engine_of(model, Arc::new(fake.clone()), 20, &config, &shared);
                        engine.run(CancellationToken::new())
                    });
                    let [one, other] = engines;
                    let running = Box::pin(async { tokio::join!(one, other) });
                    drop(tokio::time::timeout(Duration::from_millis(*after), running).await);
                    let mut place = fake.place.lock().unwrap();
                    (place.out, place.broken) = (0, false);
                }
            };
            tokio::join!(feed, crash);
            let lanes = [(&rest, Way::Rest), (&live, Way::Live)];
            let done = || rest.backlog() == 0 && live.backlog() == 0;
            run(&fake, lanes, &pace::Config::default(), |_| (), done).await;
        });
        let place = fake.place.lock().unwrap();
        prop_assert_eq!(place.seen.len(), events.len());
        let is_live = |position: u64| events[usize::try_from(position).unwrap() - 1].0;
        // Where they arrive again after a crash, the last of each counts as well as the first.
        let last = place.arrivals.values().map(|all| {
            let again = |at: &usize| all[at + 1..].contains(&all[*at]);
            let last = (0..all.len()).filter(|at| !again(at));
            last.map(|at| all[at]).collect()
        });
        let last: Vec<Vec<u64>> = last.collect();
        for taken in place.taken.values().chain(&last) {
            for (at, position) in taken.iter().enumerate() {
                let may = |late: u64| is_live(*position) && !is_live(late);
                let late = taken[at..].iter().find(|late| *late < position && !may(**late));
                prop_assert!(late.is_none(), "{position} overtook {late:?} in {taken:?}");
            }
        }
    }
}

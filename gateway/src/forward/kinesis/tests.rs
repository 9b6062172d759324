//! The destination against a stream in this process that keeps records in order, and
//! treats requests as a test says.

mod place;

use std::{sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use self::place::{Mood, Place};
use super::*;
use crate::forward::{
    aws::Keys,
    destination::Outcome,
    testing::{Model, engine, large_record_of, record},
};

fn config(place: &Place) -> Config {
    Config {
        account: Account {
            region: Some("eu-central-1".to_owned()),
            endpoint: Some(place.url()),
            keys: Some(Keys {
                id: "AKIA".to_owned(),
                secret: "secret".into(),
                token: None,
            }),
            timeout: Duration::from_secs(10),
            ..Account::default()
        },
        linger: Duration::from_millis(2),
        ..Config::new("telemetry")
    }
}

fn kinesis(config: Config) -> Kinesis {
    Kinesis::new(config).unwrap()
}

/// Records 1, 2, 3 and so on of these devices.
fn of_devices(devices: &[u8]) -> Batch {
    let numbered = (1..).zip(devices);
    let item = |(n, device): (u64, &u8)| Item::check(record(n, *device)).unwrap();
    Batch {
        items: numbered.map(item).collect(),
    }
}

const ACKNOWLEDGED: Outcome = Outcome::Acknowledged;

#[tokio::test]
async fn a_request_has_one_record_of_a_partition_key_and_the_next_goes_when_that_was_taken() {
    let place = Place::start(vec![]).await;
    let outcomes = kinesis(config(&place))
        .send(of_devices(&[1, 1, 2, 3, 1, 2]))
        .await
        .unwrap();
    assert_eq!(outcomes, vec![ACKNOWLEDGED; 6]);
    assert_eq!(
        place.requests(),
        [vec![1, 3, 4], vec![2, 6], vec![5]],
        "three lanes, of which the longest has three records"
    );
    let taken = place.taken();
    assert_eq!(taken[0].key, "device-1");
    assert_eq!(taken[0].event["eventkey"], record(1, 1).key.to_string());
}

#[tokio::test]
async fn a_request_that_may_lose_the_order_is_filled_as_it_comes() {
    let place = Place::start(vec![]).await;
    let relaxed = Config {
        order: Order::Relaxed,
        request_records: 4,
        ..config(&place)
    };
    let outcomes = kinesis(relaxed).send(of_devices(&[1; 6])).await.unwrap();
    assert_eq!(outcomes, vec![ACKNOWLEDGED; 6]);
    assert_eq!(place.requests(), [vec![1, 2, 3, 4], vec![5, 6]]);
}

#[tokio::test]
async fn requests_hold_no_more_bytes_than_they_may() {
    let place = Place::start(vec![]).await;
    let small = Config {
        request_bytes: 1_000,
        record_bytes_max: 1_000,
        in_flight: 1,
        ..config(&place)
    };
    let outcomes = kinesis(small).send(of_devices(&[1, 2, 3, 4])).await;
    assert_eq!(outcomes.unwrap(), vec![ACKNOWLEDGED; 4]);
    assert!(place.requests().len() >= 2, "{:?}", place.requests());
    assert!(place.bytes_most() <= 1_000);
}

#[tokio::test]
async fn a_shard_without_room_holds_back_its_own_partition_keys_and_nobody_elses() {
    let place = Place::start(vec![Mood::Throttles(vec!["device-1"])]).await;
    let outcomes = kinesis(config(&place))
        .send(of_devices(&[1, 2, 1, 2]))
        .await
        .unwrap();
    assert!(
        matches!(&outcomes[0], Outcome::Paced { reason, .. } if reason.starts_with("ProvisionedThroughputExceededException: ")),
        "{:?}",
        outcomes[0]
    );
    assert_eq!(outcomes[1..], [ACKNOWLEDGED, Outcome::Behind, ACKNOWLEDGED]);
    assert_eq!(place.positions(), [2, 4]);
}

#[tokio::test]
async fn what_is_made_of_the_next_batch_is_not_sent_and_not_taken_for_another() {
    let place = Place::start(vec![]).await;
    let kinesis = kinesis(config(&place));
    let (one, two) = (of_devices(&[1, 2]), of_devices(&[3, 1, 2]));
    kinesis.prepare(two.clone());
    let outcomes = kinesis.send(one).await;
    assert_eq!(outcomes, Ok(vec![ACKNOWLEDGED; 2]));
    assert_eq!(place.requests(), [vec![1, 2]]);
    let outcomes = kinesis.send(two).await;
    assert_eq!(outcomes, Ok(vec![ACKNOWLEDGED; 3]));
    assert_eq!(place.requests()[1..], [vec![1, 2, 3]]);
}

#[tokio::test]
async fn one_record_that_fails_is_tried_again_alone_and_a_stream_that_fails_blames_none() {
    let place = Place::start(vec![Mood::FailsAll, Mood::Fails(vec![1])]).await;
    let kinesis = kinesis(config(&place));
    let outcomes = kinesis.send(of_devices(&[1, 2, 2, 3])).await.unwrap();
    let failed = Outcome::Transient("InternalFailure: an internal failure".to_owned());
    assert_eq!(
        outcomes,
        [ACKNOWLEDGED, failed, Outcome::Behind, ACKNOWLEDGED]
    );
    let outcomes = kinesis.send(of_devices(&[1, 2])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_record_to_blame_for_the_refusal_of_a_request_is_found_and_the_others_are_taken() {
    for aggregate in [false, true] {
        let place = Place::start(vec![]).await;
        place.never_takes(7);
        let config = Config {
            aggregate,
            ..config(&place)
        };
        let devices: Vec<u8> = (0..20).map(|n| n % 4).collect();
        let outcomes = kinesis(config).send(of_devices(&devices)).await.unwrap();
        for (n, outcome) in (1..).zip(&outcomes) {
            match n {
                7 => assert!(matches!(outcome, Outcome::Permanent(_)), "{outcome:?}"),
                _ => assert_eq!(*outcome, ACKNOWLEDGED, "record {n}"),
            }
        }
        let mut positions = place.positions();
        positions.sort_unstable();
        let expect: Vec<u64> = (1..=20).filter(|n| *n != 7).collect();
        assert_eq!(positions, expect);
    }
}

#[tokio::test]
async fn a_stream_that_refuses_record_after_record_gets_no_dead_letters_of_it() {
    let place = Place::start(vec![]).await;
    (1..=40).for_each(|n| place.never_takes(n));
    let devices: Vec<u8> = (1..=40).collect();
    let outcomes = kinesis(config(&place)).send(of_devices(&devices)).await;
    assert!(
        matches!(outcomes, Err(Error::Refusing { .. })),
        "{outcomes:?}"
    );
}

/// The destination has just found that its stream refuses everything; time passes until
/// it tries again.
async fn refused(place: &Place, kinesis: &Kinesis) {
    place.takes_all_but(&(1..=40).collect::<Vec<_>>());
    let devices: Vec<u8> = (1..=40).collect();
    let outcomes = kinesis.send(of_devices(&devices)).await;
    assert!(
        matches!(outcomes, Err(Error::Refusing { .. })),
        "{outcomes:?}"
    );
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn bad_records_in_front_do_not_hold_those_of_other_devices_once_the_stream_takes_records() {
    let place = Place::start(vec![]).await;
    let kinesis = kinesis(config(&place));
    refused(&place, &kinesis).await;
    place.takes_all_but(&[1, 2, 4]);
    let outcomes = kinesis.send(of_devices(&[1, 1, 2, 3, 3, 1])).await.unwrap();
    for (n, outcome) in (1..).zip(&outcomes) {
        match n {
            1 | 2 | 4 => assert!(matches!(outcome, Outcome::Permanent(_)), "{n}: {outcome:?}"),
            _ => assert_eq!(*outcome, ACKNOWLEDGED, "record {n}"),
        }
    }
    assert_eq!(place.positions().len(), 3);
}

#[tokio::test]
async fn single_records_that_are_all_refused_cost_one_of_them_and_only_from_the_third_time_on() {
    let place = Place::start(vec![]).await;
    let kinesis = kinesis(config(&place));
    refused(&place, &kinesis).await;
    let devices: Vec<u8> = (1..=40).collect();
    let again = kinesis.send(of_devices(&devices)).await;
    assert!(matches!(again, Err(Error::Refusing { .. })), "{again:?}");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(121)).await;
    tokio::time::resume();
    let outcomes = kinesis.send(of_devices(&devices)).await.unwrap();
    let dead = |outcome: &&Outcome| matches!(outcome, Outcome::Permanent(_));
    assert!(dead(&&outcomes[0]), "{:?}", outcomes[0]);
    assert_eq!(outcomes.iter().filter(dead).count(), 1);
}

#[tokio::test]
async fn an_event_that_is_not_sent_because_it_is_too_large_says_nothing_of_the_stream() {
    let place = Place::start(vec![]).await;
    let small = Config {
        record_bytes_max: 2_000,
        ..config(&place)
    };
    let kinesis = kinesis(small);
    refused(&place, &kinesis).await;
    place.takes_all_but(&[]);
    let items = [large_record_of(1, 1, 2_000), record(2, 1), record(3, 2)];
    let batch = Batch {
        items: items.map(|one| Item::check(one).unwrap()).into(),
    };
    let outcomes = kinesis.send(batch).await.unwrap();
    assert!(matches!(outcomes[0], Outcome::Permanent(_)), "{outcomes:?}");
    assert!(outcomes[1..].iter().all(Outcome::is_open), "{outcomes:?}");
    let rest = kinesis.send(of_devices(&[1, 2])).await.unwrap();
    assert_eq!(rest, vec![ACKNOWLEDGED; 2]);
}

#[tokio::test]
async fn what_only_a_person_can_put_right_is_said_at_once() {
    let place = Place::start(vec![Mood::Answers(400, "ResourceNotFoundException")]).await;
    let outcomes = kinesis(config(&place)).send(of_devices(&[1])).await;
    let Err(Error::Misconfigured(reason)) = outcomes else {
        panic!("{outcomes:?}");
    };
    assert_eq!(reason, "ResourceNotFoundException: so it was scripted");
}

#[tokio::test]
async fn a_request_that_is_too_much_slows_everything_down() {
    let place = Place::start(vec![Mood::Answers(
        400,
        "ProvisionedThroughputExceededException",
    )])
    .await;
    let outcomes = kinesis(config(&place)).send(of_devices(&[1, 2])).await;
    let throttled = Outcome::Throttled { retry_after: None };
    assert_eq!(outcomes.unwrap(), vec![throttled; 2]);
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_open_what_it_was_about() {
    let place = Place::start(vec![Mood::LosesTheAnswer]).await;
    let mut config = config(&place);
    config.account.timeout = Duration::from_millis(300);
    let kinesis = kinesis(config);
    let outcomes = kinesis.send(of_devices(&[1, 2])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    let outcomes = kinesis.send(of_devices(&[1, 2])).await.unwrap();
    assert_eq!(outcomes, vec![ACKNOWLEDGED; 2]);
    // There twice, and known by the key.
    let keys: Vec<_> = place.taken().into_iter().map(|r| r.event).collect();
    assert_eq!(keys[0]["eventkey"], keys[2]["eventkey"]);
    assert_eq!(place.positions(), [1, 2, 1, 2]);
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable() {
    let place = Place::start(vec![]).await;
    let mut config = config(&place);
    config.account.endpoint = Some("http://127.0.0.1:9".to_owned());
    let outcomes = kinesis(config).send(of_devices(&[1])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
}

fn mood() -> impl Strategy<Value = Mood> {
    let keys = || {
        proptest::sample::subsequence(vec!["device-0", "device-1", "device-2", "device-3"], 0..=3)
    };
    prop_oneof![
        5 => Just(Mood::Fine),
        4 => keys().prop_map(Mood::Throttles),
        3 => proptest::collection::vec(0usize..4, 0..3).prop_map(Mood::Fails),
        1 => Just(Mood::FailsAll),
        1 => Just(Mood::Answers(400, "ProvisionedThroughputExceededException")),
        1 => Just(Mood::Answers(500, "InternalFailure")),
        1 => Just(Mood::DropsTheConnection),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_record_arrives_and_in_the_order_of_its_key_whatever_is_refused(
        devices in proptest::collection::vec(0u8..4, 1..120),
        moods in proptest::collection::vec(mood(), 0..25),
        aggregate in any::<bool>(),
        batch_records in 1usize..40,
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (taken, dead) = runtime.block_on(async {
            let place = Place::start(moods).await;
            let config = Config { aggregate, batch_records, ..config(&place) };
            let model = Model::new();
            for (n, device) in (1..).zip(&devices) {
                model.append(record(n, *device));
            }
            let (engine, _) = engine(&model, Arc::new(kinesis(config)), 1_000);
            let stop = CancellationToken::new();
            let task = tokio::spawn(engine.run(stop.clone()));
            let drained = async {
                while model.backlog() > 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), drained).await.unwrap();
            stop.cancel();
            task.await.unwrap().unwrap();
            let dead = model.disk.lock().unwrap().dead.len();
            (place.taken(), dead)
        });
        prop_assert_eq!(dead, 0);
        let mut seen = std::collections::BTreeSet::new();
        let mut last = std::collections::HashMap::new();
        for record in taken {
            // A copy of what came before is late and the same; only new ones have an order.
            if seen.insert(record.position) {
                let before = last.insert(record.key.clone(), record.position);
                prop_assert!(before < Some(record.position), "{} after {:?}", record.position, before);
            }
        }
        prop_assert_eq!(seen.len(), devices.len());
    }
}

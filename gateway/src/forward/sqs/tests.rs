//! The destination against a queue in this process.

use std::time::Duration;

use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::forward::{
    aws::{
        Order,
        testing::{Mood, Place, Service as At, are_all_in_order, deliver, mood, of_devices},
    },
    destination::Outcome,
    testing::{Model, engine, record},
};

const FIFO: &str = "http://sqs.example/1/telemetry.fifo";
const STANDARD: &str = "http://sqs.example/1/telemetry";
const ACKNOWLEDGED: Outcome = Outcome::Acknowledged;

fn config(place: &Place, queue: &str) -> Config {
    let mut config = Config::new(queue);
    config.account = place.account();
    config.batching.linger = Duration::from_millis(2);
    config
}

fn sqs(config: Config) -> Sqs {
    Sqs::new(config).unwrap()
}

async fn place(moods: Vec<Mood>) -> Place {
    Place::start(At::Sqs, moods).await
}

#[tokio::test]
async fn a_message_of_a_fifo_queue_has_group_and_identity_and_one_of_a_standard_queue_none() {
    let place = place(vec![]).await;
    let send = async |queue| sqs(config(&place, queue)).send(of_devices(&[1])).await;
    assert_eq!(send(FIFO).await.unwrap(), [ACKNOWLEDGED]);
    assert_eq!(send(STANDARD).await.unwrap(), [ACKNOWLEDGED]);
    let [fifo, standard] = &place.taken()[..] else {
        panic!("two messages");
    };
    let key = record(1, 1).key.to_string();
    assert_eq!(fifo.group.as_deref(), Some("device-1"));
    assert_eq!(fifo.identity.as_deref(), Some(&*key));
    assert_eq!((&standard.group, &standard.identity), (&None, &None));
    for message in [fifo, standard] {
        assert_eq!(message.event()["eventkey"], key);
        assert_eq!(message.attributes["eventkey"], key);
        assert_eq!(message.attributes["device"], "device-1");
        assert_eq!(message.attributes["type"], "iot.telemetry.v1");
    }
}

#[tokio::test]
async fn a_request_to_a_fifo_queue_has_one_message_of_a_group_and_ten_at_most() {
    let place = place(vec![]).await;
    let outcomes = sqs(config(&place, FIFO))
        .send(of_devices(&[1, 1, 2, 3, 1, 2]))
        .await;
    assert_eq!(outcomes.unwrap(), vec![ACKNOWLEDGED; 6]);
    assert_eq!(place.requests(), [vec![1, 3, 4], vec![2, 6], vec![5]]);
    let devices: Vec<u8> = (1..=25).collect();
    let mut one = config(&place, FIFO);
    one.batching.in_flight = 1;
    let outcomes = sqs(one).send(of_devices(&devices)).await.unwrap();
    assert_eq!(outcomes, vec![ACKNOWLEDGED; 25]);
    let sizes: Vec<usize> = place.requests()[3..].iter().map(Vec::len).collect();
    assert_eq!(sizes, [10, 10, 5]);
}

#[tokio::test]
async fn a_standard_queue_and_one_that_may_lose_the_order_get_full_requests() {
    let place = place(vec![]).await;
    let mut relaxed = config(&place, FIFO);
    relaxed.batching.order = Order::Relaxed;
    for config in [relaxed, config(&place, STANDARD)] {
        let outcomes = sqs(config).send(of_devices(&[1; 10])).await.unwrap();
        assert_eq!(outcomes, vec![ACKNOWLEDGED; 10]);
    }
    let sizes: Vec<usize> = place.requests().iter().map(Vec::len).collect();
    assert_eq!(sizes, [10, 10]);
}

#[tokio::test]
async fn a_message_that_fails_holds_back_those_of_its_group_and_nobody_elses() {
    let place = place(vec![Mood::Fails(vec![0], "InternalError", false)]).await;
    let outcomes = sqs(config(&place, FIFO))
        .send(of_devices(&[1, 2, 1, 2]))
        .await;
    let failed = Outcome::Transient("InternalError: scripted".to_owned());
    assert_eq!(
        outcomes.unwrap(),
        [failed, ACKNOWLEDGED, Outcome::Behind, ACKNOWLEDGED]
    );
    assert_eq!(place.positions(), [2, 4]);
}

#[tokio::test]
async fn a_group_without_room_waits_alone_and_a_queue_without_room_slows_everything_down() {
    let place = place(vec![
        Mood::Fails(vec![1], "RequestThrottled", true),
        Mood::Throttles(vec!["device-1"]),
    ])
    .await;
    let outcomes = sqs(config(&place, FIFO)).send(of_devices(&[1, 2])).await;
    let outcomes = outcomes.unwrap();
    let said = |outcome: &Outcome| match outcome {
        Outcome::Paced { reason, .. } => reason.clone(),
        other => panic!("{other:?}"),
    };
    assert!(said(&outcomes[0]).contains("hrottl"), "{outcomes:?}");
    assert_eq!(outcomes[1], ACKNOWLEDGED);
    let outcomes = sqs(config(&place, STANDARD))
        .send(of_devices(&[1, 2, 3]))
        .await;
    let throttled = Outcome::Throttled { retry_after: None };
    assert_eq!(outcomes.unwrap(), [ACKNOWLEDGED, throttled, ACKNOWLEDGED]);
}

#[tokio::test]
async fn a_queue_that_fails_blames_no_message() {
    let all = || Mood::Fails(vec![0, 1], "InternalError", false);
    let place = place(vec![Mood::Forgets(1), all()]).await;
    let sqs = sqs(config(&place, FIFO));
    for _ in 0..2 {
        let outcomes = sqs.send(of_devices(&[1, 2])).await;
        assert!(
            matches!(outcomes, Err(Error::Unavailable { .. })),
            "{outcomes:?}"
        );
    }
}

#[tokio::test]
async fn a_message_to_blame_is_a_dead_letter_and_the_others_are_taken() {
    for queue in [FIFO, STANDARD] {
        let place = place(vec![]).await;
        place.never_takes([7]);
        let devices: Vec<u8> = (0..20).map(|n| n % 4).collect();
        let outcomes = sqs(config(&place, queue)).send(of_devices(&devices)).await;
        for (n, outcome) in (1..).zip(&outcomes.unwrap()) {
            match n {
                7 => assert!(matches!(outcome, Outcome::Permanent(_)), "{outcome:?}"),
                _ => assert_eq!(*outcome, ACKNOWLEDGED, "record {n}"),
            }
        }
        assert_eq!(place.taken().len(), 19);
    }
}

#[tokio::test]
async fn a_request_that_is_too_long_is_halved() {
    let too_long = "AWS.SimpleQueueService.BatchRequestTooLong";
    let place = place(vec![Mood::Answers(400, too_long, "scripted")]).await;
    let mut one = config(&place, STANDARD);
    one.batching.in_flight = 1;
    let outcomes = sqs(one).send(of_devices(&[1, 2, 3, 4])).await;
    assert_eq!(outcomes.unwrap(), vec![ACKNOWLEDGED; 4]);
    assert_eq!(place.requests(), [vec![1, 2, 3, 4], vec![1, 2], vec![3, 4]]);
}

#[tokio::test]
async fn a_queue_that_refuses_record_after_record_gets_no_dead_letters_of_it() {
    let place = place(vec![]).await;
    place.never_takes(1..=40);
    let devices: Vec<u8> = (1..=40).collect();
    let outcomes = sqs(config(&place, FIFO)).send(of_devices(&devices)).await;
    assert!(
        matches!(outcomes, Err(Error::Refusing { .. })),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn what_only_a_person_can_put_right_is_said_at_once() {
    let denied = Mood::Fails(vec![0, 1], "KMS.AccessDeniedException", true);
    let gone = "AWS.SimpleQueueService.NonExistentQueue";
    let place = place(vec![denied, Mood::Answers(400, gone, "it is gone")]).await;
    let sqs = sqs(config(&place, FIFO));
    for expect in [
        format!("{gone}: it is gone"),
        "KMS.AccessDeniedException: scripted".to_owned(),
    ] {
        let outcomes = sqs.send(of_devices(&[1, 2])).await;
        assert_eq!(outcomes, Err(Error::Misconfigured(expect)));
    }
}

/// The destination has just found that its queue refuses everything; time passes until it
/// tries again.
async fn refused(place: &Place, sqs: &Sqs) {
    place.never_takes(1..=40);
    let devices: Vec<u8> = (1..=40).collect();
    let outcomes = sqs.send(of_devices(&devices)).await;
    assert!(
        matches!(outcomes, Err(Error::Refusing { .. })),
        "{outcomes:?}"
    );
    place.never_takes([]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn after_refusals_nothing_overtakes_a_message_that_has_no_room() {
    for mood in [
        Mood::Throttles(vec!["device-1"]),
        Mood::Answers(400, "RequestThrottled", "scripted"),
        Mood::Fails(vec![0], "InternalError", false),
    ] {
        let place = place(vec![]).await;
        let sqs = sqs(config(&place, FIFO));
        refused(&place, &sqs).await;
        place.will(vec![mood]);
        let outcomes = sqs.send(of_devices(&[1, 2, 1, 2])).await;
        assert!(!place.positions().contains(&3), "{outcomes:?}");
    }
}

#[tokio::test]
async fn a_message_that_fails_again_and_again_holds_up_nobody_else() {
    let place = place(vec![]).await;
    let sqs = sqs(config(&place, FIFO));
    let fails = || Mood::Fails(vec![0], "InternalError", false);
    let failed = Outcome::Transient("InternalError: scripted".to_owned());
    assert_eq!(sqs.send(of_devices(&[2])).await.unwrap(), [ACKNOWLEDGED]);
    place.will(vec![fails()]);
    assert_eq!(sqs.send(of_devices(&[1])).await.unwrap(), [failed]);
    // A queue that takes nothing in between is away.
    place.will(vec![fails()]);
    let outcomes = sqs.send(of_devices(&[1])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
}

/// Messages that fail whenever they are in a request, and whatever came before them.
async fn poisoned(before: u64, count: u64) -> (Place, Model) {
    let place = place(vec![]).await;
    place.always_fails(before + 1..=before + count);
    let model = Model::new();
    for n in 1..=before + count {
        model.append(record(n, u8::try_from(n).unwrap()));
    }
    (place, model)
}

/// Appends messages of other devices, one when the one before was taken, until all of
/// the queue's that it can take are taken and as many dead letters are there.
async fn drain(place: &Place, model: &Model, mut at: u64, count: u64) {
    let dead = usize::try_from(count).unwrap();
    let drained = async {
        let are_dead = || model.disk.lock().unwrap().dead.len() >= dead;
        while !are_dead() || model.backlog() > 0 {
            if !are_dead() && (place.positions().contains(&at) || model.backlog() <= dead) {
                at += 1;
                model.append(record(at, u8::try_from(at % 100).unwrap() + 100));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let drained = tokio::time::timeout(Duration::from_secs(60), drained).await;
    let backlog = model.backlog();
    drained.unwrap_or_else(|_| panic!("{backlog} wait, {:?}", place.requests()));
}

#[tokio::test]
async fn messages_that_always_fail_together_hold_up_nobody_and_are_dead_letters_in_the_end() {
    for (before, count) in [(3, 2), (0, 2), (0, 25)] {
        // Alone from the first request on, or behind others.
        let (place, model) = poisoned(before, count).await;
        let (engine, _) = engine(&model, Arc::new(sqs(config(&place, FIFO))), 3);
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine.run(stop.clone()));
        drain(&place, &model, before + count, count).await;
        stop.cancel();
        task.await.unwrap().unwrap();
        let dead = model.disk.lock().unwrap().dead.clone();
        for (position, (attempts, reason)) in dead {
            assert!((before + 1..=before + count).contains(&position.0));
            assert_eq!(attempts, 3, "{reason}");
        }
    }
}

#[tokio::test]
async fn a_queue_that_takes_nothing_for_long_takes_no_attempt_from_any_message() {
    let place = place(vec![]).await;
    let sqs = sqs(config(&place, FIFO));
    assert_eq!(sqs.send(of_devices(&[1])).await.unwrap(), [ACKNOWLEDGED]);
    place.always_fails(1..=40);
    let devices: Vec<u8> = (1..=40).collect();
    for n in 1..=100 {
        match sqs.send(of_devices(&devices)).await {
            Err(Error::Unavailable { .. }) => assert!(n < 3, "those behind them have a turn"),
            Ok(outcomes) => {
                let takes_an_attempt = |one: &Outcome| matches!(one, Outcome::Transient(_));
                assert!(!outcomes.iter().any(takes_an_attempt), "{outcomes:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn one_request_is_under_way_where_two_would_lose_the_order() {
    let place = place(vec![]).await;
    let mut relaxed = config(&place, FIFO);
    relaxed.batching.order = Order::Relaxed;
    let devices = [1; 60];
    let outcomes = sqs(relaxed).send(of_devices(&devices)).await.unwrap();
    assert_eq!(outcomes, vec![ACKNOWLEDGED; 60]);
    assert_eq!(place.most_at_once(), 1);
    let expect: Vec<u64> = (1..=60).collect();
    assert_eq!(place.positions(), expect);
}

#[tokio::test]
async fn what_is_taken_back_from_the_dead_letters_is_not_overtaken() {
    let place = place(vec![]).await;
    place.never_takes(1..=20);
    let devices: Vec<u8> = (1..=20).chain(1..=20).collect();
    let mut one = config(&place, FIFO);
    one.batching.in_flight = 8;
    let outcomes = sqs(one).send(of_devices(&devices)).await;
    assert!(
        matches!(outcomes, Err(Error::Refusing { .. })),
        "{outcomes:?}"
    );
    assert!(place.positions().is_empty(), "{:?}", place.positions());
}

#[tokio::test]
async fn a_queue_is_found_by_its_name_and_one_that_is_not_there_needs_a_person() {
    let place = place(vec![]).await;
    let by_name = sqs(config(&place, "telemetry"));
    let outcomes = by_name.send(of_devices(&[1])).await;
    assert_eq!(outcomes.unwrap(), [ACKNOWLEDGED]);
    assert_eq!(place.asked(), [r#"{"QueueName":"telemetry"}"#]);
    assert_eq!(place.taken().len(), 1);
    place.says_of_itself(400, "AWS.SimpleQueueService.NonExistentQueue");
    let outcomes = sqs(config(&place, "telemetry"))
        .send(of_devices(&[1]))
        .await;
    assert!(
        matches!(outcomes, Err(Error::Misconfigured(_))),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn an_answer_that_is_lost_makes_no_copy_in_a_fifo_queue() {
    let place = place(vec![Mood::LosesTheAnswer]).await;
    let mut config = config(&place, FIFO);
    config.account.timeout = Duration::from_millis(300);
    let sqs = sqs(config);
    let outcomes = sqs.send(of_devices(&[1, 2])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    let outcomes = sqs.send(of_devices(&[1, 2])).await.unwrap();
    assert_eq!(outcomes, vec![ACKNOWLEDGED; 2]);
    assert_eq!(place.requests().len(), 2);
    assert_eq!(place.positions(), [1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_event_is_in_a_fifo_queue_once_and_in_order_whatever_is_refused(
        devices in proptest::collection::vec(0u8..4, 1..80),
        moods in proptest::collection::vec(mood(), 0..25),
        batch_records in 1usize..40,
    ) {
        let (taken, dead) = deliver(At::Sqs, moods, &devices, |place| {
            let mut config = config(place, FIFO);
            config.batching.batch_records = batch_records;
            Arc::new(sqs(config))
        });
        prop_assert_eq!(dead, 0);
        prop_assert_eq!(taken.len(), devices.len());
        prop_assert!(are_all_in_order(&taken, devices.len()));
    }

    #[test]
    fn every_event_is_in_a_standard_queue_whatever_is_refused(
        devices in proptest::collection::vec(0u8..4, 1..80),
        moods in proptest::collection::vec(mood(), 0..25),
    ) {
        let (taken, dead) = deliver(At::Sqs, moods, &devices, |place| {
            Arc::new(sqs(config(place, STANDARD)))
        });
        prop_assert_eq!(dead, 0);
        let all: std::collections::BTreeSet<u64> = taken.iter().map(|one| one.position()).collect();
        prop_assert_eq!(all.len(), devices.len());
    }
}

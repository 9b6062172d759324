//! What a real broker does is in `tests/tests/streams.rs`; here are single moments.

use krafka::testing::{ApiKey, Control, FakeBroker};
use tempfile::TempDir;

use super::*;
use crate::forward::{
    self,
    testing::{TestClock, batch, large_record_of, record},
};

const ACKNOWLEDGED: Outcome = Outcome::Acknowledged;
const TOPIC: &str = "telemetry";

/// A broker with the topic, of one partition, and a gateway's directory.
struct Place {
    broker: FakeBroker,
    dir: TempDir,
}

impl Place {
    async fn new() -> Self {
        let broker = FakeBroker::start().await.unwrap();
        broker.create_topic(TOPIC, 1);
        let dir = TempDir::new().unwrap();
        Self { broker, dir }
    }

    /// What a start of the gateway begins with.
    fn start(&self) -> Transactional {
        self.start_at(TOPIC)
    }

    fn start_at(&self, topic: &str) -> Transactional {
        self.start_with(topic, Duration::from_secs(5))
    }

    fn start_within(&self, timeout: Duration) -> Transactional {
        self.start_with(TOPIC, timeout)
    }

    fn start_with(&self, topic: &str, timeout: Duration) -> Transactional {
        let config = Config {
            timeout,
            connect_timeout: timeout,
            ..Config::new(vec![self.broker.bootstrap_servers()], topic)
        };
        let transactions = Transactions {
            id: "penstock-1-kafka-stream".to_owned(),
            notes: forward::notes_of_kafka(self.dir.path(), "stream"),
        };
        let clock = Arc::new(TestClock(Instant::now()));
        Transactional::new(config, transactions, clock)
    }

    /// What those see that read what is committed, in its order.
    fn seen(&self) -> Vec<u64> {
        let records = self.broker.committed_records(TOPIC).unwrap();
        let position = |value: &[u8]| {
            let event: serde_json::Value = serde_json::from_slice(value).unwrap();
            event["sequence"].as_str().unwrap().parse().unwrap()
        };
        let values = records.iter().map(|one| one.value.as_deref().unwrap());
        values.map(position).collect()
    }

    fn ends(&self, control: impl Fn() -> Control + Send + Sync + 'static) {
        self.broker.on(ApiKey::EndTxn, move |_| control());
    }
}

/// Hands the same over until something is known of it, as the engine does.
async fn send(kafka: &Transactional, positions: std::ops::RangeInclusive<u64>) -> Vec<Outcome> {
    for _ in 0..30 {
        let outcomes = kafka.send(batch(positions.clone())).await;
        if !is_unavailable(&outcomes) {
            return outcomes.unwrap();
        }
    }
    panic!("nothing is known of {positions:?}");
}

fn is_unavailable(outcomes: &Outcomes) -> bool {
    matches!(outcomes, Err(Error::Unavailable { .. }))
}

#[tokio::test]
async fn a_batch_is_seen_whole_and_in_order() {
    let place = Place::new().await;
    let kafka = place.start();
    let outcomes = kafka.send(batch(1..=5)).await;
    assert_eq!(outcomes, Ok(vec![ACKNOWLEDGED; 5]));
    assert_eq!(kafka.send(batch(6..=7)).await, Ok(vec![ACKNOWLEDGED; 2]));
    assert_eq!(place.seen(), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(place.broker.request_count(ApiKey::EndTxn), 2);
}

#[tokio::test]
async fn what_was_committed_and_comes_again_after_a_kill_is_not_sent_again() {
    let place = Place::new().await;
    // Killed before the journal knew: the same comes again, and in another cut.
    for _ in 0..3 {
        let kafka = place.start();
        let outcomes = kafka.send(batch(1..=3)).await;
        assert_eq!(outcomes, Ok(vec![ACKNOWLEDGED; 3]));
        assert_eq!(kafka.send(batch(4..=5)).await, Ok(vec![ACKNOWLEDGED; 2]));
        drop(kafka);
        let kafka = place.start();
        assert_eq!(kafka.send(batch(1..=6)).await, Ok(vec![ACKNOWLEDGED; 6]));
        assert_eq!(place.seen(), [1, 2, 3, 4, 5, 6]);
    }
}

#[tokio::test]
async fn a_destination_that_is_made_anew_under_the_same_name_is_sent_everything() {
    let place = Place::new().await;
    let outcomes = place.start().send(batch(1..=3)).await;
    assert_eq!(outcomes, Ok(vec![ACKNOWLEDGED; 3]));
    forward::forget_notes(place.dir.path(), "stream").unwrap();
    place.broker.delete_topic(TOPIC);
    place.broker.create_topic(TOPIC, 1);
    let kafka = place.start();
    assert_eq!(kafka.send(batch(1..=3)).await, Ok(vec![ACKNOWLEDGED; 3]));
    assert_eq!(place.seen(), [1, 2, 3]);
    // What was never written down is forgotten all the same.
    forward::forget_notes(place.dir.path(), "another").unwrap();
}

#[tokio::test]
async fn what_was_not_committed_before_a_kill_is_sent_again_and_seen_once() {
    let place = Place::new().await;
    // The commit never comes to the coordinator.
    place.ends(|| Control::Silence);
    let kafka = place.start_within(Duration::from_secs(1));
    assert!(is_unavailable(&kafka.send(batch(1..=3)).await));
    drop(kafka);
    assert_eq!(place.seen(), [0; 0]);
    place.broker.clear_hooks();
    let kafka = place.start();
    assert_eq!(send(&kafka, 1..=4).await, vec![ACKNOWLEDGED; 4]);
    assert_eq!(place.seen(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_asked_for_again_and_makes_no_copy() {
    let place = Place::new().await;
    place.ends(|| Control::ApplyThen(Box::new(Control::Silence)));
    for restarts in [false, true] {
        let kafka = place.start_within(Duration::from_secs(1));
        assert!(is_unavailable(&kafka.send(batch(1..=3)).await));
        assert_eq!(place.seen(), [1, 2, 3]);
        place.broker.clear_hooks();
        let kafka = match restarts {
            false => kafka,
            true => place.start(),
        };
        assert_eq!(send(&kafka, 1..=4).await, vec![ACKNOWLEDGED; 4]);
        assert_eq!(place.seen(), [1, 2, 3, 4], "restarts: {restarts}");
        if !restarts {
            place.broker.delete_topic(TOPIC);
            place.broker.create_topic(TOPIC, 1);
            forward::forget_notes(place.dir.path(), "stream").unwrap();
            place.ends(|| Control::ApplyThen(Box::new(Control::Silence)));
        }
    }
}

#[tokio::test]
async fn a_record_that_is_refused_ends_a_transaction_and_those_around_it_go_in_order() {
    let place = Place::new().await;
    // What no request can hold is not even tried; what the topic refuses is found.
    let items = [record(1, 1), large_record_of(2, 1, 1_100_000), record(3, 1)];
    let with_large = Batch {
        items: items.map(|one| Item::check(one).unwrap()).into(),
    };
    let kafka = place.start();
    let outcomes = kafka.send(with_large).await.unwrap();
    assert!(matches!(&outcomes[1], Outcome::Permanent(reason) if reason.contains("1048576")));
    assert_eq!(place.seen(), [1, 3]);

    let refused = ErrorCode::InvalidRecord;
    // All of it, its first half, and what of that is to blame.
    place
        .broker
        .on_times(ApiKey::Produce, 3, move |_| Control::Error(refused));
    let outcomes = kafka.send(batch(11..=14)).await.unwrap();
    assert!(
        matches!(&outcomes[0], Outcome::Permanent(_)),
        "{outcomes:?}"
    );
    assert_eq!(outcomes[1..], [ACKNOWLEDGED; 3]);
    assert_eq!(place.seen(), [1, 3, 12, 13, 14]);
}

#[tokio::test]
async fn a_second_gateway_with_the_same_data_needs_a_person() {
    let place = Place::new().await;
    let kafka = place.start();
    assert_eq!(kafka.send(batch([1])).await, Ok(vec![ACKNOWLEDGED]));
    let other = Place {
        dir: TempDir::new().unwrap(),
        ..place
    };
    let copy = other.start();
    assert_eq!(copy.send(batch([2])).await, Ok(vec![ACKNOWLEDGED]));
    // Once says little.
    let outcomes = kafka.send(batch([3])).await;
    assert!(is_unavailable(&outcomes), "{outcomes:?}");
    assert_eq!(kafka.send(batch([3])).await, Ok(vec![ACKNOWLEDGED]));
    assert_eq!(send(&copy, 4..=4).await, [ACKNOWLEDGED]);
    let outcomes = kafka.send(batch([5])).await;
    let Err(Error::Misconfigured(reason)) = &outcomes else {
        panic!("{outcomes:?}");
    };
    assert!(reason.contains("penstock-1-kafka-stream"), "{reason}");
    assert_eq!(other.seen(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_transaction_that_the_coordinator_ended_is_begun_anew() {
    let place = Place::new().await;
    let kafka = place.start();
    assert_eq!(kafka.send(batch([1])).await, Ok(vec![ACKNOWLEDGED]));
    place.broker.on_once(ApiKey::EndTxn, |_| {
        Control::Error(ErrorCode::TransactionAbortable)
    });
    let outcomes = kafka.send(batch([2])).await;
    assert!(is_unavailable(&outcomes), "{outcomes:?}");
    assert_eq!(kafka.send(batch([2])).await, Ok(vec![ACKNOWLEDGED]));
    assert_eq!(place.seen(), [1, 2]);
}

#[tokio::test]
async fn a_topic_that_lost_the_place_of_the_last_transaction_gets_it_again() {
    // Behind the end of the new topic, and at its end.
    for last in [3, 1] {
        let place = Place::new().await;
        let count = usize::try_from(last).unwrap();
        let outcomes = place.start().send(batch(1..=last)).await;
        assert_eq!(outcomes, Ok(vec![ACKNOWLEDGED; count]));
        place.broker.delete_topic(TOPIC);
        place.broker.create_topic(TOPIC, 1);
        let outcomes = send(&place.start(), 1..=last).await;
        assert_eq!(outcomes, vec![ACKNOWLEDGED; count]);
        assert_eq!(place.seen(), (1..=last).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn another_topic_or_fewer_partitions_do_not_hold_anything_up() {
    let place = Place::new().await;
    // The note is of a topic that is gone, and then of a partition that is.
    for (topic, partitions) in [("before", 1), (TOPIC, 8)] {
        place.broker.delete_topic(TOPIC);
        place.broker.create_topic(topic, partitions);
        let kafka = place.start_at(topic);
        let of_many = (1..=8).map(|n| Item::check(record(n.into(), n)).unwrap());
        let items = Batch {
            items: of_many.collect(),
        };
        assert_eq!(kafka.send(items).await, Ok(vec![ACKNOWLEDGED; 8]));
        drop(kafka);
        place.broker.delete_topic(topic);
        place.broker.create_topic(TOPIC, 1);
        assert_eq!(send(&place.start(), 9..=9).await, [ACKNOWLEDGED]);
        assert_eq!(place.seen(), [9]);
    }
}

#[tokio::test]
async fn a_topic_that_may_not_be_read_needs_a_person() {
    let place = Place::new().await;
    assert_eq!(place.start().send(batch([1])).await, Ok(vec![ACKNOWLEDGED]));
    let denied = ErrorCode::TopicAuthorizationFailed;
    place
        .broker
        .on(ApiKey::Fetch, move |_| Control::Error(denied));
    let kafka = place.start_within(Duration::from_secs(3));
    let outcomes = kafka.send(batch([1])).await;
    let Err(Error::Misconfigured(reason)) = &outcomes else {
        panic!("{outcomes:?}");
    };
    assert!(reason.contains("cannot be read"), "{reason}");
    place.broker.clear_hooks();
    assert_eq!(send(&kafka, 1..=1).await, [ACKNOWLEDGED]);
    assert_eq!(place.seen(), [1]);
}

#[tokio::test]
async fn while_it_is_not_shown_what_became_of_the_last_transaction_nothing_goes_on() {
    let place = Place::new().await;
    place.broker.hold_transaction_markers(true);
    let kafka = place.start_within(Duration::from_secs(1));
    // Committed, and not seen yet.
    assert_eq!(kafka.send(batch(1..=3)).await, Ok(vec![ACKNOWLEDGED; 3]));
    drop(kafka);
    let kafka = place.start_within(Duration::from_secs(1));
    let outcomes = kafka.send(batch(1..=3)).await;
    assert!(is_unavailable(&outcomes), "{outcomes:?}");
    place.broker.hold_transaction_markers(false);
    assert_eq!(send(&kafka, 1..=3).await, vec![ACKNOWLEDGED; 3]);
    assert_eq!(place.seen(), [1, 2, 3]);
}

//! What a real broker does is in `tests/tests/streams.rs`; here is what none does at will.

use krafka::{
    error::ErrorCode,
    testing::{ApiKey, Control, FakeBroker},
};

use super::*;
use crate::{
    event::{Event, IdSource, Key, Marks, Measurement, Quality, TimeSource, Timestamp, Value},
    forward::{
        batch::Item,
        destination::Outcome,
        testing::{TestClock, batch, large_record_of, record},
    },
};

const ACKNOWLEDGED: Outcome = Outcome::Acknowledged;

fn config() -> Config {
    Config {
        timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(1),
        ..Config::new(vec!["127.0.0.1:9".to_owned()], "telemetry")
    }
}

/// A broker with the topic, of one partition.
async fn broker() -> FakeBroker {
    let broker = FakeBroker::start().await.unwrap();
    broker.create_topic("telemetry", 1);
    broker
}

fn config_to(broker: &FakeBroker) -> Config {
    Config {
        brokers: vec![broker.bootstrap_servers()],
        timeout: Duration::from_secs(20),
        ..config()
    }
}

fn kafka(config: Config) -> Kafka {
    Kafka::new(config, Arc::new(TestClock(Instant::now())))
}

/// Records 1, 2, 3 and so on, each of a device of its own.
fn of_many(count: u8) -> Batch {
    let item = |n: u8| Item::check(record(n.into(), n)).unwrap();
    Batch {
        items: (1..=count).map(item).collect(),
    }
}

/// What the topic has, in its order.
fn positions(broker: &FakeBroker) -> Vec<u64> {
    let position = |value: &[u8]| {
        let event: serde_json::Value = serde_json::from_slice(value).unwrap();
        event["sequence"].as_str().unwrap().parse().unwrap()
    };
    let records = broker.all_records("telemetry").unwrap();
    let values = records.iter().map(|one| one.value.as_deref().unwrap());
    values.map(position).collect()
}

fn refuses(broker: &FakeBroker, code: ErrorCode) {
    broker.on(ApiKey::Produce, move |_| Control::Error(code));
}

async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn brokers_that_are_away_are_unavailable() {
    let outcomes = kafka(config()).send(batch([1])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_topic_that_no_broker_knows_needs_a_person_after_a_minute() {
    let broker = FakeBroker::start().await.unwrap();
    let kafka = kafka(Config {
        timeout: Duration::from_secs(1),
        ..config_to(&broker)
    });
    // Brokers that have just started do not know all of theirs.
    let outcomes = kafka.send(batch([1])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    pass(session::NO_TOPIC_PATIENCE).await;
    let outcomes = kafka.send(batch([1])).await;
    assert!(
        matches!(outcomes, Err(Error::Misconfigured(_))),
        "{outcomes:?}"
    );
    broker.create_topic("telemetry", 1);
    assert_eq!(kafka.send(batch([1])).await, Ok(vec![ACKNOWLEDGED]));
}

#[tokio::test]
async fn an_event_that_no_request_can_hold_is_a_dead_letter_and_those_around_it_go() {
    let broker = broker().await;
    let bytes = 1_100_000;
    let items = [record(1, 1), large_record_of(2, 1, bytes), record(3, 1)];
    let batch = Batch {
        items: items.map(|one| Item::check(one).unwrap()).into(),
    };
    let outcomes = kafka(config_to(&broker)).send(batch).await.unwrap();
    let Outcome::Permanent(reason) = &outcomes[1] else {
        panic!("{outcomes:?}");
    };
    assert!(reason.ends_with("a request takes 1048576"), "{reason}");
    assert_eq!([&outcomes[0], &outcomes[2]], [&ACKNOWLEDGED; 2]);
    assert_eq!(positions(&broker), [1, 3]);
}

#[tokio::test]
async fn nothing_overtakes_a_record_that_was_refused_and_is_taken_alone() {
    let broker = broker().await;
    broker.on_once(ApiKey::Produce, |_| {
        Control::Error(ErrorCode::InvalidRecord)
    });
    // Two or three records fit.
    let small = Config {
        batch_bytes: 2_000,
        ..config_to(&broker)
    };
    let outcomes = kafka(small).send(batch(1..=9)).await.unwrap();
    assert_eq!(outcomes, vec![ACKNOWLEDGED; 9]);
    assert_eq!(positions(&broker), (1..=9).collect::<Vec<_>>());
    assert!(broker.request_count(ApiKey::Produce) < 9, "not all alone");
}

#[tokio::test]
async fn a_topic_that_refuses_record_after_record_gets_no_dead_letters_of_it() {
    let broker = broker().await;
    refuses(&broker, ErrorCode::InvalidRecord);
    let kafka = kafka(config_to(&broker));
    let outcomes = kafka.send(of_many(40)).await;
    assert!(
        matches!(outcomes, Err(Error::Refusing { .. })),
        "{outcomes:?}"
    );
    assert_eq!(broker.request_count(ApiKey::Produce), 1 + 16);

    // Too early; then one record of each of some devices, and nothing is given up.
    let outcomes = kafka.send(of_many(40)).await;
    assert!(
        matches!(outcomes, Err(Error::Refusing { .. })),
        "{outcomes:?}"
    );
    assert_eq!(broker.request_count(ApiKey::Produce), 17);
    pass(Duration::from_secs(61)).await;
    let outcomes = kafka.send(of_many(40)).await;
    assert!(
        matches!(outcomes, Err(Error::Refusing { .. })),
        "{outcomes:?}"
    );
    assert_eq!(broker.request_count(ApiKey::Produce), 33);

    pass(Duration::from_secs(121)).await;
    broker.clear_hooks();
    let outcomes = kafka.send(of_many(40)).await.unwrap();
    assert_eq!(outcomes, vec![ACKNOWLEDGED; 40]);
    assert_eq!(positions(&broker), (1..=40).collect::<Vec<_>>());
}

#[tokio::test]
async fn bad_records_in_front_do_not_hold_those_of_other_devices_once_the_topic_takes_records() {
    let broker = broker().await;
    refuses(&broker, ErrorCode::InvalidRecord);
    let kafka = kafka(config_to(&broker));
    let outcomes = kafka.send(of_many(40)).await;
    assert!(
        matches!(outcomes, Err(Error::Refusing { .. })),
        "{outcomes:?}"
    );
    pass(Duration::from_secs(61)).await;
    broker.clear_hooks();
    broker.on_times(ApiKey::Produce, 2, |_| {
        Control::Error(ErrorCode::InvalidRecord)
    });
    let outcomes = kafka.send(of_many(40)).await.unwrap();
    let (bad, good) = outcomes.split_at(2);
    let dead = |outcome: &Outcome| matches!(outcome, Outcome::Permanent(_));
    assert!(bad.iter().all(dead), "{bad:?}");
    assert_eq!(good, vec![ACKNOWLEDGED; 38]);
}

#[tokio::test]
async fn a_time_that_brokers_do_not_take_blames_a_clock_and_no_record() {
    let broker = broker().await;
    refuses(&broker, ErrorCode::InvalidTimestamp);
    let outcomes = kafka(config_to(&broker)).send(batch([1, 2])).await;
    let Err(Error::Misconfigured(reason)) = outcomes else {
        panic!("{outcomes:?}");
    };
    assert!(reason.contains("is the clock"), "{reason}");
}

#[derive(Debug)]
struct Unset;

impl Clock for Unset {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(86_400_000)
    }
}

#[tokio::test]
async fn while_the_clock_is_not_set_nothing_is_sent_that_retention_would_delete() {
    let broker = broker().await;
    let kafka = Kafka::new(config_to(&broker), Arc::new(Unset));
    let outcomes = kafka.send(batch([1])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    assert_eq!(positions(&broker), [0_u64; 0]);
}

#[tokio::test]
async fn brokers_that_let_no_producer_begin_are_unavailable() {
    let broker = broker().await;
    broker.on(ApiKey::InitProducerId, |_| {
        Control::Error(ErrorCode::CoordinatorLoadInProgress)
    });
    let config = Config {
        timeout: Duration::from_secs(2),
        ..config_to(&broker)
    };
    let kafka = kafka(config);
    let outcomes = tokio::time::timeout(Duration::from_secs(60), kafka.send(batch([1]))).await;
    let outcomes = outcomes.expect("it gives up by itself");
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_right_that_was_missing_and_is_there_again_needs_no_restart() {
    for code in [
        ErrorCode::ClusterAuthorizationFailed,
        ErrorCode::InvalidProducerIdMapping,
    ] {
        let broker = broker().await;
        broker.on_once(ApiKey::Produce, move |_| Control::Error(code));
        let kafka = kafka(config_to(&broker));
        let outcomes = kafka.send(batch([1, 2])).await;
        assert!(outcomes.is_err(), "{outcomes:?}");
        let outcomes = kafka.send(batch([1, 2])).await.unwrap();
        assert_eq!(outcomes, vec![ACKNOWLEDGED; 2], "{code:?}");
        assert_eq!(positions(&broker), [1, 2]);
    }
}

#[tokio::test]
async fn a_record_that_was_not_answered_in_time_is_waited_for_and_not_sent_again() {
    let broker = broker().await;
    broker.on_once(ApiKey::Produce, |_| Control::Delay(Duration::from_secs(3)));
    let config = Config {
        timeout: Duration::from_secs(1),
        ..config_to(&broker)
    };
    let kafka = kafka(config);
    let mut outcomes = kafka.send(batch([1, 2])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    while outcomes.is_err() {
        outcomes = kafka.send(batch([1, 2])).await;
    }
    assert_eq!(outcomes.unwrap(), vec![ACKNOWLEDGED; 2]);
    assert_eq!(positions(&broker), [1, 2]);
}

#[tokio::test]
async fn what_is_made_of_the_next_batch_is_not_sent_and_not_taken_for_another() {
    let broker = broker().await;
    let kafka = kafka(config_to(&broker));
    kafka.prepare(batch(41..=80));
    let outcomes = kafka.send(batch(1..=40)).await;
    assert_eq!(outcomes, Ok(vec![ACKNOWLEDGED; 40]));
    assert_eq!(positions(&broker), (1..=40).collect::<Vec<_>>());
    let outcomes = kafka.send(batch(41..=80)).await;
    assert_eq!(outcomes, Ok(vec![ACKNOWLEDGED; 40]));
    assert_eq!(positions(&broker), (1..=80).collect::<Vec<_>>());
}

#[test]
fn records_that_are_made_together_are_those_that_are_made_alone() {
    let item = |n: u64| Item::check(record(n, u8::try_from(n % 7).unwrap())).unwrap();
    let items: Vec<_> = (1..=150).map(item).collect();
    let together = record::of_events(&items, "telemetry");
    for (item, made) in items.iter().zip(&together) {
        let alone = record::of_event(item, "telemetry");
        assert_eq!(format!("{alone:?}"), format!("{made:?}"));
    }
    assert_eq!(together.len(), 150);
}

#[test]
fn an_event_that_is_not_looked_at_is_never_too_large() {
    // Names and values of which all is escaped, in both ways.
    let bad = "\u{1}".repeat(200);
    let values = [
        Value::Text((&*bad).into()),
        Value::Bytes(Vec::new()),
        Value::Array(vec![Value::Bytes(Vec::new()); 500]),
        Value::Array(vec![Value::Bool(false); 500]),
        Value::Float(-1.234_567_890_123_456_7e-300),
    ];
    let measurement = |value| Measurement {
        name: (&*bad).into(),
        value,
        unit: None,
        quality: Quality::Good,
        time: Some(Timestamp::from_nanos(1)),
    };
    let event = Event {
        key: Key([0; 16]),
        id: None,
        id_source: IdSource::Explicit,
        kind: "".into(),
        device: (&*bad).into(),
        site: None,
        time: Timestamp::from_nanos(1),
        time_source: TimeSource::Device,
        received: Timestamp::from_nanos(1),
        sequence: None,
        partition_key: None,
        topic: "".into(),
        traceparent: None,
        measurements: values.map(measurement).into(),
        tags: Vec::new(),
        marks: Marks::NONE,
        corrected: None,
        replayed: None,
    };
    let mut body = Vec::new();
    event.to_cbor(&mut body);
    let mut record = record(1, 1);
    record.body = body.into();
    let item = Item::check(record).unwrap();
    let size = record::of_event(&item, "telemetry").estimated_size();
    assert!(!record::is_smaller(&item, size), "{size}");
}

#[test]
fn a_record_has_the_event_and_beside_it_what_names_it() {
    let item = Item::check(record(7, 3)).unwrap();
    let record = record::of_event(&item, "telemetry");
    assert_eq!(record.topic, "telemetry");
    assert_eq!(record.key_str(), Some("device-3"));
    let event: serde_json::Value = serde_json::from_str(record.value_str().unwrap()).unwrap();
    let header = |name: &str| {
        let found = record.headers.iter().find(|(key, _)| *key == name);
        let value = found
            .unwrap_or_else(|| panic!("no header {name}"))
            .1
            .clone();
        String::from_utf8(value.unwrap().to_vec()).unwrap()
    };
    assert_eq!(header("content-type"), "application/cloudevents+json");
    assert_eq!(header("idempotency-key"), item.record().key.to_string());
    for name in ["id", "source", "type", "subject", "time", "specversion"] {
        assert_eq!(event[name], header(&format!("ce_{name}")), "{name}");
    }
}

#[test]
fn what_is_known_is_told_and_the_rest_goes_again() {
    let outcomes: Vec<_> = [
        Verdict::Kept,
        Verdict::Blame("large".to_owned()),
        Verdict::Open("away".to_owned()),
    ]
    .map(Verdict::into_outcome)
    .into();
    let expect = [
        Outcome::Acknowledged,
        Outcome::Permanent("large".to_owned()),
        Outcome::Unknown("away".to_owned()),
    ];
    assert_eq!(outcomes, expect);
}

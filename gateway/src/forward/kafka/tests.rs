//! What needs no broker; what does is in `tests/tests/streams.rs`.

use super::*;
use crate::forward::{
    destination::Outcome,
    testing::{batch, record},
};

fn config() -> Config {
    Config {
        timeout: Duration::from_secs(2),
        connect_timeout: Duration::from_secs(1),
        ..Config::new(vec!["127.0.0.1:9".to_owned()], "telemetry")
    }
}

#[tokio::test]
async fn brokers_that_are_away_are_unavailable() {
    let outcomes = Kafka::new(config()).unwrap().send(batch([1])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
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

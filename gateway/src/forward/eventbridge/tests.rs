//! The destination against a bus in this process.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::forward::{
    aws::testing::{Mood, Place, Service as At, deliver, mood, of_devices},
    destination::Outcome,
    testing::{large_record_of, record},
};

const ACKNOWLEDGED: Outcome = Outcome::Acknowledged;

fn config(place: &Place) -> Config {
    let mut config = Config::new("plant");
    config.account = place.account();
    config.batching.linger = Duration::from_millis(2);
    config
}

fn bus(config: Config) -> EventBridge {
    EventBridge::new(config).unwrap()
}

async fn place(moods: Vec<Mood>) -> Place {
    Place::start(At::EventBridge, moods).await
}

#[tokio::test]
async fn an_entry_says_bus_source_type_and_time_and_its_detail_is_the_event() {
    let place = place(vec![]).await;
    let outcomes = bus(config(&place)).send(of_devices(&[1])).await;
    assert_eq!(outcomes.unwrap(), [ACKNOWLEDGED]);
    assert_eq!(
        place.asked(),
        [r#"{"Name":"plant"}"#; 2],
        "before and after"
    );
    let taken = place.taken();
    let entry = &taken[0].raw;
    assert_eq!(entry["EventBusName"], "plant");
    assert_eq!(entry["Source"], "penstock");
    assert_eq!(entry["DetailType"], "iot.telemetry.v1");
    assert_eq!(entry["Time"], 1_700_000_000);
    assert_eq!(taken[0].event()["eventkey"], record(1, 1).key.to_string());
}

/// What needs a person, and nothing else.
fn wrong(outcomes: Outcomes) -> String {
    match outcomes {
        Err(Error::Misconfigured(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_bus_that_is_not_there_or_that_we_may_not_ask_for_gets_nothing_and_needs_a_person() {
    let place = place(vec![]).await;
    place.says_of_itself(400, "ResourceNotFoundException");
    wrong(bus(config(&place)).send(of_devices(&[1])).await);
    place.says_of_itself(400, "AccessDeniedException");
    let reason = wrong(bus(config(&place)).send(of_devices(&[1])).await);
    assert!(reason.contains("events:DescribeEventBus"), "{reason}");
    assert!(reason.contains("check_bus = false"), "{reason}");
    assert!(place.taken().is_empty());
    let mut unchecked = config(&place);
    unchecked.check_bus = false;
    let outcomes = bus(unchecked).send(of_devices(&[1])).await;
    assert_eq!(outcomes.unwrap(), [ACKNOWLEDGED]);
}

#[tokio::test]
async fn nothing_counts_as_taken_by_a_bus_that_is_taken_away_meanwhile() {
    let place = place(vec![]).await;
    let bus = bus(config(&place));
    assert_eq!(bus.send(of_devices(&[1])).await.unwrap(), [ACKNOWLEDGED]);
    place.says_of_itself(400, "ResourceNotFoundException");
    wrong(bus.send(of_devices(&[2])).await);
    assert_eq!(place.requests().len(), 2);
    // And nothing more is sent until it is back.
    wrong(bus.send(of_devices(&[2])).await);
    assert_eq!(place.requests().len(), 2);
    place.is_there(2);
    assert_eq!(bus.send(of_devices(&[2])).await.unwrap(), [ACKNOWLEDGED]);
}

#[tokio::test]
async fn nothing_counts_as_taken_by_a_bus_that_was_made_anew_meanwhile() {
    let place = place(vec![]).await;
    place.is_there(1);
    let bus = bus(config(&place));
    assert_eq!(bus.send(of_devices(&[1])).await.unwrap(), [ACKNOWLEDGED]);
    place.is_there(2);
    let outcomes = bus.send(of_devices(&[2])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    assert_eq!(bus.send(of_devices(&[2])).await.unwrap(), [ACKNOWLEDGED]);
}

#[tokio::test]
async fn a_question_that_the_service_has_no_time_for_is_asked_again_and_events_are_not_sent_again()
{
    let place = place(vec![]).await;
    place.is_there(1);
    let bus = bus(config(&place));
    assert_eq!(bus.send(of_devices(&[1])).await.unwrap(), [ACKNOWLEDGED]);
    place.says_of_itself(400, "ThrottlingException");
    let asked = place.asked().len();
    let has_time = async {
        while place.asked().len() < asked + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        place.is_there(1);
    };
    let (outcomes, ()) = tokio::join!(bus.send(of_devices(&[2])), has_time);
    assert_eq!(outcomes.unwrap(), [ACKNOWLEDGED]);
    assert_eq!(place.requests().len(), 2);
}

#[tokio::test]
async fn a_question_after_a_batch_that_fails_is_asked_again_and_events_are_not_sent_again() {
    let place = place(vec![]).await;
    place.is_there(1);
    let bus = bus(config(&place));
    assert_eq!(bus.send(of_devices(&[1])).await.unwrap(), [ACKNOWLEDGED]);
    place.says_of_itself(500, "InternalException");
    let asked = place.asked().len();
    let is_well = async {
        while place.asked().len() < asked + 2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        place.is_there(1);
    };
    let (outcomes, ()) = tokio::join!(bus.send(of_devices(&[2])), is_well);
    assert_eq!(outcomes.unwrap(), [ACKNOWLEDGED]);
    assert_eq!(place.requests().len(), 2, "{:?}", place.requests());
    // Before a batch nothing is lost by waiting.
    place.says_of_itself(500, "InternalException");
    let fresh = super::EventBridge::new(config(&place)).unwrap();
    let outcomes = fresh.send(of_devices(&[3])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    assert_eq!(place.requests().len(), 2);
}

#[tokio::test]
async fn entries_that_fail_are_tried_again_dead_letters_or_slow_everything_down() {
    let place = place(vec![
        Mood::Fails(vec![0], "NotAuthorizedForSourceException", true),
        Mood::Fails(vec![0], "ThrottlingException", true),
        Mood::Fails(vec![0], "MalformedDetail", true),
        Mood::Fails(vec![0], "InternalFailure", true),
    ])
    .await;
    let bus = bus(config(&place));
    let first = async |bus: &EventBridge| bus.send(of_devices(&[1, 2])).await.unwrap().remove(0);
    let said = |code: &str| format!("{code}: scripted");
    assert_eq!(
        first(&bus).await,
        Outcome::Transient(said("InternalFailure"))
    );
    assert_eq!(
        first(&bus).await,
        Outcome::Permanent(said("MalformedDetail"))
    );
    assert_eq!(first(&bus).await, Outcome::Throttled { retry_after: None });
    let unknown = Outcome::Unknown(said("NotAuthorizedForSourceException"));
    assert_eq!(first(&bus).await, unknown);
}

#[tokio::test]
async fn an_event_that_no_entry_can_hold_is_a_dead_letter_and_is_not_sent() {
    let place = place(vec![]).await;
    let mut small = config(&place);
    small.batching.record_bytes_max = 2_000;
    let mut typed = record(3, 3).event().unwrap();
    typed.kind = "t".repeat(129).into();
    let mut body = Vec::new();
    typed.to_cbor(&mut body);
    let long_type = crate::record::Record {
        body: body.into(),
        ..record(3, 3)
    };
    let records = [large_record_of(1, 1, 2_000), record(2, 2), long_type];
    let batch = Batch {
        items: records.map(|one| Item::check(one).unwrap()).into(),
    };
    let outcomes = bus(small).send(batch).await.unwrap();
    assert!(matches!(outcomes[0], Outcome::Permanent(_)), "{outcomes:?}");
    assert_eq!(outcomes[1], ACKNOWLEDGED);
    assert!(matches!(outcomes[2], Outcome::Permanent(_)), "{outcomes:?}");
    assert_eq!(place.positions(), [2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn every_event_arrives_whatever_is_refused(
        devices in proptest::collection::vec(0u8..4, 1..80),
        moods in proptest::collection::vec(mood(), 0..25),
    ) {
        let (taken, dead) = deliver(At::EventBridge, moods, &devices, |place| {
            Arc::new(bus(config(place)))
        });
        prop_assert_eq!(dead, 0);
        let all: std::collections::BTreeSet<u64> = taken.iter().map(|one| one.position()).collect();
        prop_assert_eq!(all.len(), devices.len());
    }
}

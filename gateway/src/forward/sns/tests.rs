//! The destination against a topic in this process.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::forward::{
    aws::testing::{Mood, Place, Service as At, are_all_in_order, deliver, mood, of_devices},
    destination::Outcome,
    testing::record,
};

const FIFO: &str = "arn:aws:sns:eu-central-1:123456789012:telemetry.fifo";
const STANDARD: &str = "arn:aws:sns:eu-central-1:123456789012:telemetry";
const ACKNOWLEDGED: Outcome = Outcome::Acknowledged;

fn config(place: &Place, topic: &str) -> Config {
    let mut config = Config::new(topic);
    config.account = place.account();
    config.batching.linger = Duration::from_millis(2);
    config
}

fn sns(config: Config) -> Sns {
    Sns::new(config).unwrap()
}

async fn place(moods: Vec<Mood>) -> Place {
    Place::start(At::Sns, moods).await
}

#[tokio::test]
async fn a_message_says_what_subscribers_filter_by_and_of_a_fifo_topic_group_and_identity() {
    let place = place(vec![]).await;
    let send = async |topic| sns(config(&place, topic)).send(of_devices(&[1])).await;
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
async fn a_message_that_fails_holds_back_those_of_its_group_and_nobody_elses() {
    let place = place(vec![Mood::Fails(vec![0], "InternalError", false)]).await;
    let outcomes = sns(config(&place, FIFO))
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
async fn a_message_to_blame_is_a_dead_letter_and_the_others_are_taken() {
    let place = place(vec![]).await;
    place.never_takes([2]);
    let outcomes = sns(config(&place, STANDARD))
        .send(of_devices(&[1, 2, 3]))
        .await;
    let outcomes = outcomes.unwrap();
    let refused = Outcome::Permanent("InvalidParameterValue: scripted".to_owned());
    assert_eq!(outcomes, [ACKNOWLEDGED, refused, ACKNOWLEDGED]);
}

#[tokio::test]
async fn whole_requests_are_halved_slowed_down_or_shown_to_a_person() {
    let place = place(vec![
        Mood::Answers(404, "NotFound", "no such topic"),
        Mood::Answers(400, "InvalidParameter", "Invalid parameter: TopicArn"),
        Mood::Answers(400, "Throttling", "slow down"),
        Mood::Fine,
        Mood::Fine,
        Mood::Answers(400, "BatchRequestTooLong", "scripted"),
    ])
    .await;
    let mut one = config(&place, STANDARD);
    one.batching.in_flight = 1;
    let sns = sns(one);
    let outcomes = sns.send(of_devices(&[1, 2])).await;
    assert_eq!(outcomes.unwrap(), vec![ACKNOWLEDGED; 2]);
    assert_eq!(place.requests(), [vec![1, 2], vec![1], vec![2]]);
    let outcomes = sns.send(of_devices(&[1])).await;
    let throttled = Outcome::Throttled { retry_after: None };
    assert_eq!(outcomes.unwrap(), [throttled]);
    for _ in 0..2 {
        let outcomes = sns.send(of_devices(&[1])).await;
        assert!(
            matches!(outcomes, Err(Error::Misconfigured(_))),
            "{outcomes:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_makes_no_copy_at_a_fifo_topic() {
    let place = place(vec![Mood::LosesTheAnswer]).await;
    let mut config = config(&place, FIFO);
    config.account.timeout = Duration::from_millis(300);
    let sns = sns(config);
    let outcomes = sns.send(of_devices(&[1, 2])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    let outcomes = sns.send(of_devices(&[1, 2])).await.unwrap();
    assert_eq!(outcomes, vec![ACKNOWLEDGED; 2]);
    assert_eq!(place.positions(), [1, 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn every_event_is_at_a_fifo_topic_once_and_in_order_whatever_is_refused(
        devices in proptest::collection::vec(0u8..4, 1..80),
        moods in proptest::collection::vec(mood(), 0..25),
    ) {
        let (taken, dead) = deliver(At::Sns, moods, &devices, |place| {
            Arc::new(sns(config(place, FIFO)))
        });
        prop_assert_eq!(dead, 0);
        prop_assert_eq!(taken.len(), devices.len());
        prop_assert!(are_all_in_order(&taken, devices.len()));
    }
}

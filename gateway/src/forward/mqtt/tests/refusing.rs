//! Servers of MQTT 5 that refuse messages, one or all of them.

use super::*;
use crate::forward::batch::Item;

const REFUSED: Said = Said::Refused {
    reason: 0x90,
    text: "",
};
const FAILED: Said = Said::Refused {
    reason: 0x80,
    text: "",
};

/// A batch of records of as many devices.
fn of_devices(positions: impl IntoIterator<Item = u64>) -> Batch {
    let item = |n: u64| Item::check(record(n, u8::try_from(n).unwrap())).unwrap();
    Batch {
        items: positions.into_iter().map(item).collect(),
    }
}

fn is_to_blame(outcomes: &Outcomes) -> bool {
    matches!(outcomes, Err(Error::Refusing { .. }))
}

/// Messages of a batch that are given up. How many are on the wire when the first
/// refusal is heard differs from time to time.
fn refused(outcomes: &Outcomes) -> usize {
    let all = outcomes.iter().flatten();
    all.filter(|one| matches!(one, Outcome::Permanent(_)))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_refuses_every_message_is_to_blame_itself() {
    let broker = Broker::start(|_| {}).await;
    broker.judge(|_| REFUSED);
    let mqtt = mqtt(config(broker.port, Version::V5));
    let mut given_up = 0;
    loop {
        let (one, other) = (of_devices(1..=40), of_devices(41..=80));
        let (one, other) = tokio::join!(biased; mqtt.send(one), mqtt.send(other));
        let all = [one, other];
        given_up += all.iter().map(refused).sum::<usize>();
        if all.iter().any(is_to_blame) {
            break;
        }
    }
    assert!(given_up < 16, "{given_up} were given up before");
    // It is too early to try again.
    let asked = broker.inbox.asked.load(SeqCst);
    let outcomes = mqtt.send(of_devices(1..=40)).await;
    assert!(is_to_blame(&outcomes), "{outcomes:?}");
    assert_eq!(broker.inbox.asked.load(SeqCst), asked);
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_before_everything_is_refused_is_told() {
    let broker = Broker::start(|_| {}).await;
    broker.judge(|position| match position {
        1..=3 => Said::Accepted,
        _ => REFUSED,
    });
    let mqtt = mqtt(config(broker.port, Version::V5));
    let outcomes = mqtt.send(of_devices(1..=40)).await;
    let taken = outcomes.as_ref().unwrap();
    assert!(
        taken[..3].iter().all(|o| *o == Outcome::Acknowledged)
            && taken[3..]
                .iter()
                .all(|o| matches!(o, Outcome::Unknown(_) | Outcome::Permanent(_))),
        "{outcomes:?}"
    );
    let mut given_up = refused(&outcomes);
    loop {
        let outcomes = mqtt.send(of_devices(4..=40)).await;
        given_up += refused(&outcomes);
        if is_to_blame(&outcomes) {
            break;
        }
    }
    assert!(given_up < 16, "{given_up} were given up before");
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_for_the_server_says_nothing_of_it() {
    let broker = Broker::start(|config| config.packet_bytes_max = 2_000).await;
    let mqtt = mqtt(config(broker.port, Version::V5));
    let items = (1..=20).map(|n| {
        let device = u8::try_from(n).unwrap();
        Item::check(crate::forward::testing::large_record_of(n, device, 3_000)).unwrap()
    });
    let batch = Batch {
        items: items.collect(),
    };
    let all_unfit = |outcomes: Outcomes| {
        let unfit = |o: &Outcome| matches!(o, Outcome::Permanent(_));
        assert!(
            outcomes.as_ref().is_ok_and(|all| all.iter().all(unfit)),
            "{outcomes:?}"
        );
    };
    all_unfit(mqtt.send(batch.clone()).await);
    seek(&mqtt, &batch);
    all_unfit(mqtt.send(batch).await);
    broker.stop().await;
}

/// As if the server had ended the connection at a batch's first message three times.
fn seek(mqtt: &Mqtt, batch: &Batch) {
    for _ in 0..3 {
        mqtt.blame().struck(session::Suspects {
            first: batch.items[0].clone(),
            last: batch.items[batch.items.len() - 1].position(),
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_by_one_what_waits_behind_a_message_that_failed_was_not_tried() {
    let broker = Broker::start(|_| {}).await;
    broker.judge(|position| match position {
        1 => FAILED,
        _ => Said::Accepted,
    });
    let mqtt = mqtt(config(broker.port, Version::V5));
    let batch = batch(1..=3);
    seek(&mqtt, &batch);
    let outcomes = mqtt.send(batch).await.unwrap();
    assert!(
        matches!(
            outcomes[..],
            [Outcome::Transient(_), Outcome::Behind, Outcome::Behind]
        ),
        "{outcomes:?}"
    );
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_that_fails_is_no_trouble_of_the_destination() {
    let broker = Broker::start(|config| config.receive_max = 10).await;
    broker.judge(|position| match position {
        5 => FAILED,
        _ => Said::Accepted,
    });
    let mqtt = mqtt(Config {
        in_flight: 20,
        ..config(broker.port, Version::V5)
    });
    let (first, second) = tokio::join!(
        biased;
        mqtt.send(of_devices(1..=10)),
        mqtt.send(of_devices(11..=30)),
    );
    let first = first.unwrap();
    assert!(matches!(first[4], Outcome::Transient(_)), "{first:?}");
    let second = second.unwrap();
    let taken = second.iter().take_while(|o| **o == Outcome::Acknowledged);
    let behind = taken.count();
    assert!(behind < second.len(), "{second:?}");
    assert!(
        second[behind..].iter().all(|o| *o == Outcome::Behind),
        "{second:?}"
    );
    // Once both have ended the rest goes.
    let rest = 11 + behind as u64..=30;
    assert!(all_acknowledged(&mqtt.send(of_devices(rest)).await));
    broker.stop().await;
}

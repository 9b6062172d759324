//! What happens where there is no room.

use super::*;
use crate::keep::{QueueFull, Refused, RetainedFull};

async fn fill(policy: QueueFull) -> (tempfile::TempDir, Running, Vec<bool>, Entered) {
    let dir = tempfile::tempdir().unwrap();
    let running = open(Config {
        queue_messages_max: 3,
        queue_full: policy,
        ..config(dir.path())
    });
    let session = running.enter("away", false).await.session;
    running.subscribe(session, "t", QoS::AtLeastOnce).await;
    running.leave(session, 0).await;
    let mut taken = Vec::new();
    for n in 1..=5 {
        let message = running.message("t", &n.to_string(), QoS::AtLeastOnce, false);
        taken.push(running.publish(message).await);
    }
    let entered = running.enter("away", false).await;
    (dir, running, taken, entered)
}

#[tokio::test]
async fn a_full_queue_drops_what_is_oldest_and_says_how_many() {
    let (_dir, running, taken, entered) = fill(QueueFull::DropOldest).await;
    assert_eq!(taken, [true; 5]);
    assert_eq!(entered.dropped, 2);
    assert_eq!(running.counters.dropped_kept_queue_full.get(), 2);
    assert_eq!(texts(&entered), ["3", "4", "5"]);
    let session = entered.session;
    running.leave(session, 0).await;
    let again = running.enter("away", false).await;
    assert_eq!(again.dropped, 2, "it may not have heard");
    let turn = Turn {
        heard: 2,
        ..Turn::default()
    };
    running.keeper.turn(session, turn).await.unwrap();
    running.leave(session, 0).await;
    let again = running.enter("away", false).await;
    assert_eq!(again.dropped, 0, "it has heard");
}

#[tokio::test]
async fn a_full_queue_drops_what_is_newest_where_that_is_wanted() {
    let (_dir, running, taken, entered) = fill(QueueFull::DropNewest).await;
    assert_eq!(taken, [true; 5]);
    assert_eq!(entered.dropped, 2);
    assert_eq!(running.counters.dropped_kept_queue_full.get(), 2);
    assert_eq!(texts(&entered), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_full_queue_refuses_where_that_is_wanted_and_has_room_again() {
    let (_dir, running, taken, entered) = fill(QueueFull::Refuse).await;
    assert_eq!(taken, [true, true, true, false, false]);
    assert_eq!(entered.dropped, 0);
    let items = drain(&entered);
    assert_eq!(items.iter().map(text).collect::<Vec<_>>(), ["1", "2", "3"]);
    running.done(entered.session, vec![items[0].position]).await;
    let message = running.message("t", "6", QoS::AtLeastOnce, false);
    assert!(running.publish(message).await);
    assert_eq!(texts(&entered), ["6"]);
}

#[tokio::test]
async fn a_message_that_no_queue_can_hold_leaves_the_others_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(Config {
        queue_bytes_max: 4096,
        ..config(dir.path())
    });
    let session = running.enter("away", false).await.session;
    running.subscribe(session, "t", QoS::AtLeastOnce).await;
    running.leave(session, 0).await;
    for payload in ["1", &"x".repeat(5000), "2"] {
        let message = running.message("t", payload, QoS::AtLeastOnce, false);
        assert!(running.publish(message).await);
    }
    let entered = running.enter("away", false).await;
    assert_eq!(texts(&entered), ["1", "2"]);
    assert_eq!(entered.dropped, 1);
}

#[tokio::test]
async fn what_may_have_been_sent_is_never_dropped_for_something_newer() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(Config {
        queue_messages_max: 2,
        ..config(dir.path())
    });
    let entered = running.enter("slow", false).await;
    running
        .subscribe(entered.session, "t", QoS::ExactlyOnce)
        .await;
    for n in 1..=4 {
        let message = running.message("t", &n.to_string(), QoS::ExactlyOnce, false);
        assert!(running.publish(message).await);
    }
    assert_eq!(texts(&entered), ["1", "2"]);
    assert_eq!(running.counters.dropped_kept_queue_full.get(), 2);
}

#[tokio::test]
async fn all_queues_together_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(Config {
        queue_total_bytes_max: 20_000,
        ..config(dir.path())
    });
    for client in ["a", "b", "c"] {
        let session = running.enter(client, false).await.session;
        running.subscribe(session, client, QoS::AtLeastOnce).await;
        running.leave(session, 0).await;
    }
    for n in 0..60 {
        let client = ["a", "b", "c"][n % 3];
        let message = running.message(client, &"x".repeat(1_000), QoS::AtLeastOnce, false);
        assert!(running.publish(message).await);
        assert!(running.counters.queued_bytes.get() <= 20_000);
    }
    assert!(running.counters.dropped_kept_queue_full.get() > 30);
    for client in ["a", "b", "c"] {
        assert_eq!(running.keeper.remove(Arc::from(client)).await, Ok(true));
    }
    running.until_queued(0).await;
    assert_eq!(running.counters.queued_bytes.get(), 0);
}

#[tokio::test]
async fn a_queue_larger_than_memory_comes_page_by_page_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    let session = running.enter("d", false).await.session;
    running.subscribe(session, "t", QoS::AtLeastOnce).await;
    running.leave(session, 0).await;
    for n in 0..1_000 {
        let message = running.message("t", &n.to_string(), QoS::AtLeastOnce, false);
        assert!(running.publish(message).await);
    }
    let entered = running.enter("d", false).await;
    let mut got = Vec::new();
    let mut pages = 0;
    for n in 1_000.. {
        got.extend(texts(&entered));
        if got.len() >= 1_010 {
            break;
        }
        if n < 1_010 {
            // More comes while it is behind.
            let message = running.message("t", &n.to_string(), QoS::AtLeastOnce, false);
            assert!(running.publish(message).await);
        }
        if entered.feed.wants_more() {
            pages += 1;
            let turn = Turn {
                page: true,
                ..Turn::default()
            };
            running.keeper.turn(entered.session, turn).await.unwrap();
        }
    }
    let expect: Vec<_> = (0..1_010).map(|n| n.to_string()).collect();
    assert_eq!(got, expect);
    assert!(pages >= 3, "{pages} pages");
}

#[tokio::test]
async fn there_are_no_more_sessions_than_there_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(Config {
        sessions_max: 2,
        ..config(dir.path())
    });
    running.enter("a", false).await;
    running.enter("b", false).await;
    let enter = Enter {
        client: Arc::from("c"),
        user: None,
        clean: false,
        expiry_secs: 10,
        outbox: Arc::new(Outbox::new(1 << 20, 64, &running.budget)),
        will: None,
    };
    let refused = running.keeper.enter(enter).await;
    assert_eq!(refused.err(), Some(Refused::TooMany));
    assert!(running.enter("b", false).await.present);
}

#[tokio::test]
async fn what_the_gateway_has_waits_for_room_among_what_is_retained() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(Config {
        retained_max: 1,
        ..config(dir.path())
    });
    let publish = async |topic: &str, payload: &str, qos: QoS| {
        let message = running.message(topic, payload, qos, true);
        running.publish(message).await
    };
    assert!(publish("a", "1", QoS::AtLeastOnce).await);
    assert!(!publish("b", "2", QoS::AtLeastOnce).await);
    assert_eq!(running.counters.retained_refused.get(), 1);
    // What takes no more than there is, or need not be retained, does not wait.
    assert!(publish("a", "3", QoS::ExactlyOnce).await);
    assert!(publish("b", "4", QoS::AtMostOnce).await);
    assert!(publish("a", "", QoS::AtLeastOnce).await);
    assert!(publish("b", "5", QoS::AtLeastOnce).await);
    let retained = running.keeper.retained();
    let topics: Vec<_> = retained.iter().map(|one| &*one.topic).collect();
    assert_eq!(topics, ["b"]);
}

#[tokio::test]
async fn where_the_operator_wants_it_what_finds_no_room_is_acknowledged_and_not_retained() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(Config {
        retained_max: 1,
        retained_full: RetainedFull::NotRetained,
        ..config(dir.path())
    });
    for topic in ["a", "b"] {
        let message = running.message(topic, "1", QoS::AtLeastOnce, true);
        assert!(running.publish(message).await);
    }
    assert_eq!(running.counters.retained_refused.get(), 1);
    let retained = running.keeper.retained();
    let topics: Vec<_> = retained.iter().map(|one| &*one.topic).collect();
    assert_eq!(topics, ["a"]);
}

#[tokio::test]
async fn what_no_room_would_be_enough_for_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(Config {
        retained_bytes_max: 1_000,
        ..config(dir.path())
    });
    let large = running.message("a", &"x".repeat(2_000), QoS::AtLeastOnce, true);
    assert!(running.publish(large).await);
    assert_eq!(running.counters.retained_refused.get(), 1);
    assert!(running.keeper.retained().is_empty());
}

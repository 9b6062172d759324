//! What is much is done in slices, and between two of them others have their turn.

use tokio::sync::oneshot::error::TryRecvError;

use super::{desk::Desk, *};
use crate::keep::{
    QueueFull, Refused,
    job::{Answer, Work},
};

fn retain_some(desk: &mut Desk, count: usize) {
    for n in 0..count {
        assert!(desk.publish(&format!("r/{n:02}"), &n.to_string(), true));
    }
}

fn subscribe(filter: &str) -> Turn {
    Turn {
        subscribe: vec![add(filter, QoS::AtLeastOnce)],
        ..Turn::default()
    }
}

#[test]
fn others_have_their_turn_while_a_subscribe_brings_much() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    retain_some(&mut desk, 40);
    let entered = desk.enter("d", None).unwrap();
    let mut subscribed = desk.begin(entered.session, subscribe("r/#"));
    assert_eq!(subscribed.try_recv().err(), Some(TryRecvError::Empty));
    for topic in ["r/00", "r/39", "r/new"] {
        assert!(desk.publish(topic, "later", true));
    }
    assert_eq!(subscribed.try_recv().err(), Some(TryRecvError::Empty));
    desk.idle();
    assert!(matches!(subscribed.try_recv(), Ok(Ok(Answer::Decided(_)))));
    let items = drain(&entered);
    let retained: Vec<_> = items.iter().filter(|item| item.retain).map(text).collect();
    let expect: Vec<_> = (0..39).map(|n| n.to_string()).collect();
    assert_eq!(retained, expect);
    assert_eq!(items.len(), 42, "what came later came once, as live");
}

#[test]
fn a_user_with_many_sessions_that_subscribe_has_the_turns_of_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    retain_some(&mut desk, 20);
    let begin = |desk: &mut Desk, client: &str, user: &str| {
        let session = desk.enter(client, Some(user)).unwrap().session;
        desk.begin(session, subscribe("r/#"))
    };
    let mut many: Vec<_> = (0..10)
        .map(|n| begin(&mut desk, &format!("many {n}"), "many"))
        .collect();
    let mut one = begin(&mut desk, "one", "one");
    let mut commits = 0;
    let done = loop {
        desk.writer.commit(Vec::new()).unwrap();
        commits += 1;
        match one.try_recv() {
            Err(TryRecvError::Empty) => assert!(commits < 1_000),
            done => break done,
        }
    };
    assert!(matches!(done, Ok(Ok(Answer::Decided(_)))), "{done:?}");
    assert!(commits <= 20, "{commits}");
    let ready = many.iter_mut().map(|heard| heard.try_recv().is_ok());
    assert_eq!(ready.filter(|ready| *ready).count(), 0, "they share theirs");
    desk.idle();
    assert!(many.iter_mut().all(|heard| heard.try_recv().is_ok()));
}

#[test]
fn what_is_retained_costs_no_older_message_its_place() {
    for policy in [
        QueueFull::DropOldest,
        QueueFull::DropNewest,
        QueueFull::Refuse,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut desk = Desk::open(Config {
            queue_messages_max: 10,
            queue_full: policy,
            ..config(dir.path())
        });
        retain_some(&mut desk, 20);
        let session = desk.away("d", "t");
        for n in 1..=3 {
            assert!(desk.publish("t", &format!("t{n}"), false));
        }
        // Its connection is gone: nothing counts as sent, all of it could be dropped.
        let mut subscribed = desk.begin(session, subscribe("r/#"));
        desk.idle();
        assert!(matches!(subscribed.try_recv(), Ok(Ok(Answer::Decided(_)))));
        let entered = desk.enter("d", None).unwrap();
        let expect = ["t1", "t2", "t3", "0", "1", "2", "3", "4", "5", "6"];
        assert_eq!(texts(&entered), expect, "{policy:?}");
        assert_eq!(entered.dropped, 13);
        assert_eq!(desk.counters().dropped_kept_queue_full.get(), 13);
    }
}

#[test]
fn a_full_queue_does_not_make_a_subscribe_wait_for_many_commits() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(Config {
        queue_messages_max: 4,
        ..config(dir.path())
    });
    retain_some(&mut desk, 60);
    let session = desk.enter("d", None).unwrap().session;
    let mut subscribed = desk.begin(session, subscribe("r/#"));
    // Two commits for the places, the first of them done; the others look at 16 topics each.
    for _ in 0..5 {
        desk.writer.commit(Vec::new()).unwrap();
    }
    assert!(matches!(subscribed.try_recv(), Ok(Ok(Answer::Decided(_)))));
    assert_eq!(desk.counters().dropped_kept_queue_full.get(), 56);
}

#[test]
fn what_nobody_waits_for_any_more_is_not_brought() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    retain_some(&mut desk, 40);
    let session = desk.enter("d", None).unwrap().session;
    let gone = desk.begin(session, subscribe("r/#"));
    let mut waits = desk.ask(Work::Turn(session, subscribe("r/00")));
    drop(gone);
    desk.idle();
    assert!(matches!(waits.try_recv(), Ok(Ok(Answer::Decided(_)))));
    let queued = desk.counters().queued_messages.get();
    assert!(queued < 10, "{queued}");
}

#[test]
fn a_session_that_is_removed_while_it_subscribes_hears_that_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    retain_some(&mut desk, 40);
    let session = desk.enter("d", None).unwrap().session;
    let mut subscribed = desk.begin(session, subscribe("r/#"));
    drop(desk.ask(Work::Remove(Arc::from("d"))));
    desk.idle();
    assert_eq!(subscribed.try_recv().unwrap().err(), Some(Refused::Gone));
    assert_eq!(desk.count("SELECT count(*) FROM queue"), 0);
    assert_eq!(desk.counters().queued_bytes.get(), 0);
}

#[test]
fn what_a_session_leaves_behind_is_emptied_bit_by_bit_also_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    for client in ["stays", "goes"] {
        desk.away(client, "t");
    }
    for n in 0..50 {
        assert!(desk.publish("t", &n.to_string(), false));
    }
    let mut removed = desk.ask(Work::Remove(Arc::from("goes")));
    assert!(matches!(removed.try_recv(), Ok(Ok(Answer::Was(true)))));
    assert_eq!(desk.count("SELECT count(*) FROM queue"), 100);
    desk.writer.commit(Vec::new()).unwrap();
    let left = desk.count("SELECT count(*) FROM queue");
    assert!((90..100).contains(&left), "{left}");
    let after = tempfile::tempdir().unwrap();
    crash(dir.path(), after.path());
    let mut desk = Desk::open(config(after.path()));
    assert!(!desk.enter("goes", None).unwrap().present);
    desk.idle();
    assert_eq!(desk.count("SELECT count(*) FROM queue"), 50);
    assert_eq!(desk.count("SELECT count(*) FROM leftovers"), 0);
    assert_eq!(desk.counters().queued_messages.get(), 50);
    drop(desk.ask(Work::Remove(Arc::from("stays"))));
    desk.idle();
    assert_eq!(desk.counters().queued_bytes.get(), 0);
}

#[test]
fn what_queues_take_is_known_again_some_time_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    for client in ["a", "b"] {
        desk.away(client, "t/#");
    }
    for n in 0..30 {
        assert!(desk.publish("t", &"x".repeat(10 * n), false));
    }
    let bytes = desk.counters().queued_bytes.get();
    drop(desk);
    let mut desk = Desk::open(config(dir.path()));
    assert_eq!(desk.counters().queued_messages.get(), 60);
    assert!(desk.counters().queued_bytes.get() < bytes, "not at once");
    // While it is counted, some of it goes and some comes.
    drop(desk.ask(Work::Remove(Arc::from("a"))));
    assert!(desk.publish("t", "", false));
    desk.idle();
    assert_eq!(desk.counters().queued_messages.get(), 31);
    let places = 29 * 64;
    let more = bytes_of_an_empty_one(&desk);
    assert_eq!(desk.counters().queued_bytes.get(), bytes - places + more);
    drop(desk.ask(Work::Remove(Arc::from("b"))));
    desk.idle();
    assert_eq!(desk.counters().queued_bytes.get(), 0);
}

fn bytes_of_an_empty_one(desk: &Desk) -> u64 {
    let bytes = desk.count("SELECT min(length(frame)) FROM messages");
    bytes.unsigned_abs()
}

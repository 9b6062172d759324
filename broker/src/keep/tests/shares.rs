//! Shared subscriptions: persistent members and workers, who are connected only.

use super::{desk::Desk, *};
use crate::{
    Protocol,
    budget::Share,
    fanout::Subscription,
    keep::{
        QueueFull, Wish,
        job::{Answer, Work},
    },
};

const NAME: &str = "$share/g/t";
const FILTER: &str = "t";
/// The worker's session.
const WORKER: u64 = 77;

/// A worker joins before message `number`; what it gets.
fn worker(desk: &Desk, number: u64) -> Arc<Outbox> {
    worker_with(desk, number, 1 << 20)
}

fn worker_with(desk: &Desk, number: u64, bytes_max: usize) -> Arc<Outbox> {
    let shared = &desk.writer.shared;
    let outbox = Arc::new(Outbox::new(bytes_max, 64, &shared.budget));
    let subscription = Subscription {
        outbox: Arc::clone(&outbox),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        id: None,
        kept: None,
        since: 0,
    };
    shared.live.join(NAME, FILTER, WORKER, subscription, number);
    outbox
}

/// How many messages wait for a worker.
fn came(outbox: &Outbox) -> usize {
    std::iter::from_fn(|| outbox.pop())
        .map(|mut delivery| delivery.settle())
        .count()
}

/// Its number is lower than the worker's first, and it was decided for it all the same:
/// the persistent member does not get it.
#[test]
fn a_message_that_waited_for_room_reaches_the_worker_who_came_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    desk.away("member", NAME);
    let outbox = worker(&desk, 1000);
    assert!(desk.publish("t", "m", false));
    assert_eq!(desk.count("SELECT count(*) FROM queue"), 0);
    assert_eq!(came(&outbox), 1);
}

#[test]
fn a_message_whose_last_worker_goes_before_the_commit_ends_waits_for_the_members() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    desk.away("member", NAME);
    let outbox = worker(&desk, 0);
    let writer = &mut desk.writer;
    let publish = Publish {
        topic: Arc::from("t"),
        payload: Bytes::from_static(b"m"),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        properties: None,
        delivery: None,
    };
    let message = Message::new(&publish, 0, 0, 5, &writer.shared.budget);
    let mut targets = Vec::new();
    let shares = writer.share_out(&message, &mut targets).unwrap();
    assert!(targets.is_empty(), "the worker gets it");
    assert!(writer.shared.live.leave(NAME, FILTER, WORKER));
    writer.hand_out(&message, shares);
    writer.state.committed(&writer.shared);
    assert_eq!(came(&outbox), 0);
    let back = writer.shared.live.returned(10);
    assert_eq!(back.len(), 1);
    drop(desk.ask(Work::TakeBack(back)));
    assert_eq!(desk.count("SELECT count(*) FROM queue"), 1);
}

#[test]
fn a_member_that_acknowledges_nothing_does_not_silence_the_workers() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    let session = desk.enter("member", None).unwrap().session;
    let turn = Turn {
        subscribe: vec![add(NAME, QoS::AtLeastOnce)],
        ..Turn::default()
    };
    drop(desk.ask(Work::Turn(session, turn)));
    let outbox = worker(&desk, 0);
    let mut worked = 0;
    for _ in 0..400 {
        assert!(desk.publish("t", "m", false));
        worked += came(&outbox);
    }
    let queued = desk.count("SELECT count(*) FROM queue");
    assert!((1..=257).contains(&queued), "{queued}");
    assert_eq!(usize::try_from(queued).unwrap() + worked, 400);
}

/// What it is given takes the room of a group that it has not come to yet.
#[test]
fn a_commit_gives_the_workers_no_more_than_they_have_room_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    desk.away("member", NAME);
    let outbox = worker_with(&desk, 0, 1_000);
    let message = desk.message("t", "m", false);
    let op = Op {
        message: Some(message),
        from: None,
        exchange: None,
        by: None,
    };
    drop(desk.ask(Work::Publish(vec![op; 20])));
    assert!(desk.writer.shared.live.returned(100).is_empty());
    let queued = usize::try_from(desk.count("SELECT count(*) FROM queue")).unwrap();
    let worked = came(&outbox);
    assert!(worked > 1 && queued > 1, "{worked} and {queued}");
    assert_eq!(worked + queued, 20);
}

fn room(desk: &mut Desk, count: usize) -> Option<usize> {
    let publish = Publish {
        topic: Arc::from("t"),
        payload: Bytes::from_static(b"m"),
        qos: QoS::AtLeastOnce,
        retain: false,
        dup: false,
        properties: None,
        delivery: None,
    };
    let by = desk.writer.shared.retained.owner("d", None);
    let wishes = (0..count).map(|at| Wish::new(&publish, at, by, Protocol::V5));
    let wishes = wishes.collect();
    match desk.ask(Work::Room(wishes)).try_recv().unwrap() {
        Ok(Answer::Room(none)) => none,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_publisher_hears_beforehand_that_no_member_has_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(Config {
        queue_messages_max: 3,
        queue_full: QueueFull::Refuse,
        ..config(dir.path())
    });
    desk.away("member", NAME);
    assert_eq!(room(&mut desk, 4), Some(3));
    for _ in 0..3 {
        assert_eq!(room(&mut desk, 1), None);
        assert!(desk.publish("t", "m", false));
    }
    assert_eq!(room(&mut desk, 1), Some(0));
    assert!(!desk.publish("t", "m", false));
    desk.away("another", NAME);
    assert_eq!(room(&mut desk, 4), Some(3));
    assert!(desk.publish("t", "m", false));
    assert_eq!(room(&mut desk, 3), Some(2));
    worker(&desk, 0);
    assert_eq!(room(&mut desk, 4), None);
}

#[test]
fn a_member_that_has_room_is_asked_before_one_that_would_lose_a_message() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(Config {
        queue_bytes_max: 1_000,
        ..config(dir.path())
    });
    let own = desk.away("full", "own");
    desk.publish("own", &"x".repeat(700), false);
    let turn = Turn {
        subscribe: vec![add(NAME, QoS::AtLeastOnce)],
        ..Turn::default()
    };
    drop(desk.ask(Work::Turn(own, turn)));
    desk.away("member", NAME);
    for _ in 0..3 {
        assert!(desk.publish("t", &"y".repeat(140), false));
    }
    assert_eq!(desk.counters().dropped_kept_queue_full.get(), 0);
    assert_eq!(desk.count("SELECT count(*) FROM queue"), 4);
}

/// Some room is there whatever others hold: on disk there is more.
#[test]
fn what_comes_back_while_memory_is_spent_still_reaches_the_members() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    desk.away("member", NAME);
    let outbox = worker(&desk, 0);
    assert!(desk.publish("t", "m", false));
    let shared = Arc::clone(&desk.writer.shared);
    let mut others = Share::new(&shared.budget);
    others.add(shared.budget.max());
    assert!(shared.live.leave(NAME, FILTER, WORKER));
    drop(std::iter::from_fn(|| outbox.pop()).collect::<Vec<_>>());
    let back = shared.live.returned(10);
    assert_eq!(back.len(), 1);
    drop(desk.ask(Work::TakeBack(back)));
    assert_eq!(desk.count("SELECT count(*) FROM queue"), 1);
}

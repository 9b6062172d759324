//! Shared subscriptions: persistent members and workers, who are connected only.

use super::{desk::Desk, *};
use crate::{budget::Share, fanout::Subscription, keep::job::Work};

const NAME: &str = "$share/g/t";
const FILTER: &str = "t";
/// The worker's session.
const WORKER: u64 = 77;

/// A worker joins before message `number`; what it gets.
fn worker(desk: &Desk, number: u64) -> Arc<Outbox> {
    let shared = &desk.writer.shared;
    let outbox = Arc::new(Outbox::new(1 << 20, 64, &shared.budget));
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

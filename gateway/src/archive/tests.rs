use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::*;
use crate::{
    clock::{Clock as _, SystemClock},
    event::Event,
    record::{Record, Routes},
    rules::{Pattern, tests::event_of},
    store::{Config, Entry, NewEvent, OnFull, Progress, Running, Status, Store},
};

const LAKE: DestinationId = DestinationId(0);
const OTHER: DestinationId = DestinationId(1);
const AT: Timestamp = Timestamp::from_millis(1_772_370_000_000);

/// A journal that keeps what was delivered.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn run(&self) -> Running {
        self.run_with(["lake", "other"])
    }

    fn run_with(&self, names: [&str; 2]) -> Running {
        let config = Config {
            dir: self.0.path().to_owned(),
            max_bytes: 256 << 20,
            max_age: None,
            keep_delivered: Some(Duration::from_secs(36_500 * 86_400)),
            on_full: OnFull::PushBack,
            shed: Vec::new(),
            reserve_bytes: 1 << 16,
            dedup_age: Duration::from_secs(3_600),
            dedup_count: 10_000,
            dedup_memory_bytes: 1 << 20,
            destinations: names.map(Into::into).into(),
            from_kept: Vec::new(),
            seal: penstock_broker::seal::Seal::default(),
        };
        let (store, _) = Store::open(config, Arc::new(SystemClock)).unwrap();
        store.run().unwrap()
    }
}

/// Events `n` of two devices in turns, for `lake` alone; all but `left` are delivered.
async fn fill(store: &Handle, count: u64, left: u64) {
    let entries = (0..count).map(|n| {
        let device = if n % 2 == 0 { "b7" } else { "b8" };
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let mut event = event_of(device, &[("n", n as f64)]);
        event.key.0[..8].copy_from_slice(&n.to_be_bytes());
        event.id = (n % 3 == 0).then(|| format!("own-{n}").into());
        event.received =
            Timestamp::from_millis(event.received.as_millis() + i64::try_from(n).unwrap() * 1_000);
        let mut body = Vec::new();
        event.to_cbor(&mut body);
        Entry::Event(NewEvent {
            key: event.key,
            dedup: true,
            device: event.device,
            received: event.received,
            routes: Routes::NONE.with(LAKE),
            body: body.into(),
            original: None,
            shed: None,
        })
    });
    store
        .append(entries.collect())
        .await
        .unwrap()
        .await
        .unwrap();
    settle(store, LAKE, count - left, count - left).await;
    until(store, |status| {
        status.destinations[0].cursor == Position(count - left)
    })
    .await;
}

/// The store's account, once it says so.
async fn until(store: &Handle, what: impl Fn(&Status) -> bool) -> Arc<Status> {
    for _ in 0..2_000 {
        let status = store.status();
        if what(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to that: {:?}", store.status());
}

fn committed(store: &Handle) -> Position {
    *store.committed().borrow()
}

async fn settle(store: &Handle, destination: DestinationId, cursor: u64, delivered: u64) {
    let progress = Progress {
        destination,
        cursor: Position(cursor),
        delivered,
        retry: Vec::new(),
        retried: Vec::new(),
        dead: Vec::new(),
        spent: None,
    };
    store.progress(progress).await.unwrap().await.unwrap();
}

fn choice(destination: &str) -> Choice {
    Choice {
        destination: destination.into(),
        ..Choice::default()
    }
}

async fn begun(store: &Handle, choice: Choice) -> Replay {
    begin(store, Replay::new(AT, choice, committed(store)))
        .await
        .unwrap()
}

fn page(store: &Handle, replay: &Replay, count: usize) -> Page {
    let rule = |name: &str| {
        let low = r#"{"values":{"n":[{"numeric":["<",4]}]}}"#;
        (name == "low").then(|| Pattern::parse(low).unwrap())
    };
    let mut selection = Selection::new(&replay.choice, rule).unwrap();
    let chosen = Chosen::read(&store.listing().unwrap(), replay, count, &mut selection).unwrap();
    let id = destination(store, &replay.choice.destination, |_| false).unwrap();
    let place = place(store, &replay.choice.destination);
    Page::new(replay.clone(), chosen, id, place, SystemClock.now())
}

/// Goes on to the end, so many events at a time.
async fn finish(store: &Handle, mut replay: Replay, count: usize) -> Replay {
    while !replay.is_done() {
        let (stepped, now) = advance(store, page(store, &replay, count)).await.unwrap();
        assert_eq!(stepped, Stepped::Copied);
        replay = now;
    }
    replay
}

/// What of the journal is a copy, in order.
fn copies(store: &Handle) -> Vec<(Record, Event)> {
    let listing = store.listing().unwrap();
    let all = (1..=committed(store).0).filter_map(|n| listing.record(Position(n)).unwrap());
    let all = all.map(|record| (record.clone(), record.event().unwrap()));
    all.filter(|(_, event)| event.replayed.is_some()).collect()
}

fn numbers(store: &Handle) -> Vec<String> {
    let shown = copies(store).into_iter();
    shown
        .map(|(_, event)| format!("{:?}", event.measurements[0].value))
        .collect()
}

fn floats(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    let numbers = numbers.into_iter();
    numbers
        .map(|n| format!("Float({:?})", f64::from(n)))
        .collect()
}

#[tokio::test]
async fn events_are_chosen_by_time_device_and_rule_and_go_to_one_destination_as_they_are() {
    let place = Place::new();
    let running = place.run();
    let store = running.handle();
    fill(&store, 10, 0).await;
    let second = |n: i64| Some(Timestamp::from_millis(1_772_366_400_000 + n * 1_000).as_nanos());
    let of = Choice {
        from: second(1),
        to: second(8),
        device: Some("b7".into()),
        rule: Some("low".into()),
        ..choice("other")
    };
    let replay = finish(&store, begun(&store, of).await, 100).await;
    assert_eq!((replay.copied, replay.waiting, replay.damaged), (1, 0, 0));
    let [(record, event)] = &copies(&store)[..] else {
        panic!("one copy")
    };
    assert_eq!(numbers(&store), floats([2]));
    assert_eq!(
        (record.position, record.routes),
        (Position(11), Routes::NONE.with(OTHER))
    );
    assert_eq!(event.replayed, Some(AT));
    let before = store
        .listing()
        .unwrap()
        .record(Position(3))
        .unwrap()
        .unwrap();
    let was = before.event().unwrap();
    assert_eq!(
        (record.key, event.key, &event.id),
        (before.key, was.key, &was.id)
    );
    assert_eq!(event.received, was.received, "it is as old as it was");
    assert!(record.received > was.received, "it stays as if it came now");

    // A copy is never copied, and a pattern will do for a rule.
    let pattern = Choice {
        rule: Some(r#"{"device":["b8"]}"#.into()),
        ..choice("other")
    };
    let until = committed(&store);
    let later = Timestamp::from_millis(AT.as_millis() + 1);
    let next = begin(&store, Replay::new(later, pattern, until))
        .await
        .unwrap();
    assert_eq!(finish(&store, next, 2).await.copied, 5);
    assert_eq!(numbers(&store), floats([2, 1, 3, 5, 7, 9]));
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_replay_that_is_cut_short_goes_on_where_it_was_and_copies_nothing_twice() {
    let place = Place::new();
    let running = place.run();
    let store = running.handle();
    fill(&store, 10, 0).await;
    let replay = begun(&store, choice("other")).await;
    let (twice, once) = (page(&store, &replay, 4), page(&store, &replay, 4));
    let (stepped, after) = advance(&store, once).await.unwrap();
    assert_eq!(
        (stepped, after.copied, after.after),
        (Stepped::Copied, 4, 4)
    );
    // Whoever did not hear of that sends the same page again.
    let (stepped, known) = advance(&store, twice).await.unwrap();
    assert_eq!((stepped, &known), (Stepped::Busy, &after));
    running.shutdown().await.unwrap();

    let running = place.run();
    let store = running.handle();
    let known = read(store.listing().unwrap().tables(), &replay.name()).unwrap();
    assert_eq!(known, Some(after));
    // To begin the same once more is to go on; another choice is another replay.
    let again = begun(&store, choice("other")).await;
    let done = finish(&store, again, 3).await;
    assert_eq!((done.copied, done.is_done()), (10, true));
    assert_eq!(numbers(&store), floats(0..10));
    let until = committed(&store);
    let other = begin(&store, Replay::new(AT, choice("lake"), until)).await;
    assert!(matches!(other, Err(Error::Other(_))), "{other:?}");
    assert_eq!(list(store.listing().unwrap().tables()).unwrap().len(), 1);
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn new_events_have_ids_and_keys_of_their_own_that_are_the_same_each_time() {
    let made = async || {
        let place = Place::new();
        let running = place.run();
        let store = running.handle();
        fill(&store, 4, 0).await;
        let of = Choice {
            identity: Identity::New,
            ..choice("lake")
        };
        finish(&store, begun(&store, of).await, 3).await;
        let listing = store.listing().unwrap();
        let old = (1..=4).map(|n| listing.record(Position(n)).unwrap().unwrap());
        let old: Vec<Event> = old.map(|record| record.event().unwrap()).collect();
        let new: Vec<Event> = copies(&store).into_iter().map(|(_, event)| event).collect();
        running.shutdown().await.unwrap();
        (old, new)
    };
    let (old, new) = made().await;
    assert_eq!(new, made().await.1);
    assert_eq!(new[0].id.as_deref(), Some("own-0~1772370000000"));
    assert_eq!(new[1].id, None);
    let all = old.iter().chain(&new);
    let keys: BTreeSet<_> = all
        .clone()
        .map(|event| event.attributes().delivery_key())
        .collect();
    let ids: BTreeSet<_> = all
        .map(|event| event.attributes().id().into_owned())
        .collect();
    assert_eq!((keys.len(), ids.len()), (8, 8));
    for (old, new) in old.iter().zip(&new) {
        assert_eq!((&old.device, old.time), (&new.device, new.time));
    }
}

#[tokio::test]
async fn what_is_on_its_way_for_the_first_time_is_left_at_that() {
    let place = Place::new();
    let running = place.run();
    let store = running.handle();
    fill(&store, 10, 3).await;
    let replay = finish(&store, begun(&store, choice("lake")).await, 100).await;
    assert_eq!((replay.copied, replay.waiting), (7, 3));
    assert_eq!(numbers(&store), floats(0..7));
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_waits_in_a_lane_is_left_at_that_by_a_replay_to_its_destination() {
    for lane in ["other.urgent", "other.live"] {
        let place = Place::new();
        let running = place.run_with([lane, "other"]);
        let store = running.handle();
        fill(&store, 10, 4).await;
        let replay = finish(&store, begun(&store, choice("other")).await, 100).await;
        assert_eq!((replay.copied, replay.waiting), (6, 4), "{lane}");
        running.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn only_so_many_copies_wait_and_they_leave_when_they_were_sent_and_nothing_else_does() {
    let place = Place::new();
    let running = place.run();
    let store = running.handle();
    fill(&store, 10, 0).await;
    let replay = begun(&store, choice("other")).await;
    let next = |replay: &Replay| Advance {
        page: page(&store, replay, 4),
        copies_max: 4,
        bytes_max: 1 << 20,
    };
    let replay = store.edit(next(&replay)).await.unwrap().unwrap();
    let busy = store.edit(next(&replay)).await.unwrap();
    assert!(matches!(busy, Err(Moved::Busy)), "{busy:?}");
    until(&store, |status| status.buffered == 14).await;

    settle(&store, OTHER, 14, 4).await;
    // They leave within a moment; then there is room for more.
    until(&store, |status| status.buffered == 10).await;
    assert_eq!(numbers(&store), floats([]));
    let replay = store.edit(next(&replay)).await.unwrap().unwrap();
    assert_eq!(replay.copied, 8);
    assert_eq!(numbers(&store), floats(4..8));
    // Those that were delivered are kept.
    let listing = store.listing().unwrap();
    let kept = (1..=10).filter(|n| listing.record(Position(*n)).unwrap().is_some());
    assert_eq!(kept.count(), 10);
    let status = until(&store, |status| status.buffered == 14).await;
    assert_eq!(status.stored, 18);
    let other = status.destinations.iter().find(|d| d.id == OTHER).unwrap();
    assert_eq!((other.routed, other.delivered, other.backlog), (8, 4, 4));
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_destination_that_stands_still_keeps_no_copy_of_another() {
    let place = Place::new();
    let running = place.run();
    let store = running.handle();
    // Three events wait for `lake`, for ever.
    fill(&store, 10, 3).await;
    let replay = begun(&store, choice("other")).await;
    advance(&store, page(&store, &replay, 4)).await.unwrap();
    settle(&store, OTHER, 14, 4).await;
    until(&store, |status| status.buffered == 10).await;
    assert_eq!(numbers(&store), floats([]));
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_waits_for_another_attempt_is_left_at_that() {
    let place = Place::new();
    let running = place.run();
    let store = running.handle();
    fill(&store, 10, 10).await;
    let record = store
        .listing()
        .unwrap()
        .record(Position(5))
        .unwrap()
        .unwrap();
    let retry = crate::store::Retry {
        record,
        attempts: 1,
        first: None,
        not_before: AT,
        reason: "it was refused for now".to_owned(),
    };
    let progress = Progress {
        destination: LAKE,
        cursor: Position(10),
        delivered: 9,
        retry: vec![retry],
        retried: Vec::new(),
        dead: Vec::new(),
        spent: None,
    };
    store.progress(progress).await.unwrap().await.unwrap();
    until(&store, |status| {
        status.destinations[0].cursor == Position(10)
    })
    .await;
    let replay = finish(&store, begun(&store, choice("lake")).await, 100).await;
    assert_eq!((replay.copied, replay.waiting), (9, 1));
    assert_eq!(numbers(&store), floats([0, 1, 2, 3, 5, 6, 7, 8, 9]));
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_destination_that_is_being_given_what_was_kept_gets_no_copies() {
    let place = Place::new();
    let running = place.run();
    let store = running.handle();
    fill(&store, 2, 0).await;
    let names = ["lake", "other", "later"].map(Arc::from).to_vec();
    assert!(store.configure(names, vec!["later".into()]).await.unwrap());
    until(&store, |status| status.destinations.len() == 3).await;
    let wrong = destination(&store, "later", |_| false).unwrap_err();
    assert!(wrong.to_string().contains("being given"), "{wrong}");
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_is_said() {
    let place = Place::new();
    let running = place.run();
    let store = running.handle();
    fill(&store, 2, 0).await;
    let error = |name: &str, originals| {
        let wrong = destination(&store, name, |_| originals).unwrap_err();
        wrong.to_string()
    };
    assert_eq!(error("sea", false), r#"there is no destination "sea""#);
    assert!(error("lake", true).contains("as they came"));
    let of = |rule: &str| Choice {
        rule: Some(rule.into()),
        ..choice("lake")
    };
    let missing = Selection::new(&of("gone"), |_| None).unwrap_err();
    assert!(matches!(missing, Error::NoSuchRule(_)), "{missing:?}");
    let wrong = Selection::new(&of(r#"{"device":5}"#), |_| None).unwrap_err();
    assert!(matches!(wrong, Error::Pattern(_)), "{wrong:?}");
    let nobody = Replay::new(AT, choice("lake"), Position(2));
    let gone = advance(&store, page(&store, &nobody, 1)).await;
    assert!(matches!(gone, Err(Error::Missing(_))), "{gone:?}");
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_left_the_journal_before_its_turn_is_said() {
    let place = Place::new();
    let running = place.run();
    let store = running.handle();
    fill(&store, 10, 0).await;
    let replay = begun(&store, choice("other")).await;
    let (_, replay) = advance(&store, page(&store, &replay, 4)).await.unwrap();
    assert_eq!((replay.following, replay.gone), (5, 0));
    running.shutdown().await.unwrap();
    let journal = rusqlite::Connection::open(place.0.path().join(crate::store::DATABASE)).unwrap();
    journal
        .execute("DELETE FROM events WHERE position <= 6", [])
        .unwrap();
    drop(journal);
    let running = place.run();
    let store = running.handle();
    let replay = finish(&store, replay, 100).await;
    assert_eq!((replay.copied, replay.gone), (8, 1));
    running.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_damaged_row_is_counted_with_one_page_also_where_that_ends_by_its_bytes() {
    let place = Place::new();
    let running = place.run();
    let store = running.handle();
    // Three of them are more than a page has.
    let entries = (0..12_u64).map(|n| {
        let mut event = event_of("b7", &[("n", 1.0)]);
        event.key.0[..8].copy_from_slice(&n.to_be_bytes());
        event
            .tags
            .push(("fill".into(), "x".repeat(400 << 10).into()));
        let mut body = Vec::new();
        event.to_cbor(&mut body);
        Entry::Event(NewEvent {
            key: event.key,
            dedup: true,
            device: event.device,
            received: event.received,
            routes: Routes::NONE.with(LAKE),
            body: body.into(),
            original: None,
            shed: None,
        })
    });
    for entry in entries {
        store.append(vec![entry]).await.unwrap().await.unwrap();
    }
    settle(&store, LAKE, 12, 12).await;
    let disk = rusqlite::Connection::open(place.0.path().join("journal.db")).unwrap();
    let flip = "UPDATE events SET frame = x'00' WHERE position IN (2, 4, 9)";
    assert_eq!(disk.execute(flip, []).unwrap(), 3);
    drop(disk);
    let replay = finish(&store, begun(&store, choice("other")).await, 100).await;
    assert_eq!((replay.copied, replay.damaged), (9, 3));
    running.shutdown().await.unwrap();
}

//! Following, falling behind, being damaged, having no room.

use super::*;
use crate::query::{State, schema};

#[tokio::test]
async fn who_waits_for_the_position_that_was_given_reads_what_was_written() {
    let place = Place::new();
    let following = Following::start(&place);
    for round in 1..=20_u8 {
        let appended = place.append(numbered(round, round)).await;
        let [Appended::Stored(position)] = appended[..] else {
            panic!("{appended:?}")
        };
        following.handle.wait_for(position).await.unwrap();
        assert_eq!(count(&following, "device:b7").await, usize::from(round));
    }
    let status = following
        .until(|status| status.state == State::Following)
        .await;
    assert_eq!((status.position, status.lag, status.missed), (20, 0, 0));
    following.end().await;
}

#[tokio::test]
async fn a_file_that_is_damaged_deleted_or_of_a_later_version_is_built_anew() {
    let place = Place::new();
    place.append(numbered(1, 50)).await;
    let file = place.dir.path().join(schema::FILE);
    for harm in 0..4 {
        let following = Following::start(&place);
        following.until(|status| status.position == 50).await;
        assert_eq!(count(&following, "device:b7").await, 50, "harm {harm}");
        following.end().await;
        match harm {
            0 => std::fs::remove_file(&file).unwrap(),
            1 => std::fs::write(&file, "no database").unwrap(),
            2 => {
                let connection = rusqlite::Connection::open(&file).unwrap();
                connection.pragma_update(None, "user_version", 99).unwrap();
            }
            _ => {
                let connection = rusqlite::Connection::open(&file).unwrap();
                connection.execute_batch("DROP TABLE last").unwrap();
            }
        }
    }
    place.append(numbered(51, 51)).await;
    let following = Following::start(&place);
    following.until(|status| status.position == 51).await;
    assert_eq!(count(&following, "device:b7").await, 51);
    let before = following.handle.status().rebuilt;
    following.handle.rebuild().await.unwrap();
    following
        .until(|status| status.rebuilt > before && status.position == 51)
        .await;
    assert_eq!(count(&following, "device:b7").await, 51);
    following.end().await;
}

#[tokio::test]
async fn what_left_the_journal_before_is_named_as_missing() {
    let place = Place::new();
    place.append(numbered(1, 30)).await;
    place.settle(0, 20, 20, vec![]).await;
    let listing = place.handle().listing().unwrap();
    let gone = async {
        while listing.record(Position(20)).unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.unwrap();
    drop(listing);
    let place = place.reopened().await;
    let (_dir, mut reader) = place.built();
    let answer = reader
        .last(&Last {
            limit: 10,
            ..Last::default()
        })
        .unwrap();
    assert_eq!(
        answer["missing"],
        serde_json::json!([{ "first": 1, "last": 20 }])
    );
    assert_eq!(answer["position"], 30);
    let found = reader
        .search(&search("device:b7", In::Events, 100, None))
        .unwrap();
    assert_eq!(items(&found).len(), 10);
}

#[tokio::test]
async fn the_journal_keeps_what_is_settled_until_it_was_read() {
    let place = Place::new();
    let handle = place.handle();
    handle.hold().set(Position(5));
    place.append(numbered(1, 30)).await;
    place.settle(0, 30, 30, vec![]).await;
    let buffered = |handle: store::Handle, wanted: u64| {
        let seen = async move {
            while handle.status().buffered != wanted {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, seen)
    };
    buffered(handle, 25).await.unwrap();
    let place = place.reopened().await;
    place.handle().hold().set(Position(5));
    let (dir, mut reader) = place.built();
    assert_eq!(
        items(&reader.search(&search("t", In::All, 100, None)).unwrap()).len(),
        25
    );
    drop(dir);
    // One that follows lets go of it by itself.
    let following = Following::start(&place);
    buffered(place.handle(), 0).await.unwrap();
    following.end().await;
}

#[tokio::test]
async fn what_leaves_quarantine_is_not_found_any_more() {
    let place = Place::new();
    let following = Following::start(&place);
    following
        .until(|status| status.state == State::Following)
        .await;
    place
        .append(vec![broken("odd one", "{"), broken("odd two", "{")])
        .await;
    let found = |wanted: usize| {
        let following = &following;
        let seen = async move {
            while count(following, "odd").await != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, seen)
    };
    found(2).await.unwrap();
    assert_eq!(
        place.handle().discard_quarantined(vec![1]).await.unwrap(),
        1
    );
    found(1).await.unwrap();
    following.end().await;
}

#[tokio::test]
async fn where_the_journal_may_need_the_disk_the_read_side_does_not_begin() {
    // No disk has this much.
    let place = Place::of_size(1 << 60);
    place.handle().hold().set(Position(0));
    let following = Following::start(&place);
    following
        .until(|status| matches!(status.state, State::Paused(_)))
        .await;
    place.append(numbered(1, 10)).await;
    place.settle(0, 10, 10, vec![]).await;
    // Nothing stays for it.
    let handle = place.handle();
    let trimmed = async {
        while handle.status().buffered > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, trimmed).await.unwrap();
    assert!(!place.dir.path().join(schema::FILE).try_exists().unwrap());
    following.end().await;
}

#[tokio::test]
async fn the_oldest_events_leave_a_file_that_has_reached_its_size() {
    let mut place = Place::new();
    place.config.size_max = 1 << 20;
    let long = Value::Text("word ".repeat(200));
    let following = Following::start(&place);
    for round in 0..60_u8 {
        let one = |n| entry(&event(n, "b7", NOON, &[("t", long.clone())]));
        place.append((0..100).map(one).collect()).await;
        let position = Position(u64::from(round + 1) * 100);
        following.handle.wait_for(position).await.unwrap();
    }
    let limit = (1 << 20) * 5 / 4 + (5 << 20);
    let status = following.until(|status| status.evicted > 0).await;
    assert!(status.bytes < limit, "{status:?}");
    // The newest are there.
    let newest = Which::Position(Position(6_000));
    let answer = following
        .handle
        .ask(move |reader| reader.whereabouts(newest));
    assert_eq!(items(&answer.await.unwrap()).len(), 1);
    following.end().await;
}

#[tokio::test]
async fn each_step_of_history_is_kept_for_its_time() {
    let place = Place::new();
    place.append(numbered(1, 3)).await;
    let dir = tempfile::tempdir().unwrap();
    place.feed(dir.path()).catch_up().unwrap();
    const DAY: i64 = 86_400;
    for (days, raw, minutes, hours, events) in [
        (1, 3, 1, 1, 3),
        (3, 0, 1, 1, 3),
        (8, 0, 1, 1, 0),
        (31, 0, 0, 1, 0),
        (366, 0, 0, 0, 0),
    ] {
        *place.clock.0.lock().unwrap() = NOON + days * DAY;
        place.feed(dir.path()).catch_up().unwrap();
        let mut reader = place.reader(dir.path());
        let mut count = |step| items(&reader.history(&history("b7", "t", step)).unwrap()).len();
        let seen = (count(0), count(60), count(3_600));
        assert_eq!(seen, (raw, minutes, hours), "after {days} days");
        let found = reader.search(&search("t", In::Events, 10, None)).unwrap();
        assert_eq!(items(&found).len(), events, "after {days} days");
    }
}

#[tokio::test]
async fn a_clock_that_was_wrong_for_a_while_takes_no_events_that_are_young() {
    const DAY: i64 = 86_400;
    let place = Place::new();
    // By a clock that was ahead, a right one, one that was behind, and a right one.
    let received = [NOON + 400 * DAY, NOON, NOON - 400 * DAY, NOON + DAY];
    let of = |(n, at): (u8, i64)| {
        let event = event(n, "b7", NOON, &[("t", Value::Int(1))]);
        entry(&Event {
            received: seconds(at),
            ..event
        })
    };
    place.append((1..).zip(received).map(of).collect()).await;
    let dir = tempfile::tempdir().unwrap();
    for (later, left) in [
        (DAY, 4),
        (7 * DAY - 1, 4),
        (7 * DAY + 1, 1),
        (8 * DAY + 1, 0),
    ] {
        *place.clock.0.lock().unwrap() = NOON + later;
        place.feed(dir.path()).catch_up().unwrap();
        let mut reader = place.reader(dir.path());
        let found = reader.search(&search("t", In::Events, 10, None)).unwrap();
        assert_eq!(items(&found).len(), left, "{later} s later");
    }
}

#[tokio::test]
async fn series_have_a_bound_and_what_is_beyond_it_is_counted() {
    let mut place = Place::new();
    place.config.series_max = 2;
    let following = Following::start(&place);
    let devices = ["a", "b", "c", "a"];
    let events = devices.map(|device| entry(&event(1, device, NOON, &[("t", Value::Int(1))])));
    place.append(events.into()).await;
    let status = following.until(|status| status.position == 4).await;
    assert_eq!((status.series, status.series_refused), (2, 1));
    following.end().await;
}

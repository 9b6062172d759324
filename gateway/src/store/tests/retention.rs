//! What leaves the journal, and how it is counted.

use super::*;

#[tokio::test]
async fn undelivered_events_expire_and_are_counted_for_who_missed_them() {
    let mut place = Place::new(&["a", "b"]);
    place.config.max_age = Some(Duration::from_secs(60));
    let running = place.run();
    let handle = running.handle();
    append(&handle, (1..=10).map(|n| event(n, to(&[0, 1]))).collect()).await;
    settle(&handle, delivered(1, 4, 4)).await;
    place.advance(Duration::from_secs(61));
    let status = until(&handle, |s| s.buffered == 0).await;
    assert_balanced(&status);
    let [a, b] = &status.destinations[..] else {
        panic!("{status:?}")
    };
    assert_eq!((a.expired, a.cursor), (10, Position(10)));
    assert_eq!((b.delivered, b.expired), (4, 6));
    assert!(
        read_all(&handle, 0, 0).is_empty(),
        "memory forgets with the disk"
    );
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_long_backlog_leaves_in_chunks_once_everybody_is_past_it() {
    let place = Place::new(&["a", "b"]);
    let running = place.run();
    let handle = running.handle();
    append(&handle, vec![event(9_000, to(&[1]))]).await;
    for first in (0..9_000).step_by(900) {
        append(
            &handle,
            (first..first + 900).map(|n| event(n, to(&[0]))).collect(),
        )
        .await;
    }
    settle(&handle, delivered(0, 9_001, 9_000)).await;
    assert_eq!(handle.status().buffered, 9_001, "b has not taken the first");
    let page = handle
        .reader()
        .expect("a reader")
        .read(DestinationId(1), Position(0), 10, 1 << 20);
    let page = page.expect("a page");
    assert!(
        page.records.len() == 1 && page.scanned_to == Position(9_001),
        "{page:?}"
    );
    settle(&handle, delivered(1, page.scanned_to.0, 1)).await;
    let status = until(&handle, |s| s.buffered == 0).await;
    assert_balanced(&status);
    assert!(status.commits >= 5, "not all at once");
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn the_oldest_unsettled_event_is_known_per_destination() {
    let place = Place::new(&["a", "b"]);
    let running = place.run();
    let handle = running.handle();
    append(&handle, vec![event(1, to(&[0])), event(2, to(&[1]))]).await;
    let at = Some(Timestamp::from_millis(1_000_000));
    until(&handle, |s| s.destinations.iter().all(|d| d.oldest == at)).await;
    settle(&handle, delivered(0, 2, 1)).await;
    until(&handle, |s| {
        s.destinations[0].oldest.is_none() && s.destinations[1].oldest == at
    })
    .await;
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn forgotten_keys_leave_the_disk_too() {
    let mut place = Place::new(&["a"]);
    place.config.dedup_age = Duration::from_secs(70);
    let running = place.run();
    let handle = running.handle();
    append(&handle, vec![event(1, to(&[0]))]).await;
    place.advance(Duration::from_secs(60));
    assert_eq!(
        append(&handle, vec![event(1, to(&[0]))]).await,
        [Appended::Duplicate]
    );
    append(&handle, vec![event(2, to(&[0]))]).await;
    place.advance(Duration::from_secs(60));
    append(&handle, vec![event(3, to(&[0]))]).await;
    let again = append(&handle, vec![event(1, to(&[0])), event(2, to(&[0]))]).await;
    assert_eq!(again, [Appended::Stored(Position(4)), Appended::Duplicate]);
    let report = stats(place.dir.path()).expect("readable");
    assert_eq!(report.keys, 3, "2, 3 and 1 again");
    running.shutdown().await.expect("an orderly end");
}

/// How many events that the rules sent nowhere are held, expired and evicted.
fn nowhere(status: &Status) -> (u64, u64, u64) {
    let Nowhere {
        held,
        expired,
        evicted,
        ..
    } = status.nowhere;
    (held, expired, evicted)
}

#[tokio::test]
async fn what_the_rules_send_nowhere_is_held_until_it_is_too_old_and_counted() {
    let mut place = Place::new(&["a"]);
    place.config.max_age = Some(Duration::from_secs(60));
    let running = place.run();
    let handle = running.handle();
    let events = (1..=6).map(|n| {
        let routes = if n % 3 == 0 {
            Routes::NOWHERE
        } else {
            to(&[0])
        };
        event(n, routes)
    });
    append(&handle, events.collect()).await;
    settle(&handle, delivered(0, 6, 4)).await;
    let status = until(&handle, |s| s.buffered == 2).await;
    assert_balanced(&status);
    assert_eq!(status.destinations.len(), 1, "nobody is no destination");
    // Beside what is taken and gives way later it stays.
    append(&handle, vec![event(7, to(&[0]))]).await;
    settle(&handle, delivered(0, 7, 1)).await;
    let status = until(&handle, |s| s.buffered == 2).await;
    assert_eq!(nowhere(&status), (2, 0, 0));
    let at = Some(Timestamp::from_millis(1_000_000));
    until(&handle, |s| s.nowhere.oldest == at).await;

    let report = verify(place.dir.path()).expect("readable");
    assert!(report.is_whole(), "{report:?}");
    let read = stats(place.dir.path()).expect("readable");
    assert_eq!((read.nowhere.total, read.nowhere.held), (2, 2));
    running.shutdown().await.expect("an orderly end");
    let running = place.run();
    let handle = running.handle();
    assert_eq!(nowhere(&handle.status()), (2, 0, 0));
    place.advance(Duration::from_secs(61));
    let status = until(&handle, |s| s.buffered == 0).await;
    assert_eq!((nowhere(&status), status.nowhere.total), ((0, 2, 0), 2));
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn what_the_rules_send_nowhere_gives_way_before_anybody_is_pushed_back() {
    let mut place = Place::new(&["a"]);
    place.config.max_bytes = 2 * 1024 * 1024;
    let running = place.run();
    let handle = running.handle();
    let large = |n: u64, routes| {
        let Entry::Event(event) = event(n, routes) else {
            unreachable!()
        };
        Entry::Event(NewEvent {
            body: Bytes::from(vec![7; 2_000]),
            ..event
        })
    };
    append(&handle, vec![large(0, to(&[0]))]).await;
    for n in 1..3_000 {
        let appended = append(&handle, vec![large(n, Routes::NOWHERE)]).await;
        assert!(
            matches!(appended[..], [Appended::Stored(_)]),
            "{n}: {appended:?}"
        );
        settle(&handle, delivered(0, n, u64::from(n == 1))).await;
    }
    let status = until(&handle, |s| s.nowhere.evicted > 0).await;
    assert_balanced(&status);
    let (held, expired, evicted) = nowhere(&status);
    assert_eq!((held + evicted, expired), (2_999, 0));
    assert!(!status.full && held == status.buffered, "{status:?}");
    running.shutdown().await.expect("an orderly end");
}

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

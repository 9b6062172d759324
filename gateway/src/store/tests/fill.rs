//! Destinations that come while the journal is in use, begin with what is kept, and are
//! run as operators say.

use super::*;

/// Wants every second event, by position.
fn even() -> Wanted {
    Wanted::new(|_, record| record.position.0.is_multiple_of(2))
}

fn positions(records: &[Record]) -> Vec<u64> {
    records.iter().map(|record| record.position.0).collect()
}

async fn configure(handle: &Handle, names: &[&str], from_kept: &[&str]) {
    let owned = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
    let done = handle.configure(owned(names), owned(from_kept)).await;
    assert!(done.expect("the store runs"));
}

async fn filled(handle: &Handle, id: u8) {
    let filled = handle.filled(DestinationId(id));
    let filled = tokio::time::timeout(Duration::from_secs(30), filled).await;
    assert_eq!(
        filled.expect("in time"),
        Some((Position(0), Spent::default()))
    );
}

#[tokio::test]
async fn a_new_destination_is_given_what_it_wants_of_what_is_kept_and_all_that_comes() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    for n in 1..=1_200 {
        append(&handle, vec![event(n, to(&[0]))]).await;
    }
    // What was wanted before says nothing of a new one.
    let all = Wanted::new(|_, _| true);
    handle.fill(all).await.expect("the store runs");
    configure(&handle, &["a", "b"], &["b"]).await;
    append(&handle, vec![event(1_201, to(&[0, 1]))]).await;
    // The first has everything; what the second has not been asked about stays.
    settle(&handle, delivered(0, 1_201, 1_201)).await;
    assert!(handle.status().destinations[1].filling);
    handle.fill(even()).await.expect("the store runs");
    filled(&handle, 1).await;
    let expect: Vec<u64> = (2..=1_200).step_by(2).chain([1_201]).collect();
    assert_eq!(positions(&read_all(&handle, 1, 0)), expect);
    let status = handle.status();
    assert_eq!(status.destinations[1].routed, expect.len() as u64);
    assert_balanced(&status);
    running.shutdown().await.expect("an orderly end");
    let report = verify(place.dir.path()).expect("it can be read");
    assert!(report.is_whole(), "{:?}", report.findings);
}

#[tokio::test]
async fn a_restart_goes_on_giving_and_an_end_without_wishes_loses_nothing() {
    let mut place = Place::new(&["a"]);
    let running = place.run();
    for n in 1..=50 {
        append(&running.handle(), vec![event(n, to(&[0]))]).await;
    }
    running.shutdown().await.expect("an orderly end");
    place.config.destinations.push("b".into());
    place.config.from_kept = vec!["b".into()];
    // Killed before anybody said what it wants.
    let running = place.run();
    settle(&running.handle(), delivered(0, 50, 50)).await;
    let place = place.crash_image();
    let running = place.run();
    let handle = running.handle();
    assert!(handle.status().destinations[1].filling);
    assert_eq!(
        handle.status().buffered,
        50,
        "all of it waits to be looked through"
    );
    handle.fill(even()).await.expect("the store runs");
    filled(&handle, 1).await;
    assert_eq!(read_all(&handle, 1, 0).len(), 25);
    assert_balanced(&handle.status());
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn what_was_for_an_earlier_destination_of_that_number_is_not_for_a_new_one() {
    let place = Place::new(&["a", "old"]);
    let running = place.run();
    let handle = running.handle();
    for n in 1..=30 {
        append(&handle, vec![event(n, to(&[0, 1]))]).await;
    }
    configure(&handle, &["a"], &[]).await;
    assert!(handle.forget_destination("old".into()).await.expect("open"));
    configure(&handle, &["a", "new"], &["new"]).await;
    let id = handle.destination_id("new").expect("known");
    assert_eq!(id, DestinationId(1), "numbers are given again");
    // Some of it leaves before it was looked through, and is nobody's loss.
    let none = Wanted::new(|_, record| record.position == Position(7));
    handle.fill(none).await.expect("the store runs");
    filled(&handle, 1).await;
    assert_eq!(positions(&read_all(&handle, 1, 0)), [7]);
    assert_eq!(handle.status().destinations[1].routed, 1);
    assert_balanced(&handle.status());
    running.shutdown().await.expect("an orderly end");
    let report = verify(place.dir.path()).expect("it can be read");
    assert!(report.is_whole(), "{:?}", report.findings);
}

#[tokio::test]
async fn what_expires_before_it_was_looked_through_is_not_counted_as_lost() {
    let mut place = Place::new(&["a", "old"]);
    place.config.max_age = Some(Duration::from_secs(60));
    let running = place.run();
    let handle = running.handle();
    for n in 1..=30 {
        append(&handle, vec![event(n, to(&[0, 1]))]).await;
    }
    configure(&handle, &["a"], &[]).await;
    assert!(handle.forget_destination("old".into()).await.expect("open"));
    configure(&handle, &["a", "new"], &["new"]).await;
    place.advance(Duration::from_secs(120));
    let status = until(&handle, |status| status.destinations[0].expired == 30).await;
    let new = &status.destinations[1];
    assert_eq!((new.routed, new.expired), (0, 0));
    assert_balanced(&status);
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn how_a_destination_is_run_is_known_after_a_crash() {
    let place = Place::new(&["a", "b"]);
    let running = place.run();
    let handle = running.handle();
    for (name, mode) in [("a", Mode::Paused), ("b", Mode::Draining)] {
        assert!(handle.set_mode(name, mode).await.expect("open"));
    }
    assert!(!handle.set_mode("c", Mode::Paused).await.expect("open"));
    let image = place.crash_image();
    drop(running);
    let running = image.run();
    let status = running.handle().status();
    let modes: Vec<_> = status.destinations.iter().map(|d| d.mode).collect();
    assert_eq!(modes, [Mode::Paused, Mode::Draining]);
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn there_are_no_more_destinations_than_numbers() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    let names = |count: usize| (0..count).map(|n| format!("d{n}").into()).collect();
    let most = crate::record::DESTINATIONS_MAX;
    let done = handle.configure(names(most), Vec::new()).await;
    assert!(!done.expect("open"), "`a` has a number, too");
    assert_eq!(handle.status().destinations.len(), 1);
    let done = handle.configure(names(most - 1), Vec::new()).await;
    assert!(done.expect("open"));
    assert_eq!(handle.status().destinations.len(), most);
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn what_was_stored_before_it_was_routed_to_a_new_destination_is_read_with_its_new_routes() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    let stored = |from: u64| (from..from + 300).map(|n| event(n, to(&[0])));
    append(&handle, stored(0).collect()).await;
    configure(&handle, &["a", "b"], &["b"]).await;
    // By batches that began before the change.
    append(&handle, stored(300).collect()).await;
    handle
        .fill(Wanted::new(|_, _| true))
        .await
        .expect("the store runs");
    filled(&handle, 1).await;
    assert_eq!(handle.status().destinations[1].routed, 600);
    assert_eq!(read_all(&handle, 1, 0).len(), 600);
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn one_that_is_taken_out_while_it_is_filled_goes_on_when_it_is_back() {
    let place = Place::new(&["a", "old"]);
    let running = place.run();
    let handle = running.handle();
    for n in 1..=30 {
        append(&handle, vec![event(n, to(&[0, 1]))]).await;
    }
    configure(&handle, &["a"], &[]).await;
    assert!(handle.forget_destination("old".into()).await.expect("open"));
    configure(&handle, &["a", "new"], &["new"]).await;
    configure(&handle, &["a"], &[]).await;
    let seventh = || Wanted::new(|_, record| record.position == Position(7));
    handle.fill(seventh()).await.expect("the store runs");
    assert!(
        handle.status().destinations[1].filling,
        "nobody wants anything for it"
    );
    configure(&handle, &["a", "new"], &["new"]).await;
    handle.fill(seventh()).await.expect("the store runs");
    filled(&handle, 1).await;
    assert_eq!(positions(&read_all(&handle, 1, 0)), [7]);
    assert_eq!(handle.status().destinations[1].routed, 1);
    assert_balanced(&handle.status());
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn what_was_held_and_is_waited_for_now_is_not_evicted_at_half_of_the_room() {
    let mut place = Place::new(&["a"]);
    place.config.max_bytes = 8 * 1024 * 1024;
    let running = place.run();
    let handle = running.handle();
    let large = |n: u64, routes: Routes| match event(n, routes) {
        Entry::Event(event) => Entry::Event(NewEvent {
            body: vec![b'x'; 2_000].into(),
            ..event
        }),
        other => other,
    };
    let held = (0..100).map(|n| large(n, Routes::NOWHERE));
    append(&handle, held.collect()).await;
    let others = (100..200).map(|n| event(n, to(&[0])));
    append(&handle, others.collect()).await;
    settle(&handle, delivered(0, 200, 100)).await;
    until(&handle, |status| status.buffered == 100).await;
    configure(&handle, &["a", "b"], &["b"]).await;
    handle
        .fill(Wanted::new(|_, _| true))
        .await
        .expect("the store runs");
    filled(&handle, 1).await;
    for first in (1_000..3_600).step_by(100) {
        let more = (first..first + 100).map(|n| large(n, to(&[0])));
        let kept = append(&handle, more.collect()).await;
        assert!(!kept.contains(&Appended::Full));
    }
    let status = handle.status();
    assert!(status.file_bytes > place.config.max_bytes / 2, "{status:?}");
    let b = &status.destinations[1];
    assert_eq!((b.routed, b.backlog, b.evicted), (100, 100, 0));
    assert_balanced(&status);
    running.shutdown().await.expect("an orderly end");
}

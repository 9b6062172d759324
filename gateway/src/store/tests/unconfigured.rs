//! Destinations that the configuration no longer names.

use super::*;

/// Appends records for destination `id` and lets it settle them all.
async fn deliver(handle: &Handle, id: u8, numbers: std::ops::Range<u64>) {
    for n in numbers {
        append(handle, vec![event(n, to(&[id]))]).await;
    }
    let committed = handle.status().committed;
    let backlog = handle.status().destinations[usize::from(id)].backlog;
    let progress = Progress {
        destination: DestinationId(id),
        cursor: committed,
        delivered: backlog,
        retry: Vec::new(),
        retried: Vec::new(),
        dead: Vec::new(),
        spent: None,
    };
    let receipt = handle.progress(progress).await.expect("the store runs");
    receipt.await.expect("progress is committed");
}

async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come about");
}

#[tokio::test]
async fn a_renamed_destination_that_had_everything_keeps_nothing_from_leaving() {
    let mut place = Place::new(&["old"]);
    let running = place.run();
    deliver(&running.handle(), 0, 0..100).await;
    running.shutdown().await.expect("an orderly end");

    place.config.destinations = vec!["new".into()];
    let running = place.run();
    let handle = running.handle();
    deliver(&handle, 1, 100..400).await;
    eventually("the journal is empty", || handle.status().buffered == 0).await;
    assert_balanced(&handle.status());
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_removed_destination_keeps_its_backlog_until_it_is_forgotten() {
    let mut place = Place::new(&["old"]);
    let running = place.run();
    for n in 0..100 {
        append(&running.handle(), vec![event(n, to(&[0]))]).await;
    }
    running.shutdown().await.expect("an orderly end");

    place.config.destinations = vec!["new".into()];
    let running = place.run();
    let handle = running.handle();
    deliver(&handle, 1, 100..200).await;
    assert_eq!(read_all(&handle, 0, 0).len(), 100, "kept for its return");
    let forgotten = handle.forget_destination("old".into()).await;
    assert!(forgotten.expect("the store runs"));
    eventually("the journal is empty", || handle.status().buffered == 0).await;
    running.shutdown().await.expect("an orderly end");
}

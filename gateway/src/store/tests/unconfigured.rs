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

/// A journal that has given every number to a name of its own.
async fn with_every_number() -> (Place, Vec<String>) {
    let all: Vec<String> = (0..crate::record::DESTINATIONS_MAX)
        .map(|n| format!("d{n}"))
        .collect();
    let names: Vec<&str> = all.iter().map(String::as_str).collect();
    let place = Place::new(&names);
    let running = place.run();
    append(&running.handle(), vec![event(1, to(&[7]))]).await;
    running.shutdown().await.expect("an orderly end");
    (place, all)
}

#[tokio::test]
async fn a_journal_that_has_given_every_number_opens_without_one_for_the_gateways_own() {
    let (mut place, all) = with_every_number().await;
    place.config.destinations.push("$rules".into());
    let running = place.run();
    let handle = running.handle();
    assert_eq!(handle.destination_id("$rules"), None);
    assert_eq!(handle.status().destinations.len(), all.len());
    assert_balanced(&handle.status());
    // And it goes on: also when destinations are changed while it runs.
    let names = |names: &[Arc<str>]| names.to_vec();
    let done = handle.configure(names(&place.config.destinations), Vec::new());
    assert!(done.await.expect("open"));
    running.shutdown().await.expect("an orderly end");
    // One is free when another name is taken out of the configuration.
    place.config.destinations.retain(|name| &**name != "d3");
    let running = place.run();
    let handle = running.handle();
    assert_eq!(handle.destination_id("$rules"), Some(DestinationId(3)));
    assert_eq!(handle.destination_id("d3"), None);
    assert_eq!(handle.status().destinations[7].backlog, 1);
    running.shutdown().await.expect("an orderly end");
    let report = verify(place.dir.path()).expect("it can be read");
    assert!(report.is_whole(), "{:?}", report.findings);
}

#[tokio::test]
async fn only_names_that_have_nothing_give_their_numbers_to_new_ones() {
    let (mut place, _) = with_every_number().await;
    // The only one that is taken out has an event.
    place.config.destinations.retain(|name| &**name != "d7");
    place.config.destinations.push("new".into());
    let opened = place.open().map(drop);
    assert!(
        matches!(opened, Err(Error::TooManyDestinations)),
        "{opened:?}"
    );
    place.config.destinations.retain(|name| &**name != "d8");
    let running = place.run();
    let handle = running.handle();
    assert_eq!(handle.destination_id("new"), Some(DestinationId(8)));
    let status = handle.status();
    assert_eq!(
        (
            &*status.destinations[7].name,
            status.destinations[7].backlog
        ),
        ("d7", 1)
    );
    // Killed now, it is not taken for damaged.
    let image = place.crash_image();
    drop(running);
    let (running, report) = image.run_reported();
    assert_eq!(report.set_aside, None);
    running.shutdown().await.expect("an orderly end");
}

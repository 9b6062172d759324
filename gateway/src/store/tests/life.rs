//! Ordinary life: append, read, settle, reopen.

use super::*;

#[tokio::test]
async fn what_was_acknowledged_is_read_back_in_order() {
    let place = Place::new(&["a", "b"]);
    let running = place.run();
    let handle = running.handle();
    let appended = append(
        &handle,
        vec![
            event(1, to(&[0])),
            event(2, to(&[1])),
            event(3, to(&[0, 1])),
        ],
    )
    .await;
    let stored = |n| Appended::Stored(Position(n));
    assert_eq!(appended, [stored(1), stored(2), stored(3)]);
    let positions = |id| {
        read_all(&handle, id, 0)
            .iter()
            .map(|r| r.position.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(positions(0), [1, 3]);
    assert_eq!(positions(1), [2, 3]);
    let status = handle.status();
    assert_balanced(&status);
    assert_eq!((status.stored, status.buffered), (3, 3));
    assert_eq!(status.destinations[0].backlog, 2);
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_backlog_is_read_from_disk_after_a_restart() {
    let place = Place::new(&["a"]);
    let running = place.run();
    for n in 0..300 {
        append(&running.handle(), vec![event(n, to(&[0]))]).await;
    }
    running.shutdown().await.expect("an orderly end");
    let (running, report) = place.run_reported();
    assert_eq!(report.promise, Promise::Kept);
    assert!(report.checked_whole && report.set_aside.is_none());
    let records = read_all(&running.handle(), 0, 0);
    assert_eq!(records.len(), 300);
    assert!(
        records
            .iter()
            .enumerate()
            .all(|(n, r)| r.body == format!("event {n}"))
    );
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn duplicate_is_refused_in_the_same_group_later_and_after_a_restart() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let appended = append(
        &running.handle(),
        vec![event(1, to(&[0])), event(1, to(&[0]))],
    )
    .await;
    assert_eq!(
        appended,
        [Appended::Stored(Position(1)), Appended::Duplicate]
    );
    assert_eq!(
        append(&running.handle(), vec![event(1, to(&[0]))]).await,
        [Appended::Duplicate]
    );
    // Only what is on disk may tell.
    let image = place.crash_image();
    running.shutdown().await.expect("an orderly end");
    let running = image.run();
    assert_eq!(
        append(&running.handle(), vec![event(1, to(&[0]))]).await,
        [Appended::Duplicate]
    );
    let status = running.handle().status();
    assert_eq!(
        (status.stored, status.duplicate, status.accepted),
        (1, 3, 4)
    );
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn an_event_without_identity_is_never_a_duplicate() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let anonymous = || {
        let Entry::Event(event) = event(1, to(&[0])) else {
            unreachable!()
        };
        Entry::Event(NewEvent {
            dedup: false,
            ..event
        })
    };
    let appended = append(
        &running.handle(),
        vec![anonymous(), anonymous(), event(1, to(&[0]))],
    )
    .await;
    assert!(
        appended.iter().all(|a| matches!(a, Appended::Stored(_))),
        "{appended:?}"
    );
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn position_is_never_reused_after_the_log_is_emptied_and_reopened() {
    let place = Place::new(&["a"]);
    let running = place.run();
    append(
        &running.handle(),
        vec![event(1, to(&[0])), event(2, to(&[0]))],
    )
    .await;
    settle(&running.handle(), delivered(0, 2, 2)).await;
    until(&running.handle(), |s| s.buffered == 0).await;
    running.shutdown().await.expect("an orderly end");
    let running = place.run();
    let appended = append(&running.handle(), vec![event(3, to(&[0]))]).await;
    assert_eq!(appended, [Appended::Stored(Position(3))]);
    assert_eq!(read_all(&running.handle(), 0, 2).len(), 1);
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_failed_record_waits_then_dies_and_can_be_redriven() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    append(&handle, (1..=3).map(|n| event(n, to(&[0]))).collect()).await;
    let records = read_all(&handle, 0, 0);
    let retry = |attempts| Retry {
        first: None,
        record: records[1].clone(),
        attempts,
        not_before: Timestamp::from_millis(5),
        reason: "no".into(),
    };
    settle(
        &handle,
        Progress {
            retry: vec![retry(1)],
            ..delivered(0, 3, 2)
        },
    )
    .await;
    let status = handle.status();
    assert_balanced(&status);
    let d = &status.destinations[0];
    assert_eq!(
        (d.delivered, d.backlog, d.retrying, d.cursor),
        (2, 1, 1, Position(3))
    );
    // The journal lets go of the rows; the copy stays.
    until(&handle, |s| s.buffered == 0).await;
    let mut reader = handle.reader().expect("a reader");
    assert_eq!(
        reader
            .retries(DestinationId(0), 10, usize::MAX)
            .expect("retries"),
        [retry(1)]
    );
    settle(
        &handle,
        Progress {
            retry: vec![retry(2)],
            ..delivered(0, 3, 0)
        },
    )
    .await;
    assert_eq!(
        reader
            .retries(DestinationId(0), 10, usize::MAX)
            .expect("retries"),
        [retry(2)]
    );

    let dead = Dead {
        first: None,
        record: records[1].clone(),
        attempts: 3,
        reason: "never".into(),
    };
    settle(
        &handle,
        Progress {
            dead: vec![dead],
            ..delivered(0, 3, 0)
        },
    )
    .await;
    let status = handle.status();
    assert_balanced(&status);
    assert_eq!(
        (status.destinations[0].dead, status.destinations[0].backlog),
        (1, 0)
    );
    let letters = handle
        .listing()
        .expect("a listing")
        .dead_letters(None, 0, 10)
        .expect("letters");
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (&*letters[0].reason, &letters[0].record),
        ("never", &records[1])
    );
    assert_eq!(letters[0].destination_name, "a");

    assert_eq!(
        handle.redrive(vec![letters[0].id, 99]).await.expect("open"),
        1
    );
    assert_eq!(handle.status().dead_letters, 0);
    assert_eq!(
        reader
            .retries(DestinationId(0), 10, usize::MAX)
            .expect("retries")[0]
            .attempts,
        0
    );
    settle(
        &handle,
        Progress {
            retried: vec![Position(2)],
            ..delivered(0, 3, 1)
        },
    )
    .await;
    let status = handle.status();
    assert_balanced(&status);
    assert_eq!(
        (
            status.destinations[0].delivered,
            status.destinations[0].backlog
        ),
        (3, 0)
    );
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn quarantine_is_listed_by_page_retried_once_and_discarded() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    let appended = append(&handle, (1..=5).map(broken).collect()).await;
    assert_eq!(appended[4], Appended::Quarantined(5));
    let listing =
        Listing::open(place.dir.path(), &Seal::default()).expect("readable beside the writer");
    let page = listing.quarantine(2, 2).expect("a page");
    assert_eq!(page.iter().map(|q| q.id).collect::<Vec<_>>(), [3, 4]);
    assert!(page.iter().all(|q| q.intact && q.class == "syntax"));
    assert_eq!(
        &listing
            .quarantined(5)
            .expect("read")
            .expect("there")
            .payload[..],
        b"{5"
    );

    let retried = handle
        .retry_quarantined(3, vec![event(1, to(&[0]))])
        .await
        .expect("open");
    assert_eq!(retried, Some(vec![Appended::Stored(Position(1))]));
    assert_eq!(
        handle
            .retry_quarantined(3, vec![event(2, to(&[0]))])
            .await
            .expect("open"),
        None
    );
    assert_eq!(
        handle
            .discard_quarantined(vec![1, 3, 4])
            .await
            .expect("open"),
        2
    );
    let status = handle.status();
    assert_balanced(&status);
    assert_eq!(
        (status.quarantined, status.in_quarantine, status.stored),
        (5, 2, 1)
    );
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_destination_keeps_its_bit_and_backlog_while_the_configuration_forgets_it() {
    let mut place = Place::new(&["a", "b"]);
    let running = place.run();
    append(&running.handle(), vec![event(1, to(&[0, 1]))]).await;
    running.shutdown().await.expect("an orderly end");

    place.config.destinations = vec!["c".into(), "b".into()];
    let running = place.run();
    let handle = running.handle();
    assert_eq!(handle.destination_id("b"), Some(DestinationId(1)));
    assert_eq!(handle.destination_id("c"), Some(DestinationId(2)));
    let status = handle.status();
    let configured: Vec<_> = status.destinations.iter().map(|d| d.configured).collect();
    assert_eq!(configured, [false, true, true]);
    assert_eq!(status.destinations[0].backlog, 1);
    assert_eq!(
        status.destinations[2].cursor,
        Position(1),
        "a new one starts at the end"
    );

    assert!(
        !handle.forget_destination("b".into()).await.expect("open"),
        "it is in use"
    );
    assert!(handle.forget_destination("a".into()).await.expect("open"));
    assert_eq!(handle.destination_id("a"), None);
    assert_eq!(handle.status().destinations.len(), 2);
    running.shutdown().await.expect("an orderly end");
    let running = place.run();
    assert_eq!(running.handle().status().destinations.len(), 2);
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_second_gateway_on_the_same_directory_is_refused_with_a_sentence() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let error = place.open().expect_err("it is in use").to_string();
    assert!(error.starts_with("another gateway (process "), "{error}");
    running.shutdown().await.expect("an orderly end");
    place.open().expect("free again");
}

/// Plays the second process of the test below; does nothing by itself.
#[test]
fn another_process_tries_to_open_the_directory() {
    let Some(dir) = std::env::var_os("PENSTOCK_TEST_DIR") else {
        return;
    };
    let mut place = Place::new(&["a"]);
    place.config.dir = dir.into();
    match place.open() {
        Ok(_) => println!("it was free"),
        Err(error) => println!("refused: {error}"),
    }
}

#[tokio::test]
async fn another_process_is_refused_until_this_one_ends() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let other = || {
        let output = std::process::Command::new(std::env::current_exe().expect("this"))
            .args(["--nocapture", "another_process_tries_to_open_the_directory"])
            .env("PENSTOCK_TEST_DIR", place.dir.path())
            .output()
            .expect("started");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = other();
    let sentence = format!("refused: another gateway (process {})", std::process::id());
    assert!(said.contains(&sentence), "{said}");
    running.shutdown().await.expect("an orderly end");
    let said = other();
    assert!(said.contains("it was free"), "{said}");
}

#[tokio::test]
async fn a_later_format_is_refused_and_left_alone() {
    let place = Place::new(&["a"]);
    place.run().shutdown().await.expect("an orderly end");
    let connection = rusqlite::Connection::open(place.database()).expect("the file");
    connection
        .execute_batch("CREATE TABLE more (id INTEGER PRIMARY KEY); PRAGMA user_version = 99")
        .expect("written");
    drop(connection);
    let error = place.open().expect_err("from the future").to_string();
    assert!(error.contains("later version"), "{error}");
    assert!(place.database().try_exists().expect("seen"));
}

#[tokio::test]
async fn a_journal_of_the_first_format_is_brought_to_this_one_with_all_it_has() {
    let place = Place::new(&["a"]);
    let running = place.run();
    append(
        &running.handle(),
        (1..=10).map(|n| event(n, to(&[0]))).collect(),
    )
    .await;
    running.shutdown().await.expect("an orderly end");
    let connection = rusqlite::Connection::open(place.database()).expect("the file");
    connection
        .execute_batch(&format!("{}; PRAGMA user_version = 1", to_first_format()))
        .expect("written");
    drop(connection);
    let before = verify(place.dir.path()).expect("readable before it is brought up");
    assert!(before.is_whole(), "{before:?}");
    for migrated_from in [Some(1), None] {
        let (running, report) = place.run_reported();
        assert_eq!(report.migrated_from, migrated_from);
        assert!(report.set_aside.is_none(), "{report:?}");
        assert_eq!(read_all(&running.handle(), 0, 0).len(), 10);
        running.shutdown().await.expect("an orderly end");
        assert!(verify(place.dir.path()).expect("readable").is_whole());
    }
}

#[tokio::test]
async fn everything_queued_before_the_shutdown_is_kept() {
    let place = Place::new(&["a"]);
    let (store, _) = place.open().expect("opens");
    let handle = store.handle();
    let mut receipts = Vec::new();
    for n in 0..50 {
        receipts.push(
            handle
                .append(vec![event(n, to(&[0]))])
                .await
                .expect("queued"),
        );
    }
    store
        .run()
        .expect("a thread")
        .shutdown()
        .await
        .expect("an orderly end");
    for receipt in receipts {
        assert!(matches!(
            receipt.await.expect("kept")[..],
            [Appended::Stored(_)]
        ));
    }
    assert!(
        handle.append(vec![event(51, to(&[0]))]).await.is_err(),
        "closed is closed"
    );
    assert_eq!(handle.closed().await, None);
    assert!(
        !place
            .database()
            .with_extension("db-wal")
            .try_exists()
            .expect("seen")
            || std::fs::metadata(place.database().with_extension("db-wal"))
                .expect("seen")
                .len()
                == 0
    );
}

#[tokio::test]
async fn a_page_reaches_at_least_to_its_last_record() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let mut handle = running.handle();
    append(&handle, (1..=10).map(|n| event(n, to(&[0]))).collect()).await;
    // As between a commit and the word of it, with nothing of it in memory.
    let (_word, committed) = watch::channel(Position(4));
    handle.committed = committed;
    handle.tail = Arc::new(tail::Tail::new(Position(10), 0));
    let mut reader = handle.reader().expect("a reader");
    let page = reader.read(DestinationId(0), Position(0), 100, 1 << 20);
    let page = page.expect("a page");
    assert_eq!((page.records.len(), page.scanned_to), (10, Position(10)));
    running.shutdown().await.expect("an orderly end");
}

//! Damage of the write-ahead log.

use super::*;

#[tokio::test]
async fn damage_in_the_middle_of_the_log_is_noticed_at_the_next_start() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    for n in 1..=20 {
        append(&handle, vec![event(n, to(&[0]))]).await;
    }
    let image = place.crash_image();
    running.shutdown().await.expect("an orderly end");

    let log = image.database().with_extension("db-wal");
    let length = std::fs::metadata(&log).expect("the log").len();
    flip(&log, length / 2);
    let evidence = std::fs::read(&log).expect("the log");
    let (running, report) = image.run_reported();
    assert!(report.salvaged.is_none(), "the database looks sound");
    let aside = report.set_aside.clone().expect("a copy");
    let kept = std::fs::read(format!("{}-wal", aside.display())).expect("the copy");
    assert_eq!(kept, evidence, "copied before it was written to");
    let Promise::Broken {
        promised,
        found,
        events,
    } = report.promise
    else {
        panic!("nothing was noticed: {report:?}")
    };
    assert!(found < promised, "{report:?}");
    // What SQLite no longer sees lies on later pages, which are whole.
    assert_eq!(events, 0, "{report:?}");
    let handle = running.handle();
    let status = handle.status();
    assert_balanced(&status);
    let a = &status.destinations[0];
    assert_eq!((a.routed, a.damaged, status.stored), (20, events, 20));
    assert_eq!(read_all(&handle, 0, 0).len(), 20);
    let again = append(
        &handle,
        vec![event(20, to(&[0])), event(1, to(&[0])), event(21, to(&[0]))],
    )
    .await;
    let expect = [
        Appended::Duplicate,
        Appended::Duplicate,
        Appended::Stored(Position(21)),
    ];
    assert_eq!(again, expect);
    running.shutdown().await.expect("an orderly end");
    assert!(verify(image.dir.path()).expect("readable").is_whole());
    assert_eq!(
        image.run_reported().1.promise,
        Promise::Kept,
        "it is reported once"
    );
}

#[tokio::test]
async fn events_of_a_log_of_which_nothing_is_left_are_counted_as_damaged() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    for n in 1..=20 {
        append(&handle, vec![event(n, to(&[0]))]).await;
    }
    append(&handle, vec![broken(1)]).await;
    settle(&handle, delivered(0, 5, 5)).await;
    let image = place.crash_image();
    running.shutdown().await.expect("an orderly end");
    // All of it is in the log, of which SQLite trusts nothing; then nothing is left.
    for (left, lost) in [(true, 0), (false, 15)] {
        let image = image.crash_image();
        let log = image.database().with_extension("db-wal");
        let mut bytes = std::fs::read(&log).expect("the log");
        bytes[3] ^= 0x55;
        if !left {
            bytes.fill(0xA5);
        }
        std::fs::write(&log, bytes).expect("written");
        let (running, report) = image.run_reported();
        assert!(report.set_aside.is_some(), "{report:?}");
        let handle = running.handle();
        let status = handle.status();
        assert_balanced(&status);
        let a = &status.destinations[0];
        assert_eq!((a.routed, a.delivered, a.damaged), (20, 5, lost), "{a:?}");
        assert_eq!(status.in_quarantine, u64::from(lost == 0));
        assert_eq!(read_all(&handle, 0, 5).len() as u64, 15 - lost);
        let next = append(&handle, vec![event(21, to(&[0]))]).await;
        assert_eq!(next, [Appended::Stored(Position(21))]);
        running.shutdown().await.expect("an orderly end");
        assert!(verify(image.dir.path()).expect("readable").is_whole());
    }
}

#[tokio::test]
async fn damage_anywhere_in_the_log_hides_no_event_without_counting_it() {
    let place = Place::new(&["a"]);
    let running = place.run();
    for n in 1..=10 {
        append(&running.handle(), vec![event(n, to(&[0]))]).await;
    }
    let image = place.crash_image();
    running.shutdown().await.expect("an orderly end");
    let length = std::fs::metadata(image.database().with_extension("db-wal"))
        .expect("the log")
        .len();
    // In each page of it once: also in those before the journal knows its destinations.
    for at in (32..length).step_by(24 + 4_096) {
        let image = image.crash_image();
        flip(&image.database().with_extension("db-wal"), at + 24 + 2_000);
        let (running, _) = image.run_reported();
        let handle = running.handle();
        let status = handle.status();
        assert_balanced(&status);
        let a = &status.destinations[0];
        assert_eq!(a.routed, 10, "damage at {at}: {a:?}");
        let found = read_all(&handle, 0, 0).len() as u64;
        assert_eq!(found + a.damaged, 10, "damage at {at}: {a:?}");
        running.shutdown().await.expect("an orderly end");
    }
}

#[tokio::test]
async fn the_log_may_be_cut_anywhere_and_whole_groups_survive() {
    let place = Place::new(&["a"]);
    let running = place.run();
    for n in 0..10 {
        append(
            &running.handle(),
            (n * 3..n * 3 + 3).map(|n| event(n, to(&[0]))).collect(),
        )
        .await;
    }
    let image = place.crash_image();
    running.shutdown().await.expect("an orderly end");
    let length = std::fs::metadata(image.database().with_extension("db-wal"))
        .expect("the log")
        .len();
    for cut in (0..length).step_by(1_777) {
        let image = image.crash_image();
        let log = std::fs::OpenOptions::new()
            .write(true)
            .open(image.database().with_extension("db-wal"))
            .expect("the log");
        log.set_len(cut).expect("cut");
        let (store, _) = image.open().expect("it starts");
        let status = store.handle().status();
        assert_balanced(&status);
        assert_eq!(status.buffered % 3, 0, "cut at {cut}: {status:?}");
    }
}

/// With sealed values.
mod sealed {
    use super::sealed_too;

    #[test]
    fn damage_in_the_middle_of_the_log_is_noticed_at_the_next_start() {
        sealed_too(super::damage_in_the_middle_of_the_log_is_noticed_at_the_next_start);
    }

    #[test]
    fn events_of_a_log_of_which_nothing_is_left_are_counted_as_damaged() {
        sealed_too(super::events_of_a_log_of_which_nothing_is_left_are_counted_as_damaged);
    }

    #[test]
    fn damage_anywhere_in_the_log_hides_no_event_without_counting_it() {
        sealed_too(super::damage_anywhere_in_the_log_hides_no_event_without_counting_it);
    }

    #[test]
    fn the_log_may_be_cut_anywhere_and_whole_groups_survive() {
        sealed_too(super::the_log_may_be_cut_anywhere_and_whole_groups_survive);
    }
}

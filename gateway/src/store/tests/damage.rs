//! Damage: it is noticed, counted and survived.

mod columns;
mod log;
mod room;
mod sealed;

use std::os::unix::fs::FileExt;

use penstock_broker::seal::OVERHEAD;

use super::*;

const EVENTS: u64 = 600;

/// A journal closed in order with events 1 to [`EVENTS`] waiting for `a`, of
/// which the first hundred are delivered to `b`, and one message in quarantine.
async fn filled() -> Place {
    let place = Place::new(&["a", "b"]);
    let running = place.run();
    for first in (1..=EVENTS).step_by(50) {
        append(
            &running.handle(),
            (first..first + 50).map(|n| event(n, to(&[0, 1]))).collect(),
        )
        .await;
    }
    append(&running.handle(), vec![broken(1)]).await;
    settle(&running.handle(), delivered(1, 100, 100)).await;
    running.shutdown().await.expect("an orderly end");
    place
}

/// Offset of the page that holds some bytes.
fn page_with(place: &Place, needle: &[u8]) -> u64 {
    place_of(place, needle) / 4096 * 4096
}

/// Where some bytes lie, or what they are sealed to.
fn place_of(place: &Place, needle: &[u8]) -> u64 {
    let bytes = std::fs::read(place.database()).expect("the file");
    let find = |needle: &[u8]| bytes.windows(needle.len()).position(|w| w == needle);
    let at = find(needle).or_else(|| find(&tag_of(place, needle)));
    at.expect("it is in there") as u64
}

/// How the frame of the first event ends that says this, where it is sealed.
fn tag_of(place: &Place, says: &[u8]) -> Vec<u8> {
    let listing = Listing::open(place.dir.path(), &seal()).expect("readable");
    let record = |n| listing.record(Position(n)).expect("readable");
    let is_it = |n: &u64| record(*n).is_some_and(|record| record.body.starts_with(says));
    let position = (1..=EVENTS).find(is_it).expect("it is there");
    let sql = "SELECT substr(frame, -16) FROM events WHERE position = ?1";
    let tag = listing
        .tables()
        .query_row(sql, [position.cast_signed()], |row| row.get(0));
    tag.expect("it is there")
}

/// Opens, and checks what must hold after any damage.
async fn survives(place: &Place) -> (Report, Arc<Status>, Vec<Record>) {
    let (running, report) = place.run_reported();
    let handle = running.handle();
    let status = handle.status();
    assert_balanced(&status);
    let records = read_all(&handle, 0, 0);
    for record in &records {
        assert_eq!(record.body, format!("event {}", record.position));
    }
    let next = append(&handle, vec![event(9_999, to(&[0, 1]))]).await;
    assert_eq!(
        next,
        [Appended::Stored(Position(EVENTS + 1))],
        "positions go on"
    );
    running.shutdown().await.expect("an orderly end");
    let report_after = verify(place.dir.path()).expect("readable");
    assert!(report_after.is_whole(), "{report_after:?}");
    (report, status, records)
}

fn destroy_page(place: &Place, offset: u64) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(place.database())
        .expect("the file");
    file.write_all_at(&[0xA5; 4096], offset).expect("written");
}

/// Changes the type of one column in the header of the first row that matches,
/// the way one flipped bit does: SQLite goes on calling the row sound.
fn flip_type(place: &Place, table: &str, column: &str, value: &str) {
    let disk = rusqlite::Connection::open(place.database()).expect("the file");
    disk.execute_batch(&format!("UPDATE {table} SET {column} = {value}"))
        .expect("written");
}

#[tokio::test]
async fn a_destroyed_page_costs_its_records_only_and_each_is_counted() {
    let place = filled().await;
    destroy_page(&place, page_with(&place, b"event 300"));
    let (report, status, records) = survives(&place).await;
    let aside = report.set_aside.expect("set aside");
    assert!(aside.ends_with("journal.db.damaged-1") && aside.try_exists().expect("seen"));
    assert_eq!(status.set_aside, [aside]);
    let salvaged = report.salvaged.expect("salvaged");
    assert!(
        salvaged.events > EVENTS - 150 && salvaged.events < EVENTS,
        "{salvaged:?}"
    );
    assert_eq!(salvaged.events, records.len() as u64);
    assert_eq!(salvaged.quarantined, 1);
    let [a, b] = &status.destinations[..] else {
        panic!("{status:?}")
    };
    assert_eq!((a.routed, a.damaged), (EVENTS, EVENTS - salvaged.events));
    assert_eq!(
        (b.delivered, b.cursor),
        (100, Position(100)),
        "cursors survive"
    );
    assert_eq!(b.damaged, a.damaged);
    assert_eq!(salvaged.lost, a.damaged);
}

#[tokio::test]
async fn a_salvage_interrupted_at_any_moment_is_begun_again_or_ended() {
    let place = filled().await;
    let unfinished = place.config.dir.join("journal.db.salvage");
    // Before it was complete: the old file is in its place.
    std::fs::write(&unfinished, b"half").expect("written");
    destroy_page(&place, page_with(&place, b"event 300"));
    let image = place.crash_image();
    let (_, _, records) = survives(&image).await;
    assert!(records.len() as u64 > EVENTS - 150);
    // Between the renames: the old file is aside, the fresh one has its first name.
    let image = place.crash_image();
    let (store, _) = image.open().expect("salvaged");
    drop(store);
    let unfinished = image.config.dir.join("journal.db.salvage");
    std::fs::rename(image.database(), &unfinished).expect("renamed");
    let (report, status, again) = survives(&image).await;
    assert_eq!(report.promise, Promise::Kept);
    assert_eq!((again, status.set_aside.len()), (records, 1));
    assert!(!unfinished.try_exists().expect("seen"));
}

#[tokio::test]
async fn a_cut_file_is_salvaged_as_far_as_it_goes() {
    let place = filled().await;
    let bytes = |place: &Place| std::fs::metadata(place.database()).expect("seen").len();
    // Of what was put into it: what an empty one has lies before that.
    let empty = Place::new(&["a", "b"]);
    empty.run().shutdown().await.expect("an orderly end");
    let kept = bytes(&empty) + (bytes(&place) - bytes(&empty)) * 4 / 5;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(place.database())
        .expect("the file");
    file.set_len(kept / 4096 * 4096).expect("cut");
    let (report, status, records) = survives(&place).await;
    assert!(report.set_aside.is_some());
    let a = &status.destinations[0];
    assert_eq!(a.routed, EVENTS);
    assert_eq!(a.damaged, EVENTS - records.len() as u64);
    assert!(
        records.len() as u64 > EVENTS / 3,
        "only {} of {EVENTS} events were in most of the file",
        records.len()
    );
}

#[tokio::test]
async fn bytes_may_be_flipped_anywhere_and_the_gateway_starts() {
    use rand::{RngExt as _, SeedableRng as _};
    let place = filled().await;
    let length = std::fs::metadata(place.database()).expect("seen").len();
    for seed in 0..40 {
        let mut rng = rand::rngs::StdRng::seed_from_u64(seed);
        let image = place.crash_image();
        for _ in 0..rng.random_range(1..60) {
            flip(&image.database(), rng.random_range(0..length));
        }
        let (store, report) = image
            .open()
            .unwrap_or_else(|error| panic!("seed {seed}: it does not start: {error}"));
        let status = store.handle().status();
        assert_balanced(&status);
        assert_eq!(
            status.committed,
            Position(EVENTS),
            "seed {seed}: {report:?}"
        );
    }
}

#[tokio::test]
async fn any_bit_of_the_file_header_may_be_flipped_and_nothing_is_lost() {
    let place = filled().await;
    for at in 0..100 {
        for bit in 0..8 {
            let image = place.crash_image();
            let mut bytes = std::fs::read(image.database()).expect("the file");
            bytes[at] ^= 1 << bit;
            std::fs::write(image.database(), bytes).expect("written");
            let (store, report) = image
                .open()
                .unwrap_or_else(|error| panic!("byte {at}, bit {bit}: it does not start: {error}"));
            let status = store.handle().status();
            assert_balanced(&status);
            let [a, b] = &status.destinations[..] else {
                panic!("{status:?}")
            };
            assert_eq!(
                (a.backlog, a.damaged, b.delivered, b.backlog),
                (EVENTS, 0, 100, EVENTS - 100),
                "byte {at}, bit {bit}: {report:?}"
            );
            assert_eq!(status.in_quarantine, 1, "byte {at}, bit {bit}: {report:?}");
        }
    }
}

#[tokio::test]
async fn a_later_version_is_told_from_a_damaged_number() {
    let place = filled().await;
    let version = |number: u32, tables: &str| {
        let image = place.crash_image();
        let disk = rusqlite::Connection::open(image.database()).expect("the file");
        disk.execute_batch(&format!("{tables}; PRAGMA user_version = {number}"))
            .expect("written");
        drop(disk);
        image
    };
    let later = version(9, "ALTER TABLE events ADD COLUMN more").open();
    assert!(
        matches!(later, Err(Error::LaterVersion { found: 9, .. })),
        "{later:?}"
    );
    for (number, tables) in [
        (0, ""),
        (1, ""),
        (2, ""),
        (9, ""),
        (9, &to_first_format()),
        (1 << 30, ""),
        (1 << 20, "DROP TABLE retry"),
    ] {
        let image = version(number, tables);
        let found = verify(image.dir.path()).expect("readable");
        assert!(
            found.findings[0].contains(&format!("its format is {number}")),
            "{found:?}"
        );
        let (report, status, records) = survives(&image).await;
        assert!(report.set_aside.is_some());
        assert_eq!(records.len() as u64, EVENTS);
        assert_eq!(
            (status.destinations[0].damaged, status.in_quarantine),
            (0, 1)
        );
    }
}

/// A journal with one of each: a retry, a dead letter, a message in quarantine;
/// killed with its log, or closed in order.
async fn with_all_lists(killed: bool) -> Place {
    let place = filled().await;
    let running = place.run();
    let handle = running.handle();
    let records = read_all(&handle, 0, 0);
    let mut progress = delivered(0, 3, 1);
    progress.retry.push(Retry {
        first: None,
        record: records[1].clone(),
        attempts: 1,
        not_before: Timestamp::from_millis(1_000_000),
        reason: "not now".into(),
    });
    progress.dead.push(Dead {
        first: None,
        record: records[2].clone(),
        attempts: 1,
        reason: "never".into(),
    });
    settle(&handle, progress).await;
    append(&handle, vec![broken(2)]).await;
    if killed {
        let image = place.crash_image();
        running.shutdown().await.expect("an orderly end");
        image
    } else {
        running.shutdown().await.expect("an orderly end");
        place
    }
}

#[tokio::test]
async fn without_its_first_page_everything_is_found_on_the_others() {
    for (killed, promises) in [(false, true), (true, true), (false, false)] {
        let place = with_all_lists(killed).await;
        if !promises {
            std::fs::remove_file(place.config.dir.join("journal.promises")).expect("removed");
        }
        destroy_page(&place, 0);
        if killed {
            // And the log cannot bring it back.
            flip(&place.database().with_extension("db-wal"), 3);
        }
        let (report, status, records) = survives(&place).await;
        let salvaged = report.salvaged.expect("salvaged");
        assert_eq!(
            (salvaged.events, salvaged.retries, salvaged.dead_letters),
            (EVENTS - 3, 1, 1),
            "{salvaged:?}"
        );
        assert_eq!(
            (salvaged.quarantined, salvaged.lost),
            (2, 0),
            "{salvaged:?}"
        );
        assert!(salvaged.key_lists >= EVENTS / 50, "{salvaged:?}");
        assert_eq!(records.len() as u64, EVENTS - 3);
        let [a, b] = &status.destinations[..] else {
            panic!("{status:?}")
        };
        assert_eq!((&*a.name, &*b.name), ("a", "b"));
        assert_eq!((a.retrying, a.dead, a.damaged), (1, 1, 0), "{a:?}");
        assert_eq!((b.delivered, b.damaged), (100, 0), "{b:?}");
        let running = place.run();
        let again = append(&running.handle(), vec![event(EVENTS, to(&[0]))]).await;
        assert_eq!(again, [Appended::Duplicate], "the keys are remembered");
        running.shutdown().await.expect("an orderly end");
    }
}

#[tokio::test]
async fn what_waits_is_counted_once_by_a_salvage() {
    let place = with_all_lists(false).await;
    destroy_page(&place, page_with(&place, b"event 300"));
    let (_, status, _) = survives(&place).await;
    let a = &status.destinations[0];
    assert_eq!(
        (a.retrying, a.dead, status.in_quarantine),
        (1, 1, 2),
        "{a:?}"
    );
    assert_eq!(a.routed, EVENTS, "{a:?}");
}

#[tokio::test]
async fn rows_of_the_lists_with_columns_of_another_type_stop_nobody() {
    let changes = [
        ("retry", "attempts", "'x'"),
        ("retry", "not_before", "'x'"),
        ("retry", "reason", "x'ff'"),
        ("retry", "routes", "'x'"),
        ("retry", "received", "0.5"),
        ("retry", "frame", "7"),
        ("retry", "destination", "'x'"),
        ("retry", "position", "'x'"),
        ("dead_letters", "destination", "'x'"),
        ("dead_letters", "destination", "1"),
        ("dead_letters", "position", "'x'"),
        ("dead_letters", "damaged", "'x'"),
        ("dead_letters", "attempts", "-1"),
        ("dead_letters", "at", "'x'"),
        ("dead_letters", "reason", "x'ff'"),
        ("dead_letters", "routes", "0.5"),
        ("dead_letters", "frame", "7"),
        ("quarantine", "received", "'x'"),
        ("quarantine", "client_id", "x'ff'"),
        ("quarantine", "topic", "x'ff'"),
        ("quarantine", "payload", "7"),
        ("quarantine", "properties", "7"),
        ("quarantine", "checksum", "'x'"),
    ];
    for (table, column, value) in changes {
        let what = format!("{table}.{column}");
        let place = with_all_lists(false).await;
        flip_type(&place, table, column, value);
        let found = verify(place.dir.path()).expect("readable");
        assert!(
            !found.findings.iter().any(|f| f.starts_with("could not")),
            "{what}: {found:?}"
        );
        stats(place.dir.path()).expect("readable");
        let (running, report) = place.run_reported();
        let handle = running.handle();
        let mut reader = handle.reader().expect("a reader");
        let waiting = reader
            .retries(DestinationId(0), 10, 1 << 20)
            .expect("readable");
        // Whole, or set aside and counted.
        let (retrying, damaged) = if waiting.is_empty() { (0, 1) } else { (1, 0) };
        let status = until(&handle, |s| s.destinations[0].retrying == retrying).await;
        assert_eq!(status.destinations[0].damaged, damaged, "{what}");
        assert_balanced(&status);
        let listing = handle.listing().expect("a listing");
        let letters = listing.dead_letters(None, 0, 10).expect("readable");
        // One that nobody can find among those that wait is in the old file.
        let named = if report.set_aside.is_some() {
            1
        } else {
            1 + damaged
        };
        assert_eq!(letters.len() as u64, named, "{what}: each is named");
        let items = listing.quarantine(0, 10).expect("readable");
        assert_eq!(items.len(), 2, "{what}: each is named");
        if table == "quarantine" {
            assert!(items.iter().all(|item| !item.intact), "{what}");
        }
        let ids = letters.iter().map(|letter| letter.id).collect();
        handle.redrive(ids).await.expect("open");
        handle.discard_quarantined(vec![1, 2]).await.expect("open");
        assert_balanced(&handle.status());
        let next = append(&handle, vec![event(9_999, to(&[0]))]).await;
        assert_eq!(next, [Appended::Stored(Position(EVENTS + 1))], "{what}");
        running.shutdown().await.expect("an orderly end");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_leaves_what_was_promised() {
    let place = filled().await;
    std::fs::write(place.database(), vec![0x42; 100_000]).expect("written");
    let (report, status, records) = survives(&place).await;
    assert!(report.set_aside.is_some() && records.is_empty());
    let [a, b] = &status.destinations[..] else {
        panic!("{status:?}")
    };
    assert_eq!((&*a.name, a.routed, a.damaged), ("a", EVENTS, EVENTS));
    assert_eq!((&*b.name, b.delivered, b.damaged), ("b", 100, EVENTS - 100));
    assert_eq!((status.stored, status.quarantined), (EVENTS, 1));
}

#[tokio::test]
async fn every_page_may_be_destroyed_and_the_gateway_starts() {
    let place = filled().await;
    let pages = std::fs::metadata(place.database()).expect("seen").len() / 4096;
    for page in 0..pages {
        let image = place.crash_image();
        destroy_page(&image, page * 4096);
        let (store, report) = image.open().expect("it starts");
        let status = store.handle().status();
        assert_balanced(&status);
        assert_eq!(
            status.committed,
            Position(EVENTS),
            "page {page}: {report:?}"
        );
        assert_eq!(status.destinations.len(), 2, "page {page}");
    }
}

#[tokio::test]
async fn a_flipped_byte_in_a_payload_is_passed_counted_and_kept_as_found() {
    let place = filled().await;
    flip(&place.database(), place_of(&place, b"event 300") + 2);
    let found = verify(place.dir.path()).expect("readable");
    assert_eq!(
        (found.damaged, &*found.findings[0]),
        (1, "event 300 is damaged")
    );

    let (running, report) = place.run_reported();
    assert!(report.set_aside.is_none(), "the structure is whole");
    let handle = running.handle();
    let positions: Vec<_> = read_all(&handle, 0, 0)
        .iter()
        .map(|r| r.position.0)
        .collect();
    assert_eq!(
        positions,
        (1..=EVENTS).filter(|p| *p != 300).collect::<Vec<_>>()
    );
    until(&handle, |s| s.dead_letters == 1).await;
    // The other destination does not meet it any more, and nobody counts it twice.
    assert_eq!(read_all(&handle, 1, 100).len(), 499);
    settle(&handle, delivered(0, EVENTS, EVENTS - 1)).await;
    settle(&handle, delivered(1, EVENTS, 499)).await;
    let status = handle.status();
    assert_balanced(&status);
    for d in &status.destinations {
        assert_eq!((d.damaged, d.backlog), (1, 0), "{d:?}");
    }
    let letters = handle
        .listing()
        .expect("a listing")
        .dead_letters(None, 0, 10)
        .expect("letters");
    assert!(letters[0].damaged && letters[0].record.position == Position(300));
    let sealed = if IS_SEALED.get() { OVERHEAD } else { 0 };
    assert_eq!(letters[0].record.body.len(), 9 + sealed);
    assert_eq!(
        handle.redrive(vec![letters[0].id]).await.expect("open"),
        0,
        "it cannot be trusted"
    );
    running.shutdown().await.expect("an orderly end");
    assert!(verify(place.dir.path()).expect("readable").is_whole());
}

#[tokio::test]
async fn a_record_in_flight_whose_row_is_damaged_counts_as_delivered() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    append(&handle, (1..=3).map(|n| event(n, to(&[0]))).collect()).await;
    assert_eq!(read_all(&handle, 0, 0).len(), 3, "all are in flight");
    // Another connection plays the decaying disk.
    let disk = rusqlite::Connection::open(place.database()).expect("the file");
    disk.execute("UPDATE events SET received = 1 WHERE position = 2", [])
        .expect("written");
    handle.noticed.put_rows(&[Position(2)]);
    until(&handle, |s| s.destinations[0].damaged == 1).await;
    settle(&handle, delivered(0, 1, 1)).await;
    settle(&handle, delivered(0, 3, 2)).await;
    let status = handle.status();
    assert_balanced(&status);
    assert_eq!(
        (
            status.destinations[0].damaged,
            status.destinations[0].delivered
        ),
        (0, 3)
    );
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_page_destroyed_under_a_running_gateway_is_survived_without_a_restart() {
    let place = filled().await;
    let (store, _) = place.open().expect("opens");
    let handle = store.handle();
    // After the check at the start; nobody has read the page yet.
    destroy_page(&place, page_with(&place, b"event 300"));
    let running = store.run().expect("a thread");
    let mut reader = handle.reader().expect("a reader");
    let (mut after, mut read) = (Position(0), 0);
    while after < Position(EVENTS) {
        let Ok(page) = reader.read(DestinationId(0), after, 50, 1 << 20) else {
            // It is being replaced.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let count = page.records.len() as u64;
        (after, read) = (page.scanned_to, read + count);
        settle(&handle, delivered(0, after.0, count)).await;
    }
    let status = handle.status();
    assert_balanced(&status);
    let [a, b] = &status.destinations[..] else {
        panic!("{status:?}")
    };
    assert_eq!(
        (a.delivered, a.damaged, a.backlog),
        (read, EVENTS - read, 0)
    );
    assert!(a.damaged > 0 && a.damaged < 150, "{a:?}");
    assert_eq!(b.damaged, a.damaged);
    assert_eq!(status.set_aside.len(), 1);
    let next = append(&handle, vec![event(9_999, to(&[0])), event(1, to(&[0]))]).await;
    assert_eq!(
        next,
        [Appended::Stored(Position(EVENTS + 1)), Appended::Duplicate]
    );
    running.shutdown().await.expect("an orderly end");
    let report = verify(place.dir.path()).expect("readable");
    assert!(report.is_whole(), "{report:?}");
}

#[tokio::test]
async fn a_database_taken_away_does_not_give_positions_again() {
    let place = filled().await;
    std::fs::remove_file(place.database()).expect("removed");
    let (report, status, _) = survives(&place).await;
    assert!(
        matches!(report.promise, Promise::Broken { events: EVENTS, .. }),
        "{report:?}"
    );
    assert_eq!(status.destinations[0].damaged, EVENTS);
}

#[tokio::test]
async fn a_page_of_keys_destroyed_after_the_check_is_survived() {
    let place = filled().await;
    let (store, _) = place.open().expect("opens");
    destroy_page(&place, page_with(&place, &key(300).0));
    // The first match may be the event's own page; the list of keys comes with it.
    let running = store.run().expect("a thread");
    let next = append(&running.handle(), vec![event(9_999, to(&[0]))]).await;
    assert_eq!(next, [Appended::Stored(Position(EVENTS + 1))]);
    assert_balanced(&running.handle().status());
    running.shutdown().await.expect("an orderly end");
}

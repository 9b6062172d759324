//! Damaged files of what rules do.

use std::path::Path;

use penstock_broker::seal::Seal;

use super::{
    super::{outbox, salvage, schema},
    *,
};

const EVENTS: u64 = 2_000;
/// The journal has these already.
const HANDED: i64 = 100;

/// A file with many events on their way, a failure, an alarm and a window; closed.
fn filled(dir: &Path) {
    let connection = schema::open(dir, &Seal::default()).unwrap();
    for n in 1..=EVENTS {
        let event = Event {
            key: Key(u128::from(n).to_be_bytes()),
            ..event_of(&format!("device-{n:04}"), &[("t", 1.0)])
        };
        outbox::add(&connection, &event, (n % 2 == 0).then_some("r")).unwrap();
    }
    outbox::forget(&connection, HANDED).unwrap();
    connection
        .execute_batch(
            "UPDATE state SET position = 7, failures = 3, failed = 1, windows = 1;
             INSERT INTO failed VALUES (9, 'r', 5, 'd', 1, 'why', x'00', 2);
             INSERT INTO alarms VALUES (4, 'r', 'd', NULL, 0, 'major', 't', 1, 1, 1, 1, 1);
             INSERT INTO windows VALUES ('r', 'd', x'00', NULL, NULL);
             UPDATE state SET throttles = 1, held_back = 6;
             INSERT INTO throttles VALUES ('r', 'd', 1, 2, 3);
             INSERT INTO throttled VALUES ('r', 1, 5, 4);",
        )
        .unwrap();
    connection.close().unwrap();
}

fn damage(dir: &Path, page: impl Fn(&[u8]) -> bool) {
    let path = dir.join(schema::FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    let found = bytes.chunks_mut(4096).find(|bytes| page(bytes)).unwrap();
    found.fill(0);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_file_of_which_nothing_can_be_read_is_set_aside_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let fresh = crate::aside::fresh(dir.path(), schema::FILE).unwrap();
    let salvaged = salvage::nothing(&fresh, &Seal::default()).unwrap();
    assert_eq!((salvaged.outbox, salvaged.lost), (0, 1));
    let aside = crate::aside::exchange(dir.path(), schema::FILE).unwrap();
    assert!(aside.is_some_and(|aside| aside.try_exists().unwrap()));
    assert_eq!(after(dir.path()), (Vec::new(), 1));
    // The disk says so when it is read.
    let code = rusqlite::ffi::SQLITE_IOERR_READ;
    let bad = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
    assert!(Error::from(bad).means_damage());
}

/// The devices of the events that are on their way, and how many are known to be lost.
fn after(dir: &Path) -> (Vec<String>, u64) {
    let connection = schema::open(dir, &Seal::default()).unwrap();
    let lost: i64 = connection
        .query_row("SELECT lost FROM state", [], |row| row.get(0))
        .unwrap();
    let mut devices = Vec::new();
    loop {
        let (last, waiting) = outbox::first(&connection).unwrap();
        if waiting.is_empty() {
            return (devices, lost.cast_unsigned());
        }
        devices.extend(waiting.iter().map(|one| one.event.device.to_string()));
        outbox::forget(&connection, last).unwrap();
    }
}

#[test]
fn what_can_be_read_of_a_damaged_file_goes_on_and_what_cannot_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let holds = |page: &[u8], text: &[u8]| page.windows(text.len()).any(|part| part == text);
    damage(dir.path(), |page| holds(page, b"device-1000"));
    let (devices, lost) = after(dir.path());
    assert!((1..200).contains(&lost), "{lost}");
    assert_eq!(devices.len() as u64 + lost, EVENTS - HANDED.cast_unsigned());
    assert!(devices.is_sorted() && devices.iter().all(|device| **device > *"device-0100"));
    let connection = schema::open(dir.path(), &Seal::default()).unwrap();
    let kept: [i64; 5] = connection
        .query_row(
            "SELECT position, failed, (SELECT count(*) FROM alarms), windows,
                 (SELECT seq FROM sqlite_sequence WHERE name = 'outbox') FROM state",
            [],
            |row| {
                Ok([
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                ])
            },
        )
        .unwrap();
    assert_eq!(kept, [7, 1, 1, 1, EVENTS.cast_signed()]);
    let throttled = "SELECT rule || device || since || until || done || throttles || held_back
                     FROM throttles, state";
    let throttled: String = connection
        .query_row(throttled, [], |row| row.get(0))
        .unwrap();
    assert_eq!(throttled, "rd12316");
    let said = super::super::throttle::held_back(&connection).unwrap();
    assert_eq!(
        (said[0].devices, said[0].held_back, said[0].evicted),
        (1, 5, 4)
    );
    assert_eq!(
        crate::aside::list(dir.path(), schema::FILE).unwrap().len(),
        1
    );
}

#[test]
fn events_on_their_way_are_found_without_the_first_page() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    damage(dir.path(), |_| true);
    let (devices, _) = after(dir.path());
    let expect = (101..=EVENTS).map(|n| format!("device-{n:04}"));
    let missing: Vec<_> = expect.filter(|device| !devices.contains(device)).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn a_crash_in_the_middle_of_it_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let fresh = crate::aside::fresh(dir.path(), schema::FILE).unwrap();
    salvage::salvage(&dir.path().join(schema::FILE), &fresh, &Seal::default()).unwrap();
    // Killed after the old one was renamed.
    std::fs::rename(fresh, dir.path().join("rules.db.new")).unwrap();
    let aside = dir.path().join("rules.db.damaged-1");
    std::fs::rename(dir.path().join(schema::FILE), aside).unwrap();
    let (devices, lost) = after(dir.path());
    assert_eq!(
        (devices.len() as u64, lost),
        (EVENTS - HANDED.cast_unsigned(), 0)
    );
}

/// With one bit more in the file the integer in the named column of a row of `broken` is a
/// float.
fn retype(dir: &Path, types: &[u8], column: usize) {
    let path = dir.join(schema::FILE);
    let mut bytes = std::fs::read(&path).unwrap();
    let mut parts = bytes.windows(types.len());
    let at = parts.position(|part| part == types).unwrap();
    bytes[at + column] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// The rules that a table has something of.
fn rules_of(dir: &Path, table: &str) -> (Vec<String>, i64) {
    let connection = schema::open(dir, &Seal::default()).unwrap();
    let mut statement = connection
        .prepare(&format!("SELECT rule FROM {table} ORDER BY rule, device"))
        .unwrap();
    let rules = statement.query_map([], |row| row.get(0)).unwrap();
    let count = format!("SELECT {table} FROM state");
    let count = connection.query_row(&count, [], |row| row.get(0)).unwrap();
    (rules.collect::<rusqlite::Result<_>>().unwrap(), count)
}

#[test]
fn a_window_with_a_value_of_another_type_begins_anew_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let connection = schema::open(dir.path(), &Seal::default()).unwrap();
    connection
        .execute_batch(
            "INSERT INTO windows VALUES ('broken', 'd', x'00', 0x0102030405060708, NULL),
                 ('whole', 'd', x'00', 0x0102030405060708, NULL);
             UPDATE state SET windows = 3;",
        )
        .unwrap();
    connection.close().unwrap();
    // The types of its columns.
    retype(dir.path(), &[6, 25, 15, 14, 6, 0, b'b'], 4);
    let expect = ["r", "whole"].map(str::to_owned).to_vec();
    assert_eq!(rules_of(dir.path(), "windows"), (expect, 2));
}

#[test]
fn a_throttle_with_a_value_of_another_type_begins_anew_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let connection = schema::open(dir.path(), &Seal::default()).unwrap();
    connection
        .execute_batch(
            "INSERT INTO throttles VALUES ('broken', 'd', 0x0102030405060708, 2, 3),
                 ('whole', 'd', 0x0102030405060708, 2, 3);
             UPDATE state SET throttles = 3;",
        )
        .unwrap();
    connection.close().unwrap();
    retype(dir.path(), &[6, 25, 15, 6, 1, 1, b'b'], 3);
    let expect = ["r", "whole"].map(str::to_owned).to_vec();
    assert_eq!(rules_of(dir.path(), "throttles"), (expect, 2));
}

#[test]
fn throttles_on_both_sides_of_a_damaged_page_go_on() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let mut connection = schema::open(dir.path(), &Seal::default()).unwrap();
    let transaction = connection.transaction().unwrap();
    for n in 0..2_000 {
        let device = format!("throttled-{n:04}-{}", "x".repeat(40));
        transaction
            .execute("INSERT INTO throttles VALUES ('r', ?1, 1, 2, 3)", [device])
            .unwrap();
    }
    transaction.commit().unwrap();
    connection.close().unwrap();
    // A leaf of the table: in the index, where the time stands before the rule, it is 2.
    damage(dir.path(), |page| {
        let text = b"\x01rthrottled-1000-";
        page[0] == 10 && page.windows(text.len()).any(|part| part == text)
    });
    let connection = schema::open(dir.path(), &Seal::default()).unwrap();
    let ends: (String, String, i64) = connection
        .query_row(
            "SELECT min(device), max(device), count(*) FROM throttles WHERE device > 'e'",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .unwrap();
    assert!(ends.0.starts_with("throttled-0000"), "{ends:?}");
    assert!(ends.1.starts_with("throttled-1999"), "{ends:?}");
    assert!((1_500..2_000).contains(&ends.2), "{ends:?}");
}

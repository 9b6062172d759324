//! Changes of other tables, with the events that tell of them.

use rusqlite::Connection;

use super::*;

/// Writes one row under a key, and tells of it; a key that is there already is refused.
#[derive(Debug)]
struct Put {
    key: &'static str,
    tells: u64,
    bytes: usize,
}

impl Edit for Put {
    type Answer = bool;

    fn apply(&self, tables: &Connection, now: Timestamp) -> rusqlite::Result<Edited<bool>> {
        let done = tables.execute(
            "INSERT OR IGNORE INTO requests (device, key, at, checksum, body)
             VALUES ('d', ?1, ?2, 0, x'')",
            (self.key, now.as_millis()),
        )?;
        if done == 0 {
            return Ok(Edited::nothing(false));
        }
        let Entry::Event(told) = event(self.tells, to(&[0])) else {
            unreachable!()
        };
        Ok(Edited::change(true, vec![told]))
    }

    fn cost_bytes(&self) -> usize {
        self.bytes
    }
}

fn put(key: &'static str, tells: u64) -> Put {
    Put {
        key,
        tells,
        bytes: 256,
    }
}

fn keys(handle: &Handle) -> Vec<String> {
    let listing = handle.listing().expect("the journal is read");
    let mut statement = listing
        .tables()
        .prepare("SELECT key FROM requests ORDER BY number")
        .expect("a table");
    let keys = statement.query_map([], |row| row.get(0)).expect("rows");
    keys.collect::<rusqlite::Result<_>>().expect("keys")
}

#[tokio::test]
async fn a_change_and_what_tells_of_it_are_on_disk_when_it_is_answered() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    // At once, so that several are decided in one transaction.
    let answers = tokio::join!(
        handle.edit(put("one", 1)),
        handle.edit(put("two", 2)),
        handle.edit(put("one", 3)),
    );
    assert_eq!(answers, (Ok(true), Ok(true), Ok(false)));
    let image = place.crash_image();
    let after = image.run();
    assert_eq!(keys(&after.handle()), ["one", "two"]);
    let kept = read_all(&after.handle(), 0, 0);
    let bodies: Vec<&[u8]> = kept.iter().map(|record| &record.body[..]).collect();
    assert_eq!(bodies, [&b"event 1"[..], b"event 2"]);
    assert_balanced(&after.handle().status());
    assert!(
        verify(place.dir.path())
            .expect("readable")
            .findings
            .is_empty()
    );
    after.shutdown().await.expect("an orderly end");
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_journal_without_room_refuses_what_grows_and_takes_what_does_not() {
    let mut place = Place::new(&["a"]);
    place.config.max_bytes = 4 << 20;
    let running = place.run();
    let handle = running.handle();
    let whole = Put {
        key: "large",
        tells: 1,
        bytes: 8 << 20,
    };
    assert_eq!(handle.edit(whole).await, Err(NotEdited::Full));
    assert_eq!(keys(&handle), [] as [&str; 0]);
    assert!(read_all(&handle, 0, 0).is_empty());
    let free = Put {
        bytes: 0,
        ..put("free", 1)
    };
    assert_eq!(handle.edit(free).await, Ok(true));
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn what_is_known_of_devices_is_salvaged_from_a_damaged_file() {
    let place = Place::new(&["a"]);
    let running = place.run();
    for key in ["one", "two"] {
        assert_eq!(running.handle().edit(put(key, 1)).await, Ok(true));
    }
    running.shutdown().await.expect("an orderly end");
    // One bit of the header: SQLite believes it, and the file is set aside.
    let mut bytes = std::fs::read(place.database()).expect("the file");
    bytes[18] ^= 0x40;
    std::fs::write(place.database(), bytes).expect("written");
    let (running, report) = place.run_reported();
    assert!(report.set_aside.is_some());
    assert_eq!(report.salvaged.map(|salvaged| salvaged.others), Some(2));
    assert_eq!(keys(&running.handle()), ["one", "two"]);
    running.shutdown().await.expect("an orderly end");
}

/// Changes the tables as somebody above the store would.
#[derive(Debug)]
struct Sql(String);

impl Edit for Sql {
    type Answer = ();

    fn apply(&self, tables: &Connection, _now: Timestamp) -> rusqlite::Result<Edited<()>> {
        tables.execute_batch(&self.0)?;
        Ok(Edited::change((), Vec::new()))
    }

    fn cost_bytes(&self) -> usize {
        256
    }
}

/// Writes a command with a body that says how far it is.
fn command(id: &str, phase: i64) -> Sql {
    let body = format!(
        "{{\"id\":\"{id}\",\"says\":\"{}\"}}",
        "more ".repeat(20 * usize::try_from(phase).expect("small"))
    );
    let checksum = crc32fast::hash(body.as_bytes());
    Sql(format!(
        "INSERT INTO commands (id, device, key, phase, due, checksum, body)
         VALUES ('{id}', 'd', 'key of {id}', {phase}, 5, {checksum}, CAST('{body}' AS BLOB))
         ON CONFLICT (id) DO UPDATE SET phase = {phase}, checksum = {checksum},
             body = excluded.body"
    ))
}

/// The commands, and in which phase they are.
fn phases(handle: &Handle) -> Vec<(String, i64)> {
    let listing = handle.listing().expect("the journal is read");
    let mut statement = listing
        .tables()
        .prepare("SELECT id, phase FROM commands ORDER BY number")
        .expect("a table");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.expect("rows")
        .collect::<rusqlite::Result<_>>()
        .expect("commands")
}

#[tokio::test]
async fn devices_and_commands_are_found_page_by_page_and_none_is_taken_for_queued() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    for (id, phases) in [("over", 0..=2), ("sent", 0..=1), ("queued", 0..=0)] {
        for phase in phases {
            handle.edit(command(id, phase)).await.expect("written");
        }
    }
    let (device, shadow) = (
        "{\"id\":\"d\",\"version\":1}",
        "{\"device\":\"d\",\"version\":4}",
    );
    let of = |body: &str| crc32fast::hash(body.as_bytes());
    let rows = format!(
        "INSERT INTO devices (id, user, client, online, checksum, body)
         VALUES ('d', NULL, 'c', 1, {}, CAST('{device}' AS BLOB));
         INSERT INTO shadows (device, told, checksum, body)
         VALUES ('d', 1, {}, CAST('{shadow}' AS BLOB));
         INSERT INTO requests (device, key, at, checksum, body)
         VALUES ('d', 'k', 7, {}, CAST('x' AS BLOB))",
        of(device),
        of(shadow),
        of("x"),
    );
    handle.edit(Sql(rows)).await.expect("written");
    running.shutdown().await.expect("an orderly end");
    // Without the first page SQLite finds nothing.
    let mut bytes = std::fs::read(place.database()).expect("the file");
    bytes[..4096].fill(0xA5);
    std::fs::write(place.database(), bytes).expect("written");
    let (running, report) = place.run_reported();
    assert_eq!(report.salvaged.map(|salvaged| salvaged.others), Some(6));
    let handle = running.handle();
    let expect = [("over", 2), ("sent", 1), ("queued", 3)];
    assert_eq!(
        phases(&handle),
        expect.map(|(id, phase)| (id.to_owned(), phase))
    );
    assert_eq!(keys(&handle), ["k"]);
    let known: (String, i64) = handle
        .listing()
        .expect("the journal is read")
        .tables()
        .query_row("SELECT client, told FROM devices, shadows", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("both are there");
    assert_eq!(known, ("c".to_owned(), 1));
    running.shutdown().await.expect("an orderly end");
    assert!(verify(place.dir.path()).expect("readable").is_whole());
}

/// A journal that has commits behind a damaged place of its log.
async fn damaged_log() -> Place {
    let (image, damaged_at) = with_a_log().await;
    damage_log(&image, damaged_at);
    image
}

/// Damages the checksum of a page of the log.
fn damage_log(image: &Place, at: usize) {
    let log = image.database().with_extension("db-wal");
    let mut bytes = std::fs::read(&log).expect("the log");
    bytes[at + 16] ^= 0x55;
    std::fs::write(&log, bytes).expect("written");
}

/// A journal whose commands have changed in its log, and where in that.
async fn with_a_log() -> (Place, usize) {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    for id in ["over", "sent", "queued"] {
        handle.edit(command(id, 0)).await.expect("written");
    }
    // All that is on disk so far; what follows is in the log.
    running.shutdown().await.expect("an orderly end");
    let running = place.run();
    let handle = running.handle();
    append(&handle, vec![event(1, to(&[0]))]).await;
    let damaged_at = std::fs::metadata(place.database().with_extension("db-wal"))
        .expect("the log")
        .len();
    append(&handle, vec![event(2, to(&[0]))]).await;
    for (id, phase) in [("over", 1), ("sent", 1), ("over", 2), ("new", 0)] {
        handle.edit(command(id, phase)).await.expect("written");
    }
    let image = place.crash_image();
    running.shutdown().await.expect("an orderly end");
    (image, usize::try_from(damaged_at).expect("small"))
}

#[tokio::test]
async fn where_the_state_is_found_in_the_log_alone_commands_are_in_doubt() {
    let (image, _) = with_a_log().await;
    // Behind its own first line.
    damage_log(&image, 32);
    let alone = tempfile::tempdir().expect("a directory");
    let copy = alone.path().join("copy.db");
    std::fs::copy(image.database(), &copy).expect("a copy");
    let state: Vec<u8> = Connection::open(copy)
        .and_then(|copy| copy.query_row("SELECT body FROM state", [], |row| row.get(0)))
        .expect("the state");
    let mut bytes = std::fs::read(image.database()).expect("the file");
    let mut windows = bytes.windows(state.len());
    let at = windows.position(|part| part == state).expect("it is there");
    bytes[at] ^= 1;
    std::fs::write(image.database(), bytes).expect("written");
    let (running, report) = image.run_reported();
    assert!(report.salvaged.is_some(), "{report:?}");
    // What is in the log alone is read out of its pages.
    let expect = [("over", 2), ("sent", 1), ("queued", 3), ("new", 3)];
    assert_eq!(
        phases(&running.handle()),
        expect.map(|(id, phase)| (id.to_owned(), phase))
    );
    running.shutdown().await.expect("an orderly end");
}

#[cfg(unix)]
#[tokio::test]
async fn where_there_is_no_room_for_a_copy_of_a_damaged_log_commands_are_in_doubt_all_the_same() {
    let image = damaged_log().await;
    // Nothing can be written there.
    let copy = image.database().with_extension("db.damaged-1-wal");
    std::os::unix::fs::symlink(image.dir.path().join("gone/gone"), copy).expect("a link");
    let (running, report) = image.run_reported();
    assert!(report.set_aside.is_none(), "{report:?}");
    let expect = ["over", "sent", "queued"].map(|id| (id.to_owned(), 3));
    assert_eq!(phases(&running.handle()), expect);
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_command_whose_answer_is_behind_the_damage_of_the_log_is_not_done_again() {
    let image = damaged_log().await;
    let (running, report) = image.run_reported();
    assert!(
        matches!(report.promise, Promise::Broken { .. }),
        "{report:?}"
    );
    let expect = [("over", 2), ("sent", 1), ("queued", 3), ("new", 3)];
    assert_eq!(
        phases(&running.handle()),
        expect.map(|(id, phase)| (id.to_owned(), phase))
    );
    running.shutdown().await.expect("an orderly end");
    assert!(verify(image.dir.path()).expect("readable").is_whole());
}

#[tokio::test]
async fn an_old_page_brings_no_command_back_that_sqlite_can_tell_of() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    for n in 0..200 {
        handle
            .edit(command(&format!("c{n}"), 2))
            .await
            .expect("written");
    }
    let all = "DELETE FROM commands WHERE number > 3; UPDATE commands SET phase = 1";
    handle.edit(Sql(all.to_owned())).await.expect("written");
    running.shutdown().await.expect("an orderly end");
    let mut bytes = std::fs::read(place.database()).expect("the file");
    bytes[18] ^= 0x40;
    std::fs::write(place.database(), bytes).expect("written");
    let (running, report) = place.run_reported();
    assert_eq!(report.salvaged.map(|salvaged| salvaged.others), Some(3));
    assert!(
        phases(&running.handle())
            .iter()
            .all(|(_, phase)| *phase == 1)
    );
    running.shutdown().await.expect("an orderly end");
}

/// With sealed values.
mod sealed {
    use super::sealed_too;

    #[test]
    fn a_change_and_what_tells_of_it_are_on_disk_when_it_is_answered() {
        sealed_too(super::a_change_and_what_tells_of_it_are_on_disk_when_it_is_answered);
    }

    #[test]
    fn a_journal_without_room_refuses_what_grows_and_takes_what_does_not() {
        sealed_too(super::a_journal_without_room_refuses_what_grows_and_takes_what_does_not);
    }

    #[test]
    fn what_is_known_of_devices_is_salvaged_from_a_damaged_file() {
        sealed_too(super::what_is_known_of_devices_is_salvaged_from_a_damaged_file);
    }

    #[test]
    fn devices_and_commands_are_found_page_by_page_and_none_is_taken_for_queued() {
        sealed_too(super::devices_and_commands_are_found_page_by_page_and_none_is_taken_for_queued);
    }

    #[test]
    fn where_the_state_is_found_in_the_log_alone_commands_are_in_doubt() {
        sealed_too(super::where_the_state_is_found_in_the_log_alone_commands_are_in_doubt);
    }

    #[test]
    fn where_there_is_no_room_for_a_copy_of_a_damaged_log_commands_are_in_doubt_all_the_same() {
        sealed_too(super::where_there_is_no_room_for_a_copy_of_a_damaged_log_commands_are_in_doubt_all_the_same);
    }

    #[test]
    fn a_command_whose_answer_is_behind_the_damage_of_the_log_is_not_done_again() {
        sealed_too(super::a_command_whose_answer_is_behind_the_damage_of_the_log_is_not_done_again);
    }

    #[test]
    fn an_old_page_brings_no_command_back_that_sqlite_can_tell_of() {
        sealed_too(super::an_old_page_brings_no_command_back_that_sqlite_can_tell_of);
    }
}

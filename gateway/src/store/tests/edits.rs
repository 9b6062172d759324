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

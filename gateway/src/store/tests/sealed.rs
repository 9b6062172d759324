//! A journal whose values are sealed: nothing of them is on the disk, nothing is in another
//! place than it was put, and everything else is as before.

use std::fs;

use penstock_broker::seal::{KeyId, key_of};
use rusqlite::Connection;

use super::*;

/// What no file may have.
const MARKER: &str = "marker-7f3a";

/// All that is in the data directory.
fn bytes(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(dir).expect("a directory");
    let read = |entry: Result<fs::DirEntry, _>| {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        (name, fs::read(path).expect("readable"))
    };
    files.map(read).collect()
}

/// The files in which the marker is.
fn found(dir: &Path) -> Vec<String> {
    let has = |bytes: &[u8]| {
        bytes
            .windows(MARKER.len())
            .any(|part| part == MARKER.as_bytes())
    };
    let files = bytes(dir).into_iter();
    files
        .filter(|(_, bytes)| has(bytes))
        .map(|(name, _)| name)
        .collect()
}

/// An edit that writes a body beside the journal's own tables.
#[derive(Debug)]
pub(super) struct Put;

impl Edit for Put {
    type Answer = ();

    fn apply(&self, tables: &Connection, _: Timestamp) -> rusqlite::Result<Edited<()>> {
        let body = format!("{{\"version\":1,\"of\":\"{MARKER}\"}}").into_bytes();
        for (table, columns, values, row) in [
            ("devices", "id, online", "'pump', 0", "pump"),
            (
                "commands",
                "id, device, key, phase, due",
                "'c1', 'pump', 'k', 0, 1",
                "c1",
            ),
            ("shadows", "device, told", "'pump', 0", "pump"),
            ("requests", "device, key, at", "'pump', 'k', 1", "4:pumpk"),
            ("replays", "name", "'r1'", "r1"),
        ] {
            let (checksum, stored) = seal_body(tables, table, row, body.clone())?;
            let sql = format!(
                "INSERT INTO {table} ({columns}, checksum, body) VALUES ({values}, ?1, ?2)"
            );
            tables.execute(&sql, (checksum, stored))?;
        }
        Ok(Edited::change((), Vec::new()))
    }

    fn cost_bytes(&self) -> usize {
        4_096
    }
}

/// Events, a message in quarantine, a retry, a dead letter, and bodies, each with the marker.
pub(super) async fn fill(running: &Running) {
    let handle = running.handle();
    let body = |n: u8| Bytes::from(format!("{MARKER} {n}"));
    let event = |n: u8| {
        Entry::Event(NewEvent {
            key: Key([n; 16]),
            dedup: true,
            device: "pump".into(),
            received: Timestamp::from_millis(1_000),
            routes: Routes::NONE.with(DestinationId(0)),
            body: body(n),
            original: (n == 3).then(|| NewOriginal {
                bytes: body(n),
                is_first: true,
                once: Routes::NONE,
            }),
            shed: None,
        })
    };
    let entries = (1..=9).map(event).chain([Entry::Quarantine(NewQuarantine {
        received: Timestamp::from_millis(1_000),
        client_id: "c".into(),
        topic: "t".into(),
        class: "syntax",
        reason: format!("no number at {MARKER}"),
        payload: body(0),
        properties: Some(body(1)),
    })]);
    handle
        .append(entries.collect())
        .await
        .expect("it runs")
        .await
        .expect("kept");
    let mut reader = handle.reader().expect("a reader");
    let page = reader
        .read(DestinationId(0), Position(0), 100, 1 << 20)
        .expect("read");
    let record = |n: usize| page.records[n].clone();
    let progress = Progress {
        destination: DestinationId(0),
        cursor: Position(2),
        delivered: 0,
        retried: Vec::new(),
        retry: vec![Retry {
            record: record(0),
            attempts: 1,
            first: None,
            not_before: Timestamp::from_millis(2_000),
            reason: format!("it said {MARKER}"),
        }],
        dead: vec![Dead {
            record: record(1),
            attempts: 1,
            first: None,
            reason: format!("it said {MARKER}"),
        }],
        spent: None,
    };
    handle
        .progress(progress)
        .await
        .expect("it runs")
        .await
        .expect("kept");
    handle.edit(Put).await.expect("kept");
}

/// Everything reads back.
fn is_all_there(place: &Place, seal: &Seal) {
    let listing = Listing::open(place.dir.path(), seal).expect("readable");
    // The first two are in the lists.
    for n in 3..=9 {
        let record = listing
            .record(Position(n))
            .expect("readable")
            .expect("there");
        assert!(record.body.starts_with(MARKER.as_bytes()), "{n}");
    }
    let item = listing.quarantined(1).expect("readable").expect("there");
    assert!(item.intact && item.reason.contains(MARKER), "{item:?}");
    assert!(item.payload.starts_with(MARKER.as_bytes()));
    assert!(
        item.properties
            .expect("some")
            .starts_with(MARKER.as_bytes())
    );
    let dead = listing.dead_letter(1).expect("readable").expect("there");
    assert!(!dead.damaged && dead.reason.contains(MARKER), "{dead:?}");
    for (table, row) in [
        ("devices", "id"),
        ("commands", "id"),
        ("shadows", "device"),
        ("requests", "'4:pumpk'"),
        ("replays", "name"),
    ] {
        let sql =
            format!("SELECT CAST(opened('{table}', {row}, checksum, body) AS TEXT) FROM {table}");
        let body: String = listing
            .tables()
            .query_row(&sql, [], |row| row.get(0))
            .expect(table);
        assert!(body.contains(MARKER), "{table}");
    }
    let report = super::super::verify(place.dir.path(), seal).expect("readable");
    assert!(report.is_whole(), "{report:?}");
}

async fn waiting(running: &Running) -> Retry {
    let mut reader = running.handle().reader().expect("a reader");
    let mut waiting = reader.retries(DestinationId(0), 10, 1 << 20).expect("read");
    assert_eq!(waiting.len(), 1);
    waiting.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_said_is_on_the_disk() {
    let mut place = Place::new(&["d"]);
    place.config.seal = seal();
    let running = place.run();
    fill(&running).await;
    let retry = waiting(&running).await;
    assert!(retry.reason.contains(MARKER) && retry.record.body.starts_with(MARKER.as_bytes()));
    assert_eq!(found(place.dir.path()), Vec::<String>::new());
    running.shutdown().await.expect("closed");
    assert_eq!(found(place.dir.path()), Vec::<String>::new());
    is_all_there(&place, &seal());
    // The test can fail.
    let plain = Place::new(&["d"]);
    let running = plain.run();
    fill(&running).await;
    running.shutdown().await.expect("closed");
    assert_eq!(found(plain.dir.path()), ["journal.db"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_wrong_key_is_refused_and_nothing_is_changed() {
    let mut place = Place::new(&["d"]);
    place.config.seal = seal();
    let running = place.run();
    fill(&running).await;
    running.shutdown().await.expect("closed");
    let before = bytes(place.dir.path());
    let id = operators_key(1).id();
    let other = Seal::new(&operators_key(2), &[]).expect("random bytes");
    for (wrong, words) in [
        (Seal::default(), "name it in [encryption]"),
        (other.clone(), "old_keys"),
    ] {
        place.config.seal = wrong.clone();
        let error = place.open().expect_err("the key is missing").to_string();
        assert!(
            error.contains(&id.to_string()) && error.contains(words),
            "{error}"
        );
        let error = Listing::open(place.dir.path(), &wrong).expect_err("so it is");
        assert!(matches!(error, Error::Key(_)), "{error}");
    }
    let mut after = bytes(place.dir.path());
    after.retain(|(name, _)| !name.ends_with("-shm") && !name.ends_with("-wal"));
    let mut same = before.clone();
    same.retain(|(name, _)| !name.ends_with("-shm") && !name.ends_with("-wal") && name != "lock");
    after.retain(|(name, _)| name != "lock");
    assert_eq!(after, same);

    // A file whose first page is gone says nothing of its keys, and its rows still do.
    let mut damaged = fs::read(place.database()).expect("the file");
    damaged[..4_096].fill(0x5a);
    fs::write(place.database(), &damaged).expect("written");
    place.config.seal = other;
    let error = place.open().expect_err("the key is another");
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    assert_eq!(fs::read(place.database()).expect("the file"), damaged);
    place.config.seal = seal();
    let (running, report) = place.run_reported();
    assert_eq!(report.salvaged.expect("salvaged").events, 9);
    running.shutdown().await.expect("closed");
    assert_eq!(found(place.dir.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_and_sealed_values_lie_together_and_are_brought_under_one_key() {
    let mut place = Place::new(&["d"]);
    let running = place.run();
    fill(&running).await;
    running.shutdown().await.expect("closed");
    // What was there stays plain; what is new is not.
    place.config.seal = seal();
    let running = place.run();
    running
        .handle()
        .append(vec![Entry::Event(NewEvent {
            key: Key([77; 16]),
            dedup: true,
            device: "pump".into(),
            received: Timestamp::from_millis(1_000),
            routes: Routes::NONE.with(DestinationId(0)),
            body: Bytes::from_static(b"second"),
            original: None,
            shed: None,
        })])
        .await
        .expect("it runs")
        .await
        .expect("kept");
    let error = reseal(place.dir.path(), &seal(), || Ok(()), || Ok::<_, Error>(()))
        .expect_err("a gateway runs");
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    running.shutdown().await.expect("closed");
    is_all_there(&place, &seal());
    let tally = tally_sealed(place.dir.path())
        .expect("readable")
        .expect("there");
    // Seven events, two copies with reasons, three values of a message, five bodies.
    assert_eq!((tally.plain, tally.sealed.len()), (19, 1), "{tally}");

    let dir = place.dir.path().to_owned();
    let bring = |seal: &Seal| {
        let done = reseal(&dir, seal, || Ok(()), || Ok::<_, Error>(())).expect("resealed");
        assert_eq!(done.damaged, 0);
        done.changed
    };
    let database = place.database();
    let keys = || {
        let connection = Connection::open(&database).expect("the file");
        penstock_broker::seal::noted(&connection)
            .expect("read")
            .into_iter()
            .map(|(id, _)| id)
            .collect::<Vec<KeyId>>()
    };
    assert_eq!(bring(&seal()), 17);
    assert_eq!(found(place.dir.path()), Vec::<String>::new());
    assert_eq!(bring(&seal()), 0);
    // Another key: the old one is needed until everything is under the new one.
    let both = Seal::new(&operators_key(2), &[operators_key(1)]).expect("random bytes");
    assert_eq!(bring(&both), 18);
    assert_eq!(keys(), [operators_key(2).id()]);
    let only = Seal::new(&operators_key(2), &[]).expect("random bytes");
    is_all_there(&place, &only);
    place.config.seal = only.clone();
    let running = place.run();
    assert!(waiting(&running).await.reason.contains(MARKER));
    running.shutdown().await.expect("closed");
    // And none.
    assert_eq!(bring(&only.without_sealing()), 18);
    assert_eq!(keys(), []);
    is_all_there(&place, &Seal::default());
    place.config.seal = Seal::default();
    let running = place.run();
    assert!(waiting(&running).await.reason.contains(MARKER));
    running.shutdown().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_moved_to_another_row_is_damage_and_counted() {
    let mut place = Place::new(&["d"]);
    place.config.seal = seal();
    let running = place.run();
    fill(&running).await;
    running.shutdown().await.expect("closed");
    // Whoever does this knows about checksums.
    let disk = Connection::open(place.database()).expect("the file");
    let frame = |n: i64| -> Vec<u8> {
        let sql = "SELECT frame FROM events WHERE position = ?1";
        disk.query_row(sql, [n], |row| row.get(0)).expect("there")
    };
    let (five, six) = (frame(5), frame(6));
    assert!(key_of(&five[20..]).is_some());
    for (n, other, of) in [(5, &six, &five), (6, &five, &six)] {
        let mut scratch = Vec::new();
        super::super::frame::write(
            &mut scratch,
            &Seal::default(),
            Position(n),
            Routes::NONE.with(DestinationId(0)),
            Timestamp::from_millis(1_000),
            Key(of[4..20].try_into().expect("a key")),
            &[],
        );
        // The body of the other one, and a checksum that is right.
        scratch.truncate(20);
        scratch.extend_from_slice(&other[20..]);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&n.to_le_bytes());
        hasher.update(&Routes::NONE.with(DestinationId(0)).0.to_le_bytes());
        hasher.update(&Timestamp::from_millis(1_000).as_nanos().to_le_bytes());
        hasher.update(&scratch[4..]);
        scratch[..4].copy_from_slice(&hasher.finalize().to_le_bytes());
        disk.execute(
            "UPDATE events SET frame = ?2 WHERE position = ?1",
            (n.cast_signed(), &scratch),
        )
        .expect("moved");
    }
    disk.execute_batch(
        "UPDATE commands SET (checksum, body) = (SELECT checksum, body FROM devices)",
    )
    .expect("moved");
    drop(disk);
    let report = verify(place.dir.path()).expect("readable");
    assert_eq!(report.damaged, 3, "{report:?}");
    let running = place.run();
    let handle = running.handle();
    let mut reader = handle.reader().expect("a reader");
    let page = reader
        .read(DestinationId(0), Position(2), 100, 1 << 20)
        .expect("read");
    let positions: Vec<_> = page
        .records
        .iter()
        .map(|record| record.position.0)
        .collect();
    assert_eq!(positions, [3, 4, 7, 8, 9]);
    handle
        .progress(Progress {
            destination: DestinationId(0),
            cursor: page.scanned_to,
            delivered: 5,
            retried: Vec::new(),
            retry: Vec::new(),
            dead: Vec::new(),
            spent: None,
        })
        .await
        .expect("it runs")
        .await
        .expect("kept");
    assert_eq!(handle.status().destinations[0].damaged, 2);
    // What is kept of it opens for nobody, and stands in nobody's way, whatever key comes.
    running.shutdown().await.expect("closed");
    let both = Seal::new(&operators_key(2), &[operators_key(1)]).expect("random bytes");
    let done = reseal(place.dir.path(), &both, || Ok(()), || Ok::<_, Error>(())).expect("resealed");
    assert_eq!(done.damaged, 3);
    let only = Seal::new(&operators_key(2), &[]).expect("random bytes");
    let listing = Listing::open(place.dir.path(), &only).expect("readable");
    let letters = listing.dead_letters(None, 0, 10).expect("readable");
    assert_eq!(
        letters.iter().filter(|letter| letter.damaged).count(),
        letters.len() - 1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_number_of_a_key_is_damage_of_that_value_alone() {
    let mut place = Place::new(&["d"]);
    place.config.seal = seal();
    let running = place.run();
    fill(&running).await;
    running.shutdown().await.expect("closed");
    let disk = Connection::open(place.database()).expect("the file");
    for table in ["retry", "dead_letters"] {
        let sql = format!(
            "UPDATE {table} SET reason = substr(reason, 1, 11) || 'zz' || substr(reason, 14)"
        );
        assert_eq!(disk.execute(&sql, []).expect("flipped"), 1);
    }
    drop(disk);
    let running = place.run();
    // The record goes, whatever was said of it before.
    let retry = waiting(&running).await;
    assert!(retry.record.body.starts_with(MARKER.as_bytes()));
    assert!(!retry.reason.contains(MARKER));
    let letters = running.handle().listing().expect("readable");
    assert_eq!(
        letters.dead_letters(None, 0, 10).expect("readable").len(),
        1
    );
    running.shutdown().await.expect("closed");
    let done =
        reseal(place.dir.path(), &seal(), || Ok(()), || Ok::<_, Error>(())).expect("it ends");
    assert_eq!(done.damaged, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_opened_is_never_sorted_on_a_disk() {
    let mut place = Place::new(&["d"]);
    place.config.seal = seal();
    let running = place.run();
    let listing = running.handle().listing().expect("readable");
    let kept: i64 = listing
        .tables()
        .query_row("PRAGMA temp_store", [], |row| row.get(0))
        .expect("read");
    assert_eq!(kept, 2);
    running.shutdown().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_that_a_killed_reseal_left_evicts_nothing() {
    let mut place = Place::new(&["d"]);
    place.config.on_full = OnFull::DropOldest;
    place.config.max_bytes = 8 << 20;
    let running = place.run();
    for first in (1..=600).step_by(50) {
        let entries = (first..first + 50).map(|n| {
            let Entry::Event(event) = event(n, to(&[0])) else {
                unreachable!("it is an event")
            };
            Entry::Event(NewEvent {
                body: vec![b'x'; 4_000].into(),
                ..event
            })
        });
        append(&running.handle(), entries.collect()).await;
    }
    running.shutdown().await.expect("closed");
    let disk = Connection::open(place.database()).expect("the file");
    disk.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0")
        .expect("a log");
    for _ in 0..3 {
        disk.execute_batch("VACUUM").expect("written");
    }
    let killed = place.crash_image();
    drop(disk);
    let log = fs::metadata(killed.database().with_extension("db-wal")).expect("the log");
    assert!(log.len() > place.config.max_bytes / 2, "{}", log.len());
    let running = killed.run();
    append(&running.handle(), vec![event(9_999, to(&[0]))]).await;
    assert_eq!(running.handle().status().destinations[0].evicted, 0);
    running.shutdown().await.expect("closed");
}

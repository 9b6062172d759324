//! Damaged journals whose keys cannot be read, under the wrong key; and damaged values that
//! were never sealed.

use std::fs;

use rusqlite::Connection;

use super::{
    sealed::{Put, fill},
    *,
};

/// What the journal has, and nothing else that is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    DeadLetter,
    Quarantine,
    Devices,
}

async fn keep(running: &Running, only: Only) {
    let handle = running.handle();
    match only {
        Only::Quarantine => {
            append(&handle, vec![broken(0)]).await;
        }
        Only::Devices => handle.edit(Put).await.expect("kept"),
        Only::DeadLetter => {
            append(&handle, vec![event(1, to(&[0]))]).await;
            let mut reader = handle.reader().expect("a reader");
            let page = reader
                .read(DestinationId(0), Position(0), 10, 1 << 20)
                .expect("read");
            let progress = Progress {
                destination: DestinationId(0),
                cursor: Position(1),
                delivered: 0,
                retried: Vec::new(),
                retry: Vec::new(),
                dead: vec![Dead {
                    record: page.records[0].clone(),
                    attempts: 1,
                    first: None,
                    reason: "no".into(),
                }],
                spent: None,
            };
            settle(&handle, progress).await;
            until(&handle, |s| s.buffered == 0).await;
        }
    }
}

/// The page of a table.
fn page_of(database: &Path, table: &str) -> usize {
    let disk = Connection::open(database).expect("the file");
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let page: i64 = disk
        .query_row(sql, [table], |row| row.get(0))
        .expect("there");
    usize::try_from(page).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_not_salvaged_under_the_wrong_key_either() {
    for only in [Only::Quarantine, Only::DeadLetter, Only::Devices] {
        // The first page, and then there is nothing but pages; or that of the keys.
        for page in [None, Some("keys")] {
            let mut place = Place::new(&["d"]);
            place.config.seal = seal();
            let running = place.run();
            keep(&running, only).await;
            running.shutdown().await.expect("closed");
            let page = page.map_or(1, |table| page_of(&place.database(), table));
            let mut damaged = fs::read(place.database()).expect("the file");
            damaged[(page - 1) * 4_096..page * 4_096].fill(0x5a);
            fs::write(place.database(), &damaged).expect("written");
            for wrong in [
                Seal::default(),
                Seal::new(&operators_key(2), &[]).expect("random bytes"),
            ] {
                place.config.seal = wrong;
                let error = place.open().expect_err("the key is another").to_string();
                let id = operators_key(1).id().to_string();
                assert!(error.contains(&id), "{only:?}, page {page}: {error}");
                assert_eq!(fs::read(place.database()).expect("the file"), damaged);
            }
            place.config.seal = seal();
            let (running, report) = place.run_reported();
            let salvaged = report.salvaged.expect("salvaged");
            let found = match only {
                Only::Quarantine => salvaged.quarantined,
                Only::DeadLetter => salvaged.dead_letters,
                Only::Devices => salvaged.others,
            };
            assert!(found > 0, "{only:?}, page {page}: {salvaged:?}");
            running.shutdown().await.expect("closed");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_and_plain_is_counted_as_such_before_and_after_a_reseal() {
    let place = Place::new(&["d"]);
    let running = place.run();
    fill(&running).await;
    running.shutdown().await.expect("closed");
    let disk = Connection::open(place.database()).expect("the file");
    for flip in [
        "UPDATE events SET frame = substr(frame, 1, 30) || x'00' || substr(frame, 32)
         WHERE position = 5",
        "UPDATE quarantine SET payload = x'00'",
        "UPDATE devices SET body = x'00'",
    ] {
        assert_eq!(disk.execute(flip, []).expect("flipped"), 1);
    }
    drop(disk);
    let tally = || {
        let tally = tally_sealed(place.dir.path()).expect("readable");
        tally.expect("there")
    };
    // Of the message in quarantine all three values: they have one checksum.
    assert_eq!(tally().damaged, 5, "{}", tally());
    let done = reseal(place.dir.path(), &seal(), || Ok(()), || Ok::<_, Error>(()));
    let done = done.expect("it ends");
    assert_eq!((done.damaged, done.plain), (3, 3));
    assert_eq!((tally().plain, tally().damaged), (5, 5));
    assert!(
        tally()
            .to_string()
            .starts_with("5 plain (5 of them damaged"),
        "{}",
        tally()
    );
    // What is sealed and damaged is not plain.
    let disk = Connection::open(place.database()).expect("the file");
    let flip = "UPDATE events SET frame = substr(frame, 1, 70) || x'0000' || substr(frame, 73)
         WHERE position = 6";
    assert_eq!(disk.execute(flip, []).expect("flipped"), 1);
    drop(disk);
    let both = Seal::new(&operators_key(2), &[operators_key(1)]).expect("random bytes");
    let done = reseal(place.dir.path(), &both, || Ok(()), || Ok::<_, Error>(()));
    let done = done.expect("it ends");
    assert_eq!((done.damaged, done.plain), (4, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reseal_that_may_not_begin_changes_nothing() {
    let place = Place::new(&["d"]);
    let running = place.run();
    fill(&running).await;
    running.shutdown().await.expect("closed");
    let before = fs::read(place.database()).expect("the file");
    let no = || Err(Error::Damaged("no room".into()));
    let error = reseal(place.dir.path(), &seal(), no, || {
        panic!("it begins with others")
    });
    assert!(
        error
            .expect_err("it may not")
            .to_string()
            .contains("no room")
    );
    assert_eq!(fs::read(place.database()).expect("the file"), before);
}

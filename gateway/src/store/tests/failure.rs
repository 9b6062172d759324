//! Commits that fail for other reasons than want of room.

use super::*;
use crate::store::job::Outcome;

struct Driven {
    store: Store,
    _place: Place,
}

impl Driven {
    fn new() -> Self {
        let place = Place::new(&["a"]);
        let (mut store, _) = place.open().expect("opens");
        store.writer.load_keys().expect("keys");
        Self {
            store,
            _place: place,
        }
    }

    /// One commit with one group; `None` where nobody learns what became of it.
    fn append(&mut self, entries: Vec<Entry>) -> Result<Option<Vec<Appended>>, Failure> {
        let (reply, mut outcome) = oneshot::channel();
        let work = Work::Append {
            entries,
            retry_of: None,
            turn: None,
            spare: false,
        };
        let mut batch = vec![Job {
            work,
            reply,
            room: None,
        }];
        self.store.writer.commit(&mut batch)?;
        match outcome.try_recv() {
            Ok(Outcome::Appended(appended)) => Ok(Some(appended)),
            _ => Ok(None),
        }
    }

    fn set(&self, pragma: &str, value: i64) {
        let connection = &self.store.writer.connection;
        connection
            .query_row(&format!("PRAGMA {pragma} = {value}"), [], |_| Ok(()))
            .or_else(|error| match error {
                rusqlite::Error::QueryReturnedNoRows => Ok(()),
                error => Err(error),
            })
            .expect("set");
    }

    fn pages(&self) -> i64 {
        let connection = &self.store.writer.connection;
        let pages = connection.query_row("PRAGMA page_count", [], |row| row.get(0));
        pages.expect("counted")
    }
}

#[test]
fn a_failed_commit_leaves_nothing_behind_and_its_resend_is_kept() {
    let mut driven = Driven::new();
    driven.set("query_only", 1);
    assert_eq!(driven.append(vec![event(1, to(&[0])), broken(1)]), Ok(None));
    assert!(
        driven.store.writer.window.is_empty(),
        "the key left the window"
    );
    driven.set("query_only", 0);
    let appended = driven.append(vec![event(1, to(&[0])), broken(1)]);
    let expected = vec![Appended::Stored(Position(1)), Appended::Quarantined(1)];
    assert_eq!(appended, Ok(Some(expected)));
    let status = driven.store.handle().status();
    assert_balanced(&status);
    assert_eq!((status.accepted, status.destinations[0].routed), (2, 1));
}

#[test]
fn a_journal_that_cannot_be_written_says_so_and_gives_up() {
    let mut driven = Driven::new();
    driven.set("query_only", 1);
    assert_eq!(driven.append(vec![event(1, to(&[0]))]), Ok(None));
    assert_eq!(driven.append(vec![event(1, to(&[0]))]), Ok(None));
    let failure = driven.append(vec![event(1, to(&[0]))]).expect_err("enough");
    assert!(
        failure.to_string().contains("cannot be written"),
        "{failure}"
    );
}

#[tokio::test]
async fn everybody_hears_when_the_writer_gives_up() {
    let Driven { store, _place } = Driven::new();
    let query_only = "PRAGMA query_only = 1";
    store
        .writer
        .connection
        .execute_batch(query_only)
        .expect("set");
    let running = store.run().expect("a thread");
    let handle = running.handle();
    let mut lost = 0;
    while let Ok(receipt) = handle.append(vec![event(1, to(&[0]))]).await {
        assert!(receipt.await.is_err(), "nothing was kept");
        lost += 1;
    }
    assert!(lost >= 3, "{lost}");
    assert!(handle.closed().await.is_some());
    assert!(running.shutdown().await.is_err());
}

#[test]
fn a_transaction_that_fills_the_disk_is_turned_away_whole_and_kept_when_there_is_room() {
    let mut driven = Driven::new();
    let group =
        |from: u64| -> Vec<Entry> { (from..from + 500).map(|n| event(n, to(&[0]))).collect() };
    assert!(driven.append(group(0)).expect("goes on").is_some());
    driven.set("max_page_count", driven.pages() + 2);
    assert_eq!(
        driven.append(group(500)),
        Ok(Some(vec![Appended::Full; 500]))
    );
    let status = driven.store.handle().status();
    assert!(status.full);
    assert_eq!((status.stored, status.refused_full), (500, 500));
    assert_eq!(
        driven.store.writer.window.len(),
        500,
        "what was turned away is not remembered"
    );
    assert_balanced(&status);
    driven.set("max_page_count", 1 << 30);
    driven.store.writer.room.take_reserve();
    driven.store.writer.forget_hold();
    let appended = driven
        .append(group(500))
        .expect("goes on")
        .expect("answered");
    assert!(
        appended.iter().all(|a| matches!(a, Appended::Stored(_))),
        "{appended:?}"
    );
    assert!(!driven.store.handle().status().full);
}

#[tokio::test]
async fn while_progress_finds_no_room_appends_are_answered_and_the_end_comes() {
    let mut driven = Driven::new();
    assert!(driven.append(vec![event(1, to(&[0]))]).is_ok());
    driven.set("max_page_count", driven.pages());
    let Driven { store, _place } = driven;
    let running = store.run().expect("a thread");
    let handle = running.handle();
    let mut record = read_all(&handle, 0, 0).remove(0);
    record.body = Bytes::from(vec![7; 200_000]);
    let retry = Retry {
        first: None,
        record,
        attempts: 1,
        not_before: Timestamp::from_millis(0),
        reason: "later".into(),
    };
    let progress = Progress {
        retry: vec![retry],
        ..delivered(0, 1, 0)
    };
    let progress = handle.progress(progress).await.expect("open");
    until(&handle, |s| s.full).await;
    for n in 2..5 {
        assert_eq!(
            append(&handle, vec![event(n, to(&[0]))]).await,
            [Appended::Full]
        );
    }
    running.shutdown().await.expect("an orderly end");
    assert!(progress.await.is_err(), "it was not kept");
}

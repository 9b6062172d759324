//! A file whose frames are sealed.

use rusqlite::Connection;

use super::*;
use crate::{
    keep::{Error, reseal, tally},
    seal::{Key, Seal, key_of},
};

const MARKER: &str = "marker-7f3a";

fn key(n: u8) -> Key {
    Key::parse(format!("{n:02x}").repeat(32).as_bytes()).unwrap()
}

fn sealed(dir: &Path, seal: &Seal) -> Config {
    Config {
        seal: seal.clone(),
        ..config(dir)
    }
}

/// Something in a queue, and something retained.
async fn fill(running: &Running) {
    let session = running.enter("away", false).await.session;
    running.subscribe(session, "t", QoS::AtLeastOnce).await;
    running.leave(session, 0).await;
    for n in 1..=3 {
        let text = format!("{MARKER} {n}");
        let message = running.message("t", &text, QoS::AtLeastOnce, n == 3);
        assert!(running.publish(message).await);
    }
}

/// Whether the marker is in any file.
fn is_found(dir: &Path) -> bool {
    let mut files = std::fs::read_dir(dir).unwrap();
    files.any(|entry| {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        bytes
            .windows(MARKER.len())
            .any(|part| part == MARKER.as_bytes())
    })
}

/// All of it is there.
async fn is_all_there(dir: &Path, seal: &Seal) {
    let running = open(sealed(dir, seal));
    let entered = running.enter("away", false).await;
    let expect: Vec<String> = (1..=3).map(|n| format!("{MARKER} {n}")).collect();
    assert_eq!(texts(&entered), expect);
    running.leave(entered.session, 0).await;
    assert_eq!(running.keeper.shared().retained.all().len(), 1);
    assert_eq!(running.counters.kept_damaged.get(), 0);
    running.keeper.close().await;
}

#[tokio::test]
async fn nothing_of_messages_is_in_a_sealed_file_and_all_of_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Seal::new(&key(1), &[]).unwrap();
    let running = open(sealed(dir.path(), &ours));
    fill(&running).await;
    assert!(!is_found(dir.path()));
    running.keeper.close().await;
    assert!(!is_found(dir.path()));
    is_all_there(dir.path(), &ours).await;
    // The test can fail.
    let plain = tempfile::tempdir().unwrap();
    let running = open(config(plain.path()));
    fill(&running).await;
    running.keeper.close().await;
    assert!(is_found(plain.path()));
}

#[tokio::test]
async fn without_the_key_nothing_is_opened_and_nothing_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(sealed(dir.path(), &Seal::new(&key(1), &[]).unwrap()));
    fill(&running).await;
    running.keeper.close().await;
    for wrong in [Seal::default(), Seal::new(&key(2), &[]).unwrap()] {
        let budget = Arc::new(Budget::of(1 << 20));
        let opened = Keeper::open(sealed(dir.path(), &wrong), Arc::default(), budget);
        assert!(matches!(opened, Err(Error::Key(_))));
    }
    assert!(!dir.path().join("broker.db.damaged-1").is_file());
    is_all_there(dir.path(), &Seal::new(&key(2), &[key(1)]).unwrap()).await;
}

#[tokio::test]
async fn a_frame_in_the_place_of_another_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Seal::new(&key(1), &[]).unwrap();
    let running = open(sealed(dir.path(), &ours));
    fill(&running).await;
    running.keeper.close().await;
    let database = Connection::open(dir.path().join("broker.db")).unwrap();
    let moved = "UPDATE messages SET (checksum, frame) =
        (SELECT checksum, frame FROM messages WHERE id = 2) WHERE id = 1";
    assert_eq!(database.execute(moved, []).unwrap(), 1);
    let frame: Vec<u8> = database
        .query_row("SELECT frame FROM messages WHERE id = 1", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert!(key_of(&frame).is_some());
    drop(database);
    let running = open(sealed(dir.path(), &ours));
    let entered = running.enter("away", false).await;
    assert_eq!(texts(&entered), [2, 3].map(|n| format!("{MARKER} {n}")));
    assert_eq!(running.counters.kept_damaged.get(), 1);
}

#[tokio::test]
async fn a_file_is_brought_under_a_key_under_another_and_under_none() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    fill(&running).await;
    assert!(matches!(tally(dir.path()), Err(Error::InUse)));
    assert!(matches!(
        reseal(dir.path(), &Seal::default()),
        Err(Error::InUse)
    ));
    running.keeper.close().await;
    let first = Seal::new(&key(1), &[]).unwrap();
    assert_eq!(reseal(dir.path(), &first).unwrap().changed, 4);
    assert!(!is_found(dir.path()));
    is_all_there(dir.path(), &first).await;
    let both = Seal::new(&key(2), &[key(1)]).unwrap();
    assert_eq!(reseal(dir.path(), &both).unwrap().changed, 4);
    assert_eq!(reseal(dir.path(), &both).unwrap().changed, 0);
    let second = Seal::new(&key(2), &[]).unwrap();
    is_all_there(dir.path(), &second).await;
    let counted = tally(dir.path()).unwrap().unwrap();
    assert_eq!(
        (counted.plain, counted.sealed[&key(2).id().to_string()]),
        (0, 4)
    );
    assert_eq!(
        reseal(dir.path(), &second.without_sealing())
            .unwrap()
            .changed,
        4
    );
    is_all_there(dir.path(), &Seal::default()).await;
    // What queues take is counted by what lies there.
    let running = open(config(dir.path()));
    let entered = running.enter("away", false).await;
    let items = drain(&entered);
    running
        .done(
            entered.session,
            items.iter().map(|item| item.position).collect(),
        )
        .await;
    assert_eq!(running.counters.queued_messages.get(), 0);
    assert_eq!(running.counters.queued_bytes.get(), 0);
}

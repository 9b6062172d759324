//! The file: damaged, of a later version, after a long time.

use rusqlite::Connection;

use super::{desk::Desk, *};
use crate::keep::{Error, Refused};

async fn one_queued(running: &Running) {
    let session = running.enter("away", false).await.session;
    running.subscribe(session, "t", QoS::AtLeastOnce).await;
    running.leave(session, 0).await;
    let message = running.message("t", "1", QoS::AtLeastOnce, true);
    assert!(running.publish(message).await);
}

/// Does something to the file while nobody uses it.
async fn change(running: Running, dir: &Path, change: impl FnOnce(&Connection)) {
    running.keeper.close().await;
    let database = Connection::open(dir.join("broker.db")).unwrap();
    change(&database);
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_broker_starts() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    one_queued(&running).await;
    running.keeper.close().await;
    let path = dir.path().join("broker.db");
    let mut bytes = std::fs::read(&path).unwrap();
    for byte in &mut bytes[4096..8192] {
        *byte ^= 0x5A;
    }
    std::fs::write(&path, bytes).unwrap();
    let running = open(config(dir.path()));
    assert_eq!(running.counters.keep_set_aside.get(), 1);
    assert!(dir.path().join("broker.db.damaged-1").try_exists().unwrap());
    assert!(!running.enter("away", false).await.present);
    one_queued(&running).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_set_aside_too() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("broker.db"), vec![7; 10_000]).unwrap();
    let running = open(config(dir.path()));
    assert_eq!(running.counters.keep_set_aside.get(), 1);
    one_queued(&running).await;
}

#[tokio::test]
async fn a_flipped_byte_costs_its_own_message_only() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    one_queued(&running).await;
    let message = running.message("t", "2", QoS::AtLeastOnce, false);
    assert!(running.publish(message).await);
    change(running, dir.path(), |database| {
        let flip =
            "UPDATE messages SET frame = CAST(substr(frame, 1, length(frame) - 1) || '9' AS BLOB)
                    WHERE id = (SELECT min(id) FROM messages)";
        assert_eq!(database.execute(flip, []).unwrap(), 1);
    })
    .await;
    let running = open(config(dir.path()));
    let entered = running.enter("away", false).await;
    assert_eq!(texts(&entered), ["2"]);
    assert_eq!(running.counters.kept_damaged.get(), 1);
    assert_eq!(running.counters.queued_messages.get(), 1);
}

#[tokio::test]
async fn a_file_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    change(running, dir.path(), |database| {
        database.pragma_update(None, "user_version", 99).unwrap();
    })
    .await;
    let opened = Keeper::open(
        config(dir.path()),
        Arc::default(),
        Arc::new(Budget::of(1 << 20)),
    );
    assert!(matches!(opened, Err(Error::LaterVersion { found: 99, .. })));
}

#[tokio::test]
async fn time_in_which_nothing_ran_counts_unless_the_clock_cannot_be_right() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    for client in ["old", "booted in 1970", "set back", "young"] {
        let session = running.enter(client, false).await.session;
        running.leave(session, 0).await;
    }
    change(running, dir.path(), |database| {
        let set = |client: &str, to: &str| {
            let sql = format!("UPDATE sessions SET ended_ms = {to} WHERE client = ?1");
            assert_eq!(database.execute(&sql, [client]).unwrap(), 1);
        };
        set("old", "ended_ms - 2000000");
        set("booted in 1970", "5000");
        set("set back", "ended_ms + 2000000");
        set("young", "ended_ms - 100000");
    })
    .await;
    let running = open(config(dir.path()));
    // It goes with the first commit.
    running.enter("another", false).await;
    assert!(!running.keeper.shared().knows("old"));
    for client in ["booted in 1970", "set back", "young"] {
        assert!(running.keeper.shared().knows(client), "{client}");
    }
    assert_eq!(running.counters.sessions_expired.get(), 1);
}

#[tokio::test]
async fn tables_that_are_not_ours_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    one_queued(&running).await;
    change(running, dir.path(), |database| {
        database
            .execute_batch("ANALYZE; CREATE TABLE mine (a)")
            .unwrap();
    })
    .await;
    let running = open(config(dir.path()));
    assert_eq!(running.counters.keep_set_aside.get(), 0);
    assert!(running.enter("away", false).await.present);
    change(running, dir.path(), |database| {
        database.execute_batch("DROP TABLE wills").unwrap();
    })
    .await;
    let running = open(config(dir.path()));
    assert_eq!(running.counters.keep_set_aside.get(), 1);
}

#[tokio::test]
async fn nobody_else_has_the_file_open() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    one_queued(&running).await;
    let path = dir.path().join("broker.db");
    let other = Connection::open(&path).unwrap();
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    let sessions = "SELECT count(*) FROM sessions";
    let read = other.query_row(sessions, [], |row| row.get::<_, i64>(0));
    assert!(read.is_err());
    running.keeper.close().await;
    let read = other.query_row(sessions, [], |row| row.get::<_, i64>(0));
    assert_eq!(read, Ok(1));
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let opened = Keeper::open(
        config(dir.path()),
        Arc::default(),
        Arc::new(Budget::of(1 << 20)),
    );
    assert!(matches!(opened, Err(Error::InUse)), "{opened:?}");
    drop(other);
    assert!(open(config(dir.path())).enter("away", false).await.present);
}

#[tokio::test]
async fn damaged_messages_hide_none_behind_them() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    one_queued(&running).await;
    for n in 2..=40 {
        let message = running.message("t", &n.to_string(), QoS::AtLeastOnce, false);
        assert!(running.publish(message).await);
    }
    change(running, dir.path(), |database| {
        let flip = "UPDATE messages SET checksum = checksum + 1 WHERE id <= 20";
        assert_eq!(database.execute(flip, []).unwrap(), 20);
    })
    .await;
    let running = open(config(dir.path()));
    let entered = running.enter("away", false).await;
    let mut got = texts(&entered);
    let message = running.message("t", "41", QoS::AtLeastOnce, false);
    assert!(running.publish(message).await);
    got.extend(texts(&entered));
    while entered.feed.wants_more() {
        let turn = Turn {
            page: true,
            ..Turn::default()
        };
        running.keeper.turn(entered.session, turn).await.unwrap();
        got.extend(texts(&entered));
    }
    let expect: Vec<_> = (21..=41).map(|n| n.to_string()).collect();
    assert_eq!(got, expect);
    assert_eq!(running.counters.kept_damaged.get(), 20);
}

#[tokio::test]
async fn a_message_goes_on_growing_old_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    let publish = Publish {
        topic: Arc::from("t"),
        payload: Bytes::from_static(b"1"),
        qos: QoS::AtLeastOnce,
        retain: true,
        dup: false,
        properties: Some(Arc::new(crate::publish::Properties {
            message_expiry_secs: Some(1000),
            ..Default::default()
        })),
        delivery: None,
    };
    let clock = running.keeper.shared().clock;
    let message = Message::new(&publish, 0, clock.now_ms(), 0, &running.budget);
    assert!(running.publish(message).await);
    let session = running.enter("away", false).await.session;
    // Retained for some time before somebody subscribes to it.
    while clock.now_ms() < 1_500 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    running.subscribe(session, "t", QoS::AtLeastOnce).await;
    running.leave(session, 0).await;
    let items = drain(&running.enter("away", false).await);
    let left = items[0].message.as_ref().unwrap().expiry_secs().unwrap();
    assert!(left < 1000, "{left} s are left");
}

/// Not that there is no room: there is, in the new file.
#[test]
fn who_connects_when_damage_is_met_hears_that_sessions_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    let damage = "PRAGMA writable_schema = ON;
        UPDATE sqlite_schema SET sql = 'no SQL' WHERE name = 'retained';
        PRAGMA writable_schema = RESET;";
    // The schema is read again, and cannot be.
    drop(desk.writer.connection.execute_batch(damage));
    assert_eq!(desk.enter("d", None).err(), Some(Refused::Gone));
    assert_eq!(desk.counters().keep_set_aside.get(), 1);
    assert!(desk.enter("d", None).is_ok());
}

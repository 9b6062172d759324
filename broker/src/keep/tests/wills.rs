//! Wills: on disk from CONNECT until they were published.

use rusqlite::Connection;

use super::*;
use crate::keep::{
    KeptWill,
    will::{CALL_OFF, LAST},
};

/// Connects with a will, to a session that lasts `expiry_secs` longer.
async fn connect(running: &Running, client: &str, expiry_secs: u32) -> SessionId {
    let will = running.message("will", client, QoS::AtLeastOnce, false);
    let enter = Enter {
        client: Arc::from(client),
        user: Some(Arc::from("user")),
        clean: false,
        expiry_secs,
        outbox: Arc::new(Outbox::new(1 << 20, 64, &running.budget)),
        will: Some((will, expiry_secs.min(60))),
    };
    running.keeper.enter(enter).await.unwrap().session
}

/// The same, and is cut off.
async fn cut_off(running: &Running, client: &str, expiry_secs: u32) -> SessionId {
    let session = connect(running, client, expiry_secs).await;
    let leave = Leave {
        session,
        sent: 0,
        expiry_secs: None,
        forget_will: false,
    };
    running.keeper.leave(leave).await.unwrap();
    session
}

fn whose(wills: &[KeptWill]) -> Vec<(&str, Option<&str>, bool)> {
    let one = |will: &KeptWill| will.due_in_ms == 0;
    wills
        .iter()
        .map(|will| (&*will.client, will.user.as_deref(), one(will)))
        .collect()
}

#[tokio::test]
async fn a_will_outlasts_a_session_that_expired_while_nothing_ran() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    cut_off(&running, "d", 60).await;
    running.keeper.close().await;
    let database = Connection::open(dir.path().join("broker.db")).unwrap();
    for sql in [
        "UPDATE sessions SET ended_ms = ended_ms - 300000",
        "UPDATE wills SET due_ms = due_ms - 300000",
    ] {
        assert_eq!(database.execute(sql, []).unwrap(), 1);
    }
    drop(database);
    let running = open(config(dir.path()));
    // The session goes with the first commit.
    running.enter("another", false).await;
    assert!(!running.keeper.shared().knows("d"));
    let wills = running.keeper.wills().await.unwrap();
    assert_eq!(whose(&wills), [("d", Some("user"), true)]);
}

#[tokio::test]
async fn a_will_stays_until_it_was_published_also_without_its_session() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    let keeper = &running.keeper;
    let at_once = cut_off(&running, "at once", 0).await;
    cut_off(&running, "removed", 60).await;
    assert!(keeper.remove(Arc::from("removed")).await.unwrap());
    let wills = keeper.wills().await.unwrap();
    let expect = [
        ("at once", Some("user"), true),
        ("removed", Some("user"), true),
    ];
    assert_eq!(whose(&wills), expect);

    let will = keeper.due_will(at_once).await.unwrap().unwrap();
    assert!(keeper.is_will_due(will).await.unwrap());
    keeper.wills_are_over(vec![will]).await.unwrap();
    assert!(!keeper.is_will_due(will).await.unwrap());
    assert_eq!(keeper.due_will(at_once).await.unwrap(), None);
    assert_eq!(whose(&keeper.wills().await.unwrap()), expect[1..]);
}

/// [MQTT-3.1.2-8]: its time was before.
#[tokio::test]
async fn who_comes_back_does_not_call_off_a_will_that_was_due() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    let session = cut_off(&running, "d", 60).await;
    running.keeper.close().await;
    let database = Connection::open(dir.path().join("broker.db")).unwrap();
    let earlier = "UPDATE wills SET due_ms = due_ms - 60000";
    assert_eq!(database.execute(earlier, []).unwrap(), 1);
    drop(database);
    let running = open(config(dir.path()));
    let keeper = &running.keeper;
    let late = keeper.due_will(session).await.unwrap().unwrap();
    assert_eq!(connect(&running, "d", 60).await, session);
    // That of the connection which is there has no time yet, and not that of another.
    assert_eq!(keeper.due_will(session).await.unwrap(), None);
    assert_eq!(cut_off(&running, "d", 60).await, session);
    let wills = keeper.wills().await.unwrap();
    let expect = [("d", Some("user"), true), ("d", Some("user"), false)];
    assert_eq!(whose(&wills), expect);
    assert_ne!(wills[0].id.identity(), wills[1].id.identity());
    // Goodbye forgets that of its own connection only.
    let entered = running.enter("d", false).await;
    running.leave(entered.session, 0).await;
    assert!(keeper.is_will_due(late).await.unwrap());
    assert_eq!(whose(&keeper.wills().await.unwrap()), expect[..1]);
}

#[tokio::test]
async fn who_comes_back_to_the_session_has_no_will_that_is_due() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    let session = cut_off(&running, "d", 60).await;
    assert!(running.keeper.due_will(session).await.unwrap().is_some());
    assert!(running.enter("d", false).await.present);
    assert_eq!(running.keeper.due_will(session).await.unwrap(), None);
    assert!(running.keeper.wills().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_session_finds_its_wills_without_looking_at_those_of_others() {
    let dir = tempfile::tempdir().unwrap();
    open(config(dir.path())).keeper.close().await;
    let database = Connection::open(dir.path().join("broker.db")).unwrap();
    for sql in [LAST, CALL_OFF] {
        let plan = format!("EXPLAIN QUERY PLAN {sql}");
        let mut statement = database.prepare(&plan).unwrap();
        let all = vec![1; statement.parameter_count()];
        let mut rows = statement.query(rusqlite::params_from_iter(all)).unwrap();
        let how: String = rows.next().unwrap().unwrap().get(3).unwrap();
        assert!(how.contains("USING INDEX wills_of_session"), "{how}");
    }
}

#[tokio::test]
async fn wills_of_a_file_of_the_first_version_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let running = open(config(dir.path()));
    cut_off(&running, "d", 60).await;
    running.keeper.close().await;
    let database = Connection::open(dir.path().join("broker.db")).unwrap();
    database
        .execute_batch(
            "ALTER TABLE wills DROP COLUMN client;
             ALTER TABLE wills DROP COLUMN user;
             DROP TABLE leftovers;
             DROP INDEX wills_of_session;
             DROP TABLE shown_wills;
             DROP TABLE errands;
             DROP TABLE keys;
             ALTER TABLE wills DROP COLUMN token;
             PRAGMA user_version = 1;",
        )
        .unwrap();
    let (id, due_ms): (i64, i64) = database
        .query_row("SELECT id, due_ms FROM wills", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    drop(database);
    let running = open(config(dir.path()));
    let wills = running.keeper.wills().await.unwrap();
    assert_eq!(whose(&wills), [("d", Some("user"), false)]);
    let as_it_was = [id.to_be_bytes(), due_ms.to_be_bytes()].concat();
    assert_eq!(wills[0].id.identity()[..], as_it_was);
    assert_eq!(running.counters.keep_set_aside.get(), 0);
}

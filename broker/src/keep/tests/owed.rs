//! Retained wills that come while the disk is full.

use std::{fs::OpenOptions, time::Instant};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{
    desk::{Desk, Heard},
    full::{self, SmallDisk},
    *,
};
use crate::keep::{
    Refused,
    job::{Answer, Job, Work},
    will::WillId,
};

const T: &str = "state";

fn op(message: Message) -> Op {
    Op {
        message: Some(message),
        from: None,
        exchange: None,
        by: None,
    }
}

/// Connects with a retained will, and is cut off.
fn dies(desk: &mut Desk, client: &str, payload: &str) -> WillId {
    let will = desk.message(T, payload, true);
    let session = desk.enter_leaving(client, will);
    let leave = Leave {
        session,
        sent: 0,
        expiry_secs: None,
        forget_will: false,
    };
    desk.ask(Work::Leave(leave)).try_recv().unwrap().unwrap();
    match desk.ask(Work::DueWill(session)).try_recv().unwrap() {
        Ok(Answer::Due(Some(will))) => will,
        other => panic!("{other:?}"),
    }
}

/// Publishes a will for which there is no room on disk.
fn owe(desk: &mut Desk, payload: &str, will: Option<WillId>) {
    owe_below(desk, T, payload, will);
}

fn owe_below(desk: &mut Desk, topic: &str, payload: &str, will: Option<WillId>) {
    let message = desk.message(topic, payload, true);
    match desk.ask(Work::Will(op(message), will)).try_recv().unwrap() {
        Ok(Answer::Owed(message)) => assert!(message.number() > 0),
        other => panic!("{other:?}"),
    }
    let over = desk.ask(Work::WillsAreOver(will.into_iter().collect()));
    drop(over);
}

fn job(work: Work) -> (Job, Heard) {
    let (reply, heard) = oneshot::channel();
    let full_since = None;
    let job = Job {
        work,
        reply,
        full_since,
    };
    (job, heard)
}

fn in_memory(desk: &Desk) -> Option<String> {
    let message = desk.writer.shared.retained.get(T)?;
    Some(String::from_utf8_lossy(message.payload()).into_owned())
}

fn on_disk(desk: &Desk) -> Option<String> {
    let sql = "SELECT frame FROM retained WHERE topic = ?1";
    let frame: Vec<u8> = desk
        .writer
        .connection
        .query_row(sql, [T], |row| row.get(0))
        .ok()?;
    let message = Message::from_frame(Bytes::from(frame))?;
    Some(String::from_utf8_lossy(message.payload()).into_owned())
}

fn wills(desk: &Desk) -> i64 {
    desk.count("SELECT count(*) FROM wills")
}

fn owed(desk: &Desk) -> u64 {
    desk.counters().retained_owed.get()
}

/// Works until the condition holds.
fn until(desk: &mut Desk, what: &str, is_so: impl Fn(&Desk) -> bool) {
    let begun = Instant::now();
    while !is_so(desk) {
        assert!(begun.elapsed().as_secs() < 60, "never: {what}");
        desk.writer.commit(Vec::new()).unwrap();
        desk.writer.pay_debts().unwrap();
        std::thread::yield_now();
    }
}

fn until_paid(desk: &mut Desk) {
    until(desk, "it is on disk", |desk| owed(desk) == 0);
}

/// A disk on which there is room for a few notes, and not for what is large.
fn with_little_room(disk: &SmallDisk) {
    let hog = OpenOptions::new().write(true).open(disk.hog()).unwrap();
    let len = hog.metadata().unwrap().len();
    hog.set_len(len - 400_000).unwrap();
}

fn large(what: &str) -> String {
    format!("{what}{}", "x".repeat(1_000_000))
}

/// What the next process makes of the files, on a full disk.
fn next_process(disk: &SmallDisk) -> Option<(SmallDisk, Desk)> {
    let copy = SmallDisk::new()?;
    crash(disk.dir(), copy.dir());
    copy.fill_up();
    let desk = Desk::open(config(copy.dir()));
    Some((copy, desk))
}

macro_rules! small_disk {
    () => {
        match SmallDisk::new() {
            Some(disk) => disk,
            None => {
                println!("SKIPPED: mounting a tmpfs is not allowed here");
                return;
            }
        }
    };
}

#[test]
fn a_retained_will_is_seen_at_once_and_written_when_there_is_room() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    let kept = dies(&mut desk, "d", "gone");
    for will in [Some(kept), None] {
        assert!(desk.publish(T, "there", true));
        disk.fill_up();
        owe(&mut desk, "gone", will);
        assert_eq!(in_memory(&desk).as_deref(), Some("gone"));
        assert_eq!(on_disk(&desk).as_deref(), Some("there"));
        assert_eq!((owed(&desk), wills(&desk)), (1, will.iter().count() as i64));
        disk.make_room();
        until_paid(&mut desk);
        assert_eq!(on_disk(&desk).as_deref(), Some("gone"));
        assert_eq!(wills(&desk), 0);
    }
    drop(desk);
}

#[test]
fn what_is_retained_after_a_will_stays_also_over_a_crash() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    let kept = dies(&mut desk, "d", &large("gone"));
    disk.fill_up();
    owe(&mut desk, &large("gone"), Some(kept));
    with_little_room(&disk);
    let shown = "SELECT count(*) FROM shown_wills";
    until(&mut desk, "it is noted", |desk| desk.count(shown) == 1);
    assert_eq!((owed(&desk), wills(&desk)), (1, 1));
    disk.make_room();
    full::until(&mut desk, "it may be tried", |desk| !desk.writer.is_held());
    assert!(desk.publish(T, "there again", true));
    assert_eq!(on_disk(&desk).as_deref(), Some("there again"));
    assert_eq!((owed(&desk), wills(&desk)), (0, 0));
    let (copy, mut desk) = match next_process(&disk) {
        Some(next) => next,
        None => return,
    };
    assert_eq!(in_memory(&desk).as_deref(), Some("there again"));
    copy.make_room();
    until_paid(&mut desk);
    assert_eq!(on_disk(&desk).as_deref(), Some("there again"));
    drop(desk);
}

#[test]
fn what_finds_no_room_after_a_will_leaves_it_owed() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    let kept = dies(&mut desk, "d", "gone");
    disk.fill_up();
    owe(&mut desk, "gone", Some(kept));
    full::until(&mut desk, "it may be tried", |desk| !desk.writer.is_held());
    let message = desk.message(T, &large("there"), true);
    let refused = desk.ask(Work::Publish(vec![op(message)])).try_recv();
    assert!(matches!(refused, Ok(Err(Refused::Full))));
    assert_eq!(in_memory(&desk).as_deref(), Some("gone"));
    assert_eq!((owed(&desk), wills(&desk)), (1, 1));
    disk.make_room();
    until_paid(&mut desk);
    assert_eq!(on_disk(&desk).as_deref(), Some("gone"));
    drop(desk);
}

#[test]
fn a_clearing_that_comes_after_a_will_ends_what_is_owed() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    let kept = dies(&mut desk, "d", "gone");
    disk.fill_up();
    owe(&mut desk, "gone", Some(kept));
    disk.make_room();
    let cleared = desk.ask(Work::ClearRetained(Arc::from(T))).try_recv();
    assert!(matches!(cleared, Ok(Ok(Answer::Was(true)))));
    assert_eq!((owed(&desk), wills(&desk)), (0, 0));
    assert_eq!((in_memory(&desk), on_disk(&desk)), (None, None));
    drop(desk);
}

#[test]
fn a_start_on_the_full_disk_owes_what_the_process_before_did() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    let first = dies(&mut desk, "first", &large("first gone"));
    let second = dies(&mut desk, "second", "second gone");
    disk.fill_up();
    // Not in the order of their rows.
    owe(&mut desk, "second gone", Some(second));
    owe(&mut desk, &large("first gone"), Some(first));
    with_little_room(&disk);
    let noted = "SELECT count(*) FROM shown_wills";
    until(&mut desk, "it is noted", |desk| {
        desk.count(noted) == 1 && wills(desk) == 1
    });
    // Who published it is done with it, and has the keeper forget it.
    drop(desk.ask(Work::WillsAreOver(vec![first])));
    assert_eq!(wills(&desk), 1);
    let (copy, mut next) = match next_process(&disk) {
        Some(next) => next,
        None => return,
    };
    assert_eq!(owed(&next), 1);
    assert!(next.wills().is_empty(), "it is not published again");
    let seen = in_memory(&next).unwrap();
    assert!(seen.starts_with("first gone"), "{}", &seen[..20]);
    copy.make_room();
    until_paid(&mut next);
    assert_eq!(on_disk(&next), Some(seen));
    assert_eq!(wills(&next), 0);
    drop((desk, next));
}

#[test]
fn what_is_owed_survives_a_damaged_file() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    let kept = dies(&mut desk, "d", "gone");
    disk.fill_up();
    owe(&mut desk, "gone", Some(kept));
    disk.make_room();
    desk.writer.replace_file().unwrap();
    assert_eq!(on_disk(&desk).as_deref(), Some("gone"));
    assert_eq!(owed(&desk), 0);
    drop(desk);
}

#[test]
fn what_is_owed_is_written_before_the_writer_ends() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    disk.fill_up();
    owe(&mut desk, "gone", None);
    disk.make_room();
    desk.writer.close_debts();
    assert_eq!(desk.counters().dropped_kept_disk_full.get(), 0);
    drop(desk);
    let database = Connection::open(disk.dir().join("broker.db")).unwrap();
    let count = "SELECT count(*) FROM retained";
    let count: i64 = database.query_row(count, [], |row| row.get(0)).unwrap();
    assert_eq!(count, 1);
}

#[test]
fn what_is_owed_and_finds_no_room_until_the_end_is_counted() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    disk.fill_up();
    owe(&mut desk, "gone", None);
    desk.writer.close_debts();
    assert_eq!(desk.counters().dropped_kept_disk_full.get(), 1);
    drop(desk);
}

#[test]
fn a_will_is_found_although_what_shares_its_commit_finds_no_room() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    let other = desk.enter("other", None).unwrap().session;
    let kept = dies(&mut desk, "d", "gone");
    let session = desk.writer.shared.session("d").unwrap();
    disk.fill_up();
    let leave = Leave {
        session: other,
        sent: 0,
        expiry_secs: None,
        forget_will: false,
    };
    let (leave, mut left) = job(Work::Leave(leave));
    let (due, mut found) = job(Work::DueWill(session));
    desk.writer.commit(vec![leave, due]).unwrap();
    assert!(matches!(left.try_recv(), Ok(Err(Refused::Full))));
    match found.try_recv() {
        Ok(Ok(Answer::Due(will))) => assert_eq!(will, Some(kept)),
        other => panic!("{other:?}"),
    }
    drop(desk);
}

#[test]
fn a_damaged_will_hides_no_other_on_a_full_disk_and_goes_when_there_is_room() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    dies(&mut desk, "damaged", "gone");
    let kept = dies(&mut desk, "d", "gone");
    let damage = "UPDATE wills SET checksum = 0 WHERE client = 'damaged'";
    desk.writer.connection.execute_batch(damage).unwrap();
    disk.fill_up();
    for _ in 0..2 {
        let found: Vec<_> = desk.wills().iter().map(|will| will.id).collect();
        assert_eq!(found, [kept]);
    }
    assert_eq!(desk.counters().kept_damaged.get(), 1);
    disk.make_room();
    until(&mut desk, "it is forgotten", |desk| wills(desk) == 1);
    drop(desk);
}

/// The gateway knows it by that.
#[test]
fn a_will_whose_connection_ended_on_a_full_disk_is_the_same_in_the_next_process() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    let will = desk.message(T, "gone", true);
    let session = desk.enter_leaving("d", will);
    disk.fill_up();
    let leave = Leave {
        session,
        sent: 0,
        expiry_secs: None,
        forget_will: false,
    };
    let left = desk.ask(Work::Leave(leave)).try_recv();
    assert!(matches!(left, Ok(Err(Refused::Full))));
    let kept = match desk.ask(Work::DueWill(session)).try_recv() {
        Ok(Ok(Answer::Due(Some(will)))) => will,
        other => panic!("{other:?}"),
    };
    owe(&mut desk, "gone", Some(kept));
    // What the next process makes of the time is another.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let (copy, mut next) = match next_process(&disk) {
        Some(next) => next,
        None => return,
    };
    let found = next.wills();
    assert_eq!(
        found.len(),
        1,
        "it could not even be noted that it was shown"
    );
    assert_eq!(found[0].id.identity(), kept.identity());
    copy.make_room();
    drop((desk, next));
}

#[test]
fn a_retained_will_whose_commit_fails_is_owed() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    let kept = dies(&mut desk, "d", "gone");
    let run = |desk: &Desk, sql: &str| desk.writer.connection.execute_batch(sql).unwrap();
    run(
        &desk,
        "CREATE TEMP TRIGGER broken BEFORE INSERT ON main.retained
         BEGIN SELECT RAISE(ABORT, 'not for want of room'); END",
    );
    owe(&mut desk, "gone", Some(kept));
    assert_eq!(in_memory(&desk).as_deref(), Some("gone"));
    assert_eq!((owed(&desk), wills(&desk)), (1, 1));
    run(&desk, "DROP TRIGGER broken");
    until_paid(&mut desk);
    assert_eq!(on_disk(&desk).as_deref(), Some("gone"));
    assert_eq!(wills(&desk), 0);
}

#[test]
fn what_is_owed_is_as_old_as_it_is_whenever_that_can_be_noted() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    let kept = dies(&mut desk, "d", &large("gone"));
    disk.fill_up();
    owe(&mut desk, &large("gone"), Some(kept));
    std::thread::sleep(std::time::Duration::from_millis(50));
    let later_ms = desk.writer.shared.wall_ms();
    with_little_room(&disk);
    let shown = "SELECT count(*) FROM shown_wills";
    until(&mut desk, "it is noted", |desk| desk.count(shown) == 1);
    let shown_ms = desk.count("SELECT shown_ms FROM shown_wills");
    assert!(shown_ms <= later_ms - 40, "{shown_ms}, {later_ms}");
    drop(desk);
}

#[test]
fn what_is_too_large_for_the_disk_at_the_end_costs_no_other_its_place() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.dir()));
    disk.fill_up();
    owe_below(&mut desk, "before it", &large("gone"), None);
    owe_below(&mut desk, T, "gone", None);
    with_little_room(&disk);
    desk.writer.close_debts();
    assert_eq!(on_disk(&desk).as_deref(), Some("gone"));
    assert_eq!(owed(&desk), 1);
    assert_eq!(desk.counters().dropped_kept_disk_full.get(), 1);
    drop(desk);
}

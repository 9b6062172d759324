//! A full disk.

use std::{
    fs::OpenOptions,
    io::Write,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use super::{desk::Desk, *};
use crate::{
    Protocol,
    keep::{
        EXCHANGES_MAX, QueueFull, Wish,
        job::{Answer, Work},
    },
};

/// A file system of its own size.
pub(super) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    pub(super) fn new() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=8m", "penstock-test"];
        let mounted = Command::new("mount").args(mount).arg(dir.path()).output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(Self(dir))
    }

    pub(super) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn hog(&self) -> PathBuf {
        self.0.path().join("somebody-else")
    }

    /// Somebody else takes all that is left.
    pub(super) fn fill_up(&self) {
        let mut options = OpenOptions::new();
        let mut hog = options.create(true).append(true).open(self.hog()).unwrap();
        while hog.write_all(&[1; 4096]).is_ok() {}
    }

    pub(super) fn make_room(&self) {
        std::fs::remove_file(self.hog()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).output();
        assert!(unmounted.is_ok_and(|output| output.status.success()));
    }
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

/// Does chores until the condition holds.
pub(super) fn until(desk: &mut Desk, what: &str, is_so: impl Fn(&Desk) -> bool) {
    let begun = Instant::now();
    while !is_so(desk) {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        desk.writer.commit(Vec::new()).unwrap();
        std::thread::yield_now();
    }
}

#[test]
fn a_full_disk_at_the_start_stops_nobody() {
    let disk = small_disk!();
    let before = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(before.path()));
    desk.away("away", "t");
    assert!(desk.publish("t", "1", true));
    for n in 0..100 {
        desk.enter(&format!("connected {n}"), None).unwrap();
    }
    crash(before.path(), disk.0.path());
    disk.fill_up();
    let mut desk = Desk::open(config(disk.0.path()));
    assert_eq!(desk.counters().keep_full.get(), 1);
    assert_eq!(desk.writer.shared.retained.len(), 1);
    assert!(desk.writer.shared.knows("connected 99"));
    let not_ended = "SELECT count(*) FROM sessions WHERE ended_ms IS NULL";
    assert_eq!(desk.count(not_ended), 100);
    disk.make_room();
    until(&mut desk, "it is written later", |desk| {
        desk.count(not_ended) == 0
    });
    let entered = desk.enter("away", None).unwrap();
    assert_eq!(texts(&entered), ["1"]);
    drop(desk);
}

#[test]
fn wills_of_a_start_on_a_full_disk_are_published_by_it() {
    let disk = small_disk!();
    let before = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(before.path()));
    for n in 0..60 {
        let client = format!("d{n}");
        desk.enter_with_will(&client);
        let session = desk.writer.shared.session(&client).unwrap();
        let turn = Turn {
            subscribe: vec![add("t", QoS::AtLeastOnce)],
            ..Turn::default()
        };
        if n < 10 {
            drop(desk.ask(Work::Turn(session, turn)));
        }
    }
    crash(before.path(), disk.0.path());
    disk.fill_up();
    let mut desk = Desk::open(config(disk.0.path()));
    let undated = "SELECT count(*) FROM wills WHERE due_ms IS NULL";
    assert_eq!(desk.count(undated), 60);
    let wills = desk.wills();
    assert_eq!(wills.len(), 60);
    for will in &wills {
        let asked = desk.ask(Work::IsWillDue(will.id)).try_recv().unwrap();
        assert!(matches!(asked, Ok(Answer::Was(true))));
    }
    disk.make_room();
    until(&mut desk, "it may be tried", |desk| !desk.writer.is_held());
    drop(desk.ask(Work::WillsAreOver(vec![wills[0].id])));
    // Their rows change before all that was not written is.
    assert!(desk.publish("t", "1", false));
    desk.idle();
    assert_eq!(desk.count(undated), 0);
    let rest: Vec<_> = desk.wills().iter().map(|will| will.id).collect();
    let expect: Vec<_> = wills[1..].iter().map(|will| will.id).collect();
    assert_eq!(rest, expect, "they are the same still");
    drop(desk);
}

#[test]
fn what_expires_on_a_full_disk_is_tried_now_and_then_and_counted_once() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.0.path()));
    let session = desk.away("due", "t");
    for _ in 0..10 {
        assert!(desk.publish("t", &"x".repeat(3_000), false));
    }
    disk.fill_up();
    desk.writer.state.set_due(session, Some(Instant::now()));
    desk.writer.state.committed(&desk.writer.shared);
    for _ in 0..5 {
        desk.writer.commit(Vec::new()).unwrap();
        assert!(!desk.writer.has_chores(), "it waits before it tries again");
    }
    assert_eq!(desk.counters().sessions_expired.get(), 0);
    assert_eq!(desk.counters().keep_full.get(), 1);
    disk.make_room();
    until(&mut desk, "it expires", |desk| {
        !desk.writer.shared.knows("due")
    });
    desk.idle();
    assert_eq!(desk.counters().sessions_expired.get(), 1);
    assert_eq!(desk.count("SELECT count(*) FROM queue"), 0);
    drop(desk);
}

#[tokio::test]
async fn what_a_session_is_done_with_waits_for_room() {
    let disk = small_disk!();
    let running = open(config(disk.0.path()));
    let entered = running.enter("d", false).await;
    running
        .subscribe(entered.session, "t", QoS::AtLeastOnce)
        .await;
    for n in 0..30 {
        let payload = format!("{n}{}", "x".repeat(3_000));
        let message = running.message("t", &payload, QoS::AtLeastOnce, false);
        assert!(running.publish(message).await);
    }
    let positions: Vec<i64> = drain(&entered).iter().map(|item| item.position).collect();
    disk.fill_up();
    let turn = Turn {
        done: positions,
        page: true,
        ..Turn::default()
    };
    let make_room = async {
        while running.counters.keep_full.get() == 0 {
            tokio::task::yield_now().await;
        }
        disk.make_room();
    };
    let (done, ()) = tokio::join!(running.keeper.turn(entered.session, turn), make_room);
    assert!(done.is_ok(), "{done:?}");
    assert_eq!(running.counters.queued_messages.get(), 0);
    running.keeper.close().await;
}

#[test]
fn a_connection_that_ends_while_nothing_can_be_written_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(config(dir.path()));
    let session = desk.enter("d", None).unwrap().session;
    let table = desk.writer.connection.execute_batch("DROP TABLE wills");
    table.unwrap();
    let leave = Leave {
        session,
        sent: 0,
        expiry_secs: None,
        forget_will: true,
    };
    let heard = desk.ask(Work::Leave(leave)).try_recv();
    assert!(heard.is_err(), "nobody knows what is on disk");
    let session = &desk.writer.state.sessions[&session];
    assert!(session.feed.is_none() && session.due.is_some());
}

#[test]
fn on_a_full_disk_one_finds_out_whether_it_still_is_and_the_others_hear_that_it_is() {
    let disk = small_disk!();
    let mut desk = Desk::open(config(disk.0.path()));
    desk.away("d", "t");
    let large = desk.message("t", &"x".repeat(100_000), false);
    let publish = large.to_publish().unwrap();
    let room = |desk: &mut Desk| {
        let by = desk.writer.shared.retained.owner("d", None);
        let wishes = vec![Wish::new(&publish, 7, by, Protocol::V5)];
        match desk.ask(Work::Room(wishes)).try_recv().unwrap() {
            Ok(Answer::Room(none)) => none,
            other => panic!("{other:?}"),
        }
    };
    disk.fill_up();
    assert_eq!(room(&mut desk), None, "nobody knows yet");
    let kept = |desk: &mut Desk| {
        let op = Op {
            message: Some(large.clone()),
            from: None,
            exchange: None,
            by: None,
        };
        let kept = desk.ask(Work::Publish(vec![op])).try_recv().unwrap();
        kept.is_ok()
    };
    assert!(!kept(&mut desk));
    let not_held = |desk: &Desk| !desk.writer.is_held();
    until(&mut desk, "it may be tried", not_held);
    assert_eq!(
        room(&mut desk),
        Some(7),
        "whoever tried waits, and asks again"
    );
    // Nobody has tried for a while.
    desk.writer.tried = None;
    assert_eq!(room(&mut desk), None);
    assert_eq!(room(&mut desk), Some(7));
    disk.make_room();
    until(&mut desk, "it may be tried", not_held);
    assert!(kept(&mut desk));
    assert_eq!(room(&mut desk), None);
    assert_eq!(room(&mut desk), None);
    drop(desk);
}

#[test]
fn what_was_refused_does_not_show_that_the_disk_has_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut desk = Desk::open(Config {
        queue_messages_max: 1,
        queue_full: QueueFull::Refuse,
        ..config(dir.path())
    });
    let session = desk.away("d", "t");
    assert!(desk.publish("t", "1", false));
    desk.writer.full = true;
    assert!(!desk.publish("t", "2", false));
    assert!(desk.writer.full);
    let too_many = (0..=EXCHANGES_MAX).map(|n| (u16::try_from(n).unwrap(), [7; 16]));
    let begun = desk.ask(Work::Begin(session, too_many.collect()));
    drop(begun);
    assert!(desk.writer.full);
    desk.away("other", "t/2");
    assert!(!desk.writer.full);
}

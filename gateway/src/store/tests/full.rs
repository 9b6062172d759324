//! No room: by our own limit, and because the disk is full.

use std::process::Command;

use super::*;

fn big(n: u64) -> Entry {
    let Entry::Event(event) = event(n, to(&[0])) else {
        unreachable!()
    };
    Entry::Event(NewEvent {
        body: Bytes::from(vec![7; 1_000]),
        ..event
    })
}

fn place(on_full: OnFull, max_bytes: u64) -> Place {
    let mut place = Place::new(&["a"]);
    place.config.on_full = on_full;
    place.config.max_bytes = max_bytes;
    place
}

fn file_bytes(place: &Place) -> u64 {
    ["db", "db-wal"]
        .iter()
        .map(|e| std::fs::metadata(place.database().with_extension(e)).map_or(0, |m| m.len()))
        .sum()
}

/// Appends groups of ten until one is turned away; says how many were kept.
async fn fill(handle: &Handle, from: u64) -> u64 {
    for n in (from..from + 1_000_000).step_by(10) {
        let appended = append(handle, (n..n + 10).map(big).collect()).await;
        if appended[0] == Appended::Full {
            assert!(
                appended.iter().all(|a| *a == Appended::Full),
                "a group is kept whole or not"
            );
            return n - from;
        }
    }
    panic!("it never was full")
}

#[tokio::test]
async fn push_back_turns_whole_groups_away_and_takes_them_again_after_delivery() {
    let place = place(OnFull::PushBack, 4 << 20);
    let running = place.run();
    let handle = running.handle();
    let kept = fill(&handle, 0).await;
    assert!(kept > 1_000, "most of the room can be used: {kept}");
    assert!(file_bytes(&place) <= 4 << 20, "{}", file_bytes(&place));
    let status = handle.status();
    assert!(status.full && status.refused_full == 10);
    assert_eq!(status.accepted, kept, "what is turned away is not accepted");
    assert_balanced(&status);
    // What was turned away is not remembered as seen.
    settle(&handle, delivered(0, kept, kept)).await;
    until(&handle, |s| s.buffered == 0 && !s.full).await;
    let appended = append(&handle, (kept..kept + 10).map(big).collect()).await;
    assert!(
        appended.iter().all(|a| matches!(a, Appended::Stored(_))),
        "{appended:?}"
    );
    let more = fill(&handle, kept + 10).await;
    assert!(more > kept / 2, "the room is room again: {more} of {kept}");
    assert!(file_bytes(&place) <= 4 << 20, "{}", file_bytes(&place));
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn drop_oldest_keeps_the_newest_and_counts_the_rest() {
    let place = place(OnFull::DropOldest, 4 << 20);
    let running = place.run();
    let handle = running.handle();
    for n in (0..20_000).step_by(50) {
        let appended = append(&handle, (n..n + 50).map(big).collect()).await;
        assert!(
            appended.iter().all(|a| matches!(a, Appended::Stored(_))),
            "{appended:?}"
        );
    }
    assert!(file_bytes(&place) <= 5 << 20, "{}", file_bytes(&place));
    let status = handle.status();
    assert_balanced(&status);
    let a = &status.destinations[0];
    assert_eq!((a.routed, a.evicted + a.backlog), (20_000, 20_000));
    assert!(a.evicted > 10_000 && a.backlog > 0, "{a:?}");
    let records = read_all(&handle, 0, 0);
    assert_eq!(records.len() as u64, a.backlog);
    assert_eq!(records.last().expect("some").position, Position(20_000));
    running.shutdown().await.expect("an orderly end");
    assert!(verify(place.dir.path()).expect("readable").is_whole());
}

#[tokio::test]
async fn what_was_in_flight_when_it_was_evicted_is_counted_once_as_delivered() {
    let place = place(OnFull::DropOldest, 4 << 20);
    let running = place.run();
    let handle = running.handle();
    append(&handle, (0..10).map(big).collect()).await;
    let in_flight = read_all(&handle, 0, 0);
    for n in (10..20_010).step_by(50) {
        append(&handle, (n..n + 50).map(big).collect()).await;
    }
    let before = handle.status().destinations[0].clone();
    assert!(
        before.cursor > Position(10) && before.evicted > 10,
        "{before:?}"
    );
    settle(&handle, delivered(0, 10, in_flight.len() as u64)).await;
    let status = handle.status();
    assert_balanced(&status);
    let after = &status.destinations[0];
    assert_eq!((after.delivered, after.evicted), (10, before.evicted - 10));
    assert_eq!(
        (after.cursor, after.backlog),
        (before.cursor, before.backlog),
        "it never moves back"
    );
    running.shutdown().await.expect("an orderly end");
}

/// A file system of its own with so many bytes; `None` where we may not mount.
pub(super) struct SmallDisk(TempDir);

impl SmallDisk {
    pub(super) fn new(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={bytes}"),
                "penstock-test",
            ])
            .arg(dir.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            Some(Self(dir))
        } else {
            None
        }
    }

    fn hog(&self) -> std::path::PathBuf {
        self.0.path().join("somebody-else")
    }

    /// Somebody else fills the disk up to so many bytes.
    pub(super) fn fill_up(&self, leave: u64) {
        let stat = rustix::fs::statvfs(self.0.path()).expect("seen");
        let free = stat.f_bavail * stat.f_frsize;
        let bytes = usize::try_from(free.saturating_sub(leave)).expect("small");
        std::fs::write(self.hog(), vec![1; bytes]).expect("written");
    }

    fn make_room(&self) {
        std::fs::remove_file(self.hog()).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(self.0.path()).output();
        assert!(
            unmounted.is_ok_and(|output| output.status.success()),
            "unmounted"
        );
    }
}

macro_rules! small_disk {
    ($bytes:expr) => {
        match SmallDisk::new($bytes) {
            Some(disk) => disk,
            None => {
                println!(
                    "SKIPPED: a full disk needs a tmpfs, and mounting one is not allowed here"
                );
                return;
            }
        }
    };
}

pub(super) fn place_on(disk: &SmallDisk, on_full: OnFull) -> Place {
    let mut place = place(on_full, 1 << 30);
    place.config.dir = disk.0.path().join("data");
    place.config.reserve_bytes = 2 << 20;
    place
}

#[tokio::test]
async fn a_full_disk_pushes_back_delivers_on_and_recovers_without_a_restart() {
    let disk = small_disk!(32 << 20);
    let place = place_on(&disk, OnFull::PushBack);
    let running = place.run();
    let handle = running.handle();
    append(&handle, (0..10).map(big).collect()).await;
    disk.fill_up(3 << 20);
    let kept = 10 + fill(&handle, 10).await;
    let status = handle.status();
    assert!(status.full);
    assert_balanced(&status);
    assert_eq!(status.stored, kept);
    assert!(
        !place
            .config
            .dir
            .join("journal.reserve")
            .try_exists()
            .expect("seen"),
        "given back"
    );
    // Delivery goes on: reading, progress, removal.
    assert_eq!(read_all(&handle, 0, 0).len() as u64, kept);
    settle(&handle, delivered(0, kept / 2, kept / 2)).await;
    settle(&handle, delivered(0, kept, kept - kept / 2)).await;
    until(&handle, |s| s.buffered == 0).await;
    // Somebody makes room: no restart is needed.
    disk.make_room();
    let reserve = place.config.dir.join("journal.reserve");
    until(&handle, |s| !s.full && reserve.try_exists().expect("seen")).await;
    let appended = append(&handle, (kept..kept + 10).map(big).collect()).await;
    assert!(
        appended.iter().all(|a| matches!(a, Appended::Stored(_))),
        "not seen as duplicates"
    );
    running.shutdown().await.expect("an orderly end");
    let report = verify(&place.config.dir).expect("readable");
    assert!(report.is_whole(), "{report:?}");
}

#[tokio::test]
async fn a_full_disk_with_drop_oldest_goes_on_in_the_room_it_has() {
    let disk = small_disk!(32 << 20);
    let place = place_on(&disk, OnFull::DropOldest);
    let running = place.run();
    let handle = running.handle();
    disk.fill_up(8 << 20);
    let (mut stored, mut refused) = (0, 0_u64);
    for n in (0..40_000).step_by(20) {
        match append(&handle, (n..n + 20).map(big).collect()).await[0] {
            Appended::Stored(_) => stored += 20,
            _ => refused += 20,
        }
    }
    let status = handle.status();
    assert_balanced(&status);
    assert_eq!((status.stored, status.refused_full), (stored, refused));
    let a = &status.destinations[0];
    assert!(a.evicted > 0, "it made room: {status:?}");
    assert_eq!(read_all(&handle, 0, 0).len() as u64, a.backlog);
    running.shutdown().await.expect("an orderly end");
    assert!(verify(&place.config.dir).expect("readable").is_whole());
}

#[tokio::test]
async fn a_start_on_a_full_disk_works() {
    let disk = small_disk!(16 << 20);
    let place = place_on(&disk, OnFull::PushBack);
    let running = place.run();
    append(&running.handle(), (0..10).map(big).collect()).await;
    running.shutdown().await.expect("an orderly end");
    disk.fill_up(0);
    let (running, report) = place.run_reported();
    assert!(report.set_aside.is_none(), "{report:?}");
    assert_eq!(read_all(&running.handle(), 0, 0).len(), 10);
    settle(&running.handle(), delivered(0, 10, 10)).await;
    assert_balanced(&running.handle().status());
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn one_bad_device_does_not_fill_the_journal_for_the_others() {
    let place = place(OnFull::PushBack, 4 << 20);
    let running = place.run();
    let handle = running.handle();
    for n in 0..8_000 {
        let Entry::Quarantine(item) = broken(n) else {
            unreachable!()
        };
        let payload = Bytes::from(vec![b'{'; 1_000]);
        let entry = Entry::Quarantine(NewQuarantine { payload, ..item });
        assert_eq!(
            append(&handle, vec![entry]).await,
            [Appended::Quarantined(n + 1)]
        );
    }
    let status = handle.status();
    assert_balanced(&status);
    assert_eq!((status.accepted, status.quarantined), (8_000, 8_000));
    assert_eq!(status.in_quarantine + status.quarantine_evicted, 8_000);
    assert!(status.quarantine_bytes <= (4 << 20) / 8, "{status:?}");
    let kept = handle.listing().expect("a listing");
    let kept = kept.quarantine(0, 10_000).expect("rows");
    assert_eq!(kept.len() as u64, status.in_quarantine);
    assert_eq!(kept.last().expect("the newest").id, 8_000);
    let appended = append(&handle, (0..10).map(big).collect()).await;
    assert!(matches!(appended[0], Appended::Stored(_)));
    let ids = kept.iter().map(|item| item.id).collect();
    handle.discard_quarantined(ids).await.expect("open");
    assert_eq!(handle.status().quarantine_bytes, 0, "counted out as in");
    running.shutdown().await.expect("an orderly end");
    assert!(verify(place.dir.path()).expect("readable").is_whole());
}

//! A damaged journal on a disk that has no room for another one of its size.

use super::*;
use crate::store::tests::full::{SmallDisk, place_on};

const DELIVERED: u64 = 2_000;
const WAITING: u64 = 1_200;

/// On so large a disk, closed in order: 20 MB that every destination has, and 12 MB
/// that wait; then one page is destroyed.
async fn damaged(disk: &SmallDisk) -> Place {
    let mut place = place_on(disk, OnFull::PushBack);
    place.config.keep_delivered = Some(Duration::from_secs(3_600));
    let running = place.run();
    let handle = running.handle();
    for first in (1..=DELIVERED + WAITING).step_by(100) {
        let group = (first..first + 100).map(|n| {
            let Entry::Event(event) = event(n, to(&[0])) else {
                unreachable!()
            };
            let body = Bytes::from(format!("event {n:<10000}"));
            Entry::Event(NewEvent { body, ..event })
        });
        append(&handle, group.collect()).await;
    }
    settle(&handle, delivered(0, DELIVERED, DELIVERED)).await;
    running.shutdown().await.expect("an orderly end");
    destroy_page(&place, page_with(&place, b"event 300 "));
    place
}

#[tokio::test]
async fn what_waits_is_salvaged_before_what_everybody_has() {
    for (free, all) in [(40 << 20, false), (80 << 20, true)] {
        let Some(disk) = SmallDisk::new(160 << 20) else {
            println!("SKIPPED: a small disk needs a tmpfs, and mounting one is not allowed here");
            return;
        };
        let place = damaged(&disk).await;
        disk.fill_up(free);
        let (running, report) = place.run_reported();
        assert!(report.set_aside.is_some(), "{report:?}");
        let handle = running.handle();
        let status = handle.status();
        assert_balanced(&status);
        let a = &status.destinations[0];
        assert_eq!((a.backlog, a.damaged), (WAITING, 0), "{report:?}");
        let records = read_all(&handle, 0, DELIVERED);
        assert_eq!(records.len() as u64, WAITING);
        if all {
            assert!(status.buffered_settled > DELIVERED - 10, "{status:?}");
        } else {
            assert_eq!(
                (status.buffered, status.buffered_settled),
                (WAITING, 0),
                "{report:?}"
            );
        }
        running.shutdown().await.expect("an orderly end");
        assert!(verify(&place.config.dir).expect("readable").is_whole());
    }
}

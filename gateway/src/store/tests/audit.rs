//! The ledger is counted again while the journal is in use.

use std::sync::atomic::AtomicBool;

use super::*;

static GOES_ON: AtomicBool = AtomicBool::new(false);

fn look(handle: &Handle) -> Vec<String> {
    let mut audit = Audit::open(handle).expect("a connection");
    let found = audit.look(&GOES_ON).expect("it can be read");
    // What was remembered says the same.
    assert_eq!(audit.look(&GOES_ON).expect("it can be read"), found);
    found
}

#[tokio::test]
async fn what_waits_is_counted_again_across_pieces_while_cursors_move_and_rows_leave() {
    let place = Place::new(&["a", "b", "old"]);
    let running = place.run();
    let handle = running.handle();
    let mut audit = Audit::open(&handle).expect("a connection");
    let mut looks = || audit.look(&GOES_ON).expect("it can be read");
    for group in 0..90_u64 {
        let numbers = group * 400..(group + 1) * 400;
        let entries = numbers.map(|n| {
            let routes = if n % 3 == 0 { to(&[0, 1]) } else { to(&[1]) };
            event(n, routes)
        });
        append(&handle, entries.collect()).await;
        if group % 10 == 0 {
            assert_eq!(looks(), [""; 0], "after {group}");
        }
    }
    // One is at the end, and one in the middle of a piece.
    settle(&handle, delivered(0, 36_000, 12_000)).await;
    assert_eq!(looks(), [""; 0]);
    settle(&handle, delivered(1, 20_000, 20_000)).await;
    until(&handle, |status| status.buffered <= 16_000).await;
    assert_eq!(looks(), [""; 0]);
    settle(&handle, delivered(1, 36_000, 16_000)).await;
    until(&handle, |status| status.buffered == 0).await;
    assert_eq!(looks(), [""; 0]);
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_row_that_is_missing_and_one_that_nobody_counted_are_found() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    for n in 1..=100 {
        append(&handle, vec![event(n, to(&[0]))]).await;
    }
    assert_eq!(look(&handle), [""; 0]);
    let behind = rusqlite::Connection::open(place.database()).expect("the database");
    behind
        .execute("DELETE FROM events WHERE position = 50", [])
        .expect("gone");
    assert_eq!(
        look(&handle),
        ["100 events wait for destination 0 by the ledger, and 99 are there"]
    );
    behind
        .execute("UPDATE events SET position = 150 WHERE position = 51", [])
        .expect("moved");
    let found = look(&handle);
    assert!(found[0].ends_with("and 98 are there"), "{found:?}");
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn what_was_never_there_is_not_counted_piece_by_piece() {
    let place = Place::new(&["a"]);
    let running = place.run();
    let handle = running.handle();
    for n in 1..=10 {
        append(&handle, vec![event(n, to(&[0]))]).await;
    }
    running.shutdown().await.expect("an orderly end");
    // As after years: one event of the first days is still held, and others are far away.
    let behind = rusqlite::Connection::open(place.database()).expect("the database");
    let far = 1_i64 << 40;
    behind
        .execute(
            "UPDATE events SET position = position + ?1 WHERE position > 5",
            [far],
        )
        .expect("moved");
    let mut state = super::super::open::read_state(&behind)
        .expect("readable")
        .expect("there");
    state.position = Position(state.position.0 + far.unsigned_abs());
    super::super::stage::write_state(&behind, &state, &mut Vec::new()).expect("written");
    drop(behind);
    let running = place.run();
    let handle = running.handle();
    let found = tokio::task::spawn_blocking(move || look(&handle));
    let found = tokio::time::timeout(Duration::from_secs(60), found).await;
    assert_eq!(found.expect("in time").expect("it looks"), [""; 0]);
    running.shutdown().await.expect("an orderly end");
}

//! What is given up by class while room is short, and what is told of it.

use super::*;
use crate::{class::Class, store::job::Outcome};

const ROOM: u64 = 4 << 20;

fn place(rules: &[(Class, u64, Keep)]) -> Place {
    let mut place = Place::new(&["a", "b"]);
    place.config.max_bytes = ROOM;
    let shed = |(class, above, keep): &(Class, u64, Keep)| Shed {
        class: *class,
        above: *above,
        keep: *keep,
    };
    place.config.shed = rules.iter().map(shed).collect();
    place
}

/// An event of a kilobyte and a class, of one of ten devices.
fn of(n: u64, class: Class) -> Entry {
    let Entry::Event(event) = event(n, to(&[0])) else {
        unreachable!()
    };
    let device = n % 10;
    Entry::Event(NewEvent {
        device: format!("d{device}").into(),
        body: Bytes::from(vec![7; 1_000]),
        shed: (class != Class::Critical).then_some(Sheddable {
            class,
            series: device,
        }),
        ..event
    })
}

/// Appends critical events until something of a class is given up; gives back how many are
/// kept.
async fn press(handle: &Handle, class: Class) -> u64 {
    for n in 0..10_000 {
        append(handle, vec![of(n, Class::Critical)]).await;
        let probe = append(handle, vec![of(1_000_000 + n, class)]).await;
        match probe[..] {
            [Appended::Shed] => return 2 * n + 1,
            [Appended::Stored(_)] => {}
            _ => panic!("{probe:?} before anything was given up"),
        }
    }
    panic!("it never was short")
}

fn gaps(handle: &Handle) -> Vec<Gap> {
    let listing = handle.listing().expect("a listing");
    let mut statement = listing
        .tables()
        .prepare("SELECT body FROM gaps ORDER BY number")
        .expect("a table");
    let bodies = statement.query_map([], |row| row.get::<_, Vec<u8>>(0));
    let read = |body: rusqlite::Result<Vec<u8>>| {
        serde_json::from_slice(&body.expect("a row")).expect("a gap")
    };
    bodies.expect("rows").map(read).collect()
}

#[tokio::test]
async fn low_events_are_given_up_above_the_mark_and_others_still_have_room() {
    let place = place(&[(Class::Low, 70, Keep::None)]);
    let running = place.run();
    let handle = running.handle();
    let kept = press(&handle, Class::Low).await;
    let (used, mark) = (kept * 1_000, ROOM / 100 * 70);
    assert!(used < mark && used > mark / 10 * 6, "{used} of {mark}");
    let low = || (200_000..200_010).map(|n| of(n, Class::Low)).collect();
    assert_eq!(append(&handle, low()).await, [Appended::Shed; 10]);
    let mut high = 0;
    for n in 100_000.. {
        let appended = append(&handle, vec![of(n, Class::High)]).await;
        if appended[..] == [Appended::Full] {
            break;
        }
        high += 1;
    }
    assert!(high > 300, "others have the rest: {high}");
    // What is sent again is the same, and no gap of its own.
    assert_eq!(append(&handle, low()).await, [Appended::Duplicate; 10]);
    // Nothing of a group that is given up takes room: it is, also while others have it all.
    let group: Vec<_> = (210_000..210_010).map(|n| of(n, Class::Low)).collect();
    assert_eq!(append(&handle, group.clone()).await, [Appended::Shed; 10]);
    assert_eq!(append(&handle, group).await, [Appended::Duplicate; 10]);
    let status = handle.status();
    assert!(status.shedding);
    assert_eq!(status.shed, [21, 0, 0]);
    assert_balanced(&status);
    let told = gaps(&handle);
    assert_eq!(told.iter().map(|gap| gap.count).sum::<u64>(), 21);
    assert_eq!(told.len(), 10, "one of each device: {told:?}");
    assert!(told.iter().all(|gap| gap.routes == 1 && gap.kept == "none"));

    // With room again it is over, and the counts stay across a kill.
    settle(&handle, delivered(0, kept + high, kept + high)).await;
    until(&handle, |s| s.buffered == 0 && !s.shedding && s.gaps == 10).await;
    let appended = append(&handle, vec![of(300_000, Class::Low)]).await;
    assert!(
        matches!(appended[..], [Appended::Stored(_)]),
        "{appended:?}"
    );
    let image = place.crash_image();
    running.shutdown().await.expect("an orderly end");
    let running = image.run();
    assert_eq!(running.handle().status().shed, [21, 0, 0]);
    assert_eq!(gaps(&running.handle()), told);
    let again = append(&running.handle(), vec![of(200_000, Class::Low)]).await;
    assert_eq!(again, [Appended::Duplicate]);
    assert!(verify(&image.config.dir).expect("a journal").is_whole());
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn of_a_class_what_is_asked_for_is_kept_and_the_higher_mark_says_more() {
    let place = place(&[
        (Class::Normal, 60, Keep::OneOf(4)),
        (Class::Normal, 80, Keep::None),
    ]);
    let running = place.run();
    let handle = running.handle();
    let mut n = 0;
    while !handle.status().shedding {
        append(&handle, vec![of(n, Class::Critical)]).await;
        n += 1;
    }
    // Ten devices, forty events each: of each a quarter.
    let mut kept = 0;
    for n in 100_000..100_400 {
        let appended = append(&handle, vec![of(n, Class::Normal)]).await;
        kept += u64::from(matches!(appended[..], [Appended::Stored(_)]));
    }
    assert_eq!((kept, handle.status().shed), (100, [0, 300, 0]));
    // A message of several events is kept as far as its events are.
    let group = (200_000..200_040).map(|n| of(n, Class::Normal)).collect();
    let appended = append(&handle, group).await;
    let stored = appended.iter().filter(|a| matches!(a, Appended::Stored(_)));
    assert_eq!(stored.count(), 10);
    while {
        let appended = append(&handle, vec![of(n, Class::Critical)]).await;
        matches!(appended[..], [Appended::Stored(_)])
    } {
        n += 1;
    }
    let before = handle.status().shed[1];
    let group = (300_000..300_040).map(|n| of(n, Class::Normal)).collect();
    assert_eq!(append(&handle, group).await, [Appended::Shed; 40]);
    assert_eq!(handle.status().shed[1], before + 40);
    assert_balanced(&handle.status());
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn keys_of_what_is_given_up_do_not_take_the_room_of_others() {
    let place = place(&[(Class::Low, 60, Keep::None)]);
    let running = place.run();
    let handle = running.handle();
    let kept = press(&handle, Class::Low).await;
    // Their keys alone would fill the room more than once.
    let mut given_up = 1;
    for first in (0..300_000).step_by(1_000) {
        let group = (first..first + 1_000).map(|n| of(10_000_000 + n, Class::Low));
        let appended = append(&handle, group.collect()).await;
        assert_eq!(appended, [Appended::Shed; 1_000]);
        given_up += 1_000;
    }
    let status = handle.status();
    assert_eq!(status.shed, [given_up, 0, 0]);
    let listing = handle.listing().expect("a listing");
    let keys = "SELECT CAST(total(count) AS INTEGER) FROM commits";
    let keys: i64 = listing
        .tables()
        .query_row(keys, [], |row| row.get(0))
        .expect("counted");
    assert!(keys < 150_000, "{keys} of {given_up} are on disk");
    // In memory the last ones are known all the same.
    let group = (299_000..300_000).map(|n| of(10_000_000 + n, Class::Low));
    let appended = append(&handle, group.collect()).await;
    assert_eq!(appended, [Appended::Duplicate; 1_000]);
    for n in 0..100 {
        let appended = append(&handle, vec![of(20_000_000 + n, Class::Critical)]).await;
        assert!(
            matches!(appended[..], [Appended::Stored(_)]),
            "{n} {appended:?}"
        );
    }
    assert!(kept > 0);
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn keys_have_their_share_however_much_others_have() {
    let place = place(&[(Class::Low, 60, Keep::None)]);
    let running = place.run();
    let handle = running.handle();
    // Others have nearly all.
    for n in 0.. {
        let appended = append(&handle, vec![of(n, Class::Critical)]).await;
        if appended[..] == [Appended::Full] {
            break;
        }
    }
    let low = |from: u64| {
        (from..from + 1_000)
            .map(move |n| of(n, Class::Low))
            .collect()
    };
    assert_eq!(
        append(&handle, low(10_000_000)).await,
        [Appended::Shed; 1_000]
    );
    let image = place.crash_image();
    running.shutdown().await.expect("an orderly end");
    let running = image.run();
    let handle = running.handle();
    let again = append(&handle, low(10_000_000)).await;
    assert_eq!(again, [Appended::Duplicate; 1_000], "a resend after a kill");
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_restart_gives_keys_of_what_is_given_up_no_second_share() {
    let mut place = place(&[(Class::Low, 60, Keep::None)]);
    let count = |handle: &Handle| -> u64 {
        let listing = handle.listing().expect("a listing");
        let keys = "SELECT CAST(total(count) AS INTEGER) FROM commits";
        let counted = listing
            .tables()
            .query_row(keys, [], |row| row.get::<_, i64>(0));
        counted.expect("counted").unsigned_abs()
    };
    let mut keys = Vec::new();
    for start in 1..4 {
        let running = place.run();
        let handle = running.handle();
        if start == 1 {
            press(&handle, Class::Low).await;
        }
        for first in (0..80_000).step_by(1_000) {
            let first = start * 10_000_000 + first;
            let low = (first..first + 1_000).map(|n| of(n, Class::Low));
            let appended = append(&handle, low.collect()).await;
            assert_eq!(appended, [Appended::Shed; 1_000]);
        }
        keys.push(count(&handle));
        let image = place.crash_image();
        running.shutdown().await.expect("an orderly end");
        place = image;
    }
    // A fifth of the room, by 16 bytes; and those of what is kept.
    let most = ROOM / 5 / 16 + 10_000;
    assert!(keys[0] > most / 2 && keys[2] < most, "{keys:?} of {most}");
}

#[tokio::test]
async fn a_shortage_that_ends_and_begins_again_gives_those_keys_no_second_share() {
    let mut place = place(&[(Class::Low, 60, Keep::None)]);
    // They are not forgotten for being too many.
    place.config.dedup_count = 1_000_000;
    place.config.dedup_memory_bytes = 256 << 20;
    let running = place.run();
    let handle = running.handle();
    let mut stored = 0;
    for turn in 1..4 {
        // Room gets short, much is given up, and then there is room again.
        while !handle.status().shedding {
            stored += 1;
            append(&handle, vec![of(stored, Class::Critical)]).await;
        }
        for first in (0..80_000).step_by(1_000) {
            let first = turn * 10_000_000 + first;
            let low = (first..first + 1_000).map(|n| of(n, Class::Low));
            let appended = append(&handle, low.collect()).await;
            assert_eq!(appended, [Appended::Shed; 1_000]);
        }
        let before = handle.status().destinations[0].delivered;
        settle(&handle, delivered(0, stored, stored - before)).await;
        until(&handle, |s| s.buffered == 0 && !s.shedding).await;
    }
    let listing = handle.listing().expect("a listing");
    let keys = "SELECT CAST(total(count) AS INTEGER) FROM commits";
    let keys: i64 = listing
        .tables()
        .query_row(keys, [], |row| row.get(0))
        .expect("counted");
    let most = (ROOM / 5 / 16 + stored + 2_000).cast_signed();
    assert!(keys < most, "{keys} of {most}");
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn what_was_to_be_kept_and_found_no_room_is_kept_when_it_is_sent_again() {
    let place = place(&[(Class::Low, 60, Keep::OneOf(10))]);
    let running = place.run();
    let handle = running.handle();
    let mut stored = 0;
    for n in 0.. {
        let appended = append(&handle, vec![of(n, Class::Critical)]).await;
        if appended[..] == [Appended::Full] {
            break;
        }
        stored += 1;
    }
    for _ in 0..12 {
        let appended = append(&handle, vec![of(200_000, Class::Low)]).await;
        assert_eq!(appended, [Appended::Full], "it is the one of ten");
    }
    assert_eq!(handle.status().shed, [0; 3]);
    // Others of the series are thinned out meanwhile: they wait for nothing.
    for n in 1..6 {
        let appended = append(&handle, vec![of(200_000 + 10 * n, Class::Low)]).await;
        assert_eq!(appended, [Appended::Shed]);
    }
    // Room for it, and not so much that it is over.
    let settled = stored / 10;
    settle(&handle, delivered(0, settled, settled)).await;
    until(&handle, |s| s.buffered_settled == 0).await;
    assert!(handle.status().shedding);
    let appended = append(&handle, vec![of(200_000, Class::Low)]).await;
    assert!(
        matches!(appended[..], [Appended::Stored(_)]),
        "{appended:?}"
    );
    let rest = (6..15).map(|n| of(200_000 + 10 * n, Class::Low)).collect();
    assert_eq!(append(&handle, rest).await, [Appended::Shed; 9]);
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn a_log_that_has_grown_is_no_shortage() {
    let mut place = place(&[(Class::Low, 55, Keep::None)]);
    place.config.max_bytes = 16 << 20;
    let running = place.run();
    let handle = running.handle();
    append(&handle, vec![of(0, Class::Low)]).await;
    // Who reads keeps the log from being begun anew.
    let listing = handle.listing().expect("a listing");
    let read = "BEGIN; SELECT count(*) FROM events";
    listing.tables().execute_batch(read).expect("it is read");
    // Nobody waits for them, so what is in the journal stays little; the log does not.
    let log = || std::fs::metadata(place.database().with_extension("db-wal"));
    let mut n = 1;
    while log().expect("a log").len() < 10 << 20 {
        let group: Vec<_> = (n..n + 100).map(|n| of(n, Class::Low)).collect();
        let appended = append(&handle, group).await;
        assert!(matches!(appended[0], Appended::Stored(_)), "{appended:?}");
        n += 100;
        settle(&handle, delivered(0, n, 100)).await;
    }
    assert_eq!(handle.status().shed, [0; 3]);
    drop(listing);
    running.shutdown().await.expect("an orderly end");
}

/// Has the writer append an event of the class `low` in a commit of its own.
fn commit(store: &mut Store, n: u64) -> oneshot::Receiver<Outcome> {
    let (reply, outcome) = oneshot::channel();
    let work = Work::Append {
        entries: vec![of(n, Class::Low)],
        retry_of: None,
        turn: None,
        spare: false,
    };
    let mut batch = vec![Job {
        work,
        reply,
        room: None,
    }];
    store.writer.commit(&mut batch).expect("the writer goes on");
    outcome
}

/// Takes a table out of the way, or back.
fn rename(store: &Store, from: &str, to: &str) {
    let sql = format!("ALTER TABLE {from} RENAME TO {to}");
    let renamed = store.writer.connection.execute_batch(&sql);
    renamed.expect("renamed");
}

#[test]
fn what_was_to_be_kept_by_a_commit_that_fails_is_kept_by_the_next() {
    let place = place(&[(Class::Low, 60, Keep::OneOf(10))]);
    let (mut store, _) = place.open().expect("opens");
    store.writer.shedding.set_mark(0);
    rename(&store, "commits", "hidden");
    assert!(commit(&mut store, 1).try_recv().is_err());
    rename(&store, "hidden", "commits");
    let outcome = commit(&mut store, 1).try_recv();
    assert!(
        matches!(&outcome, Ok(Outcome::Appended(all)) if matches!(all[..], [Appended::Stored(_)])),
        "it is the one of ten: {outcome:?}"
    );
}

#[test]
fn a_commit_that_fails_gives_nothing_up() {
    let place = place(&[(Class::Low, 60, Keep::None)]);
    let (mut store, _) = place.open().expect("opens");
    store.writer.shedding.set_mark(0);
    // Known on disk, and beyond the room for that in memory only.
    for (n, room) in [(1, 256 << 20), (2, 1)] {
        store.writer.room.set_limit(OnFull::PushBack, room);
        // The table is away: what is given up cannot be counted, so nobody hears that it was.
        rename(&store, "gaps", "hidden");
        assert!(commit(&mut store, n).try_recv().is_err());
        assert_eq!(store.handle().status().shed, [n - 1, 0, 0]);
        rename(&store, "hidden", "gaps");
        let outcome = commit(&mut store, n).try_recv();
        assert!(
            matches!(&outcome, Ok(Outcome::Appended(all)) if all[..] == [Appended::Shed]),
            "its key is not remembered: {outcome:?}"
        );
        let told: u64 = gaps(&store.handle()).iter().map(|gap| gap.count).sum();
        assert_eq!(told, n);
    }
}

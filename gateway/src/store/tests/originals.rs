//! Messages kept as they came, and events that stay after everybody has them.

use super::*;
use crate::store::job::Outcome;

/// An event of a message that is kept; `once` get the message itself.
fn of_message(n: u64, is_first: bool, routes: Routes, once: Routes) -> Entry {
    let Entry::Event(event) = event(n, routes) else {
        unreachable!()
    };
    Entry::Event(NewEvent {
        original: Some(NewOriginal {
            bytes: Bytes::from_static(b" as it came"),
            is_first,
            once,
        }),
        ..event
    })
}

/// Position, routes, and whether the message lies behind the event.
fn stored(handle: &Handle) -> Vec<(u64, u64, bool)> {
    let listing = handle.listing().expect("a listing");
    let end = handle.status().committed.0;
    let record = |n| listing.record(Position(n)).expect("read");
    (1..=end)
        .filter_map(record)
        .map(|r| (r.position.0, r.routes.0, r.body.ends_with(b" as it came")))
        .collect()
}

#[tokio::test]
async fn a_message_is_kept_once_with_the_first_of_its_events_that_is_new() {
    let place = Place::new(&["a", "b"]);
    let running = place.run();
    let handle = running.handle();
    let all = to(&[0, 1]);
    append(
        &handle,
        vec![
            event(1, all),
            of_message(1, true, all, Routes::NONE),
            of_message(2, false, all, Routes::NONE),
            of_message(3, false, all, Routes::NONE),
            of_message(4, true, all, Routes::NONE),
            event(5, all),
        ],
    )
    .await;
    let expect = vec![
        (1, 3, false),
        (2, 3, true),
        (3, 3, false),
        (4, 3, true),
        (5, 3, false),
    ];
    assert_eq!(stored(&handle), expect);
    assert_eq!(handle.status().duplicate, 1);
    // Only what is on disk may tell, and a salvage brings it along.
    let image = place.crash_image();
    running.shutdown().await.expect("an orderly end");
    let running = image.run();
    assert_eq!(stored(&running.handle()), expect);
    assert!(verify(&image.config.dir).expect("a journal").is_whole());
    running.shutdown().await.expect("an orderly end");
}

#[tokio::test]
async fn who_gets_the_message_itself_gets_it_with_one_event_and_never_with_none() {
    let place = Place::new(&["events", "bytes", "more-bytes"]);
    let running = place.run();
    let handle = running.handle();
    let (all, once) = (to(&[0, 1, 2]), to(&[1, 2]));
    append(
        &handle,
        vec![
            event(1, to(&[0])),
            // Known already: what comes after it has the message.
            of_message(1, true, all, once),
            of_message(2, false, to(&[0, 1]), once),
            of_message(3, false, all, once),
            of_message(4, false, all, once),
        ],
    )
    .await;
    let expect = [
        (1, 0b001, false),
        (2, 0b011, true),
        // The second of them gets it too, though the rules send it later events only.
        (3, 0b101, true),
        (4, 0b001, false),
    ];
    assert_eq!(stored(&handle), expect);
    let routed: Vec<u64> = handle
        .status()
        .destinations
        .iter()
        .map(|d| d.routed)
        .collect();
    assert_eq!(routed, [4, 1, 1]);
    assert_balanced(&handle.status());
    running.shutdown().await.expect("an orderly end");
}

/// The group of a message of so many bytes with 300 events; `once` get the message.
fn batch(bytes: usize, once: Routes) -> Vec<Entry> {
    let entry = |n| {
        // The rules send the destinations different ones.
        let Entry::Event(event) = event(n, to(&[0, u8::try_from(n % 3).expect("small")])) else {
            unreachable!()
        };
        Entry::Event(NewEvent {
            original: Some(NewOriginal {
                bytes: vec![b'x'; bytes].into(),
                is_first: n == 0,
                once,
            }),
            ..event
        })
    };
    (0..300).map(entry).collect()
}

#[tokio::test]
async fn a_message_counts_as_often_as_it_is_kept_not_once_for_each_of_its_events() {
    let mut place = Place::new(&["events", "bytes", "more-bytes"]);
    place.config.max_bytes = 4 << 20;
    let running = place.run();
    let handle = running.handle();
    let group = batch(100_000, to(&[1, 2]));
    let cost: usize = group.iter().map(Entry::cost_bytes).sum();
    let appended = append(&handle, group).await;
    assert!(
        appended.iter().all(|a| matches!(a, Appended::Stored(_))),
        "30 times as much does not fit: {:?}",
        appended[0]
    );
    let listing = handle.listing().expect("a listing");
    let records = (1..=300).map(|n| listing.record(Position(n)).expect("read").expect("there"));
    let taken: usize = records.map(|record| record.body.len()).sum();
    assert!(taken > 300_000, "it is kept three times: {taken}");
    assert!(
        taken <= cost && cost < taken + 40_000,
        "{cost} of {taken} bytes"
    );
    running.shutdown().await.expect("an orderly end");
}

/// Work is done here and now, housekeeping with each commit.
struct Bench {
    place: Place,
    store: Store,
}

impl Bench {
    fn new(keep_delivered: Option<Duration>, max_bytes: u64) -> Self {
        let mut place = Place::new(&["a"]);
        place.config.keep_delivered = keep_delivered;
        place.config.max_bytes = max_bytes;
        let (store, _) = place.open().expect("the journal opens");
        Self { place, store }
    }

    fn work(&mut self, work: Work) -> Outcome {
        let (reply, mut outcome) = oneshot::channel();
        let job = Job {
            work,
            reply,
            room: None,
        };
        let writer = &mut self.store.writer;
        writer.set_due(true);
        writer.commit(&mut vec![job]).expect("committed");
        outcome.try_recv().expect("an answer")
    }

    fn append(&mut self, entries: Vec<Entry>) -> Outcome {
        self.append_as(entries, false)
    }

    fn append_as(&mut self, entries: Vec<Entry>, spare: bool) -> Outcome {
        self.work(Work::Append {
            entries,
            retry_of: None,
            turn: None,
            spare,
        })
    }

    fn buffered(&self) -> u64 {
        self.store.handle.status().buffered
    }

    fn positions(&self) -> Vec<u64> {
        stored(&self.store.handle).iter().map(|row| row.0).collect()
    }
}

#[test]
fn delivered_events_stay_for_as_long_as_they_are_kept() {
    let hour = Duration::from_secs(3_600);
    let mut bench = Bench::new(Some(hour), 256 << 20);
    let received = |bench: &Bench, n| {
        let Entry::Event(event) = event(n, to(&[0])) else {
            unreachable!()
        };
        let received = bench.place.clock.now();
        vec![Entry::Event(NewEvent { received, ..event })]
    };
    let first = received(&bench, 1);
    bench.append(first);
    bench.place.advance(hour / 2);
    for n in 2..4 {
        let next = received(&bench, n);
        bench.append(next);
    }
    bench.work(Work::Progress(delivered(0, 2, 2)));
    assert_eq!(bench.positions(), [1, 2, 3]);
    let status = bench.store.handle.status();
    assert_eq!((status.buffered, status.buffered_settled), (3, 2));
    bench.place.advance(hour * 3 / 4);
    bench.work(Work::Progress(delivered(0, 2, 0)));
    assert_eq!(bench.positions(), [2, 3], "the first one's hour is over");
    bench.place.advance(hour);
    bench.work(Work::Progress(delivered(0, 2, 0)));
    assert_eq!(bench.positions(), [3], "what waits stays, however old");
    let status = bench.store.handle.status();
    assert_balanced(&status);
    assert_eq!(status.destinations[0].delivered, 2);

    let mut bench = Bench::new(None, 256 << 20);
    bench.append(vec![event(1, to(&[0])), event(2, to(&[0]))]);
    bench.work(Work::Progress(delivered(0, 1, 1)));
    assert_eq!(bench.positions(), [2]);
}

#[test]
fn what_everybody_has_gives_way_before_anybody_is_turned_away() {
    let mut bench = Bench::new(Some(Duration::from_secs(3_600)), 16 << 20);
    let big = |n| {
        let Entry::Event(event) = event(n, to(&[0])) else {
            unreachable!()
        };
        let body = Bytes::from(vec![b'x'; 4_000]);
        Entry::Event(NewEvent { body, ..event })
    };
    for n in 0..200 {
        let group: Vec<Entry> = (0..50).map(|m| big(50 * n + m)).collect();
        let Outcome::Appended(appended) = bench.append(group) else {
            unreachable!()
        };
        assert!(!appended.contains(&Appended::Full), "group {n}");
        bench.work(Work::Progress(delivered(0, 50 * (n + 1), 50)));
    }
    assert!(bench.buffered() > 0, "some of it is still there");
    assert_balanced(&bench.store.handle.status());
}

/// A quarter of a megabyte.
const LARGE: usize = 256 << 10;

fn large(n: u64) -> Vec<Entry> {
    let Entry::Event(event) = event(n, to(&[0])) else {
        unreachable!()
    };
    let body = Bytes::from(vec![b'x'; LARGE]);
    vec![Entry::Event(NewEvent { body, ..event })]
}

#[test]
fn large_events_that_everybody_has_leave_a_few_at_a_time_and_half_of_the_room_stays_theirs() {
    const ROOM: u64 = 96 << 20;
    let mut bench = Bench::new(Some(Duration::from_secs(3_600)), ROOM);
    let (mut before, mut least) = (0, u64::MAX);
    for n in 1..=600 {
        bench.append(large(n));
        bench.work(Work::Progress(delivered(0, n, 1)));
        let now = bench.buffered();
        assert!(now + 20 > before, "{before} events, then {now}");
        before = now;
        if n > 300 {
            least = least.min(now);
        }
    }
    assert!(
        least * LARGE as u64 > ROOM / 3,
        "only {least} of them were kept"
    );
    assert!(before * (LARGE as u64) < ROOM * 5 / 8, "{before} are kept");
}

#[test]
fn no_more_large_events_are_evicted_than_there_must_be() {
    const ROOM: u64 = 64 << 20;
    let mut bench = Bench::new(None, ROOM);
    bench.store.writer.room.set_limit(OnFull::DropOldest, ROOM);
    for n in 1..=400 {
        let Outcome::Appended(appended) = bench.append(large(n)) else {
            unreachable!()
        };
        assert!(!appended.contains(&Appended::Full), "event {n}");
        let kept = bench.buffered();
        assert!(n < 200 || kept * (LARGE as u64) > ROOM / 2, "{kept} of {n}");
    }
    assert_balanced(&bench.store.handle.status());
}

#[test]
fn what_can_wait_takes_room_only_while_there_is_plenty_and_nothing_gives_way_to_it() {
    for on_full in [OnFull::PushBack, OnFull::DropOldest] {
        let mut bench = Bench::new(None, 16 << 20);
        bench.store.writer.room.set_limit(on_full, 16 << 20);
        let big = |n| {
            let Entry::Event(event) = event(n, to(&[0])) else {
                unreachable!()
            };
            let body = vec![0; 512 * 1024].into();
            vec![Entry::Event(NewEvent { body, ..event })]
        };
        let is_full =
            |outcome| matches!(outcome, Outcome::Appended(all) if all[..] == [Appended::Full]);
        let mut n = 1;
        while !is_full(bench.append_as(big(n), true)) {
            n += 1;
            assert!(n < 32, "it may not fill the journal");
        }
        let status = bench.store.handle.status();
        assert_eq!((status.buffered, status.refused_full), (n - 1, 0));
        assert!(!bench.store.writer.room.refusing(), "nobody is turned away");
        assert!(!is_full(bench.append(big(n))), "devices still have room");
        assert!(is_full(bench.append_as(big(n + 1), true)));
        assert_eq!(bench.buffered(), n, "nothing was evicted");
    }
}

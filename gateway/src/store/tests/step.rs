//! Steps of the wall clock: neither records nor keys leave by them, and both
//! still leave by age.

use super::*;

const AGE: Duration = Duration::from_mins(60);
const YEAR: i64 = 365 * 24 * 3600;

/// A journal whose writer works when it is told to.
struct Bench {
    place: Place,
    store: Option<Store>,
}

impl Bench {
    fn new() -> Self {
        let mut place = Place::new(&["a"]);
        place.config.max_age = Some(AGE);
        place.config.dedup_age = AGE;
        let mut bench = Self { place, store: None };
        bench.restart();
        bench
    }

    fn restart(&mut self) {
        self.store = None;
        let (mut store, _) = self.place.open().expect("the journal opens");
        store.writer.load_keys().expect("keys");
        self.store = Some(store);
        self.keep_house();
    }

    fn writer(&mut self) -> &mut writer::Writer {
        &mut self.store.as_mut().expect("it is open").writer
    }

    fn keep_house(&mut self) {
        self.writer().set_due(true);
        self.writer().commit(&mut Vec::new()).expect("a commit");
    }

    /// Sets the wall clock.
    fn step(&self, secs: i64) {
        let set = &self.place.clock.set;
        set.fetch_add(secs * 1_000, Ordering::SeqCst);
    }

    fn pass(&mut self, minutes: u64) {
        self.place.advance(Duration::from_mins(minutes));
        self.keep_house();
    }

    fn work(&mut self, work: Work) {
        let (reply, mut outcome) = oneshot::channel();
        let room = None;
        let mut batch = vec![Job { work, reply, room }];
        self.writer().commit(&mut batch).expect("a commit");
        outcome.try_recv().expect("an answer");
    }

    fn store_event(&mut self, n: u64, received: Timestamp) {
        let Entry::Event(event) = event(n, to(&[0])) else {
            unreachable!("it is an event")
        };
        self.work(Work::Append {
            entries: vec![Entry::Event(NewEvent { received, ..event })],
            retry_of: None,
            turn: None,
            spare: false,
        });
    }

    fn store_now(&mut self, n: u64) {
        self.store_event(n, self.place.clock.now());
    }

    /// Events that wait (also for another attempt), that have expired, and
    /// whether each key up to `last` is remembered.
    fn assert(&mut self, waiting: u64, expired: u64, last: u64, remembered: bool) {
        let keys: Vec<_> = (1..=last)
            .map(|n| self.writer().window.contains(key(n)))
            .collect();
        assert!(keys.iter().all(|known| *known == remembered), "{keys:?}");
        let status = self.store.as_ref().expect("it is open").handle().status();
        assert_balanced(&status);
        let d = &status.destinations[0];
        assert_eq!((d.backlog, d.expired), (waiting, expired));
    }
}

#[test]
fn a_clock_that_is_set_after_a_boot_in_1970_keeps_backlog_and_keys() {
    let mut bench = Bench::new();
    bench.store_now(1);
    bench.store_now(2);
    let record = read_all(&bench.store.as_ref().expect("open").handle(), 0, 0).remove(0);
    let mut progress = delivered(0, 1, 0);
    progress.retry.push(Retry {
        first: None,
        record,
        attempts: 1,
        not_before: bench.place.clock.now(),
        reason: "no".into(),
    });
    bench.work(Work::Progress(progress));
    let before = bench.place.clock.now();
    bench.step(56 * YEAR);
    bench.keep_house();
    bench.assert(2, 0, 2, true);
    // Received before the step, and stored after it.
    bench.store_event(3, before);
    bench.pass(59);
    bench.assert(3, 0, 3, true);
    bench.pass(2);
    bench.assert(0, 3, 3, false);
}

#[test]
fn time_that_passes_between_two_looks_is_no_step() {
    let mut bench = Bench::new();
    bench.store_now(1);
    bench.pass(120);
    bench.assert(0, 1, 1, false);
}

#[test]
fn a_small_correction_is_no_step() {
    let mut bench = Bench::new();
    bench.store_now(1);
    bench.pass(30);
    bench.step(4 * 60);
    bench.keep_house();
    bench.pass(27);
    bench.assert(0, 1, 1, false);
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_ageing() {
    let mut bench = Bench::new();
    bench.step(80 * YEAR);
    bench.keep_house();
    bench.store_now(1);
    bench.step(-24 * YEAR);
    bench.keep_house();
    bench.store_now(2);
    bench.pass(59);
    bench.assert(2, 0, 2, true);
    bench.pass(2);
    bench.assert(0, 2, 2, false);
}

#[test]
fn a_restart_after_a_step_changes_nothing() {
    let mut bench = Bench::new();
    // Not 1970: nothing but the note of the step tells.
    bench.step(50 * YEAR);
    bench.keep_house();
    bench.store_now(1);
    bench.step(YEAR);
    bench.keep_house();
    bench.store_now(2);
    bench.pass(30);
    bench.restart();
    bench.assert(2, 0, 2, true);
    bench.pass(29);
    bench.assert(2, 0, 2, true);
    bench.pass(2);
    bench.assert(0, 2, 2, false);
}

#[test]
fn a_clock_that_is_set_between_two_runs_keeps_backlog_and_keys() {
    // From 1970; back from 2050.
    for (first, then) in [(0, 56 * YEAR), (80 * YEAR, -24 * YEAR)] {
        let mut bench = Bench::new();
        bench.step(first);
        bench.keep_house();
        bench.store_now(1);
        bench.step(then);
        bench.restart();
        bench.assert(1, 0, 1, true);
        // Known from the disk now.
        bench.restart();
        bench.pass(59);
        bench.assert(1, 0, 1, true);
        bench.pass(2);
        bench.assert(0, 1, 1, false);
    }
}

#[test]
fn a_step_whose_commit_fails_is_noted_by_the_next() {
    let mut bench = Bench::new();
    bench.store_now(1);
    bench.step(56 * YEAR);
    let lock = "BEGIN IMMEDIATE";
    bench.writer().connection.execute_batch(lock).expect("open");
    bench.keep_house();
    let unlock = "ROLLBACK";
    drop(bench.writer().connection.execute_batch(unlock));
    bench.pass(5);
    bench.assert(1, 0, 1, true);
}

#[test]
fn an_event_received_before_a_step_and_stored_after_it_stays() {
    let mut bench = Bench::new();
    let before = bench.place.clock.now();
    bench.step(56 * YEAR);
    bench.keep_house();
    bench.store_event(1, before);
    bench.pass(59);
    bench.assert(1, 0, 1, true);
    bench.pass(2);
    bench.assert(0, 1, 1, false);
}

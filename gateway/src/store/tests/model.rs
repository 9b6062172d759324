//! The journal against a twin that keeps everything in maps: random appends,
//! duplicates, reads, progress, retries, dead letters, expiry, eviction, trimming,
//! crashes and restarts, with records in flight while retention takes them.
//!
//! The writer is driven without its thread, so that a case is the same each time.

mod twin;

use std::collections::{BTreeMap, HashMap, VecDeque};

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{class::Class, store::job::Outcome};

pub(crate) use twin::Became;
use twin::{Fate, TELLING, Tell, Twin, body, device_of, is_low};

const AGE: Duration = Duration::from_secs(100);
/// Marks that are never reached, and always.
const NEVER: u64 = 100;
const ALWAYS: u64 = 0;

#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// Entries: key, routes, whether it is deduplicated; `None` cannot be decoded.
    Append(Vec<Option<(u64, u64, bool)>>),
    Read {
        destination: u8,
        count: usize,
    },
    /// What becomes of the oldest page in flight, by record: delivered, failed, dead.
    Settle {
        destination: u8,
        outcomes: Vec<u8>,
    },
    Retry {
        destination: u8,
        outcomes: Vec<u8>,
    },
    Redrive,
    DiscardDead,
    DiscardQuarantine,
    /// Room gets short, or is there again.
    Press(bool),
    /// What was given up is told.
    Tell,
    Pass(u64),
    KeepHouse,
    Squeeze,
    Crash,
    CrashImage,
    Close,
}

pub(crate) fn op() -> impl Strategy<Value = Op> {
    let entry = prop_oneof![
        9 => (0..80_u64, 0..10_u64, prop::bool::weighted(0.9)).prop_map(|(n, routes, dedup)| {
            let routes = match routes {
                8 => Routes::NOWHERE.0,
                // To the destination that does what rules ask for, and to no other.
                9 => Routes::NOWHERE.0 | 1,
                routes => routes,
            };
            Some((n, routes, dedup))
        }),
        1 => Just(None),
    ];
    let outcomes = || vec(0..6_u8, 1..6);
    prop_oneof![
        12 => vec(entry, 1..12).prop_map(Op::Append),
        12 => (0..3_u8, 1..8_usize).prop_map(|(destination, count)| Op::Read { destination, count }),
        12 => (0..3_u8, outcomes()).prop_map(|(destination, outcomes)| Op::Settle { destination, outcomes }),
        5 => (0..3_u8, outcomes()).prop_map(|(destination, outcomes)| Op::Retry { destination, outcomes }),
        1 => Just(Op::Redrive),
        1 => Just(Op::DiscardDead),
        1 => Just(Op::DiscardQuarantine),
        3 => any::<bool>().prop_map(Op::Press),
        2 => Just(Op::Tell),
        3 => (1..60_u64).prop_map(Op::Pass),
        4 => Just(Op::KeepHouse),
        1 => Just(Op::Squeeze),
        2 => Just(Op::Crash),
        1 => Just(Op::CrashImage),
        1 => Just(Op::Close),
    ]
}

/// The journal under test, and where each destination's task stands.
pub(crate) struct World {
    place: Place,
    /// Up to where somebody reads who is no destination, where there is one.
    pub(crate) held: Option<Position>,
    store: Option<Store>,
    twin: Twin,
    pressed: bool,
    at: [u64; 3],
    settled: [u64; 3],
    in_flight: [VecDeque<Page>; 3],
}

impl World {
    pub(crate) fn new() -> Self {
        let mut place = Place::new(&["a", "b", "c"]);
        place.config.max_age = Some(AGE);
        place.config.reserve_bytes = 0;
        place.config.shed = vec![Shed {
            class: Class::Low,
            above: NEVER,
            keep: Keep::None,
        }];
        let mut world = Self {
            place,
            held: None,
            store: None,
            twin: Twin::default(),
            pressed: false,
            at: [0; 3],
            settled: [0; 3],
            in_flight: Default::default(),
        };
        world.open();
        world
    }

    fn open(&mut self) {
        let (mut store, report) = self.place.open().expect("opens");
        assert!(
            report.set_aside.is_none() && report.promise != Promise::Unknown || self.twin.last == 0
        );
        assert!(
            !matches!(report.promise, Promise::Broken { .. }),
            "{report:?}"
        );
        store.writer.load_keys().expect("keys");
        if let Some(held) = self.held {
            store.handle().hold().set(held);
        }
        store.writer.set_due(false);
        for (id, _, cursor) in &report.destinations {
            self.at[usize::from(id.0)] = cursor.0;
            self.settled[usize::from(id.0)] = cursor.0;
            self.in_flight[usize::from(id.0)].clear();
        }
        self.store = Some(store);
        for id in 0..3 {
            let read: Vec<_> = read_all(&self.store().handle(), id, self.at[usize::from(id)])
                .into_iter()
                .map(|r| (r.position.0, r.received, r.body))
                .collect();
            let expected: Vec<_> = self
                .twin
                .waiting(id, 0)
                .into_iter()
                .map(|p| (p, self.twin.records[&p].0, self.twin.records[&p].1.clone()))
                .collect();
            assert_eq!(read, expected, "what waits for {id} after a restart");
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open")
    }

    fn work(&mut self, work: Vec<Work>) -> Vec<Outcome> {
        let (mut batch, mut outcomes) = (Vec::new(), Vec::new());
        for work in work {
            let (reply, outcome) = oneshot::channel();
            batch.push(Job {
                work,
                reply,
                room: None,
            });
            outcomes.push(outcome);
        }
        let store = self.store.as_mut().expect("it is open");
        store.writer.commit(&mut batch).expect("the writer goes on");
        outcomes
            .into_iter()
            .map(|mut o| o.try_recv().expect("an answer"))
            .collect()
    }

    fn now(&self) -> Timestamp {
        self.place.clock.now()
    }

    fn entry(&self, entry: Option<(u64, u64, bool)>) -> Entry {
        match entry {
            None => broken(0),
            Some((n, routes, dedup)) => Entry::Event(NewEvent {
                key: key(n),
                dedup,
                device: device_of(n).into(),
                received: self.now(),
                routes: Routes(routes),
                body: body(n, self.now()),
                original: None,
                shed: is_low(n).then_some(Sheddable {
                    class: Class::Low,
                    series: 0,
                }),
            }),
        }
    }

    fn append(&mut self, entries: &[Option<(u64, u64, bool)>]) {
        let work = entries.iter().map(|e| self.entry(*e)).collect();
        let outcomes = self.work(vec![Work::Append {
            entries: work,
            retry_of: None,
            turn: None,
            spare: false,
        }]);
        let [Outcome::Appended(appended)] = &outcomes[..] else {
            panic!("{outcomes:?}")
        };
        let now = self.now();
        let twin = &mut self.twin;
        let (mut expected, mut shed) = (Vec::new(), BTreeMap::new());
        for entry in entries {
            let Some((n, routes, dedup)) = *entry else {
                twin.quarantined += 1;
                twin.in_quarantine.push(twin.quarantined);
                expected.push(Appended::Quarantined(twin.quarantined));
                continue;
            };
            if dedup && twin.keys.insert(n, ()).is_some() {
                twin.duplicate += 1;
                expected.push(Appended::Duplicate);
                continue;
            }
            if self.pressed && is_low(n) {
                *shed.entry((device_of(n), routes)).or_insert(0) += 1;
                expected.push(Appended::Shed);
                continue;
            }
            twin.store(n, routes, now);
            expected.push(Appended::Stored(Position(twin.last)));
        }
        for (of, count) in shed {
            *twin.shed.entry(of.0.clone()).or_default() += count;
            match twin.gaps.iter_mut().find(|(known, _)| *known == of) {
                Some((_, known)) => *known += count,
                None => twin.gaps.push((of, count)),
            }
        }
        assert_eq!(*appended, expected);
    }

    fn read(&mut self, destination: u8, count: usize) {
        let d = usize::from(destination);
        let mut reader = self.store().handle().reader().expect("a reader");
        let page = reader
            .read(
                DestinationId(destination),
                Position(self.at[d]),
                count,
                1 << 20,
            )
            .expect("a page");
        let mut expected = self.twin.waiting(destination, self.at[d]);
        let rest = expected.split_off(count.min(expected.len()));
        let positions: Vec<_> = page.records.iter().map(|r| r.position.0).collect();
        assert_eq!(positions, expected);
        assert!(
            rest.first().is_none_or(|next| page.scanned_to.0 < *next),
            "nothing is passed over"
        );
        assert!(
            page.scanned_to.0 <= self.twin.last,
            "nothing uncommitted is passed over"
        );
        self.at[d] = page.scanned_to.0;
        self.in_flight[d].push_back(page);
    }

    fn settle(&mut self, destination: u8, outcomes: &[u8]) {
        let Some(page) = self.in_flight[usize::from(destination)].pop_front() else {
            return;
        };
        let mut progress = delivered(destination, page.scanned_to.0, 0);
        self.settled[usize::from(destination)] = page.scanned_to.0;
        for (record, outcome) in page.records.iter().zip(outcomes.iter().cycle()) {
            self.outcome(destination, record, *outcome, 1, false, &mut progress);
        }
        self.work(vec![Work::Progress(progress)]);
    }

    fn retry(&mut self, destination: u8, outcomes: &[u8]) {
        let mut reader = self.store().handle().reader().expect("a reader");
        let retries = reader
            .retries(DestinationId(destination), 4, usize::MAX)
            .expect("retries");
        let expected: Vec<_> = self.twin.fates[usize::from(destination)]
            .iter()
            .filter_map(|(p, fate)| match fate {
                Fate::Retrying(attempts) => Some((*p, *attempts)),
                _ => None,
            })
            .take(4)
            .collect();
        let found: Vec<_> = retries
            .iter()
            .map(|r| (r.record.position.0, r.attempts))
            .collect();
        assert_eq!(found, expected);
        // The cursor as the destination's task knows it; the journal's may be ahead.
        let mut progress = delivered(destination, self.settled[usize::from(destination)], 0);
        for (retry, outcome) in retries.iter().zip(outcomes.iter().cycle()) {
            let attempts = retry.attempts + 1;
            self.outcome(
                destination,
                &retry.record,
                *outcome,
                attempts,
                true,
                &mut progress,
            );
        }
        self.work(vec![Work::Progress(progress)]);
    }

    fn outcome(
        &mut self,
        destination: u8,
        record: &Record,
        outcome: u8,
        attempts: u32,
        again: bool,
        progress: &mut Progress,
    ) {
        let (record, reason) = (record.clone(), "no".to_owned());
        let position = record.position;
        assert_eq!(record.body, self.twin.records[&position.0].1);
        let fate = match outcome {
            4 => {
                let not_before = self.now();
                progress.retry.push(Retry {
                    first: None,
                    record,
                    attempts,
                    not_before,
                    reason,
                });
                Fate::Retrying(attempts)
            }
            5 => {
                progress.dead.push(Dead {
                    first: None,
                    record,
                    attempts,
                    reason,
                });
                self.twin.dead_letters.push((destination, position.0));
                Fate::Dead
            }
            _ => {
                progress.delivered += 1;
                if again {
                    progress.retried.push(position);
                }
                Fate::Delivered
            }
        };
        self.twin.fates[usize::from(destination)].insert(position.0, fate);
    }

    fn keep_house(&mut self) {
        self.store
            .as_mut()
            .expect("it is open")
            .writer
            .set_due(true);
        self.work(Vec::new());
        self.store
            .as_mut()
            .expect("it is open")
            .writer
            .set_due(false);
        let before = self.now().as_nanos() - i64::try_from(AGE.as_nanos()).expect("short");
        for fates in self.twin.fates.iter_mut().chain([&mut self.twin.nowhere]) {
            for (position, fate) in fates {
                let old = self.twin.records[position].0.as_nanos() < before;
                if old && matches!(fate, Fate::Waiting | Fate::Retrying(_)) {
                    *fate = Fate::Expired;
                }
            }
        }
    }

    /// No room at all: everything that waits is evicted, and it is still not enough.
    fn squeeze(&mut self) {
        let writer = &mut self.store.as_mut().expect("it is open").writer;
        writer.room.set_limit(OnFull::DropOldest, 0);
        let refused = Work::Append {
            entries: vec![event(999, to(&[0]))],
            retry_of: None,
            turn: None,
            spare: false,
        };
        let outcomes = self.work(vec![refused]);
        assert!(matches!(&outcomes[..], [Outcome::Appended(a)] if a[..] == [Appended::Full]));
        let writer = &mut self.store.as_mut().expect("it is open").writer;
        writer.room.set_limit(OnFull::PushBack, u64::MAX);
        self.twin.in_quarantine.clear();
        for fates in self.twin.fates.iter_mut().chain([&mut self.twin.nowhere]) {
            for fate in fates.values_mut().filter(|fate| **fate == Fate::Waiting) {
                *fate = Fate::Evicted;
            }
        }
    }

    fn press(&mut self, pressed: bool) {
        self.pressed = pressed;
        let above = if pressed { ALWAYS } else { NEVER };
        self.place.config.shed[0].above = above;
        let store = self.store.as_mut().expect("it is open");
        store.writer.shedding.set_mark(above);
    }

    /// What is told is what was given up since it was told last: no less, and nothing twice.
    fn tell(&mut self) {
        let (first, at) = (self.twin.told, self.now());
        let outcomes = self.work(vec![Work::Edit(Box::new(Tell { first, at }))]);
        let Some(Outcome::Edited(told)) = outcomes.into_iter().next() else {
            panic!("there is room")
        };
        let told = *told
            .downcast::<Vec<((String, u64), u64)>>()
            .expect("what is told");
        assert_eq!(told, self.twin.gaps);
        for (n, ((_, routes), _)) in (0..).zip(std::mem::take(&mut self.twin.gaps)) {
            self.twin.told += 1;
            self.twin.store(TELLING + first + n, routes, at);
        }
    }

    pub(crate) fn act(&mut self, op: Op) {
        match op {
            Op::Append(entries) => self.append(&entries),
            Op::Read { destination, count } => self.read(destination, count),
            Op::Settle {
                destination,
                outcomes,
            } => self.settle(destination, &outcomes),
            Op::Retry {
                destination,
                outcomes,
            } => self.retry(destination, &outcomes),
            Op::Redrive => {
                let letters = self.store().handle().listing().expect("a listing");
                let letters = letters.dead_letters(None, 0, 100).expect("letters");
                let ids = letters.iter().map(|l| l.id).collect();
                self.work(vec![Work::Change(job::Change::Redrive(ids))]);
                for (destination, position) in self.twin.dead_letters.drain(..) {
                    self.twin.fates[usize::from(destination)].insert(position, Fate::Retrying(0));
                }
            }
            Op::DiscardDead => {
                let letters = self.store().handle().listing().expect("a listing");
                let letters = letters.dead_letters(None, 0, 100).expect("letters");
                let ids = letters.iter().map(|l| l.id).collect();
                self.work(vec![Work::Change(job::Change::DiscardDead(ids))]);
                self.twin.dead_letters.clear();
            }
            Op::DiscardQuarantine => {
                let ids = std::mem::take(&mut self.twin.in_quarantine);
                self.work(vec![Work::Change(job::Change::DiscardQuarantined(ids))]);
            }
            Op::Press(pressed) => self.press(pressed),
            Op::Tell => self.tell(),
            Op::Pass(seconds) => self.place.advance(Duration::from_secs(seconds)),
            Op::KeepHouse => self.keep_house(),
            Op::Squeeze => self.squeeze(),
            Op::Crash => {
                self.store = None;
                self.open();
            }
            Op::CrashImage => {
                let image = self.place.crash_image();
                self.store = None;
                self.place = image;
                self.open();
            }
            Op::Close => {
                self.store
                    .as_mut()
                    .expect("it is open")
                    .writer
                    .close()
                    .expect("closes");
                self.store = None;
                self.open();
            }
        }
        self.compare();
    }

    pub(crate) fn handle(&self) -> Handle {
        self.store().handle()
    }

    /// What became of events by device and destination.
    pub(crate) fn by_device(&self) -> BTreeMap<(String, u8), Became> {
        let mut all = BTreeMap::<_, Became>::new();
        for (id, fates) in (0..).zip(&self.twin.fates) {
            for (position, fate) in fates {
                let of = (self.twin.devices[position].clone(), id);
                let became = all.entry(of).or_default();
                became.routed += 1;
                *match fate {
                    Fate::Waiting | Fate::Retrying(_) => &mut became.backlog,
                    Fate::Delivered => &mut became.delivered,
                    Fate::Dead => &mut became.dead,
                    Fate::Expired | Fate::Evicted => &mut became.lost,
                } += 1;
            }
        }
        all
    }

    /// What was given up, by device.
    pub(crate) fn shed(&self) -> BTreeMap<String, u64> {
        self.twin.shed.clone()
    }

    fn compare(&self) {
        let status = self.store().handle().status();
        assert_balanced(&status);
        let twin = &self.twin;
        assert_eq!(
            (
                status.committed.0,
                status.stored,
                status.duplicate,
                status.quarantined
            ),
            (twin.last, twin.stored, twin.duplicate, twin.quarantined)
        );
        assert_eq!(status.shed, [twin.shed.values().sum(), 0, 0]);
        assert_eq!(status.in_quarantine, twin.in_quarantine.len() as u64);
        assert_eq!(status.dead_letters, twin.dead_letters.len() as u64);
        let nowhere = |fate| twin.nowhere.values().filter(|f| **f == fate).count() as u64;
        assert_eq!(
            (
                status.nowhere.total,
                status.nowhere.held,
                status.nowhere.expired,
                status.nowhere.evicted
            ),
            (
                twin.nowhere.len() as u64,
                nowhere(Fate::Waiting),
                nowhere(Fate::Expired),
                nowhere(Fate::Evicted)
            )
        );
        assert!(status.buffered >= status.nowhere.held, "{status:?}");
        for d in &status.destinations {
            let count = |fate| twin.count(d.id.0, |f| f == fate);
            let retrying = twin.count(d.id.0, |f| matches!(f, Fate::Retrying(_)));
            assert_eq!(
                d.routed,
                twin.fates[usize::from(d.id.0)].len() as u64,
                "routed {d:?}"
            );
            assert_eq!(d.delivered, count(Fate::Delivered), "delivered {d:?}");
            assert_eq!(d.dead, count(Fate::Dead), "dead {d:?}");
            assert_eq!(d.retrying, retrying, "retrying {d:?}");
            assert_eq!(d.backlog, count(Fate::Waiting) + retrying, "backlog {d:?}");
            assert_eq!(
                d.expired + d.evicted,
                count(Fate::Expired) + count(Fate::Evicted),
                "{d:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_journal_does_what_its_twin_does(ops in vec(op(), 1..60)) {
        let mut world = World::new();
        for op in ops {
            world.act(op);
        }
        world.act(Op::Crash);
        let report = verify(&world.place.config.dir).expect("readable");
        prop_assert!(report.is_whole(), "{report:?}");
    }
}

//! Order across refusals.

use std::sync::atomic::AtomicU64;

use proptest::{collection::vec, prelude::*};
use tokio::sync::oneshot::Receiver;

use super::*;
use crate::store::{job::Outcome, turn::Turn};

/// A writer that is driven by hand, and one connection's queue before it.
struct Driven {
    store: Store,
    _place: Place,
}

/// A group that was asked about.
type Asked = (u64, Receiver<Outcome>);

impl Driven {
    fn new() -> Self {
        let place = Place::new(&["a"]);
        let (mut store, _) = place.open().expect("opens");
        store.writer.load_keys().expect("keys");
        Self {
            store,
            _place: place,
        }
    }

    fn ask(n: u64, turn: Turn) -> (Job, Asked) {
        let (reply, outcome) = oneshot::channel();
        let work = Work::Append {
            entries: vec![event(n, to(&[0]))],
            retry_of: None,
            turn: Some(turn),
            spare: false,
        };
        let room = None;
        (Job { work, reply, room }, (n, outcome))
    }

    fn commit(&mut self, mut batch: Vec<Job>, room: bool) {
        let bytes = if room { 1 << 30 } else { 0 };
        self.store.writer.room.set_limit(OnFull::PushBack, bytes);
        self.store.writer.commit(&mut batch).expect("goes on");
    }
}

fn is_kept((_, outcome): &mut Asked) -> bool {
    match outcome.try_recv().expect("answered") {
        Outcome::Appended(appended) => matches!(appended[..], [Appended::Stored(_)]),
        _ => panic!("an append is answered as one"),
    }
}

#[test]
fn a_group_behind_a_refused_one_is_refused_in_a_later_commit_too() {
    let mut driven = Driven::new();
    let over = Arc::new(AtomicU64::new(0));
    let turn = |number| Turn::new(number, over.clone());
    let (a, mut a_asked) = Driven::ask(1, turn(0));
    let (b, mut b_asked) = Driven::ask(2, turn(0));
    driven.commit(vec![a], false);
    let (other, mut other_asked) = Driven::ask(9, Turn::new(0, Arc::default()));
    driven.commit(vec![b, other], true);
    assert!(!is_kept(&mut a_asked) && !is_kept(&mut b_asked));
    assert!(is_kept(&mut other_asked), "other connections go on");
    let (a, mut a_asked) = Driven::ask(1, turn(1));
    driven.commit(vec![a], true);
    assert!(is_kept(&mut a_asked), "asked about in another turn");
}

/// An edit that takes so much, in a turn.
#[derive(Debug)]
struct Small(Turn, usize);

impl Edit for Small {
    type Answer = ();

    fn apply(
        &self,
        _tables: &rusqlite::Connection,
        _now: Timestamp,
    ) -> rusqlite::Result<Edited<()>> {
        Ok(Edited::nothing(()))
    }

    fn cost_bytes(&self) -> usize {
        self.1
    }

    fn turn(&self) -> Option<&Turn> {
        Some(&self.0)
    }
}

fn edit(turn: Turn, bytes: usize) -> (Job, Receiver<Outcome>) {
    let (reply, outcome) = oneshot::channel();
    let work = Work::Edit(Box::new(Small(turn, bytes)));
    let room = None;
    (Job { work, reply, room }, outcome)
}

#[test]
fn what_a_device_says_of_a_command_does_not_overtake_what_it_published_before() {
    let mut driven = Driven::new();
    let over = Arc::new(AtomicU64::new(0));
    let turn = |number| Turn::new(number, over.clone());
    let is_made = |outcome: &mut Receiver<Outcome>| {
        matches!(outcome.try_recv().expect("answered"), Outcome::Edited(_))
    };
    // Telemetry finds no room, and the reply behind it would.
    let (telemetry, mut asked) = Driven::ask(1, turn(0));
    let (reply, mut said) = edit(turn(0), 1);
    let (free, mut without_room) = edit(turn(0), 0);
    let (other, mut other_said) = edit(Turn::new(0, Arc::default()), 1);
    driven.commit(vec![telemetry], false);
    driven.commit(vec![reply, free, other], true);
    assert!(!is_kept(&mut asked) && !is_made(&mut said) && !is_made(&mut without_room));
    assert!(is_made(&mut other_said), "other connections go on");
    // The other way round, and once it has heard of the refusal.
    let (reply, mut said) = edit(turn(1), 1 << 20);
    let (telemetry, mut asked) = Driven::ask(1, turn(1));
    driven.commit(vec![reply], false);
    driven.commit(vec![telemetry], true);
    assert!(!is_made(&mut said) && !is_kept(&mut asked));
    let (reply, mut said) = edit(turn(2), 1);
    driven.commit(vec![reply], true);
    assert!(is_made(&mut said));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A session that hears of its receipts in order, asks about the first that
    /// found no room in a new turn, and submits others behind it meanwhile.
    #[test]
    fn whatever_is_refused_when_everything_is_kept_in_order(
        steps in vec((0..3_usize, 1..4_usize, any::<bool>()), 1..40),
    ) {
        let mut driven = Driven::new();
        let over = Arc::new(AtomicU64::new(0));
        let (mut now, mut next, mut total) = (0_u64, 0_u64, 0);
        let mut queue = std::collections::VecDeque::new();
        let mut pending = std::collections::VecDeque::<(u64, Asked)>::new();
        // In the end there is room, and the rest comes to rest within a bound.
        let rest = std::iter::repeat_n((0, 4, true), 400);
        for (submitted, committed, room) in steps.into_iter().chain(rest) {
            for _ in 0..submitted {
                if pending.iter().all(|(turn, _)| *turn == now) {
                    next += 1;
                    total += 1;
                    let (job, asked) = Driven::ask(next, Turn::new(now, over.clone()));
                    queue.push_back(job);
                    pending.push_back((now, asked));
                }
            }
            let batch = queue.drain(..committed.min(queue.len())).collect();
            driven.commit(batch, room);
            while let Some((turn, asked)) = pending.front_mut() {
                let Ok(outcome) = asked.1.try_recv() else { break };
                let Outcome::Appended(appended) = outcome else { unreachable!() };
                if appended != [Appended::Full] {
                    pending.pop_front();
                    continue;
                }
                now += 1;
                *turn = now;
                let (job, again) = Driven::ask(asked.0, Turn::new(now, over.clone()));
                queue.push_back(job);
                *asked = again;
                break;
            }
        }
        prop_assert!(pending.is_empty(), "nobody asks for ever");
        let bodies: Vec<_> = read_all(&driven.store.handle(), 0, 0)
            .iter()
            .map(|r| r.body.clone())
            .collect();
        let expected: Vec<_> = (1..=total).map(|n| Bytes::from(format!("event {n}"))).collect();
        prop_assert_eq!(bodies, expected);
    }
}

//! Whose turn it is at a place: what is live and the rest share the batches that the
//! destination takes at once, and where both have one ready, the one goes that has had less
//! of its share.
//!
//! A turn costs its bytes, and at least those of the other's last one: a batch of a few
//! records takes its time, too, and those that come one by one would have all of it.
//! Whoever had nothing to send is owed nothing for that, and nobody owes or is owed more than
//! a few turns. A batch that does not land holds its place for so long as batches may take,
//! and not longer.
//!
//! What is urgent takes no turns. Only where there is a rate it goes first.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::Way;

/// Batches that are noted as out, of one lane; engines have fewer.
const OUT_MAX: usize = 1_024;
/// So many turns one may be ahead of the other, at most.
const AHEAD_MAX: u64 = 2;
/// Of so many bytes each has its share.
const WHOLE: u64 = 100;

/// See the module.
#[derive(Debug)]
pub(super) struct Turns {
    /// What is live has so much of [`WHOLE`].
    share: u64,
    lanes: [Lane; Way::COUNT],
}

/// What one of those that lead there is doing.
#[derive(Debug, Default)]
struct Lane {
    /// It has a batch ready, which would go if it were let.
    wants: bool,
    /// It would, but too many are out.
    waits_for_room: bool,
    /// Batches that are out, and since when.
    out: VecDeque<(u64, Instant)>,
    /// How long one may take.
    patience: Duration,
    /// What it has had, in parts of its share.
    had: u64,
    /// What its last turn took.
    last: u64,
}

impl Lane {
    fn is_active(&self) -> bool {
        self.wants || !self.out.is_empty()
    }

    /// Batches that are out and may still land in time.
    fn busy(&self, now: Instant) -> usize {
        let busy = |(_, since): &&(u64, Instant)| *since + self.patience > now;
        self.out.iter().filter(busy).count()
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            share: WHOLE / 2,
            lanes: Default::default(),
        }
    }
}

/// Those that share the turns.
const fn other(way: Way) -> Option<Way> {
    match way {
        Way::Urgent => None,
        Way::Live => Some(Way::Rest),
        Way::Rest => Some(Way::Live),
    }
}

impl Turns {
    /// One comes, whose batches may take so long.
    pub(super) fn join(&mut self, way: Way, patience: Duration) {
        self.lanes[way.index()] = Lane {
            patience,
            ..Lane::default()
        };
    }

    /// So many bytes of a hundred are for what is live.
    pub(super) fn share(&mut self, share: u8) {
        self.share = u64::from(share).clamp(1, WHOLE - 1);
    }

    /// One has a batch ready, and sends `in_flight` at once at most: whether it may go.
    pub(super) fn may_go(
        &mut self,
        way: Way,
        now: Instant,
        is_open: bool,
        in_flight: usize,
    ) -> bool {
        self.wants(way);
        let urgent_first = way != Way::Urgent && self.lanes[Way::Urgent.index()].wants;
        if !is_open || urgent_first {
            return false;
        }
        let Some(beside) = other(way) else {
            return true;
        };
        let (mine, others) = (&self.lanes[way.index()], &self.lanes[beside.index()]);
        if !others.is_active() {
            return true;
        }
        if mine.busy(now) + others.busy(now) >= in_flight {
            self.lanes[way.index()].waits_for_room = true;
            return false;
        }
        let is_first = match way {
            Way::Live => mine.had <= others.had,
            _ => mine.had < others.had,
        };
        is_first || !others.wants
    }

    /// It has something, from now on. For the time before it is owed nothing; and for what it
    /// sent while the other had nothing, or nothing that landed, it owes little.
    fn wants(&mut self, way: Way) {
        if let Some(beside) = other(way) {
            let others = &self.lanes[beside.index()];
            let (had, last, is_beside) = (others.had, others.last, others.is_active());
            let least = self.share.min(WHOLE - self.share);
            let mine = &mut self.lanes[way.index()];
            if is_beside {
                let most = last.max(mine.last).saturating_mul(AHEAD_MAX * WHOLE) / least;
                let from = match mine.is_active() {
                    true => had.saturating_sub(most),
                    false => had,
                };
                mine.had = mine.had.clamp(from, had.saturating_add(most));
            }
        }
        let mine = &mut self.lanes[way.index()];
        mine.wants = true;
        mine.waits_for_room = false;
    }

    /// One has nothing that could go; says who is to be told.
    pub(super) fn rests(&mut self, way: Way) -> Vec<Way> {
        let mine = &mut self.lanes[way.index()];
        mine.waits_for_room = false;
        match std::mem::take(&mut mine.wants) {
            true => self.waiting(way),
            false => Vec::new(),
        }
    }

    /// A batch goes, and another may follow; says who is to be told.
    pub(super) fn sent(&mut self, way: Way, sequence: u64, bytes: usize, now: Instant) -> Vec<Way> {
        let others = other(way).map(|beside| &self.lanes[beside.index()]);
        let least = others.filter(|lane| lane.is_active());
        let least = least.map_or(0, |lane| lane.last);
        let share = match way {
            Way::Urgent => WHOLE,
            Way::Live => self.share,
            Way::Rest => WHOLE - self.share,
        };
        let mine = &mut self.lanes[way.index()];
        let bytes = (bytes as u64).max(1);
        let cost = bytes.max(least).saturating_mul(WHOLE) / share;
        mine.had = mine.had.saturating_add(cost);
        mine.last = bytes;
        if way != Way::Urgent {
            mine.out.truncate(OUT_MAX - 1);
            mine.out.push_back((sequence, now));
        }
        self.waiting(way)
    }

    /// A batch has landed; says who is to be told. It may be this one's turn again: nobody
    /// goes ahead of it before it has looked, which it does at once.
    pub(super) fn landed(&mut self, way: Way, sequence: u64) -> Vec<Way> {
        let mine = &mut self.lanes[way.index()];
        mine.out.retain(|(one, _)| *one != sequence);
        mine.wants = true;
        self.waiting(way)
    }

    /// One leaves; says who is to be told.
    pub(super) fn leave(&mut self, way: Way) -> Vec<Way> {
        let patience = self.lanes[way.index()].patience;
        self.join(way, patience);
        self.waiting(way)
    }

    /// When one that was not let go for want of room asks again.
    pub(super) fn wake_at(&self, way: Way, now: Instant) -> Option<Instant> {
        let lanes = self.lanes.iter();
        let ends = lanes.flat_map(|lane| lane.out.iter().map(|(_, since)| *since + lane.patience));
        let next = ends.filter(|end| *end > now).min();
        next.filter(|_| self.lanes[way.index()].waits_for_room)
    }

    /// Those beside one that have something ready.
    fn waiting(&self, way: Way) -> Vec<Way> {
        let all = [Way::Urgent, Way::Live, Way::Rest].into_iter();
        all.filter(|one| *one != way && self.lanes[one.index()].wants)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn turns(share: u8) -> Turns {
        let mut turns = Turns::default();
        for way in [Way::Urgent, Way::Live, Way::Rest] {
            turns.join(way, PATIENCE);
        }
        turns.share(share);
        turns
    }

    proptest! {
        #[test]
        fn where_both_have_something_each_has_its_share_of_the_bytes(
            share in 1u8..=99,
            sizes in proptest::collection::vec((800usize..1_200, 800usize..1_200), 400),
            in_flight in 1usize..4,
        ) {
            let (mut turns, now) = (turns(share), Instant::now());
            let (mut had, mut out) = ([0u64; Way::COUNT], VecDeque::new());
            for (sequence, (live, rest)) in (1u64..).zip(sizes) {
                let goes = [Way::Live, Way::Rest].map(|way| turns.may_go(way, now, true, in_flight));
                // Where there is room, it is the turn of one.
                prop_assert!(goes[0] != goes[1], "{goes:?}");
                let way = if goes[0] { Way::Live } else { Way::Rest };
                let bytes = if goes[0] { live } else { rest };
                turns.sent(way, sequence, bytes, now);
                had[way.index()] += bytes as u64;
                out.push_back((way, sequence));
                if out.len() == in_flight {
                    prop_assert!(!turns.may_go(Way::Live, now, true, in_flight));
                    prop_assert!(!turns.may_go(Way::Rest, now, true, in_flight));
                    let (way, sequence) = out.pop_front().unwrap();
                    turns.landed(way, sequence);
                }
            }
            let all = had[Way::Live.index()] + had[Way::Rest.index()];
            let due = all * u64::from(share) / WHOLE;
            let off = had[Way::Live.index()].abs_diff(due);
            // The sizes differ by half at most, and so do the costs from the bytes.
            prop_assert!(off <= all / 8 + 3_000, "{off} of {all}");
        }
    }

    #[test]
    fn who_has_nothing_ready_holds_nobody_up_and_is_owed_nothing() {
        let (mut turns, now) = (turns(50), Instant::now());
        for sequence in 0..100 {
            assert!(turns.may_go(Way::Rest, now, true, 1));
            turns.sent(Way::Rest, sequence, 1_000, now);
            turns.landed(Way::Rest, sequence);
        }
        // It comes, goes first, and then they alternate.
        let mut order = Vec::new();
        for sequence in 100..106 {
            let live = turns.may_go(Way::Live, now, true, 1);
            assert_ne!(live, turns.may_go(Way::Rest, now, true, 1));
            let way = if live { Way::Live } else { Way::Rest };
            turns.sent(way, sequence, 1_000, now);
            turns.landed(way, sequence);
            order.push(live);
        }
        assert_eq!(order.iter().filter(|live| **live).count(), 3, "{order:?}");
        assert_eq!(turns.rests(Way::Live), [Way::Rest]);
        assert!(turns.may_go(Way::Rest, now, true, 1));
    }

    /// Of so many turns while both have something ready, how many are live.
    fn live_of(turns: &mut Turns, count: u64, now: Instant) -> usize {
        let live = (10_000..10_000 + count).filter(|sequence| {
            let live = turns.may_go(Way::Live, now, true, 1);
            assert_ne!(live, turns.may_go(Way::Rest, now, true, 1));
            let way = if live { Way::Live } else { Way::Rest };
            turns.sent(way, *sequence, 1_000, now);
            turns.landed(way, *sequence);
            live
        });
        live.count()
    }

    #[test]
    fn who_was_alone_for_long_owes_little_also_where_the_other_comes_while_it_has_nothing() {
        for alone in [Way::Live, Way::Rest] {
            let (mut turns, now) = (turns(25), Instant::now());
            for sequence in 0..1_000 {
                assert!(turns.may_go(alone, now, true, 1));
                turns.sent(alone, sequence, 1_000, now);
                turns.landed(alone, sequence);
            }
            turns.rests(alone);
            let beside = other(alone).unwrap();
            assert!(turns.may_go(beside, now, true, 1));
            let live = live_of(&mut turns, 40, now);
            assert!(
                (8..=13).contains(&live),
                "{live} of 40, {alone:?} was alone"
            );
        }
    }

    #[test]
    fn who_goes_on_while_the_batch_of_the_other_hangs_owes_little() {
        for hangs in [Way::Live, Way::Rest] {
            let (mut turns, now) = (turns(25), Instant::now());
            let alone = other(hangs).unwrap();
            assert!(turns.may_go(hangs, now, true, 1));
            turns.sent(hangs, 0, 1_000, now);
            turns.rests(hangs);
            let later = now + PATIENCE;
            for sequence in 1..1_000 {
                assert!(turns.may_go(alone, later, true, 1));
                turns.sent(alone, sequence, 1_000, later);
                turns.landed(alone, sequence);
            }
            turns.landed(hangs, 0);
            let live = live_of(&mut turns, 40, later);
            assert!((6..=17).contains(&live), "{live} of 40, {hangs:?} hung");
        }
    }

    #[test]
    fn turns_of_a_few_records_do_not_take_all_the_time() {
        let (mut turns, now) = (turns(25), Instant::now());
        let mut rest = 0;
        for sequence in 0..400 {
            let live = turns.may_go(Way::Live, now, true, 1);
            assert_ne!(live, turns.may_go(Way::Rest, now, true, 1));
            let (way, bytes) = match live {
                true => (Way::Live, 100),
                false => (Way::Rest, 1_000_000),
            };
            rest += u32::from(!live);
            turns.sent(way, sequence, bytes, now);
            turns.landed(way, sequence);
        }
        assert!((295..=305).contains(&rest), "{rest}");
    }

    #[test]
    fn a_batch_that_does_not_land_holds_its_place_only_so_long() {
        let (mut turns, now) = (turns(25), Instant::now());
        assert!(turns.may_go(Way::Rest, now, true, 1));
        turns.sent(Way::Rest, 1, 1_000, now);
        assert!(!turns.may_go(Way::Live, now, true, 1));
        let end = now + PATIENCE;
        assert_eq!(turns.wake_at(Way::Live, now), Some(end));
        assert_eq!(turns.wake_at(Way::Rest, now), None);
        assert!(turns.may_go(Way::Live, end, true, 1));
        // Nor does one that ended.
        turns.sent(Way::Live, 1, 1_000, end);
        assert!(!turns.may_go(Way::Rest, end, true, 1));
        assert_eq!(turns.leave(Way::Live), [Way::Rest]);
        assert!(turns.may_go(Way::Rest, end, true, 1));
    }

    #[test]
    fn what_is_urgent_waits_for_no_turn_and_goes_first_where_a_rate_is_shared() {
        let (mut turns, now) = (turns(25), Instant::now());
        assert!(turns.may_go(Way::Rest, now, true, 1));
        turns.sent(Way::Rest, 1, 1_000, now);
        assert!(turns.may_go(Way::Urgent, now, true, 1));
        turns.sent(Way::Urgent, 1, 1_000, now);
        turns.landed(Way::Rest, 1);
        assert!(!turns.may_go(Way::Urgent, now, false, 1));
        assert!(!turns.may_go(Way::Rest, now, true, 1));
        assert!(!turns.may_go(Way::Live, now, true, 1));
        assert_eq!(turns.rests(Way::Urgent), [Way::Live, Way::Rest]);
        assert!(turns.may_go(Way::Live, now, true, 1));
    }
}

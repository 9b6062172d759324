//! What may go to a place, by whichever lane: so much in a second, and so many bytes of a
//! budget.
//!
//! Each lane counts what it has spent in an account of its own, which the journal keeps with
//! its cursor; the sum of those that a budget is for is what counts.

use tokio::time::Instant;

use super::{Config, bucket::Bucket};
use crate::{forward::place::Way, store::Spent};

/// See the module. By default nothing is bounded.
#[derive(Debug, Default)]
pub(in crate::forward) struct Allowance {
    records: Option<Bucket>,
    bytes: Option<Bucket>,
    spent: [Spent; Way::COUNT],
}

impl Allowance {
    /// A lane comes, with what it has spent. The lanes of a place have the same rates; only
    /// where these are not what they were does a second's worth begin anew.
    pub(in crate::forward) fn join(
        &mut self,
        way: Way,
        config: &Config,
        spent: Spent,
        now: Instant,
    ) {
        let rates = [
            (&mut self.records, config.records_per_sec),
            (&mut self.bytes, config.bytes_per_sec),
        ];
        for (bucket, rate) in rates {
            if bucket.as_ref().map(Bucket::per_sec) != rate {
                *bucket = rate.map(|rate| Bucket::new(rate, now));
            }
        }
        self.set_spent(way, spent);
    }

    /// What a lane has spent so far.
    pub(in crate::forward) const fn set_spent(&mut self, way: Way, spent: Spent) {
        self.spent[way.index()] = spent;
    }

    /// What a lane has spent.
    pub(super) const fn spent(&self, way: Way) -> Spent {
        self.spent[way.index()]
    }

    /// What counts for the budget of a lane: what is urgent is counted by itself.
    pub(super) fn spent_beside(&self, way: Way) -> u64 {
        let of = |way: Way| self.spent[way.index()].bytes;
        match way {
            Way::Urgent => of(way),
            Way::Live | Way::Rest => of(Way::Live).saturating_add(of(Way::Rest)),
        }
    }

    /// Has a period begin where it has.
    pub(super) fn begin_periods(&mut self, mut begin: impl FnMut(&mut Spent)) {
        self.spent.iter_mut().for_each(&mut begin);
    }

    /// Until when to wait before anything goes; `None` where something may.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Instant> {
        let buckets = [&mut self.records, &mut self.bytes];
        let wait = buckets.into_iter().flatten();
        wait.filter_map(|bucket| bucket.wait(now)).max()
    }

    /// Takes so much of a second's worth.
    pub(super) fn take(&mut self, records: usize, bytes: usize) {
        if let Some(bucket) = &mut self.records {
            bucket.take(records as u64);
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.take(bytes as u64);
        }
    }

    /// Takes so much of a lane's budget.
    pub(super) const fn spend(&mut self, way: Way, bytes: usize) {
        let spent = &mut self.spent[way.index()];
        spent.bytes = spent.bytes.saturating_add(bytes as u64);
    }
}

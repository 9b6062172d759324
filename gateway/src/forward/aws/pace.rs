//! How long records are held back that belong to a part of a service without room.
//!
//! A shard of a stream, or a message group of a queue with high throughput, takes so many
//! records and bytes a second, whoever sends them; others are not slower for it. The pause doubles while it
//! goes on refusing, and halves when it takes records again. "Shard" stands for either.

use std::{collections::HashMap, time::Duration};

use rand::RngExt as _;
use tokio::time::Instant;

/// The pause after the first refusal, and the longest one.
const FIRST: Duration = Duration::from_millis(200);
const MAX: Duration = Duration::from_secs(10);
/// Shards that are remembered, at most.
const SHARDS_MAX: usize = 10_000;

/// Every shard that had no room of late.
#[derive(Debug, Default)]
pub(in crate::forward) struct Paces(HashMap<Box<str>, Pace>);

#[derive(Debug, Clone, Copy)]
struct Pace {
    delay: Duration,
    until: Instant,
}

impl Paces {
    /// The shard had no room for a record; how long that one waits. Records that are
    /// refused together do not come back together.
    pub(in crate::forward) fn refused(&mut self, shard: &str, now: Instant) -> Duration {
        if self.0.len() >= SHARDS_MAX && !self.0.contains_key(shard) {
            self.0.clear();
        }
        let pace = self.0.entry(shard.into()).or_insert(Pace {
            delay: FIRST / 2,
            until: now,
        });
        if now >= pace.until {
            pace.delay = (pace.delay * 2).min(MAX);
            pace.until = now + pace.delay;
        }
        let left = pace.until.saturating_duration_since(now);
        left.mul_f64(rand::rng().random_range(1.0..=1.5))
    }

    /// The shard took a record.
    pub(in crate::forward) fn taken(&mut self, shard: &str, now: Instant) {
        if let Some(pace) = self.0.get_mut(shard)
            && now >= pace.until
        {
            pace.delay /= 2;
            if pace.delay < FIRST {
                self.0.remove(shard);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_without_room_is_asked_ever_more_rarely_and_its_neighbours_are_not() {
        let (mut paces, mut now) = (Paces::default(), Instant::now());
        let mut before = Duration::ZERO;
        for _ in 0..6 {
            let wait = paces.refused("shardId-1", now);
            assert!(wait >= before && wait <= MAX * 3 / 2, "{wait:?}");
            // Of those refused together each waits, and the pause does not grow for it.
            assert!(paces.refused("shardId-1", now) < wait * 2);
            before = wait * 2 / 3;
            now += wait;
        }
        assert!(paces.refused("shardId-2", now) <= FIRST * 3 / 2);
        for _ in 0..8 {
            now += MAX * 2;
            paces.taken("shardId-1", now);
        }
        assert!(paces.refused("shardId-1", now) <= FIRST * 3 / 2);
    }
}

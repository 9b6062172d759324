//! The window of idempotency keys already seen: exact, 128 bits a key, in memory.
//!
//! Bounded three ways. Keys leave by age and by count, in generations that go
//! whole, so that forgetting costs nothing per key: between seven eighths (or
//! more) of the count and the whole of it are remembered. The memory budget
//! bounds the tables themselves: where it does not hold the count asked for,
//! fewer keys are remembered, and those that leave early because of it are
//! counted ([`Window::shortened`]).
//!
//! A filter of shorter fingerprints would take less memory, and would now and
//! then call a new event a duplicate: data lost. So there is none.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use hashbrown::HashTable;

use crate::event::{Key, Timestamp};

/// Bytes of a table per bucket: the key and a byte of control.
const BUCKET_BYTES: usize = 17;
/// Closed generations, at least and at most. More of them follow the limits
/// more closely; each is one more table to look into.
const GENERATIONS: std::ops::RangeInclusive<usize> = 7..=12;
/// Keys in a generation, at least: smaller ones are not worth a table.
const GENERATION_KEYS_MIN: usize = 64;

/// How much to remember.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long, at most.
    pub age: Duration,
    /// How many, at most.
    pub count: usize,
    /// In how much memory, at most.
    pub memory_bytes: usize,
}

/// The keys already seen.
#[derive(Debug)]
pub struct Window {
    /// Oldest first; the last one is open.
    generations: VecDeque<Generation>,
    plan: Plan,
    age: Duration,
    count: usize,
    memory_bytes: usize,
    len: usize,
    /// Differs from process to process, so that nobody can prepare keys that collide.
    seed: (u64, u64),
    shortened: u64,
}

#[derive(Debug)]
struct Generation {
    keys: HashTable<[u8; 16]>,
    /// When its first key came.
    opened: Timestamp,
    /// When its last key came.
    newest: Timestamp,
    /// The last commit with a key in it.
    last_commit: u64,
}

/// How the limits are cut into generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// Keys in one generation.
    generation_keys: usize,
    /// Closed generations kept.
    generations: usize,
    /// Whether the memory budget, not the count, decided.
    short_of_memory: bool,
}

impl Plan {
    fn new(limits: &Limits) -> Self {
        let mut best: Option<(usize, Self)> = None;
        for generations in GENERATIONS {
            let generation_keys = (limits.count / (generations + 1)).max(GENERATION_KEYS_MIN);
            let plan = Self {
                generation_keys,
                generations,
                short_of_memory: false,
            };
            if best.as_ref().is_none_or(|(bytes, _)| plan.bytes() < *bytes) {
                best = Some((plan.bytes(), plan));
            }
        }
        let (_, mut plan) = best.expect("there is at least one number of generations");
        // Tables double, so halving the keys until they fit wastes nothing but
        // what the full load of the next smaller table gives back.
        while plan.bytes() > limits.memory_bytes && plan.generation_keys > GENERATION_KEYS_MIN {
            plan.short_of_memory = true;
            let buckets = buckets(plan.generation_keys) / 2;
            plan.generation_keys = (buckets / 8 * 7).max(GENERATION_KEYS_MIN);
        }
        plan
    }

    /// Memory when every generation is full; the open one is growing meanwhile.
    const fn bytes(&self) -> usize {
        (self.generations + 1) * buckets(self.generation_keys) * BUCKET_BYTES
    }
}

/// Buckets of a table that holds so many keys: a power of two, at most 7/8 full.
const fn buckets(keys: usize) -> usize {
    (keys * 8).div_ceil(7).next_power_of_two()
}

impl Window {
    /// Remembers nothing yet.
    pub fn new(limits: Limits) -> Self {
        let random = || RandomState::new().build_hasher().finish();
        Self {
            generations: VecDeque::new(),
            plan: Plan::new(&limits),
            age: limits.age,
            count: limits.count,
            memory_bytes: limits.memory_bytes,
            len: 0,
            seed: (random(), random() | 1),
            shortened: 0,
        }
    }

    /// Begins a commit: closes the open generation if it is full or has been
    /// open for its share of the age, and forgets what is too old or too much.
    /// Returns the last commit whose keys are all forgotten, if that changed.
    pub fn begin(&mut self, now: Timestamp, keys_at_most: usize) -> Option<u64> {
        let share = self.age / u32::try_from(self.plan.generations).unwrap_or(u32::MAX);
        let close = self.generations.back().is_none_or(|open| {
            let full = open.keys.len() + keys_at_most > self.plan.generation_keys;
            !open.keys.is_empty() && (full || older(open.opened, now, share))
        });
        if close {
            self.generations.push_back(Generation {
                keys: HashTable::new(),
                opened: now,
                newest: now,
                last_commit: 0,
            });
        }
        let mut forgotten = None;
        while let Some(oldest) = self
            .generations
            .front()
            .filter(|_| self.generations.len() > 1)
        {
            let too_many = self.len + keys_at_most > self.capacity();
            let too_big = self.bytes() > self.memory_bytes;
            let too_old = older(oldest.newest, now, self.age);
            if !too_many && !too_big && !too_old {
                break;
            }
            if !too_old && self.len + keys_at_most <= self.count {
                self.shortened += oldest.keys.len() as u64;
            }
            self.len -= oldest.keys.len();
            forgotten = Some(oldest.last_commit);
            self.generations.pop_front();
        }
        forgotten
    }

    /// The clock was set to `now`: the age of every key counts from here. Old
    /// stamps say nothing on the new clock.
    pub fn restamp(&mut self, now: Timestamp) {
        for generation in &mut self.generations {
            (generation.opened, generation.newest) = (now, now);
        }
    }

    /// Remembers `key` as of `commit`, unless it is known already. Says whether
    /// it was new. [`Window::begin`] comes first.
    pub fn insert(&mut self, key: Key, commit: u64, now: Timestamp) -> bool {
        let hash = self.hash(&key.0);
        // The newest generation last: most keys are new, and all are looked into anyway.
        if self
            .generations
            .iter()
            .any(|g| g.keys.find(hash, |k| *k == key.0).is_some())
        {
            return false;
        }
        let seed = self.seed;
        let Some(open) = self.generations.back_mut() else {
            return true;
        };
        if open.keys.is_empty() {
            (open.opened, open.newest) = (now, now);
        }
        open.keys.insert_unique(hash, key.0, |k| hash_with(seed, k));
        open.newest = open.newest.max(now);
        open.last_commit = open.last_commit.max(commit);
        self.len += 1;
        true
    }

    /// Takes back a key whose commit failed, so that its resend is not refused.
    pub fn remove(&mut self, key: Key) {
        let hash = self.hash(&key.0);
        for generation in self.generations.iter_mut().rev() {
            if let Ok(entry) = generation.keys.find_entry(hash, |k| *k == key.0) {
                entry.remove();
                self.len -= 1;
                return;
            }
        }
    }

    /// Whether `key` is remembered.
    pub fn contains(&self, key: Key) -> bool {
        let hash = self.hash(&key.0);
        self.generations
            .iter()
            .any(|g| g.keys.find(hash, |k| *k == key.0).is_some())
    }

    /// Keys remembered.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is remembered.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most keys that are ever remembered under these limits.
    pub const fn capacity(&self) -> usize {
        (self.plan.generations + 1) * self.plan.generation_keys
    }

    /// Memory the tables take.
    pub fn bytes(&self) -> usize {
        self.generations
            .iter()
            .map(|g| g.keys.num_buckets() * BUCKET_BYTES)
            .sum()
    }

    /// Keys forgotten before their time because memory is short.
    pub const fn shortened(&self) -> u64 {
        self.shortened
    }

    /// Whether the memory budget holds fewer keys than the count asked for.
    pub const fn short_of_memory(&self) -> bool {
        self.plan.short_of_memory
    }

    fn hash(&self, key: &[u8; 16]) -> u64 {
        hash_with(self.seed, key)
    }
}

/// Keys are hashes already: folding them with the seed is enough.
fn hash_with(seed: (u64, u64), key: &[u8; 16]) -> u64 {
    let (low, high) = halves(u128::from_le_bytes(*key));
    let (low, high) = halves(u128::from(low ^ seed.0) * u128::from((high ^ seed.1) | 1));
    low ^ high
}

#[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
const fn halves(n: u128) -> (u64, u64) {
    (n as u64, (n >> 64) as u64)
}

fn older(than: Timestamp, now: Timestamp, age: Duration) -> bool {
    let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
    now.as_nanos().saturating_sub(than.as_nanos()) > age
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn key(n: u64) -> Key {
        Key(u128::from(n)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
            .to_le_bytes())
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(i64::try_from(seconds).expect("small") * 1_000)
    }

    fn limits(count: usize, memory_bytes: usize) -> Limits {
        Limits {
            age: Duration::from_secs(100),
            count,
            memory_bytes,
        }
    }

    #[test]
    fn a_key_taken_back_is_new_again() {
        let mut window = Window::new(limits(1_000, 1 << 20));
        window.begin(at(0), 1);
        assert!(window.insert(key(1), 1, at(0)));
        assert!(!window.insert(key(1), 1, at(0)));
        window.remove(key(1));
        assert!(window.is_empty() && window.insert(key(1), 2, at(0)));
    }

    #[test]
    fn memory_stays_in_its_budget_and_what_it_costs_is_counted() {
        let budget = 1 << 20;
        let mut window = Window::new(limits(1_000_000, budget));
        assert!(window.short_of_memory());
        for commit in 0..2_000 {
            window.begin(at(1), 100);
            for n in 0..100 {
                assert!(window.insert(key(commit * 100 + n), commit, at(1)));
            }
            assert!(window.bytes() <= budget, "{} bytes", window.bytes());
        }
        assert!(
            window.len() > budget / 60,
            "the budget is used: {} keys",
            window.len()
        );
        assert_eq!(window.shortened(), 200_000 - window.len() as u64);
    }

    #[test]
    fn limits_that_fit_do_not_call_themselves_short() {
        let window = Window::new(limits(2_000_000, 128 << 20));
        assert!(!window.short_of_memory());
        assert!(window.capacity() > 1_900_000 && window.capacity() <= 2_000_000);
    }

    #[test]
    fn quiet_times_do_not_forget_what_is_neither_old_nor_too_much() {
        let mut window = Window::new(limits(10_000, 1 << 20));
        window.begin(at(0), 5_000);
        for n in 0..5_000 {
            window.insert(key(n), 1, at(0));
        }
        // A key now and then closes generations by time.
        for second in 1..=100 {
            window.begin(at(second), 1);
            window.insert(key(100_000 + second), second, at(second));
            assert!(window.contains(key(0)), "after {second} s");
        }
        window.begin(at(102), 1);
        assert!(!window.contains(key(0)));
        assert!(window.contains(key(100_003)));
    }

    proptest! {
        #[test]
        fn it_remembers_exactly_what_a_list_does(
            commits in vec((0..20_u64, vec(0..3_000_u64, 1..40)), 1..200),
        ) {
            let limits = limits(1_000, 1 << 20);
            let mut window = Window::new(limits);
            // Oldest first: key and time.
            let mut list: VecDeque<(u64, u64)> = VecDeque::new();
            let mut now = 0;
            for (commit, (passed, keys)) in (1..).zip(commits) {
                now += passed;
                window.begin(at(now), keys.len());
                for n in keys {
                    let known = list.iter().rposition(|(k, _)| *k == n);
                    let newer = known.map_or(0, |p| list.len() - p);
                    let seen_at = known.map(|p| list[p].1);
                    let is_new = window.insert(key(n), commit, at(now));
                    match seen_at {
                        // Neither old nor followed by too many: it must be known.
                        Some(seen) if now - seen <= 100 && newer <= 800 => prop_assert!(!is_new),
                        // Older than the limit with a generation's tolerance: it must be forgotten.
                        Some(seen) if now - seen > 130 => prop_assert!(is_new),
                        Some(_) => {}
                        None => prop_assert!(is_new),
                    }
                    if is_new {
                        list.retain(|(k, _)| *k != n);
                        list.push_back((n, now));
                    }
                }
                prop_assert!(window.len() <= 1_000 + 40);
            }
        }
    }
}

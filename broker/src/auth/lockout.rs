//! Slows down whoever guesses passwords, without shutting out those who know them.
//!
//! Failures are counted for an address and user together, for an address, and for
//! a user, each until nothing failed for [`Config::lock`]:
//!
//! - Too many for the two together: from this address only what is remembered to be
//!   right for this user still passes. A guess never is, so nothing is given away.
//!   Nobody can lock a user for another address.
//! - Too many for an address: from there only credentials that are remembered to
//!   be right still pass, whoever's they are. Devices behind the same router stay
//!   connected and come back, while one of them guesses.
//! - Too many for a user, from wherever: addresses that this user has come from
//!   before notice nothing; for others only so many checks are done in a time.
//!
//! A check counts as failed from its beginning until it turns out right ([`Charge`]),
//! so guesses in parallel are as many as guesses in turn.
//!
//! An IPv6 address stands for its /64. Every table has a bound; when one is full,
//! what is over is thrown away first, then any.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Entries of each table.
const ENTRIES_MAX: usize = 16_384;

/// How much failing is too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// For one user from one address.
    pub failures_max: u32,
    /// For one address, over all users; also for one user, over all addresses.
    pub failures_in_total_max: u32,
    /// How long after the last failure it is forgotten.
    pub lock: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            failures_max: 5,
            failures_in_total_max: 50,
            lock: Duration::from_secs(60),
        }
    }
}

/// What may be tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Anything.
    Free,
    /// Only what is remembered to be right.
    OnlyKnown,
}

type User = u64;

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Lockout {
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    pairs: HashMap<(IpAddr, User), Failures>,
    addresses: HashMap<IpAddr, Failures>,
    users: HashMap<User, Failures>,
    /// Where users came from with the right password.
    familiar: HashMap<(IpAddr, User), Instant>,
}

impl Lockout {
    /// What `user` may try from `address` now.
    pub(crate) fn standing(&self, config: &Config, address: IpAddr, user: User) -> Standing {
        self.lock().standing(config, network(address), user)
    }

    /// Begins a check; `None` if there may be none now.
    pub(crate) fn charge(
        self: &Arc<Self>,
        config: &Config,
        address: IpAddr,
        user: User,
    ) -> Option<Charge> {
        let address = network(address);
        let mut tables = self.lock();
        if tables.standing(config, address, user) == Standing::OnlyKnown {
            return None;
        }
        tables.failed(config, address, user);
        Some(Charge {
            lockout: Arc::clone(self),
            address,
            user,
            is_open: true,
        })
    }

    /// Forgets every failure: other passwords are right now, and a device that came too
    /// early should not wait.
    pub(crate) fn forget(&self) {
        let mut tables = self.lock();
        tables.pairs.clear();
        tables.addresses.clear();
        tables.users.clear();
    }

    /// `user` came from `address` with what is remembered to be right. What failed
    /// there stays: it may have been somebody else.
    pub(crate) fn came(&self, address: IpAddr, user: User) {
        self.lock().came(network(address), user);
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A check that is under way. Dropped without a word it never was: nobody heard how
/// it ended.
#[derive(Debug)]
pub(crate) struct Charge {
    lockout: Arc<Lockout>,
    address: IpAddr,
    user: User,
    is_open: bool,
}

impl Charge {
    /// It was right.
    pub(crate) fn right(self) {
        let mut tables = self.lockout.lock();
        tables.pairs.remove(&(self.address, self.user));
        tables.came(self.address, self.user);
        // Dropping takes back the rest.
    }

    /// It was wrong.
    pub(crate) fn wrong(mut self) {
        self.is_open = false;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.is_open {
            let mut tables = self.lockout.lock();
            take_back(&mut tables.pairs, &(self.address, self.user));
            take_back(&mut tables.addresses, &self.address);
            take_back(&mut tables.users, &self.user);
        }
    }
}

impl Tables {
    fn standing(&self, config: &Config, address: IpAddr, user: User) -> Standing {
        let now = Instant::now();
        let count = |failures: Option<&Failures>| {
            failures
                .filter(|failures| now.duration_since(failures.last) < config.lock)
                .map_or(0, |failures| failures.count)
        };
        let in_total_max = config.failures_in_total_max;
        if count(self.pairs.get(&(address, user))) >= config.failures_max
            || count(self.addresses.get(&address)) >= in_total_max
        {
            return Standing::OnlyKnown;
        }
        if self.familiar.contains_key(&(address, user)) {
            return Standing::Free;
        }
        // One check in this time, whoever wants it.
        let pause = config.lock / in_total_max.max(1);
        match self.users.get(&user) {
            Some(failures)
                if count(Some(failures)) >= in_total_max
                    && now.duration_since(failures.last) < pause =>
            {
                Standing::OnlyKnown
            }
            _ => Standing::Free,
        }
    }

    fn failed(&mut self, config: &Config, address: IpAddr, user: User) {
        let now = Instant::now();
        count(&mut self.pairs, (address, user), config.lock, now);
        count(&mut self.addresses, address, config.lock, now);
        count(&mut self.users, user, config.lock, now);
    }

    fn came(&mut self, address: IpAddr, user: User) {
        make_room(&mut self.familiar, |_| true);
        self.familiar.insert((address, user), Instant::now());
    }
}

fn take_back<K: Eq + Hash>(table: &mut HashMap<K, Failures>, key: &K) {
    if let Some(failures) = table.get_mut(key) {
        failures.count = failures.count.saturating_sub(1);
    }
}

fn count<K: Copy + Eq + Hash>(
    table: &mut HashMap<K, Failures>,
    key: K,
    lock: Duration,
    now: Instant,
) {
    let is_on = |failures: &Failures| now.duration_since(failures.last) < lock;
    if !table.contains_key(&key) {
        make_room(table, is_on);
    }
    let failures = table.entry(key).or_insert(Failures {
        count: 0,
        last: now,
    });
    if !is_on(failures) {
        failures.count = 0;
    }
    failures.count = failures.count.saturating_add(1);
    failures.last = now;
}

fn make_room<K: Copy + Eq + Hash, V>(table: &mut HashMap<K, V>, is_on: impl Fn(&V) -> bool) {
    if table.len() < ENTRIES_MAX {
        return;
    }
    table.retain(|_, value| is_on(value));
    if table.len() >= ENTRIES_MAX {
        // Many at once, so that the next ones do not look through everything again.
        let some: Vec<K> = table.keys().take(ENTRIES_MAX / 8).copied().collect();
        for key in some {
            table.remove(&key);
        }
    }
}

/// What one customer of a network is given: an IPv4 address, or an IPv6 /64.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fail(lockout: &Lockout, config: &Config, address: &str, user: User, times: u32) {
        for _ in 0..times {
            let mut tables = lockout.lock();
            tables.failed(config, network(ip(address)), user);
        }
    }

    #[test]
    fn a_user_is_locked_for_the_address_that_guesses_and_for_no_other() {
        let (lockout, config) = (Lockout::default(), Config::default());
        fail(&lockout, &config, "10.0.0.1", 7, 4);
        assert_eq!(lockout.standing(&config, ip("10.0.0.1"), 7), Standing::Free);
        fail(&lockout, &config, "10.0.0.1", 7, 1);
        assert_eq!(
            lockout.standing(&config, ip("10.0.0.1"), 7),
            Standing::OnlyKnown
        );
        assert_eq!(lockout.standing(&config, ip("10.0.0.2"), 7), Standing::Free);
        assert_eq!(lockout.standing(&config, ip("10.0.0.1"), 8), Standing::Free);
        assert_eq!(
            lockout.standing(&config, ip("::ffff:10.0.0.1"), 7),
            Standing::OnlyKnown
        );
    }

    #[test]
    fn an_address_that_guesses_many_users_passes_only_what_is_known() {
        let (lockout, config) = (Lockout::default(), Config::default());
        for user in 0..50 {
            fail(&lockout, &config, "2001:db8::1", user, 1);
        }
        let standing = |address, user| lockout.standing(&config, ip(address), user);
        assert_eq!(standing("2001:db8::99", 99), Standing::OnlyKnown);
        assert_eq!(standing("2001:db8:0:1::1", 99), Standing::Free);
    }

    #[test]
    fn a_user_guessed_from_everywhere_still_comes_in_from_where_it_came_before() {
        let (lockout, config) = (Arc::new(Lockout::default()), Config::default());
        lockout.came(ip("10.9.9.9"), 7);
        for host in 0..60 {
            fail(&lockout, &config, &format!("10.0.0.{host}"), 7, 1);
        }
        let standing = |address| lockout.standing(&config, ip(address), 7);
        assert_eq!(standing("10.9.9.9"), Standing::Free);
        assert_eq!(standing("10.8.8.8"), Standing::OnlyKnown);
        // Now and then another address may try.
        lockout
            .tables
            .lock()
            .unwrap()
            .users
            .get_mut(&7)
            .unwrap()
            .last -= Duration::from_secs(2);
        assert_eq!(standing("10.8.8.8"), Standing::Free);
        let charge = lockout.charge(&config, ip("10.8.8.8"), 7).unwrap();
        charge.wrong();
        assert_eq!(standing("10.8.8.7"), Standing::OnlyKnown);
    }

    #[test]
    fn a_lock_ends_and_the_right_password_ends_the_counting() {
        let lockout = Arc::new(Lockout::default());
        let config = Config {
            lock: Duration::ZERO,
            ..Config::default()
        };
        fail(&lockout, &config, "10.0.0.1", 7, 9);
        assert_eq!(lockout.standing(&config, ip("10.0.0.1"), 7), Standing::Free);
        let config = Config::default();
        fail(&lockout, &config, "10.0.0.1", 8, 4);
        let charge = lockout.charge(&config, ip("10.0.0.1"), 8).unwrap();
        charge.right();
        fail(&lockout, &config, "10.0.0.1", 8, 4);
        assert_eq!(lockout.standing(&config, ip("10.0.0.1"), 8), Standing::Free);
    }

    #[test]
    fn checks_at_the_same_time_count_before_they_are_over() {
        let (lockout, config) = (Arc::new(Lockout::default()), Config::default());
        let begin = || lockout.charge(&config, ip("10.0.0.1"), 7);
        let under_way: Vec<_> = (0..9).filter_map(|_| begin()).collect();
        assert_eq!(under_way.len(), 5);
        // Nobody heard how they ended.
        drop(under_way);
        begin().unwrap().wrong();
        let four: Vec<_> = (0..9).filter_map(|_| begin()).collect();
        assert_eq!(four.len(), 4);
    }

    #[test]
    fn what_is_remembered_does_not_give_a_guesser_more_guesses() {
        let (lockout, config) = (Lockout::default(), Config::default());
        fail(&lockout, &config, "10.0.0.1", 7, 5);
        lockout.came(ip("10.0.0.1"), 7);
        let standing = lockout.standing(&config, ip("10.0.0.1"), 7);
        assert_eq!(standing, Standing::OnlyKnown);
    }

    #[test]
    fn the_tables_are_bounded() {
        let (lockout, config) = (Lockout::default(), Config::default());
        for n in 0..u32::try_from(3 * ENTRIES_MAX).unwrap() {
            let address = IpAddr::from(n.to_be_bytes());
            let mut tables = lockout.lock();
            tables.failed(&config, address, n.into());
            tables.came(address, n.into());
        }
        let tables = lockout.tables.lock().unwrap();
        for len in [
            tables.pairs.len(),
            tables.addresses.len(),
            tables.users.len(),
            tables.familiar.len(),
        ] {
            assert!(len <= ENTRIES_MAX, "{len}");
        }
    }
}

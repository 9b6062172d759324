//! Who may come in: connections and connect rates, per address and in all, and
//! sessions per user name.
//!
//! Without a limit per address nobody is kept from connecting, but neither may those
//! who say nothing keep others out: connections that have not been let in by their
//! CONNECT are at most half of all, and of one address at most a quarter. And when
//! many come, half of the common connect rate's burst is for addresses that took
//! little of it.
//!
//! What is remembered of addresses is bounded: those with an open connection are at
//! most as many as there are connections, and the others are forgotten once they
//! have been quiet for long enough, or, when too many come for that, at once. An
//! address is an IPv4 address or the /64 of an IPv6 address, because a single
//! client may choose the rest.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, Instant},
};

use super::{Bucket, Limits, Rate};
use crate::{
    metrics::{Counter, Counters},
    packet::{Error, reason},
};

/// Addresses remembered beside those that are connected.
const QUIET_MAX: usize = 16 * 1024;
/// Connections that are not let in and are told why; others are just closed.
const LOBBY: usize = 64;
/// Connections that an address made lately without being one that took much.
const LITTLE: u64 = 16;
/// However few connections there may be, so many may wait to be let in, in all and
/// from one address.
const WAITING_MIN: usize = 16;
const WAITING_PER_ADDRESS_MIN: usize = 8;

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    /// `connections_max` are open.
    Connections,
    /// Too many, in all or from there, have not sent a CONNECT that lets them in.
    Waiting,
    /// `connections_per_address_max` are open from there.
    Address,
    /// `connections_per_identity_max` are open under the user name.
    Identity,
    /// More came lately than `connect_rate_max`.
    Rate,
    /// More came lately from there than `connect_rate_per_address_max`.
    AddressRate,
}

impl Turned {
    /// What the client hears.
    pub(crate) const fn error(self) -> Error {
        let (reason, what) = match self {
            Self::Connections => (reason::SERVER_BUSY, "connections_max are open"),
            Self::Waiting => (
                reason::SERVER_BUSY,
                "too many connections have not said who they are",
            ),
            Self::Address => (
                reason::QUOTA_EXCEEDED,
                "connections_per_address_max are open",
            ),
            Self::Identity => (
                reason::QUOTA_EXCEEDED,
                "connections_per_identity_max are open",
            ),
            Self::Rate => (
                reason::CONNECTION_RATE_EXCEEDED,
                "more connections than connect_rate_max",
            ),
            Self::AddressRate => (
                reason::CONNECTION_RATE_EXCEEDED,
                "more connections than connect_rate_per_address_max",
            ),
        };
        Error { reason, what }
    }

    /// Where it is counted.
    pub(crate) const fn counter(self, counters: &Counters) -> &Counter {
        match self {
            Self::Connections => &counters.refused_connection_limit,
            Self::Waiting => &counters.refused_waiting,
            Self::Address => &counters.refused_address_limit,
            Self::Identity => &counters.refused_identity_limit,
            Self::Rate | Self::AddressRate => &counters.refused_connect_rate,
        }
    }
}

/// A connection that is there, let in or not; to be kept for as long as it is.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Why it is not let in; it may be told.
    pub(crate) turned: Option<Turned>,
    waiting: Option<Box<Waiting>>,
    _pass: Option<Pass>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Visit {
    /// How it comes to its session: with `turned` unless that is `None`.
    pub(crate) fn entry(&mut self, turned: Option<Turned>) -> Entry {
        Entry {
            turned: turned.or(self.turned),
            waiting: self.waiting.take(),
        }
    }
}

/// A connection on its way to a session.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Why it is not let in; it may be told.
    pub(crate) turned: Option<Turned>,
    /// Its place among those who wait to be let in; to be dropped when it is.
    pub(crate) waiting: Option<Box<Waiting>>,
}

/// A place among those who have not been let in yet; given back when dropped.
#[derive(Debug)]
pub(crate) struct Waiting {
    doors: Arc<Doors>,
    from: Option<IpAddr>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut inside = self.doors.lock();
        inside.waiting -= 1;
        if let Some(from) = self.from
            && let Some(visitor) = inside.addresses.get_mut(&from)
        {
            visitor.waiting -= 1;
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Doors {
    per_address_max: usize,
    per_identity_max: usize,
    waiting_max: usize,
    waiting_per_address_max: usize,
    rate: Option<Rate>,
    rate_per_address: Option<Rate>,
    /// Addresses remembered at most before some are forgotten.
    addresses_max: usize,
    inside: Mutex<Inside>,
    lobby: Arc<Semaphore>,
}

#[derive(Debug)]
struct Inside {
    waiting: usize,
    bucket: Bucket,
    addresses: HashMap<IpAddr, Visitor>,
    identities: HashMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct Visitor {
    open: usize,
    waiting: usize,
    bucket: Bucket,
}

impl Visitor {
    const fn is_here(&self) -> bool {
        self.open > 0 || self.waiting > 0
    }
}

/// One connection of an address, or one session of a user name; given back when
/// dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    doors: Arc<Doors>,
    of: Of,
}

#[derive(Debug)]
enum Of {
    /// Local, or nobody counts.
    Nobody,
    Address(IpAddr),
    Identity(Arc<str>),
}

impl Doors {
    pub(crate) fn new(limits: &Limits, connections_max: usize) -> Arc<Self> {
        let or_all = |limit: usize| if limit == 0 { usize::MAX } else { limit };
        let per_address_max = or_all(limits.connections_per_address_max);
        // All that may be connected may come back at once: that is what a restart is.
        let rate = |per_sec: u32, all: usize| {
            Rate::with_burst(per_sec.into(), u64::from(per_sec).max(all as u64))
        };
        let part = |of: usize, least: usize| (connections_max / of).max(least.min(connections_max));
        let all_of_one = per_address_max.min(connections_max);
        Arc::new(Self {
            per_address_max,
            per_identity_max: or_all(limits.connections_per_identity_max),
            waiting_max: part(2, WAITING_MIN),
            waiting_per_address_max: part(4, WAITING_PER_ADDRESS_MIN),
            // Twice, because half of it is not for those who take much.
            rate: rate(limits.connect_rate_max, 2 * connections_max),
            rate_per_address: rate(limits.connect_rate_per_address_max, all_of_one),
            addresses_max: 2 * connections_max + QUIET_MAX,
            inside: Mutex::new(Inside {
                waiting: 0,
                bucket: Bucket::new(Instant::now()),
                addresses: HashMap::new(),
                identities: HashMap::new(),
            }),
            lobby: Arc::new(Semaphore::new(LOBBY)),
        })
    }

    /// A new connection; `from` is `None` for one from this machine that has no
    /// address. `Err` if there is not even room to tell it why it may not come in.
    pub(crate) fn visit(self: &Arc<Self>, from: Option<IpAddr>) -> Result<Visit, Turned> {
        match self.enter(from) {
            Ok((pass, waiting)) => Ok(Visit {
                turned: None,
                waiting: Some(Box::new(waiting)),
                _pass: Some(pass),
                _place: None,
            }),
            Err(turned) => match Arc::clone(&self.lobby).try_acquire_owned() {
                Ok(place) => Ok(Visit {
                    turned: Some(turned),
                    waiting: None,
                    _pass: None,
                    _place: Some(place),
                }),
                Err(_) => Err(turned),
            },
        }
    }

    fn enter(self: &Arc<Self>, from: Option<IpAddr>) -> Result<(Pass, Waiting), Turned> {
        self.enter_at(from, Instant::now())
    }

    fn enter_at(
        self: &Arc<Self>,
        from: Option<IpAddr>,
        now: Instant,
    ) -> Result<(Pass, Waiting), Turned> {
        let mut inside = self.lock();
        let from = from.map(origin);
        if inside.addresses.len() >= self.addresses_max
            && !from.is_some_and(|from| inside.addresses.contains_key(&from))
        {
            inside.forget(self.addresses_max / 2, now);
        }
        inside.let_in(self, from, now)?;
        let of = from.map_or(Of::Nobody, Of::Address);
        let waiting = Waiting {
            doors: Arc::clone(self),
            from,
        };
        Ok((self.pass(of), waiting))
    }

    /// A new session of an authenticated user; `None` where nobody counts them.
    pub(crate) fn enter_as(self: &Arc<Self>, user: &Arc<str>) -> Result<Option<Box<Pass>>, Turned> {
        if self.per_identity_max == usize::MAX {
            return Ok(None);
        }
        let mut inside = self.lock();
        let open = inside.identities.entry(Arc::clone(user)).or_insert(0);
        if *open >= self.per_identity_max {
            return Err(Turned::Identity);
        }
        *open += 1;
        let pass = self.pass(Of::Identity(Arc::clone(user)));
        Ok(Some(Box::new(pass)))
    }

    fn pass(self: &Arc<Self>, of: Of) -> Pass {
        Pass {
            doors: Arc::clone(self),
            of,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    /// Counts a connection, or says why it may not come in.
    fn let_in(&mut self, doors: &Doors, from: Option<IpAddr>, now: Instant) -> Result<(), Turned> {
        let visitor = from.map(|from| {
            let visitor = self.addresses.entry(from);
            visitor.or_insert_with(|| Visitor {
                open: 0,
                waiting: 0,
                bucket: Bucket::new(now),
            })
        });
        if self.waiting >= doors.waiting_max {
            return Err(Turned::Waiting);
        }
        let Some(visitor) = visitor else {
            if let Some(rate) = doors.rate
                && !self.bucket.try_take(rate, now)
            {
                return Err(Turned::Rate);
            }
            self.waiting += 1;
            return Ok(());
        };
        if visitor.open >= doors.per_address_max {
            return Err(Turned::Address);
        }
        if visitor.waiting >= doors.waiting_per_address_max {
            return Err(Turned::Waiting);
        }
        // Where addresses have no rate of their own, this only tells who takes much.
        let own = doors.rate_per_address.or(doors.rate);
        if let Some(rate) = own
            && !visitor.bucket.try_take(rate, now)
            && doors.rate_per_address.is_some()
        {
            return Err(Turned::AddressRate);
        }
        if let Some(rate) = doors.rate {
            let takes_much = own.is_some_and(|own| visitor.bucket.owes_more_than(own, LITTLE, now));
            let stays = if takes_much {
                rate.burst() / 2
            } else {
                Duration::ZERO
            };
            if !self.bucket.try_take_leaving(rate, stays, now) {
                return Err(Turned::Rate);
            }
        }
        visitor.open += 1;
        visitor.waiting += 1;
        self.waiting += 1;
        Ok(())
    }

    /// Forgets addresses without connections: those whose rate is earned back, and
    /// if that leaves more than `enough`, the others too.
    fn forget(&mut self, enough: usize, now: Instant) {
        self.addresses
            .retain(|_, visitor| visitor.is_here() || !visitor.bucket.is_full(now));
        if self.addresses.len() > enough {
            self.addresses.retain(|_, visitor| visitor.is_here());
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        match &self.of {
            Of::Nobody => {}
            Of::Address(from) => {
                if let Some(visitor) = self.doors.lock().addresses.get_mut(from) {
                    visitor.open -= 1;
                }
            }
            Of::Identity(user) => {
                let mut inside = self.doors.lock();
                if let Some(open) = inside.identities.get_mut(user) {
                    *open -= 1;
                    if *open == 0 {
                        inside.identities.remove(user);
                    }
                }
            }
        }
    }
}

/// The address as far as its holder cannot choose it.
fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn doors(per_address: usize, per_address_rate: u32, rate: u32) -> Arc<Doors> {
        let limits = Limits {
            connections_per_address_max: per_address,
            connections_per_identity_max: 1,
            connect_rate_per_address_max: per_address_rate,
            connect_rate_max: rate,
            ..Limits::default()
        };
        Doors::new(&limits, 10)
    }

    #[test]
    fn one_address_cannot_take_the_connections_of_others() {
        let doors = doors(2, 0, 0);
        let first = doors.enter(address("192.0.2.1")).unwrap();
        let _second = doors.enter(address("::ffff:192.0.2.1")).unwrap();
        assert_eq!(
            doors.enter(address("192.0.2.1")).unwrap_err(),
            Turned::Address
        );
        let _other = doors.enter(address("192.0.2.2")).unwrap();
        drop(first);
        let _again = doors.enter(address("192.0.2.1")).unwrap();
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_address() {
        let doors = doors(1, 0, 0);
        let _one = doors.enter(address("2001:db8:0:1::1")).unwrap();
        assert_eq!(
            doors.enter(address("2001:db8:0:1:ffff::2")).unwrap_err(),
            Turned::Address
        );
        let _other = doors.enter(address("2001:db8:0:2::1")).unwrap();
    }

    fn large() -> Arc<Doors> {
        Doors::new(&Limits::default(), 1000)
    }

    #[test]
    fn those_who_say_nothing_leave_places_for_others() {
        let doors = large();
        let silent = |from: &str| {
            let mut held = Vec::new();
            loop {
                match doors.enter(address(from)) {
                    Ok(both) => held.push(both),
                    Err(turned) => break (held, turned),
                }
            }
        };
        let (first, turned) = silent("192.0.2.1");
        assert_eq!((first.len(), turned), (250, Turned::Waiting));
        let (mut passes, waiting): (Vec<_>, Vec<_>) = first.into_iter().unzip();
        let (second, _) = silent("192.0.2.2");
        assert_eq!(second.len(), 250);
        assert_eq!(
            doors.enter(address("192.0.2.3")).unwrap_err(),
            Turned::Waiting
        );
        // Those who are let in make room.
        drop(waiting);
        passes.push(doors.enter(address("192.0.2.3")).unwrap().0);
        let (third, _) = silent("192.0.2.3");
        assert_eq!(third.len(), 250);
    }

    #[test]
    fn addresses_that_take_much_leave_half_of_the_rate_for_those_that_take_little() {
        let doors = large();
        let start = Instant::now();
        let come = |from: &str, at| doors.enter_at(address(from), at).map(drop);
        for greedy in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            while come(greedy, start).is_ok() {}
        }
        for n in 0..100 {
            assert_eq!(come(&format!("198.51.100.{n}"), start), Ok(()));
        }
        let mut later = start;
        for n in 0..1000 {
            later += Duration::from_millis(1);
            while come("192.0.2.1", later).is_ok() {}
            if n % 100 == 0 {
                assert_eq!(come(&format!("203.0.113.{}", n / 100), later), Ok(()));
            }
        }
    }

    #[test]
    fn an_address_that_comes_too_often_waits_until_its_rate_is_earned() {
        let doors = doors(5, 1, 0);
        let start = Instant::now();
        let enter = |from: &str, at| doors.enter_at(address(from), at).map(drop);
        for _ in 0..5 {
            assert_eq!(enter("192.0.2.1", start), Ok(()), "the burst");
        }
        for _ in 0..1000 {
            assert_eq!(enter("192.0.2.1", start), Err(Turned::AddressRate));
        }
        assert_eq!(enter("198.51.100.1", start), Ok(()));
        let later = start + Duration::from_millis(1001);
        assert_eq!(enter("192.0.2.1", later), Ok(()));
    }

    #[test]
    fn what_is_remembered_of_addresses_is_bounded_and_forgets_none_that_is_inside() {
        let doors = doors(1, 1, 0);
        let start = Instant::now();
        let _inside = doors.enter_at(address("192.0.2.1"), start).unwrap();
        for n in 0..3 * doors.addresses_max {
            let n = u32::try_from(n).unwrap();
            let from = IpAddr::V4((0x0A00_0000 + n).into());
            drop(doors.enter_at(Some(from), start).unwrap());
            assert!(doors.lock().addresses.len() <= doors.addresses_max);
        }
        let again = doors.enter_at(address("192.0.2.1"), start);
        assert_eq!(again.unwrap_err(), Turned::Address);
    }

    #[test]
    fn sessions_of_one_identity_are_counted_and_forgotten() {
        let doors = doors(0, 0, 0);
        let user = Arc::from("plc");
        let first = doors.enter_as(&user).unwrap();
        assert_eq!(doors.enter_as(&user).unwrap_err(), Turned::Identity);
        let _other = doors.enter_as(&Arc::from("hmi")).unwrap();
        assert!(first.is_some());
        drop(first);
        assert_eq!(doors.lock().identities.len(), 1);
        let _again = doors.enter_as(&user).unwrap();
    }
}

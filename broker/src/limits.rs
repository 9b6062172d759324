//! How much of the broker one client, one address and one identity may take.
//!
//! Nothing here drops a message: a client that sends too fast is read more slowly
//! ([`Pace`]), one connection too many is told so and closed ([`Doors`]). What all
//! clients together may hold in memory is [`crate::budget`]'s.
//!
//! A rate has a burst, in time: a client that was quiet may send as much at once as
//! the rate allows in that time ([`Bucket`]).

mod bucket;
mod doors;
mod pace;

use std::time::Duration;

pub(crate) use bucket::{Bucket, Rate};
pub(crate) use doors::{Doors, Entry, Pass, Turned, Visit};
pub(crate) use pace::Pace;

use crate::{
    Error,
    acl::Pattern,
    topic::{BYTES_MAX, Bounds, LEVELS_MAX},
};

/// What is held of each kind is a quarter of the whole, and has room for so many
/// packets of the largest size.
const PACKETS_MIN: usize = 4;
/// The parts of `memory_max`: input, output, sessions, subscriptions.
const PARTS: usize = 4;
/// Below this a part has no room for what a few ordinary clients send.
const PART_BYTES_MIN: usize = 4 * 1024 * 1024;

/// Limits beside those of [`crate::Config`]. 0 means no limit wherever a limit of 0
/// would let nobody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at the same time from one address (IPv6: one /64); 0: as
    /// many as there may be in all.
    pub connections_per_address_max: usize,
    /// Sessions at the same time under one user name; 0: as many as there may be in all.
    pub connections_per_identity_max: usize,
    /// New connections a second, in all; 0: as many as come.
    pub connect_rate_max: u32,
    /// New connections a second from one address (IPv6: one /64); 0: as many as come.
    pub connect_rate_per_address_max: u32,
    /// Publishes a second that are read from one client; 0: as many as it sends.
    pub publish_rate_max: u32,
    /// Bytes of publishes a second that are read from one client; 0: as many as it sends.
    pub publish_bytes_rate_max: u64,
    /// Publish rates of some clients, in place of these two; the first that is for a
    /// client counts.
    pub rates: Vec<Rates>,
    /// A client that was quiet may send as much at once as its rates allow in this time.
    pub publish_burst: Duration,
    /// Longest topic or filter, in bytes.
    pub topic_bytes_max: usize,
    /// Most levels of a topic or filter.
    pub topic_levels_max: usize,
    /// What the broker holds for all clients together, beyond what each may always
    /// hold; see [`crate::budget`] for what happens beyond it.
    pub memory_max: usize,
}

/// Publish rates of some clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rates {
    /// Only of these users; empty for all, and for those who are not asked.
    pub users: Vec<Pattern>,
    /// Only on these listeners, by name; empty for all.
    pub listeners: Vec<String>,
    /// Publishes a second that are read from one of them; 0: as many as it sends.
    pub publish_rate_max: u32,
    /// The same in bytes.
    pub publish_bytes_rate_max: u64,
}

impl Rates {
    fn are_of(&self, user: Option<&str>, listener: &str) -> bool {
        let users = &self.users;
        let is_user = user.is_some_and(|user| users.iter().any(|one| one.takes(user)));
        let listeners = &self.listeners;
        (users.is_empty() || is_user)
            && (listeners.is_empty() || listeners.iter().any(|one| one == listener))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_address_max: 0,
            connections_per_identity_max: 0,
            connect_rate_max: 2000,
            connect_rate_per_address_max: 1000,
            publish_rate_max: 0,
            publish_bytes_rate_max: 0,
            rates: Vec::new(),
            publish_burst: Duration::from_secs(5),
            topic_bytes_max: BYTES_MAX,
            topic_levels_max: LEVELS_MAX,
            memory_max: 512 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// Refuses what cannot work.
    pub(crate) fn check(&self, packet_bytes_max: usize) -> Result<(), Error> {
        let within = |name, value: usize, least: usize, most: usize| {
            if value < least {
                Err(Error::Invalid { name, value, least })
            } else if value > most {
                Err(Error::TooMuch { name, value, most })
            } else {
                Ok(())
            }
        };
        within("topic_bytes_max", self.topic_bytes_max, 1, BYTES_MAX)?;
        within("topic_levels_max", self.topic_levels_max, 1, LEVELS_MAX)?;
        let least = PARTS * PART_BYTES_MIN.max(PACKETS_MIN.saturating_mul(packet_bytes_max));
        within("memory_max", self.memory_max, least, usize::MAX)
    }

    /// The publish rates of one client, in publishes and in bytes.
    pub(crate) fn rates_of(&self, user: Option<&str>, listener: &str) -> (u32, u64) {
        let mut rates = self.rates.iter();
        match rates.find(|rates| rates.are_of(user, listener)) {
            Some(rates) => (rates.publish_rate_max, rates.publish_bytes_rate_max),
            None => (self.publish_rate_max, self.publish_bytes_rate_max),
        }
    }

    /// How long and deep topics and filters may be.
    pub(crate) const fn topics(&self) -> Bounds {
        Bounds {
            bytes_max: self.topic_bytes_max,
            levels_max: self.topic_levels_max,
        }
    }

    /// What each kind of memory may take of the whole.
    pub(crate) const fn memory_part(&self) -> usize {
        self.memory_max / PARTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rates_that_are_for_a_client_count() {
        let rates = |users: &[&str], listeners: &[&str], publish_rate_max| Rates {
            users: users
                .iter()
                .map(|one| Pattern::parse(one).unwrap())
                .collect(),
            listeners: listeners.iter().map(|&one| one.to_owned()).collect(),
            publish_rate_max,
            publish_bytes_rate_max: 0,
        };
        let limits = Limits {
            publish_rate_max: 1,
            publish_bytes_rate_max: 9,
            rates: vec![
                rates(&["site-*"], &["inner"], 2),
                rates(&["site-*"], &[], 3),
                rates(&[], &["inner"], 4),
            ],
            ..Limits::default()
        };
        assert_eq!(limits.rates_of(Some("site-1"), "inner"), (2, 0));
        assert_eq!(limits.rates_of(Some("site-1"), "outer"), (3, 0));
        assert_eq!(limits.rates_of(Some("plc"), "inner"), (4, 0));
        assert_eq!(limits.rates_of(None, "inner"), (4, 0));
        assert_eq!(limits.rates_of(Some("plc"), "outer"), (1, 9));
        assert_eq!(limits.rates_of(None, "outer"), (1, 9));
    }

    #[test]
    fn limits_that_cannot_work_are_named_with_what_would_be_right() {
        let check = |change: fn(&mut Limits), expect: &str| {
            let mut limits = Limits::default();
            change(&mut limits);
            let error = limits.check(1024 * 1024).unwrap_err();
            assert_eq!(error.to_string(), expect);
        };
        check(
            |limits| limits.topic_levels_max = 0,
            "topic_levels_max is 0, the least is 1",
        );
        check(
            |limits| limits.topic_levels_max = 129,
            "topic_levels_max is 129, the most is 128",
        );
        check(
            |limits| limits.memory_max = 1,
            "memory_max is 1, the least is 16777216",
        );
        assert!(Limits::default().check(8 * 1024 * 1024).is_ok());
    }
}

//! What is known of the clients that are connected now.
//!
//! A session writes its own numbers once per turn, with plain stores, because nobody
//! else does; whoever looks reads them as they are. Rates are taken by looking twice
//! ([`Client::sample`]).

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{Protocol, fanout::Outbox, packet::Kind};

/// A connected client, as a list shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClientInfo {
    /// Its client identifier.
    pub client_id: Arc<str>,
    /// Where it connects from; none for one that came through a Unix socket.
    pub address: Option<SocketAddr>,
    /// The listener that it came in by.
    pub listener: Arc<str>,
    /// `3.1.1` or `5`.
    pub protocol: &'static str,
    /// Its authenticated name; none for an anonymous client.
    pub user: Option<Arc<str>>,
    /// How it said who it is.
    pub method: &'static str,
    /// How long it has been connected.
    pub connected_secs: u64,
    /// Its keep-alive; none if it has none.
    pub keep_alive_secs: Option<u64>,
    /// Whether its session outlives the connection.
    pub persistent: bool,
    /// For how long; 4,294,967,295 for ever.
    pub session_expiry_secs: u32,
    /// Its subscriptions.
    pub subscriptions: u64,
    /// Messages that wait to be sent to it.
    pub queue_messages: u64,
    /// Their bytes.
    pub queue_bytes: u64,
    /// QoS 1 and 2 publishes from it that are not settled.
    pub in_flight_in: u64,
    /// QoS 1 and 2 messages to it that it has not acknowledged.
    pub in_flight_out: u64,
    /// Publishes from it.
    pub publishes_in: u64,
    /// Messages sent to it.
    pub publishes_out: u64,
    /// Bytes read from it.
    pub bytes_in: u64,
    /// Bytes written to it.
    pub bytes_out: u64,
    /// Publishes from it a second, lately.
    pub publishes_in_per_sec: f64,
    /// Messages sent to it a second, lately.
    pub publishes_out_per_sec: f64,
    /// Messages that it did not get because its queue was full.
    pub dropped: u64,
}

/// What does not change while a client is connected.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) session: u64,
    pub(crate) client_id: Arc<str>,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) listener: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) user: Option<Arc<str>>,
    pub(crate) method: &'static str,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) session_expiry_secs: u32,
    pub(crate) connected: Instant,
}

/// One connected client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) facts: Facts,
    pub(crate) tally: Tally,
    outbox: Arc<Outbox>,
    /// Its topic filters, in order. Replaced whole, so that who lists them holds up
    /// nobody.
    filters: Mutex<Arc<[Arc<str>]>>,
    /// The publishes at the last sample, and the rates since the one before.
    sampled: [AtomicU64; 2],
    rates: [AtomicU64; 2],
}

/// The numbers of one session; only it writes them.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    publishes_in: AtomicU64,
    publishes_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    in_flight_in: AtomicU64,
    in_flight_out: AtomicU64,
    subscriptions: AtomicU64,
}

/// The packets that one turn of a session took.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Taken {
    /// Of every kind.
    pub(crate) packets: u32,
    /// Those that are answered by one of ours, other than publishes.
    pub(crate) answers: u32,
    pub(crate) publishes: u32,
}

/// What one turn of a session did, and how it stands after it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Turn {
    pub(crate) taken: Taken,
    pub(crate) publishes_out: usize,
    pub(crate) bytes_in: usize,
    pub(crate) bytes_out: usize,
    pub(crate) in_flight_in: usize,
    pub(crate) in_flight_out: usize,
    pub(crate) subscriptions: usize,
}

impl Taken {
    /// A packet of this kind was taken.
    pub(crate) fn took(&mut self, kind: Kind) {
        self.packets += 1;
        match kind {
            Kind::Publish => self.publishes += 1,
            Kind::PubRec | Kind::PubRel | Kind::Subscribe | Kind::Unsubscribe | Kind::PingReq => {
                self.answers += 1;
            }
            _ => {}
        }
    }
}

impl Tally {
    /// Takes in a turn. There is one writer, so nothing has to be added atomically.
    pub(crate) fn note(&self, turn: Turn) {
        let add = |to: &AtomicU64, more: usize| {
            if more > 0 {
                to.store(to.load(Relaxed) + more as u64, Relaxed);
            }
        };
        add(&self.publishes_in, turn.taken.publishes as usize);
        add(&self.publishes_out, turn.publishes_out);
        add(&self.bytes_in, turn.bytes_in);
        add(&self.bytes_out, turn.bytes_out);
        self.in_flight_in.store(turn.in_flight_in as u64, Relaxed);
        self.in_flight_out.store(turn.in_flight_out as u64, Relaxed);
        self.subscriptions.store(turn.subscriptions as u64, Relaxed);
    }
}

impl Client {
    pub(crate) fn new(facts: Facts, outbox: Arc<Outbox>) -> Self {
        Self {
            facts,
            tally: Tally::default(),
            outbox,
            filters: Mutex::new(Arc::default()),
            sampled: Default::default(),
            rates: Default::default(),
        }
    }

    /// Whether a message of `bytes` would find room in its outbox behind `more`.
    pub(crate) fn has_room(&self, bytes: usize, more: usize) -> bool {
        self.outbox.has_room(bytes, more)
    }

    /// Whether its session outlives the connection.
    pub(crate) const fn is_persistent(&self) -> bool {
        self.facts.session_expiry_secs > 0
    }

    /// Its subscriptions have changed.
    pub(crate) fn set_filters(&self, filters: impl Iterator<Item = Arc<str>>) {
        let mut filters: Vec<_> = filters.collect();
        filters.sort_unstable();
        *self.lock_filters() = filters.into();
    }

    /// Its topic filters, in order.
    pub(crate) fn filters(&self) -> Arc<[Arc<str>]> {
        Arc::clone(&self.lock_filters())
    }

    fn lock_filters(&self) -> MutexGuard<'_, Arc<[Arc<str>]>> {
        self.filters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the rates up to date, `since` the last time.
    pub(crate) fn sample(&self, since: Duration) {
        let now = [&self.tally.publishes_in, &self.tally.publishes_out];
        for ((now, before), rate) in now.into_iter().zip(&self.sampled).zip(&self.rates) {
            let now = now.load(Relaxed);
            let more = now.saturating_sub(before.swap(now, Relaxed));
            rate.store(per_sec(more, since).to_bits(), Relaxed);
        }
    }

    pub(crate) fn info(&self) -> ClientInfo {
        let (facts, tally) = (&self.facts, &self.tally);
        let standing = self.outbox.standing();
        let [publishes_in_per_sec, publishes_out_per_sec] = self
            .rates
            .each_ref()
            .map(|rate| f64::from_bits(rate.load(Relaxed)));
        ClientInfo {
            client_id: Arc::clone(&facts.client_id),
            address: facts.address,
            listener: Arc::clone(&facts.listener),
            protocol: match facts.protocol {
                Protocol::V4 => "3.1.1",
                Protocol::V5 => "5",
            },
            user: facts.user.clone(),
            method: facts.method,
            connected_secs: facts.connected.elapsed().as_secs(),
            keep_alive_secs: facts.keep_alive.map(|said| said.as_secs()),
            persistent: self.is_persistent(),
            session_expiry_secs: facts.session_expiry_secs,
            subscriptions: tally.subscriptions.load(Relaxed),
            queue_messages: standing.messages as u64,
            queue_bytes: standing.bytes as u64,
            in_flight_in: tally.in_flight_in.load(Relaxed),
            in_flight_out: tally.in_flight_out.load(Relaxed),
            publishes_in: tally.publishes_in.load(Relaxed),
            publishes_out: tally.publishes_out.load(Relaxed),
            bytes_in: tally.bytes_in.load(Relaxed),
            bytes_out: tally.bytes_out.load(Relaxed),
            publishes_in_per_sec,
            publishes_out_per_sec,
            dropped: standing.dropped,
        }
    }
}

fn per_sec(count: u64, since: Duration) -> f64 {
    let secs = since.as_secs_f64();
    if secs > 0.0 { count as f64 / secs } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_came_since_the_last_look() {
        assert_eq!(per_sec(10, Duration::from_secs(5)), 2.0);
        assert_eq!(per_sec(1, Duration::from_secs(4)), 0.25);
        assert_eq!(per_sec(1, Duration::ZERO), 0.0);
    }
}

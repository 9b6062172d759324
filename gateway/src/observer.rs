//! Looks at every stage's counts and puts them into one account.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    actions, audit,
    clock::Clock,
    destinations::Roster,
    event::Timestamp,
    events,
    fleet::Fleet,
    forward::{State, Waits},
    ingest::{self, Ingest},
    query,
    rules::ACTIONS,
    status::{self, Destination, Journal, Ledger, Nowhere, Readiness, Sampler, Shed, Status},
    store,
};

/// How often rates are brought up to date.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// Whom to ask.
#[derive(Debug)]
pub struct Parts {
    /// The journal.
    pub store: store::Handle,
    /// The broker.
    pub broker: penstock_broker::Handle,
    /// Ingest, for its counters.
    pub ingest: Arc<Ingest>,
    /// The audit of the ledger.
    pub audit: audit::Handle,
    /// The stream of events for local subscribers.
    pub events: events::Handle,
    /// The read side.
    pub read: query::Handle,
    /// What rules do beside sending.
    pub actions: actions::Handle,
    /// Devices, and commands to them.
    pub fleet: Fleet,
    /// Each remote broker, by name.
    #[cfg(feature = "mqtt")]
    pub remotes: Vec<(Arc<str>, crate::remote::Handle)>,
    /// The destinations that run.
    pub destinations: Roster,
    /// The wall clock, for ages.
    pub clock: Arc<dyn Clock>,
}

/// The account with the counters that only a scrape wants.
#[derive(Debug)]
pub struct Account {
    /// The account.
    pub status: Status,
    /// What was prepared, by identity and by reason.
    pub ingest: Arc<ingest::Metrics>,
}

/// Asks them.
#[derive(Debug)]
pub struct Observer {
    parts: Parts,
    sampler: Mutex<Sampler>,
    started: Instant,
    instance: Arc<str>,
}

impl Observer {
    /// An observer that has seen nothing yet.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            sampler: Mutex::default(),
            started: Instant::now(),
            instance: uuid::Uuid::now_v7().to_string().into(),
        }
    }

    /// Random, new at each start.
    pub const fn instance(&self) -> &Arc<str> {
        &self.instance
    }

    /// Samples once a second until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let mut every = tokio::time::interval(SAMPLE_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(every.tick()).await.is_some() {
            let status = store::Status::clone(&self.parts.store.status());
            self.sampler().sample(Instant::now(), status);
        }
    }

    /// The whole account with every stage's own counters, for a scrape.
    pub fn account(&self) -> Account {
        Account {
            status: self.status(),
            ingest: self.parts.ingest.metrics(),
        }
    }

    /// Now, by the wall clock.
    pub fn now(&self) -> Timestamp {
        self.parts.clock.now()
    }

    /// Whether events get on their way.
    pub fn readiness(&self) -> Readiness {
        let destinations = &self.parts.destinations;
        let waits = |name: &str| {
            let status = destinations.status(name);
            status.is_some_and(|status| status.state == State::Waiting || status.held)
        };
        self.sampler().readiness(Instant::now(), waits)
    }

    /// The whole account.
    pub fn status(&self) -> Status {
        let ready = self.readiness().ready;
        let store = self.parts.store.status();
        let sampler = self.sampler();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            instance: self.instance.clone(),
            uptime_secs: self.started.elapsed().as_secs(),
            ready,
            ledger: Ledger {
                accepted: store.accepted,
                stored: store.stored,
                duplicate: store.duplicate,
                quarantined: store.quarantined,
                shed: store.shed.iter().sum(),
                shed_by_class: Shed {
                    low: store.shed[0],
                    normal: store.shed[1],
                    high: store.shed[2],
                },
                refused_full: store.refused_full,
                accepted_per_sec: sampler.accepted_per_sec(),
            },
            store: Journal {
                committed: store.committed.0,
                buffered: store.buffered.saturating_sub(store.buffered_settled),
                settled: store.buffered_settled,
                file_bytes: store.file_bytes,
                max_bytes: store.max_bytes,
                full: store.full,
                shedding: store.shedding,
                gaps: store.gaps,
                time_to_full_secs: sampler.time_to_full_secs(),
                written_bytes: store.written_bytes,
                commits: store.commits,
                dedup_keys: store.dedup_keys,
                dedup_bytes: store.dedup_bytes,
                dedup_shortened: store.dedup_shortened,
                in_quarantine: store.in_quarantine,
                quarantine_bytes: store.quarantine_bytes,
                quarantine_evicted: store.quarantine_evicted,
                dead_letters: store.dead_letters,
                set_aside: store
                    .set_aside
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect(),
            },
            audit: self.parts.audit.report(),
            nowhere: Nowhere {
                total: store.nowhere.total,
                held: store.nowhere.held,
                expired: store.nowhere.expired,
                evicted: store.nowhere.evicted,
                damaged: store.nowhere.damaged,
                oldest_age_secs: self.age_secs(store.nowhere.oldest),
            },
            destinations: store
                .destinations
                .iter()
                .filter(|d| *d.name != *ACTIONS)
                .map(|d| self.destination(&sampler, d))
                .collect(),
            remotes: self.remotes(),
            rules: self.parts.actions.status(),
            commands: self.parts.fleet.account(),
            events: self.parts.events.counts(),
            read: self.parts.read.status(),
            broker: self.parts.broker.metrics(),
        }
    }

    #[cfg(feature = "mqtt")]
    fn remotes(&self) -> Vec<status::Remote> {
        let remotes = self.parts.remotes.iter().map(|(name, handle)| {
            let (state, error) = handle.state();
            status::Remote {
                name: name.clone(),
                state: state.as_str(),
                error,
                counts: handle.counted(),
            }
        });
        remotes.collect()
    }

    #[cfg(not(feature = "mqtt"))]
    const fn remotes(&self) -> Vec<status::Remote> {
        Vec::new()
    }

    fn destination(&self, sampler: &Sampler, at: &store::DestinationStatus) -> Destination {
        let (state, error, waits) = match self.parts.destinations.status(&at.name) {
            Some(_) if at.filling => ("filling", None, None),
            Some(status) => (status.state.as_str(), status.error, status.waits),
            None => ("unconfigured", None, None),
        };
        let waits = waits.map(|waits| match waits {
            Waits::Budget(until) => format!("its budget is used up until {}", text(until)),
            Waits::Window(until) => format!("it sends again at {}", text(until)),
        });
        Destination {
            name: at.name.clone(),
            configured: at.configured,
            mode: at.mode.as_str(),
            state,
            error,
            waits,
            budget_spent_bytes: at.spent.bytes,
            cursor: at.cursor.0,
            routed: at.routed,
            delivered: at.delivered,
            expired: at.expired,
            evicted: at.evicted,
            damaged: at.damaged,
            dead: at.dead,
            backlog: at.backlog,
            retrying: at.retrying,
            oldest_undelivered_age_secs: self.age_secs(at.oldest),
            time_to_drain_secs: sampler.time_to_drain_secs(&at.name),
            delivered_per_sec: sampler.delivered_per_sec(&at.name),
        }
    }

    fn age_secs(&self, oldest: Option<Timestamp>) -> Option<u64> {
        oldest.map(|oldest| status::age_secs(self.parts.clock.now(), oldest))
    }

    fn sampler(&self) -> std::sync::MutexGuard<'_, Sampler> {
        // A sampler that a panic left behind is at worst a second old.
        self.sampler.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An instant as people read it.
fn text(at: Timestamp) -> String {
    let instant = crate::admin::instant(at);
    instant.as_str().unwrap_or_default().to_owned()
}

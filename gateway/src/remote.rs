//! The other direction: messages of another broker for local subscribers, such as
//! commands to devices, and for the journal where that is asked for.
//!
//! ```text
//! remote broker ─▶ link ─▶ convert ─▶ local subscribers
//!        ▲                       └──▶ ingest ─▶ journal ─▶ local subscribers
//!        └──── PUBACK, only after that ◀──┘
//! ```
//!
//! Promises: a QoS 1 message is acknowledged at the remote broker only after it was
//! handed to the local subscribers of that moment, is on disk for the persistent
//! sessions that are owed it, and, with `journal`, was committed;
//! until then the remote broker keeps it, also while this gateway is down, as long
//! as its session lives there. So it arrives at least once, in order. In the
//! journal it is one event however often it comes, if it carries an identity.
//!
//! A message never goes in circles: what has been through this gateway before is
//! acknowledged, counted, and goes nowhere; what is kept in the journal is not sent
//! to destinations on the broker that it came from.
//!
//! Each remote has a connection of its own, apart from destinations. QoS 2 is not
//! offered: the client library forgets its exchanges with the connection.

mod connection;
mod convert;
mod filters;
mod inbox;
mod status;
mod taking;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use penstock_broker::{Admission, Client as LocalClient, Local, QoS};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    forward,
    gateway_id::GatewayId,
    ingest::Ingest,
    mqtt::{Server, link::Opening},
    record::Routes,
    store,
};
use convert::Converter;
use filters::Filters;

pub use status::{Handle, State};

/// Delay after the first failure to connect, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Where a person is needed it is tried again this often.
const RETRY_PERSON: Duration = Duration::from_secs(60);
/// A connection that lasted so long was a good one.
const LASTED: Duration = Duration::from_secs(10);

/// One remote broker, and what is wanted of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its name, for logs, metrics and the client identifier.
    pub name: Arc<str>,
    /// The broker.
    pub server: Server,
    /// Who we are; one for this run where it is not given.
    pub gateway: Option<GatewayId>,
    /// How long the broker keeps messages for us while we are away.
    pub session_expiry: Duration,
    /// Messages that we have not acknowledged, at most.
    pub in_flight: u16,
    /// The largest packet taken.
    pub packet_bytes_max: u32,
    /// What to subscribe to.
    pub subscriptions: Vec<Subscription>,
    /// The destination that is the same broker, where their addresses do not tell.
    pub destination: Option<Arc<str>>,
}

/// Messages wanted of a remote broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The filter there.
    pub filter: String,
    /// 0 or 1.
    pub qos: u8,
    /// Taken from the beginning of topics.
    pub remote_prefix: String,
    /// Put in its place.
    pub local_prefix: String,
    /// Whether they are kept as events, too.
    pub journal: bool,
}

impl Config {
    /// The configured defaults, subscribing to nothing yet.
    pub fn new(name: impl Into<Arc<str>>, server: Server) -> Self {
        Self {
            name: name.into(),
            server,
            gateway: None,
            session_expiry: Duration::from_secs(7 * 86_400),
            in_flight: 100,
            packet_bytes_max: 1024 * 1024,
            subscriptions: Vec::new(),
            destination: None,
        }
    }

    /// Whether a destination of this name and address is the same broker.
    pub(crate) fn is_same(&self, name: &str, server: &Server) -> bool {
        self.destination.as_deref() == Some(name) || self.server.is_same(server)
    }
}

/// Brings messages of one remote broker here.
pub struct Remote {
    name: Arc<str>,
    config: Config,
    converter: Converter,
    local: Local,
    ingest: Arc<Ingest>,
    journal: LocalClient,
    /// Under which the journal knows it.
    client_id: Arc<str>,
    opening: Opening,
    /// The server has subscribed us to what is configured, in this run.
    subscribed: AtomicBool,
    /// What it was asked for by earlier runs; unknown without a data directory.
    filters: Option<Filters>,
    handle: Handle,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Prepares; connects to nothing yet.
    pub fn new(config: Config, local: Local, ingest: Arc<Ingest>) -> Self {
        let gateway = config.gateway.clone().unwrap_or_else(GatewayId::random);
        let client_id: Arc<str> = format!("remote:{}", config.name).into();
        let own_id = || gateway.client_id("from", &config.name);
        Self {
            name: config.name.clone(),
            opening: Opening {
                client_id: config.server.client_id.clone().unwrap_or_else(own_id),
                session_expiry: Some(config.session_expiry),
                in_flight: config.in_flight,
                packet_bytes_max: config.packet_bytes_max,
            },
            converter: Converter::new(config.subscriptions.clone(), gateway),
            journal: local.client(ingest.clone(), client_id.clone(), Some(config.name.clone())),
            client_id,
            ingest,
            local,
            config,
            subscribed: AtomicBool::new(false),
            filters: None,
            handle: Handle::default(),
        }
    }

    /// Journals what it brings by way of another admission than the gateway's ingest alone.
    #[must_use]
    pub fn through(mut self, admission: Arc<dyn Admission>) -> Self {
        let name = Some(self.name.clone());
        self.journal = self.local.client(admission, self.client_id.clone(), name);
        self
    }

    /// Remembers there what the broker was asked for, so that what is no longer
    /// configured is taken out there too.
    #[must_use]
    pub fn remembering_in(mut self, dir: &Path) -> Self {
        self.filters = Some(Filters::of(dir, &self.name));
        self
    }

    /// Tells where it stands.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Connects, and connects again, until `shutdown`; then ends once what is being
    /// handled is acknowledged. Where the disk is full that may take as long as it is:
    /// whoever drops the future instead gets those messages again.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let began = Instant::now();
            let Some(broken) = self.serve(&shutdown).await else {
                return;
            };
            if began.elapsed() > LASTED {
                backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
            }
            let pause = match broken.needs_person {
                true => RETRY_PERSON,
                false => backoff.next_delay(),
            };
            if self.handle.broke(&broken) {
                if broken.needs_person {
                    tracing::error!(remote = %self.name, reason = %broken, "a remote broker needs a person");
                } else {
                    tracing::warn!(remote = %self.name, reason = %broken, "no connection to a remote broker");
                }
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }
}

/// Prepares every remote, knowing who this gateway is.
pub(crate) fn remotes(
    configs: Vec<Config>,
    gateway: &GatewayId,
    dir: &Path,
    local: &Local,
    ingest: &Arc<Ingest>,
    admission: &Arc<dyn Admission>,
) -> Vec<(Arc<str>, Remote)> {
    let prepared = configs.into_iter().map(|config| {
        let config = Config {
            gateway: Some(gateway.clone()),
            ..config
        };
        let remote = Remote::new(config, local.clone(), ingest.clone())
            .through(admission.clone())
            .remembering_in(dir);
        (remote.name.clone(), remote)
    });
    prepared.collect()
}

/// For each remote the destinations on the same broker: what comes from there does
/// not go back there.
pub(crate) fn not_back(
    configs: &[Config],
    destinations: &[forward::Config],
    store: &store::Handle,
) -> HashMap<Arc<str>, Routes> {
    let same = |remote: &Config| {
        let same = destinations
            .iter()
            .filter(|destination| match &destination.kind {
                forward::Kind::Mqtt(config) => remote.is_same(&destination.name, &config.server),
                _ => false,
            });
        same.filter_map(|destination| store.destination_id(&destination.name))
            .fold(Routes::NONE, Routes::with)
    };
    let all = configs
        .iter()
        .map(|remote| (remote.name.clone(), same(remote)));
    all.collect()
}

/// The QoS at which a message is shown: what the remote broker sent it with.
const fn qos(level: u8) -> QoS {
    match level {
        0 => QoS::AtMostOnce,
        _ => QoS::AtLeastOnce,
    }
}

#[cfg(test)]
mod tests;

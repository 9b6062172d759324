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

mod convert;
mod status;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use penstock_broker::{Client as LocalClient, Local, Publish, QoS, Verdict};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    backoff::Backoff,
    forward,
    gateway_id::GatewayId,
    ingest::Ingest,
    mqtt::{
        Server,
        link::{self, Client, Link, Opening, Received, Signal},
        reason::Broken,
    },
    record::Routes,
    store,
};
use convert::{Converted, Converter};

pub use status::{Handle, State};

/// Delay after the first failure to connect, and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Where a person is needed it is tried again this often.
const RETRY_PERSON: Duration = Duration::from_secs(60);
/// A connection that lasted so long was a good one.
const LASTED: Duration = Duration::from_secs(10);
/// What may come beyond `in_flight` while acknowledgements leave; a server of MQTT 5
/// keeps to `in_flight`, and with QoS 0 and 3.1.1 this bounds what is in memory.
const LATE_MAX: usize = 4_096;
const LATE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Messages handed to the journal at once.
const BATCH_MAX: usize = 64;

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
        }
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
            handle: Handle::default(),
        }
    }

    /// Tells where it stands.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Connects, and connects again, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let began = Instant::now();
            let broken = tokio::select! {
                broken = self.serve() => broken,
                () = shutdown.cancelled() => return,
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

    /// One connection to its end.
    async fn serve(&self) -> Broken {
        let (server, opening) = (self.config.server.clone(), self.opening.clone());
        let prepared = tokio::task::spawn_blocking(move || link::prepare(&server, &opening)).await;
        let (client, link) = match prepared {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(broken)) => return broken,
            Err(error) => return Broken::lost(error.to_string()),
        };
        // As many as may come unacknowledged.
        let (messages, received) = mpsc::channel(usize::from(self.config.in_flight).max(1));
        let acks = Acks::default();
        tokio::select! {
            broken = self.listen(&client, link, messages, &acks) => broken,
            broken = self.handle_all(&client, received, &acks) => broken,
        }
    }

    /// Moves the connection, and hands over what comes.
    async fn listen(
        &self,
        client: &Client,
        mut link: Link,
        messages: mpsc::Sender<Received>,
        acks: &Acks,
    ) -> Broken {
        let subscriptions = self.config.subscriptions.iter();
        let filters: Vec<_> = subscriptions
            .map(|one| (one.filter.clone(), one.qos))
            .collect();
        let connecting = async {
            loop {
                match link.poll().await {
                    Ok(Signal::Connected(announced)) => return Ok(announced),
                    Ok(_) => {}
                    Err(broken) => return Err(broken),
                }
            }
        };
        let announced = match timeout(self.config.server.timeout, connecting).await {
            Ok(Ok(announced)) => announced,
            Ok(Err(broken)) => return broken,
            Err(_) => return Broken::lost("no connection in time"),
        };
        tracing::debug!(remote = %self.name, ?announced, "connected");
        if announced.session_present && self.subscribed.load(SeqCst) {
            // Subscribing again would bring everything retained again.
            self.handle.connected();
        } else if client.subscribe(&filters).await.is_err() {
            return Broken::lost("the connection was lost");
        }
        // What came while there was no room, because acknowledgements had to leave.
        let mut late = VecDeque::new();
        let mut late_bytes = 0;
        loop {
            while let Some(message) = late.pop_front() {
                late_bytes -= Received::bytes(&message);
                if let Err(full) = messages.try_send(message) {
                    let message = full.into_inner();
                    late_bytes += message.bytes();
                    late.push_front(message);
                    break;
                }
            }
            if !late.is_empty() && acks.all_left() {
                // Nothing more is read until there is room, or something to be told.
                tokio::select! {
                    () = acks.asked() => {}
                    _ = messages.reserve() => {}
                }
                continue;
            }
            if late_bytes > LATE_BYTES_MAX || late.len() > LATE_MAX {
                return Broken::lost("messages come faster than acknowledgements leave");
            }
            match link.poll().await {
                Ok(Signal::Received(message)) => {
                    late_bytes += message.bytes();
                    late.push_back(message);
                }
                Ok(Signal::Acknowledged) => acks.left(),
                Ok(Signal::Subscribed(codes)) => {
                    let mut refused = codes.iter().zip(&filters);
                    if let Some((Err(why), (filter, _))) = refused.find(|(code, _)| code.is_err()) {
                        return Broken::wrong(format!("subscribe to {filter:?}: {why}"));
                    }
                    self.subscribed.store(true, SeqCst);
                    self.handle.connected();
                    tracing::info!(remote = %self.name, "subscribed at a remote broker");
                }
                Ok(_) => {}
                Err(broken) => return broken,
            }
        }
    }

    /// Handles messages in order, and acknowledges them.
    async fn handle_all(
        &self,
        client: &Client,
        mut received: mpsc::Receiver<Received>,
        acks: &Acks,
    ) -> Broken {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        loop {
            batch.clear();
            if received.recv_many(&mut batch, BATCH_MAX).await == 0 {
                // The other half says why.
                std::future::pending::<()>().await;
            }
            if let Err(broken) = self.handle_batch(&batch).await {
                return broken;
            }
            for message in batch.iter().filter(|one| one.is_owed()) {
                acks.ask();
                if client.acknowledge(message).await.is_err() {
                    return Broken::lost("the connection was lost");
                }
            }
        }
    }

    /// Shows and keeps messages, in order.
    async fn handle_batch(&self, batch: &[Received]) -> Result<(), Broken> {
        let counts = self.handle.counts();
        counts.received(batch.len());
        let (mut show, mut keep) = (Vec::new(), Vec::new());
        for message in batch {
            match self.converter.convert(message) {
                Converted::Show(publish) => {
                    self.keep(&mut keep).await?;
                    show.push(publish);
                }
                Converted::Keep(publish) => {
                    self.show(&mut show).await;
                    keep.push(publish);
                }
                Converted::SetAside(publish, why) => {
                    self.show(&mut show).await;
                    self.keep(&mut keep).await?;
                    self.set_aside(&publish, why).await?;
                }
                Converted::Circle => counts.circle(),
                Converted::Refused(why) => {
                    if counts.refused() {
                        tracing::warn!(remote = %self.name, reason = why, "a message of a remote broker was not taken");
                    }
                }
            }
        }
        self.show(&mut show).await;
        self.keep(&mut keep).await
    }

    /// Keeps a message that cannot be one here, so that it is not lost.
    async fn set_aside(&self, publish: &Publish, why: &'static str) -> Result<(), Broken> {
        let (ingest, name) = (&self.ingest, &self.name);
        let kept = ingest.set_aside(&self.client_id, name, publish, why).await;
        kept.map_err(|stopped| Broken::lost(stopped.to_string()))?;
        self.handle.counts().kept();
        Ok(())
    }

    async fn show(&self, publishes: &mut Vec<Publish>) {
        if publishes.is_empty() {
            return;
        }
        // While the disk is full the remote broker keeps what is not acknowledged.
        let shown = self.local.show_patiently(publishes).await;
        let counts = self.handle.counts();
        counts.shown(shown);
        for _ in shown..publishes.len() {
            if counts.refused() {
                tracing::warn!(remote = %self.name, reason = "too long for a packet", "a message of a remote broker was not taken");
            }
        }
        publishes.clear();
    }

    async fn keep(&self, publishes: &mut Vec<Publish>) -> Result<(), Broken> {
        if publishes.is_empty() {
            return Ok(());
        }
        let batch = std::mem::take(publishes);
        let counts = self.handle.counts();
        for verdict in self.journal.publish(batch).await {
            match verdict {
                Verdict::Accepted | Verdict::Duplicate => counts.kept(),
                Verdict::Returned => counts.circle(),
                Verdict::Refused { text, .. } => {
                    if counts.refused() {
                        tracing::warn!(remote = %self.name, reason = text, "a message of a remote broker was not taken");
                    }
                }
                Verdict::Busy | Verdict::Lost => {
                    return Err(Broken::lost("the journal takes nothing"));
                }
            }
        }
        Ok(())
    }
}

/// Acknowledgements that were asked for and have not left. While there are any the
/// connection must be moved, also when nobody has room for what comes on it.
#[derive(Debug, Default)]
struct Acks {
    open: AtomicUsize,
    asked: Notify,
}

impl Acks {
    fn ask(&self) {
        self.open.fetch_add(1, SeqCst);
        self.asked.notify_one();
    }

    fn left(&self) {
        self.open.fetch_sub(1, SeqCst);
    }

    fn all_left(&self) -> bool {
        self.open.load(SeqCst) == 0
    }

    async fn asked(&self) {
        self.asked.notified().await;
    }
}

/// Prepares every remote, knowing who this gateway is.
pub(crate) fn remotes(
    configs: Vec<Config>,
    gateway: &GatewayId,
    local: &Local,
    ingest: &Arc<Ingest>,
) -> Vec<(Arc<str>, Remote)> {
    let prepared = configs.into_iter().map(|config| {
        let config = Config {
            gateway: Some(gateway.clone()),
            ..config
        };
        let remote = Remote::new(config, local.clone(), ingest.clone());
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
                forward::Kind::Mqtt(config) => config.server.is_same(&remote.server),
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

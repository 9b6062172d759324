//! Accepts connections wherever the configuration says, and bounds how many there are.
//!
//! Each listener accepts in a task of its own, and each connection is a task from
//! the moment it is accepted: whatever it has to say before MQTT begins holds up
//! nobody else.

mod accept;
mod arrival;
mod bound;
pub mod config;
mod peer;
pub(crate) mod proxy;
pub mod tls;
pub(crate) mod web;

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::AtomicU64},
};

use tokio::{
    sync::{Notify, Semaphore},
    task::{JoinError, JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Admission, Error, Handle,
    auth::{self, Auth},
    budget::Budgets,
    config::Config as BrokerConfig,
    embedded::{Embedded, Watch},
    fanout::Fanout,
    keep::{self, Keeper},
    limits::Doors,
    metrics::Counters,
    quiet::Quiet,
    registry::Registry,
    session::{
        Context,
        wills::{self, Wills},
    },
    sys,
};
use accept::Acceptor;
use arrival::Arrivals;
use bound::Bound;
pub use config::Config;
pub(crate) use peer::Peer;
use tls::Certificates;

/// Connections beyond `connections_max` that are told so; others are just closed.
const LOBBY: usize = 64;

/// A bound broker. Nothing is accepted until [`Broker::run`].
#[derive(Debug)]
pub struct Broker {
    listeners: Vec<Listener>,
    /// Of certificates, where there are some.
    watch: Option<tls::Watch>,
    reload: Arc<Notify>,
    config: BrokerConfig,
    counters: Arc<Counters>,
    auth: Arc<Auth>,
    fanout: Arc<Fanout>,
    budgets: Budgets,
    registry: Arc<Registry>,
    wills: Arc<Wills>,
}

/// One place where clients connect.
#[derive(Debug)]
struct Listener {
    bound: Bound,
    config: Arc<Config>,
    certificates: Option<Arc<Certificates>>,
}

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Listening {
    /// The listener's name.
    pub name: String,
    /// As a client would be told: `mqtt://`, `mqtts://`, `ws://`, `wss://` or
    /// `mqtt+unix://`.
    pub url: String,
    /// Its address, if it has one.
    pub address: Option<SocketAddr>,
}

impl Broker {
    pub(crate) fn bind(
        config: BrokerConfig,
        counters: Arc<Counters>,
        budgets: Budgets,
        keeper: Keeper,
    ) -> Result<Self, Error> {
        let bind = |listener: &Config| {
            let bound = Bound::new(&listener.address).map_err(|source| Error::Bind {
                address: listener.address.to_string(),
                source,
            })?;
            let certificates = listener.certificates()?.map(Arc::new);
            Ok(Listener {
                bound,
                config: Arc::new(listener.clone()),
                certificates,
            })
        };
        let auth = Auth::load(config.auth.clone(), Arc::clone(&counters))?;
        let auth = Arc::new(auth);
        let carrier = Arc::new(Embedded::new(Watch::default(), Arc::clone(&counters)));
        let fanout = Arc::new(Fanout::new(carrier, Arc::clone(&counters), keeper));
        let wills = Wills::new(fanout.keeper().shared().config.sessions_max);
        let listeners = config.listeners.iter().map(bind);
        let listeners = listeners.collect::<Result<Vec<_>, Error>>()?;
        let certificates = listeners.iter().filter_map(|one| one.certificates.clone());
        let certificates: Vec<_> = certificates.collect();
        let watch = (!certificates.is_empty())
            .then(|| tls::Watch::new(certificates, Arc::clone(&counters)));
        Ok(Self {
            listeners,
            watch,
            reload: Arc::default(),
            config,
            counters,
            auth,
            fanout,
            budgets,
            registry: Arc::default(),
            wills: Arc::new(wills),
        })
    }

    /// Where plain MQTT over TCP is taken, if anywhere.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.listeners
            .iter()
            .filter(|listener| listener.config.is_plain())
            .find_map(|listener| listener.bound.address())
    }

    /// Every place where it listens, with the ports that the system chose.
    pub fn listening(&self) -> Vec<Listening> {
        let one = |Listener { bound, config, .. }: &Listener| Listening {
            name: config.name.clone(),
            url: config.url(bound.address()),
            address: bound.address(),
        };
        self.listeners.iter().map(one).collect()
    }

    /// Whom to ask about clients, where the configuration says that somebody is asked.
    #[must_use]
    pub fn with_hook(self, hook: Arc<dyn auth::hook::Hook>) -> Self {
        self.auth.set_hook(hook);
        self
    }

    /// Watches the certificates of another server with those of the listeners: they are
    /// read again with them, and warned of before they end.
    #[must_use]
    pub fn also_watch(mut self, acceptor: &tls::Acceptor) -> Self {
        let counters = &self.counters;
        let watch = self
            .watch
            .get_or_insert_with(|| tls::Watch::new(Vec::new(), Arc::clone(counters)));
        watch.add(Arc::clone(&acceptor.0));
        self
    }

    /// A view of the counters.
    pub fn handle(&self) -> Handle {
        Handle {
            counters: Arc::clone(&self.counters),
            auth: Arc::clone(&self.auth),
            fanout: Arc::clone(&self.fanout),
            budgets: self.budgets.clone(),
            registry: Arc::clone(&self.registry),
            reload: Arc::clone(&self.reload),
            wills: Arc::clone(&self.wills),
        }
    }

    /// Serves until `shutdown`, then ends every session in order: nothing more is
    /// read, receipts already taken are awaited and acknowledged, and MQTT 5
    /// clients are told. Takes as long as the gateway's receipts do; the caller
    /// bounds it by dropping the future, which ends everything at once.
    ///
    /// # Errors
    /// [`Error::Keep`] when the broker's own file can no longer be written; everything
    /// is ended in order then. A socket that cannot be accepted is tried again.
    pub async fn run(
        self,
        admission: Arc<dyn Admission>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let fanout = Arc::clone(&self.fanout);
        let keeper = fanout.keeper().clone();
        // Ends the sessions also when we end by ourselves.
        let shutdown = shutdown.child_token();
        let mut live = JoinSet::new();
        live.spawn(Arc::clone(&self.fanout).run());
        live.spawn(sys::run(self.handle(), self.config.sys_interval));
        let doors = Doors::new(&self.config.limits, self.config.connections_max);
        let seats = Arc::new(Semaphore::new(self.config.connections_max));
        let lobby = Arc::new(Semaphore::new(LOBBY));
        let context = Arc::new(Context {
            config: self.config,
            counters: self.counters,
            admission,
            fanout: self.fanout,
            doors,
            registry: self.registry,
            shutdown: shutdown.clone(),
            quiet: Quiet::default(),
            wills: self.wills,
            auth: self.auth,
            budget: self.budgets.input,
            output_budget: self.budgets.output,
            kept_budget: self.budgets.kept,
            sessions: AtomicU64::new(1),
        });
        live.spawn(wills::run(Arc::clone(&context)));
        let mut acceptors = JoinSet::new();
        if let Some(watch) = self.watch {
            live.spawn(keep_watch(watch, self.reload));
        }
        let arrivals = Arc::new(Arrivals::default());
        for listener in self.listeners {
            let acceptor = Acceptor::new(&context, &listener, &arrivals, &seats, &lobby);
            acceptors.spawn(acceptor.run(listener.bound));
        }
        let mut served = pin!(async {
            while let Some(ended) = acceptors.join_next().await {
                report(ended);
            }
        });
        let failed = tokio::select! {
            () = &mut served => false,
            () = keeper.failed() => true,
        };
        if failed {
            shutdown.cancel();
            served.await;
        }
        // What sessions that have just ended left behind.
        fanout.give_rest_back().await;
        keeper.close().await;
        live.shutdown().await;
        if failed {
            return Err(keep::Error::Stopped.into());
        }
        Ok(())
    }
}

/// Looks at certificates now and then, and whenever somebody asks.
async fn keep_watch(mut watch: tls::Watch, reload: Arc<Notify>) {
    loop {
        let asked = tokio::select! {
            () = reload.notified() => true,
            () = sleep(tls::LOOK_EVERY) => false,
        };
        // A few small files, but a disk may take its time.
        let looked = spawn_blocking(move || {
            watch.look(asked);
            watch
        });
        match looked.await {
            Ok(back) => watch = back,
            Err(_) => return,
        }
    }
}

/// A session never panics; if it does, only that session is gone.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session failed");
    }
}

//! The one place that knows every stage: builds them from the configuration,
//! runs them, and ends them in the order of the line.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
#[cfg(feature = "mqtt")]
use penstock_broker::Admission;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "mqtt")]
use crate::remote::{self as bridged, Remote};
#[cfg(any(feature = "kafka", feature = "nats"))]
use crate::upstream::Upstream;
use crate::{
    actions::{self, Follower},
    audit::Auditor,
    boots::Boots,
    clock::{Believed, Clock, SystemClock},
    config::{self, Config},
    destinations::{self, Destinations, routing},
    encryption,
    events::Events,
    fleet::{self, Fleet, Replies},
    gaps::Gaps,
    gateway_id::GatewayId,
    http,
    ingest::Ingest,
    instance_key::InstanceKey,
    observer::{Observer, Parts},
    query::{self, Feed},
    rebirth::Rebirth,
    record::is_own,
    reload::{self, Reload},
    rulebook::{self, Rulebook},
    rules::Rule,
    running::{Note, Running},
    store::{self, Store},
    tasks::{OnEnd, Tasks},
};

/// A journal gets this long to close, however short the grace period.
const CLOSE_MIN: Duration = Duration::from_secs(5);

/// Everything built and every port bound; nothing runs yet.
#[derive(Debug)]
pub struct App {
    store: store::Running,
    broker: penstock_broker::Broker,
    reload: Reload,
    http: http::Server,
    ingest: Arc<Ingest>,
    destinations: Destinations,
    events: Events,
    auditor: Auditor,
    read: Feed,
    actions: Follower,
    rulebook: Arc<Rulebook>,
    gaps: Gaps,
    rebirth: Rebirth,
    fleet: Fleet,
    delivery: fleet::Delivery,
    admission: Arc<Replies>,
    #[cfg(any(feature = "kafka", feature = "nats"))]
    upstreams: Vec<Upstream>,
    #[cfg(feature = "mqtt")]
    remotes: Vec<(Arc<str>, Remote)>,
    observer: Arc<Observer>,
    boots: Arc<Boots>,
    key: InstanceKey,
    grace: Duration,
}

impl App {
    /// Opens the journal and binds the ports, so that a mistake shows in the first second.
    ///
    /// # Errors
    /// When the journal cannot be opened, a port cannot be had, or a destination
    /// cannot be set up.
    pub async fn build(mut config: Config) -> Result<Self> {
        // Before anything is opened: the wrong key must not look like damage.
        config = tokio::task::spawn_blocking(move || config.unlock().map(|()| config)).await??;
        let is_on = config.store.seal.is_on();
        if let Some(left) = encryption::left_plain(&config.data_dir, &config.encryption, is_on) {
            tracing::warn!("{left}");
        }
        let beginning = reload::Beginning::note(&config).context("cannot listen for signals")?;
        let machine = Arc::new(SystemClock);
        let clock: Arc<dyn Clock> = Arc::new(Believed::new(machine, config.ingest.clock_wait));
        let auth = config.broker.auth.clone();
        let boots = Arc::new(Boots::new(clock.clone(), &config.data_dir));
        if let Some(at) = boots.newest() {
            clock.has_been(at);
        }
        // The journal first: its lock says that nobody else uses the data directory,
        // and with it the broker's own file.
        let (store, report) = {
            let (config, clock) = (config.store.clone(), clock.clone());
            tokio::task::spawn_blocking(move || Store::open(config, clock)).await??
        };
        announce(&report);
        let handle = store.handle();
        let dir = config.data_dir.clone();
        let gateway = tokio::task::spawn_blocking(move || gateway_id(&dir)).await??;
        rescue_rulebook(&config, &clock)?;
        let ingest = Arc::new(ingest(&config, &gateway, &handle, &clock)?);
        let rulebook = Rulebook::open(&config.data_dir, &config, ingest.clone(), handle.clone());
        let rulebook = Arc::new(rulebook.context("cannot open rulebook.db")?);
        for warning in config.class_warnings(ingest.rules().classes()) {
            tracing::warn!("{warning}");
        }
        let broker = config.broker.bind().await?;
        let broker = with_service(broker, config.auth_service.as_ref())?;
        let (fleet, delivery) = {
            let (config, store, clock) = (config.fleet.clone(), handle.clone(), clock.clone());
            let (ingest, errands) = (ingest.clone(), broker.handle().errands());
            let open = move || Fleet::open(config, store, ingest, clock, errands);
            tokio::task::spawn_blocking(open).await??
        };
        let admission = Arc::new(Replies::new(fleet.clone(), ingest.clone()));
        let http = config.http.bind().await?;
        let broker = match http.acceptor() {
            Some(acceptor) => broker.also_watch(acceptor),
            None => broker,
        };
        query::hold(&config.read, &config.data_dir, &store.handle());
        let store = store.run()?;
        let parts = destinations::Parts {
            store: handle.clone(),
            ingest: ingest.clone(),
            boots: boots.clone(),
            clock: clock.clone(),
            gateway: gateway.clone(),
            data_dir: config.data_dir.clone(),
            #[cfg(feature = "mqtt")]
            remotes: config.remotes.clone(),
            rulebook: rulebook.clone(),
            end_max: config.shutdown_grace_period / 2,
        };
        let destinations = Destinations::new(parts, config.destinations)?;
        let running = reload::InForce {
            destinations: destinations.handle(),
            data_dir: config.data_dir.clone(),
            fixed: config.fixed,
        };
        let reload = Reload::new(
            broker.handle(),
            config.file,
            auth,
            http.tokens(),
            running,
            beginning,
        );
        let local = broker.handle().local();
        #[cfg(feature = "mqtt")]
        let remotes = {
            let dir = &config.data_dir;
            let journal: Arc<dyn Admission> = admission.clone();
            bridged::remotes(config.remotes, &gateway, dir, &local, &ingest, &journal)
        };
        #[cfg(any(feature = "kafka", feature = "nats"))]
        let upstreams: Vec<Upstream> = config
            .upstreams
            .into_iter()
            .map(|from| {
                Upstream::new(
                    from,
                    &gateway,
                    fleet.topics().clone(),
                    &local,
                    admission.clone(),
                )
            })
            .collect();
        let gaps = Gaps::new(handle.clone(), ingest.clone());
        let rebirth = Rebirth::new(ingest.clone(), local.clone(), clock.clone());
        let actions = Follower::new(
            &config.data_dir,
            actions::Parts {
                store: handle.clone(),
                ingest: ingest.clone(),
                local: local.clone(),
                fleet: fleet.clone(),
                gateway: gateway.clone(),
                boots: boots.clone(),
                clock: clock.clone(),
            },
        );
        let events = Events::new(config.events, gateway.clone(), handle.clone(), local);
        let read = Feed::new(config.read, &config.data_dir, handle.clone(), clock.clone())
            .repairing(boots.clone());
        let auditor = Auditor::new(handle.clone(), read.handle(), clock.clone());
        let observer = Arc::new(Observer::new(Parts {
            audit: auditor.handle(),
            store: handle,
            broker: broker.handle(),
            ingest: ingest.clone(),
            events: events.handle(),
            read: read.handle(),
            actions: actions.handle(),
            fleet: fleet.clone(),
            #[cfg(feature = "mqtt")]
            remotes: remotes
                .iter()
                .map(|(name, remote)| (name.clone(), remote.handle()))
                .collect(),
            destinations: destinations.roster(),
            clock,
        }));
        Ok(Self {
            store,
            broker,
            reload,
            http,
            ingest,
            destinations,
            events,
            auditor,
            read,
            actions,
            rulebook,
            gaps,
            rebirth,
            fleet,
            delivery,
            admission,
            #[cfg(any(feature = "kafka", feature = "nats"))]
            upstreams,
            #[cfg(feature = "mqtt")]
            remotes,
            observer,
            boots,
            key: InstanceKey::random(),
            grace: config.shutdown_grace_period,
        })
    }

    /// The addresses that were bound.
    pub fn running(&self) -> Running {
        let note = Note {
            pid: std::process::id(),
            mqtt: self.broker.local_addr(),
            listeners: self.broker.listening(),
            http: self.http.local_addr(),
            instance: self.observer.instance().clone(),
        };
        Running {
            note,
            key: self.key.clone(),
        }
    }

    /// The account of everything.
    pub fn observer(&self) -> Arc<Observer> {
        self.observer.clone()
    }

    /// Runs until `shutdown`, then ends in the order of the line: no new
    /// publishes, what was admitted is committed and acknowledged, batches in
    /// flight settle, cursors are saved, the journal is closed.
    ///
    /// # Errors
    /// When a promise could no longer be kept, or the end took longer than the grace period.
    pub async fn run(self, shutdown: CancellationToken) -> Result<()> {
        let (stop_forward, stop_http) = (CancellationToken::new(), CancellationToken::new());
        let mut ingress = Tasks::new(shutdown.clone());
        let mut bridges = Tasks::new(shutdown.clone());
        // Remotes end first: what they have in hand is shown by the broker.
        let stop_broker = CancellationToken::new();
        let mut egress = Tasks::new(shutdown.clone());
        let mut looking_in = Tasks::new(shutdown.clone());

        let handle = self.store.handle();
        let context = http::Context {
            observer: self.observer.clone(),
            store: handle.clone(),
            ingest: self.ingest.clone(),
            broker: self.broker.handle(),
            read: self.read.handle(),
            actions: self.actions.handle(),
            rulebook: self.rulebook,
            destinations: self.destinations.handle(),
            fleet: self.fleet.clone(),
            boots: self.boots.clone(),
            key: self.key,
        };
        looking_in.spawn("http", OnEnd::Log, {
            let stop = stop_http.clone();
            async move {
                self.http.run(context, stop).await;
                Ok(())
            }
        });
        looking_in.spawn("reload", OnEnd::Log, self.reload.run(stop_http.clone()));
        looking_in.spawn("observer", OnEnd::Log, {
            let stop = stop_http.clone();
            async move {
                self.observer.run(stop).await;
                Ok(())
            }
        });
        looking_in.spawn("audit", OnEnd::Log, self.auditor.run(stop_http.clone()));
        looking_in.spawn("boots", OnEnd::Log, {
            let (boots, stop) = (self.boots, stop_http.clone());
            async move {
                boots.run(stop).await;
                Ok(())
            }
        });
        looking_in.spawn("journal", OnEnd::StopGateway, {
            let stop = stop_http.clone();
            async move {
                tokio::select! {
                    failure = handle.closed() => match failure {
                        Some(failure) => Err(failure.into()),
                        None => Ok(()),
                    },
                    () = stop.cancelled() => Ok(()),
                }
            }
        });
        // A restart continues at the cursors; going on without would be silent.
        let delivering = self.destinations.run(stop_forward.clone());
        egress.spawn("destinations", OnEnd::StopGateway, delivering);
        egress.spawn("rules", OnEnd::StopGateway, {
            let stop = stop_forward.clone();
            self.actions.run(stop)
        });
        // Nothing hangs on it: what it has not read stays in the journal.
        looking_in.spawn("read side", OnEnd::Log, self.read.run(stop_http.clone()));
        let stop = shutdown.clone();
        looking_in.spawn("events", OnEnd::Log, async move {
            self.events.run(stop).await;
            Ok(())
        });
        looking_in.spawn("gaps", OnEnd::Log, self.gaps.run(stop_http.clone()));
        let stop = shutdown.clone();
        looking_in.spawn("rebirth", OnEnd::Log, async move {
            self.rebirth.run(stop).await;
            Ok(())
        });
        let (watch, stop) = (self.fleet.watch(), shutdown.clone());
        looking_in.spawn("presence", OnEnd::Log, async move {
            watch.run(stop).await;
            Ok(())
        });
        let stop = shutdown.clone();
        // A command that was accepted would wait for a restart, in silence.
        looking_in.spawn("commands", OnEnd::StopGateway, async move {
            self.delivery.run(stop).await;
            Ok(())
        });
        #[cfg(any(feature = "kafka", feature = "nats"))]
        for upstream in self.upstreams {
            let stop = shutdown.clone();
            // What is not acknowledged comes again.
            bridges.spawn("upstream", OnEnd::StopGateway, async move {
                upstream.run(stop).await;
                Ok(())
            });
        }
        #[cfg(feature = "mqtt")]
        for (name, remote) in self.remotes {
            let stop = shutdown.clone();
            bridges.spawn(name, OnEnd::StopGateway, async move {
                remote.run(stop).await;
                Ok(())
            });
        }
        ingress.spawn("broker", OnEnd::StopGateway, {
            let stop = stop_broker.clone();
            async move { Ok(self.broker.run(self.admission, stop).await?) }
        });

        shutdown.cancelled().await;
        let orderly = async {
            let bridged = timeout(self.grace / 6, bridges.join()).await;
            let bridged = bridged.unwrap_or_else(|_| {
                tracing::info!("messages of remote brokers that could not be kept come again");
                Ok(())
            });
            drop(bridges);
            stop_broker.cancel();
            // Where the store takes nothing (a full disk), what was admitted is not
            // waited for so long that destinations have no time left to settle.
            let admitted = timeout(self.grace / 3, ingress.join()).await;
            stop_forward.cancel();
            let settled = bridged.and(egress.join().await);
            stop_http.cancel();
            let ended = settled.and(looking_in.join().await);
            match admitted {
                Ok(admitted) => admitted.and(ended),
                Err(_) => {
                    tracing::warn!("publishes that could not be kept were not acknowledged");
                    ended
                }
            }
        };
        let ended = timeout(self.grace, orderly).await;
        // What still runs must not use the store while it closes.
        drop((ingress, egress, looking_in));
        let closed = timeout(self.grace.max(CLOSE_MIN), self.store.shutdown()).await;
        ended.context("the shutdown took longer than shutdown_grace_period")??;
        closed
            .context("closing the journal took longer than shutdown_grace_period")?
            .context("cannot close the journal")
    }
}

/// Gives the broker the way to the authentication service, if there is one.
#[cfg(feature = "http")]
fn with_service(
    broker: penstock_broker::Broker,
    service: Option<&config::auth::Service>,
) -> Result<penstock_broker::Broker> {
    let Some(service) = service else {
        return Ok(broker);
    };
    let service = crate::auth_service::AuthService::new(service)
        .map_err(|what| anyhow::anyhow!("auth.http: {what}"))?;
    Ok(broker.with_hook(Arc::new(service)))
}

/// Without HTTP there is none: the configuration refuses it.
#[cfg(not(feature = "http"))]
fn with_service(
    broker: penstock_broker::Broker,
    _service: Option<&config::auth::Service>,
) -> Result<penstock_broker::Broker> {
    Ok(broker)
}

/// Who this gateway is, as the data directory says.
pub(crate) fn gateway_id(data_dir: &Path) -> Result<GatewayId> {
    GatewayId::of_dir(data_dir).context("the file gateway.id in the data directory")
}

/// The way in, as configured: also for messages that come out of quarantine while no
/// gateway runs.
pub(crate) fn ingest(
    config: &Config,
    gateway: &GatewayId,
    store: &store::Handle,
    clock: &Arc<dyn Clock>,
) -> Result<Ingest> {
    let put = rulebook::put_in(&config.data_dir, config).context("cannot read rulebook.db")?;
    let all: Vec<Rule> = config.rules.iter().cloned().chain(put).collect();
    let routing = routing(
        store,
        &config.destinations,
        &all,
        #[cfg(feature = "mqtt")]
        &config.remotes,
    )?;
    let (config, routes) = (config.ingest.clone(), routing.routes);
    let ingest = Ingest::new(config, routes, store.clone(), clock.clone());
    Ok(ingest.known_as(gateway.clone()).routing_by(routing))
}

/// Sees to it that the rules that were put can be read, before [`ingest`] reads them. Blocking.
pub(crate) fn rescue_rulebook(config: &Config, clock: &Arc<dyn Clock>) -> Result<()> {
    rulebook::rescue(&config.data_dir, config, clock.now())
        .context("cannot put a sound rulebook.db in the place of a damaged one")
}

/// Says what was found when the journal was opened, where a person should know.
pub(crate) fn announce(report: &store::Report) {
    if let Some(version) = report.migrated_from {
        tracing::info!(from = version, "the journal was brought to this version");
    }
    if let Some(path) = &report.set_aside {
        tracing::error!(path = %path.display(), salvaged = ?report.salvaged, "a damaged journal was set aside");
    }
    for (_, name, cursor) in report.destinations.iter().filter(|d| !is_own(&d.1)) {
        tracing::info!(destination = %name, cursor = cursor.0, "continues");
    }
}

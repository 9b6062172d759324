//! The one place that knows every stage: builds them from the configuration,
//! runs them, and ends them in the order of the line.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "mqtt")]
use crate::remote::{self as bridged, Remote};
use crate::{
    actions::{self, Follower},
    boots::Boots,
    clock::{Believed, Clock, SystemClock},
    config::{self, Config},
    events::Events,
    forward::{self, Forwarder},
    gateway_id::GatewayId,
    http,
    ingest::Ingest,
    instance_key::InstanceKey,
    observer::{Observer, Parts},
    query::{self, Feed},
    rebirth::Rebirth,
    record::Routes,
    reload::{self, Reload},
    rulebook::{self, Rulebook},
    rules::{Rule, RuleSet},
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
    forwarders: Vec<(Arc<str>, Forwarder)>,
    events: Events,
    read: Feed,
    actions: Follower,
    rulebook: Arc<Rulebook>,
    rebirth: Rebirth,
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
    pub async fn build(config: Config) -> Result<Self> {
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
        let ingest = Arc::new(ingest(&config, &gateway, &handle, &clock)?);
        let rulebook = Rulebook::open(&config.data_dir, &config, ingest.clone(), handle.clone());
        let rulebook = Arc::new(rulebook.context("cannot open rulebook.db")?);
        let broker = config.broker.bind().await?;
        let broker = with_service(broker, config.auth_service.as_ref())?;
        let http = config.http.bind().await?;
        query::hold(&config.read, &config.data_dir, &store.handle());
        let store = store.run()?;
        let ruled = reload::Rules {
            rulebook: rulebook.clone(),
            fixed: config.fixed.clone(),
        };
        let reload = Reload::new(broker.handle(), config.file, auth, ruled, beginning);
        #[cfg(feature = "mqtt")]
        let destinations = config.destinations.into_iter();
        #[cfg(feature = "mqtt")]
        let destinations: Vec<_> = destinations.map(|d| d.of_gateway(&gateway)).collect();
        #[cfg(not(feature = "mqtt"))]
        let destinations = config.destinations;
        let forwarders = destinations
            .iter()
            .map(|destination| {
                let forwarder = forwarder(destination, &handle, &boots, &clock)
                    .with_context(|| format!("destination {}", destination.name))?
                    .end_within(config.shutdown_grace_period / 2);
                Ok((destination.name.clone(), forwarder))
            })
            .collect::<Result<Vec<_>>>()?;
        let local = broker.handle().local();
        #[cfg(feature = "mqtt")]
        let remotes = bridged::remotes(config.remotes, &gateway, &config.data_dir, &local, &ingest);
        let rebirth = Rebirth::new(ingest.clone(), local.clone(), clock.clone());
        let actions = Follower::new(
            &config.data_dir,
            actions::Parts {
                store: handle.clone(),
                ingest: ingest.clone(),
                local: local.clone(),
                gateway: gateway.clone(),
                boots: boots.clone(),
                clock: clock.clone(),
            },
        );
        let events = Events::new(config.events, gateway.clone(), handle.clone(), local);
        let read = Feed::new(config.read, &config.data_dir, handle.clone(), clock.clone())
            .repairing(boots.clone());
        let observer = Arc::new(Observer::new(Parts {
            store: handle,
            broker: broker.handle(),
            ingest: ingest.clone(),
            events: events.handle(),
            read: read.handle(),
            actions: actions.handle(),
            #[cfg(feature = "mqtt")]
            remotes: remotes
                .iter()
                .map(|(name, remote)| (name.clone(), remote.handle()))
                .collect(),
            destinations: forwarders
                .iter()
                .map(|(name, forwarder)| (name.clone(), forwarder.handle()))
                .collect(),
            clock,
        }));
        Ok(Self {
            store,
            broker,
            reload,
            http,
            ingest,
            forwarders,
            events,
            read,
            actions,
            rulebook,
            rebirth,
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
        for (name, forwarder) in self.forwarders {
            let stop = stop_forward.clone();
            // A restart continues at the cursor; going on without would be silent.
            egress.spawn(name, OnEnd::StopGateway, async move {
                Ok(forwarder.run(stop).await?)
            });
        }
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
        let stop = shutdown.clone();
        looking_in.spawn("rebirth", OnEnd::Log, async move {
            self.rebirth.run(stop).await;
            Ok(())
        });
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
            async move { Ok(self.broker.run(self.ingest, stop).await?) }
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

/// Continues a destination where the journal says it stands.
fn forwarder(
    destination: &forward::Config,
    store: &store::Handle,
    boots: &Arc<Boots>,
    clock: &Arc<dyn Clock>,
) -> Result<Forwarder> {
    let status = store.status();
    let known = status
        .destinations
        .iter()
        .find(|known| known.name == destination.name);
    let known = known.context("the journal does not know it")?;
    let reader = store.reader()?;
    Ok(Forwarder::new(
        destination,
        known.id,
        known.cursor,
        store.clone(),
        reader,
        boots.clone(),
        clock.clone(),
    )?)
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
    let routes = routes(&config.destinations, store);
    let ingest = Ingest::new(config.ingest.clone(), routes, store.clone(), clock.clone())
        .known_as(gateway.clone())
        .sending_originals(originals(&config.destinations, store));
    #[cfg(feature = "mqtt")]
    let ingest = ingest.not_back(bridged::not_back(
        &config.remotes,
        &config.destinations,
        store,
    ));
    let put = rulebook::put_in(&config.data_dir, config).context("cannot read rulebook.db")?;
    let all: Vec<Rule> = config.rules.iter().cloned().chain(put).collect();
    ingest.set_rules(rules(&all, store)?);
    Ok(ingest)
}

/// Rules that send to the destinations of this journal.
fn rules(rules: &[Rule], store: &store::Handle) -> Result<RuleSet> {
    RuleSet::new(rules, |name| store.destination_id(name))
        .map_err(|name| anyhow::anyhow!("the journal does not know the destination {name}"))
}

/// Every configured destination: where events go until rules say otherwise.
fn routes(destinations: &[forward::Config], store: &store::Handle) -> Routes {
    let ids = destinations
        .iter()
        .filter_map(|d| store.destination_id(&d.name));
    ids.fold(Routes::NONE, Routes::with)
}

/// Those of them that get messages as they came.
fn originals(destinations: &[forward::Config], store: &store::Handle) -> Routes {
    let ids = destinations
        .iter()
        .filter(|d| d.sends_originals())
        .filter_map(|d| store.destination_id(&d.name));
    ids.fold(Routes::NONE, Routes::with)
}

/// Says what was found when the journal was opened, where a person should know.
pub(crate) fn announce(report: &store::Report) {
    if let Some(version) = report.migrated_from {
        tracing::info!(from = version, "the journal was brought to this version");
    }
    if let Some(path) = &report.set_aside {
        tracing::error!(path = %path.display(), salvaged = ?report.salvaged, "a damaged journal was set aside");
    }
    for (_, name, cursor) in &report.destinations {
        tracing::info!(destination = %name, cursor = cursor.0, "continues");
    }
}

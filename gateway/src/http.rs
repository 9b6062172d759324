//! The way to look in: health, readiness, metrics, status, the page, and the
//! operator's lists (quarantine, dead letters).
//!
//! Beyond loopback it asks for a token, unless the operator says in words that anyone
//! may look; health, readiness and which gateway it is are for everybody. It refuses requests that a web page of another origin
//! could make a browser send, and changes nothing without a JSON content type.

mod alarms;
mod broker;
mod dead_letters;
mod dedup;
mod destinations;
mod devices;
mod error;
mod guard;
mod health;
mod instance;
mod page;
mod quarantine;
mod read;
mod replay;
mod rulebook;
mod rules;
mod status;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router, middleware,
    routing::{delete, get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    actions, boots::Boots, forward::Secret, ingest::Ingest, instance_key::InstanceKey,
    observer::Observer, query, rulebook::Rulebook, store,
};

pub use error::Error;

/// Connections at a time; devices need the file descriptors more.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send a request's head, also between requests.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the requests at hand may take at shutdown. Nothing durable hangs on them.
const END_TIME_MAX: Duration = Duration::from_secs(1);
/// After accepting failed, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address and port; port 0 lets the operating system choose.
    pub listen: SocketAddr,
    /// Listen beyond loopback although nobody is asked who they are.
    pub allow_anonymous: bool,
    /// What everybody has to know who asks for more than health and readiness.
    pub token: Option<Secret>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            allow_anonymous: false,
            token: None,
        }
    }
}

/// What the handlers look at and act through.
#[derive(Debug, Clone)]
pub struct Context {
    /// The account of everything.
    pub observer: Arc<Observer>,
    /// The journal.
    pub store: store::Handle,
    /// Decodes a quarantined message once more.
    pub ingest: Arc<Ingest>,
    /// The broker.
    pub broker: penstock_broker::Handle,
    /// The read side.
    pub read: query::Handle,
    /// What rules do beside sending.
    pub actions: actions::Handle,
    /// The rules in force.
    pub rulebook: Arc<Rulebook>,
    /// The destinations that run.
    pub destinations: crate::destinations::Handle,
    /// When this machine was started.
    pub boots: Arc<Boots>,
    /// What commands of this machine know.
    pub key: InstanceKey,
}

/// A bound port, not served yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local: SocketAddr,
    open: bool,
    token: Option<Secret>,
}

impl Config {
    /// Binds the port.
    ///
    /// # Errors
    /// When the address cannot be had, or reaches beyond loopback without a token or
    /// `allow_anonymous`.
    pub async fn bind(&self) -> Result<Server, Error> {
        let open = self.allow_anonymous || self.token.is_some();
        if !self.listen.ip().is_loopback() && !open {
            return Err(Error::BeyondLoopback(self.listen));
        }
        let bound = TcpListener::bind(self.listen).await;
        let listener = bound.map_err(|source| Error::Bind {
            address: self.listen,
            source,
        })?;
        let local = listener.local_addr().map_err(|source| Error::Bind {
            address: self.listen,
            source,
        })?;
        Ok(Server {
            listener,
            local,
            open,
            token: self.token.clone(),
        })
    }
}

impl Server {
    /// The address that was bound.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `shutdown`, then gives the requests at hand a moment to end.
    pub async fn run(self, context: Context, shutdown: CancellationToken) {
        let guard = guard::Guard {
            any_host: self.open && !self.local.ip().is_loopback(),
            token: self.token.as_ref().map(guard::Token::new),
            key: guard::Token::new(&Secret::from(context.key.word())),
        };
        let router = router(context, guard);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accept = async {
                let place = places.clone().acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let accepted = tokio::select! {
                accepted = accept => accepted,
                Some(_) = connections.join_next() => continue,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                (Ok(place), Ok((stream, _))) => {
                    let serve = serve(stream, router.clone(), shutdown.clone());
                    connections.spawn(async move {
                        serve.await;
                        drop(place);
                    });
                }
                (_, Err(error)) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                (Err(_closed), _) => break,
            }
        }
        let ended = timeout(END_TIME_MAX, async {
            while connections.join_next().await.is_some() {}
        });
        if ended.await.is_err() {
            tracing::debug!("requests were cut off at shutdown");
        }
    }
}

/// One connection, until it closes or, at shutdown, until its request is answered.
async fn serve(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection broke");
    }
}

fn router(context: Context, guard: guard::Guard) -> Router {
    Router::new()
        .route("/", get(page::html))
        .route("/page.js", get(page::script))
        .route("/page.css", get(page::style))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/api/v1/instance", get(instance::instance))
        .route("/metrics", get(status::metrics))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/devices", get(devices::list))
        .route("/api/v1/devices/clocks", get(devices::clocks))
        .route("/api/v1/dedup", get(dedup::report))
        .route("/api/v1/quarantine", get(quarantine::list))
        .route(
            "/api/v1/quarantine/{id}",
            get(quarantine::show).delete(quarantine::discard),
        )
        .route("/api/v1/quarantine/{id}/retry", post(quarantine::retry))
        .route("/api/v1/replay", post(replay::page))
        .route("/api/v1/dead-letters", get(dead_letters::list))
        .route(
            "/api/v1/dead-letters/{id}",
            get(dead_letters::show).delete(dead_letters::discard),
        )
        .route(
            "/api/v1/dead-letters/{id}/redrive",
            post(dead_letters::redrive),
        )
        .route("/api/v1/alarms", get(alarms::list))
        .route("/api/v1/alarms/{id}", get(alarms::show))
        .route("/api/v1/alarms/{id}/acknowledge", post(alarms::acknowledge))
        .route("/api/v1/alarms/{id}/clear", post(alarms::clear))
        .route("/api/v1/rules", get(rulebook::list))
        .route(
            "/api/v1/rules/{name}",
            get(rulebook::show)
                .put(rulebook::put)
                .delete(rulebook::delete),
        )
        .route("/api/v1/rules/{name}/versions", get(rulebook::versions))
        .route("/api/v1/rule-failures", get(rules::failed))
        .route(
            "/api/v1/rule-failures/{id}",
            get(rules::failure).delete(rules::discard),
        )
        .route("/api/v1/rule-failures/{id}/retry", post(rules::retry))
        .route("/api/v1/destinations", get(destinations::list))
        .route(
            "/api/v1/destinations/{name}",
            get(destinations::show).delete(destinations::remove),
        )
        .route(
            "/api/v1/destinations/{name}/pause",
            post(destinations::pause),
        )
        .route(
            "/api/v1/destinations/{name}/resume",
            post(destinations::resume),
        )
        .route(
            "/api/v1/destinations/{name}/drain",
            post(destinations::drain),
        )
        .route("/api/v1/read", get(read::status))
        .route("/api/v1/read/rebuild", post(read::rebuild))
        .route("/api/v1/last", get(read::last))
        .route("/api/v1/history", get(read::history))
        .route("/api/v1/search", get(read::search))
        .route("/api/v1/events/{event}/where", get(read::whereabouts))
        .route("/api/v1/broker/clients", get(broker::clients))
        .route(
            "/api/v1/broker/clients/{id}",
            get(broker::client).delete(broker::kick),
        )
        .route("/api/v1/broker/retained", get(broker::retained))
        .route("/api/v1/broker/retained/{*topic}", delete(broker::clear))
        .route("/api/v1/broker/subscriptions", get(broker::subscriptions))
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .with_state(context)
}

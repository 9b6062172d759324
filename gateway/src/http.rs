//! The way to look in: health, readiness, metrics, status, the page, and the
//! operator's lists (quarantine, dead letters).
//!
//! There is no authentication yet. So it listens on loopback unless the operator
//! says otherwise in words, refuses requests that a web page of another origin
//! could make a browser send, and changes nothing without a JSON content type.

mod dead_letters;
mod error;
mod guard;
mod health;
mod page;
mod quarantine;
mod status;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router, middleware,
    routing::{get, post},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{ingest::Ingest, observer::Observer, store};

pub use error::Error;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address and port; port 0 lets the operating system choose.
    pub listen: SocketAddr,
    /// Listen beyond loopback although nobody is asked who they are.
    pub allow_anonymous: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            allow_anonymous: false,
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
}

/// A bound port, not served yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    local: SocketAddr,
    anonymous: bool,
}

impl Config {
    /// Binds the port.
    ///
    /// # Errors
    /// When the address cannot be had, or reaches beyond loopback without
    /// `allow_anonymous`.
    pub async fn bind(&self) -> Result<Server, Error> {
        if !self.listen.ip().is_loopback() && !self.allow_anonymous {
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
            anonymous: self.allow_anonymous,
        })
    }
}

impl Server {
    /// The address that was bound.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Serves until `shutdown`, then ends the requests at hand.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self, context: Context, shutdown: CancellationToken) -> std::io::Result<()> {
        let guard = guard::Guard {
            any_host: self.anonymous,
        };
        axum::serve(self.listener, router(context, guard))
            .with_graceful_shutdown(async move { shutdown.cancelled().await })
            .await
    }
}

fn router(context: Context, guard: guard::Guard) -> Router {
    Router::new()
        .route("/", get(page::html))
        .route("/page.js", get(page::script))
        .route("/page.css", get(page::style))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(status::metrics))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/quarantine", get(quarantine::list))
        .route(
            "/api/v1/quarantine/{id}",
            get(quarantine::show).delete(quarantine::discard),
        )
        .route("/api/v1/quarantine/{id}/retry", post(quarantine::retry))
        .route("/api/v1/dead-letters", get(dead_letters::list))
        .route(
            "/api/v1/dead-letters/{id}",
            get(dead_letters::show).delete(dead_letters::discard),
        )
        .route(
            "/api/v1/dead-letters/{id}/redrive",
            post(dead_letters::redrive),
        )
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .with_state(context)
}

//! The API and the status page: who may ask for what, and the answers.
//!
//! `http/routes.rs` has every operation with the least role that may ask; each handler
//! declares its path and its method, and the document of the API (OpenAPI) is made of the
//! same declarations. `http/guard.rs` is before all of them.
//!
//! Beyond loopback it asks for a token and speaks TLS, unless the operator says in words
//! that it need not; health, readiness and which gateway it is are for everybody. It
//! refuses requests that a web page of another origin could make a browser send.

mod access;
mod alarms;
mod answers;
mod audit;
mod backtest;
mod broker;
mod commands;
mod dead_letters;
mod dedup;
mod destinations;
mod devices;
mod document;
mod error;
mod etag;
mod guard;
mod health;
mod instance;
mod operations;
mod page;
mod quarantine;
mod read;
mod reading;
mod registry;
mod replay;
mod replays;
mod routes;
mod rulebook;
mod rules;
mod server;
mod shadows;
mod status;
mod stream;

use std::{net::SocketAddr, sync::Arc};

use penstock_broker::listener::{
    config::Tls,
    tls::{self, Acceptor},
};
use tokio::net::TcpListener;

use crate::{
    actions, boots::Boots, fleet::Fleet, ingest::Ingest, instance_key::InstanceKey,
    observer::Observer, query, rulebook::Rulebook, store,
};

pub use access::{AsksOtherwise, Role, Token, Tokens};
pub use error::{Error, Objection};
pub use server::Server;

/// The document of the API as it is served: OpenAPI 3.1, in JSON.
pub fn document() -> String {
    routes::described()
}

/// Where to listen, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address and port; port 0 lets the operating system choose.
    pub listen: SocketAddr,
    /// Listen beyond loopback although nobody is asked who they are.
    pub allow_anonymous: bool,
    /// Listen beyond loopback although tokens would go there in the clear.
    pub allow_plaintext: bool,
    /// Certificate and key; without them nothing is encrypted.
    pub tls: Option<Tls>,
    /// Who may ask, and for what. Without any everybody may ask for everything.
    pub tokens: Vec<Token>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            allow_anonymous: false,
            allow_plaintext: false,
            tls: None,
            tokens: Vec::new(),
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
    /// Devices and commands.
    pub fleet: Fleet,
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

impl Config {
    /// Binds the port.
    ///
    /// # Errors
    /// When the address cannot be had or [may not be](Config::objection), or a certificate
    /// cannot be used.
    pub async fn bind(&self) -> Result<Server, Error> {
        if let Some(objection) = self.objection() {
            return Err(Error::BeyondLoopback(self.listen, objection));
        }
        let acceptor = self.acceptor()?;
        let bind = |source| Error::Bind {
            address: self.listen,
            source,
        };
        let listener = TcpListener::bind(self.listen).await.map_err(bind)?;
        let local = listener.local_addr().map_err(bind)?;
        Ok(Server {
            listener,
            local,
            any_host: !self.listen.ip().is_loopback(),
            acceptor,
            tokens: Tokens::new(&self.tokens),
        })
    }

    /// Why it may not listen where it should: beyond loopback everybody is asked who they
    /// are, and nothing that they say goes there in the clear, unless the operator says
    /// otherwise in words.
    pub fn objection(&self) -> Option<Objection> {
        if self.listen.ip().is_loopback() || self.allow_anonymous {
            None
        } else if self.tokens.is_empty() {
            Some(Objection::NobodyIsAsked)
        } else if self.tls.is_none() && !self.allow_plaintext {
            Some(Objection::InTheClear)
        } else {
            None
        }
    }

    /// Reads the files that it names.
    ///
    /// # Errors
    /// For the first that cannot be used.
    pub fn check_files(&self) -> Result<(), tls::Error> {
        self.acceptor().map(drop)
    }

    fn acceptor(&self) -> Result<Option<Acceptor>, tls::Error> {
        let load = |files| Acceptor::load("http", files);
        self.tls.as_ref().map(load).transpose()
    }
}

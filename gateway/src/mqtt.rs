//! This gateway as a client of other MQTT brokers: how to reach one, and one
//! connection to it at a time.
//!
//! The protocol is rumqttc's, in 3.1.1 and 5. What a broken connection leaves
//! behind is not: a [`link::Link`] is never mended, but dropped with everything in
//! it, and whoever used it sends again what was not acknowledged
//! (`docs/decisions/0020-one-connection-at-a-time-to-a-broker.md`).

pub(crate) mod link;
pub(crate) mod reason;
mod tls;
pub(crate) mod topic;

use std::{path::PathBuf, time::Duration};

use crate::forward::Secret;

/// The protocol to speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1: no properties, no reasons.
    V4,
    /// MQTT 5.
    V5,
}

/// How to reach a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// A name or an IP address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Encrypted, and how; plain TCP without.
    pub tls: Option<Tls>,
    /// The protocol to speak.
    pub version: Version,
    /// The client identifier; none takes one that is made of the gateway's own.
    pub client_id: Option<String>,
    /// The user name.
    pub user: Option<String>,
    /// The password that goes with it.
    pub password: Option<Secret>,
    /// After this much silence the connection is probed.
    pub keep_alive: Duration,
    /// How long connecting, and an acknowledgement, may take.
    pub timeout: Duration,
}

/// What encrypts a connection. Files are read anew for each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Certificates (PEM) that the server's must come from; none takes those of
    /// the system.
    pub ca: Option<PathBuf>,
    /// Our own certificate with its chain, and its key (PEM).
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Protocols to ask for (ALPN), such as `x-amzn-mqtt-ca`.
    pub alpn: Vec<String>,
}

impl Server {
    /// The configured defaults, in plain TCP.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self {
            host: host.into(),
            port,
            tls: None,
            version: Version::V5,
            client_id: None,
            user: None,
            password: None,
            keep_alive: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
        }
    }

    /// Whether this is the same broker, as far as its address tells.
    pub fn is_same(&self, other: &Self) -> bool {
        self.is_same_host(other) && self.port == other.port
    }

    /// Whether both have the same name or address, whatever the port.
    pub(crate) fn is_same_host(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(&other.host)
    }
}

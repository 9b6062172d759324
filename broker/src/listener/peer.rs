//! Who is at the other end, as far as the connection tells.

use std::{fmt, net::SocketAddr, sync::Arc};

use tokio::time::Instant;

use super::Config;

/// What is known of a client before it has said anything in MQTT.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its address: behind a load balancer that says so, the client's own. Programs
    /// of this machine that come through a Unix socket have none.
    pub(crate) address: Option<SocketAddr>,
    /// The certificate that it proved to own, from an authority that the listener
    /// knows, in DER.
    pub(crate) certificate: Option<Box<[u8]>>,
    /// Where it came in.
    pub(crate) listener: Arc<Config>,
    /// When its CONNECT has to be complete.
    pub(crate) connect_by: Instant,
}

impl fmt::Display for Peer {
    /// For the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => address.fmt(f),
            None => f.write_str("local"),
        }
    }
}

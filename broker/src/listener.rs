//! Accepts connections and bounds how many there are.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
    task::{JoinError, JoinSet},
    time::{Duration, sleep},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Admission, Config, Error, Local,
    budget::Budget,
    embedded::{Embedded, Watch},
    fanout::Fanout,
    metrics::{Counters, Metrics},
    quiet::Quiet,
    session::{self, Context},
};

/// Connections the system may queue before we accept them.
const BACKLOG: u32 = 1024;
/// Connections beyond `connections_max` that are told so; others are just closed.
const LOBBY: usize = 64;
/// Between two tries when the system refuses to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound broker. Nothing is accepted until [`Broker::run`].
#[derive(Debug)]
pub struct Broker {
    listener: TcpListener,
    address: SocketAddr,
    config: Config,
    counters: Arc<Counters>,
    fanout: Arc<Fanout>,
    /// For what waits to be sent to clients.
    output_budget: Arc<Budget>,
}

/// Looks into a broker while it runs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    counters: Arc<Counters>,
    fanout: Arc<Fanout>,
}

impl Handle {
    /// The way to the broker's subscribers from within the process.
    pub fn local(&self) -> Local {
        Local::new(Arc::clone(&self.fanout))
    }

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
        let counters = Arc::<Counters>::default();
        let carrier = Arc::new(Embedded::new(Watch::default(), Arc::clone(&counters)));
        let output_budget = Arc::new(Budget::new(config.packet_bytes_max));
        let fanout = Arc::new(Fanout::new(
            carrier,
            Arc::clone(&counters),
            Arc::clone(&output_budget),
        ));
        Ok(Self {
            listener,
            address,
            config,
            counters,
            fanout,
            output_budget,
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
            fanout: Arc::clone(&self.fanout),
        }
    }

    /// Serves until `shutdown`, then ends every session in order: nothing more is
    /// read, receipts already taken are awaited and acknowledged, and MQTT 5
    /// clients are told. Takes as long as the gateway's receipts do; the caller
    /// bounds it by dropping the future, which ends everything at once.
    ///
    /// # Errors
    /// None at present; a socket that cannot be accepted is tried again.
    pub async fn run(
        self,
        admission: Arc<dyn Admission>,
        shutdown: CancellationToken,
    ) -> Result<(), Error> {
        let budget = || Arc::new(Budget::new(self.config.packet_bytes_max));
        let (budget, kept_budget) = (budget(), budget());
        let mut live = JoinSet::new();
        live.spawn(Arc::clone(&self.fanout).run());
        let seats = Arc::new(Semaphore::new(self.config.connections_max));
        let lobby = Arc::new(Semaphore::new(LOBBY));
        let context = Arc::new(Context {
            config: self.config,
            counters: self.counters,
            admission,
            fanout: self.fanout,
            registry: Arc::default(),
            shutdown: shutdown.clone(),
            quiet: Quiet::default(),
            budget,
            output_budget: self.output_budget,
            kept_budget,
            sessions: AtomicU64::new(1),
        });
        let mut sessions = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                Some(ended) = sessions.join_next() => {
                    report(ended);
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(held_back) = context.quiet.pass() {
                        tracing::error!(%error, held_back, "a connection cannot be accepted");
                    }
                    // Out of descriptors, most likely: wait for some to come back.
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            context.counters.connections_total.add(1);
            // Acknowledgements are small and waited for.
            stream.set_nodelay(true).ok();
            let (permit, is_over_limit) = match Arc::clone(&seats).try_acquire_owned() {
                Ok(permit) => (permit, false),
                Err(_) => match Arc::clone(&lobby).try_acquire_owned() {
                    Ok(permit) => (permit, true),
                    Err(_) => {
                        context.counters.refused_connection_limit.add(1);
                        continue;
                    }
                },
            };
            let context = Arc::clone(&context);
            sessions.spawn(async move {
                session::serve(context, stream, address, is_over_limit).await;
                drop(permit);
            });
        }
        drop(self.listener);
        while let Some(ended) = sessions.join_next().await {
            report(ended);
        }
        live.shutdown().await;
        Ok(())
    }
}

/// A session never panics; if it does, only that session is gone.
fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session failed");
    }
}

//! One listener at work: accepts, seats, and sees each connection to its session.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Duration, Instant, sleep},
};

use super::{Bound, Config, Peer, report};
use crate::{
    limits::Turned,
    link::{Link, Socket},
    session::{self, Context, Gauge},
};

/// Between two tries when the system refuses to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that runs.
pub(super) struct Acceptor {
    context: Arc<Context>,
    config: Arc<Config>,
    /// Of the whole broker.
    seats: Arc<Semaphore>,
    /// Of this listener.
    own_seats: Option<Arc<Semaphore>>,
    lobby: Arc<Semaphore>,
}

/// What a connection holds while it is there.
struct Seated {
    _permits: [Option<OwnedSemaphorePermit>; 2],
    is_over_limit: bool,
}

impl Acceptor {
    pub(super) fn new(
        context: &Arc<Context>,
        config: Arc<Config>,
        seats: &Arc<Semaphore>,
        lobby: &Arc<Semaphore>,
    ) -> Self {
        let own = |most: usize| Arc::new(Semaphore::new(most));
        Self {
            context: Arc::clone(context),
            own_seats: config.connections_max.map(own),
            config,
            seats: Arc::clone(seats),
            lobby: Arc::clone(lobby),
        }
    }

    /// Accepts until the broker shuts down, and waits for the sessions.
    pub(super) async fn run(self, bound: Bound) {
        let context = &self.context;
        let mut sessions = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = context.shutdown.cancelled() => break,
                Some(ended) = sessions.join_next() => {
                    report(ended);
                    continue;
                }
                accepted = bound.accept() => accepted,
            };
            let (socket, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if let Some(held_back) = context.quiet.pass() {
                        let listener = &self.config.name;
                        tracing::error!(%listener, %error, held_back, "a connection cannot be accepted");
                    }
                    // Out of descriptors, most likely: wait for some to come back.
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            context.counters.connections_total.add(1);
            let Some(seated) = self.seat() else {
                context.counters.refused_connection_limit.add(1);
                continue;
            };
            let (context, config) = (Arc::clone(context), Arc::clone(&self.config));
            sessions.spawn(async move {
                let _open = Gauge::new(&context.counters.connections_open);
                let (link, peer) = arrive(&context, config, socket, address);
                let from = peer.address.map(|address| address.ip());
                let visit = match context.doors.visit(from) {
                    Ok(visit) => visit,
                    Err(turned) => {
                        turned.counter(&context.counters).add(1);
                        return;
                    }
                };
                let full = seated.is_over_limit.then_some(Turned::Connections);
                session::serve(Arc::clone(&context), link, peer, full.or(visit.turned)).await;
                drop(seated);
            });
        }
        drop(bound);
        while let Some(ended) = sessions.join_next().await {
            report(ended);
        }
    }

    fn seat(&self) -> Option<Seated> {
        let take = |seats: &Arc<Semaphore>| Arc::clone(seats).try_acquire_owned().ok();
        let own = self.own_seats.as_ref().map(take);
        let common = take(&self.seats);
        let is_over_limit = common.is_none() || own.as_ref().is_some_and(Option::is_none);
        if is_over_limit {
            return Some(Seated {
                _permits: [Some(take(&self.lobby)?), None],
                is_over_limit,
            });
        }
        Some(Seated {
            _permits: [common, own.flatten()],
            is_over_limit,
        })
    }
}

/// Everything between the socket and the first byte of MQTT.
fn arrive(
    context: &Context,
    listener: Arc<Config>,
    socket: Socket,
    address: Option<SocketAddr>,
) -> (Link, Peer) {
    let peer = Peer {
        address,
        certificate: None,
        listener,
        connect_by: Instant::now() + context.config.connect_timeout,
    };
    (Link::Plain(socket), peer)
}

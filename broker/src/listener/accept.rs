//! One listener at work: accepts, seats, and sees each connection to its session.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Duration, sleep},
};

use super::{
    Bound, Config, Listener,
    arrival::{self, Arrivals},
    report,
    tls::Certificates,
};
use crate::{
    limits::Turned,
    session::{self, Context, Gauge},
};

/// Between two tries when the system refuses to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener that runs.
pub(super) struct Acceptor {
    context: Arc<Context>,
    config: Arc<Config>,
    certificates: Option<Arc<Certificates>>,
    arrivals: Arc<Arrivals>,
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
        listener: &Listener,
        arrivals: &Arc<Arrivals>,
        seats: &Arc<Semaphore>,
        lobby: &Arc<Semaphore>,
    ) -> Self {
        let own = |most: usize| Arc::new(Semaphore::new(most));
        Self {
            context: Arc::clone(context),
            own_seats: listener.config.connections_max.map(own),
            config: Arc::clone(&listener.config),
            certificates: listener.certificates.clone(),
            arrivals: Arc::clone(arrivals),
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
            let (arrivals, certificates) = (Arc::clone(&self.arrivals), self.certificates.clone());
            sessions.spawn(async move {
                let _open = Gauge::new(&context.counters.connections_open);
                let certificates = certificates.as_deref();
                let arrived =
                    arrival::receive(&context, &arrivals, &config, certificates, socket, address);
                if let Some((link, peer, mut visit)) = arrived.await {
                    let full = seated.is_over_limit.then_some(Turned::Connections);
                    let entry = visit.entry(full);
                    session::serve(Arc::clone(&context), link, peer, entry).await;
                    drop(visit);
                }
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

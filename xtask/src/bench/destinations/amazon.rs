//! Amazon's services, as far as destinations ask them: everything is taken at once and
//! nothing is kept but counts, so that what is measured is the gateway. It answers each
//! entry as the service does and checks no signature. What it cannot show is how fast
//! the services are, and what they do when they are not well; for that there is moto,
//! and an account.
//!
//! Of a stream the first records are kept, so that a bare client can read them back and
//! send the same.

mod answers;
mod http;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::Result;
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};

/// Records of a stream that are kept.
const KEPT: usize = 1_000;
/// Connections that are answered at once, at most.
const CONNECTIONS_MAX: usize = 256;

/// See the module; it ends when it is dropped.
pub(super) struct Amazon {
    pub(super) address: SocketAddr,
    taken: Arc<Taken>,
    /// Dropped, it ends the server.
    _ends: oneshot::Sender<()>,
}

/// What came, by the name of the stream, queue, topic, bus or bucket.
#[derive(Debug, Default)]
struct Taken(Mutex<HashMap<String, Arrivals>>);

#[derive(Debug, Default)]
struct Arrivals {
    count: u64,
    first: Vec<answers::Record>,
}

impl Amazon {
    pub(super) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let taken = Arc::new(Taken::default());
        let (ends, ended) = oneshot::channel::<()>();
        let serving = serve(listener, taken.clone());
        // A thread of its own: the bench's own waits for answers of the gateway.
        thread::Builder::new()
            .name("amazon".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = serving => {}
                        _ = ended => {}
                    }
                });
                runtime.shutdown_background();
            })?;
        Ok(Self {
            address,
            taken,
            _ends: ends,
        })
    }

    /// Entries that were taken under this name; objects, of a bucket.
    pub(super) fn count(&self, name: &str) -> u64 {
        self.taken
            .lock()
            .get(name)
            .map_or(0, |arrived| arrived.count)
    }
}

impl Taken {
    /// Nothing that holds the lock panics, so a poisoned one is as good.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arrivals>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many more; gives how many there were before.
    fn add(&self, name: &str, more: usize) -> u64 {
        let mut all = self.lock();
        if !all.contains_key(name) {
            all.insert(name.to_owned(), Arrivals::default());
        }
        let Some(arrived) = all.get_mut(name) else {
            return 0;
        };
        let before = arrived.count;
        arrived.count += more as u64;
        before
    }

    /// Whether the first records of a stream are there.
    fn has_first(&self, name: &str) -> bool {
        let all = self.lock();
        all.get(name).is_some_and(|of| of.first.len() >= KEPT)
    }

    fn keep(&self, name: &str, records: Vec<answers::Record>) {
        let mut all = self.lock();
        let first = &mut all.entry(name.to_owned()).or_default().first;
        let room = KEPT.saturating_sub(first.len());
        first.extend(records.into_iter().take(room));
    }

    fn first(&self, name: &str) -> Vec<answers::Record> {
        let all = self.lock();
        all.get(name).map(|of| of.first.clone()).unwrap_or_default()
    }
}

async fn serve(listener: std::net::TcpListener, taken: Arc<Taken>) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let taken = taken.clone();
        connections.spawn(async move {
            let answer = |request: &http::Request<'_>| answers::of(request, &taken);
            // A client that goes away is no fault of this side.
            drop(http::answer_all(stream, answer).await);
        });
        while connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
    }
}

//! A port, its connections, and their end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Extension, Router, http::Request, middleware};
use hyper::{body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use penstock_broker::listener::tls::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    access::{Access, Tokens},
    audit::Audit,
    guard::{self, Guard},
    reading::Reading,
    routes::routes,
    stream::Ending,
};

/// Connections at a time; devices need the file descriptors more.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send a request's head, also between requests.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the requests at hand may take at shutdown. Nothing durable hangs on them.
const END_TIME_MAX: Duration = Duration::from_secs(1);
/// The first byte of a connection of TLS; no method of HTTP begins with it.
const TLS_HANDSHAKE: u8 = 0x16;
/// After accepting failed, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound port, not served yet.
#[derive(Debug)]
pub struct Server {
    pub(super) listener: TcpListener,
    pub(super) local: SocketAddr,
    /// Whether others than this machine may ask, who know it by other names.
    pub(super) any_host: bool,
    pub(super) acceptor: Option<Acceptor>,
    pub(super) tokens: Tokens,
}

impl Server {
    /// The address that was bound.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// TLS, where it speaks that: whoever keeps watch over certificates should have it.
    pub const fn acceptor(&self) -> Option<&Acceptor> {
        self.acceptor.as_ref()
    }

    /// Who may ask: can be exchanged while it runs.
    pub fn tokens(&self) -> Tokens {
        self.tokens.clone()
    }

    /// Serves until `shutdown`, then gives the requests at hand a moment to end.
    pub async fn run(self, context: Context, shutdown: CancellationToken) {
        let router = self.router(context, &shutdown);
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
                (Ok(place), Ok((stream, peer))) => {
                    let acceptor = self.acceptor.clone();
                    let serve = serve(stream, peer, acceptor, router.clone(), shutdown.clone());
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

    /// All operations, behind the guard.
    fn router(&self, context: Context, ending: &CancellationToken) -> Router {
        let (router, operations) = routes();
        let guard = Guard {
            any_host: self.any_host,
            encrypts: self.acceptor.is_some(),
            access: Access::new(self.tokens.clone(), &context.key.word()),
            operations,
            audit: Audit::new(),
        };
        // The guard answers for it: this is what it has to let through to be asked.
        router
            .fallback(|| async {})
            .layer(Extension(Ending(ending.clone())))
            .layer(Extension(self.tokens.clone()))
            .layer(middleware::from_fn_with_state(
                Arc::new(guard),
                guard::check,
            ))
            .with_state(context)
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) is_encrypted: bool,
}

/// Tells the router where requests come from.
struct Connection {
    router: TowerToHyperService<Router>,
    peer: Peer,
}

impl Service<Request<Incoming>> for Connection {
    type Response = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Request<Incoming>>>::Future;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}

/// One connection, until it closes or, at shutdown, until its request is answered.
async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: Option<Acceptor>,
    router: Router,
    shutdown: CancellationToken,
) {
    let peer = |is_encrypted| Peer {
        address,
        is_encrypted,
    };
    let Some(acceptor) = acceptor else {
        return converse(stream, peer(false), router, shutdown).await;
    };
    // Commands of this machine speak plain HTTP here too, see the guard.
    let shaken = timeout(HEAD_TIME_MAX, async {
        let mut first = [0];
        match stream.peek(&mut first).await? {
            1 if first[0] == TLS_HANDSHAKE => acceptor.accept(stream).await.map(Ok),
            _ => Ok(Err(stream)),
        }
    });
    let shaken = tokio::select! {
        shaken = shaken => shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())),
        () = shutdown.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => converse(stream, peer(true), router, shutdown).await,
        Ok(Err(stream)) => converse(stream, peer(false), router, shutdown).await,
        Err(error) => tracing::debug!(%address, %error, "a TLS handshake for HTTP failed"),
    }
}

/// What is asked and answered on it.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    router: Router,
    shutdown: CancellationToken,
) {
    let router = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(
            TokioIo::new(Reading::new(stream)),
            Connection { router, peer },
        );
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

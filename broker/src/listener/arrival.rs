//! Everything between an accepted socket and the first byte of MQTT: the PROXY
//! header, TLS, the WebSocket, in this order, as far as the listener has them.
//!
//! Happens in the connection's own task and within the time that its CONNECT has.
//! When more connections are at it than [`AT_ONCE_MAX`], those that began first go:
//! an honest handshake takes a moment, and what takes long is slow on purpose.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::{Instant, timeout_at};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, CertificateError, ServerConnection},
};
use tokio_tungstenite::tungstenite;
use tokio_util::sync::CancellationToken;

use super::{Config, Peer, config::Transport, proxy, tls::Certificates, web};
use crate::{
    limits::{Turned, Visit},
    link::{Link, Socket},
    metrics::{Counter, Counters},
    session::Context,
};

/// Handshakes under way at the same time; each may hold some 64 KiB.
const AT_ONCE_MAX: usize = 1024;

/// Why a connection ended before MQTT began.
#[derive(Debug)]
pub(super) enum Failure {
    /// The time for CONNECT is over.
    TooSlow,
    /// Others came, and this one was the slowest.
    Crowded,
    /// The client went away.
    Gone,
    /// Too many come from there.
    Turned(Turned),
    Proxy(&'static str),
    Tls(rustls::Error),
    Web(String),
}

/// The handshakes that are under way, by when they began.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    open: Mutex<(u64, BTreeMap<u64, CancellationToken>)>,
}

struct Place<'a> {
    arrivals: &'a Arrivals,
    number: u64,
    leave: CancellationToken,
}

impl Arrivals {
    fn enter(&self) -> Place<'_> {
        let leave = CancellationToken::new();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, places) = &mut *open;
        if places.len() >= AT_ONCE_MAX
            && let Some((_, slowest)) = places.pop_first()
        {
            slowest.cancel();
        }
        let number = *next;
        *next += 1;
        places.insert(number, leave.clone());
        Place {
            arrivals: self,
            number,
            leave,
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let open = self.arrivals.open.lock();
        let mut open = open.unwrap_or_else(PoisonError::into_inner);
        open.1.remove(&self.number);
    }
}

/// Sees a connection through; what fails is counted and said.
pub(super) async fn receive(
    context: &Context,
    arrivals: &Arrivals,
    listener: &Arc<Config>,
    certificates: Option<&Certificates>,
    socket: Socket,
    address: Option<SocketAddr>,
) -> Option<(Link, Peer, Visit)> {
    let mut peer = Peer {
        address,
        certificate: None,
        listener: Arc::clone(listener),
        connect_by: Instant::now() + context.config.connect_timeout,
    };
    let is_bare = listener.proxy_protocol.is_none()
        && certificates.is_none()
        && listener.transport == Transport::Tcp;
    let shaken = if is_bare {
        let visit = visit(context, &peer);
        visit.map(|visit| (Link::Plain(socket), visit))
    } else {
        let place = arrivals.enter();
        let connect_by = peer.connect_by;
        // Apart from the session's task, whose size every connection pays for.
        let shake = Box::pin(shake(context, &mut peer, certificates, socket));
        tokio::select! {
            shaken = timeout_at(connect_by, shake) => shaken.unwrap_or(Err(Failure::TooSlow)),
            () = place.leave.cancelled() => Err(Failure::Crowded),
            () = context.shutdown.cancelled() => Err(Failure::Gone),
        }
    };
    match shaken {
        Ok((link, visit)) => Some((link, peer, visit)),
        Err(failure) => {
            failure.counter(&context.counters).add(1);
            if !matches!(failure, Failure::Gone | Failure::Turned(_))
                && let Some(held_back) = context.quiet.pass()
            {
                let (listener, reason) = (&listener.name, failure.reason());
                tracing::warn!(%listener, %peer, reason, held_back, "a handshake failed");
            }
            None
        }
    }
}

/// Whether one more may come from there; asked before anything costs much.
fn visit(context: &Context, peer: &Peer) -> Result<Visit, Failure> {
    let from = peer.address.map(|address| address.ip());
    context.doors.visit(from).map_err(Failure::Turned)
}

async fn shake(
    context: &Context,
    peer: &mut Peer,
    certificates: Option<&Certificates>,
    mut socket: Socket,
) -> Result<(Link, Visit), Failure> {
    let listener = Arc::clone(&peer.listener);
    if let Some(config) = &listener.proxy_protocol {
        peer.address = proxy::read(config, &mut socket, peer.address)
            .await
            .map_err(|refusal| match refusal {
                proxy::Refusal::Header(what) => Failure::Proxy(what),
                proxy::Refusal::Gone => Failure::Gone,
            })?;
    }
    let visit = visit(context, peer)?;
    let Some(certificates) = certificates else {
        let link = match &listener.transport {
            Transport::Tcp => Link::Plain(socket),
            Transport::WebSocket(config) => {
                let socket = web::accept(config, socket).await?;
                Link::new(socket, None, true)
            }
        };
        return Ok((link, visit));
    };
    let server = Arc::clone(&certificates.current().server);
    let stream = TlsAcceptor::from(server).accept(socket).await?;
    let (stream, is_web) = match &listener.transport {
        Transport::Tcp => (stream, false),
        Transport::WebSocket(config) => (web::accept(config, stream).await?, true),
    };
    let (socket, tls) = stream.into_inner();
    peer.certificate = certificate(&tls);
    Ok((Link::new(socket, Some(tls), is_web), visit))
}

/// The client's own certificate, which rustls has verified.
fn certificate(tls: &ServerConnection) -> Option<Box<[u8]>> {
    let first = tls.peer_certificates()?.first()?;
    Some(first.as_ref().into())
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.downcast::<rustls::Error>() {
            Ok(error) => Self::Tls(error),
            Err(_) => Self::Gone,
        }
    }
}

impl From<tungstenite::Error> for Failure {
    fn from(error: tungstenite::Error) -> Self {
        match error {
            tungstenite::Error::Io(_) | tungstenite::Error::ConnectionClosed => Self::Gone,
            tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::HandshakeIncomplete,
            ) => Self::Gone,
            tungstenite::Error::Http(response) => {
                let body = response.into_body().unwrap_or_default();
                Self::Web(String::from_utf8_lossy(&body).into_owned())
            }
            error => Self::Web(error.to_string()),
        }
    }
}

impl Failure {
    fn counter<'c>(&self, counters: &'c Counters) -> &'c Counter {
        use rustls::Error::{
            AlertReceived, InvalidCertificate, NoCertificatesPresented, PeerIncompatible,
        };
        match self {
            Self::TooSlow => &counters.refused_connect_timeout,
            Self::Crowded => &counters.handshakes_crowded,
            Self::Gone => &counters.handshakes_given_up,
            Self::Turned(turned) => turned.counter(counters),
            Self::Proxy(_) => &counters.proxy_refused,
            Self::Web(_) => &counters.websocket_refused,
            Self::Tls(error) if is_plain_text(error) => &counters.tls_plain_text,
            Self::Tls(PeerIncompatible(_)) => &counters.tls_incompatible,
            Self::Tls(InvalidCertificate(_) | NoCertificatesPresented) => {
                &counters.tls_certificate_refused
            }
            Self::Tls(AlertReceived(_)) => &counters.tls_refused_by_client,
            Self::Tls(_) => &counters.tls_failed,
        }
    }

    /// What an operator can do something with.
    fn reason(&self) -> String {
        use rustls::Error::{
            AlertReceived, InvalidCertificate, NoCertificatesPresented, PeerIncompatible,
        };
        match self {
            Self::TooSlow => "it took longer than connect_timeout".to_owned(),
            Self::Crowded => "too many handshakes at the same time; the slowest goes".to_owned(),
            Self::Turned(turned) => turned.error().what.to_owned(),
            Self::Gone => "the client went away".to_owned(),
            Self::Proxy(what) => (*what).to_owned(),
            Self::Web(what) => format!("not a WebSocket for MQTT: {what}"),
            Self::Tls(error) if is_plain_text(error) => {
                "the client does not speak TLS; this port does nothing else".to_owned()
            }
            Self::Tls(PeerIncompatible(why)) => {
                format!("no TLS version or cipher in common ({why:?}); 1.2 and 1.3 are spoken")
            }
            Self::Tls(NoCertificatesPresented) => {
                "the client has no certificate, and this listener requires one".to_owned()
            }
            Self::Tls(InvalidCertificate(why)) => match why {
                CertificateError::UnknownIssuer => {
                    "the client's certificate is from no authority in client_ca".to_owned()
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "the client's certificate has expired".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "the client's certificate is not valid yet; are the clocks right?".to_owned()
                }
                CertificateError::Revoked => "the client's certificate was revoked".to_owned(),
                CertificateError::UnknownRevocationStatus => {
                    "client_crl has no list of the authority that the client's certificate is from"
                        .to_owned()
                }
                why => format!("the client's certificate is not accepted: {why}"),
            },
            Self::Tls(AlertReceived(alert)) => format!(
                "the client refused our certificate or settings ({alert:?}); does it trust the authority, and is the name right?"
            ),
            Self::Tls(error) => error.to_string(),
        }
    }
}

fn is_plain_text(error: &rustls::Error) -> bool {
    use rustls::InvalidMessage::{InvalidContentType, UnknownProtocolVersion};
    matches!(
        error,
        rustls::Error::InvalidMessage(InvalidContentType | UnknownProtocolVersion)
    )
}

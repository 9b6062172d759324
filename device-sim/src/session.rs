//! One connection: the socket, its two buffers, keep-alive.
//!
//! [`Session::exchange`] moves bytes and may be dropped at any point without
//! losing any. What the packets mean is the device's business.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    socket::{Broker, Socket, Tls},
    wire::{Incoming, Login, Malformed, Version},
};

/// TCP connect to CONNACK.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the last bytes before a connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 4 * 1024;

/// Why a connection is over, or never was.
#[derive(Debug)]
pub(crate) enum Lost {
    Io(io::Error),
    /// No CONNACK, or no answer to a ping.
    Silent,
    Refused,
    /// The gateway said DISCONNECT.
    Dismissed,
    /// The gateway said something that MQTT does not allow here.
    Protocol(String),
}

impl From<io::Error> for Lost {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Malformed> for Lost {
    fn from(Malformed(what): Malformed) -> Self {
        Self::Protocol(what)
    }
}

impl std::fmt::Display for Lost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Silent => f.write_str("no answer"),
            Self::Refused => f.write_str("connection refused by the gateway"),
            Self::Dismissed => f.write_str("disconnected by the gateway"),
            Self::Protocol(what) => write!(f, "protocol error: {what}"),
        }
    }
}

/// A connection that the gateway accepted.
#[derive(Debug)]
pub(crate) struct Session {
    socket: Socket,
    /// Bytes were written that TLS may still hold.
    unflushed: bool,
    version: Version,
    inbound: BytesMut,
    /// What is still to be written. Whoever fills it bounds it.
    pub(crate) outbound: BytesMut,
    /// Zero for none.
    keep_alive: Duration,
    written: Instant,
    pinged: Option<Instant>,
}

/// How to reach the gateway.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) broker: Broker,
    pub(crate) tls: Option<Tls>,
    pub(crate) login: Option<Login>,
    pub(crate) keep_alive_secs: u16,
}

impl Session {
    /// Connects, and waits for the gateway's CONNACK and limits.
    pub(crate) async fn open(
        address: &Address,
        version: Version,
        client_id: &str,
    ) -> Result<(Self, u16), Lost> {
        let opening = async {
            let socket = Socket::connect(&address.broker, address.tls.as_ref()).await?;
            let mut session = Self {
                socket,
                unflushed: false,
                version,
                inbound: BytesMut::with_capacity(READ_BYTES),
                outbound: BytesMut::new(),
                keep_alive: Duration::from_secs(address.keep_alive_secs.into()),
                written: Instant::now(),
                pinged: None,
            };
            version.connect(
                client_id,
                address.keep_alive_secs,
                address.login.as_ref(),
                &mut session.outbound,
            );
            loop {
                session.exchange(None).await?;
                match session.receive()? {
                    None => {}
                    Some(Incoming::Accepted {
                        receive_max,
                        keep_alive_secs,
                    }) => {
                        if let Some(secs) = keep_alive_secs {
                            session.keep_alive = Duration::from_secs(secs.into());
                        }
                        return Ok((session, receive_max));
                    }
                    Some(Incoming::Refused) => return Err(Lost::Refused),
                    Some(other) => return Err(Lost::Protocol(format!("{other:?} before CONNACK"))),
                }
            }
        };
        timeout(CONNECT_TIMEOUT, opening)
            .await
            .unwrap_or(Err(Lost::Silent))
    }

    /// The next packet that has arrived whole.
    pub(crate) fn receive(&mut self) -> Result<Option<Incoming>, Malformed> {
        self.version.read(&mut self.inbound)
    }

    /// Reads, writes, or waits until `wake`, whichever comes first.
    pub(crate) async fn exchange(&mut self, wake: Option<Instant>) -> io::Result<()> {
        self.inbound.reserve(READ_BYTES);
        let mut waiting = pin!(async {
            match wake {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        });
        // By hand, because both directions need the same socket.
        poll_fn(|cx| {
            let mut read = pin!(self.socket.read_buf(&mut self.inbound));
            if let Poll::Ready(read) = read.as_mut().poll(cx) {
                if read? == 0 {
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                self.pinged = None;
                return Poll::Ready(Ok(()));
            }
            if self.unflushed && Pin::new(&mut self.socket).poll_flush(cx)?.is_ready() {
                self.unflushed = false;
            }
            if !self.outbound.is_empty() {
                let mut write = pin!(self.socket.write_buf(&mut self.outbound));
                if let Poll::Ready(written) = write.as_mut().poll(cx) {
                    written?;
                    self.unflushed = true;
                    self.written = Instant::now();
                    return Poll::Ready(Ok(()));
                }
            }
            waiting.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Pings when it is time to; when that is next.
    ///
    /// # Errors
    /// When the last ping was not answered in time.
    pub(crate) fn keep_alive(&mut self, now: Instant) -> Result<Option<Instant>, Lost> {
        if self.keep_alive.is_zero() {
            return Ok(None);
        }
        if let Some(pinged) = self.pinged {
            if now >= pinged + self.keep_alive {
                return Err(Lost::Silent);
            }
            return Ok(Some(pinged + self.keep_alive));
        }
        // Well before the gateway's patience ends, at one and a half.
        let due = self.written + self.keep_alive.mul_f64(0.8);
        if now < due {
            return Ok(Some(due));
        }
        self.version.pingreq(&mut self.outbound);
        self.pinged = Some(now);
        Ok(Some(now + self.keep_alive))
    }

    /// Says DISCONNECT and waits until the gateway has taken all of it.
    pub(crate) async fn close(mut self) {
        self.version.disconnect(&mut self.outbound);
        let closing = async {
            self.socket.write_all_buf(&mut self.outbound).await?;
            self.socket.flush().await?;
            self.socket.shutdown().await?;
            loop {
                self.inbound.clear();
                if self.socket.read_buf(&mut self.inbound).await? == 0 {
                    return io::Result::Ok(());
                }
            }
        };
        // All acknowledgements are in by now; a gateway that does not close is its own problem.
        drop(timeout(CLOSE_TIMEOUT, closing).await);
    }

    /// Writes what is there, and drops the connection without a word.
    pub(crate) async fn cut(mut self) {
        let writing = async {
            self.socket.write_all_buf(&mut self.outbound).await?;
            self.socket.flush().await
        };
        drop(timeout(CLOSE_TIMEOUT, writing).await);
    }
}

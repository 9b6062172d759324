//! The bytes of one connection, whatever carries them.
//!
//! Reading and writing never wait: a session asks [`Link::ready`] and then takes
//! what is there. What a layer keeps for itself is bounded: TLS a record each way
//! and the WebSocket a frame on its way out; a connection that waits keeps neither.

mod socket;
mod tls;
pub(crate) mod web;

use std::io;

use bytes::BytesMut;
use tokio_rustls::rustls::ServerConnection;

pub(crate) use socket::Socket;
use tls::Tls;
use web::Frames;

/// A connection whose MQTT bytes can be read and written.
#[derive(Debug)]
pub(crate) enum Link {
    /// The socket's bytes are MQTT.
    Plain(Socket),
    /// There is something between them.
    Layered(Box<Layers>),
}

/// A socket with TLS, a WebSocket, or both.
#[derive(Debug)]
pub(crate) struct Layers {
    carrier: Carrier,
    web: Option<Frames>,
}

/// What a WebSocket, if there is one, is in.
#[derive(Debug)]
enum Carrier {
    Plain(Socket),
    Tls(Socket, Box<Tls>),
}

impl Link {
    /// Puts the layers on a socket whose handshakes are done.
    pub(crate) fn new(socket: Socket, tls: Option<ServerConnection>, is_web: bool) -> Self {
        let carrier = match tls {
            None if !is_web => return Self::Plain(socket),
            None => Carrier::Plain(socket),
            Some(tls) => Carrier::Tls(socket, Box::new(Tls::new(tls))),
        };
        let web = is_web.then(Frames::default);
        Self::Layered(Box::new(Layers { carrier, web }))
    }

    /// Waits until there may be something to read, if `read`, or room to write, if
    /// `write` or the layers have something left to write; for ever if neither.
    pub(crate) async fn ready(&self, read: bool, write: bool) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.ready(read, write).await,
            Self::Layered(layers) => layers.ready(read, write).await,
        }
    }

    /// Reads what is there into the room that `input` has. Nothing read is the end.
    pub(crate) fn try_read(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_read(input),
            Self::Layered(layers) => layers.try_read(input),
        }
    }

    /// Tells the peer that nothing more comes; reading goes on.
    pub(crate) fn end_output(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.end_output(),
            Self::Layered(layers) => layers.end_output(),
        }
    }

    /// Writes as much as is taken now.
    pub(crate) fn try_write(&mut self, output: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(output),
            Self::Layered(layers) => layers.try_write(output),
        }
    }

    /// Writes what the layers have left, as much as is taken now.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Layered(layers) => layers.flush(),
        }
    }

    /// Bytes that were written and that the socket has not taken; about as many.
    pub(crate) fn unsent(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Layered(layers) => layers.unsent(),
        }
    }
}

impl Layers {
    async fn ready(&self, read: bool, write: bool) -> io::Result<()> {
        let (socket, more) = match &self.carrier {
            Carrier::Plain(socket) => (socket, false),
            Carrier::Tls(socket, tls) => (socket, tls.has_more()),
        };
        let more = more || self.web.as_ref().is_some_and(Frames::has_more);
        if read && more {
            return Ok(());
        }
        socket.ready(read, write || self.unsent() > 0).await
    }

    fn try_read(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        let Self { carrier, web } = self;
        match web {
            None => carrier.try_read(input),
            Some(web) => web.try_read(input, |into| carrier.try_read(into)),
        }
    }

    fn try_write(&mut self, output: &[u8]) -> io::Result<usize> {
        let Self { carrier, web } = self;
        match web {
            None => carrier.try_write(output),
            Some(web) => web.try_write(output, |bytes| carrier.try_write(bytes)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Self { carrier, web } = self;
        if let Some(web) = web {
            web.flush(|bytes| carrier.try_write(bytes))?;
        }
        carrier.flush()
    }

    /// Each layer says its own end, the inner ones first, as far as the socket takes it.
    fn end_output(&mut self) -> io::Result<()> {
        if let Some(web) = &mut self.web {
            web.say_end();
        }
        self.flush()?;
        if self.web.as_ref().is_some_and(|web| web.unsent() > 0) {
            return Ok(());
        }
        if let Carrier::Tls(_, tls) = &mut self.carrier {
            tls.say_end();
        }
        self.flush()?;
        match &self.carrier {
            _ if self.unsent() > 0 => Ok(()),
            Carrier::Plain(socket) | Carrier::Tls(socket, _) => socket.end_output(),
        }
    }

    fn unsent(&self) -> usize {
        let carrier = match &self.carrier {
            Carrier::Plain(_) => 0,
            Carrier::Tls(_, tls) => tls.unsent(),
        };
        carrier + self.web.as_ref().map_or(0, Frames::unsent)
    }
}

impl Carrier {
    fn try_read(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_read(input),
            Self::Tls(socket, tls) => tls.try_read(socket, input),
        }
    }

    fn try_write(&mut self, output: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(output),
            Self::Tls(socket, tls) => tls.try_write(socket, output),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(socket, tls) => tls.flush(socket),
        }
    }
}

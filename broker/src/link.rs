//! The bytes of one connection, whatever carries them.
//!
//! Reading and writing never wait: a session asks [`Link::ready`] and then takes
//! what is there.

mod socket;

use std::io;

use bytes::BytesMut;

pub(crate) use socket::Socket;

/// A connection whose MQTT bytes can be read and written.
#[derive(Debug)]
pub(crate) enum Link {
    /// The socket's bytes are MQTT.
    Plain(Socket),
}

impl Link {
    /// Waits until there may be something to read, if `read`, or room to write, if
    /// `write`; for ever if neither.
    pub(crate) async fn ready(&self, read: bool, write: bool) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.ready(read, write).await,
        }
    }

    /// Reads what is there into the room that `input` has. Nothing read is the end.
    pub(crate) fn try_read(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_read(input),
        }
    }

    /// Tells the peer that nothing more comes; reading goes on.
    pub(crate) fn end_output(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.end_output(),
        }
    }

    /// Writes as much as is taken now.
    pub(crate) fn try_write(&mut self, output: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(output),
        }
    }
}

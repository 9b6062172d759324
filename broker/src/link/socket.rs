//! A socket of either kind.

use std::{io, net::Shutdown};

use bytes::BytesMut;
use socket2::SockRef;
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

impl Socket {
    pub(super) async fn ready(&self, read: bool, write: bool) -> io::Result<()> {
        let interest = match (read, write) {
            (true, true) => Interest::READABLE | Interest::WRITABLE,
            (true, false) => Interest::READABLE,
            (false, true) => Interest::WRITABLE,
            (false, false) => return std::future::pending().await,
        };
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
        }
        .map(drop)
    }

    pub(super) fn try_read(&self, input: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read_buf(input),
            Self::Unix(stream) => stream.try_read_buf(input),
        }
    }

    /// Tells the peer that nothing more comes; reading goes on.
    pub(super) fn end_output(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
            Self::Unix(stream) => SockRef::from(stream).shutdown(Shutdown::Write),
        }
    }

    pub(super) fn try_write(&self, output: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(output),
            Self::Unix(stream) => stream.try_write(output),
        }
    }
}

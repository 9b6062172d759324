//! Places that are bound: sockets that listen.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::config::{Address, UnixAddress};
use crate::link::Socket;

/// How long what we sent may stay unacknowledged by the peer's system.
const UNHEARD_MAX: Duration = Duration::from_secs(120);
/// Connections the system may queue before we accept them.
const BACKLOG: u32 = 1024;

/// A socket that listens.
#[derive(Debug)]
pub(crate) enum Bound {
    Tcp(TcpListener, SocketAddr),
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
}

impl Bound {
    pub(crate) fn new(address: &Address) -> io::Result<Self> {
        match address {
            Address::Ip(address) => {
                let socket = if address.is_ipv4() {
                    TcpSocket::new_v4()
                } else {
                    TcpSocket::new_v6()
                }?;
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                notice_the_dead(&socket)?;
                let listener = socket.listen(BACKLOG)?;
                let address = listener.local_addr()?;
                Ok(Self::Tcp(listener, address))
            }
            Address::Unix(unix) => {
                let (listener, file) = bind_unix(unix)?;
                Ok(Self::Unix {
                    listener,
                    _file: file,
                })
            }
        }
    }

    /// The next connection, and where it comes from.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener, _) => {
                let (stream, address) = listener.accept().await?;
                // Acknowledgements are small and waited for.
                stream.set_nodelay(true).ok();
                Ok((Socket::Tcp(stream), Some(address)))
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), None))
            }
        }
    }

    /// With the port that the system chose.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix { .. } => None,
        }
    }
}

/// A peer that vanished, with no keep-alive in MQTT, is noticed by the system within
/// some two minutes, and no longer holds its seat. Connections inherit it.
fn notice_the_dead(socket: &TcpSocket) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(4);
    socket.set_tcp_keepalive(&probes)?;
    socket.set_tcp_user_timeout(Some(UNHEARD_MAX))
}

/// The file of a Unix socket; removed with it.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

fn bind_unix(unix: &UnixAddress) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(&unix.path)?;
    let listener = UnixListener::bind(&unix.path)?;
    let file = SocketFile(unix.path.clone());
    fs::set_permissions(&unix.path, fs::Permissions::from_mode(unix.mode))?;
    Ok((listener, file))
}

/// A process that was killed leaves its socket's file behind, which nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "there is a file that is no socket",
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_notices_that_its_peer_is_dead() {
        let bound = Bound::new(&Address::Ip("127.0.0.1:0".parse().unwrap())).unwrap();
        let client = std::net::TcpStream::connect(bound.address().unwrap()).unwrap();
        let (Socket::Tcp(stream), _) = bound.accept().await.unwrap() else {
            panic!("TCP");
        };
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(60)
        );
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNHEARD_MAX));
        drop(client);
    }
}

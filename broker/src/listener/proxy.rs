//! The header with which a load balancer says who the client is (PROXY protocol,
//! versions 1 and 2).

use std::{io, net::SocketAddr};

use ppp::{HeaderResult, v1, v2};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::config::ProxyProtocol;

/// How every header of version 2 begins, and what follows before the addresses.
const SIGNATURE_LEN: usize = v2::PROTOCOL_PREFIX.len();
pub(crate) const FIXED_LEN: usize = SIGNATURE_LEN + 4;
/// Addresses and extensions taken; the standard's largest addresses have 216 bytes.
pub(crate) const REST_MAX: usize = 2048;
/// A line of version 1 (section 2.1).
pub(crate) const LINE_MAX: usize = 107;

/// Why a connection was not taken.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// What came is no header, or not from where headers may come.
    Header(&'static str),
    /// The connection broke.
    Gone,
}

impl From<io::Error> for Refusal {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Reads the header and nothing behind it: the client's address.
pub(crate) async fn read(
    config: &ProxyProtocol,
    socket: &mut (impl AsyncRead + Unpin),
    address: Option<SocketAddr>,
) -> Result<Option<SocketAddr>, Refusal> {
    if let Some(trusted) = &config.trusted
        && let Some(address) = address
        && !trusted.iter().any(|one| one.contains(address.ip()))
    {
        return Err(Refusal::Header("an address that is not in proxy_trusted"));
    }
    let mut header = vec![0; SIGNATURE_LEN];
    socket.read_exact(&mut header).await?;
    if header == v2::PROTOCOL_PREFIX {
        header.resize(FIXED_LEN, 0);
        socket.read_exact(&mut header[SIGNATURE_LEN..]).await?;
        let rest = u16::from_be_bytes([header[FIXED_LEN - 2], header[FIXED_LEN - 1]]);
        if usize::from(rest) > REST_MAX {
            return Err(Refusal::Header("a PROXY header that is too long"));
        }
        header.resize(FIXED_LEN + usize::from(rest), 0);
        socket.read_exact(&mut header[FIXED_LEN..]).await?;
    } else if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\r\n") {
            if header.len() == LINE_MAX {
                return Err(Refusal::Header("a PROXY header that is too long"));
            }
            header.push(socket.read_u8().await?);
        }
    } else {
        return Err(Refusal::Header("no PROXY header"));
    }
    match HeaderResult::parse(&header) {
        HeaderResult::V2(Ok(header)) => Ok(match (header.command, header.addresses) {
            // The load balancer looks whether we are there.
            (v2::Command::Local, _) => address,
            (_, v2::Addresses::IPv4(ip)) => Some((ip.source_address, ip.source_port).into()),
            (_, v2::Addresses::IPv6(ip)) => Some((ip.source_address, ip.source_port).into()),
            _ => address,
        }),
        HeaderResult::V1(Ok(header)) => Ok(match header.addresses {
            v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
            v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
            v1::Addresses::Unknown => address,
        }),
        _ => Err(Refusal::Header("a PROXY header that is damaged")),
    }
}

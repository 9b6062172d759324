//! What an operator says of one listener.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use super::tls::Certificates;

/// One place where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What it is called in logs, metrics and permissions.
    pub name: String,
    /// Where it is.
    pub address: Address,
    /// What carries the MQTT packets.
    pub transport: Transport,
    /// Certificates; without them nothing is encrypted.
    pub tls: Option<Tls>,
    /// Every connection begins with a PROXY protocol header.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Clients need not say who they are.
    pub allow_anonymous: bool,
    /// Connections open at the same time here; those of the whole broker bound it too.
    pub connections_max: Option<usize>,
}

impl Config {
    /// Plain MQTT over TCP, for those who are local.
    pub fn tcp(address: SocketAddr) -> Self {
        Self {
            name: address.to_string(),
            address: Address::Ip(address),
            transport: Transport::Tcp,
            tls: None,
            proxy_protocol: None,
            allow_anonymous: false,
            connections_max: None,
        }
    }

    /// Whether only programs of this machine reach it.
    pub fn is_local(&self) -> bool {
        match &self.address {
            Address::Ip(address) => address.ip().is_loopback(),
            Address::Unix(_) => true,
        }
    }

    /// Whether it is MQTT over TCP with nothing around it.
    pub(crate) fn is_plain(&self) -> bool {
        self.transport == Transport::Tcp && self.tls.is_none() && self.proxy_protocol.is_none()
    }

    /// As a client would be told, with the address that was bound.
    pub(crate) fn url(&self, bound: Option<SocketAddr>) -> String {
        let (path, scheme) = match (&self.transport, &self.tls) {
            (Transport::Tcp, None) => ("", "mqtt"),
            (Transport::Tcp, Some(_)) => ("", "mqtts"),
            (Transport::WebSocket(web), None) => (&*web.path, "ws"),
            (Transport::WebSocket(web), Some(_)) => (&*web.path, "wss"),
        };
        match (&self.address, bound) {
            (Address::Ip(address), bound) => {
                format!("{scheme}://{}{path}", bound.unwrap_or(*address))
            }
            (Address::Unix(unix), _) => format!("{scheme}+unix://{}", unix.path.display()),
        }
    }

    /// Reads the files that it names.
    ///
    /// # Errors
    /// For the first that cannot be used.
    pub fn check_files(&self) -> Result<(), super::tls::Error> {
        self.certificates().map(drop)
    }

    pub(super) fn certificates(&self) -> Result<Option<Certificates>, super::tls::Error> {
        let load = |files| Certificates::load(&self.name, files);
        self.tls.as_ref().map(load).transpose()
    }

    /// Whether nobody gets as far as CONNECT without a certificate that we know
    /// the issuer of.
    pub fn requires_certificate(&self) -> bool {
        let is_required = |tls: &Tls| tls.client_certificate == ClientCertificate::Required;
        self.tls.as_ref().is_some_and(is_required)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)))
    }
}

/// Where a listener is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// An IP address and a port; port 0 lets the system choose.
    Ip(SocketAddr),
    /// A Unix socket. A file that is there already is replaced if nobody listens on it.
    Unix(UnixAddress),
}

/// A Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UnixAddress {
    /// Its file.
    pub path: PathBuf,
    /// The file's permissions.
    pub mode: u32,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(unix) => write!(f, "unix:{}", unix.path.display()),
        }
    }
}

/// What carries the packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// The stream itself.
    Tcp,
    /// Binary frames of a WebSocket (RFC 6455).
    WebSocket(WebSocket),
}

/// A WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebSocket {
    /// The path of its URL.
    pub path: String,
    /// Web pages that may connect, as `https://host`; `None` for all. Programs that are
    /// no browsers name no origin and may always.
    pub origins: Option<Vec<String>>,
}

/// Files with certificates and keys, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The listener's certificate, and those between it and the root.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities that clients' certificates come from.
    pub client_ca: Option<PathBuf>,
    /// Certificates that are no longer to be believed.
    pub client_crl: Option<PathBuf>,
    /// Whether clients have certificates.
    pub client_certificate: ClientCertificate,
}

/// Whether clients have certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// They are not asked for one.
    None,
    /// They may have one.
    Optional,
    /// Without one they cannot connect.
    Required,
}

/// A load balancer in front that says who the client is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Who may say so; `None` for everybody who connects here.
    pub trusted: Option<Vec<Network>>,
}

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: std::net::IpAddr,
    bits: u8,
}

impl Network {
    /// Whether `address` is one of them.
    pub fn contains(&self, address: std::net::IpAddr) -> bool {
        use std::net::IpAddr::{V4, V6};
        let differs = match (self.address, address.to_canonical()) {
            (V4(a), V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
            (V6(a), V6(b)) => a.to_bits() ^ b.to_bits(),
            _ => return false,
        };
        differs.leading_zeros() >= self.bits.into()
    }
}

/// Neither an address nor a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an IP address or a network is written \"10.0.0.7\" or \"10.0.0.0/8\"")]
pub struct NotANetwork;

impl std::str::FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: std::net::IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| NotANetwork)?;
        if bits > most {
            return Err(NotANetwork);
        }
        Ok(Self { address, bits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        let has = |network: &str, address: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(address.parse().unwrap())
        };
        assert!(has("10.0.0.0/8", "10.255.1.2"));
        assert!(!has("10.0.0.0/8", "11.0.0.0"));
        assert!(has("10.1.2.3", "10.1.2.3"));
        assert!(!has("10.1.2.3", "10.1.2.2"));
        assert!(has("0.0.0.0/0", "1.2.3.4"));
        assert!(!has("0.0.0.0/0", "::1"));
        assert!(has("10.0.0.0/8", "::ffff:10.0.0.1"));
        assert!(has("2001:db8::/32", "2001:db8:1::"));
        assert!(!has("2001:db8::/33", "2001:db8:8000::"));
        for text in ["", "10", "10.0.0.0/33", "::/129", "10.0.0.0/x", "/8"] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
    }
}

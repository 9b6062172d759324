//! A socket to the gateway, with TLS and a WebSocket around it or without.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};

use crate::web::Web;

/// Where the gateway takes MQTT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broker {
    /// `host:port`.
    pub(crate) place: String,
    /// The address of a WebSocket, where MQTT is in one.
    pub(crate) url: Option<String>,
}

impl std::str::FromStr for Broker {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "write HOST:PORT, such as 127.0.0.1:1883, or ws://HOST:PORT/mqtt";
        let schemes = ["ws://", "wss://"].iter();
        let web = schemes
            .filter_map(|scheme| text.strip_prefix(scheme))
            .next();
        let place = match web {
            None => text,
            Some(rest) => rest.split('/').next().unwrap_or_default(),
        };
        let (host, port) = place.rsplit_once(':').ok_or(wrong)?;
        if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
            return Err(wrong);
        }
        // Without a path it is the one that gateways have by default.
        let path = web.map(|rest| if rest == place { "/mqtt" } else { "" });
        Ok(Self {
            place: place.to_owned(),
            url: path.map(|path| format!("{text}{path}")),
        })
    }
}

impl Broker {
    /// Whether the address says by itself whether it is encrypted, and what it says.
    pub(crate) fn wants_tls(&self) -> Option<bool> {
        self.url.as_ref().map(|url| url.starts_with("wss://"))
    }
}

impl std::fmt::Display for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.url.as_ref().unwrap_or(&self.place))
    }
}

/// How devices encrypt.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish()
    }
}

impl Tls {
    /// Trusts the authorities in `ca`; `own` are all devices' certificate and key.
    ///
    /// # Errors
    /// When a file cannot be used, or `broker` has no name that a certificate could have.
    pub(crate) fn new(
        broker: &Broker,
        ca: &Path,
        own: Option<(&Path, &Path)>,
    ) -> anyhow::Result<Self> {
        let read = |path: &Path| {
            CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .with_context(|| format!("read certificates from {}", path.display()))
        };
        let mut roots = RootCertStore::empty();
        for certificate in read(ca)? {
            roots
                .add(certificate)
                .with_context(|| format!("use {}", ca.display()))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let secret = PrivateKeyDer::from_pem_file(key)
                    .with_context(|| format!("read a key from {}", key.display()))?;
                builder
                    .with_client_auth_cert(read(certificate)?, secret)
                    .with_context(|| format!("use {}", certificate.display()))?
            }
        };
        let place = &*broker.place;
        let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: ServerName::try_from(host).context("the broker's name")?,
        })
    }
}

/// A connection's bytes.
#[derive(Debug)]
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Web(Box<Web<TcpStream>>),
    WebTls(Box<Web<TlsStream<TcpStream>>>),
}

impl Socket {
    pub(crate) async fn connect(broker: &Broker, tls: Option<&Tls>) -> io::Result<Self> {
        let stream = TcpStream::connect(&broker.place).await?;
        stream.set_nodelay(true)?;
        let Some(Tls { connector, name }) = tls else {
            return Ok(match &broker.url {
                None => Self::Plain(stream),
                Some(url) => Self::Web(Box::new(Web::connect(url, stream).await?)),
            });
        };
        let stream = connector.connect(name.clone(), stream).await?;
        Ok(match &broker.url {
            None => Self::Tls(Box::new(stream)),
            Some(url) => Self::WebTls(Box::new(Web::connect(url, stream).await?)),
        })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, into),
            Self::Web(stream) => Pin::new(stream).poll_read(cx, into),
            Self::WebTls(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, from),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, from),
            Self::Web(stream) => Pin::new(stream).poll_write(cx, from),
            Self::WebTls(stream) => Pin::new(stream).poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Web(stream) => Pin::new(stream).poll_flush(cx),
            Self::WebTls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Web(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::WebTls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_place_or_that_of_a_websocket() {
        for (text, place, url) in [
            ("127.0.0.1:1883", "127.0.0.1:1883", None),
            ("[::1]:1883", "[::1]:1883", None),
            ("ws://gw:9001/mqtt", "gw:9001", Some("ws://gw:9001/mqtt")),
            ("ws://gw:9001", "gw:9001", Some("ws://gw:9001/mqtt")),
            ("wss://gw:9443/a/b", "gw:9443", Some("wss://gw:9443/a/b")),
        ] {
            let broker: Broker = text.parse().unwrap();
            assert_eq!((&*broker.place, broker.url.as_deref()), (place, url));
        }
        for wrong in [
            "gw",
            "gw:x",
            ":1883",
            "ws://gw/mqtt",
            "http://gw:80/",
            "ws://:1/",
        ] {
            assert!(wrong.parse::<Broker>().is_err(), "{wrong}");
        }
    }
}

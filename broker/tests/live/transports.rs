//! Every transport with clients that others wrote: rustls, rumqttc, and bytes.

mod proxied;
mod tls;
mod websocket;

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::{SinkExt as _, StreamExt as _};
use penstock_broker::{
    Config, Listening,
    listener::{
        self,
        config::{
            Address, ClientCertificate, ProxyProtocol, Tls, Transport, UnixAddress, WebSocket,
        },
    },
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber, date_time_ymd,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version::{TLS12, TLS13},
    },
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        http::{HeaderValue, header},
    },
};

use crate::support::{LONG, Running, config, connect_v4, connect_v5, publish_v4, start};

/// An authority, and files of certificates from it.
struct Authority {
    dir: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(dir.join(format!("{name}.pem")), issuer.pem()).unwrap();
        Self {
            dir: dir.to_path_buf(),
            issuer,
        }
    }

    /// Writes `name.pem` and `name.key` for `127.0.0.1`.
    fn issue(&self, name: &str, serial: u64, change: impl FnOnce(&mut CertificateParams)) {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(serial));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        fs::write(self.dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
    }

    fn revoke(&self, file: &str, serial: u64) {
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2100, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).unwrap();
        fs::write(self.dir.join(file), list.pem().unwrap()).unwrap();
    }
}

/// A directory with an authority's files.
struct Files {
    dir: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path(), "ca");
        authority.issue("server", 1, |_| {});
        authority.issue("client", 2, |_| {});
        Self { dir, authority }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tls(&self, client_certificate: ClientCertificate) -> Tls {
        let asks = client_certificate != ClientCertificate::None;
        Tls {
            certificate: self.path("server.pem"),
            key: self.path("server.key"),
            client_ca: asks.then(|| self.path("ca.pem")),
            client_crl: None,
            client_certificate,
        }
    }

    /// A client that trusts the authority, with the named certificate if any.
    fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        own: Option<&str>,
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap())
            .unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let certificate = self.path(&format!("{name}.pem"));
                let key = self.path(&format!("{name}.key"));
                builder
                    .with_client_auth_cert(
                        vec![CertificateDer::from_pem_file(certificate).unwrap()],
                        PrivateKeyDer::from_pem_file(key).unwrap(),
                    )
                    .unwrap()
            }
        };
        TlsConnector::from(Arc::new(config))
    }
}

fn tcp(name: &str) -> listener::Config {
    listener::Config {
        name: name.to_owned(),
        ..listener::Config::tcp("127.0.0.1:0".parse().unwrap())
    }
}

fn with_tls(tls: Tls) -> Config {
    Config {
        listeners: vec![listener::Config {
            tls: Some(tls),
            ..tcp("tls")
        }],
        ..config()
    }
}

fn web(origins: Option<Vec<String>>) -> Transport {
    Transport::WebSocket(WebSocket {
        path: "/mqtt".to_owned(),
        origins,
    })
}

async fn run(config: Config) -> (Running, Vec<Listening>) {
    let running = start(config).await;
    let listening = running.listening.clone();
    (running, listening)
}

fn address(listening: &[Listening]) -> SocketAddr {
    listening[0].address.unwrap()
}

/// CONNECT, a publish at QoS 1, its acknowledgement.
async fn works<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, id: &str) -> io::Result<()> {
    stream.write_all(&connect_v4(id, 2, 0)).await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    timeout(LONG, stream.read_exact(&mut answer))
        .await
        .unwrap()?;
    assert_eq!(answer, [0x20, 2, 0, 0]);
    still_works(stream, id).await
}

async fn still_works<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    id: &str,
) -> io::Result<()> {
    stream.write_all(&publish_v4("t", 1, 7, id)).await?;
    stream.flush().await?;
    let mut answer = [0; 4];
    timeout(LONG, stream.read_exact(&mut answer))
        .await
        .unwrap()?;
    assert_eq!(answer, [0x40, 2, 0, 7]);
    Ok(())
}

async fn connect_tls(
    connector: &TlsConnector,
    address: SocketAddr,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    timeout(LONG, connector.connect(name, stream))
        .await
        .unwrap()
}

fn unix(path: &Path) -> Config {
    let address = Address::Unix(UnixAddress {
        path: path.to_path_buf(),
        mode: 0o600,
    });
    Config {
        listeners: vec![listener::Config {
            address,
            ..tcp("unix")
        }],
        ..config()
    }
}

#[tokio::test]
async fn a_unix_socket_is_local_has_its_mode_and_replaces_only_a_dead_one() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mqtt.sock");
    // A process that was killed leaves its file behind.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.try_exists().unwrap());
    let (broker, at) = run(unix(&path)).await;
    assert_eq!(at[0].address, None);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let mut stream = UnixStream::connect(&path).await.unwrap();
    works(&mut stream, "local").await.unwrap();
    assert_eq!(broker.gateway.publishers().last().unwrap().address, None);
    let said = unix(&path).bind().await.unwrap_err();
    assert!(
        matches!(said, penstock_broker::Error::Bind { .. }),
        "{said}"
    );
    still_works(&mut stream, "still").await.unwrap();
    broker.stop().await;
    assert!(!path.try_exists().unwrap());
    fs::write(&path, "a file").unwrap();
    assert!(unix(&path).bind().await.is_err());
    assert_eq!(fs::read(&path).unwrap(), b"a file");
}

#[tokio::test]
async fn listeners_share_the_broker_and_have_limits_of_their_own() {
    let (broker, at) = run(Config {
        listeners: vec![
            listener::Config {
                connections_max: Some(1),
                ..tcp("narrow")
            },
            tcp("wide"),
        ],
        connections_max: 3,
        ..config()
    })
    .await;
    let connect = async |n: usize, id: &str| {
        let mut stream = TcpStream::connect(at[n].address.unwrap()).await.unwrap();
        stream.write_all(&connect_v4(id, 2, 0)).await.unwrap();
        let mut answer = [0; 4];
        timeout(LONG, stream.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        (stream, answer[3])
    };
    let first = connect(0, "1").await;
    let refused = connect(0, "2").await;
    assert_eq!((first.1, refused.1), (0, 3));
    let (second, third) = (connect(1, "3").await, connect(1, "4").await);
    assert_eq!((second.1, third.1), (0, 0));
    assert_eq!(connect(1, "5").await.1, 3);
    broker.stop().await;
}

#[tokio::test]
async fn beyond_loopback_a_required_certificate_is_word_enough() {
    let files = Files::new();
    let mut open = with_tls(files.tls(ClientCertificate::Required));
    open.listeners[0].address = Address::Ip("0.0.0.0:0".parse().unwrap());
    drop(open.clone().bind().await.unwrap());
    open.listeners[0].tls = Some(files.tls(ClientCertificate::None));
    let said = open.bind().await.unwrap_err().to_string();
    assert!(said.contains("allow_anonymous"), "{said}");
}

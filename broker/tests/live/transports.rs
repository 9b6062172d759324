//! Every transport with clients that others wrote: rustls, rumqttc, and bytes.

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

#[tokio::test]
async fn both_tls_versions_carry_packets_of_every_size() {
    let files = Files::new();
    let (broker, at) = run(with_tls(files.tls(ClientCertificate::None))).await;
    for version in [&TLS12, &TLS13] {
        let connector = files.client(&[version], None);
        let mut stream = connect_tls(&connector, address(&at)).await.unwrap();
        works(&mut stream, "small").await.unwrap();
        // A subscriber to itself: many records in both directions.
        let subscribe = [0x82, 6, 0, 1, 0, 1, b't', 0];
        stream.write_all(&subscribe).await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        let payload = "x".repeat(900_000);
        let publish = publish_v4("t", 0, 0, &payload);
        let (mut read, mut write) = tokio::io::split(stream);
        let expect = publish.clone();
        let writing = tokio::spawn(async move { write.write_all(&publish).await.map(|()| write) });
        let mut heard = vec![0; expect.len()];
        timeout(LONG, read.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert!(heard == expect);
        drop(writing.await.unwrap().unwrap());
    }
    broker.stop().await;
}

#[tokio::test]
async fn a_client_certificate_is_required_where_that_is_said() {
    let files = Files::new();
    let stranger = tempfile::tempdir().unwrap();
    let other = Authority::new(stranger.path(), "ca");
    other.issue("other", 3, |_| {});
    for end in ["pem", "key"] {
        let from = stranger.path().join(format!("other.{end}"));
        fs::copy(from, files.path(&format!("other.{end}"))).unwrap();
    }
    files.authority.issue("expired", 4, |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    files.authority.revoke("crl.pem", 5);
    files.authority.issue("revoked", 5, |_| {});
    let mut tls = files.tls(ClientCertificate::Required);
    tls.client_crl = Some(files.path("crl.pem"));
    let (broker, at) = run(with_tls(tls)).await;
    for version in [&TLS12, &TLS13] {
        let connector = files.client(&[version], Some("client"));
        let mut stream = connect_tls(&connector, address(&at)).await.unwrap();
        works(&mut stream, "known").await.unwrap();
    }
    for (before, own) in [None, Some("other"), Some("expired"), Some("revoked")]
        .into_iter()
        .enumerate()
    {
        let connector = files.client(&[&TLS13], own);
        let outcome = async {
            let mut stream = connect_tls(&connector, address(&at)).await?;
            works(&mut stream, "unknown").await
        };
        assert!(outcome.await.is_err(), "{own:?}");
        broker
            .until("refused", |now| {
                now.tls_certificate_refused == before as u64 + 1
            })
            .await;
    }
    assert_eq!(broker.gateway.payloads(), ["known", "known"]);
    broker.stop().await;
}

#[tokio::test]
async fn an_optional_certificate_may_be_missing_but_not_wrong() {
    let files = Files::new();
    files.authority.issue("expired", 4, |params| {
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let (broker, at) = run(with_tls(files.tls(ClientCertificate::Optional))).await;
    for own in [None, Some("client")] {
        let connector = files.client(&[&TLS13], own);
        let mut stream = connect_tls(&connector, address(&at)).await.unwrap();
        works(&mut stream, "may").await.unwrap();
    }
    let connector = files.client(&[&TLS13], Some("expired"));
    let outcome = async {
        let mut stream = connect_tls(&connector, address(&at)).await?;
        works(&mut stream, "may not").await
    };
    assert!(outcome.await.is_err());
    broker.stop().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_handshake_is_counted_by_its_kind() {
    let files = Files::new();
    let (broker, at) = run(with_tls(files.tls(ClientCertificate::None))).await;
    // Plain MQTT on a port for TLS.
    let mut plain = TcpStream::connect(address(&at)).await.unwrap();
    plain.write_all(&connect_v4("x", 2, 0)).await.unwrap();
    broker
        .until("plain text", |now| now.tls_plain_text == 1)
        .await;
    let mut plain = TcpStream::connect(address(&at)).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    broker.until("HTTP", |now| now.tls_plain_text == 2).await;
    // A client that does not know our authority.
    let stranger = Files::new();
    let connector = stranger.client(&[&TLS13], None);
    assert!(connect_tls(&connector, address(&at)).await.is_err());
    broker
        .until("an alert", |now| now.tls_refused_by_client == 1)
        .await;
    // One that goes away.
    drop(TcpStream::connect(address(&at)).await.unwrap());
    broker
        .until("gone", |now| now.handshakes_given_up == 1)
        .await;
    assert_eq!(broker.handle.metrics().sessions_total, 0);
    broker
        .until("closed", |now| now.connections_open == 0)
        .await;
    broker.stop().await;
}

#[tokio::test]
async fn slow_handshakes_end_in_time_and_hold_up_nobody() {
    let files = Files::new();
    let (broker, at) = run(Config {
        connect_timeout: Duration::from_secs(2),
        ..with_tls(files.tls(ClientCertificate::None))
    })
    .await;
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(address(&at)).await.unwrap();
        // The first bytes of a ClientHello, and then hardly anything.
        stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        slow.push(stream);
    }
    broker
        .until("open", |now| now.connections_open == 100)
        .await;
    let connector = files.client(&[&TLS13], None);
    for n in 0..20 {
        for stream in &mut slow {
            stream.write_all(&[0]).await.ok();
        }
        let mut stream = connect_tls(&connector, address(&at)).await.unwrap();
        works(&mut stream, &n.to_string()).await.unwrap();
    }
    broker
        .until("timed out", |now| now.refused_connect_timeout == 100)
        .await;
    broker.stop().await;
}

#[tokio::test]
async fn the_slowest_handshakes_go_when_there_are_too_many() {
    let files = Files::new();
    let (broker, at) = run(with_tls(files.tls(ClientCertificate::None))).await;
    let mut slow = Vec::new();
    for _ in 0..1030 {
        let mut stream = TcpStream::connect(address(&at)).await.unwrap();
        stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        slow.push(stream);
    }
    broker
        .until("crowded", |now| now.handshakes_crowded == 6)
        .await;
    let connector = files.client(&[&TLS13], None);
    let mut stream = connect_tls(&connector, address(&at)).await.unwrap();
    works(&mut stream, "honest").await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn certificates_are_exchanged_under_connections_and_bad_ones_are_not() {
    let files = Files::new();
    let (broker, at) = run(with_tls(files.tls(ClientCertificate::None))).await;
    let connector = files.client(&[&TLS13], None);
    let shown = |stream: &tokio_rustls::client::TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let mut first = connect_tls(&connector, address(&at)).await.unwrap();
    works(&mut first, "before").await.unwrap();
    let before = shown(&first);
    let ends = broker.handle.metrics().certificate_ends;
    assert_ne!(ends, 0);

    // A certificate without its key changes nothing.
    let key = fs::read(files.path("server.key")).unwrap();
    files.authority.issue("server", 9, |params| {
        params.not_after = date_time_ymd(2090, 1, 1);
    });
    let new_key = fs::read(files.path("server.key")).unwrap();
    fs::write(files.path("server.key"), &key).unwrap();
    broker.handle.reload_certificates();
    // A second request is taken only after the first one was done.
    broker.handle.reload_certificates();
    let second = connect_tls(&connector, address(&at)).await.unwrap();
    assert_eq!(shown(&second), before);

    fs::write(files.path("server.key"), &new_key).unwrap();
    broker.handle.reload_certificates();
    broker
        .until("another end", |now| now.certificate_ends != ends)
        .await;
    let mut third = connect_tls(&connector, address(&at)).await.unwrap();
    assert_ne!(shown(&third), before);
    works(&mut third, "after").await.unwrap();
    still_works(&mut first, "before").await.unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn changed_certificates_are_found_without_being_told() {
    let files = Files::new();
    let (broker, _) = run(with_tls(files.tls(ClientCertificate::None))).await;
    let ends = broker.handle.metrics().certificate_ends;
    files.authority.issue("server", 9, |params| {
        params.not_after = date_time_ymd(2090, 1, 1);
    });
    broker
        .until("another end", |now| now.certificate_ends != ends)
        .await;
    broker.stop().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_before_anything_listens() {
    let files = Files::new();
    files.authority.issue("other", 3, |_| {});
    let said = async |change: &dyn Fn(&mut Tls)| {
        let mut tls = files.tls(ClientCertificate::Required);
        change(&mut tls);
        with_tls(tls).bind().await.unwrap_err().to_string()
    };
    fs::write(files.path("empty"), "").unwrap();
    for (said, key, what) in [
        (
            said(&|tls| tls.certificate = files.path("none")).await,
            "certificate",
            "cannot be read",
        ),
        (
            said(&|tls| tls.certificate = files.path("empty")).await,
            "certificate",
            "BEGIN CERTIFICATE",
        ),
        (
            said(&|tls| tls.key = files.path("other.key")).await,
            "key",
            "does not belong to the certificate",
        ),
        (
            said(&|tls| tls.key = files.path("server.pem")).await,
            "key",
            "BEGIN PRIVATE KEY",
        ),
        (
            said(&|tls| tls.client_ca = Some(files.path("server.key"))).await,
            "client_ca",
            "BEGIN CERTIFICATE",
        ),
        (
            said(&|tls| tls.client_crl = Some(files.path("ca.pem"))).await,
            "client_crl",
            "BEGIN X509 CRL",
        ),
    ] {
        assert!(said.contains(key) && said.contains(what), "{said}");
    }
}

#[tokio::test]
async fn rumqttc_goes_over_tls() {
    use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS, TlsConfiguration};

    // The one that rumqttc asks for; another test may have been first.
    ring::default_provider().install_default().ok();
    let files = Files::new();
    let (broker, at) = run(with_tls(files.tls(ClientCertificate::Required))).await;
    let read = |name: &str| fs::read(files.path(name)).unwrap();
    let mut options = MqttOptions::new("c", "127.0.0.1", address(&at).port());
    options.set_transport(rumqttc::Transport::tls_with_config(
        TlsConfiguration::Simple {
            ca: read("ca.pem"),
            alpn: None,
            client_auth: Some((read("client.pem"), read("client.key"))),
        },
    ));
    let (client, mut events) = AsyncClient::new(options, 10);
    client
        .publish("t", QoS::ExactlyOnce, false, "over TLS")
        .await
        .unwrap();
    loop {
        let event = timeout(LONG, events.poll()).await.unwrap().unwrap();
        if let Event::Incoming(Packet::PubComp(_)) = event {
            break;
        }
    }
    assert_eq!(broker.gateway.payloads(), ["over TLS"]);
    broker.stop().await;
}

/// A WebSocket client: payloads of binary messages.
struct Web<S>(tokio_tungstenite::WebSocketStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Web<S> {
    async fn open(
        stream: S,
        path: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<Self, String> {
        let mut request = format!("ws://127.0.0.1{path}")
            .into_client_request()
            .unwrap();
        for (name, value) in headers {
            request
                .headers_mut()
                .insert(*name, HeaderValue::from_static(value));
        }
        let (socket, response) = timeout(LONG, client_async(request, stream))
            .await
            .unwrap()
            .map_err(|error| match error {
                tokio_tungstenite::tungstenite::Error::Http(response) => {
                    response.status().as_str().to_owned()
                }
                error => error.to_string(),
            })?;
        assert_eq!(response.headers()[header::SEC_WEBSOCKET_PROTOCOL], "mqtt");
        Ok(Self(socket))
    }

    async fn send(&mut self, bytes: &[u8]) {
        let message = Message::Binary(bytes.to_vec().into());
        self.0.send(message).await.unwrap();
    }

    async fn expect(&mut self, bytes: &[u8]) {
        let mut heard = Vec::new();
        while heard.len() < bytes.len() {
            let message = timeout(LONG, self.0.next())
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            if let Message::Binary(part) = message {
                heard.extend_from_slice(&part);
            }
        }
        assert!(heard == bytes, "{} bytes", heard.len());
    }
}

const MQTT: (&str, &str) = ("sec-websocket-protocol", "mqtt");

async fn web_works<S: AsyncRead + AsyncWrite + Unpin>(web: &mut Web<S>) {
    // One byte a frame, then two packets in one.
    for byte in connect_v4("w", 2, 0) {
        web.send(&[byte]).await;
    }
    web.expect(&[0x20, 2, 0, 0]).await;
    let two = [&publish_v4("t", 1, 1, "a")[..], &publish_v4("t", 1, 2, "b")].concat();
    web.send(&two).await;
    web.expect(&[0x40, 2, 0, 1, 0x40, 2, 0, 2]).await;
    web.send(&[0x82, 6, 0, 1, 0, 1, b't', 0]).await;
    web.expect(&[0x90, 3, 0, 1, 0]).await;
    let large = publish_v4("t", 0, 0, &"x".repeat(300_000));
    web.send(&large).await;
    web.expect(&large).await;
    web.0.send(Message::Ping(vec![1, 2].into())).await.unwrap();
    let pong = timeout(LONG, web.0.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(pong, Message::Pong(vec![1, 2].into()));
}

#[tokio::test]
async fn a_websocket_carries_packets_however_frames_cut_them() {
    let (broker, at) = run(Config {
        listeners: vec![listener::Config {
            transport: web(None),
            ..tcp("web")
        }],
        ..config()
    })
    .await;
    assert!(at[0].url.starts_with("ws://127.0.0.1:") && at[0].url.ends_with("/mqtt"));
    let stream = TcpStream::connect(address(&at)).await.unwrap();
    let mut client = Web::open(stream, "/mqtt", &[MQTT]).await.unwrap();
    web_works(&mut client).await;
    // The end is said in both layers.
    client.send(&[0xE0, 0]).await;
    let end = timeout(LONG, client.0.next()).await.unwrap();
    assert!(matches!(end, Some(Ok(Message::Close(_)))), "{end:?}");
    broker.stop().await;
}

#[tokio::test]
async fn a_secure_websocket_is_both() {
    let files = Files::new();
    let mut config = with_tls(files.tls(ClientCertificate::Required));
    config.listeners[0].transport = web(None);
    let (broker, at) = run(config).await;
    let connector = files.client(&[&TLS13], Some("client"));
    let stream = connect_tls(&connector, address(&at)).await.unwrap();
    let mut client = Web::open(stream, "/mqtt", &[MQTT]).await.unwrap();
    web_works(&mut client).await;
    broker.stop().await;
}

#[tokio::test]
async fn a_websocket_is_for_mqtt_at_its_path_and_from_known_origins() {
    let (broker, at) = run(Config {
        listeners: vec![listener::Config {
            transport: web(Some(vec!["https://plant.example".to_owned()])),
            ..tcp("web")
        }],
        ..config()
    })
    .await;
    let good = ("origin", "https://plant.example");
    for (path, headers, outcome) in [
        ("/mqtt", vec![MQTT, good], None),
        ("/mqtt", vec![MQTT], None),
        (
            "/mqtt?x=1",
            vec![("sec-websocket-protocol", "chat, mqtt")],
            None,
        ),
        ("/", vec![MQTT], Some("404")),
        ("/mqtt", vec![], Some("400")),
        (
            "/mqtt",
            vec![("sec-websocket-protocol", "mqttv3.1")],
            Some("400"),
        ),
        (
            "/mqtt",
            vec![MQTT, ("origin", "https://evil.example")],
            Some("403"),
        ),
    ] {
        let stream = TcpStream::connect(address(&at)).await.unwrap();
        let opened = Web::open(stream, path, &headers).await;
        assert_eq!(opened.err().as_deref(), outcome, "{path} {headers:?}");
    }
    let mut plain = TcpStream::connect(address(&at)).await.unwrap();
    plain.write_all(&connect_v5("x", 2, 0, &[])).await.unwrap();
    plain.shutdown().await.unwrap();
    broker
        .until("refused", |now| now.websocket_refused >= 4)
        .await;
    broker
        .until("closed", |now| now.connections_open == 0)
        .await;
    broker.stop().await;
}

fn proxied(trusted: Option<Vec<listener::config::Network>>) -> Config {
    Config {
        listeners: vec![listener::Config {
            proxy_protocol: Some(ProxyProtocol { trusted }),
            ..tcp("behind")
        }],
        ..config()
    }
}

/// A header of version 2 for TCP over IPv4 from 192.0.2.7:4242, with an extension.
fn proxy_v2(command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([0x20 | command, 0x11, 0, 12 + 4]);
    header.extend([192, 0, 2, 7, 127, 0, 0, 1, 0x10, 0x92, 0x07, 0x5B]);
    header.extend([0x04, 0, 1, 0]);
    header
}

#[tokio::test]
async fn behind_a_load_balancer_the_client_s_address_is_the_one_it_says() {
    let (broker, at) = run(proxied(Some(vec!["127.0.0.0/8".parse().unwrap()]))).await;
    let v1 = b"PROXY TCP6 2001:db8::7 ::1 4242 1883\r\n".to_vec();
    let local = proxy_v2(0);
    for (header, expect) in [
        (proxy_v2(1), Some("192.0.2.7:4242")),
        (v1, Some("[2001:db8::7]:4242")),
        (local, None),
    ] {
        let mut stream = TcpStream::connect(address(&at)).await.unwrap();
        let own = stream.local_addr().unwrap();
        // Together with what follows, in one segment.
        let bytes = [&header[..], &connect_v4("p", 2, 0)].concat();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.unwrap();
        still_works(&mut stream, "p").await.unwrap();
        let expect = expect.map_or(own, |text| text.parse().unwrap());
        assert_eq!(
            broker.gateway.publishers().last().unwrap().address,
            Some(expect)
        );
    }
    broker.stop().await;
}

#[tokio::test]
async fn without_a_header_or_from_elsewhere_nobody_comes_in() {
    let (broker, at) = run(proxied(None)).await;
    let mut too_long = b"PROXY TCP4 ".to_vec();
    too_long.resize(200, b'1');
    for (before, bytes) in [
        connect_v4("no header at all", 2, 0),
        too_long,
        b"PROXY TCP4 1.2.3.4 nonsense 1 2\r\n".to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stream = TcpStream::connect(address(&at)).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        broker
            .until("refused", |now| now.proxy_refused == before as u64 + 1)
            .await;
    }
    broker.stop().await;

    let (broker, at) = run(proxied(Some(vec!["10.0.0.0/8".parse().unwrap()]))).await;
    let mut stream = TcpStream::connect(address(&at)).await.unwrap();
    stream.write_all(&proxy_v2(1)).await.unwrap();
    broker.until("refused", |now| now.proxy_refused == 1).await;
    broker.stop().await;
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

#[tokio::test]
async fn a_subscriber_that_reads_nothing_over_tls_is_bounded_like_any_other() {
    let files = Files::new();
    let mut config = with_tls(files.tls(ClientCertificate::None));
    config.listeners.push(tcp("plain"));
    let (broker, at) = run(config).await;
    let connector = files.client(&[&TLS13], None);
    let mut deaf = connect_tls(&connector, address(&at)).await.unwrap();
    works(&mut deaf, "deaf").await.unwrap();
    deaf.write_all(&[0x82, 6, 0, 1, 0, 1, b't', 0])
        .await
        .unwrap();
    let mut answer = [0; 5];
    deaf.read_exact(&mut answer).await.unwrap();
    let mut loud = TcpStream::connect(at[1].address.unwrap()).await.unwrap();
    works(&mut loud, "loud").await.unwrap();
    let payload = "x".repeat(100_000);
    for _ in 0..300 {
        loud.write_all(&publish_v4("t", 1, 7, &payload))
            .await
            .unwrap();
        let mut answer = [0; 4];
        timeout(LONG, loud.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
    }
    broker
        .until("drops", |now| now.dropped_queue_full > 0)
        .await;
    broker.stop().await;
}

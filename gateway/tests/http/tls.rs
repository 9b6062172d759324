//! HTTPS: who is answered in the clear, and how a certificate is exchanged.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use penstock::http::{Role, Token};
use penstock_broker::listener::config::{ClientCertificate, Tls};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};

use crate::gateway::{Gateway, LONG};

const TOKEN: &str = "a-token-of-the-admin";

/// A certificate of its own, in files.
fn certificate(dir: &Path) -> CertificateDer<'static> {
    let names = vec!["localhost".to_owned()];
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("a key");
    fs::write(dir.join("server.pem"), cert.pem()).expect("write");
    fs::write(dir.join("server.key"), signing_key.serialize_pem()).expect("write");
    cert.der().clone()
}

async fn with_tls(dir: &Path) -> Gateway {
    let files = Tls {
        certificate: dir.join("server.pem"),
        key: dir.join("server.key"),
        client_ca: None,
        client_crl: None,
        client_certificate: ClientCertificate::None,
    };
    Gateway::start_with(|config| {
        config.http.tls = Some(files);
        config.http.tokens = vec![Token {
            name: "ops".to_owned(),
            role: Role::Admin,
            secret: TOKEN.into(),
        }];
    })
    .await
}

/// The answer to a request over TLS, if the certificate is this one.
fn ask(http: SocketAddr, trusted: &CertificateDer<'static>, path: &str) -> Option<String> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
    let stream = TcpStream::connect(http).expect("connect");
    stream.set_read_timeout(Some(LONG)).expect("a time");
    let mut stream = StreamOwned::new(connection, stream);
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    // An end without a farewell is an end.
    stream.read_to_end(&mut answer).ok();
    Some(String::from_utf8(answer).expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_a_token_is_taken_encrypted_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let trusted = certificate(dir.path());
    let gateway = with_tls(dir.path()).await;
    let http = gateway.http;
    let answer = tokio::task::spawn_blocking(move || ask(http, &trusted, "/api/v1/status"));
    let answer = answer.await.expect("no panic").expect("an answer");
    assert!(answer.starts_with("HTTP/1.0 200"), "{answer}");

    let plain = gateway.with_token("GET", "/api/v1/status", TOKEN).await;
    assert_eq!(plain.status, 421, "{}", plain.body);
    let nobody = gateway.get("/api/v1/status").await;
    assert_eq!(
        nobody.status, 421,
        "nobody is asked for a token in the clear"
    );
    assert!(!nobody.head.contains("www-authenticate"));
    assert_eq!(gateway.get("/healthz").await.status, 200);

    // Commands of this machine say a key that is of no use to others.
    let running = gateway.running.clone();
    let said = tokio::task::spawn_blocking(move || running.request("GET", "/api/v1/status"));
    let said = said.await.expect("no panic").expect("an answer");
    assert_eq!(said["instance"], *gateway.running.note.instance);
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_while_the_gateway_runs() {
    let dir = tempfile::tempdir().expect("a directory");
    certificate(dir.path());
    let gateway = with_tls(dir.path()).await;
    let new = certificate(dir.path());
    let http = gateway.http;
    let taken = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        while ask(http, &new, "/healthz").is_none_or(|answer| !answer.contains(" 200 ")) {
            assert!(began.elapsed() < LONG, "the old one is still there");
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    taken.await.expect("the new one");
    gateway.stop().await;
}

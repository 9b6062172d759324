//! Who we are: passwords, tokens, certificates, signatures; and the way there.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::*;
use crate::{forward::testing::certificates::Certificates, tls::Files};

/// The `Authorization` of every request that the receiver got.
fn authorizations(receiver: &Receiver) -> Vec<String> {
    let requests = receiver.requests.lock().unwrap();
    let of = |request: &Request| {
        request.headers["authorization"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    requests.iter().map(of).collect()
}

fn at(address: SocketAddr) -> Config {
    Config::new(format!("http://{address}/events"))
}

fn misconfigured(outcomes: Outcomes) -> String {
    match outcomes {
        Err(Error::Misconfigured(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn user_and_password_or_a_token_go_with_every_request() {
    let basic = Auth::Basic {
        user: "plant".to_owned(),
        password: Secret::from("häßlich:"),
    };
    let expect = format!("Basic {}", STANDARD.encode("plant:häßlich:"));
    for (auth, expect) in [
        (basic, expect),
        (Auth::Bearer(Secret::from("t-1")), "Bearer t-1".to_owned()),
    ] {
        let (receiver, address) = Receiver::start([]).await;
        let http = http_with(Config {
            auth,
            ..at(address)
        });
        assert_eq!(http.send(batch(1..=2)).await, acknowledged(2));
        assert_eq!(authorizations(&receiver), [expect]);
    }
}

#[tokio::test]
async fn what_an_endpoint_sends_back_of_our_secrets_is_in_no_reason() {
    let echo = async |auth: Auth, headers: Vec<(String, Secret)>, secret: &str| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let said = format!("you said {secret}");
        let app = Router::new().route(
            "/events",
            post(async move || (StatusCode::FORBIDDEN, said.clone())),
        );
        tokio::spawn(async move { axum::serve(listener, app).await });
        let http = http_with(Config {
            auth,
            headers,
            ..at(address)
        });
        let reason = misconfigured(http.send(batch([1])).await);
        assert_eq!(reason, "403 Forbidden: you said ***");
        assert!(!format!("{http:?}").contains(secret), "{http:?}");
    };
    echo(Auth::Bearer(Secret::from("tok-1")), Vec::new(), "tok-1").await;
    let basic = Auth::Basic {
        user: "u".to_owned(),
        password: Secret::from("pass-1"),
    };
    echo(basic.clone(), Vec::new(), "pass-1").await;
    echo(basic, Vec::new(), &STANDARD.encode("u:pass-1")).await;
    let headers = vec![("Authorization".to_owned(), Secret::from("ApiKey key-1"))];
    echo(Auth::None, headers, "key-1").await;
}

/// A service that gives out `token-1`, `token-2` and so on, or says no.
#[derive(Debug)]
struct Service {
    asked: Mutex<Vec<(String, String)>>,
    says: Mutex<VecDeque<(u16, &'static str)>>,
    expires_in: u64,
}

impl Service {
    async fn start(
        says: impl IntoIterator<Item = (u16, &'static str)>,
        expires_in: u64,
    ) -> (Arc<Self>, String) {
        let service = Arc::new(Self {
            asked: Mutex::default(),
            says: Mutex::new(says.into_iter().collect()),
            expires_in,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let app = Router::new()
            .route("/token", post(give))
            .with_state(service.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (service, url)
    }

    fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().unwrap().clone()
    }
}

async fn give(
    State(service): State<Arc<Service>>,
    headers: Headers,
    body: String,
) -> Response<Body> {
    let authorization = headers.get("authorization");
    let authorization = authorization.map_or("", |value| value.to_str().unwrap());
    let mut asked = service.asked.lock().unwrap();
    asked.push((authorization.to_owned(), body));
    let (status, said) = match service.says.lock().unwrap().pop_front() {
        Some((status, said)) => (status, said.to_owned()),
        None => {
            let (n, expires_in) = (asked.len(), service.expires_in);
            let token = format!("\"access_token\":\"token-{n}\"");
            let said = format!("{{{token},\"token_type\":\"Bearer\",\"expires_in\":{expires_in}}}");
            (200, said)
        }
    };
    Response::builder()
        .status(status)
        .header("retry-after", "7")
        .body(said.into())
        .unwrap()
}

fn oauth2(token_url: String) -> Auth {
    Auth::Oauth2(Oauth2 {
        token_url,
        client_id: "plant 7".to_owned(),
        client_secret: Secret::from("hush-hush"),
        scope: Some("events.write".to_owned()),
        audience: None,
        in_form: false,
    })
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_kept_until_shortly_before_it_runs_out() {
    let (service, url) = Service::start([], 3_600).await;
    let (receiver, address) = Receiver::start([]).await;
    let http = http_with(Config {
        auth: oauth2(url),
        ..at(address)
    });
    for n in 1..=3 {
        assert_eq!(http.send(batch([n])).await, acknowledged(1));
    }
    let expect = format!("Basic {}", STANDARD.encode("plant%207:hush-hush"));
    let form = "grant_type=client_credentials&scope=events.write".to_owned();
    assert_eq!(service.asked(), [(expect, form)]);
    pass(Duration::from_secs(3_541)).await;
    assert_eq!(http.send(batch([4])).await, acknowledged(1));
    assert_eq!(service.asked().len(), 2);
    assert_eq!(
        authorizations(&receiver),
        ["token-1", "token-1", "token-1", "token-2"].map(|token| format!("Bearer {token}"))
    );
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once_and_then_a_person_is_needed() {
    let (service, url) = Service::start([], 3_600).await;
    let script = [
        Answer::Refuse(401),
        Answer::Take,
        Answer::Refuse(401),
        Answer::Refuse(401),
    ];
    let (receiver, address) = Receiver::start(script).await;
    let http = http_with(Config {
        auth: oauth2(url),
        ..at(address)
    });
    assert_eq!(http.send(batch([1])).await, acknowledged(1));
    assert_eq!(service.asked().len(), 2);
    let reason = misconfigured(http.send(batch([2])).await);
    assert!(reason.starts_with("401"), "{reason}");
    assert_eq!(service.asked().len(), 3);
    assert_eq!(
        authorizations(&receiver),
        ["token-1", "token-2", "token-2", "token-3"].map(|token| format!("Bearer {token}"))
    );
    // The same batch under the same key, whatever the token.
    let requests = receiver.requests.lock().unwrap();
    assert_eq!(requests[0].key, requests[1].key);
}

#[tokio::test]
async fn a_service_that_gives_no_token_is_away_or_needs_a_person() {
    let said = r#"{"error":"invalid_client","error_description":"hush-hush is no secret"}"#;
    let refusals = [(401, said), (503, ""), (200, "<html>")];
    let (_, url) = Service::start(refusals, 60).await;
    let (receiver, address) = Receiver::start([]).await;
    let http = http_with(Config {
        auth: oauth2(url),
        ..at(address)
    });
    assert_eq!(
        misconfigured(http.send(batch([1])).await),
        "the token service: 401 Unauthorized: invalid_client: *** is no secret"
    );
    assert_eq!(
        http.send(batch([1])).await,
        Err(Error::Unavailable {
            reason: "the token service: 503 Service Unavailable".to_owned(),
            retry_after: Some(Duration::from_secs(7)),
        })
    );
    let reason = misconfigured(http.send(batch([1])).await);
    assert!(reason.contains("something else than a token"), "{reason}");
    assert!(receiver.requests.lock().unwrap().is_empty());
    // Nothing was posted, so nothing is in doubt.
    assert!(http.in_doubt().is_none());
    assert_eq!(http.send(batch([1])).await, acknowledged(1));
}

#[tokio::test]
async fn a_signature_is_over_the_time_and_the_bytes_that_were_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let got: Arc<Mutex<Vec<(Headers, Payload)>>> = Arc::default();
    let keep = got.clone();
    let app = Router::new().route(
        "/events",
        post(async move |headers: Headers, body: Payload| {
            keep.lock().unwrap().push((headers, body));
        }),
    );
    tokio::spawn(async move { axum::serve(listener, app).await });
    let http = http_with(Config {
        signature: Some(Signature {
            secret: Secret::from("0123456789abcdef"),
            header: "x-hub-signature-256".to_owned(),
            timestamp_header: "x-hub-time".to_owned(),
        }),
        ..at(address)
    });
    assert_eq!(http.send(batch(1..=3)).await, acknowledged(3));
    let (headers, body) = got.lock().unwrap()[0].clone();
    assert_eq!(headers["content-encoding"], "gzip");
    // As the documentation tells receivers to verify it.
    let time = headers["x-hub-time"].to_str().unwrap();
    let said = headers["x-hub-signature-256"].to_str().unwrap();
    let said = said.strip_prefix("sha256=").unwrap();
    let digits = said.as_bytes().chunks(2);
    let said: Vec<u8> = digits
        .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap())
        .collect();
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"0123456789abcdef");
    let signed = [time.as_bytes(), b".", &body[..]].concat();
    ring::hmac::verify(&key, &signed, &said).unwrap();
    let now = SystemClock.now().as_millis() / 1_000;
    assert!((now - time.parse::<i64>().unwrap()).abs() < 600, "{time}");
}

#[tokio::test]
async fn a_proxy_is_asked_for_the_whole_address_with_its_own_password() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        let mut head = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let mut stream = lines.into_inner().into_inner();
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
        head
    });
    let http = http_with(Config {
        proxy: Proxy::At(format!("http://u:p@{proxy}").into()),
        gzip: false,
        ..Config::new("http://lake.example/events")
    });
    assert_eq!(http.send(batch([1])).await, acknowledged(1));
    let head = asked.await.unwrap();
    assert_eq!(head[0], "POST http://lake.example/events HTTP/1.1");
    let expect = format!("proxy-authorization: Basic {}", STANDARD.encode("u:p"));
    assert!(
        head.iter().any(|line| line.eq_ignore_ascii_case(&expect)),
        "{head:?}"
    );
}

/// A proxy that opens tunnels for those who know its password. Gives what it was asked.
async fn tunnels(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let keep = asked.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            keep.lock()
                .unwrap()
                .extend(head.lines().next().map(ToOwned::to_owned));
            let word = format!("Basic {}", STANDARD.encode("u:p"));
            if !head.contains(&word) {
                let answer = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
                client.write_all(answer).await.unwrap();
                continue;
            }
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
            tokio::spawn(async move {
                tokio::io::copy_bidirectional(&mut client, &mut server)
                    .await
                    .ok()
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_opens_a_tunnel_in_which_the_endpoint_shows_its_own_certificate() {
    let known = Certificates::new();
    for name in ["localhost", "plant-7"] {
        known.issue(name);
    }
    let (endpoint, served) = serve(&known).await;
    let (proxy, asked) = tunnels(endpoint).await;
    let with = |url: &str, password: &str| {
        http_with(Config {
            tls: known.files(Some("plant-7")),
            proxy: Proxy::At(format!("http://u:{password}@{proxy}").into()),
            timeout: Duration::from_secs(10),
            ..Config::new(url)
        })
    };
    let url = format!("https://localhost:{}/events", endpoint.port());
    assert_eq!(with(&url, "p").send(batch([1])).await, acknowledged(1));
    let expect = format!("CONNECT localhost:{} HTTP/1.1", endpoint.port());
    assert_eq!(*asked.lock().unwrap(), [expect]);
    // One who answers behind the tunnel and is another is not talked to.
    let other = format!("https://other.example:{}/events", endpoint.port());
    let outcomes = with(&other, "p").send(batch([1])).await;
    assert!(
        matches!(outcomes, Err(Error::Unavailable { .. })),
        "{outcomes:?}"
    );
    let reason = misconfigured(with(&url, "wrong").send(batch([1])).await);
    assert!(reason.contains("proxy authorization required"), "{reason}");
    // It counts when it has answered, and so perhaps after the answer is here.
    let counted = async {
        while *served.lock().unwrap() == 0 {
            tokio::task::yield_now().await;
        }
    };
    let counted = tokio::time::timeout(Duration::from_secs(10), counted).await;
    counted.expect("the endpoint answered");
    assert_eq!(*served.lock().unwrap(), 1);
}

/// A server that takes only clients with a certificate of this authority, and says who
/// they were.
async fn serve(known: &Certificates) -> (SocketAddr, Arc<Mutex<usize>>) {
    let chain = certificates(&known.path("localhost.pem"));
    let key = PrivateKeyDer::from_pem_file(known.path("localhost.key")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for ca in certificates(&known.path("ca.pem")) {
        roots.add(ca).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    )
    .build()
    .unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::new(Mutex::new(0));
    let count = served.clone();
    std::thread::spawn(move || {
        let listener = listener.into_std().unwrap();
        listener.set_nonblocking(false).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut session = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut tls = rustls::Stream::new(&mut session, &mut stream);
            if one_request(&mut tls).is_ok() {
                *count.lock().unwrap() += 1;
            }
        }
    });
    (address, served)
}

fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    let found = CertificateDer::pem_file_iter(path).unwrap();
    found.map(Result::unwrap).collect()
}

/// Reads one request and answers it.
fn one_request(stream: &mut (impl std::io::Read + std::io::Write)) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body)?;
    stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")?;
    stream.flush()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_shows_who_we_are_and_a_new_one_is_taken_over() {
    let known = Certificates::new();
    for name in ["localhost", "plant-7"] {
        known.issue(name);
    }
    let stranger = Certificates::new();
    stranger.issue("plant-7");
    let (address, served) = serve(&known).await;
    let url = format!("https://localhost:{}/events", address.port());
    let with = |tls: Files| {
        http_with(Config {
            tls,
            timeout: Duration::from_secs(10),
            ..Config::new(&*url)
        })
    };
    let away = |outcomes: &Outcomes| matches!(outcomes, Err(Error::Unavailable { .. }));
    // Nobody, somebody whom nobody knows here, and a server that we do not know.
    assert!(away(&with(known.files(None)).send(batch([1])).await));
    let theirs = Files {
        ca: known.files(None).ca,
        ..stranger.files(Some("plant-7"))
    };
    let http = with(theirs);
    assert!(away(&http.send(batch([1])).await));
    assert!(away(&with(stranger.files(None)).send(batch([1])).await));
    assert_eq!(*served.lock().unwrap(), 0);

    assert_eq!(
        with(known.files(Some("plant-7"))).send(batch([1])).await,
        acknowledged(1)
    );
    // The files get a certificate that is known here.
    for file in ["plant-7.pem", "plant-7.key"] {
        std::fs::copy(known.path(file), stranger.path(file)).unwrap();
        let written = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let file = std::fs::File::options()
            .write(true)
            .open(stranger.path(file))
            .unwrap();
        file.set_modified(written).unwrap();
    }
    assert_eq!(http.send(batch([1])).await, acknowledged(1));
    // One that cannot be read leaves the old one in use.
    std::fs::write(stranger.path("plant-7.pem"), "nothing").unwrap();
    assert_eq!(http.send(batch([2])).await, acknowledged(1));
    // At the start there is no old one.
    let reason = misconfigured(with(stranger.files(Some("plant-7"))).send(batch([1])).await);
    assert!(reason.contains("plant-7.pem"), "{reason}");
}

#[test]
fn who_we_are_is_checked_before_anything_starts() {
    let check = |config: Config, expect: &str| {
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
        assert!(!error.contains("hush"), "{error}");
    };
    let new = || Config::new("http://127.0.0.1/");
    let token = Auth::Bearer(Secret::from("hush\nhush"));
    check(
        Config {
            auth: token,
            ..new()
        },
        "token",
    );
    check(
        Config {
            auth: Auth::Bearer(Secret::from("hush")),
            headers: vec![("authorization".to_owned(), Secret::from("hush"))],
            ..new()
        },
        "Authorization is made of",
    );
    check(
        Config {
            auth: oauth2("ftp://x".to_owned()),
            ..new()
        },
        "oauth2.token_url",
    );
    let proxy = |address: &str| Proxy::At(Secret::from(address));
    for address in ["u:hush@proxy", "ftp://u:hush@proxy", ""] {
        check(
            Config {
                proxy: proxy(address),
                ..new()
            },
            "http://HOST:PORT",
        );
    }
}

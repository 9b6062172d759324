//! TLS, its certificates, and what handshakes cost.

use super::*;

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

//! WebSockets, plain and secure.

use super::*;

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

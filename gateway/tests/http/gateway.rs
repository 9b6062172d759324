//! A gateway with its ports, and requests to it.

use std::{net::SocketAddr, time::Duration};

use penstock::{app::App, config::Config, running::Running};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Gateway {
    pub(crate) http: SocketAddr,
    pub(crate) mqtt: SocketAddr,
    /// What commands of this machine know of it.
    pub(crate) running: Running,
    shutdown: CancellationToken,
    ended: JoinHandle<anyhow::Result<()>>,
    _dir: TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut config = Config::defaults(dir.path());
        config.broker.listeners = vec![penstock_broker::listener::Config::tcp(
            ([127, 0, 0, 1], 0).into(),
        )];
        config.http.listen.set_port(0);
        change(&mut config);
        let app = App::build(config).await.expect("a gateway");
        let running = app.running();
        let shutdown = CancellationToken::new();
        Self {
            http: running.note.http,
            mqtt: running.note.mqtt.expect("TCP"),
            running,
            ended: tokio::spawn(app.run(shutdown.clone())),
            shutdown,
            _dir: dir,
        }
    }

    pub(crate) async fn ask(&self, request: &str) -> Answer {
        let mut stream = TcpStream::connect(self.http).await.expect("connect");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut text = String::new();
        let read = timeout(LONG, stream.read_to_string(&mut text)).await;
        read.expect("an answer in time").expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).expect("a status");
        Answer {
            status: status.parse().expect("a number"),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"))
            .await
    }

    /// A request with a token, an empty body, and what follows for a head.
    pub(crate) async fn with_token(&self, method: &str, path: &str, token: &str) -> Answer {
        self.ask(&format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
        ))
        .await
    }

    pub(crate) async fn change(&self, method: &str, path: &str) -> Answer {
        self.ask(&format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n"
        ))
        .await
    }

    /// Sends JSON, with another head line or none.
    pub(crate) async fn send(&self, method: &str, path: &str, head: &str, json: &str) -> Answer {
        let length = json.len();
        self.ask(&format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}Content-Length: {length}\r\n\r\n{json}"
        ))
        .await
    }

    /// Publishes at QoS 1 with MQTT 3.1.1 and waits for the acknowledgement.
    pub(crate) async fn publish(&self, topic: &str, payload: &[u8]) {
        let mut stream = TcpStream::connect(self.mqtt).await.expect("connect");
        let mut bytes = vec![
            0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 2, b'm', b'e',
        ];
        let remaining = 2 + topic.len() + 2 + payload.len();
        bytes.extend_from_slice(&[0x32, u8::try_from(remaining).expect("short"), 0]);
        bytes.push(u8::try_from(topic.len()).expect("short"));
        bytes.extend_from_slice(topic.as_bytes());
        bytes.extend_from_slice(&[0, 1]);
        bytes.extend_from_slice(payload);
        stream.write_all(&bytes).await.expect("write");
        let mut answer = [0; 8];
        let read = timeout(LONG, stream.read_exact(&mut answer)).await;
        read.expect("an acknowledgement in time")
            .expect("an acknowledgement");
        assert_eq!(answer, [0x20, 2, 0, 0, 0x40, 2, 0, 1]);
    }

    /// Publishes one after the other on one connection, at QoS 1, and waits for all
    /// acknowledgements.
    pub(crate) async fn publish_all(&self, topic: &str, payloads: &[String]) {
        let mut stream = TcpStream::connect(self.mqtt).await.expect("connect");
        let connect = [
            0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 2, b'm', b'e',
        ];
        stream.write_all(&connect).await.expect("write");
        let mut connack = [0; 4];
        let read = timeout(LONG, stream.read_exact(&mut connack)).await;
        read.expect("an answer in time").expect("an answer");
        for (n, payload) in (1_u16..).zip(payloads) {
            let mut remaining = 2 + topic.len() + 2 + payload.len();
            let mut bytes = vec![0x32];
            loop {
                let low = u8::try_from(remaining % 128).expect("7 bits");
                remaining /= 128;
                bytes.push(if remaining > 0 { low | 0x80 } else { low });
                if remaining == 0 {
                    break;
                }
            }
            bytes.push(0);
            bytes.push(u8::try_from(topic.len()).expect("short"));
            bytes.extend_from_slice(topic.as_bytes());
            bytes.extend_from_slice(&n.to_be_bytes());
            bytes.extend_from_slice(payload.as_bytes());
            stream.write_all(&bytes).await.expect("write");
            let mut puback = [0; 4];
            let read = timeout(LONG, stream.read_exact(&mut puback)).await;
            read.expect("an acknowledgement in time")
                .expect("an acknowledgement");
            assert_eq!(puback[..2], [0x40, 2]);
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let ended = timeout(LONG, self.ended).await.expect("an end in time");
        ended.expect("no panic").expect("an orderly end");
    }
}

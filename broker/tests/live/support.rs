//! A broker on a free port, a gateway under the test's control, a raw client.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use penstock_broker::{
    Admission, Admitted, Broker, Config, Error, Handle, Listening, Metrics, Publish, Publisher,
    Receipt, Verdict, auth::hook::Hook, listener,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Far beyond anything that works.
pub(crate) const LONG: Duration = Duration::from_secs(20);

type Judge = Box<dyn FnMut(&Publish) -> Verdict + Send>;

/// A gateway whose receipts wait for a gate.
pub(crate) struct Gateway {
    judge: Mutex<Judge>,
    taken: watch::Sender<Vec<(String, Publish)>>,
    publishers: Mutex<Vec<Arc<Publisher>>>,
    /// How many receipts may resolve, `usize::MAX` for all, and which one not.
    gate: watch::Sender<(usize, Option<usize>)>,
    receipts: Mutex<usize>,
}

impl Gateway {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            judge: Mutex::new(Box::new(|_| Verdict::Accepted)),
            taken: watch::Sender::new(Vec::new()),
            publishers: Mutex::default(),
            gate: watch::Sender::new((usize::MAX, None)),
            receipts: Mutex::new(0),
        })
    }

    pub(crate) fn judge(&self, judge: impl FnMut(&Publish) -> Verdict + Send + 'static) {
        *self.judge.lock().unwrap() = Box::new(judge);
    }

    /// Receipts beyond the first `count` wait.
    pub(crate) fn let_pass(&self, count: usize) {
        self.gate.send_replace((count, None));
    }

    /// Only this receipt waits.
    pub(crate) fn hold(&self, number: usize) {
        self.gate.send_replace((usize::MAX, Some(number)));
    }

    pub(crate) fn open(&self) {
        self.let_pass(usize::MAX);
    }

    pub(crate) fn taken(&self) -> Vec<(String, Publish)> {
        self.taken.borrow().clone()
    }

    /// Who sent each batch.
    pub(crate) fn publishers(&self) -> Vec<Arc<Publisher>> {
        self.publishers.lock().unwrap().clone()
    }

    pub(crate) fn payloads(&self) -> Vec<String> {
        self.taken
            .borrow()
            .iter()
            .map(|(_, publish)| text(publish))
            .collect()
    }

    pub(crate) async fn took(&self, count: usize) {
        let mut taken = self.taken.subscribe();
        let enough = taken.wait_for(|taken| taken.len() >= count);
        timeout(LONG, enough)
            .await
            .expect("publishes arrive")
            .unwrap();
    }
}

pub(crate) fn text(publish: &Publish) -> String {
    String::from_utf8_lossy(&publish.payload).into_owned()
}

impl Admission for Gateway {
    fn admit<'a>(&'a self, publisher: &'a Arc<Publisher>, batch: Vec<Publish>) -> Admitted<'a> {
        Box::pin(async move {
            let verdicts: Vec<Verdict> = {
                let mut judge = self.judge.lock().unwrap();
                batch.iter().map(&mut **judge).collect()
            };
            let number = {
                let mut receipts = self.receipts.lock().unwrap();
                *receipts += 1;
                *receipts
            };
            self.publishers.lock().unwrap().push(Arc::clone(publisher));
            let client = publisher.client_id.to_string();
            self.taken.send_modify(|taken| {
                taken.extend(batch.into_iter().map(|publish| (client.clone(), publish)));
            });
            let mut gate = self.gate.subscribe();
            let receipt: Receipt = Box::pin(async move {
                gate.wait_for(|(passing, held)| *passing >= number && *held != Some(number))
                    .await
                    .ok();
                verdicts
            });
            receipt
        })
    }
}

/// A running broker.
pub(crate) struct Running {
    /// Of the first listener that has one.
    pub(crate) address: SocketAddr,
    pub(crate) listening: Vec<Listening>,
    pub(crate) handle: Handle,
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), Error>>,
}

pub(crate) fn config() -> Config {
    Config {
        listeners: vec![listener::Config::tcp("127.0.0.1:0".parse().unwrap())],
        // So that counts of retained messages are the test's own.
        sys_interval: Duration::ZERO,
        ..Config::default()
    }
}

pub(crate) async fn start(config: Config) -> Running {
    serve(config.bind().await.unwrap())
}

pub(crate) async fn start_with_hook(config: Config, hook: Arc<dyn Hook>) -> Running {
    serve(config.bind().await.unwrap().with_hook(hook))
}

fn serve(broker: Broker) -> Running {
    let gateway = Gateway::new();
    let shutdown = CancellationToken::new();
    Running {
        address: {
            let first = broker.listening().iter().find_map(|one| one.address);
            first.unwrap_or_else(|| ([0, 0, 0, 0], 0).into())
        },
        listening: broker.listening(),
        handle: broker.handle(),
        gateway: Arc::clone(&gateway),
        shutdown: shutdown.clone(),
        task: tokio::spawn(broker.run(gateway, shutdown)),
    }
}

impl Running {
    /// Waits until the counters satisfy `check`.
    pub(crate) async fn until(&self, what: &str, check: impl Fn(&Metrics) -> bool) {
        let wait = async {
            while !check(&self.handle.metrics()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        if timeout(LONG, wait).await.is_err() {
            panic!("{what}: {:#?}", self.handle.metrics());
        }
    }

    pub(crate) async fn raw(&self) -> Client {
        Client {
            stream: TcpStream::connect(self.address).await.unwrap(),
            ready: VecDeque::new(),
        }
    }

    pub(crate) async fn v4(&self, id: &str) -> Client {
        let mut client = self.raw().await;
        client.send(&connect_v4(id, 0b10, 0)).await;
        client.expect(&[0x20, 2, 0, 0]).await;
        client
    }

    pub(crate) async fn v5(&self, id: &str) -> Client {
        self.v5_with(id, &[]).await
    }

    pub(crate) async fn v5_with(&self, id: &str, properties: &[u8]) -> Client {
        let mut client = self.raw().await;
        client.send(&connect_v5(id, 0b10, 0, properties)).await;
        let connack = client.packet().await;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "CONNACK with success");
        client
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        timeout(LONG, self.task)
            .await
            .expect("the broker stops")
            .unwrap()
            .unwrap();
    }
}

/// A socket that speaks bytes.
pub(crate) struct Client {
    stream: TcpStream,
    ready: VecDeque<u8>,
}

impl Client {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends to a broker that may have closed.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    async fn fill(&mut self, count: usize) -> bool {
        while self.ready.len() < count {
            let mut buffer = [0; 4096];
            let read = timeout(LONG, self.stream.read(&mut buffer)).await;
            match read.expect("bytes in time") {
                Ok(0) | Err(_) => return false,
                Ok(count) => self.ready.extend(&buffer[..count]),
            }
        }
        true
    }

    /// The next packet, whole; `None` at the end of the connection.
    pub(crate) async fn try_packet(&mut self) -> Option<Vec<u8>> {
        let mut header = 2;
        if !self.fill(header).await {
            assert!(self.ready.is_empty(), "half a packet: {:?}", self.ready);
            return None;
        }
        while self.ready[header - 1] & 0x80 != 0 {
            header += 1;
            assert!(self.fill(header).await, "the rest of a packet");
        }
        let body = (1..header)
            .rev()
            .fold(0, |len, at| len << 7 | usize::from(self.ready[at] & 0x7F));
        assert!(self.fill(header + body).await, "the rest of a packet");
        Some(self.ready.drain(..header + body).collect())
    }

    pub(crate) async fn packet(&mut self) -> Vec<u8> {
        self.try_packet()
            .await
            .expect("a packet, not the end of the connection")
    }

    pub(crate) async fn expect(&mut self, bytes: &[u8]) {
        assert_eq!(self.packet().await, bytes);
    }

    /// The connection ends, with nothing more said.
    pub(crate) async fn expect_end(&mut self) {
        assert_eq!(self.try_packet().await, None);
    }

    /// MQTT 5: a DISCONNECT with this reason, then the end.
    pub(crate) async fn expect_disconnect(&mut self, reason: u8) {
        let packet = self.packet().await;
        assert_eq!((packet[0], packet[2]), (0xE0, reason), "{packet:02x?}");
        self.expect_end().await;
    }

    /// A round trip: everything before it is handled, nothing else is waiting.
    pub(crate) async fn ping(&mut self) {
        self.send(&[0xC0, 0]).await;
        self.expect(&[0xD0, 0]).await;
    }

    pub(crate) async fn subscribe_v4(&mut self, filter: &str, qos: u8) {
        self.send(&packet(0x82, &[&[0, 99], &*string(filter), &[qos]]))
            .await;
        self.expect(&[0x90, 3, 0, 99, qos]).await;
    }

    pub(crate) async fn subscribe_v5(&mut self, filter: &str, options: u8) {
        self.send(&packet(0x82, &[&[0, 99, 0], &*string(filter), &[options]]))
            .await;
        self.expect(&[0x90, 4, 0, 99, 0, options & 3]).await;
    }

    /// Reset instead of an orderly close.
    pub(crate) fn abort(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

pub(crate) fn string(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// A variable byte integer.
pub(crate) fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = u8::try_from(value & 0x7F).unwrap();
        value >>= 7;
        bytes.push(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return bytes;
        }
    }
}

pub(crate) fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&[first][..], &varint(body.len()), &body].concat()
}

pub(crate) fn connect_v4(id: &str, flags: u8, keep_alive: u8) -> Vec<u8> {
    packet(
        0x10,
        &[&string("MQTT"), &[4, flags, 0, keep_alive], &string(id)],
    )
}

pub(crate) fn connect_v5(id: &str, flags: u8, keep_alive: u8, properties: &[u8]) -> Vec<u8> {
    let len = u8::try_from(properties.len()).unwrap();
    packet(
        0x10,
        &[
            &string("MQTT"),
            &[5, flags, 0, keep_alive, len],
            properties,
            &string(id),
        ],
    )
}

/// A PUBLISH of 3.1.1.
pub(crate) fn publish_v4(topic: &str, qos: u8, id: u8, payload: &str) -> Vec<u8> {
    let id: &[u8] = if qos > 0 { &[0, id] } else { &[] };
    packet(0x30 | qos << 1, &[&string(topic), id, payload.as_bytes()])
}

/// A PUBLISH of 5 with properties.
pub(crate) fn publish_v5(
    topic: &str,
    qos: u8,
    id: u8,
    properties: &[u8],
    payload: &str,
) -> Vec<u8> {
    let id: &[u8] = if qos > 0 { &[0, id] } else { &[] };
    let len = [u8::try_from(properties.len()).unwrap()];
    packet(
        0x30 | qos << 1,
        &[&string(topic), id, &len, properties, payload.as_bytes()],
    )
}

/// What a crash at this moment leaves of the broker's own file, elsewhere.
pub(crate) fn crash(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["broker.db", "broker.db-wal"] {
        std::fs::copy(dir.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

//! Ten thousand idle connections and a hostile client beside honest ones.
//!
//! A program of its own, because it takes more file descriptors than others leave. The
//! idle clients are another process, this program once more, so that what is measured
//! is the broker's memory.

#![allow(clippy::unwrap_used, reason = "a test that fails is to say where")]
#![allow(
    clippy::async_yields_async,
    reason = "an admission resolves to a receipt"
)]
#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "says why it was skipped, figures, and what the other process waits for"
)]

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use penstock_broker::{
    Admission, Admitted, Config, Limits, Publish, Publisher, Receipt, Verdict, listener,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const IDLE: usize = 10_000;
const HONEST: usize = 20;
const PUBLISHES: usize = 200;
const DESCRIPTORS: u64 = IDLE as u64 + 7_000;
/// Where the idle clients connect to, for the process that they are.
const ADDRESS: &str = "PENSTOCK_TEST_CROWD_ADDRESS";
const LONG: Duration = Duration::from_secs(60);
const MEMORY_MAX: usize = 64 * 1024 * 1024;

/// Takes everything and counts what honest clients send.
#[derive(Default)]
struct Counting {
    honest: AtomicUsize,
}

impl Admission for Counting {
    fn admit<'a>(&'a self, publisher: &'a Arc<Publisher>, batch: Vec<Publish>) -> Admitted<'a> {
        let count = batch.len();
        if publisher.client_id.starts_with("honest") {
            self.honest.fetch_add(count, Relaxed);
        }
        Box::pin(async move {
            let receipt: Receipt = Box::pin(async move { vec![Verdict::Accepted; count] });
            receipt
        })
    }
}

fn packet(first: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let (low, high) = (body.len() & 0x7F, body.len() >> 7);
    let mut bytes = vec![first];
    let low = u8::try_from(low).unwrap();
    if high > 0 {
        bytes.extend([low | 0x80, u8::try_from(high).unwrap()]);
    } else {
        bytes.push(low);
    }
    bytes.extend(body);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let len = u16::try_from(text.len()).unwrap().to_be_bytes();
    [&len[..], text.as_bytes()].concat()
}

async fn connect(address: SocketAddr, id: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let connect = packet(0x10, &[&string("MQTT"), &[4, 2, 0, 0], &string(id)]);
    stream.write_all(&connect).await.unwrap();
    expect(&mut stream, &[0x20, 2, 0, 0]).await;
    stream
}

async fn expect(stream: &mut TcpStream, bytes: &[u8]) {
    let mut answer = vec![0; bytes.len()];
    let read = timeout(LONG, stream.read_exact(&mut answer)).await;
    read.expect("an answer in time").unwrap();
    assert_eq!(answer, bytes);
}

fn memory() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().split_whitespace().next().unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

/// Whether this process may have as many descriptors as it takes.
fn raise_descriptors() -> bool {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit
        .current
        .map_or(DESCRIPTORS, |now| now.max(DESCRIPTORS));
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).is_ok()
}

/// Sends publishes as fast as they are taken, and reads nothing.
async fn flood(address: SocketAddr) {
    let mut stream = connect(address, "hostile flood").await;
    let one = packet(0x30, &[&string("idle/x"), &[b'x'; 1000]]);
    let many = one.repeat(64);
    while stream.write_all(&many).await.is_ok() {}
}

/// Subscribes to everything and reads nothing.
async fn hoard(address: SocketAddr, n: usize) {
    let mut stream = connect(address, &format!("hostile hoard {n}")).await;
    let subscribe = packet(0x82, &[&[0, 1], &string("#"), &[1]]);
    stream.write_all(&subscribe).await.unwrap();
    std::future::pending::<()>().await;
}

/// Begins connections and leaves them half open, as many as it is let.
async fn half_open(address: SocketAddr) {
    let mut held = Vec::new();
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            stream.write_all(&[0x10, 30, 0, 4]).await.ok();
            held.push(stream);
        }
        if held.len() > 2_000 {
            held.drain(..1_000);
        }
        tokio::task::yield_now().await;
    }
}

/// Sends nonsense over and over.
async fn nonsense(address: SocketAddr) {
    loop {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            stream.write_all(&[0xFF; 64]).await.ok();
            stream.read_u8().await.ok();
        }
        tokio::task::yield_now().await;
    }
}

/// The process of the idle clients.
struct Crowd {
    process: Child,
    said: mpsc::Receiver<String>,
}

impl Crowd {
    async fn gather(address: SocketAddr) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "idle_clients_for_the_other_test", "--nocapture"])
            .env(ADDRESS, address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (say, said) = mpsc::channel(16);
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if say.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        let mut crowd = Self { process, said };
        crowd.heard("all are connected").await;
        crowd
    }

    async fn heard(&mut self, what: &str) {
        let wait = async {
            while let Some(line) = self.said.recv().await {
                if line.contains(what) {
                    return;
                }
            }
            panic!("the idle clients ended before {what}");
        };
        timeout(2 * LONG, wait).await.expect(what);
    }

    /// Every tenth of them still has its session.
    async fn is_alive(&mut self) {
        let stdin = self.process.stdin.as_mut().unwrap();
        stdin.write_all(b"ping\n").unwrap();
        self.heard("all are alive").await;
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Not a test by itself: the idle clients, when [`Crowd`] runs this program again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_clients_for_the_other_test() {
    let Ok(address) = std::env::var(ADDRESS) else {
        return;
    };
    let address: SocketAddr = address.parse().unwrap();
    assert!(raise_descriptors());
    let mut opening = JoinSet::new();
    for part in 0..100 {
        opening.spawn(async move {
            let mut part_of_all = Vec::new();
            for n in 0..IDLE / 100 {
                part_of_all.push(connect(address, &format!("idle {part} {n}")).await);
            }
            part_of_all
        });
    }
    let mut idle: Vec<TcpStream> = opening.join_all().await.into_iter().flatten().collect();
    println!("all are connected");
    // Nothing else is to be done meanwhile; the end of it is the end of the other test.
    while std::io::stdin().lines().next().is_some() {
        for stream in idle.iter_mut().step_by(10) {
            stream.write_all(&[0xC0, 0]).await.unwrap();
            expect(stream, &[0xD0, 0]).await;
        }
        println!("all are alive");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_clients_are_served_beside_ten_thousand_idle_ones_and_a_hostile_one() {
    if !raise_descriptors() {
        eprintln!("SKIPPED: it takes {DESCRIPTORS} file descriptors, and the system allows fewer");
        return;
    }
    let admission = Arc::new(Counting::default());
    let broker = Config {
        listeners: vec![listener::Config::tcp("127.0.0.1:0".parse().unwrap())],
        connections_max: IDLE + 3_000,
        limits: Limits {
            memory_max: MEMORY_MAX,
            ..Limits::default()
        },
        ..Config::default()
    }
    .bind()
    .await
    .unwrap();
    let (address, handle) = (broker.local_addr().unwrap(), broker.handle());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(broker.run(Arc::clone(&admission) as _, shutdown.clone()));

    let before = memory();
    let mut crowd = Crowd::gather(address).await;
    assert_eq!(handle.metrics().sessions_open, IDLE as u64);
    let each = memory().saturating_sub(before) / IDLE;
    eprintln!("{each} bytes for each idle connection");
    assert!(each < 24 * 1024, "{each} bytes for each idle connection");

    let mut hostile = JoinSet::new();
    hostile.spawn(flood(address));
    hostile.spawn(half_open(address));
    hostile.spawn(nonsense(address));
    for n in 0..10 {
        hostile.spawn(hoard(address, n));
    }
    let crowded = memory();
    let mut honest = JoinSet::new();
    for n in 0..HONEST {
        honest.spawn(async move {
            let mut stream = connect(address, &format!("honest {n}")).await;
            for _ in 0..PUBLISHES {
                let publish = packet(0x32, &[&string("honest/x"), &[0, 1], b"21.5"]);
                stream.write_all(&publish).await.unwrap();
                expect(&mut stream, &[0x40, 2, 0, 1]).await;
            }
        });
    }
    let mut most = crowded;
    while let Some(ended) = timeout(LONG, honest.join_next())
        .await
        .expect("honest clients are served")
    {
        ended.unwrap();
        most = most.max(memory());
    }
    assert_eq!(admission.honest.load(Relaxed), HONEST * PUBLISHES);
    let more = most.saturating_sub(crowded);
    eprintln!("{more} bytes more with the hostile ones");
    // The broker's memory, and what the hostile ones themselves hold here.
    assert!(more < 4 * MEMORY_MAX, "{more} bytes more");
    crowd.is_alive().await;
    let now = handle.metrics();
    assert!(now.sessions_open >= IDLE as u64);
    assert!(now.refused_protocol > 0 && now.publishes_in_qos0 > 0);
    assert!(now.dropped_queue_full + now.dropped_router > 0, "{now:#?}");
    eprintln!(
        "{} publishes of a flood, {} refused for waiting, {} for their rate, {} for nonsense",
        now.publishes_in_qos0, now.refused_waiting, now.refused_connect_rate, now.refused_protocol
    );
    hostile.shutdown().await;
    drop(crowd);
    shutdown.cancel();
    timeout(LONG, running)
        .await
        .expect("the broker ends")
        .unwrap()
        .unwrap();
}

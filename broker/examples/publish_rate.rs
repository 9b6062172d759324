//! How many QoS 1 publishes per second the front door acknowledges when the
//! gateway behind it keeps nothing: the ceiling for everything else.
//!
//! `cargo run --release -p penstock-broker --example publish_rate -- [seconds] [subscribers]`
#![allow(
    clippy::print_stdout,
    clippy::async_yields_async,
    reason = "a program for the terminal; an admission resolves to a receipt"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use penstock_broker::{
    Admission, Admitted, Config, Publish, Publisher, Receipt, Verdict, listener,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

const CONNECTIONS: usize = 50;
const WINDOW: usize = 100;
const PAYLOAD: usize = 200;

/// Takes everything, at once.
struct Nothing;

impl Admission for Nothing {
    fn admit<'a>(&'a self, _: &'a Arc<Publisher>, batch: Vec<Publish>) -> Admitted<'a> {
        Box::pin(async move {
            let receipt: Receipt = Box::pin(async move { vec![Verdict::Accepted; batch.len()] });
            receipt
        })
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let seconds: u64 = arguments.next().map_or(Ok(5), |text| text.parse())?;
    let subscribers: usize = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let config = Config {
        listeners: vec![listener::Config::tcp("127.0.0.1:0".parse()?)],
        ..Config::default()
    };
    let broker = config.bind().await?;
    let address = broker.local_addr().context("an address")?;
    let handle = broker.handle();
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(broker.run(Arc::new(Nothing), shutdown.clone()));

    for n in 0..subscribers {
        let mut stream = connect(address, &format!("subscriber-{n}")).await?;
        stream.write_all(b"\x82\x06\x00\x01\x00\x01#\x00").await?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
        });
    }
    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for n in 0..CONNECTIONS {
        let stream = connect(address, &format!("device-{n}")).await?;
        clients.push(tokio::spawn(load(
            stream,
            n,
            Arc::clone(&stop),
            Arc::clone(&acknowledged),
        )));
    }
    let began = Instant::now();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    stop.store(true, Relaxed);
    let elapsed = began.elapsed().as_secs_f64();
    let count = acknowledged.load(Relaxed);
    for client in clients {
        client.await??;
    }
    println!("{count} acknowledged in {elapsed:.2} s");
    println!(
        "{:.0} per second, load generator included",
        count as f64 / elapsed
    );
    println!("{:#?}", handle.metrics());
    shutdown.cancel();
    running.await??;
    Ok(())
}

async fn connect(address: std::net::SocketAddr, id: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut packet = vec![0x10, u8::try_from(12 + id.len())?];
    packet.extend(b"\x00\x04MQTT\x04\x02\x00\x00\x00");
    packet.push(u8::try_from(id.len())?);
    packet.extend(id.as_bytes());
    stream.write_all(&packet).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    ensure!(answer == [0x20, 2, 0, 0], "connected: {answer:?}");
    Ok(stream)
}

/// Keeps a full window of publishes in flight.
async fn load(
    mut stream: TcpStream,
    n: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
) -> Result<()> {
    let topic = format!("devices/device-{n}/telemetry");
    let body = 2 + topic.len() + 2 + PAYLOAD;
    let mut publish = vec![
        0x32,
        u8::try_from(body & 0x7F)? | 0x80,
        u8::try_from(body >> 7)?,
        0,
    ];
    publish.push(u8::try_from(topic.len())?);
    publish.extend(topic.as_bytes());
    let id_at = publish.len();
    publish.extend([0; 2]);
    publish.extend([b'x'; PAYLOAD]);
    let (mut id, mut free, mut rest) = (0_u16, WINDOW, 0);
    let mut answers = vec![0; 4 * WINDOW];
    while !stop.load(Relaxed) {
        let mut out = Vec::with_capacity(free * publish.len());
        for _ in 0..free {
            id = id.checked_add(1).unwrap_or(1);
            publish[id_at..id_at + 2].copy_from_slice(&id.to_be_bytes());
            out.extend(&publish);
        }
        stream.write_all(&out).await?;
        let read = stream
            .read(&mut answers)
            .await
            .context("acknowledgements")?;
        ensure!(read > 0, "the broker closed");
        free = (rest + read) / 4;
        rest = (rest + read) % 4;
        acknowledged.fetch_add(free as u64, Relaxed);
    }
    Ok(())
}

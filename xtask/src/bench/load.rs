//! The load: devices on bare sockets, as cheap as they can be, so that the
//! machine's time goes to the broker. The same bytes go to every broker.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

/// How to load a broker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// Connections.
    pub(super) connections: usize,
    /// Devices, each on one of the connections, whose turns it shares with others; as many
    /// as connections, at least.
    pub(super) devices: usize,
    /// Unacknowledged publishes of a device, at most.
    pub(super) window: u16,
    /// Bytes of a payload.
    pub(super) payload_bytes: usize,
    /// Publishes per second of all devices together; `None` is as fast as the window lets.
    pub(super) rate: Option<u32>,
    /// How long to measure.
    pub(super) measured: Duration,
    /// How long to load before.
    pub(super) warm_up: Duration,
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Measured {
    /// QoS 1 publishes acknowledged per second.
    pub(super) acked_per_sec: f64,
    /// Acknowledged in all, warm-up included.
    pub(super) acked: u64,
    /// From writing a publish to reading its PUBACK, in microseconds. Only with a rate.
    pub(super) latency_us: Histogram<u64>,
}

/// Loads the broker at `address`.
pub(super) async fn run(address: SocketAddr, shape: Shape) -> Result<Measured> {
    let acked = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let boot = format!("{:08x}", rand::random::<u32>());
    let mut devices = tokio::task::JoinSet::new();
    for n in 0..shape.connections {
        let device = Device::connect(address, n, &boot, shape).await?;
        devices.spawn(device.publish(acked.clone(), stop.clone()));
    }
    tokio::time::sleep(shape.warm_up).await;
    let (start, before) = (Instant::now(), acked.load(Ordering::Relaxed));
    tokio::time::sleep(shape.measured).await;
    let (elapsed, after) = (start.elapsed(), acked.load(Ordering::Relaxed));
    stop.store(true, Ordering::Relaxed);
    let mut latency_us = histogram()?;
    while let Some(device) = devices.join_next().await {
        latency_us.add(device??)?;
    }
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate needs no more than 53 bits"
    )]
    let acked_per_sec = (after - before) as f64 / elapsed.as_secs_f64();
    Ok(Measured {
        acked_per_sec,
        acked: acked.load(Ordering::Relaxed),
        latency_us,
    })
}

/// Connects devices that then say nothing; they stay connected until dropped.
pub(super) async fn idle(address: SocketAddr, connections: usize) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::with_capacity(connections);
    for n in 0..connections {
        streams.push(connect(address, &format!("idle-{n}")).await?);
    }
    Ok(streams)
}

/// One device publishes once, and waits until it is kept.
pub(super) async fn one(address: SocketAddr) -> Result<()> {
    let mut stream = connect(address, "bench-one").await?;
    let mut packet = Vec::new();
    let boot = format!("{:08x}", rand::random::<u32>());
    Frame::new("bench-one", &boot, 200)?.write(1, &mut packet);
    stream.write_all(&packet).await?;
    let mut ack = [0; 4];
    stream.read_exact(&mut ack).await.context("PUBACK")?;
    ensure!(ack[..2] == [0x40, 2], "expected PUBACK, got {ack:?}");
    Ok(())
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

pub(super) async fn connect(address: SocketAddr, client_id: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await.context("connect")?;
    stream.set_nodelay(true)?;
    hello(stream, client_id).await
}

/// CONNECT and its answer, over anything.
pub(super) async fn hello<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    client_id: &str,
) -> Result<S> {
    let id_len = u8::try_from(client_id.len())?;
    // Protocol level 4, clean session, keep-alive 0.
    let mut packet = vec![
        0x10,
        12 + id_len,
        0,
        4,
        b'M',
        b'Q',
        b'T',
        b'T',
        4,
        2,
        0,
        0,
        0,
        id_len,
    ];
    packet.extend_from_slice(client_id.as_bytes());
    stream.write_all(&packet).await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await.context("CONNACK")?;
    ensure!(connack == [0x20, 2, 0, 0], "refused: {connack:?}");
    Ok(stream)
}

/// One connection: sends up to its window, reads acknowledgements, sends again.
struct Device {
    stream: TcpStream,
    shape: Shape,
    /// Of the devices that it speaks for, in turn.
    frames: Vec<Frame>,
    turn: usize,
    packet_id: u16,
    /// When the publish with this packet id was written.
    sent_at: Vec<Instant>,
    in_flight: u16,
    unread: Vec<u8>,
    latency_us: Histogram<u64>,
}

impl Device {
    async fn connect(address: SocketAddr, n: usize, boot: &str, shape: Shape) -> Result<Self> {
        let devices = (n..shape.devices.max(n + 1)).step_by(shape.connections);
        let frames = devices.map(|n| Frame::new(&id_of(n), boot, shape.payload_bytes));
        Ok(Self {
            stream: connect(address, &id_of(n)).await?,
            shape,
            frames: frames.collect::<Result<_>>()?,
            turn: 0,
            packet_id: 0,
            sent_at: vec![Instant::now(); usize::from(u16::MAX) + 1],
            in_flight: 0,
            unread: Vec::with_capacity(64 * 1024),
            latency_us: histogram()?,
        })
    }

    async fn publish(
        mut self,
        acked: Arc<AtomicU64>,
        stop: Arc<AtomicBool>,
    ) -> Result<Histogram<u64>> {
        let mut out = Vec::with_capacity(64 * 1024);
        let started = Instant::now();
        let mut sent: u64 = 0;
        while !stop.load(Ordering::Relaxed) {
            let due = self.due(started, sent);
            out.clear();
            for _ in 0..due {
                let packet_id = self.write(&mut out);
                self.sent_at[usize::from(packet_id)] = Instant::now();
            }
            self.in_flight += due;
            sent += u64::from(due);
            if !out.is_empty() {
                self.stream.write_all(&out).await?;
            }
            if self.in_flight == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            // Paced devices must not wait for an acknowledgement to send the next.
            let patience = if self.shape.rate.is_some() { 1 } else { 10_000 };
            let read = self.stream.read_buf(&mut self.unread);
            match tokio::time::timeout(Duration::from_millis(patience), read).await {
                Ok(read) => ensure!(read? > 0, "the broker closed the connection"),
                Err(_) => ensure!(self.shape.rate.is_some(), "no acknowledgement in 10 s"),
            }
            acked.fetch_add(self.take_acks()?, Ordering::Relaxed);
        }
        // Leaves nothing in doubt: what was sent is acknowledged before the socket closes.
        while self.in_flight > 0 {
            let read = self.stream.read_buf(&mut self.unread);
            ensure!(
                tokio::time::timeout(Duration::from_secs(30), read).await?? > 0,
                "closed"
            );
            acked.fetch_add(self.take_acks()?, Ordering::Relaxed);
        }
        Ok(self.latency_us)
    }

    /// The next publish; gives its packet id.
    fn write(&mut self, out: &mut Vec<u8>) -> u16 {
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        self.turn = (self.turn + 1) % self.frames.len();
        self.frames[self.turn].write(self.packet_id, out);
        self.packet_id
    }

    /// How many publishes may go now.
    fn due(&self, started: Instant, sent: u64) -> u16 {
        let room = self.shape.window - self.in_flight;
        let Some(rate) = self.shape.rate else {
            return room;
        };
        let each = f64::from(rate) / self.shape.connections as f64;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count so far"
        )]
        let target = (started.elapsed().as_secs_f64() * each) as u64;
        u16::try_from(target.saturating_sub(sent))
            .unwrap_or(u16::MAX)
            .min(room)
    }

    fn take_acks(&mut self) -> Result<u64> {
        let mut acks = 0;
        let now = Instant::now();
        for ack in self.unread.chunks_exact(4) {
            ensure!(ack[..2] == [0x40, 2], "expected PUBACK, got {ack:?}");
            if self.shape.rate.is_some() {
                let packet_id = u16::from_be_bytes([ack[2], ack[3]]);
                let took = now - self.sent_at[usize::from(packet_id)];
                self.latency_us
                    .saturating_record(u64::try_from(took.as_micros())?.max(1));
            }
            acks += 1;
        }
        self.in_flight -= u16::try_from(acks)?;
        self.unread.drain(..usize::try_from(acks)? * 4);
        Ok(acks)
    }
}

fn id_of(n: usize) -> String {
    format!("bench-{n:04}")
}

/// A PUBLISH whose packet id and sequence number are patched in place.
struct Frame {
    bytes: Vec<u8>,
    packet_id_at: usize,
    sequence_at: usize,
    sequence: u64,
}

/// Digits of the sequence number; it never starts with 0, so that it is valid JSON.
const SEQUENCE_DIGITS: usize = 12;

impl Frame {
    fn new(device: &str, boot: &str, payload_bytes: usize) -> Result<Self> {
        let topic = format!("devices/{device}/telemetry");
        let head = r#"{"seq":"#;
        let mut payload = format!(
            r#"{head}{:0SEQUENCE_DIGITS$},"boot":"{boot}","temperature":21.57,"humidity":48.2,"pressure":1013.25,"door":false,"state":"running","note":""#,
            0
        );
        let rest = payload_bytes
            .checked_sub(payload.len() + 2)
            .context("payload too small")?;
        payload.extend(std::iter::repeat_n('x', rest));
        payload.push_str("\"}");
        let mut bytes = vec![0x32];
        let mut remaining = 2 + topic.len() + 2 + payload.len();
        while remaining > 127 {
            bytes.push(u8::try_from(remaining % 128)? | 128);
            remaining /= 128;
        }
        bytes.push(u8::try_from(remaining)?);
        bytes.extend_from_slice(&u16::try_from(topic.len())?.to_be_bytes());
        bytes.extend_from_slice(topic.as_bytes());
        let packet_id_at = bytes.len();
        bytes.extend_from_slice(&[0, 0]);
        let sequence_at = bytes.len() + head.len();
        bytes.extend_from_slice(payload.as_bytes());
        Ok(Self {
            bytes,
            packet_id_at,
            sequence_at,
            sequence: 10u64.pow(11),
        })
    }

    fn write(&mut self, packet_id: u16, out: &mut Vec<u8>) {
        self.sequence += 1;
        self.bytes[self.packet_id_at..][..2].copy_from_slice(&packet_id.to_be_bytes());
        let mut rest = self.sequence;
        for digit in self.bytes[self.sequence_at..][..SEQUENCE_DIGITS]
            .iter_mut()
            .rev()
        {
            *digit = b'0' + u8::try_from(rest % 10).expect("a digit");
            rest /= 10;
        }
        out.extend_from_slice(&self.bytes);
    }
}

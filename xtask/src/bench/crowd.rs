//! Many clients at once: idle connections over TCP and TLS, one publisher for a
//! thousand subscribers, and a thousand publishers for one.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        client::Resumption,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

use super::{
    load,
    server::{self, Server},
};

/// Connections made at the same time: more than a broker needs to be busy.
const AT_ONCE: usize = 32;
const PAYLOAD: usize = 200;
const TOPIC: &str = "crowd/all";

/// A certificate for 127.0.0.1 and the authority that it is from.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new() -> Result<Self> {
        let dir = TempDir::new()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        let certificate = params.signed_by(&key, &authority)?;
        fs::write(dir.path().join("ca.pem"), authority.pem())?;
        fs::write(dir.path().join("server.pem"), certificate.pem())?;
        fs::write(dir.path().join("server.key"), key.serialize_pem())?;
        Ok(Self { dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn client(&self) -> Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem"))?)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Every handshake a whole one, as of devices that have never been here.
        config.resumption = Resumption::disabled();
        Ok(TlsConnector::from(Arc::new(config)))
    }
}

/// Two addresses of one broker: plain and TLS.
struct Doors {
    server: Server,
    tls: SocketAddr,
}

fn mosquitto(files: &Files) -> Result<Doors> {
    let tls = server::free_port()?;
    let server = Server::mosquitto_with(&format!(
        "listener {} 127.0.0.1\nset_tcp_nodelay true\ncertfile {}\nkeyfile {}\n",
        tls.port(),
        files.path("server.pem").display(),
        files.path("server.key").display()
    ))?;
    Ok(Doors { server, tls })
}

fn penstock(binary: &Path, files: &Files, connections: usize) -> Result<Doors> {
    let tls = server::free_port()?;
    let seats = connections + 100;
    let server = Server::penstock_with(
        binary,
        &format!("connections_max = {seats}\n"),
        &format!(
            "[broker.limits]\nconnect_rate_max = 0\nconnect_rate_per_address_max = 0\n\
             [[broker.listener]]\nlisten = \"{tls}\"\n\
             tls = {{ certificate = \"{}\", key = \"{}\" }}\n\
             [[destination]]\nname = \"events\"\ntype = \"file\"\npath = \"events\"\nfiles_max = 2\n",
            files.path("server.pem").display(),
            files.path("server.key").display()
        ),
    )?;
    Ok(Doors { server, tls })
}

/// As many descriptors as the system allows, for us and the programs we start.
fn raise_descriptors(wanted: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).context("raise the number of open files")?;
    let enough = limit.maximum.is_none_or(|most| most > wanted as u64 + 100);
    ensure!(
        enough,
        "{wanted} connections need more open files than {:?}",
        limit.maximum
    );
    Ok(())
}

/// Idle connections: how fast they come and what each takes.
pub(super) async fn connections(binary: &Path, count: usize) -> Result<()> {
    raise_descriptors(count)?;
    let files = Files::new()?;
    println!("\n## {count} idle connections: connects per second, KiB resident each");
    for over_tls in [false, true] {
        for ours in [false, true] {
            let doors = if ours {
                penstock(binary, &files, count)?
            } else {
                mosquitto(&files)?
            };
            tokio::time::sleep(Duration::from_secs(1)).await;
            let before = doors.server.rss_bytes()?;
            let start = Instant::now();
            let held = if over_tls {
                connect_all(doors.tls, count, Some(files.client()?)).await?
            } else {
                connect_all(doors.server.mqtt, count, None).await?
            };
            let secs = start.elapsed().as_secs_f64();
            tokio::time::sleep(Duration::from_secs(3)).await;
            let grown = doors.server.rss_bytes()?.saturating_sub(before);
            println!(
                "{:<9} {:<4} {:>8.0}/s {:>8.1} KiB each, {:>7.1} MB in all",
                if ours { "Penstock" } else { "Mosquitto" },
                if over_tls { "TLS" } else { "TCP" },
                super::per_sec(held.len() as u64, secs),
                super::per_sec(grown / 1024, held.len() as f64),
                super::mega(doors.server.rss_bytes()?),
            );
        }
    }
    Ok(())
}

/// A connection that somebody holds.
type Held = Box<dyn Send>;

async fn connect_all(
    address: SocketAddr,
    count: usize,
    connector: Option<TlsConnector>,
) -> Result<Vec<Held>> {
    let mut held = Vec::with_capacity(count);
    let mut under_way = JoinSet::new();
    for n in 0..count {
        let connector = connector.clone();
        under_way.spawn(async move {
            let id = format!("idle-{n}");
            let stream = TcpStream::connect(address).await.context("connect")?;
            stream.set_nodelay(true)?;
            let held: Held = match connector {
                None => Box::new(load::hello(stream, &id).await?),
                Some(connector) => {
                    let name = ServerName::try_from("127.0.0.1")?;
                    let stream = connector.connect(name, stream).await.context("TLS")?;
                    Box::new(load::hello(stream, &id).await?)
                }
            };
            Ok::<_, anyhow::Error>(held)
        });
        if under_way.len() >= AT_ONCE {
            held.push(under_way.join_next().await.context("a connection")???);
        }
    }
    while let Some(one) = under_way.join_next().await {
        held.push(one??);
    }
    Ok(held)
}

/// One publisher for `count` subscribers, and `count` publishers for one.
pub(super) async fn fanout(binary: &Path, count: usize, secs: u64) -> Result<()> {
    raise_descriptors(2 * count)?;
    let files = Files::new()?;
    println!("\n## Deliveries per second at QoS 0, {PAYLOAD} B");
    for (publishers, subscribers) in [(1, count), (count, 1)] {
        for ours in [false, true] {
            let doors = if ours {
                penstock(binary, &files, 2 * count)?
            } else {
                mosquitto(&files)?
            };
            let (sent, heard, took) =
                deliver(doors.server.mqtt, publishers, subscribers, secs).await?;
            println!(
                "{:<9} {publishers} to {subscribers}: {:>8.0}/s delivered of {:>8.0}/s that were to be",
                if ours { "Penstock" } else { "Mosquitto" },
                super::per_sec(heard, took),
                super::per_sec(sent * subscribers as u64, took),
            );
        }
    }
    Ok(())
}

async fn deliver(
    address: SocketAddr,
    publishers: usize,
    subscribers: usize,
    secs: u64,
) -> Result<(u64, u64, f64)> {
    let heard = Arc::new(AtomicU64::new(0));
    let mut listening = JoinSet::new();
    for n in 0..subscribers {
        let mut stream = load::connect(address, &format!("subscriber-{n}")).await?;
        subscribe(&mut stream).await?;
        let heard = Arc::clone(&heard);
        listening.spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            // Every frame has the same size.
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                heard.fetch_add(read as u64, Relaxed);
            }
        });
    }
    let sent = Arc::new(AtomicU64::new(0));
    let stop = tokio::time::Instant::now() + Duration::from_secs(secs);
    let start = Instant::now();
    let mut publishing = JoinSet::new();
    for n in 0..publishers {
        let stream = load::connect(address, &format!("publisher-{n}")).await?;
        publishing.spawn(publish(stream, Arc::clone(&sent), stop));
    }
    while let Some(one) = publishing.join_next().await {
        one??;
    }
    // What is on its way still counts, and so does its time.
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = heard.load(Relaxed);
        if now == before {
            break;
        }
        before = now;
    }
    let took = start.elapsed().as_secs_f64() - 0.2;
    let frame = frame(0, 0)?.len() as u64;
    Ok((sent.load(Relaxed), before / frame, took))
}

async fn subscribe<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> Result<()> {
    let len = u8::try_from(2 + 2 + TOPIC.len() + 1)?;
    let mut packet = vec![0x82, len, 0, 1, 0, u8::try_from(TOPIC.len())?];
    packet.extend_from_slice(TOPIC.as_bytes());
    packet.push(0);
    stream.write_all(&packet).await?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await?;
    ensure!(answer == [0x90, 3, 0, 1, 0], "SUBACK: {answer:?}");
    Ok(())
}

fn frame(qos: u8, id: u16) -> Result<Vec<u8>> {
    let id_len = if qos > 0 { 2 } else { 0 };
    let body = 2 + TOPIC.len() + id_len + PAYLOAD;
    let mut frame = vec![0x30 | qos << 1, u8::try_from(body & 0x7F)? | 0x80];
    frame.push(u8::try_from(body >> 7)?);
    frame.extend_from_slice(&u16::try_from(TOPIC.len())?.to_be_bytes());
    frame.extend_from_slice(TOPIC.as_bytes());
    if qos > 0 {
        frame.extend_from_slice(&id.to_be_bytes());
    }
    frame.resize(3 + body, b'x');
    Ok(frame)
}

/// QoS 1 with one in flight, so that the broker is kept busy and not flooded.
async fn publish(
    mut stream: TcpStream,
    sent: Arc<AtomicU64>,
    stop: tokio::time::Instant,
) -> Result<()> {
    let frame = frame(1, 1)?;
    let mut answer = [0; 4];
    while tokio::time::Instant::now() < stop {
        stream.write_all(&frame).await?;
        stream.read_exact(&mut answer).await.context("PUBACK")?;
        sent.fetch_add(1, Relaxed);
    }
    Ok(())
}

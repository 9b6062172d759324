//! `cargo xtask bench`: how fast, against Mosquitto on the same machine in the
//! same run. Machines are noisy and drift, so both take turns and the ratio of
//! the medians is what counts.

mod backlog;
mod crowd;
mod destinations;
mod load;
mod server;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::tools::Tools;
use load::{Measured, Shape};
use server::Server;

/// Measure the whole line against Mosquitto.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Seconds that each measurement takes.
    #[arg(long, default_value_t = 8)]
    secs: u64,
    /// How often both brokers take their turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Measure this program instead of building one
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Only these parts: baseline, throughput, nats, latency, drain, memory, connections, fanout,
    /// store, and backlog and destinations, which take long and are not among all.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Idle connections that are made.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// Events of the backlog, at least: ten million, or half a million for each of destinations.
    #[arg(long)]
    events: Option<u64>,
    /// Hold destinations against this program instead of building one
    #[arg(long)]
    bare_client: Option<PathBuf>,
    /// Of the part destinations only these kinds, such as nats,kafka.
    #[arg(long, value_delimiter = ',')]
    destinations: Vec<String>,
    /// Devices that the part destinations has events of, instead of as many as each kind
    /// needs to be busy.
    #[arg(long)]
    devices: Option<usize>,
    /// Subscribers of one publisher, and publishers for one subscriber.
    #[arg(long, default_value_t = 1_000)]
    crowd: usize,
}

const FILE: &str =
    "[[destination]]\nname = \"events\"\ntype = \"file\"\npath = \"events\"\nfiles_max = 2\n";

fn shape(secs: u64, rate: Option<u32>) -> Shape {
    Shape {
        connections: 50,
        devices: 50,
        window: 100,
        payload_bytes: 200,
        rate,
        measured: Duration::from_secs(secs),
        warm_up: Duration::from_secs(2),
    }
}

impl Bench {
    pub(crate) fn run(&self) -> Result<()> {
        if self.only == ["baseline"] {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            return runtime.block_on(self.baseline());
        }
        let penstock = match &self.binary {
            Some(binary) => binary.clone(),
            None => build()?,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let all = self.only.is_empty();
            let part = |name: &str| all || self.only.iter().any(|only| only == name);
            if part("throughput") {
                self.throughput(&penstock).await?;
            }
            if part("nats") {
                self.nats(&penstock).await?;
            }
            if part("latency") {
                self.latency(&penstock).await?;
            }
            if part("drain") {
                self.drain(&penstock).await?;
            }
            if part("connections") {
                crowd::connections(&penstock, self.connections).await?;
            }
            if part("fanout") {
                crowd::fanout(&penstock, self.crowd, self.secs).await?;
            }
            if part("memory") {
                memory(&penstock).await?;
            }
            if self.only.iter().any(|only| only == "backlog") {
                backlog::backlog(&penstock, self.events.unwrap_or(10_000_000)).await?;
            }
            if self.only.iter().any(|only| only == "destinations") {
                let events = self.events.unwrap_or(500_000);
                let bare = match &self.bare_client {
                    Some(program) => program.clone(),
                    None => destinations::bare_client()?,
                };
                let plan = destinations::Plan {
                    penstock: penstock.clone(),
                    bare,
                    events,
                    rounds: self.rounds,
                    devices: self.devices,
                    kinds: self.destinations.clone(),
                };
                destinations::destinations(plan).await?;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        if self.only.is_empty() || self.only.iter().any(|only| only == "store") {
            println!("\n## Store writer alone");
            let status = crate::cargo()?
                .args([
                    "bench",
                    "--quiet",
                    "--package",
                    "penstock",
                    "--bench",
                    "store",
                ])
                .status()?;
            ensure!(status.success(), "the store bench failed");
        }
        Ok(())
    }

    async fn unpaced(&self, server: &Server) -> Result<Measured> {
        load::run(server.mqtt, shape(self.secs, None)).await
    }

    /// Mosquitto alone, to see what the machine gives at the moment.
    async fn baseline(&self) -> Result<()> {
        let (mut figures, mut bridged) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let mosquitto = Server::mosquitto()?;
            figures.push(self.unpaced(&mosquitto).await?.acked_per_sec);
            let bridge = Server::mosquitto_bridge(&mosquitto)?;
            bridged.push(self.unpaced(&bridge).await?.acked_per_sec);
        }
        row("Mosquitto, from memory", &figures, &figures);
        row(
            "Mosquitto, from memory, bridged to a second",
            &bridged,
            &figures,
        );
        Ok(())
    }

    /// QoS 1, durable, deduplicated, normalised, forwarded to a file.
    async fn throughput(&self, penstock: &Path) -> Result<()> {
        println!("\n## QoS 1 acknowledged per second (50 connections, window 100, 200 B)");
        let (mut theirs, mut bridged) = (Vec::new(), Vec::new());
        let (mut ours, mut delivered) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let mosquitto = Server::mosquitto()?;
            theirs.push(self.unpaced(&mosquitto).await?.acked_per_sec);
            let bridge = Server::mosquitto_bridge(&mosquitto)?;
            bridged.push(self.unpaced(&bridge).await?.acked_per_sec);
            drop((mosquitto, bridge));
            let gateway = Server::penstock(penstock, FILE)?;
            let measured = self.unpaced(&gateway).await?;
            ours.push(measured.acked_per_sec);
            delivered.push(whole(&gateway, &measured).await?);
        }
        row("Mosquitto, from memory", &theirs, &theirs);
        row(
            "Mosquitto, from memory, bridged to a second",
            &bridged,
            &theirs,
        );
        row("Penstock, on disk, acknowledged", &ours, &theirs);
        row(
            "Penstock, delivered to a file in the same time",
            &delivered,
            &theirs,
        );
        Ok(())
    }

    /// The same, forwarded to JetStream.
    async fn nats(&self, penstock: &Path) -> Result<()> {
        let Some(nats) = nats_path() else {
            println!("\nSKIPPED: NATS, no nats-server");
            return Ok(());
        };
        println!("\n## The same with NATS JetStream on the same two cores");
        let (mut ours, mut delivered) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let stream = Server::nats(&nats, server::free_port()?)?;
            let gateway = Server::penstock(penstock, &nats_destination(&stream))?;
            let measured = self.unpaced(&gateway).await?;
            ours.push(measured.acked_per_sec);
            delivered.push(whole(&gateway, &measured).await?);
        }
        row("acknowledged", &ours, &ours);
        row("delivered, until nothing was left", &delivered, &ours);
        Ok(())
    }

    /// Acknowledgement latency at a modest pace.
    async fn latency(&self, penstock: &Path) -> Result<()> {
        println!("\n## Acknowledgement latency at 5,000 msg/s, microseconds");
        for _ in 0..self.rounds {
            let mosquitto = Server::mosquitto()?;
            print_latency(
                "Mosquitto",
                &load::run(mosquitto.mqtt, shape(self.secs, Some(5000))).await?,
            );
            drop(mosquitto);
            let gateway = Server::penstock(penstock, FILE)?;
            print_latency(
                "Penstock",
                &load::run(gateway.mqtt, shape(self.secs, Some(5000))).await?,
            );
        }
        Ok(())
    }

    /// How fast a backlog goes once its destination is back, while ingest goes on.
    async fn drain(&self, penstock: &Path) -> Result<()> {
        const RATE: u32 = 10_000;
        let Some(nats) = nats_path() else {
            println!("\nSKIPPED: drain, no nats-server");
            return Ok(());
        };
        println!("\n## Drain after an outage, while {RATE} msg/s come in");
        let port = server::free_port()?;
        let stream = Server::nats(&nats, port)?;
        let gateway = Server::penstock(penstock, &nats_destination(&stream))?;
        load::run(gateway.mqtt, shape(1, Some(1000))).await?;
        drop(stream);
        let paced = shape(4 * self.secs, Some(RATE));
        load::run(gateway.mqtt, paced).await?;
        let stream = Server::nats(&nats, port)?;
        let load = tokio::spawn(load::run(gateway.mqtt, paced));
        let first = wait_for(&gateway, |d| {
            number(d, "backlog") == 0 || number(d, "delivered_per_sec") > 0
        })
        .await?;
        let (start, backlog, delivered) = (
            Instant::now(),
            number(&first, "backlog"),
            number(&first, "delivered"),
        );
        let last = wait_for(&gateway, |d| number(d, "backlog") < 1000).await?;
        let secs = start.elapsed().as_secs_f64();
        let drained = per_sec(number(&last, "delivered") - delivered, secs);
        println!(
            "backlog {backlog} gone in {secs:.1} s: {drained:.0}/s delivered, {:.1}x the ingest rate; {:.1} MB resident",
            drained / f64::from(RATE),
            mega(gateway.rss_bytes()?)
        );
        load.await??;
        drop(stream);
        Ok(())
    }
}

/// Resident memory: at rest, with idle connections, under load.
async fn memory(penstock: &Path) -> Result<()> {
    println!("\n## Resident memory, MB");
    let gateway = Server::penstock(penstock, FILE)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!(
        "idle                          {:>8.1}",
        mega(gateway.rss_bytes()?)
    );
    let idle = load::idle(gateway.mqtt, 1000).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!(
        "1,000 idle connections        {:>8.1}",
        mega(gateway.rss_bytes()?)
    );
    drop(idle);
    load::run(gateway.mqtt, shape(10, Some(5000))).await?;
    println!(
        "after 10 s of 5,000 msg/s     {:>8.1}",
        mega(gateway.rss_bytes()?)
    );
    load::run(gateway.mqtt, shape(10, None)).await?;
    println!(
        "after 10 s as fast as it goes {:>8.1}",
        mega(gateway.rss_bytes()?)
    );
    let status = gateway.status()?;
    let store = &status["store"];
    println!(
        "of that, remembered keys      {:>8.1}  ({} keys)",
        mega(number(store, "dedup_bytes")),
        number(store, "dedup_keys")
    );
    println!(
        "written to disk per event     {:>8.0}  bytes",
        per_sec(
            number(store, "written_bytes"),
            number(&status["ledger"], "stored").max(1) as f64
        )
    );
    Ok(())
}

/// Waits until everything acknowledged was delivered; how fast that was over all.
async fn whole(gateway: &Server, measured: &Measured) -> Result<f64> {
    let left = number(&destination(&gateway.status()?)?, "backlog");
    let start = Instant::now();
    let done = wait_for(gateway, |d| number(d, "backlog") == 0).await?;
    let status = gateway.status()?;
    ensure!(
        number(&status["ledger"], "accepted") == measured.acked
            && number(&done, "delivered") == measured.acked,
        "{} acknowledged, but the ledger says {status}",
        measured.acked
    );
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate needs no more than 53 bits"
    )]
    let secs = measured.acked as f64 / measured.acked_per_sec;
    println!(
        "  {left} left at the end of the load, delivered {:.2} s later",
        start.elapsed().as_secs_f64()
    );
    Ok(per_sec(
        measured.acked,
        secs + start.elapsed().as_secs_f64(),
    ))
}

async fn wait_for(
    gateway: &Server,
    done: impl Fn(&serde_json::Value) -> bool,
) -> Result<serde_json::Value> {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let destination = destination(&gateway.status()?)?;
        if done(&destination) {
            return Ok(destination);
        }
        ensure!(
            Instant::now() < deadline,
            "gave up waiting: {destination}\n{}",
            gateway.log()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn destination(status: &serde_json::Value) -> Result<serde_json::Value> {
    status["destinations"]
        .get(0)
        .cloned()
        .context("a destination in the status")
}

fn nats_destination(stream: &Server) -> String {
    format!(
        "[[destination]]\nname = \"stream\"\ntype = \"nats\"\nservers = [\"nats://{}\"]\n\
         stream = \"BENCH\"\nsubject = \"bench.{{device}}\"\ncreate_stream = true\n",
        stream.mqtt
    )
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts, for people"
)]
fn number(object: &serde_json::Value, name: &str) -> u64 {
    object[name].as_f64().unwrap_or_default() as u64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a rate needs no more than 53 bits"
)]
fn per_sec(count: u64, secs: f64) -> f64 {
    count as f64 / secs
}

#[expect(clippy::cast_precision_loss, reason = "megabytes, for people")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn row(what: &str, figures: &[f64], against: &[f64]) {
    let each: Vec<String> = figures
        .iter()
        .map(|figure| format!("{figure:.0}"))
        .collect();
    println!(
        "{what:<48} median {:>9.0}   ratio {:.2}   [{}]",
        median(figures),
        median(figures) / median(against),
        each.join(" ")
    );
}

fn print_latency(what: &str, measured: &Measured) {
    let at = |percent| measured.latency_us.value_at_quantile(percent / 100.0);
    println!(
        "{what:<12} p50 {:>6}  p90 {:>6}  p99 {:>6}  p99.9 {:>6}  max {:>7}   at {:.0}/s",
        at(50.0),
        at(90.0),
        at(99.0),
        at(99.9),
        measured.latency_us.max(),
        measured.acked_per_sec
    );
}

/// The NATS server that the tests use.
fn nats_path() -> Option<PathBuf> {
    Tools::get(&crate::repository().ok()?).nats_server
}

/// The gateway as users run it.
fn build() -> Result<PathBuf> {
    let status = crate::cargo()?
        .args([
            "build",
            "--release",
            "--package",
            "penstock",
            "--bin",
            "penstock",
        ])
        .status()?;
    ensure!(status.success(), "cannot build the gateway");
    Ok(target().join("release/penstock"))
}

/// Where cargo puts what it builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

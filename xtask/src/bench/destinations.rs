//! How fast each kind of destination takes a backlog, and what that costs: one destination
//! at a time, on a machine that does nothing else. For NATS, Kafka and Kinesis a bare client
//! of the same library sends the same bytes to the same server in turn, and the ratio of the
//! medians is what counts. A kind that fails says so, and the others go on.

mod amazon;
mod far;
mod sink;

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    load::{self, Shape},
    median, number, per_sec, row,
    server::Server,
};
use far::{Far, KINDS};

/// All of it is kept, whatever its size.
const STORE: &str = "size_max = \"64GiB\"\n";
/// Seconds of load between two looks.
const PART: Duration = Duration::from_secs(1);
/// With fewer events than a second of load at full speed brings, it is paced.
const PACED_BELOW: u32 = 100_000;
/// How often the gateway is asked how far it is.
const LOOK: Duration = Duration::from_millis(25);
/// A drain that stands still for so long is given up.
const STANDS_STILL: Duration = Duration::from_secs(120);
/// What still works in the background after the load, such as the read side, gets so long.
const SETTLE: Duration = Duration::from_secs(60);
/// Processor time in a second of a gateway that does nothing.
const AT_REST: f64 = 0.05;
/// Connections of the load.
const CONNECTIONS: usize = 50;

/// Turns of a kind.
#[derive(Debug, Default)]
struct Figures {
    rates: Vec<f64>,
    /// Seconds of the gateway's processor time per million events.
    cpu_secs: Vec<f64>,
    bare: Vec<f64>,
    bare_cpu_secs: Vec<f64>,
}

/// What is measured, and with what.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) penstock: PathBuf,
    pub(super) bare: PathBuf,
    /// A backlog, about; a part of it where the far side is slow.
    pub(super) events: u64,
    pub(super) rounds: usize,
    /// Devices, where not as many as the kind needs.
    pub(super) devices: Option<usize>,
    /// Only these kinds, if there are any.
    pub(super) kinds: Vec<String>,
}

/// Drains a backlog to each of the kinds, `rounds` times, with the gateway and the bare
/// client.
pub(super) async fn destinations(plan: Plan) -> Result<()> {
    println!(
        "\n## Backlogs of {} events to one destination at a time",
        plan.events
    );
    for kind in &plan.kinds {
        ensure!(
            KINDS.contains(&kind.as_str()),
            "no destination {kind}: there are {KINDS:?}"
        );
    }
    let mut failed = Vec::new();
    for kind in KINDS {
        let is_wanted = match plan.kinds.is_empty() {
            true => !far::ONLY_WHEN_ASKED.contains(&kind),
            false => plan.kinds.iter().any(|only| only == kind),
        };
        if !is_wanted {
            continue;
        }
        // What starts servers panics where they do not start.
        let measuring = tokio::task::LocalSet::new();
        let plan = plan.clone();
        let measured = measuring.run_until(async move {
            tokio::task::spawn_local(async move { measure(kind, &plan).await }).await
        });
        let failure = match measured.await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => format!("{error:#}"),
            Err(error) => error.to_string(),
        };
        println!("FAILED: {kind}: {failure}");
        failed.push(kind);
    }
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

async fn measure(kind: &str, plan: &Plan) -> Result<()> {
    let Some(far) = Far::start(kind, plan.rounds).await? else {
        println!("SKIPPED: {kind}, its server is missing");
        return Ok(());
    };
    let figures = of_kind(plan, &far).await?;
    show(kind, &figures);
    Ok(())
}

async fn of_kind(plan: &Plan, far: &Far) -> Result<Figures> {
    let rounds = plan.rounds;
    let tables: String = (0..rounds).map(|round| far.destination(round)).collect();
    let gateway = Server::penstock_keeping(&plan.penstock, STORE, &tables)?;
    for round in 0..rounds {
        gateway.post(&format!("/api/v1/destinations/{}/pause", name(round)))?;
    }
    let devices = plan.devices.unwrap_or_else(|| far.devices());
    let kept = gather(&gateway, plan.events / far.slower(), devices).await?;
    settle(&gateway).await?;
    let mut figures = Figures::default();
    for round in 0..rounds {
        let (secs, cpu_secs) = drain(&gateway, &name(round), kept).await?;
        figures.rates.push(per_sec(kept, secs));
        figures.cpu_secs.push(per_million(cpu_secs, kept));
        far.check(&name(round), kept)?;
        let Some((kind, server)) = far.bare() else {
            continue;
        };
        far.prepare_bare(round);
        let output = Command::new(&plan.bare)
            .args([kind, "--server", &server])
            .args(["--from", &name(round), "--to", &format!("bare{round}")])
            .args(["--count", &kept.to_string()])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the bare client: {said}");
        let (secs, cpu_secs) = two_numbers(&String::from_utf8_lossy(&output.stdout))?;
        far.check(&format!("bare{round}"), kept)?;
        figures.bare.push(per_sec(kept, secs));
        figures.bare_cpu_secs.push(per_million(cpu_secs, kept));
    }
    Ok(figures)
}

/// What the destination of a round is called, and its stream or topic.
fn name(round: usize) -> String {
    format!("round{round}")
}

/// Lets devices publish until so many events wait; how many do.
async fn gather(gateway: &Server, events: u64, devices: usize) -> Result<u64> {
    let rate = u32::try_from(events).ok();
    let rate = rate.filter(|rate| *rate < PACED_BELOW);
    let mut kept = 0;
    while kept < events {
        let shape = Shape {
            connections: CONNECTIONS.min(devices.max(1)),
            devices,
            window: 100,
            payload_bytes: 200,
            rate,
            measured: PART,
            warm_up: Duration::ZERO,
        };
        load::run(gateway.mqtt, shape).await?;
        kept = number(&the(gateway, &name(0))?, "backlog");
    }
    Ok(kept)
}

/// Waits until what follows the journal has come to its end.
async fn settle(gateway: &Server) -> Result<()> {
    let deadline = Instant::now() + SETTLE;
    loop {
        let before = gateway.cpu_secs()?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        if gateway.cpu_secs()? - before < AT_REST || Instant::now() > deadline {
            return Ok(());
        }
    }
}

/// Lets all go; how long it took and how much processor time.
async fn drain(gateway: &Server, destination: &str, all: u64) -> Result<(f64, f64)> {
    let cpu_before = gateway.cpu_secs()?;
    let (began, mut moved, mut left) = (Instant::now(), Instant::now(), all);
    gateway.post(&format!("/api/v1/destinations/{destination}/resume"))?;
    while left > 0 {
        tokio::time::sleep(LOOK).await;
        let now = number(&the(gateway, destination)?, "backlog");
        if now < left {
            (left, moved) = (now, Instant::now());
        }
        ensure!(
            moved.elapsed() < STANDS_STILL,
            "{left} events are left and do not go:\n{}",
            gateway.log()
        );
    }
    let secs = began.elapsed().as_secs_f64();
    let cpu_secs = gateway.cpu_secs()? - cpu_before;
    let delivered = number(&the(gateway, destination)?, "delivered");
    ensure!(delivered == all, "{delivered} of {all} events delivered");
    Ok((secs, cpu_secs))
}

fn the(gateway: &Server, destination: &str) -> Result<serde_json::Value> {
    let status = gateway.status()?;
    let all = status["destinations"].as_array().context("destinations")?;
    let found = all.iter().find(|one| one["name"] == destination);
    Ok(found.context("the destination of the round")?.clone())
}

fn show(kind: &str, figures: &Figures) {
    row(
        &format!("{kind}, events/s acknowledged"),
        &figures.rates,
        &figures.rates,
    );
    println!(
        "{kind}: {:.2} s of processor time per million events",
        median(&figures.cpu_secs)
    );
    if !figures.bare.is_empty() {
        row(
            &format!("{kind}, a bare client"),
            &figures.bare,
            &figures.rates,
        );
        println!(
            "{kind}: the gateway reaches {:.2} of the bare client, which takes {:.2} s of processor time per million",
            median(&figures.rates) / median(&figures.bare),
            median(&figures.bare_cpu_secs)
        );
    }
}

fn two_numbers(text: &str) -> Result<(f64, f64)> {
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(second))) => Ok((first, second)),
        _ => bail!("the bare client said {text:?}"),
    }
}

fn per_million(secs: f64, events: u64) -> f64 {
    secs * 1e6 / per_sec(events, 1.0)
}

/// Builds the client that the gateway is held against.
pub(super) fn bare_client() -> Result<PathBuf> {
    let status = crate::cargo()?
        .args(["build", "--release", "--package", "bare-client"])
        .status()?;
    ensure!(status.success(), "cannot build the bare client");
    Ok(super::target().join("release/bare-client"))
}

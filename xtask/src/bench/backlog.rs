//! A large backlog: what it takes to keep, how long a start with it takes, how fast it goes,
//! and whether memory stays as it was.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{
    destination,
    load::{self, Shape},
    mega, number, per_sec,
    server::Server,
};

/// All of it is kept, whatever its size: by default the journal would be full before.
const STORE: &str = "size_max = \"64GiB\"\n";
/// What was delivered is deleted, so that the disk holds the backlog only.
const FILE: &str = "[[destination]]\nname = \"events\"\ntype = \"file\"\npath = \"events\"\n\
     rotate_size = \"64MiB\"\nfiles_max = 2\n";
/// Seconds of load between two looks.
const PART: Duration = Duration::from_secs(2);
/// A drain that stands still for so long is given up.
const STANDS_STILL: Duration = Duration::from_secs(60);

/// Gathers a backlog of `events`, kills the gateway, starts it again and lets all of it go.
pub(super) async fn backlog(penstock: &Path, events: u64) -> Result<()> {
    println!("\n## A backlog of {events} events of 200 B");
    let mut gateway = Server::penstock_keeping(penstock, STORE, FILE)?;
    gateway.post("/api/v1/destinations/events/pause")?;
    println!("resident at rest {:>26.1} MB", mega(gateway.rss_bytes()?));
    let began = Instant::now();
    let (mut kept, mut said) = (0, 0);
    while kept < events {
        let shape = Shape {
            connections: 50,
            devices: 50,
            window: 100,
            payload_bytes: 200,
            rate: None,
            measured: PART,
            warm_up: Duration::ZERO,
        };
        load::run(gateway.mqtt, shape).await?;
        kept = number(&destination(&gateway.status()?)?, "backlog");
        if kept >= said + events / 4 {
            said = kept;
            let resident = mega(gateway.rss_bytes()?);
            println!("resident with {kept:>10} of them {resident:>12.1} MB");
        }
    }
    let took = began.elapsed().as_secs_f64();
    let status = gateway.status()?;
    println!(
        "gathered {kept} in {took:.1} s, {:.0}/s; {:.0} MB of disk; {:.1} MB of keys",
        per_sec(kept, took),
        mega(size(&gateway.data())?),
        mega(number(&status["store"], "dedup_bytes")),
    );
    let started = gateway.killed_and_started(penstock).await?;
    println!(
        "killed; the first event is kept {:.2} s after the start",
        started.as_secs_f64()
    );
    drain(&gateway, kept + 1).await
}

/// Lets `all` events go, and looks at memory meanwhile.
async fn drain(gateway: &Server, all: u64) -> Result<()> {
    let before = gateway.rss_bytes()?;
    let (mut most, mut left) = (before, all);
    gateway.post("/api/v1/destinations/events/resume")?;
    let (began, mut moved) = (Instant::now(), Instant::now());
    while left > 0 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        most = most.max(gateway.rss_bytes()?);
        let now = number(&destination(&gateway.status()?)?, "backlog");
        if now < left {
            (left, moved) = (now, Instant::now());
        }
        ensure!(
            moved.elapsed() < STANDS_STILL,
            "{left} events are left and do not go:\n{}",
            gateway.log()
        );
    }
    let took = began.elapsed().as_secs_f64();
    let status = gateway.status()?;
    let delivered = number(&destination(&status)?, "delivered");
    ensure!(
        delivered == all && number(&status["ledger"], "accepted") == all,
        "{all} events, but the ledger says {status}"
    );
    println!(
        "drained in {took:.1} s, {:.0}/s; resident {:.1} MB before, {:.1} MB at most",
        per_sec(all, took),
        mega(before),
        mega(most)
    );
    Ok(())
}

/// Bytes of all files in a directory.
fn size(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += match about.is_dir() {
            true => size(&entry.path())?,
            false => about.len(),
        };
    }
    Ok(bytes)
}

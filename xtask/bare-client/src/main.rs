//! Sends what the gateway sent, again, with nothing but the client library that the gateway
//! uses: no journal, no cursor, no rounds. `cargo xtask bench --only destinations` runs it in
//! turn with the gateway and prints the ratio.
//!
//! The first messages that are there are read back and sent over and over, so that bytes,
//! keys and headers are the same. Prints how long it took and what it cost, as
//! `SECONDS CPU_SECONDS`.
#![expect(clippy::print_stdout, reason = "a command line talks to people")]

mod kafka;
mod kinesis;
mod nats;

use std::{fs, time::Instant};

use anyhow::{Context as _, Result};
use clap::Parser;

/// Messages that are read back and sent again.
const TEMPLATES: usize = 1_000;

/// Send messages with a bare client
#[derive(Debug, Parser)]
struct Args {
    /// To what
    #[arg(value_enum)]
    kind: Kind,
    /// The server's `HOST:PORT`, or its URL
    #[arg(long)]
    server: String,
    /// The stream or topic that has messages of the gateway
    #[arg(long)]
    from: String,
    /// The stream or topic that gets the same
    #[arg(long)]
    to: String,
    /// How many are sent
    #[arg(long)]
    count: u64,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    /// NATS `JetStream`
    Nats,
    /// Apache Kafka
    Kafka,
    /// Amazon Kinesis; the server is its endpoint
    Kinesis,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let took = match args.kind {
        Kind::Nats => Box::pin(nats::run(&args)).await?,
        Kind::Kafka => Box::pin(kafka::run(&args)).await?,
        Kind::Kinesis => Box::pin(kinesis::run(&args)).await?,
    };
    println!("{:.3} {:.3}", took.secs, took.cpu_secs);
    Ok(())
}

/// What sending took.
#[derive(Debug)]
struct Took {
    secs: f64,
    cpu_secs: f64,
}

/// Takes the time from when everything is ready.
#[derive(Debug)]
struct Watch {
    began: Instant,
    cpu_secs: f64,
}

impl Watch {
    fn start() -> Result<Self> {
        Ok(Self {
            cpu_secs: cpu_secs()?,
            began: Instant::now(),
        })
    }

    fn stop(&self) -> Result<Took> {
        let secs = self.began.elapsed().as_secs_f64();
        Ok(Took {
            secs,
            cpu_secs: cpu_secs()? - self.cpu_secs,
        })
    }
}

/// Processor time of this process. The kernel counts in hundredths there (`proc(5)`).
fn cpu_secs() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("a process has a name")?;
    let mut ticks = fields.split_whitespace().skip(11);
    let mut next = || ticks.next()?.parse::<f64>().ok();
    let ticks = next().zip(next()).context("processor time")?;
    Ok((ticks.0 + ticks.1) / 100.0)
}

//! `device-sim`: simulated devices for a telemetry gateway, and the audit of
//! what came out at its far end.
//!
//! It shares no code with the gateway, so that a mistake in an encoding cannot
//! cancel itself out.
//!
//! ```text
//! profile ─▶ payload ─▶ outbox ─▶ window ─▶ session ─MQTT─▶ gateway
//!           schedule, chaos ┘       └ ack log ─▶ audit ◀─ what arrived
//! ```

mod ack_log;
mod audit;
mod chaos;
mod cli;
mod clock;
mod device;
mod duration;
mod fleet;
mod identity;
mod outbox;
mod payload;
mod profile;
mod progress;
mod receive;
mod report;
mod schedule;
mod session;
mod signal;
mod socket;
mod stats;
mod topic;
mod web;
mod window;
mod wire;

use std::{ffi::OsString, fs, io::IsTerminal as _, path::Path, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use cli::{Cli, Command};

/// Something is missing, lost or wrong.
const FOUND_WANTING: u8 = 1;
const USAGE: u8 = 2;
/// The program itself could not do its work.
const FAILED: u8 = 3;

/// Parses the arguments, the program's name first, and does what they say. The
/// whole program: `penstock demo` starts it too, in a process of its own.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(arguments);
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("DEVICE_SIM_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
    let done = match cli.command {
        Command::Run(args) => run(&args),
        Command::Audit(args) => audit(&args),
        Command::Receive(args) => receive::run(&args).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        complain(&error);
        ExitCode::from(FAILED)
    })
}

fn run(args: &cli::Run) -> anyhow::Result<ExitCode> {
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => {
            complain(&error);
            return Ok(ExitCode::from(USAGE));
        }
    };
    let stop = signal::stop("no more samples, waiting for acknowledgements")?;
    let mut progress = progress::Progress::new();
    let outcome = fleet::run(&config, &stop, &mut progress);
    progress.finish();
    let report = report::Report::new(&config, &outcome?);
    say(&report.summary());
    if let Some(path) = &args.report {
        write(path, &serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(if report.is_complete() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FOUND_WANTING)
    })
}

fn audit(args: &cli::Audit) -> anyhow::Result<ExitCode> {
    let verdict = audit::run(args)?;
    say(&verdict.summary());
    if let Some(path) = &args.report {
        write(path, &verdict.to_json()?)?;
    }
    Ok(if verdict.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FOUND_WANTING)
    })
}

fn write(path: &Path, json: &[u8]) -> anyhow::Result<()> {
    fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}

#[expect(clippy::print_stdout, reason = "the result of the command")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "why there is no result")]
fn complain(error: &anyhow::Error) {
    eprintln!("device-sim: {error:#}");
}

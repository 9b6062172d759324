//! `penstock status`: the running gateway's account.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{ConfigFile, output};
use crate::running::Running;

/// Arguments of `penstock status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// The whole account as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let config = args.file.load()?;
    let running =
        Running::find(&config.data_dir, config.http.token.as_ref())?.with_context(|| {
            format!(
                "no gateway runs on {}; `penstock buffer stats` reads its journal",
                config.data_dir.display()
            )
        })?;
    let status = running.request("GET", "/api/v1/status")?;
    if args.json {
        output::line(format_args!("{status:#}"));
    } else {
        print(&status);
    }
    Ok(ExitCode::SUCCESS)
}

/// The account for a person, also at the end of the demo.
pub(crate) fn print(status: &Value) {
    let state = if status["ready"] == true {
        "delivering"
    } else {
        "NOT delivering"
    };
    output::line(format_args!(
        "penstock {} up {} s, {state}",
        text(&status["version"]),
        status["uptime_secs"]
    ));
    let ledger = &status["ledger"];
    output::line(format_args!(
        "accepted {} = stored {} + duplicate {} + quarantined {}   (turned away while full: {})",
        ledger["accepted"],
        ledger["stored"],
        ledger["duplicate"],
        ledger["quarantined"],
        ledger["refused_full"]
    ));
    let store = &status["store"];
    output::line(format_args!(
        "journal: {} events, {} of {}{}",
        store["buffered"],
        output::bytes(&store["file_bytes"]),
        output::bytes(&store["max_bytes"]),
        if store["full"] == true {
            ", FULL: devices are pushed back"
        } else {
            ""
        }
    ));
    for destination in status["destinations"].as_array().into_iter().flatten() {
        output::line(format_args!(
            "{} ({}): routed {} = delivered {} + backlog {} + expired {} + evicted {} + damaged {} + dead {}",
            text(&destination["name"]),
            text(&destination["state"]),
            destination["routed"],
            destination["delivered"],
            destination["backlog"],
            destination["expired"],
            destination["evicted"],
            destination["damaged"],
            destination["dead"]
        ));
        if let Some(error) = destination["error"].as_str() {
            output::line(format_args!("  {error}"));
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

//! `penstock status`: the running gateway's account.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{ConfigFile, offline, output};
use crate::{admin, config::Config, running::Running};

/// Arguments of `penstock status`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// The whole account as JSON
    #[arg(long)]
    json: bool,
    /// What waits by device instead, those with the most first; counted from the
    /// journal, also where no gateway runs
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "20")]
    devices: Option<usize>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let config = args.file.load()?;
    if let Some(top) = args.devices {
        return devices(&config, top, args.json);
    }
    let running = Running::find(&config.data_dir)?.with_context(|| {
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

fn devices(config: &Config, top: usize, json: bool) -> Result<ExitCode> {
    let listing = offline::listing(config)?;
    let counted = admin::devices(&listing.devices(top)?, &listing.destinations()?);
    if json {
        output::line(format_args!("{counted:#}"));
        return Ok(ExitCode::SUCCESS);
    }
    for one in counted["devices"].as_array().into_iter().flatten() {
        let of = one["destinations"].as_object().into_iter().flatten();
        let of: Vec<_> = of
            .map(|(name, events)| format!("{name} {events}"))
            .collect();
        output::line(format_args!(
            "{}  {} waiting, the oldest since {}: {}",
            output::tame(text(&one["device"])),
            one["waiting"],
            output::instant(&one["oldest"]),
            of.join(", ")
        ));
    }
    if counted["others"] != 0 {
        output::line(format_args!("other devices  {} waiting", counted["others"]));
    }
    if counted["complete"] != true {
        output::line("more waits than could be counted in ten seconds");
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
        "accepted {} = stored {} + duplicate {} + quarantined {} + shed {}   (turned away while full: {})",
        ledger["accepted"],
        ledger["stored"],
        ledger["duplicate"],
        ledger["quarantined"],
        ledger["shed"],
        ledger["refused_full"]
    ));
    let store = &status["store"];
    output::line(format_args!(
        "journal: {} events wait, {} more are kept, {} of {}{}",
        store["buffered"],
        store["settled"],
        output::bytes(&store["file_bytes"]),
        output::bytes(&store["max_bytes"]),
        if store["full"] == true {
            ", FULL: devices are pushed back"
        } else {
            ""
        }
    ));
    let rules = &status["rules"];
    for (of, aside) in [
        ("journal", &store["set_aside"]),
        ("rules", &rules["set_aside"]),
    ] {
        for path in aside.as_array().into_iter().flatten() {
            output::line(format_args!("{of}: damaged, and set aside: {}", text(path)));
        }
    }
    if rules["lost"].as_u64().is_some_and(|lost| lost > 0) {
        let lost = &rules["lost"];
        output::line(format_args!(
            "rules: {lost} of what they made or could not do were lost"
        ));
    }
    if let Some(error) = rules["error"].as_str() {
        output::line(format_args!("rules: {error}"));
    }
    let nowhere = &status["nowhere"];
    if nowhere["total"].as_u64().is_some_and(|total| total > 0) {
        output::line(format_args!(
            "to no destination: {} = held {} + expired {} + evicted {} + damaged {}",
            nowhere["total"],
            nowhere["held"],
            nowhere["expired"],
            nowhere["evicted"],
            nowhere["damaged"]
        ));
    }
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
        if let Some(waits) = destination["waits"].as_str() {
            output::line(format_args!("  {waits}"));
        }
        if let Some(error) = destination["error"].as_str() {
            output::line(format_args!("  {error}"));
        }
    }
    for remote in status["remotes"].as_array().into_iter().flatten() {
        output::line(format_args!(
            "from {} ({}): received {} = shown {} + kept {} + circles {} + refused {}",
            text(&remote["name"]),
            text(&remote["state"]),
            remote["received"],
            remote["shown"],
            remote["kept"],
            remote["circles"],
            remote["refused"]
        ));
        if let Some(error) = remote["error"].as_str() {
            output::line(format_args!("  {error}"));
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

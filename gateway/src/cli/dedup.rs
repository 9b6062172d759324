//! `penstock dedup`: what the running gateway took for the same event.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::Value;

use super::{ConfigFile, output};
use crate::running::Running;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// How many duplicates each device sent, and what their keys were taken from
    Report {
        #[command(flatten)]
        file: ConfigFile,
        /// The whole report as JSON
        #[arg(long)]
        json: bool,
        /// How many devices to show, those with the most duplicates first
        #[arg(long, value_name = "N", default_value_t = 20)]
        devices: usize,
    },
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    let Command::Report {
        file,
        json,
        devices,
    } = command;
    let config = file.load()?;
    let running = Running::find(&config.data_dir)?.with_context(|| {
        format!(
            "no gateway runs on {}; duplicates are counted while one does",
            config.data_dir.display()
        )
    })?;
    let report = running.request("GET", &format!("/api/v1/dedup?limit={devices}"))?;
    match json {
        true => output::line(format_args!("{report:#}")),
        false => lines(&report)
            .iter()
            .for_each(|line| output::line(format_args!("{line}"))),
    }
    Ok(ExitCode::SUCCESS)
}

/// The report for a person.
fn lines(report: &Value) -> Vec<String> {
    let text = |value: &Value| output::tame(value.as_str().unwrap_or_default()).to_string();
    let list = |name: &str| report[name].as_array().into_iter().flatten();
    let mut lines = vec![format!(
        "since {}, when the gateway started",
        text(&report["since"])
    )];
    for one in list("devices") {
        lines.push(format!("{}  {}", text(&one["device"]), row(one)));
    }
    if report["others"]["events"] != 0 {
        lines.push(format!("other devices  {}", row(&report["others"])));
    }
    for one in list("mappings") {
        let (number, topic) = (&one["mapping"], text(&one["topic"]));
        lines.push(format!("mapping {number} ({topic})  {}", row(one)));
        for warning in one["warnings"].as_array().into_iter().flatten() {
            lines.push(format!("  warning: {}", text(warning)));
        }
    }
    lines
}

fn row(of: &Value) -> String {
    let parts = of["by_source"].as_array().into_iter().flatten();
    let parts: Vec<String> = parts
        .map(|part| {
            let source = part["source"].as_str().unwrap_or_default();
            format!("{source} {} of {}", part["duplicates"], part["events"])
        })
        .collect();
    format!(
        "{} duplicates of {} events: {}",
        of["duplicates"],
        of["events"],
        parts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_a_line_for_each_device_and_mapping_with_its_warnings() {
        let report = serde_json::json!({
            "since": "2026-03-01T12:00:00Z",
            "devices": [{"device": "b7", "events": 5, "duplicates": 2, "by_source": [{"source": "field", "events": 5, "duplicates": 2}]}],
            "others": {"events": 0, "duplicates": 0, "by_source": []},
            "mappings": [{"mapping": 1, "topic": "devices/{device}", "events": 5, "duplicates": 2, "by_source": [], "warnings": ["look"]}],
        });
        let said = lines(&report).join("\n");
        assert_eq!(
            said,
            "since 2026-03-01T12:00:00Z, when the gateway started\nb7  2 duplicates of 5 events: field 2 of 5\nmapping 1 (devices/{device})  2 duplicates of 5 events: \n  warning: look"
        );
    }
}

//! `penstock tail`: events as the running gateway commits them.

use std::{io::BufRead, process::ExitCode};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{ConfigFile, output};
use crate::{event::percent_encode, running::Running};

/// Which events.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Only of this device; * stands for anything
    #[arg(long, short)]
    device: Option<String>,
    /// Only of this type; * stands for anything
    #[arg(long = "type", short, value_name = "TYPE")]
    kind: Option<String>,
    /// Only what this event pattern takes, as rules have it
    #[arg(long, short, value_name = "PATTERN")]
    filter: Option<String>,
    /// Begin behind this position, as far back as the journal goes, instead of now
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// End after so many
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Whole events as JSON, one a line; what was missed is said on standard error
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode> {
    let dir = args.file.load()?.data_dir;
    let running = Running::find(&dir)?.context("no gateway runs, so nothing comes in")?;
    let stream = running.stream(&path(args))?;
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut block = Block::default();
    for line in stream.lines() {
        match block.line(&line.context("the gateway has ended")?)? {
            None => {}
            Some(Said::Missed(count)) => missed(&count, args.json),
            Some(Said::Event(event)) => {
                left -= 1;
                match args.json {
                    true => output::line(&event),
                    false => output::line(shown(&event)),
                }
                if left == 0 {
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
    }
    anyhow::bail!("the gateway has ended")
}

fn path(args: &Args) -> String {
    let after = args.after.map(|after| after.to_string());
    let asked = [
        ("device", &args.device),
        ("type", &args.kind),
        ("filter", &args.filter),
        ("after", &after),
    ];
    let mut path = String::from("/api/v1/events/stream");
    let mut mark = '?';
    for (name, value) in asked {
        if let Some(value) = value {
            path.push(mark);
            path.push_str(name);
            path.push('=');
            percent_encode(value, &mut path);
            mark = '&';
        }
    }
    path
}

#[expect(clippy::print_stderr, reason = "standard output is for events alone")]
fn missed(count: &Value, is_json: bool) {
    let text = format!("{count} events had left the journal before they could be shown");
    match is_json {
        true => eprintln!("{text}"),
        false => output::line(format_args!("... {text}")),
    }
}

/// An event on a line: when, whose, what, and the numbers.
fn shown(event: &Value) -> String {
    let word = |name: &str| output::tame(event[name].as_str().unwrap_or_default());
    let measurements = event["data"]["m"].as_array().into_iter().flatten();
    let measurements = measurements.map(|one| {
        let name = output::tame(one["n"].as_str().unwrap_or_default());
        let unit = one["u"]
            .as_str()
            .map_or_else(String::new, |unit| format!(" {unit}"));
        format!(
            "{name}={}{}",
            output::tame(&one["v"].to_string()),
            output::tame(&unit)
        )
    });
    let measurements: Vec<String> = measurements.collect();
    format!(
        "{}  {}  {}  {}",
        output::instant(&event["time"]),
        word("device"),
        word("type"),
        measurements.join(", ")
    )
}

/// What a block of server-sent events said.
#[derive(Debug, PartialEq)]
enum Said {
    Event(Value),
    Missed(Value),
}

/// The block that is being read.
#[derive(Debug, Default)]
struct Block {
    is_missed: bool,
    data: Option<Value>,
}

impl Block {
    /// Takes a line; an empty one ends the block.
    fn line(&mut self, line: &str) -> Result<Option<Said>> {
        if line.is_empty() {
            let Self { is_missed, data } = std::mem::take(self);
            return Ok(data.map(|data| match is_missed {
                true => Said::Missed(data["count"].clone()),
                false => Said::Event(data),
            }));
        }
        match line.split_once(": ") {
            Some(("event", event)) => self.is_missed = event == "missed",
            Some(("data", data)) => {
                self.data = Some(serde_json::from_str(data).context("an event is not JSON")?);
            }
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn blocks_are_events_or_say_what_was_missed() {
        let mut block = Block::default();
        let text = "retry: 2000\n\nid: 7\ndata: {\"device\":\"a\"}\n\nid: 9\n\n\
                    id: 12\nevent: missed\ndata: {\"count\":3,\"through\":12}\n\n\
                    id: 13\ndata: {\"device\":\"b\"}\n\n";
        let said: Vec<Said> = text
            .lines()
            .filter_map(|line| block.line(line).unwrap())
            .collect();
        assert_eq!(
            said,
            [
                Said::Event(json!({ "device": "a" })),
                Said::Missed(3.into()),
                Said::Event(json!({ "device": "b" })),
            ]
        );
    }

    #[test]
    fn an_event_is_shown_on_one_line() {
        let event = json!({
            "time": "2026-03-01T12:00:00Z", "device": "press\n7", "type": "telemetry",
            "data": { "m": [{ "n": "t", "v": 21.5, "u": "Cel" }, { "n": "state", "v": "hot" }] },
        });
        assert_eq!(
            shown(&event),
            "2026-03-01T12:00:00Z  press\u{fffd}7  telemetry  t=21.5 Cel, state=\"hot\""
        );
    }
}

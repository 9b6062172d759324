//! `penstock ledger`, `last`, `history`, `search`, `where` and `read`: questions to the read side,
//! also beside a running gateway.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{ConfigFile, offline, output};
use crate::{
    clock::{Clock as _, SystemClock},
    config::Config,
    event::Timestamp,
    query::{
        FILE, Feed, Reader,
        read::{self, In, Which, parse_instant},
    },
    record::Position,
    running::Running,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// How far it is, and how large
    Status(ConfigFile),
    /// Build it anew from what the journal has
    Rebuild(ConfigFile),
}

/// What every question has.
#[derive(Debug, Args)]
struct Question {
    #[command(flatten)]
    file: ConfigFile,
    /// Wait until the answer reflects this position, at most ten seconds
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_position: u64,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Go on where an earlier answer ended: its "next"
    #[arg(long, value_name = "NEXT")]
    after: Option<String>,
    /// The whole answer as JSON
    #[arg(long)]
    json: bool,
}

/// Last values of which series.
#[derive(Debug, Args)]
pub(super) struct Last {
    #[command(flatten)]
    question: Question,
    /// Only of this device
    #[arg(long, short)]
    device: Option<String>,
    /// Only of this measurement
    #[arg(long, short)]
    name: Option<String>,
}

/// The ledger of which devices.
#[derive(Debug, Args)]
pub(super) struct Ledger {
    #[command(flatten)]
    question: Question,
    /// Only of this device
    #[arg(long, short)]
    device: Option<String>,
}

/// Numbers of which series.
#[derive(Debug, Args)]
pub(super) struct History {
    #[command(flatten)]
    question: Question,
    /// The device
    device: String,
    /// The measurement
    name: String,
    /// From here on: an instant, or so long ago, as in 6h
    #[arg(long)]
    from: Option<String>,
    /// Up to here
    #[arg(long)]
    to: Option<String>,
    /// By steps, as in 5m, with count, min, mean and max; without it every number
    #[arg(long, value_name = "DURATION")]
    step: Option<String>,
}

/// Which words.
#[derive(Debug, Args)]
pub(super) struct Search {
    #[command(flatten)]
    question: Question,
    /// Words that must all be there: "a phrase", begin*, field:word (device, topic, type,
    /// text), and, within one text, -without
    #[arg(required = true)]
    words: Vec<String>,
    /// Where to look
    #[arg(long = "in", value_enum, default_value_t = In::All)]
    among: In,
}

/// Which event.
#[derive(Debug, Args)]
pub(super) struct Where {
    #[command(flatten)]
    question: Question,
    /// Its eventkey, or its position
    event: String,
}

pub(super) fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Status(file) => status(file),
        Command::Rebuild(file) => rebuild(file),
    }
}

fn status(file: &ConfigFile) -> Result<ExitCode> {
    let config = file.load()?;
    if let Some(running) = Running::find(&config.data_dir)? {
        let status = running.request("GET", "/api/v1/read")?;
        output::line(format_args!("{status:#}"));
    } else {
        let at = open(&config)?.position()?;
        output::line(format_args!("no gateway runs; read.db is at position {at}"));
    }
    Ok(ExitCode::SUCCESS)
}

fn rebuild(file: &ConfigFile) -> Result<ExitCode> {
    let config = file.load()?;
    if let Some(running) = Running::find(&config.data_dir)? {
        running.request("POST", "/api/v1/read/rebuild")?;
        output::line("the gateway builds it anew; penstock read status says how far it is");
        return Ok(ExitCode::SUCCESS);
    }
    let (dir, read) = (config.data_dir.clone(), config.read.clone());
    let position = offline::with_store(config, |store, _| async move {
        let work = move || {
            let clock = std::sync::Arc::new(SystemClock);
            Feed::new(read, &dir, store, clock).build()
        };
        Ok(tokio::task::spawn_blocking(work).await??)
    })?;
    output::line(format_args!("built anew, up to position {position}"));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn last(args: &Last) -> Result<ExitCode> {
    let asked = read::Last {
        device: args.device.clone(),
        name: args.name.clone(),
        after: args.question.after.clone(),
        limit: args.question.limit,
    };
    args.question.ask(
        |reader, _| reader.last(&asked),
        |item| {
            format!(
                "{}  {} = {}{}{}  {}",
                tame(&item["device"]),
                tame(&item["name"]),
                output::tame(&item["value"].to_string()),
                before(" ", &item["unit"]),
                before(", ", &item["quality"]),
                output::instant(&item["time"])
            )
        },
    )
}

pub(super) fn ledger(args: &Ledger) -> Result<ExitCode> {
    let asked = read::Ledger {
        device: args.device.clone(),
        after: args.question.after.clone(),
        limit: args.question.limit,
    };
    args.question.ask(
        |reader, _| reader.ledger(&asked),
        |item| {
            let mut text = format!("{}  stored {}", tame(&item["device"]), item["stored"]);
            if item["shed"] != 0 {
                text.push_str(&format!(", shed {}", item["shed"]));
            }
            if let Value::Object(nowhere) = &item["nowhere"] {
                text.push_str(&counts("nowhere", nowhere.iter()));
            }
            for one in item["destinations"].as_array().into_iter().flatten() {
                let all = one.as_object().into_iter().flatten();
                let numbers = all.filter(|(of, _)| *of != "name");
                text.push_str(&counts(&tame(&one["name"]), numbers));
            }
            text
        },
    )
}

/// A line of counts; those that are nothing are left out, and what was not counted is `?`.
fn counts<'a>(name: &str, all: impl Iterator<Item = (&'a String, &'a Value)>) -> String {
    let mut line = format!("\n  {name}:");
    for (of, count) in all.filter(|(_, count)| **count != 0) {
        match count {
            Value::Null => line.push_str(&format!(" {of} ?")),
            count => line.push_str(&format!(" {of} {count}")),
        }
    }
    line
}

pub(super) fn history(args: &History) -> Result<ExitCode> {
    args.question.ask(
        |reader, now| {
            let instant = |text: &Option<String>, default: i64| match text {
                Some(text) => parse_instant(text, now),
                None => Ok(Timestamp::from_nanos(default)),
            };
            reader.history(&read::History {
                device: args.device.clone(),
                name: args.name.clone(),
                from: instant(&args.from, i64::MIN)?,
                to: instant(&args.to, i64::MAX)?,
                step_secs: args.step.as_deref().map_or(Ok(0), read::History::step)?,
                after: args.question.after.clone(),
                limit: args.question.limit,
            })
        },
        |item| match &item["value"] {
            Value::Null => format!(
                "{}  {} from {} to {}, mean {}",
                output::instant(&item["time"]),
                item["count"],
                item["min"],
                item["max"],
                item["mean"]
            ),
            value => format!("{}  {value}", output::instant(&item["time"])),
        },
    )
}

pub(super) fn search(args: &Search) -> Result<ExitCode> {
    let asked = read::Search {
        q: args.words.join(" "),
        among: args.among,
        after: args.question.after.clone(),
        limit: args.question.limit,
    };
    args.question.ask(
        |reader, _| {
            let mut asked = asked.clone();
            loop {
                let answer = reader.search(&asked)?;
                let is_empty = answer["items"].as_array().is_none_or(Vec::is_empty);
                match answer["next"].as_str() {
                    // It took long, and found nothing so far.
                    Some(next) if is_empty => asked.after = Some(next.to_owned()),
                    _ => return Ok(answer),
                }
            }
        },
        |item| match item["kind"].as_str() {
            Some("event") => format!(
                "{}  event {}  {} on {}: {}",
                output::instant(&item["received"]),
                item["position"],
                tame(&item["event"]["device"]),
                tame(&item["event"]["mqtttopic"]),
                output::tame(&item["event"]["data"].to_string())
            ),
            Some("quarantine") => format!(
                "{}  quarantine {}  {} on {}: {}",
                output::instant(&item["received"]),
                item["id"],
                tame(&item["client_id"]),
                tame(&item["topic"]),
                tame(&item["reason"])
            ),
            _ => format!(
                "{}  dead letter {}  of {}, position {}: {}",
                output::instant(&item["at"]),
                item["id"],
                tame(&item["destination"]),
                item["position"],
                tame(&item["reason"])
            ),
        },
    )
}

pub(super) fn whereabouts(args: &Where) -> Result<ExitCode> {
    let which = Which::parse(&args.event)?;
    args.question.ask(
        |reader, _| reader.whereabouts(which),
        |item| {
            let mut text = format!(
                "{} at position {}, of {}, received {}: {}",
                tame(&item["eventkey"]),
                item["position"],
                tame(&item["device"]),
                output::instant(&item["received"]),
                match item["in_journal"] == true {
                    true => "in the journal",
                    false => "not in the journal any more",
                }
            );
            text.push_str(match item["nowhere"].as_str() {
                Some("held") => "\n  the rules send it nowhere; it is held",
                Some("gone") => "\n  the rules sent it nowhere, and it is held no more",
                Some(_) => "\n  it is for no destination",
                None => "",
            });
            for one in item["destinations"].as_array().into_iter().flatten() {
                let name = one["name"].as_str().unwrap_or("a destination of before");
                let (name, state) = (output::tame(name), tame(&one["state"]));
                text.push_str(&format!("\n  {name}: {state}"));
                text.push_str(&before(", because ", &one["reason"]));
            }
            text
        },
    )
}

impl Question {
    /// Asks, and shows what comes; fails where nothing does.
    fn ask(
        &self,
        ask: impl FnOnce(&mut Reader, Timestamp) -> Result<Value, crate::query::Error>,
        show: impl Fn(&Value) -> String,
    ) -> Result<ExitCode> {
        let mut reader = open(&self.file.load()?)?;
        reader.wait_for(Position(self.min_position))?;
        let answer = ask(&mut reader, SystemClock.now())?;
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        if self.json {
            output::line(&answer);
        } else {
            for item in &items {
                output::line(show(item));
            }
            if let Some(next) = answer["next"].as_str() {
                output::line(format_args!("... more with --after {next}"));
            }
            output::line(format_args!(
                "as of position {}, {} events behind",
                answer["position"], answer["lag"]
            ));
            for range in answer["missing"].as_array().into_iter().flatten() {
                output::line(format_args!(
                    "without positions {} to {}, which left the journal before",
                    range["first"], range["last"]
                ));
            }
        }
        Ok(match items.is_empty() {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }
}

fn open(config: &Config) -> Result<Reader> {
    let dir = &config.data_dir;
    if !dir.join(FILE).try_exists()? {
        bail!(
            "there is no {FILE} in {}: a gateway makes it while it runs with [read] enabled = true",
            dir.display()
        );
    }
    let listing = offline::listing(config)?;
    Reader::open(dir, listing).with_context(|| format!("cannot read {FILE} in {}", dir.display()))
}

fn tame(value: &Value) -> String {
    output::tame(value.as_str().unwrap_or_default())
}

/// A text with something before it, or nothing.
fn before(what: &str, value: &Value) -> String {
    value
        .as_str()
        .map_or_else(String::new, |text| format!("{what}{}", output::tame(text)))
}

//! `penstock alarm`: alarms that rules raise.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{ConfigFile, output};
use crate::{
    actions::{
        self,
        alarm::{State, Wanted},
    },
    admin::{self, PAGE_MAX},
    event::percent_encode,
    running::Running,
};

/// Changes that are shown of one alarm.
const CHANGES: usize = 100;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List those that hold, or others
    List(List),
    /// Show one with its history
    Show(Show),
    /// Say that you know
    Acknowledge(Say),
    /// Say that they do not hold any more
    Clear(Say),
}

/// Which alarms.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// Those in this state
    #[arg(long, value_enum, default_value_t = Which::Active)]
    state: Which,
    /// Only of this rule
    #[arg(long)]
    rule: Option<String>,
    /// Only of this device
    #[arg(long, short)]
    device: Option<String>,
    /// List at most so many
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Which {
    /// Raised or acknowledged
    Active,
    Raised,
    Acknowledged,
    Cleared,
    All,
}

/// Which alarm.
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    file: ConfigFile,
    /// Its number
    id: u64,
}

/// Which alarms, and what is said of them.
#[derive(Debug, Args)]
pub(super) struct Say {
    #[command(flatten)]
    file: ConfigFile,
    /// Their numbers
    #[arg(required = true)]
    ids: Vec<u64>,
    /// Who says so
    #[arg(long, env = "USER")]
    by: Option<String>,
    /// Why
    #[arg(long)]
    note: Option<String>,
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(list) => self::list(&list),
        Command::Show(show) => self::show(&show),
        Command::Acknowledge(say) => self::say(&say, "acknowledge"),
        Command::Clear(say) => self::say(&say, "clear"),
    }
}

fn list(args: &List) -> Result<ExitCode> {
    let config = args.file.load()?;
    let (dir, seal) = (&config.data_dir, config.seal()?);
    let wanted = Wanted {
        rule: args.rule.clone(),
        device: args.device.clone(),
        state: match args.state {
            Which::Active | Which::All => None,
            Which::Raised => Some(State::Raised),
            Which::Acknowledged => Some(State::Acknowledged),
            Which::Cleared => Some(State::Cleared),
        },
        active: matches!(args.state, Which::Active),
    };
    let (mut after, mut left) = (0, args.limit);
    while left > 0 {
        let page = actions::alarms_of(dir, &seal, &wanted, after, left.min(PAGE_MAX))?;
        let Some(last) = page.last() else { break };
        (after, left) = (last.id, left - page.len());
        for alarm in &page {
            let line = json!(admin::alarm_line(alarm));
            output::line(if args.json {
                line.to_string()
            } else {
                words(&line)
            });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An alarm on one line.
fn words(alarm: &Value) -> String {
    let text = |key: &str| output::tame(alarm[key].as_str().unwrap_or("-"));
    format!(
        "{}  {}  {}  {}  {}  {}  {} events  {}",
        alarm["id"],
        output::instant(&alarm["raised_at"]),
        text("state"),
        text("severity"),
        text("rule"),
        text("device"),
        alarm["events"],
        text("text"),
    )
}

fn show(args: &Show) -> Result<ExitCode> {
    let config = args.file.load()?;
    let found = actions::alarm_of(&config.data_dir, &config.seal()?, args.id, CHANGES)?;
    let (alarm, changes) = found.with_context(|| format!("there is no alarm {}", args.id))?;
    let whole = json!(admin::alarm_whole(&alarm, &changes));
    output::line(format_args!("{whole:#}"));
    Ok(ExitCode::SUCCESS)
}

fn say(args: &Say, what: &str) -> Result<ExitCode> {
    let config = args.file.load()?;
    let running = Running::find(&config.data_dir)?;
    let running =
        running.with_context(|| format!("no gateway runs on {}", config.data_dir.display()))?;
    let mut code = ExitCode::SUCCESS;
    for id in &args.ids {
        let mut path = format!("/api/v1/alarms/{id}/{what}?");
        for (key, value) in [("by", &args.by), ("note", &args.note)] {
            if let Some(value) = value {
                path.push_str(key);
                path.push('=');
                percent_encode(value, &mut path);
                path.push('&');
            }
        }
        match running.request("POST", path.trim_end_matches(['&', '?'])) {
            Ok(alarm) => output::line(words(&alarm)),
            Err(error) => {
                output::line(format_args!("{id}: {error:#}"));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

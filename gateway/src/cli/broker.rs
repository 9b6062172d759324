//! `penstock broker`: who is connected to the running gateway, what is retained, and
//! who subscribes to what.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{ConfigFile, output};
use crate::{event::percent_encode, running::Running};

/// Asked for at once.
const PAGE: usize = 1_000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the clients that are connected, or whose sessions wait for them
    Clients(List),
    /// End the connection of clients
    Kick(Kick),
    /// List retained messages, or clear them
    Retained(Retained),
    /// List subscriptions
    Subscriptions(Subscriptions),
}

/// How to list.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// List at most so many
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Whom to end.
#[derive(Debug, Args)]
pub(super) struct Kick {
    #[command(flatten)]
    file: ConfigFile,
    /// Their client identifiers
    #[arg(required = true)]
    ids: Vec<String>,
    /// End their sessions too, with subscriptions and queues
    #[arg(long)]
    session: bool,
}

/// Which retained messages.
#[derive(Debug, Args)]
pub(super) struct Retained {
    #[command(flatten)]
    list: List,
    /// Only of topics that match this filter
    #[arg(long, short)]
    filter: Option<String>,
    /// Clear the messages of these topics instead of listing
    #[arg(long, value_name = "TOPIC", conflicts_with = "filter")]
    clear: Vec<String>,
}

/// Which subscriptions.
#[derive(Debug, Args)]
pub(super) struct Subscriptions {
    #[command(flatten)]
    list: List,
    /// Only of this client
    #[arg(long)]
    client: Option<String>,
    /// Only with exactly this filter
    #[arg(long, short)]
    filter: Option<String>,
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Clients(list) => clients(&list),
        Command::Kick(kick) => self::kick(&kick),
        Command::Retained(retained) => self::retained(&retained),
        Command::Subscriptions(subscriptions) => self::subscriptions(&subscriptions),
    }
}

fn clients(list: &List) -> Result<ExitCode> {
    let items = list.items("clients", &[])?;
    list.show(
        &items,
        &[
            "CLIENT", "USER", "ADDRESS", "MQTT", "UP", "IN/S", "OUT/S", "QUEUE", "BYTES", "DROPPED",
        ],
        |one| {
            vec![
                text(&one["client_id"]),
                text(&one["user"]),
                text(&one["address"]),
                text(&one["protocol"]),
                one["connected_secs"]
                    .as_u64()
                    .map_or_else(|| "away".to_owned(), age),
                rate(&one["publishes_in_per_sec"]),
                rate(&one["publishes_out_per_sec"]),
                one["queue_messages"].to_string(),
                output::bytes(&one["queue_bytes"]),
                one["dropped"].to_string(),
            ]
        },
    );
    Ok(ExitCode::SUCCESS)
}

fn retained(args: &Retained) -> Result<ExitCode> {
    if !args.clear.is_empty() {
        let running = args.list.file.running()?;
        return Ok(each(&args.clear, "cleared", |topic| {
            running.request("DELETE", &path("retained", topic))
        }));
    }
    let items = args.list.items("retained", &[("filter", &args.filter)])?;
    args.list.show(&items, &["TOPIC", "QOS", "BYTES"], |one| {
        vec![
            text(&one["topic"]),
            one["qos"].to_string(),
            one["payload_bytes"].to_string(),
        ]
    });
    Ok(ExitCode::SUCCESS)
}

fn subscriptions(args: &Subscriptions) -> Result<ExitCode> {
    let only = [("client", &args.client), ("filter", &args.filter)];
    let items = args.list.items("subscriptions", &only)?;
    args.list.show(&items, &["CLIENT", "QOS", "FILTER"], |one| {
        vec![
            text(&one["client_id"]),
            one["qos"].to_string(),
            text(&one["filter"]),
        ]
    });
    Ok(ExitCode::SUCCESS)
}

fn kick(args: &Kick) -> Result<ExitCode> {
    let running = args.file.running()?;
    let how = if args.session { "?session=true" } else { "" };
    Ok(each(&args.ids, "kicked", |id| {
        running.request("DELETE", &(path("clients", id) + how))
    }))
}

/// Asks for each and says what became of it.
pub(super) fn each(names: &[String], done: &str, ask: impl Fn(&str) -> Result<Value>) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match ask(name) {
            Ok(_) => output::line(format_args!("{}: {done}", output::tame(name))),
            Err(error) => {
                output::line(format_args!("{}: {error:#}", output::tame(name)));
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

impl ConfigFile {
    pub(super) fn running(&self) -> Result<Running> {
        let config = self.load()?;
        let running = Running::find(&config.data_dir)?;
        running.with_context(|| format!("no gateway runs on {}", config.data_dir.display()))
    }
}

impl List {
    /// The items of a list, page by page, up to the limit.
    fn items(&self, list: &str, only: &[(&str, &Option<String>)]) -> Result<Vec<Value>> {
        let running = self.file.running()?;
        let mut items = Vec::new();
        let mut after = Some(String::new());
        while let Some(from) = after.take().filter(|_| items.len() < self.limit) {
            let limit = PAGE.min(self.limit - items.len());
            let mut query = format!("/api/v1/broker/{list}?limit={limit}&after=");
            percent_encode(&from, &mut query);
            for (key, value) in only {
                if let Some(value) = value {
                    query.push_str(&format!("&{key}="));
                    percent_encode(value, &mut query);
                }
            }
            let mut page = running.request("GET", &query)?;
            after = page["next"].as_str().map(str::to_owned);
            if let Value::Array(page) = page["items"].take() {
                items.extend(page);
            }
        }
        Ok(items)
    }

    /// Prints items as JSON lines or as a table.
    fn show(&self, items: &[Value], head: &[&str], row: impl Fn(&Value) -> Vec<String>) {
        if self.json {
            items.iter().for_each(output::line);
            return;
        }
        let head = head.iter().map(|&name| name.to_owned()).collect();
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(items.iter().map(row)).collect();
        for line in table(&rows) {
            output::line(line);
        }
    }
}

/// Rows in columns as wide as their widest cell; the last one is not filled up.
pub(super) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn path(list: &str, name: &str) -> String {
    let mut path = format!("/api/v1/broker/{list}/");
    percent_encode(name, &mut path);
    path
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| "-".to_owned(), output::tame)
}

fn rate(value: &Value) -> String {
    format!("{:.1}", value.as_f64().unwrap_or_default())
}

fn age(secs: u64) -> String {
    match secs {
        0..120 => format!("{secs}s"),
        120..7_200 => format!("{}m", secs / 60),
        7_200..172_800 => format!("{}h", secs / 3_600),
        _ => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [
            row(["CLIENT", "QOS", "FILTER"]),
            row(["pump-ü", "1", "a/#"]),
        ];
        assert_eq!(table(&rows), ["CLIENT  QOS  FILTER", "pump-ü  1    a/#"]);
    }

    #[test]
    fn names_are_one_segment_of_a_path() {
        assert_eq!(
            path("retained", "/a b/ü"),
            "/api/v1/broker/retained/%2Fa%20b%2F%C3%BC"
        );
    }
}

//! `penstock command`: commands to devices, by way of the running gateway.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::{
    ConfigFile,
    broker::{each, table, text},
    device, output,
};
use crate::running::Running;

/// Asked for at once.
const PAGE: usize = 1_000;
/// Between asking what became of a command.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Place a command, which is delivered or expires
    Send(Box<Send>),
    /// List the commands of a device, newest first
    List(List),
    /// Show what became of a command
    Show(One),
    /// Take commands back that were not sent
    Cancel(Cancel),
}

/// What to place.
#[derive(Debug, Args)]
pub(super) struct Send {
    #[command(flatten)]
    file: ConfigFile,
    /// The device that is to do it
    device: String,
    /// What is to be done, in a word
    name: Option<String>,
    /// The rest of it: JSON, or else a text
    #[arg(long, short)]
    payload: Option<String>,
    /// At which QoS it is delivered
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    qos: u8,
    /// How long it may take, after which it expires
    #[arg(long, value_name = "DURATION")]
    deadline: Option<String>,
    /// The same command again, if it is placed again; by default it is a new one
    #[arg(long)]
    key: Option<String>,
    /// Wait until it is over, and fail unless the device said that it is done
    #[arg(long)]
    wait: bool,
}

/// Which commands.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// Whose
    device: String,
    /// Only those in this state
    #[arg(long, value_parser = ["queued", "sent", "acknowledged", "failed", "expired", "cancelled"])]
    state: Option<String>,
    /// List at most so many
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Which command.
#[derive(Debug, Args)]
pub(super) struct One {
    #[command(flatten)]
    file: ConfigFile,
    /// Whose
    device: String,
    /// Its id
    id: String,
}

/// Which commands are not to be sent.
#[derive(Debug, Args)]
pub(super) struct Cancel {
    #[command(flatten)]
    file: ConfigFile,
    /// Whose
    device: String,
    /// Their ids
    #[arg(required = true)]
    ids: Vec<String>,
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Send(send) => send.run(),
        Command::List(list) => list.run(),
        Command::Show(one) => {
            let path = path(&one.device, &one.id);
            output::line(format_args!(
                "{:#}",
                one.file.running()?.request("GET", &path)?
            ));
            Ok(ExitCode::SUCCESS)
        }
        Command::Cancel(cancel) => {
            let running = cancel.file.running()?;
            Ok(each(&cancel.ids, "cancelled", |id| {
                running.request("DELETE", &path(&cancel.device, id))
            }))
        }
    }
}

impl Send {
    fn run(&self) -> Result<ExitCode> {
        let mut order = Map::new();
        if let Some(name) = &self.name {
            order.insert("name".to_owned(), name.clone().into());
        }
        if let Some(payload) = &self.payload {
            let json = serde_json::from_str(payload);
            let payload = json.unwrap_or_else(|_| Value::String(payload.clone()));
            order.insert("payload".to_owned(), payload);
        }
        order.insert("qos".to_owned(), self.qos.into());
        if let Some(deadline) = &self.deadline {
            let deadline = crate::config::parse_duration(deadline)?;
            order.insert("deadline_secs".to_owned(), deadline.as_secs().into());
        }
        // With a key of its own the request can be sent again when no answer came.
        let random = uuid::Uuid::from_bytes(rand::random()).to_string();
        let key = self.key.as_deref().unwrap_or(&random);
        if !key.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            bail!("a key has printable ASCII characters");
        }
        let path = device::path(&self.device) + "/commands";
        let running = self.file.running()?;
        let placed = running.send("POST", &path, Some(key), &Value::Object(order))?;
        let placed = match self.wait {
            true => self.until_over(&running, placed)?,
            false => placed,
        };
        output::line(format_args!("{placed:#}"));
        let is_done = !self.wait || placed["state"] == "acknowledged";
        Ok(if is_done {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    /// Asks again and again; the gateway ends every command at its deadline.
    fn until_over(&self, running: &Running, mut command: Value) -> Result<Value> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let id = command["id"]
            .as_str()
            .context("the command has no id")?
            .to_owned();
        let path = path(&self.device, &id);
        let mut answered = Instant::now();
        while matches!(command["state"].as_str(), Some("queued" | "sent")) {
            std::thread::sleep(LOOK_EVERY);
            match running.request("GET", &path) {
                Ok(now) => {
                    command = now;
                    answered = Instant::now();
                }
                Err(error) if answered.elapsed() > PATIENCE => return Err(error),
                Err(_) => {}
            }
        }
        Ok(command)
    }
}

impl List {
    fn run(&self) -> Result<ExitCode> {
        let running = self.file.running()?;
        let mut items = Vec::new();
        let mut after = Some(0);
        while let Some(from) = after.take().filter(|_| items.len() < self.limit) {
            let limit = PAGE.min(self.limit - items.len());
            let path = device::path(&self.device);
            let mut query = format!("{path}/commands?limit={limit}&after={from}");
            if let Some(state) = &self.state {
                query.push_str(&format!("&state={state}"));
            }
            let mut page = running.request("GET", &query)?;
            after = page["next"].as_u64();
            if let Value::Array(page) = page["items"].take() {
                items.extend(page);
            }
        }
        if self.json {
            items.iter().for_each(output::line);
            return Ok(ExitCode::SUCCESS);
        }
        let head = ["COMMAND", "STATE", "NAME", "CREATED", "DEADLINE", "BY"].map(str::to_owned);
        let mut rows = vec![head.to_vec()];
        rows.extend(items.iter().map(|one| {
            ["id", "state", "name", "created", "deadline", "actor"]
                .map(|field| text(&one[field]))
                .to_vec()
        }));
        table(&rows).into_iter().for_each(output::line);
        Ok(ExitCode::SUCCESS)
    }
}

fn path(device: &str, id: &str) -> String {
    let mut path = device::path(device) + "/commands/";
    crate::event::percent_encode(id, &mut path);
    path
}

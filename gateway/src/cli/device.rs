//! `penstock device`: the registry of the running gateway.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::{
    ConfigFile,
    broker::{each, table, text},
    output,
};
use crate::event::percent_encode;

/// Asked for at once.
const PAGE: usize = 1_000;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List devices
    List(List),
    /// Show all that is known of a device
    Show(One),
    /// Add a device
    Create(Create),
    /// Change what is known of a device; the rest stays
    Update(Update),
    /// Show what a device should be and says that it is, or change what it should be
    Shadow(Shadow),
    /// Remove devices; their commands that are not over end
    Delete(Delete),
}

/// Which devices.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// Only those at this site
    #[arg(long)]
    site: Option<String>,
    /// Only those with this tag
    #[arg(long, value_name = "NAME[=VALUE]")]
    tag: Option<String>,
    /// Only those that are connected
    #[arg(long, conflicts_with = "offline")]
    online: bool,
    /// Only those that are not
    #[arg(long)]
    offline: bool,
    /// List at most so many
    #[arg(long, default_value_t = 1_000)]
    limit: usize,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Which device.
#[derive(Debug, Args)]
pub(super) struct One {
    #[command(flatten)]
    file: ConfigFile,
    /// Its id
    id: String,
}

/// What is known of a device.
#[derive(Debug, Args)]
struct Fields {
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// Where it is
    #[arg(long)]
    site: Option<String>,
    /// A word that people look for; may be said more than once
    #[arg(long, value_name = "NAME=VALUE")]
    tag: Vec<String>,
    /// The user as whom it connects, where that is not its id
    #[arg(long)]
    user: Option<String>,
    /// Its client identifier, where neither its user nor its id says which client it is
    #[arg(long)]
    client_id: Option<String>,
    /// How often it says something
    #[arg(long, value_name = "DURATION")]
    expected_interval: Option<String>,
}

/// A device to add.
#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    fields: Fields,
}

/// What is to be changed.
#[derive(Debug, Args)]
pub(super) struct Update {
    #[command(flatten)]
    one: One,
    #[command(flatten)]
    fields: Fields,
    /// What is to go: name, site, user, client-id, expected-interval, or tag.NAME
    #[arg(long, value_name = "WHAT")]
    unset: Vec<String>,
}

/// Whose shadow, and what it should be.
#[derive(Debug, Args)]
pub(super) struct Shadow {
    #[command(flatten)]
    one: One,
    /// What is to be otherwise: a JSON object, in which null takes away
    #[arg(long, value_name = "JSON")]
    desire: Option<String>,
    /// Only if what is desired has this version
    #[arg(long, requires = "desire")]
    version: Option<u64>,
}

/// Which devices are to go.
#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    file: ConfigFile,
    /// Their ids
    #[arg(required = true)]
    ids: Vec<String>,
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(list) => list.run(),
        Command::Show(one) => {
            output::line(format_args!(
                "{:#}",
                one.file.running()?.request("GET", &path(&one.id))?
            ));
            Ok(ExitCode::SUCCESS)
        }
        Command::Create(create) => {
            let mut device = create.fields.members()?;
            device.insert("id".to_owned(), create.one.id.clone().into());
            let running = create.one.file.running()?;
            let created = running.send("POST", "/api/v1/devices", None, &Value::Object(device))?;
            output::line(format_args!("{created:#}"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Update(update) => update.run(),
        Command::Shadow(shadow) => shadow.run(),
        Command::Delete(delete) => {
            let running = delete.file.running()?;
            Ok(each(&delete.ids, "removed", |id| {
                running.request("DELETE", &path(id))
            }))
        }
    }
}

impl List {
    fn run(&self) -> Result<ExitCode> {
        let running = self.file.running()?;
        let mut items = Vec::new();
        let mut after = Some(String::new());
        while let Some(from) = after.take().filter(|_| items.len() < self.limit) {
            let limit = PAGE.min(self.limit - items.len());
            let mut query = format!("/api/v1/devices?limit={limit}&after=");
            percent_encode(&from, &mut query);
            for (key, value) in [("site", &self.site), ("tag", &self.tag)] {
                if let Some(value) = value {
                    query.push_str(&format!("&{key}="));
                    percent_encode(value, &mut query);
                }
            }
            if self.online || self.offline {
                query.push_str(&format!("&online={}", self.online));
            }
            let mut page = running.request("GET", &query)?;
            after = page["next"].as_str().map(str::to_owned);
            if let Value::Array(page) = page["items"].take() {
                items.extend(page);
            }
        }
        if self.json {
            items.iter().for_each(output::line);
            return Ok(ExitCode::SUCCESS);
        }
        let head = ["DEVICE", "NAME", "SITE", "ONLINE", "TAGS"].map(str::to_owned);
        let mut rows = vec![head.to_vec()];
        rows.extend(items.iter().map(row));
        table(&rows).into_iter().for_each(output::line);
        Ok(ExitCode::SUCCESS)
    }
}

fn row(one: &Value) -> Vec<String> {
    let tags = one["tags"].as_object().into_iter().flatten();
    let tags: Vec<String> = tags
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    vec![
        text(&one["id"]),
        text(&one["name"]),
        text(&one["site"]),
        if one["online"] == true { "yes" } else { "no" }.to_owned(),
        output::tame(&tags.join(" ")),
    ]
}

impl Fields {
    fn members(&self) -> Result<Map<String, Value>> {
        let mut members = Map::new();
        let texts = [
            ("name", &self.name),
            ("site", &self.site),
            ("user", &self.user),
            ("client_id", &self.client_id),
        ];
        for (key, value) in texts {
            if let Some(value) = value {
                members.insert(key.to_owned(), value.clone().into());
            }
        }
        if let Some(interval) = &self.expected_interval {
            let interval = crate::config::parse_duration(interval)?;
            members.insert(
                "expected_interval_secs".to_owned(),
                interval.as_secs().into(),
            );
        }
        if !self.tag.is_empty() {
            let mut tags = Map::new();
            for tag in &self.tag {
                let Some((name, value)) = tag.split_once('=') else {
                    bail!("{tag:?} should be NAME=VALUE");
                };
                tags.insert(name.to_owned(), value.into());
            }
            members.insert("tags".to_owned(), tags.into());
        }
        Ok(members)
    }
}

impl Update {
    fn run(&self) -> Result<ExitCode> {
        let mut patch = self.fields.members()?;
        for what in &self.unset {
            match what.as_str() {
                "name" | "site" | "user" => drop(patch.insert(what.clone(), Value::Null)),
                "client-id" => drop(patch.insert("client_id".to_owned(), Value::Null)),
                "expected-interval" => {
                    patch.insert("expected_interval_secs".to_owned(), Value::Null);
                }
                other => {
                    let Some(name) = other.strip_prefix("tag.") else {
                        bail!(
                            "{other:?} cannot be unset; it is name, site, user, client-id, \
                             expected-interval, or tag.NAME"
                        );
                    };
                    let tags = patch.entry("tags").or_insert_with(|| json!({}));
                    tags[name] = Value::Null;
                }
            }
        }
        let (running, path) = (self.one.file.running()?, path(&self.one.id));
        let updated = running.send("PATCH", &path, None, &Value::Object(patch))?;
        output::line(format_args!("{updated:#}"));
        Ok(ExitCode::SUCCESS)
    }
}

impl Shadow {
    fn run(&self) -> Result<ExitCode> {
        let running = self.one.file.running()?;
        let path = path(&self.one.id) + "/shadow";
        let shadow = match &self.desire {
            None => running.request("GET", &path)?,
            Some(desire) => {
                let desired: Value = serde_json::from_str(desire)
                    .with_context(|| format!("{desire:?} is not JSON"))?;
                let body = json!({ "desired": desired, "version": self.version });
                running.send("PATCH", &path, None, &body)?
            }
        };
        output::line(format_args!("{shadow:#}"));
        Ok(ExitCode::SUCCESS)
    }
}

/// Where the API has a device.
pub(super) fn path(id: &str) -> String {
    let mut path = "/api/v1/devices/".to_owned();
    percent_encode(id, &mut path);
    path
}

//! `penstock destination`: how destinations are run.

use std::{path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{ConfigFile, offline, output};
use crate::{
    config::Config,
    forward, record,
    running::Running,
    store::{self, DestinationStatus, Mode},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List those that the journal knows, and how they are run
    List(List),
    /// Send it nothing more for now; what comes for it waits
    Pause(One),
    /// Have it run as ever
    Resume(One),
    /// Send it what waits, and route nothing more to it
    Drain(One),
    /// Forget one that the configuration no longer names
    Remove(Remove),
}

/// How to list them.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Which one.
#[derive(Debug, Args)]
pub(super) struct One {
    #[command(flatten)]
    file: ConfigFile,
    /// Its name
    name: String,
}

/// Which one, and whether what it has is given up.
#[derive(Debug, Args)]
pub(super) struct Remove {
    #[command(flatten)]
    one: One,
    /// Give up what waits for it, and its dead letters
    #[arg(long)]
    discard: bool,
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(list) => self::list(&list),
        Command::Pause(one) => set(&one, "pause", Mode::Paused),
        Command::Resume(one) => set(&one, "resume", Mode::Running),
        Command::Drain(one) => set(&one, "drain", Mode::Draining),
        Command::Remove(args) => remove(&args),
    }
}

fn list(args: &List) -> Result<ExitCode> {
    let config = args.file.load()?;
    let items = match Running::find(&config.data_dir)? {
        Some(running) => {
            let mut answer = running.request("GET", "/api/v1/destinations")?;
            answer["items"].as_array_mut().map(std::mem::take)
        }
        None => Some(of_journal(&config)?),
    };
    for item in items.unwrap_or_default() {
        if args.json {
            output::line(item);
            continue;
        }
        let text = |key: &str| output::tame(item[key].as_str().unwrap_or_default());
        output::line(format_args!(
            "{}  {} ({})  {} wait, {} delivered, {} dead",
            text("name"),
            text("mode"),
            text("state"),
            item["backlog"],
            item["delivered"],
            item["dead"]
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the journal of a gateway that does not run says.
fn of_journal(config: &Config) -> Result<Vec<Value>> {
    let dir = &config.data_dir;
    let stats =
        store::stats(dir).with_context(|| format!("no journal to read in {}", dir.display()))?;
    let line = |d: &DestinationStatus| {
        let configured = config.destinations.iter().any(|one| *one.name == *d.name);
        json!({
            "name": *d.name,
            "configured": configured,
            "mode": d.mode.as_str(),
            "state": if configured { "no gateway runs" } else { "unconfigured" },
            "backlog": d.backlog,
            "delivered": d.delivered,
            "dead": d.dead,
        })
    };
    Ok(stats.destinations.iter().map(line).collect())
}

fn set(one: &One, verb: &str, mode: Mode) -> Result<ExitCode> {
    let config = one.file.load()?;
    if let Some(running) = Running::find(&config.data_dir)? {
        let path = format!("/api/v1/destinations/{}/{verb}", segment(&one.name)?);
        running.request("POST", &path)?;
    } else {
        let name = one.name.clone();
        let is_set = offline::with_store(config, |store, _| async move {
            Ok(store.set_mode(&name, mode).await?)
        })?;
        if !is_set {
            bail!("there is no destination {:?}", one.name);
        }
    }
    output::line(format_args!("{} is {}", one.name, mode.as_str()));
    Ok(ExitCode::SUCCESS)
}

fn remove(args: &Remove) -> Result<ExitCode> {
    let One { file, name } = &args.one;
    let config = file.load()?;
    if let Some(running) = Running::find(&config.data_dir)? {
        let path = format!(
            "/api/v1/destinations/{}?discard={}",
            segment(name)?,
            args.discard
        );
        running.request("DELETE", &path)?;
    } else {
        let (name, discard): (Arc<str>, _) = (name.as_str().into(), args.discard);
        let dir = config.data_dir.clone();
        offline::with_store(config, |store, _| async move {
            forget(&store, &dir, name, discard).await
        })?;
    }
    output::line(format_args!("{name} is removed"));
    Ok(ExitCode::SUCCESS)
}

async fn forget(store: &store::Handle, dir: &Path, name: Arc<str>, discard: bool) -> Result<()> {
    let status = store.status();
    let known = status.destinations.iter().find(|d| d.name == name);
    let known = known.with_context(|| format!("there is no destination {name:?}"))?;
    if known.configured {
        bail!("the configuration names {name:?}: take its [[destination]] out of the file first");
    }
    let dead = store.listing()?.count_dead(known.id)?;
    if !discard && (known.backlog > 0 || dead > 0) {
        bail!(
            "{} events wait for {name:?}, and {dead} of its dead letters are kept: --discard \
             gives them up",
            known.backlog
        );
    }
    forward::forget_notes(dir, &name).context("cannot delete what it has written down")?;
    store.forget_destination(name).await?;
    Ok(())
}

/// A name in a path, of a lane, too.
fn segment(name: &str) -> Result<&str> {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-');
    let place = record::place(name);
    if place.is_empty() || !place.chars().all(word) {
        bail!("{name:?} is no name that a destination has");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_destinations_and_of_their_lanes_are_names() {
        for name in ["lake", "a-1_b", "lake.urgent", "lake.live"] {
            assert_eq!(segment(name).unwrap(), name);
        }
        for name in [
            "",
            ".live",
            "..",
            "lake/x",
            "lake.x",
            "lake.live.live",
            "$rules",
        ] {
            assert!(segment(name).is_err(), "{name:?}");
        }
    }
}

//! `penstock buffer`: the journal itself.

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use serde_json::json;

use super::{ConfigFile, offline, output};
use crate::{
    admin, forward,
    running::Running,
    store::{self, Stats, VerifyReport},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Read everything, check every checksum and the ledger; non-zero when something is wrong
    Verify(ConfigFile),
    /// How much is in it, and where each destination stands
    Stats(ConfigFile),
    /// Forget a destination that the configuration no longer names, with all that waits for it
    Forget(Forget),
}

/// Which destination.
#[derive(Debug, clap::Args)]
pub(super) struct Forget {
    #[command(flatten)]
    file: ConfigFile,
    /// Its name; `penstock buffer stats` lists those that the journal knows
    name: String,
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Verify(file) => verify(&file),
        Command::Stats(file) => stats(&file),
        Command::Forget(args) => forget(&args),
    }
}

fn verify(file: &ConfigFile) -> Result<ExitCode> {
    let config = file.load()?;
    let dir = &config.data_dir;
    let report: VerifyReport = store::verify(dir, &config.seal()?)
        .with_context(|| format!("no journal to verify in {}", dir.display()))?;
    for finding in &report.findings {
        output::line(finding);
    }
    output::line(format_args!(
        "{} events and {} other rows read, {} damaged: {}",
        report.events,
        report.others,
        report.damaged,
        if report.is_whole() {
            "whole, and the ledger balances"
        } else {
            "NOT whole"
        }
    ));
    Ok(if report.is_whole() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn stats(file: &ConfigFile) -> Result<ExitCode> {
    let dir = file.load()?.data_dir;
    let stats: Stats =
        store::stats(&dir).with_context(|| format!("no journal to read in {}", dir.display()))?;
    output::line(format_args!(
        "{} events, last position {}",
        stats.events, stats.committed
    ));
    if let (Some(oldest), Some(newest)) = (stats.oldest, stats.newest) {
        output::line(format_args!(
            "received from {} to {}",
            output::instant(&admin::known(oldest)),
            output::instant(&admin::known(newest))
        ));
    }
    output::line(format_args!(
        "accepted {} = stored {} + duplicate {} + quarantined {} + shed {}   (turned away while full: {})",
        stats.accepted,
        stats.stored,
        stats.duplicate,
        stats.quarantined,
        stats.shed,
        stats.refused_full
    ));
    output::line(format_args!(
        "{} in quarantine, {} dead letters, {} keys",
        stats.in_quarantine, stats.dead_letters, stats.keys
    ));
    output::line(format_args!(
        "database {} (of that free {}), write-ahead log {}",
        output::bytes(&json!(stats.database_bytes)),
        output::bytes(&json!(stats.free_bytes)),
        output::bytes(&json!(stats.log_bytes))
    ));
    let nowhere = stats.nowhere;
    if nowhere.total > 0 {
        output::line(format_args!(
            "to no destination: {} = held {} + expired {} + evicted {} + damaged {}",
            nowhere.total, nowhere.held, nowhere.expired, nowhere.evicted, nowhere.damaged
        ));
    }
    for d in &stats.destinations {
        output::line(format_args!(
            "{} at {}: routed {} = delivered {} + backlog {} + expired {} + evicted {} + damaged {} + dead {}",
            d.name,
            d.cursor,
            d.routed,
            d.delivered,
            d.backlog,
            d.expired,
            d.evicted,
            d.damaged,
            d.dead
        ));
    }
    Ok(ExitCode::SUCCESS)
}

fn forget(args: &Forget) -> Result<ExitCode> {
    let config = args.file.load()?;
    if Running::find(&config.data_dir)?.is_some() {
        bail!(
            "a gateway runs on {}; stop it first",
            config.data_dir.display()
        );
    }
    let name: Arc<str> = args.name.as_str().into();
    let dir = config.data_dir.clone();
    let forgotten = offline::with_store(config, |store, _| async move {
        let status = store.status();
        // One that is still configured is not forgotten.
        if !status
            .destinations
            .iter()
            .any(|d| d.name == name && d.configured)
        {
            forward::forget_notes(&dir, &name)?;
        }
        Ok(store.forget_destination(name).await?)
    })?;
    if !forgotten {
        bail!(
            "{} is still in the configuration, or the journal does not know it",
            args.name
        );
    }
    output::line(format_args!("{} is forgotten", args.name));
    Ok(ExitCode::SUCCESS)
}

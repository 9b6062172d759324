//! `penstock quarantine`: messages that could not be decoded.

use std::{fs::File, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{ConfigFile, offline, output};
use crate::{
    admin::{self, PAGE_MAX},
    boots::Boots,
    config::Config,
    running::Running,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them, oldest first
    List(List),
    /// Show one whole, with its payload
    Show(One),
    /// Decode them once more with the present configuration; good ones become events
    Retry(Many),
    /// Write them out as NDJSON, payloads in base64
    Export(Export),
    /// Remove them for good
    Discard(Many),
}

/// How much to list.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// Start after this number
    #[arg(long, default_value_t = 0)]
    pub(super) after: u64,
    /// List at most so many
    #[arg(long, default_value_t = 50)]
    pub(super) limit: usize,
    /// One JSON object per line
    #[arg(long)]
    pub(super) json: bool,
}

/// Which one.
#[derive(Debug, Args)]
pub(super) struct One {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// Its number
    pub(super) id: u64,
}

/// Which ones.
#[derive(Debug, Args)]
pub(super) struct Many {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// Their numbers
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(super) ids: Vec<u64>,
    /// All that there are now
    #[arg(long)]
    pub(super) all: bool,
}

/// Where to.
#[derive(Debug, Args)]
pub(super) struct Export {
    #[command(flatten)]
    pub(super) file: ConfigFile,
    /// The file to write; standard output without it
    #[arg(long, short)]
    pub(super) output: Option<PathBuf>,
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(list) => self::list(&list),
        Command::Show(one) => show(&one),
        Command::Retry(many) => retry(&many),
        Command::Export(export) => self::export(&export),
        Command::Discard(many) => discard(&many),
    }
}

fn list(args: &List) -> Result<ExitCode> {
    let config = args.file.load()?;
    let data_dir = &config.data_dir;
    let (listing, boots) = (offline::listing(&config)?, Boots::of_dir(data_dir));
    args.pages(
        |after, count| Ok(listing.quarantine(after, count)?),
        |item| {
            let line = admin::quarantined_line(item, &boots);
            if args.json {
                output::line(line);
            } else {
                output::line(format_args!(
                    "{}  {}  {}{}  {}  {} bytes on {} from {}",
                    item.id,
                    output::instant(&line["received"]),
                    output::tame(&item.class),
                    if item.intact { "" } else { " (damaged)" },
                    output::tame(&item.reason),
                    item.payload.len(),
                    output::tame(&item.topic),
                    output::tame(&item.client_id)
                ));
            }
            item.id
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

impl List {
    /// Shows pages until the limit; `show` gives back an item's number.
    pub(super) fn pages<T>(
        &self,
        page: impl Fn(u64, usize) -> Result<Vec<T>>,
        show: impl Fn(&T) -> u64,
    ) -> Result<()> {
        let (mut after, mut left) = (self.after, self.limit);
        while left > 0 {
            let items = page(after, left.min(PAGE_MAX))?;
            if items.is_empty() {
                return Ok(());
            }
            left -= items.len();
            for item in &items {
                after = show(item);
            }
        }
        if !self.json && !page(after, 1)?.is_empty() {
            output::line(format_args!("... more with --after {after}"));
        }
        Ok(())
    }
}

fn show(args: &One) -> Result<ExitCode> {
    let config = args.file.load()?;
    let data_dir = &config.data_dir;
    let (listing, boots) = (offline::listing(&config)?, Boots::of_dir(data_dir));
    let item = listing.quarantined(args.id)?;
    let item = item.with_context(|| format!("no message {} is in quarantine", args.id))?;
    output::line(format_args!(
        "{:#}",
        admin::quarantined_whole(&item, &boots)
    ));
    Ok(ExitCode::SUCCESS)
}

fn retry(args: &Many) -> Result<ExitCode> {
    let config = args.file.load()?;
    let ids = ids(args, &config)?;
    let mut left = 0_usize;
    let mut say = |id: u64, outcome: Result<Value>| match outcome {
        Ok(outcome) if outcome["outcome"] == "accepted" => output::line(format_args!(
            "{id}: {} stored, {} known before",
            outcome["stored"], outcome["duplicate"]
        )),
        Ok(outcome) => {
            left += 1;
            let reason = outcome["reason"]
                .as_str()
                .or_else(|| outcome["outcome"].as_str());
            output::line(format_args!(
                "{id}: stays, {}",
                output::tame(reason.unwrap_or_default())
            ));
        }
        Err(error) => {
            left += 1;
            output::line(format_args!("{id}: {error:#}"));
        }
    };
    if let Some(running) = Running::find(&config.data_dir)? {
        for id in ids {
            say(
                id,
                running.request("POST", &format!("/api/v1/quarantine/{id}/retry")),
            );
        }
    } else {
        offline::with_store(config, |store, ingest| async move {
            for id in ids {
                let outcome = match store.listing()?.quarantined(id)? {
                    None => Err(anyhow::anyhow!("is not in quarantine")),
                    Some(item) => Ok(serde_json::to_value(
                        admin::retry(&store, &ingest, item).await?,
                    )?),
                };
                say(id, outcome);
            }
            Ok(())
        })?;
    }
    Ok(if left == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn export(args: &Export) -> Result<ExitCode> {
    let config = args.file.load()?;
    let data_dir = &config.data_dir;
    let (listing, boots) = (offline::listing(&config)?, Boots::of_dir(data_dir));
    let mut out = writer(args.output.as_ref())?;
    let mut after = 0;
    loop {
        let page = listing.quarantine(after, PAGE_MAX)?;
        for item in &page {
            writeln!(out, "{}", admin::quarantined_whole(item, &boots))?;
            after = item.id;
        }
        if page.is_empty() {
            out.flush()?;
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn discard(args: &Many) -> Result<ExitCode> {
    let config = args.file.load()?;
    let ids = ids(args, &config)?;
    let wanted = ids.len();
    let discarded = if let Some(running) = Running::find(&config.data_dir)? {
        each(&ids, |id| {
            running.request("DELETE", &format!("/api/v1/quarantine/{id}"))
        })
    } else {
        offline::with_store(config, |store, _| async move {
            Ok(usize::try_from(store.discard_quarantined(ids).await?)?)
        })?
    };
    output::line(format_args!("{discarded} of {wanted} discarded"));
    Ok(if discarded == wanted {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn ids(args: &Many, config: &Config) -> Result<Vec<u64>> {
    if args.all {
        Ok(admin::all_quarantined(&offline::listing(config)?)?)
    } else {
        Ok(args.ids.clone())
    }
}

/// Asks for each, says what failed, and counts what did not.
pub(super) fn each(ids: &[u64], mut ask: impl FnMut(u64) -> Result<Value>) -> usize {
    let done = ids.iter().filter(|id| match ask(**id) {
        Ok(_) => true,
        Err(error) => {
            output::line(format_args!("{id}: {error:#}"));
            false
        }
    });
    done.count()
}

/// A new file, or standard output.
pub(super) fn writer(path: Option<&PathBuf>) -> Result<Box<dyn Write>> {
    let Some(path) = path else {
        return Ok(Box::new(std::io::BufWriter::new(std::io::stdout())));
    };
    if path.try_exists()? {
        bail!("{} exists already", path.display());
    }
    let file =
        File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(Box::new(std::io::BufWriter::new(file)))
}

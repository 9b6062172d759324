//! `penstock dead-letter`: events that a destination will not take.

use std::{
    io::Write as _,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};

use super::{
    offline, output,
    quarantine::{Export, List, Many, One, each, writer},
};
use crate::{
    admin::{self, PAGE_MAX},
    boots::Boots,
    config::Config,
    record::DestinationId,
    running::Running,
    store::Listing,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them, oldest first
    List(Of<List>),
    /// Show one with its event
    Show(One),
    /// Put them back to be delivered, in order
    Redrive(Redrive),
    /// Write them out as NDJSON
    Export(Of<Export>),
    /// Remove them for good; they stay counted as dead
    Discard(Of<Many>),
}

/// Which ones, and how fast.
#[derive(Debug, Args)]
pub(super) struct Redrive {
    #[command(flatten)]
    of: Of<Many>,
    /// Put back so many in a second, at most: what had too much of them once is not to
    /// have it again
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
}

/// Of one destination, or of all.
#[derive(Debug, Args)]
pub(super) struct Of<T: Args> {
    #[command(flatten)]
    args: T,
    /// Only of this destination
    #[arg(long, short)]
    destination: Option<String>,
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::List(of) => list(&of),
        Command::Show(one) => show(&one),
        Command::Redrive(args) => redrive(&args.of, args.rate),
        Command::Export(of) => export(&of),
        Command::Discard(of) => discard(&of),
    }
}

fn list(of: &Of<List>) -> Result<ExitCode> {
    let args = &of.args;
    let listing = offline::listing(&args.file.load()?)?;
    let destination = id_of(of, &listing)?;
    args.pages(
        |after, count| Ok(listing.dead_letters(destination, after, count)?),
        |letter| {
            let line = admin::dead_letter_line(letter);
            if args.json {
                output::line(line);
            } else {
                output::line(format_args!(
                    "{}  {}  {}  position {}{}  {} attempts  {}",
                    letter.id,
                    output::instant(&line["at"]),
                    letter.destination_name,
                    letter.record.position,
                    if letter.damaged { " (damaged)" } else { "" },
                    letter.attempts,
                    output::tame(&letter.reason)
                ));
            }
            letter.id
        },
    )?;
    Ok(ExitCode::SUCCESS)
}

fn show(args: &One) -> Result<ExitCode> {
    let config = args.file.load()?;
    let (listing, boots) = (offline::listing(&config)?, Boots::of_dir(&config.data_dir));
    let letter = listing.dead_letter(args.id)?;
    let letter = letter.with_context(|| format!("there is no dead letter {}", args.id))?;
    output::line(format_args!(
        "{:#}",
        admin::dead_letter_whole(&letter, &boots)
    ));
    Ok(ExitCode::SUCCESS)
}

fn redrive(of: &Of<Many>, rate: Option<u32>) -> Result<ExitCode> {
    let config = of.args.file.load()?;
    let ids = ids(of, &config)?;
    let wanted = ids.len();
    let done = if let Some(running) = Running::find(&config.data_dir)? {
        let mut pace = rate.map(Pace::begin);
        each(&ids, |id| {
            pace.iter_mut().for_each(Pace::wait);
            running.request("POST", &format!("/api/v1/dead-letters/{id}/redrive"))
        })
    } else {
        // Nothing goes out before a gateway runs, so there is nothing to slow down.
        offline::with_store(config, |store, _| async move {
            Ok(usize::try_from(store.redrive(ids).await?)?)
        })?
    };
    output::line(format_args!("{done} of {wanted} will be delivered again"));
    Ok(if done == wanted {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// So many in a second.
struct Pace {
    next: Instant,
    every: Duration,
}

impl Pace {
    fn begin(rate: u32) -> Self {
        Self {
            next: Instant::now(),
            every: Duration::from_secs(1) / rate.max(1),
        }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        std::thread::sleep(self.next.saturating_duration_since(now));
        // What took long is not caught up with.
        self.next = self.next.max(now) + self.every;
    }
}

fn discard(of: &Of<Many>) -> Result<ExitCode> {
    let config = of.args.file.load()?;
    let ids = ids(of, &config)?;
    let wanted = ids.len();
    let done = if let Some(running) = Running::find(&config.data_dir)? {
        each(&ids, |id| {
            running.request("DELETE", &format!("/api/v1/dead-letters/{id}"))
        })
    } else {
        offline::with_store(config, |store, _| async move {
            Ok(usize::try_from(store.discard_dead(ids).await?)?)
        })?
    };
    output::line(format_args!("{done} of {wanted} discarded"));
    Ok(if done == wanted {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn export(of: &Of<Export>) -> Result<ExitCode> {
    let config = of.args.file.load()?;
    let (listing, boots) = (offline::listing(&config)?, Boots::of_dir(&config.data_dir));
    let destination = id_of(of, &listing)?;
    let mut out = writer(of.args.output.as_ref())?;
    let mut after = 0;
    loop {
        let page = listing.dead_letters(destination, after, PAGE_MAX)?;
        for letter in &page {
            writeln!(out, "{}", admin::dead_letter_whole(letter, &boots))?;
            after = letter.id;
        }
        if page.is_empty() {
            out.flush()?;
            return Ok(ExitCode::SUCCESS);
        }
    }
}

fn ids(of: &Of<Many>, config: &Config) -> Result<Vec<u64>> {
    if !of.args.all {
        return Ok(of.args.ids.clone());
    }
    let listing = offline::listing(config)?;
    Ok(admin::all_dead(&listing, id_of(of, &listing)?)?)
}

/// The number of the destination that was named.
fn id_of<T: Args>(of: &Of<T>, listing: &Listing) -> Result<Option<DestinationId>> {
    let Some(name) = &of.destination else {
        return Ok(None);
    };
    let known = listing.destinations()?;
    let found = known
        .iter()
        .find(|(_, known)| known == name)
        .map(|(id, _)| *id);
    let names: Vec<_> = known.iter().map(|(_, name)| name.as_str()).collect();
    found.map(Some).with_context(|| {
        format!(
            "the journal knows no destination {name:?}, only: {}",
            names.join(", ")
        )
    })
}

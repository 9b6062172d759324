//! `penstock encryption`: keys, and what is sealed with which.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use penstock_broker::seal::{Key, Resealed, Seal, Tally};

use super::{ConfigFile, output};
use crate::{
    actions,
    config::Config,
    encryption::{self, BROKER, look_for_room},
    query, store,
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key
    NewKey(NewKey),
    /// How many values are plain, and how many sealed with which key
    Status(ConfigFile),
    /// Seal everything with the key of the configuration, while no gateway runs
    Reseal(Reseal),
}

/// Where to put it.
#[derive(Debug, clap::Args)]
pub(super) struct NewKey {
    /// The file, which must not exist yet; without one the key is printed
    file: Option<PathBuf>,
}

/// How.
#[derive(Debug, clap::Args)]
pub(super) struct Reseal {
    #[command(flatten)]
    file: ConfigFile,
    /// Take encryption off: write everything in plain text
    #[arg(long)]
    plain: bool,
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::NewKey(args) => new_key(args.file.as_deref()),
        Command::Status(file) => status(&file),
        Command::Reseal(args) => reseal(&args),
    }
}

fn new_key(path: Option<&Path>) -> Result<ExitCode> {
    let key = Key::random()?;
    let text = key.to_hex();
    let Some(path) = path else {
        output::line(text.as_str());
        return Ok(ExitCode::SUCCESS);
    };
    let made = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match made {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!(
                "{} is there already; a key that is lost takes what is sealed with it along, so \
                 none is written over",
                path.display()
            )
        }
        made => made.with_context(|| format!("cannot make {}", path.display()))?,
    };
    let written = (file.write_all(text.as_bytes()))
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all());
    written.with_context(|| format!("cannot write {}", path.display()))?;
    output::line(format_args!(
        "key {} is in {}: keep a copy elsewhere, without it the data cannot be read",
        key.id(),
        path.display()
    ));
    Ok(ExitCode::SUCCESS)
}

fn status(file: &ConfigFile) -> Result<ExitCode> {
    let config = file.load()?;
    let dir = &config.data_dir;
    match config.seal() {
        Ok(seal) => output::line(match seal.key() {
            Some(key) => format!("what is new is sealed with the key {key}"),
            None => "what is new is not sealed".to_owned(),
        }),
        // Which keys would be needed is worth the more then.
        Err(error) => output::line(format_args!("no key: {error:#}")),
    }
    say(
        store::DATABASE,
        store::tally_sealed(dir).context("the journal"),
    );
    say(
        BROKER,
        penstock_broker::tally_kept(dir).context("no running gateway tells that"),
    );
    say(actions::FILE, actions::tally(dir).context("rules"));
    if dir.join(query::FILE).is_file() {
        output::line(format_args!("{}: all of it is plain", query::FILE));
    }
    for aside in set_aside(dir)? {
        output::line(format_args!("{aside}: as it was when it was set aside"));
    }
    Ok(ExitCode::SUCCESS)
}

fn say(database: &str, tally: Result<Option<Tally>>) {
    match tally {
        Ok(Some(tally)) => output::line(format_args!("{database}: {tally}")),
        Ok(None) => output::line(format_args!("{database}: not there")),
        Err(error) => output::line(format_args!("{database}: cannot be read: {error:#}")),
    }
}

/// Damaged files, which nobody changes any more.
fn set_aside(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.contains(".damaged-") && !name.ends_with("-wal") {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

fn reseal(args: &Reseal) -> Result<ExitCode> {
    let config = args.file.load()?;
    let dir = &config.data_dir;
    let seal = config.seal()?;
    if !seal.is_on() {
        bail!(
            "[encryption] is missing: to seal, or to take encryption off, the key is needed \
             (with --plain, remove [encryption] afterwards)"
        );
    }
    encryption::check(dir, &seal)?;
    let seal = if args.plain {
        seal.without_sealing()
    } else {
        seal
    };
    let mut done = Vec::new();
    let mut has_room = false;
    let look = || {
        look_for_room(dir, &seal, &plain_values(dir))?;
        has_room = true;
        anyhow::Ok(())
    };
    let journal = store::reseal(dir, &seal, look, || {
        done.push((BROKER, penstock_broker::reseal_kept(dir, &seal)?));
        done.push((actions::FILE, actions::reseal(dir, &seal)?));
        anyhow::Ok(())
    });
    let is_busy = |error: &anyhow::Error| {
        let error = error.downcast_ref::<store::Error>();
        matches!(error, Some(store::Error::InUse { .. }))
    };
    let journal = match journal {
        Err(error) if is_busy(&error) => return Err(error.context("stop the gateway first")),
        Err(error) if !has_room => return Err(error.context("nothing was changed")),
        journal => journal.context(
            "not everything was done; what was is whole, and the same command goes on from there",
        )?,
    };
    done.insert(0, (store::DATABASE, journal));
    let mut plain_left = 0;
    for (database, resealed) in done {
        let Resealed {
            changed,
            damaged,
            plain,
        } = resealed;
        plain_left += if seal.is_on() { plain } else { 0 };
        output::line(match (damaged, seal.is_on()) {
            (0, _) => format!("{database}: {changed} values changed"),
            (_, true) if plain > 0 => format!(
                "{database}: {changed} values changed, {damaged} are damaged, {plain} of them in \
                 plain text"
            ),
            _ => format!("{database}: {changed} values changed, {damaged} are damaged"),
        });
    }
    finish(&config, &seal, plain_left);
    Ok(ExitCode::SUCCESS)
}

/// How many values of each database are plain, and so grow when they are sealed. What cannot
/// be read is for who opens it.
fn plain_values(dir: &Path) -> [(&'static str, u64); 3] {
    let plain = |tally: Option<Tally>| tally.map_or(0, |tally| tally.plain);
    [
        (store::DATABASE, store::tally_sealed(dir).map_or(0, plain)),
        (BROKER, penstock_broker::tally_kept(dir).map_or(0, plain)),
        (actions::FILE, actions::tally(dir).map_or(0, plain)),
    ]
}

/// What is left to a person; so many damaged values are left in plain text.
fn finish(config: &Config, seal: &Seal, plain_left: u64) {
    match seal.key() {
        Some(key) if plain_left > 0 => output::line(format_args!(
            "not everything is sealed: {plain_left} damaged values are in plain text, or can no \
             longer be told from it, and stay so until they leave; dead letters and messages in \
             quarantine do when they are discarded (penstock dead-letter discard, penstock \
             quarantine discard). What is whole is sealed with the key {key}; old_keys can go from the configuration"
        )),
        Some(key) => output::line(format_args!(
            "everything is sealed with the key {key}; old_keys can go from the configuration"
        )),
        None => output::line("everything is plain; [encryption] can go from the configuration"),
    }
    if let Some(left) = encryption::left_plain(&config.data_dir, &config.encryption, seal.is_on()) {
        output::line(left);
    }
    for aside in set_aside(&config.data_dir).unwrap_or_default() {
        output::line(format_args!(
            "{aside} stays as it was: remove it when nobody needs it"
        ));
    }
}

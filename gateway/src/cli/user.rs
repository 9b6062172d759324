//! `penstock user`: the password file, one user at a time.
//!
//! A password never is an argument, which everybody on the machine can read: it is
//! typed without echo, comes from standard input, or is made up here. Commands that
//! run at the same time wait for each other; a running gateway takes the file over
//! by itself.

mod prompt;

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use penstock_broker::auth::passwords::{Cost, PASSWORD_BYTES_MAX, Passwords, check_name, hash};
use rand::RngExt as _;

use super::{ConfigFile, output};

/// What to do with the password file.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add a user; the file is made if there is none
    Add(Set),
    /// Give a user another password; its sessions end
    Passwd(Set),
    /// Remove a user; its sessions end
    Remove(One),
    /// List the users
    List(Where),
}

/// Which file.
#[derive(Debug, clap::Args)]
pub(super) struct Where {
    /// The password file; otherwise the one of the configuration
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
}

/// Which user.
#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// The user's name
    #[arg(value_name = "USER")]
    name: String,
    #[command(flatten)]
    place: Where,
}

/// Which user, and which password.
#[derive(Debug, clap::Args)]
pub(super) struct Set {
    #[command(flatten)]
    user: One,
    /// Read the password from standard input, up to the end of its first line
    #[arg(long, conflicts_with = "generate")]
    password_stdin: bool,
    /// Make a password of 128 random bits up and print it: it is cheap to check, so
    /// that many devices can connect at once
    #[arg(long)]
    generate: bool,
    /// Memory that a check takes, in KiB; 19456, or 1024 with --generate
    #[arg(long, value_name = "KIB")]
    memory: Option<u32>,
    /// Passes over that memory; 2, or 1 with --generate
    #[arg(long, value_name = "NUMBER")]
    iterations: Option<u32>,
}

pub(super) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Add(set) => change(&set, true)?,
        Command::Passwd(set) => change(&set, false)?,
        Command::Remove(one) => {
            let path = one.place.path()?;
            let _lock = lock(&path)?;
            let mut passwords = Passwords::load(&path)?;
            if !passwords.remove(&one.name) {
                bail!("{} has no user {:?}", path.display(), one.name);
            }
            save(&passwords, &path)?;
            output::line(format_args!("removed {}", output::tame(&one.name)));
        }
        Command::List(place) => {
            let passwords = Passwords::load(&place.path()?)?;
            for name in passwords.names() {
                output::line(name);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Where {
    fn path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.file {
            return Ok(path.clone());
        }
        let config = self.config.load_without_files()?;
        config.context(
            "no password file: give one with --file, or a configuration that has passwords in [auth]",
        )
    }
}

impl ConfigFile {
    /// The password file that the configuration names, which need not be there yet.
    fn load_without_files(&self) -> Result<Option<PathBuf>> {
        Ok(self.load()?.broker.auth.passwords)
    }
}

fn change(set: &Set, is_new: bool) -> Result<()> {
    let name = &set.user.name;
    check_name(name).map_err(|what| anyhow::anyhow!("{what}"))?;
    let path = set.user.place.path()?;
    // Before anybody types a password for nothing.
    check_known(&read(&path, is_new)?, name, is_new, &path)?;
    let cost = if set.generate {
        Cost::RANDOM
    } else {
        Cost::PERSON
    };
    let cost = Cost {
        memory_kib: set.memory.unwrap_or(cost.memory_kib),
        iterations: set.iterations.unwrap_or(cost.iterations),
    };
    let password = if set.generate {
        generate()
    } else if set.password_stdin {
        from_stdin()?
    } else {
        prompt::twice()?
    };
    let hash = hash(&password, cost)?;
    let _lock = lock(&path)?;
    let mut passwords = read(&path, is_new)?;
    check_known(&passwords, name, is_new, &path)?;
    passwords.set(name, &hash);
    save(&passwords, &path)?;
    if set.generate {
        // Alone on standard output, for scripts.
        output::line(String::from_utf8_lossy(&password));
    } else {
        let done = if is_new { "added" } else { "changed" };
        output::line(format_args!("{done} {}", output::tame(name)));
    }
    Ok(())
}

fn check_known(passwords: &Passwords, name: &str, is_new: bool, path: &Path) -> Result<()> {
    match (is_new, passwords.hash_of(name).is_some()) {
        (true, true) => bail!(
            "{} has the user {name:?} already; \"penstock user passwd\" changes a password",
            path.display()
        ),
        (false, false) => bail!("{} has no user {name:?}", path.display()),
        _ => Ok(()),
    }
}

fn read(path: &Path, may_be_missing: bool) -> Result<Passwords> {
    let is_missing = !path
        .try_exists()
        .with_context(|| format!("cannot look for {}", path.display()))?;
    if is_missing && may_be_missing {
        return Ok(Passwords::default());
    }
    Ok(Passwords::load(path)?)
}

/// One command at a time changes files in this directory.
fn lock(path: &Path) -> Result<File> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let open = || {
        let dir = File::open(dir)?;
        dir.lock()?;
        io::Result::Ok(dir)
    };
    open().with_context(|| format!("cannot lock {}", dir.display()))
}

fn save(passwords: &Passwords, path: &Path) -> Result<()> {
    passwords
        .save(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// 128 random bits in characters that survive every shell and form.
fn generate() -> Vec<u8> {
    const ALPHABET: [u8; 32] = *b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut random = rand::rng();
    // Five bits each.
    (0..26)
        .map(|_| ALPHABET[random.random_range(0..ALPHABET.len())])
        .collect()
}

fn from_stdin() -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let most = PASSWORD_BYTES_MAX as u64 + 2;
    io::stdin()
        .lock()
        .take(most)
        .read_to_end(&mut text)
        .context("cannot read the password from standard input")?;
    let end = text
        .iter()
        .position(|byte| matches!(byte, b'\n' | b'\r'))
        .unwrap_or(text.len());
    text.truncate(end);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_password_has_26_characters_of_32_and_is_new() {
        let one = generate();
        assert_eq!(one.len(), 26);
        assert!(one.iter().all(|byte| byte.is_ascii_alphanumeric()));
        assert_ne!(one, generate());
    }
}

//! The key with which values lie sealed in the data directory: where it comes from, and what
//! is asked of a file that has it. What sealing is, is in `penstock_broker::seal`.
//!
//! Promises: a key that is missing, not a key, or readable by others is refused before
//! anything listens, with the key of the configuration and what to do; no key is shown.

mod room;

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use penstock_broker::seal::{self, Key, KeyError, NoRandom, NotAKey, Seal};
use rusqlite::{Connection, OpenFlags};
use zeroize::Zeroizing;

use crate::{actions, query, store};

pub(crate) use room::look_for_room;

/// Where systemd puts credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// A file with a key is not longer.
const FILE_BYTES_MAX: usize = 4_096;
/// The databases whose values may be sealed.
const DATABASES: [&str; 3] = [store::DATABASE, BROKER, actions::FILE];
/// That of the broker.
pub(crate) const BROKER: &str = "broker.db";

/// Which keys, and what may stay plain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// What is new is sealed with this one.
    pub key: Option<Source>,
    /// What is sealed with these opens too.
    pub old: Vec<Source>,
    /// The read side may hold what events say in plain text.
    pub plain_read: bool,
}

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
    /// A credential that systemd hands over.
    Credential(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "key_file {}", path.display()),
            Self::Env(name) => write!(f, "key_env {name}"),
            Self::Credential(name) => write!(f, "credential {name}"),
        }
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be had.
    #[error("encryption: {0}: {1}")]
    Source(String, Problem),
    /// A database needs another.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is nothing to make keys of.
    #[error(transparent)]
    Random(#[from] NoRandom),
}

/// What is wrong where a key should be.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It is not there.
    #[error("there is no such file; `penstock encryption new-key` makes one")]
    NotThere,
    /// The system says no.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// Others can read it.
    #[error(
        "others than its owner may read it (its mode is {0:o}); chmod 600 it, and make another \
         key if somebody may have"
    )]
    Open(u32),
    /// It is not set.
    #[error("the environment has no such variable; set it, or name another one")]
    NotSet,
    /// Not started by systemd, or without credentials.
    #[error(
        "{CREDENTIALS} is not set: the service needs LoadCredential= or LoadCredentialEncrypted=; \
         a command needs the same (systemd-run -p), or CREDENTIALS_DIRECTORY"
    )]
    NoCredentials,
    /// It is something else.
    #[error(transparent)]
    NotAKey(#[from] NotAKey),
}

impl Config {
    /// Reads the keys. Without any, nothing is sealed.
    ///
    /// # Errors
    /// When one is missing, none, or readable by others.
    pub fn seal(&self) -> Result<Seal, Error> {
        let Some(key) = &self.key else {
            return Ok(Seal::default());
        };
        let read = |source: &Source| {
            let key = source.read();
            key.map_err(|problem| Error::Source(source.to_string(), problem))
        };
        let key = read(key)?;
        let old = self.old.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        Ok(Seal::new(&key, &old)?)
    }
}

impl Source {
    fn read(&self) -> Result<Key, Problem> {
        match self {
            Self::File(path) => of_file(path, true),
            Self::Env(name) => {
                let value = std::env::var_os(name).ok_or(Problem::NotSet)?;
                let value = Zeroizing::new(value.into_encoded_bytes());
                Ok(Key::parse(&value)?)
            }
            Self::Credential(name) => {
                let dir = std::env::var_os(CREDENTIALS).ok_or(Problem::NoCredentials)?;
                // Who may read it is systemd's business.
                of_file(&Path::new(&dir).join(name), false)
            }
        }
    }
}

fn of_file(path: &Path, is_ours: bool) -> Result<Key, Problem> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Problem::NotThere),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    // The group of root has nobody in it that may not read it anyway.
    let is_open =
        metadata.mode() & 0o007 != 0 || metadata.mode() & 0o070 != 0 && metadata.gid() != 0;
    if is_ours && is_open {
        return Err(Problem::Open(metadata.mode() & 0o777));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX));
    file.take(FILE_BYTES_MAX as u64).read_to_end(&mut text)?;
    Ok(Key::parse(&text)?)
}

/// Looks whether the keys of all databases in a data directory are there, before anything of
/// it is touched. What cannot be read is left to whoever opens it.
///
/// # Errors
/// When one is not given.
pub fn check(dir: &Path, seal: &Seal) -> Result<(), KeyError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    for database in DATABASES {
        let path = dir.join(database);
        if !path.is_file() {
            continue;
        }
        let checked = Connection::open_with_flags(path, flags)
            .and_then(|connection| seal::check(&connection, seal, database));
        match checked {
            Ok(checked) => checked?,
            Err(error) => tracing::debug!(database, %error, "could not read which keys it needs"),
        }
    }
    Ok(())
}

/// What is in the data directory in plain text although values are sealed; for a person.
pub fn left_plain(dir: &Path, config: &Config, is_on: bool) -> Option<String> {
    let left = is_on && !config.plain_read && dir.join(query::FILE).is_file();
    left.then(|| {
        format!(
            "{} has what events said in plain text, from before: remove it, with its -wal and -shm",
            dir.join(query::FILE).display()
        )
    })
}

#[cfg(test)]
mod tests;

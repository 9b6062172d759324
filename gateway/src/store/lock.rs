//! One gateway per data directory.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::Path,
};

use super::Error;

/// Held for as long as the journal is open; the system lets go of it when the
/// process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held, not read")] File);

impl Lock {
    pub(super) fn take(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let known = file.read_to_string(&mut holder).is_ok();
                let holder = holder.trim();
                let by = if known && !holder.is_empty() {
                    format!(" (process {holder})")
                } else {
                    String::new()
                };
                return Err(Error::InUse {
                    dir: dir.to_owned(),
                    by,
                });
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        // A full disk must not keep the gateway from starting: the number is a courtesy.
        let noted = file
            .set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()));
        if let Err(error) = noted {
            tracing::debug!(%error, "could not note the process id in the lock file");
        }
        Ok(Self(file))
    }
}

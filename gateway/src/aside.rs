//! Damaged databases of the data directory are set aside, for a person to look at. Nothing
//! of them is ever deleted by us. The journal has ways of its own (`store/rescue.rs`).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Whether this says that a database is not what was written.
pub(crate) fn means_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::{
        Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType},
        ErrorCode::{DatabaseCorrupt, NotADatabase},
    };
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    ) || matches!(
        error,
        rusqlite::Error::SqlInputError { .. }
            | rusqlite::Error::Utf8Error(..)
            | FromSqlConversionFailure(..)
            | IntegralValueOutOfRange(..)
            | InvalidColumnType(..)
    )
}

/// Where a database is built that will take the place of a damaged one; nothing is there.
///
/// # Errors
/// When the file system says no.
pub(crate) fn fresh(dir: &Path, file: &str) -> io::Result<PathBuf> {
    let fresh = unfinished(dir, file);
    for suffix in ["", "-wal", "-shm"] {
        match fs::remove_file(with(&fresh, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(fresh)
}

/// Sets a database aside, if there is one, and puts the [fresh] one in its place, which is
/// complete and closed. Says where the old one is.
///
/// # Errors
/// When the file system says no.
pub(crate) fn exchange(dir: &Path, file: &str) -> io::Result<Option<PathBuf>> {
    let fresh = unfinished(dir, file);
    fs::File::open(&fresh)?.sync_all()?;
    let (path, mut aside) = (dir.join(file), None);
    if path.try_exists()? {
        let numbers = numbers(dir, file)?;
        let n = numbers.last().map_or(1, |last| last + 1);
        let to = damaged(dir, file, n);
        // The database first: without its log it would only look older, and be taken for
        // sound.
        fs::rename(&path, &to)?;
        rename_log(&path, &to)?;
        aside = Some(to);
    }
    fs::rename(&fresh, &path)?;
    fs::File::open(dir)?.sync_all()?;
    Ok(aside)
}

/// Ends an [`exchange`] that a crash cut short.
///
/// # Errors
/// When the file system says no.
pub(crate) fn finish(dir: &Path, file: &str) -> io::Result<()> {
    let (path, fresh) = (dir.join(file), unfinished(dir, file));
    if path.try_exists()? || !fresh.try_exists()? {
        return Ok(());
    }
    // A log that is left belongs to what was set aside.
    if let Some(last) = numbers(dir, file)?.last() {
        rename_log(&path, &damaged(dir, file, *last))?;
    }
    fs::rename(&fresh, &path)?;
    fs::File::open(dir)?.sync_all()
}

/// The names of those that were set aside, and are still there.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn list(dir: &Path, file: &str) -> io::Result<Vec<String>> {
    let numbers = numbers(dir, file)?;
    let names = numbers.iter().map(|n| format!("{file}.damaged-{n}"));
    Ok(names.collect())
}

fn numbers(dir: &Path, file: &str) -> io::Result<Vec<u64>> {
    let mut found: Vec<u64> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(file));
        let number = number.and_then(|rest| rest.strip_prefix(".damaged-"));
        found.extend(number.and_then(|n| n.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

fn rename_log(from: &Path, to: &Path) -> io::Result<()> {
    for suffix in ["-wal", "-shm"] {
        match fs::rename(with(from, suffix), with(to, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn damaged(dir: &Path, file: &str, n: u64) -> PathBuf {
    dir.join(format!("{file}.damaged-{n}"))
}

fn unfinished(dir: &Path, file: &str) -> PathBuf {
    dir.join(format!("{file}.new"))
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_that_was_cut_short_is_ended_and_the_old_log_does_not_meet_the_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, at) = (dir.path(), |name: &str| dir.path().join(name));
        let has = |name: &str| fs::read_to_string(at(name)).unwrap_or_default();
        for (name, text) in [("a.db", "old"), ("a.db-wal", "log"), ("a.db.new", "new")] {
            fs::write(at(name), text).unwrap();
        }
        finish(dir, "a.db").unwrap();
        assert_eq!(has("a.db"), "old", "nothing was begun");
        assert_eq!(exchange(dir, "a.db").unwrap(), Some(at("a.db.damaged-1")));
        assert_eq!(
            (has("a.db"), has("a.db.damaged-1-wal")),
            ("new".into(), "log".into())
        );
        // Killed between the renames.
        fs::rename(at("a.db"), at("a.db.damaged-10")).unwrap();
        fs::write(at("a.db-wal"), "its log").unwrap();
        fs::write(at("a.db.new"), "newer").unwrap();
        finish(dir, "a.db").unwrap();
        assert_eq!(has("a.db"), "newer");
        assert_eq!(has("a.db.damaged-10-wal"), "its log");
        assert!(!at("a.db-wal").try_exists().unwrap());
        assert_eq!(
            list(dir, "a.db").unwrap(),
            ["a.db.damaged-1", "a.db.damaged-10"]
        );
    }
}

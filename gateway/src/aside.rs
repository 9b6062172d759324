//! Damaged databases of the data directory are set aside, for a person to look at. The first
//! stays until somebody takes it away; of those after it the latest do. How a journal is set
//! aside is its own affair (`store/rescue.rs`); which of its files stay is said here.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Files of one name that are kept: the first, in which what was lost is the most likely to
/// be, and the latest. A disk that damages one each minute would fill itself with them.
const KEPT_MAX: usize = 32;
/// The same of journals, each of which may be as large as `size_max`.
pub(crate) const JOURNALS_MAX: usize = 8;

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

/// Whether the disk cannot read what is there, as where a sector is bad: it will be no better
/// the next time.
pub(crate) fn is_unreadable(error: &rusqlite::Error) -> bool {
    use rusqlite::ffi::{
        SQLITE_IOERR_CORRUPTFS, SQLITE_IOERR_DATA, SQLITE_IOERR_READ, SQLITE_IOERR_SHORT_READ,
    };
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(
        code,
        Some(
            SQLITE_IOERR_READ
                | SQLITE_IOERR_SHORT_READ
                | SQLITE_IOERR_DATA
                | SQLITE_IOERR_CORRUPTFS
        )
    )
}

/// Where a database is built that will take the place of a damaged one; nothing is there.
/// What a crash leaves of it is never taken for complete.
///
/// # Errors
/// When the file system says no.
pub(crate) fn fresh(dir: &Path, file: &str) -> io::Result<PathBuf> {
    let fresh = unfinished(dir, file);
    for suffix in ["", "-wal", "-shm"] {
        remove(&with(&fresh, suffix))?;
    }
    Ok(fresh)
}

/// Sets a database aside, if there is one, or what is left of it, and puts the [fresh] one
/// in its place, which is complete and closed. Says where the old one is.
///
/// # Errors
/// When the file system says no.
pub(crate) fn exchange(dir: &Path, file: &str) -> io::Result<Option<PathBuf>> {
    let (path, complete) = (dir.join(file), complete(dir, file));
    let fresh = unfinished(dir, file);
    fs::File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, &complete)?;
    let mut aside = None;
    // A log without its database too: SQLite would read it into the fresh one.
    if path.try_exists()? || with(&path, "-wal").try_exists()? {
        let to = damaged(dir, file, next(dir, file)?);
        // The database first: without its log it would only look older, and be taken for
        // sound.
        rename(&path, &to)?;
        rename_log(&path, &to)?;
        aside = Some(to);
    }
    fs::rename(&complete, &path)?;
    fs::File::open(dir)?.sync_all()?;
    // What cannot be taken away is no reason not to go on.
    if let Err(error) = thin_out(dir, file, KEPT_MAX) {
        tracing::warn!(%error, "cannot take away damaged files of {file} that were set aside");
    }
    Ok(aside)
}

/// Takes those away that are more than `max`, the oldest first, but never the first.
///
/// # Errors
/// When the file system says no.
pub(crate) fn thin_out(dir: &Path, file: &str, max: usize) -> io::Result<()> {
    let numbers = numbers(dir, file)?;
    let over = numbers.len().saturating_sub(max);
    for n in numbers.iter().skip(1).take(over) {
        let path = damaged(dir, file, *n);
        tracing::warn!(
            path = %path.display(),
            "a damaged file was taken away: {max} that were set aside are kept"
        );
        // The log first: without its database nobody would know what it is.
        for suffix in ["-wal", "-shm", ""] {
            remove(&with(&path, suffix))?;
        }
    }
    Ok(())
}

/// Ends an [`exchange`] that a crash cut short.
///
/// # Errors
/// When the file system says no.
pub(crate) fn finish(dir: &Path, file: &str) -> io::Result<()> {
    let (path, complete) = (dir.join(file), complete(dir, file));
    if path.try_exists()? {
        // It is begun again where it is needed.
        return remove(&complete);
    }
    if !complete.try_exists()? {
        return Ok(());
    }
    // A log that is left belongs to what was set aside, unless that has one.
    let last = numbers(dir, file)?.last().map(|n| damaged(dir, file, *n));
    let of = match last {
        Some(last) if !with(&last, "-wal").try_exists()? => last,
        _ => damaged(dir, file, next(dir, file)?),
    };
    rename_log(&path, &of)?;
    fs::rename(&complete, &path)?;
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

/// Where the next is set aside.
///
/// # Errors
/// When the directory cannot be read.
pub(crate) fn next_path(dir: &Path, file: &str) -> io::Result<PathBuf> {
    Ok(damaged(dir, file, next(dir, file)?))
}

/// The number of the next that is set aside.
fn next(dir: &Path, file: &str) -> io::Result<u64> {
    let mut n = numbers(dir, file)?.last().map_or(1, |last| last + 1);
    // Of some there is only the log.
    while with(&damaged(dir, file, n), "-wal").try_exists()? {
        n += 1;
    }
    Ok(n)
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
        rename(&with(from, suffix), &with(to, suffix))?;
    }
    Ok(())
}

/// If it is there.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// If it is there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn damaged(dir: &Path, file: &str, n: u64) -> PathBuf {
    dir.join(format!("{file}.damaged-{n}"))
}

fn unfinished(dir: &Path, file: &str) -> PathBuf {
    dir.join(format!("{file}.building"))
}

fn complete(dir: &Path, file: &str) -> PathBuf {
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
    fn a_sector_that_cannot_be_read_is_damage_and_a_full_disk_is_not() {
        let error = |code| rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
        assert!(is_unreadable(&error(rusqlite::ffi::SQLITE_IOERR_READ)));
        assert!(is_unreadable(&error(rusqlite::ffi::SQLITE_IOERR_DATA)));
        assert!(!is_unreadable(&error(rusqlite::ffi::SQLITE_IOERR_WRITE)));
        assert!(!is_unreadable(&error(rusqlite::ffi::SQLITE_FULL)));
    }

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
        fs::write(fresh(dir, "a.db").unwrap(), "new").unwrap();
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

    #[test]
    fn no_more_files_are_kept_than_there_may_be_and_the_first_is_always_among_them() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for n in 1..=KEPT_MAX + 3 {
            fs::write(dir.join("a.db"), n.to_string()).unwrap();
            fs::write(dir.join("a.db-wal"), n.to_string()).unwrap();
            fs::write(fresh(dir, "a.db").unwrap(), "new").unwrap();
            exchange(dir, "a.db").unwrap();
        }
        let kept = numbers(dir, "a.db").unwrap();
        assert_eq!(kept.len(), KEPT_MAX);
        let last = u64::try_from(KEPT_MAX).unwrap() + 3;
        assert_eq!((kept[0], kept[1], *kept.last().unwrap()), (1, 5, last));
        let has = |name: &str| fs::read_to_string(dir.join(name)).ok();
        assert_eq!(has("a.db.damaged-1").as_deref(), Some("1"));
        assert_eq!(
            (has("a.db.damaged-4"), has("a.db.damaged-4-wal")),
            (None, None)
        );
        // A number is never given again.
        assert_eq!(next(dir, "a.db").unwrap(), last + 1);
    }

    #[test]
    fn a_log_without_its_database_is_set_aside_and_none_overwrites_another() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, at) = (dir.path(), |name: &str| dir.path().join(name));
        let has = |name: &str| fs::read_to_string(at(name)).unwrap_or_default();
        for n in ["1", "2"] {
            fs::write(fresh(dir, "a.db").unwrap(), n).unwrap();
            fs::write(at("a.db-wal"), n).unwrap();
            assert!(exchange(dir, "a.db").unwrap().is_some());
            assert_eq!(has("a.db"), n);
            assert!(!at("a.db-wal").try_exists().unwrap(), "{n}");
            fs::remove_file(at("a.db")).unwrap();
        }
        assert_eq!(has("a.db.damaged-1-wal") + &has("a.db.damaged-2-wal"), "12");
    }

    #[test]
    fn what_a_crash_left_half_built_does_not_take_the_place_of_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(fresh(dir.path(), "a.db").unwrap(), "half").unwrap();
        finish(dir.path(), "a.db").unwrap();
        assert!(!dir.path().join("a.db").try_exists().unwrap());
    }
}

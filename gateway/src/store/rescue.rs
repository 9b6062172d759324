//! Puts a fresh journal in the place of a damaged or missing one: the files, and
//! their order on disk. What goes into the fresh one is salvage's business.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use penstock_broker::seal::{self, Seal};
use rusqlite::Connection;

use super::{
    Error,
    account::Name,
    checkpoint, open,
    salvage::{self, Salvaged},
    schema,
    state::State,
};
use crate::{aside, record::DestinationId};

/// What the fresh database is called until it is complete.
const UNFINISHED: &str = ".salvage";

/// A journal that took the place of a damaged or missing one.
#[derive(Debug)]
pub(super) struct Rescued {
    /// Where the damaged file is, if there was one.
    pub(super) aside: Option<PathBuf>,
    pub(super) salvaged: Salvaged,
}

/// Puts a fresh journal in the place of a damaged or missing one. The fresh one
/// is complete before anything is renamed: a crash on the way changes nothing,
/// and [`finish`] ends what a crash between the renames left.
pub(super) fn rescue(
    database: &Path,
    promised: Option<&State>,
    promised_names: &[(DestinationId, String)],
    seal: &Seal,
) -> Result<Rescued, Error> {
    let unfinished = with_suffix(database, UNFINISHED);
    remove_all(&unfinished)?;
    let old = database.try_exists()?.then_some(database);
    let salvaged = fill(&unfinished, old, promised, promised_names, seal);
    let salvaged = match salvaged {
        Ok(salvaged) => salvaged,
        Err(error) => {
            remove_all(&unfinished)?;
            return Err(error);
        }
    };
    remove_if_there(&with_suffix(&unfinished, "-wal"))?;
    remove_if_there(&with_suffix(&unfinished, "-shm"))?;
    let aside = old.map(set_aside).transpose()?;
    fs::rename(&unfinished, database)?;
    sync_dir(database)?;
    thin_out(database);
    Ok(Rescued { aside, salvaged })
}

/// Ends a rescue that was interrupted: between its renames it was complete,
/// before them it is begun again where it is needed.
pub(super) fn finish(database: &Path) -> Result<(), Error> {
    let unfinished = with_suffix(database, UNFINISHED);
    if database.try_exists()? {
        return remove_all(&unfinished);
    }
    if unfinished.try_exists()? {
        fs::rename(&unfinished, database)?;
        sync_dir(database)?;
    }
    Ok(())
}

fn fill(
    unfinished: &Path,
    old: Option<&Path>,
    promised: Option<&State>,
    promised_names: &[(DestinationId, String)],
    seal: &Seal,
) -> Result<Salvaged, Error> {
    let mut fresh = schema::open(unfinished, seal)?;
    // Nothing is promised until the rename; the checkpoint at the end syncs all of it.
    fresh.execute_batch("PRAGMA wal_autocheckpoint = 1000; PRAGMA synchronous = NORMAL")?;
    schema::migrate(&mut fresh)?;
    // Which of them the damaged file needed is not known for certain.
    seal::note_all(&fresh, seal, super::DATABASE)?;
    let salvaged = salvage::salvage(old, &mut fresh, promised, promised_names, seal)?;
    checkpoint::truncate(&fresh)?;
    Ok(salvaged)
}

fn remove_all(database: &Path) -> Result<(), Error> {
    for companion in ["", "-wal", "-shm"] {
        remove_if_there(&with_suffix(database, companion))?;
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Makes renames durable.
fn sync_dir(database: &Path) -> Result<(), Error> {
    if let Some(dir) = database.parent() {
        fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Replaces the damaged file under a running writer. Returns where the journal
/// stands now, and where the old file is.
pub(super) fn replace(
    connection: &mut Connection,
    state: &State,
    names: &[Name],
    seal: &Seal,
) -> Result<(State, PathBuf), Error> {
    let database = PathBuf::from(connection.path().unwrap_or_default());
    *connection = Connection::open_in_memory()?;
    let names: Vec<_> = names.iter().map(|n| (n.id, n.name.to_string())).collect();
    let rescued = rescue(&database, Some(state), &names, seal)?;
    let fresh = schema::open(&database, seal)?;
    let mut now = open::read_state(&fresh)?.unwrap_or_default();
    for d in &mut now.destinations {
        let Some(before) = state.destinations.iter().find(|b| b.id == d.id) else {
            continue;
        };
        // What is lost on disk may be in flight, or in memory, and be delivered yet.
        d.reported = before.reported;
        d.overtaken = before.overtaken;
        d.overtaken.damaged += d.damaged.saturating_sub(before.damaged);
        d.overtaken.to = d.overtaken.to.max(now.position);
    }
    *connection = fresh;
    Ok((now, rescued.aside.unwrap_or_default()))
}

/// Copies a database that goes on being used, with its log: the next commit
/// writes over what lies behind the damage. Where there is no room for a copy
/// the gateway starts without one.
pub(super) fn copy_aside(database: &Path) -> Result<Option<PathBuf>, Error> {
    let aside = next_name(database)?;
    // The database first: a log without it would be found by nobody.
    for companion in ["", "-wal"] {
        let from = with_suffix(database, companion);
        let copied = match from.try_exists()? {
            true => fs::copy(from, with_suffix(&aside, companion)),
            false => Ok(0),
        };
        if let Err(error) = copied {
            tracing::warn!(%error, "could not copy the damaged journal aside");
            remove_all(&aside)?;
            return Ok(None);
        }
    }
    thin_out(database);
    Ok(Some(aside))
}

/// A name for a damaged file that comes after all that are there.
fn next_name(database: &Path) -> Result<PathBuf, Error> {
    let dir = database.parent().unwrap_or_else(|| Path::new(""));
    Ok(aside::next_path(dir, super::DATABASE)?)
}

/// Takes away what is too much of what was set aside: a disk that damages a journal with
/// each start would fill itself with them.
fn thin_out(database: &Path) {
    let dir = database.parent().unwrap_or_else(|| Path::new(""));
    // What cannot be taken away is no reason not to go on.
    if let Err(error) = aside::thin_out(dir, super::DATABASE, aside::JOURNALS_MAX) {
        tracing::warn!(%error, "cannot take away damaged journals that were set aside");
    }
}

/// Renames the database with its companions; says where to.
fn set_aside(database: &Path) -> Result<PathBuf, Error> {
    let aside = next_name(database)?;
    for companion in ["", "-wal"] {
        match fs::rename(
            with_suffix(database, companion),
            with_suffix(&aside, companion),
        ) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    // The shared index is rebuilt from the log; an old one must not meet a new log.
    match fs::remove_file(with_suffix(database, "-shm")) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(aside)
}

/// Damaged files that are still there.
pub(super) fn list_set_aside(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let number = name
            .strip_prefix(super::DATABASE)
            .and_then(|n| n.strip_prefix(".damaged-"));
        if number.is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_journals_that_are_set_aside_the_first_and_the_latest_stay() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join(super::super::DATABASE);
        let mut last = PathBuf::new();
        for n in 1..=12 {
            for companion in ["", "-wal"] {
                fs::write(with_suffix(&database, companion), format!("{n}")).expect("written");
            }
            last = set_aside(&database).expect("set aside");
            thin_out(&database);
        }
        let names = || {
            let mut names: Vec<u32> = list_set_aside(dir.path())
                .expect("listed")
                .iter()
                .filter_map(|path| {
                    path.extension()?
                        .to_str()?
                        .strip_prefix("damaged-")?
                        .parse()
                        .ok()
                })
                .collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(), [1, 6, 7, 8, 9, 10, 11, 12]);
        let logs = fs::read_dir(dir.path()).expect("a directory");
        let logs = logs.filter(|entry| {
            let name = entry.as_ref().expect("an entry").file_name();
            name.to_string_lossy().ends_with("-wal")
        });
        assert_eq!(logs.count(), 8);
        assert_eq!(fs::read(&last).expect("the last"), b"12");
        // A number that was taken away is not given again while later ones are there.
        fs::remove_file(dir.path().join("journal.db.damaged-7")).expect("removed");
        fs::write(&database, "13").expect("written");
        let thirteenth = set_aside(&database).expect("set aside");
        assert!(
            thirteenth.ends_with("journal.db.damaged-13"),
            "{thirteenth:?}"
        );
    }
}

//! Opening the journal: lock, check, set aside what is damaged, migrate, check
//! what was promised, number the destinations.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

use penstock_broker::seal::{self, Seal};
use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::{
    DATABASE, Error,
    account::Name,
    checkpoint,
    config::Config,
    frame::integer,
    numbering::{self, Configured},
    promises::Promises,
    recover, rescue,
    room::Room,
    salvage::{Salvaged, others},
    schema, sealed, stage,
    state::State,
};
use crate::record::{DESTINATIONS_MAX, DestinationId, Position};

/// `quick_check` may take this long; it looks through some 500 MB in that time.
/// Damage elsewhere is met later, and the file replaced then.
const CHECK_TIME_MAX: Duration = Duration::from_millis(500);

/// What was found when the journal was opened.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// From which version the database was brought to this one.
    pub migrated_from: Option<u32>,
    /// Where a damaged file was put.
    pub set_aside: Option<PathBuf>,
    /// What could be read of it.
    pub salvaged: Option<Salvaged>,
    /// Whether everything promised before is here.
    pub promise: Promise,
    /// Whether the whole structure was checked in the time there is for it.
    pub checked_whole: bool,
    /// Each destination that the journal knows.
    pub destinations: Vec<(DestinationId, Arc<str>, Position)>,
}

/// Whether everything that was promised before is in the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Promise {
    /// Nothing is known of earlier promises.
    #[default]
    Unknown,
    /// It is.
    Kept,
    /// Commits are missing: the write-ahead log or the file was damaged or
    /// taken away. Of their events, those that are not in the damaged log either
    /// are counted as damaged.
    Broken {
        /// The last commit that was released.
        promised: u64,
        /// The last commit found.
        found: u64,
        /// Events stored in between, and lost.
        events: u64,
    },
}

/// An open journal, before anything runs.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) state: State,
    pub(super) names: Vec<Name>,
    pub(super) promises: Promises,
    pub(super) room: Room,
    pub(super) set_aside: Vec<PathBuf>,
    pub(super) report: Report,
}

pub(super) fn open(config: &Config) -> Result<Opened, Error> {
    let database = config.dir.join(DATABASE);
    let mut room = Room::new(config, &database);
    match open_with(config, &database) {
        Err(error) if error.means_full() => {
            // Even opening takes a little room.
            room.give_reserve_back();
            open_with(config, &database)
        }
        result => result,
    }
    .and_then(|mut opened| {
        // What a reseal that was killed left in the log is no room that is used.
        if room.has_long_log()
            && let Err(error) = checkpoint::truncate(&opened.connection)
        {
            tracing::warn!(%error, "could not empty a long log at the start");
        }
        room.take_reserve();
        room.look(&opened.connection)?;
        opened.room = room;
        Ok(opened)
    })
}

fn open_with(config: &Config, database: &Path) -> Result<Opened, Error> {
    let seal = &config.seal;
    let promises = Promises::open(&config.dir)?;
    let promised = promises.read();
    let mut report = Report::default();
    rescue::finish(database)?;
    // Before anything is done about damage: a key that is missing is none.
    sealed::check(database, seal)?;
    let missing = promised.is_some() && !database.try_exists()?;
    if missing {
        rescue::rescue(database, promised.as_ref(), &promises.names(), seal)?;
    }
    let mut connection = match open_sound(
        database,
        promised.is_some() && !missing,
        &promises.names(),
        seal,
        &mut report,
    ) {
        Err(error) if error.means_damage() => {
            tracing::error!(%error, "the journal is damaged; setting it aside");
            let rescued = rescue::rescue(database, promised.as_ref(), &promises.names(), seal)?;
            report.salvaged = Some(rescued.salvaged);
            report.set_aside = rescued.aside;
            schema::open(database, seal)?
        }
        result => result?,
    };
    report.migrated_from = schema::migrate(&mut connection)?.filter(|from| *from > 0);

    // Also where it could not be read before.
    seal::check(&connection, seal, DATABASE)??;
    if seal::note(&connection, seal, DATABASE)?
        && connection
            .prepare("SELECT 1 FROM events UNION ALL SELECT 1 FROM quarantine")?
            .exists([])?
    {
        tracing::warn!(
            "what the journal had before stays as it is until `penstock encryption reseal`"
        );
    }
    let found = read_state(&connection)?;
    let mut state = found.clone().unwrap_or_default();
    report.promise = match &promised {
        None => Promise::Unknown,
        Some(promised) if missing => {
            tracing::error!(promised = promised.commit, "the journal is missing");
            Promise::Broken {
                promised: promised.commit,
                found: 0,
                events: promised.stored,
            }
        }
        Some(_) if report.salvaged.is_some() => Promise::Kept,
        Some(promised) => {
            if promised.commit > state.commit {
                // Closed meanwhile: whoever else closes an open database's file
                // takes SQLite's locks away with it.
                drop(connection);
                report.set_aside = rescue::copy_aside(database)?;
                connection = schema::open(database, seal)?;
                tracing::error!(
                    promised = promised.commit,
                    found = state.commit,
                    "commits are missing from the journal"
                );
            }
            let found = state.commit;
            if promised.commit > found {
                recover::destinations(&connection, promised, &promises.names(), &mut state)?;
                // Also where there was no room for a copy from which to recover.
                others::doubt(&connection)?;
            }
            if let Some(aside) = &report.set_aside {
                recover::recover(&connection, aside, promised, &mut state)?;
            }
            keep_promise(promised, found, &mut state)
        }
    };
    retire(&connection, &config.destinations, &promises, &mut state)?;
    let names = numbering::number(
        &numbering::known(&connection)?,
        Configured {
            names: &config.destinations,
            from_kept: &config.from_kept,
        },
        &promises.names(),
        &mut state,
    )?;
    for name in &names {
        if let Some(d) = state.destinations.iter().find(|d| d.id == name.id) {
            report
                .destinations
                .push((d.id, name.name.clone(), d.cursor));
        }
    }
    if found.as_ref() != Some(&state) {
        state.commit += 1;
        let transaction = connection.unchecked_transaction()?;
        numbering::insert(&transaction, &names, &state)?;
        stage::write_state(&transaction, &state, &mut Vec::new())?;
        transaction.commit()?;
    }
    promises.write_names(&names)?;
    let set_aside = rescue::list_set_aside(&config.dir)?;
    let room = Room::new(config, database);
    Ok(Opened {
        connection,
        state,
        names,
        promises,
        room,
        set_aside,
        report,
    })
}

/// Makes numbers free that new destinations need, first in the database and then in the
/// promises file: one that is given again under another name would look like damage.
fn retire(
    connection: &Connection,
    configured: &[Arc<str>],
    promises: &Promises,
    state: &mut State,
) -> Result<(), Error> {
    let transaction = connection.unchecked_transaction()?;
    if numbering::retire(&transaction, configured, state)? {
        state.commit += 1;
        stage::write_state(&transaction, state, &mut Vec::new())?;
        transaction.commit()?;
    } else {
        drop(transaction);
    }
    let known = numbering::known(connection)?;
    let is_gone = |noted: &(DestinationId, String)| known.iter().all(|k| k.id != noted.0);
    if promises.names().iter().any(is_gone) {
        // Retired just now, or before a crash.
        promises.write_names(&known)?;
    }
    Ok(())
}

/// Opens the database and looks whether its structure is whole.
fn open_sound(
    database: &Path,
    promised: bool,
    names: &[(DestinationId, String)],
    seal: &Seal,
    report: &mut Report,
) -> Result<Connection, Error> {
    let fresh = !database.try_exists()?;
    if !fresh {
        schema::check_header(database)?;
    }
    let connection = schema::open(database, seal)?;
    let version = schema::check_version(&connection)?;
    if version == 0 && promised {
        return Err(Error::Damaged("it is empty, and should not be".into()));
    }
    if !fresh && !schema::is_as_made(&connection, version)? {
        return Err(Error::Damaged("its tables are not ours".into()));
    }
    if version == 0 {
        report.checked_whole = true;
        return Ok(connection);
    }
    // Both ends of each tree, and the row without which nothing can be counted. One
    // end at a time: for two in one query SQLite reads all that is between them.
    for sql in [
        "SELECT min(position) FROM events",
        "SELECT max(position) FROM events",
        "SELECT min(sequence) FROM commits",
        "SELECT max(sequence) FROM commits",
        "SELECT count(*) FROM destinations",
    ] {
        connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0))?;
    }
    let Some(state) = read_state(&connection)? else {
        return Err(Error::Damaged(
            "the row that says where it stands cannot be read".into(),
        ));
    };
    check_retries(&connection, &state)?;
    check_names(&connection, names)?;
    report.checked_whole = quick_check(&connection)?;
    Ok(connection)
}

/// Whether the destinations have the numbers and names that they had: with others,
/// events would wait for nobody.
fn check_names(connection: &Connection, before: &[(DestinationId, String)]) -> Result<(), Error> {
    let mut statement = connection.prepare("SELECT id, name FROM destinations")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, name) = (DestinationId(row.get(0)?), row.get::<_, String>(1)?);
        let renamed = before.iter().any(|b| b.0 == id && b.1 != name);
        if renamed || usize::from(id.0) >= DESTINATIONS_MAX {
            return Err(Error::Damaged(format!(
                "destination {} is not called `{name}`",
                id.0
            )));
        }
    }
    Ok(())
}

/// Whether every record that waits for another attempt can be found: otherwise it
/// would wait for ever. There are never many.
fn check_retries(connection: &Connection, state: &State) -> Result<(), Error> {
    let mut statement = connection.prepare("SELECT count(*) FROM retry WHERE destination = ?1")?;
    for d in &state.destinations {
        let found: i64 = statement.query_row([d.id.0], |row| row.get(0))?;
        let found = integer(found);
        if found != d.retrying {
            return Err(Error::Damaged(format!(
                "{} records wait for destination {}, and {found} are there",
                d.retrying, d.id.0
            )));
        }
    }
    Ok(())
}

/// Checks the structure for as long as a start may take; says whether it came to the end.
fn quick_check(connection: &Connection) -> Result<bool, Error> {
    let interrupt = connection.get_interrupt_handle();
    let (done, is_done) = mpsc::sync_channel::<()>(1);
    let watchdog = std::thread::Builder::new()
        .name("journal-check".into())
        .spawn(move || {
            if is_done.recv_timeout(CHECK_TIME_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
                interrupt.interrupt();
            }
        })?;
    let result: Result<String, _> =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0));
    drop(done);
    if watchdog.join().is_err() {
        tracing::debug!("the watchdog of the check ended badly");
    }
    match result {
        Ok(verdict) if verdict == "ok" => Ok(true),
        Ok(verdict) => Err(Error::Damaged(verdict)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// The one row of `state`; `None` where it is missing or damaged.
pub(super) fn read_state(connection: &Connection) -> Result<Option<State>, Error> {
    let state = connection
        .query_row("SELECT body FROM state WHERE id = 1", [], |row| {
            Ok(State::decode(row.get_ref(0)?.as_bytes()?))
        })
        .optional()?;
    Ok(state.flatten())
}

/// Compares with what was promised, after commit `found`. What is missing is counted as damaged, and
/// its positions are not given again.
fn keep_promise(promised: &State, found: u64, state: &mut State) -> Promise {
    if promised.commit <= found {
        return Promise::Kept;
    }
    let events = promised.stored.saturating_sub(state.stored);
    let broken = Promise::Broken {
        promised: promised.commit,
        found,
        events,
    };
    if events > 0 {
        tracing::error!(events, "events are missing from the journal");
    }
    for old in &promised.destinations {
        let Some(d) = state.destinations.iter_mut().find(|d| d.id == old.id) else {
            continue;
        };
        // What is newer says how it is run, and what it has spent.
        (d.mode, d.spent) = (old.mode, old.spent);
        let lost = old.routed.saturating_sub(d.routed);
        d.routed += lost;
        d.damaged += lost;
    }
    state.stored = state.stored.max(promised.stored);
    state.duplicate = state.duplicate.max(promised.duplicate);
    state.quarantined = state.quarantined.max(promised.quarantined);
    for (shed, promised) in state.shed.iter_mut().zip(promised.shed) {
        *shed = promised.max(*shed);
    }
    state.refused_full = state.refused_full.max(promised.refused_full);
    state.position = state.position.max(promised.position);
    state.quarantine_last = state.quarantine_last.max(promised.quarantine_last);
    state.quarantine_evicted = state.quarantine_evicted.max(promised.quarantine_evicted);
    state.dead_letter_last = state.dead_letter_last.max(promised.dead_letter_last);
    state.wall = promised.wall;
    if promised.step.commit > state.step.commit {
        state.step = promised.step;
    }
    state.commit = promised.commit;
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_in_commits_that_are_missing_stays_counted() {
        let promised = State {
            commit: 2,
            shed: [3, 0, 1],
            ..State::default()
        };
        let mut state = State {
            commit: 1,
            shed: [1, 2, 0],
            ..State::default()
        };
        let promise = keep_promise(&promised, 1, &mut state);
        assert!(matches!(promise, Promise::Broken { .. }));
        assert_eq!(state.shed, [3, 2, 1]);
    }
}

//! The one thread that writes.
//!
//! It waits for one job, takes what else is there up to [`BATCH_ENTRIES`],
//! applies all of it in one transaction, commits, and then answers. No timer:
//! batches form by themselves while the disk is busy. Housekeeping (trimming,
//! expiring, checkpoints, the reserve) rides along, or runs when it is quiet.
//!
//! What fails leaves nothing behind: neither rows, nor keys in the window, nor
//! counters. After [`FAILURES_MAX`] failed commits in a row the writer gives up.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use penstock_broker::seal::Seal;
use rusqlite::{Connection, ErrorCode};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    account::Account,
    append::Inserter,
    change,
    checkpoint::{self, Checkpoints},
    config::OnFull,
    dead_letter,
    entry::{Appended, group_cost_bytes},
    handle::{Failure, Life},
    hold::Hold,
    housekeeping::Duties,
    job::{Job, Outcome, Work},
    making,
    mode::Wanted,
    promises::Promises,
    reader::Noticed,
    rescue,
    room::Room,
    settle,
    shed::Shedding,
    stage::{self, Stage},
    state::State,
    status::Status,
    step::Steps,
    tail::Tail,
    tally::{self, Tallying},
    turn::Turn,
};
use crate::{clock::Clock, dedup::window::Window, event::Timestamp, record::Position};

/// Entries in one commit, about.
const BATCH_ENTRIES: usize = 1_024;
/// Bytes of entries in one commit, about.
pub(super) const BATCH_BYTES: usize = 8 * 1024 * 1024;
/// How often quiet housekeeping looks around.
pub(super) const TICK: Duration = Duration::from_millis(200);
/// Damaged files replaced in one run: more means that the disk itself is failing.
const REPLACEMENTS_MAX: u32 = 3;
/// Commits that may fail in a row.
const FAILURES_MAX: u32 = 3;

#[derive(Debug)]
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) jobs: mpsc::Receiver<Job>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) steps: Steps,
    pub(super) state: State,
    pub(super) window: Window,
    pub(super) max_age: Option<Duration>,
    pub(super) keep_delivered: Option<Duration>,
    pub(super) room: Room,
    pub(super) shedding: Shedding,
    pub(super) checkpoints: Checkpoints,
    pub(super) promises: Promises,
    pub(super) tail: Arc<Tail>,
    pub(super) noticed: Arc<Noticed>,
    pub(super) hold: Arc<Hold>,
    pub(super) account: Account,
    pub(super) committed: watch::Sender<Position>,
    pub(super) status: watch::Sender<Arc<Status>>,
    pub(super) life: watch::Sender<Life>,
    /// What new destinations want of what is kept.
    pub(super) wanted: Option<Wanted>,
    /// How values lie in the file.
    pub(super) seal: Seal,
    pub(super) duties: Duties,
}

impl Writer {
    /// Runs until it is told to close, every handle is gone, or it must give up.
    pub(super) fn run(mut self) {
        self.account.begin_thread();
        let life = match self.work() {
            Ok(()) => Life::Closed,
            Err(failure) => {
                tracing::error!(error = %failure, "the journal has stopped");
                Life::Failed(failure)
            }
        };
        // Whoever waits for a receipt must hear of the end before it is announced.
        self.jobs.close();
        while self.jobs.try_recv().is_ok() {}
        self.life.send_replace(life);
    }

    fn work(&mut self) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|error| Failure(error.to_string().into()))?;
        while let Err(error) = self.load_keys() {
            if !means_damage(&error) {
                return Err(Failure(error.to_string().into()));
            }
            tracing::error!(%error, "the journal is damaged");
            self.replace_file()?;
        }
        // Whose they are is not known; a restart makes no more room for what is given up.
        self.shedding.begin_with(&self.window);
        let mut batch = Vec::new();
        loop {
            let open = self.receive(&runtime, &mut batch);
            if !batch.is_empty() || self.is_due() {
                self.commit(&mut batch)?;
            }
            self.look_around();
            if !open && batch.is_empty() && self.jobs.is_empty() {
                return self.close();
            }
        }
    }

    /// The wall time; a step of it takes no key out of the window.
    pub(super) fn look_at_clock(&mut self) -> Timestamp {
        let now = self.clock.now();
        if self.steps.look(now, self.clock.monotonic()) {
            self.window.restamp(now);
        }
        now
    }

    /// Waits for work, or for the next look around. False when no more will come.
    fn receive(&mut self, runtime: &Runtime, batch: &mut Vec<Job>) -> bool {
        let mut open = true;
        let wait = if self.duties.more {
            Duration::ZERO
        } else {
            TICK
        };
        let mut next = match self.jobs.try_recv() {
            Ok(job) => Some(job),
            Err(mpsc::error::TryRecvError::Disconnected) => return false,
            Err(mpsc::error::TryRecvError::Empty) => {
                match runtime.block_on(async { timeout(wait, self.jobs.recv()).await }) {
                    Ok(None) => return false,
                    Ok(job) => job,
                    Err(_) => None,
                }
            }
        };
        let (mut entries, mut bytes) = (0, 0);
        while let Some(job) = next {
            entries += job.work.entries();
            bytes += job.work.cost_bytes();
            if matches!(job.work, Work::Close) {
                // What was queued before still counts; nothing more comes after.
                self.jobs.close();
                open = false;
            }
            batch.push(job);
            if entries >= BATCH_ENTRIES || bytes >= BATCH_BYTES {
                break;
            }
            next = self.jobs.try_recv().ok();
        }
        open
    }

    /// Applies `batch` and answers it, however often that takes; leaves it empty.
    pub(super) fn commit(&mut self, batch: &mut Vec<Job>) -> Result<(), Failure> {
        let mut accept = self.duties.hold.is_none_or(|until| Instant::now() >= until);
        self.duties.damaged.append(&mut self.noticed.take_rows());
        self.duties
            .damaged_retries
            .append(&mut self.noticed.take_retries());
        if self.noticed.take_structure() {
            self.replace_file()?;
        }
        loop {
            match self.attempt(batch, accept) {
                Ok((stage, outcomes)) => {
                    self.duties.failures = 0;
                    self.duties.damaged.clear();
                    self.duties.damaged_retries.clear();
                    self.publish(stage, outcomes, batch);
                    return Ok(());
                }
                Err(error) if self.means_full(&error) => {
                    tracing::debug!(%error, "the disk is full");
                    let known = self.room.disk_full();
                    self.room.give_reserve_back();
                    if !known && self.room.on_full() == OnFull::DropOldest {
                        // Now the limit is what the file has: the next try evicts.
                        continue;
                    }
                    self.duties.hold = Some(Instant::now() + TICK);
                    if !accept {
                        // Nobody waits behind progress that cannot be kept: appends
                        // are answered, and an end is an end.
                        while let Ok(job) = self.jobs.try_recv() {
                            if matches!(job.work, Work::Close) {
                                self.jobs.close();
                            }
                            batch.push(job);
                        }
                        self.refuse_appends(batch);
                        if batch.iter().any(|job| matches!(job.work, Work::Close)) {
                            tracing::warn!("closing without the last progress: the disk is full");
                            batch.clear();
                        }
                        if batch.is_empty() {
                            return Ok(());
                        }
                        // Progress waits until it can be kept.
                        std::thread::sleep(TICK);
                    }
                    accept = false;
                }
                Err(error) if means_damage(&error) => {
                    tracing::error!(%error, "the journal is damaged");
                    self.replace_file()?;
                }
                Err(error) => {
                    tracing::error!(%error, "failed to commit");
                    // Whoever waits hears that nothing is known.
                    batch.clear();
                    self.duties.failures += 1;
                    if self.duties.failures >= FAILURES_MAX || !may_pass(&error) {
                        return Err(Failure(error.to_string().into()));
                    }
                    return Ok(());
                }
            }
        }
    }

    fn attempt(&mut self, batch: &[Job], accept: bool) -> rusqlite::Result<(Stage, Vec<Outcome>)> {
        let now = self.look_at_clock();
        let mut stage = Stage::new(&self.state, now, &self.seal);
        if self.hold.is_set() {
            match self.duties.tally_bytes < tally::BYTES_MAX {
                true => stage.tally = Some(Tallying::default()),
                // Whoever reads sees by the counters what he missed.
                false => self.hold.set_missed(),
            }
        }
        stage::cached(&self.connection, "BEGIN IMMEDIATE")?.execute([])?;
        let result = self.fill(batch, accept, &mut stage).and_then(|outcomes| {
            if stage.dirty {
                stage.write_commit(&self.connection)?;
            }
            stage::cached(&self.connection, "COMMIT")?.execute([])?;
            Ok(outcomes)
        });
        match result {
            Ok(outcomes) => Ok((stage, outcomes)),
            Err(error) => {
                stage.forget_keys(&mut self.window);
                self.shedding.failed();
                // A full disk has rolled back already.
                if !self.connection.is_autocommit() {
                    self.connection.execute_batch("ROLLBACK")?;
                }
                Err(error)
            }
        }
    }

    fn fill(
        &mut self,
        batch: &[Job],
        accept: bool,
        stage: &mut Stage,
    ) -> rusqlite::Result<Vec<Outcome>> {
        let keys = batch.iter().map(|job| job.work.entries()).sum();
        let forgotten = self.window.begin(stage.now, keys);
        self.duties.forgotten = self.duties.forgotten.max(forgotten);

        let Self {
            connection,
            window,
            room,
            shedding,
            ..
        } = self;
        shedding.look(room, window);
        let monotonic = self.clock.monotonic();
        for position in &self.duties.damaged {
            dead_letter::set_damaged_aside(connection, *position, stage)?;
        }
        for row in &self.duties.damaged_retries {
            dead_letter::set_damaged_retry_aside(connection, *row, stage)?;
        }
        // A message in quarantine has three sealed values, one of them as text.
        let sealed = 4 * self.seal.overhead();
        let mut inserter = Inserter::new(connection)?;
        inserter.remembers = shedding.remembers(room);
        let mut refused = !accept;
        // Whether anybody asked for room.
        let mut asked = false;
        let mut outcomes = Vec::with_capacity(batch.len());
        for job in batch {
            let outcome = match &job.work {
                Work::Append {
                    entries,
                    retry_of,
                    turn,
                    spare,
                } => {
                    let bytes = (job.work.cost_bytes() + sealed * job.work.entries()) as u64;
                    if *spare {
                        let fits =
                            accept && !refused && making::has_plenty(connection, room, bytes)?;
                        outcomes.push(if fits {
                            room.add(bytes);
                            inserter.append(entries, &[], *retry_of, stage, window)?
                        } else {
                            Outcome::Appended(vec![Appended::Full; entries.len()])
                        });
                        continue;
                    }
                    let turn = turn.as_ref();
                    // What is tried again was acknowledged before.
                    let given_up = match retry_of {
                        None if accept => shedding.choose(entries, window, monotonic),
                        _ => Vec::new(),
                    };
                    let takes_none = !given_up.is_empty() && given_up.iter().all(Option::is_some);
                    asked |= !takes_none;
                    let bytes = match given_up.is_empty() {
                        true => bytes,
                        false => group_cost_bytes(entries, &given_up) as u64,
                    };
                    // Once one group is turned away the later ones are too: a
                    // smaller one that still fits would overtake it. Nothing of one that is
                    // given up does.
                    if turn.is_some_and(Turn::is_over) {
                        shedding.turned_away(entries, &given_up);
                        stage.state.refused_full += entries.len() as u64;
                        Outcome::Appended(vec![Appended::Full; entries.len()])
                    } else if takes_none
                        || !refused && making::make_room(connection, room, bytes, stage)?
                    {
                        room.add(bytes);
                        inserter.append(entries, &given_up, *retry_of, stage, window)?
                    } else {
                        refused = true;
                        turn.inspect(|turn| turn.end());
                        shedding.turned_away(entries, &given_up);
                        stage.state.refused_full += entries.len() as u64;
                        Outcome::Appended(vec![Appended::Full; entries.len()])
                    }
                }
                Work::Progress(progress) => {
                    settle::apply(connection, progress, stage)?;
                    Outcome::Changed(0)
                }
                Work::Change(change) => Outcome::Changed(change::apply(
                    connection,
                    change,
                    &self.account.names,
                    &self.promises.names(),
                    stage,
                )?),
                Work::Edit(edit) => {
                    let bytes = match edit.cost_bytes() {
                        0 => 0,
                        bytes => (bytes + 2 * sealed) as u64,
                    };
                    let is_late = edit.turn().is_some_and(Turn::is_over);
                    let fits = !is_late
                        && match (bytes, edit.is_spare()) {
                            (0, _) => true,
                            _ if !accept || refused => false,
                            (_, true) => making::has_plenty(connection, room, bytes)?,
                            (_, false) => making::make_room(connection, room, bytes, stage)?,
                        };
                    if fits {
                        room.add(bytes);
                        inserter.edit(&**edit, stage, window)?
                    } else {
                        edit.turn().inspect(|turn| turn.end());
                        Outcome::Full
                    }
                }
                Work::Close => Outcome::Changed(0),
            };
            outcomes.push(outcome);
        }
        if asked {
            room.set_refusing(refused);
        }
        drop(inserter);
        self.steps.note(stage);
        self.keep_house(stage)?;
        Ok(outcomes)
    }

    /// Appends are tried again at once.
    #[cfg(test)]
    pub(super) fn forget_hold(&mut self) {
        self.duties.hold = None;
    }

    /// A commit is durable: lets everybody know, then tidies up.
    fn publish(&mut self, mut stage: Stage, outcomes: Vec<Outcome>, batch: &mut Vec<Job>) {
        if let Some(wanted) = stage.wanted.take() {
            self.duties.more |= wanted.is_some();
            self.wanted = wanted;
        }
        if stage.dirty {
            self.account.commits += 1;
            self.duties.tally_bytes += stage.tally.as_ref().map_or(0, Tallying::bytes);
            self.steps.noted();
            self.state = stage.state;
            self.shedding.remembered(stage.shed_key_bytes);
            if stage.told_again {
                self.hold.set_missed();
            }
            if let Some(names) = stage.names.take() {
                self.account.names = names;
                if let Err(error) = self.promises.write_names(&self.account.names) {
                    tracing::warn!(%error, "could not note the names of the destinations");
                }
            }
            let written = self.promises.write(&self.state);
            if let Err(error) = &written
                && !self.duties.promises_failing
            {
                tracing::warn!(%error, "could not note what was promised");
            }
            self.duties.promises_failing = written.is_err();
            if let Some(to) = stage.dropped_to {
                self.tail.forget(to);
            }
            self.tail.push(&mut stage.records);
        } else {
            self.state.refused_full = stage.state.refused_full;
        }
        self.publish_status();
        let position = self.state.position;
        self.committed.send_if_modified(|committed| {
            let moved = *committed != position;
            *committed = position;
            moved
        });
        for (job, outcome) in batch.drain(..).zip(outcomes) {
            if let (Work::Edit(edit), Outcome::Edited(answer)) = (&job.work, &outcome) {
                edit.kept(answer);
            }
            // Whoever no longer waits does not need to know.
            drop(job.reply.send(outcome));
        }
        if let Err(error) = self.tidy_log() {
            tracing::warn!(%error, "could not checkpoint");
        }
    }

    pub(super) fn publish_status(&self) {
        let is_on = self.shedding.is_on();
        let status = self
            .account
            .status(&self.state, &self.room, &self.window, is_on);
        self.status.send_replace(Arc::new(status));
    }

    fn refuse_appends(&mut self, batch: &mut Vec<Job>) {
        for job in std::mem::take(batch) {
            if let Work::Append {
                entries,
                turn,
                spare,
                ..
            } = &job.work
            {
                turn.as_ref().inspect(|turn| turn.end());
                if !spare {
                    self.state.refused_full += entries.len() as u64;
                }
                let full = vec![Appended::Full; entries.len()];
                drop(job.reply.send(Outcome::Appended(full)));
            } else if let Work::Edit(edit) = &job.work
                && edit.cost_bytes() > 0
            {
                edit.turn().inspect(|turn| turn.end());
                drop(job.reply.send(Outcome::Full));
            } else {
                batch.push(job);
            }
        }
        self.room.set_refusing(true);
        self.publish_status();
    }

    /// The file turned out to be damaged while it was in use: it is set aside
    /// and salvaged as at a start, and work goes on with the fresh one.
    fn replace_file(&mut self) -> Result<(), Failure> {
        self.duties.replaced += 1;
        if self.duties.replaced > REPLACEMENTS_MAX {
            return Err(Failure("its file is damaged again and again".into()));
        }
        let replaced = rescue::replace(
            &mut self.connection,
            &self.state,
            &self.account.names,
            &self.seal,
        );
        let (state, aside) = replaced.map_err(|error| Failure(error.to_string().into()))?;
        tracing::error!(file = %aside.display(), "a damaged journal was set aside and salvaged");
        self.state = state;
        // Some that were there may have been taken away for it.
        let dir = aside.parent().unwrap_or_else(|| Path::new(""));
        match rescue::list_set_aside(dir) {
            Ok(files) => self.account.set_aside = files,
            Err(_) => self.account.set_aside.push(aside),
        }
        self.noticed.replace_file();
        Ok(())
    }

    /// Whether the disk has no more room, in one of the ways that SQLite says so.
    fn means_full(&self, error: &rusqlite::Error) -> bool {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => true,
            Some(ErrorCode::SystemIoFailure) => {
                self.room.free_bytes().is_ok_and(|free| free < 1024 * 1024)
            }
            _ => false,
        }
    }

    /// An orderly end: everything into the database, the log emptied.
    pub(super) fn close(&mut self) -> Result<(), Failure> {
        if let Err(error) = checkpoint::truncate(&self.connection) {
            // The log stays, and the next start reads it.
            tracing::warn!(%error, "could not checkpoint at the end");
        }
        Ok(())
    }
}

/// Whether a later commit may succeed: after a failed sync nobody knows what is on disk.
fn may_pass(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(failure, _) = error else {
        return true;
    };
    !matches!(
        failure.extended_code,
        rusqlite::ffi::SQLITE_IOERR_FSYNC | rusqlite::ffi::SQLITE_IOERR_DIR_FSYNC
    )
}

fn means_damage(error: &rusqlite::Error) -> bool {
    use ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(
        error.sqlite_error_code(),
        Some(DatabaseCorrupt | NotADatabase)
    )
}
